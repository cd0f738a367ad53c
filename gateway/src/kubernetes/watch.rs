//! Following one kind of object: an object that does not parse is named and skipped, and never stops the others.

use std::fmt::Debug;

use daisy_kubernetes::Api;
use futures::stream::{BoxStream, Stream};
use futures::{StreamExt as _, future};
use kube::core::DeserializeGuard;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event};
use kube::{Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tracing::warn;

/// What became of the objects.
#[derive(Debug)]
pub(super) enum Change<K> {
    /// One is there or has changed.
    Applied(K),
    /// The one of this name is gone.
    Deleted(String),
    /// These are all; those of the names beside them are there, and do not parse.
    All(Vec<K>, Vec<String>),
}

/// The changes of the objects of an API. Never ends; reconnects with backoff.
pub(super) fn follow<K>(api: Api<K>, config: watcher::Config) -> BoxStream<'static, Change<K>>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let kind = K::kind(&());
    let (mut listed, mut unreadable) = (Vec::new(), Vec::new());
    changes(daisy_kubernetes::watcher(api, config).default_backoff(), kind.into_owned(), move |event, kind| match event {
        Event::Init => {
            listed.clear();
            unreadable.clear();
            None
        }
        Event::InitApply(object) => {
            let name = object.name_any();
            match read(object, kind) {
                Some(object) => listed.push(object),
                None => unreadable.push(name),
            }
            None
        }
        Event::InitDone => Some(Change::All(std::mem::take(&mut listed), std::mem::take(&mut unreadable))),
        Event::Apply(object) => read(object, kind).map(Change::Applied),
        Event::Delete(object) => Some(Change::Deleted(object.name_any())),
    })
    .boxed()
}

fn changes<K>(
    events: impl Stream<Item = Result<Event<DeserializeGuard<K>>, watcher::Error>>,
    kind: String,
    mut change: impl FnMut(Event<DeserializeGuard<K>>, &str) -> Option<Change<K>>,
) -> impl Stream<Item = Change<K>> {
    events.filter_map(move |event| {
        future::ready(match event {
            Ok(event) => change(event, &kind),
            Err(error) => {
                warn!(%error, "watching {kind} objects failed; trying again");
                None
            }
        })
    })
}

fn read<K: Resource<DynamicType = ()>>(object: DeserializeGuard<K>, kind: &str) -> Option<K> {
    match object.0 {
        Ok(object) => Some(object),
        Err(invalid) => {
            let name = invalid.metadata.name.unwrap_or_default();
            warn!(error = %invalid.error, "{kind} {name} does not parse and is skipped");
            None
        }
    }
}
