//! A new object.

use serde_json::{Value, json};

use super::{Writer, Written, rules};
use crate::clock;
use crate::crd;
use crate::definition::ResourceKey;
use crate::hooks::Operation;
use crate::object::{self, metadata_mut, set_metadata};
use crate::random;
use crate::refusal::{Cause, Refusal};
use crate::store::Place;

/// Attempts to find a free name for a `generateName`.
const NAME_ATTEMPTS: usize = 8;

impl Writer<'_, '_> {
    /// Creates what was sent.
    pub(crate) fn create(&mut self, mut body: Value) -> Result<Written, Refusal> {
        self.addressed(&mut body, None)?;
        if !object::text(&body, "resourceVersion").is_empty() {
            return Err(Refusal::bad_request("resourceVersion should not be set on objects to be created"));
        }
        let name = self.named(&mut body)?;
        let definition = &self.served.definition;
        if self.transaction.get(&self.served.key, &self.by.namespace, &name).is_some() {
            return Err(Refusal::already_exists(&definition.group, &definition.plural, &name));
        }
        self.in_namespace(&name)?;
        if definition.has_status
            && let Some(map) = body.as_object_mut()
        {
            map.remove("status");
        }
        self.born(&mut body)?;
        let mut object = self.admitted(Operation::Create, body, None)?;
        self.within_quota(&name)?;
        self.established(&mut object)?;
        self.put(self.place(&name), object)
    }

    fn named(&self, body: &mut Value) -> Result<String, Refusal> {
        let name = object::text(body, "name");
        if !name.is_empty() {
            return Ok(name.to_owned());
        }
        let prefix = object::text(body, "generateName").to_owned();
        if prefix.is_empty() {
            return Err(
                self.invalid("", vec![Cause::required("metadata.name", "Required value: name or generateName is required")])
            );
        }
        // As Kubernetes: a long prefix is cut so that the name has at most 63 characters.
        let prefix: String = prefix.chars().take(58).collect();
        for _ in 0..NAME_ATTEMPTS {
            let name = format!("{prefix}{}", random::suffix()?);
            if self.transaction.get(&self.served.key, &self.by.namespace, &name).is_none() {
                set_metadata(body, "name", Some(json!(name)));
                return Ok(name);
            }
        }
        let definition = &self.served.definition;
        Err(Refusal::already_exists(&definition.group, &definition.plural, &prefix))
    }

    fn in_namespace(&self, name: &str) -> Result<(), Refusal> {
        if !self.served.definition.namespaced {
            return Ok(());
        }
        let namespace = &self.by.namespace;
        let Some(found) = self.transaction.get(&ResourceKey::new("", "namespaces"), "", namespace) else {
            return Err(Refusal::not_found("", "namespaces", namespace));
        };
        if rules::is_terminating(&found.value()) {
            return Err(self.forbidden(
                name,
                format!("unable to create new content in namespace {namespace} because it is being terminated"),
            ));
        }
        Ok(())
    }

    fn born(&self, body: &mut Value) -> Result<(), Refusal> {
        let now = clock::rfc3339(self.transaction.now());
        let metadata = metadata_mut(body);
        for gone in ["deletionTimestamp", "deletionGracePeriodSeconds", "resourceVersion"] {
            metadata.remove(gone);
        }
        metadata.insert("uid".to_owned(), json!(random::uuid()?));
        metadata.insert("creationTimestamp".to_owned(), json!(now));
        metadata.insert("generation".to_owned(), json!(1));
        Ok(())
    }

    fn within_quota(&self, name: &str) -> Result<(), Refusal> {
        if !self.served.definition.namespaced || self.by.user.is_master() {
            return Ok(());
        }
        let limits = &self.by.limits;
        let resource = self.served.key.to_string();
        let most = limits.objects.get(&resource).copied().unwrap_or(limits.objects_per_namespace);
        let used = self.transaction.count(&self.served.key, &self.by.namespace);
        if used < most {
            return Ok(());
        }
        let why = format!(
            "exceeded quota: object-counts, requested: count/{resource}=1, used: count/{resource}={used}, limited: count/{resource}={most}"
        );
        Err(self.forbidden(name, why))
    }

    /// Serves what a CustomResourceDefinition defines.
    pub(super) fn established(&mut self, object: &mut Value) -> Result<(), Refusal> {
        if crd::is(&self.served.key) {
            self.transaction.define(object)?;
            crd::establish(object, &clock::rfc3339(self.transaction.now()));
        }
        Ok(())
    }

    pub(super) fn put(&mut self, place: Place, object: Value) -> Result<Written, Refusal> {
        if object::depth(&object) > object::DEEPEST {
            return Err(object::too_deep());
        }
        let object = self.transaction.put(&self.served.key, place, object);
        let limit = self.by.limits.body_bytes;
        if object.json.len() > limit {
            return Err(Refusal::too_large(limit));
        }
        Ok(Written { object, warnings: std::mem::take(&mut self.warnings) })
    }
}
