//! Puts the files of `manifests/` on an API server: server-side apply, field manager `daisy`; and takes them off.
//!
//! ```text
//! manifests/*.yaml ──objects──▶ DynamicObject ──Applier::apply──▶ API server
//! ```
//!
//! An embedded API server (a lab's) has no server-side apply and says so (415): there an object is created, or merged into the one
//! that is there.

use std::sync::atomic::{AtomicBool, Ordering};

use daisy_api::labels::{MANAGED_BY, MANAGED_BY_DAISY};
use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::{Api, Client, ResourceExt};
use thiserror::Error;

use crate::registrar::perform::{Doing, PerformError, is_code};

/// Who owns the fields that Daisy applies.
pub const FIELD_MANAGER: &str = "daisy";

/// Kinds that live in no namespace, of those that our files hold.
const CLUSTER_SCOPED: [&str; 8] = [
    "ClusterProperty",
    "ClusterRole",
    "ClusterRoleBinding",
    "CustomResourceDefinition",
    "Namespace",
    "PriorityClass",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
];

/// Why an object was not applied or deleted.
#[derive(Debug, Error)]
pub enum ApplyError {
    /// A file that is not what it is to be.
    #[error("a manifest does not parse: {0}")]
    Manifest(String),
    /// The API server refused, or cannot be reached.
    #[error(transparent)]
    Api(#[from] PerformError),
}

impl ApplyError {
    /// Whether the API server knows no such kind: one that was defined a moment ago is served a moment later.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Api(PerformError::Api { cause, .. }) if is_code(cause, 404))
    }
}

/// What became of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// It is as the file says.
    Done,
    /// It is there, is not Daisy's, and was left as it is: a CustomResourceDefinition or a ClusterProperty that somebody else brought.
    Theirs,
}

/// The objects of a file.
///
/// # Errors
/// What does not parse.
pub fn objects(file: &str) -> Result<Vec<DynamicObject>, ApplyError> {
    let values = daisy_api::yaml::documents(file).map_err(|error| ApplyError::Manifest(error.to_string()))?;
    values
        .into_iter()
        .map(|value| serde_json::from_value(value).map_err(|error| ApplyError::Manifest(error.to_string())))
        .collect()
}

/// A typed object, as those of files are.
///
/// # Errors
/// One without apiVersion and kind.
pub fn object<K: serde::Serialize>(typed: &K) -> Result<DynamicObject, ApplyError> {
    let value = serde_json::to_value(typed).and_then(serde_json::from_value);
    value.map_err(|error| ApplyError::Manifest(error.to_string()))
}

/// What the object is called in messages: `Deployment daisy-system/daisy-dns`.
#[must_use]
pub fn describe(object: &DynamicObject) -> String {
    let kind = object.types.as_ref().map_or("?", |types| types.kind.as_str());
    match object.namespace() {
        Some(namespace) => format!("{kind} {namespace}/{}", object.name_any()),
        None => format!("{kind} {}", object.name_any()),
    }
}

/// What an API server says in its answer, without the answer's frame.
#[must_use]
pub fn said(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error { status.message.clone() } else { error.to_string() }
}

/// Whether the object is labelled as Daisy's.
#[must_use]
pub fn is_ours(object: &DynamicObject) -> bool {
    object.labels().get(MANAGED_BY).is_some_and(|value| value == MANAGED_BY_DAISY)
}

/// The resource of an object, and whether it lives in a namespace. Our own files need no discovery.
///
/// # Errors
/// An object without apiVersion and kind.
pub fn resource(object: &DynamicObject) -> Result<(ApiResource, bool), ApplyError> {
    let types = object.types.as_ref();
    let types = types.ok_or_else(|| ApplyError::Manifest(format!("{} has no apiVersion and kind", object.name_any())))?;
    let (group, version) = types.api_version.split_once('/').unwrap_or(("", types.api_version.as_str()));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &types.kind));
    Ok((resource, !CLUSTER_SCOPED.contains(&types.kind.as_str())))
}

