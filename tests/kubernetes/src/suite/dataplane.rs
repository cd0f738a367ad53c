//! Submariner's data plane cases, named after its own (v0.24.0): TCP both ways with 3,000 bytes of data, source address kept.
//!
//! Daisy reaches only what is exported, so the pods that are connected to are behind an exported Service.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::stage::{SOON, Stage, same, until};
use super::supercluster::daisy;
use super::workloads::{Pod, Service};
use super::{Case, case, needed};
use crate::bed::plan::BROKER_ADDRESS;

/// How much data goes each way: Submariner's `--packet-size`.
const BYTES: usize = 3000;
/// Where the echo server listens.
pub(super) const ECHO: u16 = 9000;
const NAMESPACE: &str = "dataplane";
/// What gateways are called in full, since the Gateway API has `gateways` too.
const GATEWAYS: &str = "gateways.daisy.supercluster.local";

/// On which kind of node a pod is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum On {
    Gateway,
    NonGateway,
}

use On::{Gateway, NonGateway};

impl On {
    fn word(self) -> &'static str {
        match self {
            Gateway => "gw",
            NonGateway => "non",
        }
    }
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        needed("submariner: pods on gateway and non-gateway nodes, exported from both clusters", prepare),
        case("submariner D1: pod to remote pod, non-gateway to non-gateway", |s| to_pod(s, "local", NonGateway, NonGateway)),
        case("submariner D2: pod to remote pod, non-gateway to gateway", |s| to_pod(s, "local", NonGateway, Gateway)),
        case("submariner D3: pod to remote pod, gateway to non-gateway", |s| to_pod(s, "local", Gateway, NonGateway)),
        case("submariner D4: pod to remote pod, gateway to gateway", |s| to_pod(s, "local", Gateway, Gateway)),
        case("submariner D5: pod to remote Service, non-gateway to non-gateway", |s| to_service(s, NonGateway, NonGateway)),
        case("submariner D6: pod to remote Service, non-gateway to gateway", |s| to_service(s, NonGateway, Gateway)),
        case("submariner D7: pod to remote Service, gateway to non-gateway", |s| to_service(s, Gateway, NonGateway)),
        case("submariner D8: pod to remote Service, gateway to gateway", |s| to_service(s, Gateway, Gateway)),
        case("submariner D9: HostNetworking pod to remote pod, non-gateway to non-gateway", |s| from_host(s, NonGateway)),
        case("submariner D10: HostNetworking pod to remote pod, gateway to non-gateway", |s| from_host(s, Gateway)),
        case("submariner D11: reverse direction, non-gateway to non-gateway", |s| to_pod(s, "staging", NonGateway, NonGateway)),
        case("submariner D12: the Gateway's status: active, connected, with all round-trip times", status),
        case("submariner R1: the only gateway pod is deleted: a new one, and connectivity", gateway_pod),
        case("submariner R2: a second gateway takes over from the first, which goes", second_gateway),
        case("submariner R3: the gateway's rights are taken away and given back", rights),
        case("submariner R4: the route-agent on a gateway node is restarted", |s| route_agent(s, Gateway)),
        case("submariner R5: the route-agent on a non-gateway node is restarted", |s| route_agent(s, NonGateway)),
        case("submariner X: an application outside of the clusters, from both kinds of node", outside),
    ]
}

pub(super) fn server(cluster: &str, on: On) -> String {
    format!("{NAMESPACE}/{cluster}-{}", on.word())
}

pub(super) fn client(on: On) -> String {
    format!("{NAMESPACE}/client-{}", on.word())
}

fn host_client(on: On) -> String {
    format!("{NAMESPACE}/host-{}", on.word())
}

/// The node that is labelled as gateway, or one that is not.
pub(super) fn node(stage: &Stage, cluster: &str, on: On) -> Result<String> {
    let nodes = stage.get(cluster, &["nodes"])?;
    let is_gateway = |n: &Value| n["metadata"]["labels"]["daisy.supercluster.local/gateway"] == "true";
    let mut items = nodes["items"].as_array().into_iter().flatten();
    let found = items.find(|n| is_gateway(n) == (on == Gateway)).and_then(|n| n["metadata"]["name"].as_str());
    found.map(str::to_owned).with_context(|| format!("{cluster} has no node that is {}", on.word()))
}

