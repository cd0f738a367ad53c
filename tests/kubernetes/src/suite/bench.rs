//! What is measured on real clusters: two of them, two nodes each, the second behind NAT.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::stage::{SOON, Stage, until};
use super::supercluster::{INFO, connected, join, start_broker, zones};
use super::workloads::{Pod, delete, namespace};
use super::{Options, bed_itself};
use crate::bed;

const SPACE: &str = "bench";
const CLIENT: &str = "bench/client";
const CLUSTERS: [&str; 2] = ["staging", "local"];
/// How many exports are timed, one after the other.
const TIMED: usize = 100;
/// How many stand while one changes.
const STANDING: usize = 1000;
/// How long a steady state is looked at.
const STEADY: Duration = Duration::from_secs(60);
/// How long the consequences of a change are counted.
const CONSEQUENCES: Duration = Duration::from_secs(10);
/// In how many hundredths of a second a process's time is counted (proc(5); USER_HZ).
const TICKS: f64 = 100.0;

/// A number.
#[derive(Debug, Clone)]
pub struct Measured {
    /// Of what.
    pub work: String,
    /// Whose.
    pub who: String,
    /// How much.
    pub value: f64,
    /// In which unit.
    pub unit: &'static str,
}

fn row(work: impl Into<String>, who: impl Into<String>, value: f64, unit: &'static str) -> Measured {
    Measured { work: work.into(), who: who.into(), value, unit }
}

/// Measures on a bed of its own.
///
/// # Errors
/// When something does not work, so that there is nothing to measure.
pub fn bench(options: &Options) -> Result<Vec<Measured>> {
    let bed = bed::up(&bed::Options { name: options.bed.clone(), clusters: 2, nodes: 2, nat: 1 })?;
    let mut stage = Stage::new(bed, options)?;
    let measured = measure(&mut stage);
    bed::down(&options.bed)?;
    measured
}

fn measure(stage: &mut Stage) -> Result<Vec<Measured>> {
    let mut rows = begin(stage)?;
    rows.extend(exports(stage)?);
    stand(stage)?;
    rows.extend(steady(stage)?);
    rows.extend(changes(stage)?);
    Ok(rows)
}

fn begin(stage: &mut Stage) -> Result<Vec<Measured>> {
    bed_itself::load(stage)?;
    start_broker(stage)?;
    let invitation = stage.bed.folder().join("work").join(INFO);
    until(SOON, "the invitation to be written", || invitation.metadata().context(INFO))?;
    let mut rows = Vec::new();
    for cluster in CLUSTERS {
        let took = join(stage, cluster, INFO)?;
        rows.push(row("join on a running cluster", cluster, took.ready.as_secs_f64(), "s"));
        rows.push(row("join, until its DNS had read its configuration", cluster, took.whole.as_secs_f64(), "s"));
    }
    for cluster in CLUSTERS {
        // What zones() asks from.
        Pod::client(cluster, "bed/client").run(stage)?;
        zones(stage, cluster)?;
    }
    connected(stage)?;
    namespace(stage, "staging", SPACE)?;
    Pod::server("staging", "bench/server").on("staging-node2").run(stage)?;
    Pod::client("local", CLIENT).on("local-node2").run(stage)?;
    Pod::client("staging", CLIENT).run(stage)?;
    Ok(rows)
}

fn services(names: impl Iterator<Item = String>, exported: bool) -> String {
    let item = |name: String| {
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": SPACE},
            "spec": {"selector": {"app": "server"}, "ports": [{"name": "http", "port": 80}]},
        });
        let export = exported.then(|| export(&name));
        [Some(service), export].into_iter().flatten()
    };
    json!({"apiVersion": "v1", "kind": "List", "items": names.flat_map(item).collect::<Vec<_>>()}).to_string()
}

fn export(name: &str) -> serde_json::Value {
    json!({"apiVersion": "multicluster.x-k8s.io/v1beta1", "kind": "ServiceExport", "metadata": {"name": name, "namespace": SPACE}})
}

/// The API of a cluster as the administrator sees it, at a socket: kubectl itself takes too long to start to be timed.
struct Proxy {
    process: Child,
    socket: std::path::PathBuf,
}

