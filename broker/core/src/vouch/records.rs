//! The records of one kind of one cluster: which of them stand.

use std::collections::BTreeMap;

use daisy_api::{ClusterSpec, ExportEndpointsSpec, ExportSpec, ServiceKey};

use super::Vouched;
use crate::object::Kind;

/// A record's contents: all have an envelope.
pub trait Contents: Clone {
    /// The sequence in it.
    fn sequence(&self) -> u64;
}

macro_rules! contents {
    ($($kind:ty),*) => { $(impl Contents for $kind {
        fn sequence(&self) -> u64 {
            self.envelope.sequence
        }
    })* };
}
contents!(ClusterSpec, ExportSpec, ExportEndpointsSpec);

/// How many withdrawn records of a kind are remembered until the next heartbeat; beyond that none is, until it comes.
const WITHDRAWN_MAX: usize = 4096;

/// A record that stands.
#[derive(Clone, Debug)]
pub struct Standing<T> {
    /// What it said at the greatest sequence seen.
    pub spec: T,
    /// What the broker shows now, where that is older than what stands (a broker restored from an old copy).
    older: Option<Box<T>>,
    /// Whether the broker shows it now, in whatever state.
    listed: bool,
    /// The list in which it was last seen.
    epoch: u64,
    /// Made from what a former run left in this cluster, not from a record.
    adopted: bool,
    /// Another cluster under the same name may write it: whatever comes next is taken.
    forgotten: bool,
    /// It stands no longer. It is remembered so that an old copy of the broker does not bring it back.
    withdrawn: bool,
}

impl<T: Contents> Standing<T> {
    fn seen(spec: T, epoch: u64) -> Self {
        Self { spec, older: None, listed: true, epoch, adopted: false, forgotten: false, withdrawn: false }
    }

    /// A record that the broker shows although its cluster has vouched, later, for a list without it.
    pub(super) fn outlived(spec: T, epoch: u64) -> Self {
        Self { older: Some(Box::new(spec.clone())), withdrawn: true, ..Self::seen(spec, epoch) }
    }

    /// A record that a former run of this syncer had taken: it stands until it is known better.
    pub fn adopted(spec: T) -> Self {
        Self { listed: false, adopted: true, ..Self::seen(spec, 0) }
    }

    /// Whether the broker shows it.
    pub fn listed(&self) -> bool {
        self.listed
    }

    /// Whether it comes from a former run, and the broker has not shown it since.
    pub fn is_adopted(&self) -> bool {
        self.adopted
    }

    fn shown_sequence(&self) -> u64 {
        self.older.as_deref().unwrap_or(&self.spec).sequence()
    }

    /// Takes a newer sight of it. Returns whether what stands changed.
    fn see(&mut self, spec: T, epoch: u64) -> bool {
        (self.listed, self.epoch) = (true, epoch);
        let forgotten = std::mem::take(&mut self.forgotten);
        let (new, had) = (spec.sequence(), self.spec.sequence());
        if !forgotten && (new < had || (self.withdrawn && new == had)) {
            self.older = Some(Box::new(spec));
            return false;
        }
        (self.spec, self.older, self.adopted, self.withdrawn) = (spec, None, false, false);
        true
    }

    /// Whether a heartbeat of this sequence was written after it. Of what a former run left without a sequence, it is only known that
    /// it is older than this process.
    fn is_before(&self, (sequence, advanced): (u64, bool)) -> bool {
        match self.spec.sequence() {
            0 => advanced,
            known => known < sequence,
        }
    }

    /// Forgets the greater sequence; `None` where the broker shows nothing.
    fn reset(self) -> Option<Self> {
        let listed = self.listed;
        let spec = self.older.map_or(self.spec, |older| *older);
        listed.then_some(Self { spec, older: None, forgotten: true, withdrawn: false, ..self })
    }
}

/// Records of one kind of one cluster, by name.
#[derive(Clone, Debug)]
pub struct Records<T> {
    by_name: BTreeMap<String, Standing<T>>,
    /// How many are withdrawn.
    withdrawn: usize,
}

impl<T> Default for Records<T> {
    fn default() -> Self {
        Self { by_name: BTreeMap::new(), withdrawn: 0 }
    }
}

impl<T: Contents> Records<T> {
    /// Takes a sight of a record. One that is new, and not of a greater sequence than `floor`, was withdrawn before. Returns whether what
    /// stands changed.
    pub fn see(&mut self, name: &str, spec: T, (epoch, floor): (u64, u64)) -> bool {
        if let Some(standing) = self.by_name.get_mut(name) {
            let was_withdrawn = standing.withdrawn;
            let changed = standing.see(spec, epoch);
            self.withdrawn -= usize::from(was_withdrawn && !standing.withdrawn);
            return changed;
        }
        let new = spec.sequence() > floor;
        let standing = if new { Standing::seen(spec, epoch) } else { Standing::outlived(spec, epoch) };
        self.withdrawn += usize::from(!new);
        self.by_name.insert(name.to_owned(), standing);
        new
    }

    /// Marks a record as shown, though it cannot be read.
    pub fn touch(&mut self, name: &str, epoch: u64) {
        if let Some(standing) = self.by_name.get_mut(name) {
            standing.epoch = epoch;
        }
    }

