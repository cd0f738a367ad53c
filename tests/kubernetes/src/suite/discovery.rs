//! Submariner's service discovery cases, named after its own (lighthouse v0.24.0).
//!
//! Where Submariner asks for names that the MCS standard forbids in `clusterset.local`, as those with a cluster's name before a
//! ClusterIP Service, they are asked for in `supercluster.local`.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::Value;

use super::stage::{SOON, Stage, same, until};
use super::supercluster::daisy;
use super::walk::{CLIENT, gone};
use super::workloads::{Pod, Service, StatefulSet, delete};
use super::{Case, case};

/// The zones that Submariner's one zone stands for.
const ZONES: [&str; 2] = ["supercluster.local", "clusterset.local"];

pub(super) fn cases() -> Vec<Case> {
    vec![
        case("submariner S1: a remote ClusterIP Service, A and SRV; deleted, made again, unexported", remote_service),
        case("submariner S2: a Service that is present locally and remotely: the local one", local_and_remote),
        case("submariner S3: an export that was there before its Service", export_first),
        case("submariner S4: a Service without active pods", no_active_pods),
        case("submariner S5: a Service of two clusters, with active pods in one only", active_in_one),
        // The DNS server knows an import's endpoints in each cluster, but not each cluster's own ClusterIP, whose ports are the Service's.
        case("submariner S6: a Service by its cluster's name", by_cluster),
        case("submariner S7: two clusters' Service from a third: both answer", both_answer),
        case("submariner S8: an unhealthy cluster does not answer", unhealthy),
        case("two clusters behind NAT: neither is sent to the other", behind_nat),
        case("submariner H1: a remote headless Service", headless_remote),
        case("submariner H2: a headless Service exported in two clusters", headless_both),
        case("submariner H3: a headless Service without a selector", headless_without_selector),
        case("submariner H4, T3: the number of a StatefulSet's pods changes", pods_change),
        case("submariner H5: a headless Service's local pods' addresses", headless_local),
        case("submariner H6: a headless Service by its cluster's name", headless_by_cluster),
        case("submariner T1: a StatefulSet's pod by name, remotely", stateful_remote),
        case("submariner T2: a StatefulSet's pod by name, locally", stateful_local),
        case("submariner V1: the clusterset IP is what its name is resolved to", clusterset_ip),
        case("submariner I1: a namespace that is absent locally", absent_namespace),
    ]
}

pub(super) fn full(service: &str, zone: &str) -> String {
    let (space, name) = service.split_once('/').unwrap_or(("default", service));
    format!("{name}.{space}.svc.{zone}")
}

pub(super) fn export(stage: &Stage, cluster: &str, service: &str) -> Result<()> {
    let (space, name) = service.split_once('/').unwrap_or(("default", service));
    daisy(stage, cluster, &["export", "service", name, "-n", space, "--context", cluster]).map(drop)
}

pub(super) fn unexport(stage: &Stage, cluster: &str, service: &str) -> Result<()> {
    let (space, name) = service.split_once('/').unwrap_or(("default", service));
    daisy(stage, cluster, &["unexport", "service", name, "-n", space, "--context", cluster]).map(drop)
}

/// A web server with its Service, exported; the pod is `CLUSTER-NAME`.
fn serve(stage: &Stage, cluster: &str, service: &str) -> Result<()> {
    let (space, name) = service.split_once('/').unwrap_or(("default", service));
    let app = format!("{cluster}-{name}");
    Pod::server(cluster, &format!("{space}/{app}")).run(stage)?;
    Service::new(cluster, service, &app).make(stage)?;
    export(stage, cluster, service)
}

/// Waits until a name has exactly these addresses.
fn addresses(stage: &Stage, cluster: &str, name: &str, wanted: &[String]) -> Result<()> {
    let mut wanted = wanted.to_vec();
    wanted.sort();
    until(SOON, &format!("{name} in {cluster} to be {wanted:?}"), || {
        let (status, data) = stage.dig(cluster, CLIENT, name, "A")?;
        if status != "NOERROR" {
            bail!("{name}: {status}");
        }
        same(name, &wanted, &data)
    })
}

