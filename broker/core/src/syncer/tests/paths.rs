//! What paths through the tunnels, as the gateways see them, do to what is imported.

use std::time::Duration;

use daisy_api::ConnectionStatus;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::world::*;
use super::{MINUTE, with_import};
use crate::object::{Kind, Place};
use crate::syncer::{Action, Note};

/// What this cluster's gateway says of the way to b.
fn gateway_says(world: &mut World, status: ConnectionStatus) {
    world.put_here(gateway(&[("b", status)]));
}

/// What was done to EndpointSlices since there were so many actions.
fn slices_written(world: &World, before: usize) -> Vec<&Action> {
    world.actions[before..].iter().filter(|action| action.reference.kind == Kind::EndpointSlice).collect()
}

#[test]
fn a_cluster_that_answers_probes_lives() {
    let mut world = with_import();
    gateway_says(&mut world, ConnectionStatus::Connected);
    world.pass(MINUTE * 60);
    assert_eq!(world.addresses("shop/cart"), ["10.2.0.7"]);
    gateway_says(&mut world, ConnectionStatus::Error);
    world.pass(MINUTE);
    assert!(world.addresses("shop/cart").is_empty());
    gateway_says(&mut world, ConnectionStatus::Connected);
    world.settle();
    assert_eq!(world.addresses("shop/cart"), ["10.2.0.7"]);
}

#[test]
fn a_path_that_breaks_takes_its_endpoints_with_it_whatever_the_broker_says() {
    let second = Duration::from_secs(1);
    let mut world = with_import();
    gateway_says(&mut world, ConnectionStatus::Connected);
    world.settle();
    gateway_says(&mut world, ConnectionStatus::Error);
    world.pass(second * 9);
    assert_eq!(world.addresses("shop/cart"), ["10.2.0.7"], "its gateway may be starting anew");
    world.pass(second * 2);
    assert!(world.addresses("shop/cart").is_empty());
    assert!(world.import_service("shop/cart").is_some(), "the name and its address stay");
    // It says that it lives, and a gateway that starts anew does not know that the path broke: nothing has arrived for all that.
    world.beat("b", 20);
    gateway_says(&mut world, ConnectionStatus::Connecting);
    world.pass(MINUTE);
    assert!(world.addresses("shop/cart").is_empty());
    gateway_says(&mut world, ConnectionStatus::Connected);
    world.settle();
    assert_eq!(world.addresses("shop/cart"), ["10.2.0.7"]);
}

#[test]
fn what_a_gateway_said_last_whose_node_is_gone_counts_no_more() {
    let mut world = with_import();
    gateway_says(&mut world, ConnectionStatus::Connected);
    world.disconnect();
    world.pass(MINUTE);
    assert_eq!(world.addresses("shop/cart"), ["10.2.0.7"]);
    // Another gateway tries and fails; the first one's object is still there, and says that it is connected.
    let mut second = gateway(&[("b", ConnectionStatus::Error)]);
    second.metadata.name = Some("n2".to_owned());
    world.put_here(node("n2"));
    world.put_here(second);
    world.pass(MINUTE);
    assert_eq!(world.addresses("shop/cart"), ["10.2.0.7"]);
    world.remove(Place::Here, Kind::Node, "", "n1");
    world.pass(MINUTE);
    assert!(world.addresses("shop/cart").is_empty());
    // The node is there again, and what its gateway says counts again.
    world.put_here(node("n1"));
    world.pass(MINUTE);
    assert_eq!(world.addresses("shop/cart"), ["10.2.0.7"]);
}

#[test]
fn a_path_that_comes_back_in_time_loses_nothing() {
    let mut world = with_import();
    gateway_says(&mut world, ConnectionStatus::Connected);
    world.settle();
    for status in [ConnectionStatus::Error, ConnectionStatus::Connecting, ConnectionStatus::Connected] {
        gateway_says(&mut world, status);
        world.pass(Duration::from_secs(4));
    }
    let before = world.actions.len();
    world.pass(MINUTE * 10);
    assert_eq!(slices_written(&world, before), [] as [&Action; 0]);
    assert_eq!(world.addresses("shop/cart"), ["10.2.0.7"]);
}

#[test]
fn a_path_that_never_comes_up_offers_no_endpoints() {
    let second = Duration::from_secs(1);
    let mut world = with_import();
    gateway_says(&mut world, ConnectionStatus::Connecting);
    world.pass(second * 29);
    assert_eq!(world.addresses("shop/cart"), ["10.2.0.7"], "it may come up");
    world.pass(second * 2);
    assert!(world.addresses("shop/cart").is_empty());
    assert!(world.import_service("shop/cart").is_some(), "the name and its address stay");
    assert!(world.notes.contains(&Note::Unreachable { cluster: id("b") }));
    gateway_says(&mut world, ConnectionStatus::Connected);
    world.settle();
    assert_eq!(world.addresses("shop/cart"), ["10.2.0.7"]);
}

#[test]
fn a_syncer_that_starts_anew_believes_its_gateways_about_a_path() {
    for status in [ConnectionStatus::Connecting, ConnectionStatus::Error] {
        let mut world = with_import();
        let mut object = gateway(&[("b", status)]);
        let connection = object.status.as_mut().map(|status| &mut status.connections[0]).expect("a connection");
        connection.since = Some(Time(world.now().wall));
        world.put_here(object);
        world.pass(MINUTE);
        assert!(world.addresses("shop/cart").is_empty());
        let before = world.actions.len();
        world.restart();
        world.pass(MINUTE);
        assert!(world.addresses("shop/cart").is_empty());
        assert_eq!(slices_written(&world, before), [] as [&Action; 0]);
    }
}

/// A laptop is closed for a night: its processes stand still, and by their clocks all that they wait for is over at once.
#[test]
fn who_slept_for_hours_withdraws_nothing_on_waking() {
    for hours in [1, 8, 60] {
        let mut world = with_import();
        gateway_says(&mut world, ConnectionStatus::Connected);
        world.settle();
        let before = world.actions.len();
        world.time += MINUTE * 60 * hours;
        // Every timer first, then the gateway, which has no answer younger than the night, then the broker, whose watch is dead.
        world.pass(Duration::ZERO);
        gateway_says(&mut world, ConnectionStatus::Error);
        world.pass(Duration::from_secs(2));
        world.disconnect();
        world.pass(Duration::from_secs(1));
        gateway_says(&mut world, ConnectionStatus::Connected);
        world.connect();
        world.beat("b", 20);
        world.pass(MINUTE * 10);
        assert_eq!(slices_written(&world, before), [] as [&Action; 0], "{hours} h");
        assert_eq!(world.addresses("shop/cart"), ["10.2.0.7"]);
    }
}

#[test]
fn while_the_broker_is_away_only_probes_that_fail_count() {
    let mut world = with_import();
    world.disconnect();
    world.pass(MINUTE * 60);
    assert_eq!(world.addresses("shop/cart"), ["10.2.0.7"], "nobody has tried");
    gateway_says(&mut world, ConnectionStatus::Connected);
    world.pass(MINUTE);
    gateway_says(&mut world, ConnectionStatus::Error);
    world.pass(MINUTE);
    assert!(world.addresses("shop/cart").is_empty());
    world.connect();
    world.pass(MINUTE);
    assert!(world.addresses("shop/cart").is_empty(), "it comes back by a sign of life alone");
}
