//! `Heartbeat`: a cluster vouches for its records.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A sign of life, in the cluster's own namespace on the broker, named by its ID; written at most once a minute.
///
/// It is a kind of its own, apart from Cluster, so that whoever follows Clusters is not woken by every member's every heartbeat.
#[derive(CustomResource, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "daisy.supercluster.local",
    version = "v1alpha1",
    kind = "Heartbeat",
    namespaced,
    derive = "PartialEq",
    category = "daisy",
    printcolumn = r#"{"name":"Sequence","type":"integer","jsonPath":".spec.sequence"}"#,
    printcolumn = r#"{"name":"Records","type":"integer","jsonPath":".spec.records"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct HeartbeatSpec {
    /// Grows with each heartbeat. Readers time it from their own observation and compare no clocks.
    pub sequence: u64,
    /// The digest (hexadecimal SHA-256) over the names and sequences of all the records that the cluster stands by.
    #[schemars(length(min = 64, max = 64))]
    pub digest: String,
    /// How many records these are.
    pub records: u32,
    /// How often the cluster means to write one, in seconds.
    #[schemars(range(min = 1, max = 86_400))]
    pub interval_seconds: u32,
}
