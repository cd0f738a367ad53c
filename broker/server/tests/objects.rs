//! Verbs, versions, selectors, pages, limits: what every object gets.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::{TestServer, ask, config_map, delete, get, options, patch, post, put, version};
use daisy_api_server::Options;
use http::Method;
use serde_json::{Value, json};
use tempfile::tempdir;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const MERGE: &str = "application/merge-patch+json";

#[tokio::test(flavor = "multi_thread")]
async fn an_object_lives_and_dies() {
    let folder = tempdir().unwrap();
    let server = TestServer::start(options(&folder));
    let client = server.client().await;
    let (code, made) = post(&client, MAPS, config_map("a", json!({"x": "1"}))).await;
    assert_eq!((code, &made["kind"]), (201, &json!("ConfigMap")), "{made}");
    assert_eq!(made["metadata"]["namespace"], "default");
    assert_eq!(made["metadata"]["generation"], 1);
    assert_eq!(made["metadata"]["uid"].as_str().unwrap().len(), 36);
    let (code, again) = post(&client, MAPS, config_map("a", json!({}))).await;
    assert_eq!((code, &again["reason"]), (409, &json!("AlreadyExists")));
    assert_eq!(again["message"], "configmaps \"a\" already exists");

    let path = format!("{MAPS}/a");
    let mut changed = made.clone();
    changed["data"]["x"] = json!("2");
    let (code, second) = put(&client, &path, changed.clone()).await;
    assert_eq!((code, &second["metadata"]["generation"]), (200, &json!(2)));
    assert!(version(&second) > version(&made));
    let (code, stale) = put(&client, &path, changed).await;
    assert_eq!((code, &stale["reason"]), (409, &json!("Conflict")), "the version is no longer that");
    let (code, _) = put(&client, &path, config_map("a", json!({"x": "3"}))).await;
    assert_eq!(code, 200, "a built-in may be replaced whatever it is");
    let (_, same) = put(&client, &path, config_map("a", json!({"x": "3"}))).await;
    let (_, labelled) = patch(&client, &path, MERGE, json!({"metadata": {"labels": {"k": "v"}}})).await;
    assert_eq!(version(&labelled), version(&same) + 1, "what changes nothing is not written");
    assert_eq!(labelled["metadata"]["generation"], same["metadata"]["generation"], "labels are no generation");

    let old = json!({"metadata": {"resourceVersion": made["metadata"]["resourceVersion"]}, "data": {"y": "1"}});
    assert_eq!(patch(&client, &path, MERGE, old).await.0, 409);
    let test = json!([{"op": "test", "path": "/metadata/resourceVersion", "value": labelled["metadata"]["resourceVersion"]},
        {"op": "add", "path": "/data/z", "value": "1"}]);
    assert_eq!(patch(&client, &path, "application/json-patch+json", test.clone()).await.0, 200);
    assert_eq!(patch(&client, &path, "application/json-patch+json", test).await.0, 422);
    assert_eq!(patch(&client, &path, "application/apply-patch+yaml", json!({})).await.0, 415);
    assert_eq!(patch(&client, &path, MERGE, json!({"metadata": {"name": "b"}})).await.0, 400);
    let (_, kept) =
        patch(&client, &path, MERGE, json!({"metadata": {"creationTimestamp": "2000-01-01T00:00:00Z", "uid": null}})).await;
    assert_eq!(kept["metadata"]["uid"], made["metadata"]["uid"]);
    assert_eq!(kept["metadata"]["creationTimestamp"], made["metadata"]["creationTimestamp"]);

    let options = |uid: &Value| json!({"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": uid}, "propagationPolicy": "Background"});
    let wrong = ask(&client, Method::DELETE, &path, &[], options(&json!("other")).to_string().into()).await;
    assert_eq!(wrong.0, 409, "{}", wrong.1);
    let right = ask(&client, Method::DELETE, &path, &[], options(&made["metadata"]["uid"]).to_string().into()).await;
    assert_eq!((right.0, &right.1["status"]), (200, &json!("Success")));
    let (code, gone) = get(&client, &path).await;
    assert_eq!((code, &gone["details"]["kind"]), (404, &json!("configmaps")));
    assert_eq!(delete(&client, &path).await.0, 404);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_named() {
    let folder = tempdir().unwrap();
    let server = TestServer::start(options(&folder));
    let client = server.client().await;
    for (body, code, part) in [
        (config_map("A", json!({})), 422, "metadata.name"),
        (config_map("", json!({})), 422, "name or generateName is required"),
        (config_map("a", json!({"x": 1})), 400, "data.x"),
        (config_map("a", json!({"b c": "1"})), 422, "data[b c]"),
        (json!({"apiVersion": "v2", "kind": "ConfigMap", "metadata": {"name": "a"}}), 400, "API version"),
        (json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}}), 400, "kind"),
        (json!({"metadata": {"name": "a", "namespace": "other"}}), 400, "does not match the namespace"),
        (json!({"metadata": {"name": "a", "resourceVersion": "4"}}), 400, "resourceVersion should not be set"),
        (json!({"metadata": {"name": "a", "labels": {"a b": "c"}}}), 422, "metadata.labels"),
        (json!({"metadata": {"name": "a", "labels": {"a": 1}}}), 400, "metadata.labels"),
        (json!({"metadata": {"name": "a", "finalizers": ["x"]}}), 422, "metadata.finalizers"),
        (json!({"metadata": []}), 400, "metadata"),
        (json!([]), 400, "JSON object"),
    ] {
        let (is, status) = post(&client, MAPS, body.clone()).await;
        assert_eq!(is, code, "{body}: {status}");
        assert!(status["message"].as_str().unwrap().contains(part), "{body}: {status}");
        assert_eq!((&status["kind"], &status["status"]), (&json!("Status"), &json!("Failure")));
    }
    let nowhere = post(&client, "/api/v1/namespaces/nowhere/configmaps", config_map("a", json!({}))).await;
    assert_eq!((nowhere.0, nowhere.1["message"].as_str().unwrap()), (404, "namespaces \"nowhere\" not found"));
    let strict = json!({"metadata": {"name": "a"}, "dat": {"x": "1"}});
    let (code, status) = post(&client, &format!("{MAPS}?fieldValidation=Strict"), strict).await;
    assert!(code == 400 && status["message"].as_str().unwrap().contains("unknown field \"dat\""), "{status}");

    let json_type = [("content-type", "application/json")];
    assert_eq!(ask(&client, Method::POST, MAPS, &json_type, b"{".to_vec()).await.0, 400);
    assert_eq!(ask(&client, Method::POST, MAPS, &[("content-type", "application/yaml")], b"a: b".to_vec()).await.0, 415);
    assert_eq!(ask(&client, Method::POST, MAPS, &json_type, vec![b' '; 2 << 20]).await.0, 413);
    let large = config_map("large", json!({"x": "y".repeat(1 << 20)}));
    assert_eq!(post(&client, MAPS, large).await.0, 201);
    let more = json!({"data": {"z": "y".repeat(1 << 20)}});
    assert_eq!(patch(&client, &format!("{MAPS}/large"), MERGE, more).await.0, 413, "objects do not grow over the limit");
    assert_eq!(ask(&client, Method::GET, MAPS, &[("accept", "application/yaml")], Vec::new()).await.0, 406);
    for (method, path, code) in [
        (Method::GET, "/api/v1/things", 404),
        (Method::GET, "/nothing", 404),
        (Method::GET, "/api/v1/configmaps/a", 404),
        (Method::POST, "/api/v1/configmaps", 405),
        (Method::POST, "/apis", 405),
        (Method::DELETE, "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", 405),
        (Method::GET, "/api/v1/configmaps?labelSelector=a%20b", 400),
        (Method::GET, "/api/v1/configmaps?fieldSelector=x", 400),
        (Method::GET, "/api/v1/configmaps?limit=x", 400),
        (Method::GET, "/api/v1/configmaps?continue=x", 400),
        (Method::GET, "/api/v1/configmaps?watch=1&sendInitialEvents=true", 422),
        (Method::GET, "/api/v1/configmaps?resourceVersion=999999", 504),
        (Method::DELETE, "/api/v1/namespaces/default", 403),
    ] {
        let (is, status) = ask(&client, method.clone(), path, &[], Vec::new()).await;
        assert_eq!(is, code, "{method} {path}: {status}");
    }
    let impersonated = ask(&client, Method::GET, MAPS, &[("impersonate-user", "bob")], Vec::new()).await;
    assert_eq!(impersonated.0, 403);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_selected_and_paged() {
    let folder = tempdir().unwrap();
    let server = TestServer::start(options(&folder));
    let client = server.client().await;
    server.namespace("other").await;
    for n in 0..20 {
        let mut map = config_map(&format!("m{n:02}"), json!({"n": n.to_string()}));
        map["metadata"]["labels"] = json!({"half": if n < 10 { "low" } else { "high" }, "n": n.to_string()});
        let namespace = if n % 2 == 0 { "default" } else { "other" };
        assert_eq!(post(&client, &format!("/api/v1/namespaces/{namespace}/configmaps"), map).await.0, 201);
    }
    for (query, count) in [
        ("", 20),
        ("?labelSelector=half%3Dlow", 10),
        ("?labelSelector=half+in+(low),n+notin+(1,2)", 8),
        ("?labelSelector=!half", 0),
        ("?fieldSelector=metadata.name%3Dm03", 1),
        ("?fieldSelector=metadata.namespace%3Dother", 10),
        ("?fieldSelector=data.n!%3D4", 19),
        ("?fieldSelector=data.n%3D4&labelSelector=half%3Dlow", 1),
    ] {
        let (_, list) = get(&client, &format!("/api/v1/configmaps{query}")).await;
        assert_eq!(list["items"].as_array().unwrap().len(), count, "{query}");
        assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("ConfigMapList"), &json!("v1")));
    }

    // Pages show one moment, whatever happens between them.
    let (_, first) = get(&client, "/api/v1/configmaps?limit=7").await;
    let mut names: Vec<String> = Vec::new();
    let mut page = first.clone();
    for step in 0.. {
        names
            .extend(page["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()));
        assert_eq!(page["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
        let Some(next) = page["metadata"]["continue"].as_str().map(str::to_owned) else { break };
        let (namespace, name) = if step == 0 { ("default", "m18") } else { ("other", "m19") };
        delete(&client, &format!("/api/v1/namespaces/{namespace}/configmaps/{name}")).await;
        post(&client, "/api/v1/namespaces/other/configmaps", config_map(&format!("z{step}"), json!({}))).await;
        page = get(&client, &format!("/api/v1/configmaps?limit=7&continue={next}")).await.1;
    }
    let mut wanted: Vec<String> = (0..20).map(|n| format!("m{n:02}")).collect();
    wanted.sort_by_key(|name| (name[1..].parse::<u32>().unwrap() % 2, name.clone()));
    assert_eq!(names, wanted);
    let exact = format!(
        "/api/v1/configmaps?resourceVersionMatch=Exact&resourceVersion={}",
        first["metadata"]["resourceVersion"].as_str().unwrap()
    );
    assert_eq!(get(&client, &exact).await.1["items"].as_array().unwrap().len(), 20);

    let (code, gone) = delete(&client, "/api/v1/namespaces/other/configmaps?labelSelector=half%3Dlow").await;
    assert_eq!((code, gone["items"].as_array().unwrap().len()), (200, 5));
    let (_, left) = get(&client, "/api/v1/namespaces/other/configmaps?labelSelector=half").await;
    assert!(left["items"].as_array().unwrap().iter().all(|item| item["metadata"]["labels"]["half"] == "high"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_page_is_expired() {
    let folder = tempdir().unwrap();
    let mut options: Options = options(&folder);
    options.limits.history_events = 5;
    let server = TestServer::start(options);
    let client = server.client().await;
    for n in 0..4 {
        post(&client, MAPS, config_map(&format!("a{n}"), json!({}))).await;
    }
    let (_, page) = get(&client, &format!("{MAPS}?limit=2")).await;
    let next = page["metadata"]["continue"].as_str().unwrap();
    for n in 0..6 {
        post(&client, MAPS, config_map(&format!("b{n}"), json!({}))).await;
    }
    let (code, status) = get(&client, &format!("{MAPS}?limit=2&continue={next}")).await;
    assert_eq!((code, &status["reason"]), (410, &json!("Expired")), "{status}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn finalizers_hold_and_namespaces_take_everything_with_them() {
    let folder = tempdir().unwrap();
    let server = TestServer::start(options(&folder));
    let client = server.client().await;
    let mut map = config_map("held", json!({}));
    map["metadata"]["finalizers"] = json!(["example.com/hold"]);
    post(&client, MAPS, map).await;
    let path = format!("{MAPS}/held");
    let (code, held) = delete(&client, &path).await;
    assert!(code == 200 && held["metadata"]["deletionTimestamp"].is_string(), "{held}");
    assert_eq!(get(&client, &path).await.0, 200);
    patch(&client, &path, MERGE, json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(get(&client, &path).await.0, 404);

    server.namespace("shop").await;
    post(&client, "/api/v1/namespaces/shop/configmaps", config_map("a", json!({}))).await;
    post(&client, "/api/v1/namespaces/shop/serviceaccounts", json!({"metadata": {"name": "b"}})).await;
    let before = server.handle.version();
    assert_eq!(delete(&client, "/api/v1/namespaces/shop").await.0, 200);
    assert_eq!(server.handle.version(), before + 3);
    server.namespace("shop").await;
    for resource in ["configmaps", "serviceaccounts"] {
        let (_, list) = get(&client, &format!("/api/v1/namespaces/shop/{resource}")).await;
        assert_eq!(list["items"], json!([]));
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_keeps_nothing() {
    let folder = tempdir().unwrap();
    let server = TestServer::start(options(&folder));
    let client = server.client().await;
    let before = server.handle.version();
    let (code, made) = post(&client, &format!("{MAPS}?dryRun=All"), config_map("a", json!({}))).await;
    assert_eq!((code, &made["metadata"]["name"]), (201, &json!("a")));
    assert_eq!(get(&client, &format!("{MAPS}/a")).await.0, 404);
    post(&client, MAPS, config_map("a", json!({}))).await;
    assert_eq!(delete(&client, &format!("{MAPS}/a?dryRun=All")).await.0, 200);
    assert_eq!(get(&client, &format!("{MAPS}/a")).await.0, 200);
    assert_eq!(server.handle.version(), before + 1);
    assert_eq!(post(&client, &format!("{MAPS}?dryRun=Some"), config_map("b", json!({}))).await.0, 400);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_generated_and_texts_become_data() {
    let folder = tempdir().unwrap();
    let server = TestServer::start(options(&folder));
    let client = server.client().await;
    let mut names = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let (code, made) = post(&client, MAPS, json!({"metadata": {"generateName": "x-"}})).await;
        assert_eq!(code, 201);
        names.insert(made["metadata"]["name"].as_str().unwrap().to_owned());
    }
    assert_eq!(names.len(), 20);
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"a": "hello"}, "data": {"b": "Yg=="}});
    let (_, made) = post(&client, "/api/v1/namespaces/default/secrets", secret).await;
    assert_eq!((&made["data"], &made["type"]), (&json!({"a": "aGVsbG8=", "b": "Yg=="}), &json!("Opaque")));
    assert!(made.get("stringData").is_none());
    let bad = json!({"metadata": {"name": "t"}, "data": {"a": "no base64!"}});
    assert_eq!(post(&client, "/api/v1/namespaces/default/secrets", bad).await.0, 400);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn discovery_lists_what_is_served() {
    let folder = tempdir().unwrap();
    let server = TestServer::start(options(&folder));
    let client = server.client().await;
    let (_, core) = get(&client, "/api").await;
    assert_eq!(core["versions"], json!(["v1"]));
    let (_, groups) = get(&client, "/apis").await;
    let names: Vec<_> = groups["groups"].as_array().unwrap().iter().map(|group| group["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["apiextensions.k8s.io", "authorization.k8s.io", "coordination.k8s.io", "rbac.authorization.k8s.io"]);
    let (_, resources) = get(&client, "/api/v1").await;
    let all: Vec<_> = resources["resources"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert!(
        all.contains(&"serviceaccounts/token") && all.contains(&"namespaces/status") && all.contains(&"secrets"),
        "{all:?}"
    );
    assert_eq!(get(&client, "/apis/nothing").await.0, 404);
    assert_eq!(get(&client, "/apis/rbac.authorization.k8s.io/v9").await.0, 404);
    let accept = [("accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")];
    let (_, aggregated) = ask(&client, Method::GET, "/apis", &accept, Vec::new()).await;
    assert_eq!(aggregated["kind"], "APIGroupDiscoveryList");
    let (_, v3) = get(&client, "/openapi/v3").await;
    let url = v3["paths"]["apis/rbac.authorization.k8s.io/v1"]["serverRelativeURL"].as_str().unwrap();
    assert_eq!(get(&client, url).await.1["openapi"], "3.0.0");
    assert!(client.apiserver_version().await.unwrap().git_version.starts_with("v1.33"));
    server.stop().await;
}
