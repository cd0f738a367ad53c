//! The bed's own cases: that it is Kubernetes, and that its clusters are apart. Before Daisy comes, and after it has gone.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::stage::{SOON, Stage, same, until};
use super::workloads::{Pod, Service, namespace};
use super::{Case, case, needed};
use crate::bed::plan::BROKER_ADDRESS;
use crate::bed::{self, Bed};
use crate::images;

const NAMESPACE: &str = "bed";
const CLIENT: &str = "bed/client";
const SERVER: &str = "bed/server";

pub(super) fn before() -> Vec<Case> {
    vec![
        needed("bed: the tests' images are on every node", load),
        needed("bed: pods reach each other across nodes, with their own addresses", across_nodes),
        case("bed: a ClusterIP reaches pods on every node, and its own pod", cluster_ip),
        needed("bed: names of the cluster and of the internet are found, others are not", names),
        case("bed: kubectl exec, logs and port-forward reach the kubelet", kubelet),
        case("bed: a pod reaches the internet, behind NAT with its router's address", nat),
        case("bed: nobody reaches into a network behind NAT", not_into_nat),
        case("bed: a packet with a pod's or a Service's address is dropped between clusters", apart),
        case("bed: nothing follows the machine's own route out", no_way_out),
        case("bed: the API is whole: ServiceCIDRs, admission policies, Node authorization", api),
        case("bed: what is killed comes back", comes_back),
    ]
}

pub(super) fn after() -> Vec<Case> {
    vec![case("bed: a second bed beside the first; killed at once, down leaves nothing", second_bed)]
}

pub(super) fn load(stage: &mut Stage) -> Result<()> {
    let folder = stage.bed.folder().join("images");
    for archive in [images::tools(&folder)?, images::nginx(&folder)?, stage.options.image.clone()] {
        stage.bed.load_image(&archive, None)?;
    }
    Ok(())
}

fn across_nodes(stage: &mut Stage) -> Result<()> {
    for cluster in stage.bed.plan.clusters.clone() {
        let (one, two) = (cluster.node(1), cluster.node(cluster.nodes));
        Pod::server(&cluster.name, SERVER).on(&one).make(stage)?;
        Pod::client(&cluster.name, CLIENT).on(&two).make(stage)?;
    }
    for cluster in stage.bed.plan.clusters.clone() {
        for pod in [SERVER, CLIENT] {
            super::workloads::ready(stage, &cluster.name, pod)?;
        }
        let address = stage.pod_address(&cluster.name, SERVER)?;
        let answer = stage.fetch(&cluster.name, CLIENT, &address)?;
        same("who answers", &"server".to_owned(), &answer.server)?;
        same("the address that the server sees", &stage.pod_address(&cluster.name, CLIENT)?, &answer.client)?;
    }
    Ok(())
}

fn cluster_ip(stage: &mut Stage) -> Result<()> {
    for cluster in stage.bed.plan.clusters.clone() {
        Service::new(&cluster.name, "bed/server", "server").make(stage)?;
        let address = stage.cluster_ip(&cluster.name, "bed/server")?;
        let name = &cluster.name;
        until(SOON, "the ClusterIP to answer", || stage.fetch(name, CLIENT, &address))?;
        // From the pod itself and back to it: what a bridge without its hairpin mode loses.
        let node = cluster.node(1);
        Pod::client(name, "bed/beside").on(&node).run(stage)?;
        let answer = stage.fetch(name, "bed/beside", &address)?;
        same(
            "the address that the server sees of a pod on its own node",
            &stage.pod_address(name, "bed/beside")?,
            &answer.client,
        )?;
    }
    Ok(())
}

