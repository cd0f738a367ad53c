//! Which ranges a cluster may have, and which are free.
//!
//! | for | first from | then from | each |
//! |---|---|---|---|
//! | pods | 10.0.0.0/9 | 10.128.0.0/10 | /16, then /20 |
//! | Services | 10.192.0.0/11 | 10.224.0.0/11 | /20, then /22 |
//! | nodes | 100.80.0.0/13 | 100.88.0.0/13 | /20, then /23 |
//! | pods, IPv6 | fd64:6169:7379::/48 | | /56 |
//! | Services, IPv6 | fd64:6169:7379:ff00::/56 | | /112 |
//!
//! Small clusters come in great numbers, so that what is given out later is smaller: 1,000 clusters find room. What distributions
//! and clouds use by themselves (`COMMON`) is not offered: it would collide with the next cluster that nobody configured.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use daisy_api::{Cidr, Ranges};

/// One pool: networks of `each` bits inside `from`.
#[derive(Debug, Clone, Copy)]
struct Pool {
    from: (IpAddr, u8),
    each: u8,
}

const fn v4(a: u8, b: u8, prefix: u8, each: u8) -> Pool {
    Pool { from: (IpAddr::V4(Ipv4Addr::new(a, b, 0, 0)), prefix), each }
}

const fn v6(last: u16, prefix: u8, each: u8) -> Pool {
    Pool { from: (IpAddr::V6(Ipv6Addr::new(0xfd64, 0x6169, 0x7379, last, 0, 0, 0, 0)), prefix), each }
}

const PODS: &[Pool] = &[v4(10, 0, 9, 16), v4(10, 128, 10, 20)];
const SERVICES: &[Pool] = &[v4(10, 192, 11, 20), v4(10, 224, 11, 22)];
const NODES: &[Pool] = &[v4(100, 80, 13, 20), v4(100, 88, 13, 23)];
const PODS_V6: &[Pool] = &[v6(0, 48, 56)];
const SERVICES_V6: &[Pool] = &[v6(0xff00, 56, 112)];

/// Ranges that are common defaults, and so never offered: `(second octet of 10.0.0.0/8, how many /16 from there)`.
///
/// 0: cloud networks; 1 and 152: MicroK8s; 8: OpenVPN; 42 and 43: K3s and RKE2; 88 and 89: Podman; 96 to 111: kubeadm's Services
/// (a /12), with EKS's 100; 128 to 131 and 217: OpenShift; 244: kubeadm's, kind's and Flannel's pods.
const COMMON: &[(u8, u8)] = &[(0, 2), (8, 1), (42, 2), (88, 2), (96, 16), (128, 4), (152, 1), (217, 1), (244, 1)];

/// What a range is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Pods.
    Pods,
    /// Services.
    Services,
    /// One address for each node.
    Nodes,
}

impl Purpose {
    fn pools(self, ipv6: bool) -> &'static [Pool] {
        match (self, ipv6) {
            (Self::Pods, false) => PODS,
            (Self::Services, false) => SERVICES,
            (Self::Nodes, _) => NODES,
            (Self::Pods, true) => PODS_V6,
            (Self::Services, true) => SERVICES_V6,
        }
    }

    /// As messages name it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pods => "pods",
            Self::Services => "Services",
            Self::Nodes => "nodes",
        }
    }
}

fn network(address: IpAddr, prefix: u8) -> Option<Cidr> {
    Cidr::containing(address, prefix)
}

/// The pool that node ranges are given out of: 100.80.0.0/12.
#[must_use]
pub fn node_pool() -> Option<Cidr> {
    network(IpAddr::V4(Ipv4Addr::new(100, 80, 0, 0)), 12)
}

/// The pool that imports have their VIPs in, the same in every cluster: 100.96.0.0/14.
#[must_use]
pub fn vip_pool() -> Option<Cidr> {
    network(IpAddr::V4(Ipv4Addr::new(100, 96, 0, 0)), 14)
}

fn common() -> impl Iterator<Item = Cidr> {
    COMMON.iter().flat_map(|(second, count)| {
        (0..*count).filter_map(|n| network(IpAddr::V4(Ipv4Addr::new(10, second.saturating_add(n), 0, 0)), 16))
    })
}

