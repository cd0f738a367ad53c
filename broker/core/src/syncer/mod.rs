//! The syncer's machine: what two API servers show goes in, what is to be written to them comes out.
//!
//! ```text
//! handle_watch ─────────────▶ stores ──marks──▶ agenda ──▶ one part decided at a time ──▶ poll_action
//! handle_broker_connection ─▶   │                 ▲                                          │
//! handle_timeout ───────────▶ timers ─────────────┤◀───────────── handle_action_done ◀───────┘
//! ```
//!
//! # Methods
//! - `handle_*` take inputs, each with the time. Order between calls is the caller's; the machine comes to the same end whatever
//!   the order in which different watches are heard.
//! - [`Syncer::poll_action`] gives the next write, until `None`; [`Syncer::poll_note`] what is worth a log line;
//!   [`Syncer::poll_timeout`] when [`Syncer::handle_timeout`] is to be called at the latest. Poll after every input.
//!
//! Nothing is written before all watches of this cluster have finished their first list, and the broker's have too or the broker
//! is known to be away. Nothing is deleted for what the broker does not show before the broker's lists were complete once; what
//! it stops showing after that is for [`crate::vouch`] to judge.

mod action;
mod adopt;
mod agenda;
mod bulk;
mod clusters;
mod exports;
mod heartbeat;
mod imports;
mod nodes;
mod note;
mod state;
mod store;
mod sweep;
mod watch;
mod worth;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use daisy_api::{ClusterId, ServiceKey};

pub use action::{Action, ActionId, BrokerTrouble, Failure, FailureKind, Verb};
pub use note::{Note, Severity};

use agenda::{Agenda, Ended, Timer, Work};
use state::{Here, Own, Reachability};

use crate::merge::Conflict;
use crate::object::{Kind, Object, Place, Reference};
use crate::time::Now;
use crate::vouch::Peer;

/// What can be set.
#[derive(Clone, Debug)]
pub struct Config {
    /// The Daisy version, for the Cluster record.
    pub version: String,
    /// How often a heartbeat is written, and for how long a member is taken to write them that has written none yet.
    pub heartbeat_interval: Duration,
    /// How many intervals without a heartbeat make a cluster silent.
    pub vouch_intervals: u32,
    /// What is borne beyond them.
    pub vouch_margin: Duration,
    /// The longest interval that another cluster's word is taken for.
    pub longest_interval: Duration,
    /// For how long no probe must have been answered before a cluster that sends no heartbeat is silent, and for how long a path that
    /// was there must have been broken before its cluster is out of reach: longer than a gateway takes to start anew.
    pub probe_margin: Duration,
    /// For how long a path that was never there may take to come up before its cluster is out of reach.
    pub path_patience: Duration,
    /// The least time between two writes of the status of one remote Cluster.
    pub status_interval: Duration,
    /// How long a leave waits for a broker that is away.
    pub leave_grace: Duration,
    /// How long a failed write waits at first and at most; it doubles in between.
    pub backoff: (Duration, Duration),
}

impl Default for Config {
    fn default() -> Self {
        Self {
            version: String::new(),
            heartbeat_interval: Duration::from_secs(60),
            vouch_intervals: 3,
            vouch_margin: Duration::from_secs(15),
            longest_interval: Duration::from_secs(600),
            probe_margin: Duration::from_secs(10),
            path_patience: Duration::from_secs(30),
            status_interval: Duration::from_secs(5),
            leave_grace: Duration::from_secs(10),
            backoff: (Duration::from_millis(200), Duration::from_secs(30)),
        }
    }
}

