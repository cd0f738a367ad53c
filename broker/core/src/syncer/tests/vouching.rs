//! What a broker that is away, wiped or restored does to what is known: nothing, by itself.

use daisy_api::labels::{CLUSTER_IPS, SYSTEM_NAMESPACE};

use super::world::*;
use super::{MINUTE, with_import};
use crate::object::{Kind, Object, Place};
use crate::syncer::Note;

#[test]
fn a_wiped_broker_withdraws_nothing() {
    let mut world = with_import();
    world.disconnect();
    world.broker.objects.clear();
    world.connect();
    world.pass(MINUTE);
    assert_eq!(world.addresses("shop/cart"), ["10.2.0.7"]);
    assert!(world.get(Place::Here, Kind::Cluster, SYSTEM_NAMESPACE, "b").is_some());
    assert!(world.notes.iter().any(|note| matches!(note, Note::Absent { .. })));
}

#[test]
fn a_wiped_broker_and_a_restart_withdraw_nothing() {
    let mut world = with_import();
    world.disconnect();
    world.broker.objects.clear();
    world.restart();
    world.connect();
    world.pass(MINUTE);
    assert_eq!(world.addresses("shop/cart"), ["10.2.0.7"]);
    assert!(world.get(Place::Here, Kind::ServiceImport, "shop", "cart").is_some());
}

#[test]
fn a_restart_without_the_broker_keeps_everything_and_follows_the_own_pods() {
    let mut world = with_import();
    world.put_here(service("shop/cart"));
    world.put_here(slice("shop/cart", &[5]));
    world.put_here(service_export("shop/cart"));
    world.settle();
    assert_eq!(world.addresses("shop/cart"), ["10.1.0.5", "10.2.0.7"]);
    let ip = world.import_service("shop/cart").and_then(|s| s.spec?.cluster_ip);
    let by_cluster =
        |world: &World| world.import_service("shop/cart").and_then(|s| s.metadata.annotations?.get(CLUSTER_IPS).cloned());
    let ips = by_cluster(&world).unwrap_or_default();
    assert!(ips.starts_with("a=10.101.") && ips.ends_with(",b=10.102.0.9"), "{ips}");
    world.disconnect();
    world.restart();
    world.settle();
    assert_eq!(world.addresses("shop/cart"), ["10.1.0.5", "10.2.0.7"]);
    assert_eq!(by_cluster(&world).as_deref(), Some(&*ips));
    world.put_here(slice("shop/cart", &[6]));
    world.settle();
    assert_eq!(world.addresses("shop/cart"), ["10.1.0.6", "10.2.0.7"]);
    assert_eq!(world.import_service("shop/cart").and_then(|s| s.spec?.cluster_ip), ip);
}

#[test]
fn what_was_withdrawn_while_nobody_listened_goes_by_the_next_heartbeat() {
    let mut world = with_import();
    world.disconnect();
    world.remove(Place::Broker, Kind::Export, "daisy-cluster-b", "cart.shop");
    world.remove(Place::Broker, Kind::ExportEndpoints, "daisy-cluster-b", "cart.shop.abc");
    world.connect();
    world.settle();
    assert_eq!(world.addresses("shop/cart"), ["10.2.0.7"], "absent is not deleted");
    world.beat("b", 10);
    world.settle();
    assert!(world.import_service("shop/cart").is_none());
    assert!(world.notes.iter().any(|note| matches!(note, Note::Withdrawn { .. })));
}

#[test]
fn the_same_over_a_restart_takes_a_heartbeat_that_is_newer_than_the_records() {
    let mut world = with_import();
    world.put_broker(export("b", "shop/cart", 9, 0));
    world.put_broker(endpoints("b", "shop/cart", 10, &[7]));
    world.settle();
    world.disconnect();
    world.remove(Place::Broker, Kind::Export, "daisy-cluster-b", "cart.shop");
    world.remove(Place::Broker, Kind::ExportEndpoints, "daisy-cluster-b", "cart.shop.abc");
    world.beat("b", 8);
    world.restart();
    world.connect();
    world.settle();
    assert_eq!(world.addresses("shop/cart"), ["10.2.0.7"], "this heartbeat may be as old as the copy");
    world.beat("b", 11);
    world.settle();
    assert!(world.import_service("shop/cart").is_none());
}

