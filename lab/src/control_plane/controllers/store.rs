//! What is known of one kind's objects: what was watched, and what our own writes answered, whichever is newer.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

use kube::Resource;

use crate::control_plane::watch::Change;

/// An object of a kind: its namespace (empty for a cluster's own kinds) and its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ObjectKey {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl ObjectKey {
    /// The key of an object.
    pub(crate) fn of(object: &impl Resource) -> Self {
        let meta = object.meta();
        Self { namespace: meta.namespace.clone().unwrap_or_default(), name: meta.name.clone().unwrap_or_default() }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}

/// One object before and after.
pub(crate) type Step<K> = (Option<Arc<K>>, Option<Arc<K>>);

/// The objects of a kind.
pub(crate) struct Store<K> {
    objects: BTreeMap<ObjectKey, Arc<K>>,
    /// Deleted by us, and the watch has not said so yet: an older event must not bring them back.
    gone: HashSet<String>,
}

impl<K> Default for Store<K> {
    fn default() -> Self {
        Self { objects: BTreeMap::new(), gone: HashSet::new() }
    }
}

impl<K: Resource> Store<K> {
    /// Takes the change in and says what it came to.
    pub(crate) fn absorb(&mut self, change: Change<K>) -> Vec<Step<K>> {
        match change {
            Change::Set(object) => self.set(object).into_iter().collect(),
            Change::Gone(object) => {
                self.gone.remove(object.meta().uid.as_deref().unwrap_or_default());
                self.remove(&object).into_iter().collect()
            }
            Change::Deleted(object) => {
                let step = self.remove(&object);
                if step.is_some() {
                    self.gone.insert(object.meta().uid.clone().unwrap_or_default());
                }
                step.into_iter().collect()
            }
            Change::List(objects) => {
                self.gone.clear();
                let present: HashSet<ObjectKey> = objects.iter().map(ObjectKey::of).collect();
                let absent: Vec<ObjectKey> = self.objects.keys().filter(|k| !present.contains(*k)).cloned().collect();
                let mut steps: Vec<Step<K>> =
                    absent.iter().filter_map(|k| self.objects.remove(k)).map(|old| (Some(old), None)).collect();
                steps.extend(objects.into_iter().filter_map(|o| self.set(o)));
                steps
            }
        }
    }

    fn set(&mut self, object: K) -> Option<Step<K>> {
        if object.meta().uid.as_ref().is_some_and(|uid| self.gone.contains(uid)) {
            return None;
        }
        let key = ObjectKey::of(&object);
        let old = self.objects.get(&key).cloned();
        // Versions of the lab's API server are numbers that only grow.
        if old.as_ref().is_some_and(|old| version(old.as_ref()) >= version(&object) && version(&object).is_some()) {
            return None;
        }
        let new = Arc::new(object);
        self.objects.insert(key, Arc::clone(&new));
        Some((old, Some(new)))
    }

    fn remove(&mut self, object: &K) -> Option<Step<K>> {
        let key = ObjectKey::of(object);
        let same = self.objects.get(&key).is_some_and(|had| had.meta().uid == object.meta().uid);
        same.then(|| self.objects.remove(&key)).flatten().map(|old| (Some(old), None))
    }

    /// One object.
    pub(crate) fn get(&self, key: &ObjectKey) -> Option<&Arc<K>> {
        self.objects.get(key)
    }

    /// All, by namespace and name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&ObjectKey, &Arc<K>)> {
        self.objects.iter()
    }

    /// Those of a namespace, by name.
    pub(crate) fn in_namespace(&self, namespace: &str) -> impl Iterator<Item = (&ObjectKey, &Arc<K>)> {
        let first = ObjectKey { namespace: namespace.to_owned(), name: String::new() };
        let owned = namespace.to_owned();
        self.objects.range((Bound::Included(first), Bound::Unbounded)).take_while(move |(k, _)| k.namespace == owned)
    }
}

fn version(object: &impl Resource) -> Option<u64> {
    object.meta().resource_version.as_ref().and_then(|v| v.parse().ok())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;

    use super::*;

    fn object(name: &str, uid: &str, version: u64) -> ConfigMap {
        let metadata = json!({ "name": name, "namespace": "n", "uid": uid, "resourceVersion": version.to_string() });
        serde_json::from_value(json!({ "metadata": metadata })).expect("a ConfigMap")
    }

    #[test]
    fn what_is_older_changes_nothing() {
        let mut store = Store::default();
        assert_eq!(store.absorb(Change::Set(object("a", "1", 5))).len(), 1);
        assert!(store.absorb(Change::Set(object("a", "1", 4))).is_empty());
        assert!(store.absorb(Change::Set(object("a", "1", 5))).is_empty());
        assert_eq!(store.absorb(Change::Set(object("a", "1", 6))).len(), 1);
    }

    #[test]
    fn what_we_deleted_does_not_come_back() {
        let mut store = Store::default();
        store.absorb(Change::Set(object("a", "1", 5)));
        assert_eq!(store.absorb(Change::Deleted(object("a", "1", 5))).len(), 1);
        assert!(store.absorb(Change::Set(object("a", "1", 7))).is_empty(), "an event from before our deletion");
        assert!(store.absorb(Change::Gone(object("a", "1", 8))).is_empty());
        assert_eq!(store.absorb(Change::Set(object("a", "2", 9))).len(), 1, "another of the same name");
        assert!(store.absorb(Change::Gone(object("a", "1", 5))).is_empty(), "the first one's end does not end the second");
        assert_eq!(store.iter().count(), 1);
        assert_eq!(store.absorb(Change::Gone(object("a", "2", 9))).len(), 1);
        assert!(store.absorb(Change::Deleted(object("a", "2", 9))).is_empty() && store.gone.is_empty());
    }

    #[test]
    fn a_list_ends_what_it_does_not_name() {
        let mut store = Store::default();
        store.absorb(Change::Set(object("a", "1", 5)));
        store.absorb(Change::Set(object("b", "2", 6)));
        let steps = store.absorb(Change::List(vec![object("b", "2", 6), object("c", "3", 7)]));
        assert_eq!(steps.len(), 2);
        assert_eq!(store.in_namespace("n").map(|(k, _)| k.name.as_str()).collect::<Vec<_>>(), ["b", "c"]);
        assert_eq!(store.in_namespace("m").count(), 0);
    }
}
