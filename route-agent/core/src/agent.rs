//! The agent: takes what changes, says what is to be.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use daisy_api::labels::VXLAN_PORT;
use daisy_api::{Cidr, Cluster, ClusterId, Gateway, NodeName};
use k8s_openapi::api::core::v1::Node;

use crate::facts::{ClusterRole, LocalFacts, NodeFacts, gateway_is_active};
use crate::openings::{Openings, Scope};
use crate::plan::{Held, Inputs, Issue, Links, Path};
use crate::state::State;

/// The value of the annotation [`daisy_api::labels::NODE_STATE`] on a node that nothing of Daisy's is left on.
pub const CLEAN: &str = "clean";

/// How an agent is to work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The node it runs on.
    pub node: NodeName,
    /// How long packets are held silently, where a way or a member is lost.
    pub hold: Duration,
    /// Whether other clusters may reach all pods and Services, exported or not.
    pub reach_all: bool,
    /// The VXLAN's UDP port.
    pub vxlan_port: u16,
}

impl Settings {
    /// The usual ones.
    #[must_use]
    pub fn new(node: NodeName) -> Self {
        Self { node, hold: Duration::from_secs(30), reach_all: false, vxlan_port: VXLAN_PORT }
    }
}

/// Where this cluster's membership stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// There is no local Cluster, and there was none: nothing is done, and nothing is touched.
    NotJoined,
    /// It is a member.
    Joined,
    /// It leaves: packets to other clusters are held.
    Leaving {
        /// Since when.
        since: Duration,
    },
    /// It left: nothing is to be left.
    Left,
}

/// What is to be done to this node's annotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Annotation {
    /// It is to say [`CLEAN`].
    Clean,
    /// It is to go.
    Absent,
}

struct Member {
    networks: BTreeSet<Cidr>,
    since: Duration,
}

/// Decides what is to be on a node. Time is any clock that only goes forward, the same at each call.
pub struct Agent {
    settings: Settings,
    phase: Phase,
    local: Option<(String, LocalFacts)>,
    members: BTreeMap<ClusterId, Member>,
    /// Networks whose member is gone, and since when.
    departed: BTreeMap<Cidr, Duration>,
    nodes: BTreeMap<NodeName, NodeFacts>,
    active_gateways: BTreeSet<NodeName>,
    links: Links,
    lost: Option<Duration>,
    leftovers: bool,
    openings: Openings,
    issues: BTreeSet<Issue>,
    deadline: Option<Duration>,
}

