//! The three kinds of patches.

mod strategic;

use json_patch::PatchOperation;
use serde_json::Value;

use crate::definition::ResourceKey;
use crate::object;
use crate::refusal::Refusal;

/// Operations of a JSON patch, at most: they are done while all other writes wait.
const MOST_OPERATIONS: usize = 1_000;

/// A patch as it was sent.
#[derive(Clone, Debug)]
pub(crate) enum Patch {
    /// RFC 7396.
    Merge(Value),
    /// RFC 6902.
    Json(json_patch::Patch),
    /// Kubernetes' own: lists of objects are merged by a key of theirs.
    Strategic(Value),
}

/// The media types, for messages.
pub(crate) const MEDIA_TYPES: &str =
    "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json (built-in resources)";

impl Patch {
    /// Reads a patch by its media type.
    pub(crate) fn parse(media_type: &str, body: &[u8], custom: bool) -> Result<Self, Refusal> {
        let bad = |error: serde_json::Error| Refusal::bad_request(format!("error decoding patch: {error}"));
        match media_type {
            "application/merge-patch+json" => Ok(Self::Merge(serde_json::from_slice(body).map_err(bad)?)),
            "application/json-patch+json" => {
                let patch: json_patch::Patch = serde_json::from_slice(body).map_err(bad)?;
                if patch.0.len() > MOST_OPERATIONS {
                    return Err(Refusal::new(
                        413,
                        "RequestEntityTooLarge",
                        format!("the patch has {} operations: at most {MOST_OPERATIONS} are allowed", patch.0.len()),
                    ));
                }
                Ok(Self::Json(patch))
            }
            "application/strategic-merge-patch+json" if !custom => {
                Ok(Self::Strategic(serde_json::from_slice(body).map_err(bad)?))
            }
            other => Err(Refusal::unsupported_media_type(other, MEDIA_TYPES)),
        }
    }

    /// Applies it; what comes of it is at most about `limit` bytes.
    pub(crate) fn apply(&self, resource: &ResourceKey, object: &mut Value, limit: usize) -> Result<(), Refusal> {
        match self {
            Self::Merge(patch) => {
                object_only(patch)?;
                json_patch::merge(object, patch);
            }
            Self::Strategic(patch) => {
                object_only(patch)?;
                strategic::merge(resource, object, patch)?;
            }
            Self::Json(patch) => {
                let mut copied = 0;
                for (index, operation) in patch.0.iter().enumerate() {
                    copied += within_bounds(object, operation)?;
                    if copied > limit {
                        return Err(Refusal::too_large(limit));
                    }
                    json_patch::patch(object, std::slice::from_ref(operation)).map_err(|error| {
                        let why = format!("the patch's operation {index} ({}): {}", operation.path(), error.kind);
                        Refusal::new(
                            422,
                            "Invalid",
                            format!("the server rejected our request due to an error in our request: {why}"),
                        )
                    })?;
                }
            }
        }
        Ok(())
    }
}

/// Holds an operation to bounds before it is done: it must not nest the object without end, nor copy copies without end. Gives the
/// bytes, about, of what it takes from elsewhere in the object.
fn within_bounds(object: &Value, operation: &PatchOperation) -> Result<usize, Refusal> {
    let from = match operation {
        PatchOperation::Copy(copy) => object.pointer(copy.from.as_str()),
        PatchOperation::Move(step) => object.pointer(step.from.as_str()),
        PatchOperation::Add(add) => Some(&add.value),
        PatchOperation::Replace(replace) => Some(&replace.value),
        PatchOperation::Remove(_) | PatchOperation::Test(_) => None,
    };
    let Some(from) = from else { return Ok(0) };
    if operation.path().as_str().matches('/').count() + object::depth(from) > object::DEEPEST {
        return Err(object::too_deep());
    }
    // What is added was counted with the body.
    Ok(if matches!(operation, PatchOperation::Copy(_) | PatchOperation::Move(_)) { weight(from) } else { 0 })
}

fn object_only(patch: &Value) -> Result<(), Refusal> {
    if patch.is_object() { Ok(()) } else { Err(Refusal::bad_request("error decoding patch: a JSON object expected")) }
}