impl Proxy {
    fn new(stage: &Stage, cluster: &str) -> Result<Self> {
        let socket = stage.bed.folder().join(format!("{cluster}.proxy"));
        let _ = fs::remove_file(&socket);
        let path = socket.display().to_string();
        let mut command = stage.bed.kubectl_command(cluster, &["proxy", "--unix-socket", &path]);
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("starting kubectl proxy")?;
        let proxy = Self { process, socket };
        until(SOON, "kubectl proxy to listen", || if proxy.socket.exists() { Ok(()) } else { bail!("no {path}") })?;
        Ok(proxy)
    }

    /// Creates an object.
    fn create(&self, path: &str, object: &serde_json::Value) -> Result<()> {
        let url = format!("http://localhost{path}");
        let mut command = Command::new("curl");
        command.args(["-sS", "--fail-with-body", "--unix-socket"]).arg(&self.socket);
        command.args(["-H", "content-type: application/json", "--data-binary", "@-", &url]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        child.stdin.take().context("curl's input")?.write_all(object.to_string().as_bytes())?;
        let output = child.wait_with_output()?;
        if output.status.success() { Ok(()) } else { bail!("{url}: {}", String::from_utf8_lossy(&output.stdout)) }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_file(&self.socket);
    }
}

/// This machine's, and so every pod's, seconds since it started.
fn uptime(text: &str) -> Result<f64> {
    let word = text.split_whitespace().next().with_context(|| format!("{text:?} is no uptime"))?;
    word.parse().with_context(|| format!("{word:?} is no uptime"))
}

/// From before a ServiceExport is sent to the end of the first connection in the other cluster, which is tried all the while.
fn exports(stage: &Stage) -> Result<Vec<Measured>> {
    stage.bed.apply("staging", &services((0..TIMED).map(|n| format!("timed-{n}")), false))?;
    let proxy = Proxy::new(stage, "staging")?;
    let path = format!("/apis/multicluster.x-k8s.io/v1beta1/namespaces/{SPACE}/serviceexports");
    // A try that nothing answers is given up after a quarter of a second: so are those that come before kube-proxy has the Service, and
    // all but six of those that it refuses until it has the endpoints too (icmp(7), icmp_ratelimit).
    let mut times = Vec::new();
    for n in 0..TIMED {
        let name = format!("timed-{n}");
        let script = format!(
            "echo waiting; n=0; while ! curl -s -o /dev/null --connect-timeout 0.25 --max-time 1 http://{name}.{SPACE}.svc.supercluster.local/; do n=$((n+1)); [ $n -gt 2000 ] && exit 1; sleep 0.01; done; cat /proc/uptime"
        );
        let mut waiter = stage.bed.kubectl_command("local", &["-n", SPACE, "exec", "client", "--", "sh", "-c", &script]);
        let waiter =
            waiter.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("starting kubectl")?;
        // Until it has been asking for a while.
        std::thread::sleep(Duration::from_millis(600));
        let began = uptime(&fs::read_to_string("/proc/uptime")?)?;
        proxy.create(&path, &export(&name))?;
        let output = waiter.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            bail!("{name} never answered: {text} {}", String::from_utf8_lossy(&output.stderr));
        }
        let ended = uptime(text.trim_start_matches("waiting").trim())?;
        if ended < began {
            bail!("{name} answered before it was exported");
        }
        times.push(ended - began);
    }
    times.sort_by(f64::total_cmp);
    let part = |hundredths: usize| times[(times.len() * hundredths).div_ceil(100) - 1];
    let work = "export to first remote connection";
    Ok(vec![
        row(format!("{work}, p50 of {TIMED}"), "daisy", part(50) * 1000.0, "ms"),
        row(format!("{work}, p99 of {TIMED}"), "daisy", part(99) * 1000.0, "ms"),
        row(format!("{work}, most of {TIMED}"), "daisy", part(100) * 1000.0, "ms"),
    ])
}

/// The numbers of a cluster's syncers in these lines, added.
fn syncers(stage: &Stage, cluster: &str, wanted: impl Fn(&str) -> bool) -> Result<f64> {
    let list = stage.get(cluster, &["-n", "daisy-system", "pods", "-l", "app.kubernetes.io/component=syncer"])?;
    let mut sum = 0.0;
    for pod in list["items"].as_array().into_iter().flatten() {
        let address = pod["status"]["podIP"].as_str().context("a syncer without an address")?;
        let text =
            stage.printed(cluster, CLIENT, &["curl", "-sS", "--max-time", "3", &format!("http://{address}:8080/metrics")])?;
        let of_it = text.lines().filter(|line| wanted(line));
        sum += of_it.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>();
    }
    Ok(sum)
}

