//! A whole control plane on the loopback device, with clients that nobody here wrote: kube, and kubectl where there is one.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use futures::StreamExt;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::watcher;
use kube::{Api, Client};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::oneshot;

use super::watch::{Change, changes};
use super::*;

const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct Cluster {
    pub(crate) client: Client,
    data: Option<TempDir>,
    stop: Option<oneshot::Sender<()>>,
    running: tokio::task::JoinHandle<anyhow::Result<()>>,
    kubelets: Option<tokio::task::JoinHandle<()>>,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        Self::start_in(tempfile::tempdir().expect("a folder")).await
    }

    async fn start_in(data: TempDir) -> Self {
        // Another test may have been first: which one it is does not matter.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let options = Options {
            cluster: "test".to_owned(),
            listen: "127.0.0.1:0".parse().expect("an address"),
            data: data.path().to_owned(),
            pod_cidrs: vec!["10.10.0.0/16".parse().expect("a CIDR")],
            service_cidrs: vec!["10.110.0.0/16".parse().expect("a CIDR")],
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let (tell, ready) = oneshot::channel();
        let shutdown = async move {
            let _ = stopped.await;
        };
        let on_ready = || {
            let _ = tell.send(());
        };
        let running = tokio::spawn(run_until(options, on_ready, shutdown));
        ready.await.expect("it came up");
        let text = std::fs::read_to_string(data.path().join(ADMIN_KUBECONFIG)).expect("the kubeconfig is there");
        let client = admin_client(&text).await.expect("a client");
        let kubelets = Some(tokio::spawn(kubelets(client.clone())));
        Self { client, data: Some(data), stop: Some(stop), running, kubelets }
    }

    pub(crate) async fn stop(mut self) -> TempDir {
        if let Some(kubelets) = self.kubelets.take() {
            kubelets.abort();
        }
        self.stop.take().expect("once").send(()).expect("it runs");
        (&mut self.running).await.expect("it ended").expect("well");
        self.data.take().expect("once")
    }

    fn kubeconfig(&self) -> std::path::PathBuf {
        self.data.as_ref().expect("not stopped").path().join(ADMIN_KUBECONFIG)
    }

    pub(crate) fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    pub(crate) async fn namespace(&self, name: &str) {
        let namespace: Namespace = serde_json::from_value(json!({ "metadata": { "name": name } })).expect("a Namespace");
        Api::all(self.client.clone()).create(&PostParams::default(), &namespace).await.expect("created");
    }

    pub(crate) async fn node(&self, name: &str) {
        let node: Node = serde_json::from_value(json!({
            "metadata": { "name": name, "labels": { "kubernetes.io/hostname": name } },
        }))
        .expect("a Node");
        let nodes: Api<Node> = Api::all(self.client.clone());
        nodes.create(&PostParams::default(), &node).await.expect("created");
        let ready = json!({ "status": { "conditions": [{ "type": "Ready", "status": "True" }] } });
        nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(ready)).await.expect("ready");
    }
}

/// Makes every Pod that has a node ready, and lets go of every one that is deleted.
async fn kubelets(client: Client) {
    let mut pods = Box::pin(changes::<Pod>(client.clone(), watcher::Config::default()));
    let mut next = 1u32;
    while let Some(change) = pods.next().await {
        let seen = match change {
            Change::List(all) => all,
            Change::Set(pod) => vec![pod],
            Change::Gone(_) | Change::Deleted(_) => Vec::new(),
        };
        for pod in seen {
            let (name, namespace) = (pod.metadata.name.unwrap_or_default(), pod.metadata.namespace.unwrap_or_default());
            let api: Api<Pod> = Api::namespaced(client.clone(), &namespace);
            if pod.metadata.deletion_timestamp.is_some() {
                let patch = json!({ "metadata": { "uid": pod.metadata.uid, "finalizers": null } });
                let _ = api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await;
                continue;
            }
            let spec = pod.spec.unwrap_or_default();
            let running = pod.status.as_ref().is_some_and(|s| s.phase.as_deref() == Some("Running"));
            if spec.node_name.is_none() || running {
                continue;
            }
            next += 1;
            let address = format!("10.10.{}.{}", next / 250, next % 250 + 1);
            let patch = json!({ "metadata": { "uid": pod.metadata.uid }, "status": {
                "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }],
                "conditions": [{ "type": "Ready", "status": "True" }],
                "containerStatuses": spec.containers.iter().map(|c| json!({
                    "name": c.name, "ready": true, "restartCount": 0, "image": "i", "imageID": "i", "state": { "running": {} },
                })).collect::<Vec<_>>(),
            } });
            let _ = api.patch_status(&name, &PatchParams::default(), &Patch::Merge(patch)).await;
        }
    }
}

