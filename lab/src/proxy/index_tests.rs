use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn service(name: &str, spec: Value) -> Service {
    serde_json::from_value(json!({ "metadata": { "name": name, "namespace": "shop" }, "spec": spec })).expect("a Service")
}

fn slice(name: &str, of: &str, ports: Value, endpoints: Value) -> EndpointSlice {
    let metadata = json!({ "name": name, "namespace": "shop", "labels": { "kubernetes.io/service-name": of } });
    serde_json::from_value(json!({ "metadata": metadata, "addressType": "IPv4", "ports": ports, "endpoints": endpoints }))
        .expect("a slice")
}

fn web() -> Service {
    service(
        "web",
        json!({ "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"], "ports": [{ "name": "http", "port": 80, "protocol": "TCP" }] }),
    )
}

fn endpoint(address: &str, ready: bool) -> Value {
    json!({ "addresses": [address], "conditions": { "ready": ready }, "nodeName": "n1" })
}

fn http(port: u16) -> Value {
    json!([{ "name": "http", "port": port, "protocol": "TCP" }])
}

fn targets(changes: &[(Frontend, Option<Backends>)]) -> Vec<String> {
    let targets = changes.iter().flat_map(|(_, b)| b.iter().flat_map(|b| &b.targets));
    targets.map(|(a, p)| format!("{a}:{p}")).collect()
}

#[test]
fn ports_match_by_name_whoever_wrote_the_slice() {
    let mut index = Index::new("n1".to_owned());
    index.handle_services(Change::Set(web()));
    assert_eq!(index.poll_changes().len(), 1, "with nobody there, clients are refused");
    index.handle_slices(Change::Set(slice(
        "a",
        "web",
        http(8080),
        json!([endpoint("10.10.0.1", true), endpoint("10.10.0.2", false)]),
    )));
    assert_eq!(targets(&index.poll_changes()), ["10.10.0.1:8080"]);
    index.handle_slices(Change::Set(slice(
        "b",
        "web",
        json!([{ "name": "other", "port": 1 }]),
        json!([endpoint("10.10.0.3", true)]),
    )));
    assert!(index.poll_changes().is_empty());
    index.handle_slices(Change::Set(slice("c", "web", http(9090), json!([endpoint("10.20.0.1", true)]))));
    assert_eq!(targets(&index.poll_changes()), ["10.10.0.1:8080", "10.20.0.1:9090"]);
    index.handle_slices(Change::Gone(slice("a", "web", http(8080), json!([]))));
    assert_eq!(targets(&index.poll_changes()), ["10.20.0.1:9090"]);
    index.handle_services(Change::Gone(web()));
    assert!(matches!(index.poll_changes()[..], [(_, None)]));
}

#[test]
fn what_says_nothing_is_ready_and_who_drains_is_better_than_nobody() {
    let mut index = Index::new("n1".to_owned());
    index.handle_services(Change::List(vec![web()]));
    index.handle_slices(Change::List(vec![slice("a", "web", http(80), json!([{ "addresses": ["10.10.0.1"] }]))]));
    assert_eq!(targets(&index.poll_changes()), ["10.10.0.1:80"]);
    let draining =
        json!({ "addresses": ["10.10.0.2"], "conditions": { "ready": false, "serving": true, "terminating": true } });
    index.handle_slices(Change::Set(slice("a", "web", http(80), json!([draining.clone(), endpoint("10.10.0.1", true)]))));
    assert!(index.poll_changes().is_empty());
    index.handle_slices(Change::Set(slice("a", "web", http(80), json!([draining]))));
    assert_eq!(targets(&index.poll_changes()), ["10.10.0.2:80"]);
}

#[test]
fn only_this_nodes_endpoints_where_the_policy_says_so() {
    let mut index = Index::new("n1".to_owned());
    let mut local = web();
    if let Some(spec) = local.spec.as_mut() {
        spec.internal_traffic_policy = Some("Local".to_owned());
    }
    index.handle_services(Change::Set(local));
    let elsewhere = json!({ "addresses": ["10.10.1.1"], "nodeName": "n2" });
    index.handle_slices(Change::Set(slice("a", "web", http(80), json!([elsewhere, endpoint("10.10.0.1", true)]))));
    assert_eq!(targets(&index.poll_changes()), ["10.10.0.1:80"]);
}

