//! CustomResourceDefinitions and their objects, Daisy's own among them.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::{Lines, TestServer, ask, delete, get, options, patch, post, put, version};
use http::Method;
use serde_json::{Value, json};
use tempfile::tempdir;

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const WIDGETS: &str = "/apis/example.com/v1/namespaces/default/widgets";
const MERGE: &str = "application/merge-patch+json";

fn widgets() -> Value {
    let schema = json!({"type": "object", "required": ["spec"], "properties": {
        "spec": {"type": "object", "required": ["size"], "properties": {
            "size": {"type": "integer", "minimum": 1, "maximum": 9},
            "color": {"type": "string", "enum": ["red", "blue"], "default": "red"},
            "name": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 5},
            "parts": {"type": "array", "maxItems": 2, "items": {"type": "string"}},
        }},
        "status": {"type": "object", "properties": {"ready": {"type": "boolean"}, "seen": {"type": "string", "format": "date-time"}}},
    }});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "widgets.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": {"plural": "widgets", "kind": "Widget", "shortNames": ["wd"], "categories": ["daisy"]},
            "versions": [
                {"name": "v1", "served": true, "storage": true, "subresources": {"status": {}}, "schema": {"openAPIV3Schema": schema},
                 "additionalPrinterColumns": [{"name": "Size", "type": "integer", "jsonPath": ".spec.size"},
                    {"name": "Ready", "type": "boolean", "jsonPath": ".status.ready"}]},
                {"name": "v1beta1", "served": true, "storage": false, "schema": {"openAPIV3Schema": schema}},
            ],
        },
    })
}

