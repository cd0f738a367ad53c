//! Processes that run for as long as the lab: the clusters' own, which are started again when they end, and those that a user
//! starts, which are not.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::process::Child;
use tokio::sync::{oneshot, watch};

use super::exec::{code, spawn};
use super::place::Site;
use crate::network::connect;
use crate::protocol::{Command, ServiceCommand};
use crate::sys::Netns;
use crate::task;

/// The first and the longest pause before an ended process is started again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// A process that ran this long is started again as if for the first time.
const SETTLED: Duration = Duration::from_secs(30);
/// How long a service may take until it accepts connections.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// How long between two attempts to connect to it.
const READY_EVERY: Duration = Duration::from_millis(10);

/// All that run, by name.
pub(super) struct Services {
    logs: PathBuf,
    running: Mutex<BTreeMap<String, Running>>,
}

#[derive(Clone)]
struct Running {
    /// The process's number while there is one.
    pid: watch::Receiver<State>,
    stop: watch::Sender<Option<Signal>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Running(i32),
    Waiting,
    /// With its last exit code.
    Gone(i32),
}

/// What the supervisor of one process is given.
struct Supervised {
    name: String,
    command: Command,
    site: Site,
    log: PathBuf,
    restart: bool,
}

impl Services {
    pub(super) fn new(logs: PathBuf) -> Self {
        Self { logs, running: Mutex::default() }
    }

    /// Starts a process that is not started again when it ends.
    pub(super) fn start(&self, service: &ServiceCommand, site: Site) -> Result<(), String> {
        self.launch(&service.name, service.command.clone(), site, false).map(|_ready| ())
    }

    /// Starts one of the lab's own processes, and waits until it says that it is ready.
    pub(super) async fn start_own(&self, name: &str, command: Command, site: Site) -> Result<(), String> {
        let ready = self.launch(name, command, site, true)?;
        let log = self.log(name);
        ready.await.map_err(|_| format!("{name} ended before it was ready; its log is {}", log.display()))
    }

    fn log(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{name}.log"))
    }

    fn launch(&self, name: &str, command: Command, site: Site, restart: bool) -> Result<oneshot::Receiver<()>, String> {
        let mut running = self.running.lock().map_err(|e| e.to_string())?;
        if running.get(name).is_some_and(|r| !matches!(*r.pid.borrow(), State::Gone(_))) {
            return Err(format!("a service named {name} runs already"));
        }
        let (pid_sender, pid) = watch::channel(State::Waiting);
        let (stop, stopped) = watch::channel(None);
        let (ready_sender, ready) = oneshot::channel();
        let supervised = Supervised { name: name.to_owned(), command, site, log: self.log(name), restart };
        // The first start is made here, so that a command that does not exist is said to who asked.
        let first = supervised.spawn()?;
        if let Some(pid) = first.0.id().and_then(|p| i32::try_from(p).ok()) {
            pid_sender.send_replace(State::Running(pid));
        }
        running.insert(name.to_owned(), Running { pid, stop });
        task::spawn(supervised.run(first, pid_sender, stopped, ready_sender));
        Ok(ready)
    }

    /// Sends a signal to a service and waits until it is gone; it is not started again.
    pub(super) async fn kill(&self, name: &str, signal: Signal) -> Result<(), String> {
        let found = self.running.lock().map_err(|e| e.to_string())?.get(name).cloned();
        let Some(mut running) = found else { return Err(format!("no service named {name} runs")) };
        running.stop.send_replace(Some(signal));
        let gone = running.pid.wait_for(|s| matches!(s, State::Gone(_))).await;
        gone.map(|_| ()).map_err(|e| e.to_string())
    }

    /// Waits until a service accepts connections at an address.
    pub(super) async fn accepts(&self, name: &str, netns: &Netns, address: SocketAddr) -> Result<(), String> {
        let began = Instant::now();
        loop {
            let refused = match connect(netns, address).await {
                Ok(_) => return Ok(()),
                Err(e) => e,
            };
            let state = self.running.lock().map_err(|e| e.to_string())?.get(name).map(|r| *r.pid.borrow());
            let log = self.log(name);
            if let Some(State::Gone(code)) = state {
                return Err(format!(
                    "{name} ended with exit code {code} before it accepted connections; its log is {}",
                    log.display()
                ));
            }
            if began.elapsed() > READY_WITHIN {
                return Err(format!(
                    "{name} does not accept connections at {address}: {refused}; its log is {}",
                    log.display()
                ));
            }
            tokio::time::sleep(READY_EVERY).await;
        }
    }

