//! The ClusterIPs of an import's Services in their own clusters, as its annotation [`crate::labels::CLUSTER_IPS`] holds them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::names::ClusterId;

/// The longest text: all annotations of an object together may have 256 KiB.
const TEXT_MAX: usize = 64 * 1024;

/// For each cluster its Service's ClusterIPs, at least one.
pub type ClusterIps = BTreeMap<ClusterId, Vec<IpAddr>>;

/// The annotation's text, of as many clusters as it can hold: some 2,000 with one address each. Empty where there are none.
#[must_use]
pub fn to_text(ips: &ClusterIps) -> String {
    let mut text = String::new();
    for (id, ips) in ips.iter().filter(|(_, ips)| !ips.is_empty()) {
        let ips: Vec<String> = ips.iter().map(ToString::to_string).collect();
        let one = format!("{}{id}={}", if text.is_empty() { "" } else { "," }, ips.join(" "));
        if text.len() + one.len() > TEXT_MAX {
            break;
        }
        text.push_str(&one);
    }
    text
}

/// Reads the annotation. What does not parse is left out.
#[must_use]
pub fn from_text(text: &str) -> ClusterIps {
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    let read = |(id, ips): (&str, &str)| {
        let ips: Vec<IpAddr> = ips.split(' ').filter_map(|ip| ip.parse().ok()).collect();
        Some((ClusterId::new(id).ok().filter(|_| !ips.is_empty())?, ips))
    };
    pairs.filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(
            ips in prop::collection::btree_map(
                "[a-z]([a-z0-9-]{0,10}[a-z0-9])?".prop_map(|id| ClusterId::new(id).expect("an ID")),
                prop::collection::vec(any::<IpAddr>(), 1..3),
                0..20,
            ),
        ) {
            prop_assert_eq!(from_text(&to_text(&ips)), ips);
        }

        #[test]
        fn any_text_is_read_without_a_panic(text in "\\PC{0,40}|[a-c=, .:0-9]{0,40}") {
            let read = from_text(&text);
            prop_assert!(read.values().all(|ips| !ips.is_empty()));
        }
    }

    #[test]
    fn a_text_is_never_too_long_for_an_annotation() {
        let many: ClusterIps = (0..10_000_u32)
            .map(|n| (ClusterId::new(format!("c{n}")).expect("an ID"), vec![IpAddr::from(n.to_be_bytes())]))
            .collect();
        let text = to_text(&many);
        assert!((60_000..=TEXT_MAX).contains(&text.len()), "{}", text.len());
        let read = from_text(&text);
        assert!(read.len() > 2_000 && read.iter().all(|(id, ips)| many.get(id) == Some(ips)));
    }
}
