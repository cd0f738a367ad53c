use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::control_plane::watch::Change;

fn now() -> Timestamp {
    Timestamp::from_second(1_000_000).expect("in range")
}

/// An API server that does what it is asked at once, and kubelets that make every Pod ready.
#[derive(Default)]
struct World {
    core: Core,
    version: u64,
    pods: Vec<Pod>,
    slices: Vec<EndpointSlice>,
    done: Vec<String>,
    /// What the watch has not said yet.
    unsaid: Vec<Seen>,
    kubelets: bool,
    refuse_pods: bool,
}

impl World {
    fn new() -> Self {
        let mut world = Self { kubelets: true, ..Self::default() };
        for seen in [
            Seen::Namespace(Change::List(Vec::new())),
            Seen::Node(Change::List(Vec::new())),
            Seen::Pod(Change::List(Vec::new())),
            Seen::Service(Change::List(Vec::new())),
            Seen::Slice(Change::List(Vec::new())),
            Seen::Deployment(Change::List(Vec::new())),
            Seen::DaemonSet(Change::List(Vec::new())),
            Seen::ServiceCidr(Change::List(Vec::new())),
        ] {
            world.core.handle_seen(seen);
        }
        world
    }

    fn stamp(&mut self, metadata: &mut ObjectMeta) {
        self.version += 1;
        metadata.resource_version = Some(self.version.to_string());
        if metadata.uid.is_none() {
            metadata.uid = Some(format!("uid-{}", self.version));
            metadata.creation_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now()));
        }
        if metadata.name.is_none() {
            metadata.name = metadata.generate_name.as_ref().map(|p| format!("{p}{:05}", self.version));
        }
    }

    fn node(&mut self, name: &str, labels: Value) -> Node {
        let mut node: Node = serde_json::from_value(json!({
            "metadata": { "name": name, "uid": format!("node-{name}"), "labels": labels },
            "status": { "conditions": [{ "type": "Ready", "status": "True" }] },
        }))
        .expect("a Node");
        self.stamp(&mut node.metadata);
        node
    }

    fn deployment(&mut self, replicas: usize, image: &str) -> Deployment {
        let mut deployment: Deployment = serde_json::from_value(json!({
            "metadata": { "name": "web", "namespace": "shop", "uid": "deployment-web", "generation": 1 },
            "spec": {
                "replicas": replicas, "selector": { "matchLabels": { "app": "web" } },
                "template": { "metadata": { "labels": { "app": "web" } }, "spec": { "containers": [{ "name": "c", "image": image }] } },
            },
        }))
        .expect("a Deployment");
        self.stamp(&mut deployment.metadata);
        deployment
    }

    fn service(&mut self) -> Service {
        let mut service: Service = serde_json::from_value(json!({
            "metadata": { "name": "web", "namespace": "shop", "uid": "service-web" },
            "spec": { "selector": { "app": "web" }, "ipFamilies": ["IPv4"], "ports": [{ "port": 80, "targetPort": 8080 }] },
        }))
        .expect("a Service");
        self.stamp(&mut service.metadata);
        service
    }

    fn put(&mut self, mut pod: Pod) -> Pod {
        self.stamp(&mut pod.metadata);
        self.pods.retain(|p| p.metadata.uid != pod.metadata.uid);
        self.pods.push(pod.clone());
        self.unsaid.push(Seen::Pod(Change::Set(pod.clone())));
        pod
    }

    fn remove(&mut self, pod: &Pod) {
        self.pods.retain(|p| p.metadata.uid != pod.metadata.uid);
        self.unsaid.push(Seen::Pod(Change::Gone(pod.clone())));
    }

    fn perform(&mut self, action: Action) -> Result<Option<Seen>, ()> {
        match action {
            Action::CreatePod(_) if self.refuse_pods => return Err(()),
            Action::CreatePod(pod) => {
                self.done.push("create".to_owned());
                return Ok(Some(Seen::Pod(Change::Set(self.put(*pod)))));
            }
            Action::DeletePod(pod) | Action::CollectPod(pod) | Action::CollectLostPod(pod) => {
                self.done.push("delete".to_owned());
                self.remove(&pod);
                return Ok(Some(Seen::Pod(Change::Deleted(Pod::clone(&pod)))));
            }
            Action::Bind { pod, node } => {
                let mut pod = Pod::clone(&pod);
                pod.spec.get_or_insert_default().node_name = Some(node);
                return Ok(Some(Seen::Pod(Change::Set(self.put(pod)))));
            }
            Action::Unschedulable { pod, message } => {
                let mut pod = Pod::clone(&pod);
                pod.status = serde_json::from_value(
                    json!({ "conditions": [{ "type": "PodScheduled", "status": "False", "message": message }] }),
                )
                .ok();
                self.done.push("unschedulable".to_owned());
                return Ok(Some(Seen::Pod(Change::Set(self.put(pod)))));
            }
            Action::CreateSlice(slice) | Action::ReplaceSlice(slice) => {
                let mut slice = *slice;
                self.stamp(&mut slice.metadata);
                self.slices.retain(|s| s.metadata.uid != slice.metadata.uid);
                self.slices.push(slice.clone());
                return Ok(Some(Seen::Slice(Change::Set(slice))));
            }
            Action::DeleteSlice(slice) | Action::CollectSlice(slice) => {
                self.slices.retain(|s| s.metadata.uid != slice.metadata.uid);
                return Ok(Some(Seen::Slice(Change::Deleted(EndpointSlice::clone(&slice)))));
            }
            Action::DeploymentStatus { status, .. } => self.done.push(format!("status {:?}", status.ready_replicas)),
            Action::DaemonSetStatus { status, .. } => self.done.push(format!("status {}", status.number_ready)),
            Action::ServiceCidrReady { name } => self.done.push(format!("cidr {name}")),
            Action::FurnishNamespace { name } => self.done.push(format!("furnish {name}")),
            Action::EmptyNamespace { .. } => self.done.push("empty".to_owned()),
        }
        Ok(None)
    }

    /// Until nothing is left to be done, at most so many times.
    fn settle(&mut self) {
        for _ in 0..200 {
            let Some((work, actions)) = self.core.poll_work(now()) else {
                if !self.say() {
                    return;
                }
                continue;
            };
            // Statuses are not kept here: that work is not looked at again until something else calls for it.
            let status = actions.iter().any(|a| matches!(a, Action::DeploymentStatus { .. } | Action::DaemonSetStatus { .. }));
            let results: Vec<_> = actions.into_iter().map(|a| self.perform(a)).collect();
            let well = results.iter().all(Result::is_ok);
            let answers = results.into_iter().flatten().flatten().collect();
            if status {
                self.core.busy.remove(&work);
            } else {
                self.core.handle_done(work, answers, well, now());
            }
        }
        panic!("it never ends: {:?}", self.done);
    }

    /// The watch says what happened, late; kubelets act. Whether anything was said.
    fn say(&mut self) -> bool {
        let unsaid = std::mem::take(&mut self.unsaid);
        let any = !unsaid.is_empty();
        unsaid.into_iter().for_each(|s| self.core.handle_seen(s));
        let waiting: Vec<Pod> = self
            .pods
            .iter()
            .filter(|p| self.kubelets && node_of(p).is_some() && !super::super::pods::is_ready(p))
            .cloned()
            .collect();
        for mut pod in waiting {
            let n = pod.metadata.resource_version.clone().unwrap_or_default();
            pod.status = serde_json::from_value(json!({ "phase": "Running", "podIP": format!("10.10.0.{n}"), "conditions": [{ "type": "Ready", "status": "True" }] })).ok();
            self.put(pod);
        }
        any || !self.unsaid.is_empty()
    }

    fn on_nodes(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for node in self.pods.iter().filter_map(node_of) {
            *counts.entry(node.to_owned()).or_default() += 1;
        }
        counts
    }
}

