//! What the embedding program does: hooks, quotas, the handle, listeners.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{TestServer, config_map, delete, get, options, patch, post};
use daisy_api_server::{
    AdmissionRequest, Cause, Error, EventKind, Hooks, Operation, Refusal, ResourceDefinition, ResourceKey, Server, User, View,
};
use k8s_openapi::api::core::v1::Service;
use serde_json::{Value, json};
use tempfile::tempdir;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// Numbers ConfigMaps, refuses those whose owner is not the user, and lets nobody delete a kept one.
struct House;

impl Hooks for House {
    fn mutate(&self, request: &AdmissionRequest<'_>, object: &mut Value, view: View<'_>) -> Result<(), Refusal> {
        if request.operation == Operation::Create && &*request.resource.plural == "configmaps" {
            let number = view.count(request.resource, request.namespace.unwrap_or_default());
            object["metadata"]["labels"]["number"] = json!(number.to_string());
        }
        Ok(())
    }

    fn admit(&self, request: &AdmissionRequest<'_>, view: View<'_>) -> Result<(), Refusal> {
        if let (Operation::Delete, Some(old)) = (request.operation, request.old_object)
            && old["data"]["keep"] == "yes"
        {
            return Err(Refusal::forbidden("", &request.resource.plural, request.name, "it is kept"));
        }
        if let Some(object) = request.object
            && object["data"]["bad"] == "yes"
        {
            let cause = Cause::invalid("data.bad", "Invalid value: \"yes\": never");
            return Err(Refusal::invalid("", "ConfigMap", request.name, vec![cause]));
        }
        assert!(request.name != "panic", "a hook that panics");
        if request.subresource == Some("token")
            && view.get(request.resource, request.namespace.unwrap_or_default(), "frozen").is_some()
        {
            return Err(Refusal::forbidden("", "serviceaccounts", request.name, "frozen"));
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_take_part_in_writes() {
    let folder = tempdir().unwrap();
    let mut options = options(&folder);
    options.hooks = Arc::new(House);
    let server = TestServer::start(options);
    let client = server.client().await;
    // At once, and yet each sees all that were before it.
    let writers: Vec<_> = (0..20)
        .map(|n| {
            let client = client.clone();
            tokio::spawn(async move { post(&client, MAPS, config_map(&format!("m{n}"), json!({}))).await.1 })
        })
        .collect();
    let mut numbers = Vec::new();
    for writer in writers {
        numbers.push(writer.await.unwrap()["metadata"]["labels"]["number"].as_str().unwrap().parse::<u32>().unwrap());
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (0..20).collect::<Vec<_>>());

    let before = server.handle.version();
    let (code, status) = post(&client, MAPS, config_map("bad", json!({"bad": "yes"}))).await;
    assert_eq!((code, &status["details"]["causes"][0]["field"]), (422, &json!("data.bad")));
    let (code, status) = post(&client, MAPS, config_map("panic", json!({}))).await;
    assert_eq!((code, &status["reason"]), (500, &json!("InternalError")));
    assert_eq!(server.handle.version(), before, "nothing of it is kept");
    assert_eq!(post(&client, MAPS, config_map("kept", json!({"keep": "yes"}))).await.0, 201, "the writer goes on");
    assert_eq!(delete(&client, &format!("{MAPS}/kept")).await.0, 403);
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    post(&client, accounts, json!({"metadata": {"name": "sa"}})).await;
    assert_eq!(post(&client, &format!("{accounts}/sa/token"), json!({})).await.0, 201);
    post(&client, accounts, json!({"metadata": {"name": "frozen"}})).await;
    assert_eq!(post(&client, &format!("{accounts}/sa/token"), json!({})).await.0, 403);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_holds_so_many_objects() {
    let folder = tempdir().unwrap();
    let mut options = options(&folder);
    options.limits.objects.insert("configmaps".to_owned(), 3);
    let server = TestServer::start(options);
    for object in [
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "sa", "namespace": "default"}}),
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "maps"},
            "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["*"]}]}),
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "maps"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "maps"},
            "subjects": [{"kind": "ServiceAccount", "name": "sa", "namespace": "default"}]}),
    ] {
        server.handle.apply(object).await.unwrap();
    }
    server.namespace("other").await;
    let client = server.client_of(&server.handle.issue_token("default", "sa", Duration::from_secs(600)).unwrap().token).await;
    let mut codes = Vec::new();
    let attempts: Vec<_> = (0..8)
        .map(|n| {
            let client = client.clone();
            tokio::spawn(async move { post(&client, MAPS, config_map(&format!("m{n}"), json!({}))).await })
        })
        .collect();
    for attempt in attempts {
        let (code, status) = attempt.await.unwrap();
        assert!(code == 201 || status["message"].as_str().unwrap().contains("exceeded quota"), "{status}");
        codes.push(code);
    }
    assert_eq!(codes.iter().filter(|code| **code == 201).count(), 3);
    assert_eq!(codes.iter().filter(|code| **code == 403).count(), 5);
    assert_eq!(
        post(&client, "/api/v1/namespaces/other/configmaps", config_map("a", json!({}))).await.0,
        201,
        "each namespace has its own"
    );
    let first = get(&client, MAPS).await.1["items"][0]["metadata"]["name"].as_str().unwrap().to_owned();
    delete(&client, &format!("{MAPS}/{first}")).await;
    assert_eq!(post(&client, MAPS, config_map("z", json!({}))).await.0, 201);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_handle_reads_writes_and_subscribes() {
    let folder = tempdir().unwrap();
    let mut options = options(&folder);
    options.definitions.push(ResourceDefinition::of::<Service>().with_status().short_names(&["svc"]));
    let server = TestServer::start(options);
    let handle = server.handle.clone();
    let services = ResourceKey::of::<Service>();
    let mut events = handle.subscribe();
    let service =
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}]}});
    let made = handle.create(&services, "default", service.clone()).await.unwrap();
    assert_eq!(handle.get(&services, "default", "web"), Some(made.clone()));
    let refusal = handle.create(&services, "default", service).await.unwrap_err();
    assert_eq!(refusal.code, 409);
    let mut changed = made.clone();
    changed["spec"]["clusterIP"] = json!("10.0.0.1");
    handle.update(&services, "default", changed).await.unwrap();
    handle
        .patch_status(&services, "default", "web", json!({"status": {"loadBalancer": {"ingress": [{"ip": "1.1.1.1"}]}}}))
        .await
        .unwrap();
    let (all, version) = handle.list(&services, None);
    assert_eq!((all.len(), version), (1, handle.version()));
    assert_eq!(all[0]["spec"]["clusterIP"], "10.0.0.1");
    handle.delete(&services, "default", "web").await.unwrap();
    assert_eq!(handle.delete(&services, "default", "web").await.unwrap_err().code, 404);
    let mut kinds = Vec::new();
    for _ in 0..4 {
        let event = events.recv().await.unwrap();
        assert_eq!((&event.resource, event.name.as_str()), (&services, "web"));
        kinds.push(event.kind);
    }
    assert_eq!(kinds, [EventKind::Added, EventKind::Modified, EventKind::Modified, EventKind::Deleted]);
    let unknown = handle.apply(json!({"apiVersion": "v1", "kind": "Elephant", "metadata": {"name": "a"}})).await.unwrap_err();
    assert_eq!(unknown.code, 404);
    assert_eq!(handle.with_user(User::service_account("a", "b", "u")).version(), handle.version());

    let client = server.client().await;
    let merged = patch(
        &client,
        "/api/v1/namespaces/default/services/none",
        "application/strategic-merge-patch+json",
        json!({"spec": {"ports": [{"port": 80}]}}),
    );
    assert_eq!(merged.await.0, 404);
    drop(handle);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_for_a_while_goes_by_itself() {
    let folder = tempdir().unwrap();
    let mut options = options(&folder);
    let short = ResourceDefinition::untyped(("example.com", "v1"), "notes", "Note", true).kept_for(Duration::from_millis(300));
    options.definitions.push(short);
    options.limits.sweep_interval = Duration::from_millis(50);
    let server = TestServer::start(options);
    let notes = ResourceKey::new("example.com", "notes");
    let note = |name: &str| json!({"metadata": {"name": name}});
    let mut events = server.handle.subscribe();
    server.handle.create(&notes, "default", note("a")).await.unwrap();
    assert_eq!(events.recv().await.unwrap().kind, EventKind::Added);
    let gone = tokio::time::timeout(Duration::from_secs(10), events.recv()).await.expect("in time").unwrap();
    assert_eq!((gone.kind, gone.name.as_str()), (EventKind::Deleted, "a"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_a_server_from_starting_is_named() {
    let folder = tempdir().unwrap();
    let server = TestServer::start(options(&folder));
    let address = server.address.to_string();
    let Err(error) = Server::bind(std::slice::from_ref(&address)) else { panic!("the port is in use") };
    assert!(error.to_string().contains(&address) && error.to_string().contains("another program has this port"), "{error}");
    let Err(error) = Server::open(options(&folder)) else { panic!("the data are in use") };
    assert!(matches!(error, Error::InUse { .. }), "{error}");
    server.stop().await;
    let server = Server::open(options(&folder)).expect("free again");
    let Err(error) = server.serve(Vec::new(), async {}).await else { panic!("nothing to listen on") };
    assert!(matches!(error, Error::NoListener));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_answers_on_all_its_listeners() {
    let folder = tempdir().unwrap();
    let server = Server::open(options(&folder)).unwrap();
    let mut listeners = Server::bind(&["127.0.0.1:0".to_owned()]).unwrap();
    // One that the embedder has bound itself.
    listeners.push(std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let addresses: Vec<_> = listeners.iter().map(|listener| listener.local_addr().unwrap()).collect();
    let kubeconfigs: Vec<_> =
        addresses.iter().map(|address| server.admin_kubeconfig(&format!("https://{address}"), "c")).collect();
    let file = folder.path().join("kubeconfig");
    server.write_admin_kubeconfig(&file, "https://localhost", "c").unwrap();
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let database = folder.path().join("data/db/objects.redb");
    assert_eq!(database.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(server.serve(listeners, async {
        let _ = stopped.await;
    }));
    for kubeconfig in &kubeconfigs {
        assert_eq!(get(&common::client(kubeconfig, None).await, "/api/v1/namespaces/default").await.0, 200);
    }
    drop(stop);
    running.await.unwrap().unwrap();
    assert!(std::net::TcpStream::connect(addresses[0]).is_err(), "no longer listening");
}
