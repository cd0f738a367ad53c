//! What a bed is to look like: its clusters, their addresses, the names of its hosts. Pure.
//!
//! The public addresses are those that documentation may use (RFC 5737), the ones behind NAT are private (RFC 1918) and the same in
//! every cluster, the ones between a cluster and this machine are from what RFC 2544 sets aside:
//!
//! ```text
//! 203.0.113.1          the internet's router, with a DNS server
//! 203.0.113.2          the broker's host
//! 203.0.113.(10+i)     the router of cluster i
//! 198.51.100.(16*i)/28 the nodes of a reachable cluster i;   192.168.50.0/24 those of every one behind NAT
//!                .1    its router   .2 its control plane   .3 and on its nodes
//! 10.(10+10*i).0.0/16  its pods, a /24 a node;               10.(110+10*i).0.0/16 its Services
//! 198.19.b.(4*i)/30    this machine (.1) and the control plane (.2) of cluster i of bed number b
//! ```
//!
//! Clusters are dual stack, IPv4 first; the internet is IPv4 alone. The IPv6 addresses (RFC 4193) are made of the same numbers, as they
//! are written:
//!
//! ```text
//! fd00:198:51:i::/64 the nodes of a reachable cluster i;   fd00:192:168:50::/64 those of every one behind NAT
//! fd00:10:(10+10*i)::/56 its pods, a /64 a node;           fd00:10:(110+10*i)::/112 its Services
//! ```

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

/// The most clusters: what the address plan has room for.
pub const CLUSTERS_MAX: usize = 12;
/// The most nodes in one cluster: what a /28 has left beside router and control plane.
pub const NODES_MAX: usize = 12;
/// The router in the middle.
pub const INTERNET: &str = "internet";
/// Its address.
pub const INTERNET_ADDRESS: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// The host that is in no cluster.
pub const BROKER: &str = "broker";
/// Its address.
pub const BROKER_ADDRESS: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
/// Where the API server listens.
pub const API_PORT: u16 = 6443;

/// One cluster of a bed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// Its name, and that of its context.
    pub name: String,
    /// Its place in the address plan.
    pub index: u8,
    /// Whether its nodes are behind NAT.
    pub nat: bool,
    /// How many nodes it has.
    pub nodes: u8,
    /// The number of its bed.
    pub bed: u8,
}

/// A whole bed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The bed's name.
    pub name: String,
    /// Its number among those on this machine, which its addresses there come from.
    pub number: u8,
    /// Its clusters.
    pub clusters: Vec<Cluster>,
}

