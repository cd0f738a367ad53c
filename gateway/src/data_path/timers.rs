//! What is due by time: handshakes, probes, renewals, and the word that a status changed.

use std::sync::Arc;
use std::time::Duration;

use daisy_api::ConnectionStatus;
use daisy_gateway_core::Moment;
use daisy_gateway_core::endpoints::{Path, Port};
use daisy_gateway_core::engine::{Due, INITIATION_LENGTH};
use daisy_gateway_core::link::Output;
use tracing::{info, warn};

use super::peer::Peer;
use super::shared::{Shared, TableView};
use super::table::Table;

/// How often sessions are asked what is due, and data is looked for.
const TICK: Duration = Duration::from_millis(100);
const SECOND: Duration = Duration::from_secs(1);
/// A bound on what one link asks for at a time.
const OUTPUTS: usize = 16;

/// Runs until the data path stops.
pub(crate) fn run(shared: &Shared) {
    let mut view = TableView::new(shared);
    let (mut next_tick, mut next_second) = (Moment::ORIGIN, Moment::ORIGIN);
    while !shared.is_stopping() {
        let now = shared.now();
        let ticks = now >= next_tick;
        if ticks {
            next_tick = now.plus(TICK);
        }
        if now >= next_second {
            next_second = now.plus(SECOND);
            shared.identity.handle_second();
        }
        let table = view.refresh(shared);
        let mut wake_at = next_tick;
        for peer in table.peers() {
            if let Some(next) = serve(shared, table, peer, ticks) {
                wake_at = wake_at.min(next);
            }
        }
        shared.wakers.timers.wait([], Some(wake_at.since(shared.now())));
    }
}

/// Does what is due for one peer, and says when more is.
fn serve(shared: &Shared, table: &Table, peer: &Arc<Peer>, ticks: bool) -> Option<Moment> {
    let now = shared.now();
    let (received, sent, needed) = peer.take_notes();
    let mut outputs = Vec::new();
    let ended = ticks && renew(shared, peer, now);
    let next = peer.with_link(|link| {
        if received || sent {
            link.handle_data(now, received, sent);
        }
        if ended {
            link.handle_session_ended(now);
        }
        if needed {
            link.handle_need(now);
        }
        while outputs.len() < OUTPUTS
            && let Some(output) = link.poll(now)
        {
            outputs.push(output);
        }
        link.poll_timeout(now)
    });
    for output in outputs {
        match output {
            Output::Dial(path) => dial(shared, table, peer, path),
            Output::Probe(probe) => shared.send_probe(peer, &probe),
            Output::Status(status) => report(shared, peer, status),
        }
    }
    next
}

/// Sends what the session's own timers ask for. Says whether it came to its end.
fn renew(shared: &Shared, peer: &Peer, now: Moment) -> bool {
    let mut room = [0; INITIATION_LENGTH];
    match peer.session.handle_timeout(now, &mut room) {
        Due::Nothing => false,
        Due::Ended => true,
        Due::Datagram(length) => {
            if let (Some(datagram), Some(path)) = (room.get(..length), peer.path()) {
                shared.send(peer, datagram, path);
            }
            false
        }
    }
}

fn dial(shared: &Shared, table: &Table, peer: &Peer, path: Path) {
    if path.port == Port::Spare {
        shared.refresh_spare(table);
    }
    let mut room = [0; INITIATION_LENGTH];
    if let Some(datagram) = peer.session.initiate(shared.now(), &mut room).and_then(|length| room.get(..length)) {
        peer.metrics.initiated.inc();
        shared.send(peer, datagram, path);
    }
}

fn report(shared: &Shared, peer: &Peer, status: ConnectionStatus) {
    peer.set_status(status);
    let record = peer.record();
    let (cluster, gateway, endpoint) = (&record.cluster, &record.record.node, peer.path().map(|path| path.remote));
    match status {
        ConnectionStatus::Connected => info!(%cluster, %gateway, ?endpoint, "connected"),
        ConnectionStatus::Connecting => info!(%cluster, %gateway, ?endpoint, "connecting"),
        ConnectionStatus::Error => {
            warn!(%cluster, %gateway, ?endpoint, "the connection does not answer any more; it is dialled again")
        }
    }
    shared.note_change();
}
