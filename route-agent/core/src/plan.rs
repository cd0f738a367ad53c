//! From facts to a plan: which state the node is to be in.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use daisy_api::labels::{DELIVERY_TABLE, MTU_MIN, ROUTE_TABLE, VXLAN_DEVICE, VXLAN_OVERHEAD, VXLAN_VNI};
use daisy_api::{Cidr, ClusterId, NodeName};

use crate::facts::{LocalFacts, NodeFacts};
use crate::filter::{Filter, Group, Shape, disjoint};
use crate::state::{Mac, RouteKey, Rule, State, Target, Vxlan};

/// The metric of routes that lead somewhere.
pub const METRIC_ROUTE: u32 = 10;
/// The metric of the blackholes beneath them.
pub const METRIC_BLACKHOLE: u32 = 20;
/// The metric of what is beneath these.
pub const METRIC_UNREACHABLE: u32 = 30;

/// The MTU of a node network of which nothing is known.
const MTU_UNKNOWN: u32 = 1500;

/// What the kernel says of devices that others make.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Links {
    /// Whether the tunnel device is there and up.
    pub tunnel_up: bool,
    /// The MTU of the device that holds this node's address on the node network.
    pub uplink_mtu: Option<u32>,
}

/// Something that an operator would want to know, and that the agent goes on without.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Issue {
    /// A member's network is not routed.
    Overlap {
        /// The member.
        cluster: ClusterId,
        /// Its network.
        theirs: Cidr,
        /// What of ours it overlaps.
        ours: Cidr,
    },
    /// This node has no node address yet.
    NoNodeAddress(NodeName),
    /// This node has no address on the node network of the family that VXLAN runs over.
    NoInternalAddress(NodeName),
    /// No node is a gateway.
    NoGatewayNode,
    /// No gateway carries traffic.
    NoGateway,
}

impl std::fmt::Display for Issue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Overlap { cluster, theirs, ours } => write!(
                f,
                "Cluster {cluster}: its network {theirs} overlaps {ours} of this cluster and is not routed; one of the two must change"
            ),
            Self::NoNodeAddress(node) => write!(
                f,
                "Node {node} has no annotation {} yet: it takes no part in {VXLAN_DEVICE}; the syncer sets it",
                daisy_api::labels::NODE_ADDRESS
            ),
            Self::NoInternalAddress(node) => {
                write!(f, "Node {node} has no InternalIP in its status: it takes no part in {VXLAN_DEVICE}")
            }
            Self::NoGatewayNode => write!(
                f,
                "no Node is labelled {}=true: other clusters cannot be reached; label one",
                daisy_api::labels::GATEWAY_NODE
            ),
            Self::NoGateway => f.write_str("no gateway carries traffic: packets for other clusters are held, then refused"),
        }
    }
}

/// The way to other clusters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Path {
    /// By this node's own tunnel device.
    Tunnel,
    /// By the gateway on another node.
    Node(NodeName),
    /// There is none.
    None,
}

/// A network of another cluster, and until when packets for it are silently held where there is no way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    /// Since when it is to be held.
    pub(crate) since: Duration,
    /// Whether its member is gone: nothing leads there any more.
    pub(crate) departed: bool,
}

/// All that a plan is made from.
pub(crate) struct Inputs<'a> {
    pub(crate) own: &'a NodeName,
    pub(crate) local: &'a LocalFacts,
    pub(crate) nodes: &'a BTreeMap<NodeName, NodeFacts>,
    pub(crate) networks: &'a BTreeMap<Cidr, Held>,
    pub(crate) path: &'a Path,
    /// Since when there is no way, if there is none.
    pub(crate) lost: Option<Duration>,
    pub(crate) links: Links,
    pub(crate) hold: Duration,
    pub(crate) reach_all: bool,
    pub(crate) vxlan_port: u16,
    pub(crate) now: Duration,
}

/// This node's part in the VXLAN, if it can have one.
struct Seat {
    /// Its node address.
    address: IpAddr,
    /// Its address on the node network.
    underlay: IpAddr,
}

/// A node that this one exchanges packets with over the VXLAN.
struct Peer<'a> {
    address: IpAddr,
    underlay: IpAddr,
    pods: &'a BTreeSet<Cidr>,
}

fn host_network(address: IpAddr) -> Cidr {
    Cidr::host(address)
}

