//! JSON as a Rust type, or the field that keeps it from being one.

use std::fmt;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// Why a value is not of its type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypeMismatch {
    /// The path of the field, as `spec.ports[0].port`; empty for the whole object.
    pub field: String,
    /// What is wrong there.
    pub message: String,
}

/// Reads a value as its type. `at` is the value's own path in its object: empty for the whole.
///
/// # Errors
/// The field that is not of its type, the first that serde comes upon.
pub fn read<T: DeserializeOwned>(value: &Value, at: &str) -> Result<T, TypeMismatch> {
    serde_json::from_value(value.clone()).map_err(|error| {
        let message = error.to_string();
        let field = locate(value, at, &|part| serde_json::from_value::<T>(part).is_err_and(|e| e.to_string() == message));
        TypeMismatch { field, message }
    })
}

/// The path of what is wrong with `value`: from the whole, the child that alone gives the same error, and so on inward. A
/// deserializer that tells the path by itself has to be compiled once more for every type; this asks the one that is there.
fn locate(value: &Value, at: &str, wrong: &dyn Fn(Value) -> bool) -> String {
    let mut path = Path { at, steps: Vec::new() };
    let mut here = value;
    loop {
        let (empty, children): (Value, Vec<_>) = match here {
            Value::Object(fields) => {
                (Value::Object(Map::new()), fields.iter().map(|(key, child)| (Step::Key(key), child)).collect())
            }
            Value::Array(items) => {
                (Value::Array(Vec::new()), items.iter().enumerate().map(|(at, child)| (Step::Index(at), child)).collect())
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => return path.to_string(),
        };
        // Wrong even when empty: something lacks here.
        if wrong(path.around(empty)) {
            return path.to_string();
        }
        let next = children.into_iter().find(|(step, child)| wrong(path.around(step.around((*child).clone()))));
        let Some((step, child)) = next else { return path.to_string() };
        path.steps.push(step);
        here = child;
    }
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

impl Step<'_> {
    /// A value that holds nothing but `child`.
    fn around(self, child: Value) -> Value {
        match self {
            Self::Key(key) => Value::Object(Map::from_iter([(key.to_owned(), child)])),
            Self::Index(_) => Value::Array(vec![child]),
        }
    }
}

struct Path<'a> {
    at: &'a str,
    steps: Vec<Step<'a>>,
}

impl Path<'_> {
    fn around(&self, leaf: Value) -> Value {
        self.steps.iter().rev().fold(leaf, |inner, step| step.around(inner))
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.at)?;
        for (index, step) in self.steps.iter().enumerate() {
            match step {
                Step::Key(key) if index == 0 && self.at.is_empty() => formatter.write_str(key)?,
                Step::Key(key) => write!(formatter, ".{key}")?,
                Step::Index(index) => write!(formatter, "[{index}]")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Service;
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    fn field_of<T: DeserializeOwned>(value: Value) -> String {
        read::<T>(&value, "").err().expect("not of its type").field
    }

    #[test]
    fn the_field_that_is_of_a_wrong_type_is_named() {
        let service = |ports: Value| json!({ "metadata": { "name": "web" }, "spec": { "clusterIP": "None", "ports": ports } });
        assert!(read::<Service>(&service(json!([{ "port": 80 }])), "").is_ok());
        assert_eq!(field_of::<Service>(service(json!([{ "port": 80 }, { "port": "http" }]))), "spec.ports[1].port");
        assert_eq!(
            field_of::<Service>(service(json!([{ "port": 80 }, { "port": "a" }, { "port": "a" }]))),
            "spec.ports[1].port"
        );
        assert_eq!(field_of::<Service>(service(json!("http"))), "spec.ports");
        assert_eq!(field_of::<Service>(json!([])), "");
    }

    #[test]
    fn of_a_field_that_lacks_the_place_is_named() {
        #[derive(Debug, Deserialize)]
        struct Inner {
            _wanted: u8,
        }
        #[derive(Debug, Deserialize)]
        struct Outer {
            _all: Vec<Inner>,
        }
        assert_eq!(field_of::<Outer>(json!({ "_all": [{ "_wanted": 1 }, { "other": 1 }] })), "_all[1]");
        let nested = read::<Outer>(&json!({ "_all": [{ "_wanted": 300 }] }), "spec").expect_err("300 is no u8");
        assert_eq!(nested.field, "spec._all[0]._wanted");
        assert!(nested.message.contains("300"), "{}", nested.message);
        assert_eq!(read::<Outer>(&json!({}), "spec").expect_err("_all lacks").field, "spec");
    }
}
