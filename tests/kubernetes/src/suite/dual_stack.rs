//! Both address families, between clusters that have both, over an internet that has IPv4 alone.

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::discovery::{answered_by, export, full, tidy, unexport};
use super::stage::{SOON, Stage, same, until};
use super::walk::CLIENT;
use super::workloads::Pod;
use super::{Case, case};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case("submariner 6D1: a dual-stack ClusterIP Service", cluster_ip),
        case("submariner 6D2: a dual-stack headless Service", headless),
        case("dual stack: a Service of IPv6 alone", six_alone),
        case("dual stack: the first family of an import's address stays the first", first_family),
        case("dual stack: what is not exported is out of reach by IPv6 too", not_exported),
    ]
}

/// A web server, `CLUSTER-web`.
fn server(stage: &Stage, cluster: &str, namespace: &str) -> Result<()> {
    Pod::server(cluster, &format!("{namespace}/{cluster}-web")).run(stage)
}

/// A Service of it, of these families.
fn service(stage: &Stage, cluster: &str, namespace: &str, families: &[&str], headless: bool) -> Result<()> {
    let policy = if families.len() > 1 { "RequireDualStack" } else { "SingleStack" };
    let mut spec = json!({
        "selector": {"app": format!("{cluster}-web")}, "ipFamilyPolicy": policy, "ipFamilies": families,
        "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 80}],
    });
    if headless {
        spec["clusterIP"] = "None".into();
    }
    let metadata = json!({"name": "web", "namespace": namespace});
    let object = json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec});
    stage.bed.apply(cluster, &object.to_string()).map(drop)
}

/// The addresses of a pod, IPv4 and IPv6.
fn addresses(stage: &Stage, cluster: &str, pod: &str) -> Result<[String; 2]> {
    let (namespace, name) = pod.split_once('/').with_context(|| format!("{pod:?} is no NAMESPACE/POD"))?;
    let object = stage.get(cluster, &["-n", namespace, "pod", name])?;
    let ip = |index: usize| object["status"]["podIPs"][index]["ip"].as_str().map(str::to_owned);
    match [ip(0), ip(1)] {
        [Some(four), Some(six)] => Ok([four, six]),
        [..] => bail!("pod {pod} of {cluster} has not both: {}", object["status"]["podIPs"]),
    }
}

/// Waits until a name has exactly these addresses of each family in local.
fn named(stage: &Stage, name: &str, four: &[String], six: &[String]) -> Result<()> {
    until(SOON, &format!("{name} to be {four:?} and {six:?}"), || {
        for (kind, wanted) in [("A", four), ("AAAA", six)] {
            let (status, data) = stage.dig("local", CLIENT, name, kind)?;
            same(&format!("status of {name} {kind}"), &"NOERROR", &status.as_str())?;
            same(&format!("{name} {kind}"), &wanted, &data.as_slice())?;
        }
        Ok(())
    })
}

/// The addresses of an import.
fn import(stage: &Stage, at: &str, namespace: &str) -> Result<Vec<String>> {
    let import = stage.get(at, &["-n", namespace, "serviceimports.multicluster.x-k8s.io", "web"])?;
    let ips = import["spec"]["ips"].as_array().cloned().unwrap_or_default();
    Ok(ips.iter().filter_map(|ip| ip.as_str().map(str::to_owned)).collect())
}

/// Waits until an import has addresses of so many families.
fn import_of(stage: &Stage, at: &str, namespace: &str, families: usize) -> Result<Vec<String>> {
    until(SOON, &format!("the import to have {families} addresses"), || {
        let ips = import(stage, at, namespace)?;
        if ips.len() == families { Ok(ips) } else { bail!("it has {ips:?}") }
    })
}

/// The pod of a cluster answers the client of another at this host, by IPv6, and sees its own address.
fn answers_six(stage: &Stage, at: &str, cluster: &str, host: &str) -> Result<()> {
    let [_, own] = addresses(stage, at, CLIENT)?;
    let seen = until(SOON, &format!("{host} to answer"), || stage.fetch(at, CLIENT, host))?;
    same(&format!("who answers at {host}"), &format!("{cluster}-web"), &seen.server)?;
    same(&format!("whom {host} sees"), &own, &seen.client)
}

