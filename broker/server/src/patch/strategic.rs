//! Strategic merge patches, as kubectl sends them for built-in resources.
//!
//! A JSON merge patch, except that some lists of objects are merged item by item, by a key, and that a patch may hold the
//! directives `$patch: replace | delete | merge`, `$deleteFromPrimitiveList/FIELD`, `$setElementOrder/FIELD` and `$retainKeys`.
//! Which lists have which key is what the `patchMergeKey` tags of Kubernetes' types say; the table below has those of the core,
//! apps and batch groups' types.

use serde_json::{Map, Value};

use crate::definition::ResourceKey;
use crate::refusal::Refusal;

const DIRECTIVE: &str = "$patch";
const RETAIN: &str = "$retainKeys";
const ORDER: &str = "$setElementOrder/";
const REMOVE: &str = "$deleteFromPrimitiveList/";

/// How a list is merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ListMerge {
    /// The patch's list takes the place of the old one.
    Atomic,
    /// Items with the same value of this key are merged.
    By(&'static str),
    /// A set of texts: the union.
    Set,
}

/// How the list `field` within the object `parent` is merged.
fn list_merge(resource: &ResourceKey, parent: &str, field: &str) -> ListMerge {
    use ListMerge::{Atomic, By, Set};
    match (parent, field) {
        ("metadata", "finalizers") => Set,
        ("metadata", "ownerReferences") => By("uid"),
        ("status", "conditions") | ("", "conditions") => By("type"),
        ("status", "addresses") if &*resource.plural == "nodes" => By("type"),
        ("status", "podIPs" | "hostIPs") => By("ip"),
        ("spec", "ports") if &*resource.plural == "services" => By("port"),
        ("spec", "podCIDRs") => Set,
        (
            "spec",
            "containers" | "initContainers" | "ephemeralContainers" | "volumes" | "imagePullSecrets" | "resourceClaims",
        ) => By("name"),
        ("spec", "hostAliases") => By("ip"),
        ("spec", "topologySpreadConstraints") => By("topologyKey"),
        ("containers" | "initContainers" | "ephemeralContainers", "ports") => By("containerPort"),
        ("containers" | "initContainers" | "ephemeralContainers", "env") => By("name"),
        ("containers" | "initContainers" | "ephemeralContainers", "volumeMounts") => By("mountPath"),
        ("containers" | "initContainers" | "ephemeralContainers", "volumeDevices") => By("devicePath"),
        ("", "secrets" | "imagePullSecrets") if &*resource.plural == "serviceaccounts" => By("name"),
        _ => Atomic,
    }
}

/// Applies `patch` to `object`.
pub(super) fn merge(resource: &ResourceKey, object: &mut Value, patch: &Value) -> Result<(), Refusal> {
    Merger { resource }.value(object, patch, "")
}

struct Merger<'a> {
    resource: &'a ResourceKey,
}

impl Merger<'_> {
    /// `parent` is the field that holds `object`.
    fn value(&self, object: &mut Value, patch: &Value, parent: &str) -> Result<(), Refusal> {
        let Some(patch) = patch.as_object() else {
            *object = patch.clone();
            return Ok(());
        };
        match patch.get(DIRECTIVE).and_then(Value::as_str) {
            None | Some("merge") => {}
            Some("replace") => {
                *object = Value::Object(plain(patch));
                return Ok(());
            }
            Some("delete") => {
                *object = Value::Object(Map::new());
                return Ok(());
            }
            Some(other) => return Err(bad(format!("unknown {DIRECTIVE} {other:?}"))),
        }
        if !object.is_object() {
            *object = Value::Object(Map::new());
        }
        let Some(map) = object.as_object_mut() else { return Ok(()) };
        if let Some(kept) = patch.get(RETAIN).and_then(Value::as_array) {
            map.retain(|key, _| kept.iter().any(|kept| kept == key));
        }
        for (key, change) in patch {
            if let Some(field) = key.strip_prefix(REMOVE) {
                let gone = change.as_array().map(Vec::as_slice).unwrap_or_default();
                if let Some(items) = map.get_mut(field).and_then(Value::as_array_mut) {
                    items.retain(|item| !gone.contains(item));
                }
            }
        }
        for (key, change) in patch.iter().filter(|(key, _)| !key.starts_with('$')) {
            if change.is_null() {
                map.remove(key);
            } else if let Some(items) = change.as_array() {
                self.list(map, key, items, parent)?;
            } else {
                let slot = map.entry(key.clone()).or_insert(Value::Null);
                // Plain maps of texts have no structure of their own beneath.
                self.value(slot, change, key)?;
            }
        }
        for (key, order) in patch {
            if let (Some(field), Some(order)) = (key.strip_prefix(ORDER), order.as_array()) {
                self.order(map, field, order, parent);
            }
        }
        Ok(())
    }

    fn list(&self, map: &mut Map<String, Value>, field: &str, changes: &[Value], parent: &str) -> Result<(), Refusal> {
        let how = list_merge(self.resource, parent, field);
        let replaces = changes.iter().any(|change| change[DIRECTIVE] == "replace");
        if how == ListMerge::Atomic || replaces {
            let items = changes.iter().filter(|change| change[DIRECTIVE] != "replace");
            map.insert(field.to_owned(), items.map(clean).collect::<Vec<_>>().into());
            return Ok(());
        }
        let slot = map.entry(field.to_owned()).or_insert_with(|| Value::Array(Vec::new()));
        if !slot.is_array() {
            *slot = Value::Array(Vec::new());
        }
        let Some(items) = slot.as_array_mut() else { return Ok(()) };
        for change in changes {
            let ListMerge::By(key) = how else {
                if !items.contains(change) {
                    items.push(change.clone());
                }
                continue;
            };
            let Some(wanted) = change.get(key) else {
                return Err(bad(format!("an item of {field} has no {key}, by which the list is merged")));
            };
            let at = items.iter().position(|item| item.get(key) == Some(wanted));
            match (at, change[DIRECTIVE] == "delete") {
                (Some(at), true) => {
                    items.remove(at);
                }
                (None, true) => {}
                (Some(at), false) => self.value(&mut items[at], change, field)?,
                (None, false) => {
                    let mut item = Value::Null;
                    self.value(&mut item, change, field)?;
                    items.push(item);
                }
            }
        }
        Ok(())
    }

    /// Brings the items that `order` names into that order; the others stay behind them.
    fn order(&self, map: &mut Map<String, Value>, field: &str, order: &[Value], parent: &str) {
        let how = list_merge(self.resource, parent, field);
        let Some(items) = map.get_mut(field).and_then(Value::as_array_mut) else { return };
        let place = |item: &Value| {
            let found = match how {
                ListMerge::By(key) => {
                    order.iter().position(|wanted| wanted.get(key).is_some() && wanted.get(key) == item.get(key))
                }
                ListMerge::Set | ListMerge::Atomic => order.iter().position(|wanted| wanted == item),
            };
            found.unwrap_or(order.len())
        };
        items.sort_by_key(place);
    }
}

