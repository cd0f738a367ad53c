//! Writes: what happens on the writer's thread between a request and a changed object.
//!
//! ```text
//! body or patch ─▶ metadata ─▶ type or schema ─▶ Hooks::mutate ─▶ checks ─▶ rights handed on? ─▶ Hooks::admit ─▶ quota ─▶ Transaction
//! ```

mod create;
mod delete;
mod prepare;
mod rules;
mod update;

use std::sync::Arc;

use crate::auth::User;
use crate::catalog::Served;
use crate::hooks::{AdmissionRequest, Hooks, Operation, View};
use crate::object::Stored;
use crate::options::Limits;
use crate::refusal::Refusal;
use crate::store::{Place, Transaction};
use serde_json::Value;

pub(crate) use delete::{DeleteOptions, Deleted};
pub(crate) use update::Change;

/// What to do about fields that a kind does not have (`fieldValidation`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    Ignore,
    #[default]
    Warn,
    Strict,
}

/// Who writes what, where, and how.
#[derive(Clone)]
pub(crate) struct Writing {
    pub(crate) served: Arc<Served>,
    /// Empty for what lives in none.
    pub(crate) namespace: String,
    pub(crate) user: User,
    pub(crate) hooks: Arc<dyn Hooks>,
    pub(crate) limits: Arc<Limits>,
    /// `status`, or nothing.
    pub(crate) status: bool,
    pub(crate) dry_run: bool,
    pub(crate) validation: FieldValidation,
}

/// What was written.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) object: Arc<Stored>,
    pub(crate) warnings: Vec<String>,
}

/// One write under way.
pub(crate) struct Writer<'w, 't> {
    by: &'w Writing,
    /// As it is served at this point of the queue: its CustomResourceDefinition may have changed since the request was routed.
    served: Arc<Served>,
    transaction: &'w mut Transaction<'t>,
    warnings: Vec<String>,
}

impl Writing {
    /// Runs one write on a transaction.
    pub(crate) fn run<T>(
        &self,
        transaction: &mut Transaction<'_>,
        work: impl FnOnce(&mut Writer<'_, '_>) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let definition = &self.served.definition;
        let served = transaction
            .catalog()
            .version(&definition.group, &definition.version, &definition.plural)
            .cloned()
            .ok_or_else(Refusal::no_such_path)?;
        let mark = self.dry_run.then(|| transaction.mark());
        let mut writer = Writer { by: self, served, transaction, warnings: Vec::new() };
        let result = work(&mut writer);
        if let Some(mark) = mark {
            transaction.roll_back(mark);
        }
        result
    }
}

impl Writer<'_, '_> {
    fn place(&self, name: &str) -> Place {
        (self.by.namespace.clone(), name.to_owned())
    }

    fn get(&self, name: &str) -> Result<Arc<Stored>, Refusal> {
        let definition = &self.served.definition;
        self.transaction
            .get(&self.served.key, &self.by.namespace, name)
            .ok_or_else(|| Refusal::not_found(&definition.group, &definition.plural, name))
    }

    fn invalid(&self, name: &str, causes: Vec<crate::refusal::Cause>) -> Refusal {
        Refusal::invalid(&self.served.definition.group, &self.served.definition.kind, name, causes)
    }

    fn conflict(&self, name: &str, why: impl std::fmt::Display) -> Refusal {
        Refusal::conflict(&self.served.definition.group, &self.served.definition.plural, name, why)
    }

    fn forbidden(&self, name: &str, why: impl std::fmt::Display) -> Refusal {
        Refusal::forbidden(&self.served.definition.group, &self.served.definition.plural, name, why)
    }

    fn request<'a>(
        &'a self,
        operation: Operation,
        name: &'a str,
        object: Option<&'a Value>,
        old_object: Option<&'a Value>,
    ) -> AdmissionRequest<'a> {
        AdmissionRequest {
            user: &self.by.user,
            operation,
            resource: &self.served.key,
            namespace: self.served.definition.namespaced.then_some(self.by.namespace.as_str()),
            name,
            subresource: self.by.status.then_some("status"),
            object,
            old_object,
            dry_run: self.by.dry_run,
        }
    }

    fn mutate(&self, operation: Operation, name: &str, object: &mut Value, old: Option<&Value>) -> Result<(), Refusal> {
        self.by.hooks.mutate(&self.request(operation, name, None, old), object, View(self.transaction))
    }

    fn admit(&self, operation: Operation, name: &str, object: Option<&Value>, old: Option<&Value>) -> Result<(), Refusal> {
        self.by.hooks.admit(&self.request(operation, name, object, old), View(self.transaction))
    }
}
