//! What the registrar's machine takes in and gives out.

use daisy_api::keys::PublicKey;
use daisy_api::{ClusterId, InvitationStatus, JoinRequestStatus, Member};
use kube::ResourceExt;

/// A change of objects of one kind, as a watch tells it.
#[derive(Debug, Clone)]
pub enum Change<T> {
    /// A list has been asked for: what was written before now will be in it.
    Listing,
    /// The list: all that there is.
    Listed(Vec<T>),
    /// An object was made or changed.
    Applied(T),
    /// An object was deleted.
    Deleted(T),
}

/// Something for the shell to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Write a request's status.
    Answer {
        /// The JoinRequest.
        request: String,
        /// The Invitation that it names; empty for one that does not parse.
        invitation: String,
        /// Its status.
        status: JoinRequestStatus,
    },
    /// Make a cluster a member, in the order of the fields of [`Admission`].
    Admit(Box<Admission>),
    /// Delete a Member.
    EndMember {
        /// Whose.
        id: ClusterId,
        /// The UID of the Member meant: another of the same name stays.
        uid: String,
        /// Why.
        why: Ending,
    },
    /// Delete a cluster's rights, then its records, then its namespace.
    RemoveCluster {
        /// Whose.
        id: ClusterId,
    },
    /// Delete a request that was answered long ago.
    DeleteRequest {
        /// The JoinRequest.
        name: String,
    },
    /// Delete an invitation that expired long ago, its ServiceAccount and rights first.
    DeleteInvitation {
        /// The Invitation.
        name: String,
    },
}

/// What makes a cluster a member.
#[derive(Debug, Clone, PartialEq)]
pub struct Admission {
    /// The JoinRequest.
    pub request: String,
    /// The Invitation.
    pub invitation: String,
    /// First: the invitation's status, where this is a new use of it.
    pub invitation_status: Option<InvitationStatus>,
    /// Second: the Member; to be created, or, where it has a `resourceVersion`, to replace the one of that version.
    pub member: Member,
    /// Third: the namespace with ServiceAccount and rights of this cluster. Then its token, sealed to this key.
    pub sealing_key: PublicKey,
    /// Last: the request's status, to which the shell adds `sealedCredential`.
    pub status: JoinRequestStatus,
}

impl Admission {
    /// The cluster's ID.
    #[must_use]
    pub fn id(&self) -> Option<ClusterId> {
        ClusterId::new(self.member.name_any()).ok()
    }
}

/// Why a membership ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The cluster asked for it.
    Left,
    /// No heartbeat for as long as a membership lasts.
    Lapsed,
    /// Another cluster takes its place.
    Replaced,
}

/// What became of an action.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It was done, or had been before.
    Done,
    /// An admission was done, with this Member.
    Admitted(Box<Member>),
    /// It failed, as a whole or on the way; it is tried again, later each time.
    Failed,
}
