//! The MCS standard (KEP-1645, mcs-api v1beta1), as far as the machine has to do with it. `README.md` lists line by line what holds it.

use daisy_api::labels::{MCS_SERVICE_NAME, MCS_SOURCE_CLUSTER, SLICE_SERVICE_NAME};
use daisy_api::{EndpointSliceObjects, ExportType, IpFamily, ServiceImport};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use super::world::*;
use crate::object::{Kind, Object, Place};

fn import(world: &World) -> ServiceImport {
    match world.get(Place::Here, Kind::ServiceImport, "shop", "cart") {
        Some(Object::ServiceImport(import)) => (**import).clone(),
        _ => panic!("no ServiceImport"),
    }
}

/// Another cluster exports shop/cart, whose namespace exists here.
fn imported(change: impl FnOnce(&mut daisy_api::ExportSpec)) -> World {
    let mut world = World::started();
    world.put_here(namespace("shop", false));
    world.join("b", "all");
    let mut export = export("b", "shop/cart", 2, 0);
    change(&mut export.spec);
    world.put_broker(export);
    world.put_broker(endpoints("b", "shop/cart", 3, &[7]));
    world.settle();
    world
}

fn slices(world: &World, namespace: &str) -> Vec<EndpointSlice> {
    let of = world.here.objects.values().filter(|object| object.namespace() == namespace);
    let typed = of.filter_map(|object| if let Object::EndpointSlice(slice) = object { Some((**slice).clone()) } else { None });
    typed.filter(|slice| slice.metadata.labels.as_ref().is_some_and(|l| l.contains_key(MCS_SOURCE_CLUSTER))).collect()
}

#[test]
fn a_service_import_says_what_was_exported() {
    let world = imported(|spec| {
        spec.session_affinity = daisy_api::SessionAffinity::ClientIp;
        spec.session_affinity_seconds = Some(60);
        spec.traffic_distribution = Some("PreferClose".to_owned());
        spec.exported_labels = [("team".to_owned(), "x".to_owned())].into();
        spec.exported_annotations = [("contact".to_owned(), "y".to_owned())].into();
    });
    let import = import(&world);
    assert_eq!(import.spec.session_affinity, daisy_api::SessionAffinity::ClientIp);
    let seconds = import.spec.session_affinity_config.and_then(|config| config.client_ip).and_then(|ip| ip.timeout_seconds);
    assert_eq!(seconds, Some(60));
    assert_eq!(import.spec.traffic_distribution.as_deref(), Some("PreferClose"));
    assert_eq!(import.metadata.labels.expect("labels")["team"], "x");
    assert_eq!(import.metadata.annotations.expect("annotations")["contact"], "y");
    // The affinity is not only said: what balances here has it.
    let service = world.import_service("shop/cart").and_then(|service| service.spec).expect("the Service");
    assert_eq!(service.session_affinity.as_deref(), Some("ClientIP"));
    let ips: Vec<String> = import.spec.ips.iter().map(ToString::to_string).collect();
    assert_eq!(Some(ips), service.cluster_ips);
}

#[test]
fn the_status_says_which_clusters_and_whether_slices_are_there() {
    let mut world = imported(|_| {});
    let status = import(&world).status.expect("a status");
    assert_eq!(status.clusters.iter().map(|one| one.cluster.as_str()).collect::<Vec<_>>(), ["b"]);
    assert_eq!(status.endpoint_slice_objects, EndpointSliceObjects::Present);
    assert!(daisy_api::conditions::is_true(&status.conditions, "Ready"));
    world.remove(Place::Broker, Kind::ExportEndpoints, "daisy-cluster-b", "cart.shop.abc");
    world.settle();
    let status = import(&world).status.expect("a status");
    assert_eq!(status.endpoint_slice_objects, EndpointSliceObjects::Absent);
}

#[test]
fn an_exporting_cluster_imports_too_with_one_source_a_slice() {
    let mut world = imported(|_| {});
    world.put_here(service("shop/cart"));
    world.put_here(slice("shop/cart", &[5]));
    world.put_here(service_export("shop/cart"));
    world.settle();
    let mut sources: Vec<String> = Vec::new();
    for slice in slices(&world, "shop") {
        let labels = slice.metadata.labels.expect("labels");
        assert_eq!(labels[MCS_SERVICE_NAME], "cart");
        assert!(!labels.contains_key(SLICE_SERVICE_NAME), "kube-proxy must not take it for the Service's own");
        sources.push(labels[MCS_SOURCE_CLUSTER].clone());
    }
    sources.sort();
    assert_eq!(sources, ["a", "b"]);
}