/// What a host is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role<'a> {
    /// The router in the middle.
    Internet,
    /// The host that is in no cluster.
    Broker,
    /// A cluster's router.
    Router(&'a Cluster),
    /// Where a cluster's API server runs.
    ControlPlane(&'a Cluster),
    /// A node; the first is 1.
    Node(&'a Cluster, u8),
}

impl Cluster {
    /// The name of its router's host.
    #[must_use]
    pub fn router(&self) -> String {
        format!("{}-router", self.name)
    }

    /// The name of its control plane's host.
    #[must_use]
    pub fn control_plane(&self) -> String {
        format!("{}-control-plane", self.name)
    }

    /// The name of a node; the first is 1.
    #[must_use]
    pub fn node(&self, number: u8) -> String {
        format!("{}-node{number}", self.name)
    }

    /// Its nodes' numbers.
    pub fn node_numbers(&self) -> impl Iterator<Item = u8> + use<> {
        1..=self.nodes
    }

    /// Its router's address on the internet.
    #[must_use]
    pub fn public_address(&self) -> Ipv4Addr {
        Ipv4Addr::new(203, 0, 113, 10 + self.index)
    }

    fn host(&self, number: u8) -> Ipv4Addr {
        if self.nat { Ipv4Addr::new(192, 168, 50, number) } else { Ipv4Addr::new(198, 51, 100, 16 * self.index + number) }
    }

    fn prefix(&self) -> u8 {
        if self.nat { 24 } else { 28 }
    }

    /// The network of its hosts.
    #[must_use]
    pub fn network(&self) -> String {
        format!("{}/{}", self.host(0), self.prefix())
    }

    /// Its router's address towards its hosts.
    #[must_use]
    pub fn router_address(&self) -> Ipv4Addr {
        self.host(1)
    }

    /// The address of its API server.
    #[must_use]
    pub fn control_plane_address(&self) -> Ipv4Addr {
        self.host(2)
    }

    /// The address of a node.
    #[must_use]
    pub fn node_address(&self, number: u8) -> Ipv4Addr {
        self.host(2 + number)
    }

    fn host6(&self, number: u8) -> Ipv6Addr {
        let [third, fourth] = if self.nat { [0x168, 0x50] } else { [0x51, u16::from(self.index)] };
        Ipv6Addr::new(0xfd00, if self.nat { 0x192 } else { 0x198 }, third, fourth, 0, 0, 0, number.into())
    }

    /// The IPv6 address of its control plane.
    #[must_use]
    pub fn control_plane_address6(&self) -> Ipv6Addr {
        self.host6(2)
    }

    /// The IPv6 address of a node.
    #[must_use]
    pub fn node_address6(&self, number: u8) -> Ipv6Addr {
        self.host6(2 + number)
    }

    /// An address of its hosts with the length of their network.
    #[must_use]
    pub fn on_network(&self, address: Ipv4Addr) -> String {
        format!("{address}/{}", self.prefix())
    }

    /// Its pods' addresses, IPv4 and IPv6.
    #[must_use]
    pub fn pod_cidrs(&self) -> [String; 2] {
        let number = 10 + 10 * self.index;
        [format!("10.{number}.0.0/16"), format!("fd00:10:{number}::/56")]
    }

    /// The addresses of a node's pods, IPv4 and IPv6.
    #[must_use]
    pub fn node_pod_cidrs(&self, node: u8) -> [String; 2] {
        let number = 10 + 10 * self.index;
        [format!("10.{number}.{node}.0/24"), format!("fd00:10:{number}:{node:x}::/64")]
    }

    /// Its Services' addresses, IPv4 and IPv6.
    #[must_use]
    pub fn service_cidrs(&self) -> [String; 2] {
        [format!("{}/16", self.service_address(0)), format!("fd00:10:{}::/112", 110 + 10 * self.index)]
    }

    fn service_address(&self, number: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 110 + 10 * self.index, 0, number)
    }

    /// The ClusterIP of Service `default/kubernetes`.
    #[must_use]
    pub fn api_service(&self) -> Ipv4Addr {
        self.service_address(1)
    }

    /// The ClusterIP of Service `kube-system/kube-dns`.
    #[must_use]
    pub fn dns_service(&self) -> Ipv4Addr {
        self.service_address(10)
    }

    /// This machine's address on the link to the control plane.
    #[must_use]
    pub fn machine_address(&self) -> Ipv4Addr {
        Ipv4Addr::new(198, 19, self.bed, 4 * self.index + 1)
    }

    /// The control plane's address on the link to this machine: what the kubeconfig names.
    #[must_use]
    pub fn management_address(&self) -> Ipv4Addr {
        Ipv4Addr::new(198, 19, self.bed, 4 * self.index + 2)
    }

    /// The device of that link on this machine.
    #[must_use]
    pub fn machine_device(&self) -> String {
        format!("dkt{}c{}", self.bed, self.index)
    }
}

impl Plan {
    /// `staging`, then `local`, then `c3` and so on; the last `nat` of them are behind NAT.
    ///
    /// # Errors
    /// When a number is out of range or the name is none.
    pub fn new(name: &str, number: u8, clusters: usize, nodes: usize, nat: usize) -> Result<Self> {
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if name.is_empty() || name.len() > 20 || name.starts_with('-') || !name.bytes().all(fits) {
            bail!("bed name {name:?}: use 1 to 20 of a-z, 0-9 and '-', beginning with a letter or digit");
        }
        between("--clusters", clusters, 1, CLUSTERS_MAX)?;
        between("--nodes", nodes, 1, NODES_MAX)?;
        between("--nat", nat, 0, clusters)?;
        let clusters = (0..clusters).map(|i| Cluster {
            name: match i {
                0 => "staging".to_owned(),
                1 => "local".to_owned(),
                _ => format!("c{}", i + 1),
            },
            // In range: CLUSTERS_MAX and NODES_MAX are small.
            index: u8::try_from(i).unwrap_or(u8::MAX),
            nat: i >= clusters - nat,
            nodes: u8::try_from(nodes).unwrap_or(u8::MAX),
            bed: number,
        });
        Ok(Self { name: name.to_owned(), number, clusters: clusters.collect() })
    }

    /// All hosts, the internet first.
    #[must_use]
    pub fn hosts(&self) -> Vec<(String, Role<'_>)> {
        let mut hosts = vec![(INTERNET.to_owned(), Role::Internet), (BROKER.to_owned(), Role::Broker)];
        for cluster in &self.clusters {
            hosts.push((cluster.router(), Role::Router(cluster)));
            hosts.push((cluster.control_plane(), Role::ControlPlane(cluster)));
            hosts.extend(cluster.node_numbers().map(|n| (cluster.node(n), Role::Node(cluster, n))));
        }
        hosts
    }

    /// What a host is for.
    #[must_use]
    pub fn role(&self, host: &str) -> Option<Role<'_>> {
        self.hosts().into_iter().find(|(name, _)| name == host).map(|(_, role)| role)
    }

    /// A cluster by its name.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn cluster(&self, name: &str) -> Result<&Cluster> {
        let names = || self.clusters.iter().map(|c| c.name.as_str()).collect::<Vec<_>>().join(", ");
        match self.clusters.iter().find(|c| c.name == name) {
            Some(cluster) => Ok(cluster),
            None => bail!("bed {}: no cluster {name:?}; there are {}", self.name, names()),
        }
    }

    /// What must never be seen between clusters, where there is IPv4 alone: their pods' and Services' addresses, and Daisy's node
    /// ranges and VIPs.
    #[must_use]
    pub fn inner_cidrs(&self) -> Vec<String> {
        let own = |c: &Cluster| [c.pod_cidrs(), c.service_cidrs()].map(|[four, _]| four);
        let mut cidrs: Vec<_> = self.clusters.iter().flat_map(own).collect();
        cidrs.push("100.64.0.0/10".to_owned());
        cidrs
    }
}

