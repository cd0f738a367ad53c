//! The index: one change at a time in, immutable snapshots out.
//!
//! A change costs the copy of the path to its Service in the trie and of that Service's list of slices, whatever else there is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use daisy_api::{NamespaceName, ServiceKey};

use crate::facts::{Fact, ObjectRef, Service, Slice};
use crate::name::ServiceRef;
use crate::trie::{Trie, hash_of};
use crate::zone::Settings;

/// Where facts come from: one watch each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// Services, local ones and those of imports.
    Services,
    /// EndpointSlices of headless Services of this cluster.
    LocalSlices,
    /// EndpointSlices of imports.
    ImportSlices,
    /// Namespaces.
    Namespaces,
}

/// A fact with the object that it came from.
#[derive(Debug, PartialEq, Eq)]
pub struct Held<T> {
    /// The object.
    pub object: ObjectRef,
    /// The fact.
    pub fact: T,
}

/// All that is known of one namespace and name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    /// The Service of this cluster.
    pub local: Option<Arc<Service>>,
    /// Its slices, where it is headless, by object.
    pub local_slices: Vec<Arc<Held<Slice>>>,
    /// The Services that stand for the import, by object: one, but while a watch is behind. The first counts.
    pub imports: Vec<Arc<Held<Service>>>,
    /// The import's slices, by object.
    pub import_slices: Vec<Arc<Held<Slice>>>,
}

impl Entry {
    fn is_vacant(&self) -> bool {
        *self == Self::default()
    }
}

/// What is known of a namespace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NamespaceEntry {
    /// Whether it exists in this cluster.
    pub exists: bool,
    /// How many Services this cluster has in it.
    pub locals: usize,
    /// How many imports there are for it.
    pub imports: usize,
}

/// The state at one moment. A clone costs a few reference counts.
#[derive(Debug, Clone)]
pub struct Snapshot {
    settings: Arc<Settings>,
    entries: Trie<ServiceKey, Arc<Entry>>,
    namespaces: Trie<NamespaceName, NamespaceEntry>,
    counts: Counts,
    synced: bool,
    serial: u32,
}

/// How much a snapshot holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Services of this cluster.
    pub locals: usize,
    /// Imports.
    pub imports: usize,
    /// EndpointSlices, of both.
    pub slices: usize,
}

impl Snapshot {
    /// An empty snapshot, not synced.
    #[must_use]
    pub fn empty(settings: Settings, serial: u32) -> Self {
        Self {
            settings: Arc::new(settings),
            entries: Trie::default(),
            namespaces: Trie::default(),
            counts: Counts::default(),
            synced: false,
            serial,
        }
    }

    /// What the server was told.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Whether everything was read once.
    #[must_use]
    pub fn synced(&self) -> bool {
        self.synced
    }

    /// The serial number of the zones: grows with each change (RFC 1982).
    #[must_use]
    pub fn serial(&self) -> u32 {
        self.serial
    }

    /// How much there is.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// What is known of a Service.
    #[must_use]
    pub fn entry(&self, service: ServiceRef<'_>) -> Option<&Entry> {
        let is = |key: &ServiceKey| key.namespace.as_str() == service.namespace && key.name.as_str() == service.name;
        self.entries.find(hash_of((service.namespace, service.name)), is).map(Arc::as_ref)
    }

    /// What is known of a namespace.
    #[must_use]
    pub fn namespace(&self, name: &str) -> NamespaceEntry {
        self.namespaces.find(hash_of(name), |key| key.as_str() == name).copied().unwrap_or_default()
    }

    /// All entries, sorted; for tests and for people.
    #[must_use]
    pub fn entries(&self) -> BTreeMap<&ServiceKey, &Entry> {
        self.entries.iter().map(|(key, entry)| (key, entry.as_ref())).collect()
    }

    /// All namespaces, sorted; for tests and for people.
    #[must_use]
    pub fn namespaces(&self) -> BTreeMap<&NamespaceName, NamespaceEntry> {
        self.namespaces.iter().map(|(name, entry)| (name, *entry)).collect()
    }
}

/// Takes changes, holds the newest snapshot.
#[derive(Debug)]
pub struct Index {
    snapshot: Snapshot,
    watched: BTreeMap<Source, Watched>,
}

/// One source's objects.
#[derive(Debug, Default)]
struct Watched {
    /// What each object that counts here contributed to.
    objects: BTreeMap<ObjectRef, Place>,
    /// While it is listed anew: the objects met so far.
    relisting: Option<BTreeSet<ObjectRef>>,
    listed: bool,
}

/// Where an object's fact was put.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Local(ServiceKey),
    Import(ServiceKey),
    LocalSlice(ServiceKey),
    ImportSlice(ServiceKey),
    Namespace(NamespaceName),
}

impl Index {
    /// An index fed by these sources, synced once each has been listed. The serial number starts where the caller says: a time
    /// will do, so that a restart does not run it backwards.
    #[must_use]
    pub fn new(settings: Settings, serial: u32, sources: impl IntoIterator<Item = Source>) -> Self {
        let watched = sources.into_iter().map(|source| (source, Watched::default())).collect();
        Self { snapshot: Snapshot::empty(settings, serial), watched }
    }

    /// The newest snapshot.
    #[must_use]
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// An object was made or changed; `None` where it has no meaning here.
    pub fn handle_apply(&mut self, source: Source, object: ObjectRef, fact: Option<Fact>) {
        let watched = self.watched.entry(source).or_default();
        if let Some(met) = &mut watched.relisting {
            met.insert(object.clone());
        }
        let place = fact.as_ref().map(Place::of);
        let before = match &place {
            Some(place) => watched.objects.insert(object.clone(), place.clone()),
            None => watched.objects.remove(&object),
        };
        if let Some(before) = before
            && place.as_ref() != Some(&before)
        {
            self.take(&before, &object);
        }
        if let Some(fact) = fact {
            self.put(object, fact);
        }
    }