/// At least how many bytes a value takes as JSON.
fn weight(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 1,
        Value::String(text) => text.len() + 2,
        Value::Array(items) => 2 + items.iter().map(weight).sum::<usize>(),
        Value::Object(map) => 2 + map.iter().map(|(key, value)| key.len() + 3 + weight(value)).sum::<usize>(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn apply(media_type: &str, patch: Value, object: Value) -> Result<Value, Refusal> {
        let patch = Patch::parse(media_type, patch.to_string().as_bytes(), false)?;
        let mut object = object;
        patch.apply(&ResourceKey::new("", "configmaps"), &mut object, 10_000)?;
        Ok(object)
    }

    #[test]
    fn each_kind_does_its_own() {
        let object = json!({"data": {"a": "1", "b": "2"}, "list": [1]});
        let merged = apply("application/merge-patch+json", json!({"data": {"a": null, "c": "3"}, "list": [2]}), object.clone());
        assert_eq!(merged.expect("merged"), json!({"data": {"b": "2", "c": "3"}, "list": [2]}));
        let patched = apply(
            "application/json-patch+json",
            json!([{"op": "test", "path": "/data/a", "value": "1"}, {"op": "add", "path": "/list/-", "value": 2}]),
            object.clone(),
        );
        assert_eq!(patched.expect("patched")["list"], json!([1, 2]));
        let failed =
            apply("application/json-patch+json", json!([{"op": "test", "path": "/data/a", "value": "9"}]), object.clone());
        assert_eq!(failed.expect_err("test fails").code, 422);
        assert_eq!(apply("application/apply-patch+yaml", json!({}), object.clone()).expect_err("not served").code, 415);
        assert_eq!(apply("application/merge-patch+json", json!([]), object).expect_err("no object").code, 400);
    }

    #[test]
    fn copies_do_not_grow_without_end() {
        let operations: Vec<_> = (0..40).map(|n| json!({"op": "copy", "from": "", "path": format!("/x{n}")})).collect();
        let refusal = apply("application/json-patch+json", operations.into(), json!({"a": "b"})).expect_err("too large");
        assert_eq!(refusal.code, 413);
    }

    #[test]
    fn nothing_is_nested_without_end() {
        let deep = |levels: usize| (0..levels).fold(json!(1), |inner, _| json!({ "a": inner }));
        let path = |levels: usize| "/a".repeat(levels);
        // Each operation is shallow; together they are not.
        let operations: Vec<_> = (0..20).map(|n| json!({"op": "add", "path": path(n * 10 + 1), "value": deep(10)})).collect();
        let refusal = apply("application/json-patch+json", operations.into(), json!({"a": 1})).expect_err("too deep");
        assert!(refusal.code == 400 && refusal.message.contains("levels deep"), "{refusal}");
        let moves: Vec<_> = (0..10)
            .flat_map(|n| {
                [
                    json!({"op": "add", "path": format!("/b{n}"), "value": {}}),
                    json!({"op": "move", "from": "/a", "path": format!("/b{n}/a")}),
                    json!({"op": "move", "from": format!("/b{n}"), "path": "/a"}),
                ]
            })
            .collect();
        let moved =
            apply("application/json-patch+json", moves.clone().into(), json!({"a": deep(50)})).expect("still within bounds");
        assert_eq!(object::depth(&moved), 61);
        assert_eq!(apply("application/json-patch+json", moves.into(), json!({"a": deep(95)})).expect_err("too deep").code, 400);
        let many: Vec<_> = (0..1_001).map(|_| json!({"op": "test", "path": "/a", "value": 1})).collect();
        assert_eq!(apply("application/json-patch+json", many.into(), json!({"a": 1})).expect_err("too many").code, 413);
    }

    fn tree() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![Just(Value::Null), any::<u8>().prop_map(Value::from), "[a-c]{0,2}".prop_map(Value::from)];
        leaf.prop_recursive(3, 24, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map("[a-d$]{1,2}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_merge_patch_applied_twice_is_applied_once(object in tree(), patch in tree()) {
            if let Ok(once) = apply("application/merge-patch+json", patch.clone(), object) {
                prop_assert_eq!(apply("application/merge-patch+json", patch, once.clone()).expect("again"), once);
            }
        }

        #[test]
        fn strategic_patches_never_panic(object in tree(), patch in tree()) {
            let _ = apply("application/strategic-merge-patch+json", patch, json!({"spec": object}));
        }

        #[test]
        fn without_directives_and_merge_keys_a_strategic_patch_is_a_merge_patch(
            old in prop::collection::btree_map("[a-d]", 0_u8..9, 0..4),
            new in prop::collection::btree_map("[a-d]", prop::option::of(0_u8..9), 0..4),
        ) {
            let (object, patch) = (json!({"data": old}), json!({"data": new}));
            prop_assert_eq!(
                apply("application/strategic-merge-patch+json", patch.clone(), object.clone()).expect("applied"),
                apply("application/merge-patch+json", patch, object).expect("applied")
            );
        }
    }
}
