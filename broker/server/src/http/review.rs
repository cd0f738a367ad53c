//! What is asked by creating an object that is never kept: tokens, and one's own rights.

use std::time::Duration;

use serde_json::{Value, json};

use super::request::Asked;
use super::respond::{self, Answer};
use crate::clock;
use crate::definition::ResourceKey;
use crate::hooks::{AdmissionRequest, Operation, View};
use crate::rbac::Attributes;
use crate::refusal::{Cause, Refusal};

/// The API group of access reviews.
pub(super) const GROUP: &str = "authorization.k8s.io";
/// Their plural.
pub(super) const PLURAL: &str = "selfsubjectaccessreviews";
/// A token's lifetime when none is asked for, as in Kubernetes.
const DEFAULT_SECONDS: u64 = 3600;

/// `POST …/serviceaccounts/NAME/token` (`authentication.k8s.io/v1` TokenRequest).
pub(super) async fn token(asked: &Asked<'_>, (namespace, name): (&str, &str), body: &Value) -> Result<Answer, Refusal> {
    let limits = &asked.inner.limits;
    let spec = &body["spec"];
    let mut causes = Vec::new();
    if spec["audiences"].as_array().is_some_and(|audiences| !audiences.is_empty()) {
        causes.push(Cause::invalid(
            "spec.audiences",
            "Invalid value: tokens of this server are for itself alone: leave audiences out",
        ));
    }
    if !spec["boundObjectRef"].is_null() {
        causes.push(Cause::invalid("spec.boundObjectRef", "Invalid value: tokens are bound to their ServiceAccount only"));
    }
    let wanted = &spec["expirationSeconds"];
    let seconds = if wanted.is_null() {
        Some(DEFAULT_SECONDS.max(limits.token_least.as_secs()))
    } else {
        wanted.as_u64().filter(|seconds| *seconds >= limits.token_least.as_secs() && *seconds <= 1 << 32)
    };
    if seconds.is_none() {
        let message = format!(
            "Invalid value: {}: may not be shorter than {} seconds or longer than 2^32 seconds",
            spec["expirationSeconds"],
            limits.token_least.as_secs()
        );
        causes.push(Cause::invalid("spec.expirationSeconds", message));
    }
    let Some(seconds) = seconds.filter(|_| causes.is_empty()) else {
        return Err(Refusal::invalid("authentication.k8s.io", "TokenRequest", name, causes));
    };
    let (hooks, user) = (asked.inner.hooks.clone(), asked.user.clone());
    let place = (namespace.to_owned(), name.to_owned());
    asked
        .inner
        .store
        .write(move |transaction| {
            let request = AdmissionRequest {
                user: &user,
                operation: Operation::Create,
                resource: &ResourceKey::new("", "serviceaccounts"),
                namespace: Some(&place.0),
                name: &place.1,
                subresource: Some("token"),
                object: None,
                old_object: None,
                dry_run: false,
            };
            hooks.admit(&request, View(transaction))
        })
        .await?;
    let issued = asked.inner.issue(namespace, name, Duration::from_secs(seconds))?;
    let now = clock::rfc3339(jiff::Timestamp::now());
    let answer = json!({
        "kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1",
        "metadata": {"name": name, "namespace": namespace, "creationTimestamp": now},
        "spec": {"audiences": [], "expirationSeconds": seconds, "boundObjectRef": null},
        "status": {"token": issued.token, "expirationTimestamp": clock::rfc3339(issued.expires)},
    });
    Ok(respond::json(201, &answer))
}

/// `POST …/selfsubjectaccessreviews`
pub(super) fn access(asked: &Asked<'_>, mut review: Value) -> Result<Answer, Refusal> {
    let spec = &review["spec"];
    let text = |attributes: &Value, key: &str| attributes[key].as_str().unwrap_or_default().to_owned();
    let state = asked.inner.store.read();
    let allowed = if spec["resourceAttributes"].is_object() {
        let wanted = &spec["resourceAttributes"];
        let subresource = text(wanted, "subresource");
        let resource = if subresource.is_empty() {
            text(wanted, "resource")
        } else {
            format!("{}/{subresource}", text(wanted, "resource"))
        };
        state.rbac.allows(
            &asked.user,
            &Attributes::Resource {
                verb: &text(wanted, "verb"),
                group: &text(wanted, "group"),
                resource: &resource,
                namespace: &text(wanted, "namespace"),
                name: &text(wanted, "name"),
            },
        )
    } else if spec["nonResourceAttributes"].is_object() {
        let wanted = &spec["nonResourceAttributes"];
        state.rbac.allows(&asked.user, &Attributes::Path { verb: &text(wanted, "verb"), path: &text(wanted, "path") })
    } else {
        let message = "Invalid value: exactly one of nonResourceAttributes or resourceAttributes must be specified";
        let cause = Cause::invalid("spec.resourceAttributes", message);
        return Err(Refusal::invalid(GROUP, "SelfSubjectAccessReview", "", vec![cause]));
    };
    drop(state);
    review["kind"] = json!("SelfSubjectAccessReview");
    review["apiVersion"] = json!("authorization.k8s.io/v1");
    if !review["metadata"].is_object() {
        review["metadata"] = json!({"creationTimestamp": null});
    }
    review["status"] = json!({"allowed": allowed});
    Ok(respond::json(201, &review))
}
