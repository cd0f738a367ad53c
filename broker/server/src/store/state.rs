//! Everything that is durable, in memory: objects, their recent history, the catalog and the rights.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use tokio::sync::watch;

use super::event::Event;
use crate::catalog::Catalog;
use crate::definition::ResourceKey;
use crate::object::Stored;
use crate::rbac::RbacIndex;

/// Namespace (empty for none) and name.
pub(crate) type Place = (String, String);

/// How much history each resource keeps, for watches and for lists over several pages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) events: usize,
    pub(crate) bytes: usize,
}

/// The objects of one resource.
#[derive(Debug)]
pub(crate) struct Collection {
    objects: BTreeMap<Place, Arc<Stored>>,
    counts: HashMap<String, usize>,
    history: VecDeque<Arc<Event>>,
    history_bytes: usize,
    /// The history is complete after this resourceVersion.
    since: u64,
    /// Tells watches that there is more.
    changed: watch::Sender<u64>,
}

impl Collection {
    fn new(since: u64) -> Self {
        Self {
            objects: BTreeMap::new(),
            counts: HashMap::new(),
            history: VecDeque::new(),
            history_bytes: 0,
            since,
            changed: watch::Sender::new(since),
        }
    }

    pub(crate) fn get(&self, namespace: &str, name: &str) -> Option<&Arc<Stored>> {
        self.objects.get(&(namespace.to_owned(), name.to_owned()))
    }

    pub(crate) fn count(&self, namespace: &str) -> usize {
        self.counts.get(namespace).copied().unwrap_or(0)
    }

    /// All objects of a namespace, or of all.
    pub(crate) fn iter<'a>(&'a self, namespace: Option<&'a str>) -> impl Iterator<Item = (&'a Place, &'a Arc<Stored>)> {
        self.objects
            .range((start(namespace, None), Bound::Unbounded))
            .take_while(move |((at, _), _)| namespace.is_none_or(|namespace| at == namespace))
    }

    /// The objects after `after`, in order, as they were at `version`: what has happened since is undone. `None` when that is
    /// longer ago than the history goes.
    pub(crate) fn page(&self, namespace: Option<&str>, after: Option<&Place>, version: u64) -> Option<Page<'_>> {
        if version < self.since {
            return None;
        }
        let mut undone: BTreeMap<Place, Option<Arc<Stored>>> = BTreeMap::new();
        for event in self.history.iter().rev().take_while(|event| event.version > version) {
            if namespace.is_none_or(|namespace| namespace == event.namespace) {
                undone.insert((event.namespace.clone(), event.name.clone()), event.before.clone());
            }
        }
        if let Some(after) = after {
            undone = undone.split_off(after);
            undone.remove(after);
        }
        let wanted = namespace.map(str::to_owned);
        let now: Objects<'_> = Box::new(
            self.objects
                .range((self::start(namespace, after), Bound::Unbounded))
                .take_while(move |((at, _), _)| wanted.as_ref().is_none_or(|wanted| at == wanted)),
        );
        Some(Page { now: now.peekable(), then: undone.into_iter().peekable() })
    }

    /// Changes after `version`, at most `most`; `None` when the history does not go back that far.
    pub(crate) fn changes(&self, version: u64, most: usize) -> Option<Vec<Arc<Event>>> {
        if version < self.since {
            return None;
        }
        let start = self.history.partition_point(|event| event.version <= version);
        Some(self.history.range(start..).take(most).cloned().collect())
    }

    /// Wakes up at each change.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn set(&mut self, place: Place, object: Option<Arc<Stored>>) {
        match object {
            Some(object) => {
                if self.objects.insert(place.clone(), object).is_none() {
                    *self.counts.entry(place.0).or_default() += 1;
                }
            }
            None => {
                if self.objects.remove(&place).is_some()
                    && let Some(count) = self.counts.get_mut(&place.0)
                {
                    *count -= 1;
                    if *count == 0 {
                        self.counts.remove(&place.0);
                    }
                }
            }
        }
    }

    fn apply(&mut self, event: &Arc<Event>, window: Window) {
        self.set((event.namespace.clone(), event.name.clone()), event.after().cloned());
        self.history_bytes += event.object.weight();
        self.history.push_back(event.clone());
        while self.history.len() > window.events || self.history_bytes > window.bytes && self.history.len() > 1 {
            let Some(oldest) = self.history.pop_front() else { break };
            self.history_bytes = self.history_bytes.saturating_sub(oldest.object.weight());
            self.since = oldest.version;
        }
    }
}

