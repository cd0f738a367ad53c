//! What a user does, and what comes of it.

use std::time::Duration;

use daisy_api::labels::{
    EXPORT_EXCLUDE, IMPORT_NAME, IMPORT_NAMESPACE, MANAGED_BY, MCS_SERVICE_NAME, MCS_SOURCE_CLUSTER, NODE_ADDRESS,
    SLICE_MANAGED_BY, SLICE_SERVICE_NAME, SYSTEM_NAMESPACE,
};
use daisy_api::{ExportType, IpFamily};

use super::world::*;
use crate::object::{Change, Kind, Object, Place};
use crate::syncer::{Note, Verb};

fn record(world: &World, cluster: &str, name: &str) -> Option<daisy_api::ExportSpec> {
    match world.get(Place::Broker, Kind::Export, &id(cluster).broker_namespace(), name) {
        Some(Object::Export(export)) => Some(export.spec.clone()),
        _ => None,
    }
}

#[test]
fn an_export_reaches_the_broker_and_the_own_import() {
    let mut world = World::started();
    world.put_here(namespace("shop", false));
    world.put_here(service("shop/cart"));
    world.put_here(slice("shop/cart", &[5, 6]));
    world.put_here(service_export("shop/cart"));
    world.settle();
    let spec = record(&world, "a", "cart.shop").expect("the record");
    assert_eq!(spec.ports, [port("http", 80)]);
    assert!(spec.envelope.sequence > 0);
    assert_eq!(world.condition("shop/cart", "Valid").expect("set").1, "Valid");
    assert_eq!(world.condition("shop/cart", "Ready").expect("set").1, "Exported");
    assert_eq!(world.condition("shop/cart", "Conflict").expect("set").1, "NoConflicts");
    assert_eq!(world.addresses("shop/cart"), ["10.1.0.5", "10.1.0.6"]);
    let Some(Object::ServiceImport(import)) = world.get(Place::Here, Kind::ServiceImport, "shop", "cart") else {
        panic!("there is no ServiceImport");
    };
    let ip = world.import_service("shop/cart").and_then(|s| s.spec?.cluster_ip).expect("a ClusterIP");
    assert_eq!(import.spec.ips, [ip.parse::<std::net::IpAddr>().expect("an address")]);
    assert_eq!(import.status.as_ref().map(|s| s.clusters.len()), Some(1));
}

#[test]
fn an_export_without_a_service_says_so_and_one_whose_service_goes_is_withdrawn() {
    let mut world = World::started();
    world.put_here(service_export("shop/cart"));
    world.settle();
    assert_eq!(world.condition("shop/cart", "Valid").expect("set").1, "NoService");
    world.put_here(service("shop/cart"));
    world.settle();
    assert!(record(&world, "a", "cart.shop").is_some());
    world.remove(Place::Here, Kind::Service, "shop", "cart");
    world.settle();
    assert_eq!(record(&world, "a", "cart.shop"), None);
    let (status, reason, _) = world.condition("shop/cart", "Valid").expect("set");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "NoService"));
    assert!(world.condition("shop/cart", "Conflict").is_none());
    assert!(world.import_service("shop/cart").is_none());
}

#[test]
fn an_external_name_is_no_export() {
    let mut world = World::started();
    let mut service = service("shop/cart");
    service.spec.get_or_insert_default().type_ = Some("ExternalName".to_owned());
    world.put_here(service);
    world.put_here(service_export("shop/cart"));
    world.settle();
    assert_eq!(world.condition("shop/cart", "Valid").expect("set").1, "InvalidServiceType");
    assert_eq!(record(&world, "a", "cart.shop"), None);
}

#[test]
fn what_the_grant_does_not_allow_is_refused_on_the_service_export() {
    let mut world = World::started();
    world.put_broker(member("a", "web-*"));
    world.put_here(service("shop/cart"));
    world.put_here(service_export("shop/cart"));
    world.settle();
    let (status, reason, message) = world.condition("shop/cart", "Valid").expect("set");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "NamespaceNotGranted"));
    assert!(message.ends_with("daisy grant a 'web-*,shop'"), "{message}");
    assert_eq!(record(&world, "a", "cart.shop"), None);
    world.put_broker(member("a", "web-*,shop"));
    world.settle();
    assert!(record(&world, "a", "cart.shop").is_some());
}

