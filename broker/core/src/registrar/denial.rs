//! Why a JoinRequest is refused: a reason for programs, and a message that says what to do.

use daisy_api::version::{Skew, VersionError};
use daisy_api::{Cidr, ClusterId, JoinPhase, JoinRequestStatus, Ranges};
use k8s_openapi::jiff::Timestamp;
use thiserror::Error;

use super::ranges::Purpose;

/// The longest cluster ID: with `daisy-cluster-` before it, it is the name of a namespace.
pub const ID_MAX: usize = 63 - daisy_api::labels::BROKER_CLUSTER_NAMESPACE_PREFIX.len();

/// Why a request is refused. Nothing was changed for it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Denial {
    /// The object does not hold what a JoinRequest holds.
    #[error("the request does not parse: {cause}; ask with a daisy of this broker's version")]
    Malformed {
        /// What the parser says.
        cause: String,
    },
    /// No invitation of that name.
    #[error(
        "spec.invitation: there is no invitation {invitation:?} here; ask the broker's administrator for one (daisy invite)"
    )]
    InvitationUnknown {
        /// The name.
        invitation: String,
    },
    /// The invitation is past its time.
    #[error("invitation {invitation} expired at {expired}; ask the broker's administrator for a new one (daisy invite)")]
    InvitationExpired {
        /// The invitation.
        invitation: String,
        /// When it expired.
        expired: Timestamp,
    },
    /// As many clusters as may joined by the invitation.
    #[error(
        "invitation {invitation} is used up: {max} clusters may join by it, and did; ask for a new one (daisy invite --uses N)"
    )]
    InvitationUsedUp {
        /// The invitation.
        invitation: String,
        /// How many may join by it.
        max: u32,
    },
    /// The signature is missing or does not verify.
    #[error(
        "spec.signature does not verify with spec.signingKey for this broker and request: the broker-info file names another broker, \
         or the request was changed on its way; ask for the file again (daisy invite)"
    )]
    BadSignature,
    /// The version of the asker is none.
    #[error("spec.version: {error}; ask with a daisy of this broker's version")]
    NoVersion {
        /// What is wrong with it.
        error: VersionError,
    },
    /// The broker and the cluster are too far apart.
    #[error("cluster {id} cannot join: {skew}")]
    VersionSkew {
        /// The cluster.
        id: ClusterId,
        /// The versions, and what to do.
        skew: Skew,
    },
    /// A CIDR that no cluster can have, or that collides with another of the same request.
    #[error("{field} {value}: {why}")]
    InvalidCidr {
        /// The field, with the flag that sets it.
        field: &'static str,
        /// The CIDR, or the list.
        value: String,
        /// What is wrong with it, and what to do.
        why: String,
    },
    /// A CIDR that another member has, or that is reserved for another.
    #[error("{}", overlap_message(.0))]
    CidrOverlap(Box<Overlap>),
    /// The ID leaves no room for the name of its namespace here.
    #[error(
        "spec.clusterId (--clusterid) {id} has {} characters; at most {ID_MAX} are taken, so that daisy-cluster-ID is a namespace",
        .id.as_str().len()
    )]
    IdTooLong {
        /// The ID.
        id: ClusterId,
    },
    /// The cluster is a member already, by another ID.
    #[error(
        "this cluster (kube-system UID {uid}) is already a member, as {id}; a cluster has one ID: \
         join as {id}, or leave first (daisy leave)"
    )]
    AlreadyMember {
        /// The cluster's UID.
        uid: String,
        /// The ID that it has.
        id: ClusterId,
    },
    /// The ID belongs to another cluster.
    #[error(
        "cluster ID {id} belongs to another cluster ({difference}); take another ID, or, if {id} was made anew, \
         join with --replace and an invitation that is newer than the member"
    )]
    ClusterIdInUse {
        /// The ID.
        id: ClusterId,
        /// In what they differ: the UID, or the signing key.
        difference: String,
    },
    /// `--replace` with an invitation that is older than the member.
    #[error(
        "--replace would end the membership of the present {id}, and invitation {invitation} is older than that or was used for it: \
         ask the broker's administrator for a fresh one (daisy invite)"
    )]
    ReplaceNeedsFreshInvitation {
        /// The ID.
        id: ClusterId,
        /// The invitation.
        invitation: String,
    },
    /// `--replace` with an invitation that grants less than the member has.
    #[error(
        "--replace would end the membership of the present {id}, which may export {had}, and invitation {invitation} allows {grant}: \
         ask the broker's administrator for one that allows as much (daisy invite --export '{had}'), or to evict it (daisy evict {id})"
    )]
    ReplaceNeedsGrant {
        /// The ID.
        id: ClusterId,
        /// The invitation.
        invitation: String,
        /// What the invitation grants.
        grant: String,
        /// What the member has.
        had: String,
    },
    /// No range is left to give.
    #[error("no range for {} is left to give; join with --clustercidr and --servicecidr, or end memberships that nobody needs", .0.as_str())]
    RangesExhausted(Purpose),
}

