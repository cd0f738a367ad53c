#![allow(clippy::wildcard_enum_match_arm, reason = "tests")]

use super::*;

use daisy_api::labels::{CLUSTER_ROLE, DELIVERY_TABLE, GATEWAY_NODE, NODE_ADDRESS, ROUTE_TABLE};
use daisy_api::{ClusterSpec, Envelope, GatewaySpec, GatewayStatus, HaStatus};
use k8s_openapi::api::core::v1::{NodeAddress, NodeSpec, NodeStatus};
use proptest::prelude::*;

use crate::diff::{apply, diff};
use crate::filter::Group;
use crate::plan::{METRIC_BLACKHOLE, METRIC_ROUTE, METRIC_UNREACHABLE};
use crate::state::{RouteKey, Target};

const HOLD: Duration = Duration::from_secs(10);

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn cidr(text: &str) -> Cidr {
    text.parse().expect("a network")
}

fn agent(node: &str) -> Agent {
    Agent::new(Settings { hold: HOLD, ..Settings::new(NodeName::new(node).expect("a name")) })
}

fn cluster(name: &str, role: &str, networks: [&str; 3], leaving: bool) -> Cluster {
    let spec = ClusterSpec {
        envelope: Envelope::default(),
        cluster_cidrs: vec![cidr(networks[0])],
        service_cidrs: vec![cidr(networks[1])],
        node_cidr: cidr(networks[2]),
        exporter: true,
        gateways: vec![],
        consumes: vec![],
        leaving,
        version: String::new(),
    };
    let mut cluster = Cluster::new(name, spec);
    cluster.metadata.labels = Some([(CLUSTER_ROLE.to_owned(), role.to_owned())].into());
    cluster
}

fn local(leaving: bool) -> Cluster {
    cluster("home", "local", ["10.10.0.0/16", "10.110.0.0/16", "100.80.0.0/24"], leaving)
}

fn remote(n: u8) -> Cluster {
    let [pods, services, nodes] = [format!("10.{n}.0.0/16"), format!("10.{}.0.0/16", n + 100), format!("100.80.{n}.0/24")];
    cluster(&format!("c{n}"), "remote", [&pods, &services, &nodes], false)
}

fn node(n: u8, gateway: bool) -> Node {
    let mut node = Node::default();
    node.metadata.name = Some(format!("node-{n}"));
    node.metadata.labels = Some([(GATEWAY_NODE.to_owned(), gateway.to_string())].into());
    node.metadata.annotations = Some([(NODE_ADDRESS.to_owned(), format!("100.80.0.{n}"))].into());
    node.spec = Some(NodeSpec { pod_cidrs: Some(vec![format!("10.10.{n}.0/24")]), ..NodeSpec::default() });
    let address = NodeAddress { type_: "InternalIP".to_owned(), address: format!("192.168.0.{n}") };
    node.status = Some(NodeStatus { addresses: Some(vec![address]), ..NodeStatus::default() });
    node
}

fn gateway(n: u8, active: bool) -> Gateway {
    let name = format!("node-{n}");
    let mut gateway = Gateway::new(&name, GatewaySpec { node: NodeName::new(name.clone()).expect("a name") });
    let ha_status = if active { HaStatus::Active } else { HaStatus::Passive };
    gateway.status = Some(GatewayStatus { ha_status, ..GatewayStatus::default() });
    gateway
}

const TUNNEL: Links = Links { tunnel_up: true, uplink_mtu: Some(1500) };
const NO_TUNNEL: Links = Links { tunnel_up: false, uplink_mtu: Some(1500) };

fn route(state: &State, network: &str, metric: u32) -> Option<Target> {
    state.routes.get(&RouteKey { table: ROUTE_TABLE, destination: cidr(network), metric }).copied()
}

/// Two nodes, the first one a gateway, and one other cluster.
fn joined(own: &str, links: Links) -> Agent {
    let mut agent = agent(own);
    agent.handle_node(&node(1, true));
    agent.handle_node(&node(2, false));
    agent.handle_gateway(&gateway(1, true));
    agent.handle_links(links);
    agent.handle_cluster(&local(false), seconds(0));
    agent.handle_cluster(&remote(20), seconds(0));
    agent
}

