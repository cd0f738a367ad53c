use proptest::prelude::*;
use serde_json::{Value, json};

use super::Schema;

fn schema(spec: Value) -> Schema {
    Schema::compile(&json!({"type": "object", "properties": {"spec": spec}}), "schema").expect("a structural schema")
}

fn fields(schema: &Schema, spec: Value) -> Vec<String> {
    schema
        .check(&json!({"metadata": {}, "spec": spec}))
        .into_iter()
        .map(|cause| format!("{} {}", cause.field, cause.reason))
        .collect()
}

#[test]
fn values_are_held_to_their_limits() {
    let schema = schema(json!({"type": "object", "required": ["id"], "properties": {
        "id": {"type": "string", "pattern": "^[a-z]+$", "minLength": 2, "maxLength": 4},
        "port": {"type": "integer", "minimum": 1, "maximum": 65535},
        "share": {"type": "number", "exclusiveMaximum": true, "maximum": 1},
        "mode": {"type": "string", "enum": ["A", "B"]},
        "many": {"type": "array", "maxItems": 2, "minItems": 1, "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
        "map": {"type": "object", "additionalProperties": {"type": "boolean"}},
        "either": {"x-kubernetes-int-or-string": true},
        "maybe": {"type": "string", "nullable": true},
        "address": {"type": "string", "format": "ipv4"},
        "at": {"type": "string", "format": "date-time"},
        "keyed": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["n"],
            "items": {"type": "object", "properties": {"n": {"type": "string"}}}},
        "one": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
    }}));
    let good = json!({"id": "ab", "port": 80, "share": 0.5, "mode": "A", "many": ["x"], "map": {"k": true}, "either": "10%", "maybe": null,
        "address": "10.0.0.1", "at": "2026-01-01T00:00:00Z", "keyed": [{"n": "a"}, {"n": "b"}], "one": {"a": 1}});
    assert!(fields(&schema, good).is_empty());
    for (spec, expected) in [
        (json!({}), "spec.id FieldValueRequired"),
        (json!({"id": "A1"}), "spec.id FieldValueInvalid"),
        (json!({"id": "a"}), "spec.id FieldValueInvalid"),
        (json!({"id": "abcde"}), "spec.id FieldValueTooLong"),
        (json!({"id": 5}), "spec.id FieldValueTypeInvalid"),
        (json!({"id": "ab", "port": 0}), "spec.port FieldValueInvalid"),
        (json!({"id": "ab", "port": 1.5}), "spec.port FieldValueTypeInvalid"),
        (json!({"id": "ab", "share": 1}), "spec.share FieldValueInvalid"),
        (json!({"id": "ab", "mode": "C"}), "spec.mode FieldValueNotSupported"),
        (json!({"id": "ab", "many": ["a", "b", "c"]}), "spec.many FieldValueTooMany"),
        (json!({"id": "ab", "many": []}), "spec.many FieldValueInvalid"),
        (json!({"id": "ab", "many": ["a", "a"]}), "spec.many[1] FieldValueDuplicate"),
        (json!({"id": "ab", "many": ["a", 1]}), "spec.many[1] FieldValueTypeInvalid"),
        (json!({"id": "ab", "map": {"k": 1}}), "spec.map.k FieldValueTypeInvalid"),
        (json!({"id": "ab", "either": true}), "spec.either FieldValueTypeInvalid"),
        (json!({"id": null}), "spec.id FieldValueTypeInvalid"),
        (json!({"id": "ab", "address": "10.0.0"}), "spec.address FieldValueInvalid"),
        (json!({"id": "ab", "at": "yesterday"}), "spec.at FieldValueInvalid"),
        (json!({"id": "ab", "keyed": [{"n": "a"}, {"n": "a"}]}), "spec.keyed[1] FieldValueDuplicate"),
        (json!({"id": "ab", "one": {"a": 1, "b": 2}}), "spec.one FieldValueInvalid"),
    ] {
        assert_eq!(fields(&schema, spec.clone()), [expected], "{spec}");
    }
}

#[test]
fn unknown_fields_go_and_defaults_come() {
    let schema = schema(json!({"type": "object", "properties": {
        "list": {"type": "array", "default": [], "items": {"type": "object", "properties": {"on": {"type": "boolean", "default": true}}}},
        "inner": {"type": "object", "default": {}, "properties": {"n": {"type": "integer", "default": 3}}},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        "unset": {"type": "string", "default": "d"},
        "none": {"type": "string", "nullable": true, "default": "d"},
    }}));
    let mut object = json!({"apiVersion": "g/v1", "kind": "K", "metadata": {"name": "a"}, "other": 1,
        "spec": {"list": [{"x": 1}], "free": {"any": {"thing": 1}}, "unset": null, "none": null, "strange": {"y": 2}}});
    let unknown = schema.shape(&mut object);
    assert_eq!(unknown, ["other", "spec.list[0].x", "spec.strange"]);
    assert_eq!(
        object,
        json!({"apiVersion": "g/v1", "kind": "K", "metadata": {"name": "a"},
            "spec": {"list": [{"on": true}], "inner": {"n": 3}, "free": {"any": {"thing": 1}}, "unset": "d", "none": null}})
    );
}

#[test]
fn what_is_not_structural_is_refused() {
    for bad in [
        json!({"type": "string"}),
        json!({"type": "object", "properties": {"a": {}}}),
        json!({"type": "object", "properties": {"a": {"type": "text"}}}),
        json!({"type": "object", "properties": {"a": {"type": "array"}}}),
        json!({"type": "object", "properties": {"a": {"type": "string", "pattern": "("}}}),
        json!({"type": "object", "properties": {"a": {"$ref": "#/x", "type": "object"}}}),
        json!({"type": "object", "properties": 3, "items": 4}),
        json!(null),
    ] {
        assert!(Schema::compile(&bad, "schema").is_err(), "{bad}");
    }
}

#[test]
fn a_schema_without_end_is_refused() {
    let mut deep = json!({"type": "object"});
    for _ in 0..100 {
        deep = json!({"type": "object", "properties": {"a": deep}});
    }
    assert!(Schema::compile(&deep, "schema").is_err());
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        "[a-c]{0,3}".prop_map(Value::from)
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-d]", inner, 0..4).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn shaping_is_idempotent_and_nothing_panics(spec in any_json(), source in any_json()) {
        let _ = Schema::compile(&source, "schema");
        let schema = schema(json!({"type": "object", "properties": {
            "a": {"type": "integer", "default": 1},
            "b": {"type": "object", "properties": {"c": {"type": "string", "default": "x"}}},
            "c": {"type": "array", "items": {"type": "object", "properties": {"a": {"type": "boolean"}}}},
        }}));
        let mut once = json!({"spec": spec});
        schema.shape(&mut once);
        let mut twice = once.clone();
        prop_assert!(schema.shape(&mut twice).is_empty());
        prop_assert_eq!(&once, &twice);
        schema.check(&once);
    }
}
