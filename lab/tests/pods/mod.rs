//! Pods, as users see them.

use std::time::Duration;

use daisy_lab::Lab;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Pod, Service, ServiceAccount};
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::support::{FrontEnd, command, eventually, fetch, runtime};

async fn create<K>(api: &Api<K>, object: Value)
where
    K: kube::Resource + Clone + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned,
{
    let object: K = serde_json::from_value(object).expect("an object");
    api.create(&PostParams::default(), &object).await.expect("it is created");
}

/// Makes a namespace, and waits for what it is given a moment later: no pod is taken before its service account is there.
async fn namespace(client: &Client, name: &str) {
    create(&Api::<Namespace>::all(client.clone()), json!({ "metadata": { "name": name } })).await;
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), name);
    eventually(&format!("namespace {name} has its service account"), || async {
        accounts.get_opt("default").await.expect("asked").is_some()
    })
    .await;
}

async fn ready(pods: &Api<Pod>, name: &str) -> Pod {
    let is_ready = |pod: &Pod| {
        let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
        conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
    };
    eventually(&format!("pod {name} is ready"), || async {
        pods.get_opt(name).await.expect("asked").is_some_and(|p| is_ready(&p))
    })
    .await;
    pods.get(name).await.expect("it is there")
}

fn pod(name: &str, node: &str, container: Value) -> Value {
    let mut container = container;
    container["name"] = json!("main");
    json!({ "metadata": { "name": name, "labels": { "app": name } }, "spec": { "nodeName": node, "containers": [container] } })
}

async fn say(lab: &Lab, place: &str, words: &[&str]) -> String {
    let output = lab.run(&command(place, words)).await.expect("it runs");
    assert_eq!(output.code, 0, "{words:?} in {place}: {output:?}");
    output.stdout
}

fn address(pod: &Pod) -> String {
    pod.status.as_ref().and_then(|s| s.pod_ip.clone()).expect("an address")
}

pub(crate) fn pods() {
    let front_end = FrontEnd::start("pods", &[]);
    let lab = front_end.lab();
    runtime().block_on(async {
        let client = lab.client("staging").await.expect("a client");
        let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
        let mut web = pod("web", "staging-node1", json!({ "image": "nginx:1.27" }));
        web["spec"]["containers"][0]["readinessProbe"] = json!({ "httpGet": { "path": "/", "port": 80 } });
        create(&pods, web).await;
        let mut shell = pod(
            "shell",
            "staging-node2",
            json!({ "image": "sleep", "env": [
            { "name": "NODE", "valueFrom": { "fieldRef": { "fieldPath": "spec.nodeName" } } },
            { "name": "WHO", "value": "$(NODE)/$(HOSTNAME)" },
        ] }),
        );
        shell["spec"]["dnsConfig"] = json!({ "searches": ["supercluster.local"] });
        create(&pods, shell).await;
        create(
            &pods,
            json!({ "metadata": { "name": "host" }, "spec": {
            "nodeName": "staging-node1",
            "hostNetwork": true,
            "containers": [{ "name": "main", "image": "nginx", "args": ["--port", "8080"] }],
        } }),
        )
        .await;
        let (web, shell, host) = (ready(&pods, "web").await, ready(&pods, "shell").await, ready(&pods, "host").await);
        assert!(address(&web).starts_with("10.10.0.") && address(&shell).starts_with("10.10.1."));
        assert_eq!(address(&host), "198.51.100.3");

        // Between the cluster's nodes a pod has its own address; out of the cluster, its node's.
        let seen = fetch(&lab, "staging/shell", &address(&web)).await.expect("pods reach each other");
        assert_eq!((seen["client"].as_str(), seen["pod"].as_str()), (Some(address(&shell).as_str()), Some("web")));
        let seen = fetch(&lab, "staging/shell", "198.51.100.3:8080").await.expect("pods reach nodes");
        assert_eq!(seen["client"], "198.51.100.4", "as kindnet and others do it");
        crate::serve_on_broker(&lab).await;
        let seen = fetch(&lab, "staging/shell", "203.0.113.2").await.expect("pods reach the internet");
        assert_eq!(seen["client"], "198.51.100.4");

        // By Service and name, through proxy and cluster DNS.
        let services: Api<Service> = Api::namespaced(client.clone(), "default");
        create(
            &services,
            json!({ "metadata": { "name": "web" }, "spec": { "selector": { "app": "web" }, "ports": [{ "port": 80 }] } }),
        )
        .await;
        eventually("the Service answers by its name", || async {
            fetch(&lab, "staging/shell", "web").await.is_ok_and(|seen| seen["client"] == address(&shell).as_str())
        })
        .await;
        fetch(&lab, "staging/shell", "web.default.svc").await.expect("by a longer name");

        let resolv = say(&lab, "staging/shell", &["cat", "/etc/resolv.conf"]).await;
        let searches = "search default.svc.cluster.local svc.cluster.local cluster.local supercluster.local";
        assert_eq!(resolv, format!("nameserver 10.110.0.10\n{searches}\noptions ndots:5\n"));
        assert_eq!(say(&lab, "staging/default/shell", &["sh", "-c", "echo $WHO"]).await, "staging-node2/shell\n");
        assert_eq!(say(&lab, "staging/shell", &["uname", "-n"]).await, "shell\n");
        assert!(say(&lab, "staging/shell", &["cat", "/etc/hosts"]).await.contains(&format!("{} shell", address(&shell))));
        assert_eq!(say(&lab, "staging/host", &["cat", "/etc/resolv.conf"]).await, "");
        assert_eq!(say(&lab, "staging/shell", &["ls", "/run"]).await, "daisy-bin\ndaisy-pod\nsecrets\n");
        // Its token is good for what its ServiceAccount may do: nothing much.
        let token = say(&lab, "staging/shell", &["cat", "/run/secrets/kubernetes.io/serviceaccount/token"]).await;
        assert_eq!(token.split('.').count(), 3, "a JWT");
        let processes = lab.processes().await.expect("they are listed");
        let main = processes.iter().find(|p| p.name == "staging/default/web/main").expect("the container is among them");
        assert_eq!(main.place, "staging/default/web");
        assert!(main.resident_kib > 100);
    });
}

