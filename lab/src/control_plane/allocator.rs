//! Which ClusterIPs are free: the ranges of all ServiceCIDR objects, less what Services have.
//!
//! Who holds an address is what the stored Services say. [`Holders`] remembers where to look: a write that was refused after it
//! was given an address leaves no trace that matters, since whoever seems to hold an address is asked whether it does.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use daisy_api::Cidr;
use thiserror::Error;

/// The ServiceCIDR that exists from the start, as on every cluster (KEP-1880). Addresses that nobody asks for by number come
/// from it as long as it has any.
pub(crate) const DEFAULT_SERVICE_CIDR: &str = "kubernetes";

/// Dynamic allocation begins this far into a range: what is below is left to those who choose an address (KEP-3070).
const STATIC_BAND_MAX: u64 = 256;

/// How many addresses are looked at before a range counts as full. A range of the lab never comes near it.
const PROBES_MAX: u64 = 1 << 16;

/// Why a Service cannot have a ClusterIP.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum AllocationError {
    /// Another Service has it.
    #[error("failed to allocate IP {address}: provided IP is already allocated to the Service {owner}")]
    InUse {
        /// The address.
        address: IpAddr,
        /// `NAMESPACE/NAME`.
        owner: String,
    },
    /// No ServiceCIDR holds it.
    #[error(
        "failed to allocate IP {address}: the provided network does not match the current range; the valid ranges are {ranges}"
    )]
    OutOfRange {
        /// The address.
        address: IpAddr,
        /// All ranges.
        ranges: String,
    },
    /// The first address of an IPv4 or IPv6 range, or the last one of an IPv4 range.
    #[error("failed to allocate IP {address}: it is the network's or the broadcast address of {range}")]
    Reserved {
        /// The address.
        address: IpAddr,
        /// The range.
        range: Cidr,
    },
    /// Nothing is free.
    #[error("no free {family} address is left in the service ranges; add a ServiceCIDR object")]
    Exhausted {
        /// `IPv4` or `IPv6`.
        family: &'static str,
    },
    /// There is no range of the family.
    #[error("this cluster is not configured for {family}: no ServiceCIDR has a range of that family")]
    NoSuchFamily {
        /// `IPv4` or `IPv6`.
        family: &'static str,
    },
}

/// `IPv4` or `IPv6`, as `ipFamilies` has them.
pub(crate) fn family_name(ipv6: bool) -> &'static str {
    if ipv6 { "IPv6" } else { "IPv4" }
}

/// Who was last seen with an address, by `NAMESPACE/NAME`.
#[derive(Debug, Default)]
pub(crate) struct Holders(HashMap<IpAddr, String>);

impl Holders {
    /// Notes what a Service has.
    pub(crate) fn note(&mut self, address: IpAddr, owner: &str) {
        self.0.insert(address, owner.to_owned());
    }
}

/// The ranges, who was seen with which address of them, and how to ask whether it is so still.
pub(crate) struct Allocator<'a> {
    ranges: BTreeMap<String, Vec<Cidr>>,
    holders: &'a mut Holders,
    holds: &'a dyn Fn(&str, IpAddr) -> bool,
}

impl<'a> Allocator<'a> {
    /// `ranges` are those of all ServiceCIDR objects, by name; `holds` says whether the stored Service `NAMESPACE/NAME` has the
    /// address.
    pub(crate) fn new(
        ranges: BTreeMap<String, Vec<Cidr>>,
        holders: &'a mut Holders,
        holds: &'a dyn Fn(&str, IpAddr) -> bool,
    ) -> Self {
        Self { ranges, holders, holds }
    }

    /// Who has it, if not `owner` itself.
    fn other_holder(&self, address: IpAddr, owner: &str) -> Option<&String> {
        self.holders.0.get(&address).filter(|holder| *holder != owner && (self.holds)(holder, address))
    }

    /// The families of the default ServiceCIDR, its first range's first: what a Service gets that names none.
    pub(crate) fn default_families(&self) -> Vec<bool> {
        let mut families: Vec<bool> = Vec::new();
        for cidr in self.ranges.get(DEFAULT_SERVICE_CIDR).into_iter().flatten() {
            if !families.contains(&cidr.is_ipv6()) {
                families.push(cidr.is_ipv6());
            }
        }
        families
    }

    /// Whether any range is of the family.
    pub(crate) fn has_family(&self, ipv6: bool) -> bool {
        self.ranges.values().flatten().any(|c| c.is_ipv6() == ipv6)
    }

