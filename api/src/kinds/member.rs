//! `Member`: what the registrar vouches for about a cluster.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::keys::VerifyingKey;
use crate::{Cidr, Grant};

/// A member of the supercluster, in `daisy-broker`, named by its cluster ID. Only the registrar and the administrator write it;
/// every cluster reads it and holds the cluster's records to it.
#[derive(CustomResource, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "daisy.supercluster.local",
    version = "v1alpha1",
    kind = "Member",
    namespaced,
    derive = "PartialEq",
    category = "daisy",
    printcolumn = r#"{"name":"Grant","type":"string","jsonPath":".spec.grant"}"#,
    printcolumn = r#"{"name":"Cluster CIDRs","type":"string","jsonPath":".spec.clusterCidrs"}"#,
    printcolumn = r#"{"name":"Service CIDRs","type":"string","jsonPath":".spec.serviceCidrs"}"#,
    printcolumn = r#"{"name":"Node CIDR","type":"string","jsonPath":".spec.nodeCidr"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct MemberSpec {
    /// The UID of the cluster's `kube-system` namespace.
    #[schemars(length(min = 1, max = 128))]
    pub cluster_uid: String,
    /// Its pod CIDRs: nobody else's.
    #[schemars(length(min = 1, max = 16))]
    pub cluster_cidrs: Vec<Cidr>,
    /// Its service CIDRs: nobody else's.
    #[schemars(length(min = 1, max = 16))]
    pub service_cidrs: Vec<Cidr>,
    /// Its node range: nobody else's.
    pub node_cidr: Cidr,
    /// What it may export.
    pub grant: Grant,
    /// What its records are verified with.
    pub signing_key: VerifyingKey,
    /// The Invitation by which it joined.
    #[serde(default)]
    #[schemars(length(max = 63))]
    pub invitation: String,
}

impl MemberSpec {
    /// Every CIDR that is this cluster's own: pods, Services, nodes.
    pub fn cidrs(&self) -> impl Iterator<Item = Cidr> + '_ {
        self.cluster_cidrs.iter().chain(&self.service_cidrs).copied().chain(std::iter::once(self.node_cidr))
    }
}
