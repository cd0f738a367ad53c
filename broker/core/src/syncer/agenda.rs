//! What is to be looked at again, when, and which writes are under way.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use daisy_api::{ClusterId, ServiceKey};

use super::action::{Action, ActionId, FailureKind, Verb};
use crate::object::{Object, Place, Reference};
use crate::time::Now;

/// A part of the whole that is decided at once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Work {
    /// This cluster's own Cluster, on the broker and here.
    OwnCluster,
    /// The nodes' addresses.
    Nodes,
    /// Another cluster's Cluster, here.
    Peer(ClusterId),
    /// Its status.
    PeerStatus(ClusterId),
    /// Whether another cluster's heartbeat disproves records of its that are absent.
    Resolve(ClusterId),
    /// Whether a Service is exported with its namespace.
    Bulk(ServiceKey),
    /// An export of this cluster: its records and conditions.
    Export(ServiceKey),
    /// The conditions of an export of this cluster.
    Conditions(ServiceKey),
    /// An import: its Service, EndpointSlices and ServiceImport.
    Import(ServiceKey),
    /// This cluster's heartbeat.
    Heartbeat,
}

impl Work {
    /// Whether it sums up what other work decides, and so comes after all of that.
    fn is_summary(&self) -> bool {
        matches!(self, Self::OwnCluster | Self::PeerStatus(_) | Self::Conditions(_) | Self::Heartbeat)
    }
}

/// Something that happens at a time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// A cluster's silence is judged.
    Vouch(ClusterId),
    /// A Member that the broker shows in an earlier version is taken so.
    Member(ClusterId),
    /// Work is looked at again.
    Again(Work),
}

#[derive(Clone, Debug)]
struct UnderWay {
    id: ActionId,
    /// Whose write it is, and who else has something to write to the object.
    works: BTreeSet<Work>,
    deletes: bool,
}

/// A write that has ended: of what, which work is to be looked at again, and whether it was a deletion.
pub(super) struct Ended {
    pub(super) reference: Reference,
    pub(super) works: BTreeSet<Work>,
    pub(super) deletes: bool,
}

#[derive(Clone, Debug)]
struct Backoff {
    failures: u32,
    until: Duration,
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Agenda {
    dirty: BTreeMap<Work, Duration>,
    order: VecDeque<Work>,
    summaries: VecDeque<Work>,
    timers: BTreeMap<Timer, Duration>,
    due: BTreeSet<(Duration, Timer)>,
    actions: VecDeque<Action>,
    under_way: BTreeMap<Reference, UnderWay>,
    ids: BTreeMap<ActionId, Reference>,
    backoff: BTreeMap<Reference, Backoff>,
    next: u64,
    range: (Duration, Duration),
    /// Whether writes to the broker may be given out.
    pub(super) broker_open: bool,
}

impl Agenda {
    pub(super) fn new(backoff_min: Duration, backoff_max: Duration) -> Self {
        Self {
            dirty: BTreeMap::new(),
            order: VecDeque::new(),
            summaries: VecDeque::new(),
            timers: BTreeMap::new(),
            due: BTreeSet::new(),
            actions: VecDeque::new(),
            under_way: BTreeMap::new(),
            ids: BTreeMap::new(),
            backoff: BTreeMap::new(),
            next: 0,
            range: (backoff_min, backoff_max),
            broker_open: false,
        }
    }

    /// Marks work. What was marked already keeps its place and its time.
    pub(super) fn mark(&mut self, work: Work, since: Duration) {
        if !self.dirty.contains_key(&work) {
            let queue = if work.is_summary() { &mut self.summaries } else { &mut self.order };
            queue.push_back(work.clone());
            self.dirty.insert(work, since);
        }
    }

    pub(super) fn take(&mut self) -> Option<(Work, Duration)> {
        let work = self.order.pop_front().or_else(|| self.summaries.pop_front())?;
        let since = self.dirty.remove(&work)?;
        Some((work, since))
    }

    /// Whether an export's records are still to be decided or written.
    pub(super) fn exports_open(&self) -> bool {
        let decided = !self.dirty.keys().any(|work| matches!(work, Work::Export(_)));
        !decided
            || self
                .under_way
                .iter()
                .any(|(r, u)| r.place == Place::Broker && u.works.iter().any(|w| matches!(w, Work::Export(_))))
    }

    /// Whether a write to the broker for this work is under way.
    pub(super) fn writes_to_broker(&self, work: &Work) -> bool {
        self.under_way.iter().any(|(reference, write)| reference.place == Place::Broker && write.works.contains(work))
    }

    // === time ===

    pub(super) fn set(&mut self, timer: Timer, at: Duration) {
        self.clear(&timer);
        self.due.insert((at, timer.clone()));
        self.timers.insert(timer, at);
    }

