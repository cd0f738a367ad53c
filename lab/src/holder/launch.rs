//! The host's side: the folder, the sockets of the host's loopback, and the clone.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixListener;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::CloneFlags;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, pipe2};

use super::{ENVIRONMENT_MARK, InitOptions, PATH_INSIDE};
use crate::plan::Plan;
use crate::state::{Description, StateDir, StateError};
use crate::sys::{Launch, Stdio, clone_and_exec, set_inheritable};
use crate::{LabError, StartOptions};

/// A lab that this process started.
#[derive(Debug)]
pub(crate) struct Holder {
    /// Its folder.
    pub(crate) state: StateDir,
    /// What it is.
    pub(crate) description: Description,
    pid: Pid,
    /// While one end is open here, `init` knows that we live.
    _lifeline: Option<OwnedFd>,
}

/// Makes the folder, opens the ports, and starts the lab's first process. Returns when its mounts are made.
///
/// The lab dies with the calling *thread* unless it is kept, and the child is a clone of this process: call it from `main`, before
/// any other thread is started.
pub(crate) fn launch(plan: &Plan, options: &StartOptions) -> Result<Holder, LabError> {
    plan.check()?;
    let (state, lock) = StateDir::create(options.name.as_deref())?;
    let launched = launch_in(&state, lock, plan, options);
    if launched.is_err() {
        // What is reported is why it did not start, not that its folder is still there.
        let _ = state.remove_with_logs();
    }
    launched
}

fn launch_in(state: &StateDir, lock: File, plan: &Plan, options: &StartOptions) -> Result<Holder, LabError> {
    let start = |cause| LabError::Start { cause };
    let listeners = (0..=plan.clusters.len())
        .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .collect::<io::Result<Vec<_>>>()
        .map_err(start)?;
    let ports = listeners.iter().map(|l| l.local_addr().map(|a| a.port())).collect::<io::Result<Vec<_>>>().map_err(start)?;
    let description = Description { name: state.name().to_owned(), plan: plan.clone(), ports, keep: options.keep };
    state.describe(&description)?;
    let control = UnixListener::bind(state.control_socket()).map_err(start)?;
    let (report, child_report) = pipe2(OFlag::O_CLOEXEC).map_err(|e| start(e.into()))?;
    let lifeline = if options.keep { None } else { Some(pipe2(OFlag::O_CLOEXEC).map_err(|e| start(e.into()))?) };
    let (child_lifeline, our_lifeline) = lifeline.unzip();

    let inherited = |fd: &dyn AsFd| -> Result<RawFd, LabError> {
        set_inheritable(fd.as_fd(), true).map_err(start)?;
        Ok(fd.as_fd().as_raw_fd())
    };
    let init = InitOptions {
        name: state.name().to_owned(),
        state: state.path().to_owned(),
        lock: inherited(&lock)?,
        control: inherited(&control)?,
        report: inherited(&child_report)?,
        lifeline: child_lifeline.as_ref().map(|fd| inherited(fd)).transpose()?,
        ports: listeners.iter().map(|l| inherited(l)).collect::<Result<_, _>>()?,
    };
    let pid = start_init(state, &init).map_err(start)?;
    // Our copies go: what the child holds is what keeps lock and sockets, and the report ends with the child's.
    drop((lock, control, child_report, child_lifeline, listeners));
    let holder = Holder { state: state.clone(), description, pid, _lifeline: our_lifeline };
    let mut text = String::new();
    File::from(report).read_to_string(&mut text).map_err(start)?;
    if text == "ok" {
        return Ok(holder);
    }
    holder.kill();
    let text = if text.is_empty() { "it ended without a word".to_owned() } else { text };
    Err(start(io::Error::other(format!("the lab's first process: {text}"))))
}

fn start_init(state: &StateDir, init: &InitOptions) -> io::Result<Pid> {
    let program = CString::new(std::env::current_exe()?.as_os_str().as_bytes())?;
    let json = CString::new(serde_json::to_vec(init).map_err(io::Error::other)?)?;
    let arguments = [CString::from(c"daisy"), CString::from(c"lab-internal"), CString::from(c"init"), json];
    let environment = environment(state.name())?;
    let log = state.logs().join("lab.log");
    let stdio = || -> io::Result<Stdio> {
        Ok(Stdio {
            input: File::open(Path::new("/dev/null"))?.into(),
            output: OpenOptions::new().create(true).append(true).open(&log)?.into(),
        })
    };
    let own = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC;
    let with_user = own | CloneFlags::CLONE_NEWUSER;
    let attempt = |namespaces| {
        let stdio = stdio()?;
        clone_and_exec(&Launch { program: &program, arguments: &arguments, environment: &environment, stdio, namespaces })
    };
    let refused = |e: io::Error| {
        let remedy = "a lab needs root, or user namespaces for unprivileged users (sysctl user.max_user_namespaces over 0; where \
                      they exist, kernel.unprivileged_userns_clone=1 and kernel.apparmor_restrict_unprivileged_userns=0)";
        io::Error::new(e.kind(), format!("making namespaces: {e}; {remedy}"))
    };
    if nix::unistd::geteuid().is_root() {
        match attempt(own) {
            // Root of a container that may not make namespaces may still make a user namespace.
            Err(e) if e.raw_os_error() == Some(Errno::EPERM as i32) => attempt(with_user).map_err(refused),
            other => other,
        }
    } else {
        attempt(with_user).map_err(refused)
    }
}

/// The whole environment of the lab's processes: nothing of the user's but what a terminal and a debugger want.
fn environment(name: &str) -> io::Result<Vec<CString>> {
    let passed = ["TERM", "LANG", "RUST_LOG", "RUST_BACKTRACE"];
    let passed = passed.into_iter().filter_map(|n| std::env::var_os(n).map(|v| (n, v)));
    let fixed = [(ENVIRONMENT_MARK, name), ("PATH", PATH_INSIDE), ("HOME", "/tmp")].map(|(n, v)| (n, v.into()));
    fixed
        .into_iter()
        .chain(passed)
        .map(|(name, value)| {
            let mut text = format!("{name}=").into_bytes();
            text.extend(value.into_vec());
            CString::new(text).map_err(io::Error::from)
        })
        .collect()
}

impl Holder {
    /// Ends the lab and waits until it is gone.
    pub(crate) fn kill(&self) {
        // It may have ended by itself; then there is only its exit to collect.
        let _ = kill(self.pid, Signal::SIGKILL);
        let _ = waitpid(self.pid, None);
    }

    /// Removes the folder, unless it is kept for its logs.
    pub(crate) fn remove(&self) -> Result<(), StateError> {
        self.state.remove()
    }
}
