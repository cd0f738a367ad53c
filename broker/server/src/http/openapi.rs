//! OpenAPI, as much as kubectl asks for: that PATCH knows `fieldValidation` (so kubectl leaves validation to the server), and the
//! schemas of custom resources (so `kubectl explain` knows their fields).

use serde_json::{Map, Value, json};

use crate::catalog::Served;
use crate::crd;
use crate::definition::ResourceKey;
use crate::store::State;

fn info() -> Value {
    json!({"title": "daisy", "version": env!("CARGO_PKG_VERSION")})
}

/// `/openapi/v2`: without any definition.
pub(super) fn v2() -> Value {
    json!({"swagger": "2.0", "info": info(), "paths": {}, "definitions": {}})
}

/// `/openapi/v3`: where each group and version is described.
pub(super) fn v3(state: &State) -> Value {
    let mut paths = Map::new();
    for (group, versions) in state.catalog.groups() {
        for version in versions {
            let path = if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") };
            // Clients keep a description for as long as its hash is the same.
            let url = format!("/openapi/v3/{path}?hash={}", hash(state, group));
            paths.insert(path, json!({"serverRelativeURL": url}));
        }
    }
    json!({"paths": paths})
}

fn hash(state: &State, group: &str) -> String {
    let crds = ResourceKey::new(crd::GROUP, crd::PLURAL);
    let of_group = |name: &str| name.split_once('.').is_some_and(|(_, is)| is == group);
    let newest = state
        .collection(&crds)
        .into_iter()
        .flat_map(|crds| crds.iter(None))
        .filter(|((_, name), _)| of_group(name))
        .map(|(_, crd)| crd.version)
        .max();
    format!("{}-{}", env!("CARGO_PKG_VERSION"), newest.unwrap_or(0))
}

/// `/openapi/v3/apis/GROUP/VERSION`
pub(super) fn v3_of(state: &State, group: &str, version: &str) -> Option<Value> {
    let mut paths = Map::new();
    let mut schemas = Map::new();
    for served in state.catalog.resources(group, version) {
        describe(served, &mut paths);
        let name = schema_name(served);
        let mut schema = raw_schema(state, served).unwrap_or_else(|| json!({"type": "object"}));
        schema["x-kubernetes-group-version-kind"] = json!([kind_of(served)]);
        if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
            properties.entry("apiVersion").or_insert_with(|| json!({"type": "string"}));
            properties.entry("kind").or_insert_with(|| json!({"type": "string"}));
            properties.entry("metadata").or_insert_with(|| json!({"type": "object"}));
        }
        schemas.insert(name, schema);
    }
    (!paths.is_empty()).then(|| json!({"openapi": "3.0.0", "info": info(), "paths": paths, "components": {"schemas": schemas}}))
}

fn kind_of(served: &Served) -> Value {
    let definition = &served.definition;
    json!({"group": definition.group, "version": definition.version, "kind": definition.kind})
}

fn schema_name(served: &Served) -> String {
    let definition = &served.definition;
    let group = if definition.group.is_empty() { "core" } else { &definition.group };
    format!("{group}.{}.{}", definition.version, definition.kind)
}

fn raw_schema(state: &State, served: &Served) -> Option<Value> {
    let name = served.key.to_string();
    let crd = state.get(&ResourceKey::new(crd::GROUP, crd::PLURAL), "", &name).filter(|_| served.is_custom())?.value();
    let version = crd["spec"]["versions"].as_array()?.iter().find(|version| version["name"] == *served.definition.version)?;
    Some(version["schema"]["openAPIV3Schema"].clone())
}

fn describe(served: &Served, paths: &mut Map<String, Value>) {
    let definition = &served.definition;
    let root = if definition.group.is_empty() {
        format!("/api/{}", definition.version)
    } else {
        format!("/apis/{}/{}", definition.group, definition.version)
    };
    let collection = if definition.namespaced {
        format!("{root}/namespaces/{{namespace}}/{}", definition.plural)
    } else {
        format!("{root}/{}", definition.plural)
    };
    let reference = format!("#/components/schemas/{}", schema_name(served));
    let ok = json!({"200": {"description": "OK", "content": {"application/json": {"schema": {"$ref": reference}}}}});
    let operation = |action: &str, parameters: &[&str]| {
        let parameters: Vec<_> =
            parameters.iter().map(|name| json!({"name": name, "in": "query", "schema": {"type": "string"}})).collect();
        json!({
            "parameters": parameters, "responses": ok, "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": kind_of(served),
        })
    };
    const WRITE: [&str; 3] = ["dryRun", "fieldManager", "fieldValidation"];
    let mut on_collection = Map::new();
    let mut on_object = Map::new();
    for verb in &definition.verbs {
        match verb.as_str() {
            "list" => on_collection
                .insert("get".to_owned(), operation("list", &["limit", "continue", "labelSelector", "fieldSelector"])),
            "create" => on_collection.insert("post".to_owned(), operation("post", &WRITE)),
            "get" => on_object.insert("get".to_owned(), operation("get", &[])),
            "update" => on_object.insert("put".to_owned(), operation("put", &WRITE)),
            "patch" => on_object.insert("patch".to_owned(), operation("patch", &WRITE)),
            "delete" => on_object.insert("delete".to_owned(), operation("delete", &["dryRun", "propagationPolicy"])),
            _ => None,
        };
    }
    paths.insert(format!("{collection}/{{name}}"), Value::Object(on_object));
    paths.insert(collection, Value::Object(on_collection));
}