    /// An object could not be read: what was known of it stays.
    pub fn handle_unreadable(&mut self, source: Source, object: &ObjectRef) {
        if let Some(met) = self.watched.entry(source).or_default().relisting.as_mut() {
            met.insert(object.clone());
        }
    }

    /// An object was deleted.
    pub fn handle_delete(&mut self, source: Source, object: &ObjectRef) {
        let watched = self.watched.entry(source).or_default();
        if let Some(met) = &mut watched.relisting {
            met.remove(object);
        }
        if let Some(place) = watched.objects.remove(object) {
            self.take(&place, object);
        }
    }

    /// A source begins to list all its objects; what is known stays until it is done.
    pub fn handle_list(&mut self, source: Source) {
        self.watched.entry(source).or_default().relisting = Some(BTreeSet::new());
    }

    /// A source has listed all its objects: what it did not list is gone.
    pub fn handle_listed(&mut self, source: Source) {
        let watched = self.watched.entry(source).or_default();
        watched.listed = true;
        let met = watched.relisting.take().unwrap_or_default();
        let gone: Vec<ObjectRef> = watched.objects.keys().filter(|object| !met.contains(object)).cloned().collect();
        for object in gone {
            self.handle_delete(source, &object);
        }
        if !self.snapshot.synced && self.watched.values().all(|watched| watched.listed) {
            self.snapshot.synced = true;
            self.snapshot.serial = self.snapshot.serial.wrapping_add(1);
        }
    }

    fn put(&mut self, object: ObjectRef, fact: Fact) {
        match fact {
            Fact::Local(key, service) => self.change(key, |entry| entry.local = Some(Arc::new(service))),
            Fact::Import(key, service) => self.change(key, |entry| put(&mut entry.imports, object, service)),
            Fact::LocalSlice(key, slice) => self.change(key, |entry| put(&mut entry.local_slices, object, slice)),
            Fact::ImportSlice(key, slice) => self.change(key, |entry| put(&mut entry.import_slices, object, slice)),
            Fact::Namespace(name) => self.change_namespace(name, |entry| entry.exists = true),
        }
    }

    fn take(&mut self, place: &Place, object: &ObjectRef) {
        match place.clone() {
            Place::Local(key) => self.change(key, |entry| entry.local = None),
            Place::Import(key) => self.change(key, |entry| take(&mut entry.imports, object)),
            Place::LocalSlice(key) => self.change(key, |entry| take(&mut entry.local_slices, object)),
            Place::ImportSlice(key) => self.change(key, |entry| take(&mut entry.import_slices, object)),
            Place::Namespace(name) => self.change_namespace(name, |entry| entry.exists = false),
        }
    }

    fn change(&mut self, key: ServiceKey, change: impl FnOnce(&mut Entry)) {
        let before = self.snapshot.entries.get(&key).map(|entry| Entry::clone(entry)).unwrap_or_default();
        let mut entry = before.clone();
        change(&mut entry);
        if entry == before {
            return;
        }
        let flags = |e: &Entry| (usize::from(e.local.is_some()), usize::from(!e.imports.is_empty()));
        let slices = |e: &Entry| e.local_slices.len() + e.import_slices.len();
        let (had, has) = (flags(&before), flags(&entry));
        let counts = &mut self.snapshot.counts;
        counts.locals = counts.locals + has.0 - had.0;
        counts.imports = counts.imports + has.1 - had.1;
        counts.slices = counts.slices + slices(&entry) - slices(&before);
        if had != has {
            self.change_namespace(key.namespace.clone(), |namespace| {
                namespace.locals = namespace.locals + has.0 - had.0;
                namespace.imports = namespace.imports + has.1 - had.1;
            });
        }
        if entry.is_vacant() {
            self.snapshot.entries.remove(&key);
        } else {
            self.snapshot.entries.insert(key, Arc::new(entry));
        }
        self.snapshot.serial = self.snapshot.serial.wrapping_add(1);
    }

    fn change_namespace(&mut self, name: NamespaceName, change: impl FnOnce(&mut NamespaceEntry)) {
        let before = self.snapshot.namespaces.get(&name).copied().unwrap_or_default();
        let mut entry = before;
        change(&mut entry);
        if entry == before {
            return;
        }
        if entry == NamespaceEntry::default() {
            self.snapshot.namespaces.remove(&name);
        } else {
            self.snapshot.namespaces.insert(name, entry);
        }
        self.snapshot.serial = self.snapshot.serial.wrapping_add(1);
    }
}

impl Place {
    fn of(fact: &Fact) -> Self {
        match fact {
            Fact::Local(key, _) => Self::Local(key.clone()),
            Fact::Import(key, _) => Self::Import(key.clone()),
            Fact::LocalSlice(key, _) => Self::LocalSlice(key.clone()),
            Fact::ImportSlice(key, _) => Self::ImportSlice(key.clone()),
            Fact::Namespace(name) => Self::Namespace(name.clone()),
        }
    }
}

fn put<T>(list: &mut Vec<Arc<Held<T>>>, object: ObjectRef, fact: T) {
    match list.binary_search_by(|at| at.object.cmp(&object)) {
        Ok(at) => list[at] = Arc::new(Held { object, fact }),
        Err(at) => list.insert(at, Arc::new(Held { object, fact })),
    }
}

fn take<T>(list: &mut Vec<Arc<Held<T>>>, object: &ObjectRef) {
    if let Ok(at) = list.binary_search_by(|at| at.object.cmp(object)) {
        list.remove(at);
    }
}
