//! The syncer's shell: watches this cluster and the broker, feeds the machine of [`daisy_broker_core::syncer`], performs what it
//! wants done.
//!
//! ```text
//! Secret daisy-broker-access ──▶ access ──▶ client of the broker (its pinned CA alone) ◀──renews── token
//! API server here ──▶ watch ─┐                                     ┌─▶ perform ──▶ API server here
//! broker ───────────▶ watch ─┴▶ the machine (one task) ──actions──┴─▶ perform ──▶ broker
//!                                     └──notes──▶ log, events, metrics
//! ```
//!
//! Of several replicas one writes, the one that holds the Lease `daisy-syncer`; the others' machines watch and decide the same,
//! and their actions are not asked for. Whoever comes to hold the lease lists everything anew before its first write: a watch
//! may have missed what the holder before it did.

#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "there are twelve kinds of objects, and most places have to do with one or two of them"
)]

mod access;
mod events;
mod lineage;
mod metrics;
mod perform;
mod token;
mod watch;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use daisy_api::labels::SYSTEM_NAMESPACE;
use daisy_broker_core::object::{Kind, Object, Place};
use daisy_broker_core::syncer::{Action, ActionId, BrokerTrouble, Config, Failure, FailureKind, Severity, Syncer};
use daisy_broker_core::time::Now;
use jiff::Timestamp;
use kube::Client;
use prometheus::Registry;
use tokio::sync::{mpsc, watch as channel};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::lease::{Election, LeaseOptions, Turn};
use lineage::Lineage;
use metrics::Metrics;
use watch::Message;

/// How many writes to one API server are under way at once.
const CONCURRENT: usize = 16;
/// How many inputs are taken before the machine is asked what to do: a burst is decided at once, and nothing waits for one.
const BATCH: usize = 256;

/// The Lease of the one that writes, in `daisy-system`.
pub const LEASE: &str = "daisy-syncer";
/// How long the first answer about the lease is waited for before everything is listed: who is alone lists once.
const FIRST: Duration = Duration::from_secs(2);
/// How long writes that are under way may take once the syncer is told to stop.
const LAST: Duration = Duration::from_secs(5);

/// What can be set.
#[derive(Clone, Debug)]
pub struct SyncerOptions {
    /// How often this cluster vouches for its records at the broker; at least a second.
    pub heartbeat: Duration,
    /// The Daisy version that the cluster says it runs.
    pub version: String,
    /// The Lease by which one of several replicas writes, and this one's name.
    pub lease: LeaseOptions,
    /// Where its metrics are registered.
    pub registry: Registry,
}

impl Default for SyncerOptions {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(60),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            lease: LeaseOptions::new(SYSTEM_NAMESPACE, LEASE, None),
            registry: Registry::new(),
        }
    }
}

impl SyncerOptions {
    fn config(&self) -> Config {
        let heartbeat = self.heartbeat.max(Duration::from_secs(1));
        // A short interval (a lab's) comes with margins to match.
        let scale = |full: Duration| full.min(heartbeat * 2).max(Duration::from_secs(1));
        let standard = Config::default();
        Config {
            version: self.version.clone(),
            heartbeat_interval: heartbeat,
            vouch_margin: scale(standard.vouch_margin),
            probe_margin: scale(standard.probe_margin),
            ..standard
        }
    }
}

/// The monotonic and the wall clock.
#[derive(Clone, Copy, Debug)]
struct Clock(Instant);

impl Clock {
    /// By the monotonic clock, this process began so long after its zero: what was before, as the gateways tell it, can be said.
    const BEFORE: Duration = Duration::from_secs(3600);

    fn now(self) -> Now {
        Now { monotonic: Self::BEFORE + self.0.elapsed(), wall: Timestamp::now() }
    }

    fn at(self, monotonic: Duration) -> Instant {
        self.0 + monotonic.saturating_sub(Self::BEFORE)
    }
}

/// Syncs this cluster with the broker until `shutdown`. Of several that run in a cluster, the one that holds the lease writes.
///
/// It waits for the Secret `daisy-broker-access`, and for the broker as long as it is away; nothing of that ends it.
///
/// # Errors
/// Only what cannot be waited for: metrics that are registered already, or a Secret that makes this another cluster.
pub async fn run(client: Client, options: SyncerOptions, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
    let metrics = Metrics::new(&options.registry).context("registering the syncer's metrics")?;
    let mut shutdown = pin!(shutdown);
    let mut tasks = JoinSet::new();
    let (mut secrets, watching) = access::watch(client.clone());
    tasks.spawn(watching);
    let access = tokio::select! {
        access = access::first(&mut secrets) => access?,
        () = &mut shutdown => return Ok(()),
    };
    let (election, mut turn) = Election::start(&client, options.lease.clone());
    let ended = tokio::select! {
        () = turn.first(FIRST) => {
            let started = Start { client, options, metrics, secrets, access, turn };
            started.serve(tasks, &mut shutdown).await
        }
        () = &mut shutdown => Ok(()),
    };
    info!("told to stop");
    // Nothing is written any more.
    election.end().await;
    ended
}