pub(crate) fn pods_come_and_go() {
    let front_end = FrontEnd::start("pods-come-and-go", &[]);
    let lab = front_end.lab();
    runtime().block_on(async {
        let client = lab.client("local").await.expect("a client");
        let namespaces: Api<Namespace> = Api::all(client.clone());
        namespace(&client, "shop").await;
        let deployments: Api<Deployment> = Api::namespaced(client.clone(), "shop");
        let pods: Api<Pod> = Api::namespaced(client.clone(), "shop");
        let labels = json!({ "app": "web" });
        create(
            &deployments,
            json!({ "metadata": { "name": "web" }, "spec": {
            "replicas": 3,
            "selector": { "matchLabels": labels },
            "template": { "metadata": { "labels": labels }, "spec": { "containers": [{ "name": "web", "image": "nginx" }] } },
        } }),
        )
        .await;
        let running = || async {
            let list = pods.list(&Default::default()).await.expect("listed").items;
            list.into_iter()
                .filter(|p| p.status.as_ref().is_some_and(|s| s.phase.as_deref() == Some("Running")))
                .collect::<Vec<_>>()
        };
        eventually("three pods run", || async { running().await.len() == 3 }).await;

        // A container that ends is started again, in place.
        let name = running().await[0].metadata.name.clone().expect("a name");
        let processes = lab.processes().await.expect("they are listed");
        let of = |name: &str| format!("local/shop/{name}/web");
        let pid = processes.iter().find(|p| p.name == of(&name)).expect("it runs").pid;
        say(&lab, "local", &["kill", "-9", &pid.to_string()]).await;
        eventually("it runs again", || async {
            let pod = pods.get(&name).await.expect("it is there");
            let status = pod.status.unwrap_or_default().container_statuses.unwrap_or_default();
            status.first().is_some_and(|s| s.restart_count == 1 && s.ready)
        })
        .await;

        // What cannot run says so.
        create(&pods, pod("wrong", "local-node1", json!({ "image": "redis" }))).await;
        eventually("its status says why", || async {
            let pod = pods.get("wrong").await.expect("it is there");
            let status = pod.status.unwrap_or_default().container_statuses.unwrap_or_default();
            let waiting = status.first().and_then(|s| s.state.as_ref()?.waiting.clone());
            waiting
                .is_some_and(|w| w.reason.as_deref() == Some("ErrImagePull") && w.message.is_some_and(|m| m.contains("redis")))
        })
        .await;
        // What does its work and ends, has succeeded; what fails at it, failed.
        for (name, script, phase) in [("well", "exit 0", "Succeeded"), ("ill", "exit 3", "Failed")] {
            let mut job = pod(name, "local-node2", json!({ "image": "pause", "command": ["sh", "-c", script] }));
            job["spec"]["restartPolicy"] = json!("Never");
            create(&pods, job).await;
            eventually(name, || async {
                pods.get(name).await.expect("it is there").status.is_some_and(|s| s.phase.as_deref() == Some(phase))
            })
            .await;
        }

        // A pod that does not listen to SIGTERM is killed; then nothing of it is left.
        let deaf = json!({ "image": "pause", "command": ["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"] });
        let mut deaf = pod("deaf", "local-node1", deaf);
        deaf["spec"]["terminationGracePeriodSeconds"] = json!(1);
        create(&pods, deaf).await;
        ready(&pods, "deaf").await;
        pods.delete("deaf", &DeleteParams::default()).await.expect("deleted");
        eventually("it is gone", || async { pods.get_opt("deaf").await.expect("asked").is_none() }).await;

        // With its namespace goes everything in it.
        namespaces.delete("shop", &DeleteParams::default()).await.expect("deleted");
        eventually("the namespace is gone", || async { namespaces.get_opt("shop").await.expect("asked").is_none() }).await;
        eventually("no process is left", || async {
            let processes = lab.processes().await.expect("they are listed");
            !processes.iter().any(|p| p.name.starts_with("local/shop/") || p.place.starts_with("local/shop/"))
        })
        .await;
        for node in ["local-node1", "local-node2"] {
            eventually("no device is left", || async {
                let traces = lab.inspect(node).await.expect("looked at");
                let pods = traces.devices.iter().filter(|d| d.name.starts_with("pod")).count();
                // The cluster's DNS is on one of them.
                pods <= 1
            })
            .await;
        }
        // Names are free for use again.
        tokio::time::timeout(Duration::from_secs(10), async {
            namespace(&client, "shop").await;
            create(&pods, pod("deaf", "local-node1", json!({ "image": "nginx" }))).await;
            ready(&pods, "deaf").await;
        })
        .await
        .expect("in time");
    });
}

