//! Whether CoreDNS has read a changed configuration: its `reload` plugin looks for one every half minute or so, and its metrics tell
//! which one is in force. A pod that is new has it from the start (decision 0014).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use daisy_kubernetes::Api;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde_json::json;

/// What the pods of a cluster's DNS are labelled with.
pub(super) const DNS_PODS: &str = "k8s-app=kube-dns";
/// Annotation on CoreDNS's pods: what their Corefile was told last.
pub(super) const TOLD: &str = "daisy.supercluster.local/corefile-forwards-to";
/// The metric of the `reload` plugin: one series, which names the configuration by its hash, and none before the first reload.
const METRIC: &str = "coredns_reload_version_info{";
/// What every CoreDNS tells that has metrics.
const COREDNS: &str = "coredns_build_info{";
/// The port of CoreDNS's metrics, where the pod does not name it.
const METRICS_PORT: i32 = 9153;
/// A pod that does not answer in time is asked again.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// For how long CoreDNS may take to read a changed configuration: it looks every 30 s, give or take 7.5, and the kubelet comes first.
pub(super) const RELOADED_WITHIN: Duration = Duration::from_secs(75);
/// Between two looks at the pods.
const LOOK: Duration = Duration::from_millis(200);
/// Between two nudges of a pod that is not ready yet.
const NUDGE: Duration = Duration::from_millis(600);

/// What CoreDNS's pods had in force.
#[derive(Debug)]
pub(super) struct Reload {
    namespace: String,
    way: Way,
    /// By the UID of a pod that has the change to come; `None` where it did not tell, as one does not that begins to run.
    had: BTreeMap<String, Option<String>>,
    /// All pods, as they were before the change.
    pods: BTreeMap<String, Pod>,
}

/// How a changed configuration comes to be in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Each pod reads it in its own time.
    Awaited,
    /// Pods that have not read it are replaced, one after another, while the others answer.
    Replaced,
}

impl Reload {
    /// As it is before a change. Whoever may not reach the pods through the API server, and a CoreDNS without metrics, tell nothing;
    /// then there is nothing to wait for, but a pod can be replaced whatever it had.
    pub(super) async fn before(client: &Client, namespace: &str, way: Way) -> Self {
        let mut had = BTreeMap::new();
        let pods = pods(client, namespace).await.unwrap_or_default();
        for (uid, pod) in &pods {
            let version = version(client, pod).await;
            if version.is_some() || way == Way::Replaced {
                had.insert(uid.clone(), version);
            }
        }
        Self { namespace: namespace.to_owned(), way, had, pods }
    }

    /// The namespace of CoreDNS's pods.
    pub(super) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// How the change comes to be in force.
    pub(super) fn way(&self) -> Way {
        self.way
    }

    /// Whether anything can be told.
    pub(super) fn is_told(&self) -> bool {
        !self.had.is_empty()
    }

