//! A bed: a Docker of its own behind a router, and kind's clusters on it.
//!
//! ```text
//!   staging-control-plane .2, staging-worker .3          laptop "local": local-control-plane, local-worker
//!            │ Docker network staging, 198.51.100.0/24            │ Docker network local, 192.168.x.0/24
//!            └────────────── the bed's own network namespace: router, masquerade, dockerd ──────────────┘   laptop "anna" …
//!                            203.0.113.1 answers names; beneath everything there is no route
//! ```
//!
//! All of it is in namespaces of a first process: nothing on this machine's own network is touched, no packet finds a way out, and
//! when the first process ends, the kernel ends the rest.

mod init;
mod network;
mod runtime;
mod state;

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use daisy_kubernetes_tests::bed::{shown, succeeded};
use daisy_kubernetes_tests::programs as path;
use daisy_kubernetes_tests::suite::until;
pub use init::hold;
pub use network::{BROKER_PORT, TUNNEL_PORT};
pub use runtime::runtime;
pub use state::down;

use crate::node::{self, Built};
use crate::programs;

/// How long the daemon may take to begin.
const DOCKER: Duration = Duration::from_secs(60);
/// How long any one command may take: a cluster of kind included.
const LONG: &str = "600";

/// What of kind's is not kind's: which network a cluster is on, and which image its nodes are of.
const KIND: &str = include_str!("kind.sh");
/// What of Docker's is not Docker's: the addresses of staging's nodes, which stay.
const DOCKER_CLIENT: &str = include_str!("docker.sh");

/// A bed that is up.
#[derive(Debug, Clone)]
pub struct Bed {
    name: String,
    folder: PathBuf,
    image: String,
}

/// What a bed is made of.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its name; beds of other names do not disturb each other.
    pub name: String,
    /// The nodes' image; none for one that is made on the spot.
    pub node_image: Option<String>,
}

/// Brings a bed up, after whatever is left of one of this name is gone.
///
/// # Errors
/// When a program is missing, or the daemon does not come up.
pub fn up(options: &Options) -> Result<Bed> {
    if !nix::unistd::geteuid().is_root() {
        bail!("a bed is made of namespaces, mounts and cgroups, which only root can make: run it as root");
    }
    programs::check()?;
    let built = Built::make()?;
    let archive = if options.node_image.is_none() { Some(node::archive(&built)?) } else { None };
    let _lock = state::lock()?;
    let folder = state::folder(&options.name)?;
    state::remove(&options.name, &folder)?;
    state::allow_watches()?;
    let image = options.node_image.clone().unwrap_or_else(|| node::IMAGE.to_owned());
    let bed = Bed { name: options.name.clone(), folder, image };
    bed.begin(&built)?;
    until(DOCKER, "dockerd to answer", || bed.run(&["docker", "version"]).map(drop))
        .with_context(|| format!("its log is {}", bed.folder.join("logs/dockerd.log").display()))?;
    network::make(&bed)?;
    if let Some(archive) = archive {
        bed.import(&archive)?;
    }
    Ok(bed)
}

/// The archive of the nodes' root file system, which is made on the spot if it is not there yet.
///
/// # Errors
/// When a program is missing, or a build fails.
pub fn node_image() -> Result<PathBuf> {
    programs::check()?;
    node::archive(&Built::make()?)
}

impl Bed {
    /// The bed of this name, which runs.
    ///
    /// # Errors
    /// When there is none.
    pub fn open(name: &str) -> Result<Self> {
        let folder = state::folder(name)?;
        if state::first_process(&folder).is_none() {
            bail!("no bed {name:?} is up; `cargo xtask kind up --name {name}` makes one");
        }
        let image = fs::read_to_string(folder.join(state::IMAGE)).context("which image the bed's nodes are of")?;
        Ok(Self { name: name.to_owned(), folder, image })
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where commands run, and what they write stays: the developer's own folder.
    #[must_use]
    pub fn work(&self) -> PathBuf {
        self.folder.join("work")
    }

    /// What everything says.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.folder.join("logs")
    }

