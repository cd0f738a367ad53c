//! CustomResourceDefinitions: what they must say, what they define, what their status says.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::catalog::{Catalog, Served};
use crate::definition::{Column, ResourceDefinition, ResourceKey, Source};
use crate::jsonpath::JsonPath;
use crate::object::{self, member_mut};
use crate::refusal::Cause;
use crate::schema::Schema;
use crate::validation::NameRule;

/// The API group of CustomResourceDefinitions.
pub(crate) const GROUP: &str = "apiextensions.k8s.io";
/// Their plural.
pub(crate) const PLURAL: &str = "customresourcedefinitions";

pub(crate) fn is(key: &ResourceKey) -> bool {
    &*key.group == GROUP && &*key.plural == PLURAL
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Fills in what may be left out, as Kubernetes does.
pub(crate) fn set_defaults(crd: &mut Value) {
    let kind = crd["spec"]["names"]["kind"].as_str().unwrap_or_default().to_owned();
    let names = member_mut(&mut crd["spec"], "names");
    names.entry("singular").or_insert_with(|| json!(kind.to_lowercase()));
    names.entry("listKind").or_insert_with(|| json!(format!("{kind}List")));
    if crd["spec"]["conversion"].is_null() {
        crd["spec"]["conversion"] = json!({"strategy": "None"});
    }
}

/// Says in the status that the definition is served, once it is checked.
pub(crate) fn establish(crd: &mut Value, now: &str) {
    let spec = &crd["spec"];
    let stored: Vec<_> = spec["versions"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|version| version["storage"] == true)
        .map(|version| version["name"].clone())
        .collect();
    let mut versions: Vec<Value> = crd["status"]["storedVersions"].as_array().cloned().unwrap_or_default();
    for version in stored {
        if !versions.contains(&version) {
            versions.push(version);
        }
    }
    let since = |kind: &str| {
        crd["status"]["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|condition| condition["type"] == kind)
            .and_then(|condition| condition["lastTransitionTime"].as_str())
            .unwrap_or(now)
            .to_owned()
    };
    let condition = |kind: &str, reason: &str, message: &str| json!({"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": since(kind)});
    crd["status"] = json!({
        "acceptedNames": spec["names"],
        "storedVersions": versions,
        "conditions": [
            condition("NamesAccepted", "NoConflicts", "no conflicts found"),
            condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
        ],
    });
}

/// What a definition defines: its served versions, the one to store first.
///
/// # Errors
/// Everything that is wrong with it.
pub(crate) fn compile(crd: &Value, catalog: &Catalog) -> Result<Vec<Arc<Served>>, Vec<Cause>> {
    let mut causes = Vec::new();
    let spec = &crd["spec"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (group, plural, kind) = (text(&spec["group"]), text(&spec["names"]["plural"]), text(&spec["names"]["kind"]));
    let name = object::text(crd, "name");
    if name != format!("{plural}.{group}") {
        causes.push(Cause::invalid(
            "metadata.name",
            format!("Invalid value: {name:?}: must be spec.names.plural+\".\"+spec.group"),
        ));
    }
    if NameRule::Subdomain.check(&group).is_err() || !group.contains('.') {
        causes
            .push(Cause::invalid("spec.group", format!("Invalid value: {group:?}: should be a domain with at least one dot")));
    }
    for (field, value) in [("plural", &plural), ("singular", &text(&spec["names"]["singular"])), ("kind", &kind.to_lowercase())]
    {
        if let Err(why) = NameRule::LetterLabel.check(value) {
            causes.push(Cause::invalid(format!("spec.names.{field}"), format!("Invalid value: {value:?}: {why}")));
        }
    }
    let namespaced = match spec["scope"].as_str() {
        Some("Namespaced") => true,
        Some("Cluster") => false,
        Some(_) | None => {
            let message = format!("Unsupported value: {}: supported values: \"Cluster\", \"Namespaced\"", spec["scope"]);
            causes.push(Cause::new("FieldValueNotSupported", "spec.scope", message));
            true
        }
    };
    if spec["conversion"]["strategy"].as_str().is_some_and(|strategy| strategy != "None") {
        let message = "Unsupported value: \"Webhook\": supported values: \"None\"";
        causes.push(Cause::new("FieldValueNotSupported", "spec.conversion.strategy", message));
    }
    let versions = spec["versions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let storage: Vec<_> = versions.iter().filter(|version| version["storage"] == true).collect();
    if storage.len() != 1 {
        causes.push(Cause::invalid("spec.versions", "Invalid value: must have exactly one version marked as storage version"));
    }
    let stored_as = storage.first().map_or_else(String::new, |version| format!("{group}/{}", text(&version["name"])));
    let mut served = Vec::new();
    for (index, version) in versions.iter().enumerate() {
        let field = format!("spec.versions[{index}]");
        let version_name = text(&version["name"]);
        if let Err(why) = NameRule::LetterLabel.check(&version_name) {
            causes.push(Cause::invalid(format!("{field}.name"), format!("Invalid value: {version_name:?}: {why}")));
        }
        let mut definition = ResourceDefinition::untyped((&group, &version_name), &plural, &kind, namespaced);
        definition.singular = text(&spec["names"]["singular"]);
        definition.list_kind = text(&spec["names"]["listKind"]);
        definition.short_names = strings(&spec["names"]["shortNames"]);
        definition.categories = strings(&spec["names"]["categories"]);
        definition.has_status = version["subresources"]["status"].is_object();
        definition.columns = columns(&version["additionalPrinterColumns"], &field, &mut causes);
        if catalog.clashes(name, &definition) {
            let message = format!("Invalid value: {kind:?}: the resource or its kind is defined already in group {group}");
            causes.push(Cause::invalid("spec.names", message));
        }
        let source = &version["schema"]["openAPIV3Schema"];
        let schema = if source.is_null() {
            causes.push(Cause::required(format!("{field}.schema.openAPIV3Schema"), "Required value: schemas are required"));
            continue;
        } else if source["x-kubernetes-preserve-unknown-fields"] == true && source["properties"].is_null() {
            Schema::anything()
        } else {
            match Schema::compile(source, &format!("{field}.schema.openAPIV3Schema")) {
                Ok(schema) => schema,
                Err(wrong) => {
                    causes.extend(wrong);
                    continue;
                }
            }
        };
        if version["served"] == true {
            let entry = Served { key: definition.key(), stored_as: stored_as.clone(), schema: Some(schema), definition };
            let first = version["storage"] == true;
            served.insert(if first { 0 } else { served.len() }, Arc::new(entry));
        }
    }
    if causes.is_empty() { Ok(served) } else { Err(causes) }
}

fn columns(source: &Value, field: &str, causes: &mut Vec<Cause>) -> Vec<Column> {
    let mut columns = Vec::new();
    for (index, column) in source.as_array().into_iter().flatten().enumerate() {
        let text = |key: &str| column[key].as_str().unwrap_or_default();
        match text("jsonPath").parse::<JsonPath>() {
            Ok(path) => {
                let mut out = Column::new(text("name"), text("type"), Source::Path(path));
                out.format = text("format").to_owned();
                out.description = text("description").to_owned();
                out.priority = column["priority"].as_i64().unwrap_or(0);
                columns.push(out);
            }
            Err(error) => {
                let field = format!("{field}.additionalPrinterColumns[{index}].jsonPath");
                causes.push(Cause::invalid(field, format!("Invalid value: {error}")));
            }
        }
    }
    columns
}

/// What may not change once objects may exist.
pub(crate) fn immutable(old: &Value, new: &Value) -> Vec<Cause> {
    ["scope", "group"]
        .into_iter()
        .filter(|key| old["spec"][key] != new["spec"][key])
        .map(|key| Cause::invalid(format!("spec.{key}"), format!("Invalid value: {}: field is immutable", new["spec"][key])))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn widgets() -> Value {
        json!({
            "metadata": {"name": "widgets.example.com"},
            "spec": {
                "group": "example.com", "scope": "Namespaced", "names": {"plural": "widgets", "kind": "Widget"},
                "versions": [
                    {"name": "v1alpha1", "served": true, "storage": false, "schema": {"openAPIV3Schema": {"type": "object"}}},
                    {"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                     "schema": {"openAPIV3Schema": {"type": "object"}},
                     "additionalPrinterColumns": [{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}]},
                ],
            },
        })
    }

    #[test]
    fn a_definition_serves_its_versions() {
        let mut crd = widgets();
        set_defaults(&mut crd);
        let served = compile(&crd, &Catalog::default()).expect("good");
        assert_eq!(served.iter().map(|served| served.definition.version.as_str()).collect::<Vec<_>>(), ["v1", "v1alpha1"]);
        assert!(served.iter().all(|served| served.stored_as == "example.com/v1"));
        assert!(served[0].definition.has_status && !served[1].definition.has_status);
        assert_eq!(served[0].definition.singular, "widget");
        establish(&mut crd, "2026-01-01T00:00:00Z");
        establish(&mut crd, "2027-01-01T00:00:00Z");
        assert_eq!(crd["status"]["conditions"][1]["lastTransitionTime"], "2026-01-01T00:00:00Z");
        assert_eq!(crd["status"]["storedVersions"], json!(["v1"]));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let catalog = Catalog::default();
        for (pointer, value, field) in [
            ("/metadata/name", json!("other"), "metadata.name"),
            ("/spec/scope", json!("Galaxy"), "spec.scope"),
            ("/spec/versions/0/storage", json!(true), "spec.versions"),
            ("/spec/versions/1/schema", json!({}), "spec.versions[1].schema.openAPIV3Schema"),
            (
                "/spec/versions/1/additionalPrinterColumns/0/jsonPath",
                json!(".a["),
                "spec.versions[1].additionalPrinterColumns[0].jsonPath",
            ),
            ("/spec/names/kind", json!("not a kind"), "spec.names.kind"),
            ("/spec/conversion", json!({"strategy": "Webhook"}), "spec.conversion.strategy"),
        ] {
            let mut crd = widgets();
            set_defaults(&mut crd);
            if pointer == "/spec/conversion" {
                crd["spec"]["conversion"] = value;
            } else {
                *crd.pointer_mut(pointer).expect("a field") = value;
            }
            let causes = compile(&crd, &catalog).expect_err(pointer);
            assert!(causes.iter().any(|cause| cause.field == field), "{pointer}: {causes:?}");
        }
    }

    #[test]
    fn two_definitions_do_not_share_a_kind() {
        let mut crd = widgets();
        set_defaults(&mut crd);
        let catalog = Catalog::default();
        let catalog = catalog.with("widgets.example.com", compile(&crd, &catalog).expect("good"));
        assert!(compile(&crd, &catalog).is_ok(), "the same one again");
        crd["metadata"]["name"] = json!("gadgets.example.com");
        crd["spec"]["names"]["plural"] = json!("gadgets");
        assert!(compile(&crd, &catalog).is_err());
    }
}
