//! A watch of one kind as a stream of changes that goes on whatever happens to the connection.

use std::fmt::Debug;

use daisy_kubernetes::Api;
use futures::{Stream, StreamExt};
use kube::Resource;
use kube::core::DeserializeGuard;
use kube::runtime::{WatchStreamExt, watcher};
use serde::de::DeserializeOwned;

/// Something seen of a kind's objects.
#[derive(Clone, Debug)]
pub(crate) enum Change<K> {
    /// All that there are.
    List(Vec<K>),
    /// One is there, as this.
    Set(K),
    /// One is gone, says the watch; this was its last state.
    Gone(K),
    /// One is gone, says the answer to our own request; the watch will say so, too.
    Deleted(K),
}

impl<K> Change<K> {
    /// Whether this is all that there is.
    pub(crate) fn is_list(&self) -> bool {
        matches!(self, Self::List(_))
    }
}

/// Watches all objects of a kind: first a list, then what changes, with a list again after a gap. An object that does not parse is
/// named in the log and left out; the others go on.
pub(crate) fn changes<K>(client: kube::Client, config: watcher::Config) -> impl Stream<Item = Change<K>> + Send
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let api: Api<K> = Api::all(client);
    let mut listing: Vec<K> = Vec::new();
    let events = daisy_kubernetes::watcher(api, config).default_backoff();
    events.filter_map(move |event| {
        let change = match event {
            Ok(watcher::Event::Init) => {
                listing.clear();
                None
            }
            Ok(watcher::Event::InitApply(object)) => {
                listing.extend(parsed(object));
                None
            }
            Ok(watcher::Event::InitDone) => Some(Change::List(std::mem::take(&mut listing))),
            Ok(watcher::Event::Apply(object)) => parsed(object).map(Change::Set),
            Ok(watcher::Event::Delete(object)) => parsed(object).map(Change::Gone),
            Err(error) => {
                tracing::debug!(kind = %K::kind(&()), %error, "watch interrupted; it is taken up again");
                None
            }
        };
        futures::future::ready(change)
    })
}

fn parsed<K: Resource<DynamicType = ()>>(object: DeserializeGuard<K>) -> Option<K> {
    match object.0 {
        Ok(object) => Some(object),
        Err(invalid) => {
            let namespace = invalid.metadata.namespace.unwrap_or_default();
            let name = invalid.metadata.name.unwrap_or_default();
            tracing::warn!(kind = %K::kind(&()), %namespace, %name, error = %invalid.error, "this object does not parse and is left out");
            None
        }
    }
}
