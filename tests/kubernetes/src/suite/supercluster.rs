//! Daisy on the bed: the broker on a host of its own, every cluster joined; and at the end, gone.

use std::fs::{self, File};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

use super::stage::{SOON, Stage, same, until};
use super::{Case, case, needed};
use crate::bed::COREFILE;
use crate::bed::plan::{BROKER_ADDRESS, Cluster};

/// How long a join may take on a cluster that runs.
const JOIN: Duration = Duration::from_secs(30);
/// How long the cluster's own DNS may take to read its changed configuration.
const RELOAD: Duration = Duration::from_secs(180);
/// Where the broker keeps its data; its host's own.
const BROKER_DATA: &str = "/var/lib/daisy-broker";
/// The invitation that it writes.
pub(super) const INFO: &str = "broker-info.daisy";
/// How a user reaches it as its administrator.
pub(super) const BROKER_KUBECONFIG: &str = "/var/lib/daisy-broker/admin.kubeconfig";

pub(super) fn begin() -> Vec<Case> {
    vec![
        needed("walk: deploy-broker --embedded on a host of its own", broker),
        needed("walk: every cluster joins, within 30 s each", join_all),
        needed("walk: every cluster's CoreDNS has taken up the zones", |s| everywhere(s, |s, c| zones(s, &c.name))),
        needed("walk: those behind NAT are connected to the one that is reachable", connected),
    ]
}

pub(super) fn end() -> Vec<Case> {
    vec![
        case("submariner P1: a third cluster is removed, and added again", third_cluster),
        needed("walk: leave, everywhere: nothing is left, and CoreDNS is as it was, byte for byte", leave_all),
    ]
}

/// `daisy`, as a user types it on a cluster's control plane.
pub(super) fn daisy(stage: &Stage, place: &str, words: &[&str]) -> Result<String> {
    let mut line = vec!["daisy"];
    line.extend(words);
    stage.bed.run(place, &line)
}

/// `daisy`, with its output as JSON.
pub(super) fn daisy_json(stage: &Stage, place: &str, words: &[&str]) -> Result<Value> {
    let mut line = words.to_vec();
    line.extend(["-o", "json"]);
    let text = daisy(stage, place, &line)?;
    serde_json::from_str(&text).with_context(|| format!("daisy {}: {text}", line.join(" ")))
}

/// Starts the broker in the background. It ends with the bed, or when it is killed.
pub(super) fn start_broker(stage: &Stage) -> Result<()> {
    let log = stage.bed.logs().join("broker");
    fs::create_dir_all(&log)?;
    let log = File::options().create(true).append(true).open(log.join("daisy-broker.log"))?;
    let address = BROKER_ADDRESS.to_string();
    let words = ["daisy", "deploy-broker", "--embedded", "--data", BROKER_DATA, "--advertise", &address];
    let mut command = stage.bed.command("broker", &words)?;
    let mut child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn().context("starting the broker")?;
    // Reaped whenever it ends.
    thread::spawn(move || child.wait());
    until(SOON, "the broker to answer", || broker_answers(stage))
}

fn broker(stage: &mut Stage) -> Result<()> {
    let file = stage.bed.folder().join("work").join(INFO);
    if stage.options.keep && broker_answers(stage).is_ok() && file.exists() {
        return Ok(());
    }
    start_broker(stage)?;
    until(SOON, "the invitation to be written", || {
        if file.exists() { Ok(()) } else { Err(anyhow!("{} is not there", file.display())) }
    })
}

fn broker_answers(stage: &Stage) -> Result<()> {
    let url = format!("https://{BROKER_ADDRESS}:6443/readyz");
    stage.bed.run("broker", &["curl", "-ksS", "--max-time", "2", &url]).map(drop)
}

fn corefile(stage: &Stage, cluster: &str) -> Result<String> {
    let map = stage.get(cluster, &["-n", "kube-system", "configmap", "coredns"])?;
    map["data"]["Corefile"].as_str().map(str::to_owned).with_context(|| format!("{cluster} has no Corefile"))
}