#[test]
fn services_without_an_address_are_nothing() {
    let mut index = Index::new("n1".to_owned());
    index.handle_services(Change::Set(service(
        "a",
        json!({ "clusterIP": "None", "clusterIPs": ["None"], "ports": [{ "port": 80 }] }),
    )));
    index.handle_services(Change::Set(service("b", json!({ "type": "ExternalName", "externalName": "example.com" }))));
    assert!(index.poll_changes().is_empty());
}

#[test]
fn an_address_can_pass_from_one_service_to_another_in_either_order() {
    let mut index = Index::new("n1".to_owned());
    index.handle_services(Change::Set(web()));
    let mut other = web();
    other.metadata.name = Some("other".to_owned());
    index.handle_services(Change::Set(other));
    index.handle_services(Change::Gone(web()));
    let changes = index.poll_changes();
    assert_eq!(changes[0].1.as_ref().map(|b| b.name.as_str()), Some("shop/other:http"));
}

#[derive(Clone, Debug)]
enum Step {
    Service(usize, bool),
    Slice(usize, usize, Vec<u8>),
    SliceGone(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0usize..3, any::<bool>()).prop_map(|(s, there)| Step::Service(s, there)),
        (0usize..4, 0usize..3, proptest::collection::vec(1u8..9, 0..4)).prop_map(|(n, s, e)| Step::Slice(n, s, e)),
        (0usize..4).prop_map(Step::SliceGone),
    ]
}

fn numbered(s: usize) -> Service {
    service(&format!("s{s}"), json!({ "clusterIP": format!("10.96.0.{}", s + 1), "ports": [{ "name": "http", "port": 80 }] }))
}

fn numbered_slice(n: usize, s: usize, endpoints: &[u8]) -> EndpointSlice {
    let endpoints: Vec<Value> = endpoints.iter().map(|e| endpoint(&format!("10.10.0.{e}"), true)).collect();
    slice(&format!("x{n}"), &format!("s{s}"), http(80), json!(endpoints))
}

proptest! {
    /// Following changes one by one comes to the same as listing everything at the end.
    #[test]
    fn incremental_is_full(steps in proptest::collection::vec(step(), 0..40)) {
        let mut index = Index::new("n1".to_owned());
        let mut programmed: BTreeMap<Frontend, Backends> = BTreeMap::new();
        let (mut services, mut slices) = (BTreeMap::new(), BTreeMap::new());
        for step in steps {
            match step {
                Step::Service(s, true) => {
                    services.insert(s, numbered(s));
                    index.handle_services(Change::Set(numbered(s)));
                }
                Step::Service(s, false) => {
                    services.remove(&s);
                    index.handle_services(Change::Gone(numbered(s)));
                }
                Step::Slice(n, s, endpoints) => {
                    slices.insert(n, numbered_slice(n, s, &endpoints));
                    index.handle_slices(Change::Set(numbered_slice(n, s, &endpoints)));
                }
                Step::SliceGone(n) => {
                    slices.remove(&n);
                    index.handle_slices(Change::Gone(numbered_slice(n, 0, &[])));
                }
            }
            for (frontend, backends) in index.poll_changes() {
                match backends {
                    Some(backends) => programmed.insert(frontend, backends),
                    None => programmed.remove(&frontend),
                };
            }
        }
        let mut fresh = Index::new("n1".to_owned());
        fresh.handle_slices(Change::List(slices.into_values().collect()));
        fresh.handle_services(Change::List(services.into_values().collect()));
        let want: BTreeMap<_, _> = fresh.poll_changes().into_iter().filter_map(|(f, b)| Some((f, b?))).collect();
        prop_assert_eq!(programmed, want);
    }
}
