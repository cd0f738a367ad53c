//! The bed's first process: a network namespace that is the laptops' router, with dockerd in it.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use daisy_kubernetes_tests::bed::init::{Child, own_etc, supervise, tmpfs};
use daisy_kubernetes_tests::bed::succeeded;
use daisy_kubernetes_tests::programs as path;
use serde_json::json;

use super::network::NAMES;
use super::state;

/// Where dockerd says which process it is.
pub(super) const PID_FILE: &str = "/run/dockerd.pid";

/// Writes what the first process's children read.
pub(super) fn configure(folder: &Path) -> Result<()> {
    let runtime = json!({"path": folder.join(state::PROGRAM), "runtimeArgs": ["kind", "runtime", "--"]});
    let daemon = json!({
        "runtimes": {"bounded": runtime},
        "default-runtime": "bounded",
        // Laptops' networks are of these; staging's has its own.
        "default-address-pools": [{"base": "192.168.0.0/16", "size": 24}],
        "log-driver": "json-file",
    });
    fs::write(folder.join("daemon.json"), daemon.to_string())?;
    // Of the world outside nothing is known, and that is said at once.
    let zone = format!(".:53 {{\n    bind {NAMES}\n    template ANY ANY {{\n        rcode NXDOMAIN\n    }}\n}}\n");
    fs::write(folder.join("Corefile"), zone)?;
    Ok(())
}

/// Is the first process. Returns only when it could not begin.
///
/// # Errors
/// When it is not, or the network cannot be made.
pub fn hold(folder: &Path, name: &str) -> Result<()> {
    if std::process::id() != 1 {
        bail!("this is started by `cargo xtask kind up` alone");
    }
    tmpfs("/run", "mode=755")?;
    own_etc(&format!("nameserver {NAMES}\noptions timeout:1 attempts:1\n"))?;
    for line in [
        "link set lo up",
        &format!("address add {NAMES}/32 dev lo"),
        // Whatever nobody has is nowhere, and it is said.
        "route add unreachable default metric 4278198272",
    ] {
        let output = Command::new("ip").args(line.split(' ')).env("PATH", path::path()).output().context("starting ip")?;
        succeeded(&format!("ip {line}"), &output)?;
    }
    supervise(vec![child(folder, "dockerd", docker(folder, name)), child(folder, "coredns", names(folder))])
}

fn child(folder: &Path, name: &str, words: Vec<String>) -> Child {
    Child::new(name, words, folder.join(format!("{name}.off")), folder.join("logs").join(format!("{name}.log")))
}

fn docker(folder: &Path, name: &str) -> Vec<String> {
    let at = |file: &str| folder.join(file).display().to_string();
    [
        "dockerd".to_owned(),
        format!("--config-file={}", at("daemon.json")),
        format!("--data-root={}", at("docker")),
        "--exec-root=/run/docker".to_owned(),
        format!("--pidfile={PID_FILE}"),
        format!("--host=unix://{}", at(state::SOCKET)),
        "--exec-opt=native.cgroupdriver=cgroupfs".to_owned(),
        format!("--cgroup-parent=/{}", state::cgroup(name)),
    ]
    .into()
}

fn names(folder: &Path) -> Vec<String> {
    vec![folder.join("bin/coredns").display().to_string(), "-conf".to_owned(), folder.join("Corefile").display().to_string()]
}
