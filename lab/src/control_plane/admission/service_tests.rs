use serde_json::json;

use super::*;
use crate::control_plane::allocator::{DEFAULT_SERVICE_CIDR, Holders};

/// A cluster with these ranges.
struct Cluster {
    cidrs: Vec<&'static str>,
    holders: Holders,
}

fn single() -> Cluster {
    Cluster { cidrs: vec!["10.96.0.0/16"], holders: Holders::default() }
}

fn dual() -> Cluster {
    Cluster { cidrs: vec!["10.96.0.0/16", "fd00:96::/112"], holders: Holders::default() }
}

impl Cluster {
    fn allocate(&mut self, service: &mut Service, owner: &str) -> Result<(), Invalid> {
        let cidrs = self.cidrs.iter().map(|c| c.parse().expect("a CIDR")).collect();
        let ranges = std::collections::BTreeMap::from([(DEFAULT_SERVICE_CIDR.to_owned(), cidrs)]);
        allocate(service, owner, &mut Allocator::new(ranges, &mut self.holders, &|_, _| true))
    }
}

fn service(spec: serde_json::Value) -> Service {
    serde_json::from_value(json!({ "metadata": { "name": "web", "namespace": "shop" }, "spec": spec })).expect("a Service")
}

fn stored(spec: serde_json::Value, old: Option<&Service>, cluster: &mut Cluster) -> Result<Service, Invalid> {
    let mut service = service(spec);
    admit(&mut service, old)?;
    cluster.allocate(&mut service, "shop/web")?;
    Ok(service)
}

fn field(result: Result<Service, Invalid>) -> String {
    result.expect_err("refused").0[0].field.clone()
}

#[test]
fn fills_in_what_kubectl_users_know() {
    let got = stored(json!({ "ports": [{ "port": 80 }], "selector": { "app": "web" } }), None, &mut single()).expect("stored");
    let spec = got.spec.expect("spec");
    assert_eq!(spec.type_.as_deref(), Some("ClusterIP"));
    assert_eq!(spec.session_affinity.as_deref(), Some("None"));
    assert_eq!(spec.internal_traffic_policy.as_deref(), Some("Cluster"));
    assert_eq!(spec.ip_families, Some(vec!["IPv4".to_owned()]));
    assert_eq!(spec.ip_family_policy.as_deref(), Some("SingleStack"));
    assert_eq!(spec.cluster_ips.as_ref().map(|ips| ips[0].clone()), spec.cluster_ip);
    let port = &spec.ports.expect("ports")[0];
    assert_eq!((port.protocol.as_deref(), port.target_port.clone()), (Some("TCP"), Some(IntOrString::Int(80))));
}

#[test]
fn two_families_as_kep_563_has_them() {
    let ports = json!([{ "port": 80 }]);
    let prefer = json!({ "ports": ports, "ipFamilyPolicy": "PreferDualStack" });
    let ips = |s: Service| s.spec.expect("spec").cluster_ips.expect("addresses");
    assert_eq!(ips(stored(prefer.clone(), None, &mut single()).expect("one is enough")).len(), 1);
    let both = ips(stored(prefer, None, &mut dual()).expect("two"));
    assert!(both[0].starts_with("10.96.") && both[1].starts_with("fd00:96::"), "{both:?}");
    let require = json!({ "ports": ports, "ipFamilyPolicy": "RequireDualStack" });
    assert_eq!(field(stored(require, None, &mut single())), "spec.ipFamilyPolicy");
    let six = json!({ "ports": ports, "ipFamilies": ["IPv6"] });
    assert!(ips(stored(six.clone(), None, &mut dual()).expect("IPv6"))[0].starts_with("fd00:96::"));
    assert_eq!(field(stored(six, None, &mut single())), "spec.ipFamilies");
    let disagree = json!({ "ports": ports, "clusterIP": "10.96.0.9", "ipFamilies": ["IPv6"] });
    assert_eq!(field(stored(disagree, None, &mut dual())), "spec.clusterIPs[0]");
}

