//! What a lab is to look like: its clusters, their addresses and the names of their network namespaces. Pure.
//!
//! The addresses are those that documentation may use (RFC 5737) for what is public, and private ones (RFC 1918) behind NAT:
//!
//! ```text
//! 203.0.113.1          the internet's router
//! 203.0.113.2          the broker's host
//! 203.0.113.(10+i)     the router of cluster i
//! 198.51.100.(16*i)/28 the nodes of a reachable cluster i;   192.168.(50+i).0/24 those of one behind NAT
//!                .1    its router   .2 its control plane   .3 and on its nodes
//! ```

use std::net::{IpAddr, Ipv4Addr};

use daisy_api::{Cidr, ClusterId};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The most clusters in one lab.
pub const CLUSTERS_MAX: usize = 40;
/// The most nodes in one cluster: what a /28 has left beside router and control plane.
pub const NODES_MAX: usize = 12;
/// The address of the router in the middle.
pub const INTERNET_ADDRESS: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// The address of the broker's host.
pub const BROKER_ADDRESS: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
/// The network namespace of the router in the middle.
pub const INTERNET: &str = "internet";
/// The network namespace of the broker's host.
pub const BROKER: &str = "broker";

const PREFIX_REACHABLE: u8 = 28;
const PREFIX_NAT: u8 = 24;
const HOST_ROUTER: u64 = 1;
const HOST_CONTROL_PLANE: u64 = 2;
const HOST_NODES: u64 = 3;

/// Why a plan cannot be built.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PlanError {
    /// Too few or too many.
    #[error("{what}: {value} is not possible; between {least} and {most} are")]
    Count {
        /// Of what.
        what: &'static str,
        /// How many were asked for.
        value: usize,
        /// The least.
        least: usize,
        /// The most.
        most: usize,
    },
    /// The name of a lab becomes a folder's.
    #[error("lab name {value:?}: use 1 to 32 of a-z, 0-9 and '-', beginning with a letter or digit")]
    Name {
        /// What was asked for.
        value: String,
    },
    /// Two clusters of one name.
    #[error("two clusters are named {0}; give each a name of its own")]
    DuplicateCluster(ClusterId),
    /// A CIDR that the lab cannot route.
    #[error("cluster {cluster}, {field} {cidr}: {cause}")]
    Cidr {
        /// The cluster.
        cluster: ClusterId,
        /// Which of its CIDRs.
        field: &'static str,
        /// The CIDR.
        cidr: Cidr,
        /// What is wrong, and what to give instead.
        cause: &'static str,
    },
    /// The position in the address plan is taken or too great.
    #[error(
        "cluster {cluster}: a reachable cluster's node network is one of sixteen /28, so its index must be under 16, not {index}"
    )]
    Index {
        /// The cluster.
        cluster: ClusterId,
        /// Its index.
        index: u8,
    },
}

/// How the rest of the world reaches a cluster's nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reach {
    /// They have public addresses, and packets to them are routed.
    Reachable,
    /// They have private addresses; their router masquerades, and lets in replies only.
    Nat,
}

/// One cluster of a lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterPlan {
    /// Its name.
    pub name: ClusterId,
    /// Its place in the address plan; no two clusters share one.
    pub index: u8,
    /// How it is reached.
    pub reach: Reach,
    /// How many nodes it has.
    pub nodes: usize,
    /// Its pod CIDRs; each node gets a /24 of each.
    pub pod_cidrs: Vec<Cidr>,
    /// Its service CIDRs.
    pub service_cidrs: Vec<Cidr>,
}

/// A whole lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// Its clusters; the first two of [`Plan::new`] are `staging` and `local`.
    pub clusters: Vec<ClusterPlan>,
}

