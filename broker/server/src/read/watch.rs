//! Watches: each follows its resource's history with a cursor, so a slow client costs no memory.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;

use super::render::{Form, converted, frame, render_bookmark, render_event};
use crate::catalog::Served;
use crate::object::{Stored, set_metadata};
use crate::options::Limits;
use crate::random;
use crate::refusal::Refusal;
use crate::selector::Selectors;
use crate::store::{Event, EventKind, Store};

/// Changes that are taken from the history at a time.
const CHUNK: usize = 256;
/// Bytes after which a chunk is sent.
const CHUNK_BYTES: usize = 64 << 10;

/// Where a watch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// With everything that is there, as if just added.
    Everything,
    /// The same, and a bookmark that says where it ends (`sendInitialEvents`).
    Streamed,
    /// With what changes from now on.
    Now,
    /// After this resourceVersion.
    After(u64),
}

/// What is asked for.
#[derive(Clone, Debug)]
pub(crate) struct WatchQuery {
    /// `None` for all namespaces.
    pub(crate) namespace: Option<String>,
    pub(crate) selectors: Selectors,
    pub(crate) start: Start,
    pub(crate) bookmarks: bool,
    pub(crate) timeout: Option<Duration>,
    pub(crate) form: Form,
}

/// A watch under way. It ends by itself: by its time, with its resource, when its user loses the right to it, or with the server.
pub(crate) struct WatchStream {
    store: Arc<Store>,
    served: Arc<Served>,
    query: WatchQuery,
    /// Everything up to here was sent, or did not concern this watch.
    cursor: u64,
    initial: VecDeque<Arc<Stored>>,
    initial_end: Option<u64>,
    changed: watch::Receiver<u64>,
    stopping: watch::Receiver<bool>,
    /// Asks again whether the user may watch.
    allowed: Box<dyn Fn() -> bool + Send + Sync>,
    interval: Duration,
    next_bookmark: Instant,
    bookmark_due: bool,
    deadline: Instant,
    /// What is ready is still sent.
    ended: bool,
    /// Nothing is sent any more.
    failed: bool,
}

impl WatchStream {
    /// Begins a watch. What cannot be begun from there is said within the stream (410 Expired), as clients expect it.
    pub(crate) fn new(
        store: Arc<Store>,
        served: Arc<Served>,
        query: WatchQuery,
        limits: &Limits,
        (stopping, allowed): (watch::Receiver<bool>, Box<dyn Fn() -> bool + Send + Sync>),
    ) -> Option<Self> {
        store.ensure(&served.key);
        let now = Instant::now();
        // A tenth more or less, so that not all watches come back at once.
        let longest = limits.watch_time - limits.watch_time.mul_f64(random::below(1000) as f64 / 10_000.0);
        let (changed, cursor, initial) = {
            let state = store.read();
            let collection = state.collection(&served.key)?;
            let (cursor, initial) = match query.start {
                Start::After(version) => (version, VecDeque::new()),
                Start::Now => (state.version, VecDeque::new()),
                Start::Everything | Start::Streamed => {
                    let all = collection.iter(query.namespace.as_deref());
                    let labels = &query.selectors.labels;
                    let fields = &query.selectors.fields;
                    let cheap = fields.is_cheap();
                    let selected = all
                        .filter(|(place, object)| {
                            labels.matches(&object.labels) && (!cheap || fields.matches(&place.0, &place.1, || object.value()))
                        })
                        .map(|(_, object)| object.clone());
                    (state.version, selected.collect())
                }
            };
            (collection.subscribe(), cursor, initial)
        };
        Some(Self {
            store,
            served,
            cursor,
            initial,
            initial_end: (query.start == Start::Streamed).then_some(cursor),
            changed,
            stopping,
            allowed,
            interval: limits.bookmark_interval,
            next_bookmark: now + limits.bookmark_interval,
            bookmark_due: false,
            deadline: now + query.timeout.map_or(longest, |timeout| timeout.min(longest)),
            ended: false,
            failed: false,
            query,
        })
    }