fn names(stage: &mut Stage) -> Result<()> {
    for cluster in stage.bed.plan.clusters.clone() {
        Service::new(&cluster.name, "bed/server", "server").make(stage)?;
        let wanted = (stage.cluster_ip(&cluster.name, "bed/server")?, "server.bed.svc.cluster.local".to_owned());
        let found = until(SOON, "server.bed to be found", || {
            stage.getent(&cluster.name, CLIENT, "server.bed")?.context("getent hosts server.bed found nothing")
        })?;
        same("getent hosts server.bed", &wanted, &found)?;
        same("getent hosts absent.bed", &None, &stage.getent(&cluster.name, CLIENT, "absent.bed")?)?;
        let (status, data) = stage.dig(&cluster.name, CLIENT, "example.com", "A")?;
        same("dig example.com", &("NOERROR", vec![BROKER_ADDRESS.to_string()]), &(status.as_str(), data))?;
        same("dig absent.example", &"NXDOMAIN".to_owned(), &stage.dig(&cluster.name, CLIENT, "absent.example", "A")?.0)?;
    }
    Ok(())
}

fn kubelet(stage: &mut Stage) -> Result<()> {
    same("kubectl exec", &"hello".to_owned(), &stage.printed("local", CLIENT, &["echo", "hello"])?)?;
    let seen = stage.exec("local", CLIENT, &["sh", "-c", "exit 3"])?;
    same("whether a command that fails succeeds", &false, &seen.ok)?;
    let text = stage.kubectl("local", &["-n", "kube-system", "logs", "-l", "k8s-app=kube-dns", "--tail=-1"])?;
    if !text.contains("CoreDNS") {
        bail!("kubectl logs of CoreDNS: expected its greeting, saw {text:?}");
    }
    let answer = forwarded(stage)?;
    if !answer.starts_with("server ") {
        bail!("kubectl port-forward: expected the answer of pod server, saw {answer:?}");
    }
    Ok(())
}

/// What pod server answers through kubectl port-forward, at a port that is free.
fn forwarded(stage: &Stage) -> Result<String> {
    let mut forward = stage.bed.kubectl_command("staging", &["-n", NAMESPACE, "port-forward", "pod/server", ":80"]);
    let mut forward = forward.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().context("starting kubectl port-forward")?;
    let mut line = String::new();
    // Held to the end: kubectl says more, and would die of a closed pipe.
    let mut said = forward.stdout.take().map(BufReader::new);
    let read = said.as_mut().map(|said| said.read_line(&mut line));
    let answer = (|| {
        read.transpose().context("reading what kubectl port-forward says")?;
        let at = line.trim().strip_prefix("Forwarding from ").and_then(|rest| rest.split(' ').next());
        let url = format!("http://{}/", at.with_context(|| format!("kubectl port-forward said {line:?}"))?);
        let output = std::process::Command::new("curl").args(["-sS", "--noproxy", "*", "--max-time", "5", &url]).output()?;
        crate::bed::succeeded(&format!("curl {url}"), &output)
    })();
    forward.kill().and_then(|()| forward.wait()).context("ending kubectl port-forward")?;
    answer
}

/// Listens once on the broker's host, and returns the address that connects from a pod of `cluster`.
fn seen_from(stage: &Stage, cluster: &str) -> Result<String> {
    let mut listen = stage.bed.command("broker", &["nc", "-n", "-v", "-l", "-p", "7000"])?;
    let listen = listen.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("starting nc")?;
    let connected = until(Duration::from_secs(15), "a connection to the broker's host", || {
        let line = format!("echo hello | /usr/bin/nc -n -w 2 -N {BROKER_ADDRESS} 7000");
        stage.printed(cluster, CLIENT, &["sh", "-c", &line])
    });
    if let Err(error) = connected {
        // It still listens; with the bed's host it would end, too, but the next case wants the port.
        stage.bed.run("broker", &["sh", "-c", "echo | nc -n -w 1 -N 127.0.0.1 7000"])?;
        return Err(error);
    }
    let output = listen.wait_with_output()?;
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let from = text.lines().find_map(|l| l.split_once("received on ").and(l.split_whitespace().nth(3)));
    let from = from.with_context(|| format!("nc on the broker's host said {text:?}"))?;
    Ok(from.to_owned())
}

