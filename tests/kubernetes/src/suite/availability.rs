//! What breaks while connections stand: pods of Daisy's, nodes, API servers, the broker. None of the connections may notice.
//!
//! ```text
//! a pod of local ──a line each 200 ms──▶ a pod of staging, behind an exported Service ──the same line──▶ back
//! a pod of local ──by name, again and again──▶ who answers
//! ```

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::dataplane::{ECHO, On, client, node, pods, server};
use super::discovery::full;
use super::stage::{SOON, Stage, same, until};
use super::supercluster::{daisy, start_broker};
use super::workloads::ready;
use super::{Case, case};

/// How long a broker is away here. Hours are the simulation's.
const AWAY: Duration = Duration::from_secs(70);

pub(super) fn cases() -> Vec<Case> {
    vec![
        case("availability: every syncer is killed", |s| survives(s, |s| kill_all(s, "syncer"))),
        case("availability: one of the DNS servers is killed, then the other", |s| survives(s, |s| kill_one_by_one(s, "dns"))),
        case("availability: every route-agent is killed", |s| survives(s, |s| kill_all(s, "route-agent"))),
        case("availability: the only gateway is killed, here and there", |s| survives(s, |s| kill_one_by_one(s, "gateway"))),
        case("availability: a node is drained of Daisy's pods, then the other", |s| survives(s, drain)),
        case("availability: the API servers are killed", |s| survives(s, kill_api_servers)),
        case("availability: the broker is away for 70 s", |s| survives(s, broker_away)),
    ]
}

const CLUSTERS: [&str; 2] = ["staging", "local"];

/// The name that is asked for, and the pod of local that asks.
fn probe() -> (String, String) {
    (full(&server("staging", On::NonGateway), "supercluster.local"), client(On::NonGateway))
}

/// The imports and their endpoints in a cluster: which objects they are.
fn imports(stage: &Stage, cluster: &str) -> Result<BTreeMap<String, String>> {
    let ours = "app.kubernetes.io/managed-by=daisy";
    let list = stage.get(cluster, &["services,serviceimports.multicluster.x-k8s.io", "-A", "-l", ours])?;
    let slices = stage
        .get(cluster, &["endpointslices", "-A", "-l", "endpointslice.kubernetes.io/managed-by=daisy.supercluster.local"])?;
    let all = [&list, &slices].into_iter().flat_map(|list| list["items"].as_array().cloned().unwrap_or_default());
    let word = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    Ok(all
        .map(|o| {
            (
                format!("{} {}/{}", word(&o["kind"]), word(&o["metadata"]["namespace"]), word(&o["metadata"]["name"])),
                word(&o["metadata"]["uid"]),
            )
        })
        .collect())
}

/// Lets something happen while a connection stands and names are asked for, and looks whether either noticed.
fn survives(stage: &mut Stage, what: impl FnOnce(&Stage) -> Result<()>) -> Result<()> {
    let (name, from) = probe();
    let before: Vec<_> = CLUSTERS.iter().map(|cluster| imports(stage, cluster)).collect::<Result<_>>()?;
    if before.iter().all(BTreeMap::is_empty) {
        bail!("nothing is imported that could be lost");
    }
    let script = format!(
        "rm -f /tmp/stop /tmp/lines /tmp/ended; \
         (i=0; while [ ! -e /tmp/stop ]; do i=$((i+1)); echo $i; sleep 0.2; done | /usr/bin/nc -N {name} {ECHO} > /tmp/lines; echo > /tmp/ended) \
         > /dev/null 2>&1 &"
    );
    stage.printed("local", &from, &["sh", "-c", &script])?;
    until(SOON, "the connection to stand", || {
        let lines = stage.printed("local", &from, &["sh", "-c", "wc -l < /tmp/lines"])?;
        if lines.trim().parse::<u32>().unwrap_or(0) > 3 { Ok(()) } else { bail!("{lines} lines have come back") }
    })?;
    let outcome = what(stage);
    let noticed = (|| {
        // Names and new connections, once it is over.
        until(SOON, "a new connection by name", || stage.fetch("local", &from, &name).map(drop))?;
        let ended = stage.exec("local", &from, &["sh", "-c", "[ -e /tmp/ended ]"])?.ok;
        same("whether the connection broke meanwhile", &false, &ended)?;
        stage.printed("local", &from, &["sh", "-c", ": > /tmp/stop"])?;
        until(SOON, "the connection to end by itself, then", || {
            stage.printed("local", &from, &["sh", "-c", "[ -e /tmp/ended ]"])
        })?;
        // Every line came back, in order: sequence and count say so.
        let script = "/bin/busybox awk '$1 != NR { bad++ } END { print NR, bad + 0 }' /tmp/lines";
        let text = stage.printed("local", &from, &["sh", "-c", script])?;
        let (count, wrong) = text.split_once(' ').with_context(|| format!("awk printed {text:?}"))?;
        same("lines that came back out of turn", &"0", &wrong)?;
        if count.parse::<u32>().unwrap_or(0) < 10 {
            bail!("only {count} lines came back");
        }
        CLUSTERS.iter().zip(before).try_for_each(|(cluster, before)| {
            same(&format!("the imports of {cluster}, as objects"), &before, &imports(stage, cluster)?)
        })
    })();
    stage.exec("local", &from, &["sh", "-c", ": > /tmp/stop"])?;
    outcome?;
    noticed
}

