//! A container: a process that is started, probed, started again, and ended.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Container as Spec;
use k8s_openapi::jiff::Timestamp;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::Child;
use tokio::sync::watch;

use super::environment::{self, Facts};
use super::image::{self, Image};
use super::pod::Running;
use super::probe::{Prober, Site};

/// The first and the longest pause before a container is started again. A kubelet's are 10 s and 5 min; here people wait.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// A container that ran this long is started again as if for the first time.
const SETTLED: Duration = Duration::from_secs(60);

/// How a container is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// It does not run yet, or not at the moment.
    Waiting {
        /// In CamelCase.
        reason: &'static str,
        /// For people.
        message: String,
    },
    /// It runs.
    Running {
        /// Since when.
        since: Timestamp,
        /// Its process.
        pid: i32,
    },
    /// It has ended for good.
    Ended(Ending),
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ending {
    /// As shells count: an exit code, or 128 and a signal.
    pub(super) code: i32,
    pub(super) started: Timestamp,
    pub(super) finished: Timestamp,
}

/// What is known of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) state: State,
    pub(super) last: Option<Ending>,
    pub(super) ready: bool,
    pub(super) restarts: i32,
    pub(super) environment: Arc<Vec<(String, String)>>,
}

impl Default for Report {
    fn default() -> Self {
        let state = State::Waiting { reason: "ContainerCreating", message: String::new() };
        Self { state, last: None, ready: false, restarts: 0, environment: Arc::default() }
    }
}

/// When a container is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Restart {
    Always,
    OnFailure,
    Never,
}

impl Restart {
    pub(super) fn parse(policy: Option<&str>) -> Self {
        match policy {
            Some("Never") => Self::Never,
            Some("OnFailure") => Self::OnFailure,
            _ => Self::Always,
        }
    }

    fn again(self, code: i32) -> bool {
        match self {
            Self::Always => true,
            Self::OnFailure => code != 0,
            Self::Never => false,
        }
    }
}

/// A container to be run.
pub(super) struct Container {
    pub(super) pod: Arc<Running>,
    pub(super) spec: Spec,
    /// Its place among the reports.
    pub(super) index: usize,
    pub(super) restart: Restart,
    pub(super) stop: watch::Receiver<bool>,
}

impl Container {
    fn report(&self, change: impl FnOnce(&mut Report)) {
        self.pod.reports.send_modify(|reports| {
            if let Some(report) = reports.get_mut(self.index) {
                change(report);
            }
        });
    }

    fn waiting(&self, reason: &'static str, message: String) {
        tracing::info!(pod = self.pod.name, container = self.spec.name, reason, message, "waiting");
        self.report(|r| r.state = State::Waiting { reason, message });
    }

    /// Runs until it is stopped, or has ended for good; returns the last exit code.
    pub(super) async fn run(mut self) -> i32 {
        let Some(image) = Image::parse(self.spec.image.as_deref().unwrap_or_default()) else {
            self.waiting("ErrImagePull", image::unknown(self.spec.image.as_deref().unwrap_or_default()));
            self.stopped().await;
            return 0;
        };
        let mut backoff = BACKOFF.0;
        loop {
            let (code, ran) = match self.start(image).await {
                Ok((mut child, pid, environment)) => {
                    let (began, since) = (Instant::now(), Timestamp::now());
                    let ended = self.watch(&mut child, pid, since, &environment).await;
                    let Some(code) = ended else { return 0 };
                    // What it started and left behind goes with it.
                    kill_group(pid, Signal::SIGKILL);
                    let ending = Ending { code, started: since, finished: Timestamp::now() };
                    tracing::info!(pod = self.pod.name, container = self.spec.name, code, "ended");
                    self.report(|r| {
                        r.ready = false;
                        r.last = Some(ending.clone());
                        r.state = State::Ended(ending);
                    });
                    if !self.restart.again(code) {
                        return code;
                    }
                    (code, began.elapsed())
                }
                Err((reason, message)) => {
                    self.waiting(reason, message);
                    (128, Duration::ZERO)
                }
            };
            if ran > SETTLED {
                backoff = BACKOFF.0;
            }
            if ran > Duration::ZERO {
                let again = format!("back-off {} ms after exit code {code}", backoff.as_millis());
                self.waiting("CrashLoopBackOff", again);
            }
            tokio::select! {
                () = tokio::time::sleep(backoff) => {}
                () = self.stopped() => return code,
            }
            backoff = (backoff * 2).min(BACKOFF.1);
            if ran > Duration::ZERO {
                self.report(|r| r.restarts += 1);
            }
        }
    }