/// Waits until `holds` is true of the object, by watching it.
async fn until<K>(api: &Api<K>, name: &str, holds: impl Fn(Option<&K>) -> bool) -> Option<K>
where
    K: kube::Resource + Clone + Debug + serde::de::DeserializeOwned + Send + 'static,
{
    let mut seen = Box::pin(watcher::watch_object(api.clone(), name));
    let wait = async {
        while let Some(object) = seen.next().await {
            if let Ok(object) = object
                && holds(object.as_ref())
            {
                return object;
            }
        }
        None
    };
    tokio::time::timeout(PATIENCE, wait)
        .await
        .unwrap_or_else(|_| panic!("{name} did not become what it should within {PATIENCE:?}"))
}

fn deployment(name: &str, replicas: u32, image: &str) -> Deployment {
    serde_json::from_value(json!({
        "metadata": { "name": name },
        "spec": {
            "replicas": replicas, "selector": { "matchLabels": { "app": name } },
            "template": {
                "metadata": { "labels": { "app": name } },
                "spec": { "containers": [{ "name": "c", "image": image, "ports": [{ "name": "http", "containerPort": 8080 }] }] },
            },
        },
    }))
    .expect("a Deployment")
}

pub(crate) fn service(name: &str, spec: Value) -> Service {
    serde_json::from_value(json!({ "metadata": { "name": name }, "spec": spec })).expect("a Service")
}

fn ready_endpoints(slices: &[EndpointSlice]) -> usize {
    let endpoints = slices.iter().flat_map(|s| &s.endpoints);
    endpoints.filter(|e| e.conditions.as_ref().and_then(|c| c.ready) == Some(true)).count()
}

