//! One simulated cluster: its API server, its syncer (the real core), and the watches between them.

use std::collections::BTreeMap;
use std::time::Duration;

use daisy_api::{ClusterId, ServiceKey, labels};
use daisy_broker_core::object::{Change, Kind, Object, Place};
use daisy_broker_core::syncer::{Action, BrokerTrouble, Config, Syncer};
use daisy_broker_core::time::Now;

use crate::broker::Broker;
use crate::objects::{self, Identity};
use crate::store::{Event, Store};
use crate::trace::{self, Trace};

/// A watch: how far it has read, and whether it must list first.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stream {
    position: u64,
    listed: bool,
    /// It delivers nothing before: a stale watch.
    pub(crate) held_until: Duration,
}

/// Where the cluster stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It was told that it is a member.
    Member,
    /// It was told to leave.
    Leaving,
    /// Its leave is over.
    Left,
    /// It asks, or is about to: one made anew, or that was a member before.
    Joining,
    /// It is no member any more without having left: evicted, or asleep for too long.
    Out,
}

pub(crate) struct SimCluster {
    pub(crate) number: u8,
    pub(crate) id: ClusterId,
    pub(crate) identity: Identity,
    pub(crate) here: Store,
    /// `None` while it is crashed.
    pub(crate) syncer: Option<Syncer>,
    pub(crate) streams: BTreeMap<(Place, Kind), Stream>,
    pub(crate) in_flight: Vec<Action>,
    pub(crate) standing: Standing,
    /// Whether the network to the broker works.
    pub(crate) linked: bool,
    /// Its token: the number of the ServiceAccount on the broker that it is for.
    pub(crate) credential: Option<u64>,
    /// Nobody starts it, or mends its link: until it is woken.
    pub(crate) asleep: bool,
    /// Nothing of Daisy is installed there any more.
    pub(crate) removed: bool,
    /// When it last wrote a heartbeat.
    pub(crate) beat: Duration,
    told: Option<bool>,
    trace: Trace,
}

impl SimCluster {
    /// A cluster that is to become a member.
    pub(crate) fn new(identity: Identity, now: Now, trace: Trace) -> Self {
        let number = identity.number;
        let mut here = Store::new(Place::Here, Some(identity.services));
        here.put(objects::namespace("kube-system", false).into(), now.wall);
        here.put(objects::namespace(labels::SYSTEM_NAMESPACE, false).into(), now.wall);
        here.put(objects::node(number).into(), now.wall);
        here.put(objects::gateway(&identity, None, &[]).into(), now.wall);
        Self {
            number,
            id: identity.id(),
            identity,
            here,
            syncer: None,
            streams: BTreeMap::new(),
            in_flight: Vec::new(),
            standing: Standing::Joining,
            linked: true,
            credential: None,
            asleep: false,
            removed: false,
            beat: Duration::ZERO,
            told: None,
            trace,
        }
    }

    /// It reads that it is a member, with this token.
    pub(crate) fn admitted(&mut self, account: Option<u64>, now: Now) {
        (self.standing, self.removed) = (Standing::Member, false);
        self.credential = account;
        self.break_broker_streams();
        if self.syncer.is_none() {
            self.start(now);
        }
    }

    /// What `daisy leave` does at its end, so that the cluster may join again.
    pub(crate) fn forget(&mut self) {
        self.crash();
        self.here.remove(Kind::Cluster, labels::SYSTEM_NAMESPACE, self.id.as_str());
        (self.standing, self.removed) = (Standing::Joining, true);
    }

    /// Starts a syncer that knows nothing yet.
    pub(crate) fn start(&mut self, now: Now) {
        self.syncer = Some(Syncer::new(self.id.clone(), Config::default(), now));
        self.told = None;
        self.streams = Kind::BROKER.map(|kind| ((Place::Broker, kind), Stream::default())).into_iter().collect();
        self.streams.extend(Kind::HERE.map(|kind| ((Place::Here, kind), Stream::default())));
    }

    /// The process dies: what it had under way is lost or not, as `world` decides.
    pub(crate) fn crash(&mut self) {
        self.syncer = None;
        self.in_flight.clear();
    }

    /// Whether the broker takes its token.
    pub(crate) fn known(&self, broker: &Broker) -> bool {
        self.credential.is_some() && broker.accounts.get(&self.id).copied() == self.credential
    }

    /// Whether the broker answers it: `up` while that is up and takes its token.
    pub(crate) fn reaches_broker(&self, up: bool) -> bool {
        self.linked && up
    }

    /// The watches on the broker end: they will list again.
    pub(crate) fn break_broker_streams(&mut self) {
        for ((place, _), stream) in &mut self.streams {
            if *place == Place::Broker {
                stream.listed = false;
            }
        }
    }