#[test]
fn a_node_goes_by_the_gateway_and_a_gateway_by_its_tunnel() {
    let state = joined("node-2", NO_TUNNEL).poll(seconds(0)).expect("joined");
    let own = Some("100.80.0.2".parse().expect("address"));
    let via = "100.80.0.1".parse().expect("address");
    assert_eq!(route(&state, "10.20.0.0/16", METRIC_ROUTE), Some(Target::Node { via, source: own }));
    assert_eq!(route(&state, "10.20.0.0/16", METRIC_BLACKHOLE), Some(Target::Blackhole));
    assert_eq!(route(&state, "10.20.0.0/16", METRIC_UNREACHABLE), Some(Target::Unreachable));
    assert_eq!(state.device.map(|d| d.mtu), Some(1450));
    assert!(state.routes.keys().all(|k| k.table == ROUTE_TABLE));
    assert_eq!(state.rules.len(), 1);

    let state = joined("node-1", TUNNEL).poll(seconds(0)).expect("joined");
    let source = Some("100.80.0.1".parse().expect("address"));
    assert_eq!(route(&state, "10.20.0.0/16", METRIC_ROUTE), Some(Target::Tunnel { source }));
    let delivery = RouteKey { table: DELIVERY_TABLE, destination: cidr("10.10.2.0/24"), metric: METRIC_ROUTE };
    assert!(matches!(state.routes.get(&delivery), Some(Target::Node { .. })));
    assert!(state.rules.iter().any(|r| r.from_tunnel && r.table == DELIVERY_TABLE));
}

#[test]
fn a_lost_way_is_held_and_then_refused() {
    let mut agent = joined("node-1", TUNNEL);
    agent.poll(seconds(0));
    agent.handle_links(NO_TUNNEL);
    let state = agent.poll(seconds(100)).expect("joined");
    assert_eq!(route(&state, "10.20.0.0/16", METRIC_ROUTE), None);
    assert_eq!(route(&state, "10.20.0.0/16", METRIC_BLACKHOLE), Some(Target::Blackhole));
    assert_eq!(agent.poll_timeout(), Some(seconds(110)));
    assert_eq!(route(&agent.poll(seconds(109)).expect("joined"), "10.20.0.0/16", METRIC_BLACKHOLE), Some(Target::Blackhole));
    let state = agent.poll(seconds(110)).expect("joined");
    assert_eq!(route(&state, "10.20.0.0/16", METRIC_BLACKHOLE), None);
    assert_eq!(route(&state, "10.20.0.0/16", METRIC_UNREACHABLE), Some(Target::Unreachable));
    // A member that comes then is held as long as any other.
    agent.handle_cluster(&remote(30), seconds(200));
    let state = agent.poll(seconds(200)).expect("joined");
    assert_eq!(route(&state, "10.30.0.0/16", METRIC_BLACKHOLE), Some(Target::Blackhole));
    assert_eq!(route(&state, "10.20.0.0/16", METRIC_BLACKHOLE), None);
    assert_eq!(agent.poll_timeout(), Some(seconds(210)));
    agent.handle_links(TUNNEL);
    let state = agent.poll(seconds(201)).expect("joined");
    assert!(route(&state, "10.20.0.0/16", METRIC_ROUTE).is_some());
    assert_eq!(agent.poll_timeout(), None);
}

#[test]
fn a_member_that_goes_is_held_and_then_forgotten() {
    let mut agent = joined("node-1", TUNNEL);
    agent.poll(seconds(0));
    agent.forget_cluster("c20", seconds(5));
    let state = agent.poll(seconds(5)).expect("joined");
    assert_eq!(route(&state, "10.20.0.0/16", METRIC_ROUTE), None);
    assert_eq!(route(&state, "10.20.0.0/16", METRIC_BLACKHOLE), Some(Target::Blackhole));
    assert!(state.filter.as_ref().is_some_and(|f| f.networks(Group::Remote).next().is_none()));
    assert_eq!(agent.poll_timeout(), Some(seconds(15)));
    let state = agent.poll(seconds(15)).expect("joined");
    assert!(state.routes.keys().all(|k| k.destination != cidr("10.20.0.0/16")));
}

