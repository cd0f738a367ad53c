//! `Invitation`: an administrator's word that clusters may join, until when, how many, and what they may export.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema;
use crate::{ClusterId, Grant};

/// An invitation, in `daisy-broker`. Written by the administrator; its status by the registrar.
///
/// Its token is that of the ServiceAccount `invitation-NAME`, which can create JoinRequests and get those whose name it knows.
#[derive(CustomResource, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "daisy.supercluster.local",
    version = "v1alpha1",
    kind = "Invitation",
    namespaced,
    derive = "PartialEq",
    category = "daisy",
    status = "InvitationStatus",
    printcolumn = r#"{"name":"Grant","type":"string","jsonPath":".spec.grant"}"#,
    printcolumn = r#"{"name":"Used","type":"integer","jsonPath":".status.used"}"#,
    printcolumn = r#"{"name":"Max","type":"integer","jsonPath":".spec.maxUses"}"#,
    printcolumn = r#"{"name":"Expires","type":"date","jsonPath":".spec.expires"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct InvitationSpec {
    /// What a cluster that joins by it may export.
    pub grant: Grant,
    /// When it ends.
    #[schemars(schema_with = "schema::time")]
    pub expires: Time,
    /// How many clusters may join by it.
    #[schemars(range(min = 1, max = 100_000))]
    pub max_uses: u32,
    /// Whether they may have CIDRs of public addresses, which every member then sends to them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub public_cidrs: bool,
}

/// How far an invitation is used up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InvitationStatus {
    /// How many clusters joined by it.
    #[serde(default)]
    pub used: u32,
    /// Which, so that a request that is handled twice counts once.
    #[serde(default)]
    pub members: Vec<ClusterId>,
}
