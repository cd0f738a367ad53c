//! What Kubernetes does to, and asks of, single built-in kinds.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::crd;
use crate::definition::ResourceKey;
use crate::object::{self, member_mut, metadata_mut};
use crate::rbac;
use crate::refusal::Cause;

/// Fills in what the kind's own code fills in.
pub(super) fn complete(resource: &ResourceKey, object: &mut Value) {
    match (&*resource.group, &*resource.plural) {
        ("", "secrets") => {
            if let Some(texts) = object.as_object_mut().and_then(|map| map.remove("stringData")) {
                let data = member_mut(object, "data");
                for (key, text) in texts.as_object().into_iter().flatten() {
                    data.insert(key.clone(), json!(STANDARD.encode(text.as_str().unwrap_or_default())));
                }
            }
            if object["type"].as_str().is_none_or(str::is_empty) {
                object["type"] = json!("Opaque");
            }
        }
        ("", "namespaces") => {
            let name = object["metadata"]["name"].clone();
            let labels = metadata_mut(object).entry("labels").or_insert_with(|| json!({}));
            if labels.is_object() {
                labels["kubernetes.io/metadata.name"] = name;
            }
            let phase = if object["metadata"]["deletionTimestamp"].is_null() { "Active" } else { "Terminating" };
            object["status"] = json!({"phase": phase});
        }
        (crd::GROUP, crd::PLURAL) => crd::set_defaults(object),
        (rbac::GROUP, "rolebindings" | "clusterrolebindings") => {
            if let Some(reference) = object["roleRef"].as_object_mut() {
                reference.entry("apiGroup").or_insert_with(|| json!(rbac::GROUP));
            }
            for subject in object["subjects"].as_array_mut().into_iter().flatten() {
                let of_rbac = subject["kind"] == "User" || subject["kind"] == "Group";
                if let Some(subject) = subject.as_object_mut().filter(|_| of_rbac) {
                    subject.entry("apiGroup").or_insert_with(|| json!(rbac::GROUP));
                }
            }
        }
        _ => {}
    }
}

/// What is wrong by the kind's own rules.
pub(super) fn check(resource: &ResourceKey, object: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut causes = Vec::new();
    match (&*resource.group, &*resource.plural) {
        ("", "secrets" | "configmaps") => {
            for field in ["data", "binaryData"] {
                for key in object[field].as_object().into_iter().flat_map(|data| data.keys()) {
                    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
                    if key.is_empty() || key.len() > 253 || key == "." || key.starts_with("..") || !key.chars().all(plain) {
                        let why = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";
                        causes.push(Cause::invalid(format!("{field}[{key}]"), format!("Invalid value: {key:?}: {why}")));
                    }
                }
            }
            if let Some(old) = old {
                let fixed = old["immutable"] == true;
                for field in
                    ["data", "binaryData", "immutable"].into_iter().filter(|field| fixed && old[field] != object[field])
                {
                    causes.push(Cause::new(
                        "FieldValueForbidden",
                        field,
                        "Forbidden: field is immutable when `immutable` is set",
                    ));
                }
                if &*resource.plural == "secrets" && old["type"] != object["type"] {
                    causes.push(Cause::invalid("type", format!("Invalid value: {}: field is immutable", object["type"])));
                }
            }
        }
        (crd::GROUP, crd::PLURAL) => {
            if let Some(old) = old {
                causes.extend(crd::immutable(old, object));
            }
        }
        (rbac::GROUP, "rolebindings" | "clusterrolebindings") => binding(resource, object, old, &mut causes),
        (rbac::GROUP, "roles" | "clusterroles") => {
            for (index, rule) in object["rules"].as_array().into_iter().flatten().enumerate() {
                let none = |key: &str| rule[key].as_array().is_none_or(Vec::is_empty);
                if none("verbs") {
                    causes.push(Cause::required(
                        format!("rules[{index}].verbs"),
                        "Required value: verbs must contain at least one value",
                    ));
                }
                if none("nonResourceURLs") && (none("resources") || none("apiGroups")) {
                    let why = "Required value: resource rules must supply at least one api group and one resource";
                    causes.push(Cause::required(format!("rules[{index}]"), why));
                }
            }
        }
        _ => {}
    }
    causes
}

fn binding(resource: &ResourceKey, object: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let kinds: &[&str] = if &*resource.plural == "rolebindings" { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    let kind = object["roleRef"]["kind"].as_str().unwrap_or_default();
    if !kinds.contains(&kind) {
        let message = format!("Unsupported value: {kind:?}: supported values: {kinds:?}");
        causes.push(Cause::new("FieldValueNotSupported", "roleRef.kind", message));
    }
    if object["roleRef"]["name"].as_str().is_none_or(str::is_empty) {
        causes.push(Cause::required("roleRef.name", "Required value"));
    }
    if old.is_some_and(|old| old["roleRef"] != object["roleRef"]) {
        causes.push(Cause::invalid("roleRef", format!("Invalid value: {}: cannot change roleRef", object["roleRef"])));
    }
    for (index, subject) in object["subjects"].as_array().into_iter().flatten().enumerate() {
        if subject["name"].as_str().is_none_or(str::is_empty) {
            causes.push(Cause::required(format!("subjects[{index}].name"), "Required value"));
        }
        let cluster_wide = &*resource.plural == "clusterrolebindings";
        match subject["kind"].as_str() {
            Some("User" | "Group") => {}
            Some("ServiceAccount") if cluster_wide && subject["namespace"].as_str().is_none_or(str::is_empty) => {
                causes.push(Cause::required(format!("subjects[{index}].namespace"), "Required value"));
            }
            Some("ServiceAccount") => {}
            Some(_) | None => {
                let message = format!(
                    "Unsupported value: {}: supported values: \"Group\", \"ServiceAccount\", \"User\"",
                    subject["kind"]
                );
                causes.push(Cause::new("FieldValueNotSupported", format!("subjects[{index}].kind"), message));
            }
        }
    }
}

/// Namespaces that stay.
pub(super) fn may_be_deleted(resource: &ResourceKey, name: &str) -> bool {
    !(resource.group.is_empty() && &*resource.plural == "namespaces" && ["default", "kube-system"].contains(&name))
}

/// Whether the object is on its way out.
pub(super) fn is_terminating(object: &Value) -> bool {
    !object::text(object, "deletionTimestamp").is_empty()
}
