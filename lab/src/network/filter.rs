//! The packet filters that belong to the lab itself: what the internet drops, how a router masquerades, how a node does.

use daisy_api::{Cidr, labels};
use daisy_nftables::{Batch, Chain, ChainType, Hook, Rule, Socket, Table, ct_state, priority};
use serde::{Deserialize, Serialize};

use super::NetworkError;
use crate::plan::Plan;
use crate::sys::Netns;

/// The table of the routers, and of the internet.
const TABLE: &str = "lab";
/// The table of the nodes: what a CNI plugin or its masquerading agent has there.
const NODE_TABLE: &str = "lab-masquerade";
/// Marks the rules that count what went through tunnels.
const TUNNELS: &str = "tunnels";

/// What the internet has seen of one CIDR that must not be seen there: dropped, every packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// The CIDR, or `tunnels` for the tunnels' own packets, which pass.
    pub what: String,
    /// As source or as destination: `from` or `to`.
    pub direction: String,
    /// Packets so far.
    pub packets: u64,
    /// Their bytes so far.
    pub bytes: u64,
}

impl Dropped {
    /// Whether this counts the tunnels' own packets, which pass.
    #[must_use]
    pub fn is_tunnels(&self) -> bool {
        self.what == TUNNELS
    }
}

/// Runs `f` with a socket of the namespace.
fn with_socket<T: Send>(
    name: &str,
    netns: &Netns,
    f: impl FnOnce(&mut Socket) -> Result<T, daisy_nftables::Error> + Send,
) -> Result<T, NetworkError> {
    let done = netns.run(|| Ok(Socket::open().and_then(|mut socket| f(&mut socket))));
    let system = |cause| NetworkError::System { namespace: name.to_owned(), what: "entering", cause };
    done.map_err(system)?.map_err(|e| NetworkError::Filter { namespace: name.to_owned(), cause: Box::new(e) })
}

fn base(name: &str, chain_type: ChainType, hook: Hook, priority: i32) -> Chain {
    Chain::base(name, chain_type, hook, priority)
}

/// The internet drops whatever bears an inner address, and counts it; before routing, since it has routes for none of them.
pub(super) fn internet(netns: &Netns, plan: &Plan) -> Result<(), NetworkError> {
    let table = Table::inet(TABLE);
    let mut batch = Batch::new();
    batch.add_table(&table);
    batch.add_chain(&table, &base("crossing", ChainType::Filter, Hook::Prerouting, priority::FILTER));
    for cidr in plan.inner_cidrs() {
        let from = Rule::new().saddr(cidr.network()).counter().drop().comment(format!("from {cidr}"));
        let to = Rule::new().daddr(cidr.network()).counter().drop().comment(format!("to {cidr}"));
        batch.add_rule(&table, "crossing", &from).add_rule(&table, "crossing", &to);
    }
    let port = labels::TUNNEL_PORT;
    let from = Rule::new().udp_sport(port).counter().comment(format!("from {TUNNELS}"));
    let to = Rule::new().udp_dport(port).counter().comment(format!("to {TUNNELS}"));
    batch.add_rule(&table, "crossing", &from).add_rule(&table, "crossing", &to);
    with_socket(crate::plan::INTERNET, netns, |socket| batch.commit(socket))
}

/// What [`internet`] counted.
pub(super) fn dropped(netns: &Netns) -> Result<Vec<Dropped>, NetworkError> {
    let rules = with_socket(crate::plan::INTERNET, netns, |socket| socket.rules(&Table::inet(TABLE), None))?;
    let counted = rules.into_iter().filter_map(|rule| {
        let count = rule.count()?;
        let (direction, what) = rule.comment.as_deref()?.split_once(' ')?;
        let (direction, what) = (direction.to_owned(), what.to_owned());
        Some(Dropped { what, direction, packets: count.packets, bytes: count.bytes })
    });
    Ok(counted.collect())
}

/// A home router: everything that leaves by `wan` has its address; from there come replies only.
pub(super) fn nat_router(name: &str, netns: &Netns, wan: &str) -> Result<(), NetworkError> {
    let table = Table::ip(TABLE);
    let mut batch = Batch::new();
    batch.add_table(&table);
    batch.add_chain(&table, &base("postrouting", ChainType::Nat, Hook::Postrouting, priority::SRCNAT));
    batch.add_rule(&table, "postrouting", &Rule::new().oifname(wan).masquerade());
    batch.add_chain(&table, &base("forward", ChainType::Filter, Hook::Forward, priority::FILTER));
    let replies = Rule::new().iifname(wan).ct_state(ct_state::ESTABLISHED | ct_state::RELATED).accept();
    batch.add_rule(&table, "forward", &replies);
    batch.add_rule(&table, "forward", &Rule::new().iifname(wan).counter().drop());
    with_socket(name, netns, |socket| batch.commit(socket))
}

/// A node, as CNI plugins set it up: what pods send out of the cluster has the node's address.
pub(super) fn node(name: &str, netns: &Netns, pod_cidrs: &[Cidr]) -> Result<(), NetworkError> {
    let table = Table::inet(NODE_TABLE);
    let mut batch = Batch::new();
    batch.add_table(&table);
    batch.add_chain(&table, &base("postrouting", ChainType::Nat, Hook::Postrouting, priority::SRCNAT));
    for pods in pod_cidrs {
        let leaving = Rule::new().saddr(pods.network()).not_daddr(pods.network()).masquerade();
        batch.add_rule(&table, "postrouting", &leaving);
    }
    with_socket(name, netns, |socket| batch.commit(socket))
}

/// The tables of a namespace, as `FAMILY NAME`.
pub(super) fn tables(name: &str, netns: &Netns) -> Result<Vec<String>, NetworkError> {
    let tables = with_socket(name, netns, Socket::tables)?;
    Ok(tables.iter().map(ToString::to_string).collect())
}
