//! The filter in nftables: table `inet daisy`.
//!
//! ```text
//! prerouting ─ by daisy0 ──▶ from-tunnel ─┐ source another cluster's
//!            └ by daisy-vx ▶ from-nodes ──┴──▶ judge ──▶ replies, what is open, probes; else dropped
//! input      ─ VXLAN from nodes alone       forward ─ no VXLAN passes through
//! postrouting ─ sources kept, hosts get their node address     clamp ─ TCP segments fit the way
//! ```
//!
//! The chain at prerouting comes after connection tracking and before destination translation: a ClusterIP is judged as it was
//! addressed, since a Service that is not exported may share an exported one's pods.

use std::net::IpAddr;

use daisy_api::Cidr;
use daisy_api::labels::{NFTABLES_TABLE, PROBE_PORT, TUNNEL_DEVICE, VXLAN_DEVICE};
use daisy_nftables::{
    Batch, Chain, ChainType, Element, Error, Hook, IpFamily, KeyType, Rule, Selector, Set, Socket, Table, address_type,
    ct_state, ct_status, priority,
};
use daisy_route_agent_core::{Filter, Group, Opening, OpeningChanges, Shape};

const FAMILIES: [IpFamily; 2] = [IpFamily::V4, IpFamily::V6];
/// Echo requests to node addresses that are answered, a second.
const ECHO_RATE: u64 = 100;

const PREROUTING: &str = "prerouting";
const FROM_TUNNEL: &str = "from-tunnel";
const FROM_NODES: &str = "from-nodes";
const JUDGE: &str = "judge";
const INPUT: &str = "input";
const FORWARD: &str = "forward";
const POSTROUTING: &str = "postrouting";
const CLAMP: &str = "clamp";

/// Packets from other clusters for what is not open.
const REFUSED: &str = "refused";
/// Packets by a tunnel or the VXLAN with a source that does not belong there.
const FORGED: &str = "forged";
/// VXLAN packets that did not come from a node.
const VXLAN_REFUSED: &str = "vxlan-refused";
/// VXLAN packets that were to pass through.
const VXLAN_FORWARDED: &str = "vxlan-forwarded";
/// Packets to a ClusterIP that nothing translated.
const UNTRANSLATED: &str = "untranslated";

/// The names of the counters of dropped packets.
const COUNTERS: [&str; 5] = [REFUSED, FORGED, VXLAN_REFUSED, VXLAN_FORWARDED, UNTRANSLATED];

fn table() -> Table {
    Table::inet(NFTABLES_TABLE)
}

fn address_key(family: IpFamily) -> KeyType {
    match family {
        IpFamily::V4 => KeyType::Ipv4Addr,
        IpFamily::V6 => KeyType::Ipv6Addr,
    }
}

fn suffix(family: IpFamily) -> char {
    match family {
        IpFamily::V4 => '4',
        IpFamily::V6 => '6',
    }
}

fn group_name(group: Group, family: IpFamily) -> String {
    format!("{}{}", group.name(), suffix(family))
}

fn group_set(group: Group, family: IpFamily) -> Set {
    Set::new(group_name(group, family), [address_key(family)]).interval()
}

fn open_name(family: IpFamily) -> String {
    format!("open{}", suffix(family))
}

fn open_set(family: IpFamily) -> Set {
    Set::new(open_name(family), [address_key(family), KeyType::InetProto, KeyType::InetService])
}

fn of_family(cidrs: impl IntoIterator<Item = Cidr>, family: IpFamily) -> Vec<Element> {
    cidrs.into_iter().filter(|c| IpFamily::of(c.address()) == family).map(|c| Element::new(c.network())).collect()
}

fn open_elements<'a>(openings: impl IntoIterator<Item = &'a Opening>, family: IpFamily) -> Vec<Element> {
    let element = |o: &Opening| Element::new((o.address, o.protocol.number(), o.port));
    openings.into_iter().filter(|o| IpFamily::of(o.address) == family).map(element).collect()
}

/// The filter of this network namespace.
#[derive(Debug)]
pub(crate) struct FilterTable {
    socket: Socket,
}

impl FilterTable {
    /// Opens it, in the calling thread's network namespace.
    pub(crate) fn open() -> Result<Self, Error> {
        Ok(Self { socket: Socket::open()? })
    }

    /// Whether it is there.
    pub(crate) fn exists(&mut self) -> Result<bool, Error> {
        Ok(self.socket.tables()?.contains(&table()))
    }

