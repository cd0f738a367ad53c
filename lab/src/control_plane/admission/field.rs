//! What is wrong with an object, field by field, in Kubernetes' words.

use std::fmt;

/// Fields do not hold what they must (422).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Invalid(pub(crate) Vec<FieldError>);

impl From<FieldError> for Invalid {
    fn from(error: FieldError) -> Self {
        Self(vec![error])
    }
}

/// One field, what it held, and why that cannot be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FieldError {
    /// Its path, as `spec.ports[0].port`.
    pub(crate) field: String,
    /// `FieldValueInvalid` and its like, as the causes of a Status have them.
    pub(crate) reason: &'static str,
    /// What follows the path.
    pub(crate) message: String,
}

impl FieldError {
    /// The value cannot be.
    pub(crate) fn invalid(field: impl Into<String>, value: impl fmt::Debug, why: impl fmt::Display) -> Self {
        Self { field: field.into(), reason: "FieldValueInvalid", message: format!("Invalid value: {value:?}: {why}") }
    }

    /// There must be a value.
    pub(crate) fn required(field: impl Into<String>, why: impl fmt::Display) -> Self {
        Self { field: field.into(), reason: "FieldValueRequired", message: format!("Required value: {why}") }
    }

    /// Another item has the value already.
    pub(crate) fn duplicate(field: impl Into<String>, value: impl fmt::Debug) -> Self {
        Self { field: field.into(), reason: "FieldValueDuplicate", message: format!("Duplicate value: {value:?}") }
    }

    /// The value is none of those that are known.
    pub(crate) fn unsupported(field: impl Into<String>, value: impl fmt::Debug, known: &[&str]) -> Self {
        let known = known.iter().map(|k| format!("{k:?}")).collect::<Vec<_>>().join(", ");
        Self {
            field: field.into(),
            reason: "FieldValueNotSupported",
            message: format!("Unsupported value: {value:?}: supported values: {known}"),
        }
    }
}