    /// The name of each running process by its number.
    pub(super) fn names(&self) -> BTreeMap<i32, String> {
        let Ok(running) = self.running.lock() else { return BTreeMap::new() };
        let pid = |r: &Running| if let State::Running(pid) = *r.pid.borrow() { Some(pid) } else { None };
        running.iter().filter_map(|(name, r)| pid(r).map(|pid| (pid, name.clone()))).collect()
    }
}

impl Supervised {
    /// Starts the process once; the socket is its standard input, on which it says when it is ready.
    fn spawn(&self) -> Result<(Child, UnixStream), String> {
        let log = open_log(&self.log)?;
        let error = log.try_clone().map_err(|e| e.to_string())?;
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(|e| e.to_string())?;
        ours.set_nonblocking(true).map_err(|e| e.to_string())?;
        let ours = UnixStream::from_std(ours).map_err(|e| e.to_string())?;
        let child = spawn(&self.command, self.site.clone(), [theirs.into(), log, error])?;
        Ok((child, ours))
    }

    async fn run(
        self,
        mut process: (Child, UnixStream),
        state: watch::Sender<State>,
        mut stopped: watch::Receiver<Option<Signal>>,
        ready: oneshot::Sender<()>,
    ) {
        let mut ready = Some(ready);
        let mut backoff = BACKOFF.0;
        loop {
            let began = Instant::now();
            let (child, socket) = &mut process;
            let status = loop {
                tokio::select! {
                    status = child.wait() => break status,
                    // Off once it has said so; a process that closes the socket without a word is left to run.
                    Ok(()) = said_ready(socket), if ready.is_some() => {
                        // Nobody may be waiting.
                        let _ = ready.take().map(|r| r.send(()));
                    }
                    Ok(()) = stopped.changed() => {
                        if let (Some(signal), Some(pid)) = (*stopped.borrow_and_update(), child.id().and_then(|p| i32::try_from(p).ok())) {
                            // Its whole group: it leads one.
                            let _ = killpg(Pid::from_raw(pid), signal);
                        }
                    }
                }
            };
            let code = status.map_or(255, code);
            if stopped.borrow().is_some() || !self.restart {
                tracing::info!(service = %self.name, code, "ended");
                state.send_replace(State::Gone(code));
                return;
            }
            tracing::warn!(service = %self.name, code, again_in_ms = backoff.as_millis(), "ended; it is started again");
            state.send_replace(State::Waiting);
            // Whoever waits for the first start is told by this; the supervision goes on.
            drop(ready.take());
            if began.elapsed() > SETTLED {
                backoff = BACKOFF.0;
            }
            process = loop {
                tokio::select! {
                    () = tokio::time::sleep(backoff) => {}
                    Ok(()) = stopped.changed() => {
                        state.send_replace(State::Gone(code));
                        return;
                    }
                }
                backoff = (backoff * 2).min(BACKOFF.1);
                match self.spawn() {
                    Ok(process) => break process,
                    Err(e) => tracing::error!(service = %self.name, "it cannot be started: {e}"),
                }
            };
            if let Some(pid) = process.0.id().and_then(|p| i32::try_from(p).ok()) {
                state.send_replace(State::Running(pid));
            }
        }
    }
}

/// Waits for any byte on the socket.
async fn said_ready(socket: &mut UnixStream) -> std::io::Result<()> {
    let mut byte = [0u8; 1];
    socket.read_exact(&mut byte).await.map(|_| ())
}

/// Opens a log to append to, making its folder.
fn open_log(path: &Path) -> Result<OwnedFd, String> {
    let at = |e: std::io::Error| format!("{}: {e}", path.display());
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(at)?;
    }
    OpenOptions::new().create(true).append(true).open(path).map(OwnedFd::from).map_err(at)
}