/// Ranges that somebody has, as disjoint intervals in order, so that looking one up costs the logarithm of their number.
#[derive(Debug, Clone, Default)]
pub struct Taken(Vec<(bool, u128, u128)>);

impl Taken {
    fn interval(range: &Cidr) -> (bool, u128, u128) {
        let width = if range.is_ipv6() { 128 } else { 32 };
        let start = match range.address() {
            IpAddr::V4(address) => u128::from(u32::from(address)),
            IpAddr::V6(address) => u128::from(address),
        };
        let host_bits = width - u32::from(range.prefix());
        let last = start | 1u128.checked_shl(host_bits).map_or(u128::MAX, |size| size - 1);
        (range.is_ipv6(), start, last)
    }

    fn add(&mut self, ranges: impl IntoIterator<Item = Cidr>) {
        self.0.extend(ranges.into_iter().map(|range| Self::interval(&range)));
        self.0.sort_unstable();
        self.0.dedup_by(|next, before| {
            let joined = next.0 == before.0 && next.1 <= before.2;
            if joined {
                before.2 = before.2.max(next.2);
            }
            joined
        });
    }

    /// Whether any address of the range is taken.
    #[must_use]
    pub fn overlaps(&self, range: &Cidr) -> bool {
        let (family, start, last) = Self::interval(range);
        let after = self.0.partition_point(|had| (had.0, had.1) <= (family, last));
        after.checked_sub(1).is_some_and(|index| self.0[index].0 == family && self.0[index].2 >= start)
    }
}

impl FromIterator<Cidr> for Taken {
    fn from_iter<I: IntoIterator<Item = Cidr>>(ranges: I) -> Self {
        let mut taken = Self::default();
        taken.add(ranges);
        taken
    }
}

/// The first free range for this purpose in this family; `None` once the pools are exhausted.
#[must_use]
pub fn free(purpose: Purpose, ipv6: bool, taken: &Taken) -> Option<Cidr> {
    let common: Taken = common().collect();
    purpose.pools(ipv6).iter().find_map(|pool| {
        let from = network(pool.from.0, pool.from.1)?;
        // No IPv4 pool has more networks than this; those of IPv6 are not searched further.
        (0..4096)
            .map_while(|n| from.subnet(pool.each, n))
            .find(|candidate| !taken.overlaps(candidate) && !common.overlaps(candidate))
    })
}

/// Free ranges for a cluster that has none, IPv4 only.
///
/// # Errors
/// What there is none left for.
pub fn reserve(mut taken: Taken) -> Result<Ranges, Purpose> {
    let mut next = |purpose| {
        let range = free(purpose, false, &taken).ok_or(purpose)?;
        taken.add([range]);
        Ok(range)
    };
    Ok(Ranges {
        cluster_cidrs: vec![next(Purpose::Pods)?],
        service_cidrs: vec![next(Purpose::Services)?],
        node_cidr: Some(next(Purpose::Nodes)?),
    })
}

/// What a cluster that asked for `asked` might take instead: what is free of it stays, what is taken is exchanged for a free
/// range of the same family. `None` where the pools are exhausted.
#[must_use]
pub fn offer(asked: &Ranges, taken: &Taken) -> Option<Ranges> {
    let mut all = taken.clone();
    all.add(asked.cluster_cidrs.iter().chain(&asked.service_cidrs).copied().filter(|range| !taken.overlaps(range)));
    let mut exchange = |purpose, list: &[Cidr]| {
        list.iter()
            .map(|range| {
                if !taken.overlaps(range) {
                    return Some(*range);
                }
                let other = free(purpose, range.is_ipv6(), &all)?;
                all.add([other]);
                Some(other)
            })
            .collect::<Option<Vec<Cidr>>>()
    };
    let cluster_cidrs = exchange(Purpose::Pods, &asked.cluster_cidrs)?;
    let service_cidrs = exchange(Purpose::Services, &asked.service_cidrs)?;
    Some(Ranges { cluster_cidrs, service_cidrs, node_cidr: None })
}

