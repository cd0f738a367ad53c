//! Reading and writing from within the embedding program.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::broadcast;

use crate::auth::User;
use crate::catalog::Served;
use crate::definition::ResourceKey;
use crate::object::{self, Stored};
use crate::patch::Patch;
use crate::refusal::Refusal;
use crate::server::{Inner, IssuedToken};
use crate::store::Event;
use crate::write::{Change, DeleteOptions, Writing, Written};

/// The store, without HTTP. Writes go the same way as a client's: types, schemas, hooks, durability; rights and limits per user
/// are not asked. Cloning is cheap.
#[derive(Clone)]
pub struct Handle {
    inner: Arc<Inner>,
    user: User,
}

impl Handle {
    pub(crate) fn new(inner: Arc<Inner>, user: User) -> Self {
        Self { inner, user }
    }

    /// The same, writing in another user's name: hooks see that user.
    #[must_use]
    pub fn with_user(&self, user: User) -> Self {
        Self { inner: self.inner.clone(), user }
    }

    /// The resourceVersion of the last change.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.inner.store.read().version
    }

    /// One object; `namespace` is empty for what lives in none.
    #[must_use]
    pub fn get(&self, resource: &ResourceKey, namespace: &str, name: &str) -> Option<Value> {
        let stored = self.inner.store.read().get(resource, namespace, name).cloned();
        stored.map(|stored| stored.value())
    }

    /// All objects of a namespace, or of all namespaces, with the resourceVersion at which they were so.
    #[must_use]
    pub fn list(&self, resource: &ResourceKey, namespace: Option<&str>) -> (Vec<Value>, u64) {
        let (all, version): (Vec<Arc<Stored>>, u64) = {
            let state = self.inner.store.read();
            let objects = state.collection(resource).into_iter().flat_map(|collection| collection.iter(namespace));
            (objects.map(|(_, stored)| stored.clone()).collect(), state.version)
        };
        (all.into_iter().map(|stored| stored.value()).collect(), version)
    }

    /// All changes of all resources from now on, in order. Subscribe first, then list, then skip events up to the list's version:
    /// nothing is missed. A subscriber that lags too far behind is told so (`RecvError::Lagged`) and lists anew.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Event>> {
        self.inner.store.subscribe()
    }

    /// Creates an object in `namespace` (empty for what lives in none).
    ///
    /// # Errors
    /// What a client would be refused for.
    pub async fn create(&self, resource: &ResourceKey, namespace: &str, object: Value) -> Result<Value, Refusal> {
        let writing = self.writing(resource, namespace)?;
        self.write(writing, move |writer| writer.create(object)).await
    }

    /// Replaces an object, all but its status where that is apart. With a `resourceVersion` in it, only that version is replaced.
    ///
    /// # Errors
    /// What a client would be refused for.
    pub async fn update(&self, resource: &ResourceKey, namespace: &str, object: Value) -> Result<Value, Refusal> {
        let (writing, object) = (self.writing(resource, namespace)?, self.versioned(resource, namespace, object));
        let name = object::text(&object, "name").to_owned();
        self.write(writing, move |writer| writer.update(&name, Change::Replace(object))).await
    }

    /// Replaces an object's status.
    ///
    /// # Errors
    /// What a client would be refused for.
    pub async fn update_status(&self, resource: &ResourceKey, namespace: &str, object: Value) -> Result<Value, Refusal> {
        let (mut writing, object) = (self.writing(resource, namespace)?, self.versioned(resource, namespace, object));
        writing.status = true;
        let name = object::text(&object, "name").to_owned();
        self.write(writing, move |writer| writer.update(&name, Change::Replace(object))).await
    }

    /// Merges a patch (RFC 7396) into an object.
    ///
    /// # Errors
    /// What a client would be refused for.
    pub async fn patch(&self, resource: &ResourceKey, namespace: &str, name: &str, patch: Value) -> Result<Value, Refusal> {
        let writing = self.writing(resource, namespace)?;
        let name = name.to_owned();
        self.write(writing, move |writer| writer.update(&name, Change::Patch(Patch::Merge(patch)))).await
    }

    /// Merges a patch (RFC 7396) into an object's status; the patch is of the object: `{"status": …}`.
    ///
    /// # Errors
    /// What a client would be refused for.
    pub async fn patch_status(
        &self,
        resource: &ResourceKey,
        namespace: &str,
        name: &str,
        patch: Value,
    ) -> Result<Value, Refusal> {
        let mut writing = self.writing(resource, namespace)?;
        writing.status = true;
        let name = name.to_owned();
        self.write(writing, move |writer| writer.update(&name, Change::Patch(Patch::Merge(patch)))).await
    }

    /// Makes sure that an object is there as given (by its `apiVersion`, `kind`, name and namespace): creates it, or replaces what
    /// differs. What is the same already is not written.
    ///
    /// # Errors
    /// What a client would be refused for; 404 for a kind that is not served.
    pub async fn apply(&self, object: Value) -> Result<Value, Refusal> {
        let served = {
            let state = self.inner.store.read();
            state
                .catalog
                .all()
                .find(|served| {
                    object["apiVersion"] == *served.definition.api_version() && object["kind"] == *served.definition.kind
                })
                .cloned()
                .ok_or_else(|| {
                    Refusal::new(404, "NotFound", format!("{} {} is not served", object["apiVersion"], object["kind"]))
                })?
        };
        let (namespace, name) = (object::text(&object, "namespace").to_owned(), object::text(&object, "name").to_owned());
        let writing = self.inner.writing(served.clone(), &namespace, &self.user);
        let stored = self
            .inner
            .store
            .write(move |transaction| {
                let there = transaction.get(&served.key, &namespace, &name);
                let mut object = object;
                writing.run(transaction, |writer| match there {
                    None => writer.create(object),
                    Some(there) => {
                        object::set_metadata(&mut object, "resourceVersion", Some(there.version.to_string().into()));
                        writer.update(&name, Change::Replace(object))
                    }
                })
            })
            .await?;
        Ok(stored.object.value())
    }

    /// Deletes an object.
    ///
    /// # Errors
    /// What a client would be refused for.
    pub async fn delete(&self, resource: &ResourceKey, namespace: &str, name: &str) -> Result<(), Refusal> {
        let writing = self.writing(resource, namespace)?;
        let name = name.to_owned();
        self.inner
            .store
            .write(move |transaction| writing.run(transaction, |writer| writer.delete(&name, &DeleteOptions::default())))
            .await
            .map(drop)
    }

    /// Issues a token of a ServiceAccount; it ends with the ServiceAccount. The least lifetime of TokenRequests does not hold here.
    ///
    /// # Errors
    /// 404: there is no such ServiceAccount.
    pub fn issue_token(&self, namespace: &str, name: &str, lifetime: Duration) -> Result<IssuedToken, Refusal> {
        self.inner.issue(namespace, name, lifetime)
    }

    /// A replacement without a version is of whatever is there.
    fn versioned(&self, resource: &ResourceKey, namespace: &str, mut object: Value) -> Value {
        if object::text(&object, "resourceVersion").is_empty()
            && let Some(there) = self.inner.store.read().get(resource, namespace, object::text(&object, "name"))
        {
            let version = there.version.to_string();
            object::set_metadata(&mut object, "resourceVersion", Some(version.into()));
        }
        object
    }

    fn writing(&self, resource: &ResourceKey, namespace: &str) -> Result<Writing, Refusal> {
        let served: Arc<Served> = self
            .inner
            .store
            .read()
            .catalog
            .get(resource)
            .cloned()
            .ok_or_else(|| Refusal::new(404, "NotFound", format!("{resource} is not served")))?;
        Ok(self.inner.writing(served, namespace, &self.user))
    }

    async fn write(
        &self,
        writing: Writing,
        work: impl FnOnce(&mut crate::write::Writer<'_, '_>) -> Result<Written, Refusal> + Send + 'static,
    ) -> Result<Value, Refusal> {
        let written = self.inner.store.write(move |transaction| writing.run(transaction, work)).await?;
        Ok(written.object.value())
    }
}
