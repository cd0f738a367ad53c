//! Which peers there are to be, which addresses are theirs, and which packet goes to whom.
//!
//! ```text
//! Clusters (local, remote) ──▶ Plan: peers by key, with the endpoints to try
//!                                    clusters: CIDRs (AllowedSources and destinations), gateways in rank
//!                                    issues: what was left out, and why
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use daisy_api::keys::PublicKey;
use daisy_api::{Cidr, ClusterId, GatewayRecord, NodeName, Reach};

use crate::addresses::is_dialable;
use crate::clusters::Clusters;
use crate::prefix::PrefixMap;

/// The most gateways of one cluster that a gateway connects to.
pub const GATEWAYS_MAX: usize = 8;

/// A gateway of another cluster, to be a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayPeer {
    /// Its cluster.
    pub cluster: ClusterId,
    /// What its cluster says of it.
    pub record: GatewayRecord,
    /// The endpoints to try, best first: public ones, then private ones, none inside a tunnelled CIDR.
    pub candidates: Vec<SocketAddr>,
}

/// Another cluster that this one has to do with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteCluster {
    /// Its ID.
    pub id: ClusterId,
    /// Its CIDRs: what may come from any of its gateways, and what goes to one of them.
    pub cidrs: Vec<Cidr>,
    /// The keys of its gateways, in order of rank.
    pub gateways: Vec<PublicKey>,
}

/// What a gateway is to be connected to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// This cluster's CIDRs: what comes out of tunnels goes there and nowhere else.
    pub local: Vec<Cidr>,
    /// The other clusters, in the order of their IDs.
    pub clusters: Vec<RemoteCluster>,
    /// The peers by key.
    pub peers: BTreeMap<PublicKey, GatewayPeer>,
    /// What was left out.
    pub issues: Vec<Issue>,
}

/// What was left out of a plan, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    /// The Cluster.
    pub cluster: ClusterId,
    /// Its gateway, where it is about one.
    pub gateway: Option<NodeName>,
    /// What is wrong.
    pub kind: IssueKind,
}

/// What is wrong with a part of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IssueKind {
    /// A CIDR overlaps one of this cluster's own.
    OverlapsLocal {
        /// The CIDR.
        cidr: Cidr,
        /// Ours.
        local: Cidr,
    },
    /// A CIDR overlaps one of a cluster before it.
    OverlapsRemote {
        /// The CIDR.
        cidr: Cidr,
        /// The other.
        other: Cidr,
        /// Whose the other is.
        owner: ClusterId,
    },
    /// More gateways than a cluster may have.
    TooManyGateways,
    /// The public key is another gateway's, or our own.
    KeyTaken,
    /// The inner address is outside the cluster's CIDRs.
    AddressOutside {
        /// The address.
        address: IpAddr,
    },
    /// The inner address is of another family than ours, so that no probe can be sent.
    OtherFamily {
        /// The address.
        address: IpAddr,
    },
    /// An endpoint lies inside a cluster's CIDR: datagrams to it would go into the tunnel again, or to a pod.
    EndpointTunnelled {
        /// The endpoint.
        endpoint: SocketAddr,
    },
    /// An endpoint that no datagram can be sent to.
    EndpointUnusable {
        /// The endpoint.
        endpoint: SocketAddr,
    },
}

impl fmt::Display for Issue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cluster {}", self.cluster)?;
        if let Some(gateway) = &self.gateway {
            write!(f, ", gateway {gateway}")?;
        }
        match &self.kind {
            IssueKind::OverlapsLocal { cidr, local } => {
                write!(
                    f,
                    ": its CIDR {cidr} overlaps this cluster's own {local}; it is left out: one of the two clusters needs another range"
                )
            }
            IssueKind::OverlapsRemote { cidr, other, owner } => {
                write!(
                    f,
                    ": its CIDR {cidr} overlaps {other} of cluster {owner}; it is left out: one of the two needs another range"
                )
            }
            IssueKind::TooManyGateways => write!(f, ": a cluster has at most {GATEWAYS_MAX} gateways; this one is left out"),
            IssueKind::KeyTaken => {
                write!(f, ": its publicKey is another gateway's; it is left out: delete its key Secret, and it makes a new one")
            }
            IssueKind::AddressOutside { address } => {
                write!(f, ": its address {address} is outside its cluster's CIDRs; it is left out")
            }
            IssueKind::OtherFamily { address } => {
                write!(
                    f,
                    ": its address {address} is of another address family than this gateway's; it is left out: the node ranges of both clusters need a family in common"
                )
            }
            IssueKind::EndpointTunnelled { endpoint } => {
                write!(
                    f,
                    ": its endpoint {endpoint} lies inside the CIDRs of a cluster and would be reached through a tunnel; it is not dialled"
                )
            }
            IssueKind::EndpointUnusable { endpoint } => write!(f, ": its endpoint {endpoint} cannot be dialled"),
        }
    }
}

