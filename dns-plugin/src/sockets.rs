//! UDP and TCP sockets, and the server on them.

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_server::Server;
use hickory_server::net::NetError;
use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;
use tokio::net::{TcpListener, UdpSocket};

use crate::handler::{Handler, Respond};
use crate::metrics::Metrics;

/// A TCP connection without a request for so long is closed.
const TCP_IDLE: Duration = Duration::from_secs(10);
/// How many answers may wait on one TCP connection.
const TCP_BUFFER: usize = 32;
/// How many TCP connections may wait to be accepted.
const TCP_BACKLOG: i32 = 128;
/// Room for bursts, in bytes; the kernel may give less.
const UDP_RECEIVE_BUFFER: usize = 1 << 20;
/// How often a port is chosen anew where any will do and the chosen one is taken for the other protocol.
const ANY_PORT_TRIES: usize = 16;

/// Why an address cannot be listened on.
#[derive(Debug, Error)]
pub enum BindError {
    /// No address was given.
    #[error("there is no address to listen on; give at least one")]
    None,
    /// Another program has the port.
    #[error("{protocol} port {} of {} is in use by another program; end it, or listen elsewhere with --listen", address.port(), address.ip())]
    InUse {
        /// The address.
        address: SocketAddr,
        /// `UDP` or `TCP`.
        protocol: &'static str,
    },
    /// The port needs a right.
    #[error("{protocol} port {} may not be opened by this user; it needs CAP_NET_BIND_SERVICE, or a port from 1024 on", address.port())]
    Forbidden {
        /// The address.
        address: SocketAddr,
        /// `UDP` or `TCP`.
        protocol: &'static str,
    },
    /// No interface has the address.
    #[error("no interface of this machine has the address {}; listen on one that it has, or on 0.0.0.0", address.ip())]
    NotHere {
        /// The address.
        address: SocketAddr,
    },
    /// Something else.
    #[error("listening on {protocol} {address}: {source}")]
    Other {
        /// The address.
        address: SocketAddr,
        /// `UDP` or `TCP`.
        protocol: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// Why the server ended by itself.
#[derive(Debug, Error)]
#[error("a DNS socket was lost: {0}")]
pub struct ServeError(#[from] NetError);

/// Open sockets: one of UDP and one of TCP for each address.
#[derive(Debug)]
pub struct Sockets {
    pairs: Vec<(UdpSocket, TcpListener)>,
    addresses: Vec<SocketAddr>,
}

impl Sockets {
    /// Opens the sockets, all or none. To be called within a tokio runtime. Port 0 becomes a free one, the same for both.
    ///
    /// Answers leave from the address that the system chooses for the way back: on a machine with several addresses, listen on
    /// the one that is asked rather than on 0.0.0.0. Behind a ClusterIP it makes no difference.
    ///
    /// # Errors
    /// [`BindError`] names the address, the protocol and the remedy.
    pub fn bind(listen: &[SocketAddr]) -> Result<Self, BindError> {
        let mut sockets = Self { pairs: Vec::new(), addresses: Vec::new() };
        for address in listen {
            // `[::]` takes IPv4 too, unless that is listened on by itself.
            let only_v6 = listen.iter().any(|a| a.is_ipv4() && a.port() == address.port());
            let (udp, tcp, bound) = pair(*address, only_v6)?;
            sockets.pairs.push((udp, tcp));
            sockets.addresses.push(bound);
        }
        if sockets.pairs.is_empty() { Err(BindError::None) } else { Ok(sockets) }
    }

    /// Where it listens, in the order given.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }
}

fn pair(address: SocketAddr, only_v6: bool) -> Result<(UdpSocket, TcpListener, SocketAddr), BindError> {
    let mut tries = if address.port() == 0 { ANY_PORT_TRIES } else { 1 };
    loop {
        tries -= 1;
        let (tcp, bound) = tcp(address, only_v6).map_err(|error| bind_error(address, "TCP", error))?;
        match udp(bound, only_v6) {
            Ok(udp) => return Ok((udp, tcp, bound)),
            Err(error) if tries > 0 && error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(bind_error(bound, "UDP", error)),
        }
    }
}

fn socket(address: SocketAddr, kind: Type, protocol: Protocol, only_v6: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if address.is_ipv6() {
        socket.set_only_v6(only_v6)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn tcp(address: SocketAddr, only_v6: bool) -> io::Result<(TcpListener, SocketAddr)> {
    let socket = socket(address, Type::STREAM, Protocol::TCP, only_v6)?;
    // Connections of a server that was here before do not keep its successor out.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(TCP_BACKLOG)?;
    let listener = TcpListener::from_std(socket.into())?;
    let bound = listener.local_addr()?;
    Ok((listener, bound))
}

fn udp(address: SocketAddr, only_v6: bool) -> io::Result<UdpSocket> {
    let socket = socket(address, Type::DGRAM, Protocol::UDP, only_v6)?;
    // Less room only means that bursts lose packets sooner.
    let _ = socket.set_recv_buffer_size(UDP_RECEIVE_BUFFER);
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}

fn bind_error(address: SocketAddr, protocol: &'static str, source: io::Error) -> BindError {
    let kind = source.kind();
    if kind == io::ErrorKind::AddrInUse {
        BindError::InUse { address, protocol }
    } else if kind == io::ErrorKind::PermissionDenied {
        BindError::Forbidden { address, protocol }
    } else if kind == io::ErrorKind::AddrNotAvailable && !is_any(address) {
        BindError::NotHere { address }
    } else {
        BindError::Other { address, protocol, source }
    }
}

fn is_any(address: SocketAddr) -> bool {
    address.ip() == Ipv4Addr::UNSPECIFIED || address.ip() == Ipv6Addr::UNSPECIFIED
}

/// Answers on these sockets until `shutdown` ends.
///
/// # Errors
/// A socket that is lost.
pub async fn serve(
    sockets: Sockets,
    responder: impl Respond,
    metrics: &Metrics,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let mut server = answering(sockets, Handler::new(Box::new(responder), metrics.clone()));
    tokio::select! {
        ended = server.block_until_done() => ended?,
        () = shutdown => server.shutdown_gracefully().await?,
    }
    Ok(())
}

fn answering(sockets: Sockets, handler: Handler) -> Server<Handler> {
    let mut server = Server::new(handler);
    for (udp, tcp) in sockets.pairs {
        server.register_socket(udp);
        server.register_listener(tcp, TCP_IDLE, TCP_BUFFER);
    }
    server
}
