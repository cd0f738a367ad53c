//! What the machine wants done, and what became of it.

use std::net::IpAddr;
use std::time::Duration;

use thiserror::Error;

use crate::object::{Object, Place, Reference};

/// Names one action, to say later what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ActionId(pub u64);

/// One write. For one object there is never more than one under way.
#[derive(Clone, Debug, PartialEq)]
pub struct Action {
    /// Its number.
    pub id: ActionId,
    /// The object that it is about.
    pub reference: Reference,
    /// When the input came that caused it, by the clock of [`crate::time::Now::monotonic`].
    pub since: Duration,
    /// What to do.
    pub verb: Verb,
}

impl Action {
    /// On whose API server.
    #[must_use]
    pub fn place(&self) -> Place {
        self.reference.place
    }
}

/// What to do to an object.
#[derive(Clone, Debug, PartialEq)]
pub enum Verb {
    /// Make it. It has no resourceVersion.
    Create(Object),
    /// Put this in its place. The resourceVersion in it is that of the object that was seen; a conflict is a failure.
    Replace(Object),
    /// Set its status alone. The resourceVersion in it, if any, is that of the object that was seen.
    Status(Object),
    /// Delete it, if it still is the object of this UID.
    Delete {
        /// The UID, where it is known.
        uid: Option<String>,
    },
    /// Set or remove the annotation `node-address` of a node.
    Annotate {
        /// The address; `None` removes the annotation.
        address: Option<IpAddr>,
    },
}

/// Why an action failed, as far as the machine goes on differently for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FailureKind {
    /// Somebody else wrote it in between, or it is not the one that was seen.
    Conflict,
    /// An object of this name exists already.
    AlreadyExists,
    /// It does not exist, or its namespace does not.
    NotFound,
    /// The API server refuses it: it is forbidden, invalid, or over a quota.
    Refused,
    /// The API server cannot be reached, or is not well.
    Unreachable,
}

/// What became of an action that failed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct Failure {
    /// Of what kind.
    pub kind: FailureKind,
    /// In words, as the API server has them.
    pub message: String,
}

/// Why there is no working connection to the broker: reason and message of the condition `BrokerConnected`.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct BrokerTrouble {
    /// In CamelCase: `Unreachable`, `CertificateNotTrusted`, `Unauthorized`, `NoCredential`.
    pub reason: String,
    /// In words: what was tried, what was seen, what to do.
    pub message: String,
}
