//! UDP sockets that take both address families, many datagrams at a time, and that know the address they were dialled at.
//!
//! One socket serves both families: IPv4 addresses are mapped into IPv6 (RFC 4291 section 2.5.5.2) inside this module and nowhere
//! else. Where the kernel has no IPv6, the socket is an IPv4 one.

mod raw;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::error::GatewayError;

/// How many datagrams are received or sent by one system call.
pub(crate) const BATCH: usize = 32;
/// The room for one datagram: the greatest that UDP can carry.
pub(crate) const SLOT: usize = 65_536;
/// What a socket's buffers are asked to hold, in bytes; without CAP_NET_ADMIN the system's limit stands.
const BUFFER: i32 = 4 << 20;

/// A UDP socket.
#[derive(Debug)]
pub(crate) struct UdpSocket {
    descriptor: OwnedFd,
    ipv6: bool,
}

impl UdpSocket {
    /// Listens on a port in both families, where the kernel has both; on a port of the system's choosing for 0.
    pub(crate) fn bind(port: u16) -> Result<Self, GatewayError> {
        let failed = |cause: io::Error| match cause.raw_os_error() {
            Some(libc::EADDRINUSE) => GatewayError::PortInUse { port },
            Some(libc::EACCES | libc::EPERM) => GatewayError::NoRights { what: format!("bind UDP port {port}"), cause },
            _ => GatewayError::Socket { port, cause },
        };
        let dual = raw::open(true).and_then(|descriptor| {
            raw::bind(&descriptor, SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port))?;
            Ok(Self { descriptor, ipv6: true })
        });
        let socket = match dual {
            Err(cause) if matches!(cause.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)) => {
                let descriptor = raw::open(false).map_err(failed)?;
                raw::bind(&descriptor, SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port)).map_err(failed)?;
                Self { descriptor, ipv6: false }
            }
            other => other.map_err(failed)?,
        };
        raw::set_buffers(&socket.descriptor, BUFFER);
        Ok(socket)
    }

    /// Whether it sends to IPv6 addresses too.
    #[cfg(test)]
    pub(crate) fn is_dual(&self) -> bool {
        self.ipv6
    }

    /// Sends one datagram, from the source if one is given.
    pub(crate) fn send(&self, datagram: &[u8], remote: SocketAddr, source: Option<IpAddr>) -> io::Result<()> {
        let mut sent = 0;
        match raw::send(self, &[Outgoing { datagram, remote, source }], &mut sent) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Sends these datagrams, at most [`BATCH`] of them, in order; calls `failed` with the index of each that could not be sent.
    pub(crate) fn send_all(&self, datagrams: &[Outgoing<'_>], mut failed: impl FnMut(usize, io::Error)) {
        let mut from = 0;
        while let Some(rest) = datagrams.get(from..).filter(|rest| !rest.is_empty()) {
            let mut sent = 0;
            if let Some(error) = raw::send(self, rest, &mut sent) {
                failed(from + sent, error);
                sent += 1;
            }
            from += sent;
        }
    }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// A datagram to be sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outgoing<'a> {
    pub(crate) datagram: &'a [u8],
    pub(crate) remote: SocketAddr,
    pub(crate) source: Option<IpAddr>,
}

/// A datagram that came.
#[derive(Debug)]
pub(crate) struct Incoming<'a> {
    pub(crate) datagram: &'a [u8],
    pub(crate) remote: SocketAddr,
    /// The address of ours that it was sent to.
    pub(crate) local: Option<IpAddr>,
}

/// Room for a batch of datagrams. Its memory is touched only as far as datagrams reach.
pub(crate) struct Inbox {
    buffer: Vec<u8>,
    arrived: Vec<Arrived>,
}

#[derive(Clone, Copy, Debug)]
struct Arrived {
    slot: usize,
    length: usize,
    remote: SocketAddr,
    local: Option<IpAddr>,
}

impl Inbox {
    pub(crate) fn new() -> Self {
        Self { buffer: vec![0; BATCH * SLOT], arrived: Vec::with_capacity(BATCH) }
    }

    /// Receives what is there, without waiting; returns how many system slots were filled: [`BATCH`] means that there may be more.
    pub(crate) fn receive(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        self.arrived.clear();
        raw::receive(socket, &mut self.buffer, &mut self.arrived)
    }

