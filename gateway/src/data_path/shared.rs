//! What the threads of a data path share.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use daisy_api::labels::PROBE_PORT;
use daisy_gateway_core::Moment;
use daisy_gateway_core::endpoints::{Path, Port};
use daisy_gateway_core::engine::Sealed;
use daisy_gateway_core::packet::{Addresses, UdpDatagram, write_udp};
use daisy_gateway_core::probe::{PROBE_LENGTH, Probe};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::sync::watch;
use tracing::{trace, warn};

use super::peer::Peer;
use super::table::Table;
use crate::metrics::{Drop, Metrics};
use crate::socket::UdpSocket;
use crate::tun::Tun;
use crate::wireguard::Identity;

/// A spare socket younger than this is fresh enough for any dial.
const SPARE_FRESH: Duration = Duration::from_secs(10);
/// An inner packet with a probe: an IPv6 header, a UDP header, the probe.
const PROBE_PACKET: usize = 40 + 8 + PROBE_LENGTH;
/// Room for a sealed probe, or a handshake initiation.
const SMALL: usize = 256;

/// Wakes a thread that waits.
#[derive(Debug)]
pub(crate) struct Waker(EventFd);

impl Waker {
    fn new() -> io::Result<Self> {
        Ok(Self(EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?))
    }

    pub(crate) fn wake(&self) {
        // It fails only where it is woken 2^64 times already.
        let _ = self.0.write(1);
    }

    /// Waits until one of the descriptors can be read, this waker is woken, or the time is over. Says which can be read (or failed,
    /// which reading tells).
    pub(crate) fn wait<const N: usize>(
        &self,
        descriptors: [Option<BorrowedFd<'_>>; N],
        timeout: Option<Duration>,
    ) -> [bool; N] {
        let event = self.0.as_fd();
        // The waker stands in for those that are not there, so that places stay the same.
        let mut polled: Vec<PollFd<'_>> =
            descriptors.iter().map(|one| PollFd::new(one.unwrap_or(event), PollFlags::POLLIN)).collect();
        polled.push(PollFd::new(event, PollFlags::POLLIN));
        let timeout = match timeout {
            // Rounded up: waking before the time would find nothing to do, again and again.
            Some(timeout) => PollTimeout::try_from(timeout.as_micros().div_ceil(1_000)).unwrap_or(PollTimeout::MAX),
            None => PollTimeout::NONE,
        };
        let _ = nix::poll::poll(&mut polled, timeout);
        let mut ready = [false; N];
        for ((ready, polled), descriptor) in ready.iter_mut().zip(&polled).zip(descriptors) {
            *ready = descriptor.is_some() && polled.any().unwrap_or(true);
        }
        if polled.last().is_some_and(|polled| polled.any().unwrap_or(true)) {
            let _ = self.0.read();
        }
        ready
    }
}

/// The wakers of the threads.
#[derive(Debug)]
pub(crate) struct Wakers {
    pub(crate) transmit: Waker,
    pub(crate) receive: Waker,
    pub(crate) timers: Waker,
}

impl Wakers {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { transmit: Waker::new()?, receive: Waker::new()?, timers: Waker::new()? })
    }
}

/// What the threads share.
pub(crate) struct Shared {
    pub(crate) identity: Identity,
    /// This gateway's address in the node range.
    pub(crate) address: IpAddr,
    /// This start's number.
    pub(crate) incarnation: u64,
    pub(crate) tun: Tun,
    pub(crate) listening: UdpSocket,
    pub(crate) metrics: Metrics,
    pub(crate) wakers: Wakers,
    /// Counts up when a connection's status changes.
    pub(crate) changes: watch::Sender<u64>,
    /// Why the data path ended by itself.
    pub(crate) failure: watch::Sender<Option<String>>,
    pub(crate) stopping: AtomicBool,
    spare: RwLock<Option<(Arc<UdpSocket>, Moment)>>,
    table: RwLock<Arc<Table>>,
    generation: AtomicU64,
    origin: Instant,
}

/// What a data path is started with.
pub(crate) struct Parts {
    pub(crate) identity: Identity,
    pub(crate) address: IpAddr,
    pub(crate) incarnation: u64,
    pub(crate) tun: Tun,
    pub(crate) listening: UdpSocket,
    pub(crate) metrics: Metrics,
}

impl Shared {
    pub(crate) fn new(parts: Parts) -> io::Result<Self> {
        let Parts { identity, address, incarnation, tun, listening, metrics } = parts;
        Ok(Self {
            identity,
            address,
            incarnation,
            tun,
            listening,
            metrics,
            wakers: Wakers::new()?,
            changes: watch::Sender::new(0),
            failure: watch::Sender::new(None),
            stopping: AtomicBool::new(false),
            spare: RwLock::new(None),
            table: RwLock::new(Arc::new(Table::default())),
            generation: AtomicU64::new(0),
            origin: Instant::now(),
        })
    }

