//! A persistent map: a copy costs one reference count, and a change copies only the path to what changed.
//!
//! Keys are spread by a hash that is the same in every run, and looked up by hash and predicate, so that a borrowed form of the
//! key (two `&str` out of a packet) needs no allocation.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

const WIDTH: usize = 16;
const BITS: u32 = 4;
/// Levels after which all bits of the hash are spent.
const LEVELS: u32 = u64::BITS / BITS;
/// A leaf with more entries than this is split, while there are bits left to tell them apart.
const LEAF_MAX: usize = 8;

/// A map from `K` to `V` whose clones share structure.
#[derive(Debug, Clone)]
pub struct Trie<K, V> {
    root: Option<Arc<Node<K, V>>>,
    len: usize,
}

#[derive(Debug, Clone)]
enum Node<K, V> {
    Leaf(Vec<Entry<K, V>>),
    Branch([Option<Arc<Node<K, V>>>; WIDTH]),
}

#[derive(Debug, Clone)]
struct Entry<K, V> {
    hash: u64,
    key: K,
    value: V,
}

/// The hash by which a key is kept.
pub fn hash_of(key: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

impl<K, V> Default for Trie<K, V> {
    fn default() -> Self {
        Self { root: None, len: 0 }
    }
}

impl<K, V> Trie<K, V> {
    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The value of the key that has this hash and that `is` recognises.
    pub fn find(&self, hash: u64, is: impl Fn(&K) -> bool) -> Option<&V> {
        let mut node = self.root.as_deref()?;
        let mut level = 0;
        loop {
            match node {
                Node::Leaf(entries) => return entries.iter().find(|e| e.hash == hash && is(&e.key)).map(|e| &e.value),
                Node::Branch(children) => node = children[slot(hash, level)].as_deref()?,
            }
            level += 1;
        }
    }

    /// All entries, in an order that depends on the keys' hashes and the map's history.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        let mut stack: Vec<&Node<K, V>> = self.root.as_deref().into_iter().collect();
        let mut leaf: std::slice::Iter<'_, Entry<K, V>> = [].iter();
        std::iter::from_fn(move || {
            loop {
                if let Some(entry) = leaf.next() {
                    return Some((&entry.key, &entry.value));
                }
                match stack.pop()? {
                    Node::Leaf(entries) => leaf = entries.iter(),
                    Node::Branch(children) => stack.extend(children.iter().rev().filter_map(Option::as_deref)),
                }
            }
        })
    }
}

impl<K: Hash + Eq + Clone, V: Clone> Trie<K, V> {
    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &K) -> Option<&V> {
        self.find(hash_of(key), |k| k == key)
    }

    /// Sets the value of a key, and returns what it was.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let entry = Entry { hash: hash_of(&key), key, value };
        let before = match &mut self.root {
            None => {
                self.root = Some(Arc::new(Node::Leaf(vec![entry])));
                None
            }
            Some(root) => Arc::make_mut(root).insert(entry, 0),
        };
        self.len += usize::from(before.is_none());
        before
    }

    /// Removes a key, and returns what its value was.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let hash = hash_of(key);
        // A key that is not there must not copy the path to it.
        self.find(hash, |k| k == key)?;
        let root = self.root.as_mut()?;
        let removed = Arc::make_mut(root).remove(hash, key, 0);
        if root.is_vacant() {
            self.root = None;
        }
        self.len -= usize::from(removed.is_some());
        removed
    }
}

impl<K, V> Node<K, V> {
    fn is_vacant(&self) -> bool {
        match self {
            Self::Leaf(entries) => entries.is_empty(),
            Self::Branch(children) => children.iter().all(Option::is_none),
        }
    }
}

