//! What watches have shown, with the list in which each object was last named.

use std::collections::{BTreeMap, BTreeSet};

use daisy_api::ServiceKey;

/// Namespace and name.
pub(super) type Name = (String, String);

/// Objects by one key each.
#[derive(Clone, Debug)]
pub(super) struct Listed<K, V>(BTreeMap<K, (u64, V)>);

impl<K: Ord + Clone, V> Default for Listed<K, V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord + Clone, V> Listed<K, V> {
    /// Puts an object in; gives back what was there.
    pub(super) fn put(&mut self, key: K, value: V, epoch: u64) -> Option<V> {
        self.0.insert(key, (epoch, value)).map(|(_, value)| value)
    }

    pub(super) fn touch(&mut self, key: &K, epoch: u64) {
        if let Some(entry) = self.0.get_mut(key) {
            entry.0 = epoch;
        }
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        self.0.remove(key).map(|(_, value)| value)
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.0.get(key).map(|(_, value)| value)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.0.iter().map(|(key, (_, value))| (key, value))
    }

    pub(super) fn from(&self, key: &K) -> impl Iterator<Item = (&K, &V)> {
        self.0.range(key.clone()..).map(|(key, (_, value))| (key, value))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A list is complete: what it did not name goes.
    pub(super) fn sweep(&mut self, epoch: u64) -> Vec<(K, V)> {
        let absent: Vec<K> = self.0.iter().filter(|(_, (seen, _))| *seen != epoch).map(|(key, _)| key.clone()).collect();
        absent.into_iter().filter_map(|key| self.remove(&key).map(|value| (key, value))).collect()
    }
}

/// Objects by namespace and name, each of which stands for a [`ServiceKey`].
#[derive(Clone, Debug)]
pub(super) struct Keyed<V> {
    objects: Listed<Name, (ServiceKey, V)>,
    index: BTreeMap<ServiceKey, BTreeSet<Name>>,
}

impl<V> Default for Keyed<V> {
    fn default() -> Self {
        Self { objects: Listed::default(), index: BTreeMap::new() }
    }
}

impl<V> Keyed<V> {
    fn unindex(&mut self, key: &ServiceKey, name: &Name) {
        if let Some(names) = self.index.get_mut(key) {
            names.remove(name);
            if names.is_empty() {
                self.index.remove(key);
            }
        }
    }

    /// Puts an object in; gives back what was there, with the key it stood for.
    pub(super) fn put(&mut self, name: Name, key: ServiceKey, value: V, epoch: u64) -> Option<(ServiceKey, V)> {
        let old = self.objects.put(name.clone(), (key.clone(), value), epoch);
        if let Some((was, _)) = &old
            && *was != key
        {
            self.unindex(was, &name);
        }
        self.index.entry(key).or_default().insert(name);
        old
    }

    pub(super) fn touch(&mut self, name: &Name, epoch: u64) {
        self.objects.touch(name, epoch);
    }

    pub(super) fn remove(&mut self, name: &Name) -> Option<(ServiceKey, V)> {
        let old = self.objects.remove(name)?;
        self.unindex(&old.0, name);
        Some(old)
    }

    pub(super) fn get(&self, name: &Name) -> Option<&V> {
        self.objects.get(name).map(|(_, value)| value)
    }

    /// What stands for the key, by namespace and name.
    pub(super) fn of(&self, key: &ServiceKey) -> impl Iterator<Item = (&Name, &V)> {
        let names = self.index.get(key).into_iter().flatten();
        names.filter_map(|name| self.objects.get(name).map(|(_, value)| (name, value)))
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &ServiceKey> {
        self.index.keys()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    pub(super) fn sweep(&mut self, epoch: u64) -> Vec<ServiceKey> {
        let gone = self.objects.sweep(epoch);
        for (name, (key, _)) in &gone {
            self.unindex(key, name);
        }
        gone.into_iter().map(|(_, (key, _))| key).collect()
    }
}
