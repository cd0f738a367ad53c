//! From the network to the device: datagram → whose it is → opened packet → probe, or the device.

use std::net::IpAddr;
use std::os::fd::AsFd;

use daisy_api::labels::PROBE_PORT;
use daisy_gateway_core::endpoints::{Path, Port};
use daisy_gateway_core::engine::Opened;
use daisy_gateway_core::packet::{UdpDatagram, parse_addresses, parse_udp};
use daisy_gateway_core::probe::{Probe, ProbeKind};
use tracing::{debug, trace};

use super::peer::Peer;
use super::shared::{Shared, TableView};
use super::table::{Member, Table};
use crate::metrics::Drop;
use crate::socket::{BATCH, Inbox, Incoming, SLOT, UdpSocket};
use crate::wireguard::Sender;

/// How many batches are taken from one socket before the other has its turn.
const BATCHES: usize = 8;

/// Runs until the data path stops, or a socket breaks.
pub(crate) fn run(shared: &Shared) -> Result<(), String> {
    let mut view = TableView::new(shared);
    let mut inbox = Inbox::new();
    let mut room = vec![0; SLOT];
    while !shared.is_stopping() {
        let spare = shared.spare();
        let descriptors = [Some(shared.listening.as_fd()), spare.as_ref().map(AsFd::as_fd)];
        let [listening_ready, spare_ready] = shared.wakers.receive.wait(descriptors, None);
        let table = view.refresh(shared);
        let mut receiver = Receiver { shared, table, room: &mut room };
        if listening_ready {
            receiver.drain(&mut inbox, &shared.listening, Port::Listening)?;
        }
        if let Some(spare) = spare.filter(|_| spare_ready) {
            receiver.drain(&mut inbox, &spare, Port::Spare)?;
        }
    }
    Ok(())
}

struct Receiver<'a> {
    shared: &'a Shared,
    table: &'a Table,
    room: &'a mut [u8],
}