    /// Sets a timer, unless it is set for an earlier time.
    pub(super) fn set_earlier(&mut self, timer: Timer, at: Duration) {
        if self.timers.get(&timer).is_none_or(|had| *had > at) {
            self.set(timer, at);
        }
    }

    pub(super) fn clear(&mut self, timer: &Timer) {
        if let Some(at) = self.timers.remove(timer) {
            self.due.remove(&(at, timer.clone()));
        }
    }

    pub(super) fn next_due(&self) -> Option<Duration> {
        self.due.first().map(|(at, _)| *at)
    }

    pub(super) fn pop_due(&mut self, now: Duration) -> Option<Timer> {
        let (at, timer) = self.due.first()?.clone();
        if at > now {
            return None;
        }
        self.clear(&timer);
        Some(timer)
    }

    // === writes ===

    pub(super) fn pop_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Gives out a write, unless one for the same object is under way (its end has the work looked at again), or must wait.
    /// Returns whether it was given out.
    pub(super) fn submit(&mut self, reference: Reference, verb: Verb, (work, since): (&Work, Duration), now: Now) -> bool {
        if reference.place == Place::Broker && !self.broker_open {
            return false;
        }
        if let Some(under_way) = self.under_way.get_mut(&reference) {
            under_way.works.insert(work.clone());
            return false;
        }
        if let Some(backoff) = self.backoff.get(&reference)
            && backoff.until > now.monotonic
        {
            self.set_earlier(Timer::Again(work.clone()), backoff.until);
            return false;
        }
        let deletes = matches!(verb, Verb::Delete { .. });
        self.next += 1;
        let id = ActionId(self.next);
        self.ids.insert(id, reference.clone());
        self.under_way.insert(reference.clone(), UnderWay { id, works: [work.clone()].into(), deletes });
        self.actions.push_back(Action { id, reference, since, verb });
        true
    }

    pub(super) fn has_failed(&self, reference: &Reference) -> bool {
        self.backoff.contains_key(reference)
    }

    /// An action has ended.
    pub(super) fn end(&mut self, id: ActionId) -> Option<Ended> {
        let reference = self.ids.remove(&id)?;
        let under_way = self.under_way.remove(&reference)?;
        debug_assert_eq!(under_way.id, id, "one action for one object at a time");
        Some(Ended { reference, works: under_way.works, deletes: under_way.deletes })
    }

    pub(super) fn succeeded(&mut self, reference: &Reference) {
        self.backoff.remove(reference);
    }

    /// A write failed: the next is held back, each time for twice as long. Returns how often it failed in a row.
    pub(super) fn failed(&mut self, reference: &Reference, kind: FailureKind, now: Now) -> u32 {
        let (min, max) = self.range;
        let backoff = self.backoff.entry(reference.clone()).or_insert(Backoff { failures: 0, until: Duration::ZERO });
        backoff.failures = backoff.failures.saturating_add(1);
        // A conflict is mostly over as soon as the watch has shown the newer object.
        let first = match kind {
            FailureKind::Conflict | FailureKind::AlreadyExists => min / 4,
            FailureKind::NotFound | FailureKind::Refused | FailureKind::Unreachable => min,
        };
        let wait = first.saturating_mul(1 << (backoff.failures - 1).min(16)).min(max);
        backoff.until = now.monotonic + wait;
        backoff.failures
    }

    /// The broker is back: nothing of its is held back any longer.
    pub(super) fn forgive_broker(&mut self) {
        self.backoff.retain(|reference, _| reference.place != Place::Broker);
    }

    /// The broker is gone: writes to it that the shell has not taken yet are dropped.
    pub(super) fn drop_broker(&mut self) {
        let dropped: Vec<ActionId> = self.actions.iter().filter(|a| a.place() == Place::Broker).map(|a| a.id).collect();
        self.actions.retain(|action| action.place() != Place::Broker);
        for id in dropped {
            self.end(id);
        }
    }

    /// Whether nothing is marked and no write is under way.
    pub(super) fn idle(&self) -> bool {
        self.dirty.is_empty() && self.under_way.is_empty()
    }
}

/// What is to be done about one object: nothing, or one write.
pub(super) fn decide<K>(observed: Option<&K>, desired: Option<K>) -> Option<Verb>
where
    K: crate::managed::Managed + Into<Object>,
{
    use crate::managed::Overlay;
    match (observed, desired) {
        (None, None) => None,
        (None, Some(desired)) => Some(Verb::Create(desired.into())),
        (Some(observed), None) => Some(delete(observed.clone().into())),
        (Some(observed), Some(desired)) => match observed.overlay(&desired) {
            Overlay::Same => None,
            Overlay::Replace(wanted) => Some(Verb::Replace((*wanted).into())),
            Overlay::Recreate => Some(delete(observed.clone().into())),
        },
    }
}

fn delete(object: Object) -> Verb {
    Verb::Delete { uid: object.metadata().uid.clone() }
}
