//! What the roles' ServiceAccounts may do, judged by an API server from `manifests/rbac.yaml` as it is.

use std::time::Duration;

use daisy_api::labels::{BROKER_ACCESS_SECRET, GATEWAY_KEYS_NAMESPACE, NODE_PROBLEM, SYSTEM_NAMESPACE};
use daisy_api_server::{Handle, Options, ResourceDefinition, Server};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Secret};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

struct ApiServer {
    handle: Handle,
    url: String,
    ca: String,
    _data: tempfile::TempDir,
}

impl ApiServer {
    async fn start() -> Self {
        let data = tempfile::tempdir().expect("a folder");
        let mut options = Options::new(data.path());
        options.definitions.push(ResourceDefinition::of::<Node>().with_status());
        let server = tokio::task::spawn_blocking(move || Server::open(options)).await.expect("a thread").expect("a server");
        let (handle, ca) = (server.handle(), server.ca_pem().to_owned());
        let listeners = Server::bind(&["127.0.0.1:0".to_owned()]).expect("a port");
        let url = format!("https://{}", listeners[0].local_addr().expect("an address"));
        tokio::spawn(server.serve(listeners, std::future::pending::<()>()));
        for object in super::foundations().expect("they parse") {
            handle.apply(serde_json::to_value(&object).expect("JSON")).await.expect("it is taken");
        }
        let secret = |namespace: &str, name: &str| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace}, "stringData": {"x": "y"}});
        for (namespace, name) in [
            (SYSTEM_NAMESPACE, BROKER_ACCESS_SECRET),
            (SYSTEM_NAMESPACE, "daisy-gateway-key-one"),
            (GATEWAY_KEYS_NAMESPACE, "daisy-gateway-key-one"),
            ("default", "a-users"),
        ] {
            handle.apply(secret(namespace, name)).await.expect("it is taken");
        }
        Self { handle, url, ca, _data: data }
    }

    fn client(&self, role: &str) -> Client {
        let token = self.handle.issue_token(SYSTEM_NAMESPACE, role, Duration::from_secs(3600)).expect("a token").token;
        daisy_broker::enrol::client(&self.url, &self.ca, &token).expect("a client")
    }
}

fn refused<T>(what: &str, result: Result<T, kube::Error>) {
    match result {
        Err(kube::Error::Api(status)) if status.code == 403 => {}
        Err(error) => panic!("{what}: {error}"),
        Ok(_) => panic!("{what}: this was not refused"),
    }
}

#[tokio::test]
async fn each_role_reads_its_own_secrets_alone() {
    let server = ApiServer::start().await;
    for role in ["daisy-syncer", "daisy-gateway", "daisy-route-agent", "daisy-dns"] {
        let client = server.client(role);
        let secrets = |namespace: &str| Api::<Secret>::namespaced(client.clone(), namespace);
        for (namespace, name, reader) in [
            (SYSTEM_NAMESPACE, BROKER_ACCESS_SECRET, "daisy-syncer"),
            (SYSTEM_NAMESPACE, "daisy-gateway-key-one", "nobody"),
            (GATEWAY_KEYS_NAMESPACE, "daisy-gateway-key-one", "daisy-gateway"),
            ("default", "a-users", "nobody"),
        ] {
            let got = secrets(namespace).get(name).await;
            let what = format!("{role} reads {namespace}/{name}");
            if role == reader { drop(got.unwrap_or_else(|error| panic!("{what}: {error}"))) } else { refused(&what, got) }
        }
        for namespace in [SYSTEM_NAMESPACE, GATEWAY_KEYS_NAMESPACE, "default"] {
            refused(&format!("{role} lists in {namespace}"), secrets(namespace).list(&ListParams::default()).await);
        }
        refused(&format!("{role} lists all"), Api::<Secret>::all(client.clone()).list(&ListParams::default()).await);
    }
}

#[tokio::test]
async fn no_role_can_make_itself_another_roles_token() {
    let server = ApiServer::start().await;
    for role in ["daisy-syncer", "daisy-gateway", "daisy-route-agent", "daisy-dns"] {
        let client = server.client(role);
        // A Secret of this type is filled with the token of the ServiceAccount that it names.
        let token: Secret = serde_json::from_value(json!({"metadata": {"name": "token", "namespace": SYSTEM_NAMESPACE,
            "annotations": {"kubernetes.io/service-account.name": "daisy-syncer"}}, "type": "kubernetes.io/service-account-token"}))
        .expect("a Secret");
        let secrets: Api<Secret> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
        refused(role, secrets.create(&PostParams::default(), &token).await);
    }
}

#[tokio::test]
async fn the_gateway_keeps_its_key_and_the_syncer_its_lease() {
    let server = ApiServer::start().await;
    let keys: Api<Secret> = Api::namespaced(server.client("daisy-gateway"), GATEWAY_KEYS_NAMESPACE);
    let key: Secret = serde_json::from_value(json!({"metadata": {"name": "daisy-gateway-key-two"}})).expect("a Secret");
    keys.create(&PostParams::default(), &key).await.expect("it makes its key");
    keys.delete("daisy-gateway-key-two", &DeleteParams::default()).await.expect("it removes its key");

    let leases: Api<Lease> = Api::namespaced(server.client("daisy-syncer"), SYSTEM_NAMESPACE);
    let lease = |name: &str| -> Lease { serde_json::from_value(json!({"metadata": {"name": name}})).expect("a Lease") };
    assert!(leases.get_opt("daisy-syncer").await.expect("it looks").is_none());
    let made = leases.create(&PostParams::default(), &lease("daisy-syncer")).await.expect("it makes the Lease");
    leases.replace("daisy-syncer", &PostParams::default(), &made).await.expect("it renews");
    refused("another's Lease", leases.get("another").await);
    let others: Api<Lease> = Api::namespaced(server.client("daisy-syncer"), "kube-system");
    refused("elsewhere", others.create(&PostParams::default(), &lease("daisy-syncer")).await);
}

#[tokio::test]
async fn two_roles_patch_nodes_and_none_does_more_to_them() {
    let server = ApiServer::start().await;
    let node: Node = serde_json::from_value(json!({"metadata": {"name": "one"}})).expect("a Node");
    let object = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "one"}});
    server.handle.apply(object).await.expect("it is taken");
    for role in ["daisy-syncer", "daisy-gateway", "daisy-route-agent", "daisy-dns"] {
        let nodes: Api<Node> = Api::all(server.client(role));
        let patch = json!({"metadata": {"annotations": {NODE_PROBLEM: "a port in use"}}});
        let patched = nodes.patch("one", &PatchParams::default(), &Patch::Merge(&patch)).await;
        match role {
            "daisy-syncer" | "daisy-route-agent" => drop(patched.unwrap_or_else(|error| panic!("{role}: {error}"))),
            _ => refused(role, patched),
        }
        let post = PostParams::default();
        refused(role, nodes.replace("one", &post, &node).await);
        refused(role, nodes.create(&post, &node).await);
        refused(role, nodes.delete("one", &DeleteParams::default()).await);
        let status = json!({"status": {"conditions": []}});
        refused(role, nodes.patch_status("one", &PatchParams::default(), &Patch::Merge(&status)).await);
    }
}
