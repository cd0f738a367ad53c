//! One connection: its endpoints and its health, which drive each other.
//!
//! ```text
//! datagrams, sessions ──▶ endpoints ──▶ Dial ─────────────▶ handshake initiations
//!                            ▲  │ open
//!                       lost │  ▼
//! replies, data ─────────▶ health ──▶ Probe, Status ──────▶ probes, the Gateway's status
//! ```

use std::net::SocketAddr;
use std::time::Duration;

use daisy_api::{Connection, ConnectionStatus, RoundTrip};

use crate::endpoints::{Endpoints, Path};
use crate::health::{Health, Intervals};
use crate::moment::Moment;
use crate::peers::GatewayPeer;
use crate::probe::Probe;

/// How long a new session may stand without a reply before it is dialled again.
const UNANSWERED: Duration = Duration::from_secs(5);

/// What is to be done for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send a handshake initiation along this path.
    Dial(Path),
    /// Send this probe through the tunnel.
    Probe(Probe),
    /// The status is another than before.
    Status(ConnectionStatus),
}

/// One connection to a gateway of another cluster.
#[derive(Clone, Debug)]
pub struct Link {
    endpoints: Endpoints,
    health: Health,
    /// When the newest session began.
    opened: Option<Moment>,
    /// The status last given out.
    reported: ConnectionStatus,
}

impl Link {
    /// A connection to a peer whose record names `candidates` and which last answered at `remembered`.
    #[must_use]
    pub fn new(now: Moment, health: Health, candidates: Vec<SocketAddr>, remembered: Option<SocketAddr>) -> Self {
        let endpoints = Endpoints::new(now, candidates, remembered);
        Self { endpoints, health, opened: None, reported: ConnectionStatus::Connecting }
    }

    /// The health of a new connection.
    #[must_use]
    pub fn health(intervals: Intervals, incarnation: u64) -> Health {
        Health::new(intervals, incarnation)
    }

    /// Where it stands.
    #[must_use]
    pub fn status(&self) -> ConnectionStatus {
        self.health.status()
    }

    /// Where its datagrams go.
    #[must_use]
    pub fn path(&self) -> Option<Path> {
        self.endpoints.path()
    }

    /// Round-trip times of its last probes.
    #[must_use]
    pub fn round_trip(&self) -> Option<RoundTrip> {
        self.health.round_trip()
    }

    /// The peer's record names these endpoints.
    pub fn handle_candidates(&mut self, now: Moment, candidates: Vec<SocketAddr>) {
        self.endpoints.handle_candidates(now, candidates);
    }

    /// An authenticated datagram came along this path. Says whether the path is another than before.
    pub fn handle_datagram(&mut self, path: Path) -> bool {
        self.endpoints.handle_datagram(path)
    }

    /// A new session is there, proved by a datagram of the peer's in it.
    pub fn handle_session(&mut self, now: Moment) {
        self.endpoints.handle_open();
        self.health.handle_session(now);
        self.opened = Some(now);
    }

    /// The session came to its end without a new one.
    pub fn handle_session_ended(&mut self, now: Moment) {
        self.health.handle_session_ended();
        self.endpoints.handle_lost(now);
        self.opened = None;
    }

    /// Packets other than probes came in or went out since the last call.
    pub fn handle_data(&mut self, now: Moment, received: bool, sent: bool) {
        self.health.handle_data(now, received, sent);
    }

    /// There is a packet for the peer and no session.
    pub fn handle_need(&mut self, now: Moment) {
        self.endpoints.handle_need(now);
    }

    /// A reply to a probe came through the peer's session from its own address.
    pub fn handle_reply(&mut self, now: Moment, reply: &Probe) {
        self.health.handle_reply(now, reply);
        if self.health.status() == ConnectionStatus::Connected && self.opened.is_some() {
            self.endpoints.handle_open();
        }
    }

    /// The source that the path was pinned to is no address of this node any more.
    pub fn handle_source_gone(&mut self) {
        self.endpoints.handle_source_gone();
    }

    /// What is to be done now, until `None`.
    pub fn poll(&mut self, now: Moment) -> Option<Output> {
        if self.health.handle_timeout(now) {
            self.endpoints.handle_lost(now);
        }
        let unanswered = self.opened.is_some_and(|opened| now.since(opened) >= UNANSWERED);
        if unanswered && self.endpoints.is_open() && self.health.status() != ConnectionStatus::Connected {
            self.endpoints.handle_lost(now);
        }
        if self.reported != self.health.status() {
            self.reported = self.health.status();
            return Some(Output::Status(self.reported));
        }
        if let Some(path) = self.endpoints.poll_dial(now) {
            return Some(Output::Dial(path));
        }
        self.health.poll_probe(now).map(Output::Probe)
    }

    /// When [`Self::poll`] is to be called next, if nothing comes before.
    #[must_use]
    pub fn poll_timeout(&self, now: Moment) -> Option<Moment> {
        [self.endpoints.poll_timeout(), self.health.poll_timeout(now)].into_iter().flatten().min()
    }

    /// The connection as the Gateway object shows it; `since` is the shell's to fill in.
    #[must_use]
    pub fn connection(&self, now: Moment, peer: &GatewayPeer) -> Connection {
        let endpoint = self.path().map(|path| path.remote);
        let tried = self.endpoints.dialling().or(endpoint);
        let dialling = match tried {
            Some(address) => format!("dialling {address}"),
            None => "waiting to be dialled: its record names no endpoint that can be tried from here".to_owned(),
        };
        let status_message = match self.status() {
            ConnectionStatus::Connected => "probes are answered".to_owned(),
            ConnectionStatus::Connecting if self.endpoints.is_open() => "handshake done, no probe is answered yet".to_owned(),
            ConnectionStatus::Connecting => dialling,
            ConnectionStatus::Error => {
                let last = self.health.last_reply().map_or(0, |last| now.since(last).as_secs());
                format!("probes have not been answered for {last} s; {dialling}")
            }
        };
        let named = |address: SocketAddr| peer.record.endpoints.iter().any(|endpoint| endpoint.address == address);
        Connection {
            cluster_id: peer.cluster.clone(),
            node: peer.record.node.clone(),
            status: self.status(),
            status_message,
            endpoint: endpoint.or(tried),
            using_nat: self.opened.is_some() && endpoint.is_some_and(|address| !named(address)),
            latency: self.round_trip(),
            since: None,
        }
    }
}