fn nat(stage: &mut Stage) -> Result<()> {
    for cluster in stage.bed.plan.clusters.clone() {
        let seen = seen_from(stage, &cluster.name)?;
        // The node's own masquerading comes before its router's.
        let wanted = if cluster.nat { cluster.public_address() } else { cluster.node_address(cluster.nodes) };
        same(&format!("the address that {} has on the internet", cluster.name), &wanted.to_string(), &seen)?;
    }
    Ok(())
}

fn not_into_nat(stage: &mut Stage) -> Result<()> {
    for cluster in stage.bed.plan.clusters.clone() {
        let api = format!("https://{}:6443/version", cluster.control_plane_address());
        let seen = stage.bed.run("broker", &["curl", "-ksS", "--max-time", "3", &api]);
        same(&format!("whether the broker's host reaches {}'s API server", cluster.name), &!cluster.nat, &seen.is_ok())?;
        let router = format!("https://{}:6443/version", cluster.public_address());
        let seen = stage.bed.run("broker", &["curl", "-ksS", "--max-time", "3", &router]);
        same(&format!("whether {}'s router is an API server", cluster.name), &false, &seen.is_ok())?;
    }
    Ok(())
}

fn apart(stage: &mut Stage) -> Result<()> {
    let pod = stage.pod_address("staging", SERVER)?;
    let service = stage.cluster_ip("staging", "bed/server")?;
    let count = |stage: &Stage| -> Result<u64> {
        let dropped = stage.bed.dropped()?;
        Ok(dropped.iter().filter(|(what, _)| what.starts_with("to 10.")).map(|(_, packets)| packets).sum())
    };
    for address in [pod, service] {
        let before = count(stage)?;
        let seen = stage.exec("local", CLIENT, &["curl", "-sS", "--max-time", "2", &format!("http://{address}/")])?;
        same(&format!("whether local reaches staging's {address}"), &false, &seen.ok)?;
        if count(stage)? == before {
            bail!("a packet from local to staging's {address}: expected the internet to count it, and it has not");
        }
    }
    Ok(())
}

fn no_way_out(stage: &mut Stage) -> Result<()> {
    // Addresses for documentation that the bed does not use: with a way out they would time out.
    for place in ["internet", "broker", "staging", "local", "staging-node1", "local-node1", "local-router"] {
        let started = Instant::now();
        let seen = stage.bed.run(place, &["curl", "-sS", "--max-time", "5", "http://192.0.2.1/"]);
        let refused = seen.is_err() && started.elapsed() < Duration::from_secs(4);
        same(&format!("whether 192.0.2.1 is unreachable at once from {place}"), &true, &refused)?;
    }
    let machine = stage.bed.plan.cluster("local")?.machine_address().to_string();
    let seen = stage.exec("local", CLIENT, &["curl", "-sS", "--max-time", "3", &format!("http://{machine}:22/")])?;
    same("whether a pod reaches this machine", &false, &seen.ok)
}

fn api(stage: &mut Stage) -> Result<()> {
    let cidrs = stage.get("staging", &["servicecidr", "kubernetes"])?;
    let wanted = serde_json::json!(stage.bed.plan.cluster("staging")?.service_cidrs());
    same("ServiceCIDR kubernetes", &wanted, &cidrs["spec"]["cidrs"])?;
    let kinds = stage.kubectl("staging", &["api-resources", "-o", "name"])?;
    for kind in ["validatingadmissionpolicies.admissionregistration.k8s.io", "ipaddresses.networking.k8s.io"] {
        if !kinds.lines().any(|line| line == kind) {
            bail!("kubectl api-resources: expected {kind}, saw {kinds}");
        }
    }
    // A node may not write about another.
    let as_node = ["auth", "can-i", "list", "secrets", "-A", "--as=system:node:staging-node1", "--as-group=system:nodes"];
    let allowed = stage.kubectl("staging", &as_node);
    same("whether a node may list all Secrets", &true, &allowed.is_err())
}