/// How the connection to the broker is.
#[derive(Clone, Debug)]
enum Link {
    /// Nothing was said yet.
    Unknown,
    /// All its watches are live, since then.
    Up(Duration),
    /// They are not.
    Down(BrokerTrouble),
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Syncer {
    id: ClusterId,
    config: Config,
    /// The greatest sequence used so far, for records and heartbeats alike.
    sequence: u64,
    agenda: Agenda,
    notes: VecDeque<Note>,
    epochs: BTreeMap<(Place, Kind), u64>,
    synced: BTreeSet<(Place, Kind)>,
    link: Link,
    /// The broker was away before its first lists were complete: go on with what a former run left.
    blind: bool,
    adopted: bool,
    /// Since when this cluster leaves.
    leaving: Option<Duration>,
    /// Whether the broker knows that it leaves.
    told: bool,
    left: bool,
    here: Here,
    own: Own,
    peers: BTreeMap<ClusterId, Peer>,
    /// For each name the clusters that may have a record of it.
    offering: BTreeMap<ServiceKey, BTreeSet<ClusterId>>,
    /// What is imported, and from where: as it was last decided.
    imported: BTreeMap<ServiceKey, BTreeSet<ClusterId>>,
    /// The same by cluster.
    imported_from: BTreeMap<ClusterId, BTreeSet<ServiceKey>>,
    conflicts: BTreeMap<ServiceKey, Vec<Conflict>>,
    reachability: BTreeMap<ClusterId, Reachability>,
    /// What is dropped, and why, as it was last said.
    dropped: BTreeMap<Reference, String>,
    unrealisable: BTreeMap<ServiceKey, String>,
    status_written: BTreeMap<ClusterId, Duration>,
    heartbeat_due: Duration,
}

impl Syncer {
    /// The machine of this cluster, knowing nothing yet.
    #[must_use]
    pub fn new(id: ClusterId, config: Config, now: Now) -> Self {
        let agenda = Agenda::new(config.backoff.0, config.backoff.1);
        Self {
            id,
            config,
            sequence: 0,
            agenda,
            notes: VecDeque::new(),
            epochs: BTreeMap::new(),
            synced: BTreeSet::new(),
            link: Link::Unknown,
            blind: false,
            adopted: false,
            leaving: None,
            told: false,
            left: false,
            here: Here::default(),
            own: Own::new(now),
            peers: BTreeMap::new(),
            offering: BTreeMap::new(),
            imported: BTreeMap::new(),
            imported_from: BTreeMap::new(),
            conflicts: BTreeMap::new(),
            reachability: BTreeMap::new(),
            dropped: BTreeMap::new(),
            unrealisable: BTreeMap::new(),
            status_written: BTreeMap::new(),
            heartbeat_due: now.monotonic,
        }
    }

    /// This cluster.
    #[must_use]
    pub fn id(&self) -> &ClusterId {
        &self.id
    }

    /// Whether this cluster has left: everything that the syncer made is gone.
    #[must_use]
    pub fn left(&self) -> bool {
        self.left
    }

    /// Whether all is decided, and nothing is being written (what waits for a time or for the broker apart).
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.agenda.idle()
    }

