//! An in-memory API server: objects with versions, and a log that watches read.

use std::collections::BTreeMap;

use daisy_api::Cidr;
use daisy_broker_core::object::{Kind, Object, Place, Reference};
use daisy_broker_core::syncer::{Failure, FailureKind, Verb};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

type Key = (Kind, String, String);

/// One thing that happened.
#[derive(Clone, Debug)]
pub(crate) enum Event<K> {
    Applied(K),
    Deleted(K),
}

/// A time as an API server keeps it.
pub(crate) fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// The store. A clone of it is a backup.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    place: Place,
    objects: BTreeMap<Key, Object>,
    /// What happened, of each kind.
    log: BTreeMap<Kind, Vec<(u64, Event<Object>)>>,
    revision: u64,
    uids: u64,
    /// Where the ClusterIPs are of that it gives out.
    services: Option<Cidr>,
    addresses: u64,
}

fn failure(kind: FailureKind, message: impl Into<String>) -> Failure {
    Failure { kind, message: message.into() }
}

impl Store {
    pub(crate) fn new(place: Place, services: Option<Cidr>) -> Self {
        Self { place, objects: BTreeMap::new(), log: BTreeMap::new(), revision: 1, uids: 0, services, addresses: 10 }
    }

    /// It goes on as another: UIDs are never given twice, whatever a server remembers.
    pub(crate) fn reborn(mut self, incarnation: u64) -> Self {
        self.uids = incarnation << 32;
        self
    }

    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    pub(crate) fn objects(&self) -> impl Iterator<Item = &Object> {
        self.objects.values()
    }

    pub(crate) fn list(&self, kind: Kind) -> impl Iterator<Item = &Object> {
        let from = (kind, String::new(), String::new());
        self.objects.range(from..).take_while(move |((k, _, _), _)| *k == kind).map(|(_, object)| object)
    }

    pub(crate) fn get(&self, kind: Kind, namespace: &str, name: &str) -> Option<&Object> {
        self.objects.get(&(kind, namespace.to_owned(), name.to_owned()))
    }

    /// What happened after `revision`, of this kind: the position after it, and the event.
    pub(crate) fn after(&self, revision: u64, kind: Kind) -> Option<(u64, &Event<Object>)> {
        let log = self.log.get(&kind)?;
        let from = log.partition_point(|(at, _)| *at <= revision);
        log.get(from).map(|(at, event)| (*at, event))
    }

    /// Forgets history that nobody will ask for.
    pub(crate) fn trim(&mut self, revision: u64) {
        for log in self.log.values_mut() {
            let upto = log.partition_point(|(at, _)| *at <= revision);
            log.drain(..upto);
        }
    }

    fn log(&mut self, kind: Kind, event: Event<Object>) {
        self.log.entry(kind).or_default().push((self.revision, event));
    }

    fn key(object: &Object) -> Key {
        (object.kind(), object.namespace().to_owned(), object.name().to_owned())
    }

    fn commit(&mut self, mut object: Object) -> Object {
        self.revision += 1;
        object.metadata_mut().resource_version = Some(self.revision.to_string());
        self.log(object.kind(), Event::Applied(object.clone()));
        self.objects.insert(Self::key(&object), object.clone());
        object
    }

    /// Writes an object whatever is there, as a user or a test would.
    pub(crate) fn put(&mut self, mut object: Object, now: Timestamp) -> Object {
        let had = self.objects.get(&Self::key(&object)).cloned();
        let (uid, created, generation) = match &had {
            Some(had) => {
                let m = had.metadata();
                (m.uid.clone(), m.creation_timestamp.clone(), m.generation.unwrap_or(1) + 1)
            }
            None => {
                self.uids += 1;
                let made = if self.place == Place::Broker { whole_seconds(now) } else { now };
                (Some(format!("uid-{}", self.uids)), Some(Time(made)), 1)
            }
        };
        let metadata = object.metadata_mut();
        metadata.uid = uid;
        metadata.creation_timestamp = created;
        metadata.generation = Some(generation);
        if let (Object::Service(service), None) = (&mut object, &had) {
            let spec = service.spec.get_or_insert_default();
            if spec.cluster_ip.is_none()
                && let Some(address) = self.services.and_then(|services| services.nth(self.addresses))
            {
                self.addresses += 1;
                let address = address.to_string();
                spec.cluster_ip = Some(address.clone());
                spec.cluster_ips = Some(vec![address]);
            }
        }
        self.commit(object)
    }

