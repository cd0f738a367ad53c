//! The structural schema of a custom resource (`openAPIV3Schema`): compiled once, then applied to each write.
//!
//! ```text
//! CustomResourceDefinition ──compile──▶ Schema ──shape──▶ unknown fields dropped, defaults set
//!                                              └─check──▶ causes of a 422
//! ```

mod check;
mod compile;
mod format;
mod path;
mod shape;

use std::collections::BTreeMap;

use regex::Regex;
use serde_json::Value;

pub(crate) use path::Path;

/// The type that a schema asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
}

/// What an object may hold beside its `properties`.
#[derive(Debug, Default)]
enum Additional {
    #[default]
    None,
    Any,
    Each(Box<Schema>),
}

/// What makes the items of a list the same (`x-kubernetes-list-type`).
#[derive(Debug)]
enum Identity {
    /// The whole item (`set`).
    Item,
    /// These keys of it (`map`).
    Keys(Vec<String>),
}

/// A compiled schema.
#[derive(Debug, Default)]
pub(crate) struct Schema {
    kind: Option<Kind>,
    nullable: bool,
    int_or_string: bool,
    preserve_unknown: bool,
    embedded: bool,
    properties: BTreeMap<String, Schema>,
    additional: Additional,
    items: Option<Box<Schema>>,
    identity: Option<Identity>,
    required: Vec<String>,
    default: Option<Value>,
    limits: Limits,
    all_of: Vec<Schema>,
    any_of: Vec<Schema>,
    one_of: Vec<Schema>,
    not: Option<Box<Schema>>,
}

/// What a value of the right type may be.
#[derive(Debug, Default)]
struct Limits {
    allowed: Option<Vec<Value>>,
    pattern: Option<Regex>,
    format: Option<String>,
    length: (Option<u64>, Option<u64>),
    items: (Option<u64>, Option<u64>),
    properties: (Option<u64>, Option<u64>),
    least: Option<(f64, bool)>,
    most: Option<(f64, bool)>,
    multiple_of: Option<f64>,
}

impl Schema {
    /// What is found in no schema that is given: everything passes, everything is kept.
    pub(crate) fn anything() -> Self {
        Self { kind: Some(Kind::Object), preserve_unknown: true, ..Self::default() }
    }
}

#[cfg(test)]
mod tests;
