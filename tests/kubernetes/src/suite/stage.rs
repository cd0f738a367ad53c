//! What the cases work with: the bed, and ways to look at what happens on it.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::Options;
use crate::bed::Bed;

/// How long anything may take that happens by itself.
pub const SOON: Duration = Duration::from_secs(60);

/// The bed and what the cases share.
pub(super) struct Stage {
    pub(super) bed: Bed,
    pub(super) options: Options,
}

/// What a program in a pod printed, and whether it succeeded.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) ok: bool,
    pub(super) out: String,
    pub(super) err: String,
}

impl Stage {
    pub(super) fn new(bed: Bed, options: &Options) -> Result<Self> {
        bed.offer(&options.daisy, "daisy")?;
        Ok(Self { bed, options: options.clone() })
    }

    /// Where everything has been logged.
    pub(super) fn logs(&self) -> PathBuf {
        self.bed.logs()
    }

    /// kubectl in a cluster.
    pub(super) fn kubectl(&self, cluster: &str, words: &[&str]) -> Result<String> {
        self.bed.kubectl(cluster, words)
    }

    /// An object of a cluster.
    pub(super) fn get(&self, cluster: &str, words: &[&str]) -> Result<Value> {
        let mut line = vec!["get", "-o", "json"];
        line.extend(words);
        Ok(serde_json::from_str(&self.kubectl(cluster, &line)?)?)
    }

    /// Runs a program in a pod, given as `NAMESPACE/POD`, by `kubectl exec`.
    pub(super) fn exec(&self, cluster: &str, pod: &str, words: &[&str]) -> Result<Seen> {
        let (namespace, name) = pod.split_once('/').with_context(|| format!("{pod:?} is no NAMESPACE/POD"))?;
        let mut line = vec!["-n", namespace, "exec", name, "--"];
        line.extend(words);
        let output = self.bed.kubectl_command(cluster, &line).stdin(Stdio::null()).output().context("starting kubectl")?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        Ok(Seen { ok: output.status.success(), out: text(&output.stdout), err: text(&output.stderr) })
    }

    /// What a program in a pod prints, if it succeeds.
    pub(super) fn printed(&self, cluster: &str, pod: &str, words: &[&str]) -> Result<String> {
        let seen = self.exec(cluster, pod, words)?;
        if !seen.ok {
            bail!("{} in {cluster}, pod {pod}: {} {}", words.join(" "), seen.out, seen.err);
        }
        Ok(seen.out)
    }

    /// What the web server at a name or address answers a pod: which pod it is, and whom it sees.
    pub(super) fn fetch(&self, cluster: &str, pod: &str, host: &str) -> Result<Answer> {
        let url = format!("http://{host}/");
        let text = self.printed(cluster, pod, &["curl", "-sS", "--max-time", "3", &url])?;
        let words: Vec<_> = text.split_whitespace().collect();
        let [server, client, ..] = words[..] else { bail!("{url} answered {cluster}'s pod {pod}: {text:?}") };
        Ok(Answer { server: server.to_owned(), client: client.to_owned() })
    }

    /// The system resolver's answer in a pod: address and name; nothing where there is none.
    pub(super) fn getent(&self, cluster: &str, pod: &str, name: &str) -> Result<Option<(String, String)>> {
        let seen = self.exec(cluster, pod, &["getent", "hosts", name])?;
        let mut words = seen.out.split_whitespace();
        Ok(words.next().zip(words.next()).map(|(address, name)| (address.to_owned(), name.to_owned())))
    }

    /// A DNS question in a pod: its status, and the answers' data, sorted.
    pub(super) fn dig(&self, cluster: &str, pod: &str, name: &str, kind: &str) -> Result<(String, Vec<String>)> {
        let words = ["dig", "+time=3", "+tries=2", "+noall", "+comments", "+answer", name, kind];
        let text = self.printed(cluster, pod, &words)?;
        let status = text.lines().find_map(|line| line.split_once("status: ")?.1.split(',').next());
        let status = status.with_context(|| format!("dig {name} {kind} printed no status: {text}"))?.to_owned();
        let answers = text.lines().filter(|line| !line.starts_with(';') && !line.trim().is_empty());
        let mut data: Vec<_> = answers
            .filter_map(|l| Some(l.split_whitespace().skip(4).collect::<Vec<_>>().join(" ")).filter(|d| !d.is_empty()))
            .collect();
        data.sort();
        Ok((status, data))
    }

    /// The address of a pod, given as `NAMESPACE/POD`.
    pub(super) fn pod_address(&self, cluster: &str, pod: &str) -> Result<String> {
        let (namespace, name) = pod.split_once('/').with_context(|| format!("{pod:?} is no NAMESPACE/POD"))?;
        let object = self.get(cluster, &["-n", namespace, "pod", name])?;
        object["status"]["podIP"].as_str().map(str::to_owned).with_context(|| format!("pod {pod} of {cluster} has no address"))
    }

    /// The ClusterIP of a Service, given as `NAMESPACE/SERVICE`.
    pub(super) fn cluster_ip(&self, cluster: &str, service: &str) -> Result<String> {
        let (namespace, name) = service.split_once('/').with_context(|| format!("{service:?} is no NAMESPACE/SERVICE"))?;
        let object = self.get(cluster, &["-n", namespace, "service", name])?;
        object["spec"]["clusterIP"]
            .as_str()
            .map(str::to_owned)
            .with_context(|| format!("Service {service} of {cluster} has no ClusterIP"))
    }
}

/// What the tests' web server answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    /// The pod that answered.
    pub(super) server: String,
    /// The address that it saw.
    pub(super) client: String,
}

/// Tries until it succeeds, within `limit`.
///
/// # Errors
/// When it does not, with why it did not the last time.
pub fn until<T>(limit: Duration, what: &str, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let started = Instant::now();
    let mut pause = Duration::from_millis(50);
    loop {
        let error = match attempt() {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        if started.elapsed() > limit {
            return Err(error.context(format!("expected within {} s: {what}", limit.as_secs())));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(500));
    }
}

/// Fails unless what was seen is what was expected.
///
/// # Errors
/// When it is not.
pub fn same<T: PartialEq + std::fmt::Debug>(what: &str, expected: &T, seen: &T) -> Result<()> {
    if expected == seen {
        return Ok(());
    }
    bail!("{what}: expected {expected:?}, saw {seen:?}")
}
