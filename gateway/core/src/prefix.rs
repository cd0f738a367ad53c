//! Longest-prefix match over CIDRs of both families.

use std::net::IpAddr;

use daisy_api::Cidr;

/// A map from CIDRs to values, looked up by address: the longest CIDR that holds it wins.
///
/// It is made once and read often. CIDRs are nested or apart, so they cut each family's addresses into runs with one answer
/// each; a lookup is a binary search for the run.
#[derive(Clone, Debug)]
pub struct PrefixMap<T> {
    values: Vec<T>,
    v4: Vec<Run<u32>>,
    v6: Vec<Run<u128>>,
}

/// From `first` up to the next run's first address, the answer is `value`.
#[derive(Clone, Copy, Debug)]
struct Run<A> {
    first: A,
    value: Option<u32>,
}

impl<T> Default for PrefixMap<T> {
    fn default() -> Self {
        Self { values: Vec::new(), v4: Vec::new(), v6: Vec::new() }
    }
}

impl<T> PrefixMap<T> {
    /// The map of these entries. Where a CIDR is given twice, its first entry stands.
    #[must_use]
    pub fn new(entries: impl IntoIterator<Item = (Cidr, T)>) -> Self {
        let mut values = Vec::new();
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (cidr, value) in entries {
            let Ok(index) = u32::try_from(values.len()) else { break };
            values.push(value);
            match cidr.address() {
                IpAddr::V4(first) => {
                    let first = u32::from(first);
                    let rest = u32::MAX.checked_shr(u32::from(cidr.prefix())).unwrap_or(0);
                    v4.push(Span { first: u128::from(first), last: u128::from(first | rest), value: index });
                }
                IpAddr::V6(first) => {
                    let first = u128::from(first);
                    let rest = u128::MAX.checked_shr(u32::from(cidr.prefix())).unwrap_or(0);
                    v6.push(Span { first, last: first | rest, value: index });
                }
            }
        }
        let narrow = |run: Run<u128>| u32::try_from(run.first).ok().map(|first| Run { first, value: run.value });
        Self { values, v4: runs(v4).into_iter().filter_map(narrow).collect(), v6: runs(v6) }
    }

    /// The value of the longest CIDR that holds the address.
    #[must_use]
    pub fn get(&self, address: IpAddr) -> Option<&T> {
        let index = match address {
            IpAddr::V4(address) => find(&self.v4, u32::from(address)),
            IpAddr::V6(address) => find(&self.v6, u128::from(address)),
        }?;
        self.values.get(usize::try_from(index).ok()?)
    }

    /// Whether any CIDR holds the address.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.get(address).is_some()
    }

    /// How many CIDRs it was made of.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether it was made of none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }
}

fn find<A: Ord + Copy>(runs: &[Run<A>], address: A) -> Option<u32> {
    let after = runs.partition_point(|run| run.first <= address);
    runs.get(after.checked_sub(1)?)?.value
}

struct Span {
    first: u128,
    last: u128,
    value: u32,
}

/// Cuts nested spans into runs: a span's inner spans answer for their own parts, it for the rest.
fn runs(mut spans: Vec<Span>) -> Vec<Run<u128>> {
    // Outer before inner; of equal ones the first given is the innermost, so that it stands.
    spans.sort_by(|a, b| a.first.cmp(&b.first).then(b.last.cmp(&a.last)).then(b.value.cmp(&a.value)));
    let mut out: Vec<Run<u128>> = Vec::with_capacity(spans.len() * 2);
    let mut open: Vec<Span> = Vec::new();
    for span in spans {
        close(&mut open, &mut out, Some(span.first));
        push(&mut out, Run { first: span.first, value: Some(span.value) });
        open.push(span);
    }
    close(&mut open, &mut out, None);
    out
}

/// Ends the open spans that lie wholly before `until` (all of them for `None`).
fn close(open: &mut Vec<Span>, out: &mut Vec<Run<u128>>, until: Option<u128>) {
    while let Some(span) = open.pop_if(|span| until.is_none_or(|until| span.last < until)) {
        // Past the last address of the family nothing follows: 2^32 for IPv4 is left out by the caller, 2^128 here.
        if let Some(next) = span.last.checked_add(1) {
            push(out, Run { first: next, value: open.last().map(|outer| outer.value) });
        }
    }
}

fn push(out: &mut Vec<Run<u128>>, run: Run<u128>) {
    match out.last_mut() {
        Some(last) if last.first == run.first => last.value = run.value,
        _ => out.push(run),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().expect("a CIDR")
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn the_longest_wins_in_both_families() {
        let map = PrefixMap::new([
            (cidr("10.0.0.0/8"), "wide"),
            (cidr("10.1.0.0/16"), "narrow"),
            (cidr("fd00::/8"), "six"),
            (cidr("255.255.255.255/32"), "last"),
        ]);
        assert_eq!(map.get(address("10.1.2.3")), Some(&"narrow"));
        assert_eq!(map.get(address("10.2.0.0")), Some(&"wide"));
        assert_eq!(map.get(address("11.0.0.0")), None);
        assert_eq!(map.get(address("9.255.255.255")), None);
        assert_eq!(map.get(address("255.255.255.255")), Some(&"last"));
        assert_eq!(map.get(address("fdff::1")), Some(&"six"));
        assert_eq!(map.get(address("fe00::1")), None);
    }

    #[test]
    fn the_whole_of_a_family_can_be_mapped() {
        let map = PrefixMap::new([(cidr("0.0.0.0/0"), 4), (cidr("::/0"), 6)]);
        assert_eq!(map.get(address("255.255.255.255")), Some(&4));
        assert_eq!(map.get(address("0.0.0.0")), Some(&4));
        assert_eq!(map.get(address("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")), Some(&6));
        assert!(PrefixMap::<()>::default().get(address("::")).is_none());
    }

    /// CIDRs and addresses from a corner of each family, so that they meet often.
    fn any_cidr() -> impl Strategy<Value = Cidr> {
        prop_oneof![
            (0u32..4096, 16u8..=32).prop_map(|(a, p)| Cidr::containing(IpAddr::V4((a << 4).into()), p).expect("in range")),
            (any::<u32>(), 0u8..=32).prop_map(|(a, p)| Cidr::containing(IpAddr::V4(a.into()), p).expect("in range")),
            (0u128..4096, 100u8..=128).prop_map(|(a, p)| Cidr::containing(IpAddr::V6((a << 8).into()), p).expect("in range")),
        ]
    }

    fn any_address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            (0u32..65536).prop_map(|a| IpAddr::V4(a.into())),
            any::<u32>().prop_map(|a| IpAddr::V4(a.into())),
            (0u128..1 << 20).prop_map(|a| IpAddr::V6(a.into())),
        ]
    }

    proptest! {
        #[test]
        fn agrees_with_looking_at_every_cidr(
            cidrs in prop::collection::vec(any_cidr(), 0..40),
            addresses in prop::collection::vec(any_address(), 1..80),
        ) {
            let map = PrefixMap::new(cidrs.iter().copied().zip(0usize..));
            let edges = cidrs.iter().map(Cidr::address);
            for address in addresses.into_iter().chain(edges) {
                let mut naive: Option<(u8, usize)> = None;
                for (index, cidr) in cidrs.iter().enumerate() {
                    if cidr.contains(address) && naive.is_none_or(|(prefix, _)| cidr.prefix() > prefix) {
                        naive = Some((cidr.prefix(), index));
                    }
                }
                prop_assert_eq!(map.get(address).copied(), naive.map(|(_, index)| index), "{}", address);
            }
        }
    }
}
