//! Where a peer's datagrams go: the endpoints that its record names are tried in turn; then it is wherever it answers from.
//!
//! ```text
//!                 a record with endpoints, or a remembered one
//!  Waiting ────────────────────────────────────────────────────▶ Dialling ◀───────────────┐
//!     ▲                                                            │    (one endpoint     │ the connection is in error,
//!     │ a whole round unanswered: a pause, longer each time        │     a second)        │ or the session ended
//!     └────────────────────────────────────────────────────────────┤                      │
//!                                              a session is there  └────────▶ Open ───────┘
//! ```
//! Authenticated datagrams move the path at any time, in any state: a peer behind a NAT, or on its way through the world, is found
//! by what it sends.
//!
//! A NAT whose public address changes may keep rewriting an old flow to the address that it no longer has, for as long as the
//! flow lives, and probes keep it alive. So a lost path is dialled again from a fresh UDP port too ([`Port::Spare`]): that is a
//! new flow, with a new mapping.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::moment::Moment;

/// How long an endpoint is given to answer a handshake.
const ATTEMPT: Duration = Duration::from_secs(1);
/// The longest pause between rounds: the other side may dial us meanwhile, and a first packet does not wait for it.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// The most endpoints that are tried of a record: as many as it can hold.
const CANDIDATES_MAX: usize = 8;

/// Which of the gateway's UDP sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Port {
    /// The configured port, which others dial.
    Listening,
    /// A port of the system's choosing, for a new flow through a NAT.
    Spare,
}

/// A way to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Path {
    /// Its address and port.
    pub remote: SocketAddr,
    /// The address of ours that it knows us by, where it dialled us: what goes back must come from it. `None`: the system chooses.
    pub local: Option<IpAddr>,
    /// From which socket.
    pub port: Port,
}

impl Path {
    /// The way to an endpoint that we dial.
    #[must_use]
    pub fn dialled(remote: SocketAddr, port: Port) -> Self {
        Self { remote, local: None, port }
    }

    /// Whether a datagram that came along `arrived` came along this path. One without a source of its own goes with any: our own
    /// address may change under a path that we dialled.
    #[must_use]
    pub fn carries(&self, arrived: &Self) -> bool {
        self.remote == arrived.remote && self.port == arrived.port && (self.local.is_none() || self.local == arrived.local)
    }
}

#[derive(Clone, Debug)]
enum Phase {
    /// Nothing to do before the moment, if there is one; without, before a candidate or a need comes up.
    Waiting { until: Option<Moment> },
    /// Through the round's attempts; the next is due at the moment.
    Dialling { attempts: Vec<Path>, next: usize, due: Moment },
    /// A session is there.
    Open,
}

/// The endpoints of one peer.
#[derive(Clone, Debug)]
pub struct Endpoints {
    candidates: Vec<SocketAddr>,
    path: Option<Path>,
    phase: Phase,
    /// Rounds since the last session.
    rounds: u32,
}

impl Endpoints {
    /// A peer whose record names `candidates`, best first, and which last answered at `remembered`. It is dialled at once.
    #[must_use]
    pub fn new(now: Moment, candidates: Vec<SocketAddr>, remembered: Option<SocketAddr>) -> Self {
        let path = remembered.map(|remote| Path::dialled(remote, Port::Listening));
        let mut this = Self { candidates, path, phase: Phase::Waiting { until: Some(now) }, rounds: 0 };
        this.candidates.truncate(CANDIDATES_MAX);
        this
    }

    /// Where datagrams go now. `None` where the peer never answered and is not to be dialled.
    #[must_use]
    pub fn path(&self) -> Option<Path> {
        self.path
    }

    /// The endpoints that the record names.
    #[must_use]
    pub fn candidates(&self) -> &[SocketAddr] {
        &self.candidates
    }