#[test]
fn from_a_deployment_to_endpoints() {
    let mut world = World::new();
    let seen = [Seen::Node(Change::Set(world.node("n1", json!({})))), Seen::Node(Change::Set(world.node("n2", json!({}))))];
    seen.into_iter().for_each(|s| world.core.handle_seen(s));
    let (deployment, service) = (world.deployment(4, "a"), world.service());
    world.core.handle_seen(Seen::Service(Change::Set(service.clone())));
    world.core.handle_seen(Seen::Deployment(Change::Set(deployment.clone())));
    world.settle();
    assert_eq!(
        world.on_nodes(),
        BTreeMap::from([("n1".to_owned(), 2), ("n2".to_owned(), 2)]),
        "spread, though all were chosen at once"
    );
    assert_eq!(world.done.iter().filter(|d| *d == "create").count(), 4, "none twice, though the watch was late");
    let ready: usize = world
        .slices
        .iter()
        .flat_map(|s| &s.endpoints)
        .filter(|e| e.conditions.as_ref().and_then(|c| c.ready) == Some(true))
        .count();
    assert_eq!((world.slices.len(), ready), (1, 4));
    assert!(world.done.contains(&"status Some(4)".to_owned()), "{:?}", world.done);
    // A new template: as many new Pods, and the slice follows.
    let mut next = world.deployment(4, "b");
    next.metadata.generation = Some(2);
    world.core.handle_seen(Seen::Deployment(Change::Set(next.clone())));
    world.settle();
    assert_eq!(world.pods.len(), 4);
    assert!(world.pods.iter().all(|p| p.spec.as_ref().is_some_and(|s| s.containers[0].image.as_deref() == Some("b"))));
    assert_eq!(world.slices[0].endpoints.len(), 4);
    // Both go: nothing of theirs stays.
    world.core.handle_seen(Seen::Deployment(Change::Gone(next)));
    world.settle();
    assert!(world.pods.is_empty() && world.slices[0].endpoints.is_empty());
    world.core.handle_seen(Seen::Service(Change::Gone(service)));
    world.settle();
    assert!(world.slices.is_empty());
}

