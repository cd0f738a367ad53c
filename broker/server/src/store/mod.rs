//! The store: one writer, many readers.
//!
//! ```text
//! write ─▶ queue ─▶ writer thread: run each of a batch on a Transaction ─▶ one redb commit, synced ─▶ publish to State ─▶ reply
//!                                                                                                       │
//!                                       get, list, watch: a read lock on State, which holds only what is durable
//! ```
//!
//! Writers that come while a commit is on its way share the next one's sync. Nobody sees a change before it is on the disk.

mod disk;
mod event;
mod state;
mod transaction;

#[cfg(test)]
mod tests;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use jiff::Timestamp;
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::catalog::Catalog;
use crate::crd;
use crate::error::Error;
use crate::object::Stored;
use crate::refusal::Refusal;
use disk::Disk;

pub use event::{Event, EventKind};
pub(crate) use state::{Place, State, Window};
pub(crate) use transaction::Transaction;

/// Writes that wait for the writer before further ones have to wait for a place in the queue.
const QUEUE: usize = 1024;
/// Writes that share a commit, at most.
const BATCH: usize = 512;
/// Events that an in-process subscriber may lag behind.
const SUBSCRIBER_LAG: usize = 16_384;

type Reply = Box<dyn FnOnce(Result<(), Refusal>) + Send>;
type Job = Box<dyn FnOnce(&mut Transaction<'_>) -> Reply + Send>;

/// See the module's description.
pub(crate) struct Store {
    state: Arc<RwLock<State>>,
    queue: mpsc::Sender<Job>,
    events: broadcast::Sender<Arc<Event>>,
    writer: std::sync::Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Store {
    /// Opens the database in `file`, reads it, and starts the writer.
    pub(crate) fn open(file: &Path, catalog: Catalog, window: Window) -> Result<Self, Error> {
        let disk = Disk::open(file)?;
        let state = Arc::new(RwLock::new(load(&disk, catalog, window)?));
        let (queue, jobs) = mpsc::channel(QUEUE);
        let events = broadcast::Sender::new(SUBSCRIBER_LAG);
        let writer = Writer { state: state.clone(), disk, events: events.clone() };
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer.run(jobs))
            .map_err(|source| Error::Thread { source })?;
        Ok(Self { state, queue, events, writer: std::sync::Mutex::new(Some(thread)) })
    }

    /// What is durable now. Hold it shortly: the writer waits for it.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes sure that the resource can be waited on.
    pub(crate) fn ensure(&self, resource: &crate::definition::ResourceKey) {
        if self.read().collection(resource).is_none() {
            self.state.write().unwrap_or_else(PoisonError::into_inner).ensure(resource);
        }
    }

    /// All changes from now on.
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Arc<Event>> {
        self.events.subscribe()
    }

    /// Runs `work` alone, and gives its result once everything that it wrote is durable. When it fails, nothing of it is kept.
    pub(crate) async fn write<T, F>(&self, work: F) -> Result<T, Refusal>
    where
        T: Send + 'static,
        F: FnOnce(&mut Transaction<'_>) -> Result<T, Refusal> + Send + 'static,
    {
        let (job, answer) = job(work);
        self.queue.send(job).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }

    /// The same for callers outside of an async runtime.
    pub(crate) fn write_blocking<T, F>(&self, work: F) -> Result<T, Refusal>
    where
        T: Send + 'static,
        F: FnOnce(&mut Transaction<'_>) -> Result<T, Refusal> + Send + 'static,
    {
        let (job, mut answer) = job(work);
        let (done, wait) = std::sync::mpsc::channel();
        let job: Job = Box::new(move |transaction| {
            let reply = job(transaction);
            Box::new(move |committed| {
                reply(committed);
                let _ = done.send(());
            })
        });
        let mut job = Some(job);
        while let Some(next) = job.take() {
            match self.queue.try_send(next) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(back)) => {
                    std::thread::yield_now();
                    job = Some(back);
                }
                Err(mpsc::error::TrySendError::Closed(_)) => return Err(stopped()),
            }
        }
        wait.recv().map_err(|_| stopped())?;
        answer.try_recv().map_err(|_| stopped())?
    }
}

impl Drop for Store {
    /// Waits until the writer has closed the database, so that it can be opened again at once.
    fn drop(&mut self) {
        let (closed, _) = mpsc::channel(1);
        self.queue = closed;
        if let Some(writer) = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = writer.join();
        }
    }
}

