//! One watch of one kind: a list, then what changes, and again from where it broke off.
//!
//! This is done here rather than by `kube::runtime::watcher` because the machine has to know when a watch is live: what is not
//! heard means something only then.

use std::sync::Arc;
use std::time::Duration;

use daisy_api::labels::{BROKER_NAMESPACE, SYSTEM_NAMESPACE};
use daisy_api::{Cluster, ClusterId, Export, ExportEndpoints, Gateway, Heartbeat, Member, ServiceExport, ServiceImport};
use daisy_broker_core::object::{Change, Kind, Object, Place};
use daisy_broker_core::syncer::BrokerTrouble;
use daisy_kubernetes::Api;
use futures::StreamExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Namespace, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::core::DeserializeGuard;
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch as channel};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::lineage::Lineage;
use super::metrics::Metrics;

/// What the watches tell the machine's task.
#[derive(Debug)]
pub(super) enum Message {
    /// What a watch says.
    Change(Place, Kind, Change),
    /// A kind was listed, after the takeover of this count.
    Fresh(Place, Kind, u64),
    /// A watch of the broker is live.
    Live(Kind),
    /// A watch of the broker is not.
    Trouble(Kind, BrokerTrouble),
}

/// How many objects a page of a list has.
const PAGE: u32 = 500;
/// How long a watch runs before it is begun again, in seconds: what the API allows at most is 295 for this client.
const WATCH_SECONDS: u32 = 280;
/// A watch in which nothing came for so long, not even its end, is taken to be dead. Bookmarks may be absent for as long as the kind
/// does not change, so only the end counts: where the path to the broker has gone, its connection ends long before (`far_client`).
const IDLE: Duration = Duration::from_secs(WATCH_SECONDS as u64 + 20);
/// How long a page of a list, or the beginning of a watch, may take.
const ANSWER: Duration = Duration::from_secs(30);

/// The wait before the next try: short at first, so that a server that was only restarted is found again at once.
struct Pause {
    since: Option<Instant>,
    count: u32,
    /// Spreads the tries of many clusters: 0 to 255.
    spread: u8,
}

impl Pause {
    fn reset(&mut self) {
        (self.since, self.count) = (None, 0);
    }

    fn next(&mut self) -> Duration {
        let since = *self.since.get_or_insert_with(Instant::now);
        let longest = match since.elapsed().as_secs() {
            0..60 => Duration::from_millis(500),
            60..600 => Duration::from_secs(2),
            _ => Duration::from_secs(10),
        };
        let wait = (Duration::from_millis(100) * 2_u32.pow(self.count.min(7))).min(longest);
        self.count += 1;
        wait.mul_f64(0.75 + f64::from(self.spread) / 1024.0)
    }
}

/// What all watches share.
#[derive(Clone)]
pub(super) struct Watches {
    pub(super) messages: mpsc::Sender<Message>,
    pub(super) lineage: Arc<Lineage>,
    /// A write could not reach the broker.
    pub(super) kicked: channel::Receiver<u64>,
    /// Counts the takeovers: with each, everything is listed anew.
    pub(super) relisted: channel::Receiver<u64>,
    pub(super) metrics: Metrics,
}

type Task = BoxFuture<'static, anyhow::Result<()>>;
/// In which namespaces a kind is watched.
type MakeApi<K> = fn(Client) -> Api<K>;

