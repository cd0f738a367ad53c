//! From the device to the network: packet → peer → sealed datagram.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use daisy_gateway_core::endpoints::{Path, Port};
use daisy_gateway_core::engine::Sealed;
use daisy_gateway_core::packet::parse_addresses;

use super::peer::Peer;
use super::shared::{Shared, TableView};
use super::table::Table;
use crate::metrics::Drop;
use crate::socket::{BATCH, Outgoing, SLOT};

/// Runs until the data path stops, or the device is gone.
pub(crate) fn run(shared: &Shared) -> Result<(), String> {
    let mut view = TableView::new(shared);
    let mut outbox = Outbox::new();
    let mut packet = vec![0; SLOT];
    while !shared.is_stopping() {
        shared.wakers.transmit.wait([Some(shared.tun.as_fd())], None);
        let table = view.refresh(shared);
        while outbox.has_room() {
            match shared.tun.read(&mut packet) {
                Ok(length) => {
                    if let Some(packet) = packet.get(..length) {
                        transmit(shared, table, packet, &mut outbox);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(format!("reading from the tunnel device: {error}: was it removed?")),
            }
        }
        outbox.flush(shared);
    }
    Ok(())
}

fn transmit(shared: &Shared, table: &Table, packet: &[u8], outbox: &mut Outbox) {
    let drop = |reason: Drop| shared.metrics.drop(reason);
    let Some((addresses, length)) = parse_addresses(packet) else { return drop(Drop::Malformed) };
    let Some(packet) = packet.get(..length) else { return drop(Drop::Malformed) };
    let Some(peer) = table.route(addresses.destination) else { return drop(Drop::NoRoute) };
    // The other side would drop it. It also ends a loop of our own datagrams, should one ever be routed into the device.
    if !table.is_local(addresses.source) {
        return drop(Drop::ForeignSource);
    }
    let Some(slot) = outbox.slot() else { return };
    match peer.session.seal(shared.now(), packet, slot) {
        Sealed::Datagram(sealed) => match peer.path() {
            Some(path) => {
                peer.note_sent(length);
                outbox.push(sealed, path, peer);
            }
            None => drop(Drop::NoPath),
        },
        Sealed::Held => {
            if peer.note_needed() {
                shared.wakers.timers.wake();
            }
        }
        Sealed::Refused => drop(Drop::NotSealed),
    }
}

/// Sealed datagrams on their way out.
struct Outbox {
    buffer: Vec<u8>,
    waiting: Vec<Waiting>,
}

struct Waiting {
    length: usize,
    path: Path,
    peer: Arc<Peer>,
}

impl Outbox {
    fn new() -> Self {
        Self { buffer: vec![0; BATCH * SLOT], waiting: Vec::with_capacity(BATCH) }
    }

    fn has_room(&self) -> bool {
        self.waiting.len() < BATCH
    }

    /// Room for the next datagram.
    fn slot(&mut self) -> Option<&mut [u8]> {
        self.buffer.chunks_exact_mut(SLOT).nth(self.waiting.len())
    }

    /// The datagram in the slot is so long and goes there.
    fn push(&mut self, length: usize, path: Path, peer: &Arc<Peer>) {
        self.waiting.push(Waiting { length, path, peer: Arc::clone(peer) });
    }

    /// Sends all of them: in order, by as few calls as the sockets allow.
    fn flush(&mut self, shared: &Shared) {
        let mut slots = self.buffer.chunks_exact(SLOT);
        let mut datagrams: Vec<Outgoing<'_>> = Vec::with_capacity(self.waiting.len());
        for waiting in &self.waiting {
            let datagram = slots.next().and_then(|slot| slot.get(..waiting.length)).unwrap_or_default();
            datagrams.push(Outgoing { datagram, remote: waiting.path.remote, source: waiting.path.local });
        }
        let mut from = 0;
        for run in self.waiting.chunk_by(|a, b| a.path.port == b.path.port) {
            let batch = datagrams.get(from..from + run.len()).unwrap_or_default();
            let failed = |index: usize, error: io::Error| {
                if let Some(waiting) = run.get(index) {
                    shared.handle_send_error(&waiting.peer, waiting.path.remote, &error);
                }
            };
            match run.first().map(|waiting| waiting.path.port) {
                Some(Port::Spare) => match shared.spare() {
                    Some(socket) => socket.send_all(batch, failed),
                    None => run.iter().for_each(|_| shared.metrics.drop(Drop::NotSent)),
                },
                Some(Port::Listening) => shared.listening.send_all(batch, failed),
                None => {}
            }
            from += run.len();
        }
        self.waiting.clear();
    }
}