    /// Removes an object, if it is there.
    pub(crate) fn remove(&mut self, kind: Kind, namespace: &str, name: &str) -> Option<Object> {
        let object = self.objects.remove(&(kind, namespace.to_owned(), name.to_owned()))?;
        self.revision += 1;
        self.log(kind, Event::Deleted(object.clone()));
        Some(object)
    }

    /// Does what a syncer asks, as an API server would.
    pub(crate) fn perform(&mut self, at: &Reference, verb: &Verb, now: Timestamp) -> Result<Option<Object>, Failure> {
        match verb {
            Verb::Create(object) => {
                if self.objects.contains_key(&Self::key(object)) {
                    let what = object.reference(self.place);
                    return Err(failure(FailureKind::AlreadyExists, format!("{what} already exists")));
                }
                Ok(Some(self.put(object.clone(), now)))
            }
            Verb::Replace(object) => {
                self.fresh(object)?;
                Ok(Some(self.put(self.with_status_of_old(object), now)))
            }
            Verb::Status(object) => {
                let had = self.objects.get(&Self::key(object)).cloned();
                let Some(had) = had else { return Err(failure(FailureKind::NotFound, "not found")) };
                Ok(Some(self.commit(with_status(had, object))))
            }
            Verb::Delete { uid } => self.delete(at, uid.as_deref()),
            Verb::Annotate { address } => {
                let had = self.objects.get(&(Kind::Node, String::new(), at.name.clone())).cloned();
                let Some(mut object) = had else { return Err(failure(FailureKind::NotFound, format!("{at} not found"))) };
                let annotations = object.metadata_mut().annotations.get_or_insert_default();
                let key = daisy_api::labels::NODE_ADDRESS.to_owned();
                match address {
                    Some(address) => annotations.insert(key, address.to_string()),
                    None => annotations.remove(&key),
                };
                Ok(Some(self.commit(object)))
            }
        }
    }

    fn fresh(&self, object: &Object) -> Result<(), Failure> {
        let Some(had) = self.objects.get(&Self::key(object)) else {
            return Err(failure(FailureKind::NotFound, "not found"));
        };
        let asked = &object.metadata().resource_version;
        if asked.is_some() && *asked != had.metadata().resource_version {
            return Err(failure(FailureKind::Conflict, "the object has been modified"));
        }
        Ok(())
    }

    /// A replace leaves the status as it is, for kinds that have it as a subresource.
    fn with_status_of_old(&self, object: &Object) -> Object {
        match self.objects.get(&Self::key(object)) {
            Some(had) => with_status(object.clone(), had),
            None => object.clone(),
        }
    }

    fn delete(&mut self, reference: &Reference, uid: Option<&str>) -> Result<Option<Object>, Failure> {
        let Some(had) = self.get(reference.kind, &reference.namespace, &reference.name) else {
            return Err(failure(FailureKind::NotFound, format!("{reference} not found")));
        };
        if uid.is_some() && had.metadata().uid.as_deref() != uid {
            return Err(failure(FailureKind::Conflict, "the UID in the precondition is another's"));
        }
        self.remove(reference.kind, &reference.namespace, &reference.name);
        Ok(None)
    }
}

fn with_status(mut object: Object, from: &Object) -> Object {
    match (&mut object, from) {
        (Object::Cluster(to), Object::Cluster(from)) => to.status.clone_from(&from.status),
        (Object::Gateway(to), Object::Gateway(from)) => to.status.clone_from(&from.status),
        (Object::ServiceExport(to), Object::ServiceExport(from)) => to.status.clone_from(&from.status),
        (Object::ServiceImport(to), Object::ServiceImport(from)) => to.status.clone_from(&from.status),
        (Object::Service(to), Object::Service(from)) => to.status.clone_from(&from.status),
        _ => {}
    }
    object
}
