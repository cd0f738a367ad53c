//! `daisy lab-internal …`: what a lab's processes run. No user types these.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;

use anyhow::Context;
use serde::de::DeserializeOwned;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::{cluster_dns, control_plane, holder, http, kubelet, proxy, walk};

/// Runs a process of the lab: `arguments` are those after `daisy lab-internal`.
///
/// Must be called before this process has started any thread.
#[must_use]
pub fn internal_main(arguments: &[OsString]) -> ExitCode {
    let words: Vec<_> = arguments.iter().map(|a| a.to_string_lossy()).collect();
    let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
    // Before logging and runtime: it forks.
    if let ["init", json] = words.as_slice() {
        return holder::run(json);
    }
    // Commands that people and the walk run: their errors are for those who read them.
    let said = match words.as_slice() {
        ["fetch", rest @ ..] => Some(walk::tools::fetch(&owned(rest))),
        ["ask", rest @ ..] => Some(walk::tools::ask(&owned(rest))),
        _ => None,
    };
    if let Some(said) = said {
        return said.map_or_else(
            |e| {
                eprintln!("{e:#}");
                ExitCode::FAILURE
            },
            |()| ExitCode::SUCCESS,
        );
    }
    start_logging();
    let ended = match words.as_slice() {
        ["control-plane", json] => with_json(json, |options| control_plane::run(options, Ready::new())),
        ["kubelet", json] => with_json(json, kubelet::run),
        ["proxy", json] => with_json(json, |options| proxy::run(options, Ready::new())),
        ["cluster-dns"] => on_runtime(cluster_dns_main()),
        ["http", rest @ ..] => {
            http::Options::parse(rest).map_err(Into::into).and_then(|o| on_runtime(http::run(o, terminated())))
        }
        ["pause", ..] => on_runtime(async {
            terminated().await;
            Ok(())
        }),
        _ => Err(anyhow::anyhow!("`daisy lab-internal` is for the lab's own use; `daisy lab --help` says what it can do")),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            tracing::error!("{e:#}");
            ExitCode::FAILURE
        }
    }
}

/// Logs to standard error, which goes to the process's file in `logs/`.
pub(crate) fn start_logging() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,boringtun=off,hickory_server=warn"));
    // Someone may have started it already; then theirs is used.
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(false).try_init();
}

/// A runtime of two workers: a lab has many processes.
pub(crate) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    // Fails when it is set already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().context("starting the runtime")
}

fn on_runtime(role: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    runtime()?.block_on(role)
}

fn with_json<T, R>(json: &str, role: impl FnOnce(T) -> R) -> anyhow::Result<()>
where
    T: DeserializeOwned,
    R: Future<Output = anyhow::Result<()>>,
{
    let arguments = serde_json::from_str(json).context("the arguments")?;
    on_runtime(async { role(arguments).await })
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|w| (*w).to_owned()).collect()
}

/// How one of the lab's processes says, once, that it is ready: on the socket that is its standard input.
#[derive(Debug)]
pub struct Ready(());

impl Ready {
    fn new() -> Self {
        Self(())
    }

    /// Says so.
    pub fn signal(self) {
        say_ready();
    }
}

/// Says that this process is ready.
pub(crate) fn say_ready() {
    let said = io::stdin().as_fd().try_clone_to_owned().and_then(|fd| File::from(fd).write_all(b"\n"));
    if let Err(e) = said {
        tracing::warn!("nobody hears that this process is ready: {e}");
    }
}

/// Returns when the process is asked to end.
pub(crate) async fn terminated() {
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        tracing::error!("signals cannot be watched");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}

/// A client with the credentials of a kubeconfig file.
pub(crate) async fn client(path: &std::path::Path) -> anyhow::Result<kube::Client> {
    let config = kube::config::Kubeconfig::read_from(path).with_context(|| format!("{}", path.display()))?;
    let config = kube::Config::from_custom_kubeconfig(config, &kube::config::KubeConfigOptions::default()).await?;
    Ok(kube::Client::try_from(config)?)
}

async fn cluster_dns_main() -> anyhow::Result<()> {
    let client = kube::Client::try_default().await?;
    let options = cluster_dns::ClusterDnsOptions::default();
    cluster_dns::run(client, options, terminated()).await
}
