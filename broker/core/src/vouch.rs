//! What another cluster's records are worth: which of them stand, and whether the cluster gives a sign of life.
//!
//! ```text
//! applied ────────────▶ stands, at the greatest sequence seen
//! absent after a list ▶ suspect: stands ──▶ DELETED is seen ────────────────────────────▶ gone
//!                                      └──▶ a heartbeat written later than the record,
//!                                           whose digest is that of what is listed ─────▶ gone
//! older than known, or ▶ left aside ──▶ such a heartbeat ─────────────────────────────────▶ stands as it is listed
//! withdrawn before
//! no newer heartbeat for some intervals, and no probe answered ──▶ silent: endpoints leave the imports
//! probes were answered, and none is any more for some seconds ──▶ out of reach: the same, until one is answered
//! ```
//!
//! A cluster's records and heartbeats draw their sequences from one counter. So a heartbeat with a greater sequence than a record
//! was written after it, and if its digest is that of a list without the record, the cluster did not stand by the record then:
//! nothing that a broker lost, or that an old copy of it lacks, can look like that.

mod member;
mod records;

use std::time::Duration;

use daisy_api::{ClusterSpec, ExportEndpointsSpec, ExportSpec, HeartbeatSpec, MemberSpec, ServiceKey};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::digest::digest;
use crate::object::Kind;
use crate::time::Now;

pub use member::{KnownMember, MemberChange};
pub use records::{Contents, Records, Standing};

/// What a heartbeat brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vouched {
    /// How many records were withdrawn.
    pub withdrawn: usize,
    /// What stands otherwise than before.
    pub keys: Vec<ServiceKey>,
    /// Whether there were records that it has outlived: a syncer that starts anew has to know until when.
    pub passed: bool,
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
    /// The sequence of the newest heartbeat whose digest was that of what was listed. All that stood then was listed, so a record that
    /// is new here and not newer than that was withdrawn before: an old copy of the broker shows it.
    floor: u64,
    /// The floor for a later run: it need not be written each time, only after something was withdrawn.
    pub kept_floor: u64,
    /// When its last sign of life came, by this process's clock: a heartbeat that advanced, or its first sight.
    pub heard: Now,
    /// Whether it gives no sign of life.
    pub silent: bool,
    /// Whether the path to it has broken, whatever it says on the broker.
    pub unreachable: bool,
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
            floor: 0,
            kept_floor: 0,
            heard: now,
            silent: false,
            unreachable: false,
        }
    }

    /// Whether it is given up for now: its endpoints are withdrawn.
    #[must_use]
    pub fn given_up(&self) -> bool {
        self.silent || self.unreachable
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

    /// Takes a sight of an export, in the list of this epoch or after it.
    pub fn see_export(&mut self, name: &str, spec: ExportSpec, epoch: u64) -> bool {
        self.exports.see(name, spec, (epoch, self.floor))
    }

    /// Takes a sight of endpoints, in the list of this epoch or after it.
    pub fn see_endpoints(&mut self, name: &str, spec: ExportEndpointsSpec, epoch: u64) -> bool {
        self.endpoints.see(name, spec, (epoch, self.floor))
    }

    /// Takes up the floor that a former run had come to; what it left of records is to be taken up after that.
    pub fn adopt_floor(&mut self, floor: u64) {
        self.exports.outlive(floor);
        self.endpoints.outlive(floor);
        self.floor = self.floor.max(floor);
        self.kept_floor = self.kept_floor.max(floor);
    }

    /// Takes a sight of its Member, in the list of this epoch or (`live`) as it is written.
    pub fn see_member(&mut self, metadata: &ObjectMeta, spec: MemberSpec, (epoch, live): (u64, bool)) -> MemberChange {
        let change = match &mut self.member {
            Some(member) => member.see(metadata, spec, (epoch, live)),
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
        (self.pulse, self.floor, self.kept_floor) = (None, 0, 0);
    }

    /// Takes a heartbeat. Returns whether it is a sign of life: newer than what was known.
    pub fn beat(&mut self, spec: HeartbeatSpec, now: Now) -> bool {
        let Some(pulse) = &self.pulse else {
            if self.floor > 0 && spec.sequence >= self.floor {
                // No old copy, so what it lists and is not imported is merely not allowed, or new.
                self.exports.revive();
                self.endpoints.revive();
                self.floor = 0;
            }
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

    /// Takes the broker's word for all that its newest heartbeat vouches for as listed.
    pub fn resolve(&mut self) -> Vouched {
        let mut vouched = Vouched::default();
        // What was listed when a heartbeat agreed with it is settled until the next.
        let Some(pulse) = self.pulse.as_ref().filter(|pulse| pulse.spec.sequence > self.floor) else { return vouched };
        let lines = self.exports.lines(Kind::Export).chain(self.endpoints.lines(Kind::ExportEndpoints));
        if digest(lines).0 != pulse.spec.digest {
            return vouched;
        }
        let heartbeat = (pulse.spec.sequence, pulse.advanced);
        self.exports.vouched(heartbeat, &mut vouched, ExportSpec::key);
        self.endpoints.vouched(heartbeat, &mut vouched, ExportEndpointsSpec::key);
        self.floor = pulse.spec.sequence;
        if vouched.passed {
            self.kept_floor = self.floor;
        }
        vouched
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