impl Receiver<'_> {
    fn drain(&mut self, inbox: &mut Inbox, socket: &UdpSocket, port: Port) -> Result<(), String> {
        for _ in 0..BATCHES {
            match inbox.receive(socket) {
                Ok(count) => {
                    for incoming in inbox.datagrams() {
                        self.receive(&incoming, port);
                    }
                    if count < BATCH {
                        break;
                    }
                }
                // What an earlier datagram met on its way (an ICMP error) is no error of the socket's.
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) => break,
                    Some(libc::EINTR | libc::ECONNREFUSED | libc::EHOSTUNREACH | libc::ENETUNREACH) => {}
                    _ => return Err(format!("receiving from the network: {error}")),
                },
            }
        }
        Ok(())
    }

    fn drop(&self, reason: Drop) {
        self.shared.metrics.drop(reason);
    }

    fn receive(&mut self, incoming: &Incoming<'_>, port: Port) {
        let path = Path { remote: incoming.remote, local: incoming.local, port };
        let source = incoming.remote.ip();
        let member = match self.shared.identity.recognise(source, incoming.datagram, self.room) {
            Sender::Key(key) => self.table.by_key(&key),
            Sender::Index(index) => self.table.by_index(index),
            Sender::Cookie(length) => {
                let cookie = self.room.get(..length).unwrap_or_default();
                let socket = if port == Port::Spare { self.shared.spare() } else { None };
                let _ = socket.as_deref().unwrap_or(&self.shared.listening).send(cookie, path.remote, path.local);
                return;
            }
            Sender::Nobody => None,
        };
        // Strangers hear nothing.
        let Some(member) = member else { return self.drop(Drop::Stranger) };
        self.open(member, incoming.datagram, path);
    }

    fn open(&mut self, member: &Member, datagram: &[u8], path: Path) {
        let peer = &*member.peer;
        let now = self.shared.now();
        match peer.session.open(now, path.remote.ip(), datagram, self.room) {
            Opened::Packet { length, fresh } => {
                self.roam(peer, path);
                if fresh {
                    peer.metrics.completed.inc();
                }
                self.deliver(member, length);
                if fresh {
                    self.begin(peer);
                }
            }
            Opened::Keepalive { fresh } => {
                self.roam(peer, path);
                if fresh {
                    peer.metrics.completed.inc();
                    self.begin(peer);
                }
            }
            Opened::Initiation(length) => {
                peer.metrics.answered.inc();
                self.roam(peer, path);
                self.answer(peer, length, path);
            }
            Opened::Response(length) => {
                peer.metrics.completed.inc();
                self.roam(peer, path);
                self.answer(peer, length, path);
                self.begin(peer);
            }
            Opened::Cookie => {}
            Opened::Rejected => self.drop(Drop::NotOpened),
        }
    }

    /// The peer is where its authentic datagrams come from, unless that were inside a tunnel.
    fn roam(&self, peer: &Peer, path: Path) {
        if peer.path().is_some_and(|known| known.carries(&path)) {
            return;
        }
        if self.table.is_tunnelled(path.remote.ip()) {
            self.drop(Drop::EndpointTunnelled);
            return trace!(
                endpoint = %path.remote, "an authentic datagram from inside a cluster's CIDRs: its sender's path is not followed there");
        }
        if peer.with_link(|link| link.handle_datagram(path)) {
            let record = peer.record();
            debug!(cluster = %record.cluster, gateway = %record.record.node, endpoint = %path.remote, "the other side is here now");
            self.shared.note_change();
        }
    }

    /// Sends back what opening put into the room.
    fn answer(&self, peer: &Peer, length: usize, path: Path) {
        if let Some(datagram) = self.room.get(..length) {
            self.shared.send(peer, datagram, path);
        }
    }

    /// A new session is there.
    fn begin(&mut self, peer: &Peer) {
        let now = self.shared.now();
        peer.with_link(|link| link.handle_session(now));
        self.shared.send_held(peer, self.room);
        self.shared.wakers.timers.wake();
    }

    /// An authentic packet is in the room.
    fn deliver(&self, member: &Member, length: usize) {
        let peer = &*member.peer;
        let Some((addresses, length)) = self.room.get(..length).and_then(parse_addresses) else {
            return self.drop(Drop::Malformed);
        };
        let Some(packet) = self.room.get(..length) else { return self.drop(Drop::Malformed) };
        if !self.table.allows(member, addresses.source) {
            return self.drop(Drop::SourceNotAllowed);
        }
        if !self.table.is_local(addresses.destination) {
            return self.drop(Drop::NotForUs);
        }
        if addresses.destination == self.shared.address
            && let Some(datagram) = parse_udp(packet).filter(|datagram| datagram.destination_port == PROBE_PORT)
        {
            return self.probe(peer, &datagram);
        }
        peer.note_received(length);
        if let Err(error) = self.shared.tun.write(packet) {
            self.drop(Drop::NotDelivered);
            trace!(%error, "the tunnel device did not take a packet");
        }
    }

    fn probe(&self, peer: &Peer, datagram: &UdpDatagram<'_>) {
        let expected: IpAddr = peer.record().record.address;
        let probe = Probe::parse(datagram.payload).filter(|_| datagram.addresses.source == expected);
        let Some(probe) = probe else { return self.drop(Drop::BadProbe) };
        match probe.kind {
            ProbeKind::Request => {
                if let Some(reply) = probe.reply(self.shared.incarnation) {
                    self.shared.send_probe(peer, &reply);
                }
            }
            ProbeKind::Reply => {
                let now = self.shared.now();
                let (before, after, round_trip) = peer.with_link(|link| {
                    let before = link.status();
                    link.handle_reply(now, &probe);
                    (before, link.status(), link.round_trip())
                });
                if let Some(round_trip) = round_trip {
                    peer.metrics.set_round_trip(&round_trip);
                }
                if before != after {
                    self.shared.wakers.timers.wake();
                }
            }
        }
    }
}