    /// Takes up a record of a former run, where none of this name is known, or only an older one.
    pub fn adopt(&mut self, name: &str, spec: T) {
        let shown = self.by_name.remove(name);
        self.withdrawn -= usize::from(shown.as_ref().is_some_and(|shown| shown.withdrawn));
        let standing = match shown {
            None => Standing::adopted(spec),
            Some(shown) if shown.spec.sequence() < spec.sequence() => {
                let older = shown.listed.then(|| Box::new(shown.spec));
                Standing { older, listed: shown.listed, epoch: shown.epoch, ..Standing::adopted(spec) }
            }
            Some(shown) => Standing { older: None, withdrawn: false, ..shown },
        };
        self.by_name.insert(name.to_owned(), standing);
    }

    /// Nothing that is not newer than this stands, unless it is adopted after this.
    pub(super) fn outlive(&mut self, floor: u64) {
        for standing in self.by_name.values_mut().filter(|one| !one.withdrawn && one.spec.sequence() <= floor) {
            (standing.older, standing.withdrawn) = (Some(Box::new(standing.spec.clone())), true);
            self.withdrawn += 1;
        }
    }

    /// Withdraws a record that was deleted. Returns what it said, where it stood.
    pub fn remove(&mut self, name: &str) -> Option<T> {
        let standing = self.by_name.get_mut(name)?;
        let stood = !standing.withdrawn;
        (standing.withdrawn, standing.listed, standing.older) = (true, false, None);
        let spec = standing.spec.clone();
        self.withdrawn += usize::from(stood);
        if self.withdrawn > WITHDRAWN_MAX {
            self.by_name.retain(|_, standing| !standing.withdrawn);
            self.withdrawn = 0;
        }
        stood.then_some(spec)
    }

    /// What was taken for outlived is not: the broker is as new as the heartbeat that it was judged by.
    pub(super) fn revive(&mut self) {
        for standing in self.by_name.values_mut().filter(|one| one.withdrawn && one.listed) {
            if standing.shown_sequence() == standing.spec.sequence() {
                (standing.withdrawn, standing.older) = (false, None);
                self.withdrawn -= 1;
            }
        }
    }

    /// The record of this name.
    pub fn get(&self, name: &str) -> Option<&Standing<T>> {
        self.by_name.get(name).filter(|standing| !standing.withdrawn)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Standing<T>)> {
        let standing = self.by_name.iter().filter(|(_, standing)| !standing.withdrawn);
        standing.map(|(name, standing)| (name.as_str(), standing))
    }

    /// Those whose names begin so.
    pub fn beginning<'a>(&'a self, text: &'a str) -> impl Iterator<Item = (&'a str, &'a Standing<T>)> {
        let from = self.by_name.range::<str, _>((std::ops::Bound::Included(text), std::ops::Bound::Unbounded));
        let those = from.take_while(move |(name, _)| name.starts_with(text)).filter(|(_, standing)| !standing.withdrawn);
        those.map(|(name, standing)| (name.as_str(), standing))
    }

    /// Whether there are none, withdrawn ones included.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// How many are remembered, withdrawn ones included.
    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.by_name.len()
    }

    /// A list is complete: what it did not name is suspect. Returns how many became so.
    pub(super) fn sweep(&mut self, epoch: u64) -> usize {
        let mut count = 0;
        for standing in self.by_name.values_mut().filter(|standing| standing.listed && standing.epoch != epoch) {
            (standing.listed, standing.older) = (false, None);
            count += usize::from(!standing.withdrawn);
        }
        count
    }

    /// Takes the list as it is, where a heartbeat vouches for it: withdraws the suspects, and takes what is older than it was known to be.
    /// The withdrawn ones need not be remembered any longer.
    pub(super) fn vouched(&mut self, heartbeat: (u64, bool), vouched: &mut Vouched, key: impl Fn(&T) -> ServiceKey) {
        for standing in self.by_name.values_mut().filter(|standing| standing.listed && standing.is_before(heartbeat)) {
            if let Some(older) = standing.older.take() {
                vouched.keys.extend([key(&standing.spec), key(&older)]);
                self.withdrawn -= usize::from(standing.withdrawn);
                (standing.spec, standing.adopted, standing.withdrawn) = (*older, false, false);
            }
        }
        self.by_name.retain(|_, standing| {
            let gone = !standing.listed && standing.is_before(heartbeat);
            if gone {
                vouched.passed = true;
                if standing.withdrawn {
                    self.withdrawn -= 1;
                } else {
                    vouched.withdrawn += 1;
                    vouched.keys.push(key(&standing.spec));
                }
            }
            !gone
        });
    }

    pub(super) fn reset(&mut self) {
        let all = std::mem::take(&mut self.by_name);
        self.by_name = all.into_iter().filter_map(|(name, standing)| Some((name, standing.reset()?))).collect();
        self.withdrawn = 0;
    }

    pub(super) fn lines(&self, kind: Kind) -> impl Iterator<Item = (Kind, &str, u64)> {
        self.by_name.iter().filter(|(_, s)| s.listed).map(move |(name, s)| (kind, name.as_str(), s.shown_sequence()))
    }
}