/// The pods that answer a number of requests.
fn answering(stage: &Stage, cluster: &str, host: &str, requests: usize) -> Result<BTreeSet<String>> {
    let script = format!("for i in $(seq {requests}); do curl -sS --max-time 3 http://{host}/ || exit 1; done");
    let text = stage.printed(cluster, CLIENT, &["sh", "-c", &script])?;
    Ok(text.lines().filter_map(|line| line.split_whitespace().next().map(str::to_owned)).collect())
}

/// Waits until exactly these pods answer.
pub(super) fn answered_by(stage: &Stage, cluster: &str, host: &str, wanted: &[&str]) -> Result<()> {
    let wanted: BTreeSet<String> = wanted.iter().map(|w| (*w).to_owned()).collect();
    until(SOON, &format!("{host} in {cluster} to be answered by {wanted:?}"), || {
        same("who answers", &wanted, &answering(stage, cluster, host, 24)?)
    })
}

/// Takes everything of a case away again. Nobody waits for it: no two cases share a namespace.
pub(super) fn tidy(stage: &Stage, clusters: &[&str], namespace: &str) -> Result<()> {
    let words = ["delete", "namespace", namespace, "--ignore-not-found", "--wait=false"];
    clusters.iter().try_for_each(|cluster| stage.kubectl(cluster, &words).map(drop))
}

fn remote_service(stage: &mut Stage) -> Result<()> {
    let service = "s1/web";
    let name = full(service, "supercluster.local");
    serve(stage, "staging", service)?;
    answered_by(stage, "local", &name, &["staging-web"])?;
    let (status, records) = stage.dig("local", CLIENT, &format!("_http._tcp.{name}"), "SRV")?;
    same("status of SRV", &"NOERROR".to_owned(), &status)?;
    if records.len() != 1 || !records[0].ends_with(&format!(" 80 {name}.")) {
        bail!("SRV of {name}: saw {records:?}");
    }
    delete(stage, "staging", "service", service)?;
    gone(stage, "local", &name)?;
    Service::new("staging", service, "staging-web").make(stage)?;
    answered_by(stage, "local", &name, &["staging-web"])?;
    unexport(stage, "staging", service)?;
    gone(stage, "local", &name)?;
    tidy(stage, &["staging"], "s1")
}

fn local_and_remote(stage: &mut Stage) -> Result<()> {
    let service = "s2/web";
    serve(stage, "staging", service)?;
    serve(stage, "local", service)?;
    answered_by(stage, "local", "web.s2.svc", &["local-web"])?;
    let found = stage.getent("local", CLIENT, "web.s2.svc")?.map(|(_, name)| name);
    same("getent hosts web.s2.svc", &Some("web.s2.svc.cluster.local".to_owned()), &found)?;
    answered_by(stage, "local", &full(service, "supercluster.local"), &["local-web"])?;
    // All backends, as the standard has it.
    answered_by(stage, "local", &full(service, "clusterset.local"), &["local-web", "staging-web"])?;
    tidy(stage, &["staging", "local"], "s2")
}