/// Brings it to a thousand exports, and waits until they are all imported.
fn stand(stage: &Stage) -> Result<()> {
    let started = Instant::now();
    let all: Vec<String> = (0..STANDING).map(|n| format!("s-{n}")).collect();
    for part in all.chunks(250) {
        stage.bed.apply("staging", &services(part.iter().cloned(), true))?;
    }
    let wanted = STANDING + TIMED;
    until(Duration::from_secs(300), &format!("{wanted} imports in local"), || {
        let words = ["-n", "daisy-system", "get", "services", "-l", "app.kubernetes.io/managed-by=daisy", "-o", "name"];
        let count = stage.kubectl("local", &words)?.lines().count();
        if count > wanted { Ok(()) } else { bail!("there are {count} Services of Daisy's") }
    })?;
    eprintln!("{wanted} exports stand after {:.0} s", started.elapsed().as_secs_f64());
    Ok(())
}

/// A script that does this for each process of Daisy's on a host, which is `$p` of the role `$role`.
fn each_daisy(what: &str) -> String {
    format!(
        "for p in /proc/[0-9]*; do [ \"$(cat $p/comm 2>/dev/null)\" = daisy ] || continue; \
         role=$(tr '\\0' ' ' < $p/cmdline | cut -d' ' -f2); {what}; done"
    )
}

/// Of one role on one side: processes, their memory in KiB, their time in ticks.
type Roles = BTreeMap<(String, String), (usize, f64, f64)>;

fn roles(stage: &Stage) -> Result<Roles> {
    let script =
        each_daisy("rss=$(grep VmRSS $p/status | tr -dc 0-9); set -- $(cat $p/stat); echo $role $rss $((${14} + ${15}))");
    let mut hosts = vec![("broker".to_owned(), "broker".to_owned())];
    for cluster in &stage.bed.plan.clusters {
        hosts.extend(cluster.node_numbers().map(|n| (cluster.name.clone(), cluster.node(n))));
    }
    let mut all = Roles::new();
    for (side, host) in hosts {
        for line in stage.bed.run(&host, &["sh", "-c", &script])?.lines() {
            let words: Vec<_> = line.split_whitespace().collect();
            let [role, memory, ticks] = words[..] else { continue };
            let role = if role == "deploy-broker" { "broker" } else { role };
            let entry = all.entry((side.clone(), role.to_owned())).or_default();
            entry.0 += 1;
            entry.1 = entry.1.max(memory.parse().unwrap_or(0.0));
            entry.2 += ticks.parse::<f64>().unwrap_or(0.0);
        }
    }
    Ok(all)
}

/// What each role takes while nothing changes.
fn steady(stage: &Stage) -> Result<Vec<Measured>> {
    // What the many changes before left to do is done by then.
    std::thread::sleep(Duration::from_secs(30));
    let (before, began) = (roles(stage)?, Instant::now());
    std::thread::sleep(STEADY);
    let (after, took) = (roles(stage)?, began.elapsed().as_secs_f64());
    let mut rows = Vec::new();
    for ((side, role), (count, memory, ticks)) in after {
        let had = before.get(&(side.clone(), role.clone())).map_or(0.0, |entry| entry.2);
        let who = if side == role { role.clone() } else { format!("{role} in {side}") };
        let work = format!("steady, {} exports", STANDING + TIMED);
        rows.push(row(format!("{work}: CPU of {count}"), &who, (ticks - had) / TICKS / took * 1000.0, "millicores"));
        rows.push(row(format!("{work}: most resident memory of one"), &who, memory / 1024.0, "MiB"));
    }
    Ok(rows)
}

/// What has gone through the network devices but the loopback, in bytes, by what proc_pid_net(5) has of each: of the network namespace of
/// who asks, where `/sys` has that of who mounted it.
fn device_bytes(text: &str) -> f64 {
    let devices = text.lines().filter_map(|line| line.split_once(':')).filter(|(name, _)| name.trim() != "lo");
    let bytes = |columns: &str| {
        let columns: Vec<f64> = columns.split_whitespace().filter_map(|column| column.parse().ok()).collect();
        Some(columns.first()? + columns.get(8)?)
    };
    devices.filter_map(|(_, columns)| bytes(columns)).sum()
}