    /// Whether the first lists of both sides are complete.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.here_synced() && self.broker_synced()
    }

    /// What is imported now, and from which clusters.
    pub fn imports(&self) -> impl Iterator<Item = (&ServiceKey, &BTreeSet<ClusterId>)> {
        self.imported.iter()
    }

    /// The other members of which something is known, and whether each is silent or out of reach.
    pub fn clusters(&self) -> impl Iterator<Item = (&ClusterId, bool)> {
        self.peers.iter().filter(|(_, peer)| peer.member.is_some()).map(|(id, peer)| (id, peer.given_up()))
    }

    fn here_synced(&self) -> bool {
        Kind::HERE.iter().all(|kind| self.synced.contains(&(Place::Here, *kind)))
    }

    fn broker_synced(&self) -> bool {
        Kind::BROKER.iter().all(|kind| self.synced.contains(&(Place::Broker, *kind)))
    }

    fn ready(&self) -> bool {
        self.here_synced() && (self.blind || self.broker_synced())
    }

    fn mark(&mut self, work: Work, now: Now) {
        self.agenda.mark(work, now.monotonic);
    }

    fn note(&mut self, note: Note) {
        self.notes.push_back(note);
    }

    /// The greatest sequence that is believed. Sequences follow the wall clock in milliseconds where nothing pushes them further; a
    /// record far beyond is not one of a syncer's, and whoever believed it would believe that cluster nothing else ever after.
    fn believable(now: Now) -> u64 {
        const YEAR: u64 = 366 * 86_400 * 1000;
        u64::try_from(now.wall.as_millisecond()).unwrap_or(0).saturating_add(YEAR)
    }

    /// Goes on from a sequence of this cluster's that is seen somewhere.
    fn count_from(&mut self, sequence: u64, now: Now) {
        if sequence <= Self::believable(now) {
            self.sequence = self.sequence.max(sequence);
        }
    }

    /// The next sequence: greater than all before, and by a count that a restart without memory goes on with.
    fn next_sequence(&mut self, now: Now) -> u64 {
        let floor = u64::try_from(now.wall.as_millisecond()).unwrap_or(0);
        self.sequence = (self.sequence + 1).max(floor);
        self.sequence
    }

    /// Says how the connection to the broker is: `Ok` once all its watches are live, an error as soon as one is not.
    pub fn handle_broker_connection(&mut self, state: Result<(), BrokerTrouble>, now: Now) {
        match state {
            Ok(()) => {
                if matches!(self.link, Link::Up(_)) {
                    return;
                }
                self.link = Link::Up(now.monotonic);
                self.agenda.broker_open = true;
                self.agenda.forgive_broker();
                self.mark_exports(now);
                self.mark(Work::Heartbeat, now);
            }
            Err(trouble) => {
                if matches!(&self.link, Link::Down(had) if *had == trouble) {
                    return;
                }
                self.link = Link::Down(trouble);
                self.agenda.broker_open = false;
                self.agenda.drop_broker();
                if !self.broker_synced() {
                    self.blind = true;
                }
                self.mark_exports(now);
            }
        }
        self.mark(Work::OwnCluster, now);
        self.judge_all(now);
    }

    /// Says what became of an action: the object as the server returned it (`None` after a deletion), or why not.
    pub fn handle_action_done(&mut self, id: ActionId, outcome: Result<Option<Object>, Failure>, now: Now) {
        let Some(Ended { reference, works, deletes }) = self.agenda.end(id) else { return };
        match outcome {
            Ok(object) => {
                self.agenda.succeeded(&reference);
                self.own.refused.remove(&reference);
                match object {
                    // A deletion may give back the object in its last state.
                    Some(object) if !deletes => self.see_unless_outdated(reference.place, object, now),
                    Some(_) | None => self.deleted(&reference, now),
                }
                self.written(&reference, now);
            }
            // What was to be deleted is gone already; the watch says the same in time.
            Err(Failure { kind: FailureKind::NotFound, .. }) if deletes => {
                self.agenda.succeeded(&reference);
                self.deleted(&reference, now);
            }
            Err(failure) => {
                let failures = self.agenda.failed(&reference, failure.kind, now);
                if failure.kind == FailureKind::Refused {
                    self.own.refused.insert(reference.clone(), failure.message.clone());
                }
                // A conflict or two are the normal course of things between several writers.
                let expected = matches!(failure.kind, FailureKind::Conflict | FailureKind::AlreadyExists);
                if failures == if expected { 5 } else { 1 } {
                    self.note(Note::Failed { object: reference, why: failure.message });
                }
            }
        }
        for work in works {
            self.mark(work, now);
        }
    }

    /// Lets what is due happen.
    pub fn handle_timeout(&mut self, now: Now) {
        while let Some(timer) = self.agenda.pop_due(now.monotonic) {
            match timer {
                Timer::Vouch(id) => self.judge(&id, now),
                Timer::Member(id) => self.take_older_member(&id, now),
                Timer::Again(work) => self.mark(work, now),
            }
        }
    }

    /// When [`Self::handle_timeout`] is to be called at the latest, by the monotonic clock.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.agenda.next_due()
    }

    /// The next thing worth a log line.
    pub fn poll_note(&mut self) -> Option<Note> {
        self.notes.pop_front()
    }

    /// The next write; `None` when there is none now.
    pub fn poll_action(&mut self, now: Now) -> Option<Action> {
        loop {
            if let Some(action) = self.agenda.pop_action() {
                return Some(action);
            }
            if !self.ready() {
                return None;
            }
            let (work, since) = self.agenda.take()?;
            self.decide(&work, since, now);
        }
    }

    fn decide(&mut self, work: &Work, since: Duration, now: Now) {
        match work {
            Work::OwnCluster => self.decide_own_cluster(since, now),
            Work::Nodes => self.decide_nodes(since, now),
            Work::Peer(id) => self.decide_peer(id, since, now),
            Work::PeerStatus(id) => self.decide_peer_status(id, since, now),
            Work::Resolve(id) => self.resolve(id, now),
            Work::Bulk(key) => self.decide_bulk(key, since, now),
            Work::Export(key) => self.decide_export(key, since, now),
            Work::Conditions(key) => self.decide_conditions(key, since, now),
            Work::Import(key) => self.decide_import(key, since, now),
            Work::Heartbeat => self.decide_heartbeat(since, now),
        }
    }
}

#[cfg(test)]
mod tests;