    /// The default ServiceCIDR's ranges first, then the others by name.
    fn ordered(&self) -> impl Iterator<Item = Cidr> + '_ {
        let first = self.ranges.get(DEFAULT_SERVICE_CIDR).into_iter().flatten();
        let rest = self.ranges.iter().filter(|(name, _)| name.as_str() != DEFAULT_SERVICE_CIDR).flat_map(|(_, c)| c);
        first.chain(rest).copied()
    }

    /// Takes this address for `owner`, which may have it already.
    pub(crate) fn take(&mut self, address: IpAddr, owner: &str) -> Result<(), AllocationError> {
        let Some(range) = self.ordered().find(|c| c.contains(address)) else {
            let ranges = self.ordered().map(|c| c.to_string()).collect::<Vec<_>>().join(", ");
            return Err(AllocationError::OutOfRange { address, ranges });
        };
        if is_reserved(&range, address) {
            return Err(AllocationError::Reserved { address, range });
        }
        if let Some(other) = self.other_holder(address, owner) {
            return Err(AllocationError::InUse { address, owner: other.clone() });
        }
        self.holders.note(address, owner);
        Ok(())
    }

    /// Takes a free address of the family for `owner`. Where it lies follows from the owner's name, so that a Service made
    /// anew tends to get what it had.
    pub(crate) fn take_any(&mut self, ipv6: bool, owner: &str) -> Result<IpAddr, AllocationError> {
        if !self.has_family(ipv6) {
            return Err(AllocationError::NoSuchFamily { family: family_name(ipv6) });
        }
        let free = self.ordered().filter(|c| c.is_ipv6() == ipv6).find_map(|range| self.free_in(&range, owner));
        let address = free.ok_or(AllocationError::Exhausted { family: family_name(ipv6) })?;
        self.holders.note(address, owner);
        Ok(address)
    }

    fn free_in(&self, range: &Cidr, owner: &str) -> Option<IpAddr> {
        let bits = if range.is_ipv6() { 128 } else { 32 } - u32::from(range.prefix());
        let size = if bits >= 20 { 1 << 20 } else { 1u64 << bits };
        let static_band = (size / 16).clamp(16, STATIC_BAND_MAX).min(size);
        let dynamic = size - static_band;
        let start = if dynamic == 0 { 0 } else { hash(owner) % dynamic };
        let upper = (0..dynamic).map(|i| static_band + (start + i) % dynamic);
        let lower = (0..static_band).rev();
        upper
            .chain(lower)
            .take(usize::try_from(PROBES_MAX).unwrap_or(usize::MAX))
            .filter_map(|n| range.nth(n))
            .find(|a| !is_reserved(range, *a) && self.other_holder(*a, owner).is_none())
    }
}

fn is_reserved(range: &Cidr, address: IpAddr) -> bool {
    match (range.network(), address) {
        (ipnetwork::IpNetwork::V4(n), IpAddr::V4(a)) => n.prefix() < 31 && (a == n.network() || a == n.broadcast()),
        (ipnetwork::IpNetwork::V6(n), IpAddr::V6(a)) => n.prefix() < 127 && a == n.network(),
        _ => false,
    }
}

/// FNV-1a: spreads names, resists nobody.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().expect("a CIDR")
    }

    fn ranges(cidrs: &[&str]) -> BTreeMap<String, Vec<Cidr>> {
        BTreeMap::from([(DEFAULT_SERVICE_CIDR.to_owned(), cidrs.iter().map(|c| cidr(c)).collect())])
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn an_address_belongs_to_one_service_as_long_as_it_has_it() {
        let mut holders = Holders::default();
        let mut a = Allocator::new(ranges(&["10.96.0.0/16"]), &mut holders, &|_, _| true);
        a.take(ip("10.96.0.10"), "kube-system/kube-dns").expect("free");
        a.take(ip("10.96.0.10"), "kube-system/kube-dns").expect("its own");
        assert!(matches!(a.take(ip("10.96.0.10"), "other/one"), Err(AllocationError::InUse { .. })));
        // That Service was deleted, or never stored.
        let mut a = Allocator::new(ranges(&["10.96.0.0/16"]), &mut holders, &|_, _| false);
        a.take(ip("10.96.0.10"), "other/one").expect("free again");
    }

    #[test]
    fn every_servicecidr_counts_but_the_default_goes_first() {
        let mut holders = Holders::default();
        let mut both = ranges(&["10.96.0.0/16"]);
        let vip = ip("100.96.0.7");
        let error = Allocator::new(both.clone(), &mut holders, &|_, _| true).take(vip, "daisy-system/i").expect_err("no range");
        assert!(error.to_string().contains("10.96.0.0/16"), "{error}");
        both.insert("a-daisy".to_owned(), vec![cidr("100.96.0.0/14")]);
        let mut a = Allocator::new(both, &mut holders, &|_, _| true);
        a.take(vip, "daisy-system/i").expect("in the second range");
        assert!(cidr("10.96.0.0/16").contains(a.take_any(false, "x/y").expect("free")));
        assert!(matches!(a.take_any(true, "x/y"), Err(AllocationError::NoSuchFamily { .. })));
    }

    #[test]
    fn network_and_broadcast_are_nobodys() {
        let mut holders = Holders::default();
        let mut a = Allocator::new(ranges(&["10.96.0.0/24", "fd00::/112"]), &mut holders, &|_, _| true);
        for address in ["10.96.0.0", "10.96.0.255", "fd00::"] {
            assert!(matches!(a.take(ip(address), "x/y"), Err(AllocationError::Reserved { .. })), "{address}");
        }
        assert_eq!(a.default_families(), [false, true]);
    }

    proptest! {
        /// Until a range is full, each Service gets an address of its own inside it; then there is an error.
        #[test]
        fn all_of_a_range_is_given_out_once(prefix in 24u8..=30, extra in 1usize..4) {
            let range = Cidr::containing(ip("10.96.0.0"), prefix).expect("prefix");
            let mut holders = Holders::default();
            let mut a = Allocator::new(ranges(&[&range.to_string()]), &mut holders, &|_, _| true);
            let usable = (1usize << (32 - prefix)) - 2;
            let mut seen = std::collections::BTreeSet::new();
            for n in 0..usable {
                let address = a.take_any(false, &["n/", &n.to_string()].concat()).expect("not full");
                prop_assert!(range.contains(address) && seen.insert(address));
            }
            for n in 0..extra {
                prop_assert!(a.take_any(false, &["m/", &n.to_string()].concat()).is_err());
            }
        }

        #[test]
        fn dynamic_addresses_leave_the_low_ones_alone(owner in "[a-z]{1,8}/[a-z]{1,8}") {
            let mut holders = Holders::default();
            let address = Allocator::new(ranges(&["10.96.0.0/12"]), &mut holders, &|_, _| true).take_any(false, &owner).expect("free");
            prop_assert!(address >= ip("10.96.1.0"));
        }
    }
}
