//! A Kubernetes cluster as the broker: one that is a member too. Once everybody has left the embedded one.

use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::stage::{SOON, Stage, same, until};
use super::supercluster::{daisy, daisy_json, join, leave, nothing_left, zones};
use super::walk::{CLIENT, answered_by};
use super::workloads::{Pod, Service, delete};
use super::{Case, case, needed};

const INFO: &str = "kubernetes-broker.daisy";
const CLUSTERS: [&str; 2] = ["staging", "local"];

pub(super) fn cases() -> Vec<Case> {
    vec![
        needed("Kubernetes broker: deploy-broker on staging, which joins it too, and local", begin),
        case("Kubernetes broker: an export of each answers in the other", exports),
        case("Kubernetes broker: hostile tokens, of an invitation and of a member", hostile),
        case("Kubernetes broker: it stays when its cluster leaves; uninstall --broker leaves nothing", end),
    ]
}

fn begin(stage: &mut Stage) -> Result<()> {
    // One that is there stays as it is, and may be of a broker that was here before.
    let left = stage.bed.folder().join("work").join(INFO);
    if left.exists() {
        fs::remove_file(&left)?;
    }
    let image = stage.options.image_name.clone();
    let words = ["deploy-broker", "--context", "staging", "--image", &image, "--output", INFO];
    daisy(stage, "staging", &words)?;
    for cluster in CLUSTERS {
        let took = join(stage, cluster, INFO)?;
        println!("                  {cluster} joined in {:.1} s", took.ready.as_secs_f64());
    }
    let members = daisy_json(stage, "staging", &["members", "--broker-context", "staging"])?;
    let mut ids: Vec<_> = members.as_array().into_iter().flatten().filter_map(|m| m["metadata"]["name"].as_str()).collect();
    ids.sort_unstable();
    same("the broker's members", &vec!["local", "staging"], &ids)?;
    CLUSTERS.iter().try_for_each(|cluster| zones(stage, cluster))
}

fn exports(stage: &mut Stage) -> Result<()> {
    for (cluster, other) in [("staging", "local"), ("local", "staging")] {
        let name = format!("of-{cluster}");
        Pod::server(cluster, &format!("kb/{name}")).run(stage)?;
        Service::new(cluster, &format!("kb/{name}"), &name).make(stage)?;
        daisy(stage, cluster, &["export", "service", &name, "-n", "kb", "--context", cluster])?;
        answered_by(stage, other, &format!("{name}.kb.svc"), &name)?;
        same(
            "the address that it sees",
            &stage.pod_address(other, CLIENT)?,
            &stage.fetch(other, CLIENT, &format!("{name}.kb.svc"))?.client,
        )?;
    }
    Ok(())
}

/// The broker's own suite, against this one.
fn hostile(stage: &mut Stage) -> Result<()> {
    let program = stage.options.hostile.as_ref().context("the hostile tests were not built")?;
    let mut command = Command::new(program);
    command.args(["kubernetes::", "--test-threads=1"]).env("DAISY_TEST_BROKER_KUBECONFIG", stage.bed.kubeconfig());
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("starting {}", program.display()))?;
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if !output.status.success() || text.contains("SKIPPED") || text.contains("0 passed") {
        bail!("{text}");
    }
    let summary = text.lines().find(|line| line.starts_with("test result")).unwrap_or_default();
    println!("                  {summary}");
    Ok(())
}

fn registrar(stage: &Stage) -> Result<Value> {
    stage.get("staging", &["-n", "daisy-broker", "deployment", "daisy-registrar"])
}

fn end(stage: &mut Stage) -> Result<()> {
    for cluster in CLUSTERS {
        delete(stage, cluster, "namespace", "kb")?;
    }
    let local = stage.bed.plan.cluster("local")?.clone();
    leave(stage, &local)?;
    daisy(stage, "staging", &["leave", "--context", "staging"])?;
    let ready = registrar(stage)?["status"]["readyReplicas"].as_u64().unwrap_or(0);
    if ready == 0 {
        bail!("the broker's registrar is not there any more: {}", registrar(stage)?);
    }
    daisy(stage, "staging", &["uninstall", "--broker", "--context", "staging"])?;
    let staging = stage.bed.plan.cluster("staging")?.clone();
    until(SOON, "nothing of Daisy's in staging", || nothing_left(stage, &staging))
}