    pub(crate) fn now(&self) -> Moment {
        Moment::after_origin(self.origin.elapsed())
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    pub(crate) fn table(&self) -> Arc<Table> {
        Arc::clone(&self.table.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn set_table(&self, table: Table) {
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
        self.generation.fetch_add(1, Ordering::Release);
    }

    pub(crate) fn spare(&self) -> Option<Arc<UdpSocket>> {
        self.spare.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(|(socket, _)| Arc::clone(socket))
    }

    /// Sees to a spare socket for a dial: a new one, unless the one there is fresh, or carries a connection that lives.
    pub(crate) fn refresh_spare(&self, table: &Table) {
        let in_use =
            || table.peers().any(|peer| peer.liveness() == daisy_gateway_core::rank::Liveness::Live && is_spare(peer.path()));
        let now = self.now();
        let known = self.spare.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(|(_, made)| *made);
        if known.is_some_and(|made| now.since(made) < SPARE_FRESH || in_use()) {
            return;
        }
        match UdpSocket::bind(0) {
            Ok(socket) => {
                *self.spare.write().unwrap_or_else(PoisonError::into_inner) = Some((Arc::new(socket), now));
                self.wakers.receive.wake();
            }
            Err(error) => warn!(%error, "no spare UDP socket: a path whose NAT changed may take longer to heal"),
        }
    }

    /// Sends a datagram to a peer along a path.
    pub(crate) fn send(&self, peer: &Peer, datagram: &[u8], path: Path) {
        let sent = match path.port {
            Port::Listening => self.listening.send(datagram, path.remote, path.local),
            Port::Spare => match self.spare() {
                Some(socket) => socket.send(datagram, path.remote, path.local),
                None => Err(io::ErrorKind::NotConnected.into()),
            },
        };
        if let Err(error) = sent {
            self.handle_send_error(peer, path.remote, &error);
        }
    }

    /// A datagram to a peer could not be sent.
    pub(crate) fn handle_send_error(&self, peer: &Peer, remote: SocketAddr, error: &io::Error) {
        self.metrics.drop(Drop::NotSent);
        trace!(%remote, %error, "a datagram could not be sent");
        if peer.path().is_some_and(|path| path.remote == remote && path.local.is_some()) {
            peer.with_link(|link| link.handle_source_gone());
        }
    }

    /// Sends a probe to a peer through its session.
    pub(crate) fn send_probe(&self, peer: &Peer, probe: &Probe) {
        let (mut packet, mut sealed) = ([0; PROBE_PACKET], [0; SMALL]);
        let addresses = Addresses { source: self.address, destination: peer.record().record.address };
        let payload = probe.to_bytes();
        let datagram = UdpDatagram { addresses, source_port: PROBE_PORT, destination_port: PROBE_PORT, payload: &payload };
        let Some(packet) = write_udp(&datagram, &mut packet).and_then(|length| packet.get(..length)) else { return };
        if let Sealed::Datagram(length) = peer.session.seal(self.now(), packet, &mut sealed)
            && let (Some(datagram), Some(path)) = (sealed.get(..length), peer.path())
        {
            self.send(peer, datagram, path);
        }
    }

    /// Sends the packets that waited for the session.
    pub(crate) fn send_held(&self, peer: &Peer, room: &mut [u8]) {
        while let Some(length) = peer.session.seal_held(self.now(), room) {
            let (Some(datagram), Some(path)) = (room.get(..length), peer.path()) else { return };
            peer.note_sent(length);
            self.send(peer, datagram, path);
        }
    }

    pub(crate) fn note_change(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }
}

fn is_spare(path: Option<Path>) -> bool {
    path.is_some_and(|path| path.port == Port::Spare)
}

/// A thread's view of the table: the lock is taken only after a change.
pub(crate) struct TableView {
    table: Arc<Table>,
    generation: u64,
}

impl TableView {
    pub(crate) fn new(shared: &Shared) -> Self {
        // In this order: a table that is newer than its generation is looked at once too often, never too seldom.
        let generation = shared.generation.load(Ordering::Acquire);
        Self { table: shared.table(), generation }
    }

    pub(crate) fn refresh(&mut self, shared: &Shared) -> &Table {
        if shared.generation.load(Ordering::Acquire) != self.generation {
            *self = Self::new(shared);
        }
        &self.table
    }
}
