//! Whether a connection answers: a machine in the manner of BFD (RFC 5880), fed with probes and data.
//!
//! ```text
//!              reply to a probe of ours
//! Connecting ────────────────────────────▶ Connected ◀──────────┐
//!                                             │                 │ reply to a probe
//!      probe after probe unanswered, no data, │                 │ sent since
//!      or no reply for long, or no session    ▼                 │
//!                                           Error ──────────────┘
//! ```
//! Probes go out at the *idle* interval; at the *active* one where there was data lately and none comes in, and as soon as one
//! probe is missing. Data that comes in counts as life; but it proves one direction only, so a connection that lives on data
//! alone still needs a reply now and then.

use std::collections::VecDeque;
use std::time::Duration;

use daisy_api::{ConnectionStatus, RoundTrip};

use crate::moment::Moment;
use crate::probe::{Probe, ProbeKind};
use crate::rtt::RoundTrips;

/// How many probes may be under way; a reply to an older one is none.
const OUTSTANDING: usize = 128;
/// How long a reply may take before it counts as missing: at least, and at most.
const PATIENCE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// A reply later than this is none.
const LATEST: Duration = Duration::from_secs(10);
/// The longest idle interval: mappings of NATs are kept alive by probes, and some last no longer than a few of these.
const IDLE_MAX: Duration = Duration::from_secs(5);
/// The shortest interval of all.
const INTERVAL_MIN: Duration = Duration::from_millis(5);
/// Without a reply for so many idle intervals (and [`STALE_MIN`]), data alone does not keep a connection up.
const STALE_INTERVALS: u32 = 5;
const STALE_MIN: Duration = Duration::from_secs(5);

/// How often connections are probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intervals {
    /// Between probes of a connection without data: 5 ms to 5 s.
    pub idle: Duration,
    /// Between probes of a connection with data: 5 ms to the idle one.
    pub active: Duration,
    /// How long after its last data a connection counts as active.
    pub active_for: Duration,
    /// After how many missing replies in a row a connection is in error: at least 2.
    pub misses: u32,
}

impl Default for Intervals {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(1),
            active: Duration::from_millis(30),
            active_for: Duration::from_secs(10),
            misses: 10,
        }
    }
}

impl Intervals {
    /// The same within their bounds.
    #[must_use]
    pub fn clamped(self) -> Self {
        let idle = self.idle.clamp(INTERVAL_MIN, IDLE_MAX);
        Self { idle, active: self.active.clamp(INTERVAL_MIN, idle), misses: self.misses.clamp(2, 64), ..self }
    }
}

/// The health of one connection.
#[derive(Clone, Debug)]
pub struct Health {
    intervals: Intervals,
    incarnation: u64,
    status: ConnectionStatus,
    /// Since when probes can be sent.
    session: Option<Moment>,
    next_sequence: u64,
    /// The probes sent and not answered, oldest first.
    outstanding: VecDeque<(u64, Moment)>,
    last_probe: Option<Moment>,
    last_reply: Option<Moment>,
    last_received: Option<Moment>,
    last_data: Option<Moment>,
    /// Replies to probes from before this sequence do not bring the connection up: they were asked before it was in error.
    fresh_from: u64,
    responder: Option<u64>,
    round_trips: RoundTrips,
}

impl Health {
    /// The health of a connection of which nothing is known; `incarnation` is this start's number.
    #[must_use]
    pub fn new(intervals: Intervals, incarnation: u64) -> Self {
        Self {
            intervals: intervals.clamped(),
            incarnation,
            status: ConnectionStatus::Connecting,
            session: None,
            next_sequence: 0,
            outstanding: VecDeque::new(),
            last_probe: None,
            last_reply: None,
            last_received: None,
            last_data: None,
            fresh_from: 0,
            responder: None,
            round_trips: RoundTrips::default(),
        }
    }

    /// Where the connection stands.
    #[must_use]
    pub fn status(&self) -> ConnectionStatus {
        self.status
    }

    /// Round-trip times of the last probes.
    #[must_use]
    pub fn round_trip(&self) -> Option<RoundTrip> {
        self.round_trips.summary()
    }

    /// When the last reply came.
    #[must_use]
    pub fn last_reply(&self) -> Option<Moment> {
        self.last_reply
    }

    /// There is a session that packets can be sent in; a new one asks to be probed at once.
    pub fn handle_session(&mut self, now: Moment) {
        if self.session.is_none() || self.status != ConnectionStatus::Connected {
            self.last_probe = None;
        }
        self.session = Some(now);
    }

    /// There is none any more. Says whether the status changed.
    pub fn handle_session_ended(&mut self) -> bool {
        self.session = None;
        self.fail()
    }

    /// Data came in or went out, other than probes, since the last call.
    pub fn handle_data(&mut self, now: Moment, received: bool, sent: bool) {
        if received {
            self.last_received = Some(now);
        }
        if received || sent {
            self.last_data = Some(now);
        }
    }

