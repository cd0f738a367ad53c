//! Whatever the order in which watches, writes and restarts come, the end is the same.

use std::time::Duration;

use proptest::prelude::*;

use super::world::*;
use crate::object::{Kind, Place};

/// Something that happens in the world.
#[derive(Clone, Debug)]
enum Step {
    Namespace { name: usize, exists: bool, all: bool },
    Service { name: usize, exists: bool },
    Slice { name: usize, host: u8 },
    ServiceExport { name: usize, exists: bool },
    RemoteExport { cluster: usize, name: usize, exists: bool, port: u16 },
    RemoteEndpoints { cluster: usize, name: usize, host: u8 },
    Member { cluster: usize, grant: usize },
    Node { n: u8, exists: bool },
}

const NAMES: [&str; 3] = ["shop/cart", "shop/till", "web/front"];
const CLUSTERS: [&str; 2] = ["b", "c"];
const GRANTS: [&str; 3] = ["all", "shop", "none"];

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..2usize, any::<bool>(), any::<bool>()).prop_map(|(name, exists, all)| Step::Namespace {
            name,
            exists,
            all: all && name == 1
        }),
        (0..3usize, any::<bool>()).prop_map(|(name, exists)| Step::Service { name, exists }),
        (0..3usize, 1..4u8).prop_map(|(name, host)| Step::Slice { name, host }),
        // Whether a user or the bulk export came first is not for the end to forget: they keep to different namespaces.
        (0..2usize, any::<bool>()).prop_map(|(name, exists)| Step::ServiceExport { name, exists }),
        (0..2usize, 0..3usize, any::<bool>(), 80..82u16).prop_map(|(cluster, name, exists, port)| Step::RemoteExport {
            cluster,
            name,
            exists,
            port
        }),
        (0..2usize, 0..3usize, 1..4u8).prop_map(|(cluster, name, host)| Step::RemoteEndpoints { cluster, name, host }),
        (0..2usize, 0..3usize).prop_map(|(cluster, grant)| Step::Member { cluster, grant }),
        (1..4u8, any::<bool>()).prop_map(|(n, exists)| Step::Node { n, exists }),
    ]
}

fn perform(world: &mut World, step: &Step, sequence: u64) {
    match *step {
        Step::Namespace { name, exists, all } => {
            let name = ["shop", "web"][name];
            if exists {
                world.put_here(namespace(name, all));
            } else {
                world.remove(Place::Here, Kind::Namespace, "", name);
            }
        }
        Step::Service { name, exists } => {
            let key = key(NAMES[name]);
            if exists {
                world.put_here(service(NAMES[name]));
            } else {
                world.remove(Place::Here, Kind::Service, key.namespace.as_str(), key.name.as_str());
            }
        }
        Step::Slice { name, host } => world.put_here(slice(NAMES[name], &[host])),
        Step::ServiceExport { name, exists } => {
            let key = key(NAMES[name]);
            if exists {
                // One age for one name: which of two exports is the older must not depend on the order here.
                let mut export = service_export(NAMES[name]);
                let at = k8s_openapi::jiff::Timestamp::from_second(1_767_000_000).expect("in range");
                export.metadata.creation_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at));
                world.put_here(export);
            } else {
                world.remove(Place::Here, Kind::ServiceExport, key.namespace.as_str(), key.name.as_str());
            }
        }
        Step::RemoteExport { cluster, name, exists, port: number } => {
            let (cluster, age) = (CLUSTERS[cluster], i64::try_from(cluster).expect("small") * 10 - 5);
            if exists {
                let mut export = export(cluster, NAMES[name], sequence, age);
                export.spec.ports = vec![port("http", number)];
                world.put_broker(export);
            } else {
                let namespace = id(cluster).broker_namespace();
                world.remove(Place::Broker, Kind::Export, &namespace, &key(NAMES[name]).record_name());
            }
        }
        Step::RemoteEndpoints { cluster, name, host } => {
            world.put_broker(endpoints(CLUSTERS[cluster], NAMES[name], sequence, &[host]));
        }
        Step::Member { cluster, grant } => world.put_broker(member(CLUSTERS[cluster], GRANTS[grant])),
        Step::Node { n, exists } => {
            let name = format!("n{n}");
            if exists && world.get(Place::Here, Kind::Node, "", &name).is_none() {
                world.put_here(node(&name));
            } else if !exists {
                world.remove(Place::Here, Kind::Node, "", &name);
            }
        }
    }
}

