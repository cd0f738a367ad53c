//! One change of one object.

use std::sync::Arc;

use crate::definition::ResourceKey;
use crate::object::Stored;

/// What happened to the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// It was not there before.
    Added,
    /// It was there, and is another now.
    Modified,
    /// It is gone.
    Deleted,
}

impl EventKind {
    /// As the watch protocol has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// One change, durable when it is seen.
#[derive(Clone, Debug)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The resource, whatever its version.
    pub resource: ResourceKey,
    /// Empty for what lives in no namespace.
    pub namespace: String,
    /// The object's name.
    pub name: String,
    /// The resourceVersion of the change.
    pub version: u64,
    /// The object after the change; of one that was deleted, its last state, with the resourceVersion of the deletion.
    pub object: Arc<Stored>,
    /// The object before the change.
    pub before: Option<Arc<Stored>>,
}

impl Event {
    /// The object as it is from now on.
    #[must_use]
    pub fn after(&self) -> Option<&Arc<Stored>> {
        (self.kind != EventKind::Deleted).then_some(&self.object)
    }
}
