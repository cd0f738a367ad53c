//! What the cases work with: the bed, and ways to look at what happens on it.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
pub(super) use daisy_kubernetes_tests::suite::SOON;
use daisy_kubernetes_tests::suite::until;
use serde_json::Value;

use super::Options;
use crate::bed::Bed;

/// The name that the cases ask for, as a program in a pod does.
pub(super) const NAME: &str = "nginx.nginx.svc";

/// The bed and what the cases share.
pub(super) struct Stage {
    pub(super) bed: Bed,
    pub(super) options: Options,
    /// local's Corefile as kind made it.
    pub(super) corefile: String,
}

impl Stage {
    /// Runs a command line of the developer's, as bash reads it; what it prints.
    pub(super) fn shell(&self, line: &str) -> Result<String> {
        self.bed.run(&["bash", "-euo", "pipefail", "-c", line]).with_context(|| line.to_owned())
    }

    /// Runs one that is to fail; what it says.
    pub(super) fn refused(&self, line: &str) -> Result<String> {
        let output = self.bed.command(&["bash", "-euo", "pipefail", "-c", line])?.stdin(Stdio::null()).output()?;
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if output.status.success() {
            bail!("{line}: it was to be refused, and said: {said}");
        }
        Ok(said)
    }

    /// The same, and what it says has all of these in it.
    pub(super) fn refused_with(&self, line: &str, parts: &[&str]) -> Result<String> {
        let said = self.refused(line)?;
        for part in parts {
            if !said.contains(part) {
                bail!("{line}: {part:?} is not in what it said: {said}");
            }
        }
        Ok(said)
    }

    /// An object of a cluster.
    pub(super) fn get(&self, cluster: &str, words: &[&str]) -> Result<Value> {
        let text = self.bed.kubectl(cluster, &[&["get", "-o", "json"], words].concat())?;
        serde_json::from_str(&text).with_context(|| format!("kubectl get {}", words.join(" ")))
    }

    /// A cluster's Corefile.
    pub(super) fn corefile(&self, cluster: &str) -> Result<String> {
        let map = self.get(cluster, &["-n", "kube-system", "configmap", "coredns"])?;
        map["data"]["Corefile"].as_str().map(str::to_owned).with_context(|| format!("{cluster} has no Corefile"))
    }

    /// Whether there is a cluster of kind of this name.
    pub(super) fn has(&self, cluster: &str) -> Result<bool> {
        Ok(self.shell("kind get clusters 2> /dev/null")?.lines().any(|line| line == cluster))
    }

    /// Makes a pod like the page's client in a cluster and waits until it runs.
    pub(super) fn client(&self, cluster: &str) -> Result<()> {
        self.bed.kubectl(cluster, &["apply", "-f", "kind/client.yaml"])?;
        self.bed.kubectl(cluster, &["wait", "--for=condition=Ready", "--timeout=90s", "pod/client"]).map(drop)
    }

    /// What a cluster's client prints.
    pub(super) fn in_client(&self, cluster: &str, words: &[&str]) -> Result<String> {
        self.bed.kubectl(cluster, &[&["exec", "client", "--"], words].concat())
    }

    /// The page that a cluster's client gets at a name: `nginx on NODE`.
    pub(super) fn fetch(&self, cluster: &str, name: &str) -> Result<String> {
        let url = format!("http://{name}/");
        self.in_client(cluster, &["curl", "--silent", "--show-error", "--max-time", "3", &url])
            .map(|text| text.trim().to_owned())
    }

    /// Asks once whether the page at a name is of a node of this cluster.
    pub(super) fn is_answered_by(&self, cluster: &str, name: &str, by: &str) -> Result<()> {
        let page = self.fetch(cluster, name)?;
        if page.starts_with(&format!("nginx on {by}-")) { Ok(()) } else { bail!("it says {page:?}") }
    }

    /// Waits until the page at a name is of a node of this cluster; how long that took.
    pub(super) fn answered_by(&self, cluster: &str, name: &str, by: &str, limit: Duration) -> Result<Duration> {
        let started = Instant::now();
        until(limit, &format!("{name} to be answered by {by} in {cluster}"), || self.is_answered_by(cluster, name, by))?;
        Ok(started.elapsed())
    }

    /// A cluster's connections, as Daisy shows them.
    pub(super) fn connections(&self, cluster: &str) -> Result<Vec<Value>> {
        let text = self.shell(&format!("daisy show connections --context kind-{cluster} -o json"))?;
        let list: Value = serde_json::from_str(&text).with_context(|| format!("daisy show connections: {text}"))?;
        list.as_array().cloned().with_context(|| format!("daisy show connections: {text}"))
    }

    /// A node's address in its Docker network.
    pub(super) fn address(&self, node: &str) -> Result<String> {
        let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
        let text = self.bed.run(&["docker", "inspect", node, "--format", format])?;
        Ok(text.trim().to_owned())
    }

    /// What the bed's router has counted under a name since it was last asked.
    pub(super) fn counted(&self, counter: &str) -> Result<u64> {
        let text = self.bed.run(&["nft", "-j", "reset", "counter", "inet", "seen", counter])?;
        let value: Value = serde_json::from_str(&text)?;
        let found = value["nftables"].as_array().into_iter().flatten().find_map(|entry| entry["counter"]["packets"].as_u64());
        found.with_context(|| format!("nft: {text}"))
    }
}
