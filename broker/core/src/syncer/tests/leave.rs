//! A leave.

use std::time::Duration;

use daisy_api::labels::{NODE_ADDRESS, NODE_STATE, SYSTEM_NAMESPACE};

use super::world::*;
use crate::object::{Kind, Object, Place};

fn with_everything() -> World {
    let mut world = World::started();
    world.put_here(namespace("shop", true));
    world.put_here(service("shop/cart"));
    world.put_here(slice("shop/cart", &[5]));
    world.put_here(gateway(&[]));
    world.join("b", "all");
    world.put_broker(export("b", "shop/till", 2, 0));
    world.put_broker(endpoints("b", "shop/till", 3, &[7]));
    world.settle();
    world
}

fn leave(world: &mut World) {
    let Some(Object::Cluster(local)) = world.get(Place::Here, Kind::Cluster, SYSTEM_NAMESPACE, "a").cloned() else {
        panic!("no local Cluster");
    };
    let mut local = *local;
    local.spec.leaving = true;
    world.put_here(local);
}

fn left(world: &World) -> bool {
    let Some(Object::Cluster(local)) = world.get(Place::Here, Kind::Cluster, SYSTEM_NAMESPACE, "a") else { return false };
    local.status.as_ref().is_some_and(|status| daisy_api::conditions::is_true(&status.conditions, "Left"))
}

fn ours(world: &World) -> Vec<String> {
    let ours = |o: &&Object| match o.kind() {
        Kind::Service => o.namespace() == SYSTEM_NAMESPACE,
        Kind::EndpointSlice => o.metadata().labels.as_ref().is_some_and(|l| l.contains_key(daisy_api::labels::IMPORT_NAME)),
        Kind::ServiceImport | Kind::ServiceExport => true,
        Kind::Cluster => o.name() != "a",
        _ => false,
    };
    world.here.objects.values().filter(ours).map(|o| o.reference(Place::Here).to_string()).collect()
}

#[test]
fn everything_goes_and_the_registrar_is_told_last() {
    let mut world = with_everything();
    assert!(!ours(&world).is_empty());
    leave(&mut world);
    world.pass(Duration::from_secs(5));
    assert_eq!(ours(&world), Vec::<String>::new());
    let on_broker = world.broker.objects.values().filter(|o| o.namespace() == "daisy-cluster-a" && o.kind() != Kind::Heartbeat);
    let kinds: Vec<Kind> = on_broker.map(Object::kind).collect();
    assert_eq!(kinds, [Kind::Cluster]);
    let Some(Object::Cluster(told)) = world.get(Place::Broker, Kind::Cluster, "daisy-cluster-a", "a") else {
        panic!("no record")
    };
    assert!(told.spec.leaving);
    assert!(left(&world) && world.machine.left());
    // The registrar removes what is its to remove; nothing is written again.
    let before = world.actions.len();
    world.remove(Place::Broker, Kind::Cluster, "daisy-cluster-a", "a");
    world.remove(Place::Broker, Kind::Member, "daisy-broker", "a");
    world.pass(Duration::from_secs(300));
    let written: Vec<_> = world.actions[before..].iter().filter(|a| a.reference.kind != Kind::Cluster).collect();
    assert!(written.is_empty(), "{written:?}");
}

#[test]
fn a_leave_does_not_wait_for_a_broker_that_is_away() {
    let mut world = with_everything();
    world.disconnect();
    leave(&mut world);
    world.pass(Duration::from_secs(5));
    assert!(!left(&world));
    world.pass(Duration::from_secs(6));
    assert!(left(&world));
    assert_eq!(ours(&world), Vec::<String>::new());
}

#[test]
fn a_nodes_address_goes_once_the_node_is_clean() {
    let mut world = with_everything();
    leave(&mut world);
    world.pass(Duration::from_secs(5));
    let annotations = |world: &World| {
        let node = world.get(Place::Here, Kind::Node, "", "n1").expect("the node");
        node.metadata().annotations.clone().unwrap_or_default()
    };
    assert!(annotations(&world).contains_key(NODE_ADDRESS));
    let mut clean = node("n1");
    clean.metadata.annotations = Some(annotations(&world));
    clean.metadata.annotations.get_or_insert_default().insert(NODE_STATE.to_owned(), "clean".to_owned());
    world.put_here(clean);
    world.settle();
    assert!(!annotations(&world).contains_key(NODE_ADDRESS));
}
