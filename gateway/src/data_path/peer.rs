//! One peer in the data path: its session, its link, and what threads read of it without a lock on either.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use daisy_api::keys::PublicKey;
use daisy_api::{Connection, ConnectionStatus};
use daisy_gateway_core::Moment;
use daisy_gateway_core::endpoints::Path;
use daisy_gateway_core::engine::Session;
use daisy_gateway_core::link::Link;
use daisy_gateway_core::peers::GatewayPeer;
use daisy_gateway_core::rank::Liveness;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use crate::metrics::PeerMetrics;

/// A gateway of another cluster.
///
/// The session's lock and the link's are never held at the same time.
pub(crate) struct Peer {
    /// Its key.
    pub(crate) key: PublicKey,
    /// What stands in the upper 24 bits of its sessions' indices.
    pub(crate) index: u32,
    pub(crate) session: Box<dyn Session>,
    pub(crate) metrics: PeerMetrics,
    record: RwLock<Arc<GatewayPeer>>,
    link: Mutex<Link>,
    /// The link's path, for those who send.
    path: RwLock<Option<Path>>,
    liveness: AtomicU8,
    /// Data came in, or went out, since the timers last looked.
    received: AtomicBool,
    sent: AtomicBool,
    /// A packet waits for a session.
    needed: AtomicBool,
    since: Mutex<Timestamp>,
}

impl Peer {
    pub(crate) fn new(index: u32, record: GatewayPeer, session: Box<dyn Session>, link: Link, metrics: PeerMetrics) -> Self {
        metrics.set_state(link.status());
        let path = link.path();
        Self {
            key: record.record.public_key,
            index,
            session,
            metrics,
            record: RwLock::new(Arc::new(record)),
            link: Mutex::new(link),
            path: RwLock::new(path),
            liveness: AtomicU8::new(0),
            received: AtomicBool::new(false),
            sent: AtomicBool::new(false),
            needed: AtomicBool::new(false),
            since: Mutex::new(Timestamp::now()),
        }
    }

    /// What its cluster says of it.
    pub(crate) fn record(&self) -> Arc<GatewayPeer> {
        Arc::clone(&self.record.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn set_record(&self, record: GatewayPeer) {
        *self.record.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(record);
    }

    /// Where datagrams to it go.
    pub(crate) fn path(&self) -> Option<Path> {
        *self.path.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it is good for right now.
    pub(crate) fn liveness(&self) -> Liveness {
        match self.liveness.load(Ordering::Relaxed) {
            2 => Liveness::Live,
            1 => Liveness::Doubtful,
            _ => Liveness::Unknown,
        }
    }

    /// Does something to its link, and publishes what came of it.
    pub(crate) fn with_link<T>(&self, run: impl FnOnce(&mut Link) -> T) -> T {
        let mut link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        let value = run(&mut link);
        let path = link.path();
        if self.path() != path {
            *self.path.write().unwrap_or_else(PoisonError::into_inner) = path;
        }
        let liveness = match Liveness::of(link.status(), path.is_some()) {
            Liveness::Live => 2,
            Liveness::Doubtful => 1,
            Liveness::Unknown => 0,
        };
        self.liveness.store(liveness, Ordering::Relaxed);
        value
    }

    /// Data came from it.
    pub(crate) fn note_received(&self, bytes: usize) {
        self.received.store(true, Ordering::Relaxed);
        self.metrics.packets_in.inc();
        self.metrics.bytes_in.inc_by(bytes as u64);
    }

    /// Data goes to it.
    pub(crate) fn note_sent(&self, bytes: usize) {
        self.sent.store(true, Ordering::Relaxed);
        self.metrics.packets_out.inc();
        self.metrics.bytes_out.inc_by(bytes as u64);
    }

    /// A packet waits for a session. Says whether that is new since the timers last looked.
    pub(crate) fn note_needed(&self) -> bool {
        !self.needed.swap(true, Ordering::Relaxed)
    }

    /// What was noted since the last call: received, sent, needed.
    pub(crate) fn take_notes(&self) -> (bool, bool, bool) {
        let take = |flag: &AtomicBool| flag.swap(false, Ordering::Relaxed);
        (take(&self.received), take(&self.sent), take(&self.needed))
    }

    /// The status is another.
    pub(crate) fn set_status(&self, status: ConnectionStatus) {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = Timestamp::now();
        self.metrics.set_state(status);
    }

    /// As the Gateway object shows it.
    pub(crate) fn connection(&self, now: Moment) -> Connection {
        let record = self.record();
        let connection = self.with_link(|link| link.connection(now, &record));
        let since = *self.since.lock().unwrap_or_else(PoisonError::into_inner);
        Connection { since: Some(Time(since)), ..connection }
    }
}