fn start(namespace: Option<&str>, after: Option<&Place>) -> Bound<Place> {
    match (after, namespace) {
        (Some(place), None) => Bound::Excluded(place.clone()),
        (Some(place), Some(namespace)) if place.0.as_str() >= namespace => Bound::Excluded(place.clone()),
        (Some(_) | None, Some(namespace)) => Bound::Included((namespace.to_owned(), String::new())),
        (None, None) => Bound::Unbounded,
    }
}

type Objects<'a> = Box<dyn Iterator<Item = (&'a Place, &'a Arc<Stored>)> + 'a>;

/// A collection's objects at a moment, in order.
pub(crate) struct Page<'a> {
    now: std::iter::Peekable<Objects<'a>>,
    then: std::iter::Peekable<std::collections::btree_map::IntoIter<Place, Option<Arc<Stored>>>>,
}

impl Iterator for Page<'_> {
    type Item = (Place, Arc<Stored>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let undone_first = match (self.now.peek(), self.then.peek()) {
                (None, None) => return None,
                (Some(_), None) => false,
                (None, Some(_)) => true,
                (Some((now, _)), Some((then, _))) => {
                    if *now == then {
                        self.now.next();
                        true
                    } else {
                        then < *now
                    }
                }
            };
            if !undone_first {
                return self.now.next().map(|(place, object)| (place.clone(), object.clone()));
            }
            if let Some((place, Some(object))) = self.then.next() {
                return Some((place, object));
            }
        }
    }
}

/// What readers see.
#[derive(Debug)]
pub(crate) struct State {
    /// The resourceVersion of the last change.
    pub(crate) version: u64,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) rbac: RbacIndex,
    collections: HashMap<ResourceKey, Collection>,
    window: Window,
}

impl State {
    pub(crate) fn new(version: u64, catalog: Arc<Catalog>, window: Window) -> Self {
        Self { version, catalog, rbac: RbacIndex::default(), collections: HashMap::new(), window }
    }

    /// Takes in an object as it was read at start.
    pub(crate) fn load(&mut self, resource: &ResourceKey, place: Place, object: Arc<Stored>) {
        self.rbac.set(resource, &place.0, &place.1, Some(&object));
        self.collection_mut(resource).set(place, Some(object));
    }

    /// Says when a resource last changed, as it was read at start.
    pub(crate) fn load_version(&mut self, resource: &ResourceKey, version: u64) {
        self.collection_mut(resource).since = version;
    }

    fn collection_mut(&mut self, resource: &ResourceKey) -> &mut Collection {
        self.collections.entry(resource.clone()).or_insert_with(|| Collection::new(0))
    }

    pub(crate) fn collection(&self, resource: &ResourceKey) -> Option<&Collection> {
        self.collections.get(resource)
    }

    pub(crate) fn resources(&self) -> impl Iterator<Item = &ResourceKey> {
        self.collections.keys()
    }

    /// Makes sure that a resource has a collection to wait on, even without any object.
    pub(crate) fn ensure(&mut self, resource: &ResourceKey) {
        self.collection_mut(resource);
    }

    pub(crate) fn get(&self, resource: &ResourceKey, namespace: &str, name: &str) -> Option<&Arc<Stored>> {
        self.collections.get(resource)?.get(namespace, name)
    }

    /// Takes in a committed batch.
    pub(crate) fn publish(&mut self, events: &[Arc<Event>], version: u64, catalog: Arc<Catalog>) {
        self.version = version;
        self.catalog = catalog;
        let window = self.window;
        for event in events {
            self.rbac.set(&event.resource, &event.namespace, &event.name, event.after());
            self.collection_mut(&event.resource).apply(event, window);
        }
        for event in events {
            if let Some(collection) = self.collections.get(&event.resource) {
                collection.changed.send_replace(version);
            }
        }
    }
}