#[test]
fn an_old_copy_of_the_broker_changes_nothing() {
    let mut world = World::started();
    world.join("b", "all");
    world.beat("b", 2);
    world.settle();
    let old = world.broker.objects.clone();
    world.put_broker(export("b", "shop/cart", 3, 0));
    world.put_broker(endpoints("b", "shop/cart", 4, &[7]));
    world.beat("b", 5);
    world.settle();
    assert_eq!(world.addresses("shop/cart"), ["10.2.0.7"]);
    world.disconnect();
    // The copy has the heartbeat of its time, whose digest agrees with what it has.
    world.broker.objects = old;
    world.connect();
    world.pass(MINUTE);
    assert_eq!(world.addresses("shop/cart"), ["10.2.0.7"]);
    // The cluster writes its records anew, and goes on.
    world.put_broker(export("b", "shop/cart", 6, 0));
    world.put_broker(endpoints("b", "shop/cart", 7, &[8]));
    world.beat("b", 8);
    world.settle();
    assert_eq!(world.addresses("shop/cart"), ["10.2.0.8"]);
}

#[test]
fn a_record_older_than_what_is_known_is_not_taken() {
    let mut world = with_import();
    world.put_broker(endpoints("b", "shop/cart", 10, &[8]));
    world.settle();
    world.disconnect();
    world.put_broker(endpoints("b", "shop/cart", 3, &[7]));
    world.connect();
    world.settle();
    assert_eq!(world.addresses("shop/cart"), ["10.2.0.8"]);
}

#[test]
fn our_own_records_are_written_anew_on_a_broker_that_lost_them() {
    let mut world = World::started();
    world.put_here(service("shop/cart"));
    world.put_here(slice("shop/cart", &[5]));
    world.put_here(service_export("shop/cart"));
    world.settle();
    let sequence = |world: &World| match world.get(Place::Broker, Kind::Export, "daisy-cluster-a", "cart.shop") {
        Some(Object::Export(export)) => export.spec.envelope.sequence,
        _ => 0,
    };
    let old = world.broker.objects.clone();
    let first = sequence(&world);
    // It changes and changes back; then the broker is restored: the same contents, an earlier sequence.
    let mut changed = service("shop/cart");
    changed.spec.get_or_insert_default().session_affinity = Some("ClientIP".to_owned());
    world.put_here(changed);
    world.settle();
    world.put_here(service("shop/cart"));
    world.settle();
    let second = sequence(&world);
    assert!(second > first);
    world.disconnect();
    world.broker.objects = old;
    world.connect();
    world.settle();
    assert!(sequence(&world) > second, "readers hold on to {second}");
    world.disconnect();
    world.broker.objects.retain(|reference, _| reference.kind == Kind::Member);
    world.connect();
    world.settle();
    assert!(sequence(&world) > second);
}

#[test]
fn a_dead_cluster_loses_its_endpoints_and_comes_back() {
    let mut world = with_import();
    world.put_here(gateway(&[]));
    world.pass(MINUTE * 2);
    assert_eq!(world.addresses("shop/cart"), ["10.2.0.7"]);
    world.pass(MINUTE * 2);
    assert!(world.addresses("shop/cart").is_empty());
    assert!(world.import_service("shop/cart").is_some(), "the name and its address stay");
    world.beat("b", 20);
    world.settle();
    assert_eq!(world.addresses("shop/cart"), ["10.2.0.7"]);
}

