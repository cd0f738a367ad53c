//! The system calls that namespaces need, each behind a small safe function.

mod clone;
mod enter;
mod mounts;
mod netns;

pub(crate) use clone::{Launch, Stdio, clone_and_exec};
pub(crate) use enter::Entrance;
pub(crate) use mounts::{bind, cover, fd_path, make_private, make_read_only, make_writable, mount_proc, open_path, tmpfs};
pub(crate) use netns::Netns;

use std::io;
use std::os::fd::AsFd;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

/// Whether a file descriptor is to survive `execve`.
pub(crate) fn set_inheritable(fd: impl AsFd, inheritable: bool) -> io::Result<()> {
    let flags = if inheritable { FdFlag::empty() } else { FdFlag::FD_CLOEXEC };
    fcntl(fd, FcntlArg::F_SETFD(flags))?;
    Ok(())
}