#[test]
fn a_leave_is_held_and_leaves_nothing_and_a_join_begins_anew() {
    let mut agent = joined("node-2", NO_TUNNEL);
    agent.poll(seconds(0));
    agent.handle_cluster(&local(true), seconds(50));
    let state = agent.poll(seconds(50)).expect("leaving");
    assert_eq!(route(&state, "10.20.0.0/16", METRIC_ROUTE), None);
    assert_eq!(route(&state, "10.20.0.0/16", METRIC_BLACKHOLE), Some(Target::Blackhole));
    assert_eq!(agent.annotation(), None);
    // The syncer takes the records away meanwhile.
    agent.forget_cluster("c20", seconds(52));
    agent.forget_cluster("home", seconds(53));
    let state = agent.poll(seconds(55)).expect("leaving");
    assert_eq!(route(&state, "10.20.0.0/16", METRIC_BLACKHOLE), Some(Target::Blackhole));
    assert_eq!(agent.poll(seconds(60)), Some(State::default()));
    assert_eq!((agent.phase(), agent.annotation()), (Phase::Left, Some(Annotation::Clean)));
    let mut clean = node(2, false);
    clean.metadata.annotations.get_or_insert_default().insert(daisy_api::labels::NODE_STATE.to_owned(), CLEAN.to_owned());
    agent.handle_node(&clean);
    assert_eq!(agent.annotation(), None);
    agent.handle_cluster(&local(false), seconds(70));
    agent.handle_cluster(&remote(20), seconds(70));
    assert!(route(&agent.poll(seconds(70)).expect("joined"), "10.20.0.0/16", METRIC_ROUTE).is_some());
    assert_eq!(agent.annotation(), Some(Annotation::Absent));
}

#[test]
fn without_a_cluster_nothing_is_touched_unless_something_was_left() {
    let mut fresh = agent("node-1");
    fresh.handle_synced(seconds(0));
    assert_eq!(fresh.poll(seconds(0)), None);
    // A leave that is over before this node's agent began.
    fresh.handle_cluster(&local(true), seconds(1));
    assert_eq!(fresh.poll(seconds(1)), Some(State::default()));
    assert_eq!(fresh.phase(), Phase::Left);

    let mut restarted = agent("node-1");
    restarted.handle_leftovers([cidr("10.20.0.0/16")].into(), seconds(0));
    restarted.handle_synced(seconds(0));
    let state = restarted.poll(seconds(0)).expect("leaving");
    assert_eq!(route(&state, "10.20.0.0/16", METRIC_BLACKHOLE), Some(Target::Blackhole));
    assert_eq!(restarted.poll(HOLD), Some(State::default()));
}

#[test]
fn networks_that_overlap_ours_are_named_and_not_routed() {
    let mut agent = joined("node-2", NO_TUNNEL);
    for (name, networks) in [
        ("pods", ["10.0.0.0/8", "10.121.0.0/16", "100.80.9.0/24"]),
        ("node-network", ["192.168.0.0/16", "10.122.0.0/16", "100.80.10.0/24"]),
        ("everything", ["0.0.0.0/0", "10.123.0.0/16", "100.80.0.128/25"]),
    ] {
        agent.handle_cluster(&cluster(name, "remote", networks, false), seconds(0));
    }
    let state = agent.poll(seconds(0)).expect("joined");
    for bad in ["10.0.0.0/8", "192.168.0.0/16", "0.0.0.0/0", "100.80.0.128/25"] {
        assert_eq!(route(&state, bad, METRIC_ROUTE), None, "{bad}");
        assert_eq!(route(&state, bad, METRIC_UNREACHABLE), None, "{bad}");
    }
    assert!(route(&state, "10.121.0.0/16", METRIC_ROUTE).is_some());
    let named: Vec<String> = agent.issues().iter().map(ToString::to_string).collect();
    assert!(named.iter().any(|i| i.contains("Cluster pods: its network 10.0.0.0/8 overlaps 10.10.0.0/16")), "{named:?}");
    assert_eq!(named.len(), 4);
}