fn cluster_ip(stage: &mut Stage) -> Result<()> {
    let space = "six1";
    server(stage, "staging", space)?;
    service(stage, "staging", space, &["IPv4", "IPv6"], false)?;
    export(stage, "staging", "six1/web")?;
    let name = full("six1/web", "supercluster.local");
    // Absent in local: its namespace is too, and its addresses are those of an import without one.
    let ask = |kind| {
        until(SOON, &format!("an address of {name}, {kind}"), || match &stage.dig("local", CLIENT, &name, kind)?.1[..] {
            [one] => Ok(one.clone()),
            other => bail!("it has {other:?}"),
        })
    };
    let (four, six) = (ask("A")?, ask("AAAA")?);
    answered_by(stage, "local", &four, &["staging-web"])?;
    answers_six(stage, "local", "staging", &format!("[{six}]"))?;
    for family in ["-4", "-6"] {
        let url = format!("http://{name}/");
        let text = stage.printed("local", CLIENT, &["curl", "-sS", family, "--max-time", "5", &url])?;
        same(&format!("who answers curl {family}"), &Some("staging-web"), &text.split_whitespace().next())?;
    }
    tidy(stage, &["staging"], space)
}

fn headless(stage: &mut Stage) -> Result<()> {
    let space = "six2";
    server(stage, "staging", space)?;
    service(stage, "staging", space, &["IPv4", "IPv6"], true)?;
    export(stage, "staging", "six2/web")?;
    let [four, six] = addresses(stage, "staging", "six2/staging-web")?;
    named(stage, &full("six2/web", "supercluster.local"), std::slice::from_ref(&four), std::slice::from_ref(&six))?;
    answered_by(stage, "local", &four, &["staging-web"])?;
    answers_six(stage, "local", "staging", &format!("[{six}]"))?;
    tidy(stage, &["staging"], space)
}

fn six_alone(stage: &mut Stage) -> Result<()> {
    let space = "six3";
    super::workloads::namespace(stage, "local", space)?;
    server(stage, "staging", space)?;
    service(stage, "staging", space, &["IPv6"], false)?;
    export(stage, "staging", "six3/web")?;
    let ips = import_of(stage, "local", space, 1)?;
    for zone in ["supercluster.local", "clusterset.local"] {
        named(stage, &full("six3/web", zone), &[], &ips)?;
    }
    answers_six(stage, "local", "staging", &full("six3/web", "supercluster.local"))?;
    tidy(stage, &["staging", "local"], space)
}

fn first_family(stage: &mut Stage) -> Result<()> {
    let space = "six4";
    let name = full("six4/web", "supercluster.local");
    super::workloads::namespace(stage, "staging", space)?;
    server(stage, "local", space)?;
    service(stage, "local", space, &["IPv4"], false)?;
    export(stage, "local", "six4/web")?;
    let first = import_of(stage, "staging", space, 1)?;
    service(stage, "local", space, &["IPv4", "IPv6"], false)?;
    let both = import_of(stage, "staging", space, 2)?;
    same("the first address with IPv6 added", &first[0], &both[0])?;
    answers_six(stage, "staging", "local", &format!("[{}]", both[1]))?;
    // Another cluster has them the other way round, and is the only one left.
    server(stage, "c3", space)?;
    service(stage, "c3", space, &["IPv6", "IPv4"], false)?;
    export(stage, "c3", "six4/web")?;
    answered_by(stage, "staging", &name, &["local-web", "c3-web"])?;
    unexport(stage, "local", "six4/web")?;
    answered_by(stage, "staging", &name, &["c3-web"])?;
    same("the addresses of the import, which programs hold", &both, &import_of(stage, "staging", space, 2)?)?;
    answers_six(stage, "staging", "c3", &format!("[{}]", both[1]))?;
    tidy(stage, &["staging", "local", "c3"], space)
}

fn not_exported(stage: &mut Stage) -> Result<()> {
    let space = "six5";
    server(stage, "staging", space)?;
    service(stage, "staging", space, &["IPv6"], false)?;
    let [_, pod] = addresses(stage, "staging", "six5/staging-web")?;
    let service = stage.cluster_ip("staging", "six5/web")?;
    // Within staging they answer.
    until(SOON, "the server to answer in its own cluster", || stage.fetch("staging", CLIENT, &format!("[{pod}]")).map(drop))?;
    for address in [pod, service] {
        let seen = stage.exec("local", CLIENT, &["curl", "-sS", "--max-time", "3", &format!("http://[{address}]/")])?;
        same(&format!("whether {address} answers from local"), &false, &seen.ok)?;
    }
    tidy(stage, &["staging"], space)
}
