//! Who is a peer and whose address is whose: made anew with each plan, read without locks.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use daisy_api::keys::PublicKey;
use daisy_gateway_core::peers::Plan;
use daisy_gateway_core::prefix::PrefixMap;
use daisy_gateway_core::rank;

use super::peer::Peer;

/// The peers and routes of one plan.
#[derive(Default)]
pub(crate) struct Table {
    peers: BTreeMap<PublicKey, Member>,
    by_index: HashMap<u32, Member>,
    /// From address to cluster.
    routes: PrefixMap<usize>,
    /// The gateways of each cluster, in order of rank.
    clusters: Vec<Vec<Arc<Peer>>>,
    local: PrefixMap<()>,
}

/// A peer and which cluster it is of.
#[derive(Clone)]
pub(crate) struct Member {
    pub(crate) peer: Arc<Peer>,
    cluster: usize,
}

impl Table {
    /// The table of a plan; `peers` holds one for each of the plan's keys.
    pub(crate) fn new(plan: &Plan, peers: &BTreeMap<PublicKey, Arc<Peer>>) -> Self {
        let mut table = Self { local: PrefixMap::new(plan.local.iter().map(|cidr| (*cidr, ()))), ..Self::default() };
        let mut routes = Vec::new();
        for (cluster, remote) in plan.clusters.iter().enumerate() {
            routes.extend(remote.cidrs.iter().map(|cidr| (*cidr, cluster)));
            let ranked: Vec<Arc<Peer>> = remote.gateways.iter().filter_map(|key| peers.get(key).cloned()).collect();
            for peer in &ranked {
                let member = Member { peer: Arc::clone(peer), cluster };
                table.by_index.insert(peer.index, member.clone());
                table.peers.insert(peer.key, member);
            }
            table.clusters.push(ranked);
        }
        table.routes = PrefixMap::new(routes);
        table
    }

    pub(crate) fn by_key(&self, key: &PublicKey) -> Option<&Member> {
        self.peers.get(key)
    }

    pub(crate) fn by_index(&self, index: u32) -> Option<&Member> {
        self.by_index.get(&index)
    }

    pub(crate) fn peers(&self) -> impl Iterator<Item = &Arc<Peer>> {
        self.peers.values().map(|member| &member.peer)
    }

    /// The gateway that a packet to this address goes to now.
    pub(crate) fn route(&self, destination: IpAddr) -> Option<&Arc<Peer>> {
        let ranked = self.clusters.get(*self.routes.get(destination)?)?;
        ranked.get(rank::choose(ranked.iter().map(|peer| peer.liveness()))?)
    }

    /// Whether a packet from this address may come from this peer: any address of its cluster may.
    pub(crate) fn allows(&self, member: &Member, source: IpAddr) -> bool {
        self.routes.get(source) == Some(&member.cluster)
    }

    /// Whether the address is one of this cluster's own.
    pub(crate) fn is_local(&self, address: IpAddr) -> bool {
        self.local.contains(address)
    }

    /// Whether outer datagrams to this address would go into a tunnel, or to a pod of this cluster.
    pub(crate) fn is_tunnelled(&self, address: IpAddr) -> bool {
        self.routes.contains(address) || self.local.contains(address)
    }
}