fn all_ready(stage: &Stage, cluster: &str, component: &str, old: &[String]) -> Result<()> {
    let new = until(SOON, &format!("new {component} pods in {cluster}"), || {
        let pods = pods(stage, cluster, component, None)?;
        let fresh = pods.len() >= old.len() && !pods.iter().any(|pod| old.contains(pod));
        if fresh { Ok(pods) } else { bail!("there are {pods:?}") }
    })?;
    new.iter().try_for_each(|pod| ready(stage, cluster, pod))
}

fn kill(stage: &Stage, cluster: &str, pods: &[String]) -> Result<()> {
    let names = pods.iter().filter_map(|pod| Some(pod.split_once('/')?.1));
    let mut words = vec!["-n", "daisy-system", "delete", "pod", "--force", "--grace-period=0"];
    words.extend(names);
    stage.kubectl(cluster, &words).map(drop)
}

/// All of a kind at once, in one cluster after the other.
pub(super) fn kill_all(stage: &Stage, component: &str) -> Result<()> {
    CLUSTERS.iter().try_for_each(|cluster| {
        let old = pods(stage, cluster, component, None)?;
        kill(stage, cluster, &old)?;
        all_ready(stage, cluster, component, &old)
    })
}

/// One after the other, each once the one before it is back; names are asked for all the while.
pub(super) fn kill_one_by_one(stage: &Stage, component: &str) -> Result<()> {
    let (name, from) = probe();
    for cluster in CLUSTERS {
        for pod in pods(stage, cluster, component, None)? {
            kill(stage, cluster, std::slice::from_ref(&pod))?;
            let killed = Instant::now();
            // Until kube-proxy knows, a question may still be sent to who is gone; CoreDNS then asks the other.
            let mut slowest = Duration::ZERO;
            for _ in 0..20 {
                let asked = Instant::now();
                let (status, data) = stage.dig("local", &from, &name, "A")?;
                same(&format!("{name}, just after {pod} was killed"), &("NOERROR", 1), &(status.as_str(), data.len()))?;
                slowest = slowest.max(asked.elapsed());
            }
            println!(
                "                  {pod} was killed: 20 lookups within {:.1} s, all answered, the slowest after {:.1} s",
                killed.elapsed().as_secs_f64(),
                slowest.as_secs_f64()
            );
            all_ready(stage, cluster, component, std::slice::from_ref(&pod))?;
        }
    }
    Ok(())
}

/// Each node in turn: what a Deployment of Daisy's has there moves to the other.
fn drain(stage: &Stage) -> Result<()> {
    for cluster in CLUSTERS {
        for on in [On::Gateway, On::NonGateway] {
            let node = node(stage, cluster, on)?;
            let words = [
                "drain",
                &node,
                "--ignore-daemonsets",
                "--delete-emptydir-data",
                "--pod-selector=app.kubernetes.io/name=daisy",
                "--timeout=60s",
            ];
            let drained = stage.kubectl(cluster, &words).map(drop);
            let moved = drained.and_then(|()| {
                ["syncer", "dns"].iter().try_for_each(|component| {
                    until(SOON, &format!("a {component} of {cluster} to be ready"), || {
                        let all = pods(stage, cluster, component, None)?;
                        all.iter().try_for_each(|pod| ready(stage, cluster, pod))
                    })
                })
            });
            stage.kubectl(cluster, &["uncordon", &node])?;
            moved?;
        }
    }
    Ok(())
}

fn kill_api_servers(stage: &Stage) -> Result<()> {
    for cluster in CLUSTERS {
        stage.bed.run(cluster, &["busybox", "killall", "-9", "kube-apiserver"])?;
        until(SOON, &format!("{cluster}'s API server to answer again"), || {
            stage.kubectl(cluster, &["get", "--raw", "/readyz"])
        })?;
    }
    // What is written from now on comes through again.
    let added = "availability-probe";
    stage.kubectl("staging", &["-n", "dataplane", "create", "service", "clusterip", added, "--tcp=80"])?;
    let exported = daisy(stage, "staging", &["export", "service", added, "-n", "dataplane", "--context", "staging"]);
    let name = full(&format!("dataplane/{added}"), "supercluster.local");
    let seen = exported.and_then(|_| {
        until(SOON, &format!("{name} to be known in local"), || {
            let status = stage.dig("local", &client(On::NonGateway), &name, "A")?.0;
            same(&name, &"NOERROR".to_owned(), &status)
        })
    });
    daisy(stage, "staging", &["unexport", "service", added, "-n", "dataplane", "--context", "staging"])?;
    stage.kubectl("staging", &["-n", "dataplane", "delete", "service", added])?;
    seen?;
    super::walk::gone(stage, "local", &name)
}

fn broker_away(stage: &Stage) -> Result<()> {
    stage.bed.run("broker", &["busybox", "killall", "-9", "daisy"])?;
    std::thread::sleep(AWAY);
    start_broker(stage)
}
