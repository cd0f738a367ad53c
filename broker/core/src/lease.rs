//! Which of several replicas writes: who holds a Lease (`coordination.k8s.io/v1`).
//!
//! ```text
//! poll_ask ──▶ the shell asks the API server ──▶ handle_answer ──▶ writes_until ──▶ whoever writes
//! ```
//!
//! The protocol is client-go's: the holder renews; who sees a lease unchanged for as long as it lasts, or given back, takes it; a
//! write holds to the version that was read, so that of two who take it one does. No two clocks are compared: a lease's age
//! counts from when this replica saw it change. The holder counts from when it *asked* for the last renewal that it was granted,
//! and stops a margin before anybody else could take the lease: [`Timing::deadline`] against [`Timing::duration`].

use std::time::Duration;

use daisy_api::labels::{MANAGED_BY, MANAGED_BY_DAISY};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};

use crate::time::Now;

/// How long things take; Kubernetes' own components have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// For how long a lease that nobody renews stays its holder's.
    pub duration: Duration,
    /// For how long the holder writes after it asked for the last renewal that was granted. Well under `duration`.
    pub deadline: Duration,
    /// How often the holder renews, and the others look.
    pub retry: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self { duration: Duration::from_secs(15), deadline: Duration::from_secs(10), retry: Duration::from_secs(2) }
    }
}

/// A request for the shell to make.
#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    /// Read the Lease.
    Read,
    /// Create it.
    Create(Box<Lease>),
    /// Replace it; it carries the version that it was read with.
    Replace(Box<Lease>),
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// The Lease, as it is there now.
    Lease(Box<Lease>),
    /// It is not there.
    Absent,
    /// It was written by somebody else meanwhile.
    Conflict,
    /// No answer, or another refusal: it may have been done or not.
    Failed,
}

/// The Lease as last seen.
#[derive(Clone, Debug)]
struct Seen {
    lease: Lease,
    /// When it was first seen like this, by the monotonic clock.
    since: Duration,
    /// It has been deleted since.
    absent: bool,
}

impl Seen {
    fn holder(&self) -> Option<&str> {
        self.lease.spec.as_ref()?.holder_identity.as_deref().filter(|holder| !holder.is_empty())
    }

    fn lasts(&self, otherwise: Duration) -> Duration {
        let seconds = self.lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds);
        seconds.and_then(|seconds| u64::try_from(seconds).ok()).map_or(otherwise, Duration::from_secs)
    }

    fn ends(&self, otherwise: Duration) -> Duration {
        self.since.saturating_add(self.lasts(otherwise))
    }
}

/// One replica's part. It has one request under way at a time.
#[derive(Clone, Debug)]
pub struct Elector {
    name: String,
    identity: String,
    timing: Timing,
    seen: Option<Seen>,
    /// Whether to read before anything is written: nothing is known yet, or what is known is out of date.
    unread: bool,
    /// When the request under way was asked for, and whether it is a write.
    asked: Option<(Duration, bool)>,
    next: Duration,
    until: Option<Duration>,
    ended: bool,
}

impl Elector {
    /// A replica that knows nothing yet. `identity` must be no other living process's; that of a process which is gone (a
    /// container that was started again in its pod) goes on where that one stopped.
    #[must_use]
    pub fn new(name: &str, identity: &str, timing: Timing, now: Now) -> Self {
        Self {
            name: name.to_owned(),
            identity: identity.to_owned(),
            timing,
            seen: None,
            unread: true,
            asked: None,
            next: now.monotonic,
            until: None,
            ended: false,
        }
    }

    /// Until when this replica may write, by the monotonic clock; not at all without one.
    #[must_use]
    pub fn writes_until(&self, now: Now) -> Option<Duration> {
        self.until.filter(|until| *until > now.monotonic)
    }

    /// Who holds the lease, as far as is known.
    #[must_use]
    pub fn holder(&self) -> Option<&str> {
        self.seen.as_ref().filter(|seen| !seen.absent)?.holder()
    }

    /// The next request, if it is time for one.
    pub fn poll_ask(&mut self, now: Now) -> Option<Ask> {
        if self.ended || self.asked.is_some() || now.monotonic < self.next {
            return None;
        }
        let ask = self.decide(now);
        self.asked = Some((now.monotonic, ask != Ask::Read));
        Some(ask)
    }

