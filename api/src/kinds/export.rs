//! `Export`: the small record of what a cluster offers, which everyone watches.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Envelope, IpFamily, Protocol, SessionAffinity, schema};
use crate::{NameError, NamespaceName, ServiceKey, ServiceName};

/// An export, in the exporting cluster's namespace on the broker, named [`ServiceKey::record_name`].
#[derive(CustomResource, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "daisy.supercluster.local",
    version = "v1alpha1",
    kind = "Export",
    namespaced,
    derive = "PartialEq",
    category = "daisy",
    printcolumn = r#"{"name":"Service namespace","type":"string","jsonPath":".spec.namespace"}"#,
    printcolumn = r#"{"name":"Service","type":"string","jsonPath":".spec.name"}"#,
    printcolumn = r#"{"name":"Type","type":"string","jsonPath":".spec.type"}"#,
    printcolumn = r#"{"name":"Exported","type":"date","jsonPath":".spec.exportedAt"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct ExportSpec {
    /// Sequence and signature.
    pub envelope: Envelope,
    /// The namespace of the exported Service.
    pub namespace: NamespaceName,
    /// Its name.
    pub name: ServiceName,
    /// The creation time of the ServiceExport: the oldest wins a conflict, the cluster ID breaks a tie.
    #[schemars(schema_with = "schema::time")]
    pub exported_at: Time,
    /// With a clusterset IP, or headless.
    #[serde(rename = "type")]
    pub type_: ExportType,
    /// The Service's ports.
    #[serde(default)]
    #[schemars(length(max = 100))]
    pub ports: Vec<ServicePort>,
    /// The Service's own ClusterIPs, reachable from other clusters while it is exported.
    #[serde(default, rename = "clusterIPs")]
    #[schemars(length(max = 2))]
    pub cluster_ips: Vec<IpAddr>,
    /// Its session affinity.
    #[serde(default)]
    pub session_affinity: SessionAffinity,
    /// How long a client stays with an endpoint, in seconds (1 to 86,400).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86_400))]
    pub session_affinity_seconds: Option<i32>,
    /// Its address families, the first one preferred.
    #[serde(default)]
    #[schemars(length(max = 2))]
    pub ip_families: Vec<IpFamily>,
    /// Its internal traffic policy, where set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub internal_traffic_policy: Option<String>,
    /// Its traffic distribution, where set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub traffic_distribution: Option<String>,
    /// Labels that the ServiceExport asks to be exported.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub exported_labels: BTreeMap<String, String>,
    /// Annotations that the ServiceExport asks to be exported.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub exported_annotations: BTreeMap<String, String>,
}

impl ExportSpec {
    /// What is exported.
    #[must_use]
    pub fn key(&self) -> ServiceKey {
        ServiceKey { namespace: self.namespace.clone(), name: self.name.clone() }
    }
}

impl ServiceKey {
    /// The key of an object of this namespace and name.
    ///
    /// # Errors
    /// A name that no Service can have.
    pub fn of<K: kube::ResourceExt>(object: &K) -> Result<Self, NameError> {
        Self::parse(&object.namespace().unwrap_or_default(), &object.name_any())
    }
}

/// Whether an export has a clusterset IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ExportType {
    /// It has.
    #[serde(rename = "ClusterSetIP")]
    ClusterSetIp,
    /// It is headless: names lead to endpoints.
    Headless,
}

/// A port of an exported Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServicePort {
    /// Its name; empty where it has none.
    #[serde(default)]
    #[schemars(length(max = 63))]
    pub name: String,
    /// Its transport protocol.
    #[serde(default)]
    pub protocol: Protocol,
    /// Its number, 1 to 65,535.
    #[schemars(range(min = 1))]
    pub port: u16,
    /// Its application protocol, where set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub app_protocol: Option<String>,
}
