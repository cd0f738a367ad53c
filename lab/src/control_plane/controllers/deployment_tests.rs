use proptest::prelude::*;
use serde_json::json;

use super::*;

fn deployment(image: &str, replicas: usize, strategy: serde_json::Value) -> Deployment {
    serde_json::from_value(json!({
        "metadata": { "name": "web", "namespace": "shop", "uid": "u1", "generation": 1 },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": { "app": "web" } },
            "strategy": strategy,
            "template": {
                "metadata": { "labels": { "app": "web" } },
                "spec": { "containers": [{ "name": "c", "image": image }] },
            },
        },
    }))
    .expect("a Deployment")
}

fn now() -> Timestamp {
    Timestamp::from_second(1_000).expect("in range")
}

/// What the API server and the kubelet would make of a Pod.
fn stored(mut pod: Pod, n: usize) -> Arc<Pod> {
    pod.metadata.name = Some(format!("web-{n}"));
    pod.metadata.uid = Some(format!("p{n}"));
    pod.metadata.creation_timestamp = Some(Time(Timestamp::from_second(10).expect("in range")));
    Arc::new(pod)
}

fn with_status(pod: &Arc<Pod>, phase: &str, ready: &str) -> Arc<Pod> {
    let mut pod = Pod::clone(pod);
    pod.status = Some(
        serde_json::from_value(json!({ "phase": phase, "conditions": [{ "type": "Ready", "status": ready }] }))
            .expect("a status"),
    );
    Arc::new(pod)
}

fn all_ready(pods: &[Arc<Pod>]) -> usize {
    pods.iter().filter(|p| is_ready(p)).count()
}

#[test]
fn a_new_one_gets_all_its_pods_at_once_and_says_when_they_are_ready() {
    let mut d = deployment("a", 3, json!(null));
    let made = plan(&d, &[], now());
    assert_eq!((made.create.len(), made.delete.len()), (3, 0));
    let labels = made.create[0].metadata.labels.clone().expect("labels");
    assert_eq!(labels["app"], "web");
    assert!(
        made.create[0].metadata.generate_name.clone().expect("prefix").starts_with(&format!("web-{}-", labels[HASH_LABEL]))
    );
    let pods: Vec<_> =
        made.create.into_iter().enumerate().map(|(n, p)| with_status(&stored(p, n), "Running", "True")).collect();
    let done = plan(&d, &pods, now());
    let status = done.status.clone().expect("changed");
    assert_eq!(
        (status.replicas, status.ready_replicas, status.updated_replicas, status.available_replicas),
        (Some(3), Some(3), Some(3), Some(3))
    );
    assert_eq!(status.unavailable_replicas, None);
    assert!(status.conditions.as_ref().expect("conditions").iter().all(|c| c.status == "True"));
    d.status = Some(status);
    let again = plan(&d, &pods, now());
    assert!(again.status.is_none() && again.create.is_empty() && again.delete.is_empty());
}

#[test]
fn recreate_waits_until_the_old_are_gone() {
    let first = plan(&deployment("a", 2, json!({ "type": "Recreate" })), &[], now());
    let pods: Vec<_> =
        first.create.into_iter().enumerate().map(|(n, p)| with_status(&stored(p, n), "Running", "True")).collect();
    let d = deployment("b", 2, json!({ "type": "Recreate" }));
    let step = plan(&d, &pods, now());
    assert_eq!(
        (step.create.len(), step.delete.len()),
        (2, 2),
        "the old ones are as good as gone once their deletion is asked for"
    );
    let mut going = Pod::clone(&pods[0]);
    going.metadata.deletion_timestamp = Some(Time(now()));
    let step = plan(&d, &[Arc::new(going)], now());
    assert_eq!((step.create.len(), step.delete.len()), (0, 0));
}

#[test]
fn one_that_failed_is_replaced_but_not_in_a_hot_loop() {
    let d = deployment("a", 1, json!(null));
    let pod = with_status(&stored(plan(&d, &[], now()).create.remove(0), 0), "Failed", "False");
    let made = pod.metadata.creation_timestamp.clone().expect("set").0;
    let soon = plan(&d, &[Arc::clone(&pod)], made);
    assert!(soon.create.is_empty() && soon.delete.is_empty() && soon.again_at.is_some());
    let later = plan(&d, &[pod], now());
    assert_eq!((later.create.len(), later.delete.len()), (1, 1));
}

#[test]
fn percentages_round_as_kubernetes_rounds_them() {
    let percent = |t: &str| IntOrString::String(t.to_owned());
    assert_eq!(scaled(&percent("25%"), 3, true), 1);
    assert_eq!(scaled(&percent("25%"), 3, false), 0);
    assert_eq!(scaled(&percent("bad"), 3, true), 0);
    assert_eq!(scaled(&IntOrString::Int(-1), 3, true), 0);
}

proptest! {
    /// A roll ends with exactly the desired Pods of the new template, and on its way never has more than the most, nor, while
    /// new ones become ready sooner or later, fewer available than the least.
    #[test]
    fn a_roll_converges_within_its_bounds(
        before in 0usize..6, after in 0usize..6, surge in 0i32..3, unavailable in 0i32..3, ready in proptest::collection::vec(any::<bool>(), 0..40),
    ) {
        let strategy = json!({ "rollingUpdate": { "maxSurge": surge, "maxUnavailable": unavailable } });
        let first = deployment("a", before, strategy.clone());
        let mut pods: Vec<_> = plan(&first, &[], now()).create.into_iter().enumerate().map(|(n, p)| with_status(&stored(p, n), "Running", "True")).collect();
        let second = deployment("b", after, strategy);
        let bounds = Bounds::of(second.spec.as_ref().expect("spec"));
        let mut next = before;
        let mut choices = ready.into_iter();
        for round in 0..200 {
            let available = all_ready(&pods);
            let step = plan(&second, &pods, now());
            pods.retain(|p| !step.delete.iter().any(|d| Arc::ptr_eq(d, p)));
            let floor = bounds.least_available.min(available);
            prop_assert!(all_ready(&pods) >= floor, "round {round}: {} ready, at least {floor} wanted", all_ready(&pods));
            for pod in step.create {
                pods.push(stored(pod, next));
                next += 1;
            }
            prop_assert!(pods.len() <= bounds.most.max(before), "round {round}: {} Pods, at most {}", pods.len(), bounds.most);
            for pod in &mut pods {
                if !is_ready(pod) && choices.next().unwrap_or(true) {
                    *pod = with_status(pod, "Running", "True");
                }
            }
        }
        let last = plan(&second, &pods, now());
        prop_assert!(last.create.is_empty() && last.delete.is_empty());
        prop_assert_eq!(pods.len(), after);
        let hash = template_hash(&second.spec.as_ref().expect("spec").template);
        prop_assert!(pods.iter().all(|p| p.metadata.labels.as_ref().and_then(|l| l.get(HASH_LABEL)) == Some(&hash)));
    }
}
