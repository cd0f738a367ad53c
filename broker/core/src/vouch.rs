//! What another cluster's records are worth: which of them stand, and whether the cluster gives a sign of life.
//!
//! ```text
//! applied ────────────▶ stands, at the greatest sequence seen
//! absent after a list ▶ suspect: stands ──▶ DELETED is seen ────────────────────────────▶ gone
//!                                      └──▶ a heartbeat written later than the record,
//!                                           whose digest is that of what is listed ─────▶ gone
//! no newer heartbeat for some intervals, and no probe answered ──▶ silent: endpoints leave the imports
//! ```
//!
//! A cluster's records and heartbeats draw their sequences from one counter. So a heartbeat with a greater sequence than a record
//! was written after it, and if its digest is that of a list without the record, the cluster did not stand by the record then:
//! nothing that a broker lost, or that an old copy of it lacks, can look like that.

mod member;

use std::collections::BTreeMap;
use std::time::Duration;

use daisy_api::{ClusterSpec, ExportEndpointsSpec, ExportSpec, HeartbeatSpec, MemberSpec, ServiceKey};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::digest::digest;
use crate::object::Kind;
use crate::time::Now;

pub use member::{KnownMember, MemberChange};

/// A record's contents: all have an envelope.
pub trait Contents: Clone {
    /// The sequence in it.
    fn sequence(&self) -> u64;
}

macro_rules! contents {
    ($($kind:ty),*) => { $(impl Contents for $kind {
        fn sequence(&self) -> u64 {
            self.envelope.sequence
        }
    })* };
}
contents!(ClusterSpec, ExportSpec, ExportEndpointsSpec);

/// A record that stands.
#[derive(Clone, Debug)]
pub struct Standing<T> {
    /// What it said at the greatest sequence seen.
    pub spec: T,
    /// What the broker shows now, where that is older than what stands (a broker restored from an old copy).
    older: Option<Box<T>>,
    /// Whether the broker shows it now, in whatever state.
    listed: bool,
    /// The list in which it was last seen.
    epoch: u64,
    /// Made from what a former run left in this cluster, not from a record.
    adopted: bool,
    /// Another cluster under the same name may write it: whatever comes next is taken.
    forgotten: bool,
}

impl<T: Contents> Standing<T> {
    fn seen(spec: T, epoch: u64) -> Self {
        Self { spec, older: None, listed: true, epoch, adopted: false, forgotten: false }
    }

    /// A record that a former run of this syncer had taken: it stands until it is known better.
    pub fn adopted(spec: T) -> Self {
        Self { spec, older: None, listed: false, epoch: 0, adopted: true, forgotten: false }
    }

    /// Whether the broker shows it.
    pub fn listed(&self) -> bool {
        self.listed
    }

    /// Whether it comes from a former run, and the broker has not shown it since.
    pub fn is_adopted(&self) -> bool {
        self.adopted
    }

    fn shown_sequence(&self) -> u64 {
        self.older.as_deref().unwrap_or(&self.spec).sequence()
    }

    /// Takes a newer sight of it. Returns whether what stands changed.
    fn see(&mut self, spec: T, epoch: u64) -> bool {
        (self.listed, self.epoch) = (true, epoch);
        let forgotten = std::mem::take(&mut self.forgotten);
        if !self.adopted && !forgotten && spec.sequence() < self.spec.sequence() {
            self.older = Some(Box::new(spec));
            return false;
        }
        (self.spec, self.older, self.adopted) = (spec, None, false);
        true
    }

    /// Forgets the greater sequence; `None` where the broker shows nothing.
    fn reset(self) -> Option<Self> {
        let listed = self.listed;
        listed.then(|| match self.older {
            Some(older) => Self { spec: *older, older: None, forgotten: true, ..self },
            None => Self { forgotten: true, ..self },
        })
    }
}

/// Records of one kind of one cluster, by name.
#[derive(Clone, Debug)]
pub struct Records<T>(BTreeMap<String, Standing<T>>);

impl<T> Default for Records<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T: Contents> Records<T> {
    /// Takes a sight of a record. Returns whether what stands changed.
    pub fn see(&mut self, name: &str, spec: T, epoch: u64) -> bool {
        match self.0.get_mut(name) {
            Some(standing) => standing.see(spec, epoch),
            None => {
                self.0.insert(name.to_owned(), Standing::seen(spec, epoch));
                true
            }
        }
    }

