//! Who may do what: tokens, RBAC, escalation, flow control.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::time::Duration;

use common::{Lines, TestServer, ask, config_map, delete, get, options, post};
use http::Method;
use serde_json::{Value, json};
use tempfile::tempdir;

const MAPS: &str = "/api/v1/namespaces/a/configmaps";
const ACCOUNTS: &str = "/api/v1/namespaces/a/serviceaccounts";
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

fn rule(group: &str, resources: &[&str], verbs: &[&str]) -> Value {
    json!({"apiGroups": [group], "resources": resources, "verbs": verbs})
}

/// Namespaces `a` and `b`, ServiceAccount `sa` in `a` with a role of these rules.
async fn prepare(server: &TestServer, rules: Value) {
    for namespace in ["a", "b"] {
        server.namespace(namespace).await;
    }
    let api = "rbac.authorization.k8s.io/v1";
    for object in [
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "sa", "namespace": "a"}}),
        json!({"apiVersion": api, "kind": "Role", "metadata": {"name": "r", "namespace": "a"}, "rules": rules}),
        json!({"apiVersion": api, "kind": "RoleBinding", "metadata": {"name": "r", "namespace": "a"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"},
            "subjects": [{"kind": "ServiceAccount", "name": "sa", "namespace": "a"}]}),
    ] {
        server.handle.apply(object).await.expect("written");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_are_what_roles_say() {
    let folder = tempdir().unwrap();
    let server = TestServer::start(options(&folder));
    let named = json!({"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "list"], "resourceNames": ["mine"]});
    prepare(&server, json!([rule("", &["configmaps"], &["get", "list", "watch", "create"]), named])).await;
    let token = server.handle.issue_token("a", "sa", Duration::from_secs(600)).unwrap().token;
    let client = server.client_of(&token).await;
    assert_eq!(post(&client, MAPS, config_map("x", json!({}))).await.0, 201);
    assert_eq!(get(&client, MAPS).await.0, 200);
    let (code, status) = delete(&client, &format!("{MAPS}/x")).await;
    assert_eq!((code, &status["reason"], &status["details"]["name"]), (403, &json!("Forbidden"), &json!("x")));
    assert_eq!(
        status["message"],
        "configmaps \"x\" is forbidden: User \"system:serviceaccount:a:sa\" cannot delete resource \"configmaps\" in API group \"\" in \
         the namespace \"a\""
    );
    let secrets = "/api/v1/namespaces/a/secrets";
    for (path, code) in [
        ("/api/v1/configmaps".to_owned(), 403),
        ("/api/v1/namespaces/b/configmaps".to_owned(), 403),
        (format!("{secrets}/mine"), 404),
        (format!("{secrets}/other"), 403),
        (secrets.to_owned(), 403),
        (format!("{secrets}?fieldSelector=metadata.name%3Dmine"), 200),
        (format!("{MAPS}?watch=1&resourceVersion=0&timeoutSeconds=1"), 200),
        ("/apis".to_owned(), 200),
        ("/openapi/v3".to_owned(), 200),
        ("/metrics".to_owned(), 403),
        ("/apis/nothing/v1/things".to_owned(), 403),
    ] {
        assert_eq!(get(&client, &path).await.0, code, "{path}");
    }
    let review =
        |resource: &str| json!({"spec": {"resourceAttributes": {"verb": "list", "resource": resource, "namespace": "a"}}});
    let reviews = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    assert_eq!(post(&client, reviews, review("configmaps")).await.1["status"]["allowed"], true);
    assert_eq!(post(&client, reviews, review("secrets")).await.1["status"]["allowed"], false);
    assert_eq!(post(&client, reviews, json!({"spec": {}})).await.0, 422);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gives_more_than_they_have() {
    let folder = tempdir().unwrap();
    let server = TestServer::start(options(&folder));
    let rbac = rule("rbac.authorization.k8s.io", &["roles", "rolebindings"], &["create", "update"]);
    prepare(&server, json!([rbac, rule("", &["configmaps"], &["get"])])).await;
    let token = server.handle.issue_token("a", "sa", Duration::from_secs(600)).unwrap().token;
    let client = server.client_of(&token).await;
    let roles = format!("{RBAC}/namespaces/a/roles");
    let role = |rules: Value| json!({"metadata": {"generateName": "x-"}, "rules": [rules]});
    assert_eq!(post(&client, &roles, role(rule("", &["configmaps"], &["get"]))).await.0, 201);
    let (code, status) = post(&client, &roles, role(rule("", &["*"], &["get"]))).await;
    assert!(code == 403 && status["message"].as_str().unwrap().contains("not currently held"), "{status}");
    let bindings = format!("{RBAC}/namespaces/a/rolebindings");
    let binding = |kind: &str, name: &str| json!({"metadata": {"generateName": "x-"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name}});
    server
        .handle
        .apply(json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "all"},
        "rules": [rule("*", &["*"], &["*"])]}))
        .await
        .unwrap();
    assert_eq!(post(&client, &bindings, binding("Role", "r")).await.0, 201);
    assert_eq!(post(&client, &bindings, binding("ClusterRole", "all")).await.0, 403);
    assert_eq!(post(&client, &bindings, binding("Elephant", "all")).await.0, 422);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_end() {
    let folder = tempdir().unwrap();
    let mut options = options(&folder);
    options.limits.token_least = Duration::from_secs(1);
    options.limits.bookmark_interval = Duration::from_millis(200);
    let server = TestServer::start(options.clone());
    prepare(&server, json!([rule("", &["configmaps"], &["get", "list", "watch"])])).await;
    let admin = server.client().await;
    let request = |seconds: Value| json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": seconds}});
    let (code, answer) = post(&admin, &format!("{ACCOUNTS}/sa/token"), request(json!(2))).await;
    assert_eq!(code, 201, "{answer}");
    let token = answer["status"]["token"].as_str().unwrap().to_owned();
    assert!(answer["status"]["expirationTimestamp"].as_str().unwrap().ends_with('Z'));
    let client = server.client_of(&token).await;
    assert_eq!(get(&client, MAPS).await.0, 200);
    let mut lines = Lines::open(&client, &format!("{MAPS}?watch=1&resourceVersion=0")).await;
    assert_eq!(lines.brief().await, "END", "a watch does not outlive its token");
    let (code, status) = get(&client, MAPS).await;
    assert_eq!((code, &status["reason"]), (401, &json!("Unauthorized")));

    for (spec, field) in [
        (json!({"expirationSeconds": 0}), "spec.expirationSeconds"),
        (json!({"expirationSeconds": "1h"}), "spec.expirationSeconds"),
        (json!({"audiences": ["x"]}), "spec.audiences"),
        (json!({"boundObjectRef": {"kind": "Pod"}}), "spec.boundObjectRef"),
    ] {
        let (code, status) = post(&admin, &format!("{ACCOUNTS}/sa/token"), json!({"spec": spec})).await;
        assert_eq!((code, &status["details"]["causes"][0]["field"]), (422, &json!(field)), "{status}");
    }
    assert_eq!(post(&admin, &format!("{ACCOUNTS}/nobody/token"), request(Value::Null)).await.0, 404);

    // Deleted, or made anew under the same name: the old token is nobody's.
    let long = server.handle.issue_token("a", "sa", Duration::from_secs(600)).unwrap().token;
    let client = server.client_of(&long).await;
    assert_eq!(get(&client, MAPS).await.0, 200);
    let mut lines = Lines::open(&client, &format!("{MAPS}?watch=1&resourceVersion=0")).await;
    delete(&admin, &format!("{ACCOUNTS}/sa")).await;
    assert_eq!(get(&client, MAPS).await.0, 401);
    assert_eq!(lines.brief().await, "END");
    post(&admin, ACCOUNTS, json!({"metadata": {"name": "sa"}})).await;
    assert_eq!(get(&client, MAPS).await.0, 401);
    let fresh = server.handle.issue_token("a", "sa", Duration::from_secs(600)).unwrap().token;
    assert_eq!(get(&server.client_of(&fresh).await, MAPS).await.0, 200);

    // Changed, of another server, or none at all.
    let last = if fresh.ends_with('A') { 'B' } else { 'A' };
    let changed = format!("{}{last}", &fresh[..fresh.len() - 1]);
    for bad in [changed.as_str(), "x", &fresh[1..]] {
        assert_eq!(get(&server.client_of(bad).await, MAPS).await.0, 401);
    }
    let other_folder = tempdir().unwrap();
    let other = TestServer::start(common::options(&other_folder));
    let foreign = other.kubeconfig.lines().find_map(|line| line.trim().strip_prefix("token: ")).unwrap().to_owned();
    assert_eq!(get(&server.client_of(&foreign).await, MAPS).await.0, 401);
    other.stop().await;
    server.stop().await;

    let server = TestServer::start(options);
    assert_eq!(get(&server.client_of(&fresh).await, MAPS).await.0, 200, "tokens outlive a restart");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn losing_a_right_ends_a_watch() {
    let folder = tempdir().unwrap();
    let mut options = options(&folder);
    options.limits.bookmark_interval = Duration::from_millis(100);
    let server = TestServer::start(options);
    prepare(&server, json!([rule("", &["configmaps"], &["watch"])])).await;
    let token = server.handle.issue_token("a", "sa", Duration::from_secs(600)).unwrap().token;
    let client = server.client_of(&token).await;
    let mut lines = Lines::open(&client, &format!("{MAPS}?watch=1")).await;
    let admin = server.client().await;
    post(&admin, MAPS, config_map("x", json!({}))).await;
    assert_eq!(lines.brief().await, "ADDED x");
    delete(&admin, &format!("{RBAC}/namespaces/a/rolebindings/r")).await;
    assert_eq!(lines.brief().await, "END");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_token_only_health_and_version() {
    let folder = tempdir().unwrap();
    let server = TestServer::start(options(&folder));
    let mut config = kube::Config::new(format!("https://{}", server.address).parse().unwrap());
    config.root_cert = Some(vec![rustls_der(&server.ca)]);
    config.default_retry = false;
    let client = kube::Client::try_from(config).unwrap();
    for (path, code) in [
        ("/healthz", 200),
        ("/livez", 200),
        ("/readyz", 200),
        ("/version", 200),
        ("/api", 401),
        ("/apis", 401),
        ("/", 401),
        (MAPS, 401),
    ] {
        assert_eq!(get(&client, path).await.0, code, "{path}");
    }
    let basic = ask(&client, Method::GET, "/api", &[("authorization", "Basic YTpi")], Vec::new()).await;
    assert_eq!(basic.0, 401);
    // A client that pins another authority does not talk to us.
    let other_folder = tempdir().unwrap();
    let other = TestServer::start(options(&other_folder));
    let mut config = kube::Config::new(format!("https://{}", server.address).parse().unwrap());
    config.root_cert = Some(vec![rustls_der(&other.ca)]);
    config.default_retry = false;
    assert!(kube::Client::try_from(config).unwrap().apiserver_version().await.is_err());
    other.stop().await;
    server.stop().await;
}

fn rustls_der(pem: &str) -> Vec<u8> {
    use base64::Engine as _;
    let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    base64::engine::general_purpose::STANDARD.decode(body).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_greedy_user_is_slowed_and_nobody_else() {
    let folder = tempdir().unwrap();
    let mut options = options(&folder);
    options.limits.requests_per_second = 1.0;
    options.limits.burst = 5.0;
    options.limits.watches_per_user = 2;
    let server = TestServer::start(options);
    prepare(&server, json!([rule("", &["configmaps"], &["*"])])).await;
    server
        .handle
        .apply(json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "other", "namespace": "a"}}))
        .await
        .unwrap();
    let client = server.client_of(&server.handle.issue_token("a", "sa", Duration::from_secs(600)).unwrap().token).await;
    let watch = format!("{MAPS}?watch=1");
    let _open = (Lines::open(&client, &watch).await, Lines::open(&client, &watch).await);
    let (code, status) = get(&client, &watch).await;
    assert!(code == 429 && status["message"].as_str().unwrap().contains("watches"), "{status}");
    let codes: Vec<u16> = {
        let mut codes = Vec::new();
        for _ in 0..4 {
            codes.push(get(&client, MAPS).await.0);
        }
        codes
    };
    assert!(codes.contains(&429), "{codes:?}");
    let (_, status) = get(&client, MAPS).await;
    assert_eq!((&status["reason"], &status["details"]["retryAfterSeconds"]), (&json!("TooManyRequests"), &json!(1)));
    let other = server.client_of(&server.handle.issue_token("a", "other", Duration::from_secs(600)).unwrap().token).await;
    assert_eq!(get(&other, MAPS).await.0, 403, "another user's share is its own");
    let admin = server.client().await;
    for _ in 0..20 {
        assert_eq!(get(&admin, MAPS).await.0, 200);
    }
    server.stop().await;
}
