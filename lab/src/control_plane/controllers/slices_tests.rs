use proptest::prelude::*;
use serde_json::json;

use super::*;

fn service(spec: serde_json::Value) -> Service {
    let mut spec = spec;
    if spec.get("ipFamilies").is_none() {
        spec["ipFamilies"] = json!(["IPv4"]);
    }
    if spec.get("selector").is_none() {
        spec["selector"] = json!({ "app": "web" });
    }
    serde_json::from_value(
        json!({ "metadata": { "name": "web", "namespace": "shop", "uid": "s1", "labels": { "team": "a" } }, "spec": spec }),
    )
    .expect("a Service")
}

fn pod(n: usize, ready: &str, more: serde_json::Value) -> Arc<Pod> {
    let mut value = json!({
        "metadata": { "name": format!("web-{n}"), "namespace": "shop", "uid": format!("p{n}"), "labels": { "app": "web" } },
        "spec": { "nodeName": "n1", "containers": [{ "name": "c", "ports": [{ "name": "http", "containerPort": 8000 + n }] }] },
        "status": {
            "phase": "Running", "podIP": format!("10.10.{}.{}", n / 250, n % 250 + 1),
            "podIPs": [{ "ip": format!("10.10.{}.{}", n / 250, n % 250 + 1) }, { "ip": format!("fd00::{n:x}") }],
            "conditions": [{ "type": "Ready", "status": ready }],
        },
    });
    json_merge(&mut value, &more);
    Arc::new(serde_json::from_value(value).expect("a Pod"))
}

fn json_merge(to: &mut serde_json::Value, from: &serde_json::Value) {
    match (to.as_object_mut(), from.as_object()) {
        (Some(to), Some(from)) => from.iter().for_each(|(k, v)| json_merge(to.entry(k.clone()).or_insert(json!({})), v)),
        _ if from.is_null() => {}
        _ => *to = from.clone(),
    }
}

fn none(_: &str) -> Option<String> {
    None
}

#[test]
fn one_slice_a_family_with_what_its_readers_need() {
    let service =
        service(json!({ "ports": [{ "port": 80, "targetPort": 8080, "protocol": "TCP" }], "ipFamilies": ["IPv4", "IPv6"] }));
    let made = plan(&service, &[pod(1, "True", json!(null)), pod(2, "False", json!(null))], &[], |_| Some("z".to_owned()));
    assert_eq!(made.create.len(), 2);
    let (four, six) = (&made.create[0], &made.create[1]);
    assert_eq!((four.address_type.as_str(), six.address_type.as_str()), ("IPv4", "IPv6"));
    let labels = four.metadata.labels.as_ref().expect("labels");
    assert_eq!(
        (labels[SLICE_SERVICE_NAME].as_str(), labels[SLICE_MANAGED_BY].as_str(), labels["team"].as_str()),
        ("web", MANAGED_BY, "a")
    );
    assert!(!labels.contains_key(SLICE_HEADLESS));
    let port = &four.ports.as_ref().expect("ports")[0];
    assert_eq!((port.name.as_deref(), port.port), (Some(""), Some(8080)));
    let endpoint = &four.endpoints[0];
    assert_eq!(
        (endpoint.addresses[0].as_str(), endpoint.node_name.as_deref(), endpoint.zone.as_deref()),
        ("10.10.0.2", Some("n1"), Some("z"))
    );
    assert_eq!(endpoint.target_ref.as_ref().and_then(|t| t.uid.as_deref()), Some("p1"));
    let ready = |e: &Endpoint| e.conditions.clone().map(|c| (c.ready, c.serving, c.terminating)).expect("conditions");
    assert_eq!(ready(&four.endpoints[0]), (Some(true), Some(true), Some(false)));
    assert_eq!(ready(&four.endpoints[1]), (Some(false), Some(false), Some(false)));
    let leaving = pod(1, "True", json!({ "metadata": { "deletionTimestamp": "2026-01-01T00:00:00Z" } }));
    let step = plan(&service, &[leaving], &[], none);
    assert_eq!(ready(&step.create[0].endpoints[0]), (Some(false), Some(true), Some(true)));
}

