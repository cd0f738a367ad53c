//! Asking another server, as CoreDNS's `forward` does.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType};
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout, timeout_at};

/// How long all servers together may take.
pub const TIMEOUT: Duration = Duration::from_secs(2);
/// After so long without an answer a datagram is sent again: one of the two may have been lost.
const RESEND: Duration = Duration::from_millis(800);

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum UpstreamError {
    /// Nobody to ask.
    #[error("there is no server to ask")]
    None,
    /// No answer in time.
    #[error("{server} did not answer within {} s", TIMEOUT.as_secs())]
    Timeout {
        /// The last one asked.
        server: SocketAddr,
    },
    /// It cannot be reached.
    #[error("asking {server}: {source}")]
    Io {
        /// The last one asked.
        server: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// Sends the request as it is to the first of the servers that answers, over UDP, and over TCP where that answer is cut short or
/// `tcp` is asked for.
///
/// # Errors
/// [`UpstreamError`] of the last server asked.
pub async fn exchange(request: &[u8], servers: &[SocketAddr], tcp: bool) -> Result<Message, UpstreamError> {
    let deadline = Instant::now() + TIMEOUT;
    let mut last = UpstreamError::None;
    for server in servers {
        last = match timeout_at(deadline, ask(request, *server, tcp)).await {
            Ok(Ok(message)) => return Ok(message),
            Ok(Err(source)) => UpstreamError::Io { server: *server, source },
            Err(_) => return Err(UpstreamError::Timeout { server: *server }),
        };
    }
    Err(last)
}

async fn ask(request: &[u8], server: SocketAddr, tcp: bool) -> io::Result<Message> {
    if !tcp {
        let answer = ask_udp(request, server).await?;
        if !answer.metadata.truncation {
            return Ok(answer);
        }
    }
    ask_tcp(request, server).await
}

async fn ask_udp(request: &[u8], server: SocketAddr) -> io::Result<Message> {
    let any: SocketAddr = if server.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind(any).await?;
    // A connected socket takes datagrams of this server only, and hears that its port is closed.
    socket.connect(server).await?;
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        socket.send(request).await?;
        let received = timeout(RESEND, async {
            loop {
                let length = socket.recv(&mut buffer).await?;
                if let Some(message) = answer_to(request, &buffer[..length]) {
                    return Ok(message);
                }
            }
        });
        if let Ok(message) = received.await {
            return message;
        }
    }
}

async fn ask_tcp(request: &[u8], server: SocketAddr) -> io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(request.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut framed = Vec::with_capacity(request.len() + 2);
    framed.extend(length.to_be_bytes());
    framed.extend(request);
    stream.write_all(&framed).await?;
    let mut buffer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut buffer).await?;
    answer_to(request, &buffer)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "what came is no answer to the request"))
}

/// The message, if it answers the request: the same ID and question.
fn answer_to(request: &[u8], bytes: &[u8]) -> Option<Message> {
    let (request, message) = (Message::from_vec(request).ok()?, Message::from_vec(bytes).ok()?);
    let answers = message.metadata.message_type == MessageType::Response
        && message.metadata.id == request.metadata.id
        && message.queries == request.queries;
    answers.then_some(message)
}