#[test]
fn a_removed_member_goes_at_once() {
    let mut world = with_import();
    world.remove(Place::Broker, Kind::Member, "daisy-broker", "b");
    world.settle();
    assert!(world.import_service("shop/cart").is_none());
    assert!(world.get(Place::Here, Kind::Cluster, SYSTEM_NAMESPACE, "b").is_none());
    // And back: the broker has shown its records all along.
    world.put_broker(member("b", "all"));
    world.settle();
    assert_eq!(world.addresses("shop/cart"), ["10.2.0.7"]);
}

#[test]
fn a_member_removed_while_nobody_listened_goes_once_it_is_silent() {
    let mut world = with_import();
    world.disconnect();
    world.broker.objects.retain(|reference, _| reference.namespace != "daisy-cluster-b" && reference.name != "b");
    world.connect();
    world.settle();
    assert_eq!(world.addresses("shop/cart"), ["10.2.0.7"]);
    world.pass(MINUTE * 5);
    assert!(world.import_service("shop/cart").is_none());
    assert!(world.get(Place::Here, Kind::Cluster, SYSTEM_NAMESPACE, "b").is_none());
}

#[test]
fn a_cluster_made_anew_counts_from_the_beginning() {
    let mut world = with_import();
    let mut anew = member("b", "all");
    anew.spec.cluster_uid = "another".to_owned();
    world.put_broker(anew);
    world.put_broker(endpoints("b", "shop/cart", 1, &[9]));
    world.settle();
    assert_eq!(world.addresses("shop/cart"), ["10.2.0.9"]);
}

#[test]
fn heartbeats_come_once_an_interval_and_agree() {
    let mut world = World::started();
    world.put_here(service("shop/cart"));
    world.put_here(slice("shop/cart", &[5]));
    world.put_here(service_export("shop/cart"));
    world.pass(MINUTE * 10);
    let count = world.actions.iter().filter(|a| a.reference.kind == Kind::Heartbeat).count();
    assert!((10..=11).contains(&count), "{count}");
    let Some(Object::Heartbeat(ours)) = world.get(Place::Broker, Kind::Heartbeat, "daisy-cluster-a", "a").cloned() else {
        panic!("no heartbeat");
    };
    assert_eq!(ours.spec.records, 2);
    world.beat("a", 0);
    let Some(Object::Heartbeat(seen)) = world.get(Place::Broker, Kind::Heartbeat, "daisy-cluster-a", "a") else {
        panic!("no heartbeat");
    };
    assert_eq!(ours.spec.digest, seen.spec.digest, "as readers compute it");
}

#[test]
fn an_old_copy_brings_nothing_back() {
    for restart in [false, true] {
        let mut world = with_import();
        let old = world.broker.objects.clone();
        world.remove(Place::Broker, Kind::Export, "daisy-cluster-b", "cart.shop");
        world.remove(Place::Broker, Kind::ExportEndpoints, "daisy-cluster-b", "cart.shop.abc");
        world.settle();
        assert!(world.import_service("shop/cart").is_none());
        world.beat("b", 10);
        world.settle();
        world.disconnect();
        world.broker.objects = old;
        if restart {
            world.restart();
        }
        world.connect();
        world.settle();
        assert!(world.import_service("shop/cart").is_none(), "it was withdrawn");
        world.put_broker(export("b", "shop/cart", 20, 0));
        world.settle();
        assert!(world.import_service("shop/cart").is_some(), "it is exported anew");
    }
}

#[test]
fn an_old_copy_and_a_restart_bring_no_older_endpoints() {
    let mut world = with_import();
    let old = world.broker.objects.clone();
    world.put_broker(endpoints("b", "shop/cart", 5, &[8]));
    world.settle();
    world.disconnect();
    world.broker.objects = old;
    world.restart();
    world.connect();
    world.settle();
    assert_eq!(world.addresses("shop/cart"), ["10.2.0.8"]);
    // Its cluster has started anew as well, and has pod 7 again: the record is as it is to be, and it vouches for it.
    world.beat("b", 9);
    world.settle();
    assert_eq!(world.addresses("shop/cart"), ["10.2.0.7"]);
}

