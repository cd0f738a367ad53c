//! A bed: real clusters in network namespaces of this machine.

mod addons;
mod config;
mod down;
mod images;
pub mod init;
mod kubeconfig;
mod network;
mod pki;
mod place;
pub mod plan;
mod state;
mod status;
mod up;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

pub(crate) use addons::COREFILE;
pub(crate) use config::PAUSE_IMAGE;
pub use down::{down, remove_cgroup};
pub use place::{shown, succeeded};
use plan::Plan;
pub use status::status;
pub use up::{Options, up};

use crate::programs;

/// A bed that has been brought up.
#[derive(Debug, Clone)]
pub struct Bed {
    folder: PathBuf,
    /// Its clusters.
    pub plan: Plan,
}

impl Bed {
    /// The bed of this name, which runs.
    ///
    /// # Errors
    /// When there is none.
    pub fn open(name: &str) -> Result<Self> {
        let folder = state::beds()?.join(name);
        if !state::runs(&folder) {
            bail!("no bed {name:?} is up; `cargo xtask kubernetes up --name {name}` makes one, `status` lists those there are");
        }
        Ok(Self { plan: state::load(&folder)?, folder })
    }

    /// Kills its first process without notice, as an accident would.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&self) -> Result<()> {
        let pid = init::find(&self.folder, init::HOLD, None);
        let pid = pid.with_context(|| format!("bed {} does not run", self.plan.name))?;
        kill(Pid::from_raw(pid), Signal::SIGKILL).context("killing the bed's first process")
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The kubeconfig for this machine, with a context for each cluster.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }

    /// The kubeconfig for the bed's own hosts.
    #[must_use]
    pub fn inside_kubeconfig(&self) -> PathBuf {
        self.folder.join("inside.kubeconfig")
    }

    /// What everything says.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.folder.join("logs")
    }

    /// Where commands on its hosts find programs.
    fn path(&self) -> String {
        format!("{}:{}:{}", self.folder.join("work/bin").display(), self.folder.join("bin").display(), programs::path())
    }
}