/// Two CIDRs that cannot both be routed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlap {
    /// Who asks.
    pub id: ClusterId,
    /// For what.
    pub purpose: Purpose,
    /// The CIDR asked for.
    pub asked: Cidr,
    /// Who has it.
    pub owner: ClusterId,
    /// The CIDR that the owner has.
    pub had: Cidr,
    /// Whether it is but reserved for the owner.
    pub reserved: bool,
    /// What might be taken instead.
    pub offer: Option<Ranges>,
}

fn joined(list: &[Cidr]) -> String {
    list.iter().map(Cidr::to_string).collect::<Vec<_>>().join(",")
}

/// The flags of `daisy join` that name these ranges.
#[must_use]
pub fn flags(ranges: &Ranges) -> String {
    format!("--clustercidr {} --servicecidr {}", joined(&ranges.cluster_cidrs), joined(&ranges.service_cidrs))
}

fn overlap_message(overlap: &Overlap) -> String {
    let Overlap { id, purpose, asked, owner, had, reserved, offer } = overlap;
    let what = purpose.as_str();
    let has = if *reserved { "is reserved for" } else { "belongs to" };
    let remedy = match offer {
        Some(ranges) => format!(
            "these are free: {}; make the cluster with them (daisy kind-config writes a kind configuration that has them) and \
             join with these flags",
            flags(ranges)
        ),
        None => "give the cluster ranges of its own".to_owned(),
    };
    format!("cluster {id} asks for {asked} ({what}), which overlaps {had}, and that {has} cluster {owner}; {remedy}")
}

impl Denial {
    /// The reason, in CamelCase, as the request's status has it.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Malformed { .. } => "Malformed",
            Self::InvitationUnknown { .. } => "InvitationUnknown",
            Self::InvitationExpired { .. } => "InvitationExpired",
            Self::InvitationUsedUp { .. } => "InvitationUsedUp",
            Self::BadSignature => "BadSignature",
            Self::NoVersion { .. } => "NoVersion",
            Self::VersionSkew { .. } => "VersionSkew",
            Self::InvalidCidr { .. } => "InvalidCidr",
            Self::CidrOverlap(_) => "CidrOverlap",
            Self::IdTooLong { .. } => "IdTooLong",
            Self::AlreadyMember { .. } => "AlreadyMember",
            Self::ClusterIdInUse { .. } => "ClusterIdInUse",
            Self::ReplaceNeedsFreshInvitation { .. } => "ReplaceNeedsFreshInvitation",
            Self::ReplaceNeedsGrant { .. } => "ReplaceNeedsGrant",
            Self::RangesExhausted(_) => "RangesExhausted",
        }
    }

    /// The status that tells the asker.
    #[must_use]
    pub fn status(&self) -> JoinRequestStatus {
        JoinRequestStatus {
            phase: JoinPhase::Refused,
            reason: self.reason().to_owned(),
            message: self.to_string(),
            ranges: if let Self::CidrOverlap(overlap) = self { overlap.offer.clone() } else { None },
            reserved_until: None,
            sealed_credential: None,
        }
    }
}