#[test]
fn a_remote_export_becomes_an_import_with_every_label() {
    let mut world = World::started();
    world.join("b", "all");
    world.put_broker(export("b", "shop/cart", 2, 0));
    world.put_broker(endpoints("b", "shop/cart", 3, &[7]));
    world.settle();
    assert_eq!(world.addresses("shop/cart"), ["10.2.0.7"]);
    let service = world.import_service("shop/cart").expect("the Service");
    let labels = service.metadata.labels.clone().expect("labels");
    assert_eq!(labels.keys().map(String::as_str).collect::<Vec<_>>(), [MANAGED_BY, IMPORT_NAME, IMPORT_NAMESPACE]);
    assert!(service.spec.as_ref().is_some_and(|s| s.selector.is_none()));
    let slices: Vec<_> = world.here.objects.values().filter(|o| o.kind() == Kind::EndpointSlice).collect();
    assert_eq!(slices.len(), 1, "the namespace does not exist here");
    let Object::EndpointSlice(slice) = slices[0] else { panic!("a slice") };
    let labels = slice.metadata.labels.clone().expect("labels");
    let mut expected = vec![SLICE_SERVICE_NAME, SLICE_MANAGED_BY, MCS_SOURCE_CLUSTER, IMPORT_NAMESPACE, IMPORT_NAME];
    expected.sort_unstable();
    assert_eq!(labels.keys().map(String::as_str).collect::<Vec<_>>(), expected);
    assert!(slice.endpoints.iter().all(|e| e.node_name.is_none() && e.target_ref.is_none()));
    // Then the namespace comes, and with it the MCS objects.
    world.put_here(namespace("shop", false));
    world.settle();
    assert!(world.get(Place::Here, Kind::ServiceImport, "shop", "cart").is_some());
    let copies = world.here.objects.values().filter(|o| o.kind() == Kind::EndpointSlice && o.namespace() == "shop");
    let labels: Vec<_> = copies.filter_map(|o| o.metadata().labels.clone()).collect();
    assert_eq!(labels.len(), 1);
    assert!(labels[0].contains_key(MCS_SERVICE_NAME) && !labels[0].contains_key(SLICE_SERVICE_NAME));
    // And goes again.
    world.remove(Place::Here, Kind::Namespace, "", "shop");
    world.settle();
    assert!(world.get(Place::Here, Kind::ServiceImport, "shop", "cart").is_none());
    assert_eq!(world.addresses("shop/cart"), ["10.2.0.7"]);
}

#[test]
fn the_last_unexport_removes_the_import() {
    let mut world = World::started();
    world.put_here(namespace("shop", false));
    for (cluster, host) in [("b", 7), ("c", 8)] {
        world.join(cluster, "all");
        world.put_broker(export(cluster, "shop/cart", 2, 0));
        world.put_broker(endpoints(cluster, "shop/cart", 3, &[host]));
    }
    world.settle();
    assert_eq!(world.addresses("shop/cart"), ["10.2.0.7", "10.3.0.8"]);
    world.remove(Place::Broker, Kind::Export, "daisy-cluster-b", "cart.shop");
    world.settle();
    assert_eq!(world.addresses("shop/cart"), ["10.3.0.8"]);
    world.remove(Place::Broker, Kind::Export, "daisy-cluster-c", "cart.shop");
    world.settle();
    assert!(world.import_service("shop/cart").is_none());
    assert!(world.addresses("shop/cart").is_empty());
    assert!(world.get(Place::Here, Kind::ServiceImport, "shop", "cart").is_none());
}

#[test]
fn a_lying_cluster_is_dropped_and_named() {
    let mut world = World::started();
    world.join("b", "web");
    world.put_broker(export("b", "shop/cart", 2, 0));
    let mut stolen = endpoints("b", "web/front", 3, &[7]);
    stolen.spec.endpoints.extend(endpoints("c", "web/front", 3, &[9]).spec.endpoints);
    world.put_broker(export("b", "web/front", 4, 0));
    world.put_broker(stolen);
    let mut wrong = cluster("b", 9);
    wrong.spec.cluster_cidrs = vec!["10.99.0.0/16".parse().expect("a CIDR")];
    world.put_broker(wrong);
    world.settle();
    assert!(world.import_service("shop/cart").is_none(), "outside its grant");
    assert_eq!(world.addresses("web/front"), ["10.2.0.7"], "the address of another cluster is left out");
    let Some(Object::Cluster(mirror)) = world.get(Place::Here, Kind::Cluster, SYSTEM_NAMESPACE, "b") else {
        panic!("the member is there, as its Member has it");
    };
    assert_eq!(mirror.spec.cluster_cidrs, member("b", "all").spec.cluster_cidrs);
    assert!(mirror.spec.gateways.is_empty());
    let dropped = world.notes.iter().filter(|note| matches!(note, Note::Dropped { .. })).count();
    assert_eq!(dropped, 3, "{:?}", world.notes);
}

