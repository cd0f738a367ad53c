//! A lab, as who started it or found it works on it: by requests to its control socket.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::net::unix::pipe;

use crate::holder::{Holder, launch};
use crate::network::{Dropped, Traces};
use crate::plan::{Plan, PlanError};
use crate::protocol::{Answer, Command, Exit, Process, Request, ServiceCommand, Up, receive, send};
use crate::state::{Description, StateDir, StateError};

/// How long a lab that was told to end may take.
const DOWN_WITHIN: Duration = Duration::from_secs(10);

/// Why a lab does not start, or does not do what is asked.
#[derive(Debug, Error)]
pub enum LabError {
    /// The plan cannot be built.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Its folder.
    #[error(transparent)]
    State(#[from] StateError),
    /// It could not be started.
    #[error("the lab does not start: {cause}")]
    Start {
        /// Why.
        cause: io::Error,
    },
    /// Daisy's gateways could not make their devices in it.
    #[error(
        "/dev/net/tun: {cause}; Daisy's gateways need it: load the kernel module tun, and run as root or let your user open it \
         (chmod 666 /dev/net/tun)"
    )]
    Tun {
        /// Why.
        cause: io::Error,
    },
    /// It was asked for something, and says why not.
    #[error("{0}")]
    Refused(String),
    /// It cannot be talked to.
    #[error("lab {name} does not answer on its control socket: {cause}; it has probably ended")]
    Lost {
        /// Its name.
        name: String,
        /// Why.
        cause: io::Error,
    },
    /// Its kubeconfig cannot be used.
    #[error("context {context} of {}: {cause}", path.display())]
    Kubeconfig {
        /// The context.
        context: String,
        /// The file.
        path: PathBuf,
        /// Why.
        cause: String,
    },
}

/// How a lab is to be started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StartOptions {
    /// Its name; the first free one of `lab`, `lab-2` and so on when absent.
    pub name: Option<String>,
    /// Whether it is to outlive the command that starts it.
    pub keep: bool,
}

/// What a command printed, and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Its exit code, or 128 and the number of the signal that ended it.
    pub code: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// A lab that is up, or on its way.
#[derive(Debug)]
pub struct Lab {
    state: StateDir,
    description: Description,
    /// Present where this process started it and it is not kept.
    holder: Option<Holder>,
}

/// Whether Daisy's gateways can make their devices in a lab of this user.
///
/// # Errors
/// What opening `/dev/net/tun` says.
pub fn can_tunnel() -> Result<(), LabError> {
    let tun = std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun");
    tun.map(|_| ()).map_err(|cause| LabError::Tun { cause })
}

impl Lab {
    /// Starts a lab; it is up once [`Lab::wait_up`] returns.
    ///
    /// Must be called from `main`, before any other thread is started. Unless it is kept, the lab ends with the calling thread,
    /// and with the value returned.
    ///
    /// # Errors
    /// When the plan cannot be built, a lab of that name is up, or the kernel refuses the namespaces.
    pub fn start(plan: &Plan, options: &StartOptions) -> Result<Self, LabError> {
        let holder = launch(plan, options)?;
        let (state, description) = (holder.state.clone(), holder.description.clone());
        Ok(Self { state, description, holder: (!options.keep).then_some(holder) })
    }

    /// A lab that is up: the one named, or the only one.
    ///
    /// # Errors
    /// When there is none, or more than one and none was named.
    pub fn open(name: Option<&str>) -> Result<Self, LabError> {
        let state = StateDir::find(name)?;
        let description = state.description()?;
        Ok(Self { state, description, holder: None })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.state.name()
    }