fn export_first(stage: &mut Stage) -> Result<()> {
    let object = "apiVersion: v1\nkind: Namespace\nmetadata: {name: s3}\n---\napiVersion: multicluster.x-k8s.io/v1beta1\n\
                  kind: ServiceExport\nmetadata: {name: web, namespace: s3}\n";
    stage.bed.apply("staging", object)?;
    until(SOON, "the export to say that there is no Service", || {
        let export = stage.get("staging", &["-n", "s3", "serviceexports.multicluster.x-k8s.io", "web"])?;
        let conditions = export["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let told = conditions.iter().any(|c| c["type"] == "Valid" && c["status"] == "False" && c["reason"] == "NoService");
        if told { Ok(()) } else { bail!("its conditions are {conditions:?}") }
    })?;
    Pod::server("staging", "s3/staging-web").run(stage)?;
    Service::new("staging", "s3/web", "staging-web").make(stage)?;
    answered_by(stage, "local", &full("s3/web", "supercluster.local"), &["staging-web"])?;
    tidy(stage, &["staging"], "s3")
}

fn no_active_pods(stage: &mut Stage) -> Result<()> {
    let service = "s4/web";
    let name = full(service, "supercluster.local");
    serve(stage, "staging", service)?;
    answered_by(stage, "local", &name, &["staging-web"])?;
    delete(stage, "staging", "pod", "s4/staging-web")?;
    // The clusterset IP stands as long as the import does; without endpoints a connection is refused, and not left to time out.
    until(SOON, "a connection to be refused at once", || {
        let seen = stage.exec("local", CLIENT, &["curl", "-sS", "--max-time", "5", &format!("http://{name}/")])?;
        // 7: it could not connect; 28 would be a timeout.
        if seen.err.contains("curl: (7)") { Ok(()) } else { bail!("saw {seen:?}") }
    })?;
    tidy(stage, &["staging"], "s4")
}

fn active_in_one(stage: &mut Stage) -> Result<()> {
    let service = "s5/web";
    let name = full(service, "supercluster.local");
    for cluster in ["local", "c3"] {
        serve(stage, cluster, service)?;
    }
    answered_by(stage, "staging", &name, &["local-web", "c3-web"])?;
    delete(stage, "local", "pod", "s5/local-web")?;
    answered_by(stage, "staging", &name, &["c3-web"])?;
    tidy(stage, &["local", "c3"], "s5")
}

fn by_cluster(stage: &mut Stage) -> Result<()> {
    let service = "s6/web";
    for cluster in ["local", "c3"] {
        serve(stage, cluster, service)?;
    }
    answered_by(stage, "staging", &full(service, "supercluster.local"), &["local-web", "c3-web"])?;
    let asked = (|| {
        for cluster in ["local", "c3"] {
            let forbidden = format!("{cluster}.{}", full(service, "clusterset.local"));
            same(&forbidden, &"NXDOMAIN".to_owned(), &stage.dig("staging", CLIENT, &forbidden, "A")?.0)?;
            let name = format!("{cluster}.{}", full(service, "supercluster.local"));
            same(&name, &"NOERROR".to_owned(), &stage.dig("staging", CLIENT, &name, "A")?.0)?;
            answered_by(stage, "staging", &name, &[&format!("{cluster}-web")])?;
        }
        Ok(())
    })();
    tidy(stage, &["local", "c3"], "s6")?;
    asked
}

fn both_answer(stage: &mut Stage) -> Result<()> {
    for cluster in ["local", "c3"] {
        serve(stage, cluster, "s7/web")?;
    }
    answered_by(stage, "staging", &full("s7/web", "supercluster.local"), &["local-web", "c3-web"])?;
    tidy(stage, &["local", "c3"], "s7")
}

fn unhealthy(stage: &mut Stage) -> Result<()> {
    let name = full("s8/web", "supercluster.local");
    for cluster in ["local", "c3"] {
        serve(stage, cluster, "s8/web")?;
    }
    answered_by(stage, "staging", &name, &["local-web", "c3-web"])?;
    // Everything of c3's is lost on the way, as when its line is cut.
    let cut =
        "add table inet cut; add chain inet cut line { type filter hook forward priority -10; }; add rule inet cut line drop";
    stage.bed.run("c3-router", &["nft", cut])?;
    let outcome = answered_by(stage, "staging", &name, &["local-web"]);
    stage.bed.run("c3-router", &["nft", "delete table inet cut"])?;
    outcome?;
    answered_by(stage, "staging", &name, &["local-web", "c3-web"])?;
    tidy(stage, &["local", "c3"], "s8")
}

/// A StatefulSet with a headless Service, exported; the addresses of its pods.
fn stateful(stage: &Stage, cluster: &str, service: &str, pods: u32) -> Result<Vec<String>> {
    StatefulSet { cluster, name: service, replicas: pods }.run(stage)?;
    export(stage, cluster, service)?;
    stateful_addresses(stage, cluster, service, pods)
}

fn stateful_addresses(stage: &Stage, cluster: &str, service: &str, pods: u32) -> Result<Vec<String>> {
    (0..pods).map(|index| stage.pod_address(cluster, &format!("{service}-{index}"))).collect()
}

/// Between local and c3 there never is a path: what staging exports too, staging answers all.
fn behind_nat(stage: &mut Stage) -> Result<()> {
    let service = "nat/web";
    let name = full(service, "supercluster.local");
    super::workloads::namespace(stage, "local", "nat")?;
    serve(stage, "c3", service)?;
    serve(stage, "staging", service)?;
    answered_by(stage, "local", &name, &["staging-web"])?;
    unexport(stage, "staging", service)?;
    until(SOON, "c3 alone to be an import that refuses", || {
        let import = stage.get("local", &["-n", "nat", "serviceimports.multicluster.x-k8s.io", "web"])?;
        same("the exporters", &Value::from("c3"), &import["status"]["clusters"][0]["cluster"])?;
        let seen = stage.exec("local", CLIENT, &["curl", "-sS", "--max-time", "3", &format!("http://{name}/")])?;
        if seen.err.contains("(7)") { Ok(()) } else { bail!("curl ended so: {}{}", seen.out, seen.err) }
    })?;
    tidy(stage, &["staging", "local", "c3"], "nat")
}

fn headless_remote(stage: &mut Stage) -> Result<()> {
    let pods = stateful(stage, "staging", "h1/web", 2)?;
    let name = full("h1/web", "supercluster.local");
    addresses(stage, "local", &name, &pods)?;
    let (_, records) = stage.dig("local", CLIENT, &format!("_http._tcp.{name}"), "SRV")?;
    same("SRV records", &2, &records.len())?;
    answered_by(stage, "local", &name, &["web-0", "web-1"]).or_else(|_| answered_by(stage, "local", &name, &["web-0"]))?;
    unexport(stage, "staging", "h1/web")?;
    gone(stage, "local", &name)?;
    tidy(stage, &["staging"], "h1")
}

fn headless_both(stage: &mut Stage) -> Result<()> {
    let mut pods = stateful(stage, "local", "h2/web", 1)?;
    let other = stateful(stage, "c3", "h2/web", 1)?;
    pods.extend(other.clone());
    let name = full("h2/web", "supercluster.local");
    addresses(stage, "staging", &name, &pods)?;
    unexport(stage, "local", "h2/web")?;
    addresses(stage, "staging", &name, &other)?;
    tidy(stage, &["local", "c3"], "h2")
}

fn headless_without_selector(stage: &mut Stage) -> Result<()> {
    Pod::server("staging", "h3/staging-web").run(stage)?;
    let address = stage.pod_address("staging", "h3/staging-web")?;
    Service { app: None, headless: true, ..Service::new("staging", "h3/web", "") }.make(stage)?;
    let slice = format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: web-1, namespace: h3, labels: {{kubernetes.io/service-name: web}}}}\n\
         addressType: IPv4\nports: [{{name: http, port: 80, protocol: TCP}}]\nendpoints: [{{addresses: [{address}], conditions: {{ready: true}}}}]\n"
    );
    stage.bed.apply("staging", &slice)?;
    export(stage, "staging", "h3/web")?;
    let name = full("h3/web", "supercluster.local");
    addresses(stage, "local", &name, &[address])?;
    answered_by(stage, "local", &name, &["staging-web"])?;
    tidy(stage, &["staging"], "h3")
}

