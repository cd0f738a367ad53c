//! What happens to a laptop: it sleeps, its Docker restarts, a node restarts, the gateway's node goes.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use daisy_kubernetes_tests::suite::until;

use super::stage::{NAME, SOON, Stage};
use super::{Case, case};

/// How long the laptop sleeps.
const SLEEP: Duration = Duration::from_secs(60);
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

fn sleeps(stage: &mut Stage) -> Result<()> {
    let nodes = ["local-control-plane", "local-worker"];
    stage.answered_by("local", NAME, "staging", SOON)?;
    stage.bed.run(&[&["docker", "pause"], &nodes[..]].concat())?;
    thread::sleep(SLEEP);
    stage.bed.run(&[&["docker", "unpause"], &nodes[..]].concat())?;
    let started = Instant::now();
    // A request that is asked for once, and may wait.
    let page = stage.in_client("local", &["curl", "--silent", "--show-error", "--max-time", "10", &format!("http://{NAME}/")]);
    let took = started.elapsed();
    let page = page.with_context(|| format!("the first request, after {:.1} s", took.as_secs_f64()))?;
    println!("                  the first request was answered {:.1} s after it woke", took.as_secs_f64());
    if took > AWAKE || !page.contains("staging") {
        bail!("the first request after it woke took {:.1} s, and said {page:?}", took.as_secs_f64());
    }
    Ok(())
}

/// Waits until all nodes of local are Ready, and its client runs and is answered by staging; how long that took.
fn recovered(stage: &Stage, limit: Duration) -> Result<Duration> {
    let started = Instant::now();
    until(limit, "local's client to be answered by staging", || {
        let page = stage.fetch("local", NAME)?;
        if page.starts_with("nginx on staging-") { Ok(()) } else { bail!("it says {page:?}") }
    })?;
    let took = started.elapsed();
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