impl Inputs<'_> {
    fn own_facts(&self) -> Option<&NodeFacts> {
        self.nodes.get(self.own)
    }

    fn is_gateway(&self) -> bool {
        self.own_facts().is_some_and(|n| n.gateway)
    }

    fn seat(&self) -> Option<Seat> {
        let own = self.own_facts()?;
        // An address outside of the node range is none that the registrar gave: it might be anyone's.
        let address = own.address.filter(|a| self.local.nodes.contains(*a))?;
        Some(Seat { address, underlay: *own.internal.first()? })
    }

    fn peers(&self, seat: &Seat) -> BTreeMap<&NodeName, Peer<'_>> {
        let everyone = self.is_gateway();
        let others = self.nodes.iter().filter(|(name, facts)| *name != self.own && (everyone || facts.gateway));
        let peer = |(name, facts)| {
            let facts: &NodeFacts = facts;
            let address = facts.address.filter(|a| self.local.nodes.contains(*a) && *a != seat.address)?;
            let underlay = facts.underlay(seat.underlay.is_ipv6())?;
            Some((name, Peer { address, underlay, pods: &facts.pods }))
        };
        others.filter_map(peer).collect()
    }

    /// The next hop to a peer for packets of this family.
    fn next_hop(address: IpAddr, destination: &Cidr) -> IpAddr {
        if destination.is_ipv6() && address.is_ipv4() { Mac::of_node(address).link_local().into() } else { address }
    }

    /// Until when silence is kept about a network.
    fn held_until(&self, held: &Held) -> Option<Duration> {
        let begin = if held.departed { held.since } else { self.lost?.max(held.since) };
        Some(begin + self.hold)
    }

    /// The state that this node is to be in, and when that changes by itself.
    pub(crate) fn plan(&self) -> (State, Option<Duration>) {
        let mut state = State { filter: Some(self.filter()), ..State::default() };
        let seat = self.seat();
        let peers = seat.as_ref().map(|s| self.peers(s)).unwrap_or_default();
        if let Some(seat) = &seat {
            self.plan_vxlan(&mut state, seat, &peers);
        }
        let source = seat.as_ref().map(|s| s.address);
        let mut deadline: Option<Duration> = None;
        for (network, held) in self.networks {
            let own_source = source.filter(|a| a.is_ipv6() == network.is_ipv6());
            let target = match self.path {
                _ if held.departed => None,
                Path::Tunnel => Some(Target::Tunnel { source: own_source }),
                Path::Node(node) => {
                    peers.get(node).map(|peer| Target::Node { via: Self::next_hop(peer.address, network), source: own_source })
                }
                Path::None => None,
            };
            let key = |metric| RouteKey { table: ROUTE_TABLE, destination: *network, metric };
            let until = self.held_until(held);
            if target.is_some() || until.is_none_or(|until| self.now < until) {
                state.routes.insert(key(METRIC_BLACKHOLE), Target::Blackhole);
                if let Some(until) = until {
                    deadline = Some(deadline.map_or(until, |d| d.min(until)));
                }
            }
            if let Some(target) = target {
                state.routes.insert(key(METRIC_ROUTE), target);
            }
            state.routes.insert(key(METRIC_UNREACHABLE), Target::Unreachable);
        }
        // A node may have no IPv6 at all, and would refuse a neighbour that no route needs.
        let vias: BTreeSet<IpAddr> =
            state.routes.values().filter_map(|t| if let Target::Node { via, .. } = t { Some(*via) } else { None }).collect();
        for mac in peers.values().map(|peer| Mac::of_node(peer.address)) {
            if vias.contains(&mac.link_local().into()) {
                state.neighbours.insert(mac.link_local().into(), mac);
            }
        }
        for route in state.routes.keys() {
            let from_tunnel = route.table == DELIVERY_TABLE;
            state.rules.insert(Rule { ipv6: route.destination.is_ipv6(), table: route.table, from_tunnel });
        }
        (state, deadline)
    }

    fn plan_vxlan(&self, state: &mut State, seat: &Seat, peers: &BTreeMap<&NodeName, Peer<'_>>) {
        let overhead = if seat.underlay.is_ipv6() { VXLAN_OVERHEAD.1 } else { VXLAN_OVERHEAD.0 };
        state.device = Some(Vxlan {
            vni: VXLAN_VNI,
            port: self.vxlan_port,
            local: seat.underlay,
            mac: Mac::of_node(seat.address),
            mtu: self.links.uplink_mtu.unwrap_or(MTU_UNKNOWN).saturating_sub(overhead).max(MTU_MIN),
        });
        state.addresses.insert(seat.address);
        for peer in peers.values() {
            let mac = Mac::of_node(peer.address);
            state.forwarding.insert(mac, peer.underlay);
            state.neighbours.insert(peer.address, mac);
            let source = Some(seat.address).filter(|a| a.is_ipv6() == peer.address.is_ipv6());
            let key = RouteKey { table: ROUTE_TABLE, destination: host_network(peer.address), metric: METRIC_ROUTE };
            state.routes.insert(key, Target::OnVxlan { source });
            if !self.is_gateway() {
                continue;
            }
            for pods in peer.pods {
                // A node's word on its pods counts within the cluster's own networks.
                if self.local.pods.iter().any(|c| c.covers(pods)) {
                    let key = RouteKey { table: DELIVERY_TABLE, destination: *pods, metric: METRIC_ROUTE };
                    let source = Some(seat.address).filter(|a| a.is_ipv6() == pods.is_ipv6());
                    let target = Target::Node { via: Self::next_hop(peer.address, pods), source };
                    state.routes.insert(key, target);
                }
            }
        }
    }

    fn filter(&self) -> Filter {
        let shape = Shape {
            gateway: self.is_gateway(),
            reach_all: self.reach_all,
            node_address: self.seat().map(|s| s.address),
            vxlan_port: self.vxlan_port,
        };
        let present = self.networks.iter().filter(|(_, held)| !held.departed).map(|(network, _)| *network);
        let underlay = self.nodes.iter().filter(|(name, _)| *name != self.own).flat_map(|(_, facts)| &facts.internal);
        let groups = [
            (Group::Remote, disjoint(present)),
            (Group::Pods, disjoint(self.local.pods.iter().copied())),
            (Group::Services, disjoint(self.local.services.iter().copied())),
            (Group::Nodes, disjoint([self.local.nodes])),
            (Group::Underlay, disjoint(underlay.map(|a| host_network(*a)))),
        ];
        Filter { shape, groups: groups.into_iter().collect() }
    }
}
