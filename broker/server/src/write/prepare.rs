//! What every object goes through before it is written.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

use super::{FieldValidation, Writer, rules};
use crate::hooks::Operation;
use crate::object::{self, metadata_mut};
use crate::rbac;
use crate::refusal::{Cause, Refusal};
use crate::typed::{self, TypeMismatch};
use crate::validation;

impl Writer<'_, '_> {
    /// Holds what was sent to the URL that it was sent to, and fills in what it may leave out.
    pub(super) fn addressed(&self, body: &mut Value, name: Option<&str>) -> Result<(), Refusal> {
        let definition = &self.served.definition;
        if !body.is_object() {
            return Err(Refusal::bad_request(format!("the body must be a JSON object, a {}", definition.kind)));
        }
        let api_version = definition.api_version();
        for (key, wanted, what) in
            [("apiVersion", api_version.as_str(), "API version"), ("kind", definition.kind.as_str(), "kind")]
        {
            let is = &body[key];
            if !is.is_null() && *is != *wanted && !(key == "apiVersion" && *is == *self.served.stored_as.as_str()) {
                return Err(Refusal::bad_request(format!(
                    "the {what} in the data ({}) does not match the expected {what} ({wanted})",
                    is.as_str().unwrap_or_default()
                )));
            }
        }
        if !body["metadata"].is_null() && !body["metadata"].is_object() {
            return Err(Refusal::bad_request("metadata must be an object"));
        }
        body["apiVersion"] = json!(self.served.stored_as);
        body["kind"] = json!(definition.kind);
        let metadata = metadata_mut(body);
        for gone in ["managedFields", "selfLink"] {
            metadata.remove(gone);
        }
        match metadata.get("namespace").and_then(Value::as_str).filter(|namespace| !namespace.is_empty()) {
            Some(namespace) if namespace != self.by.namespace => {
                return Err(Refusal::bad_request(format!(
                    "the namespace of the provided object ({namespace}) does not match the namespace sent on the request ({})",
                    self.by.namespace
                )));
            }
            _ if definition.namespaced => metadata.insert("namespace".to_owned(), json!(self.by.namespace)),
            _ => metadata.remove("namespace"),
        };
        if let Some(name) = name {
            match metadata.get("name").and_then(Value::as_str).filter(|sent| !sent.is_empty()) {
                Some(sent) if sent != name => {
                    return Err(Refusal::bad_request(format!(
                        "the name of the object ({sent}) does not match the name on the URL ({name})"
                    )));
                }
                _ => metadata.insert("name".to_owned(), json!(name)),
            };
        }
        Ok(())
    }

    /// Types, schema, hooks, rules: `object` afterwards is what is written.
    pub(super) fn admitted(&mut self, operation: Operation, mut object: Value, old: Option<&Value>) -> Result<Value, Refusal> {
        let name = object::text(&object, "name").to_owned();
        rules::complete(&self.served.key, &mut object);
        object = self.shaped(object, true)?;
        let unmutated = object.clone();
        self.mutate(operation, &name, &mut object, old)?;
        if unmutated != object {
            object = self.shaped(object, false)?;
        }
        let mut causes = validation::metadata(&object);
        if operation == Operation::Create
            && let Err(why) = self.served.definition.names.check(&name)
        {
            causes.push(Cause::invalid("metadata.name", format!("Invalid value: {name:?}: {why}")));
        }
        if let Some(schema) = &self.served.schema {
            causes.extend(schema.check(&object));
        }
        causes.extend(rules::check(&self.served.key, &object, old));
        if !causes.is_empty() {
            return Err(self.invalid(&name, causes));
        }
        if *self.served.key.group == *rbac::GROUP {
            let (plural, namespace) = (&*self.served.key.plural, self.by.namespace.as_str());
            self.transaction.state().rbac.check_escalation(&self.by.user, plural, namespace, &object)?;
        }
        self.admit(operation, &name, Some(&object), old)?;
        Ok(object)
    }

    /// Holds the object to its type or shapes it by its schema; says which fields it dropped if `sent` by a client.
    fn shaped(&mut self, mut object: Value, sent: bool) -> Result<Value, Refusal> {
        let tell = sent && self.by.validation != FieldValidation::Ignore;
        let mut unknown = Vec::new();
        // The schema says what it drops; a type says nothing.
        if let Some(normalize) = self.served.definition.normalize {
            let typed = normalize(&object).map_err(|mismatch| self.mistyped(&mismatch))?;
            if tell {
                dropped(&object, &typed, "", &mut unknown);
            }
            object = typed;
        } else {
            let metadata: ObjectMeta =
                typed::read(&object["metadata"], "metadata").map_err(|mismatch| self.mistyped(&mismatch))?;
            let metadata = json!(metadata);
            if tell {
                dropped(&object["metadata"], &metadata, "metadata", &mut unknown);
            }
            object["metadata"] = metadata;
            if let Some(schema) = &self.served.schema {
                unknown.extend(schema.shape(&mut object));
            }
        }
        if tell {
            let words: Vec<_> = unknown.iter().map(|field| format!("unknown field \"{field}\"")).collect();
            if self.by.validation == FieldValidation::Strict && !words.is_empty() {
                return Err(Refusal::bad_request(format!("strict decoding error: {}", words.join(", "))));
            }
            self.warnings.extend(words);
        }
        Ok(object)
    }

    fn mistyped(&self, TypeMismatch { field, message: why }: &TypeMismatch) -> Refusal {
        let definition = &self.served.definition;
        let place = if field.is_empty() { String::new() } else { format!("{field}: ") };
        let message = format!(
            "{} in version {:?} cannot be handled as a {}: {place}{why}",
            definition.kind, definition.version, definition.kind
        );
        Refusal::bad_request(message).because(vec![Cause::invalid(field, why)])
    }
}

/// The fields of `before` that `after` no longer has. Nulls and empty values may go without a word.
fn dropped(before: &Value, after: &Value, at: &str, out: &mut Vec<String>) {
    if let (Some(before), Some(after)) = (before.as_object(), after.as_object()) {
        for (key, value) in before {
            let path = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
            match after.get(key) {
                Some(kept) => dropped(value, kept, &path, out),
                None if is_empty(value) => {}
                None => out.push(path),
            }
        }
    } else if let (Some(before), Some(after)) = (before.as_array(), after.as_array()) {
        for (index, (before, after)) in before.iter().zip(after).enumerate() {
            dropped(before, after, &format!("{at}[{index}]"), out);
        }
    }
}

fn is_empty(value: &Value) -> bool {
    value.is_null() || value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(serde_json::Map::is_empty)
}
