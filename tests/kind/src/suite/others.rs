//! Other developers: addresses that somebody has already, clusters that are deleted without a word, clusters made anew.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use daisy_kubernetes_tests::suite::{same, until};
use serde_json::Value;

use super::stage::{NAME, SOON, Stage};
use super::{Case, case};

/// The name that anna exports too, in the zone that has all backends.
const SHARED: &str = "nginx.nginx.svc.clusterset.local";

pub(super) fn cases() -> Vec<Case> {
    vec![
        case("others: anna has kind's default CIDRs and no worker: she joins, and is told where everything runs", anna),
        case(
            "others: ben takes the default CIDRs too: refused, with what is free and what to type; nothing was changed",
            default_cidrs,
        ),
        case("others: what he was told to type works: three laptops on one staging, and none shakes hands with another", three),
        case("others: anna's cluster is deleted without a leave: staging uses it no more", deleted),
        case("others: made anew, anna joins by --replace with a fresh invitation, and only so", replaced),
        case("others: anna's is deleted and evicted: her CIDRs are free for carl, who was refused before", evicted),
    ]
}

fn create(stage: &Stage, name: &str, words: &str) -> Result<()> {
    // A node says for a moment that it is ready before it sees that it has no pod network yet: what runs on one proves it.
    let lines = format!(
        "kind create cluster --name {name} {words}
         kind load image-archive daisy.tar --name {name}
         kubectl --context kind-{name} -n kube-system rollout status --timeout=2m deployment/coredns
         kubectl --context kind-{name} wait --for=condition=Ready --timeout=2m nodes --all"
    );
    stage.shell(&lines).map(drop)
}

fn anna(stage: &mut Stage) -> Result<()> {
    create(stage, "anna", "")?;
    let said = stage.shell("daisy join developers.daisy --context kind-anna --clusterid anna 2>&1")?;
    for part in ["gateways: anna-control-plane", "no worker node", "anna has joined", "10.244.0.0/16", "10.96.0.0/16"] {
        if !said.contains(part) {
            bail!("daisy join: no {part:?} in {said}");
        }
    }
    stage.client("anna")?;
    stage.answered_by("anna", NAME, "staging", SOON * 2).map(drop)
}

/// All that a refused join might have left.
fn state(stage: &Stage, cluster: &str) -> Result<String> {
    let kinds = "namespaces,customresourcedefinitions,clusterroles,serviceaccounts,secrets,services,deployments,daemonsets";
    let objects = stage.bed.kubectl(cluster, &["get", kinds, "-A", "-o", "name"])?;
    let nodes = stage
        .bed
        .kubectl(cluster, &["get", "nodes", "-o", "jsonpath={.items[*].metadata.labels}{.items[*].metadata.annotations}"])?;
    Ok(format!("{objects}{nodes}{}", stage.corefile(cluster)?))
}

fn default_cidrs(stage: &mut Stage) -> Result<()> {
    create(stage, "ben", "")?;
    let before = state(stage, "ben")?;
    let parts = [
        "CidrOverlap",
        "cluster ben asks for 10.244.0.0/16",
        "belongs to cluster anna",
        "these are free: --clustercidr",
        "kind delete cluster --name ben",
        "daisy kind-config developers.daisy --name ben > ben.yaml",
        "kind create cluster --config ben.yaml",
    ];
    stage.refused_with("daisy join developers.daisy --context kind-ben --clusterid ben", &parts)?;
    same("ben's cluster", &before, &state(stage, "ben")?)
}

fn three(stage: &mut Stage) -> Result<()> {
    stage.counted("between_laptops")?;
    stage.shell(
        "kind delete cluster --name ben
         daisy kind-config developers.daisy --name ben > ben.yaml
         kind create cluster --config ben.yaml
         kind load image-archive daisy.tar --name ben
         kubectl --context kind-ben wait --for=condition=Ready --timeout=2m nodes --all
         daisy join developers.daisy --context kind-ben --clusterid ben",
    )?;
    stage.client("ben")?;
    for laptop in ["ben", "anna", "local"] {
        stage.answered_by(laptop, NAME, "staging", SOON * 2).with_context(|| laptop.to_owned())?;
        let peers: Vec<_> =
            stage.connections(laptop)?.iter().map(|c| c["clusterId"].as_str().unwrap_or_default().to_owned()).collect();
        same(&format!("{laptop}'s connections"), &vec!["staging".to_owned()], &peers)?;
    }
    same("packets from one laptop to another", &0, &stage.counted("between_laptops")?)
}