#[test]
fn node_ports_and_load_balancers_are_exported_like_any_service() {
    for type_ in ["NodePort", "LoadBalancer"] {
        let mut world = World::started();
        let mut service = service("shop/cart");
        let spec = service.spec.get_or_insert_default();
        spec.type_ = Some(type_.to_owned());
        spec.ports.iter_mut().flatten().for_each(|port| port.node_port = Some(30_080));
        world.put_here(namespace("shop", false));
        world.put_here(service);
        world.put_here(slice("shop/cart", &[5]));
        world.put_here(service_export("shop/cart"));
        world.settle();
        let Some(Object::Export(export)) = world.get(Place::Broker, Kind::Export, "daisy-cluster-a", "cart.shop") else {
            panic!("{type_} is exported")
        };
        assert_eq!(export.spec.type_, ExportType::ClusterSetIp);
        let spec = world.import_service("shop/cart").and_then(|service| service.spec).expect("the Service");
        assert_eq!(spec.type_.as_deref(), Some("ClusterIP"), "no port of the nodes is opened for an import");
    }
}

#[test]
fn a_headless_service_is_exported_with_its_hostnames() {
    let mut world = imported(|spec| spec.type_ = ExportType::Headless);
    let mut record = endpoints("b", "shop/cart", 9, &[7, 8]);
    record.spec.endpoints[0].hostname = Some("cart-0".to_owned());
    record.spec.endpoints[1].hostname = Some("Not_a_label".to_owned());
    world.put_broker(record);
    world.settle();
    let names: Vec<Option<String>> =
        slices(&world, "shop").iter().flat_map(|slice| slice.endpoints.iter().map(|one| one.hostname.clone())).collect();
    assert_eq!(names, [Some("cart-0".to_owned()), None]);
    assert!(import(&world).spec.ips.is_empty());
    // And the other way: this cluster's own are in its records.
    let mut own = slice("shop/db", &[5]);
    own.endpoints[0].hostname = Some("db-0".to_owned());
    let mut headless = service("shop/db");
    headless.spec.get_or_insert_default().cluster_ip = Some("None".to_owned());
    world.put_here(headless);
    world.put_here(own);
    world.put_here(service_export("shop/db"));
    world.settle();
    let records = world.broker.objects.values().filter(|object| object.namespace() == "daisy-cluster-a");
    let hostnames = records.filter_map(|o| if let Object::ExportEndpoints(o) = o { Some(&o.spec.endpoints) } else { None });
    assert_eq!(hostnames.flatten().map(|one| one.hostname.as_deref()).collect::<Vec<_>>(), [Some("db-0")]);
}

#[test]
fn the_first_family_of_a_vip_stays() {
    let mut world = World::started();
    let mut dual = member("a", "all");
    dual.spec.service_cidrs.push("fd00:101::/112".parse().expect("a CIDR"));
    world.put_broker(dual);
    world.join("b", "all");
    world.join("c", "all");
    let families = |list: &[IpFamily], cluster: &str, at: i64| {
        let mut export = export(cluster, "shop/cart", 2, at);
        export.spec.ip_families = list.to_vec();
        export
    };
    world.put_broker(families(&[IpFamily::V4, IpFamily::V6], "b", 5));
    world.settle();
    let address = |world: &World| world.import_service("shop/cart").and_then(|service| service.spec?.cluster_ip);
    let uid = |world: &World| world.import_service("shop/cart").and_then(|service| service.metadata.uid);
    let (had, made) = (address(&world).expect("an address"), uid(&world));
    world.put_broker(families(&[IpFamily::V6, IpFamily::V4], "c", 1));
    world.settle();
    assert_eq!((address(&world).expect("an address"), uid(&world)), (had, made), "an older export prefers the other family");
}

#[test]
fn an_internal_traffic_policy_of_local_is_warned_about() {
    let world = imported(|spec| spec.internal_traffic_policy = Some("Local".to_owned()));
    let import = import(&world);
    assert_eq!(import.spec.internal_traffic_policy.as_deref(), Some("Local"));
    let conditions = import.status.expect("a status").conditions;
    let ready = daisy_api::conditions::find(&conditions, "Ready").expect("Ready");
    assert!(ready.message.contains("internalTrafficPolicy is Local"), "{}", ready.message);
}

#[test]
fn an_internal_traffic_policy_that_nobody_knows_is_the_default() {
    let world = imported(|spec| spec.internal_traffic_policy = Some("Nonsense".to_owned()));
    let service =
        world.import_service("shop/cart").and_then(|service| service.spec).expect("an API server would refuse it else");
    assert_eq!(service.internal_traffic_policy.as_deref(), Some("Cluster"));
    assert_eq!(import(&world).spec.internal_traffic_policy.as_deref(), Some("Cluster"));
}

/// The first endpoint in our slices of shop/cart that has this address.
fn endpoint(world: &World, address: &str) -> Endpoint {
    let all = slices(world, "daisy-system").into_iter().flat_map(|slice| slice.endpoints);
    all.into_iter().find(|one| one.addresses[0] == address).expect("it is imported")
}