impl Agent {
    /// An agent that knows nothing yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            phase: Phase::NotJoined,
            local: None,
            members: BTreeMap::new(),
            departed: BTreeMap::new(),
            nodes: BTreeMap::new(),
            active_gateways: BTreeSet::new(),
            links: Links::default(),
            lost: None,
            leftovers: false,
            openings: Openings::default(),
            issues: BTreeSet::new(),
            deadline: None,
        }
    }

    // Inputs.

    /// Things of ours were found on the node at the start: an earlier life of this agent left them, with routes to these
    /// networks.
    pub fn handle_leftovers(&mut self, networks: BTreeSet<Cidr>, now: Duration) {
        self.leftovers = true;
        for network in networks {
            self.departed.entry(network).or_insert(now);
        }
    }

    /// Everything has been listed once. Without a local Cluster but with leftovers, the cluster left while nobody looked.
    pub fn handle_synced(&mut self, now: Duration) {
        if self.phase == Phase::NotJoined && self.leftovers {
            self.phase = Phase::Leaving { since: now };
        }
    }

    /// A Cluster is there or has changed.
    pub fn handle_cluster(&mut self, cluster: &Cluster, now: Duration) {
        let Some(name) = cluster.metadata.name.clone() else { return };
        match ClusterRole::of(cluster) {
            Some(ClusterRole::Local) => self.handle_local(name, cluster, now),
            Some(ClusterRole::Remote) => {
                let Ok(id) = ClusterId::new(name) else { return };
                let networks: BTreeSet<Cidr> = cluster.spec.cidrs().collect();
                let since = self.members.get(&id).map_or(now, |m| m.since);
                if let Some(before) = self.members.insert(id, Member { networks, since }) {
                    self.depart(before.networks, now);
                }
            }
            None => {}
        }
    }

    fn handle_local(&mut self, name: String, cluster: &Cluster, now: Duration) {
        self.local = Some((name, LocalFacts::of(cluster)));
        self.phase = match (self.phase, cluster.spec.leaving) {
            (_, false) => Phase::Joined,
            (Phase::Joined, true) => Phase::Leaving { since: now },
            (Phase::NotJoined, true) if self.leftovers => Phase::Leaving { since: now },
            // Nothing was made in this life or an earlier one.
            (Phase::NotJoined, true) => Phase::Left,
            (phase @ (Phase::Leaving { .. } | Phase::Left), true) => phase,
        };
    }

    /// The Cluster of this name is gone.
    pub fn forget_cluster(&mut self, name: &str, now: Duration) {
        if self.local.as_ref().is_some_and(|(local, _)| local == name) && self.phase == Phase::Joined {
            self.phase = Phase::Leaving { since: now };
        }
        if let Ok(id) = ClusterId::new(name)
            && let Some(member) = self.members.remove(&id)
        {
            self.depart(member.networks, now);
        }
    }

    fn depart(&mut self, networks: BTreeSet<Cidr>, now: Duration) {
        for network in networks {
            if !self.members.values().any(|m| m.networks.contains(&network)) {
                self.departed.insert(network, now);
            }
        }
    }

    /// A Node is there or has changed.
    pub fn handle_node(&mut self, node: &Node) {
        if let Some(Ok(name)) = node.metadata.name.clone().map(NodeName::new) {
            self.nodes.insert(name, NodeFacts::of(node));
        }
    }

    /// The Node of this name is gone.
    pub fn forget_node(&mut self, name: &str) {
        if let Ok(name) = NodeName::new(name) {
            self.nodes.remove(&name);
        }
    }

    /// A Gateway is there or has changed.
    pub fn handle_gateway(&mut self, gateway: &Gateway) {
        if gateway_is_active(gateway) {
            self.active_gateways.insert(gateway.spec.node.clone());
        } else {
            self.active_gateways.remove(&gateway.spec.node);
        }
    }

    /// The Gateway of this name, which is its node's, is gone.
    pub fn forget_gateway(&mut self, name: &str) {
        if let Ok(name) = NodeName::new(name) {
            self.active_gateways.remove(&name);
        }
    }

    /// Devices that others make came, went or changed.
    pub fn handle_links(&mut self, links: Links) {
        self.links = links;
    }

    /// The exports, and what they open. Its inputs are those of [`Openings`].
    pub fn openings(&mut self) -> &mut Openings {
        &mut self.openings
    }

    // Outputs.

    /// The state that the node is to be in. `None`: it is no member and never was, and nothing is to be touched.
    pub fn poll(&mut self, now: Duration) -> Option<State> {
        self.issues.clear();
        self.deadline = None;
        if let Phase::Leaving { since } = self.phase
            && now >= since + self.settings.hold
        {
            self.phase = Phase::Left;
        }
        self.departed.retain(|_, since| now < *since + self.settings.hold);
        self.follow_scope();
        match self.phase {
            Phase::NotJoined => None,
            Phase::Left => {
                self.leftovers = false;
                Some(State::default())
            }
            Phase::Joined | Phase::Leaving { .. } => Some(self.plan(now)),
        }
    }

    fn plan(&mut self, now: Duration) -> State {
        let leaving = match self.phase {
            Phase::Leaving { since } => Some(since),
            Phase::NotJoined | Phase::Joined | Phase::Left => None,
        };
        let path = if leaving.is_some() { Path::None } else { self.path() };
        match (&path, self.lost) {
            (Path::None, None) => self.lost = Some(now),
            (Path::None, Some(_)) => {}
            (Path::Tunnel | Path::Node(_), _) => self.lost = None,
        }
        self.collect_issues(&path, leaving.is_some());
        // A leaving cluster whose own record is gone already still holds what it held.
        let nothing = LocalFacts { pods: BTreeSet::new(), services: BTreeSet::new(), nodes: unspecified() };
        let networks = self.held_networks(leaving);
        let inputs = Inputs {
            own: &self.settings.node,
            local: self.local.as_ref().map_or(&nothing, |(_, facts)| facts),
            nodes: &self.nodes,
            networks: &networks,
            path: &path,
            lost: leaving.or(self.lost),
            links: self.links,
            hold: self.settings.hold,
            reach_all: self.settings.reach_all,
            vxlan_port: self.settings.vxlan_port,
            now,
        };
        let (state, deadline) = inputs.plan();
        let end = leaving.map(|since| since + self.settings.hold);
        let forgotten = self.departed.values().map(|since| *since + self.settings.hold).min();
        self.deadline = deadline.into_iter().chain(end).chain(forgotten).filter(|at| *at > now).min();
        state
    }

    /// Other clusters' networks that can be routed here.
    fn held_networks(&self, leaving: Option<Duration>) -> BTreeMap<Cidr, Held> {
        let mut networks = BTreeMap::new();
        for (network, since) in &self.departed {
            if self.taken(network).is_none() {
                let since = leaving.map_or(*since, |l| l.max(*since));
                networks.insert(*network, Held { since, departed: true });
            }
        }
        for member in self.members.values() {
            for network in member.networks.iter().filter(|n| self.taken(n).is_none()) {
                networks.insert(*network, Held { since: member.since, departed: false });
            }
        }
        networks
    }

    /// What of ours a network overlaps: this cluster's networks, or a node's address.
    fn taken(&self, network: &Cidr) -> Option<Cidr> {
        let local = self.local.iter().flat_map(|(_, facts)| facts.networks());
        let nodes = self.nodes.values().flat_map(|n| &n.internal).map(|a| Cidr::host(*a));
        local.chain(nodes).find(|ours| ours.overlaps(network))
    }

    /// The way to other clusters: one gateway for the whole cluster, the same for every node that knows the same. A node
    /// that is not ready comes last, but is better than none.
    fn path(&self) -> Path {
        let own = &self.settings.node;
        let Some((_, local)) = &self.local else { return Path::None };
        let candidates = self.nodes.iter().filter(|(name, facts)| {
            let alive = if *name == own { self.links.tunnel_up } else { self.active_gateways.contains(*name) };
            facts.gateway && alive && (*name == own || self.reaches(facts, local))
        });
        let best = candidates.min_by_key(|(name, facts)| (!facts.ready, (*name).clone()));
        match best {
            Some((name, _)) if name == own => Path::Tunnel,
            Some((name, _)) => Path::Node(name.clone()),
            None => Path::None,
        }
    }

    /// Whether this node and that one can exchange packets over the VXLAN.
    fn reaches(&self, other: &NodeFacts, local: &LocalFacts) -> bool {
        let Some(own) = self.nodes.get(&self.settings.node) else { return false };
        let has_seat = |n: &NodeFacts| n.address.is_some_and(|a| local.nodes.contains(a));
        let underlay = own.internal.first().and_then(|a| other.underlay(a.is_ipv6()));
        has_seat(own) && has_seat(other) && own.address != other.address && underlay.is_some()
    }

    fn follow_scope(&mut self) {
        let own = self.nodes.get(&self.settings.node);
        let hosts: BTreeMap<IpAddr, IpAddr> = self
            .nodes
            .values()
            .filter_map(|n| n.address.map(|address| (n, address)))
            .flat_map(|(n, address)| n.internal.iter().map(move |internal| (*internal, address)))
            .collect();
        self.openings.set_scope(Scope {
            everything: own.is_some_and(|n| n.gateway),
            node: Some(self.settings.node.clone()),
            pods: self.local.iter().flat_map(|(_, facts)| facts.pods.iter().copied()).collect(),
            hosts,
        });
    }

    fn collect_issues(&mut self, path: &Path, leaving: bool) {
        let mut issues = BTreeSet::new();
        for (cluster, member) in &self.members {
            for theirs in &member.networks {
                if let Some(ours) = self.taken(theirs) {
                    issues.insert(Issue::Overlap { cluster: cluster.clone(), theirs: *theirs, ours });
                }
            }
        }
        let own = self.nodes.get(&self.settings.node);
        if own.is_none_or(|n| n.address.is_none()) {
            issues.insert(Issue::NoNodeAddress(self.settings.node.clone()));
        }
        if own.is_none_or(|n| n.internal.is_empty()) {
            issues.insert(Issue::NoInternalAddress(self.settings.node.clone()));
        }
        if !leaving && !self.members.is_empty() {
            if !self.nodes.values().any(|n| n.gateway) {
                issues.insert(Issue::NoGatewayNode);
            } else if *path == Path::None {
                issues.insert(Issue::NoGateway);
            }
        }
        self.issues = issues;
    }

    /// When [`Self::poll`] would say something else by itself.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.deadline
    }

    /// What an operator would want to know, as of the last [`Self::poll`].
    #[must_use]
    pub fn issues(&self) -> &BTreeSet<Issue> {
        &self.issues
    }

    /// Where membership stands, as of the last [`Self::poll`].
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// How many other clusters are known.
    #[must_use]
    pub fn members(&self) -> usize {
        self.members.len()
    }

    /// The node's addresses on the node network.
    #[must_use]
    pub fn internal_addresses(&self) -> &[IpAddr] {
        self.nodes.get(&self.settings.node).map_or(&[], |n| &n.internal)
    }

    /// What is to be done to the annotation `node-state` of this node, once the last plan has been carried out.
    #[must_use]
    pub fn annotation(&self) -> Option<Annotation> {
        let state = self.nodes.get(&self.settings.node)?.state.as_deref();
        match self.phase {
            Phase::Left if state != Some(CLEAN) => Some(Annotation::Clean),
            Phase::Joined if state.is_some() => Some(Annotation::Absent),
            Phase::NotJoined | Phase::Joined | Phase::Leaving { .. } | Phase::Left => None,
        }
    }
}

/// A network that holds no node: the IPv6 address of nobody.
fn unspecified() -> Cidr {
    Cidr::host(IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED))
}

#[cfg(test)]
#[path = "agent_tests.rs"]
mod tests;