    /// Whether a session is there.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open)
    }

    /// Which endpoint is being tried, if one is.
    #[must_use]
    pub fn dialling(&self) -> Option<SocketAddr> {
        match &self.phase {
            Phase::Dialling { attempts, next, .. } => attempts.get(next.saturating_sub(1)).map(|path| path.remote),
            Phase::Waiting { .. } | Phase::Open => None,
        }
    }

    /// The record names other endpoints. What is open stays where it is; else they are tried at once.
    pub fn handle_candidates(&mut self, now: Moment, mut candidates: Vec<SocketAddr>) {
        candidates.truncate(CANDIDATES_MAX);
        if candidates == self.candidates {
            return;
        }
        self.candidates = candidates;
        if !self.is_open() {
            self.rounds = 0;
            self.phase = Phase::Waiting { until: Some(now) };
        }
    }

    /// An authenticated datagram came along this path. Says whether the path is another than before.
    pub fn handle_datagram(&mut self, path: Path) -> bool {
        if self.path.is_some_and(|known| known.carries(&path)) {
            return false;
        }
        let dialled = match &self.phase {
            Phase::Dialling { attempts, .. } => {
                attempts.iter().any(|attempt| attempt.remote == path.remote && attempt.port == path.port)
            }
            Phase::Waiting { .. } | Phase::Open => false,
        };
        self.path = Some(if dialled { Path { local: None, ..path } } else { path });
        true
    }

    /// A session is there, proved by a datagram from the peer.
    pub fn handle_open(&mut self) {
        self.phase = Phase::Open;
        self.rounds = 0;
    }

    /// The path stopped answering, or the session ended: it is dialled at once, on its old path first.
    pub fn handle_lost(&mut self, now: Moment) {
        if self.is_open() {
            self.rounds = 0;
            if let Some(path) = &mut self.path {
                path.local = None;
            }
            self.phase = Phase::Waiting { until: Some(now) };
        }
    }

    /// There is a packet for the peer: a pause between rounds ends.
    pub fn handle_need(&mut self, now: Moment) {
        if let Phase::Waiting { until } = &mut self.phase {
            *until = Some(until.map_or(now, |until| until.min(now)));
        }
    }

    /// Sending along the path from its pinned source failed: the address is gone, and the system chooses from now on.
    pub fn handle_source_gone(&mut self) {
        if let Some(path) = &mut self.path {
            path.local = None;
        }
    }

    /// Where to send a handshake initiation now, if one is due.
    pub fn poll_dial(&mut self, now: Moment) -> Option<Path> {
        if let Phase::Waiting { until: Some(until) } = self.phase
            && until <= now
        {
            let attempts = self.attempts();
            self.phase = if attempts.is_empty() {
                Phase::Waiting { until: None }
            } else {
                Phase::Dialling { attempts, next: 0, due: now }
            };
        }
        let Phase::Dialling { attempts, next, due } = &mut self.phase else { return None };
        if *due > now {
            return None;
        }
        let Some(attempt) = attempts.get(*next).copied() else {
            let pause = ATTEMPT.saturating_mul(self.rounds).min(PAUSE_MAX);
            self.rounds = self.rounds.saturating_add(1);
            self.phase = Phase::Waiting { until: Some(now.plus(pause)) };
            // Without a pause the next round begins with this call.
            return if pause.is_zero() { self.poll_dial(now) } else { None };
        };
        *next += 1;
        *due = now.plus(ATTEMPT);
        Some(attempt)
    }

    /// When [`Self::poll_dial`] is to be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Moment> {
        match &self.phase {
            Phase::Waiting { until } => *until,
            Phase::Dialling { due, .. } => Some(*due),
            Phase::Open => None,
        }
    }

    /// The attempts of a round: the last path from both ports, then what the record names, from one port and the other by turns.
    fn attempts(&self) -> Vec<Path> {
        let port = if self.rounds.is_multiple_of(2) { Port::Listening } else { Port::Spare };
        let mut attempts: Vec<Path> = Vec::new();
        if let Some(path) = self.path {
            attempts.push(Path::dialled(path.remote, Port::Listening));
            attempts.push(Path::dialled(path.remote, Port::Spare));
        }
        for remote in &self.candidates {
            if self.path.is_none_or(|path| path.remote != *remote) {
                attempts.push(Path::dialled(*remote, port));
            }
        }
        attempts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(millis: u64) -> Moment {
        Moment::from_micros(millis * 1_000)
    }

    fn socket(text: &str) -> SocketAddr {
        text.parse().expect("a socket address")
    }

    fn dials(endpoints: &mut Endpoints, (from, to): (u64, u64)) -> Vec<(u64, SocketAddr, Port)> {
        let mut out = Vec::new();
        for millis in (from..to).step_by(100) {
            while let Some(path) = endpoints.poll_dial(at(millis)) {
                out.push((millis, path.remote, path.port));
            }
        }
        out
    }

    #[test]
    fn tries_the_record_s_endpoints_in_turn_and_pauses_longer_each_round() {
        let (a, b) = (socket("198.51.100.3:41820"), socket("192.168.1.3:41820"));
        let mut endpoints = Endpoints::new(at(0), vec![a, b], None);
        let dialled = dials(&mut endpoints, (0, 9_000));
        let listening = [(0, a, Port::Listening), (1_000, b, Port::Listening)];
        let spare = [(2_000, a, Port::Spare), (3_000, b, Port::Spare)];
        let again = [(5_000, a, Port::Listening), (6_000, b, Port::Listening)];
        assert_eq!(dialled, [&listening[..], &spare, &again].concat());
        assert_eq!(endpoints.path(), None);
        endpoints.handle_need(at(9_000));
        assert_eq!(dials(&mut endpoints, (9_000, 9_100)), [(9_000, a, Port::Spare)], "a packet does not wait");
    }

    #[test]
    fn without_endpoints_it_waits_to_be_dialled_and_stays_where_the_peer_is() {
        let mut endpoints = Endpoints::new(at(0), Vec::new(), None);
        assert_eq!(dials(&mut endpoints, (0, 5_000)), []);
        assert_eq!(endpoints.poll_timeout(), None);
        let here = "198.51.100.3".parse().ok();
        let path = Path { remote: socket("203.0.113.11:1025"), local: here, port: Port::Listening };
        assert!(endpoints.handle_datagram(path));
        endpoints.handle_open();
        assert_eq!(endpoints.path(), Some(path), "and answers from the address that it was dialled at");
        let moved = Path { remote: socket("203.0.113.99:1025"), ..path };
        assert!(endpoints.handle_datagram(moved));
        assert_eq!(endpoints.path(), Some(moved));
        assert_eq!(dials(&mut endpoints, (5_000, 9_000)), []);
    }

    #[test]
    fn a_lost_path_is_dialled_at_once_from_a_fresh_port_too() {
        let (a, b) = (socket("198.51.100.3:41820"), socket("[2001:db8::3]:41820"));
        let mut endpoints = Endpoints::new(at(0), vec![a, b], None);
        assert_eq!(endpoints.poll_dial(at(0)).map(|path| path.remote), Some(a));
        let ours = "192.168.51.3".parse().ok();
        assert!(endpoints.handle_datagram(Path { remote: a, local: ours, port: Port::Listening }));
        assert_eq!(endpoints.path(), Some(Path::dialled(a, Port::Listening)), "no source is pinned to where we dialled");
        endpoints.handle_open();
        assert!(!endpoints.handle_datagram(Path { remote: a, local: ours, port: Port::Listening }));
        endpoints.handle_lost(at(10_000));
        let dialled = dials(&mut endpoints, (10_000, 12_900));
        assert_eq!(dialled, [(10_000, a, Port::Listening), (11_000, a, Port::Spare), (12_000, b, Port::Listening)]);
    }

    #[test]
    fn a_remembered_endpoint_comes_first() {
        let (known, named) = (socket("203.0.113.11:1025"), socket("198.51.100.3:41820"));
        let mut endpoints = Endpoints::new(at(0), vec![named], Some(known));
        assert_eq!(endpoints.path(), Some(Path::dialled(known, Port::Listening)));
        let order: Vec<SocketAddr> = dials(&mut endpoints, (0, 3_000)).into_iter().map(|(_, remote, _)| remote).collect();
        assert_eq!(order, [known, known, named]);
    }

    #[test]
    fn new_endpoints_are_tried_at_once_unless_it_is_open() {
        let (a, b) = (socket("198.51.100.3:41820"), socket("198.51.100.4:41820"));
        let mut endpoints = Endpoints::new(at(0), vec![a], None);
        dials(&mut endpoints, (0, 30_000));
        endpoints.handle_candidates(at(30_000), vec![b]);
        assert_eq!(dials(&mut endpoints, (30_000, 30_100)), [(30_000, b, Port::Listening)]);
        endpoints.handle_datagram(Path::dialled(b, Port::Listening));
        endpoints.handle_open();
        endpoints.handle_candidates(at(31_000), vec![a]);
        assert_eq!(dials(&mut endpoints, (31_000, 60_000)), []);
    }

    proptest! {
        #[test]
        fn never_dials_more_than_once_an_attempt_nor_elsewhere(
            steps in prop::collection::vec((0u8..6, 0u64..3_000, 0usize..4), 1..80),
        ) {
            let pool = ["198.51.100.3:1", "198.51.100.4:1", "203.0.113.9:7", "[2001:db8::1]:1"].map(socket);
            let mut endpoints = Endpoints::new(at(0), vec![pool[0]], None);
            let mut known = vec![pool[0]];
            let (mut millis, mut last) = (0, None::<u64>);
            for (step, span, which) in steps {
                millis += span;
                let mut restart = false;
                match step {
                    0 => { known.push(pool[which]); endpoints.handle_candidates(at(millis), vec![pool[which]]); restart = true; }
                    1 => { known.push(pool[which]); endpoints.handle_datagram(Path::dialled(pool[which], Port::Listening)); }
                    2 => endpoints.handle_open(),
                    3 => { endpoints.handle_lost(at(millis)); restart = true; }
                    4 => { endpoints.handle_need(at(millis)); restart = true; }
                    _ => {}
                }
                let mut count = 0;
                while let Some(path) = endpoints.poll_dial(at(millis)) {
                    count += 1;
                    prop_assert!(count == 1, "one attempt at a time");
                    prop_assert!(known.contains(&path.remote));
                    prop_assert!(restart || last.is_none_or(|last| millis - last >= 1_000));
                    last = Some(millis);
                }
                prop_assert!(endpoints.poll_timeout().is_none_or(|next| next > at(millis)));
                prop_assert!(!endpoints.is_open() || endpoints.poll_timeout().is_none());
            }
        }
    }
}
