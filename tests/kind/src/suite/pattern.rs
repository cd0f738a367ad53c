//! The pattern as published, by the quickstart's own commands; NAT; the numbers; and everything gone again.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use daisy_kubernetes_tests::suite::{ready_after, same, until};

use super::stage::{NAME, SOON, Stage};
use super::{Case, case, needed, page};
use crate::bed::{BROKER_PORT, TUNNEL_PORT};

/// How long a join on a cluster of kind may take.
const JOIN: Duration = Duration::from_secs(30);
/// How soon after it the first answer of another cluster comes.
const FIRST: Duration = Duration::from_secs(2);
/// How many MiB Daisy may add to a developer's cluster.
const MEMORY: f64 = 100.0;
/// How many MiB its image may have.
const IMAGE: f64 = 30.0;
const MEBIBYTE: f64 = 1_048_576.0;

pub(super) fn begin() -> Vec<Case> {
    vec![
        needed("quickstart: staging, with the broker on it, and its export", |s| page::run_section(s, "1.")),
        needed("quickstart: your cluster joins, within 30 s; the first remote answer", join),
        needed("quickstart: what does not run here answers from staging", |s| page::run_section(s, "3.")),
    ]
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        case("quickstart: start it yourself, and the same name is yours; take it away", |s| page::run_section(s, "4.")),
        case("quickstart: look, with kubectl describe of the gateways", look),
        case("pattern: who does not search the supercluster, and other names, are as before", names),
        case("pattern: kube-proxy in iptables mode in local, in nftables mode in staging", proxies),
        case("NAT: staging cannot open a connection to local; local reaches two ports of staging", nat),
        case("NAT: nothing crosses but through the tunnel", in_clear),
        case("numbers: memory that Daisy adds to local, and its image", memory),
    ]
}

pub(super) fn end() -> Vec<Case> {
    vec![
        case("uninstall gives local back as kind made it: the Corefile byte for byte", uninstall),
        case("kind/up, kind/walk, kind/down", scripts),
    ]
}

/// The page's second section, with the time of the join and of the first answer after it.
fn join(stage: &mut Stage) -> Result<()> {
    let steps = page::section(stage, "2.")?;
    let [make, join] = &steps[..] else {
        bail!("the page's second section has {} steps; two are known: make, join", steps.len())
    };
    page::run(stage, make)?;
    stage.corefile = stage.corefile("local")?;
    // A pod that is there before asks. Nobody waits for CoreDNS, which may be about to start: the page does not.
    stage.client("local")?;
    let joined = AtomicBool::new(false);
    let (said, whole, ended, lookups) = thread::scope(|scope| -> Result<_> {
        let (stage, joined) = (&*stage, &joined);
        let asking = scope.spawn(move || ask(stage, joined));
        let started = Instant::now();
        let said = page::run(stage, join);
        let ended = Instant::now();
        joined.store(true, Relaxed);
        let lookups = asking.join().map_err(|_| anyhow!("the thread that asked panicked"))?;
        Ok((said?, ended - started, ended, lookups?))
    })?;
    let ready = ready_after(&said)?;
    println!(
        "                  local joined in {:.1} s; its DNS had read its configuration, and the command ended, after {:.1} s",
        ready.as_secs_f64(),
        whole.as_secs_f64()
    );
    let slowest = lookups.took.iter().max().context("nothing was looked up during the join")?;
    println!(
        "                  {} lookups meanwhile, all answered once CoreDNS had started, {:.1} s after the join; the slowest after {slowest:.1?}, kubectl's time included",
        lookups.took.len(),
        lookups.began.as_secs_f64()
    );
    // What was in vain before the first answer says why it is late, if it is.
    let mut vain = Vec::new();
    until(SOON * 2, &format!("{NAME} to be answered by staging in local"), || {
        let tried = ended.elapsed();
        let answered = stage.is_answered_by("local", NAME, "staging");
        answered.inspect_err(|error| vain.push(format!("after {tried:.1?}: {error:#}")))
    })?;
    let first = ended.elapsed();
    println!("                  the first remote answer, by name, {:.1} s after it", first.as_secs_f64());
    if whole > JOIN || first > FIRST {
        bail!(
            "joining took {whole:.1?}, and {JOIN:?} are allowed; the first answer came after {first:.1?} more, and {FIRST:?} are:\n{said}{}",
            vain.join("\n")
        );
    }
    Ok(())
}

/// What asking for a name all the time found.
struct Lookups {
    /// How long after the first question the first answer came.
    began: Duration,
    /// How long each took that was answered.
    took: Vec<Duration>,
}

/// Looks a name of its own cluster up until it has joined. Once it is answered, it always is.
fn ask(stage: &Stage, joined: &AtomicBool) -> Result<Lookups> {
    let first = Instant::now();
    let mut lookups = Lookups { began: Duration::ZERO, took: Vec::new() };
    while !joined.load(Relaxed) {
        let started = Instant::now();
        match stage.in_client("local", &["getent", "hosts", "kubernetes.default.svc"]) {
            Ok(_) => lookups.took.push(started.elapsed()),
            Err(_) if lookups.took.is_empty() => lookups.began = first.elapsed(),
            Err(error) => {
                let answered = lookups.took.len();
                return Err(error.context(format!(
                    "after {answered} answers a name was not found during the join, {:.1?} after it had begun",
                    first.elapsed()
                )));
            }
        }
    }
    Ok(lookups)
}

