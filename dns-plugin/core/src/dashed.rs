//! Addresses as labels: the hostnames of endpoints that have none.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The hostname of an endpoint that has none: its address (RFC 5952) with dashes, as cluster DNS has it. A label may not begin or end
/// with a dash (RFC 952): there a zero stands before or behind. IPv4-mapped addresses, whose text has dots, have all groups.
#[must_use]
pub fn dashed(address: IpAddr) -> String {
    let text = match address {
        IpAddr::V4(v4) => v4.to_string().replace('.', "-"),
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => v6.segments().map(|group| format!("{group:x}")).join("-"),
        IpAddr::V6(v6) => v6.to_string().replace(':', "-"),
    };
    let (before, behind) = (if text.starts_with('-') { "0" } else { "" }, if text.ends_with('-') { "0" } else { "" });
    format!("{before}{text}{behind}")
}

/// The address that a label of [`dashed`] stands for.
#[must_use]
pub fn undash(label: &str) -> Option<IpAddr> {
    let v4 = label.replace('-', ".").parse::<Ipv4Addr>().map(IpAddr::from);
    let address = v4.or_else(|_| label.replace('-', ":").parse::<Ipv6Addr>().map(IpAddr::from)).ok()?;
    // An address has many texts, and a name one.
    (dashed(address) == label).then_some(address)
}

#[cfg(test)]
mod tests {
    use daisy_api::names::is_label;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses_are_written_as_cluster_dns_has_them() {
        for (address, label) in [
            ("10.0.0.2", "10-0-0-2"),
            ("fd00:10:10:1::2a", "fd00-10-10-1--2a"),
            ("2001:db8:1:2:3:4:5:6", "2001-db8-1-2-3-4-5-6"),
            ("::1", "0--1"),
            ("fd00::", "fd00--0"),
            ("::", "0--0"),
            ("::ffff:10.0.0.2", "0-0-0-0-0-ffff-a00-2"),
        ] {
            let address: IpAddr = address.parse().expect("an address");
            assert_eq!(dashed(address), label);
            assert_eq!(undash(label), Some(address));
        }
        for label in ["fd00-10-10-1-0-0-0-2a", "FD00--1", "010-0-0-2", "10-0-0", "10.0.0.2", "fd00::1", "--1", "", "-"] {
            assert_eq!(undash(label), None, "{label}");
        }
    }

    proptest! {
        #[test]
        fn a_dashed_address_is_a_label_and_reads_back(
            v6 in any::<bool>(),
            bits in any::<u128>(),
            mask in any::<[bool; 8]>().prop_map(|all| all.iter().fold(0u128, |mask, one| mask << 16 | if *one { 0xffff } else { 0 })),
        ) {
            // Some of their groups are nothing, as in most.
            let bits = bits & mask;
            let address: IpAddr = if v6 { Ipv6Addr::from(bits).into() } else { Ipv4Addr::from(bits as u32).into() };
            let text = dashed(address);
            prop_assert!(is_label(&text), "{}", text);
            prop_assert_eq!(undash(&text), Some(address));
        }

        #[test]
        fn what_is_undashed_was_dashed(text in "[0-9a-f+]{0,4}(-[0-9a-f]{0,4}){2,8}") {
            if let Some(address) = undash(&text) {
                prop_assert_eq!(dashed(address), text);
            }
        }
    }
}
