//! Tables (`meta.k8s.io/v1` Table): what kubectl prints.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::catalog::Served;
use crate::clock;
use crate::definition::{Column, Source};
use crate::jsonpath::JsonPath;
use crate::object;

/// The column definitions of a resource's table.
pub(super) fn columns(served: &Served) -> Vec<Value> {
    let definition = &served.definition;
    let mut columns = vec![json!({
        "name": "Name", "type": "string", "format": "name", "priority": 0,
        "description": "Name must be unique within a namespace.",
    })];
    for column in &definition.columns {
        columns.push(json!({
            "name": column.name, "type": column.kind, "format": column.format, "priority": column.priority,
            "description": column.description,
        }));
    }
    if has_age(served) {
        columns.push(
            json!({"name": "Age", "type": "string", "format": "", "priority": 0, "description": "Time since it was created."}),
        );
    }
    columns
}

/// A custom resource that defines columns defines them all, as in Kubernetes.
fn has_age(served: &Served) -> bool {
    !served.is_custom() || served.definition.columns.is_empty()
}

/// An object's cells.
pub(super) fn cells(served: &Served, object: &Value, now: Timestamp) -> Vec<Value> {
    let mut cells = vec![json!(object::text(object, "name"))];
    cells.extend(served.definition.columns.iter().map(|column| cell(column, object, now)));
    if has_age(served) {
        cells.push(json!(clock::age_of(object::text(object, "creationTimestamp"), now)));
    }
    cells
}

fn cell(column: &Column, object: &Value, now: Timestamp) -> Value {
    match &column.source {
        Source::With(cell) => cell(object),
        Source::Count(path) => {
            let count = |value: &Value| {
                value.as_array().map(Vec::len).or_else(|| value.as_object().map(serde_json::Map::len)).unwrap_or(0)
            };
            json!(path.find(object).into_iter().map(count).sum::<usize>())
        }
        Source::Path(path) => at_path(column, path, object, now),
    }
}

fn at_path(column: &Column, path: &JsonPath, object: &Value, now: Timestamp) -> Value {
    let found: Vec<_> = path.find(object).into_iter().filter(|value| !value.is_null()).collect();
    let Some(first) = found.first() else { return Value::Null };
    match column.kind.as_str() {
        "integer" | "number" if first.is_number() => (*first).clone(),
        "boolean" if first.is_boolean() => (*first).clone(),
        "date" => json!(first.as_str().map_or_else(|| "<unknown>".to_owned(), |text| clock::age_of(text, now))),
        _ => json!(found.iter().map(|value| text(value)).collect::<Vec<_>>().join(",")),
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::definition::ResourceDefinition;

    #[test]
    fn cells_are_typed() {
        let definition = ResourceDefinition::untyped(("", "v1"), "things", "Thing", true)
            .column(Column::path("Size", "integer", ".spec.size").expect("a path"))
            .column(Column::path("Nodes", "string", ".spec.nodes[*].name").expect("a path"))
            .column(Column::path("Seen", "date", ".status.seen").expect("a path"))
            .column(Column::path("On", "boolean", ".spec.on").expect("a path"))
            .column(Column::path("List", "string", ".spec.list").expect("a path"))
            .column(Column::count("Data", ".data").expect("a path"));
        let served = Served::builtin(definition);
        let object = json!({
            "metadata": {"name": "a", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"size": 3, "nodes": [{"name": "x"}, {"name": "y"}], "on": true, "list": ["p", 1]},
            "status": {"seen": "2026-01-01T00:00:50Z"}, "data": {"k": 1, "l": 2},
        });
        let now = "2026-01-01T00:01:00Z".parse().expect("a time");
        assert_eq!(json!(cells(&served, &object, now)), json!(["a", 3, "x,y", "10s", true, "[\"p\",1]", 2, "60s"]));
        assert_eq!(json!(cells(&served, &json!({}), now)), json!(["", null, null, null, null, null, 0, "<unknown>"]));
        assert_eq!(columns(&served).len(), 8);
    }
}