/// Why no cluster can have this range; `None` for one that it can have.
///
/// Every member routes what its Members' ranges hold to them, so that a range of public addresses would take these from the
/// internet: unless `public` says otherwise, only what RFC 1918, RFC 6598, RFC 4193, RFC 2544 and RFC 5737 set aside is taken.
#[must_use]
pub fn unusable(range: &Cidr, public: bool) -> Option<&'static str> {
    let (least, most) = if range.is_ipv6() { (16, 124) } else { (8, 30) };
    if range.prefix() < least {
        return Some("it is larger than any one cluster's (at least /8, or /16 for IPv6)");
    }
    if range.prefix() > most {
        return Some("it is too small to give out addresses (at most /30, or /124 for IPv6)");
    }
    if let Some(what) = special(range) {
        return Some(what);
    }
    if node_pool().is_some_and(|pool| pool.overlaps(range)) {
        return Some("it overlaps 100.80.0.0/12, which Daisy gives nodes their addresses from");
    }
    if vip_pool().is_some_and(|pool| pool.overlaps(range)) {
        return Some("it overlaps 100.96.0.0/14, which Daisy gives imports their addresses from");
    }
    if !public && !private(range) {
        return Some(
            "it is of public addresses, which every member would then send to this cluster; \
             that takes an invitation which allows it (daisy invite --allow-public-cidrs)",
        );
    }
    None
}

fn special(range: &Cidr) -> Option<&'static str> {
    // Two networks overlap exactly when one holds the other's first address.
    const SPECIAL: &[(IpAddr, u8, &str)] = &[
        (IpAddr::V4(Ipv4Addr::new(0, 0, 0, 0)), 8, "it holds addresses of \"this network\" (0.0.0.0/8)"),
        (IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8, "it holds loopback addresses (127.0.0.0/8)"),
        (IpAddr::V4(Ipv4Addr::new(169, 254, 0, 0)), 16, "it holds link-local addresses (169.254.0.0/16)"),
        (IpAddr::V4(Ipv4Addr::new(224, 0, 0, 0)), 4, "it holds multicast addresses (224.0.0.0/4)"),
        (IpAddr::V4(Ipv4Addr::new(240, 0, 0, 0)), 4, "it holds reserved addresses (240.0.0.0/4)"),
        (IpAddr::V6(Ipv6Addr::UNSPECIFIED), 16, "it holds loopback, unspecified or IPv4-mapped addresses (0::/16)"),
        (IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0)), 10, "it holds link-local addresses (fe80::/10)"),
        (IpAddr::V6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0)), 8, "it holds multicast addresses (ff00::/8)"),
    ];
    SPECIAL
        .iter()
        .find(|(address, prefix, _)| network(*address, *prefix).is_some_and(|special| special.overlaps(range)))
        .map(|(_, _, what)| *what)
}