    async fn stopped(&mut self) {
        // When nobody can stop it any more, it is to stop.
        let _ = self.stop.wait_for(|stop| *stop).await;
    }

    /// `None` when it was stopped, else its exit code.
    async fn watch(&mut self, child: &mut Child, pid: i32, since: Timestamp, environment: &[(String, String)]) -> Option<i32> {
        let prober = Prober::of(&self.spec, self.pod.sandbox.address);
        let ready = prober.is_none();
        self.report(|r| {
            r.state = State::Running { since, pid };
            r.ready = ready;
            r.environment = Arc::new(environment.to_vec());
        });
        let directory = CString::from(c"/");
        let site = Site { net: self.pod.sandbox.net(), entrance: self.pod.sandbox.entrance(directory), environment };
        let probing = async {
            match &prober {
                Some(prober) => prober.run(&site, |ready| self.report(|r| r.ready = ready)).await,
                None => std::future::pending().await,
            }
        };
        let mut stop = self.stop.clone();
        tokio::select! {
            status = child.wait() => return Some(status.map_or(255, exit_code)),
            () = probing => return Some(255),
            _ = stop.wait_for(|stop| *stop) => {}
        }
        self.report(|r| r.ready = false);
        kill_group(pid, Signal::SIGTERM);
        if tokio::time::timeout(self.pod.grace, child.wait()).await.is_err() {
            tracing::info!(pod = self.pod.name, container = self.spec.name, "killed: it did not end in time");
        }
        kill_group(pid, Signal::SIGKILL);
        // Killed for certain.
        let _ = child.wait().await;
        None
    }

    async fn start(&self, image: Image) -> Result<(Child, i32, Vec<(String, String)>), (&'static str, String)> {
        let pod = &self.pod;
        let facts = Facts {
            client: &pod.context.client,
            cluster: pod.context.options.plan.name.as_str(),
            pod: &pod.object,
            node: &pod.node_name,
            pod_address: pod.sandbox.address,
            node_address: pod.node_address,
            api_service: pod.context.options.plan.api_service_address(),
            hostname: &pod.hostname,
            kubeconfig: pod.kubeconfig,
        };
        let variables = environment::of(&self.spec, &facts).await.map_err(|e| ("CreateContainerConfigError", e.to_string()))?;
        let expanded = |words: &Option<Vec<String>>| expand_all(words.as_deref().unwrap_or_default(), &variables);
        let line = image.command_line(expanded(&self.spec.command), expanded(&self.spec.args));
        let environment: Vec<_> = variables.into_iter().collect();
        let failed = |e: &dyn std::fmt::Display| ("RunContainerError", format!("{}: {e}", line[0]));
        let log = self.log_path();
        let output = OpenOptions::new().create(true).append(true).open(&log).map_err(|e| failed(&e))?;
        let error = output.try_clone().map_err(|e| failed(&e))?;
        let directory = self.spec.working_dir.clone().unwrap_or_else(|| "/".to_owned());
        let directory = CString::new(directory).map_err(|e| failed(&e))?;
        let mut process = tokio::process::Command::new(&line[0]);
        process.args(&line[1..]).env_clear().envs(environment.iter().cloned());
        process.stdin(Stdio::null()).stdout(output).stderr(error);
        pod.sandbox.entrance(directory).prepare(&mut process);
        let child = process.spawn().map_err(|e| failed(&e))?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).unwrap_or_default();
        tracing::info!(pod = pod.name, container = self.spec.name, pid, "started");
        Ok((child, pid, environment))
    }

    fn log_path(&self) -> PathBuf {
        // A name of Kubernetes has no slash in it.
        self.pod.context.options.logs.join(Path::new(&format!("{}-{}.log", self.pod.pod_name, self.spec.name)))
    }
}

fn expand_all(words: &[String], variables: &BTreeMap<String, String>) -> Vec<String> {
    words.iter().map(|word| environment::expand(word, variables)).collect()
}

fn exit_code(status: std::process::ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().or_else(|| status.signal().map(|s| 128 + s)).unwrap_or(255)
}

/// Signals all of a container's processes: its first one leads their group.
fn kill_group(pid: i32, signal: Signal) {
    if pid > 0 {
        // Nothing may be left of it.
        let _ = killpg(Pid::from_raw(pid), signal);
    }
}