impl Watches {
    /// Starts all watches of both sides.
    pub(super) fn start(
        &self,
        tasks: &mut JoinSet<anyhow::Result<()>>,
        here: Client,
        broker: channel::Receiver<Option<Client>>,
        id: &ClusterId,
    ) {
        let spread = id.as_str().bytes().fold(0_u8, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte));
        // This cluster's client never changes: a channel of one value. Its sender lives as long as the watches.
        let (keep, here) = channel::channel(Some(here));
        tasks.spawn(async move {
            keep.closed().await;
            Ok(())
        });
        let all = |place, kind| Watch { place, kind, spread, shared: self.clone() };
        let started: [Task; 13] = [
            all(Place::Here, Kind::ServiceExport).run::<ServiceExport>(here.clone(), Api::all),
            all(Place::Here, Kind::ServiceImport).run::<ServiceImport>(here.clone(), Api::all),
            all(Place::Here, Kind::Service).run::<Service>(here.clone(), Api::all),
            all(Place::Here, Kind::EndpointSlice).run::<EndpointSlice>(here.clone(), Api::all),
            all(Place::Here, Kind::Namespace).run::<Namespace>(here.clone(), Api::all),
            all(Place::Here, Kind::Node).run::<Node>(here.clone(), Api::all),
            all(Place::Here, Kind::Gateway).run::<Gateway>(here.clone(), |client| Api::namespaced(client, SYSTEM_NAMESPACE)),
            all(Place::Here, Kind::Cluster).run::<Cluster>(here, |client| Api::namespaced(client, SYSTEM_NAMESPACE)),
            all(Place::Broker, Kind::Member).run::<Member>(broker.clone(), |client| Api::namespaced(client, BROKER_NAMESPACE)),
            all(Place::Broker, Kind::Cluster).run::<Cluster>(broker.clone(), Api::all),
            all(Place::Broker, Kind::Heartbeat).run::<Heartbeat>(broker.clone(), Api::all),
            all(Place::Broker, Kind::Export).run::<Export>(broker.clone(), Api::all),
            all(Place::Broker, Kind::ExportEndpoints).run::<ExportEndpoints>(broker, Api::all),
        ];
        for task in started {
            tasks.spawn(task);
        }
    }
}

/// Why a watch has to be begun again.
enum Broken {
    /// The server ended it in good order, or it can go on elsewhere: again from where it was.
    Ended,
    /// What it stands on is too old or of another history: list anew.
    Expired,
    /// It failed.
    Failed(kube::Error),
    /// Nothing came for too long.
    Silent(&'static str),
    /// There is a new client.
    NewClient,
    /// It has become this replica's turn to write: list anew.
    Takeover,
    /// Nobody listens any more.
    Closed,
}

impl From<kube::Error> for Broken {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) if status.code == 410 || status.reason == "Expired" => Self::Expired,
            // What a version is that the server has not reached: of a server that was restored from an old copy.
            kube::Error::Api(status) if status.message.contains("Too large resource version") => Self::Expired,
            other => Self::Failed(other),
        }
    }
}

struct Watch {
    place: Place,
    kind: Kind,
    spread: u8,
    shared: Watches,
}

impl Watch {
    fn run<K>(self, clients: channel::Receiver<Option<Client>>, api: MakeApi<K>) -> Task
    where
        K: Resource<DynamicType = ()> + DeserializeOwned + Clone + std::fmt::Debug + Send + Sync + Into<Object> + 'static,
    {
        Box::pin(self.follow::<K>(clients, api))
    }

    async fn follow<K>(self, mut clients: channel::Receiver<Option<Client>>, api: MakeApi<K>) -> anyhow::Result<()>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned + Clone + std::fmt::Debug + Send + Sync + Into<Object> + 'static,
    {
        let mut pause = Pause { since: None, count: 0, spread: self.spread };
        let mut version: Option<String> = None;
        let mut lineage = self.shared.lineage.generation();
        let mut doubt = false;
        let mut relisted = self.shared.relisted.clone();
        loop {
            let Some(client) = clients.wait_for(Option::is_some).await?.clone() else { continue };
            clients.mark_unchanged();
            let api = api(client.clone());
            let began = Instant::now();
            let broken = self.once(&api, &client, &mut clients, (&mut version, &mut lineage, &mut doubt), &mut relisted).await;
            if began.elapsed() > Duration::from_secs(5) {
                pause.reset();
            }
            let error = match broken {
                Broken::Closed => return Ok(()),
                Broken::Ended | Broken::NewClient => continue,
                Broken::Takeover => {
                    version = None;
                    continue;
                }
                Broken::Expired => {
                    debug!(kind = self.kind.as_str(), place = ?self.place, "listing anew");
                    version = None;
                    self.shared.metrics.restarted(self.place, self.kind, "expired");
                    // An API server that says so each time must not be asked in a tight loop.
                    tokio::time::sleep(pause.next()).await;
                    continue;
                }
                Broken::Failed(error) => Trouble::of(&error),
                Broken::Silent(what) => Trouble { reason: "Unreachable", message: format!("the API server {what}") },
            };
            self.shared.metrics.restarted(self.place, self.kind, "failed");
            doubt = true;
            if self.place == Place::Here {
                // This cluster's own API server: rare, and cheap to list.
                version = None;
                warn!(kind = self.kind.as_str(), reason = error.reason, "watching this cluster: {}", error.message);
            } else {
                let trouble = BrokerTrouble { reason: error.reason.to_owned(), message: error.message };
                self.shared.messages.send(Message::Trouble(self.kind, trouble)).await?;
            }
            tokio::select! {
                () = tokio::time::sleep(pause.next()) => {}
                changed = clients.changed() => changed?,
            }
        }
    }

