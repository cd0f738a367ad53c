//! Holding an object to its schema.

use std::collections::HashSet;

use serde_json::Value;

use super::{Additional, Identity, Kind, Path, Schema, format};
use crate::refusal::Cause;

/// After so many causes the rest is not looked for.
const MOST_CAUSES: usize = 50;

impl Schema {
    /// Everything that is wrong with an object, as causes of a 422.
    pub(crate) fn check(&self, object: &Value) -> Vec<Cause> {
        let mut checker = Checker { causes: Vec::new() };
        if let Some(map) = object.as_object() {
            let root = Path::Root;
            for key in &self.required {
                if !map.contains_key(key) {
                    checker.causes.push(Cause::required(key.clone(), "Required value"));
                }
            }
            for (key, value) in map.iter().filter(|(key, _)| !["apiVersion", "kind", "metadata"].contains(&key.as_str())) {
                if let Some(schema) = self.properties.get(key) {
                    checker.value(schema, value, &root.key(key));
                }
            }
            checker.composed(self, object, &root);
        }
        checker.causes
    }

    fn accepts(&self, value: &Value) -> bool {
        let mut checker = Checker { causes: Vec::new() };
        checker.value(self, value, &Path::Root);
        checker.causes.is_empty()
    }
}

struct Checker {
    causes: Vec<Cause>,
}

impl Checker {
    fn value(&mut self, schema: &Schema, value: &Value, path: &Path<'_>) {
        if self.causes.len() >= MOST_CAUSES || value.is_null() && schema.nullable {
            return;
        }
        if !self.kind(schema, value, path) {
            return;
        }
        self.limits(schema, value, path);
        match value {
            Value::String(text) => self.text(schema, text, path),
            Value::Number(_) => self.number(schema, value, path),
            Value::Array(items) => self.items(schema, items, path),
            Value::Object(map) => {
                for key in schema.required.iter().filter(|key| !map.contains_key(*key)) {
                    self.causes.push(Cause::required(path.key(key).to_string(), "Required value"));
                }
                self.count(path, map.len(), schema.limits.properties, "properties");
                for (key, value) in map {
                    let at = path.key(key);
                    if let Some(property) = schema.properties.get(key) {
                        self.value(property, value, &at);
                    } else if let Additional::Each(each) = &schema.additional {
                        self.value(each, value, &at);
                    }
                }
            }
            Value::Null | Value::Bool(_) => {}
        }
        self.composed(schema, value, path);
    }

    fn kind(&mut self, schema: &Schema, value: &Value, path: &Path<'_>) -> bool {
        let is = name_of(value);
        let wanted = match schema.kind {
            _ if schema.int_or_string => {
                if value.is_string() || is == "integer" {
                    return true;
                }
                "integer,string"
            }
            None => return true,
            Some(Kind::Object) => "object",
            Some(Kind::Array) => "array",
            Some(Kind::String) => "string",
            Some(Kind::Integer) => "integer",
            Some(Kind::Number) => "number",
            Some(Kind::Boolean) => "boolean",
        };
        if is == wanted || wanted == "number" && is == "integer" {
            return true;
        }
        self.causes.push(Cause::new(
            "FieldValueTypeInvalid",
            path.to_string(),
            format!("Invalid value: {is:?}: {path} in body must be of type {wanted}: {is:?}"),
        ));
        false
    }

    fn limits(&mut self, schema: &Schema, value: &Value, path: &Path<'_>) {
        if let Some(allowed) = &schema.limits.allowed
            && !allowed.contains(value)
        {
            let supported: Vec<_> = allowed.iter().map(Value::to_string).collect();
            let message = format!("Unsupported value: {}: supported values: {}", brief(value), supported.join(", "));
            self.causes.push(Cause::new("FieldValueNotSupported", path.to_string(), message));
        }
        if let Some(name) = &schema.limits.format
            && !format::fits(name, value)
        {
            self.refuse(path, value, &format!("must be of type {name}"));
        }
    }

