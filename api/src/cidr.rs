//! CIDRs of either address family, canonical and parsed once.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnetwork::IpNetwork;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why a text is not a CIDR.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CidrError {
    /// Not `ADDRESS/PREFIX`.
    #[error("{value:?} is not a CIDR: write it as ADDRESS/PREFIX, for example 10.10.0.0/16 or fd00:10::/56")]
    Malformed {
        /// The text.
        value: String,
    },
    /// The address has bits set beyond its prefix.
    #[error("{value} has bits set beyond its prefix: did you mean {meant}?")]
    HostBits {
        /// The text.
        value: String,
        /// The network it lies in.
        meant: String,
    },
}

/// A network in canonical form: no bits are set beyond the prefix.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr(IpNetwork);

impl Cidr {
    /// The network of `address` with `prefix` leading bits; `None` where the prefix is longer than the address.
    #[must_use]
    pub fn containing(address: IpAddr, prefix: u8) -> Option<Self> {
        let network = IpNetwork::new(address, prefix).ok()?;
        IpNetwork::new(network.network(), prefix).ok().map(Self)
    }

    /// The network of this one address.
    #[must_use]
    pub fn host(address: IpAddr) -> Self {
        Self(IpNetwork::from(address))
    }

    /// The underlying network.
    #[must_use]
    pub fn network(&self) -> IpNetwork {
        self.0
    }

    /// The first address.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.0.network()
    }

    /// The prefix length: 0 to 32 for IPv4, 0 to 128 for IPv6.
    #[must_use]
    pub fn prefix(&self) -> u8 {
        self.0.prefix()
    }

    /// Whether this is IPv6.
    #[must_use]
    pub fn is_ipv6(&self) -> bool {
        self.0.is_ipv6()
    }

    /// Whether the address lies within. False across families.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(address)
    }

    /// Whether all of `other` lies within.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.is_ipv6() == other.is_ipv6() && self.prefix() <= other.prefix() && self.contains(other.address())
    }

    /// Whether any address lies in both. Two CIDRs overlap exactly when one covers the other.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.covers(other) || other.covers(self)
    }

    /// The `n`th address, counted from the first as 0; `None` past the last one.
    #[must_use]
    pub fn nth(&self, n: u64) -> Option<IpAddr> {
        let bits = if self.is_ipv6() { 128 } else { 32 } - u32::from(self.prefix());
        if bits < 64 && n >= 1u64 << bits {
            return None;
        }
        match self.address() {
            IpAddr::V4(a) => u32::try_from(n).ok().and_then(|n| u32::from(a).checked_add(n)).map(|a| IpAddr::V4(a.into())),
            IpAddr::V6(a) => u128::from(a).checked_add(u128::from(n)).map(|a| IpAddr::V6(a.into())),
        }
    }

    /// The `n`th network of `prefix` bits inside this one, counted from 0; `None` where there is none.
    #[must_use]
    pub fn subnet(&self, prefix: u8, n: u64) -> Option<Self> {
        let width = if self.is_ipv6() { 128u8 } else { 32 };
        if prefix < self.prefix() || prefix > width {
            return None;
        }
        let index_bits = prefix - self.prefix();
        if index_bits < 64 && n >= 1u64 << index_bits {
            return None;
        }
        let step = u32::from(width - prefix);
        let offset = u128::from(n).checked_shl(step)?;
        let first = match self.address() {
            IpAddr::V4(a) => IpAddr::V4((u32::from(a).checked_add(u32::try_from(offset).ok()?)?).into()),
            IpAddr::V6(a) => IpAddr::V6(u128::from(a).checked_add(offset)?.into()),
        };
        Self::containing(first, prefix)
    }
}

/// The first pair of CIDRs, one of each list, that overlap.
#[must_use]
pub fn first_overlap(ours: &[Cidr], theirs: &[Cidr]) -> Option<(Cidr, Cidr)> {
    ours.iter().find_map(|a| theirs.iter().find(|b| a.overlaps(b)).map(|b| (*a, *b)))
}

impl FromStr for Cidr {
    type Err = CidrError;
    fn from_str(text: &str) -> Result<Self, CidrError> {
        let malformed = || CidrError::Malformed { value: text.to_owned() };
        if !text.contains('/') {
            return Err(malformed());
        }
        let network: IpNetwork = text.parse().map_err(|_| malformed())?;
        if network.ip() != network.network() {
            let meant = format!("{}/{}", network.network(), network.prefix());
            return Err(CidrError::HostBits { value: text.to_owned(), meant });
        }
        Ok(Self(network))
    }
}

impl TryFrom<String> for Cidr {
    type Error = CidrError;
    fn try_from(text: String) -> Result<Self, CidrError> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> Self {
        cidr.to_string()
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.0.network(), self.0.prefix())
    }
}

impl fmt::Debug for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl JsonSchema for Cidr {
    fn schema_name() -> Cow<'static, str> {
        "Cidr".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "minLength": 4, "maxLength": 43, "pattern": "^[0-9a-fA-F:.]+/[0-9]{1,3}$" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().expect("a CIDR")
    }

    #[test]
    fn says_what_was_meant() {
        let error = "10.1.2.3/16".parse::<Cidr>().expect_err("host bits");
        assert!(error.to_string().contains("did you mean 10.1.0.0/16"), "{error}");
        assert!("10.0.0.0".parse::<Cidr>().is_err());
        assert!("10.0.0.0/33".parse::<Cidr>().is_err());
        assert!("fd00:10::/56".parse::<Cidr>().is_ok());
    }

    #[test]
    fn families_never_overlap() {
        assert!(!cidr("0.0.0.0/0").overlaps(&cidr("::/0")));
        assert!(!cidr("::/0").contains("10.0.0.1".parse().expect("address")));
    }

    #[test]
    fn subnets_and_addresses_end_where_the_network_ends() {
        assert_eq!(cidr("10.0.0.0/16").subnet(24, 255), Some(cidr("10.0.255.0/24")));
        assert_eq!(cidr("10.0.0.0/16").subnet(24, 256), None);
        assert_eq!(cidr("10.0.0.0/30").nth(4), None);
        assert_eq!(cidr("255.255.255.255/32").nth(0), Some("255.255.255.255".parse().expect("address")));
        assert_eq!(cidr("fd00::/48").subnet(64, 3), Some(cidr("fd00:0:0:3::/64")));
        assert_eq!(cidr("0.0.0.0/0").subnet(32, 5), Some(cidr("0.0.0.5/32")));
    }

    proptest! {
        #[test]
        fn parse_is_the_inverse_of_print(address: u32, prefix in 0u8..=32) {
            let one = Cidr::containing(IpAddr::V4(address.into()), prefix).expect("prefix in range");
            prop_assert_eq!(one.to_string().parse::<Cidr>(), Ok(one));
        }

        #[test]
        fn overlap_is_a_shared_address(a: u32, b: u32, p in 0u8..=32, q in 0u8..=32) {
            let one = Cidr::containing(IpAddr::V4(a.into()), p).expect("in range");
            let two = Cidr::containing(IpAddr::V4(b.into()), q).expect("in range");
            prop_assert_eq!(one.overlaps(&two), one.contains(two.address()) || two.contains(one.address()));
        }

        #[test]
        fn never_panics(text in "\\PC{0,50}") {
            let _ = text.parse::<Cidr>();
        }
    }
}
