//! What a developer may have wrong, and what he reads then.

use anyhow::Result;

use super::stage::Stage;
use super::{Case, case};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case("bad input: no Docker, no kind, an old kind", scripts),
        case("bad input: an image that is on no node", image_not_loaded),
        case("bad input: a broker that nobody else would find, or that the cluster's pods do not reach", broker_out_of_reach),
    ]
}

/// What `kind/up` says before it begins.
fn scripts(stage: &mut Stage) -> Result<()> {
    let up = stage.options.daisy.repository.join("kind/up").display().to_string();
    stage.refused_with(
        &format!("DOCKER_HOST=unix:///nowhere.sock {up}"),
        &["Docker does not answer at unix:///nowhere.sock", "start it"],
    )?;
    // A path of what is there anyway, and Docker.
    let path = "mkdir -p few && ln -sf $BED/bin/docker few/ && export PATH=$PWD/few:/usr/bin:/bin";
    stage.refused_with(
        &format!("{path}; {up}"),
        &["kind is not in PATH", "install kind 0.27 or newer", "cargo xtask kind up"],
    )?;
    let old = "printf '#!/bin/sh\\necho kind v0.11.1 go1.16 linux/amd64\\n' > few/kind && chmod +x few/kind";
    stage.refused_with(&format!("{path}; {old}; {up}"), &["kind is 0.11.1", "want 0.27 or newer", "upgrade it"])?;
    stage.shell("rm -r few").map(drop)?;
    stage.refused_with(&up, &["there is a cluster of kind called staging already", "kind/down"]).map(drop)
}

/// On a cluster that has joined: the join again, with an image that is on none of its nodes.
fn image_not_loaded(stage: &mut Stage) -> Result<()> {
    let join = "daisy join developers.daisy --context kind-local --clusterid local";
    let parts =
        ["daisy:of-tomorrow", "kind load docker-image daisy:of-tomorrow --name local", "kind load image-archive", "--image"];
    let said = stage.refused_with(&format!("{join} --image daisy:of-tomorrow --timeout 20s"), &parts);
    // What it was before, whatever came of that.
    stage.shell(join)?;
    said.map(drop)
}

fn broker_out_of_reach(stage: &mut Stage) -> Result<()> {
    let parts = ["https://127.0.0.1:", "--server", "kind: https://"];
    stage.refused_with("daisy deploy-broker --context kind-local --output other.daisy", &parts)?;
    // What the laptop reaches and its cluster's pods do not: the broker at the laptop's own loopback.
    let line = "daisy invite --broker-context kind-staging --export none \
                  --server $(kubectl config view --raw -o jsonpath='{.clusters[?(@.name==\"kind-staging\")].cluster.server}') > loopback.daisy
                daisy join loopback.daisy --context kind-local --clusterid local --timeout 20s";
    let said = stage.refused_with(line, &["the syncer to reach the broker", "Unreachable", "may this cluster's pods connect"]);
    stage.shell("daisy join developers.daisy --context kind-local --clusterid local")?;
    said.map(drop)
}