    /// Tells the syncer when the broker came or went.
    pub(crate) fn tell_connection(&mut self, up: bool, now: Now) {
        let reaches = self.reaches_broker(up);
        if !reaches {
            self.break_broker_streams();
        }
        let live = reaches && self.streams.iter().all(|((place, _), s)| *place == Place::Here || s.listed);
        let Some(syncer) = self.syncer.as_mut() else { return };
        if live && self.told != Some(true) {
            syncer.handle_broker_connection(Ok(()), now);
            self.told = Some(true);
        } else if !reaches && self.told != Some(false) {
            let trouble = BrokerTrouble { reason: "Unreachable".to_owned(), message: "the simulation cut the link".to_owned() };
            syncer.handle_broker_connection(Err(trouble), now);
            self.told = Some(false);
        }
    }

    /// Whether this watch has something to deliver.
    pub(crate) fn pending(&self, which: (Place, Kind), store: &Store, now: Now) -> bool {
        self.streams
            .get(&which)
            .is_some_and(|s| now.monotonic >= s.held_until && (!s.listed || store.after(s.position, which.1).is_some()))
    }

    /// Delivers one event, or a whole list where the watch is new or broken.
    pub(crate) fn deliver(&mut self, which: (Place, Kind), store: &Store, now: Now) {
        let (Some(syncer), Some(stream)) = (self.syncer.as_mut(), self.streams.get_mut(&which)) else { return };
        let (place, kind) = which;
        if !stream.listed {
            self.trace.tell(now, || {
                let objects: Vec<String> = store.list(kind).map(trace::object).collect();
                format!("{} hears the list of {which:?}: {}", self.id, objects.join(", "))
            });
            syncer.handle_watch(place, kind, Change::Started, now);
            for object in store.list(kind) {
                syncer.handle_watch(place, kind, Change::Listed(object.clone()), now);
            }
            syncer.handle_watch(place, kind, Change::Finished, now);
            *stream = Stream { position: store.revision(), listed: true, held_until: Duration::ZERO };
            return;
        }
        let Some((position, event)) = store.after(stream.position, kind) else { return };
        self.trace.tell(now, || match event {
            Event::Applied(object) => format!("{} hears of {}", self.id, trace::object(object)),
            Event::Deleted(object) => format!("{} hears of the end of {}", self.id, trace::object(object)),
        });
        let change = match event {
            Event::Applied(object) => Change::Applied(object.clone()),
            Event::Deleted(object) => Change::Deleted(object.clone()),
        };
        stream.position = position;
        syncer.handle_watch(place, kind, change, now);
    }

    /// How far every watch of this place has read: history before it is no longer needed.
    pub(crate) fn read_upto(&self, place: Place) -> u64 {
        let of_place = self.streams.iter().filter(|((p, _), s)| *p == place && s.listed);
        of_place.map(|(_, s)| s.position).min().unwrap_or(u64::MAX)
    }

    /// Takes what the syncer wants done.
    pub(crate) fn collect(&mut self, now: Now) {
        let Some(syncer) = self.syncer.as_mut() else { return };
        while let Some(action) = syncer.poll_action(now) {
            self.in_flight.push(action);
        }
        while let Some(note) = syncer.poll_note() {
            self.trace.tell(now, || format!("{} notes: {note}", self.id));
        }
    }

    /// Whether a Service of the key is exported by what users did here, the grant apart.
    pub(crate) fn wants(&self, key: &ServiceKey) -> bool {
        let (namespace, name) = (key.namespace.as_str(), key.name.as_str());
        if self.standing != Standing::Member || self.here.get(Kind::Service, namespace, name).is_none() {
            return false;
        }
        let by_user =
            |object: &Object| object.metadata().labels.as_ref().is_none_or(|l| !l.contains_key(labels::EXPORTED_BY_NAMESPACE));
        self.here.get(Kind::ServiceExport, namespace, name).is_some_and(by_user) || self.bulk(namespace)
    }

    /// Whether the namespace is exported as a whole.
    pub(crate) fn bulk(&self, namespace: &str) -> bool {
        let labels_of = |object: &Object| object.metadata().labels.clone().unwrap_or_default();
        self.here
            .get(Kind::Namespace, "", namespace)
            .is_some_and(|object| labels_of(object).get(labels::EXPORT_ALL).is_some_and(|v| v == "true"))
    }

    /// The addresses of the Service's pods.
    pub(crate) fn pods(&self, key: &ServiceKey) -> Vec<String> {
        match self.here.get(Kind::EndpointSlice, key.namespace.as_str(), &objects::slice_name(key)) {
            Some(Object::EndpointSlice(slice)) => slice.endpoints.iter().flat_map(|e| e.addresses.clone()).collect(),
            _ => Vec::new(),
        }
    }
}