fn look(stage: &mut Stage) -> Result<()> {
    page::run_section(stage, "5.")?;
    let described = stage.bed.kubectl("local", &["-n", "daisy-system", "describe", "gateways.daisy.supercluster.local"])?;
    for part in ["local-worker", "staging", "connected", &format!("198.51.100.3:{TUNNEL_PORT}")] {
        if !described.contains(part) {
            bail!("kubectl describe gateways: no {part:?} in:\n{described}");
        }
    }
    Ok(())
}

fn names(stage: &mut Stage) -> Result<()> {
    let plain = "apiVersion: v1\nkind: Pod\nmetadata: {name: plain}\nspec: {terminationGracePeriodSeconds: 1, containers: [{name: c, image: 'nginx:1.29', command: [sleep, infinity]}]}\n";
    stage.shell(&format!("kubectl --context kind-local apply -f - << 'E'\n{plain}E"))?;
    stage.bed.kubectl("local", &["wait", "--for=condition=Ready", "--timeout=60s", "pod/plain"])?;
    let getent = |pod: &str, name: &str| {
        let found = stage.shell(&format!("kubectl --context kind-local exec {pod} -- getent hosts {name} || echo none"))?;
        // What kubectl says of the exit code is not the program's.
        Ok::<_, anyhow::Error>(
            found.lines().next().unwrap_or_default().split_whitespace().last().unwrap_or_default().to_owned(),
        )
    };
    same("a pod without dnsConfig, asking for nginx.nginx.svc", &"none".to_owned(), &getent("plain", NAME)?)?;
    let own = "kubernetes.default.svc.cluster.local";
    same(
        "a pod without dnsConfig, asking for its own cluster's name",
        &own.to_owned(),
        &getent("plain", "kubernetes.default")?,
    )?;
    same("a pod with it, the same", &own.to_owned(), &getent("client", "kubernetes.default")?)?;
    for absent in ["absent.nginx.svc", "absent.example", "nginx.nginx.svc.cluster.local"] {
        same(absent, &"none".to_owned(), &getent("client", absent)?)?;
    }
    stage.bed.kubectl("local", &["delete", "pod", "plain", "--wait=false"]).map(drop)
}

fn proxies(stage: &mut Stage) -> Result<()> {
    for (cluster, mode) in [("local", "iptables"), ("staging", "nftables")] {
        let map = stage.get(cluster, &["-n", "kube-system", "configmap", "kube-proxy"])?;
        let config = map["data"]["config.conf"].as_str().unwrap_or_default();
        if !config.contains(&format!("mode: {mode}")) {
            bail!("{cluster}'s kube-proxy is not in {mode} mode: {config}");
        }
    }
    // In both directions of use: an import's ClusterIP in the one, and in the other.
    stage.client("staging")?;
    stage.answered_by("staging", &format!("{NAME}.supercluster.local"), "staging", SOON)?;
    stage.answered_by("local", &format!("{NAME}.supercluster.local"), "staging", SOON).map(drop)
}

fn nat(stage: &mut Stage) -> Result<()> {
    let reaches = |from: &str, address: &str, port: u16| {
        let line = format!("exec 3<> /dev/tcp/{address}/{port}");
        stage.bed.run(&["docker", "exec", from, "timeout", "3", "bash", "-c", &line]).is_ok()
    };
    let staging = stage.address("staging-control-plane")?;
    for node in ["local-control-plane", "local-worker"] {
        let address = stage.address(node)?;
        // It listens: its own network reaches it.
        same(
            &format!("whether {node} is reached from its own network"),
            &true,
            &reaches("local-control-plane", &address, 10250),
        )?;
        for port in [10250, BROKER_PORT] {
            same(
                &format!("whether staging reaches {node} ({address}), port {port}"),
                &false,
                &reaches("staging-worker", &address, port),
            )?;
        }
    }
    same("whether local reaches the broker", &true, &reaches("local-worker", &staging, BROKER_PORT))?;
    same("whether staging's own network reaches a kubelet", &true, &reaches("staging-worker", &staging, 10250))?;
    same("whether local reaches that kubelet", &false, &reaches("local-worker", &staging, 10250))?;
    let connections = stage.connections("staging")?;
    let local = connections.iter().find(|c| c["clusterId"] == "local").context("staging has no connection to local")?;
    if !local["endpoint"].as_str().unwrap_or_default().starts_with("198.51.100.1:") {
        bail!("staging sees local at another address than its router's: {local}");
    }
    Ok(())
}

