//! Starting a process inside namespaces that exist.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use nix::sched::{CloneFlags, setns};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{chdir, setsid};
use tokio::process::Command;

use super::Netns;

/// What a process enters between `fork` and `execve`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Entrance {
    /// Its network namespace; the parent's when absent.
    pub(crate) net: Option<Netns>,
    /// Its mount namespace; the parent's when absent.
    pub(crate) mount: Option<Arc<OwnedFd>>,
    /// Its UTS namespace (the host name); the parent's when absent.
    pub(crate) uts: Option<Arc<OwnedFd>>,
    /// The directory it starts in, as the mount namespace that it enters has it.
    pub(crate) directory: CString,
    /// Whether it is killed when the *thread* that spawned it ends, which for a tokio worker is when the process does.
    pub(crate) dies_with_parent: bool,
}

impl Entrance {
    /// Makes `command` enter, in a session and process group of its own.
    #[expect(unsafe_code, reason = "pre_exec runs between fork and execve")]
    pub(crate) fn prepare(self, command: &mut Command) {
        let enter = move || -> io::Result<()> {
            // The mount namespace first: it takes root and working directory with it.
            if let Some(mount) = &self.mount {
                setns(mount, CloneFlags::CLONE_NEWNS)?;
            }
            if let Some(uts) = &self.uts {
                setns(uts, CloneFlags::CLONE_NEWUTS)?;
            }
            if let Some(net) = &self.net {
                setns(net, CloneFlags::CLONE_NEWNET)?;
            }
            chdir(self.directory.as_c_str())?;
            setsid()?;
            if self.dies_with_parent {
                set_pdeathsig(Signal::SIGKILL)?;
            }
            Ok(())
        };
        // SAFETY: the closure makes system calls on what it owns, and neither allocates nor takes a lock.
        unsafe { command.pre_exec(enter) };
    }
}