#[test]
fn an_internal_traffic_policy_is_followed() {
    let policy = |world: &World| world.import_service("shop/cart").and_then(|s| s.spec?.internal_traffic_policy);
    let mut world = World::started();
    let with = |policy: &str| {
        let mut service = service("shop/cart");
        service.spec.get_or_insert_default().internal_traffic_policy = Some(policy.to_owned());
        service
    };
    let mut own = slice("shop/cart", &[5]);
    own.endpoints[0].node_name = Some("node1".to_owned());
    world.put_here(with("Local"));
    world.put_here(own.clone());
    world.put_here(service_export("shop/cart"));
    world.join("b", "all");
    world.put_broker(export("b", "shop/cart", 2, 0));
    world.put_broker(endpoints("b", "shop/cart", 3, &[7]));
    world.settle();
    // The older export is b's: its policy is followed, until there is only one.
    assert_eq!(policy(&world).as_deref(), Some("Cluster"));
    world.put_here(namespace("shop", false));
    world.settle();
    assert_eq!(import(&world).spec.internal_traffic_policy.as_deref(), Some("Cluster"), "the default is said");
    let (here, there) = (endpoint(&world, "10.1.0.5"), endpoint(&world, "10.2.0.7"));
    assert_eq!(
        (here.node_name.as_deref(), there.node_name),
        (Some("node1"), None),
        "kube-proxy has to know whose node is whose"
    );
    world.remove(Place::Broker, Kind::Export, "daisy-cluster-b", "cart.shop");
    world.settle();
    assert_eq!(policy(&world).as_deref(), Some("Local"));
    own.endpoints[0].node_name = Some("node2".to_owned());
    world.put_here(own);
    world.put_here(with("Cluster"));
    world.settle();
    assert_eq!(
        (policy(&world).as_deref(), endpoint(&world, "10.1.0.5").node_name.as_deref()),
        (Some("Cluster"), Some("node2"))
    );
}

#[test]
fn a_traffic_distribution_is_followed_by_hints() {
    let mut world = imported(|spec| spec.traffic_distribution = Some("PreferClose".to_owned()));
    let mut zoned = endpoints("b", "shop/cart", 9, &[7, 8, 9]);
    for (one, zone) in zoned.spec.endpoints.iter_mut().zip(["eu-1a", "eu-1b", "no zone!"]) {
        one.zone = Some(zone.to_owned());
    }
    world.put_broker(zoned.clone());
    world.settle();
    let hint = |world: &World, address: &str| endpoint(world, address).hints.and_then(|h| Some(h.for_zones?[0].name.clone()));
    assert_eq!(hint(&world, "10.2.0.7").as_deref(), Some("eu-1a"));
    assert_eq!(hint(&world, "10.2.0.8").as_deref(), Some("eu-1b"));
    assert_eq!(hint(&world, "10.2.0.9"), None, "an API server would refuse the whole slice");
    world.put_broker(export("b", "shop/cart", 10, 0));
    world.settle();
    assert_eq!(hint(&world, "10.2.0.7"), None, "nobody wants a near one any more");
    assert_eq!(endpoint(&world, "10.2.0.7").zone.as_deref(), Some("eu-1a"));
}

#[test]
fn endpoints_that_nobody_could_reach_are_said_on_the_service_export() {
    let mut world = World::started();
    let mut own = slice("shop/cart", &[5]);
    let mut host = own.endpoints[0].clone();
    host.addresses = vec!["192.168.1.10".to_owned()];
    own.endpoints.push(host);
    world.put_here(service("shop/cart"));
    world.put_here(own);
    world.put_here(service_export("shop/cart"));
    world.settle();
    let (status, reason, message) = world.condition("shop/cart", "EndpointsOffered").expect("set");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "OutsideClusterCIDRs"));
    assert!(message.contains("192.168.1.10") && message.contains("hostNetwork"), "{message}");
    assert_eq!(world.condition("shop/cart", "Ready").expect("set").0, "True", "the others are offered");
    world.put_here(slice("shop/cart", &[5]));
    world.settle();
    assert_eq!(world.condition("shop/cart", "EndpointsOffered"), None);
}

#[test]
fn the_conflict_is_over_when_the_exports_agree() {
    let mut world = imported(|spec| spec.ports = vec![port("http", 81)]);
    world.put_here(service("shop/cart"));
    world.put_here(service_export("shop/cart"));
    world.settle();
    assert_eq!(world.condition("shop/cart", "Conflict").expect("set").1, "PortConflict");
    world.put_broker(export("b", "shop/cart", 20, 0));
    world.settle();
    assert_eq!(world.condition("shop/cart", "Conflict").expect("set").1, "NoConflicts");
}
