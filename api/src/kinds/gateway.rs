//! `Gateway`: what a gateway says of itself and its connections, in `daisy-system`.

use std::net::SocketAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{GatewayRecord, schema};
use crate::{ClusterId, NodeName};

/// A gateway, named by its node. Made, written and read by the gateway; the syncer carries `status.localEndpoint` to the broker.
#[derive(CustomResource, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "daisy.supercluster.local",
    version = "v1alpha1",
    kind = "Gateway",
    namespaced,
    derive = "PartialEq",
    category = "daisy",
    status = "GatewayStatus",
    printcolumn = r#"{"name":"HA status","type":"string","jsonPath":".status.haStatus"}"#,
    printcolumn = r#"{"name":"Clusters","type":"string","jsonPath":".status.connections[*].clusterId"}"#,
    printcolumn = r#"{"name":"Connections","type":"string","jsonPath":".status.connections[*].status"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct GatewaySpec {
    /// The node it runs on.
    pub node: NodeName,
}

/// Whether a gateway carries traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum HaStatus {
    /// It carries traffic.
    Active,
    /// It is ready to.
    #[default]
    Passive,
}

/// What a gateway last knew.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GatewayStatus {
    /// The Daisy version it runs.
    #[serde(default)]
    pub version: String,
    /// Whether it carries traffic.
    #[serde(default)]
    pub ha_status: HaStatus,
    /// Its key, inner address and endpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_endpoint: Option<GatewayRecord>,
    /// Its connections, one for each gateway of each other cluster that it has to do with.
    #[serde(default)]
    pub connections: Vec<Connection>,
    /// Conditions: `Ready` (device, port and key are there).
    #[serde(default)]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}

/// Where a connection stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ConnectionStatus {
    /// No handshake yet.
    #[default]
    Connecting,
    /// Probes are answered.
    Connected,
    /// It was connected, or ought to be, and probes are not answered.
    Error,
}

/// A connection to one gateway of another cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Connection {
    /// The other cluster.
    pub cluster_id: ClusterId,
    /// Its gateway's node.
    pub node: NodeName,
    /// Where it stands.
    pub status: ConnectionStatus,
    /// Why, for people.
    #[serde(default)]
    pub status_message: String,
    /// Where the other end's datagrams come from, or where ours are tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<SocketAddr>,
    /// Whether the other end's address is none that its record names: a NAT lies between.
    #[serde(default, rename = "usingNAT")]
    pub using_nat: bool,
    /// Round-trip times through the tunnel, by probes.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "latencyRTT")]
    pub latency: Option<RoundTrip>,
    /// Since when it stands so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::optional_time")]
    pub since: Option<Time>,
}

/// Round-trip times in microseconds, over the connection's last probes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RoundTrip {
    /// The newest.
    pub last_micros: u64,
    /// The least.
    pub min_micros: u64,
    /// The mean.
    pub average_micros: u64,
    /// The greatest.
    pub max_micros: u64,
    /// The standard deviation.
    pub std_dev_micros: u64,
}
