//! From `openAPIV3Schema` to [`Schema`].

use regex::RegexBuilder;
use serde_json::{Map, Value};

use super::{Additional, Identity, Kind, Limits, Path, Schema};
use crate::refusal::Cause;

/// A schema nested deeper than this is refused: its objects could not be parsed either.
const DEEPEST: usize = 64;
/// What a compiled pattern may take, in bytes.
const PATTERN_BYTES: usize = 1 << 20;

impl Schema {
    /// Compiles the schema of a version of a CustomResourceDefinition; `field` is where it stands in there.
    ///
    /// # Errors
    /// Everything in it that is not structural, or not understood.
    pub(crate) fn compile(source: &Value, field: &str) -> Result<Self, Vec<Cause>> {
        let mut compiler = Compiler { causes: Vec::new(), depth: 0 };
        let root = Path::Root;
        let path = root.key(field);
        let schema = compiler.schema(source, &path, true);
        if schema.kind != Some(Kind::Object) {
            compiler.causes.push(Cause::invalid(format!("{path}.type"), "Invalid value: must be object at the root"));
        }
        if compiler.causes.is_empty() { Ok(schema) } else { Err(compiler.causes) }
    }
}

struct Compiler {
    causes: Vec<Cause>,
    depth: usize,
}

impl Compiler {
    /// `structural` outside of allOf, anyOf, oneOf and not, where types, defaults and properties of their own have their place.
    fn schema(&mut self, source: &Value, path: &Path<'_>, structural: bool) -> Schema {
        let Some(map) = source.as_object() else {
            self.refuse(path, "must be an object");
            return Schema::default();
        };
        if self.depth >= DEEPEST {
            self.refuse(path, "nested too deeply");
            return Schema::default();
        }
        self.depth += 1;
        let flag = |key: &str| map.get(key).and_then(Value::as_bool).unwrap_or(false);
        let mut schema = Schema {
            nullable: flag("nullable"),
            int_or_string: flag("x-kubernetes-int-or-string"),
            preserve_unknown: flag("x-kubernetes-preserve-unknown-fields"),
            embedded: flag("x-kubernetes-embedded-resource"),
            default: map.get("default").filter(|value| !value.is_null()).cloned(),
            required: texts(map, "required"),
            ..Schema::default()
        };
        schema.kind = self.kind(map, path);
        if structural && schema.kind.is_none() && !schema.int_or_string && !schema.preserve_unknown {
            self.causes
                .push(Cause::required(format!("{path}.type"), "Required value: must not be empty for specified object fields"));
        }
        for key in ["$ref", "definitions", "dependencies", "patternProperties", "additionalItems"] {
            if map.contains_key(key) {
                self.refuse(&path.key(key), "is not allowed in a structural schema");
            }
        }
        if flag("uniqueItems") {
            self.refuse(&path.key("uniqueItems"), "must not be true: use x-kubernetes-list-type: set");
        }
        schema.limits = self.limits(map, path);
        self.children(&mut schema, map, path, structural);
        self.depth -= 1;
        schema
    }

    fn kind(&mut self, map: &Map<String, Value>, path: &Path<'_>) -> Option<Kind> {
        let text = map.get("type")?.as_str().unwrap_or_default();
        let kind = match text {
            "object" => Kind::Object,
            "array" => Kind::Array,
            "string" => Kind::String,
            "integer" => Kind::Integer,
            "number" => Kind::Number,
            "boolean" => Kind::Boolean,
            "" => return None,
            other => {
                self.refuse(
                    &path.key("type"),
                    &format!("{other:?} is none of array, boolean, integer, number, object, string"),
                );
                return None;
            }
        };
        Some(kind)
    }

    fn limits(&mut self, map: &Map<String, Value>, path: &Path<'_>) -> Limits {
        let count =
            |key: &str| map.get(key).and_then(|value| value.as_u64().or_else(|| value.as_f64().map(|value| value as u64)));
        let number = |key: &str| map.get(key).and_then(Value::as_f64);
        let flag = |key: &str| map.get(key).and_then(Value::as_bool).unwrap_or(false);
        let pattern = map.get("pattern").and_then(Value::as_str).and_then(|pattern| {
            RegexBuilder::new(pattern)
                .size_limit(PATTERN_BYTES)
                .build()
                .map_err(|error| self.refuse(&path.key("pattern"), &format!("{pattern:?}: {error}")))
                .ok()
        });
        Limits {
            allowed: map.get("enum").and_then(Value::as_array).cloned(),
            pattern,
            format: map.get("format").and_then(Value::as_str).map(str::to_owned),
            length: (count("minLength"), count("maxLength")),
            items: (count("minItems"), count("maxItems")),
            properties: (count("minProperties"), count("maxProperties")),
            least: number("minimum").map(|least| (least, flag("exclusiveMinimum"))),
            most: number("maximum").map(|most| (most, flag("exclusiveMaximum"))),
            multiple_of: number("multipleOf"),
        }
    }

    fn children(&mut self, schema: &mut Schema, map: &Map<String, Value>, path: &Path<'_>, structural: bool) {
        if let Some(properties) = map.get("properties").and_then(Value::as_object) {
            let at = path.key("properties");
            for (name, source) in properties {
                schema.properties.insert(name.clone(), self.schema(source, &at.key(name), structural));
            }
        }
        schema.additional = match map.get("additionalProperties") {
            None | Some(Value::Bool(false)) => Additional::None,
            Some(Value::Bool(true)) => Additional::Any,
            Some(source) => Additional::Each(Box::new(self.schema(source, &path.key("additionalProperties"), structural))),
        };
        if let Some(source) = map.get("items") {
            schema.items = Some(Box::new(self.schema(source, &path.key("items"), structural)));
        } else if structural && schema.kind == Some(Kind::Array) {
            self.causes.push(Cause::required(format!("{path}.items"), "Required value: must be specified"));
        }
        schema.identity = match map.get("x-kubernetes-list-type").and_then(Value::as_str) {
            Some("set") => Some(Identity::Item),
            Some("map") => Some(Identity::Keys(texts(map, "x-kubernetes-list-map-keys"))),
            Some(_) | None => None,
        };
        for (key, into) in [("allOf", &mut schema.all_of), ("anyOf", &mut schema.any_of), ("oneOf", &mut schema.one_of)] {
            let at = path.key(key);
            for (index, source) in map.get(key).and_then(Value::as_array).into_iter().flatten().enumerate() {
                into.push(self.schema(source, &at.index(index), false));
            }
        }
        if let Some(source) = map.get("not") {
            schema.not = Some(Box::new(self.schema(source, &path.key("not"), false)));
        }
    }

    fn refuse(&mut self, path: &Path<'_>, why: &str) {
        self.causes.push(Cause::invalid(path.to_string(), format!("Invalid value: {why}")));
    }
}

fn texts(map: &Map<String, Value>, key: &str) -> Vec<String> {
    map.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}