    /// What the last call received.
    pub(crate) fn datagrams(&self) -> impl Iterator<Item = Incoming<'_>> {
        self.arrived.iter().filter_map(|arrived| {
            let datagram = self.buffer.get(arrived.slot * SLOT..)?.get(..arrived.length)?;
            Some(Incoming { datagram, remote: arrived.remote, local: arrived.local })
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn receive_one(inbox: &mut Inbox, socket: &UdpSocket) -> (Vec<u8>, SocketAddr, Option<IpAddr>) {
        let until = Instant::now() + Duration::from_secs(5);
        loop {
            if inbox.receive(socket).is_ok_and(|count| count > 0)
                && let Some(incoming) = inbox.datagrams().next()
            {
                return (incoming.datagram.to_vec(), incoming.remote, incoming.local);
            }
            assert!(Instant::now() < until, "nothing came");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn port_of(socket: &UdpSocket) -> u16 {
        let (mut inbox, probe) = (Inbox::new(), std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket"));
        let here = probe.local_addr().expect("bound");
        socket.send(b"hello", here, None).expect("sent");
        let mut buffer = [0; 16];
        let (_, from) = probe.recv_from(&mut buffer).expect("received");
        let _ = inbox.receive(socket);
        from.port()
    }

    #[test]
    fn both_families_and_the_address_dialled() {
        let socket = UdpSocket::bind(0).expect("a socket");
        let port = port_of(&socket);
        let mut inbox = Inbox::new();
        // Every address of 127.0.0.0/8 is ours: the one dialled is the one to answer from.
        let client = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
        client.send_to(b"four", ("127.0.0.9", port)).expect("sent");
        let (bytes, remote, local) = receive_one(&mut inbox, &socket);
        assert_eq!((bytes.as_slice(), remote), (&b"four"[..], client.local_addr().expect("bound")));
        assert_eq!(local, "127.0.0.9".parse().ok());
        socket.send(b"back", remote, local).expect("sent");
        let mut buffer = [0; 16];
        let (length, from) = client.recv_from(&mut buffer).expect("received");
        assert_eq!((&buffer[..length], from), (&b"back"[..], SocketAddr::new("127.0.0.9".parse().expect("an address"), port)));
        assert!(socket.send(b"no", remote, "192.0.2.77".parse().ok()).is_err(), "an address that is not ours");
        if !socket.is_dual() {
            return;
        }
        let Ok(client) = std::net::UdpSocket::bind("[::1]:0") else { return };
        client.send_to(b"six", ("::1", port)).expect("sent");
        let (bytes, remote, local) = receive_one(&mut inbox, &socket);
        assert_eq!((bytes.as_slice(), remote, local), (&b"six"[..], client.local_addr().expect("bound"), "::1".parse().ok()));
        socket.send(b"back", remote, local).expect("sent");
        assert_eq!(client.recv(&mut buffer).expect("received"), 4);
    }

    #[test]
    fn a_batch_goes_on_after_one_that_fails() {
        let socket = UdpSocket::bind(0).expect("a socket");
        let client = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let remote = client.local_addr().expect("bound");
        let bad = "192.0.2.77".parse().ok();
        let batch = [(None, b"1"), (bad, b"2"), (None, b"3"), (bad, b"4")];
        let batch: Vec<Outgoing<'_>> =
            batch.iter().map(|(source, bytes)| Outgoing { datagram: *bytes, remote, source: *source }).collect();
        let mut failures = Vec::new();
        socket.send_all(&batch, |index, _| failures.push(index));
        assert_eq!(failures, [1, 3]);
        let mut buffer = [0; 4];
        let got: Vec<u8> = (0..2).map(|_| client.recv(&mut buffer).map(|_| buffer[0]).expect("received")).collect();
        assert_eq!(got, b"13");
    }

    #[test]
    fn a_port_in_use_is_named() {
        let first = UdpSocket::bind(0).expect("a socket");
        let error = UdpSocket::bind(port_of(&first)).expect_err("in use");
        assert!(matches!(error, GatewayError::PortInUse { .. }), "{error}");
        assert!(error.to_string().contains("--port"), "{error}");
    }
}