fn widget(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": name}, "spec": spec})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_is_served_at_once_and_goes_with_its_objects() {
    let folder = tempdir().unwrap();
    let server = TestServer::start(options(&folder));
    let client = server.client().await;
    assert_eq!(get(&client, WIDGETS).await.0, 404);
    let (code, crd) = post(&client, CRDS, widgets()).await;
    assert_eq!(code, 201, "{crd}");
    let established = &crd["status"]["conditions"][1];
    assert_eq!((&established["type"], &established["status"]), (&json!("Established"), &json!("True")));
    let (code, made) = post(&client, WIDGETS, widget("a", json!({"size": 3, "unknown": 1}))).await;
    assert_eq!((code, &made["spec"]), (201, &json!({"size": 3, "color": "red"})));
    let (_, beta) = get(&client, "/apis/example.com/v1beta1/namespaces/default/widgets/a").await;
    assert_eq!(beta["apiVersion"], "example.com/v1beta1");
    let (_, list) = get(&client, "/apis/example.com/v1beta1/widgets").await;
    assert_eq!((&list["kind"], &list["items"][0]["apiVersion"]), (&json!("WidgetList"), &json!("example.com/v1beta1")));
    let mut through_beta = beta.clone();
    through_beta["spec"]["size"] = json!(4);
    let (code, _) = put(&client, "/apis/example.com/v1beta1/namespaces/default/widgets/a", through_beta).await;
    assert_eq!(code, 200);
    let (_, now) = get(&client, &format!("{WIDGETS}/a")).await;
    assert_eq!((&now["apiVersion"], &now["spec"]["size"]), (&json!("example.com/v1"), &json!(4)));
    let accept = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let (_, table) = ask(&client, Method::GET, WIDGETS, &accept, Vec::new()).await;
    assert_eq!(table["rows"][0]["cells"], json!(["a", 4, null]));
    let (_, group) = get(&client, "/apis/example.com").await;
    assert_eq!(group["versions"].as_array().unwrap().len(), 2);
    let (_, described) = get(&client, "/openapi/v3/apis/example.com/v1").await;
    assert!(described["components"]["schemas"]["example.com.v1.Widget"]["properties"]["spec"].is_object());

    let mut lines = Lines::open(&client, &format!("{WIDGETS}?watch=1&resourceVersion={}", version(&now))).await;
    assert_eq!(delete(&client, &format!("{CRDS}/widgets.example.com")).await.0, 200);
    assert_eq!(lines.brief().await, "DELETED a");
    assert_eq!(lines.brief().await, "END");
    assert_eq!(get(&client, WIDGETS).await.0, 404);
    post(&client, CRDS, widgets()).await;
    assert_eq!(get(&client, WIDGETS).await.1["items"], json!([]), "a new definition begins empty");
    server.stop().await;

    let server = TestServer::start(options(&folder));
    let client = server.client().await;
    assert_eq!(get(&client, WIDGETS).await.0, 200, "served after a restart");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_held_to_their_schema() {
    let folder = tempdir().unwrap();
    let server = TestServer::start(options(&folder));
    let client = server.client().await;
    post(&client, CRDS, widgets()).await;
    for (spec, field, reason) in [
        (json!({}), "spec.size", "FieldValueRequired"),
        (json!({"size": "3"}), "spec.size", "FieldValueTypeInvalid"),
        (json!({"size": 10}), "spec.size", "FieldValueInvalid"),
        (json!({"size": 1, "color": "green"}), "spec.color", "FieldValueNotSupported"),
        (json!({"size": 1, "name": "A"}), "spec.name", "FieldValueInvalid"),
        (json!({"size": 1, "name": "abcdef"}), "spec.name", "FieldValueTooLong"),
        (json!({"size": 1, "parts": ["a", "b", "c"]}), "spec.parts", "FieldValueTooMany"),
        (json!({"size": 1, "parts": ["a", 2]}), "spec.parts[1]", "FieldValueTypeInvalid"),
    ] {
        let (code, status) = post(&client, WIDGETS, widget("a", spec)).await;
        assert_eq!((code, &status["reason"]), (422, &json!("Invalid")), "{status}");
        let cause = &status["details"]["causes"][0];
        assert_eq!((&cause["field"], &cause["reason"]), (&json!(field), &json!(reason)), "{status}");
    }
    let (code, status) =
        post(&client, &format!("{WIDGETS}?fieldValidation=Strict"), widget("a", json!({"size": 1, "x": 1}))).await;
    assert!(code == 400 && status["message"].as_str().unwrap().contains("unknown field \"spec.x\""), "{status}");
    let (_, made) = post(&client, WIDGETS, widget("a", json!({"size": 1}))).await;
    let path = format!("{WIDGETS}/a");
    assert_eq!(patch(&client, &path, MERGE, json!({"spec": {"size": 0}})).await.0, 422);
    assert_eq!(patch(&client, &path, "application/strategic-merge-patch+json", json!({})).await.0, 415);
    let (code, status) = put(&client, &path, widget("a", json!({"size": 2}))).await;
    assert!(code == 422 && status["message"].as_str().unwrap().contains("must be specified for an update"), "{status}");

    // The object and its status are apart.
    let (_, changed) = patch(&client, &path, MERGE, json!({"spec": {"size": 2}, "status": {"ready": true}})).await;
    assert!(changed.get("status").is_none() && changed["metadata"]["generation"] == 2);
    let (code, status) = patch(
        &client,
        &format!("{path}/status"),
        MERGE,
        json!({"spec": {"size": 9}, "metadata": {"labels": {"a": "b"}}, "status": {"ready": true}}),
    )
    .await;
    assert_eq!((code, &status["status"], &status["spec"]["size"]), (200, &json!({"ready": true}), &json!(2)));
    assert_eq!((&status["metadata"]["generation"], status["metadata"].get("labels")), (&json!(2), None));
    assert_eq!(patch(&client, &format!("{path}/status"), MERGE, json!({"status": {"ready": 1}})).await.0, 422);
    let (_, kept) = patch(&client, &path, MERGE, json!({"status": null})).await;
    assert_eq!(kept["status"]["ready"], true);
    let mut stale = made;
    stale["status"] = json!({"ready": false});
    assert_eq!(put(&client, &format!("{path}/status"), stale).await.0, 409);
    let mut with_status = widget("b", json!({"size": 1}));
    with_status["status"] = json!({"ready": true});
    assert!(post(&client, WIDGETS, with_status).await.1.get("status").is_none());
    assert_eq!(
        get(&client, "/apis/example.com/v1beta1/namespaces/default/widgets/a/status").await.0,
        404,
        "no status in v1beta1"
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_definitions_change_nothing() {
    let folder = tempdir().unwrap();
    let server = TestServer::start(options(&folder));
    let client = server.client().await;
    let before = server.handle.version();
    let mut bad = widgets();
    bad["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["name"]["pattern"] = json!("(");
    let (code, status) = post(&client, CRDS, bad).await;
    assert!(code == 422 && status["message"].as_str().unwrap().contains("pattern"), "{status}");
    let mut other_name = widgets();
    other_name["metadata"]["name"] = json!("gadgets.example.com");
    assert_eq!(post(&client, CRDS, other_name).await.0, 422);
    assert_eq!(server.handle.version(), before);
    assert_eq!(get(&client, "/apis/example.com").await.0, 404);

    post(&client, CRDS, widgets()).await;
    post(&client, WIDGETS, widget("a", json!({"size": 1}))).await;
    let path = format!("{CRDS}/widgets.example.com");
    assert_eq!(patch(&client, &path, MERGE, json!({"spec": {"scope": "Cluster"}})).await.0, 422);
    let (code, grown) = patch(&client, &path, MERGE, json!({"metadata": {"labels": {"x": "y"}}})).await;
    assert_eq!((code, &grown["status"]["conditions"][1]["status"]), (200, &json!("True")));
    let wider = json!([{"op": "replace", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/size/maximum", "value": 100}]);
    assert_eq!(patch(&client, &path, "application/json-patch+json", wider).await.0, 200);
    assert_eq!(post(&client, WIDGETS, widget("b", json!({"size": 50}))).await.0, 201, "the new schema holds at once");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn daisys_own_definitions_are_served() {
    let folder = tempdir().unwrap();
    let server = TestServer::start(options(&folder));
    let client = server.client().await;
    for (name, crd) in daisy_api::crds::files() {
        let made = server.handle.apply(serde_json::to_value(&crd).unwrap()).await;
        assert!(made.is_ok(), "{name}: {made:?}");
        let again = server.handle.version();
        server.handle.apply(serde_json::to_value(&crd).unwrap()).await.unwrap();
        assert_eq!(server.handle.version(), again, "{name}: what is the same is not written");
        let group = format!("/apis/{}/{}", crd.spec.group, crd.spec.versions[0].name);
        let (_, list) = get(&client, &format!("{group}/{}", crd.spec.names.plural)).await;
        assert_eq!(list["items"], json!([]), "{name}");
    }
    server.stop().await;
}