fn prepare(stage: &mut Stage) -> Result<()> {
    for cluster in ["staging", "local"] {
        for on in [Gateway, NonGateway] {
            let node = node(stage, cluster, on)?;
            Pod::server(cluster, &server(cluster, on)).on(&node).echoing(ECHO).make(stage)?;
            Pod::client(cluster, &client(on)).on(&node).searching(&["supercluster.local"]).make(stage)?;
            Pod::client(cluster, &host_client(on)).on(&node).on_the_host().make(stage)?;
        }
    }
    for cluster in ["staging", "local"] {
        for on in [Gateway, NonGateway] {
            let name = server(cluster, on);
            for pod in [&name, &client(on), &host_client(on)] {
                super::workloads::ready(stage, cluster, pod)?;
            }
            let app = name.trim_start_matches("dataplane/");
            Service::new(cluster, &name, app).echoing(ECHO).make(stage)?;
            daisy(stage, cluster, &["export", "service", app, "-n", NAMESPACE, "--context", cluster])?;
        }
    }
    Ok(())
}

/// Sends data to a server and has it back, unchanged.
fn echo(stage: &Stage, cluster: &str, pod: &str, host: &str) -> Result<()> {
    let script = format!(
        "head -c {BYTES} /dev/urandom > /tmp/sent && /usr/bin/nc -N -w 3 {host} {ECHO} < /tmp/sent > /tmp/back && cmp /tmp/sent /tmp/back && wc -c < /tmp/back"
    );
    let text = stage.printed(cluster, pod, &["sh", "-c", &script])?;
    same("bytes that came back unchanged", &BYTES.to_string(), &text.trim().to_owned())
}

/// A cluster's other.
fn other(cluster: &str) -> &'static str {
    if cluster == "staging" { "local" } else { "staging" }
}

/// Connects to a host, and checks who answers and whom it sees.
fn connect(stage: &Stage, cluster: &str, pod: &str, host: &str, remote: &str) -> Result<()> {
    let (_, app) = remote.split_once('/').unwrap_or(("", remote));
    until(SOON, &format!("{pod} of {cluster} to reach {host}"), || {
        let answer = stage.fetch(cluster, pod, host)?;
        same("who answers", &app.to_owned(), &answer.server)?;
        same("the address that it sees", &stage.pod_address(cluster, pod)?, &answer.client)?;
        echo(stage, cluster, pod, host)
    })
}

fn to_pod(stage: &Stage, from: &str, on: On, to: On) -> Result<()> {
    let remote = server(other(from), to);
    let address = stage.pod_address(other(from), &remote)?;
    connect(stage, from, &client(on), &address, &remote)
}

fn to_service(stage: &Stage, on: On, to: On) -> Result<()> {
    let remote = server("staging", to);
    let name = remote.trim_start_matches("dataplane/");
    connect(stage, "local", &client(on), &format!("{name}.{NAMESPACE}.svc"), &remote)?;
    // Submariner connects to the Service's own ClusterIP. Its source address is not promised.
    let address = stage.cluster_ip("staging", &remote)?;
    until(SOON, "the Service's own ClusterIP to answer", || {
        same("who answers", &name.to_owned(), &stage.fetch("local", &client(on), &address)?.server)
    })
}

/// The address of the node range that Daisy gave a node.
fn node_address(stage: &Stage, cluster: &str, node: &str) -> Result<String> {
    let object = stage.get(cluster, &["node", node])?;
    let address = object["metadata"]["annotations"]["daisy.supercluster.local/node-address"].as_str();
    address.map(str::to_owned).with_context(|| format!("node {node} of {cluster} has no node-address"))
}

fn from_host(stage: &Stage, on: On) -> Result<()> {
    let remote = server("staging", NonGateway);
    let address = stage.pod_address("staging", &remote)?;
    let wanted = node_address(stage, "local", &node(stage, "local", on)?)?;
    until(SOON, &format!("a pod on the host network of local to reach {address}"), || {
        let answer = stage.fetch("local", &host_client(on), &address)?;
        same("the address that it sees", &wanted, &answer.client)?;
        echo(stage, "local", &host_client(on), &address)
    })
}