    fn text(&mut self, schema: &Schema, text: &str, path: &Path<'_>) {
        let value = || Value::from(text);
        let (least, most) = schema.limits.length;
        if least.is_some() || most.is_some() {
            let length = text.chars().count() as u64;
            if let Some(least) = least.filter(|least| length < *least) {
                self.refuse(path, &value(), &format!("should be at least {least} chars long"));
            }
            if let Some(most) = most.filter(|most| length > *most) {
                let message = format!("Too long: may not be longer than {most}");
                self.causes.push(Cause::new("FieldValueTooLong", path.to_string(), message));
                return;
            }
        }
        if let Some(pattern) = schema.limits.pattern.as_ref().filter(|pattern| !pattern.is_match(text)) {
            self.refuse(path, &value(), &format!("should match '{pattern}'"));
        }
    }

    fn number(&mut self, schema: &Schema, value: &Value, path: &Path<'_>) {
        let Some(number) = value.as_f64() else { return };
        if let Some((least, exclusive)) = schema.limits.least
            && (number < least || exclusive && number <= least)
        {
            let or_equal = if exclusive { "" } else { " or equal to" };
            self.refuse(path, value, &format!("should be greater than{or_equal} {least}"));
        }
        if let Some((most, exclusive)) = schema.limits.most
            && (number > most || exclusive && number >= most)
        {
            let or_equal = if exclusive { "" } else { " or equal to" };
            self.refuse(path, value, &format!("should be less than{or_equal} {most}"));
        }
        if let Some(step) = schema.limits.multiple_of.filter(|step| *step > 0.0)
            && (number / step).fract() != 0.0
        {
            self.refuse(path, value, &format!("should be a multiple of {step}"));
        }
    }

    fn items(&mut self, schema: &Schema, items: &[Value], path: &Path<'_>) {
        self.count(path, items.len(), schema.limits.items, "items");
        // A list over its limit is refused for that alone: what is in it is not worth the work.
        if schema.limits.items.1.is_some_and(|most| items.len() as u64 > most) {
            return;
        }
        if let Some(each) = &schema.items {
            for (index, item) in items.iter().enumerate() {
                self.value(each, item, &path.index(index));
            }
        }
        if let Some(identity) = &schema.identity {
            let mut seen = HashSet::new();
            for (index, item) in items.iter().enumerate() {
                let identity = match identity {
                    Identity::Item => item.to_string(),
                    Identity::Keys(keys) => {
                        Value::from(keys.iter().map(|key| item.get(key).cloned().unwrap_or(Value::Null)).collect::<Vec<_>>())
                            .to_string()
                    }
                };
                if !seen.insert(identity) {
                    let message = format!("Duplicate value: {}", brief(item));
                    self.causes.push(Cause::new("FieldValueDuplicate", path.index(index).to_string(), message));
                }
            }
        }
    }

    fn count(&mut self, path: &Path<'_>, count: usize, (least, most): (Option<u64>, Option<u64>), what: &str) {
        if let Some(least) = least.filter(|least| (count as u64) < *least) {
            let message = format!("Invalid value: {count}: {path} in body should have at least {least} {what}");
            self.causes.push(Cause::invalid(path.to_string(), message));
        }
        if let Some(most) = most.filter(|most| count as u64 > *most) {
            let message = format!("Too many: {count}: must have at most {most} {what}");
            self.causes.push(Cause::new("FieldValueTooMany", path.to_string(), message));
        }
    }

    fn composed(&mut self, schema: &Schema, value: &Value, path: &Path<'_>) {
        for part in &schema.all_of {
            self.value(part, value, path);
        }
        if !schema.any_of.is_empty() && !schema.any_of.iter().any(|part| part.accepts(value)) {
            self.refuse(path, value, "must validate at least one schema (anyOf)");
        }
        if !schema.one_of.is_empty() && schema.one_of.iter().filter(|part| part.accepts(value)).count() != 1 {
            self.refuse(path, value, "must validate one and only one schema (oneOf)");
        }
        if schema.not.as_ref().is_some_and(|not| not.accepts(value)) {
            self.refuse(path, value, "must not validate the schema (not)");
        }
    }

    fn refuse(&mut self, path: &Path<'_>, value: &Value, why: &str) {
        let message = format!("Invalid value: {}: {path} in body {why}", brief(value));
        self.causes.push(Cause::invalid(path.to_string(), message));
    }
}

fn name_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() && number.as_f64().is_some_and(|number| number.fract() != 0.0) => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// A value for a message: whole if it is short.
fn brief(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 120 { text } else { format!("{}…", text.chars().take(120).collect::<String>()) }
}