fn private(range: &Cidr) -> bool {
    const PRIVATE: &[(IpAddr, u8)] = &[
        (IpAddr::V4(Ipv4Addr::new(10, 0, 0, 0)), 8),
        (IpAddr::V4(Ipv4Addr::new(172, 16, 0, 0)), 12),
        (IpAddr::V4(Ipv4Addr::new(192, 168, 0, 0)), 16),
        (IpAddr::V4(Ipv4Addr::new(100, 64, 0, 0)), 10),
        (IpAddr::V4(Ipv4Addr::new(198, 18, 0, 0)), 15),
        (IpAddr::V4(Ipv4Addr::new(192, 0, 2, 0)), 24),
        (IpAddr::V4(Ipv4Addr::new(198, 51, 100, 0)), 24),
        (IpAddr::V4(Ipv4Addr::new(203, 0, 113, 0)), 24),
        (IpAddr::V6(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0)), 7),
        (IpAddr::V6(Ipv6Addr::new(0x2001, 0x0db8, 0, 0, 0, 0, 0, 0)), 32),
    ];
    PRIVATE.iter().any(|(address, prefix)| network(*address, *prefix).is_some_and(|private| private.covers(range)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().expect("a CIDR")
    }

    #[test]
    fn what_is_offered_is_nobodys_default() {
        let first = reserve(Taken::default()).expect("all is free");
        assert_eq!(first.cluster_cidrs, [cidr("10.2.0.0/16")]);
        assert_eq!(first.service_cidrs, [cidr("10.192.0.0/20")]);
        assert_eq!(first.node_cidr, Some(cidr("100.80.0.0/20")));
        for default in ["10.244.0.0/16", "10.96.0.0/12", "10.42.0.0/16", "10.43.0.0/16", "10.128.0.0/14", "10.0.0.0/16"] {
            assert!(common().any(|range| range.overlaps(&cidr(default))), "{default}");
        }
    }

    #[test]
    fn a_thousand_clusters_find_room() {
        let mut taken = Taken::default();
        let common: Taken = common().collect();
        for n in 0..1_000 {
            let ranges =
                reserve(taken.clone()).unwrap_or_else(|purpose| panic!("none left for {} after {n}", purpose.as_str()));
            let new: Vec<Cidr> = ranges.cluster_cidrs.into_iter().chain(ranges.service_cidrs).chain(ranges.node_cidr).collect();
            assert!(new.iter().all(|range| !common.overlaps(range) && !taken.overlaps(range)));
            taken.add(new);
        }
    }

    #[test]
    fn an_offer_keeps_what_is_free() {
        let asked = Ranges {
            cluster_cidrs: vec![cidr("10.244.0.0/16"), cidr("fd00::/56")],
            service_cidrs: vec![cidr("10.96.0.0/16")],
            node_cidr: None,
        };
        let offer = offer(&asked, &[cidr("10.244.0.0/16"), cidr("fd00::/48")].into_iter().collect()).expect("there is room");
        assert_eq!(offer.cluster_cidrs, [cidr("10.2.0.0/16"), cidr("fd64:6169:7379::/56")]);
        assert_eq!(offer.service_cidrs, [cidr("10.96.0.0/16")]);
    }

    #[test]
    fn some_ranges_nobody_can_have() {
        for bad in [
            "0.0.0.0/0",
            "0.0.0.0/8",
            "127.0.0.0/16",
            "169.254.0.0/16",
            "224.0.0.0/8",
            "240.0.0.0/8",
            "::/0",
            "fe80::/64",
            "ff02::/32",
            "100.80.0.0/20",
            "100.96.0.0/16",
            "100.64.0.0/10",
            "10.0.0.0/7",
            "10.0.0.0/31",
            "10.0.0.1/32",
            "8.8.8.0/24",
            "2600::/32",
            "172.0.0.0/8",
            "::ffff:10.0.0.0/112",
        ] {
            // Some do not even parse as canonical CIDRs; those that do are refused.
            if let Ok(range) = bad.parse() {
                assert!(unusable(&range, false).is_some(), "{bad}");
            }
        }
        for good in
            ["10.244.0.0/16", "10.96.0.0/12", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fd00::/48", "100.64.0.0/12"]
        {
            assert_eq!(unusable(&cidr(good), false), None, "{good}");
        }
        assert_eq!(unusable(&cidr("2600:1f18::/56"), true), None);
    }

    proptest! {
        #[test]
        fn what_is_free_overlaps_nothing(taken in proptest::collection::vec((any::<u32>(), 8u8..=24), 0..40)) {
            let taken: Vec<Cidr> = taken
                .into_iter()
                .filter_map(|(address, prefix)| {
                    // Half of them in 10.0.0.0/8, where they matter.
                    let address = if address % 2 == 0 { 0x0a00_0000 | (address >> 8) } else { address };
                    Cidr::containing(IpAddr::V4(address.into()), prefix)
                })
                .collect();
            let set: Taken = taken.iter().copied().collect();
            for range in &taken {
                prop_assert!(set.overlaps(range));
            }
            for purpose in [Purpose::Pods, Purpose::Services, Purpose::Nodes] {
                if let Some(range) = free(purpose, false, &set) {
                    prop_assert!(!taken.iter().any(|other| other.overlaps(&range)));
                    prop_assert!(purpose == Purpose::Nodes || unusable(&range, false).is_none());
                }
            }
        }
    }
}