    /// What it is made of.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.description.plan
    }

    /// Its folder on the host.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.state.path()
    }

    /// The folder of its logs, on the host.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.state.logs()
    }

    /// The folder that administrators' commands run in, on the host.
    #[must_use]
    pub fn work(&self) -> PathBuf {
        self.state.work()
    }

    /// Its kubeconfig for the host: a context for each cluster.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.state.kubeconfig()
    }

    /// The port of the host's loopback that leads to a cluster's API server.
    #[must_use]
    pub fn port(&self, cluster: &str) -> Option<u16> {
        let mut ports = self.description.plan.clusters.iter().zip(&self.description.ports);
        ports.find(|(c, _)| c.name.as_str() == cluster).map(|(_, port)| *port)
    }

    /// The port of the host's loopback that is kept for the broker.
    #[must_use]
    pub fn broker_port(&self) -> Option<u16> {
        self.description.ports.get(self.description.plan.clusters.len()).copied()
    }

    /// Waits until all clusters are up.
    ///
    /// # Errors
    /// Why they are not, as the lab says it.
    pub async fn wait_up(&self) -> Result<Up, LabError> {
        self.ask(&Request::WaitUp).await
    }

    /// Runs a command and collects what it prints.
    ///
    /// # Errors
    /// When the place or the program does not exist. A command that fails is no error: see [`Output::code`].
    pub async fn run(&self, command: &Command) -> Result<Output, LabError> {
        let null = std::fs::File::open("/dev/null").map_err(|e| self.lost(e))?;
        let (stdout_sender, stdout) = self.pipe()?;
        let (stderr_sender, stderr) = self.pipe()?;
        let exec = self.exec(command, [null.into(), stdout_sender, stderr_sender]);
        let (exit, stdout, stderr) = tokio::join!(exec, read_all(stdout), read_all(stderr));
        Ok(Output { code: exit?, stdout: stdout.map_err(|e| self.lost(e))?, stderr: stderr.map_err(|e| self.lost(e))? })
    }

    /// Runs a command on descriptors of the caller's, and returns its exit code. When the future is dropped the command is killed.
    ///
    /// # Errors
    /// When the place or the program does not exist.
    pub async fn exec(&self, command: &Command, stdio: [OwnedFd; 3]) -> Result<i32, LabError> {
        let request = Request::Exec { command: command.clone() };
        let mut stream = self.connect().await?;
        let fds = [stdio[0].as_fd(), stdio[1].as_fd(), stdio[2].as_fd()];
        send(&mut stream, &request, &fds).await.map_err(|e| self.lost(e))?;
        // Ours go, so that who reads from the command's sees their end.
        drop(stdio);
        let exit: Exit = self.answer(&mut stream).await?;
        Ok(exit.code)
    }

    /// Starts a process that runs until it is killed or ends; waits until it is ready.
    ///
    /// # Errors
    /// When one of that name runs, or it ends before it is ready.
    pub async fn start_service(&self, service: &ServiceCommand) -> Result<(), LabError> {
        self.ask(&Request::StartService { service: service.clone() }).await
    }

    /// Sends a signal to a service and waits until it is gone.
    ///
    /// # Errors
    /// When none of that name runs.
    pub async fn kill_service(&self, name: &str, signal: i32) -> Result<(), LabError> {
        self.ask(&Request::KillService { name: name.to_owned(), signal }).await
    }

    /// Gives the router of a cluster another address on the internet.
    ///
    /// # Errors
    /// When there is no such cluster, or the kernel refuses.
    pub async fn set_public_address(&self, cluster: &str, address: IpAddr) -> Result<(), LabError> {
        self.ask(&Request::SetPublicAddress { cluster: cluster.to_owned(), address }).await
    }

    /// Every process of the lab.
    ///
    /// # Errors
    /// When the lab has ended.
    pub async fn processes(&self) -> Result<Vec<Process>, LabError> {
        self.ask(&Request::Processes).await
    }

    /// What is set in a network namespace; [`Plan::namespaces`] has their names.
    ///
    /// # Errors
    /// When there is none of that name.
    pub async fn inspect(&self, namespace: &str) -> Result<Traces, LabError> {
        self.ask(&Request::Inspect { namespace: namespace.to_owned() }).await
    }

    /// What the internet has counted: packets that bore an inner address, all dropped, and the tunnels' own.
    ///
    /// # Errors
    /// When the lab has ended.
    pub async fn crossing(&self) -> Result<Vec<Dropped>, LabError> {
        self.ask(&Request::Dropped).await
    }

    /// How many packets with an inner address the internet has dropped.
    ///
    /// # Errors
    /// When the lab has ended.
    pub async fn dropped(&self) -> Result<u64, LabError> {
        Ok(self.crossing().await?.iter().filter(|d| !d.is_tunnels()).map(|d| d.packets).sum())
    }

    /// Adds the broker to the host's kubeconfig, by its port; `kubeconfig` is a path inside the lab, where the folder of
    /// [`Lab::work`] is `/run/daisy-lab/work`.
    ///
    /// # Errors
    /// When the file is not there, or no kubeconfig.
    pub async fn add_broker_context(&self, kubeconfig: &Path) -> Result<(), LabError> {
        let port = self.broker_port().ok_or_else(|| LabError::Refused("the lab has no port for the broker".to_owned()))?;
        let (name, kubeconfig) = (crate::plan::BROKER.to_owned(), kubeconfig.to_owned());
        self.ask(&Request::AddContext { name, kubeconfig, port }).await
    }

    /// A client of a cluster's API server, by the host's loopback, with an administrator's rights.
    ///
    /// # Errors
    /// When the lab's kubeconfig has no such context.
    pub async fn client(&self, context: &str) -> Result<kube::Client, LabError> {
        let path = self.kubeconfig();
        let wrong = |cause: &dyn std::fmt::Display| LabError::Kubeconfig {
            context: context.to_owned(),
            path: path.clone(),
            cause: cause.to_string(),
        };
        let config = kube::config::Kubeconfig::read_from(&path).map_err(|e| wrong(&e))?;
        let options = kube::config::KubeConfigOptions { context: Some(context.to_owned()), ..Default::default() };
        let config = kube::Config::from_custom_kubeconfig(config, &options).await.map_err(|e| wrong(&e))?;
        kube::Client::try_from(config).map_err(|e| wrong(&e))
    }

    /// Says that the logs are to stay when the lab is gone.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn keep_logs(&self) -> Result<(), LabError> {
        Ok(self.state.keep_for_logs()?)
    }

    /// Ends the lab, waits until it is gone, and removes its folder.
    ///
    /// # Errors
    /// When it does not end, or the folder cannot be removed.
    pub async fn down(self) -> Result<(), LabError> {
        if self.holder.is_some() {
            // Dropping does it.
            return Ok(());
        }
        self.ask::<()>(&Request::Down).await?;
        let lock = std::fs::File::open(self.state.path().join("lock")).map_err(|e| self.lost(e))?;
        let locked = tokio::task::spawn_blocking(move || lock.lock());
        match tokio::time::timeout(DOWN_WITHIN, locked).await {
            Ok(Ok(Ok(()))) => Ok(self.state.remove_with_logs()?),
            Ok(Ok(Err(e))) => Err(self.lost(e)),
            Ok(Err(e)) => Err(self.lost(io::Error::other(e))),
            Err(_) => Err(LabError::Refused(format!("lab {} does not end", self.name()))),
        }
    }

    fn lost(&self, cause: io::Error) -> LabError {
        LabError::Lost { name: self.name().to_owned(), cause }
    }

    fn pipe(&self) -> Result<(OwnedFd, pipe::Receiver), LabError> {
        let made =
            std::io::pipe().and_then(|(reader, writer)| Ok((writer.into(), pipe::Receiver::from_owned_fd(reader.into())?)));
        made.map_err(|e| self.lost(e))
    }

    async fn connect(&self) -> Result<UnixStream, LabError> {
        UnixStream::connect(self.state.control_socket()).await.map_err(|e| self.lost(e))
    }

    async fn ask<T: DeserializeOwned>(&self, request: &Request) -> Result<T, LabError> {
        let mut stream = self.connect().await?;
        send(&mut stream, request, &[]).await.map_err(|e| self.lost(e))?;
        self.answer(&mut stream).await
    }

    async fn answer<T: DeserializeOwned>(&self, stream: &mut UnixStream) -> Result<T, LabError> {
        match receive::<Answer<T>>(stream).await.map_err(|e| self.lost(e))? {
            Some((Answer::Ok(value), _)) => Ok(value),
            Some((Answer::Error(message), _)) => Err(LabError::Refused(message)),
            None => Err(self.lost(io::ErrorKind::UnexpectedEof.into())),
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let Some(holder) = &self.holder else { return };
        holder.kill();
        if let Err(e) = holder.remove() {
            tracing::warn!("the lab's folder stays: {e}");
        }
    }
}

async fn read_all(mut pipe: pipe::Receiver) -> io::Result<String> {
    let mut bytes = Vec::new();
    pipe.read_to_end(&mut bytes).await?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
