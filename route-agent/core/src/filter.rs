//! The filter: who may reach what, as sets of networks and the shape of the rules over them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use daisy_api::Cidr;

/// What decides which rules there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Whether this node is a gateway: packets come in by the tunnel, and other nodes' go out by it.
    pub gateway: bool,
    /// Whether all pods and Services are reachable, exported or not.
    pub reach_all: bool,
    /// This node's own node address.
    pub node_address: Option<IpAddr>,
    /// The VXLAN's UDP port.
    pub vxlan_port: u16,
}

/// A named group of networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// Other clusters' pods, Services and nodes.
    Remote,
    /// This cluster's pods.
    Pods,
    /// This cluster's Services.
    Services,
    /// This cluster's node addresses.
    Nodes,
    /// The nodes' addresses on the node network: who may send VXLAN here.
    Underlay,
}

impl Group {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Remote, Self::Pods, Self::Services, Self::Nodes, Self::Underlay];

    /// Its name, for sets.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Remote => "remote",
            Self::Pods => "pods",
            Self::Services => "services",
            Self::Nodes => "nodes",
            Self::Underlay => "underlay",
        }
    }
}

/// The filter, but for what is open in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// What decides which rules there are.
    pub shape: Shape,
    /// The networks of each group; none overlaps another of its group.
    pub groups: BTreeMap<Group, BTreeSet<Cidr>>,
}

impl Filter {
    /// The networks of a group.
    pub fn networks(&self, group: Group) -> impl Iterator<Item = Cidr> + '_ {
        self.groups.get(&group).into_iter().flatten().copied()
    }
}

/// The same addresses as networks of which none overlaps another: sets of intervals take no others.
#[must_use]
pub fn disjoint(networks: impl IntoIterator<Item = Cidr>) -> BTreeSet<Cidr> {
    let mut sorted: Vec<Cidr> = networks.into_iter().collect();
    // Shortest prefix first: whatever covers a network stands before it.
    sorted.sort_by_key(|c| (c.prefix(), *c));
    let mut out: BTreeSet<Cidr> = BTreeSet::new();
    for network in sorted {
        // Of the networks before this one in order, only the nearest of each prefix length can cover it.
        let covered = (0..=network.prefix()).filter_map(|prefix| Cidr::containing(network.address(), prefix));
        if !covered.into_iter().any(|c| out.contains(&c)) {
            out.insert(network);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn disjoint_networks_hold_the_same_addresses(list in prop::collection::vec((0u32..64, 26u8..=32), 0..20), probe in 0u32..64) {
            let networks: Vec<Cidr> = list.iter().filter_map(|(a, p)| Cidr::containing(IpAddr::V4((*a).into()), *p)).collect();
            let out = disjoint(networks.clone());
            let probe = IpAddr::V4(probe.into());
            prop_assert_eq!(networks.iter().any(|n| n.contains(probe)), out.iter().any(|n| n.contains(probe)));
            for a in &out {
                prop_assert!(out.iter().all(|b| a == b || !a.overlaps(b)));
            }
        }
    }
}