    /// The next piece of the stream: one or more whole lines. `None` at its end.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.failed {
                return None;
            }
            if let Some(chunk) = self.ready() {
                return Some(chunk);
            }
            if self.ended {
                return None;
            }
            tokio::select! {
                biased;
                _ = self.stopping.wait_for(|stopping| *stopping) => self.ended = true,
                changed = self.changed.changed() => self.ended |= changed.is_err(),
                () = tokio::time::sleep_until(self.deadline) => {
                    self.ended = true;
                    self.bookmark_due = self.query.bookmarks;
                }
                () = tokio::time::sleep_until(self.next_bookmark) => {
                    self.next_bookmark = Instant::now() + self.interval;
                    self.bookmark_due = self.query.bookmarks;
                    if !(self.allowed)() {
                        return None;
                    }
                }
            }
        }
    }

    /// What can be sent without waiting.
    fn ready(&mut self) -> Option<Bytes> {
        let mut out = BytesMut::new();
        while let Some(stored) = self.initial.pop_front() {
            if self.selects(&stored) {
                out.extend_from_slice(&render_event(&self.served, "ADDED", &stored, self.query.form));
            }
            if out.len() >= CHUNK_BYTES {
                return Some(out.freeze());
            }
        }
        if let Some(version) = self.initial_end.take() {
            out.extend_from_slice(&render_bookmark(&self.served, version, true, self.query.form));
        }
        while out.len() < CHUNK_BYTES {
            self.changed.mark_unchanged();
            let (changes, now) = {
                let state = self.store.read();
                if state.catalog.get(&self.served.key).is_none() {
                    self.ended = true;
                }
                let changes = state.collection(&self.served.key).and_then(|collection| collection.changes(self.cursor, CHUNK));
                // Greater than ours: of a server that was since restored from an older copy. Only listing anew helps.
                (changes.filter(|_| self.cursor <= state.version), state.version)
            };
            let Some(changes) = changes else {
                let refusal = Refusal::expired(format!("too old resource version: {} ({now})", self.cursor));
                out.extend_from_slice(&frame("ERROR", refusal.to_status().to_string().as_bytes()));
                self.failed = true;
                break;
            };
            if changes.is_empty() {
                self.cursor = now;
                if std::mem::take(&mut self.bookmark_due) {
                    out.extend_from_slice(&render_bookmark(&self.served, now, false, self.query.form));
                }
                break;
            }
            for event in &changes {
                self.cursor = event.version;
                if let Some(line) = self.line(event) {
                    out.extend_from_slice(&line);
                }
                // The rest of these changes is taken again from the cursor.
                if out.len() >= CHUNK_BYTES {
                    break;
                }
            }
        }
        (!out.is_empty()).then(|| out.freeze())
    }

    fn selects(&self, stored: &Stored) -> bool {
        if self.query.selectors.is_empty() {
            return true;
        }
        let object = stored.value();
        let text = |key| crate::object::text(&object, key);
        self.query.selectors.matches(text("namespace"), text("name"), stored)
    }

    /// What a change is to this watch: objects may come into the selection, or leave it.
    fn line(&self, event: &Event) -> Option<Bytes> {
        if self.query.namespace.as_ref().is_some_and(|namespace| *namespace != event.namespace) {
            return None;
        }
        let selected = |stored: &Stored| self.query.selectors.matches(&event.namespace, &event.name, stored);
        let was = event.before.as_deref().is_some_and(selected);
        let is = event.kind != EventKind::Deleted && selected(&event.object);
        let kind = match (was, is) {
            (false, false) => return None,
            (false, true) => EventKind::Added,
            (true, true) => EventKind::Modified,
            (true, false) => EventKind::Deleted,
        };
        if kind == EventKind::Deleted && event.kind != EventKind::Deleted {
            // As in Kubernetes: the object as it was when it was last selected, at the version of the change.
            let mut last = event.before.as_ref().map(|before| converted(&self.served, before))?;
            set_metadata(&mut last, "resourceVersion", Some(json!(event.version.to_string())));
            return Some(render_event(&self.served, kind.as_str(), &Arc::new(Stored::new(&last)), self.query.form));
        }
        Some(render_event(&self.served, kind.as_str(), &event.object, self.query.form))
    }
}