impl Plan {
    /// `staging`, reachable; `local`, behind NAT; then `c3`, `c4` and so on, behind NAT too.
    ///
    /// # Errors
    /// When there are to be no clusters, no nodes, or too many.
    pub fn new(clusters: usize, nodes: usize) -> Result<Self, PlanError> {
        count("clusters", clusters, 1, CLUSTERS_MAX)?;
        let name = |i: usize| match i {
            0 => "staging".to_owned(),
            1 => "local".to_owned(),
            _ => format!("c{}", i + 1),
        };
        let clusters = (0..clusters)
            .map(|i| {
                let reach = if i == 0 { Reach::Reachable } else { Reach::Nat };
                let id = ClusterId::new(name(i)).map_err(|_| PlanError::Name { value: name(i) })?;
                // In range: at most CLUSTERS_MAX, which is under 256.
                Ok(ClusterPlan::new(id, u8::try_from(i).unwrap_or(u8::MAX), reach, nodes))
            })
            .collect::<Result<Vec<_>, PlanError>>()?;
        let plan = Self { clusters };
        plan.check()?;
        Ok(plan)
    }

    /// Whether this plan can be built.
    ///
    /// # Errors
    /// The first thing that cannot.
    pub fn check(&self) -> Result<(), PlanError> {
        count("clusters", self.clusters.len(), 1, CLUSTERS_MAX)?;
        for (i, cluster) in self.clusters.iter().enumerate() {
            cluster.check()?;
            let taken = |other: &ClusterPlan| other.name == cluster.name || other.index == cluster.index;
            if self.clusters[..i].iter().any(taken) {
                return Err(PlanError::DuplicateCluster(cluster.name.clone()));
            }
        }
        Ok(())
    }

    /// The address of the broker's host.
    #[must_use]
    pub fn broker_address(&self) -> IpAddr {
        BROKER_ADDRESS.into()
    }

    /// The cluster of this name.
    #[must_use]
    pub fn cluster(&self, name: &str) -> Option<&ClusterPlan> {
        self.clusters.iter().find(|c| c.name.as_str() == name)
    }

    /// Every network namespace that is there from the start, by name.
    #[must_use]
    pub fn namespaces(&self) -> Vec<String> {
        let fixed = [INTERNET.to_owned(), BROKER.to_owned()];
        fixed.into_iter().chain(self.clusters.iter().flat_map(ClusterPlan::namespaces)).collect()
    }

    /// The cluster and its node of this name.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<(&ClusterPlan, usize)> {
        self.clusters.iter().find_map(|c| (0..c.nodes).find(|n| c.node_name(*n) == name).map(|n| (c, n)))
    }

    /// What must not be seen between the clusters: every pod, service, node-range and VIP address (decisions 8 and 16).
    #[must_use]
    pub fn inner_cidrs(&self) -> Vec<Cidr> {
        let node_range = Cidr::containing(Ipv4Addr::new(100, 80, 0, 0).into(), 12);
        let vips = Cidr::containing(Ipv4Addr::new(100, 96, 0, 0).into(), 14);
        let own = self.clusters.iter().flat_map(|c| c.pod_cidrs.iter().chain(&c.service_cidrs)).copied();
        own.chain(node_range).chain(vips).collect()
    }
}

impl ClusterPlan {
    /// A cluster with the addresses that its index gives it: pods in `10.(10, 20 … 90).0.0/16`, Services in
    /// `10.(110, 120 … 190).0.0/16`.
    #[must_use]
    pub fn new(name: ClusterId, index: u8, reach: Reach, nodes: usize) -> Self {
        let (round, place) = (index / 9, index % 9);
        let sixteen = |second: u8| Cidr::containing(IpAddr::V4(Ipv4Addr::new(10, second, 0, 0)), 16);
        Self {
            name,
            index,
            reach,
            nodes,
            pod_cidrs: sixteen((10 + 10 * place).saturating_add(round)).into_iter().collect(),
            service_cidrs: sixteen((110 + 10 * place).saturating_add(round)).into_iter().collect(),
        }
    }