pub(crate) fn what_is_killed_comes_back() {
    let front_end = FrontEnd::start("comes-back", &[]);
    let lab = front_end.lab();
    runtime().block_on(async {
        let client = lab.client("staging").await.expect("a client");
        let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
        create(&pods, pod("web", "staging-node1", json!({ "image": "nginx" }))).await;
        create(&pods, pod("shell", "staging-node2", json!({ "image": "sleep" }))).await;
        ready(&pods, "web").await;
        ready(&pods, "shell").await;
        let pid = |name: &'static str| {
            let lab = &lab;
            async move { lab.processes().await.expect("they are listed").into_iter().find(|p| p.name == name).map(|p| p.pid) }
        };
        for own in ["staging/kubelet", "staging/control-plane", "staging/proxy-staging-node2"] {
            let (before, web) = (pid(own).await.expect("it runs"), pid("staging/default/web/main").await);
            say(&lab, "staging", &["kill", "-9", &before.to_string()]).await;
            eventually(&format!("{own} runs again"), || async { pid(own).await.is_some_and(|now| now != before) }).await;
            if own == "staging/kubelet" {
                // Its containers ended with it, and are started again.
                eventually("the pods run again", || async {
                    let now = pid("staging/default/web/main").await;
                    now.is_some() && now != web
                })
                .await;
            } else {
                assert_eq!(pid("staging/default/web/main").await, web, "no pod is touched");
            }
            eventually("pods can be made and reached", || async {
                let Ok(Some(web)) = pods.get_opt("web").await else { return false };
                let Some(to) = web.status.and_then(|s| s.pod_ip) else { return false };
                fetch(&lab, "staging/shell", &to).await.is_ok()
            })
            .await;
        }
        create(&pods, pod("more", "staging-node2", json!({ "image": "nginx" }))).await;
        ready(&pods, "more").await;
    });
}

pub(crate) fn kubectl_reaches_the_clusters() {
    let Ok(path) = which("kubectl") else {
        println!("test kubectl_reaches_the_clusters: skipped, there is no kubectl");
        return;
    };
    let front_end = FrontEnd::start("kubectl", &[]);
    let lab = front_end.lab();
    for cluster in ["staging", "local"] {
        let output = std::process::Command::new(&path)
            .args(["--context", cluster, "get", "nodes", "-o", "name"])
            .env("KUBECONFIG", lab.kubeconfig())
            .output()
            .expect("kubectl runs");
        let nodes = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(
            nodes,
            format!("node/{cluster}-node1\nnode/{cluster}-node2\n"),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

fn which(program: &str) -> Result<std::path::PathBuf, ()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|p| p.join(program)).find(|p| p.is_file()).ok_or(())
}