fn in_clear(stage: &mut Stage) -> Result<()> {
    stage.counted("in_clear")?;
    stage.counted("through_tunnels")?;
    for _ in 0..10 {
        stage.answered_by("local", NAME, "staging", SOON)?;
    }
    same("packets with a pod's or a Service's address", &0, &stage.counted("in_clear")?)?;
    let through = stage.counted("through_tunnels")?;
    if through < 50 {
        bail!("ten answers crossed as {through} packets to staging's tunnel port: they came another way");
    }
    Ok(())
}

/// What the kubelets say that Daisy's pods have.
fn memory(stage: &mut Stage) -> Result<()> {
    let nodes = stage.get("local", &["nodes"])?;
    let mut total = 0.0;
    for node in nodes["items"].as_array().into_iter().flatten().filter_map(|node| node["metadata"]["name"].as_str()) {
        let path = format!("/api/v1/nodes/{node}/proxy/stats/summary");
        let stats: serde_json::Value = serde_json::from_str(&stage.bed.kubectl("local", &["get", "--raw", &path])?)?;
        let pods = stats["pods"].as_array().into_iter().flatten();
        for pod in pods.filter(|pod| pod["podRef"]["namespace"] == "daisy-system") {
            let bytes = pod["memory"]["workingSetBytes"]
                .as_f64()
                .with_context(|| format!("{node} says nothing of {}", pod["podRef"]))?;
            println!("                  {:6.1} MiB {}", bytes / MEBIBYTE, pod["podRef"]["name"].as_str().unwrap_or_default());
            total += bytes / MEBIBYTE;
        }
    }
    let image = stage.options.daisy.image.metadata()?.len() as f64 / MEBIBYTE;
    println!("                  Daisy adds {total:.1} MiB to local; its image has {image:.1} MiB");
    if total == 0.0 || total > MEMORY || image > IMAGE {
        bail!("Daisy's pods have {total:.1} MiB of {MEMORY}, its image {image:.1} of {IMAGE}");
    }
    Ok(())
}

/// The page's last section, looked at in between.
fn uninstall(stage: &mut Stage) -> Result<()> {
    let steps = page::section(stage, "6.")?;
    let [uninstall, delete] = &steps[..] else { bail!("the page's last section has {} steps; two are known", steps.len()) };
    if stage.corefile.is_empty() {
        bail!("how local's Corefile was is known only where it was made by this run");
    }
    page::run(stage, uninstall)?;
    same("local's Corefile", &stage.corefile, &stage.corefile("local")?)?;
    until(SOON, "nothing of Daisy's in local", || nothing_left(stage))?;
    page::run(stage, delete)?;
    same("the clusters of kind", &(false, false), &(stage.has("local")?, stage.has("staging")?))
}

fn nothing_left(stage: &Stage) -> Result<()> {
    let kinds = "namespaces,customresourcedefinitions,clusterroles,clusterrolebindings,services,endpointslices,configmaps,secrets,\
                 serviceaccounts,pods,servicecidrs";
    let ours = stage.bed.kubectl(
        "local",
        &["get", kinds, "-A", "-l", "app.kubernetes.io/managed-by=daisy", "-o", "name", "--ignore-not-found"],
    )?;
    same("Daisy's objects", &"", &ours.trim())?;
    let nodes = stage.bed.kubectl("local", &["get", "nodes", "-o", "yaml"])?;
    if let Some(line) = nodes.lines().find(|line| line.contains("daisy.supercluster.local")) {
        bail!("a node still has {}", line.trim());
    }
    for node in stage.shell("kind get nodes --name local")?.lines() {
        let look = "ip -o link; ip rule; ip route show table all; nft list tables";
        let text = stage.bed.run(&["docker", "exec", node, "sh", "-c", look])?;
        let left: Vec<_> =
            text.lines().filter(|l| ["daisy", "4841", "4842", "100.80."].iter().any(|w| l.contains(w))).collect();
        same(&format!("what is left on {node}"), &Vec::<&str>::new(), &left)?;
    }
    Ok(())
}

/// The scripts, from nothing to nothing, with the broker and its members made anew.
fn scripts(stage: &mut Stage) -> Result<()> {
    if stage.has("staging")? || stage.has("local")? {
        stage.shell("kind delete cluster --name local; kind delete cluster --name staging")?;
    }
    let environment = "export DAISY_IMAGE_ARCHIVE=$BED/work/daisy.tar DAISY_KIND_WORK=$BED/work/scripts";
    for (script, limit) in [("up", 200), ("walk", 150), ("down", 60)] {
        let started = Instant::now();
        stage.shell(&format!("{environment}; {}/kind/{script} > $BED/logs/kind-{script}.log 2>&1 || {{ tail -20 $BED/logs/kind-{script}.log; exit 1; }}", stage.options.daisy.repository.display()))?;
        println!("                  kind/{script}: {:.0} s", started.elapsed().as_secs_f64());
        if started.elapsed() > Duration::from_secs(limit) {
            bail!("kind/{script} took more than {limit} s");
        }
        thread::sleep(Duration::from_millis(100));
    }
    same("whether local is still there", &false, &stage.has("local")?)
}
