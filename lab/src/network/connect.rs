//! Connections made from within a network namespace.

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpSocket, TcpStream};

use crate::sys::Netns;

/// Connects from within a network namespace.
pub(crate) async fn connect(netns: &Netns, address: SocketAddr) -> io::Result<TcpStream> {
    let family = if address.is_ipv6() { socket2::Domain::IPV6 } else { socket2::Domain::IPV4 };
    let socket = netns.run(|| {
        let socket = socket2::Socket::new(family, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    })?;
    TcpSocket::from_std_stream(socket.into()).connect(address).await
}