async fn until_endpoints(cluster: &Cluster, namespace: &str, service: &str, count: usize) -> Duration {
    let started = Instant::now();
    let api: Api<EndpointSlice> = cluster.api(namespace);
    let only = ListParams::default().labels(&format!("kubernetes.io/service-name={service}"));
    let mut changed = Box::pin(changes::<EndpointSlice>(cluster.client.clone(), watcher::Config::default()));
    let wait = async {
        while changed.next().await.is_some() {
            if ready_endpoints(&api.list(&only).await.expect("listed").items) == count {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, wait)
        .await
        .unwrap_or_else(|_| panic!("{service} has not {count} endpoints after {PATIENCE:?}"));
    started.elapsed()
}

fn kubectl(kubeconfig: &Path, arguments: &str) -> Option<String> {
    let words: Vec<&str> = arguments.split_whitespace().collect();
    let home = kubeconfig.parent().expect("a folder");
    let output = Command::new("kubectl").env("KUBECONFIG", kubeconfig).env("HOME", home).args(words).output();
    let Ok(output) = output else {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "these tests need the program kubectl");
        eprintln!("skipped: kubectl {arguments} (there is no kubectl)");
        return None;
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "kubectl {arguments}: {text}{}", String::from_utf8_lossy(&output.stderr));
    Some(text)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_has_what_every_cluster_has() {
    let cluster = Cluster::start().await;
    for namespace in seed::NAMESPACES {
        cluster.api::<ServiceAccount>(namespace).get("default").await.expect("its account");
        cluster.api::<ConfigMap>(namespace).get("kube-root-ca.crt").await.expect("its authority");
    }
    let own = cluster.api::<Service>("default").get("kubernetes").await.expect("the API server's Service");
    assert_eq!(own.spec.and_then(|s| s.cluster_ip).as_deref(), Some("10.110.0.1"));
    let cidrs: Api<ServiceCIDR> = Api::all(cluster.client.clone());
    until(&cidrs, "kubernetes", |c| {
        c.and_then(|c| c.status.as_ref()).and_then(|s| s.conditions.as_ref()).is_some_and(|c| c[0].status == "True")
    })
    .await;
    let config = cluster.api::<ConfigMap>("kube-system").get("kubeadm-config").await.expect("kubeadm's");
    let text = &config.data.expect("data")["ClusterConfiguration"];
    assert!(text.contains("podSubnet: 10.10.0.0/16") && text.contains("serviceSubnet: 10.110.0.0/16"), "{text}");
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    let uid = namespaces.get("kube-system").await.expect("there").metadata.uid;
    // After a restart on the same data it is the same cluster.
    let again = Cluster::start_in(cluster.stop().await).await;
    let namespaces: Api<Namespace> = Api::all(again.client.clone());
    assert_eq!(namespaces.get("kube-system").await.expect("there").metadata.uid, uid);
    // And an address that was given out before is not given to another.
    let taken = again
        .api::<Service>("default")
        .create(&PostParams::default(), &service("other", json!({ "clusterIP": "10.110.0.1", "ports": [{ "port": 1 }] })))
        .await;
    assert!(matches!(taken, Err(kube::Error::Api(status)) if status.code == 422));
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_runs_rolls_and_goes() {
    let cluster = Cluster::start().await;
    cluster.node("n1").await;
    cluster.node("n2").await;
    cluster.namespace("shop").await;
    let spec = json!({ "selector": { "app": "web" }, "ports": [{ "name": "w", "port": 80, "targetPort": "http" }] });
    let started = Instant::now();
    cluster.api::<Service>("shop").create(&PostParams::default(), &service("web", spec)).await.expect("created");
    let deployments: Api<Deployment> = cluster.api("shop");
    deployments.create(&PostParams::default(), &deployment("web", 4, "a")).await.expect("created");
    until_endpoints(&cluster, "shop", "web", 4).await;
    eprintln!("from nothing to four endpoints: {:?}", started.elapsed());
    let pods: Api<Pod> = cluster.api("shop");
    let mut on_nodes: BTreeMap<String, usize> = BTreeMap::new();
    for pod in pods.list(&ListParams::default()).await.expect("listed") {
        *on_nodes.entry(pod.spec.and_then(|s| s.node_name).expect("bound")).or_default() += 1;
    }
    assert_eq!(on_nodes, BTreeMap::from([("n1".to_owned(), 2), ("n2".to_owned(), 2)]));
    until(&deployments, "web", |d| d.and_then(|d| d.status.as_ref()).is_some_and(|s| s.available_replicas == Some(4))).await;

    // One Pod stops being ready, and is ready again: how long until its slice says so.
    let name = pods.list(&ListParams::default()).await.expect("listed").items[0].metadata.name.clone().expect("named");
    for (status, count) in [("False", 3), ("True", 4)] {
        let patch = json!({ "status": { "conditions": [{ "type": "Ready", "status": status }] } });
        let started = Instant::now();
        let (took, _) = tokio::join!(until_endpoints(&cluster, "shop", "web", count), async {
            pods.patch_status(&name, &PatchParams::default(), &Patch::Merge(patch)).await.expect("patched");
        });
        eprintln!("from the Pod's condition {status} to its EndpointSlice: {took:?} ({:?} in all)", started.elapsed());
    }

    // Another image rolls all four.
    let image = json!({ "spec": { "template": { "spec": { "containers": [{ "name": "c", "image": "b" }] } } } });
    let changed = deployments.patch("web", &PatchParams::default(), &Patch::Merge(image)).await.expect("patched");
    assert_eq!(changed.metadata.generation, Some(2));
    let rolled = |d: &Deployment| {
        d.status.as_ref().is_some_and(|s| {
            s.observed_generation == Some(2)
                && s.updated_replicas == Some(4)
                && s.replicas == Some(4)
                && s.available_replicas == Some(4)
        })
    };
    until(&deployments, "web", |d| d.is_some_and(rolled)).await;
    if kubectl(&cluster.kubeconfig(), "rollout status deployment/web -n shop --timeout=10s").is_some() {
        let table =
            kubectl(&cluster.kubeconfig(), "get deployments,pods,services,endpointslices -n shop -o wide").expect("just there");
        eprintln!("{table}");
        assert!(
            table.contains("4/4") && table.contains("1/1") && table.contains("Running") && table.contains("80/TCP"),
            "{table}"
        );
        kubectl(&cluster.kubeconfig(), "wait --for=condition=Available deployment/web -n shop --timeout=10s");
        kubectl(&cluster.kubeconfig(), "delete pod -n shop --wait=true --timeout=10s -l app=web");
        eprintln!("{}", kubectl(&cluster.kubeconfig(), "get all -A").expect("just there"));
    }
    until_endpoints(&cluster, "shop", "web", 4).await;
    deployments.delete("web", &DeleteParams::default()).await.expect("deleted");
    until_endpoints(&cluster, "shop", "web", 0).await;
    for pod in pods.list(&ListParams::default()).await.expect("listed") {
        until(&pods, &pod.metadata.name.unwrap_or_default(), |p| p.is_none()).await;
    }
    cluster.api::<Service>("shop").delete("web", &DeleteParams::default()).await.expect("deleted");
    let slices: Api<EndpointSlice> = cluster.api("shop");
    for slice in slices.list(&ListParams::default()).await.expect("listed") {
        until(&slices, &slice.metadata.name.unwrap_or_default(), |s| s.is_none()).await;
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_set_follows_labels() {
    let cluster = Cluster::start().await;
    cluster.node("n1").await;
    cluster.node("n2").await;
    let set: DaemonSet = serde_json::from_value(json!({
        "metadata": { "name": "gateway" },
        "spec": {
            "selector": { "matchLabels": { "app": "gateway" } },
            "template": {
                "metadata": { "labels": { "app": "gateway" } },
                "spec": { "hostNetwork": true, "nodeSelector": { "gateway": "true" }, "containers": [{ "name": "c", "image": "daisy" }] },
            },
        },
    }))
    .expect("a DaemonSet");
    let sets: Api<DaemonSet> = cluster.api("kube-system");
    sets.create(&PostParams::default(), &set).await.expect("created");
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let count = |n: i32| {
        move |d: Option<&DaemonSet>| {
            d.and_then(|d| d.status.as_ref())
                .is_some_and(|s| s.number_ready == n && s.desired_number_scheduled == n && s.observed_generation == Some(1))
        }
    };
    until(&sets, "gateway", count(0)).await;
    let started = Instant::now();
    let label = json!({ "metadata": { "labels": { "gateway": "true" } } });
    nodes.patch("n2", &PatchParams::default(), &Patch::Merge(label)).await.expect("labelled");
    until(&sets, "gateway", count(1)).await;
    eprintln!("from the label to a ready Pod in the status: {:?}", started.elapsed());
    kubectl(&cluster.kubeconfig(), "rollout status daemonset/gateway -n kube-system --timeout=10s");
    let pods: Api<Pod> = cluster.api("kube-system");
    let there = pods.list(&ListParams::default()).await.expect("listed").items;
    assert_eq!(there.iter().filter_map(|p| p.spec.as_ref()?.node_name.clone()).collect::<Vec<_>>(), ["n2"]);
    // The node goes, and no kubelet is there to let go of the Pod.
    nodes.delete("n2", &DeleteParams::default()).await.expect("deleted");
    until(&sets, "gateway", count(0)).await;
    until(&pods, there[0].metadata.name.as_deref().unwrap_or_default(), |p| p.is_none()).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn services_get_addresses_and_what_cannot_be_is_named() {
    let cluster = Cluster::start().await;
    let services: Api<Service> = cluster.api("default");
    let create = async |name: &str, spec: Value| services.create(&PostParams::default(), &service(name, spec)).await;
    let code = |result: Result<Service, kube::Error>| match result {
        Err(kube::Error::Api(status)) => (status.code, status.message.clone()),
        other => panic!("not refused: {other:?}"),
    };
    let ports = json!([{ "port": 80 }]);
    let given = create("a", json!({ "ports": ports, "clusterIP": "10.110.0.10" })).await.expect("free");
    assert_eq!(given.spec.as_ref().and_then(|s| s.cluster_ips.clone()), Some(vec!["10.110.0.10".to_owned()]));
    let (status, message) = code(create("b", json!({ "ports": ports, "clusterIP": "10.110.0.10" })).await);
    assert!(status == 422 && message.contains("already allocated"), "{message}");
    let (status, message) = code(create("b", json!({ "ports": ports, "clusterIP": "100.96.0.1" })).await);
    assert!(status == 422 && message.contains("10.110.0.0/16"), "{message}");
    // A range of one's own makes it possible.
    let cidrs: Api<ServiceCIDR> = Api::all(cluster.client.clone());
    let more: ServiceCIDR =
        serde_json::from_value(json!({ "metadata": { "name": "daisy" }, "spec": { "cidrs": ["100.96.0.0/14"] } }))
            .expect("a ServiceCIDR");
    cidrs.create(&PostParams::default(), &more).await.expect("created");
    create("b", json!({ "ports": ports, "clusterIP": "100.96.0.1" })).await.expect("in range now");
    assert_eq!(code(create("1st", json!({ "ports": ports })).await).0, 422);
    assert_eq!(code(create("c", json!({})).await).0, 422);
    // Once gone, an address is free again.
    services.delete("a", &DeleteParams::default()).await.expect("deleted");
    create("d", json!({ "ports": ports, "clusterIP": "10.110.0.10" })).await.expect("free again");
    let moved = json!({ "spec": { "clusterIP": "10.110.0.12", "clusterIPs": ["10.110.0.12"] } });
    let refused = services.patch("d", &PatchParams::default(), &Patch::Merge(moved)).await;
    assert!(matches!(refused, Err(kube::Error::Api(status)) if status.code == 422));
    // Many at once: each its own.
    let made = futures::future::join_all((0..40).map(|n| {
        let (services, ports) = (services.clone(), ports.clone());
        async move {
            let made = services.create(&PostParams::default(), &service(&format!("m{n}"), json!({ "ports": ports }))).await;
            made.expect("created").spec.and_then(|s| s.cluster_ip).expect("an address")
        }
    }))
    .await;
    let distinct: std::collections::BTreeSet<_> = made.iter().collect();
    assert_eq!(distinct.len(), 40);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_ends_after_its_pods() {
    let cluster = Cluster::start().await;
    cluster.node("n1").await;
    cluster.namespace("shop").await;
    let accounts: Api<ServiceAccount> = cluster.api("shop");
    until(&accounts, "default", |a| a.is_some()).await;
    let deployments: Api<Deployment> = cluster.api("shop");
    deployments.create(&PostParams::default(), &deployment("web", 2, "a")).await.expect("created");
    until(&deployments, "web", |d| d.and_then(|d| d.status.as_ref()).is_some_and(|s| s.available_replicas == Some(2))).await;
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    let ending = namespaces.delete("shop", &DeleteParams::default()).await.expect("deleted").left().expect("it takes its time");
    assert_eq!(ending.status.and_then(|s| s.phase).as_deref(), Some("Terminating"));
    let refused = accounts.create(&PostParams::default(), &ServiceAccount::default()).await;
    assert!(refused.is_err());
    let started = Instant::now();
    until(&namespaces, "shop", |n| n.is_none()).await;
    eprintln!("from the namespace's end to its absence: {:?}", started.elapsed());
    assert!(deployments.list(&ListParams::default()).await.expect("listed").items.is_empty());
    // And it can be made again.
    cluster.namespace("shop").await;
    until(&accounts, "default", |a| a.is_some()).await;
    cluster.stop().await;
}