#[test]
fn headless_and_external() {
    let headless = stored(json!({ "clusterIP": "None", "selector": { "a": "b" } }), None, &mut single()).expect("stored");
    let spec = headless.spec.expect("spec");
    assert_eq!(spec.cluster_ips, Some(vec!["None".to_owned()]));
    assert_eq!(spec.ip_families.expect("families"), ["IPv4"]);
    let anyones = stored(json!({ "clusterIP": "None" }), None, &mut single()).expect("stored");
    assert_eq!(anyones.spec.expect("spec").ip_families.expect("families"), ["IPv4", "IPv6"]);
    let external =
        stored(json!({ "type": "ExternalName", "externalName": "example.com" }), None, &mut single()).expect("stored");
    assert_eq!(external.spec.expect("spec").cluster_ip, None);
    assert_eq!(field(stored(json!({ "type": "ExternalName" }), None, &mut single())), "spec.externalName");
    assert_eq!(field(stored(json!({ "type": "Wrong", "ports": [{ "port": 1 }] }), None, &mut single())), "spec.type");
}

#[test]
fn an_address_stays_and_is_not_shared() {
    let mut cluster = single();
    let spec = json!({ "ports": [{ "port": 80 }], "clusterIP": "10.96.0.10" });
    let first = stored(spec.clone(), None, &mut cluster).expect("stored");
    // Replaced from the manifest, which knows no address.
    let again = stored(json!({ "ports": [{ "port": 81 }] }), Some(&first), &mut cluster).expect("stored");
    assert_eq!(again.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()), Some("10.96.0.10"));
    let moved = json!({ "ports": [{ "port": 80 }], "clusterIP": "10.96.0.11" });
    assert_eq!(field(stored(moved, Some(&first), &mut cluster)), "spec.clusterIPs[0]");
    let mut other = service(spec);
    admit(&mut other, None).expect("its form is right");
    assert!(cluster.allocate(&mut other, "shop/other").is_err());
    let outside = json!({ "ports": [{ "port": 80 }], "clusterIP": "192.0.2.1" });
    assert_eq!(field(stored(outside, None, &mut cluster)), "spec.clusterIPs");
}

#[test]
fn one_family_and_two_and_back() {
    let mut cluster = dual();
    let ports = json!([{ "port": 80 }]);
    let one = stored(json!({ "ports": ports }), None, &mut cluster).expect("one");
    let two = stored(json!({ "ports": ports, "ipFamilyPolicy": "PreferDualStack" }), Some(&one), &mut cluster).expect("two");
    assert_eq!(addresses(&two).len(), 2);
    assert_eq!(addresses(&two)[0], addresses(&one)[0]);
    let back = stored(json!({ "ports": ports, "ipFamilyPolicy": "SingleStack" }), Some(&two), &mut cluster).expect("one");
    assert_eq!(addresses(&back), addresses(&one));
}

#[test]
fn ports_that_cannot_be() {
    let try_ports = |ports: serde_json::Value| field(stored(json!({ "ports": ports }), None, &mut single()));
    assert_eq!(try_ports(json!([])), "spec.ports");
    assert_eq!(try_ports(json!([{ "port": 0 }])), "spec.ports[0].port");
    assert_eq!(try_ports(json!([{ "port": 80 }, { "port": 81, "name": "b" }])), "spec.ports[0].name");
    assert_eq!(try_ports(json!([{ "port": 80, "name": "a" }, { "port": 81, "name": "a" }])), "spec.ports[1].name");
    assert_eq!(try_ports(json!([{ "port": 80, "name": "a" }, { "port": 80, "name": "b" }])), "spec.ports[1]");
    assert_eq!(try_ports(json!([{ "port": 80, "protocol": "ICMP" }])), "spec.ports[0].protocol");
    assert_eq!(try_ports(json!([{ "port": 80, "targetPort": "Not_A_Name" }])), "spec.ports[0].targetPort");
    let same_number = json!([{ "port": 53, "name": "a", "protocol": "UDP" }, { "port": 53, "name": "b" }]);
    stored(json!({ "ports": same_number }), None, &mut single()).expect("two protocols");
}