/// What a syncer starts with.
struct Start {
    client: Client,
    options: SyncerOptions,
    metrics: Metrics,
    secrets: channel::Receiver<access::Sight>,
    access: access::Access,
    turn: Turn,
}

impl Start {
    async fn serve(
        self,
        mut tasks: JoinSet<anyhow::Result<()>>,
        shutdown: impl Future<Output = ()> + Unpin,
    ) -> anyhow::Result<()> {
        let Self { client, options, metrics, secrets, access, turn } = self;
        let id = access.cluster_id.clone();
        info!(cluster = %id, broker = %access.server, "syncing");
        let (clients, broker) = channel::channel(None);
        let (trouble, messages) = mpsc::channel(1024);
        let lineage = Arc::new(Lineage::default());
        let (kick, kicked) = channel::channel(0_u64);
        let (relist, relisted) = channel::channel(0_u64);
        tasks.spawn(token::renew(client.clone(), broker.clone(), secrets.clone(), turn.clone(), metrics.clone()));
        tasks.spawn(access::follow(secrets, id.clone(), clients, trouble.clone(), kicked.clone()));
        let watches =
            watch::Watches { messages: trouble, lineage: lineage.clone(), kicked, relisted, metrics: metrics.clone() };
        watches.start(&mut tasks, client.clone(), broker.clone(), &id);
        let clock = Clock(Instant::now());
        let ours = turn.is_ours();
        metrics.writes(ours);
        let role = Role {
            machine: Syncer::new(id.clone(), options.config(), clock.now()),
            clock,
            turn: Turns { fresh: BTreeMap::new(), ours, turn, relist },
            events: events::Events::new(client.clone(), id),
            client,
            broker,
            lineage,
            kick,
            metrics,
            live: BTreeSet::new(),
            trouble: BTreeMap::new(),
            queues: BTreeMap::new(),
            under_way: BTreeMap::new(),
            workers: JoinSet::new(),
        };
        tokio::select! {
            () = role.drive(messages, shutdown) => Ok(()),
            // None of the tasks ends but for a reason.
            Some(ended) = tasks.join_next() => ended.context("a task of the syncer broke down")?,
        }
    }
}

/// Whether this replica writes, and whether what it knows is fresh enough for that.
struct Turns {
    turn: Turn,
    /// As the role has it: what follows from a change is yet to be done while this differs from the turn.
    ours: bool,
    /// Counts the takeovers; the watches list anew for each.
    relist: channel::Sender<u64>,
    /// The last takeover for which a kind was listed.
    fresh: BTreeMap<(Place, Kind), u64>,
}

impl Turns {
    /// Whether something may be written at this moment. Lists of a broker that is away are not waited for: the machine knows
    /// that it is.
    fn writes(&self, live: &BTreeSet<Kind>) -> bool {
        let takeover = *self.relist.borrow();
        let fresh = |place, kind: &Kind| self.fresh.get(&(place, *kind)).is_some_and(|listed| *listed >= takeover);
        let broker = || live.iter().all(|kind| fresh(Place::Broker, kind));
        self.ours && self.turn.is_ours() && Kind::HERE.iter().all(|kind| fresh(Place::Here, kind)) && broker()
    }
}

struct Finished {
    id: ActionId,
    place: Place,
    outcome: Result<Option<Object>, Failure>,
}

struct Role {
    machine: Syncer,
    clock: Clock,
    client: Client,
    broker: channel::Receiver<Option<Client>>,
    lineage: Arc<Lineage>,
    kick: channel::Sender<u64>,
    metrics: Metrics,
    /// The broker's watches that are live.
    live: BTreeSet<Kind>,
    trouble: BTreeMap<Kind, BrokerTrouble>,
    turn: Turns,
    queues: BTreeMap<Place, VecDeque<Action>>,
    under_way: BTreeMap<ActionId, Place>,
    workers: JoinSet<Finished>,
    events: events::Events,
}

impl Role {
    async fn drive(mut self, mut messages: mpsc::Receiver<Message>, mut shutdown: impl Future<Output = ()> + Unpin) {
        loop {
            let next = self.machine.poll_timeout().unwrap_or_else(|| self.clock.now().monotonic + Duration::from_secs(3600));
            tokio::select! {
                biased;
                () = self.turn.turn.becomes(!self.turn.ours) => self.turned().await,
                () = &mut shutdown => return self.finish().await,
                Some(finished) = self.workers.join_next() => self.finished(finished),
                message = messages.recv() => {
                    let Some(message) = message else { return };
                    self.take(message);
                    for _ in 0..BATCH {
                        let Ok(message) = messages.try_recv() else { break };
                        self.take(message);
                    }
                }
                () = tokio::time::sleep_until(self.clock.at(next)) => self.machine.handle_timeout(self.clock.now()),
            }
            self.drain();
        }
    }