fn pods_change(stage: &mut Stage) -> Result<()> {
    let service = "h4/web";
    let name = full(service, "supercluster.local");
    addresses(stage, "local", &name, &stateful(stage, "staging", service, 1)?)?;
    for pods in [3, 1] {
        StatefulSet { cluster: "staging", name: service, replicas: pods }.run(stage)?;
        addresses(stage, "local", &name, &stateful_addresses(stage, "staging", service, pods)?)?;
        gone(stage, "local", &format!("web-{pods}.staging.{name}"))?;
    }
    tidy(stage, &["staging"], "h4")
}

fn headless_local(stage: &mut Stage) -> Result<()> {
    let pods = stateful(stage, "staging", "h5/web", 2)?;
    for zone in ZONES.into_iter().chain(["cluster.local"]) {
        addresses(stage, "staging", &full("h5/web", zone), &pods)?;
    }
    tidy(stage, &["staging"], "h5")
}

fn headless_by_cluster(stage: &mut Stage) -> Result<()> {
    for cluster in ["local", "c3"] {
        let pods = stateful(stage, cluster, "h6/web", 1)?;
        addresses(stage, "staging", &format!("{cluster}.{}", full("h6/web", "supercluster.local")), &pods)?;
    }
    tidy(stage, &["local", "c3"], "h6")
}