#[test]
fn a_label_starts_the_gateway_and_its_end_ends_it() {
    let mut world = World::new();
    let seen = Seen::Node(Change::Set(world.node("n1", json!({}))));
    world.core.handle_seen(seen);
    let mut set: DaemonSet = serde_json::from_value(json!({
        "metadata": { "name": "gateway", "namespace": "shop", "uid": "set" },
        "spec": {
            "selector": { "matchLabels": { "app": "gateway" } },
            "template": { "metadata": { "labels": { "app": "gateway" } }, "spec": { "nodeSelector": { "gateway": "true" }, "containers": [] } },
        },
    }))
    .expect("a DaemonSet");
    world.stamp(&mut set.metadata);
    world.core.handle_seen(Seen::DaemonSet(Change::Set(set)));
    world.settle();
    assert!(world.pods.is_empty());
    let seen = Seen::Node(Change::Set(world.node("n1", json!({ "gateway": "true" }))));
    world.core.handle_seen(seen);
    world.settle();
    assert_eq!(world.on_nodes(), BTreeMap::from([("n1".to_owned(), 1)]));
    assert!(world.done.contains(&"status 1".to_owned()), "{:?}", world.done);
    let seen = Seen::Node(Change::Set(world.node("n1", json!({}))));
    world.core.handle_seen(seen);
    world.settle();
    assert!(world.pods.is_empty());
}

#[test]
fn a_pod_without_a_place_says_why_and_goes_once_there_is_one() {
    let mut world = World::new();
    let deployment = world.deployment(1, "a");
    world.core.handle_seen(Seen::Deployment(Change::Set(deployment)));
    world.settle();
    assert!(world.done.contains(&"unschedulable".to_owned()));
    let node = world.node("n1", json!({}));
    world.core.handle_seen(Seen::Node(Change::Set(node.clone())));
    world.settle();
    assert_eq!(world.on_nodes(), BTreeMap::from([("n1".to_owned(), 1)]));
    // The node goes, and the Pod with it; its successor waits again.
    world.core.handle_seen(Seen::Node(Change::Gone(node)));
    world.settle();
    assert_eq!(world.pods.len(), 1);
    assert_eq!(node_of(&world.pods[0]), None);
}

#[test]
fn what_is_refused_is_tried_again_later_and_not_at_once() {
    let mut world = World::new();
    world.refuse_pods = true;
    let deployment = world.deployment(1, "a");
    world.core.handle_seen(Seen::Deployment(Change::Set(deployment)));
    world.settle();
    let at = world.core.poll_timeout().expect("a retry is due");
    assert!(at > now());
    world.refuse_pods = false;
    world.core.handle_timeout(at);
    world.settle();
    assert_eq!(world.pods.len(), 1);
}

#[test]
fn a_namespace_is_furnished_once_and_emptied_at_its_end() {
    let mut world = World::new();
    let mut namespace: Namespace =
        serde_json::from_value(json!({ "metadata": { "name": "shop", "uid": "ns" } })).expect("a Namespace");
    world.stamp(&mut namespace.metadata);
    world.core.handle_seen(Seen::Namespace(Change::Set(namespace.clone())));
    world.settle();
    namespace.metadata.labels = Some([("a".to_owned(), "b".to_owned())].into());
    world.stamp(&mut namespace.metadata);
    world.core.handle_seen(Seen::Namespace(Change::Set(namespace.clone())));
    world.settle();
    assert_eq!(world.done, ["furnish shop"]);
    namespace.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now()));
    world.stamp(&mut namespace.metadata);
    world.core.handle_seen(Seen::Namespace(Change::Set(namespace)));
    world.settle();
    assert_eq!(world.done, ["furnish shop", "empty"]);
    assert!(world.core.poll_timeout().is_some(), "and looked at again");
}