impl<K: Eq + Clone, V: Clone> Node<K, V> {
    fn insert(&mut self, entry: Entry<K, V>, level: u32) -> Option<V> {
        match self {
            Self::Branch(children) => match &mut children[slot(entry.hash, level)] {
                Some(child) => Arc::make_mut(child).insert(entry, level + 1),
                vacant => {
                    *vacant = Some(Arc::new(Self::Leaf(vec![entry])));
                    None
                }
            },
            Self::Leaf(entries) => {
                if let Some(same) = entries.iter_mut().find(|e| e.hash == entry.hash && e.key == entry.key) {
                    return Some(std::mem::replace(&mut same.value, entry.value));
                }
                entries.push(entry);
                if entries.len() > LEAF_MAX && level < LEVELS {
                    let entries = std::mem::take(entries);
                    let mut branch = Self::Branch(std::array::from_fn(|_| None));
                    for entry in entries {
                        branch.insert(entry, level);
                    }
                    *self = branch;
                }
                None
            }
        }
    }

    fn remove(&mut self, hash: u64, key: &K, level: u32) -> Option<V> {
        match self {
            Self::Leaf(entries) => {
                let at = entries.iter().position(|e| e.hash == hash && e.key == *key)?;
                Some(entries.swap_remove(at).value)
            }
            Self::Branch(children) => {
                let place = &mut children[slot(hash, level)];
                let child = place.as_mut()?;
                let removed = Arc::make_mut(child).remove(hash, key, level + 1);
                if child.is_vacant() {
                    *place = None;
                }
                removed
            }
        }
    }
}

fn slot(hash: u64, level: u32) -> usize {
    // Four bits fit in any usize.
    usize::try_from((hash >> (level * BITS)) & 0xf).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// A key whose hashes collide in all but a few bits.
    #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
    struct Colliding(u16);

    impl Hash for Colliding {
        fn hash<H: Hasher>(&self, state: &mut H) {
            (self.0 % 3).hash(state);
        }
    }

    fn contents<K: Ord + Clone, V: Clone>(trie: &Trie<K, V>) -> BTreeMap<K, V> {
        trie.iter().map(|(k, v)| (k.clone(), v.clone())).collect()
    }

    fn behaves_like_a_map<K: Hash + Ord + Clone + std::fmt::Debug>(
        steps: Vec<(u16, Option<u8>)>,
        key: impl Fn(u16) -> K,
    ) -> Result<(), TestCaseError> {
        let (mut trie, mut model) = (Trie::default(), BTreeMap::new());
        for (k, v) in steps {
            let (old, before) = (trie.clone(), model.clone());
            match v {
                Some(v) => prop_assert_eq!(trie.insert(key(k), v), model.insert(key(k), v)),
                None => prop_assert_eq!(trie.remove(&key(k)), model.remove(&key(k))),
            }
            prop_assert_eq!(trie.len(), model.len());
            prop_assert_eq!(trie.get(&key(k)), model.get(&key(k)));
            prop_assert_eq!(contents(&old), before, "a clone changed with its original");
        }
        prop_assert_eq!(contents(&trie), model);
        Ok(())
    }

    proptest! {
        #[test]
        fn is_a_map(steps in prop::collection::vec((0u16..400, prop::option::of(any::<u8>())), 0..400)) {
            behaves_like_a_map(steps, |k| k)?;
        }

        #[test]
        fn is_a_map_where_hashes_collide(steps in prop::collection::vec((0u16..60, prop::option::of(any::<u8>())), 0..200)) {
            behaves_like_a_map(steps, Colliding)?;
        }
    }

    #[test]
    fn a_change_shares_what_it_did_not_touch() {
        let mut trie = Trie::default();
        for k in 0..10_000u32 {
            trie.insert(k, ());
        }
        let before = trie.clone();
        trie.insert(10_001, ());
        let (Some(Node::Branch(new)), Some(Node::Branch(old))) = (trie.root.as_deref(), before.root.as_deref()) else {
            panic!("10,000 keys make a branch")
        };
        let shared = new.iter().zip(old).filter(|(n, o)| matches!((n, o), (Some(n), Some(o)) if Arc::ptr_eq(n, o))).count();
        assert_eq!(shared, WIDTH - 1);
    }
}
