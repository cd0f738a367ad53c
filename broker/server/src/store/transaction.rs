//! A batch of writes before it is durable.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::event::{Event, EventKind};
use super::state::{Place, State};
use crate::catalog::Catalog;
use crate::crd;
use crate::definition::ResourceKey;
use crate::object::{self, Stored};
use crate::refusal::Refusal;

/// Where a transaction stood, to go back to.
pub(crate) struct Mark {
    events: usize,
    version: u64,
    catalog: Arc<Catalog>,
}

/// The writes of a batch over what is durable. Only the writer has one, one at a time: every write sees all writes before it.
pub(crate) struct Transaction<'a> {
    state: &'a State,
    /// What differs from `state`.
    changed: HashMap<ResourceKey, BTreeMap<Place, Option<Arc<Stored>>>>,
    counts: HashMap<(ResourceKey, String), isize>,
    pub(super) events: Vec<Event>,
    pub(super) version: u64,
    catalog: Arc<Catalog>,
    now: Timestamp,
}

impl<'a> Transaction<'a> {
    pub(super) fn new(state: &'a State, now: Timestamp) -> Self {
        Self {
            state,
            changed: HashMap::new(),
            counts: HashMap::new(),
            events: Vec::new(),
            version: state.version,
            catalog: state.catalog.clone(),
            now,
        }
    }

    pub(crate) fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    /// The rights as they were before this batch.
    pub(crate) fn state(&self) -> &State {
        self.state
    }

    /// When the batch began.
    pub(crate) fn now(&self) -> Timestamp {
        self.now
    }

    pub(crate) fn get(&self, resource: &ResourceKey, namespace: &str, name: &str) -> Option<Arc<Stored>> {
        let place = (namespace.to_owned(), name.to_owned());
        match self.changed.get(resource).and_then(|changed| changed.get(&place)) {
            Some(object) => object.clone(),
            None => self.state.get(resource, namespace, name).cloned(),
        }
    }

    pub(crate) fn list(&self, resource: &ResourceKey, namespace: Option<&str>) -> Vec<(Place, Arc<Stored>)> {
        let mut all: BTreeMap<Place, Arc<Stored>> = self
            .state
            .collection(resource)
            .into_iter()
            .flat_map(|collection| collection.iter(namespace))
            .map(|(place, object)| (place.clone(), object.clone()))
            .collect();
        for (place, object) in self.changed.get(resource).into_iter().flatten() {
            if namespace.is_some_and(|namespace| namespace != place.0) {
                continue;
            }
            match object {
                Some(object) => all.insert(place.clone(), object.clone()),
                None => all.remove(place),
            };
        }
        all.into_iter().collect()
    }

    pub(crate) fn count(&self, resource: &ResourceKey, namespace: &str) -> usize {
        let durable = self.state.collection(resource).map_or(0, |collection| collection.count(namespace));
        let more = self.counts.get(&(resource.clone(), namespace.to_owned())).copied().unwrap_or(0);
        durable.saturating_add_signed(more)
    }

    /// Every resource that has, or had, an object.
    pub(crate) fn resources(&self) -> Vec<ResourceKey> {
        let mut all: Vec<_> = self.state.resources().chain(self.changed.keys()).cloned().collect();
        all.sort();
        all.dedup();
        all
    }

    /// Writes an object, whole; sets its resourceVersion.
    pub(crate) fn put(&mut self, resource: &ResourceKey, place: Place, mut object: Value) -> Arc<Stored> {
        self.version += 1;
        object::set_metadata(&mut object, "resourceVersion", Some(json!(self.version.to_string())));
        let stored = Arc::new(Stored::new(&object));
        let before = self.get(resource, &place.0, &place.1);
        let kind = if before.is_some() { EventKind::Modified } else { EventKind::Added };
        self.set(resource, &place, Some(stored.clone()));
        self.events.push(Event {
            kind,
            resource: resource.clone(),
            namespace: place.0,
            name: place.1,
            version: self.version,
            object: stored.clone(),
            before,
        });
        stored
    }

    /// Removes an object; gives its last state.
    pub(crate) fn remove(&mut self, resource: &ResourceKey, place: Place) -> Option<Arc<Stored>> {
        let before = self.get(resource, &place.0, &place.1)?;
        self.version += 1;
        let mut last = before.value();
        object::set_metadata(&mut last, "resourceVersion", Some(json!(self.version.to_string())));
        let last = Arc::new(Stored::new(&last));
        self.set(resource, &place, None);
        self.events.push(Event {
            kind: EventKind::Deleted,
            resource: resource.clone(),
            namespace: place.0,
            name: place.1,
            version: self.version,
            object: last.clone(),
            before: Some(before),
        });
        Some(last)
    }

    /// Serves what a stored CustomResourceDefinition defines, from the next write of this batch on.
    pub(crate) fn define(&mut self, crd: &Value) -> Result<(), Refusal> {
        let name = object::text(crd, "name");
        let served = crd::compile(crd, &self.catalog)
            .map_err(|causes| Refusal::invalid(crd::GROUP, "CustomResourceDefinition", name, causes))?;
        self.catalog = Arc::new(self.catalog.with(name, served));
        Ok(())
    }

    /// No longer serves it.
    pub(crate) fn undefine(&mut self, name: &str) {
        self.catalog = Arc::new(self.catalog.without(name));
    }

    pub(crate) fn mark(&self) -> Mark {
        Mark { events: self.events.len(), version: self.version, catalog: self.catalog.clone() }
    }

    /// Undoes everything since `mark`.
    pub(crate) fn roll_back(&mut self, mark: Mark) {
        while self.events.len() > mark.events {
            if let Some(event) = self.events.pop() {
                self.set(&event.resource, &(event.namespace, event.name), event.before);
            }
        }
        self.version = mark.version;
        self.catalog = mark.catalog;
    }

    fn set(&mut self, resource: &ResourceKey, place: &Place, object: Option<Arc<Stored>>) {
        let there = isize::from(self.get(resource, &place.0, &place.1).is_some());
        let more = isize::from(object.is_some()) - there;
        if more != 0 {
            *self.counts.entry((resource.clone(), place.0.clone())).or_default() += more;
        }
        self.changed.entry(resource.clone()).or_default().insert(place.clone(), object);
    }

    pub(super) fn finish(self) -> (Vec<Event>, u64, Arc<Catalog>) {
        (self.events, self.version, self.catalog)
    }
}