#[test]
fn a_silent_cluster_that_a_later_list_lacks_is_no_member_any_more() {
    let mut world = with_import();
    world.pass(MINUTE * 10);
    assert!(world.addresses("shop/cart").is_empty(), "it is silent");
    let there = |world: &World| world.get(Place::Here, Kind::Cluster, SYSTEM_NAMESPACE, "b").is_some();
    assert!(there(&world));
    world.broker.objects.retain(|reference, _| reference.kind != Kind::Member || reference.name != "b");
    world.broker.relist(Kind::Member);
    world.settle();
    assert!(!there(&world));
}

#[test]
fn what_another_cluster_had_under_its_id_goes_with_it() {
    for restart in [false, true] {
        let mut world = with_import();
        world.disconnect();
        world.broker.objects.clear();
        if restart {
            world.restart();
        }
        world.connect();
        world.settle();
        assert_eq!(world.addresses("shop/cart"), ["10.2.0.7"], "absent is not deleted");
        let mut anew = member("b", "all");
        anew.spec.cluster_uid = "made-anew".to_owned();
        world.put_broker(anew);
        world.settle();
        assert!(world.import_service("shop/cart").is_none());
    }
}

#[test]
fn a_restart_does_not_import_what_had_lost_a_conflict() {
    let mut world = with_import();
    world.join("c", "all");
    let mut other = export("c", "shop/cart", 2, 1);
    other.spec.ports = vec![port("http", 81)];
    world.put_broker(other.clone());
    world.put_broker(endpoints("c", "shop/cart", 3, &[7]));
    world.settle();
    assert_eq!(world.addresses("shop/cart"), ["10.2.0.7"], "b's port is the older one");
    world.disconnect();
    world.broker.objects.retain(|reference, _| reference.kind == Kind::Member);
    world.restart();
    world.connect();
    world.settle();
    // Both write their records anew, and the endpoints are heard of first.
    world.put_broker(endpoints("b", "shop/cart", 12, &[8]));
    world.put_broker(endpoints("c", "shop/cart", 13, &[8]));
    world.settle();
    assert_eq!(world.addresses("shop/cart"), ["10.2.0.8"]);
    other.spec.envelope.sequence = 12;
    world.put_broker(other);
    world.settle();
    assert_eq!(world.addresses("shop/cart"), ["10.2.0.8"]);
}

#[test]
fn an_old_copy_of_a_member_changes_no_grant_for_a_while() {
    let mut world = World::started();
    world.put_broker(member("b", "none"));
    world.put_broker(cluster("b", 1));
    world.settle();
    let old = world.broker.objects.clone();
    world.put_broker(member("b", "all"));
    world.put_broker(export("b", "shop/cart", 2, 0));
    world.put_broker(endpoints("b", "shop/cart", 3, &[7]));
    world.settle();
    assert_eq!(world.addresses("shop/cart"), ["10.2.0.7"]);
    world.disconnect();
    world.broker.objects.extend(old);
    world.restart();
    world.connect();
    world.pass(MINUTE);
    assert_eq!(world.addresses("shop/cart"), ["10.2.0.7"]);
    assert!(world.notes.iter().any(|note| matches!(note, Note::BrokerOlder { .. })));
    // Nobody sets it right: then it is so.
    world.pass(MINUTE * 3);
    assert!(world.import_service("shop/cart").is_none());
    world.put_broker(member("b", "all"));
    world.settle();
    assert!(world.import_service("shop/cart").is_some());
}

#[test]
fn a_sequence_beyond_belief_is_dropped() {
    let mut world = with_import();
    world.put_broker(endpoints("b", "shop/cart", u64::MAX / 2, &[9]));
    world.settle();
    assert_eq!(world.addresses("shop/cart"), ["10.2.0.7"]);
    world.put_broker(endpoints("b", "shop/cart", 10, &[8]));
    world.settle();
    assert_eq!(world.addresses("shop/cart"), ["10.2.0.8"]);
}