    async fn once<K>(
        &self,
        api: &Api<K>,
        client: &Client,
        clients: &mut channel::Receiver<Option<Client>>,
        (version, lineage, doubt): (&mut Option<String>, &mut u64, &mut bool),
        relisted: &mut channel::Receiver<u64>,
    ) -> Broken
    where
        K: Resource<DynamicType = ()> + DeserializeOwned + Clone + std::fmt::Debug + Send + Sync + Into<Object> + 'static,
    {
        if self.place == Place::Broker && *doubt && version.is_some() {
            match tokio::time::timeout(ANSWER, self.shared.lineage.check(client)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Broken::Failed(error),
                Err(_) => return Broken::Silent("does not answer"),
            }
        }
        if self.place == Place::Broker && self.shared.lineage.generation() != *lineage {
            *version = None;
        }
        if version.is_none() {
            *lineage = self.shared.lineage.generation();
            let takeover = *relisted.borrow_and_update();
            match self.list(api).await {
                Ok(listed) => *version = Some(listed),
                Err(broken) => return broken,
            }
            if self.shared.messages.send(Message::Fresh(self.place, self.kind, takeover)).await.is_err() {
                return Broken::Closed;
            }
        }
        *doubt = false;
        let watching = self.watch(api, clients, version);
        tokio::select! {
            broken = watching => broken,
            changed = relisted.changed() => if changed.is_ok() { Broken::Takeover } else { Broken::Closed },
        }
    }

    async fn send(&self, change: Change) -> Result<(), Broken> {
        self.shared.messages.send(Message::Change(self.place, self.kind, change)).await.map_err(|_| Broken::Closed)
    }

    fn change<K: Into<Object>>(guard: DeserializeGuard<K>, change: impl FnOnce(Object) -> Change) -> Change {
        match guard.0 {
            Ok(object) => change(object.into()),
            Err(invalid) => Change::Unreadable {
                namespace: invalid.metadata.namespace.unwrap_or_default(),
                name: invalid.metadata.name.unwrap_or_default(),
                why: invalid.error,
            },
        }
    }

    async fn list<K>(&self, api: &Api<K>) -> Result<String, Broken>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned + Clone + std::fmt::Debug + Into<Object>,
    {
        let mut started = false;
        let mut from: Option<String> = None;
        loop {
            let mut parameters = ListParams::default().limit(PAGE);
            parameters.continue_token.clone_from(&from);
            let Ok(page) = tokio::time::timeout(ANSWER, api.list_guarded(&parameters)).await else {
                return Err(Broken::Silent("does not answer"));
            };
            let page = page?;
            if !started {
                started = true;
                self.send(Change::Started).await?;
            }
            for guard in page.items {
                self.send(Self::change(guard, Change::Listed)).await?;
            }
            from = page.metadata.continue_.filter(|token| !token.is_empty());
            if from.is_none() {
                self.send(Change::Finished).await?;
                return Ok(page.metadata.resource_version.unwrap_or_default());
            }
        }
    }