    fn check(&self) -> Result<(), PlanError> {
        count("nodes", self.nodes, 1, NODES_MAX)?;
        count("cluster index", self.index.into(), 0, CLUSTERS_MAX - 1)?;
        if self.reach == Reach::Reachable && self.index > 15 {
            return Err(PlanError::Index { cluster: self.name.clone(), index: self.index });
        }
        let wrong = |field, cidr: &Cidr, cause| Err(PlanError::Cidr { cluster: self.name.clone(), field, cidr: *cidr, cause });
        for (field, cidrs) in [("pod CIDR", &self.pod_cidrs), ("service CIDR", &self.service_cidrs)] {
            count(field, cidrs.len(), 1, 1)?;
            for cidr in cidrs {
                if cidr.is_ipv6() {
                    return wrong(field, cidr, "the lab's networks are IPv4; give an IPv4 CIDR");
                }
            }
        }
        for cidr in &self.pod_cidrs {
            if cidr.prefix() > 20 {
                return wrong("pod CIDR", cidr, "each node takes a /24 of it; give a /20 or shorter");
            }
        }
        for cidr in &self.service_cidrs {
            if cidr.prefix() > 24 {
                return wrong("service CIDR", cidr, "give a /24 or shorter");
            }
            if self.pod_cidrs.iter().any(|p| p.overlaps(cidr)) {
                return wrong("service CIDR", cidr, "it overlaps the pod CIDR; give another");
            }
        }
        Ok(())
    }

    /// The network that the nodes, the control plane and the router share.
    #[must_use]
    pub fn node_network(&self) -> Cidr {
        let network = match self.reach {
            Reach::Reachable => Cidr::containing(v4(198, 51, 100, self.index.wrapping_mul(16)), PREFIX_REACHABLE),
            Reach::Nat => Cidr::containing(v4(192, 168, 50u8.saturating_add(self.index), 0), PREFIX_NAT),
        };
        // The prefixes are constants that IPv4 has.
        network.unwrap_or_else(|| Cidr::host(v4(0, 0, 0, 0)))
    }

    /// The address of the router on the node network.
    #[must_use]
    pub fn router_address(&self) -> IpAddr {
        self.host(HOST_ROUTER)
    }

    /// The address of the router on the internet, at first.
    #[must_use]
    pub fn public_address(&self) -> IpAddr {
        v4(203, 0, 113, 10u8.saturating_add(self.index))
    }

    /// Another address that the router may get on the internet.
    #[must_use]
    pub fn other_public_address(&self) -> IpAddr {
        v4(203, 0, 113, 110u8.saturating_add(self.index))
    }

    /// The address of the control plane.
    #[must_use]
    pub fn control_plane_address(&self) -> IpAddr {
        self.host(HOST_CONTROL_PLANE)
    }

    /// The address of the node, counted from 0.
    #[must_use]
    pub fn node_address(&self, node: usize) -> IpAddr {
        self.host(HOST_NODES + node as u64)
    }

    /// The name of the node, counted from 0 but named from 1.
    #[must_use]
    pub fn node_name(&self, node: usize) -> String {
        format!("{}-node{}", self.name, node + 1)
    }

    /// The node's own part of each pod CIDR.
    #[must_use]
    pub fn node_pod_cidrs(&self, node: usize) -> Vec<Cidr> {
        self.pod_cidrs.iter().filter_map(|c| c.subnet(24, node as u64)).collect()
    }

    /// The ClusterIP of the cluster's DNS.
    #[must_use]
    pub fn dns_address(&self) -> Option<IpAddr> {
        self.service_cidrs.first().and_then(|c| c.nth(10))
    }

    /// The ClusterIP of the cluster's API server.
    #[must_use]
    pub fn api_service_address(&self) -> Option<IpAddr> {
        self.service_cidrs.first().and_then(|c| c.nth(1))
    }

    /// The network namespace of its router.
    #[must_use]
    pub fn router_namespace(&self) -> String {
        format!("{}-router", self.name)
    }