    /// Waits until every pod has the change.
    ///
    /// # Errors
    /// The name of a pod that has not, after [`RELOADED_WITHIN`].
    pub(super) async fn in_force(mut self, client: Client) -> Result<(), String> {
        let started = Instant::now();
        let mut nudged = started;
        let mut seen = self.pods.clone();
        loop {
            // An API server that fails has not said that the pods are gone: they are as they were seen last.
            if let Ok(pods) = pods(&client, &self.namespace).await {
                seen = pods;
            }
            let Some(pod) = self.pending(&client, &seen).await else { return Ok(()) };
            if started.elapsed() > RELOADED_WITHIN {
                return Err(pod.name_any());
            }
            if self.way == Way::Replaced {
                if !is_going(pod) && self.may_go(pod, &seen) {
                    // Whoever may not, or is told that a PodDisruptionBudget forbids it now, or that the pod has changed, waits.
                    let _ = evict(&client, pod).await;
                }
                if nudged.elapsed() >= NUDGE {
                    for (_, pod) in seen.iter().filter(|(uid, pod)| !self.had.contains_key(*uid) && begins(pod)) {
                        nudge(&client, pod).await;
                    }
                    nudged = Instant::now();
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// A pod that still has what it had, if any.
    async fn pending<'a>(&mut self, client: &Client, pods: &'a BTreeMap<String, Pod>) -> Option<&'a Pod> {
        // One that is gone has a successor, which began with the change.
        self.had.retain(|uid, _| pods.contains_key(uid));
        // Until it is gone it may still be asked; but those that stay come first, since they can be replaced.
        let (going, staying): (Vec<_>, Vec<_>) = pods.iter().partition(|(_, pod)| is_going(pod));
        for (uid, pod) in staying.into_iter().chain(going) {
            let Some(had) = self.had.get(uid) else { continue };
            let is = if had.is_some() { version(client, pod).await } else { None };
            if is.is_none() || is == *had {
                return Some(pod);
            }
            self.had.remove(uid);
        }
        None
    }

    /// Whether names are answered as before when this pod goes: it does not answer, or it is not the only one that does, and as many
    /// answer as there were before the change.
    fn may_go(&self, pod: &Pod, pods: &BTreeMap<String, Pod>) -> bool {
        let answering = pods.values().filter(|pod| !is_going(pod) && is_ready(pod)).count();
        !is_ready(pod) || answering >= self.pods.len().max(2)
    }
}

fn is_going(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

fn is_ready(pod: &Pod) -> bool {
    let mut conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Whether it runs, and is not ready yet.
fn begins(pod: &Pod) -> bool {
    let mut containers = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    !is_going(pod) && !is_ready(pod) && containers.any(|container| container.state.iter().any(|state| state.running.is_some()))
}

/// Has the kubelet ask a pod now whether it is ready: whenever a pod that is not has changed, it does, and else once in its probe's period,
/// ten seconds.
async fn nudge(client: &Client, pod: &Pod) {
    let value = if pod.annotations().contains_key(TOLD) { None } else { Some("") };
    let _ = tell(client, pod, value).await;
}

/// Sets or removes what a pod says of its Corefile; its kubelet looks at it then.
pub(super) async fn tell(client: &Client, pod: &Pod, value: Option<&str>) -> kube::Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    let patch = json!({ "metadata": { "annotations": { TOLD: value } } });
    pods.patch(&pod.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await.map(drop)
}

/// Lets a pod go as `kubectl drain` does: within its PodDisruptionBudget, and with the time that it asks for; and only while it is as
/// it was seen.
async fn evict(client: &Client, pod: &Pod) -> Option<()> {
    let (namespace, name, uid, version) = (pod.namespace()?, pod.name_any(), pod.uid()?, pod.resource_version()?);
    let eviction = json!({
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": { "name": name, "namespace": namespace },
        "deleteOptions": { "preconditions": { "uid": uid, "resourceVersion": version } },
    });
    let request = http::Request::post(format!("/api/v1/namespaces/{namespace}/pods/{name}/eviction"))
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(eviction.to_string().into_bytes())
        .ok()?;
    client.request_text(request).await.ok().map(drop)
}

/// The pods of the cluster's DNS, by UID.
async fn pods(client: &Client, namespace: &str) -> kube::Result<BTreeMap<String, Pod>> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let list = api.list(&ListParams::default().labels(DNS_PODS)).await?;
    Ok(list.items.into_iter().filter_map(|pod| Some((pod.uid()?, pod))).collect())
}

/// The hash of the configuration that a pod has in force; empty for the one that it began with.
async fn version(client: &Client, pod: &Pod) -> Option<String> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let mut ports = containers.flat_map(|container| container.ports.iter().flatten());
    let port = ports.find(|port| port.name.as_deref() == Some("metrics")).map_or(METRICS_PORT, |port| port.container_port);
    let (namespace, name) = (pod.namespace()?, pod.name_any());
    let path = format!("/api/v1/namespaces/{namespace}/pods/{name}:{port}/proxy/metrics");
    let request = http::Request::get(path).body(Vec::new()).ok()?;
    let answer = tokio::time::timeout(ANSWER_WITHIN, client.request_text(request)).await.ok()?.ok()?;
    in_force(&answer).map(str::to_owned)
}

fn in_force(metrics: &str) -> Option<&str> {
    match metrics.lines().find_map(|line| line.strip_prefix(METRIC)) {
        Some(labels) => labels.split_once("value=\"")?.1.split_once('"').map(|(hash, _)| hash),
        None => metrics.lines().any(|line| line.starts_with(COREDNS)).then_some(""),
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    /// Pods by name, each ready or not, going or not.
    fn dns(pods: &[(&str, bool, bool)]) -> BTreeMap<String, Pod> {
        let pod = |(name, ready, going): &(&str, bool, bool)| {
            let pod = json!({
                "metadata": { "name": name, "deletionTimestamp": going.then_some("2026-01-01T00:00:00Z") },
                "status": { "conditions": [{ "type": "Ready", "status": if *ready { "True" } else { "False" } }] },
            });
            ((*name).to_owned(), serde_json::from_value(pod).expect("a pod"))
        };
        pods.iter().map(pod).collect()
    }

    #[tokio::test]
    async fn an_api_server_that_fails_has_not_said_that_the_pods_are_gone() {
        let fails = tower::service_fn(|_| async {
            let answer = http::Response::builder().status(500).body(kube::client::Body::empty());
            Ok::<_, Infallible>(answer.expect("an answer"))
        });
        for way in [Way::Awaited, Way::Replaced] {
            let had = BTreeMap::from([("a".to_owned(), Some(String::new()))]);
            let reload = Reload { namespace: "kube-system".to_owned(), way, had, pods: dns(&[("a", true, false)]) };
            let waiting = reload.in_force(Client::new(fails, "default"));
            let ended = tokio::time::timeout(LOOK * 4, waiting).await;
            assert!(ended.is_err(), "{way:?}: it ended with {ended:?}");
        }
    }

    /// Whether one of the pods may go, where there were so many before.
    fn may_go(were: usize, name: &str, pods: &[(&str, bool, bool)]) -> bool {
        let were = (0..were).map(|n| (n.to_string(), Pod::default())).collect();
        let reload = Reload { namespace: String::new(), way: Way::Replaced, had: BTreeMap::new(), pods: were };
        let pods = dns(pods);
        reload.may_go(&pods[name], &pods)
    }

    #[test]
    fn a_pod_goes_only_while_all_others_answer() {
        assert!(may_go(2, "a", &[("a", true, false), ("b", true, false)]));
        assert!(!may_go(1, "a", &[("a", true, false)]), "the only one");
        assert!(!may_go(2, "a", &[("a", true, false), ("b", false, false)]), "the other does not answer");
        assert!(!may_go(2, "b", &[("b", true, false)]), "the other's successor is not there");
        assert!(!may_go(3, "a", &[("a", true, false), ("b", true, false)]), "a successor is not there");
        let going = [("a", true, true), ("b", true, false), ("c", false, false)];
        assert!(!may_go(2, "b", &going), "one goes, and its successor does not answer yet");
        let gone = [("a", true, true), ("b", true, false), ("c", true, false)];
        assert!(may_go(2, "b", &gone), "its successor answers");
    }

    #[test]
    fn a_pod_that_does_not_answer_goes_at_once() {
        assert!(may_go(2, "b", &[("a", true, false), ("b", false, false)]));
        assert!(may_go(1, "a", &[("a", false, false)]), "the only one");
    }

    #[test]
    fn a_pod_begins_from_when_it_runs_until_it_is_ready() {
        let pods = dns(&[("a", true, false), ("b", false, false), ("c", false, true)]);
        let running = |name: &str, running: bool| {
            let mut pod = pods[name].clone();
            let state = if running { json!({ "running": {} }) } else { json!({ "waiting": {} }) };
            let container =
                json!({ "name": "coredns", "ready": false, "restartCount": 0, "image": "", "imageID": "", "state": state });
            pod.status.as_mut().expect("a status").container_statuses =
                Some(vec![serde_json::from_value(container).expect("a container's status")]);
            begins(&pod)
        };
        assert!(running("b", true));
        assert!(!running("a", true), "it is ready");
        assert!(!running("b", false), "there is nothing to ask yet");
        assert!(!running("c", true), "it goes");
        assert!(!begins(&pods["b"]), "its kubelet has not said anything");
    }

    #[test]
    fn the_configuration_in_force_is_read_from_the_metrics() {
        let build = "coredns_build_info{version=\"1.12.0\"} 1\n";
        let reload =
            "# TYPE coredns_reload_version_info gauge\ncoredns_reload_version_info{hash=\"sha512\",value=\"ab12\"} 1\n";
        assert_eq!(in_force(&format!("{build}{reload}")), Some("ab12"));
        assert_eq!(in_force(build), Some(""));
        assert_eq!(in_force("go_goroutines 12\n"), None);
    }
}
