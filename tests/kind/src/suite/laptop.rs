//! What happens to a laptop: it sleeps, its Docker restarts, a node restarts, the gateway's node goes.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

use super::stage::{NAME, SOON, Stage};
use super::{Case, case};

/// How long the laptop sleeps.
const SLEEP: Duration = Duration::from_secs(60);
/// How often it sleeps, at most, until it wakes without Kubernetes' taking its nodes for dead.
const SLEEPS: usize = 4;
/// How soon after it wakes the first request is answered.
const AWAKE: Duration = Duration::from_secs(5);

pub(super) fn cases() -> Vec<Case> {
    vec![
        case("laptop: it sleeps for 60 s; the first request after it wakes is answered within 5 s", sleeps),
        case("laptop: a worker restarts", worker),
        case("laptop: Docker restarts", docker),
        case("laptop: the gateway's node is drained and deleted; join chooses another", gateway),
    ]
}

/// On waking, the node lifecycle controller and the kubelets race: if it looks before they have renewed their Leases, all nodes are dead to
/// it, and for some seconds no Service has an endpoint, the cluster's own DNS included. With Daisy or without it nobody is answered then, and
/// nothing can be said of Daisy: the laptop sleeps again.
fn sleeps(stage: &mut Stage) -> Result<()> {
    for _ in 0..SLEEPS {
        let (woke, took, page) = sleep(stage)?;
        let took = took.as_secs_f64();
        let missed = match page {
            Ok(page) if took <= AWAKE.as_secs_f64() && page.contains("staging") => {
                println!("                  the first request was answered {took:.1} s after it woke");
                return Ok(());
            }
            Ok(page) => anyhow!("the first request after it woke took {took:.1} s, and said {page:?}"),
            Err(error) => error.context(format!("the first request, {took:.1} s after it woke")),
        };
        let own = taken_for_dead(stage, "kube-system", "k8s-app=kube-dns", &woke)?;
        if !own && !taken_for_dead(stage, "daisy-system", "app.kubernetes.io/component=dns", &woke)? {
            return Err(missed);
        }
        println!(
            "                  Kubernetes took all DNS pods of {} for dead: {missed:#}",
            if own { "the cluster" } else { "Daisy" }
        );
    }
    bail!("Kubernetes took all DNS pods for dead on waking, {SLEEPS} times")
}

/// Sleeps and wakes: when it did, how long the first request took, and what was said.
fn sleep(stage: &Stage) -> Result<(String, Duration, Result<String>)> {
    let nodes = ["local-control-plane", "local-worker"];
    stage.answered_by("local", NAME, "staging", SOON)?;
    stage.bed.run(&[&["docker", "pause"], &nodes[..]].concat())?;
    thread::sleep(SLEEP);
    let woke = stage.shell("date --utc +%Y-%m-%dT%H:%M:%SZ")?.trim().to_owned();
    stage.bed.run(&[&["docker", "unpause"], &nodes[..]].concat())?;
    let started = Instant::now();
    // A request that is asked for once, and may wait.
    let page = stage.in_client("local", &["curl", "--silent", "--show-error", "--max-time", "10", &format!("http://{NAME}/")]);
    Ok((woke, started.elapsed(), page))
}

/// Whether the node lifecycle controller has marked all these pods as not ready, since then, because of their nodes.
fn taken_for_dead(stage: &Stage, namespace: &str, pods: &str, since: &str) -> Result<bool> {
    let events = stage.get("local", &["-n", namespace, "events", "--field-selector", "reason=NodeNotReady"])?;
    let events = events["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    // Timestamps in UTC, of whole seconds, are in order as texts are.
    let marked = |pod: &Value| {
        let of_pod = |event: &&Value| event["involvedObject"]["uid"] == pod["metadata"]["uid"];
        events.iter().filter(of_pod).any(|event| event["lastTimestamp"].as_str().is_some_and(|last| last >= since))
    };
    let pods = stage.get("local", &["-n", namespace, "pods", "-l", pods])?;
    let pods = pods["items"].as_array().context("no pods")?;
    Ok(!pods.is_empty() && pods.iter().all(marked))
}

/// Waits until all nodes of local are Ready, and its client runs and is answered by staging; how long that took.
fn recovered(stage: &Stage, limit: Duration) -> Result<Duration> {
    let took = stage.answered_by("local", NAME, "staging", limit)?;
    let wait = ["wait", "--for=condition=Ready", "--timeout=120s", "nodes", "--all"];
    stage.bed.kubectl("local", &wait).map(|_| took)
}

fn worker(stage: &mut Stage) -> Result<()> {
    // systemd in a container does not heed Docker's signal: it is killed, as by a crash.
    stage.bed.run(&["docker", "restart", "--time", "1", "local-worker"])?;
    let took = recovered(stage, SOON * 2)?;
    println!("                  answered again {:.1} s after the worker was started", took.as_secs_f64());
    Ok(())
}

fn docker(stage: &mut Stage) -> Result<()> {
    stage.bed.restart_docker()?;
    let took = recovered(stage, SOON * 3)?;
    println!("                  answered again {:.1} s after Docker was back", took.as_secs_f64());
    stage.client("staging")?;
    stage.answered_by("staging", &format!("{NAME}.supercluster.local"), "staging", SOON * 2).map(drop)
}

/// Where there is but one gateway, its cluster has none when its node goes; the same `join` again chooses another.
fn gateway(stage: &mut Stage) -> Result<()> {
    stage.shell(
        "kubectl --context kind-local drain local-worker --ignore-daemonsets --force --delete-emptydir-data --timeout=90s
         kubectl --context kind-local delete node local-worker
         docker rm -f local-worker > /dev/null
         kubectl --context kind-local taint nodes local-control-plane node-role.kubernetes.io/control-plane-",
    )?;
    let started = Instant::now();
    let said = stage.shell("daisy join developers.daisy --context kind-local --clusterid local 2>&1")?;
    if !said.contains("gateways: local-control-plane") {
        bail!("another gateway was to be chosen: {said}");
    }
    stage.client("local")?;
    stage.answered_by("local", NAME, "staging", SOON)?;
    println!(
        "                  answered through the other gateway {:.1} s after join was typed",
        started.elapsed().as_secs_f64()
    );
    Ok(())
}
