//! `JoinRequest`: a cluster asks the registrar to become a member.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema;
use crate::keys::{PublicKey, Signature, VerifyingKey};
use crate::{Cidr, ClusterId};

/// A request to join, in `daisy-broker`, under a name that nobody can guess (`join-` and 26 random characters or more).
///
/// With both lists of CIDRs empty it asks only for free ranges, which are then reserved for an hour, and no member is made.
#[derive(CustomResource, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "daisy.supercluster.local",
    version = "v1alpha1",
    kind = "JoinRequest",
    namespaced,
    derive = "PartialEq",
    category = "daisy",
    status = "JoinRequestStatus",
    printcolumn = r#"{"name":"Cluster","type":"string","jsonPath":".spec.clusterId"}"#,
    printcolumn = r#"{"name":"Phase","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Message","type":"string","jsonPath":".status.message"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct JoinRequestSpec {
    /// The Invitation by which it asks; admission holds it to the token's own.
    #[schemars(length(min = 1, max = 63))]
    pub invitation: String,
    /// The ID that the cluster would have.
    pub cluster_id: ClusterId,
    /// The UID of the cluster's `kube-system` namespace: tells a cluster from another made anew under its name.
    #[schemars(length(min = 1, max = 128))]
    pub cluster_uid: String,
    /// Its pod CIDRs; empty, with `serviceCidrs`, to be given free ones.
    #[serde(default)]
    #[schemars(length(max = 16))]
    pub cluster_cidrs: Vec<Cidr>,
    /// Its service CIDRs.
    #[serde(default)]
    #[schemars(length(max = 16))]
    pub service_cidrs: Vec<Cidr>,
    /// The Curve25519 key that the credential is to be sealed to.
    pub sealing_key: PublicKey,
    /// The Ed25519 key that the cluster's records will be signed with.
    pub signing_key: VerifyingKey,
    /// The signature with `signingKey` over the fields above and the request's name: whoever asks holds the key. A member's own
    /// key is what lets its cluster, and nobody who merely read its Member, ask anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<Signature>,
    /// Takes the place of a member of the same ID and another UID.
    #[serde(default)]
    pub replace: bool,
    /// The Daisy version that asks.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub version: String,
}

/// Where a request stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum JoinPhase {
    /// Not yet judged.
    #[default]
    Pending,
    /// The cluster is a member; `sealedCredential` holds its credential.
    Admitted,
    /// The ranges in `ranges` are reserved; nothing else was done.
    Reserved,
    /// Refused, for the reason and with the message given; nothing was changed.
    Refused,
}

/// A cluster's ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Ranges {
    /// Pod CIDRs.
    pub cluster_cidrs: Vec<Cidr>,
    /// Service CIDRs.
    pub service_cidrs: Vec<Cidr>,
    /// The node range: one address a node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_cidr: Option<Cidr>,
}

/// The registrar's answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JoinRequestStatus {
    /// Where the request stands.
    #[serde(default)]
    pub phase: JoinPhase,
    /// Why, in CamelCase: `Admitted`, `Reserved`, `CidrOverlap`, `ClusterIdInUse`, `InvitationUsedUp`, `InvitationExpired`, …
    #[serde(default)]
    pub reason: String,
    /// Why, for people: which object and field, and what to do.
    #[serde(default)]
    pub message: String,
    /// The ranges that the cluster has, or that are reserved for it; where refused for overlap, free ones to take instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ranges: Option<Ranges>,
    /// Until when reserved ranges are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::optional_time")]
    pub reserved_until: Option<Time>,
    /// The cluster's token for its own namespace, in a sealed box (X25519, XSalsa20-Poly1305) to `sealingKey`, base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed_credential: Option<String>,
}
