//! The lab's side of the start: mounts, then the agent, then reaping.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::TcpListener;
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::ExitCode;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, sethostname, setsid};

use super::{BIN_INSIDE, DAISY_INSIDE, DATA_INSIDE, InitOptions, STATE_INSIDE};
use crate::agent::{self, Agent};
use crate::state::StateDir;
use crate::sys;

/// `daisy lab-internal init JSON`: the first process of the lab's PID namespace.
pub(crate) fn run(argument: &str) -> ExitCode {
    let options: InitOptions = match serde_json::from_str(argument) {
        Ok(options) => options,
        Err(e) => {
            eprintln!("lab-internal init is started by `daisy lab` only: {e}");
            return ExitCode::FAILURE;
        }
    };
    let mut report = File::from(adopt(options.report));
    let set_up = set_up(&options);
    let said = match &set_up {
        Ok(()) => report.write_all(b"ok"),
        Err(e) => write!(report, "{e}"),
    };
    drop(report);
    if set_up.is_err() || said.is_err() {
        return ExitCode::FAILURE;
    }
    // Kept open, and not passed on: its lock says that the lab lives.
    let lock = adopt(options.lock);
    let agent = Agent {
        state: StateDir::at(&options.name, Path::new(STATE_INSIDE)),
        control: UnixListener::from(adopt(options.control)),
        ports: options.ports.into_iter().map(|fd| TcpListener::from(adopt(fd))).collect(),
    };
    let ended = fork_agent(agent).and_then(reap);
    drop(lock);
    ended.unwrap_or_else(|e| {
        eprintln!("the lab's first process: {e}");
        ExitCode::FAILURE
    })
}

#[expect(unsafe_code, reason = "descriptors inherited by number")]
fn adopt(fd: RawFd) -> OwnedFd {
    // SAFETY: `launch` passed this number for a descriptor that is ours from here on; each is adopted once.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // If it fails, the descriptor is only passed on to children, which do not use it.
    let _ = sys::set_inheritable(&fd, false);
    fd
}

fn set_up(options: &InitOptions) -> io::Result<()> {
    if let Some(lifeline) = options.lifeline {
        set_pdeathsig(Signal::SIGKILL)?;
        // Who died before that line sends no signal, but has closed its end.
        let lifeline = adopt(lifeline);
        let mut ends = [PollFd::new(lifeline.as_fd(), PollFlags::empty())];
        poll(&mut ends, PollTimeout::ZERO)?;
        if ends[0].revents().is_some_and(|r| r.contains(PollFlags::POLLHUP)) {
            return Err(io::Error::other("the command that started the lab is gone"));
        }
    }
    // Ctrl-C at the terminal is for the front-end to act on.
    setsid()?;
    end_on_signals()?;
    many_descriptors()?;
    sethostname("lab")?;
    mounts(options)
}

/// A network namespace is a descriptor, and one more for each socket in it: as many as the hard limit allows, for all of the lab.
fn many_descriptors() -> io::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(())
}

/// The first process of a PID namespace ignores every signal that it has no handler for.
#[expect(unsafe_code, reason = "a signal handler")]
fn end_on_signals() -> io::Result<()> {
    extern "C" fn end(signal: libc::c_int) {
        // SAFETY: async-signal-safe, and ends the process.
        unsafe { libc::_exit(128 + signal) }
    }
    let action = SigAction::new(SigHandler::Handler(end), SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        // SAFETY: the handler makes one system call and touches no memory.
        unsafe { sigaction(signal, &action) }?;
    }
    Ok(())
}

/// The host's files read-only; `/proc`, `/run`, `/tmp` and `/dev/shm` the lab's own; the resolver's files ours.
fn mounts(options: &InitOptions) -> io::Result<()> {
    sys::make_private()?;
    // Opened before they are hidden: the folder is often under /run or /tmp, the executable may be.
    let state = sys::open_path(&options.state)?;
    let executable = sys::open_path(&std::env::current_exe()?)?;
    sys::make_read_only()?;
    sys::mount_proc()?;
    for (path, mode) in [("/run", "755"), ("/tmp", "1777"), ("/dev/shm", "1777")] {
        let path = Path::new(path);
        if path.is_dir() {
            sys::tmpfs(path, mode)?;
        }
    }
    // Where it is no link to /run, it can hold the same sockets (nscd's, a bus).
    let var_run = Path::new("/var/run");
    if fs::symlink_metadata(var_run).is_ok_and(|m| m.is_dir()) {
        sys::tmpfs(var_run, "755")?;
    }
    for folder in [STATE_INSIDE, DATA_INSIDE, BIN_INSIDE] {
        fs::create_dir_all(folder)?;
    }
    sys::bind(&sys::fd_path(&state), Path::new(STATE_INSIDE))?;
    sys::make_writable(Path::new(STATE_INSIDE))?;
    File::create(DAISY_INSIDE)?;
    sys::bind(&sys::fd_path(&executable), Path::new(DAISY_INSIDE))?;
    let files = Path::new(DATA_INSIDE).join("etc");
    fs::create_dir_all(&files)?;
    let contents = [
        ("resolv.conf", "# The lab's hosts have no name server.\n"),
        ("hosts", "127.0.0.1 localhost\n::1 localhost\n"),
        ("nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n"),
    ];
    for (name, text) in contents {
        let file = files.join(name);
        fs::write(&file, text)?;
        sys::cover(&file, &Path::new("/etc").join(name))?;
    }
    Ok(())
}

#[expect(unsafe_code, reason = "fork")]
fn fork_agent(agent: Agent) -> io::Result<Pid> {
    // SAFETY: this process has one thread, so the child may run anything.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            let code = agent::run(agent);
            std::process::exit(code)
        }
    }
}

/// Collects every process that is left without a parent, until the agent ends; with us ends the lab.
fn reap(agent: Pid) -> io::Result<ExitCode> {
    loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, code)) if pid == agent => {
                return Ok(u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from));
            }
            Ok(WaitStatus::Signaled(pid, ..)) if pid == agent => return Ok(ExitCode::FAILURE),
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}
