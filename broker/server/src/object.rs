//! An object as it is kept: its JSON, and the little that is looked at without parsing it.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

/// An object's labels.
pub type Labels = BTreeMap<String, String>;

/// One version of one object. Cloning the `Arc` around it is all that lists, watches and history cost.
#[derive(Debug)]
pub struct Stored {
    /// The object, as compact JSON in the version it is stored in.
    pub json: Bytes,
    /// Its resourceVersion.
    pub version: u64,
    /// Its UID.
    pub uid: String,
    /// Its labels.
    pub labels: Labels,
    /// When this version was written, or read at start.
    pub(crate) since: Instant,
}

impl Stored {
    pub(crate) fn new(object: &Value) -> Self {
        // Serializing a `Value` cannot fail: its keys are texts.
        Self::from_parts(serde_json::to_vec(object).unwrap_or_default().into(), object)
    }

    pub(crate) fn from_json(json: Bytes) -> Result<Self, serde_json::Error> {
        let object: Value = serde_json::from_slice(&json)?;
        Ok(Self::from_parts(json, &object))
    }

    fn from_parts(json: Bytes, object: &Value) -> Self {
        let labels = object["metadata"]["labels"]
            .as_object()
            .into_iter()
            .flatten()
            .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
            .collect();
        Self {
            json,
            version: version_of(object).unwrap_or(0),
            uid: text(object, "uid").to_owned(),
            labels,
            since: Instant::now(),
        }
    }

    /// The object, parsed.
    #[must_use]
    pub fn value(&self) -> Value {
        serde_json::from_slice(&self.json).unwrap_or(Value::Null)
    }

    /// What it takes in memory, about.
    pub(crate) fn weight(&self) -> usize {
        self.json.len() + 256
    }
}

/// `metadata.KEY`, or the empty text.
pub(crate) fn text<'a>(object: &'a Value, key: &str) -> &'a str {
    object["metadata"][key].as_str().unwrap_or_default()
}

/// `metadata.resourceVersion` as a number.
pub(crate) fn version_of(object: &Value) -> Option<u64> {
    text(object, "resourceVersion").parse().ok()
}

/// The object's metadata, made if it is not there.
pub(crate) fn metadata_mut(object: &mut Value) -> &mut Map<String, Value> {
    member_mut(object, "metadata")
}

/// The map `object.KEY`, made if it is not there or is no map.
pub(crate) fn member_mut<'a>(object: &'a mut Value, key: &str) -> &'a mut Map<String, Value> {
    if !object.is_object() {
        *object = json!({});
    }
    let member = &mut object[key];
    if !member.is_object() {
        *member = json!({});
    }
    match member {
        Value::Object(map) => map,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            unreachable!("made a map above")
        }
    }
}

/// Sets `metadata.KEY`, or takes it away.
pub(crate) fn set_metadata(object: &mut Value, key: &str, value: Option<Value>) {
    let metadata = metadata_mut(object);
    match value {
        Some(value) => metadata.insert(key.to_owned(), value),
        None => metadata.remove(key),
    };
}

/// An object nested deeper than this is not stored: others must be able to parse it, in a list too.
pub(crate) const DEEPEST: usize = 100;

/// How deep a value is nested; a text or number is 0.
pub(crate) fn depth(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
    }
}

/// The refusal of what is nested deeper than [`DEEPEST`].
pub(crate) fn too_deep() -> crate::Refusal {
    crate::Refusal::bad_request(format!("the object is nested more than {DEEPEST} levels deep"))
}

/// The metadata that clients who ask for `PartialObjectMetadata` get.
pub(crate) fn partial(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_found_again() {
        let object = json!({"metadata": {"name": "a", "uid": "u", "resourceVersion": "7", "labels": {"k": "v"}}, "x": [1]});
        let stored = Stored::new(&object);
        assert_eq!((stored.version, stored.uid.as_str(), stored.labels["k"].as_str()), (7, "u", "v"));
        assert_eq!(stored.value(), object);
        assert_eq!(Stored::from_json(stored.json.clone()).expect("JSON").version, 7);
        assert!(Stored::from_json(Bytes::from_static(b"{")).is_err());
    }
}
