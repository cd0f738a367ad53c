//! The watches: events of the API server into the index, snapshots out of it.

use std::fmt::Debug;

use daisy_api::labels;
use daisy_dns_core::{Fact, Index, ObjectRef, Source};
use daisy_kubernetes::Api;
use futures::stream::{BoxStream, Stream, StreamExt, select_all};
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::core::DeserializeGuard;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Config, Event};
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tracing::{info, warn};

use crate::facts::{self, Scope, Unusable};
use crate::{Current, Metrics};

/// The most events that are taken in before a snapshot is published.
const BATCH: usize = 1024;

/// An event of one of the watches.
#[derive(Debug)]
pub struct Input {
    source: Source,
    what: What,
}

#[derive(Debug)]
enum What {
    List,
    Listed,
    Apply(ObjectRef, Option<Fact>),
    Unreadable(ObjectRef),
    Delete(ObjectRef),
    Failed,
}

/// The watches that a scope needs.
#[must_use]
pub fn streams(client: &Client, scope: Scope) -> Vec<BoxStream<'static, Input>> {
    let all = Config::default;
    let mut streams = vec![
        inputs(Api::all(client.clone()), all(), Source::Services, move |s: &Service| facts::service(scope, s)).boxed(),
        inputs(
            Api::all(client.clone()),
            all().labels(labels::SLICE_HEADLESS),
            Source::LocalSlices,
            move |s: &EndpointSlice| facts::local_slice(scope, s),
        )
        .boxed(),
        inputs(Api::all(client.clone()), all(), Source::Namespaces, |n: &Namespace| facts::namespace(n)).boxed(),
    ];
    if scope == Scope::Supercluster {
        let ours = format!("{}={}", labels::SLICE_MANAGED_BY, labels::SLICE_MANAGED_BY_DAISY);
        let api = Api::namespaced(client.clone(), labels::SYSTEM_NAMESPACE);
        streams
            .push(inputs(api, all().labels(&ours), Source::ImportSlices, |s: &EndpointSlice| facts::import_slice(s)).boxed());
    }
    streams
}

/// Takes in the events and publishes what comes of them, for as long as the watches last, which is for ever.
pub async fn feed(streams: Vec<BoxStream<'static, Input>>, mut index: Index, current: &Current, metrics: &Metrics) {
    let mut batches = select_all(streams).ready_chunks(BATCH);
    while let Some(batch) = batches.next().await {
        let before = (index.snapshot().serial(), index.snapshot().synced());
        for input in batch {
            take(&mut index, input, metrics);
        }
        let snapshot = index.snapshot();
        if before == (snapshot.serial(), snapshot.synced()) {
            continue;
        }
        current.publish(snapshot.clone());
        metrics.published(snapshot);
        if snapshot.synced() && !before.1 {
            let counts = snapshot.counts();
            info!(services = counts.locals, imports = counts.imports, "everything is read; all names are answered");
        }
    }
}

fn take(index: &mut Index, input: Input, metrics: &Metrics) {
    let source = input.source;
    match input.what {
        What::List => index.handle_list(source),
        What::Listed => index.handle_listed(source),
        What::Apply(object, fact) => index.handle_apply(source, object, fact),
        What::Unreadable(object) => {
            metrics.skipped(source);
            index.handle_unreadable(source, &object);
        }
        What::Delete(object) => index.handle_delete(source, &object),
        What::Failed => metrics.watch_failed(source),
    }
}

fn inputs<K>(
    api: Api<K>,
    config: Config,
    source: Source,
    fact: impl Fn(&K) -> Result<Option<Fact>, Unusable> + Send + 'static,
) -> impl Stream<Item = Input> + Send
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    daisy_kubernetes::watcher(api, config).default_backoff().map(move |event| Input { source, what: what(event, &fact) })
}

fn what<K: Resource<DynamicType = ()>>(
    event: Result<Event<DeserializeGuard<K>>, watcher::Error>,
    fact: &impl Fn(&K) -> Result<Option<Fact>, Unusable>,
) -> What {
    let kind = K::kind(&());
    match event {
        Ok(Event::Init) => What::List,
        Ok(Event::InitDone) => What::Listed,
        Ok(Event::Delete(object)) => What::Delete(object_ref(&object)),
        Ok(Event::Apply(object) | Event::InitApply(object)) => {
            let name = object_ref(&object);
            match object.0 {
                Ok(object) => {
                    let fact = fact(&object).unwrap_or_else(|reason| {
                        warn!("{kind} {name} has no names: {reason}");
                        None
                    });
                    What::Apply(name, fact)
                }
                Err(invalid) => {
                    warn!("{kind} {name} cannot be read; what was known of it stays: {invalid}");
                    What::Unreadable(name)
                }
            }
        }
        Err(error) => {
            warn!("watching {kind}: {error}; what is known goes on being answered");
            What::Failed
        }
    }
}

fn object_ref(object: &impl ResourceExt) -> ObjectRef {
    ObjectRef::new(object.namespace().unwrap_or_default(), object.name_any())
}