    /// A reply came, from the peer's own address through its session. Says whether the status changed.
    pub fn handle_reply(&mut self, now: Moment, reply: &Probe) -> bool {
        if reply.kind != ProbeKind::Reply || reply.incarnation != self.incarnation {
            return false;
        }
        let Some(at) = self.outstanding.iter().position(|(sequence, _)| *sequence == reply.sequence) else { return false };
        let Some((sequence, sent)) = self.outstanding.remove(at) else { return false };
        if now.since(sent) > LATEST {
            return false;
        }
        if self.responder.replace(reply.responder).is_some_and(|before| before != reply.responder) {
            // The other side started anew, perhaps elsewhere: its earlier times say nothing.
            self.round_trips = RoundTrips::default();
        }
        // Our own note of when it was sent, not what the reply says: that could be anything.
        self.round_trips.push(now.since(sent));
        self.last_reply = Some(now);
        if self.status == ConnectionStatus::Connected || sequence < self.fresh_from || self.session.is_none() {
            return false;
        }
        self.status = ConnectionStatus::Connected;
        true
    }

    /// Looks whether replies are missing. Says whether the status changed.
    pub fn handle_timeout(&mut self, now: Moment) -> bool {
        self.status == ConnectionStatus::Connected
            && (self.missing(now) >= self.intervals.misses || self.is_stale(now))
            && self.fail()
    }

    /// The probe to send now, if one is due.
    pub fn poll_probe(&mut self, now: Moment) -> Option<Probe> {
        if self.next_probe(now)? > now {
            return None;
        }
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        if self.outstanding.len() == OUTSTANDING {
            self.outstanding.pop_front();
        }
        self.outstanding.push_back((sequence, now));
        self.last_probe = Some(now);
        Some(Probe { kind: ProbeKind::Request, incarnation: self.incarnation, sequence, sent: now.as_micros(), responder: 0 })
    }

    /// When [`Self::handle_timeout`] and [`Self::poll_probe`] are to be called next, if data does not come before.
    #[must_use]
    pub fn poll_timeout(&self, now: Moment) -> Option<Moment> {
        let missing_at = self
            .outstanding
            .back()
            .filter(|_| self.status == ConnectionStatus::Connected)
            .map(|(_, sent)| sent.plus(self.patience()));
        [self.next_probe(now), missing_at.filter(|at| *at > now)].into_iter().flatten().min()
    }

    fn fail(&mut self) -> bool {
        let changed = self.status == ConnectionStatus::Connected;
        if changed {
            self.status = ConnectionStatus::Error;
            self.fresh_from = self.next_sequence;
        }
        changed
    }

    fn next_probe(&self, now: Moment) -> Option<Moment> {
        self.session?;
        let Some(last) = self.last_probe else { return Some(now) };
        let idle = last.plus(self.intervals.idle);
        let active = last.plus(self.intervals.active);
        let missing = self.missing(now);
        let next = match self.status {
            // A burst after a handshake, then slowly: the other side may not be able to answer yet.
            ConnectionStatus::Connecting | ConnectionStatus::Error if missing > self.intervals.misses => idle,
            ConnectionStatus::Connecting | ConnectionStatus::Error => active,
            ConnectionStatus::Connected if missing > 0 => active,
            ConnectionStatus::Connected => match self.last_data {
                Some(data) if now.since(data) < self.intervals.active_for => {
                    // What comes in is life: no probe is needed before it stops.
                    let quiet = self.last_received.map_or(active, |received| active.max(received.plus(self.intervals.active)));
                    quiet.min(idle)
                }
                _ => idle,
            },
        };
        Some(next)
    }

    /// How long a reply may take: twice the longest of late.
    fn patience(&self) -> Duration {
        let twice = self.round_trips.greatest().map_or(PATIENCE.0, |greatest| greatest.saturating_mul(2));
        twice.clamp(PATIENCE.0, PATIENCE.1)
    }

    /// How many probes sent since the last sign of life (or since this session began, if that is later) are overdue.
    fn missing(&self, now: Moment) -> u32 {
        let life = self.last_reply.max(self.last_received);
        let since = if self.status == ConnectionStatus::Connected { life } else { life.max(self.session) };
        let patience = self.patience();
        let overdue = |sent: Moment| since.is_none_or(|since| sent >= since) && now.since(sent) >= patience;
        u32::try_from(self.outstanding.iter().filter(|(_, sent)| overdue(*sent)).count()).unwrap_or(u32::MAX)
    }

    fn is_stale(&self, now: Moment) -> bool {
        let bound = (self.intervals.idle * STALE_INTERVALS).max(STALE_MIN) + self.patience();
        self.last_reply.is_none_or(|reply| now.since(reply) >= bound)
    }
}

#[cfg(test)]
mod tests;