/// A patch's object as an object: without directives.
fn plain(patch: &Map<String, Value>) -> Map<String, Value> {
    patch
        .iter()
        .filter(|(key, value)| !key.starts_with('$') && !value.is_null())
        .map(|(key, value)| (key.clone(), clean(value)))
        .collect()
}

fn clean(value: &Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(plain(map)),
        Value::Array(items) => items.iter().map(clean).collect::<Vec<_>>().into(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}

fn bad(why: String) -> Refusal {
    Refusal::bad_request(format!("strategic merge patch: {why}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn apply(plural: &str, object: Value, patch: Value) -> Value {
        let mut object = object;
        merge(&ResourceKey::new("", plural), &mut object, &patch).expect("a good patch");
        object
    }

    #[test]
    fn containers_are_merged_by_name() {
        let pod = json!({"spec": {"containers": [{"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}, {"name": "b", "image": "1"}]}});
        let patch = json!({"spec": {"$setElementOrder/containers": [{"name": "c"}, {"name": "a"}], "containers": [
            {"name": "a", "image": "2", "env": [{"name": "Y", "value": "2"}]},
            {"name": "b", "$patch": "delete"},
            {"name": "c", "image": "3"},
        ]}});
        assert_eq!(
            apply("pods", pod, patch),
            json!({"spec": {"containers": [
                {"name": "c", "image": "3"},
                {"name": "a", "image": "2", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]},
            ]}})
        );
    }

    #[test]
    fn a_service_has_its_ports_by_port_and_other_lists_are_whole() {
        let service = json!({"spec": {"ports": [{"port": 80, "name": "http"}], "externalIPs": ["1"]}});
        let patch = json!({"spec": {"ports": [{"port": 80, "targetPort": 8080}, {"port": 443}], "externalIPs": ["2"]}});
        assert_eq!(
            apply("services", service, patch),
            json!({"spec": {"ports": [{"port": 80, "name": "http", "targetPort": 8080}, {"port": 443}], "externalIPs": ["2"]}})
        );
    }

    #[test]
    fn directives_are_followed() {
        let object = json!({"metadata": {"finalizers": ["a/b", "c/d"]}, "spec": {"strategy": {"type": "R", "rolling": {"x": 1}}, "x": {"y": 1}}});
        let patch = json!({
            "metadata": {"$deleteFromPrimitiveList/finalizers": ["a/b"], "finalizers": ["e/f"]},
            "spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}, "x": {"$patch": "replace", "z": 2}},
        });
        assert_eq!(
            apply("things", object, patch),
            json!({"metadata": {"finalizers": ["c/d", "e/f"]}, "spec": {"strategy": {"type": "Recreate"}, "x": {"z": 2}}})
        );
        let mut object = json!({});
        assert!(merge(&ResourceKey::new("", "x"), &mut object, &json!({"a": {"$patch": "burn"}})).is_err());
    }
}