/// Applies objects to one API server.
pub struct Applier {
    client: Client,
    /// The API server has said that it knows no server-side apply.
    plain: AtomicBool,
}

impl Applier {
    /// An applier to the API server of this client.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client, plain: AtomicBool::new(false) }
    }

    fn api(&self, object: &DynamicObject) -> Result<Api<DynamicObject>, ApplyError> {
        let (resource, namespaced) = resource(object)?;
        Ok(match object.namespace() {
            Some(namespace) if namespaced => Api::namespaced_with(self.client.clone(), &namespace, &resource),
            Some(_) | None => Api::all_with(self.client.clone(), &resource),
        })
    }

    /// Makes the object what the file says, whoever set its fields before. A CustomResourceDefinition or a ClusterProperty that is
    /// somebody else's is left as it is.
    ///
    /// # Errors
    /// What the API server refuses.
    pub async fn apply(&self, object: &DynamicObject) -> Result<Applied, ApplyError> {
        self.put(object, false).await
    }

    /// Has the API server say whether it would take the object, and changes nothing.
    ///
    /// # Errors
    /// What it would refuse.
    pub async fn rehearse(&self, object: &DynamicObject) -> Result<Applied, ApplyError> {
        self.put(object, true).await
    }

    async fn put(&self, object: &DynamicObject, dry_run: bool) -> Result<Applied, ApplyError> {
        let api = self.api(object)?;
        let shared = ["CustomResourceDefinition", "ClusterProperty"];
        if object.types.as_ref().is_some_and(|types| shared.contains(&types.kind.as_str()))
            && self.is_theirs(&api, object).await?
        {
            return Ok(Applied::Theirs);
        }
        if !self.plain.load(Ordering::Relaxed) {
            let params = PatchParams { dry_run, ..PatchParams::apply(FIELD_MANAGER).force() };
            match api.patch(&object.name_any(), &params, &Patch::Apply(object)).await {
                Err(error) if is_code(&error, 415) => self.plain.store(true, Ordering::Relaxed),
                other => return Ok(other.map(|_| Applied::Done).doing(|| format!("applying {}", describe(object)))?),
            }
        }
        let params = PostParams { dry_run, field_manager: None };
        match api.create(&params, object).await {
            Err(error) if is_code(&error, 409) => {}
            other => return Ok(other.map(|_| Applied::Done).doing(|| format!("creating {}", describe(object)))?),
        }
        let params = PatchParams { dry_run, ..PatchParams::default() };
        let patched = api.patch(&object.name_any(), &params, &Patch::Merge(object)).await;
        Ok(patched.map(|_| Applied::Done).doing(|| format!("changing {}", describe(object)))?)
    }

    async fn is_theirs(&self, api: &Api<DynamicObject>, object: &DynamicObject) -> Result<bool, ApplyError> {
        let had = api.get_opt(&object.name_any()).await.doing(|| format!("reading {}", describe(object)))?;
        Ok(had.is_some_and(|had| !is_ours(&had)))
    }

    /// Deletes the object if it is there and Daisy's. Says whether it was.
    ///
    /// # Errors
    /// What the API server refuses.
    pub async fn delete(&self, object: &DynamicObject) -> Result<bool, ApplyError> {
        let api = self.api(object)?;
        let had = match api.get_opt(&object.name_any()).await {
            // The kind itself is gone.
            Err(error) if is_code(&error, 404) => None,
            other => other.doing(|| format!("reading {}", describe(object)))?,
        };
        if !had.is_some_and(|had| is_ours(&had)) {
            return Ok(false);
        }
        match api.delete(&object.name_any(), &DeleteParams::default()).await {
            Err(error) if is_code(&error, 404) => Ok(false),
            other => Ok(other.map(|_| true).doing(|| format!("deleting {}", describe(object)))?),
        }
    }
}