#[test]
fn the_key_of_anothers_gateway_is_not_taken() {
    let mut world = World::started();
    world.join("b", "all");
    world.settle();
    world.put_broker(member("c", "all"));
    let mut thief = cluster("c", 1);
    thief.spec.gateways[0].public_key = cluster("b", 1).spec.gateways[0].public_key;
    world.put_broker(thief);
    world.settle();
    let gateways = |world: &World, name: &str| match world.get(Place::Here, Kind::Cluster, SYSTEM_NAMESPACE, name) {
        Some(Object::Cluster(cluster)) => cluster.spec.gateways.len(),
        _ => panic!("no Cluster {name}"),
    };
    assert_eq!((gateways(&world, "b"), gateways(&world, "c")), (1, 0));
}

#[test]
fn a_conflict_is_said_on_the_own_export_and_ends_with_its_cause() {
    let mut world = World::started();
    world.put_here(service("shop/cart"));
    world.put_here(service_export("shop/cart"));
    world.join("b", "all");
    let mut other = export("b", "shop/cart", 2, -1000);
    other.spec.ports = vec![port("http", 81)];
    other.spec.type_ = ExportType::Headless;
    world.put_broker(other);
    world.settle();
    let (status, reason, message) = world.condition("shop/cart", "Conflict").expect("set");
    assert_eq!((status.as_str(), reason.as_str()), ("True", "PortConflict,TypeConflict"), "{message}");
    assert!(message.contains("older b"), "{message}");
    let service = world.import_service("shop/cart").and_then(|s| s.spec).expect("the Service");
    assert_eq!(service.cluster_ip.as_deref(), Some("None"), "the oldest is followed");
    world.remove(Place::Broker, Kind::Export, "daisy-cluster-b", "cart.shop");
    world.settle();
    assert_eq!(world.condition("shop/cart", "Conflict").expect("set").1, "NoConflicts");
    let service = world.import_service("shop/cart").and_then(|s| s.spec).expect("the Service");
    assert_ne!(service.cluster_ip.as_deref(), Some("None"));
}

#[test]
fn a_namespace_is_exported_whole_and_withdrawn_whole() {
    let mut world = World::started();
    world.put_here(namespace("shop", true));
    world.put_here(service("shop/cart"));
    world.put_here(service("shop/till"));
    let mut kept_out = service("shop/secret");
    kept_out.metadata.annotations = Some([(EXPORT_EXCLUDE.to_owned(), "false".to_owned())].into());
    world.put_here(kept_out);
    world.put_here(service_export("shop/till"));
    world.put_here(namespace("default", true));
    world.put_here(service("default/kubernetes"));
    world.settle();
    let names = |world: &World| {
        let exports = world.here.objects.values().filter(|o| o.kind() == Kind::ServiceExport);
        exports.map(|o| o.name().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&world), ["cart", "till"]);
    world.put_here(service("shop/later"));
    world.settle();
    assert_eq!(names(&world), ["cart", "later", "till"]);
    assert!(record(&world, "a", "later.shop").is_some());
    world.put_here(namespace("shop", false));
    world.settle();
    assert_eq!(names(&world), ["till"], "what the user made stays");
    assert!(record(&world, "a", "later.shop").is_none());
}

#[test]
fn imports_and_daisys_own_services_are_never_exported() {
    let mut world = World::started();
    world.join("b", "all");
    world.put_broker(export("b", "shop/cart", 2, 0));
    world.put_here(namespace(SYSTEM_NAMESPACE, true));
    world.settle();
    assert!(world.import_service("shop/cart").is_some());
    assert!(!world.here.objects.values().any(|o| o.kind() == Kind::ServiceExport));
}

#[test]
fn nodes_get_addresses_and_keep_them() {
    let mut world = World::started();
    world.put_here(node("n2"));
    world.settle();
    let address = |world: &World, name: &str| {
        let node = world.get(Place::Here, Kind::Node, "", name).expect("the node");
        node.metadata().annotations.clone().and_then(|a| a.get(NODE_ADDRESS).cloned())
    };
    let first = address(&world, "n1").expect("an address");
    let second = address(&world, "n2").expect("an address");
    assert_ne!(first, second);
    assert!(first != "100.80.1.0" && second != "100.80.1.0");
    world.remove(Place::Here, Kind::Node, "", "n1");
    world.put_here(node("n3"));
    world.settle();
    assert_eq!(address(&world, "n3"), Some(first), "what is free is given out again");
    assert_eq!(address(&world, "n2"), Some(second));
}

#[test]
fn the_own_cluster_is_on_the_broker_and_here_with_its_gateways_and_what_it_consumes() {
    let mut world = World::started();
    world.put_here(gateway(&[]));
    world.join("b", "all");
    world.put_broker(export("b", "shop/cart", 2, 0));
    world.settle();
    for (place, namespace) in [(Place::Broker, "daisy-cluster-a"), (Place::Here, SYSTEM_NAMESPACE)] {
        let Some(Object::Cluster(cluster)) = world.get(place, Kind::Cluster, namespace, "a") else {
            panic!("no Cluster at {place:?}")
        };
        assert_eq!(cluster.spec.gateways.len(), 1, "{place:?}");
        assert_eq!(cluster.spec.consumes, [id("b")], "{place:?}");
        assert!(cluster.spec.exporter, "{place:?}");
    }
    let mirrors = world.here.objects.values().filter(|o| o.kind() == Kind::Cluster).count();
    assert_eq!(mirrors, 2);
}