#[test]
fn where_no_network_is_ipv6_nothing_on_a_node_is() {
    for (own, links) in [("node-1", TUNNEL), ("node-2", NO_TUNNEL)] {
        let state = joined(own, links).poll(seconds(0)).expect("joined");
        assert!(!state.neighbours.is_empty(), "{own} has the other");
        // A node without IPv6 refuses it.
        assert_eq!(state.neighbours.keys().find(|address| address.is_ipv6()), None, "{own}");
    }
}

#[test]
fn ipv6_goes_over_ipv4_node_addresses_by_link_local_next_hops() {
    let mut agent = joined("node-2", NO_TUNNEL);
    agent.handle_cluster(&cluster("six", "remote", ["fd20::/48", "fd21::/112", "fd22::/64"], false), seconds(0));
    let state = agent.poll(seconds(0)).expect("joined");
    let via: IpAddr = "fe80::8da:64ff:fe50:1".parse().expect("address");
    assert_eq!(route(&state, "fd20::/48", METRIC_ROUTE), Some(Target::Node { via, source: None }));
    assert!(state.neighbours.contains_key(&via));
    assert_eq!(state.rules.iter().filter(|r| r.ipv6).count(), 1);
}

/// What can happen to an agent on node-1.
#[derive(Clone, Debug)]
enum Step {
    Node(u8, bool),
    NoNode(u8),
    Gateway(u8, bool),
    NoGateway(u8),
    Remote(u8),
    NoRemote(u8),
    Links(bool),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1u8..4, any::<bool>()).prop_map(|(n, g)| Step::Node(n, g)),
        (1u8..4).prop_map(Step::NoNode),
        (1u8..4, any::<bool>()).prop_map(|(n, a)| Step::Gateway(n, a)),
        (1u8..4).prop_map(Step::NoGateway),
        // 10 is this cluster's own: a record that lies.
        prop::sample::select(vec![10u8, 20, 30, 192]).prop_map(Step::Remote),
        prop::sample::select(vec![10u8, 20, 30, 192]).prop_map(Step::NoRemote),
        any::<bool>().prop_map(Step::Links),
        (0u64..12).prop_map(Step::Wait),
    ]
}

fn take(agent: &mut Agent, step: &Step, now: Duration) {
    match step {
        Step::Node(n, g) => agent.handle_node(&node(*n, *g)),
        Step::NoNode(n) => agent.forget_node(&format!("node-{n}")),
        Step::Gateway(n, a) => agent.handle_gateway(&gateway(*n, *a)),
        Step::NoGateway(n) => agent.forget_gateway(&format!("node-{n}")),
        Step::Remote(192) => {
            let networks = ["192.168.0.0/24", "10.192.0.0/16", "100.81.0.0/24"];
            agent.handle_cluster(&cluster("c192", "remote", networks, false), now);
        }
        Step::Remote(n) => agent.handle_cluster(&remote(*n), now),
        Step::NoRemote(n) => agent.forget_cluster(&format!("c{n}"), now),
        Step::Links(true) => agent.handle_links(TUNNEL),
        Step::Links(false) => agent.handle_links(NO_TUNNEL),
        Step::Wait(_) => {}
    }
}