fn stateful_remote(stage: &mut Stage) -> Result<()> {
    let pods = stateful(stage, "staging", "t1/web", 2)?;
    for (index, address) in pods.iter().enumerate() {
        let name = format!("web-{index}.staging.{}", full("t1/web", "supercluster.local"));
        addresses(stage, "local", &name, std::slice::from_ref(address))?;
        answered_by(stage, "local", &name, &[&format!("web-{index}")])?;
    }
    tidy(stage, &["staging"], "t1")
}

fn stateful_local(stage: &mut Stage) -> Result<()> {
    let pods = stateful(stage, "staging", "t2/web", 2)?;
    for (index, address) in pods.iter().enumerate() {
        for zone in ZONES {
            let name = format!("web-{index}.staging.{}", full("t2/web", zone));
            addresses(stage, "staging", &name, std::slice::from_ref(address))?;
        }
    }
    tidy(stage, &["staging"], "t2")
}

fn clusterset_ip(stage: &mut Stage) -> Result<()> {
    serve(stage, "staging", "v1/web")?;
    let ip = until(SOON, "the ServiceImport to have an address", || {
        let import = stage.get("staging", &["-n", "v1", "serviceimports.multicluster.x-k8s.io", "web"])?;
        match import["spec"]["ips"][0].as_str() {
            Some(ip) => Ok(ip.to_owned()),
            None => bail!("its spec is {}", import["spec"]),
        }
    })?;
    addresses(stage, "staging", &full("v1/web", "clusterset.local"), std::slice::from_ref(&ip))?;
    answered_by(stage, "staging", &ip, &["staging-web"])?;
    tidy(stage, &["staging"], "v1")
}

fn absent_namespace(stage: &mut Stage) -> Result<()> {
    serve(stage, "staging", "i1/web")?;
    super::walk::answered_by(stage, "local", &full("i1/web", "supercluster.local"), "staging-web")?;
    // As the standard has it, and Submariner: only where the namespace exists.
    let name = full("i1/web", "clusterset.local");
    same(&name, &"NXDOMAIN".to_owned(), &stage.dig("local", CLIENT, &name, "A")?.0)?;
    super::workloads::namespace(stage, "local", "i1")?;
    until(Duration::from_secs(30), "the name to appear with the namespace", || {
        same(&name, &"NOERROR".to_owned(), &stage.dig("local", CLIENT, &name, "A")?.0)
    })?;
    tidy(stage, &["staging", "local"], "i1")
}