#[test]
fn endpoints_come_after_the_route_to_them() {
    let mut world = World::started();
    world.join("b", "all");
    world.put_broker(export("b", "shop/cart", 2, 0));
    world.put_broker(endpoints("b", "shop/cart", 3, &[7]));
    world.settle();
    let position = |what: fn(&crate::syncer::Action) -> bool| world.actions.iter().position(what).expect("done");
    let mirrored =
        position(|a| a.reference.kind == Kind::Cluster && a.reference.name == "b" && matches!(a.verb, Verb::Create(_)));
    let published = position(|a| a.reference.kind == Kind::EndpointSlice);
    assert!(mirrored < published);
}

#[test]
fn a_steady_state_needs_no_writes_but_heartbeats() {
    let mut world = World::started();
    world.put_here(namespace("shop", false));
    world.put_here(service("shop/cart"));
    world.put_here(slice("shop/cart", &[5]));
    world.put_here(service_export("shop/cart"));
    world.join("b", "all");
    world.put_broker(export("b", "shop/cart", 2, 0));
    world.put_broker(endpoints("b", "shop/cart", 3, &[7]));
    world.pass(Duration::from_secs(30));
    let before = world.actions.len();
    for beat in 10..20 {
        world.beat("b", beat);
        world.pass(Duration::from_secs(60));
    }
    let written: Vec<_> = world.actions[before..].iter().filter(|a| a.reference.kind != Kind::Heartbeat).collect();
    let heartbeats = world.actions.len() - before - written.len();
    assert!((9..=11).contains(&heartbeats), "{heartbeats}");
    assert!(written.len() <= 1, "one write of the time that it was heard: {written:?}");
}

#[test]
fn an_object_that_cannot_be_read_changes_nothing() {
    let mut world = World::started();
    world.join("b", "all");
    world.put_broker(export("b", "shop/cart", 2, 0));
    world.settle();
    let unreadable = Change::Unreadable {
        namespace: "daisy-cluster-b".to_owned(),
        name: "cart.shop".to_owned(),
        why: "missing field `type`".to_owned(),
    };
    let now = world.now();
    for change in [Change::Started, unreadable, Change::Finished] {
        world.machine.handle_watch(Place::Broker, Kind::Export, change, now);
    }
    world.settle();
    assert!(world.import_service("shop/cart").is_some());
    assert!(world.notes.iter().any(|note| note.to_string().contains("missing field")));
}

#[test]
fn a_family_that_this_cluster_has_not_is_said() {
    let mut world = World::started();
    world.put_here(namespace("shop", false));
    world.join("b", "all");
    let mut six = export("b", "shop/cart", 2, 0);
    six.spec.ip_families = vec![IpFamily::V6];
    world.put_broker(six);
    world.settle();
    assert!(world.import_service("shop/cart").is_none());
    let Some(Object::ServiceImport(import)) = world.get(Place::Here, Kind::ServiceImport, "shop", "cart") else {
        panic!("the ServiceImport says why");
    };
    let conditions = &import.status.as_ref().expect("a status").conditions;
    assert_eq!(conditions[0].reason, "IPFamilyNotSupported");
}

#[test]
fn what_is_not_ours_is_not_touched() {
    let mut world = World::started();
    let mut foreign = service("shop/cart");
    foreign.metadata.namespace = Some(SYSTEM_NAMESPACE.to_owned());
    foreign.metadata.name = Some(key("shop/cart").import_service_name());
    world.put_here(foreign.clone());
    let mut import = daisy_api::ServiceImport::new(
        "cart",
        crate::import::service_import(
            &key("shop/cart"),
            &crate::merge::merge([(&id("b"), &export("b", "shop/cart", 1, 0).spec)]).expect("one"),
            &[],
            &[],
        )
        .spec,
    );
    import.metadata.namespace = Some("shop".to_owned());
    world.put_here(namespace("shop", false));
    world.put_here(import);
    world.join("b", "all");
    world.put_broker(export("b", "shop/cart", 2, 0));
    world.put_broker(endpoints("b", "shop/cart", 3, &[7]));
    world.settle();
    let touched = world.actions.iter().any(|a| matches!(a.reference.kind, Kind::Service | Kind::ServiceImport));
    assert!(!touched, "{:?}", world.actions);
    assert!(world.notes.iter().any(|note| matches!(note, Note::NotRealisable { .. })));
}
