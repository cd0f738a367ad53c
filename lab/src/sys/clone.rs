//! Starting the lab's first process in new namespaces.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::CloneFlags;
use nix::unistd::{Pid, pipe2};

/// Where a process's standard streams go.
pub(crate) struct Stdio {
    /// Read from.
    pub(crate) input: OwnedFd,
    /// Written to, by both output and error.
    pub(crate) output: OwnedFd,
}

/// What is started.
pub(crate) struct Launch<'a> {
    /// The program.
    pub(crate) program: &'a CStr,
    /// Its arguments, the zeroth included.
    pub(crate) arguments: &'a [CString],
    /// Its whole environment, as `NAME=VALUE`.
    pub(crate) environment: &'a [CString],
    /// Its standard streams.
    pub(crate) stdio: Stdio,
    /// The namespaces that it gets anew; with `CLONE_NEWUSER`, the caller's one user and group become root in it.
    pub(crate) namespaces: CloneFlags,
}

/// What the child was doing when it failed, by its number in the error pipe.
const STEPS: [&str; 5] = ["setting up its streams", "denying setgroups", "mapping its user", "mapping its group", "execve"];

/// Clones this process and runs the program in the child, which is the first process of its PID namespace when one is asked for.
///
/// The child inherits the descriptors that are not close-on-exec. Returns once the program runs.
///
/// # Errors
/// What the kernel refused: `EPERM` for namespaces that this user may not make, and what the child's own steps met.
#[expect(unsafe_code, reason = "clone(2) with namespaces, and the child's steps until execve")]
pub(crate) fn clone_and_exec(launch: &Launch<'_>) -> io::Result<Pid> {
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings.iter().map(|s| s.as_ptr()).chain(std::iter::once(std::ptr::null())).collect()
    };
    // Everything that the child needs is made before it exists: it must not allocate.
    let (arguments, environment) = (pointers(launch.arguments), pointers(launch.environment));
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    let maps = [
        (c"/proc/self/setgroups", b"deny".to_vec()),
        (c"/proc/self/uid_map", format!("0 {uid} 1\n").into_bytes()),
        (c"/proc/self/gid_map", format!("0 {gid} 1\n").into_bytes()),
    ];
    let maps = if launch.namespaces.contains(CloneFlags::CLONE_NEWUSER) { &maps[..] } else { &[] };
    let (errors, child_errors) = pipe2(OFlag::O_CLOEXEC)?;
    let flags = libc::c_long::from(launch.namespaces.bits() | libc::SIGCHLD);
    // SAFETY: without CLONE_VM and with no stack given, this is fork(2) with namespaces; the child below only makes system calls.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    if pid == 0 {
        let child = Child { stdio: &launch.stdio, maps };
        let (step, errno) = child.run(launch.program, &arguments, &environment);
        let report = [step, u8::try_from(errno).unwrap_or(u8::MAX)];
        // SAFETY: writes two bytes of a live array, then ends without running anything of the parent's.
        unsafe {
            libc::write(child_errors.as_raw_fd(), report.as_ptr().cast(), report.len());
            libc::_exit(127);
        }
    }
    drop(child_errors);
    let mut report = [0u8; 2];
    // The write end closes at execve.
    match File::from(errors).read_exact(&mut report) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(Pid::from_raw(i32::try_from(pid).map_err(io::Error::other)?)),
        Err(e) => Err(e),
        Ok(()) => {
            let e = io::Error::from_raw_os_error(report[1].into());
            let step = STEPS.get(usize::from(report[0])).copied().unwrap_or("starting");
            Err(io::Error::new(e.kind(), format!("the lab's first process, {step}: {e}")))
        }
    }
}

struct Child<'a> {
    stdio: &'a Stdio,
    maps: &'a [(&'static CStr, Vec<u8>)],
}

impl Child<'_> {
    /// Returns the step that failed and why; does not return when all went well.
    #[expect(unsafe_code, reason = "system calls between clone and execve")]
    fn run(&self, program: &CStr, arguments: &[*const libc::c_char], environment: &[*const libc::c_char]) -> (u8, i32) {
        let streams: [(RawFd, RawFd); 3] = [
            (self.stdio.input.as_fd().as_raw_fd(), 0),
            (self.stdio.output.as_fd().as_raw_fd(), 1),
            (self.stdio.output.as_fd().as_raw_fd(), 2),
        ];
        for (from, to) in streams {
            // SAFETY: duplicates descriptors that are open.
            if unsafe { libc::dup2(from, to) } < 0 {
                return (0, Errno::last_raw());
            }
        }
        for (step, (path, text)) in (1u8..).zip(self.maps) {
            // SAFETY: a constant path, a live buffer and its length.
            let written = unsafe {
                let fd = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
                if fd < 0 { -1 } else { libc::write(fd, text.as_ptr().cast(), text.len()) }
            };
            if written < 0 {
                return (step, Errno::last_raw());
            }
        }
        // SAFETY: both arrays end with a null pointer, and their strings outlive the call.
        unsafe { libc::execve(program.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
        (4, Errno::last_raw())
    }
}
