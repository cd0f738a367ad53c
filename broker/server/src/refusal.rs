//! What a request that is not granted gets: a `metav1.Status`.

use std::borrow::Cow;
use std::fmt;

use serde_json::{Value, json};

/// Why one field, or one precondition, was refused (`metav1.StatusCause`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// A word for programs, as `FieldValueInvalid`.
    pub reason: &'static str,
    /// A sentence for people.
    pub message: String,
    /// The path of the field, as `spec.ports[0].name`.
    pub field: String,
}

impl Cause {
    /// A cause that concerns `field`.
    pub fn new(reason: &'static str, field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), field: field.into() }
    }

    /// A value that is not allowed there.
    pub fn invalid(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new("FieldValueInvalid", field, message)
    }

    /// A field that must be there.
    pub fn required(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new("FieldValueRequired", field, message)
    }
}

/// What a refusal is about (`metav1.StatusDetails`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// The object's name.
    pub name: String,
    /// Its API group.
    pub group: String,
    /// Its resource (the plural) or its kind, as Kubernetes has it for the reason at hand.
    pub kind: String,
    /// Its UID, where that matters.
    pub uid: String,
    /// One by one, what is wrong.
    pub causes: Vec<Cause>,
}

/// A request that is refused: an HTTP code and the `Status` that goes with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status code, 400 to 599.
    pub code: u16,
    /// A word for programs, as `NotFound` (`metav1.StatusReason`).
    pub reason: Cow<'static, str>,
    /// A sentence for people: the object, the field, the value, what to do.
    pub message: String,
    /// What it is about.
    pub details: Option<Box<Details>>,
    /// Seconds after which to try again, where that helps.
    pub retry_after: Option<u32>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} ({} {})", self.message, self.code, self.reason)
    }
}

impl std::error::Error for Refusal {}

impl Refusal {
    /// Any refusal.
    pub fn new(code: u16, reason: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self { code, reason: reason.into(), message: message.into(), details: None, retry_after: None }
    }

    /// The same, about the object `name` of `kind` in `group`.
    #[must_use]
    pub fn about(mut self, group: &str, kind: &str, name: &str) -> Self {
        let details = self.details.get_or_insert_default();
        details.group = group.to_owned();
        details.kind = kind.to_owned();
        details.name = name.to_owned();
        self
    }

    /// The same, with its causes.
    #[must_use]
    pub fn because(mut self, causes: Vec<Cause>) -> Self {
        self.details.get_or_insert_default().causes = causes;
        self
    }

    /// 400: the request itself is malformed.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 401: no token, or one that is not valid (any more).
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// 403, in the words `RESOURCE "NAME" is forbidden: WHY`.
    pub fn forbidden(group: &str, plural: &str, name: &str, why: impl fmt::Display) -> Self {
        let resource = qualified(group, plural);
        let message = if name.is_empty() {
            format!("{resource} is forbidden: {why}")
        } else {
            format!("{resource} {name:?} is forbidden: {why}")
        };
        Self::new(403, "Forbidden", message).about(group, plural, name)
    }

    /// 404: no such object.
    pub fn not_found(group: &str, plural: &str, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{} {name:?} not found", qualified(group, plural))).about(group, plural, name)
    }

