//! `Cluster`: what a cluster says of itself, its gateways above all.

use std::net::{IpAddr, SocketAddr};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Envelope, schema};
use crate::keys::PublicKey;
use crate::{Cidr, ClusterId, NodeName};

/// A cluster, named by its ID: on the broker in the cluster's own namespace, written by its syncer; in every member's
/// `daisy-system`, written by that member's syncer after it was held to the Member, for gateways and route-agents to follow.
#[derive(CustomResource, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "daisy.supercluster.local",
    version = "v1alpha1",
    kind = "Cluster",
    namespaced,
    derive = "PartialEq",
    category = "daisy",
    status = "ClusterStatus",
    printcolumn = r#"{"name":"Cluster CIDRs","type":"string","jsonPath":".spec.clusterCidrs"}"#,
    printcolumn = r#"{"name":"Service CIDRs","type":"string","jsonPath":".spec.serviceCidrs"}"#,
    printcolumn = r#"{"name":"Gateways","type":"string","jsonPath":".spec.gateways[*].node"}"#,
    printcolumn = r#"{"name":"Version","type":"string","jsonPath":".spec.version"}"#,
    printcolumn = r#"{"name":"Heard","type":"date","jsonPath":".status.lastHeard"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct ClusterSpec {
    /// Sequence and signature.
    pub envelope: Envelope,
    /// Its pod CIDRs, as its Member has them.
    #[schemars(length(min = 1, max = 16))]
    pub cluster_cidrs: Vec<Cidr>,
    /// Its service CIDRs, as its Member has them.
    #[schemars(length(min = 1, max = 16))]
    pub service_cidrs: Vec<Cidr>,
    /// Its node range, as its Member has it.
    pub node_cidr: Cidr,
    /// Whether its Member's grant lets it export anything. Two clusters that both export nothing build no tunnel.
    #[serde(default)]
    pub exporter: bool,
    /// Its gateways, at most 8.
    #[serde(default)]
    #[schemars(length(max = 8))]
    pub gateways: Vec<GatewayRecord>,
    /// The clusters whose exports it uses: an exporter behind NAT watches for its own ID here, and dials.
    #[serde(default)]
    #[schemars(length(max = 1024))]
    pub consumes: Vec<ClusterId>,
    /// The cluster asks the registrar to end its membership.
    #[serde(default)]
    pub leaving: bool,
    /// The Daisy version it runs.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub version: String,
}

impl ClusterSpec {
    /// Every CIDR that is this cluster's own: pods, Services, nodes.
    pub fn cidrs(&self) -> impl Iterator<Item = Cidr> + '_ {
        self.cluster_cidrs.iter().chain(&self.service_cidrs).copied().chain(std::iter::once(self.node_cidr))
    }
}

/// One gateway of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GatewayRecord {
    /// The node it runs on.
    pub node: NodeName,
    /// Its WireGuard public key: the gateway's identity, kept across restarts.
    pub public_key: PublicKey,
    /// Its address in the node range: where probes are answered, inside the tunnel.
    pub address: IpAddr,
    /// Where its UDP port may be reached, best first. Empty for one that must dial.
    #[serde(default)]
    #[schemars(length(max = 8))]
    pub endpoints: Vec<TunnelEndpoint>,
}

/// Where a gateway's UDP port may be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct TunnelEndpoint {
    /// `ADDRESS:PORT`, IPv6 in brackets.
    pub address: SocketAddr,
    /// From where.
    pub reach: Reach,
}

/// From where an endpoint can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Reach {
    /// From anywhere: an address of global scope, or one that the operator says is public.
    Public,
    /// Only on networks that share it: an address of RFC 1918, RFC 6598 or RFC 4193.
    Private,
}

/// What this cluster observes of another; in `daisy-system` only.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterStatus {
    /// When its newest heartbeat was seen here, by this cluster's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::optional_time")]
    pub last_heard: Option<Time>,
    /// How many of its exports are imported here.
    #[serde(default)]
    pub exports: u32,
    /// Conditions: `Ready` (records agree with the Member), `BrokerConnected` on the local one.
    #[serde(default)]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}