fn comes_back(stage: &mut Stage) -> Result<()> {
    let node = "local-node1";
    stage.bed.run(node, &["busybox", "killall", "-9", "kubelet", "kube-proxy"])?;
    stage.bed.run("local", &["busybox", "killall", "-9", "kube-apiserver"])?;
    until(SOON, "the API server to answer again", || stage.kubectl("local", &["get", "--raw", "/readyz"]))?;
    until(SOON, "kubelet and kube-proxy to run again", || {
        stage.bed.run(node, &["curl", "-sSf", "http://127.0.0.1:10248/healthz"])?;
        stage.bed.run(node, &["curl", "-sSf", "http://127.0.0.1:10249/proxyMode"])
    })?;
    until(SOON, "kubectl exec to work again", || stage.printed("local", "bed/beside", &["true"]))?;
    controllers_work(stage, "local")
}

/// Waits until each of the controllers that a workload needs has done something. An API server that is new refuses them all for a
/// moment, and each comes again in its own time, which grows to half a minute and more.
fn controllers_work(stage: &Stage, cluster: &str) -> Result<()> {
    let space = "bed-again";
    namespace(stage, cluster, space)?;
    let labels = json!({"app": space});
    let workload = |kind: &str| {
        let container =
            json!({"name": "sleep", "image": images::TOOLS, "imagePullPolicy": "Never", "command": ["/bin/sleep", "infinity"]});
        json!({
            "apiVersion": "apps/v1", "kind": kind, "metadata": {"name": space, "namespace": space},
            "spec": {
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {"terminationGracePeriodSeconds": 0, "containers": [container]},
                },
            },
        })
    };
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": space, "namespace": space},
        "spec": {"selector": labels, "clusterIP": "None"},
    });
    for object in [workload("Deployment"), workload("DaemonSet"), service] {
        stage.bed.apply(cluster, &object.to_string())?;
    }
    let started = Instant::now();
    until(SOON * 2, "the controllers to work again", || {
        let nodes = stage.get(cluster, &["nodes"])?["items"].as_array().map_or(0, Vec::len);
        let slices = stage.get(cluster, &["-n", space, "endpointslices"])?;
        let slices = slices["items"].as_array().into_iter().flatten();
        let endpoints = slices.flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten());
        let ready = endpoints.filter(|endpoint| endpoint["conditions"]["ready"] == true).count();
        same("the pods of a Deployment and a DaemonSet that are ready", &(nodes + 1), &ready)?;
        let ready = stage.get(cluster, &["-n", space, "deployment", space])?["status"]["readyReplicas"].as_u64();
        same("the Deployment's ready replicas", &Some(1), &ready)
    })?;
    println!("                  the controllers worked again {:.1} s later", started.elapsed().as_secs_f64());
    stage.kubectl(cluster, &["delete", "namespace", space, "--wait", "--timeout=60s"]).map(drop)
}

fn second_bed(stage: &mut Stage) -> Result<()> {
    let name = format!("{}-2", stage.options.bed);
    let options = bed::Options { name: name.clone(), clusters: 1, nodes: 1, nat: 0 };
    let second = bed::up(&options)?;
    same("whether both beds have the same number", &false, &(second.plan.number == stage.bed.plan.number))?;
    let nodes = second.kubectl("staging", &["get", "nodes", "-o", "name"])?;
    same("the second bed's nodes", &"node/staging-node1\n".to_owned(), &nodes)?;
    stage.kubectl("staging", &["get", "--raw", "/readyz"]).context("the first bed beside the second")?;
    second.kill()?;
    until(SOON, "the second bed not to run any more", || match Bed::open(&name) {
        Ok(_) => bail!("its first process is still there"),
        Err(_) => Ok(()),
    })?;
    bed::down(&name)
}