    /// 404: no such resource, or no such path.
    pub fn no_such_path() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource")
    }

    /// 405: the resource does not have this verb.
    pub fn method_not_allowed(group: &str, plural: &str, verb: &str) -> Self {
        Self::new(
            405,
            "MethodNotAllowed",
            format!("{verb} is not supported on resources of kind {:?}", qualified(group, plural)),
        )
        .about(group, plural, "")
    }

    /// 406: only media types that are not served would be accepted.
    pub fn not_acceptable() -> Self {
        Self::new(406, "NotAcceptable", "only the following media types are accepted: application/json")
    }

    /// 409: an object of this name is there already.
    pub fn already_exists(group: &str, plural: &str, name: &str) -> Self {
        Self::new(409, "AlreadyExists", format!("{} {name:?} already exists", qualified(group, plural)))
            .about(group, plural, name)
    }

    /// 409: the object is no longer what the request supposes.
    pub fn conflict(group: &str, plural: &str, name: &str, why: impl fmt::Display) -> Self {
        let message = format!("Operation cannot be fulfilled on {} {name:?}: {why}", qualified(group, plural));
        Self::new(409, "Conflict", message).about(group, plural, name)
    }

    /// 410: the resourceVersion or continue token is older than what is kept. List anew.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// 413: the body, or the object that would come of it, is too large.
    pub fn too_large(limit: usize) -> Self {
        Self::new(413, "RequestEntityTooLarge", format!("Request entity too large: limit is {limit} bytes"))
    }

    /// 415: the body is of a media type that is not read.
    pub fn unsupported_media_type(sent: &str, read: &str) -> Self {
        let hint = if sent.contains("protobuf") {
            ". kubectl's commands that make an object from arguments send protobuf: use kubectl create -f or kubectl apply -f, as in \
             `kubectl create … --dry-run=client -o yaml | kubectl create -f -`"
        } else {
            ""
        };
        let message =
            format!("the body of the request was in an unknown format ({sent:?}): accepted media types include: {read}{hint}");
        Self::new(415, "UnsupportedMediaType", message)
    }

    /// 422: the object does not say what its kind allows.
    pub fn invalid(group: &str, kind: &str, name: &str, causes: Vec<Cause>) -> Self {
        let each: Vec<_> = causes.iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect();
        let what = if each.len() == 1 { each.concat() } else { format!("[{}]", each.join(", ")) };
        Self::new(422, "Invalid", format!("{} {name:?} is invalid: {what}", qualified(group, kind)))
            .about(group, kind, name)
            .because(causes)
    }

    /// 429: too many requests; try again after so many seconds.
    pub fn too_many(message: impl Into<String>, retry_after: u32) -> Self {
        let mut refusal = Self::new(429, "TooManyRequests", message);
        refusal.retry_after = Some(retry_after);
        refusal.details.get_or_insert_default();
        refusal
    }

    /// 500: our own fault.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(500, "InternalError", format!("Internal error occurred: {}", message.into()))
    }

    /// The `metav1.Status` to send.
    pub fn to_status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        });
        if let Some(details) = &self.details {
            let mut out = serde_json::Map::new();
            for (key, text) in
                [("name", &details.name), ("group", &details.group), ("kind", &details.kind), ("uid", &details.uid)]
            {
                if !text.is_empty() {
                    out.insert(key.to_owned(), json!(text));
                }
            }
            if !details.causes.is_empty() {
                let causes: Vec<_> = details
                    .causes
                    .iter()
                    .map(|cause| json!({"reason": cause.reason, "message": cause.message, "field": cause.field}))
                    .collect();
                out.insert("causes".to_owned(), causes.into());
            }
            if let Some(seconds) = self.retry_after {
                out.insert("retryAfterSeconds".to_owned(), json!(seconds));
            }
            status["details"] = Value::Object(out);
        }
        status
    }
}

/// `PLURAL.GROUP`, or `PLURAL` of the core group.
pub(crate) fn qualified(group: &str, plural: &str) -> String {
    if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_kubernetes_own() {
        assert_eq!(Refusal::not_found("", "secrets", "a").message, "secrets \"a\" not found");
        assert_eq!(
            Refusal::invalid("g.io", "Thing", "a", vec![Cause::required("spec.x", "Required value")]).message,
            "Thing.g.io \"a\" is invalid: spec.x: Required value"
        );
        let status = Refusal::too_many("later", 2).to_status();
        assert_eq!(status["details"]["retryAfterSeconds"], 2);
        assert_eq!(status["reason"], "TooManyRequests");
    }
}
