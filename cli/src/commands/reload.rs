//! Whether CoreDNS has read a changed configuration: its `reload` plugin looks for one every half minute or so, and its metrics tell
//! which one is in force.

use std::collections::BTreeMap;
use std::time::Duration;

use daisy_kubernetes::Api;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Client, ResourceExt};

/// What the pods of a cluster's DNS are labelled with.
pub(super) const DNS_PODS: &str = "k8s-app=kube-dns";
/// The metric of the `reload` plugin: one series, which names the configuration by its hash, and none before the first reload.
const METRIC: &str = "coredns_reload_version_info{";
/// What every CoreDNS tells that has metrics.
const COREDNS: &str = "coredns_build_info{";
/// The port of CoreDNS's metrics, where the pod does not name it.
const METRICS_PORT: i32 = 9153;
/// A pod that does not answer in time is asked again.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// What CoreDNS's pods had in force, each by its UID.
#[derive(Debug)]
pub(super) struct Reload {
    namespace: String,
    had: BTreeMap<String, String>,
}

impl Reload {
    /// As it is before a change. Whoever may not reach the pods through the API server, and a CoreDNS without metrics, tell nothing.
    pub(super) async fn before(client: &Client, namespace: &str) -> Self {
        let mut had = BTreeMap::new();
        for (uid, pod) in pods(client, namespace).await {
            if let Some(version) = version(client, &pod).await {
                had.insert(uid, version);
            }
        }
        Self { namespace: namespace.to_owned(), had }
    }

    /// The namespace of CoreDNS's pods.
    pub(super) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Whether anything can be told.
    pub(super) fn is_told(&self) -> bool {
        !self.had.is_empty()
    }

    /// A pod that still has what it had, if any.
    pub(super) async fn pending(&mut self, client: &Client) -> Option<String> {
        let pods = pods(client, &self.namespace).await;
        // One that is gone has a successor, which began with the change.
        self.had.retain(|uid, _| pods.contains_key(uid));
        for (uid, pod) in &pods {
            let Some(had) = self.had.get(uid) else { continue };
            match version(client, pod).await {
                Some(is) if is != *had => {
                    self.had.remove(uid);
                }
                _ => return Some(pod.name_any()),
            }
        }
        None
    }
}

async fn pods(client: &Client, namespace: &str) -> BTreeMap<String, Pod> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let list = api.list(&ListParams::default().labels(DNS_PODS)).await.map(|list| list.items).unwrap_or_default();
    list.into_iter().filter_map(|pod| Some((pod.uid()?, pod))).collect()
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
    use super::*;

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
