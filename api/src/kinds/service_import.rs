//! `ServiceImport` of the MCS API (KEP-1645).

use std::net::IpAddr;

use k8s_openapi::api::core::v1::SessionAffinityConfig;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{IpFamily, Protocol, SessionAffinity, schema};
use crate::ClusterId;

/// What all exports of this namespace and name merge into; written by the syncer in every member where the namespace exists.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "multicluster.x-k8s.io",
    version = "v1beta1",
    kind = "ServiceImport",
    namespaced,
    derive = "PartialEq",
    shortname = "svcim",
    status = "ServiceImportStatus",
    printcolumn = r#"{"name":"Type","type":"string","jsonPath":".spec.type"}"#,
    printcolumn = r#"{"name":"IP","type":"string","jsonPath":".spec.ips"}"#,
    printcolumn = r#"{"name":"Clusters","type":"string","jsonPath":".status.clusters[*].cluster"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct ServiceImportSpec {
    /// The union of the exports' ports.
    #[serde(default)]
    pub ports: Vec<ImportPort>,
    /// The clusterset IPs, at most one of each family.
    #[serde(default)]
    #[schemars(length(max = 2))]
    pub ips: Vec<IpAddr>,
    /// With a clusterset IP, or headless.
    #[serde(rename = "type")]
    pub type_: ImportType,
    /// The address families, in the order of `ips`.
    #[serde(default)]
    #[schemars(length(max = 2))]
    pub ip_families: Vec<IpFamily>,
    /// The session affinity that was merged.
    #[serde(default)]
    pub session_affinity: SessionAffinity,
    /// Its configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::session_affinity_config")]
    pub session_affinity_config: Option<SessionAffinityConfig>,
    /// The internal traffic policy that was merged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub internal_traffic_policy: Option<String>,
    /// The traffic distribution that was merged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic_distribution: Option<String>,
}

/// Whether an import has a clusterset IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ImportType {
    /// It has.
    #[serde(rename = "ClusterSetIP")]
    ClusterSetIp,
    /// It is headless.
    Headless,
}

/// A port of an import.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImportPort {
    /// Its name, where it has one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Its transport protocol.
    #[serde(default)]
    pub protocol: Protocol,
    /// Its number.
    pub port: u16,
    /// Its application protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_protocol: Option<String>,
}

/// How the import stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceImportStatus {
    /// The clusters that export it.
    #[serde(default)]
    pub clusters: Vec<SourceCluster>,
    /// `Ready`.
    #[serde(default)]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
    /// Whether its EndpointSlices are in its namespace.
    #[serde(default)]
    pub endpoint_slice_objects: EndpointSliceObjects,
}

/// Whether EndpointSlices of an import are there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum EndpointSliceObjects {
    /// They are.
    Present,
    /// There is none.
    #[default]
    Absent,
}

/// A cluster that exports what is imported.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct SourceCluster {
    /// Its ID.
    pub cluster: ClusterId,
}
