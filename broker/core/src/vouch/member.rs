//! A Member, and which of its versions were seen: a broker that was restored from an old copy shows an earlier one again, which
//! must neither widen a grant nor take one away.

use daisy_api::MemberSpec;
use daisy_api::keys::VerifyingKey;
use daisy_api::names::short_hash;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

/// How many versions are remembered.
const SEEN_MAX: usize = 16;

/// A Member, as last seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownMember {
    /// What it says.
    pub spec: MemberSpec,
    /// Which object it was, and how often it had been written: an earlier version that was never seen here is told by that.
    #[serde(default)]
    uid: Option<String>,
    #[serde(default)]
    generation: i64,
    /// Marks of the versions that were seen, the newest last.
    seen: Vec<String>,
    /// What the broker shows now, where that is an earlier version: its mark and contents.
    #[serde(skip)]
    older: Option<(String, MemberSpec)>,
    #[serde(skip)]
    epoch: u64,
    /// Whether the broker shows it now.
    #[serde(skip)]
    pub listed: bool,
}

/// What a sight of a Member changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberChange {
    /// Nothing.
    None,
    /// Its version alone.
    Version,
    /// It says something else, or is new.
    Changed,
    /// It is another cluster under the same name: what was known by greater sequences does not count.
    Replaced,
    /// It is an earlier version of what is known, and is left aside.
    Older,
}

fn identity(spec: &MemberSpec) -> (&str, VerifyingKey) {
    (&spec.cluster_uid, spec.signing_key)
}

/// What tells one version from another, also from one that a restored server counts alike.
fn mark(metadata: &ObjectMeta, spec: &MemberSpec) -> String {
    let contents = serde_json::to_string(spec).unwrap_or_default();
    let version = metadata.resource_version.as_deref().unwrap_or_default();
    short_hash(&format!("{} {version} {contents}", metadata.uid.as_deref().unwrap_or_default()), 12)
}

impl KnownMember {
    /// The first sight of it.
    pub(super) fn first(metadata: &ObjectMeta, spec: MemberSpec, epoch: u64) -> Self {
        let (uid, generation) = (metadata.uid.clone(), metadata.generation.unwrap_or(0));
        Self { uid, generation, seen: vec![mark(metadata, &spec)], spec, older: None, epoch, listed: true }
    }

    /// Another sight of it, in a list or (`live`) as it is written.
    pub(super) fn see(&mut self, metadata: &ObjectMeta, spec: MemberSpec, (epoch, live): (u64, bool)) -> MemberChange {
        (self.epoch, self.listed) = (epoch, true);
        let mark = mark(metadata, &spec);
        self.older = None;
        if self.seen.last() == Some(&mark) {
            return MemberChange::None;
        }
        let known = self.seen.contains(&mark);
        let earlier = self.uid == metadata.uid && metadata.generation.unwrap_or(0) < self.generation;
        // What is written now is no old copy, whatever a restored server counts it as.
        if known || (earlier && !live) {
            self.older = Some((mark, spec));
            return MemberChange::Older;
        }
        (self.uid, self.generation) = (metadata.uid.clone(), metadata.generation.unwrap_or(0));
        self.take(mark, spec)
    }

    /// Takes the earlier version that the broker shows: nobody has set it right for long enough.
    pub(super) fn take_older(&mut self) -> MemberChange {
        match self.older.take() {
            Some((mark, spec)) => {
                // How the server counts from here on is seen with the next version.
                self.generation = 0;
                self.seen.retain(|seen| *seen != mark);
                self.take(mark, spec)
            }
            None => MemberChange::None,
        }
    }

    fn take(&mut self, mark: String, spec: MemberSpec) -> MemberChange {
        self.seen.push(mark);
        if self.seen.len() > SEEN_MAX {
            self.seen.remove(0);
        }
        if self.spec == spec {
            return MemberChange::Version;
        }
        let replaced = self.is_anothers(&spec);
        self.spec = spec;
        if replaced { MemberChange::Replaced } else { MemberChange::Changed }
    }

    /// What a former run knew, together with what the broker has shown since.
    pub(super) fn with(self, shown: Self) -> Self {
        let newest = shown.seen.last().cloned();
        let known = newest.is_some_and(|mark| self.seen.contains(&mark) && self.seen.last() != Some(&mark));
        let older = known || (self.uid == shown.uid && shown.generation < self.generation);
        if older {
            let mark = shown.seen.last().cloned().unwrap_or_default();
            return Self { older: Some((mark, shown.spec)), epoch: shown.epoch, listed: shown.listed, ..self };
        }
        let mut seen = self.seen;
        seen.retain(|mark| !shown.seen.contains(mark));
        seen.extend(shown.seen);
        let excess = seen.len().saturating_sub(SEEN_MAX);
        seen.drain(..excess);
        Self { seen, ..shown }
    }

    /// Whether this is another cluster's Member, under the same name.
    #[must_use]
    pub fn is_anothers(&self, spec: &MemberSpec) -> bool {
        identity(&self.spec) != identity(spec)
    }

    /// Whether the broker shows an earlier version.
    #[must_use]
    pub fn is_shown_older(&self) -> bool {
        self.listed && self.older.is_some()
    }

    /// It is there, though it cannot be read.
    pub(super) fn touch(&mut self, epoch: u64) {
        self.epoch = epoch;
    }

    /// The list is complete. Returns whether it became absent.
    pub(super) fn sweep(&mut self, epoch: u64) -> bool {
        let absent = self.listed && self.epoch != epoch;
        if absent {
            self.listed = false;
        }
        absent
    }

    /// The text by which a later run knows it.
    #[must_use]
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads what a former run knew; nothing where that does not parse.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}
