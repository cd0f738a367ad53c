//! Where the embedding program takes part in writes.

use serde_json::Value;

use crate::auth::User;
use crate::definition::ResourceKey;
use crate::refusal::Refusal;
use crate::store::Transaction;

/// What a write does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A new object.
    Create,
    /// Another version of one that is there; a patch too.
    Update,
    /// The end of one.
    Delete,
}

/// A write that is to be admitted.
#[derive(Clone, Debug)]
pub struct AdmissionRequest<'a> {
    /// Who writes.
    pub user: &'a User,
    /// What the write does.
    pub operation: Operation,
    /// The resource, whatever its version.
    pub resource: &'a ResourceKey,
    /// The namespace; `None` for what lives in none.
    pub namespace: Option<&'a str>,
    /// The object's name; of a creation by `generateName`, the one that was generated.
    pub name: &'a str,
    /// `status`, or `token` (of a ServiceAccount; there is no object then), or `None` for the object itself.
    pub subresource: Option<&'a str>,
    /// The object as it will be; `None` for a deletion.
    pub object: Option<&'a Value>,
    /// The object as it is; `None` for a creation.
    pub old_object: Option<&'a Value>,
    /// Whether nothing will be kept of it.
    pub dry_run: bool,
}

/// What a hook may read: everything as it is at this point of the queue of writes, its own batch included.
#[derive(Clone, Copy)]
pub struct View<'a>(pub(crate) &'a Transaction<'a>);

impl View<'_> {
    /// One object; `namespace` is empty for what lives in none.
    #[must_use]
    pub fn get(&self, resource: &ResourceKey, namespace: &str, name: &str) -> Option<Value> {
        self.0.get(resource, namespace, name).map(|object| object.value())
    }

    /// All objects of a namespace, or of all namespaces.
    #[must_use]
    pub fn list(&self, resource: &ResourceKey, namespace: Option<&str>) -> Vec<Value> {
        self.0.list(resource, namespace).into_iter().map(|(_, object)| object.value()).collect()
    }

    /// How many objects a namespace has of a resource; `namespace` is empty for what lives in none.
    #[must_use]
    pub fn count(&self, resource: &ResourceKey, namespace: &str) -> usize {
        self.0.count(resource, namespace)
    }
}

/// Takes part in each write, HTTP or in-process, within the one serialized step that writes: what a hook reads cannot change
/// before the write is done. Hooks must be quick, and must not wait.
///
/// The order for one write is: types and schema, [`Hooks::mutate`], validation, [`Hooks::admit`], quota, write.
pub trait Hooks: Send + Sync + 'static {
    /// Changes an object before it is checked, as a mutating webhook would. `request.object` is `None`: it is `object`.
    ///
    /// # Errors
    /// A refusal ends the write.
    fn mutate(&self, request: &AdmissionRequest<'_>, object: &mut Value, view: View<'_>) -> Result<(), Refusal> {
        let _ = (request, object, view);
        Ok(())
    }

    /// Admits a write, or refuses it, as a validating webhook would.
    ///
    /// # Errors
    /// A refusal ends the write.
    fn admit(&self, request: &AdmissionRequest<'_>, view: View<'_>) -> Result<(), Refusal> {
        let _ = (request, view);
        Ok(())
    }
}

/// Admits everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoHooks;

impl Hooks for NoHooks {}
