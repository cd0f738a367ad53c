//! What is said on a lab's control socket: one request a connection, as a frame of JSON with the descriptors that go with it,
//! then one answer.
//!
//! A frame is its length in four bytes, most significant first, and that many bytes of JSON.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::PathBuf;

use nix::cmsg_space;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;

/// The longest frame, in bytes.
const FRAME_MAX: usize = 16 << 20;
/// The most descriptors in one frame.
const DESCRIPTORS_MAX: usize = 4;

/// A command to be run in the lab.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Where: `internet`, `broker`, `CLUSTER` (its administrator's host), `CLUSTER/router`, `CLUSTER/NODE`, `CLUSTER/POD` or
    /// `CLUSTER/NAMESPACE/POD`.
    pub place: String,
    /// The program and its arguments.
    pub arguments: Vec<String>,
    /// Environment variables beside those that the place has.
    pub environment: Vec<(String, String)>,
    /// The directory to run it in; by default the place's own: `work/` of the lab's folder, in a pod `/`.
    pub directory: Option<PathBuf>,
}

/// A process that the lab runs for as long as nobody ends it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceCommand {
    /// Its name; no two that run share one. Its log is `logs/NAME.log`.
    pub name: String,
    /// What and where.
    pub command: Command,
    /// It is ready once this address accepts connections, as seen from where it runs.
    pub ready: Option<SocketAddr>,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Its exit code, or 128 and the number of the signal that ended it, as shells have it.
    pub code: i32,
}

/// A process of the lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number, as the lab has it.
    pub pid: i32,
    /// Whose network namespace it is in: a host's, or `CLUSTER/NAMESPACE/POD`. Empty for the lab's own first processes.
    pub place: String,
    /// The process that the lab knows it by: a service's name, or `CLUSTER/NAMESPACE/POD/CONTAINER`; empty for others.
    pub name: String,
    /// Its command line.
    pub arguments: Vec<String>,
    /// Its resident memory in KiB, shared pages included.
    pub resident_kib: u64,
    /// Its memory in KiB, shared pages divided among those that share them.
    pub proportional_kib: u64,
}

/// How long each stage of the start took, in milliseconds since the lab's first process began.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Up {
    /// What was reached, and when.
    pub stages: Vec<(String, u64)>,
}

/// What is asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub(crate) enum Request {
    /// Answers once the lab is up, or with why it is not.
    WaitUp,
    /// Runs a command on the three descriptors that come along; answers with its [`Exit`].
    Exec { command: Command },
    /// Starts a service; answers once it is ready.
    StartService { service: ServiceCommand },
    /// Sends a signal to a service, which is not restarted then; answers once it is gone.
    KillService { name: String, signal: i32 },
    /// The router's address on the internet.
    SetPublicAddress { cluster: String, address: IpAddr },
    /// Every process of the lab.
    Processes,
    /// What is set in the network namespace of this name.
    Inspect { namespace: String },
    /// What the internet dropped.
    Dropped,
    /// Takes a kubeconfig of the lab into the host's, as a context of this name, through a port of the host.
    AddContext { name: String, kubeconfig: PathBuf, port: u16 },
    /// Ends the lab.
    Down,
}

/// What is answered: the value asked for, or what went wrong.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Answer<T> {
    Ok(T),
    Error(String),
}

/// Sends a value, with descriptors.
pub(crate) async fn send<T: Serialize>(stream: &mut UnixStream, value: &T, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let json = serde_json::to_vec(value).map_err(io::Error::other)?;
    let length = u32::try_from(json.len()).map_err(io::Error::other)?;
    let mut frame = length.to_be_bytes().to_vec();
    frame.extend(json);
    let raw: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control: &[ControlMessage<'_>] = if fds.is_empty() { &[] } else { &rights };
    let sent = stream
        .async_io(Interest::WRITABLE, || {
            sendmsg::<UnixAddr>(stream.as_raw_fd(), &[IoSlice::new(&frame)], control, MsgFlags::MSG_NOSIGNAL, None)
                .map_err(io::Error::from)
        })
        .await?;
    stream.write_all(&frame[sent..]).await
}

/// Receives a value, with descriptors; `None` at the end of the stream.
pub(crate) async fn receive<T: DeserializeOwned>(stream: &mut UnixStream) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut header = [0u8; 4];
    let (got, fds) = stream.async_io(Interest::READABLE, || receive_some(stream, &mut header)).await?;
    if got == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut header[got..]).await?;
    let length = u32::from_be_bytes(header) as usize;
    if length > FRAME_MAX {
        return Err(io::Error::other(format!("a frame of {length} bytes; at most {FRAME_MAX} are taken")));
    }
    let mut json = vec![0; length];
    stream.read_exact(&mut json).await?;
    Ok(Some((serde_json::from_slice(&json).map_err(io::Error::other)?, fds)))
}

#[expect(unsafe_code, reason = "descriptors received by number")]
fn receive_some(stream: &UnixStream, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = cmsg_space!([libc::c_int; DESCRIPTORS_MAX]);
    let mut parts = [IoSliceMut::new(buffer)];
    let message = recvmsg::<UnixAddr>(stream.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let mut fds = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = control {
            // SAFETY: the kernel made these descriptors for this message; nobody else has them.
            fds.extend(received.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    Ok((message.bytes, fds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;

    #[tokio::test]
    async fn a_frame_arrives_with_its_descriptors() {
        let (mut a, mut b) = UnixStream::pair().expect("a pair of sockets");
        let (reader, mut writer) = std::io::pipe().expect("a pipe");
        let request = Request::KillService { name: "x".repeat(300_000), signal: 9 };
        let sending = async { send(&mut a, &request, &[reader.as_fd()]).await };
        let receiving = async { receive::<Request>(&mut b).await };
        let (sent, received) = tokio::join!(sending, receiving);
        sent.expect("sent");
        let (got, fds) = received.expect("received").expect("a frame");
        assert!(matches!(got, Request::KillService { name, signal: 9 } if name.len() == 300_000));
        writer.write_all(b"hello").expect("written");
        drop(writer);
        let mut text = String::new();
        std::fs::File::from(fds.into_iter().next().expect("a descriptor")).read_to_string(&mut text).expect("read");
        assert_eq!(text, "hello");
        drop(a);
        assert!(receive::<Request>(&mut b).await.expect("the end").is_none());
    }

    #[tokio::test]
    async fn what_is_too_long_is_refused() {
        let (mut a, mut b) = UnixStream::pair().expect("a pair of sockets");
        a.write_all(&u32::MAX.to_be_bytes()).await.expect("written");
        assert!(receive::<Request>(&mut b).await.is_err());
    }
}
