//! Whether a Deployment or DaemonSet is up, and if not, why: its pods know best.

use anyhow::{Context, Result};
use daisy_kubernetes::Api;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{ContainerStatus, Node, Pod};
use kube::api::ListParams;
use kube::{Client, ResourceExt};

use crate::commands::kind;
use crate::progress::Waiting;

/// What the Deployment waits for; `None` once all its replicas are of the newest template and ready.
pub(crate) async fn deployment(client: &Client, namespace: &str, name: &str) -> Result<Option<Waiting>> {
    let api: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let object = api.get(name).await.with_context(|| format!("reading Deployment {namespace}/{name}"))?;
    let want = object.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let status = object.status.unwrap_or_default();
    let seen = status.observed_generation >= object.metadata.generation;
    let (updated, ready) = (status.updated_replicas.unwrap_or(0), status.ready_replicas.unwrap_or(0));
    if seen && updated >= want && ready >= want {
        return Ok(None);
    }
    let what = format!("Deployment {namespace}/{name} to be ready ({} of {want} are)", ready.min(updated));
    why(client, namespace, name, what).await
}

/// What the DaemonSet waits for; `None` once each of its nodes has a ready pod of the newest template. Nodes that are not ready
/// are not waited for.
pub(crate) async fn daemon_set(client: &Client, namespace: &str, name: &str, unready_nodes: usize) -> Result<Option<Waiting>> {
    let api: Api<DaemonSet> = Api::namespaced(client.clone(), namespace);
    let object = api.get(name).await.with_context(|| format!("reading DaemonSet {namespace}/{name}"))?;
    let status = object.status.unwrap_or_default();
    let seen = status.observed_generation >= object.metadata.generation;
    let want = status.desired_number_scheduled;
    let least = (want - i32::try_from(unready_nodes).unwrap_or(0)).max(1);
    // The lab's controller does not count updates.
    let updated = status.updated_number_scheduled.unwrap_or(want);
    if seen && want >= 1 && status.number_ready >= least && updated >= least {
        return Ok(None);
    }
    let what = format!("DaemonSet {namespace}/{name} to be ready ({} of {want} are)", status.number_ready);
    why(client, namespace, name, what).await
}

/// With what keeps the first of its pods from being ready, if that is known.
async fn why(client: &Client, namespace: &str, name: &str, what: String) -> Result<Option<Waiting>> {
    let component = name.trim_start_matches("daisy-");
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let selector = format!("app.kubernetes.io/name=daisy,app.kubernetes.io/component={component}");
    let pods = pods.list(&ListParams::default().labels(&selector)).await.context("listing pods")?.items;
    let Some((pod, found)) = pods.iter().find_map(|pod| Some((pod, trouble(pod)?))) else {
        return Ok(Some(Waiting { what, trouble: String::new() }));
    };
    let trouble = match found {
        Trouble::Image { text, image } => {
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
            let node = match node {
                Some(node) => Api::<Node>::all(client.clone()).get_opt(node).await.context("reading the pod's node")?,
                None => None,
            };
            format!(": {text} ({})", kind::remedy(&image, node.as_ref()))
        }
        Trouble::Other(text) => format!(": {text}"),
    };
    Ok(Some(Waiting { what, trouble }))
}

/// Why a pod does not run.
enum Trouble {
    /// Its image is not to be had.
    Image { text: String, image: String },
    /// It is not placed, or it ends again and again.
    Other(String),
}

fn trouble(pod: &Pod) -> Option<Trouble> {
    let name = pod.name_any();
    let status = pod.status.as_ref()?;
    let unplaced = status.conditions.iter().flatten().find(|c| c.type_ == "PodScheduled" && c.status == "False");
    if let Some(condition) = unplaced {
        let why = condition.message.as_deref().unwrap_or_default();
        return Some(Trouble::Other(format!("pod {name} is on no node: {why}")));
    }
    status.container_statuses.iter().flatten().find_map(|container| container_trouble(&name, container))
}

fn container_trouble(pod: &str, status: &ContainerStatus) -> Option<Trouble> {
    let waiting = status.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.as_deref().unwrap_or_default();
    if matches!(reason, "" | "ContainerCreating" | "PodInitializing") {
        return None;
    }
    let message = waiting.message.as_deref().unwrap_or_default();
    let text = format!("pod {pod}: {reason}: {message}");
    Some(match reason {
        "ErrImagePull" | "ImagePullBackOff" | "ErrImageNeverPull" | "InvalidImageName" => {
            Trouble::Image { text, image: status.image.clone() }
        }
        "CrashLoopBackOff" => {
            let last = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
            let said = last.and_then(|end| end.message.as_deref()).map(|text| format!(", last words: {}", text.trim()));
            Trouble::Other(format!("{text}{} (kubectl logs {pod} shows more)", said.unwrap_or_default()))
        }
        _ => Trouble::Other(text),
    })
}
