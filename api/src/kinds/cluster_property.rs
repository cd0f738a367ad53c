//! `ClusterProperty` of the About API (KEP-2149).

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A fact about the cluster that it is in; its name says which. Two are written by a join: `cluster.clusterset.k8s.io`, the
/// cluster's ID, and `clusterset.k8s.io`, the broker's ID, the same in all members. Both go with a leave.
#[derive(CustomResource, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "about.k8s.io",
    version = "v1beta1",
    kind = "ClusterProperty",
    plural = "clusterproperties",
    derive = "PartialEq",
    category = "multicluster",
    printcolumn = r#"{"name":"Value","type":"string","jsonPath":".spec.value"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
pub struct ClusterPropertySpec {
    /// What is so.
    #[schemars(length(min = 1, max = 128_000))]
    pub value: String,
}