    fn begin(&self, built: &Built) -> Result<()> {
        for folder in ["bin", "work", "logs"] {
            fs::create_dir_all(self.folder.join(folder))?;
        }
        fs::write(self.folder.join(state::IMAGE), &self.image)?;
        fs::copy(std::env::current_exe()?, self.folder.join(state::PROGRAM)).context("copying this program")?;
        let bin = self.folder.join("bin");
        for name in ["kubectl", "coredns"] {
            fs::copy(built.file(name), bin.join(name)).with_context(|| format!("copying {name}"))?;
        }
        fs::copy(built.file("kind"), bin.join("kind-itself")).context("copying kind")?;
        for (name, text) in [("kind", KIND), ("docker", DOCKER_CLIENT)] {
            let at = bin.join(name);
            fs::write(&at, text)?;
            fs::set_permissions(&at, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        }
        init::configure(&self.folder)?;
        let log = fs::File::create(self.logs().join("bed.log"))?;
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]);
        command.arg(self.folder.join(state::PROGRAM)).args(["kind", state::HOLD]).arg(&self.folder).arg(&self.name);
        command.env("PATH", path::path()).current_dir("/").process_group(0);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        command.spawn().context("starting unshare")?;
        until(Duration::from_secs(10), "the bed's first process", || {
            state::first_process(&self.folder).map(drop).context("it is not there")
        })
    }

    fn import(&self, archive: &Path) -> Result<()> {
        let started = Instant::now();
        let mut command = self.command(&["docker", "import"])?;
        command.args([
            "--change",
            r#"ENTRYPOINT ["/usr/local/bin/entrypoint", "/sbin/init"]"#,
            "--change",
            "ENV container=docker",
        ]);
        let output = command.arg(archive).arg(node::IMAGE).stdin(Stdio::null()).output().context("starting docker")?;
        succeeded("docker import of the node image", &output)?;
        eprintln!("the node image is there after {:.0} s", started.elapsed().as_secs_f64());
        Ok(())
    }

    /// A command on the bed, as a developer types it on his laptop: with Docker, kind, kubectl and whatever was offered in its path.
    ///
    /// # Errors
    /// When the bed does not run.
    pub fn command<S: AsRef<std::ffi::OsStr>>(&self, words: &[S]) -> Result<Command> {
        let first = state::first_process(&self.folder).with_context(|| format!("bed {} does not run", self.name))?;
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={first}")).args(["--mount", "--net", "--pid"]);
        command.arg(format!("--wd={}", self.work().display())).args(["--", "timeout", LONG]).args(words);
        command.env("PATH", format!("{}:{}", self.folder.join("bin").display(), path::path()));
        command.env("DOCKER_HOST", format!("unix://{}", self.folder.join(state::SOCKET).display()));
        command.env("KUBECONFIG", self.folder.join("kubeconfig")).env("BED", &self.folder);
        command.env("NODE_IMAGE", &self.image).env_remove("KIND_EXPERIMENTAL_DOCKER_NETWORK");
        Ok(command)
    }

    /// Runs a command; what it prints, if it succeeds.
    ///
    /// # Errors
    /// When it cannot be started, or fails.
    pub fn run<S: AsRef<std::ffi::OsStr>>(&self, words: &[S]) -> Result<String> {
        let output = self.command(words)?.stdin(Stdio::null()).output();
        succeeded(&shown(words), &output.with_context(|| format!("starting {}", shown(words)))?)
    }

    /// kubectl with a cluster's context; what it prints, if it succeeds.
    ///
    /// # Errors
    /// When it fails.
    pub fn kubectl(&self, cluster: &str, words: &[&str]) -> Result<String> {
        let context = format!("kind-{cluster}");
        self.run(&[&["kubectl", "--context", &context], words].concat())
    }

    /// Puts a program into the path of commands.
    ///
    /// # Errors
    /// When it cannot be copied.
    pub fn offer(&self, program: &Path, name: &str) -> Result<()> {
        let at = self.folder.join("bin").join(name);
        // One that runs is not written over.
        if at.exists() {
            fs::remove_file(&at)?;
        }
        fs::copy(program, &at).map(drop).with_context(|| format!("copying {}", program.display()))
    }

    /// Ends dockerd, as the restart of Docker does, and waits until it is back, with its containers.
    ///
    /// # Errors
    /// When it does not come back.
    pub fn restart_docker(&self) -> Result<()> {
        let before = self.run(&["cat", init::PID_FILE])?;
        self.run(&["kill", before.trim()])?;
        until(DOCKER * 2, "dockerd to have ended and to answer again", || {
            if self.run(&["cat", init::PID_FILE])? == before {
                bail!("it has not ended");
            }
            self.run(&["docker", "version"]).map(drop)
        })
    }
}
