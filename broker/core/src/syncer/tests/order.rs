//! Others are sent here only while this cluster's nodes let them in: its nodes follow the `Valid` of a ServiceExport.

use std::time::Duration;

use proptest::prelude::*;

use super::world::*;
use crate::object::{Kind, Object, Place};
use crate::syncer::{Action, Verb};

fn is_valid(world: &World, name: &str) -> bool {
    world.condition(name, "Valid").is_some_and(|(status, ..)| status == "True")
}

fn records(world: &World) -> usize {
    let ours = |o: &&Object| o.namespace() == "daisy-cluster-a" && matches!(o.kind(), Kind::Export | Kind::ExportEndpoints);
    world.broker.objects.values().filter(ours).count()
}

/// Writes that the nodes would have to hear of before.
fn sends_here(action: &Action) -> bool {
    action.place() == Place::Broker
        && matches!(action.reference.kind, Kind::Export | Kind::ExportEndpoints)
        && matches!(action.verb, Verb::Create(_) | Verb::Replace(_))
}

/// Whether it says of an export that it is not valid.
fn closes(action: &Action) -> bool {
    match &action.verb {
        Verb::Status(Object::ServiceExport(export)) => {
            let list = &export.status.as_ref().expect("a status").conditions;
            !daisy_api::conditions::is_true(list, "Valid")
        }
        Verb::Status(_) | Verb::Create(_) | Verb::Replace(_) | Verb::Delete { .. } | Verb::Annotate { .. } => false,
    }
}

#[test]
fn the_broker_hears_of_an_export_after_its_status_is_written() {
    let mut world = World::started();
    world.put_here(service("shop/cart"));
    world.put_here(slice("shop/cart", &[5]));
    world.put_here(service_export("shop/cart"));
    let mut published = 0;
    while {
        let moved = world.stir();
        if world.actions.last().is_some_and(sends_here) {
            assert!(is_valid(&world, "shop/cart"));
            published += 1;
        }
        moved
    } {}
    assert!(published >= 2 && records(&world) == 2);
}

#[test]
fn a_status_that_is_not_acknowledged_holds_the_records_back() {
    let mut world = World::started();
    world.put_here(service("shop/cart"));
    world.put_here(service_export("shop/cart"));
    // Whatever the syncer writes of the status, somebody was faster.
    for _ in 0..20 {
        world.put_here(service_export("shop/cart"));
        let now = world.now();
        while let Some(action) = world.machine.poll_action(now) {
            assert!(!sends_here(&action), "{action:?}");
            let conflict = crate::syncer::Failure { kind: crate::syncer::FailureKind::Conflict, message: String::new() };
            world.machine.handle_action_done(action.id, Err(conflict), now);
        }
    }
    world.pass(Duration::from_secs(60));
    assert_eq!(records(&world), 1, "and then it is written");
}

#[test]
fn the_status_says_invalid_after_the_records_are_gone() {
    let mut world = World::started();
    world.put_here(service("shop/cart"));
    world.put_here(slice("shop/cart", &[5]));
    world.put_here(service_export("shop/cart"));
    world.settle();
    assert_eq!(records(&world), 2);
    let before = world.actions.len();
    world.put_broker(member("a", "none"));
    while world.stir() {
        if world.actions.last().is_some_and(closes) {
            assert_eq!(records(&world), 0);
        }
    }
    assert!(world.actions[before..].iter().any(closes));
    assert!(!is_valid(&world, "shop/cart"));
}

#[test]
fn without_the_broker_the_status_waits_for_nothing() {
    let mut world = World::started();
    world.put_here(service("shop/cart"));
    world.put_here(service_export("shop/cart"));
    world.settle();
    world.disconnect();
    world.remove(Place::Here, Kind::Service, "shop", "cart");
    world.settle();
    assert_eq!(world.condition("shop/cart", "Valid").expect("set").1, "NoService");
    world.connect();
    world.settle();
    assert_eq!(records(&world), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Services, pods and grants come and go, while watches and answers come in any order.
    #[test]
    fn nobody_is_sent_to_a_closed_door(steps in prop::collection::vec((0..5u8, 0..12usize), 1..30)) {
        let mut world = World::started();
        world.put_here(service_export("shop/cart"));
        for (what, stirs) in steps {
            match what {
                0 => world.put_here(service("shop/cart")),
                1 => drop(world.remove(Place::Here, Kind::Service, "shop", "cart")),
                2 => world.put_here(slice("shop/cart", &[5, 6])),
                3 => world.put_broker(member("a", "none")),
                _ => world.put_broker(member("a", "all")),
            }
            for _ in 0..stirs {
                let before = world.actions.len();
                world.stir();
                for action in &world.actions[before..] {
                    prop_assert!(!sends_here(action) || is_valid(&world, "shop/cart"), "{action:?}");
                    prop_assert!(!closes(action) || records(&world) == 0, "{action:?}");
                }
            }
        }
        world.put_here(service("shop/cart"));
        world.put_here(slice("shop/cart", &[5]));
        world.put_broker(member("a", "all"));
        world.pass(Duration::from_secs(120));
        prop_assert_eq!(records(&world), 2);
    }
}