/// What happens between two steps: one change is delivered, or one action performed, of those that the number picks.
fn stir(world: &mut World, pick: u8) {
    let kinds = Kind::HERE.len() + Kind::BROKER.len() + 4;
    let n = usize::from(pick) % kinds;
    if let Some(kind) = Kind::HERE.get(n) {
        world.deliver(Place::Here, *kind);
    } else if let Some(kind) = Kind::BROKER.get(n.saturating_sub(Kind::HERE.len())) {
        world.deliver(Place::Broker, *kind);
    } else {
        world.act();
    }
}

/// Runs the steps with deliveries and actions strewn in between as the picks say, then to rest.
fn run(steps: &[Step], picks: &[u8], restart_at: Option<usize>) -> World {
    let mut world = World::started();
    for cluster in CLUSTERS {
        world.join(cluster, "all");
    }
    let mut picks = picks.iter().copied().cycle();
    for (index, step) in steps.iter().enumerate() {
        perform(&mut world, step, 100 + index as u64);
        for _ in 0..picks.next().unwrap_or(0) % 12 {
            let pick = picks.next().unwrap_or(0);
            stir(&mut world, pick);
        }
        if restart_at == Some(index) {
            world.restart();
        }
    }
    world.settle();
    for (n, cluster) in (10_000..).zip(CLUSTERS) {
        world.beat(cluster, n);
    }
    world.pass(Duration::from_secs(61));
    for (n, cluster) in (20_000..).zip(CLUSTERS) {
        world.beat(cluster, n);
    }
    world.pass(Duration::from_secs(61));
    world
}

/// What is there apart from which node has which address: nodes are given addresses in the order in which they come.
fn comparable(world: &World) -> Vec<String> {
    world.essence().into_iter().filter(|text| !text.contains("Node(")).collect()
}

/// Both worlds, line by line, where they differ.
fn assert_alike(one: &[String], two: &[String]) -> Result<(), TestCaseError> {
    let only = |a: &[String], b: &[String]| a.iter().filter(|line| !b.contains(line)).cloned().collect::<Vec<_>>().join("\n");
    prop_assert!(one == two, "only in the first:\n{}\nonly in the second:\n{}", only(one, two), only(two, one));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn every_order_ends_alike(
        steps in proptest::collection::vec(step(), 1..30),
        picks in proptest::collection::vec(any::<u8>(), 1..200),
        others in proptest::collection::vec(any::<u8>(), 1..200),
    ) {
        let one = run(&steps, &picks, None);
        let two = run(&steps, &others, None);
        assert_alike(&comparable(&one), &comparable(&two))?;
    }

    #[test]
    fn a_restart_changes_nothing(
        steps in proptest::collection::vec(step(), 1..30),
        picks in proptest::collection::vec(any::<u8>(), 1..200),
        at in 0..30usize,
    ) {
        let one = run(&steps, &picks, None);
        let two = run(&steps, &picks, Some(at));
        assert_alike(&comparable(&one), &comparable(&two))?;
    }

    #[test]
    fn full_sync_is_incremental(
        steps in proptest::collection::vec(step(), 1..30),
        picks in proptest::collection::vec(any::<u8>(), 1..200),
    ) {
        let mut one = run(&steps, &picks, None);
        let before = comparable(&one);
        let actions = one.actions.len();
        one.restart();
        one.pass(Duration::from_secs(30));
        assert_alike(&before, &comparable(&one))?;
        let written: Vec<_> = one.actions[actions..].iter().filter(|a| a.reference.kind != Kind::Heartbeat).collect();
        prop_assert!(written.is_empty(), "a restart writes nothing: {:?}", written);
    }

    #[test]
    fn no_two_nodes_share_an_address(
        steps in proptest::collection::vec((1..8u8, any::<bool>()).prop_map(|(n, exists)| Step::Node { n, exists }), 1..40),
        picks in proptest::collection::vec(any::<u8>(), 1..100),
    ) {
        let world = run(&steps, &picks, None);
        let nodes = world.here.objects.values().filter(|o| o.kind() == Kind::Node);
        let addresses: Vec<String> =
            nodes.map(|o| o.metadata().annotations.clone().and_then(|a| a.get(daisy_api::labels::NODE_ADDRESS).cloned()).expect("one each")).collect();
        let distinct: std::collections::BTreeSet<&String> = addresses.iter().collect();
        prop_assert_eq!(distinct.len(), addresses.len());
    }
}