/// The clusters that staging's import of the shared name has endpoints of.
fn sources(stage: &Stage) -> Result<Vec<String>> {
    let words = ["-n", "daisy-system", "endpointslices", "-l", "daisy.supercluster.local/import-name=nginx"];
    let slices: Value = stage.get("staging", &words)?;
    let mut found: Vec<String> = Vec::new();
    for slice in slices["items"].as_array().into_iter().flatten() {
        let usable = slice["endpoints"].as_array().into_iter().flatten().any(|e| e["conditions"]["ready"] != false);
        let cluster = slice["metadata"]["labels"]["multicluster.kubernetes.io/source-cluster"].as_str().unwrap_or_default();
        if usable && !found.iter().any(|c| c == cluster) {
            found.push(cluster.to_owned());
        }
    }
    found.sort();
    Ok(found)
}

fn deleted(stage: &mut Stage) -> Result<()> {
    stage.shell(
        "daisy grant anna nginx --broker-context kind-staging
         kubectl --context kind-anna apply -f kind/nginx.yaml
         kubectl --context kind-anna -n nginx wait --for=condition=Available --timeout=60s deployment/nginx
         daisy export service nginx -n nginx --context kind-anna",
    )?;
    stage.client("staging")?;
    let both = vec!["anna".to_owned(), "staging".to_owned()];
    until(SOON, "staging to use anna's nginx too", || same("the import's clusters", &both, &sources(stage)?))?;
    until(SOON, "staging to be answered by anna's", || {
        let page = stage.fetch("staging", SHARED)?;
        if page.contains("anna") { Ok(()) } else { bail!("it says {page:?}") }
    })?;
    stage.shell("kind delete cluster --name anna")?;
    let started = Instant::now();
    // Its own, and nothing else, many times in a row: what is used is no longer hers.
    until(SOON, "staging to be answered by its own alone", || {
        (0..12).try_for_each(|_| stage.answered_by("staging", SHARED, "staging", Duration::ZERO).map(drop))
    })?;
    println!(
        "                  staging's own alone answered {:.1} s after anna's cluster was gone",
        started.elapsed().as_secs_f64()
    );
    same("the import's clusters", &vec!["staging".to_owned()], &sources(stage)?)
}

fn replaced(stage: &mut Stage) -> Result<()> {
    create(stage, "anna", "")?;
    let join = "daisy join developers.daisy --context kind-anna --clusterid anna";
    // One that allows as much as she has.
    let invite = "daisy invite --broker-context kind-staging --export nginx > fresh.daisy";
    stage.refused_with(join, &["ClusterIdInUse", "anna", "--replace"])?;
    stage.refused_with(&format!("{join} --replace"), &["refused", "invitation", "daisy invite"])?;
    stage.shell(invite)?;
    let fresh = "daisy join fresh.daisy --context kind-anna --clusterid anna";
    stage.refused_with(fresh, &["ClusterIdInUse", "--replace"])?;
    stage.shell(&format!("{fresh} --replace"))?;
    stage.client("anna")?;
    stage.answered_by("anna", NAME, "staging", SOON * 2).map(drop)
}

fn evicted(stage: &mut Stage) -> Result<()> {
    stage.shell(
        "kind delete cluster --name ben
         kind delete cluster --name anna
         daisy invite --broker-context kind-staging --export none > fresh.daisy",
    )?;
    create(stage, "carl", "")?;
    let join = "daisy join fresh.daisy --context kind-carl --clusterid carl";
    stage.refused_with(join, &["CidrOverlap", "cluster carl asks for 10.244.0.0/16", "belongs to cluster anna"])?;
    stage.shell("daisy evict anna --broker-context kind-staging; daisy evict ben --broker-context kind-staging")?;
    let members = stage.shell("daisy members --broker-context kind-staging")?;
    if ["anna", "ben"].iter().any(|gone| members.contains(gone)) {
        bail!("anna or ben is still a member:\n{members}");
    }
    stage.shell(join)?;
    stage.client("carl")?;
    stage.answered_by("carl", NAME, "staging", SOON * 2)?;
    stage.shell("kind delete cluster --name carl; daisy evict carl --broker-context kind-staging").map(drop)
}
