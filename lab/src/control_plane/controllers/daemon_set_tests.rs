use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use super::*;

fn set(image: &str) -> DaemonSet {
    serde_json::from_value(json!({
        "metadata": { "name": "gateway", "namespace": "daisy-system", "uid": "u1", "generation": 2 },
        "spec": {
            "selector": { "matchLabels": { "app": "gateway" } },
            "template": {
                "metadata": { "labels": { "app": "gateway" } },
                "spec": { "nodeSelector": { "gateway": "true" }, "containers": [{ "name": "c", "image": image }] },
            },
        },
    }))
    .expect("a DaemonSet")
}

fn node(name: &str, gateway: bool) -> Node {
    serde_json::from_value(json!({ "metadata": { "name": name, "labels": { "gateway": gateway.to_string() } } }))
        .expect("a Node")
}

fn now() -> Timestamp {
    Timestamp::from_second(1_000).expect("in range")
}

fn run(set: &DaemonSet, pods: &[Arc<Pod>], nodes: &[Node]) -> Plan<DaemonSetStatus> {
    let nodes = nodes.iter().map(|n| (n.metadata.name.as_deref().unwrap_or_default(), n)).collect();
    plan(set, pods, &nodes, now())
}

fn stored(mut pod: Pod, name: &str, ready: &str) -> Arc<Pod> {
    pod.metadata.name = Some(name.to_owned());
    pod.metadata.creation_timestamp = Some(Time(Timestamp::from_second(10).expect("in range")));
    pod.status = Some(
        serde_json::from_value(json!({ "phase": "Running", "conditions": [{ "type": "Ready", "status": ready }] }))
            .expect("a status"),
    );
    Arc::new(pod)
}

#[test]
fn follows_the_labels_of_nodes() {
    let set = set("a");
    assert!(run(&set, &[], &[node("n1", false), node("n2", false)]).create.is_empty());
    let labelled = [node("n1", false), node("n2", true)];
    let mut made = run(&set, &[], &labelled);
    assert_eq!(made.create.len(), 1);
    let pod = made.create.remove(0);
    assert_eq!(node_of(&pod), Some("n2"));
    assert_eq!(pod.metadata.generate_name.as_deref(), Some("gateway-"));
    let pods = [stored(pod, "gateway-1", "True")];
    let stands = run(&set, &pods, &labelled);
    assert!(stands.create.is_empty() && stands.delete.is_empty());
    let status = stands.status.expect("changed");
    assert_eq!((status.desired_number_scheduled, status.number_ready, status.updated_number_scheduled), (1, 1, Some(1)));
    assert_eq!((status.observed_generation, status.number_unavailable), (Some(2), None));
    let taken_back = run(&set, &pods, &[node("n1", false), node("n2", false)]);
    assert_eq!(taken_back.delete.len(), 1);
    let node_gone = run(&set, &pods, &[node("n1", false)]);
    assert_eq!(node_gone.delete.len(), 1);
}

#[test]
fn one_of_two_goes_and_a_going_one_blocks_its_successor() {
    let set = set("a");
    let nodes = [node("n1", true)];
    let pod = run(&set, &[], &nodes).create.remove(0);
    let two = [stored(pod.clone(), "b", "True"), stored(pod.clone(), "a", "True")];
    let step = run(&set, &two, &nodes);
    assert_eq!(step.delete.iter().filter_map(|p| p.metadata.name.as_deref()).collect::<Vec<_>>(), ["b"]);
    let mut going = pod;
    going.metadata.deletion_timestamp = Some(Time(now()));
    assert!(run(&set, &[stored(going, "a", "True")], &nodes).create.is_empty());
}

#[test]
fn a_new_template_goes_node_by_node() {
    let nodes = [node("n1", true), node("n2", true), node("n3", true)];
    let old: Vec<_> =
        run(&set("a"), &[], &nodes).create.into_iter().enumerate().map(|(i, p)| stored(p, &format!("g{i}"), "True")).collect();
    let step = run(&set("b"), &old, &nodes);
    assert_eq!((step.create.len(), step.delete.len()), (0, 1));
    let rest: Vec<_> = old.iter().filter(|p| !Arc::ptr_eq(p, &step.delete[0])).cloned().collect();
    let step = run(&set("b"), &rest, &nodes);
    assert_eq!((step.create.len(), step.delete.len()), (1, 0), "while one is missing no other goes");
    let mut more = rest.clone();
    more.push(stored(step.create[0].clone(), "new", "False"));
    assert!(run(&set("b"), &more, &nodes).delete.is_empty(), "nor while the new one is not ready");
    more.pop();
    more.push(stored(step.create[0].clone(), "new", "True"));
    assert_eq!(run(&set("b"), &more, &nodes).delete.len(), 1);
}
