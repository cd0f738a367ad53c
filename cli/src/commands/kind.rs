//! What is particular about clusters of kind: what their contexts are called, and how an image comes onto their nodes.

use anyhow::{Result, bail};
use daisy_api::ClusterId;
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;

/// The name of the kind cluster that a node is of, by its `spec.providerID`: `kind://PROVIDER/CLUSTER/NODE`.
pub(crate) fn name(node: &Node) -> Option<&str> {
    node.spec.as_ref()?.provider_id.as_deref()?.strip_prefix("kind://")?.split('/').nth(1)
}

/// Refuses a context that says it is one kind cluster's and leads to another's.
pub(crate) fn check_context(context: Option<&str>, nodes: &[Node]) -> Result<()> {
    let Some((context, said)) = context.and_then(|context| Some((context, context.strip_prefix("kind-")?))) else {
        return Ok(());
    };
    if let Some((node, found)) = nodes.iter().find_map(|node| Some((node, name(node)?))).filter(|(_, found)| *found != said) {
        bail!(
            "context {context} is of another cluster than its name says: node {} there is of the kind cluster {found}; nothing was changed. Join with --context kind-{found} if that is the one meant; `kind export kubeconfig --name {said}` writes the entry of {said} anew",
            node.name_any()
        );
    }
    Ok(())
}

/// How an image that a node could not get comes onto it.
pub(crate) fn remedy(image: &str, node: Option<&Node>) -> String {
    match node.and_then(name) {
        Some(cluster) => format!(
            "image {image}; load it onto the nodes: kind load docker-image {image} --name {cluster}, or from an archive: kind load image-archive FILE --name {cluster}; or name another with --image"
        ),
        None => format!("image {image}; name another with --image, or load it onto the nodes"),
    }
}

/// The commands that make a cluster with addresses that nobody else has.
pub(crate) fn anew(cluster: &str, broker_info: &str, id: &ClusterId) -> String {
    format!(
        "nothing was changed here. kind makes it with free ranges by: kind delete cluster --name {cluster}; daisy kind-config {broker_info} --name {id} > {id}.yaml; kind create cluster --config {id}.yaml"
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(name: &str, provider: Option<&str>) -> Node {
        serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"providerID": provider}})).expect("a node")
    }

    #[test]
    fn a_context_is_held_to_its_name() {
        let staging = [node("staging-control-plane", Some("kind://docker/staging/staging-control-plane"))];
        let error = check_context(Some("kind-local"), &staging).expect_err("it is staging's").to_string();
        for part in
            ["context kind-local", "staging-control-plane", "--context kind-staging", "kind export kubeconfig --name local"]
        {
            assert!(error.contains(part), "{part:?} is not in: {error}");
        }
        check_context(Some("kind-staging"), &staging).expect("it is");
        check_context(Some("mine"), &staging).expect("a name of the user's own");
        check_context(None, &staging).expect("none");
        for other in [None, Some("aws:///a/b"), Some("kind://docker")] {
            check_context(Some("kind-local"), &[node("a", other)]).expect("not of kind");
        }
    }

    #[test]
    fn an_image_is_loaded_as_its_cluster_loads_images() {
        let local = node("local-worker", Some("kind://podman/local/local-worker"));
        let said = remedy("daisy:1", Some(&local));
        assert!(said.contains("kind load docker-image daisy:1 --name local"), "{said}");
        let said = remedy("daisy:1", Some(&node("a", None)));
        assert!(!said.contains("kind") && said.contains("--image"), "{said}");
    }
}