    /// Marks a record as shown, though it cannot be read.
    pub fn touch(&mut self, name: &str, epoch: u64) {
        if let Some(standing) = self.0.get_mut(name) {
            standing.epoch = epoch;
        }
    }

    /// Takes up a record of a former run, where none of this name is known.
    pub fn adopt(&mut self, name: &str, spec: T) {
        self.0.entry(name.to_owned()).or_insert_with(|| Standing::adopted(spec));
    }

    /// Removes a record that was deleted.
    pub fn remove(&mut self, name: &str) -> Option<T> {
        self.0.remove(name).map(|standing| standing.spec)
    }

    /// The record of this name.
    pub fn get(&self, name: &str) -> Option<&Standing<T>> {
        self.0.get(name)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Standing<T>)> {
        self.0.iter().map(|(name, standing)| (name.as_str(), standing))
    }

    /// Those whose names begin so.
    pub fn beginning<'a>(&'a self, text: &'a str) -> impl Iterator<Item = (&'a str, &'a Standing<T>)> {
        let from = self.0.range::<str, _>((std::ops::Bound::Included(text), std::ops::Bound::Unbounded));
        from.take_while(move |(name, _)| name.starts_with(text)).map(|(name, standing)| (name.as_str(), standing))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A list is complete: what it did not name is suspect. Returns how many became so.
    fn sweep(&mut self, epoch: u64) -> usize {
        let absent = self.0.values_mut().filter(|standing| standing.listed && standing.epoch != epoch);
        absent.map(|standing| (standing.listed, standing.older) = (false, None)).count()
    }

    fn has_suspects(&self) -> bool {
        self.0.values().any(|standing| !standing.listed)
    }

    /// Withdraws the suspects that a heartbeat of this sequence disproves.
    fn disproved(&mut self, sequence: u64, advanced: bool) -> Vec<T> {
        let gone = |standing: &Standing<T>| {
            !standing.listed && if standing.adopted { advanced } else { standing.spec.sequence() < sequence }
        };
        let names: Vec<String> = self.0.iter().filter(|(_, s)| gone(s)).map(|(name, _)| name.clone()).collect();
        names.iter().filter_map(|name| self.remove(name)).collect()
    }

    fn reset(&mut self) {
        let all = std::mem::take(&mut self.0);
        self.0 = all.into_iter().filter_map(|(name, standing)| Some((name, standing.reset()?))).collect();
    }

    fn lines(&self, kind: Kind) -> impl Iterator<Item = (Kind, &str, u64)> {
        self.0.iter().filter(|(_, s)| s.listed).map(move |(name, s)| (kind, name.as_str(), s.shown_sequence()))
    }
}

/// The heartbeats of a cluster, as observed here.
#[derive(Clone, Debug)]
pub struct Pulse {
    /// The newest.
    pub spec: HeartbeatSpec,
    /// Whether a newer one was seen since this process first saw one: then the cluster was alive meanwhile.
    pub advanced: bool,
}

/// Another cluster, or this one as its Member goes.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its Member.
    pub member: Option<KnownMember>,
    /// Its Cluster record.
    pub cluster: Records<ClusterSpec>,
    /// Its exports, by record name.
    pub exports: Records<ExportSpec>,
    /// Its endpoints, by record name.
    pub endpoints: Records<ExportEndpointsSpec>,
    /// Its heartbeats.
    pub pulse: Option<Pulse>,
    /// When its last sign of life came, by this process's clock: a heartbeat that advanced, or its first sight.
    pub heard: Now,
    /// Whether it is given up for now: its endpoints are withdrawn.
    pub silent: bool,
}

impl Peer {
    /// A cluster of which nothing is known yet.
    #[must_use]
    pub fn new(now: Now) -> Self {
        Self {
            member: None,
            cluster: Records::default(),
            exports: Records::default(),
            endpoints: Records::default(),
            pulse: None,
            heard: now,
            silent: false,
        }
    }

