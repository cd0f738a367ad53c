//! Network namespaces, held by file descriptors.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::sched::{CloneFlags, setns, unshare};

/// Where named network namespaces are bound, as `ip netns` has them.
const NAMED: &str = "/run/netns";

/// A network namespace. It lives as long as a value of this type, a process in it, or a mount of it does.
#[derive(Debug, Clone)]
pub(crate) struct Netns(Arc<OwnedFd>);

impl Netns {
    /// A new one, without a name.
    pub(crate) fn create() -> io::Result<Self> {
        in_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            Self::open(Path::new("/proc/thread-self/ns/net"))
        })
    }

    /// A new one, bound to `/run/netns/NAME` of this mount namespace.
    pub(crate) fn create_named(name: &str) -> io::Result<Self> {
        let netns = Self::create()?;
        let path = Self::path(name);
        fs::create_dir_all(NAMED)?;
        File::create(&path)?;
        super::bind(Path::new(&format!("/proc/self/fd/{}", netns.as_raw_fd())), &path)?;
        Ok(netns)
    }

    /// The one bound to `/run/netns/NAME`.
    pub(crate) fn open_named(name: &str) -> io::Result<Self> {
        Self::open(&Self::path(name))
    }

    /// Where the namespace of this name is bound.
    pub(crate) fn path(name: &str) -> PathBuf {
        Path::new(NAMED).join(name)
    }

    /// The one at a path: a bound one, or `/proc/PID/ns/net`.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(Arc::new(File::open(path)?.into())))
    }

    /// Runs `f` inside, on a thread of its own: sockets that it opens belong to this namespace wherever they go.
    pub(crate) fn run<T: Send>(&self, f: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        in_thread(|| {
            setns(self, CloneFlags::CLONE_NEWNET)?;
            f()
        })
    }

    /// Sets kernel parameters, given as `net/…` and their values.
    pub(crate) fn set_parameters(&self, parameters: &[(&str, &str)]) -> io::Result<()> {
        self.run(|| {
            parameters.iter().try_for_each(|(name, value)| {
                let path = format!("/proc/sys/{name}");
                fs::write(&path, value).map_err(|e| io::Error::new(e.kind(), format!("{path}: {e}")))
            })
        })
    }
}

/// A thread that leaves its namespaces must not come back to a pool: it ends with `f`.
fn in_thread<T: Send>(f: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, f)?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread in the network namespace panicked")))
    })
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Netns {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
