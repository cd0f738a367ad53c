//! The end of objects.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Writer, rules};
use crate::clock;
use crate::crd;
use crate::definition::ResourceKey;
use crate::hooks::Operation;
use crate::object::{Stored, metadata_mut};
use crate::refusal::Refusal;
use crate::selector::Selectors;

/// What a deletion depends on (`metav1.DeleteOptions`, as far as it matters here).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DeleteOptions {
    pub(crate) uid: Option<String>,
    pub(crate) resource_version: Option<String>,
    pub(crate) dry_run: bool,
}

/// How a deletion ended.
#[derive(Debug)]
pub(crate) enum Deleted {
    /// The object is gone; this was its last state.
    Gone(Arc<Stored>),
    /// It has finalizers: it goes once they are gone.
    Terminating(Arc<Stored>),
}

impl DeleteOptions {
    /// Reads the body of a DELETE; an empty one has no conditions.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, Refusal> {
        if body.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self::default());
        }
        let body: Value = serde_json::from_slice(body)
            .map_err(|error| Refusal::bad_request(format!("error decoding DeleteOptions: {error}")))?;
        let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        let policy = &body["propagationPolicy"];
        if !policy.is_null() && !["Orphan", "Background", "Foreground"].iter().any(|known| policy == known) {
            return Err(Refusal::bad_request(format!(
                "propagationPolicy {policy}: supported values: \"Background\", \"Foreground\", \"Orphan\""
            )));
        }
        Ok(Self {
            uid: text(&body["preconditions"]["uid"]),
            resource_version: text(&body["preconditions"]["resourceVersion"]),
            dry_run: body["dryRun"].as_array().is_some_and(|all| all.iter().any(|one| one == "All")),
        })
    }
}

impl Writer<'_, '_> {
    /// Deletes the object `name`.
    pub(crate) fn delete(&mut self, name: &str, options: &DeleteOptions) -> Result<Deleted, Refusal> {
        let stored = self.get(name)?;
        let version = stored.version.to_string();
        for (what, wanted, is) in [("UID", &options.uid, &stored.uid), ("ResourceVersion", &options.resource_version, &version)]
        {
            if let Some(wanted) = wanted.as_ref().filter(|wanted| *wanted != is) {
                let why = format!("Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {is}");
                return Err(self.conflict(name, why));
            }
        }
        if !rules::may_be_deleted(&self.served.key, name) {
            return Err(self.forbidden(name, "this namespace may not be deleted"));
        }
        let mut old = stored.value();
        self.admit(Operation::Delete, name, None, Some(&old))?;
        if old["metadata"]["finalizers"].as_array().is_some_and(|finalizers| !finalizers.is_empty()) {
            if rules::is_terminating(&old) {
                return Ok(Deleted::Terminating(stored));
            }
            let now = clock::rfc3339(self.transaction.now());
            let metadata = metadata_mut(&mut old);
            metadata.insert("deletionTimestamp".to_owned(), json!(now));
            metadata.insert("deletionGracePeriodSeconds".to_owned(), json!(0));
            rules::complete(&self.served.key, &mut old);
            let place = self.place(name);
            return Ok(Deleted::Terminating(self.transaction.put(&self.served.key, place, old)));
        }
        Ok(Deleted::Gone(self.remove(name)?.unwrap_or(stored)))
    }

    /// Deletes all that is selected; gives their last states.
    pub(crate) fn delete_collection(
        &mut self,
        selectors: &Selectors,
        options: &DeleteOptions,
    ) -> Result<Vec<Arc<Stored>>, Refusal> {
        let namespace = self.by.namespace.clone();
        let within = self.served.definition.namespaced.then_some(namespace.as_str()).filter(|namespace| !namespace.is_empty());
        let mut gone = Vec::new();
        for ((namespace, name), object) in self.transaction.list(&self.served.key, within) {
            if selectors.matches(&namespace, &name, &object) {
                let (Deleted::Gone(object) | Deleted::Terminating(object)) = self.delete(&name, options)?;
                gone.push(object);
            }
        }
        Ok(gone)
    }

    /// Takes an object away, and what cannot be without it: a namespace's objects, a definition's objects. Their finalizers do not
    /// hold them, and hooks are not asked: they go in the same write, so nothing is ever left half done.
    pub(super) fn remove(&mut self, name: &str) -> Result<Option<Arc<Stored>>, Refusal> {
        if crd::is(&self.served.key) {
            let defined: Vec<ResourceKey> =
                self.transaction.catalog().custom(name).into_iter().flatten().map(|served| served.key.clone()).collect();
            if let Some(key) = defined.first() {
                for (place, _) in self.transaction.list(key, None) {
                    self.transaction.remove(key, place);
                }
            }
            self.transaction.undefine(name);
        }
        if self.served.key.group.is_empty() && &*self.served.key.plural == "namespaces" {
            for key in self.transaction.resources() {
                for (place, _) in self.transaction.list(&key, Some(name)) {
                    self.transaction.remove(&key, place);
                }
            }
        }
        let place = self.place(name);
        Ok(self.transaction.remove(&self.served.key, place))
    }
}
