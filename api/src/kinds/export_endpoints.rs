//! `ExportEndpoints`: where an export's pods are, watched by those who consume it.

use std::net::IpAddr;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Envelope, IpFamily, Protocol};
use crate::{NamespaceName, ServiceKey, ServiceName};

/// Endpoints of an export: one record for each EndpointSlice of the Service, labelled `daisy.supercluster.local/export-id`.
/// Every address must lie in the cluster's CIDRs; readers drop those that do not.
#[derive(CustomResource, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "daisy.supercluster.local",
    version = "v1alpha1",
    kind = "ExportEndpoints",
    plural = "exportendpoints",
    namespaced,
    derive = "PartialEq",
    category = "daisy",
    printcolumn = r#"{"name":"Service namespace","type":"string","jsonPath":".spec.namespace"}"#,
    printcolumn = r#"{"name":"Service","type":"string","jsonPath":".spec.name"}"#,
    printcolumn = r#"{"name":"Addresses","type":"string","jsonPath":".spec.endpoints[*].addresses[0]"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct ExportEndpointsSpec {
    /// Sequence and signature.
    pub envelope: Envelope,
    /// The namespace of the exported Service.
    pub namespace: NamespaceName,
    /// Its name.
    pub name: ServiceName,
    /// The family of all addresses.
    pub address_type: IpFamily,
    /// The endpoints, at most 1,000, as an EndpointSlice has at most.
    #[serde(default)]
    #[schemars(length(max = 1000))]
    pub endpoints: Vec<Endpoint>,
    /// The ports that they listen on, matched to the Service's by name.
    #[serde(default)]
    #[schemars(length(max = 100))]
    pub ports: Vec<EndpointPort>,
}

impl ExportEndpointsSpec {
    /// What the endpoints belong to.
    #[must_use]
    pub fn key(&self) -> ServiceKey {
        ServiceKey { namespace: self.namespace.clone(), name: self.name.clone() }
    }
}

/// One endpoint: a pod, without its node or its name, which mean nothing elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// Its addresses; the first is used.
    #[schemars(length(min = 1, max = 100))]
    pub addresses: Vec<IpAddr>,
    /// Whether it is ready for traffic.
    #[serde(default = "yes")]
    pub ready: bool,
    /// Whether it serves, even while it ends.
    #[serde(default = "yes")]
    pub serving: bool,
    /// Whether it is ending.
    #[serde(default)]
    pub terminating: bool,
    /// Its host name, of a headless Service's pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub hostname: Option<String>,
    /// The zone that it is in, for those who prefer their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub zone: Option<String>,
}

fn yes() -> bool {
    true
}

/// A port that endpoints listen on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct EndpointPort {
    /// The name of the Service's port; empty where it has none.
    #[serde(default)]
    #[schemars(length(max = 63))]
    pub name: String,
    /// Its transport protocol.
    #[serde(default)]
    pub protocol: Protocol,
    /// The number that pods listen on, 1 to 65,535.
    #[schemars(range(min = 1))]
    pub port: u16,
}