/// Plans for the gateway with this key and inner address. A peer is made for each gateway of another cluster that may export, or
/// of any where this cluster may: two clusters that export nothing have nothing to say to each other.
#[must_use]
pub fn plan(clusters: &Clusters, own_key: &PublicKey, own_address: IpAddr) -> Plan {
    let Some(local) = clusters.local() else { return Plan::default() };
    let plan = Plan { local: local.cidrs.clone(), ..Plan::default() };
    let mut planner = Planner { plan, keys: BTreeSet::from([*own_key]), taken: BTreeMap::new() };
    let wanted: Vec<_> =
        clusters.remotes().filter(|(id, spec)| **id != local.id && (local.exporter || spec.exporter)).collect();
    // All CIDRs come first: an endpoint may lie in those of a cluster further down.
    for (id, spec) in &wanted {
        planner.add_cidrs(id, spec.cidrs());
    }
    let tunnelled = planner.tunnelled();
    for (at, (id, spec)) in wanted.into_iter().enumerate() {
        for record in spec.gateways.iter().take(GATEWAYS_MAX) {
            planner.add_gateway(at, record, own_address, &tunnelled);
        }
        for record in spec.gateways.iter().skip(GATEWAYS_MAX) {
            planner.issue(id, Some(record), IssueKind::TooManyGateways);
        }
    }
    planner.plan
}

struct Planner {
    plan: Plan,
    keys: BTreeSet<PublicKey>,
    /// The CIDRs of the clusters so far by their first addresses, none of which overlap.
    taken: BTreeMap<IpAddr, (Cidr, ClusterId)>,
}

impl Planner {
    fn issue(&mut self, cluster: &ClusterId, record: Option<&GatewayRecord>, kind: IssueKind) {
        let gateway = record.map(|record| record.node.clone());
        self.plan.issues.push(Issue { cluster: cluster.clone(), gateway, kind });
    }

    fn add_cidrs(&mut self, id: &ClusterId, cidrs: impl Iterator<Item = Cidr>) {
        let mut kept: Vec<Cidr> = Vec::new();
        for cidr in cidrs {
            if let Some(local) = self.plan.local.iter().copied().find(|local| local.overlaps(&cidr)) {
                self.issue(id, None, IssueKind::OverlapsLocal { cidr, local });
                continue;
            }
            // Those taken are apart, so whatever overlaps is the one that begins before it, or begins inside it.
            let before = self.taken.range(..cidr.address()).next_back().filter(|(_, (known, _))| known.covers(&cidr));
            let inside = self.taken.range(cidr.address()..).take_while(|(first, _)| cidr.contains(**first));
            let overlapped: Vec<(Cidr, ClusterId)> = before.into_iter().chain(inside).map(|(_, known)| known.clone()).collect();
            if let Some((other, owner)) = overlapped.iter().find(|(_, owner)| owner != id).cloned() {
                self.issue(id, None, IssueKind::OverlapsRemote { cidr, other, owner });
                continue;
            }
            // A cluster's own CIDRs may lie inside one another; the widest stands for them here.
            if !overlapped.iter().any(|(known, _)| known.covers(&cidr)) {
                for (known, _) in overlapped {
                    self.taken.remove(&known.address());
                }
                self.taken.insert(cidr.address(), (cidr, id.clone()));
            }
            kept.push(cidr);
        }
        self.plan.clusters.push(RemoteCluster { id: id.clone(), cidrs: kept, gateways: Vec::new() });
    }

    fn tunnelled(&self) -> PrefixMap<()> {
        let remote = self.plan.clusters.iter().flat_map(|cluster| &cluster.cidrs);
        PrefixMap::new(remote.chain(&self.plan.local).map(|cidr| (*cidr, ())))
    }

    fn add_gateway(&mut self, at: usize, record: &GatewayRecord, own_address: IpAddr, tunnelled: &PrefixMap<()>) {
        let Some(cluster) = self.plan.clusters.get(at) else { return };
        let id = cluster.id.clone();
        let address = record.address;
        if !cluster.cidrs.iter().any(|cidr| cidr.contains(address)) {
            return self.issue(&id, Some(record), IssueKind::AddressOutside { address });
        }
        if address.is_ipv4() != own_address.is_ipv4() {
            return self.issue(&id, Some(record), IssueKind::OtherFamily { address });
        }
        if !self.keys.insert(record.public_key) {
            return self.issue(&id, Some(record), IssueKind::KeyTaken);
        }
        let of = |reach: Reach| record.endpoints.iter().filter(move |endpoint| endpoint.reach == reach);
        let mut candidates: Vec<SocketAddr> = Vec::new();
        for endpoint in of(Reach::Public).chain(of(Reach::Private)).map(|endpoint| endpoint.address) {
            if !is_dialable(endpoint.ip()) || endpoint.port() == 0 {
                self.issue(&id, Some(record), IssueKind::EndpointUnusable { endpoint });
            } else if tunnelled.contains(endpoint.ip().to_canonical()) {
                self.issue(&id, Some(record), IssueKind::EndpointTunnelled { endpoint });
            } else if !candidates.contains(&endpoint) {
                candidates.push(endpoint);
            }
        }
        if let Some(cluster) = self.plan.clusters.get_mut(at) {
            cluster.gateways.push(record.public_key);
        }
        self.plan.peers.insert(record.public_key, GatewayPeer { cluster: id, record: record.clone(), candidates });
    }
}

#[cfg(test)]
mod tests;