/// What has gone over the network of the broker's host.
fn broker_bytes(stage: &Stage) -> Result<f64> {
    let text = stage.bed.run("broker", &["cat", "/proc/net/dev"])?;
    let bytes = device_bytes(&text);
    if bytes > 0.0 { Ok(bytes) } else { bail!("the broker's host has moved nothing:\n{text}") }
}

/// What has gone over the networks of a cluster's syncers and DNS servers: those of Daisy's pods to which a change of an export comes. What
/// a syncer says to the broker and hears from it is among it.
fn cluster_bytes(stage: &Stage, cluster: &str) -> Result<f64> {
    let script = each_daisy("case $role in syncer|dns) cat $p/net/dev;; esac");
    let cluster = stage.bed.plan.clusters.iter().find(|known| known.name == cluster).context("no such cluster")?;
    let mut bytes = 0.0;
    for node in cluster.node_numbers() {
        bytes += device_bytes(&stage.bed.run(&cluster.node(node), &["sh", "-c", &script])?);
    }
    if bytes > 0.0 { Ok(bytes) } else { bail!("no syncer or DNS server of {} has moved anything", cluster.name) }
}

/// What has been moved so far.
struct Moved {
    /// Writes of all syncers at the broker, heartbeats left out.
    broker: f64,
    broker_bytes: f64,
    /// Writes in each cluster.
    here: [f64; 2],
    here_bytes: [f64; 2],
}

impl Moved {
    fn so_far(stage: &Stage) -> Result<Self> {
        let writes = |cluster: &str, place: &str| {
            let place = format!("place=\"{place}\"");
            let wanted = |line: &str| {
                line.starts_with("daisy_syncer_writes_total{") && line.contains(&place) && !line.contains("Heartbeat")
            };
            syncers(stage, cluster, wanted)
        };
        Ok(Self {
            broker: writes("staging", "broker")? + writes("local", "broker")?,
            broker_bytes: broker_bytes(stage)?,
            here: [writes("staging", "here")?, writes("local", "here")?],
            here_bytes: [cluster_bytes(stage, "staging")?, cluster_bytes(stage, "local")?],
        })
    }
}

/// What one change moves.
fn changes(stage: &Stage) -> Result<Vec<Measured>> {
    Pod::server("staging", "bench/second").run(stage)?;
    let own = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "own", "namespace": SPACE},
        "spec": {"selector": {"app": "second"}, "ports": [{"name": "http", "port": 80}]},
    });
    stage.bed.apply("staging", &own.to_string())?;
    let mut rows = Vec::new();
    let mut one = |what: &str, change: &dyn Fn() -> Result<()>| {
        let idle = Moved::so_far(stage)?;
        std::thread::sleep(CONSEQUENCES);
        let before = Moved::so_far(stage)?;
        change()?;
        std::thread::sleep(CONSEQUENCES);
        let after = Moved::so_far(stage)?;
        let work = format!("{what}, among {} exports", STANDING + TIMED);
        rows.push(row(format!("{work}: objects written"), "broker", after.broker - before.broker, "objects"));
        for (n, cluster) in CLUSTERS.iter().enumerate() {
            rows.push(row(format!("{work}: objects written"), *cluster, after.here[n] - before.here[n], "objects"));
        }
        // Heartbeats, probes and the asking for these numbers go on meanwhile.
        let beyond = |idle: f64, before: f64, after: f64| (after - before) - (before - idle);
        let mut moved = |who: &str, bytes: f64| rows.push(row(format!("{work}: moved beyond what idles"), who, bytes, "bytes"));
        moved("broker", beyond(idle.broker_bytes, before.broker_bytes, after.broker_bytes));
        for (n, cluster) in CLUSTERS.iter().enumerate() {
            moved(cluster, beyond(idle.here_bytes[n], before.here_bytes[n], after.here_bytes[n]));
        }
        Ok::<_, anyhow::Error>(())
    };
    one("an export comes", &|| stage.bed.apply("staging", &export("own").to_string()).map(drop))?;
    one("an export's only endpoint goes", &|| delete(stage, "staging", "pod", "bench/second"))?;
    one("an export goes", &|| delete(stage, "staging", "serviceexports.multicluster.x-k8s.io", "bench/own"))?;
    Ok(rows)
}
