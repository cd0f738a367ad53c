//! The agent: the lab's second process, which makes its networks, starts its processes and answers on its control socket.
//!
//! ```text
//! start ──▶ networks ──▶ control planes ──▶ kubelets, proxies ──▶ up
//! control.sock ──▶ control ──▶ exec · services · networks · processes
//! host's loopback ──▶ forward ──▶ control planes, broker
//! ```

mod bring_up;
mod control;
mod exec;
mod forward;
mod place;
mod processes;
mod services;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use tokio::sync::{Notify, watch};

use crate::holder::DATA_INSIDE;
use crate::internal;
use crate::network::Networks;
use crate::protocol::Up;
use crate::state::{Description, StateDir};
use crate::task;

/// What the agent is started with.
pub(crate) struct Agent {
    /// The lab's folder, by its path inside.
    pub(crate) state: StateDir,
    /// The listening control socket.
    pub(crate) control: UnixListener,
    /// The listening sockets on the host's loopback: one a cluster, in the plan's order, then the broker's.
    pub(crate) ports: Vec<TcpListener>,
}

/// What every task of the agent shares.
struct Shared {
    state: StateDir,
    description: Description,
    networks: OnceLock<Networks>,
    services: services::Services,
    progress: watch::Sender<Progress>,
    contexts: tokio::sync::Mutex<BTreeMap<String, crate::kubeconfig::Context>>,
    forwards: forward::Forwards,
    down: Notify,
    began: Instant,
}

/// How far the start is.
#[derive(Debug, Clone)]
enum Progress {
    Starting(Up),
    Up(Up),
    Failed(String),
}

impl Shared {
    fn networks(&self) -> Result<&Networks, String> {
        self.networks.get().ok_or_else(|| "the lab's networks are not made yet".to_owned())
    }

    /// A stage of the start was reached.
    fn reached(&self, stage: impl Into<String>) {
        let stage = stage.into();
        let at = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(at_ms = at, "{stage}");
        self.progress.send_modify(|p| {
            if let Progress::Starting(up) = p {
                up.stages.push((stage, at));
            }
        });
    }
}

/// A cluster's own folder of data, inside the lab.
fn cluster_data(cluster: &str) -> PathBuf {
    PathBuf::from(DATA_INSIDE).join(cluster)
}

/// The administrator's kubeconfig of a cluster, inside the lab.
fn admin_kubeconfig(cluster: &str) -> PathBuf {
    cluster_data(cluster).join("control-plane/admin.kubeconfig")
}

/// Runs until the lab is to end; returns the exit code.
pub(crate) fn run(agent: Agent) -> i32 {
    let began = Instant::now();
    internal::start_logging();
    let ended = internal::runtime().and_then(|runtime| Ok(runtime.block_on(serve(agent, began))?));
    match ended {
        Ok(()) => 0,
        Err(e) => {
            tracing::error!("the lab ends: {e:#}");
            1
        }
    }
}

async fn serve(agent: Agent, began: Instant) -> std::io::Result<()> {
    let description = agent.state.description().map_err(std::io::Error::other)?;
    agent.control.set_nonblocking(true)?;
    let control = tokio::net::UnixListener::from_std(agent.control)?;
    let shared = Arc::new(Shared {
        services: services::Services::new(agent.state.logs()),
        state: agent.state,
        forwards: forward::Forwards::start(agent.ports, &description.ports)?,
        description,
        networks: OnceLock::new(),
        progress: watch::Sender::new(Progress::Starting(Up::default())),
        contexts: tokio::sync::Mutex::default(),
        down: Notify::new(),
        began,
    });
    let down = shared.down.notified();
    tokio::pin!(down);
    task::spawn(bring_up::run(Arc::clone(&shared)));
    loop {
        tokio::select! {
            () = &mut down => return Ok(()),
            accepted = control.accept() => match accepted {
                Ok((stream, _)) => {
                    task::spawn(control::serve(Arc::clone(&shared), stream));
                }
                Err(e) => {
                    // Out of descriptors, most likely: they come back when requests are answered.
                    tracing::warn!("accepting on the control socket: {e}");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            },
        }
    }
}