/// What holds of every plan.
fn check(agent: &Agent, state: &State) -> Result<(), TestCaseError> {
    let ours = ["10.10.0.0/16", "10.110.0.0/16", "100.80.0.0/24"].map(cidr);
    let hosts: Vec<Cidr> = agent.nodes.values().flat_map(|n| &n.internal).map(|a| Cidr::host(*a)).collect();
    for (key, target) in &state.routes {
        match target {
            Target::OnVxlan { .. } => prop_assert!(ours[2].covers(&key.destination), "a node address"),
            Target::Node { via, .. } | Target::Tunnel { source: Some(via) } if key.table == DELIVERY_TABLE => {
                prop_assert!(ours[0].covers(&key.destination), "another node's pods");
                prop_assert!(state.neighbours.contains_key(via));
            }
            _ => {
                prop_assert!(ours.iter().chain(&hosts).all(|o| !o.overlaps(&key.destination)), "{:?} is ours", key);
                let silent = RouteKey { metric: METRIC_BLACKHOLE, ..*key };
                let last = RouteKey { metric: METRIC_UNREACHABLE, ..*key };
                prop_assert!(state.routes.contains_key(&last), "nothing beneath {:?}", key);
                prop_assert!(!target.carries() || state.routes.contains_key(&silent), "no silence beneath {:?}", key);
            }
        }
        match target {
            Target::Tunnel { .. } => prop_assert!(agent.links.tunnel_up, "no tunnel to go by"),
            Target::Node { via, .. } if key.table == ROUTE_TABLE => {
                let by = agent.nodes.iter().find(|(_, n)| n.address == Some(*via)).map(|(name, _)| name);
                let alive = by.is_some_and(|name| agent.active_gateways.contains(name) && agent.nodes[name].gateway);
                prop_assert!(alive, "{via} is no gateway that lives");
                prop_assert!(state.forwarding.contains_key(&crate::state::Mac::of_node(*via)));
            }
            _ => {}
        }
    }
    // No rule leads to an empty table, and no table is without its rule.
    for rule in &state.rules {
        prop_assert!(state.routes.keys().any(|k| k.table == rule.table && k.destination.is_ipv6() == rule.ipv6));
    }
    Ok(())
}

proptest! {
    #[test]
    fn whatever_happens_the_plan_is_sound(steps in prop::collection::vec(step(), 0..40)) {
        let mut agent = joined("node-1", TUNNEL);
        let (mut now, mut have) = (seconds(0), State::default());
        for step in &steps {
            if let Step::Wait(n) = step {
                now += seconds(*n);
            }
            take(&mut agent, step, now);
            let want = agent.poll(now).expect("joined");
            check(&agent, &want)?;
            prop_assert_eq!(agent.poll(now), Some(want.clone()), "the same when asked again");
            // Nothing changes by itself before it says so.
            let before = agent.poll_timeout().map_or(now + seconds(1000), |at| at - Duration::from_nanos(1)).max(now);
            let mut later = agent.poll(before).expect("joined");
            prop_assert_eq!(&mut later, &mut want.clone(), "changed before its time");
            agent.poll(now);
            for change in diff(&have, &want) {
                apply(&mut have, &change);
            }
            prop_assert_eq!(&have, &want);
        }
    }

    /// Someone who hears only the last word on everything plans the same, once all holds are over.
    #[test]
    fn the_order_of_news_does_not_matter(steps in prop::collection::vec(step(), 0..40)) {
        let mut slow = joined("node-1", TUNNEL);
        for step in &steps {
            take(&mut slow, step, seconds(0));
            slow.poll(seconds(0));
        }
        let mut last: BTreeMap<(u8, u8), &Step> = BTreeMap::new();
        for step in &steps {
            let key = match step {
                Step::Node(n, _) | Step::NoNode(n) => (0, *n),
                Step::Gateway(n, _) | Step::NoGateway(n) => (1, *n),
                Step::Remote(n) | Step::NoRemote(n) => (2, *n),
                Step::Links(_) => (3, 0),
                Step::Wait(_) => continue,
            };
            last.insert(key, step);
        }
        let mut quick = joined("node-1", TUNNEL);
        // From the last to the first.
        for step in last.values().rev() {
            take(&mut quick, step, seconds(0));
        }
        quick.poll(seconds(0));
        prop_assert_eq!(slow.poll(seconds(1000)), quick.poll(seconds(1000)));
    }
}