    /// It has become this replica's turn to write, or another's.
    async fn turned(&mut self) {
        self.turn.ours = !self.turn.ours;
        self.metrics.writes(self.turn.ours);
        if self.turn.ours {
            self.turn.relist.send_modify(|takeover| *takeover += 1);
            if let Some(trouble) = self.trouble.values().next() {
                self.events.trouble(trouble);
            }
            return;
        }
        // Nothing is sent from here on; what was under way may have been done, and is looked at again in the next turn.
        self.workers.shutdown().await;
        let queued = self.queues.values_mut().flat_map(std::mem::take).map(|action| action.id);
        let doomed: Vec<ActionId> = std::mem::take(&mut self.under_way).into_keys().chain(queued).collect();
        for id in doomed {
            let message = "it is another replica's turn to write".to_owned();
            let failure = Failure { kind: FailureKind::Unreachable, message };
            self.machine.handle_action_done(id, Err(failure), self.clock.now());
        }
    }

    /// Lets what is under way end.
    async fn finish(mut self) {
        let ended = async { while self.workers.join_next().await.is_some() {} };
        if tokio::time::timeout(LAST, ended).await.is_err() {
            warn!("writes that were under way at the end did not end in {} s", LAST.as_secs());
        }
    }

    fn take(&mut self, message: Message) {
        let now = self.clock.now();
        match message {
            Message::Change(place, kind, change) => self.machine.handle_watch(place, kind, change, now),
            Message::Fresh(place, kind, takeover) => drop(self.turn.fresh.insert((place, kind), takeover)),
            Message::Live(kind) => {
                self.trouble.remove(&kind);
                self.live.insert(kind);
                if Kind::BROKER.iter().all(|kind| self.live.contains(kind)) {
                    self.connected(Ok(()));
                }
            }
            Message::Trouble(kind, trouble) => {
                self.live.remove(&kind);
                self.trouble.insert(kind, trouble.clone());
                self.connected(Err(trouble));
            }
        }
    }

    fn connected(&mut self, state: Result<(), BrokerTrouble>) {
        let up = state.is_ok();
        let changed = self.metrics.broker_connected(up);
        match &state {
            Ok(()) if changed => info!("the broker is connected"),
            Err(trouble) if changed => {
                warn!(reason = %trouble.reason, "the broker is not connected: {}", trouble.message);
                if self.turn.ours {
                    self.events.trouble(trouble);
                }
            }
            Ok(()) | Err(_) => {}
        }
        self.machine.handle_broker_connection(state, self.clock.now());
    }

    fn finished(&mut self, finished: Result<Finished, tokio::task::JoinError>) {
        let Ok(Finished { id, place, outcome }) = finished else { return };
        self.under_way.remove(&id);
        if place == Place::Broker && outcome.as_ref().is_err_and(|failure| failure.kind == FailureKind::Unreachable) {
            // A watch may not notice for minutes that its other end is gone.
            self.kick.send_modify(|count| *count += 1);
        }
        self.machine.handle_action_done(id, outcome, self.clock.now());
    }

    fn drain(&mut self) {
        let writes = self.turn.writes(&self.live);
        while writes && let Some(action) = self.machine.poll_action(self.clock.now()) {
            self.queues.entry(action.place()).or_default().push_back(action);
        }
        while let Some(note) = self.machine.poll_note() {
            if !writes {
                debug!(reason = note.reason(), "standing by: {note}");
                continue;
            }
            match note.severity() {
                Severity::Info => info!(reason = note.reason(), "{note}"),
                Severity::Warning => warn!(reason = note.reason(), "{note}"),
            }
            self.metrics.note(&note);
            self.events.publish(&note);
        }
        self.metrics.imports(self.machine.imports().count());
        self.metrics.clusters(self.machine.clusters().map(|(_, silent)| silent));
        for place in [Place::Here, Place::Broker] {
            if writes {
                self.start(place);
            }
        }
    }

    fn start(&mut self, place: Place) {
        let Some(queue) = self.queues.get_mut(&place) else { return };
        while self.under_way.values().filter(|at| **at == place).count() < CONCURRENT {
            let Some(action) = queue.pop_front() else { return };
            self.under_way.insert(action.id, place);
            let client = match place {
                Place::Here => Some(self.client.clone()),
                Place::Broker => self.broker.borrow().clone(),
            };
            let (lineage, metrics, clock) = (self.lineage.clone(), self.metrics.clone(), self.clock);
            self.workers.spawn(async move {
                let outcome = perform::perform(client, &action).await;
                match &outcome {
                    Ok(object) => {
                        if place == Place::Broker {
                            lineage.wrote(&action, object.as_ref());
                        }
                        metrics.wrote(&action, clock.now().monotonic.saturating_sub(action.since));
                        debug!(object = %action.reference, verb = perform::verb(&action), "written");
                    }
                    Err(failure) => {
                        metrics.failed(&action, failure.kind);
                        debug!(object = %action.reference, verb = perform::verb(&action), "not written: {failure}");
                    }
                }
                Finished { id: action.id, place, outcome }
            });
        }
    }
}

#[cfg(test)]
mod tests;
