//! Dropping what a schema does not know, and setting its defaults.

use serde_json::{Map, Value};

use super::{Additional, Path, Schema};

/// What is kept of an object beside its properties, at the root and in an embedded object.
const TYPE_META: [&str; 3] = ["apiVersion", "kind", "metadata"];

impl Schema {
    /// Shapes a whole object in place; gives the paths of the fields that were dropped.
    pub(crate) fn shape(&self, object: &mut Value) -> Vec<String> {
        let mut unknown = Vec::new();
        if let Some(map) = object.as_object_mut() {
            self.map(map, &Path::Root, true, &mut unknown);
        }
        unknown
    }

    fn value(&self, value: &mut Value, path: &Path<'_>, unknown: &mut Vec<String>) {
        if let Some(map) = value.as_object_mut() {
            self.map(map, path, self.embedded, unknown);
        } else if let (Some(items), Some(schema)) = (value.as_array_mut(), &self.items) {
            for (index, item) in items.iter_mut().enumerate() {
                schema.value(item, &path.index(index), unknown);
            }
        }
    }

    fn map(&self, map: &mut Map<String, Value>, path: &Path<'_>, whole: bool, unknown: &mut Vec<String>) {
        map.retain(|key, value| {
            if whole && TYPE_META.contains(&key.as_str()) {
                return true;
            }
            let at = path.key(key);
            if let Some(schema) = self.properties.get(key) {
                // A null where none is allowed gives way to the default.
                if value.is_null() && !schema.nullable && schema.default.is_some() {
                    return false;
                }
                schema.value(value, &at, unknown);
                return true;
            }
            match &self.additional {
                Additional::Each(schema) => {
                    schema.value(value, &at, unknown);
                    true
                }
                Additional::Any => true,
                Additional::None if self.preserve_unknown => true,
                Additional::None => {
                    unknown.push(at.to_string());
                    false
                }
            }
        });
        for (key, schema) in &self.properties {
            if let Some(default) = &schema.default
                && !map.contains_key(key)
                && !(whole && TYPE_META.contains(&key.as_str()))
            {
                let mut value = default.clone();
                schema.value(&mut value, &path.key(key), unknown);
                map.insert(key.clone(), value);
            }
        }
    }
}
