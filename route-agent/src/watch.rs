//! Following the objects: an object that does not parse is named and skipped, and never stops the others.

use std::collections::BTreeSet;
use std::fmt::Debug;

use daisy_api::labels::SYSTEM_NAMESPACE;
use daisy_api::{Cluster, Gateway, ServiceExport};
use daisy_kubernetes::Api;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::core::DeserializeGuard;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event};
use kube::{Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::warn;

/// How many changes wait at most; a watch that is faster waits.
const QUEUE: usize = 1024;

/// What became of one kind's objects.
#[derive(Debug)]
pub(crate) enum Change<K> {
    /// One is there or has changed.
    Applied(Box<K>),
    /// One is gone.
    Deleted {
        /// Its namespace; empty without one.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// All that are there have been applied, and all that are gone deleted.
    Synced,
}

/// A change of any kind that the agent follows.
#[derive(Debug)]
pub(crate) enum Input {
    Cluster(Change<Cluster>),
    Node(Change<Node>),
    Gateway(Change<Gateway>),
    Export(Change<ServiceExport>),
    Service(Change<Service>),
    Slice(Change<EndpointSlice>),
}

/// How many kinds are followed.
pub(crate) const KINDS: usize = 6;

/// The watches. They end with this value.
pub(crate) struct Watches {
    pub(crate) inputs: mpsc::Receiver<Input>,
    _tasks: JoinSet<()>,
}

impl Watches {
    /// Begins to follow all kinds.
    pub(crate) fn start(client: &Client) -> Self {
        let (sender, inputs) = mpsc::channel(QUEUE);
        let mut tasks = JoinSet::new();
        let system = |client: &Client| client.clone();
        tasks.spawn(follow(Api::namespaced(system(client), SYSTEM_NAMESPACE), sender.clone(), Input::Cluster));
        tasks.spawn(follow(Api::namespaced(system(client), SYSTEM_NAMESPACE), sender.clone(), Input::Gateway));
        tasks.spawn(follow(Api::all(client.clone()), sender.clone(), Input::Node));
        tasks.spawn(follow(Api::all(client.clone()), sender.clone(), Input::Export));
        tasks.spawn(follow(Api::all(client.clone()), sender.clone(), Input::Service));
        tasks.spawn(follow(Api::all(client.clone()), sender, Input::Slice));
        Self { inputs, _tasks: tasks }
    }
}

/// Follows one kind for ever; reconnects with backoff.
async fn follow<K>(api: Api<K>, sender: mpsc::Sender<Input>, wrap: fn(Change<K>) -> Input)
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let kind = K::kind(&());
    let mut events = daisy_kubernetes::watcher(api, watcher::Config::default()).default_backoff().boxed();
    let (mut known, mut listed) = (BTreeSet::new(), BTreeSet::new());
    while let Some(event) = events.next().await {
        let mut changes = Vec::new();
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(object)) => {
                listed.insert(key(&object));
                changes.extend(read(object, &kind));
            }
            Ok(Event::InitDone) => {
                let gone = known.difference(&listed).cloned();
                changes.extend(gone.map(|(namespace, name)| Change::Deleted { namespace, name }));
                changes.push(Change::Synced);
                known = std::mem::take(&mut listed);
            }
            Ok(Event::Apply(object)) => {
                known.insert(key(&object));
                changes.extend(read(object, &kind));
            }
            Ok(Event::Delete(object)) => {
                let (namespace, name) = key(&object);
                known.remove(&(namespace.clone(), name.clone()));
                changes.push(Change::Deleted { namespace, name });
            }
            Err(error) => warn!(%error, "watching {kind} objects failed; trying again"),
        }
        for change in changes {
            if sender.send(wrap(change)).await.is_err() {
                return;
            }
        }
    }
}

fn key<K: Resource>(object: &K) -> (String, String) {
    (object.namespace().unwrap_or_default(), object.name_any())
}

fn read<K: Resource<DynamicType = ()>>(object: DeserializeGuard<K>, kind: &str) -> Option<Change<K>> {
    match object.0 {
        Ok(object) => Some(Change::Applied(Box::new(object))),
        Err(invalid) => {
            let (namespace, name) = (invalid.metadata.namespace.unwrap_or_default(), invalid.metadata.name.unwrap_or_default());
            warn!(error = %invalid.error, "{kind} {namespace}/{name} does not parse and is skipped");
            None
        }
    }
}
