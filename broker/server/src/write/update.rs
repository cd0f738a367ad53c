//! Another version of an object: PUT and PATCH, of the object or of its status.

use serde_json::{Value, json};

use super::{Writer, Written, rules};
use crate::crd;
use crate::hooks::Operation;
use crate::object::{self, Stored, set_metadata, version_of};
use crate::patch::Patch;
use crate::refusal::{Cause, Refusal};

/// How an object is changed.
pub(crate) enum Change {
    /// By another, whole (PUT).
    Replace(Value),
    /// By a patch.
    Patch(Patch),
}

impl Writer<'_, '_> {
    /// Changes the object `name`.
    pub(crate) fn update(&mut self, name: &str, change: Change) -> Result<Written, Refusal> {
        let stored = self.get(name)?;
        let old = stored.value();
        let replaced = matches!(change, Change::Replace(_));
        let mut new = match change {
            Change::Replace(body) => body,
            Change::Patch(patch) => {
                let mut new = old.clone();
                self.as_served(&mut new);
                // The version is still in it: a patch that sets or tests another one is refused, one without has no condition.
                patch.apply(&self.served.key, &mut new, self.by.limits.body_bytes.saturating_mul(2))?;
                new
            }
        };
        self.addressed(&mut new, Some(name))?;
        self.unchanged(&stored, &new, replaced)?;
        let new = self.merged(&old, new);
        let operation = Operation::Update;
        let mut new = self.admitted(operation, new, Some(&old))?;
        if self.by.status {
            // Hooks and defaults must not change more than the status here.
            new = self.only_status(&old, &new);
        }
        if new == old {
            return Ok(Written { object: stored, warnings: std::mem::take(&mut self.warnings) });
        }
        if rules::is_terminating(&new) && new["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty) {
            let warnings = std::mem::take(&mut self.warnings);
            // What was changed last is what watchers see last.
            self.put(self.place(name), new)?;
            let object = self.remove(name)?.unwrap_or(stored);
            return Ok(Written { object, warnings });
        }
        if changes_spec(&old, &new) {
            let generation = old["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
            set_metadata(&mut new, "generation", Some(json!(generation)));
        }
        if !self.by.status {
            self.established(&mut new)?;
            if crd::is(&self.served.key) && new == old {
                return Ok(Written { object: stored, warnings: std::mem::take(&mut self.warnings) });
            }
        }
        self.put(self.place(name), new)
    }

    /// What is stored in another version than the request's looks as in the request's while it is patched.
    fn as_served(&self, object: &mut Value) {
        object["apiVersion"] = json!(self.served.definition.api_version());
    }

    /// Optimistic concurrency: the object must be the one that the client means.
    fn unchanged(&self, stored: &Stored, new: &Value, replaced: bool) -> Result<(), Refusal> {
        let name = object::text(new, "name");
        let sent = object::text(new, "resourceVersion");
        if sent.is_empty() || sent == "0" {
            if replaced && self.served.is_custom() {
                let cause = Cause::invalid("metadata.resourceVersion", "Invalid value: 0: must be specified for an update");
                return Err(self.invalid(name, vec![cause]));
            }
        } else if version_of(new) != Some(stored.version) {
            return Err(self.conflict(
                name,
                "the object has been modified; please apply your changes to the latest version and try again",
            ));
        }
        let uid = object::text(new, "uid");
        if !uid.is_empty() && uid != stored.uid {
            return Err(self.conflict(
                name,
                format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", stored.uid),
            ));
        }
        Ok(())
    }

    /// Puts back what clients do not change by this endpoint.
    fn merged(&self, old: &Value, mut new: Value) -> Value {
        if self.by.status {
            return self.only_status(old, &new);
        }
        for key in [
            "uid",
            "creationTimestamp",
            "generation",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "resourceVersion",
            "generateName",
        ] {
            set_metadata(&mut new, key, old["metadata"].get(key).cloned());
        }
        if self.served.definition.has_status
            && let Some(map) = new.as_object_mut()
        {
            match old.get("status") {
                Some(status) => map.insert("status".to_owned(), status.clone()),
                None => map.remove("status"),
            };
        }
        new
    }

    fn only_status(&self, old: &Value, new: &Value) -> Value {
        let mut out = old.clone();
        if let Some(map) = out.as_object_mut() {
            match new.get("status") {
                Some(status) => map.insert("status".to_owned(), status.clone()),
                None => map.remove("status"),
            };
        }
        out
    }
}

/// Whether anything beside metadata and status differs.
fn changes_spec(old: &Value, new: &Value) -> bool {
    let (Some(old), Some(new)) = (old.as_object(), new.as_object()) else { return true };
    let counts = |key: &str| key != "metadata" && key != "status" && key != "apiVersion";
    old.iter().any(|(key, value)| counts(key) && new.get(key) != Some(value))
        || new.keys().any(|key| counts(key) && !old.contains_key(key))
}