    /// Makes all of it, in the place of what there was, with no packet in between.
    pub(crate) fn set(&mut self, filter: &Filter, openings: &[Opening]) -> Result<(), Error> {
        let table = table();
        let mut batch = Batch::new();
        batch.replace_table(&table);
        for counter in COUNTERS {
            batch.add_counter(&table, counter);
        }
        for family in FAMILIES {
            for group in Group::ALL {
                let set = group_set(group, family);
                batch.add_set(&table, &set).add_elements(&table, &set, of_family(filter.networks(group), family));
            }
            let set = open_set(family);
            batch.add_set(&table, &set).add_elements(&table, &set, open_elements(openings, family));
        }
        for chain in chains() {
            batch.add_chain(&table, &chain);
        }
        add_rules(&mut batch, &table, filter.shape);
        batch.commit(&mut self.socket)
    }

    /// Makes its rules anew; its sets stay as they are.
    pub(crate) fn shape(&mut self, shape: Shape) -> Result<(), Error> {
        let table = table();
        let mut batch = Batch::new();
        for chain in chains() {
            batch.flush_chain(&table, &chain.name);
        }
        add_rules(&mut batch, &table, shape);
        batch.commit(&mut self.socket)
    }

    /// Changes the networks of a group.
    pub(crate) fn change_group<'a>(
        &mut self,
        group: Group,
        add: impl IntoIterator<Item = &'a Cidr> + Clone,
        remove: impl IntoIterator<Item = &'a Cidr> + Clone,
    ) -> Result<(), Error> {
        let table = table();
        let mut batch = Batch::new();
        for family in FAMILIES {
            let set = group_set(group, family);
            batch.delete_elements(&table, &set, of_family(remove.clone().into_iter().copied(), family)).add_elements(
                &table,
                &set,
                of_family(add.clone().into_iter().copied(), family),
            );
        }
        batch.commit(&mut self.socket)
    }

    /// Opens and closes.
    pub(crate) fn change_openings(&mut self, changes: &OpeningChanges) -> Result<(), Error> {
        let table = table();
        let mut batch = Batch::new();
        for family in FAMILIES {
            let set = open_set(family);
            batch.delete_elements(&table, &set, open_elements(&changes.remove, family)).add_elements(
                &table,
                &set,
                open_elements(&changes.add, family),
            );
        }
        batch.commit(&mut self.socket)
    }

    /// Removes it, whether it is there or not.
    pub(crate) fn remove(&mut self) -> Result<(), Error> {
        Batch::new().destroy_table(&table()).commit(&mut self.socket)
    }

    /// How many packets were dropped, by reason.
    pub(crate) fn dropped(&mut self) -> Result<Vec<(String, u64)>, Error> {
        Ok(self.socket.counters(&table())?.into_iter().map(|(name, count)| (name, count.packets)).collect())
    }
}

fn chains() -> [Chain; 8] {
    let filter = |name, hook, at| Chain::base(name, ChainType::Filter, hook, at);
    [
        Chain::new(JUDGE),
        Chain::new(FROM_TUNNEL),
        Chain::new(FROM_NODES),
        filter(PREROUTING, Hook::Prerouting, priority::MANGLE),
        filter(INPUT, Hook::Input, priority::FILTER - 10),
        filter(FORWARD, Hook::Forward, priority::FILTER - 10),
        filter(CLAMP, Hook::Postrouting, priority::MANGLE),
        Chain::base(POSTROUTING, ChainType::Nat, Hook::Postrouting, priority::SRCNAT - 10),
    ]
}

fn add_rules(batch: &mut Batch, table: &Table, shape: Shape) {
    let mut add = |chain: &str, rule: Rule| {
        batch.add_rule(table, chain, &rule);
    };
    if shape.gateway {
        add(PREROUTING, Rule::new().iifname(TUNNEL_DEVICE).goto(FROM_TUNNEL));
    } else {
        add(PREROUTING, Rule::new().iifname(TUNNEL_DEVICE).named_counter(FORGED).drop().comment("this node is no gateway"));
    }
    add(PREROUTING, Rule::new().iifname(VXLAN_DEVICE).goto(FROM_NODES));
    for family in FAMILIES {
        let from = |group| Rule::new().saddr_in_set(family, &group_name(group, family));
        add(FROM_TUNNEL, from(Group::Remote).goto(JUDGE));
        if shape.gateway {
            // Their replies bear the address that the connection was translated to, until after this chain.
            let replies = from(Group::Pods).ct_state(ct_state::ESTABLISHED | ct_state::RELATED);
            add(FROM_NODES, replies.accept());
            let to_remote = |rule: Rule| rule.daddr_in_set(family, &group_name(Group::Remote, family)).accept();
            add(FROM_NODES, to_remote(from(Group::Pods)).comment("other nodes' pods, into the tunnel"));
            add(FROM_NODES, to_remote(from(Group::Nodes)).comment("other nodes themselves, into the tunnel"));
        }
        add(FROM_NODES, from(Group::Remote).goto(JUDGE));
        add(FROM_NODES, from(Group::Nodes).goto(JUDGE).comment("what a gateway translated"));
    }
    add(FROM_TUNNEL, Rule::new().named_counter(FORGED).drop());
    add(FROM_NODES, Rule::new().named_counter(FORGED).drop());
    judge(&mut add, shape);
    guard_vxlan(&mut add, shape);
    for family in FAMILIES {
        let devices = Rule::new().one_of(&[Selector::Iifname], [TUNNEL_DEVICE, VXLAN_DEVICE]);
        let services = group_name(Group::Services, family);
        add(FORWARD, devices.daddr_in_set(family, &services).named_counter(UNTRANSLATED).drop());
    }
    keep_sources(&mut add, shape);
    add(CLAMP, by_our_devices().clamp_mss_to_route());
}

