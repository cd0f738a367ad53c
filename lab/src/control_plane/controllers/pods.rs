//! What controllers ask about Pods.

use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::jiff::Timestamp;

use daisy_api::names::short_hash;

/// A Pod that ended is replaced no sooner than this after it was made: one that fails at once would otherwise be made and
/// deleted without end. Seconds.
const REPLACE_AFTER: i64 = 1;

/// Whether the Pod's condition `Ready` is true.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// Whether it is being deleted.
pub(crate) fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Whether all its containers ended for good.
pub(crate) fn is_finished(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Failed" | "Succeeded"))
}

/// Whether it still counts as one of its controller's.
pub(crate) fn is_active(pod: &Pod) -> bool {
    !is_terminating(pod) && !is_finished(pod)
}

/// The node it is on.
pub(crate) fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).filter(|n| !n.is_empty())
}

/// The reference to the controller that an object belongs to.
pub(crate) fn controller_of(metadata: &ObjectMeta) -> Option<&OwnerReference> {
    metadata.owner_references.iter().flatten().find(|o| o.controller == Some(true))
}

/// When a Pod that ended may be replaced.
pub(crate) fn replaceable_at(pod: &Pod) -> Option<Timestamp> {
    let made = pod.metadata.creation_timestamp.as_ref()?.0;
    Timestamp::from_second(made.as_second() + REPLACE_AFTER + 1).ok()
}

/// Stands for a template in the label that tells a controller's generations of Pods apart.
pub(crate) fn template_hash(template: &PodTemplateSpec) -> String {
    short_hash(&serde_json::to_string(template).unwrap_or_default(), 10)
}

/// A label that a controller puts on its Pods, with the template's hash as value.
pub(crate) struct HashLabel<'a> {
    /// Its name.
    pub(crate) name: &'static str,
    /// The hash.
    pub(crate) hash: &'a str,
}

/// A Pod of this template, to be named by the API server.
pub(crate) fn from_template(
    template: &PodTemplateSpec,
    owner: &OwnerReference,
    namespace: &str,
    label: &HashLabel<'_>,
    prefix: &str,
) -> Pod {
    let base = template.metadata.clone().unwrap_or_default();
    let mut labels = base.labels.unwrap_or_default();
    labels.insert(label.name.to_owned(), label.hash.to_owned());
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(prefix.to_owned()),
            namespace: Some(namespace.to_owned()),
            labels: Some(labels),
            annotations: base.annotations,
            owner_references: Some(vec![owner.clone()]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}