fn between(what: &str, value: usize, least: usize, most: usize) -> Result<()> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    bail!("{what} {value} is not possible; between {least} and {most} are");
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_and_numbers_are_checked() {
        assert!(Plan::new("default", 0, 2, 2, 1).is_ok());
        for (name, clusters, nodes, nat) in
            [("", 2, 2, 1), ("../x", 2, 2, 1), ("a", 0, 1, 0), ("a", 13, 1, 0), ("a", 1, 0, 0), ("a", 1, 13, 0), ("a", 1, 1, 2)]
        {
            assert!(Plan::new(name, 0, clusters, nodes, nat).is_err(), "{name:?} {clusters} {nodes} {nat}");
        }
    }

    #[test]
    fn the_last_are_behind_nat_and_their_nodes_overlap() {
        let plan = Plan::new("a", 0, 3, 2, 2).expect("a plan");
        assert_eq!(plan.clusters.iter().map(|c| c.nat).collect::<Vec<_>>(), [false, true, true]);
        assert_eq!(plan.clusters[1].node_address(1), plan.clusters[2].node_address(1));
        assert_ne!(plan.clusters[1].pod_cidrs(), plan.clusters[2].pod_cidrs());
    }

    #[test]
    fn devices_and_addresses_on_the_machine_differ_and_fit() {
        let plans: Vec<_> = [0, 255].map(|n| Plan::new("a", n, CLUSTERS_MAX, NODES_MAX, 0).expect("a plan")).into();
        let clusters: Vec<_> = plans.iter().flat_map(|p| &p.clusters).collect();
        let devices: HashSet<_> = clusters.iter().map(|c| c.machine_device()).collect();
        let addresses: HashSet<_> = clusters.iter().map(|c| c.machine_address()).collect();
        assert_eq!((devices.len(), addresses.len()), (clusters.len(), clusters.len()));
        assert!(devices.iter().all(|d| d.len() <= 15), "a device's name has at most 15 bytes");
        let hosts: HashSet<_> = plans[0].hosts().into_iter().map(|(name, _)| name).collect();
        assert_eq!(hosts.len(), 2 + CLUSTERS_MAX * (2 + NODES_MAX));
    }
}