fn gateways(stage: &Stage, cluster: &str) -> Result<Vec<Value>> {
    let list = stage.get(cluster, &["-n", "daisy-system", GATEWAYS])?;
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}

fn status(stage: &mut Stage) -> Result<()> {
    for (cluster, to) in [("staging", "local"), ("local", "staging")] {
        until(SOON, &format!("the Gateway of {cluster} to be active and connected to {to}"), || {
            let all = gateways(stage, cluster)?;
            let [gateway] = &all[..] else { bail!("{cluster} has {} Gateways", all.len()) };
            same("haStatus", &Value::from("active"), &gateway["status"]["haStatus"])?;
            let connections = gateway["status"]["connections"].as_array().cloned().unwrap_or_default();
            let connection = connections.iter().find(|c| c["clusterId"] == to);
            let connection = connection.with_context(|| format!("no connection to {to} in {}", gateway["status"]))?;
            same("status", &Value::from("connected"), &connection["status"])?;
            let times = &connection["latencyRTT"];
            let measured = |name: &str| times[name].as_u64().is_some_and(|micros| micros > 0);
            if !["lastMicros", "minMicros", "averageMicros", "maxMicros"].into_iter().all(measured)
                || times["stdDevMicros"].is_null()
            {
                bail!("expected last, least, mean and greatest round-trip times, and their deviation, saw {connection}");
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// All of a node's four ways to the other cluster.
fn all_ways(stage: &Stage) -> Result<()> {
    for on in [Gateway, NonGateway] {
        to_pod(stage, "local", on, NonGateway)?;
        to_pod(stage, "staging", on, Gateway)?;
    }
    Ok(())
}

/// Daisy's pods of a component, those on a node or all: at least one.
pub(super) fn pods(stage: &Stage, cluster: &str, component: &str, node: Option<&str>) -> Result<Vec<String>> {
    let label = format!("app.kubernetes.io/component={component}");
    let field = node.map(|node| format!("spec.nodeName={node}"));
    let mut words = vec!["-n", "daisy-system", "pods", "-l", &label];
    words.extend(field.iter().flat_map(|field| ["--field-selector", field.as_str()]));
    let list = stage.get(cluster, &words)?;
    let all = list["items"].as_array().into_iter().flatten();
    let names: Vec<String> = all
        .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())
        .filter_map(|pod| pod["metadata"]["name"].as_str().map(|name| format!("daisy-system/{name}")))
        .collect();
    if names.is_empty() { bail!("{cluster} has no {component} pod on {}", node.unwrap_or("any node")) } else { Ok(names) }
}

/// A pod of Daisy's on a node.
fn pod_of(stage: &Stage, cluster: &str, component: &str, node: &str) -> Result<String> {
    Ok(pods(stage, cluster, component, Some(node))?.swap_remove(0))
}

/// Deletes a pod of Daisy's, and waits for the next one to be ready.
fn replace(stage: &Stage, cluster: &str, component: &str, node: &str) -> Result<()> {
    let old = pod_of(stage, cluster, component, node)?;
    super::workloads::delete(stage, cluster, "pod", &old)?;
    let new = until(SOON, &format!("a new {component} on {node}"), || {
        let pod = pod_of(stage, cluster, component, node)?;
        if pod == old { bail!("it is still {old}") } else { Ok(pod) }
    })?;
    super::workloads::ready(stage, cluster, &new)
}

fn gateway_pod(stage: &mut Stage) -> Result<()> {
    for cluster in ["staging", "local"] {
        replace(stage, cluster, "gateway", &node(stage, cluster, Gateway)?)?;
        all_ways(stage)?;
    }
    Ok(())
}

fn route_agent(stage: &Stage, on: On) -> Result<()> {
    for cluster in ["staging", "local"] {
        replace(stage, cluster, "route-agent", &node(stage, cluster, on)?)?;
        all_ways(stage)?;
    }
    Ok(())
}

fn label(stage: &Stage, cluster: &str, node: &str, gateway: bool) -> Result<()> {
    let mark = if gateway { "daisy.supercluster.local/gateway=true" } else { "daisy.supercluster.local/gateway-" };
    stage.kubectl(cluster, &["label", "node", node, mark, "--overwrite"]).map(drop)
}

fn second_gateway(stage: &mut Stage) -> Result<()> {
    let (first, second) = (node(stage, "staging", Gateway)?, node(stage, "staging", NonGateway)?);
    // The clients stay where they are; so they are told apart by their names, not by the label that moves.
    let check = |stage: &Stage| {
        for to in [Gateway, NonGateway] {
            let remote = server("staging", to);
            connect(stage, "local", &client(NonGateway), &stage.pod_address("staging", &remote)?, &remote)?;
        }
        Ok::<_, anyhow::Error>(())
    };
    label(stage, "staging", &second, true)?;
    let outcome = (|| {
        until(SOON, "two Gateways in staging", || same("Gateways", &2, &gateways(stage, "staging")?.len()))?;
        let has = |stage: &Stage, names: &[&str]| {
            let record = stage.get("local", &["-n", "daisy-system", "clusters.daisy.supercluster.local", "staging"])?;
            let text = record["spec"]["gateways"].to_string();
            for (name, wanted) in [(&first, names.contains(&first.as_str())), (&second, names.contains(&second.as_str()))] {
                same(&format!("whether local knows of gateway {name}"), &wanted, &text.contains(&format!("\"{name}\"")))?;
            }
            Ok::<_, anyhow::Error>(())
        };
        until(SOON, "local to know of both", || has(stage, &[&first, &second]))?;
        check(stage)?;
        label(stage, "staging", &first, false)?;
        until(SOON, "local to know of the second alone", || has(stage, &[&second]))?;
        check(stage)
    })();
    label(stage, "staging", &first, true)?;
    let back = until(SOON, "two Gateways again", || same("Gateways", &2, &gateways(stage, "staging")?.len()));
    label(stage, "staging", &second, false)?;
    outcome?;
    back?;
    until(SOON, "the first Gateway alone", || same("Gateways", &1, &gateways(stage, "staging")?.len()))?;
    check(stage)
}

fn rights(stage: &mut Stage) -> Result<()> {
    let bindings = stage.kubectl(
        "staging",
        &["get", "clusterrolebindings,rolebindings", "-A", "-l", "app.kubernetes.io/managed-by=daisy", "-o", "json"],
    )?;
    let list: Value = serde_json::from_str(&bindings)?;
    let of_gateway = |b: &&Value| b["subjects"].as_array().into_iter().flatten().any(|s| s["name"] == "daisy-gateway");
    let ours: Vec<Value> = list["items"].as_array().into_iter().flatten().filter(of_gateway).cloned().collect();
    if ours.is_empty() {
        bail!("no binding of daisy-gateway in staging");
    }
    for binding in &ours {
        let (kind, name) =
            (binding["kind"].as_str().unwrap_or_default(), binding["metadata"]["name"].as_str().unwrap_or_default());
        let space = binding["metadata"]["namespace"].as_str().unwrap_or("default");
        super::workloads::delete(stage, "staging", kind, &format!("{space}/{name}"))?;
    }
    // What is connected stays so: the data path does not wait for the control plane.
    std::thread::sleep(Duration::from_secs(10));
    let outcome = all_ways(stage);
    for mut binding in ours {
        for field in ["resourceVersion", "uid", "creationTimestamp", "managedFields"] {
            binding["metadata"].as_object_mut().context("an object's metadata")?.remove(field);
        }
        stage.bed.apply("staging", &binding.to_string())?;
    }
    outcome?;
    replace(stage, "local", "gateway", &node(stage, "local", Gateway)?)?;
    status(stage)
}

fn outside(stage: &mut Stage) -> Result<()> {
    // The broker's host is in no cluster, and its API server is an application.
    let api = format!("https://{BROKER_ADDRESS}:6443/readyz");
    for cluster in ["staging", "local"] {
        for on in [Gateway, NonGateway] {
            stage.printed(cluster, &client(on), &["curl", "-ksS", "--max-time", "3", &api])?;
        }
    }
    Ok(())
}