#[test]
fn headless_names_and_pods_that_are_not_ready() {
    let service = service(json!({ "clusterIP": "None", "publishNotReadyAddresses": true }));
    let named = pod(1, "False", json!({ "spec": { "hostname": "db-0", "subdomain": "web" } }));
    let made =
        plan(&service, &[named, pod(2, "True", json!({ "spec": { "hostname": "x", "subdomain": "other" } }))], &[], none);
    let slice = &made.create[0];
    assert!(slice.metadata.labels.as_ref().expect("labels").contains_key(SLICE_HEADLESS));
    assert_eq!(slice.endpoints[0].hostname.as_deref(), Some("db-0"));
    assert_eq!(slice.endpoints[0].conditions.as_ref().and_then(|c| c.ready), Some(true));
    assert_eq!(slice.endpoints[1].hostname, None);
}

#[test]
fn named_ports_are_each_pods_own() {
    let service = service(json!({ "ports": [{ "name": "w", "port": 80, "targetPort": "http", "protocol": "TCP" }] }));
    let made = plan(&service, &[pod(1, "True", json!(null)), pod(2, "True", json!(null))], &[], none);
    let mut numbers: Vec<_> = made.create.iter().filter_map(|s| s.ports.as_ref()?.first()?.port).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [8001, 8002]);
}

#[test]
fn who_has_ended_or_has_no_address_is_no_endpoint() {
    let service = service(json!({ "ports": [{ "port": 80 }] }));
    let ended = pod(1, "True", json!({ "status": { "phase": "Succeeded" } }));
    let mut waiting = Pod::clone(&pod(2, "False", json!(null)));
    waiting.status = None;
    let made = plan(&service, &[ended, Arc::new(waiting)], &[], none);
    assert_eq!(made.create.len(), 1, "an empty slice says that nobody is there");
    assert!(made.create[0].endpoints.is_empty());
}

#[test]
fn without_a_selector_slices_are_somebody_elses() {
    let service = service(json!({ "ports": [{ "port": 80 }], "selector": {} }));
    assert_eq!(plan(&service, &[pod(1, "True", json!(null))], &[], none), SlicePlan::default());
}

/// Does what the plan says, as the API server would.
fn apply(slices: &mut Vec<Arc<EndpointSlice>>, plan: SlicePlan, next: &mut usize) {
    slices.retain(|s| !plan.delete.iter().any(|d| d.metadata.name == s.metadata.name));
    for replaced in plan.replace {
        let at = slices.iter().position(|s| s.metadata.name == replaced.metadata.name).expect("it was there");
        slices[at] = Arc::new(replaced);
    }
    for mut created in plan.create {
        *next += 1;
        created.metadata.name = Some(format!("web-{next}"));
        slices.push(Arc::new(created));
    }
}

proptest! {
    /// Whatever came before, the slices hold exactly the Pods there are; a second look finds nothing to do; and one more Pod
    /// is one more write.
    #[test]
    fn slices_follow_the_pods(rounds in proptest::collection::vec(proptest::collection::btree_set(0usize..260, 0..240), 1..5), extra in 300usize..310) {
        let service = service(json!({ "ports": [{ "port": 80, "targetPort": 8080 }] }));
        let mut slices = Vec::new();
        let mut next = 0;
        for round in &rounds {
            let pods: Vec<_> = round.iter().map(|n| pod(*n, "True", json!(null))).collect();
            let step = plan(&service, &pods, &slices, none);
            apply(&mut slices, step, &mut next);
            let mut held: Vec<_> = slices.iter().flat_map(|s| s.endpoints.iter().filter_map(|e| e.target_ref.as_ref()?.uid.clone())).collect();
            held.sort();
            let mut want: Vec<_> = pods.iter().filter_map(|p| p.metadata.uid.clone()).collect();
            want.sort();
            prop_assert_eq!(held, want);
            prop_assert!(slices.iter().all(|s| s.endpoints.len() <= ENDPOINTS_MAX));
            prop_assert!(!slices.is_empty());
            prop_assert_eq!(plan(&service, &pods, &slices, none), SlicePlan::default());
        }
        let mut pods: Vec<_> = rounds.last().expect("one at least").iter().map(|n| pod(*n, "True", json!(null))).collect();
        pods.push(pod(extra, "True", json!(null)));
        let step = plan(&service, &pods, &slices, none);
        prop_assert_eq!((step.create.len() + step.replace.len(), step.delete.len()), (1, 0));
    }
}
