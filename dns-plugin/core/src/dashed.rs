//! Addresses as labels: the hostnames of endpoints that have none.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The hostname of an endpoint that has none: its address with dashes, all eight groups of an IPv6 address written out, since a
/// label may not begin or end with a dash.
#[must_use]
pub fn dashed(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            format!("{a}-{b}-{c}-{d}")
        }
        IpAddr::V6(v6) => v6.segments().map(|group| format!("{group:x}")).join("-"),
    }
}

/// The address that a label of [`dashed`] stands for.
#[must_use]
pub fn undash(label: &str) -> Option<IpAddr> {
    let mut groups = [0u16; 8];
    let mut count = 0;
    let v4 = label.bytes().filter(|b| *b == b'-').count() == 3;
    for part in label.split('-') {
        // Only what `dashed` writes: no sign, no leading zero.
        if count == 8 || (part.len() > 1 && part.starts_with('0')) || part.starts_with('+') {
            return None;
        }
        groups[count] = u16::from_str_radix(part, if v4 { 10 } else { 16 }).ok()?;
        count += 1;
    }
    match (v4, count) {
        (true, 4) => {
            let octet = |i: usize| u8::try_from(groups[i]).ok();
            Some(Ipv4Addr::new(octet(0)?, octet(1)?, octet(2)?, octet(3)?).into())
        }
        (false, 8) => Some(Ipv6Addr::from(groups).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use daisy_api::names::is_label;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_dashed_address_is_a_label_and_reads_back(v6 in any::<bool>(), bits in any::<u128>()) {
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
