//! Running a command on the caller's own descriptors.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::net::UnixStream;

use super::Shared;
use super::place::{self, Site};
use crate::protocol::{Answer, Command, Exit, send};

/// Runs the command and answers with its exit; when the caller goes away first, it is killed with all of its group.
pub(super) async fn serve(shared: &Shared, stream: &mut UnixStream, command: &Command, stdio: [OwnedFd; 3]) -> io::Result<()> {
    let child = place::resolve(shared, &command.place).and_then(|site| spawn(command, site, stdio));
    let mut child = match child {
        Ok(child) => child,
        Err(message) => return send(stream, &Answer::<Exit>::Error(message), &[]).await,
    };
    let status = tokio::select! {
        status = child.wait() => status?,
        gone = gone(stream) => {
            if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
                // It leads its own group; if it has just ended there is nothing to kill.
                let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
            }
            child.wait().await?;
            return gone;
        }
    };
    send(stream, &Answer::Ok(Exit { code: code(status) }), &[]).await
}

/// Returns when the other end has closed; it says nothing more before that.
async fn gone(stream: &UnixStream) -> io::Result<()> {
    let mut byte = [0u8; 1];
    loop {
        stream.readable().await?;
        match stream.try_read(&mut byte) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
            Ok(_) => return Ok(()),
        }
    }
}

/// As shells count: the exit code, or 128 and the signal.
pub(super) fn code(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|s| 128 + s)).unwrap_or(255)
}

/// Starts a command at a place.
pub(super) fn spawn(command: &Command, site: Site, stdio: [OwnedFd; 3]) -> Result<tokio::process::Child, String> {
    let Some((program, arguments)) = command.arguments.split_first() else { return Err("no command was given".to_owned()) };
    let mut entrance = site.entrance;
    if let Some(directory) = &command.directory {
        entrance.directory = CString::new(directory.as_os_str().as_bytes()).map_err(|e| e.to_string())?;
    }
    let mut process = tokio::process::Command::new(program);
    process.args(arguments);
    if let Some(environment) = site.environment {
        process.env_clear().envs(environment);
    }
    process.envs(site.additional).envs(command.environment.iter().cloned());
    let [input, output, error] = stdio;
    process.stdin(Stdio::from(input)).stdout(Stdio::from(output)).stderr(Stdio::from(error));
    entrance.prepare(&mut process);
    process.spawn().map_err(|e| format!("{program}: {e}"))
}
