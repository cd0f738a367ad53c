//! Which pod of a node has which address. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use daisy_api::Cidr;

/// The addresses of one node's pods.
#[derive(Debug)]
pub(super) struct Ipam {
    cidr: Cidr,
    used: BTreeSet<u64>,
    last: u64,
}

/// The network's own address and the first, which a node's bridge commonly has, are nobody's.
const FIRST: u64 = 2;

impl Ipam {
    pub(super) fn new(cidr: Cidr) -> Self {
        Self { cidr, used: BTreeSet::new(), last: FIRST - 1 }
    }

    /// The last number that can be given: the one before the broadcast address, of at most 65,534 looked at.
    fn end(&self) -> u64 {
        let bits = if self.cidr.is_ipv6() { 128 } else { 32 } - u32::from(self.cidr.prefix());
        (1u64 << bits.min(16)) - 2
    }

    /// A free address, the one longest unused: what still goes to an ended pod must not reach a new one. `None` when all are used.
    pub(super) fn allocate(&mut self) -> Option<IpAddr> {
        let end = self.end();
        let free = (self.last + 1..=end).chain(FIRST..=self.last.min(end)).find(|n| !self.used.contains(n))?;
        self.used.insert(free);
        self.last = free;
        self.cidr.nth(free)
    }

    /// Gives an address back.
    pub(super) fn release(&mut self, address: IpAddr) {
        self.used.retain(|n| self.cidr.nth(*n) != Some(address));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_address_is_not_reused_while_others_are_unused() {
        let mut ipam = Ipam::new("10.0.0.0/24".parse().expect("a CIDR"));
        let first = ipam.allocate().expect("free");
        assert_eq!(first.to_string(), "10.0.0.2");
        ipam.release(first);
        assert_eq!(ipam.allocate().map(|a| a.to_string()).as_deref(), Some("10.0.0.3"));
    }

    proptest! {
        #[test]
        fn no_address_is_given_twice(prefix in 24u8..=29, steps in proptest::collection::vec(any::<Option<u8>>(), 0..600)) {
            let cidr = Cidr::containing("10.9.8.0".parse().expect("address"), prefix).expect("in range");
            let mut ipam = Ipam::new(cidr);
            let mut held: Vec<IpAddr> = Vec::new();
            for step in steps {
                match step {
                    Some(n) if !held.is_empty() => ipam.release(held.swap_remove(usize::from(n) % held.len())),
                    _ => match ipam.allocate() {
                        Some(a) => {
                            prop_assert!(cidr.contains(a) && !held.contains(&a));
                            prop_assert!(a != cidr.address());
                            held.push(a);
                        }
                        None => prop_assert_eq!(held.len() as u64, (1u64 << (32 - prefix)) - 3),
                    },
                }
            }
        }
    }
}