    /// Whether nothing is known of it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.member.is_none()
            && self.cluster.is_empty()
            && self.exports.is_empty()
            && self.endpoints.is_empty()
            && self.pulse.is_none()
    }

    /// Takes a sight of its Member.
    pub fn see_member(&mut self, metadata: &ObjectMeta, spec: MemberSpec, epoch: u64) -> MemberChange {
        let change = match &mut self.member {
            Some(member) => member.see(metadata, spec, epoch),
            None => {
                self.member = Some(KnownMember::first(metadata, spec, epoch));
                MemberChange::Changed
            }
        };
        if change == MemberChange::Replaced {
            self.reset();
        }
        change
    }

    /// Takes the earlier version of its Member that the broker shows.
    pub fn take_older_member(&mut self) -> MemberChange {
        let change = self.member.as_mut().map_or(MemberChange::None, KnownMember::take_older);
        if change == MemberChange::Replaced {
            self.reset();
        }
        change
    }

    /// Takes up its Member as a former run knew it.
    pub fn adopt_member(&mut self, had: KnownMember) {
        self.member = Some(match self.member.take() {
            Some(shown) => had.with(shown),
            None => had,
        });
    }

    /// Its Member is there, but cannot be read.
    pub fn touch_member(&mut self, epoch: u64) {
        if let Some(member) = &mut self.member {
            member.touch(epoch);
        }
    }

    /// Its Member was deleted: the membership is over. What the broker still shows is kept aside, in case it joins again.
    pub fn remove_member(&mut self) {
        self.member = None;
        self.reset();
    }

    /// The list of Members is complete. An absent one stands. Returns whether it became suspect.
    pub fn sweep_member(&mut self, epoch: u64) -> bool {
        self.member.as_mut().is_some_and(|member| member.sweep(epoch))
    }

    /// A list of records of this kind is complete. Returns how many became suspect.
    pub fn sweep(&mut self, kind: Kind, epoch: u64) -> usize {
        match kind {
            Kind::Cluster => self.cluster.sweep(epoch),
            Kind::Export => self.exports.sweep(epoch),
            Kind::ExportEndpoints => self.endpoints.sweep(epoch),
            _ => 0,
        }
    }

    /// Greater sequences that were seen do not count any more.
    fn reset(&mut self) {
        self.cluster.reset();
        self.exports.reset();
        self.endpoints.reset();
        self.pulse = None;
    }

    /// Takes a heartbeat. Returns whether it is a sign of life: newer than what was known.
    pub fn beat(&mut self, spec: HeartbeatSpec, now: Now) -> bool {
        let Some(pulse) = &self.pulse else {
            self.pulse = Some(Pulse { spec, advanced: false });
            return false;
        };
        if spec.sequence <= pulse.spec.sequence {
            return false;
        }
        self.pulse = Some(Pulse { spec, advanced: true });
        (self.heard, self.silent) = (now, false);
        true
    }

    /// Withdraws the suspects that its newest heartbeat disproves. Returns what they were exports and endpoints of.
    pub fn resolve(&mut self) -> Vec<ServiceKey> {
        let Some(pulse) = &self.pulse else { return Vec::new() };
        if !self.exports.has_suspects() && !self.endpoints.has_suspects() {
            return Vec::new();
        }
        let lines = self.exports.lines(Kind::Export).chain(self.endpoints.lines(Kind::ExportEndpoints));
        if digest(lines).0 != pulse.spec.digest {
            return Vec::new();
        }
        let (sequence, advanced) = (pulse.spec.sequence, pulse.advanced);
        let mut keys: Vec<ServiceKey> = self.exports.disproved(sequence, advanced).iter().map(ExportSpec::key).collect();
        keys.extend(self.endpoints.disproved(sequence, advanced).iter().map(ExportEndpointsSpec::key));
        keys
    }

    /// How long its silence is borne: `intervals` of its own heartbeat's and a margin. What it says of its interval counts up to
    /// `longest` only: nobody may vouch for himself for days.
    #[must_use]
    pub fn patience(&self, intervals: u32, margin: Duration, (default, longest): (Duration, Duration)) -> Duration {
        let interval = self.pulse.as_ref().map_or(default, |p| Duration::from_secs(u64::from(p.spec.interval_seconds)));
        interval.min(longest) * intervals + margin
    }

    /// Every name under which something of it stands, exports and endpoints.
    #[must_use]
    pub fn keys(&self) -> Vec<ServiceKey> {
        let mut keys: Vec<ServiceKey> = self.exports.iter().map(|(_, s)| s.spec.key()).collect();
        keys.extend(self.endpoints.iter().map(|(_, s)| s.spec.key()));
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// Drops everything that the broker does not show.
    pub fn forget_unlisted(&mut self) {
        self.reset();
        if self.member.as_ref().is_some_and(|member| !member.listed) {
            self.member = None;
        }
    }
}

#[cfg(test)]
mod tests;