    async fn watch<K>(
        &self,
        api: &Api<K>,
        clients: &mut channel::Receiver<Option<Client>>,
        version: &mut Option<String>,
    ) -> Broken
    where
        K: Resource<DynamicType = ()> + DeserializeOwned + Clone + std::fmt::Debug + Send + Sync + Into<Object> + 'static,
    {
        let parameters = WatchParams::default().timeout(WATCH_SECONDS);
        let from = version.clone().unwrap_or_default();
        let stream = match tokio::time::timeout(ANSWER, api.watch(&parameters, &from)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return error.into(),
            Err(_) => return Broken::Silent("does not answer"),
        };
        let mut stream = std::pin::pin!(stream);
        let mut kicked = self.shared.kicked.clone();
        kicked.mark_unchanged();
        let mut live = self.place == Place::Here;
        loop {
            if !live {
                live = true;
                // Said before anything of it: the first event may already cause a write to the broker.
                if self.shared.messages.send(Message::Live(self.kind)).await.is_err() {
                    return Broken::Closed;
                }
            }
            let event = tokio::select! {
                event = stream.next() => event,
                () = tokio::time::sleep(IDLE) => return Broken::Silent("sends nothing any more"),
                changed = clients.changed() => return if changed.is_ok() { Broken::NewClient } else { Broken::Closed },
                Ok(()) = kicked.changed(), if self.place == Place::Broker => return Broken::Silent("does not take writes"),
            };
            let (guard, to_change): (_, fn(Object) -> Change) = match event {
                None => return Broken::Ended,
                Some(Err(error)) => return error.into(),
                Some(Ok(WatchEvent::Error(status))) => return kube::Error::Api(status).into(),
                Some(Ok(WatchEvent::Bookmark(bookmark))) => {
                    *version = Some(bookmark.metadata.resource_version);
                    continue;
                }
                Some(Ok(WatchEvent::Added(guard) | WatchEvent::Modified(guard))) => (guard, Change::Applied),
                Some(Ok(WatchEvent::Deleted(guard))) => (guard, Change::Deleted),
            };
            let metadata = match &guard.0 {
                Ok(object) => object.meta(),
                Err(invalid) => &invalid.metadata,
            };
            if let Some(at) = &metadata.resource_version {
                *version = Some(at.clone());
            }
            if let Err(broken) = self.send(Self::change(guard, to_change)).await {
                return broken;
            }
        }
    }
}

/// An error of a connection, as a condition says it.
struct Trouble {
    reason: &'static str,
    message: String,
}

impl Trouble {
    fn of(error: &kube::Error) -> Self {
        if let kube::Error::Api(status) = error {
            let reason = match status.code {
                401 => "Unauthorized",
                403 => "Forbidden",
                _ => "NotWell",
            };
            let remedy = match status.code {
                401 => "; its credential has expired or was revoked: ask for an invitation and join again (daisy join)",
                403 => "; is this cluster still a member? (daisy members)",
                _ => "",
            };
            return Self { reason, message: format!("{} ({}){remedy}", status.message, status.code) };
        }
        let chain = chain(error);
        // rustls names what is wrong with a certificate; kube gives it on as text only.
        let reason = if chain.contains("invalid peer certificate") || chain.contains("InvalidCertificate") {
            if chain.contains("Expired")
                || chain.contains("NotValidYet")
                || chain.contains("expired")
                || chain.contains("not valid yet")
            {
                "CertificateNotValidNow"
            } else {
                "CertificateNotTrusted"
            }
        } else {
            "Unreachable"
        };
        let remedy = match reason {
            "CertificateNotValidNow" => "; are the clocks right here and at the broker?",
            "CertificateNotTrusted" => {
                "; whoever answers there has not the certificate that broker-info.daisy pins: it is another server, or the broker \
                 was made anew, and then this cluster must join again (daisy join)"
            }
            _ => {
                "; is the broker up, and may this cluster's pods connect to the server in Secret daisy-system/daisy-broker-access?"
            }
        };
        // kube's own words for that something went wrong say nothing.
        let cause = chain.trim_start_matches("ServiceError: ");
        Self { reason, message: format!("{cause}{remedy}") }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let said = inner.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        source = inner.source();
    }
    text
}