fn by_our_devices() -> Rule {
    Rule::new().one_of(&[Selector::Oifname], [TUNNEL_DEVICE, VXLAN_DEVICE])
}

/// What comes from other clusters, or from a gateway that stands for them.
fn judge(add: &mut impl FnMut(&str, Rule), shape: Shape) {
    add(JUDGE, Rule::new().ct_state(ct_state::ESTABLISHED | ct_state::RELATED).accept());
    for family in FAMILIES {
        let to = |group| Rule::new().daddr_in_set(family, &group_name(group, family));
        if shape.reach_all {
            add(JUDGE, to(Group::Pods).accept().comment("all is reachable"));
            add(JUDGE, to(Group::Services).accept().comment("all is reachable"));
        }
        let key = [Selector::daddr(family), Selector::L4Proto, Selector::Dport];
        add(JUDGE, Rule::new().in_set(&key, open_name(family)).accept());
        add(JUDGE, to(Group::Nodes).echo_request(family).limit(ECHO_RATE, 20).accept());
        add(JUDGE, to(Group::Nodes).udp_dport(PROBE_PORT).accept());
    }
    add(JUDGE, Rule::new().named_counter(REFUSED).drop());
}

/// Who can send VXLAN packets to this node can send packets with any source.
fn guard_vxlan(add: &mut impl FnMut(&str, Rule), shape: Shape) {
    let vxlan = || Rule::new().udp_dport(shape.vxlan_port);
    add(INPUT, vxlan().reverse_path_missing().named_counter(VXLAN_REFUSED).drop().comment("a forged source"));
    for family in FAMILIES {
        add(INPUT, vxlan().saddr_in_set(family, &group_name(Group::Underlay, family)).accept());
    }
    add(INPUT, vxlan().named_counter(VXLAN_REFUSED).drop());
    // A pod that is masqueraded has its node's address, and so the right one.
    add(FORWARD, vxlan().named_counter(VXLAN_FORWARDED).drop());
}

/// A connection's source is translated once: to itself here, it is safe from every later masquerade.
fn keep_sources(add: &mut impl FnMut(&str, Rule), shape: Shape) {
    for family in FAMILIES {
        let to_remote = || by_our_devices().daddr_in_set(family, &group_name(Group::Remote, family));
        for group in [Group::Pods, Group::Nodes] {
            let rule = to_remote().saddr_in_set(family, &group_name(group, family));
            add(POSTROUTING, rule.snat_to_saddr(family));
        }
        let from_remote = || Rule::new().saddr_in_set(family, &group_name(Group::Remote, family));
        if let Some(address) = shape.node_address.filter(|a: &IpAddr| IpFamily::of(*a) == family) {
            let host = to_remote().matches(Selector::FibSaddrType, address_type::LOCAL).snat(address, None);
            add(POSTROUTING, host.comment("the host itself"));
            // Replies must come back to where the translation is known.
            let service = from_remote().oifname(VXLAN_DEVICE).ct_status(ct_status::DNAT).snat(address, None);
            add(POSTROUTING, service.comment("a ClusterIP's pod on another node"));
        }
        let pods = group_name(Group::Pods, family);
        add(POSTROUTING, from_remote().daddr_in_set(family, &pods).snat_to_saddr(family));
        let from_gateway = Rule::new().saddr_in_set(family, &group_name(Group::Nodes, family));
        add(POSTROUTING, from_gateway.daddr_in_set(family, &pods).snat_to_saddr(family));
    }
}
