//! The forms in which objects are sent: whole, metadata only, or as rows of a table.

use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::list::Listed;
use super::table;
use crate::catalog::Served;
use crate::object::{self, Stored};

/// What a table's row has beside its cells (`includeObject`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Include {
    None,
    #[default]
    Metadata,
    Object,
}

/// What the client accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Whole,
    Partial,
    Table(Include),
}

impl Form {
    /// The `Content-Type` of an answer.
    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Self::Whole => "application/json",
            Self::Partial => "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
            Self::Table(_) => "application/json;as=Table;g=meta.k8s.io;v=v1",
        }
    }
}

/// The object in the version that is asked for.
pub(super) fn converted(served: &Served, stored: &Stored) -> Value {
    let mut object = stored.value();
    object["apiVersion"] = json!(served.definition.api_version());
    object
}

fn whole(served: &Served, stored: &Stored) -> Bytes {
    if served.definition.api_version() == served.stored_as {
        stored.json.clone()
    } else {
        converted(served, stored).to_string().into()
    }
}

fn row(served: &Served, stored: &Stored, include: Include, now: Timestamp) -> Value {
    let object = converted(served, stored);
    let cells = table::cells(served, &object, now);
    let shown = match include {
        Include::None => Value::Null,
        Include::Metadata => object::partial(&object),
        Include::Object => object,
    };
    json!({"cells": cells, "object": shown})
}

fn as_table(served: &Served, rows: Vec<Value>, metadata: &Value) -> Value {
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
        "columnDefinitions": table::columns(served), "rows": rows,
    })
}

/// One object.
pub(crate) fn render_one(served: &Served, stored: &Stored, form: Form) -> Bytes {
    match form {
        Form::Whole => whole(served, stored),
        Form::Partial => object::partial(&converted(served, stored)).to_string().into(),
        Form::Table(include) => {
            let metadata = json!({"resourceVersion": stored.version.to_string()});
            as_table(served, vec![row(served, stored, include, Timestamp::now())], &metadata).to_string().into()
        }
    }
}

/// A list of objects.
pub(crate) fn render_list(served: &Served, listed: &Listed, form: Form) -> Bytes {
    let mut metadata = json!({"resourceVersion": listed.version.to_string()});
    if let Some(next) = &listed.next {
        metadata["continue"] = json!(next);
    }
    let (kind, api_version) = match form {
        Form::Whole => (served.definition.list_kind.clone(), served.definition.api_version()),
        Form::Partial => ("PartialObjectMetadataList".to_owned(), "meta.k8s.io/v1".to_owned()),
        Form::Table(include) => {
            let now = Timestamp::now();
            let rows = listed.items.iter().map(|(_, stored)| row(served, stored, include, now)).collect();
            return as_table(served, rows, &metadata).to_string().into();
        }
    };
    let head = format!(r#"{{"kind":{},"apiVersion":{},"metadata":{metadata},"items":["#, json!(kind), json!(api_version));
    let size: usize = listed.items.iter().map(|(_, stored)| stored.json.len() + 1).sum();
    let mut out = BytesMut::with_capacity(head.len() + size + 2);
    out.put_slice(head.as_bytes());
    for (index, (_, stored)) in listed.items.iter().enumerate() {
        if index > 0 {
            out.put_u8(b',');
        }
        out.put_slice(&render_one(served, stored, form));
    }
    out.put_slice(b"]}");
    out.freeze()
}

/// One event of a watch, with the newline that ends it.
pub(super) fn render_event(served: &Served, kind: &str, stored: &Arc<Stored>, form: Form) -> Bytes {
    frame(kind, &render_one(served, stored, form))
}

/// A bookmark at `version`; `initial` ends the initial events of a streaming list.
pub(super) fn render_bookmark(served: &Served, version: u64, initial: bool, form: Form) -> Bytes {
    let mut metadata = json!({"resourceVersion": version.to_string(), "creationTimestamp": null});
    if initial {
        metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
    }
    let object = match form {
        Form::Whole => {
            json!({"kind": served.definition.kind, "apiVersion": served.definition.api_version(), "metadata": metadata})
        }
        Form::Partial => json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata}),
        Form::Table(_) => as_table(served, Vec::new(), &json!({"resourceVersion": version.to_string()})),
    };
    frame("BOOKMARK", object.to_string().as_bytes())
}

/// One line of a watch.
pub(super) fn frame(kind: &str, object: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(object.len() + kind.len() + 24);
    out.put_slice(b"{\"type\":\"");
    out.put_slice(kind.as_bytes());
    out.put_slice(b"\",\"object\":");
    out.put_slice(object);
    out.put_slice(b"}\n");
    out.freeze()
}
