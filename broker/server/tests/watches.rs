//! Watches, by hand and by kube's own watcher.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::time::Duration;

use common::{Lines, TestServer, config_map, delete, get, options, patch, post, version};
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{self, Event, watcher};
use serde_json::{Value, json};
use tempfile::tempdir;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const MERGE: &str = "application/merge-patch+json";

fn labelled(name: &str, value: &str) -> Value {
    let mut map = config_map(name, json!({}));
    map["metadata"]["labels"] = json!({"k": value});
    map
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_come_in_order() {
    let folder = tempdir().unwrap();
    let server = TestServer::start(options(&folder));
    let client = server.client().await;
    let (_, first) = post(&client, MAPS, config_map("a", json!({}))).await;
    let mut all = Lines::open(&client, "/api/v1/configmaps?watch=true").await;
    let mut after = Lines::open(&client, &format!("{MAPS}?watch=1&resourceVersion={}", version(&first))).await;
    let mut one = Lines::open(&client, &format!("{MAPS}?watch=1&fieldSelector=metadata.name%3Db")).await;
    assert_eq!(all.brief().await, "ADDED a");
    patch(&client, &format!("{MAPS}/a"), MERGE, json!({"data": {"x": "1"}})).await;
    post(&client, MAPS, config_map("b", json!({}))).await;
    server.namespace("other").await;
    post(&client, "/api/v1/namespaces/other/configmaps", config_map("c", json!({}))).await;
    delete(&client, &format!("{MAPS}/b")).await;
    for expected in ["MODIFIED a", "ADDED b", "ADDED c", "DELETED b"] {
        assert_eq!(all.brief().await, expected);
    }
    for expected in ["MODIFIED a", "ADDED b", "DELETED b"] {
        assert_eq!(after.brief().await, expected);
    }
    assert_eq!(one.brief().await, "ADDED b");
    let (kind, gone) = one.next().await.unwrap();
    assert_eq!((kind.as_str(), version(&gone)), ("DELETED", server.handle.version()), "the version of the deletion");
    server.stop().await;
    assert_eq!(all.brief().await, "END");
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_come_into_a_selection_and_leave_it() {
    let folder = tempdir().unwrap();
    let server = TestServer::start(options(&folder));
    let client = server.client().await;
    post(&client, MAPS, labelled("a", "no")).await;
    post(&client, MAPS, labelled("b", "yes")).await;
    let mut lines = Lines::open(&client, &format!("{MAPS}?watch=1&labelSelector=k%3Dyes")).await;
    let mut fields = Lines::open(&client, &format!("{MAPS}?watch=1&fieldSelector=data.x%3D1")).await;
    assert_eq!(lines.brief().await, "ADDED b");
    let path = format!("{MAPS}/a");
    patch(&client, &path, MERGE, json!({"data": {"x": "1"}})).await;
    patch(&client, &path, MERGE, json!({"metadata": {"labels": {"k": "yes"}}})).await;
    patch(&client, &path, MERGE, json!({"data": {"x": "2"}})).await;
    let (_, left) = patch(&client, &path, MERGE, json!({"metadata": {"labels": {"k": "no"}}})).await;
    delete(&client, &path).await;
    delete(&client, &format!("{MAPS}/b")).await;
    assert_eq!(lines.brief().await, "ADDED a");
    assert_eq!(lines.brief().await, "MODIFIED a");
    let (kind, last) = lines.next().await.unwrap();
    assert_eq!((kind.as_str(), &last["metadata"]["labels"]["k"]), ("DELETED", &json!("yes")), "as it was when it was selected");
    assert_eq!(version(&last), version(&left));
    assert_eq!(lines.brief().await, "DELETED b");
    for expected in ["ADDED a", "MODIFIED a", "DELETED a"] {
        assert_eq!(fields.brief().await, expected);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_old_is_expired_and_bookmarks_keep_a_watch_young() {
    let folder = tempdir().unwrap();
    let mut options = options(&folder);
    options.limits.history_events = 4;
    options.limits.bookmark_interval = Duration::from_millis(200);
    let server = TestServer::start(options);
    let client = server.client().await;
    let (_, first) = post(&client, MAPS, config_map("a", json!({}))).await;
    for n in 0..8 {
        post(&client, MAPS, config_map(&format!("b{n}"), json!({}))).await;
    }
    for old in [version(&first), 1_000_000] {
        let mut lines = Lines::open(&client, &format!("{MAPS}?watch=1&resourceVersion={old}")).await;
        let (kind, status) = lines.next().await.unwrap();
        assert_eq!((kind.as_str(), &status["code"], &status["reason"]), ("ERROR", &json!(410), &json!("Expired")), "{old}");
        assert_eq!(lines.brief().await, "END");
    }
    // Another resource changes: the bookmark follows.
    post(&client, "/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "x"}})).await;
    let now = server.handle.version();
    let path =
        format!("{MAPS}?watch=1&allowWatchBookmarks=true&timeoutSeconds=1&labelSelector=none&resourceVersion={}", now - 1);
    let mut lines = Lines::open(&client, &path).await;
    let (kind, bookmark) = lines.next().await.unwrap();
    assert_eq!((kind.as_str(), version(&bookmark), &bookmark["kind"]), ("BOOKMARK", now, &json!("ConfigMap")));
    let mut count = 1;
    while let Some((kind, _)) = lines.next().await {
        assert_eq!(kind, "BOOKMARK");
        count += 1;
    }
    assert!((3..=8).contains(&count), "one every 200 ms, and the watch ends after its second: {count}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_a_watch_goes_on() {
    let folder = tempdir().unwrap();
    let server = TestServer::start(options(&folder));
    let client = server.client().await;
    let (_, old) = post(&client, MAPS, config_map("a", json!({}))).await;
    let (_, last) = patch(&client, &format!("{MAPS}/a"), MERGE, json!({"data": {"x": "1"}})).await;
    // What changes elsewhere does not make a watch of this resource old.
    for n in 0..10 {
        post(&client, "/api/v1/namespaces/default/secrets", json!({"metadata": {"name": format!("s{n}")}})).await;
    }
    let before = server.handle.version();
    server.stop().await;

    let server = TestServer::start(options(&folder));
    let client = server.client().await;
    assert_eq!(server.handle.version(), before);
    let (_, same) = get(&client, &format!("{MAPS}/a")).await;
    assert_eq!(same, last);
    let mut current = Lines::open(&client, &format!("{MAPS}?watch=1&resourceVersion={}", version(&last))).await;
    let mut older = Lines::open(&client, &format!("{MAPS}?watch=1&resourceVersion={}", version(&old))).await;
    assert_eq!(older.next().await.unwrap().1["code"], 410);
    post(&client, MAPS, config_map("b", json!({}))).await;
    assert_eq!(current.brief().await, "ADDED b");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_and_metadata_are_watched_too() {
    let folder = tempdir().unwrap();
    let server = TestServer::start(options(&folder));
    let client = server.client().await;
    post(&client, MAPS, config_map("a", json!({"x": "1"}))).await;
    let accept = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let (_, table) = common::ask(&client, http::Method::GET, MAPS, &accept, Vec::new()).await;
    assert_eq!(table["kind"], "Table");
    assert_eq!(table["rows"][0]["cells"].as_array().unwrap()[..2], [json!("a"), json!(1)]);
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let api: Api<PartialObjectMeta<ConfigMap>> = Api::default_namespaced(client.clone());
    let metadata: Vec<_> = watcher(api, watcher::Config::default()).take(3).try_collect().await.unwrap();
    assert!(matches!(&metadata[1], Event::InitApply(partial) if partial.metadata.name.as_deref() == Some("a")), "{metadata:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kubes_watcher_follows_by_pages_and_by_stream() {
    let folder = tempdir().unwrap();
    let server = TestServer::start(options(&folder));
    let client = server.client().await;
    for n in 0..7 {
        post(&client, MAPS, config_map(&format!("a{n}"), json!({}))).await;
    }
    for config in [watcher::Config::default().page_size(3), watcher::Config::default().streaming_lists()] {
        let api: Api<ConfigMap> = Api::default_namespaced(client.clone());
        let mut events = std::pin::pin!(watcher(api, config));
        let mut names = Vec::new();
        assert!(matches!(events.next().await.unwrap().unwrap(), Event::Init));
        loop {
            let event = events.next().await.unwrap().unwrap();
            if matches!(event, Event::InitDone) {
                break;
            }
            let Event::InitApply(map) = event else { panic!("{event:?}") };
            names.push(map.metadata.name.unwrap());
        }
        assert_eq!(names.len(), 7);
        post(&client, MAPS, config_map("z", json!({}))).await;
        assert!(
            matches!(events.next().await.unwrap().unwrap(), Event::Apply(map) if map.metadata.name.as_deref() == Some("z"))
        );
        delete(&client, &format!("{MAPS}/z")).await;
        assert!(
            matches!(events.next().await.unwrap().unwrap(), Event::Delete(map) if map.metadata.name.as_deref() == Some("z"))
        );
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_watcher_is_told_to_begin_anew() {
    let folder = tempdir().unwrap();
    let mut options = options(&folder);
    options.limits.history_events = 8;
    let server = TestServer::start(options);
    let client = server.client().await;
    let mut lines = Lines::open(&client, &format!("{MAPS}?watch=1&resourceVersion={}", server.handle.version())).await;
    // Larger than what connections buffer, and more than the history holds.
    let text = "x".repeat(1 << 20);
    for n in 0..40 {
        post(&client, MAPS, config_map(&format!("a{n}"), json!({"x": text}))).await;
    }
    let mut last = String::new();
    while let Some((kind, object)) = lines.next().await {
        last = format!("{kind} {}", object["code"]);
    }
    assert_eq!(last, "ERROR 410");
    server.stop().await;
}