    /// The network namespace of its control plane, which is also where its administrator sits.
    #[must_use]
    pub fn control_plane_namespace(&self) -> String {
        format!("{}-control-plane", self.name)
    }

    /// Its network namespaces; a node's is named as the node.
    #[must_use]
    pub fn namespaces(&self) -> Vec<String> {
        let fixed = [self.router_namespace(), self.control_plane_namespace()];
        fixed.into_iter().chain((0..self.nodes).map(|n| self.node_name(n))).collect()
    }

    fn host(&self, n: u64) -> IpAddr {
        let network = self.node_network();
        network.nth(n).unwrap_or_else(|| network.address())
    }
}

/// Whether a lab may have this name.
///
/// # Errors
/// When it may not.
pub fn check_name(name: &str) -> Result<(), PlanError> {
    let byte = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if name.is_empty() || name.len() > 32 || name.starts_with('-') || !name.bytes().all(byte) {
        return Err(PlanError::Name { value: name.chars().take(64).collect() });
    }
    Ok(())
}

fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

fn count(what: &'static str, value: usize, least: usize, most: usize) -> Result<(), PlanError> {
    if value < least || value > most { Err(PlanError::Count { what, value, least, most }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_two_clusters_of_the_walk() {
        let plan = Plan::new(2, 2).expect("a plan");
        let (staging, local) = (&plan.clusters[0], &plan.clusters[1]);
        assert_eq!((staging.name.as_str(), local.name.as_str()), ("staging", "local"));
        assert_eq!(staging.node_network().to_string(), "198.51.100.0/28");
        assert_eq!(local.node_network().to_string(), "192.168.51.0/24");
        assert_eq!(local.node_address(1).to_string(), "192.168.51.4");
        assert_eq!(local.pod_cidrs[0].to_string(), "10.20.0.0/16");
        assert_eq!(local.service_cidrs[0].to_string(), "10.120.0.0/16");
        assert_eq!(local.node_pod_cidrs(1)[0].to_string(), "10.20.1.0/24");
        assert_eq!(staging.dns_address().map(|a| a.to_string()).as_deref(), Some("10.110.0.10"));
        assert_eq!(plan.node("local-node2").map(|(c, n)| (c.name.as_str(), n)), Some(("local", 1)));
    }

    #[test]
    fn what_cannot_be_built_is_said() {
        assert!(matches!(Plan::new(0, 2), Err(PlanError::Count { what: "clusters", .. })));
        assert!(matches!(Plan::new(2, 13), Err(PlanError::Count { what: "nodes", .. })));
        let mut plan = Plan::new(1, 1).expect("a plan");
        plan.clusters[0].service_cidrs = plan.clusters[0].pod_cidrs.clone();
        assert!(plan.check().expect_err("overlap").to_string().contains("overlaps the pod CIDR"));
        assert!(check_name("../x").is_err());
        assert!(check_name("lab-2").is_ok());
    }

    proptest! {
        #[test]
        fn no_address_is_given_twice(clusters in 1usize..=CLUSTERS_MAX, nodes in 1usize..=NODES_MAX) {
            let plan = Plan::new(clusters, nodes).expect("in range");
            let mut addresses = BTreeSet::new();
            for c in &plan.clusters {
                for n in 0..nodes {
                    prop_assert!(c.node_network().contains(c.node_address(n)));
                    prop_assert!(addresses.insert(c.node_address(n)));
                }
                prop_assert!(addresses.insert(c.public_address()));
                prop_assert!(addresses.insert(c.other_public_address()));
                prop_assert!(addresses.insert(c.control_plane_address()));
                prop_assert!(addresses.insert(c.router_address()));
            }
            let cidrs = plan.inner_cidrs();
            for (i, a) in cidrs.iter().enumerate() {
                prop_assert!(cidrs[..i].iter().all(|b| !a.overlaps(b)));
                prop_assert!(addresses.iter().all(|x| !a.contains(*x)));
            }
        }
    }
}