fn stopped() -> Refusal {
    Refusal::new(503, "ServiceUnavailable", "the server is stopping")
}

fn job<T, F>(work: F) -> (Job, oneshot::Receiver<Result<T, Refusal>>)
where
    T: Send + 'static,
    F: FnOnce(&mut Transaction<'_>) -> Result<T, Refusal> + Send + 'static,
{
    let (sender, receiver) = oneshot::channel();
    let job: Job = Box::new(move |transaction| {
        let mark = transaction.mark();
        // A hook that panics must not take the writer with it.
        let result = catch_unwind(AssertUnwindSafe(|| work(transaction)))
            .unwrap_or_else(|_| Err(Refusal::internal("the write panicked; nothing of it was kept")));
        if result.is_err() {
            transaction.roll_back(mark);
        }
        Box::new(move |committed: Result<(), Refusal>| {
            let _ = sender.send(committed.and(result));
        })
    });
    (job, receiver)
}

fn load(disk: &Disk, catalog: Catalog, window: Window) -> Result<State, Error> {
    let contents = disk.read()?;
    let mut catalog = catalog;
    let mut rows = Vec::with_capacity(contents.rows.len());
    for row in contents.rows {
        let object = Stored::from_json(row.json)
            .map_err(|source| Error::Corrupt { object: format!("{} {}/{}", row.resource, row.namespace, row.name), source })?;
        if crd::is(&row.resource) {
            match crd::compile(&object.value(), &catalog) {
                Ok(served) => catalog = catalog.with(&row.name, served),
                // Written by an older version of this server with other rules: its objects are kept, and not served.
                Err(causes) => tracing::error!(crd = row.name, ?causes, "a stored CustomResourceDefinition is not served"),
            }
        }
        rows.push((row.resource, (row.namespace, row.name), Arc::new(object)));
    }
    let mut state = State::new(contents.version, Arc::new(catalog), window);
    for (resource, version) in contents.versions {
        state.load_version(&resource, version);
    }
    for (resource, place, object) in rows {
        state.load(&resource, place, object);
    }
    Ok(state)
}

struct Writer {
    state: Arc<RwLock<State>>,
    disk: Disk,
    events: broadcast::Sender<Arc<Event>>,
}

impl Writer {
    fn run(self, mut jobs: mpsc::Receiver<Job>) {
        while let Some(first) = jobs.blocking_recv() {
            let mut batch = vec![first];
            while batch.len() < BATCH
                && let Ok(job) = jobs.try_recv()
            {
                batch.push(job);
            }
            let (replies, committed) = self.commit(batch);
            for reply in replies {
                reply(committed.clone());
            }
        }
    }

    fn commit(&self, batch: Vec<Job>) -> (Vec<Reply>, Result<(), Refusal>) {
        // Readers go on meanwhile: this thread alone ever changes the state.
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let mut transaction = Transaction::new(&state, Timestamp::now());
        let replies: Vec<_> = batch.into_iter().map(|job| job(&mut transaction)).collect();
        let (events, version, catalog) = transaction.finish();
        drop(state);
        if events.is_empty() {
            return (replies, Ok(()));
        }
        if let Err(error) = self.disk.commit(&events, version) {
            tracing::error!(%error, "writes were not made durable and are refused");
            return (replies, Err(Refusal::internal(format!("the write was not made durable: {error}"))));
        }
        let events: Vec<_> = events.into_iter().map(Arc::new).collect();
        self.state.write().unwrap_or_else(PoisonError::into_inner).publish(&events, version, catalog);
        for event in events {
            let _ = self.events.send(event);
        }
        (replies, Ok(()))
    }
}