/// Joins one cluster; how long it took.
pub(super) fn join(stage: &Stage, cluster: &str, info: &str) -> Result<Join> {
    let started = Instant::now();
    let image = &stage.options.image_name;
    // Its progress is what tells the time.
    let both = ["sh", "-c", "exec \"$0\" \"$@\" 2>&1", "daisy"];
    let words = ["join", info, "--context", cluster, "--clusterid", cluster, "--image", image, "--hold", "2s"];
    let said = stage.bed.run(cluster, &[&both[..], &words].concat())?;
    Ok(Join { ready: ready_after(&said)?, whole: started.elapsed(), said })
}

/// How long a join took.
pub(super) struct Join {
    /// Until every part of Daisy's was ready.
    pub(super) ready: Duration,
    /// Until the cluster's own DNS had read its changed configuration, too.
    pub(super) whole: Duration,
    /// What it said on the way.
    pub(super) said: String,
}

/// How long a join took until every part was ready, as it says itself.
pub fn ready_after(said: &str) -> Result<Duration> {
    let time = said.split_once("has joined (").and_then(|(_, rest)| rest.split_once(')')).map(|(time, _)| time);
    let time = time.with_context(|| format!("a join does not say when it was done:\n{said}"))?;
    let (number, unit) = time.split_once(' ').unwrap_or((time, ""));
    let number: f64 = number.parse().with_context(|| format!("{time:?} is no time"))?;
    Ok(Duration::from_secs_f64(if unit == "ms" { number / 1000.0 } else { number }))
}

/// Does something in several clusters at once.
fn everywhere(stage: &Stage, what: impl Fn(&Stage, &Cluster) -> Result<()> + Sync) -> Result<()> {
    let clusters = stage.bed.plan.clusters.clone();
    let what = &what;
    thread::scope(|scope| {
        let handles: Vec<_> = clusters.iter().map(|cluster| scope.spawn(move || what(stage, cluster))).collect();
        let results = handles.into_iter().map(|h| h.join().unwrap_or_else(|_| Err(anyhow!("it panicked"))));
        // All are waited for before the first failure is told.
        results.collect::<Vec<_>>().into_iter().collect()
    })
}

fn join_all(stage: &mut Stage) -> Result<()> {
    everywhere(stage, |stage, cluster| {
        let took = join(stage, &cluster.name, INFO).with_context(|| pods(stage, &cluster.name))?;
        println!(
            "                  {} joined in {:.1} s; its DNS had read its configuration after {:.1} s",
            cluster.name,
            took.ready.as_secs_f64(),
            took.whole.as_secs_f64()
        );
        if took.ready > JOIN {
            let pods = pods(stage, &cluster.name);
            bail!("joining {} took {:.1} s:\n{}{pods}", cluster.name, took.ready.as_secs_f64(), took.said);
        }
        Ok(())
    })
}

/// A changed ConfigMap comes to CoreDNS when its kubelet next looks at the pod, and CoreDNS looks at the file every 30 s.
pub(super) fn zones(stage: &Stage, cluster: &str) -> Result<()> {
    let started = Instant::now();
    // Two CoreDNS pods, each in its own time: both have it when many questions in a row are answered.
    until(RELOAD, &format!("dns-version.supercluster.local in {cluster}"), || {
        (0..6).try_for_each(|_| {
            let (status, data) = stage.dig(cluster, "bed/client", "dns-version.supercluster.local", "TXT")?;
            same("dns-version.supercluster.local", &("NOERROR", 1), &(status.as_str(), data.len()))
        })
    })?;
    println!("                  {cluster}'s CoreDNS answered {:.1} s later", started.elapsed().as_secs_f64());
    Ok(())
}

/// What Daisy's pods in a cluster do, for a message.
fn pods(stage: &Stage, cluster: &str) -> String {
    let pods = stage.kubectl(cluster, &["-n", "daisy-system", "get", "pods", "-o", "wide"]).unwrap_or_default();
    let all = ["-n", "daisy-system", "logs", "--tail=20", "--prefix", "--ignore-errors", "-l", "app.kubernetes.io/name=daisy"];
    format!("{cluster}'s pods:\n{pods}{}", stage.kubectl(cluster, &all).unwrap_or_default())
}

