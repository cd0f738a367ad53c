//! The lab's first process: it holds the namespaces, and everything ends with it.
//!
//! ```text
//! daisy lab ──clone──▶ init (PID 1 of the lab: mounts, reaps) ──fork──▶ agent (networks, processes, control socket)
//!     └── dies ──PDEATHSIG──▶ init dies ──the kernel──▶ every process, network and mount of the lab is gone
//! ```

mod init;
mod launch;

pub(crate) use init::run;
pub(crate) use launch::{Holder, launch};

use std::os::fd::RawFd;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What `init` is told, as one JSON argument.
#[derive(Debug, Serialize, Deserialize)]
struct InitOptions {
    /// The lab's name.
    name: String,
    /// Its folder, as the host has it.
    state: PathBuf,
    /// Held open for its lock.
    lock: RawFd,
    /// The listening control socket.
    control: RawFd,
    /// Where to say `ok`, or what went wrong while setting up.
    report: RawFd,
    /// Reads end-of-file when the command that started the lab is gone; absent for a lab that is kept.
    lifeline: Option<RawFd>,
    /// Listening sockets on the host's loopback.
    ports: Vec<RawFd>,
}

/// The lab's folder, inside.
pub(crate) const STATE_INSIDE: &str = "/run/daisy-lab";
/// What only the lab needs: databases, tokens, pods' files. In memory.
pub(crate) const DATA_INSIDE: &str = "/run/daisy-data";
/// The folder with this executable, first in every PATH.
pub(crate) const BIN_INSIDE: &str = "/run/daisy-bin";
/// This executable, inside.
pub(crate) const DAISY_INSIDE: &str = "/run/daisy-bin/daisy";
/// Marks every process of a lab with the lab's name.
pub(crate) const ENVIRONMENT_MARK: &str = "DAISY_LAB";
/// The PATH of every process of a lab.
pub(crate) const PATH_INSIDE: &str = "/run/daisy-bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