#[derive(Clone, Debug)]
enum Step {
    NodeComes(usize),
    NodeGoes(usize),
    Replicas(usize),
    Image(usize),
    PodFails(usize),
    PodIsDeleted(usize),
    /// The watch of Pods was interrupted and lists anew.
    Relist,
    /// Everything is done before the next step; else it comes in between.
    Settle,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0usize..3).prop_map(Step::NodeComes),
        (0usize..3).prop_map(Step::NodeGoes),
        (0usize..5).prop_map(Step::Replicas),
        (0usize..3).prop_map(Step::Image),
        (0usize..5).prop_map(Step::PodFails),
        (0usize..5).prop_map(Step::PodIsDeleted),
        Just(Step::Relist),
        Just(Step::Settle),
        Just(Step::Settle),
    ]
}

impl World {
    /// One piece of work, performed; whether there was one.
    fn work(&mut self, at: Timestamp) -> bool {
        let Some((work, actions)) = self.core.poll_work(at) else { return false };
        let status = actions.iter().any(|a| matches!(a, Action::DeploymentStatus { .. }));
        let results: Vec<_> = actions.into_iter().map(|a| self.perform(a)).collect();
        if status {
            self.core.busy.remove(&work);
        } else {
            let well = results.iter().all(Result::is_ok);
            self.core.handle_done(work, results.into_iter().flatten().flatten().collect(), well, at);
        }
        true
    }

    /// Until nothing is left to be done and nothing to wait for.
    fn settle_with_time(&mut self) {
        let mut at = now();
        for _ in 0..2_000 {
            if self.work(at) || self.say() {
                continue;
            }
            let Some(next) = self.core.poll_timeout() else { return };
            at = next;
            self.core.handle_timeout(at);
        }
        panic!("it never ends");
    }

    fn step(&mut self, step: &Step, replicas: &mut usize, image: &mut usize) {
        let pick = |pods: &[Pod], n: usize| (!pods.is_empty()).then(|| pods[n % pods.len()].clone());
        match step {
            Step::NodeComes(n) => {
                let node = self.node(&format!("n{n}"), json!({}));
                self.core.handle_seen(Seen::Node(Change::Set(node)));
            }
            Step::NodeGoes(n) => {
                let node = self.node(&format!("n{n}"), json!({}));
                self.core.handle_seen(Seen::Node(Change::Gone(node)));
            }
            Step::Replicas(n) => *replicas = *n,
            Step::Image(n) => *image = *n,
            Step::PodFails(n) => {
                if let Some(mut pod) = pick(&self.pods, *n) {
                    pod.status = serde_json::from_value(json!({ "phase": "Failed" })).ok();
                    self.put(pod);
                }
            }
            Step::PodIsDeleted(n) => {
                if let Some(pod) = pick(&self.pods, *n) {
                    self.remove(&pod);
                }
            }
            Step::Relist => {
                self.unsaid.clear();
                self.core.handle_seen(Seen::Pod(Change::List(self.pods.clone())));
            }
            Step::Settle => self.settle_with_time(),
        }
        if matches!(step, Step::Replicas(_) | Step::Image(_)) {
            let deployment = self.deployment(*replicas, &format!("image-{image}"));
            self.core.handle_seen(Seen::Deployment(Change::Set(deployment)));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever happens in whatever order, however late the watch is: in the end there are as many Pods as were asked for, of the
    /// last template, on nodes that there are, and the slice holds exactly them.
    #[test]
    fn all_ends_well(steps in proptest::collection::vec(step(), 0..25)) {
        let mut world = World::new();
        let service = world.service();
        world.core.handle_seen(Seen::Service(Change::Set(service)));
        let (mut replicas, mut image) = (1, 0);
        for step in steps.iter().chain([&Step::NodeComes(0), &Step::Replicas(3)]) {
            world.step(step, &mut replicas, &mut image);
            // A little of what follows happens before the next step.
            world.work(now());
        }
        world.settle_with_time();
        prop_assert_eq!(world.pods.len(), 3);
        let of_last = |p: &Pod| p.spec.as_ref().is_some_and(|s| s.containers[0].image.as_deref() == Some(&format!("image-{image}")));
        prop_assert!(world.pods.iter().all(of_last));
        prop_assert!(world.pods.iter().all(|p| node_of(p).is_some_and(|n| world.core.nodes.get(&cluster_key(n)).is_some())));
        let mut held: Vec<_> = world.slices.iter().flat_map(|s| s.endpoints.iter().filter_map(|e| e.target_ref.as_ref()?.uid.clone())).collect();
        let mut want: Vec<_> = world.pods.iter().filter_map(|p| p.metadata.uid.clone()).collect();
        held.sort();
        want.sort();
        prop_assert_eq!(held, want);
    }
}