    /// When to poll again at the latest, by the monotonic clock; `None` while a request is under way.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        if self.ended || self.asked.is_some() { None } else { Some(self.next) }
    }

    fn decide(&self, now: Now) -> Ask {
        if self.unread {
            return Ask::Read;
        }
        let Some(seen) = &self.seen else { return Ask::Create(Box::new(self.made(now))) };
        let mine = seen.holder() == Some(self.identity.as_str());
        let free = seen.holder().is_none() || now.monotonic >= seen.ends(self.timing.duration);
        match (seen.absent, mine || free) {
            (true, true) => Ask::Create(Box::new(self.made(now))),
            (false, true) => Ask::Replace(Box::new(self.taken(seen, mine, now))),
            // Deleted under a holder who may not know it yet.
            (_, false) => Ask::Read,
        }
    }

    fn made(&self, now: Now) -> Lease {
        let labels = [(MANAGED_BY.to_owned(), MANAGED_BY_DAISY.to_owned())].into();
        let metadata = ObjectMeta { name: Some(self.name.clone()), labels: Some(labels), ..ObjectMeta::default() };
        Lease { metadata, spec: Some(self.spec(LeaseSpec::default(), false, now)) }
    }

    fn taken(&self, seen: &Seen, mine: bool, now: Now) -> Lease {
        let mut lease = seen.lease.clone();
        lease.metadata.managed_fields = None;
        lease.spec = Some(self.spec(lease.spec.unwrap_or_default(), mine, now));
        lease
    }

    fn spec(&self, had: LeaseSpec, mine: bool, now: Now) -> LeaseSpec {
        let time = Some(MicroTime(micros(now.wall)));
        let seconds = i32::try_from(self.timing.duration.as_secs()).unwrap_or(i32::MAX);
        let transitions = had.lease_transitions.unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(seconds),
            acquire_time: if mine { had.acquire_time.clone() } else { time.clone() },
            renew_time: time,
            lease_transitions: Some(if mine { transitions } else { transitions.saturating_add(1) }),
            ..had
        }
    }

    /// What came of the request under way.
    pub fn handle_answer(&mut self, answer: Answer, now: Now) {
        let Some((asked, wrote)) = self.asked.take() else { return };
        let later = asked.saturating_add(self.timing.retry).max(now.monotonic);
        match answer {
            Answer::Lease(lease) if wrote => {
                self.seen = Some(Seen { lease: *lease, since: now.monotonic, absent: false });
                self.until = Some(asked.saturating_add(self.timing.deadline));
                self.next = later;
            }
            Answer::Lease(lease) => self.read(*lease, later, now),
            // What there is now is to be read before anything else.
            Answer::Absent | Answer::Conflict if wrote => (self.unread, self.next) = (true, now.monotonic),
            Answer::Absent => self.read_absent(later, now),
            Answer::Conflict | Answer::Failed => self.next = later,
        }
        if self.until.is_none() {
            // A lease that runs out is taken then, and not a look later.
            let ends = self.seen.as_ref().map(|seen| seen.ends(self.timing.duration)).filter(|ends| *ends > now.monotonic);
            self.next = self.next.min(ends.unwrap_or(Duration::MAX));
        }
    }

    fn read_absent(&mut self, later: Duration, now: Now) {
        let news = self.unread || self.seen.as_ref().is_some_and(|seen| !seen.absent);
        self.unread = false;
        if let Some(seen) = &mut self.seen {
            seen.absent = true;
        }
        // Nobody holds what is not there.
        self.until = None;
        self.next = if news { now.monotonic } else { later };
    }

    fn read(&mut self, lease: Lease, later: Duration, now: Now) {
        self.unread = false;
        let version = |lease: &Lease| lease.metadata.resource_version.clone();
        let same = self.seen.as_ref().is_some_and(|seen| !seen.absent && version(&seen.lease) == version(&lease));
        if !same {
            self.seen = Some(Seen { lease, since: now.monotonic, absent: false });
        }
        let holder = self.seen.as_ref().and_then(Seen::holder);
        let mine = holder == Some(self.identity.as_str());
        if !mine {
            self.until = None;
        }
        let at_once = mine || holder.is_none();
        self.next = if at_once { now.monotonic } else { later };
    }

    /// Ends this replica's part: it writes no more from now on. The lease as it is to be given back, where it holds one; it is
    /// asked for with [`Ask::Replace`]. With a request under way, its answer is to be handled first.
    pub fn release(&mut self, now: Now) -> Option<Ask> {
        let held = self.until.take().is_some();
        self.ended = true;
        let seen = self.seen.as_ref().filter(|seen| !seen.absent && seen.holder() == Some(self.identity.as_str()))?;
        if !held {
            return None;
        }
        let mut lease = seen.lease.clone();
        lease.metadata.managed_fields = None;
        let spec = lease.spec.get_or_insert_default();
        // As client-go gives one back: nobody's, and over in a second for whoever looks at the times alone.
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        spec.renew_time = Some(MicroTime(micros(now.wall)));
        Some(Ask::Replace(Box::new(lease)))
    }
}

/// The API server keeps microseconds.
fn micros(time: Timestamp) -> Timestamp {
    Timestamp::from_microsecond(time.as_microsecond()).unwrap_or(time)
}

#[cfg(test)]
mod tests;
