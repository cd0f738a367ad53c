//! This cluster vouches for its records, at most once an interval.

use std::time::Duration;

use daisy_api::labels::{MANAGED_BY, MANAGED_BY_DAISY};
use daisy_api::{Heartbeat, HeartbeatSpec};

use super::agenda::{Timer, Work, decide};
use super::{Link, Syncer};
use crate::digest::digest;
use crate::object::{Kind, Place, Reference};
use crate::time::Now;

/// For how long a heartbeat that is due waits for records that are being written: its digest could not agree before.
const SETTLE: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_millis(100);

impl Syncer {
    fn heartbeat_reference(&self) -> Reference {
        Reference {
            place: Place::Broker,
            kind: Kind::Heartbeat,
            namespace: self.id.broker_namespace(),
            name: self.id.to_string(),
        }
    }

    pub(super) fn decide_heartbeat(&mut self, since: Duration, now: Now) {
        let up = matches!(self.link, Link::Up(_));
        if !up || !self.broker_synced() || !self.own.is_member() || self.leaving.is_some() {
            return;
        }
        let due = self.heartbeat_due;
        if now.monotonic < due {
            return self.agenda.set_earlier(Timer::Again(Work::Heartbeat), due);
        }
        let settle = SETTLE.min(self.config.heartbeat_interval / 2);
        if self.agenda.exports_open() && now.monotonic < due + settle {
            return self.agenda.set_earlier(Timer::Again(Work::Heartbeat), now.monotonic + AGAIN);
        }
        let stands = self.own.stands_by.values().flatten();
        let (digest, records) = digest(stands.map(|((kind, name), stand)| (*kind, name.as_str(), stand.sequence())));
        let interval = self.config.heartbeat_interval.as_secs().clamp(1, 86_400);
        let spec = HeartbeatSpec {
            sequence: self.next_sequence(now),
            digest,
            records,
            interval_seconds: u32::try_from(interval).unwrap_or(86_400),
        };
        let mut heartbeat = Heartbeat::new(self.id.as_str(), spec);
        heartbeat.metadata.namespace = Some(self.id.broker_namespace());
        heartbeat.metadata.labels = Some([(MANAGED_BY.to_owned(), MANAGED_BY_DAISY.to_owned())].into());
        if let Some(verb) = decide(self.own.heartbeat.get(&self.id.to_string()), Some(heartbeat)) {
            let reference = self.heartbeat_reference();
            self.agenda.submit(reference, verb, (&Work::Heartbeat, since), now);
        }
    }

    /// A write has succeeded: where it was a heartbeat, the next one is due an interval later.
    pub(super) fn written(&mut self, reference: &Reference, now: Now) {
        if *reference == self.heartbeat_reference() {
            self.heartbeat_due = now.monotonic + self.config.heartbeat_interval;
        }
    }
}