/// Whether `cluster` has a connection to `to`.
pub(super) fn is_connected(stage: &Stage, cluster: &str, to: &str) -> Result<()> {
    let list = daisy_json(stage, cluster, &["show", "connections", "--context", cluster])?;
    let up = |c: &Value| c["clusterId"] == to && c["status"] == "connected";
    if list.as_array().is_some_and(|list| list.iter().any(up)) { Ok(()) } else { bail!("{cluster}'s connections: {list}") }
}

pub(super) fn connected(stage: &mut Stage) -> Result<()> {
    for cluster in stage.bed.plan.clusters.iter().filter(|c| c.nat) {
        until(SOON, &format!("{} to be connected to staging", cluster.name), || is_connected(stage, &cluster.name, "staging"))?;
    }
    Ok(())
}

/// Leaves with one cluster, and looks for what is left there.
pub(super) fn leave(stage: &Stage, cluster: &Cluster) -> Result<()> {
    // What users made goes as users take it away: as long as there is one, its kind stays too.
    stage.kubectl(&cluster.name, &["delete", "serviceexports.multicluster.x-k8s.io", "-A", "--all"])?;
    daisy(stage, &cluster.name, &["leave", "--context", &cluster.name])?;
    until(Duration::from_secs(20), &format!("nothing of Daisy's in {}", cluster.name), || nothing_left(stage, cluster))
}

fn third_cluster(stage: &mut Stage) -> Result<()> {
    let third = stage.bed.plan.cluster("c3")?.clone();
    let known = |stage: &Stage, wanted: bool| {
        let seen = stage.kubectl("staging", &["-n", "daisy-system", "get", "clusters.daisy.supercluster.local", "c3"]).is_ok();
        same("whether staging knows c3", &wanted, &seen)
    };
    leave(stage, &third)?;
    until(SOON, "staging to forget c3", || known(stage, false))?;
    is_connected(stage, "local", "staging").context("the others, meanwhile")?;
    join(stage, "c3", INFO)?;
    until(SOON, "staging to know c3 again", || known(stage, true))?;
    until(SOON, "c3 to be connected", || is_connected(stage, "c3", "staging"))
}

fn leave_all(stage: &mut Stage) -> Result<()> {
    everywhere(stage, leave)?;
    let members = daisy_json(stage, "broker", &["members", "--broker-kubeconfig", BROKER_KUBECONFIG])?;
    same("the broker's members", &serde_json::json!([]), &members)
}

/// Every kind of object, every node's network, the cluster's DNS.
pub(super) fn nothing_left(stage: &Stage, cluster: &Cluster) -> Result<()> {
    let name = &cluster.name;
    let kinds = "namespaces,customresourcedefinitions,clusterroles,clusterrolebindings,services,endpointslices,configmaps,secrets,\
                 serviceaccounts,pods,servicecidrs,validatingadmissionpolicies,validatingadmissionpolicybindings";
    let ours = ["get", kinds, "-A", "-l", "app.kubernetes.io/managed-by=daisy", "-o", "name", "--ignore-not-found"];
    same(&format!("Daisy's objects in {name}"), &String::new(), &stage.kubectl(name, &ours)?)?;
    let nodes = stage.kubectl(name, &["get", "nodes", "-o", "json"])?;
    if let Some(line) = nodes.lines().find(|line| line.contains("daisy.supercluster.local")) {
        bail!("a node of {name} still has {line}");
    }
    same(&format!("{name}'s Corefile"), &COREFILE.to_owned(), &corefile(stage, name)?)?;
    for number in cluster.node_numbers() {
        let node = cluster.node(number);
        // kube-proxy's own tables apart: of a Service that is gone it removes the empty chains when it next has something to do.
        let look = "ip -o link; ip rule; ip route show table all; ip neigh; \
                    nft list tables | while read -r _ family name; do [ $name = kube-proxy ] || nft list table $family $name; done";
        let text = stage.bed.run(&node, &["sh", "-c", look])?;
        let left: Vec<_> =
            text.lines().filter(|l| ["daisy", "4841", "4842", "100.80."].iter().any(|w| l.contains(w))).collect();
        if !left.is_empty() {
            bail!("{node} still has: {}", left.join("; "));
        }
    }
    Ok(())
}
