//! Kubernetes watches as the registrar's machine takes them in.

use std::fmt::Debug;
use std::time::Duration;

use daisy_broker_core::registrar::Change;
use daisy_kubernetes::Api;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, stream};
use kube::Resource;
use kube::core::DeserializeGuard;
use kube::runtime::WatchStreamExt;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event};
use serde::de::DeserializeOwned;

/// What a watch brings.
#[derive(Debug)]
pub(super) enum Heard<K> {
    /// A change.
    Change(Change<K>),
    /// An object that does not parse. The others of its list or watch are not held up.
    Unreadable { namespace: String, name: String, cause: String },
    /// The watch broke; it begins anew by itself, with a list.
    Broken(String),
}

/// Waits of 100 ms, doubling up to 5 s: a broker that comes back is seen soon, and one that does not is not hammered.
#[derive(Debug, Default)]
pub(super) struct Reconnect(u32);

impl Iterator for Reconnect {
    type Item = Duration;
    fn next(&mut self) -> Option<Duration> {
        let pause = Duration::from_millis(100 << self.0.min(6)).min(Duration::from_secs(5));
        self.0 = self.0.saturating_add(1);
        Some(pause)
    }
}

impl Backoff for Reconnect {
    fn reset(&mut self) {
        self.0 = 0;
    }
}

/// The changes of all objects of this API that the configuration selects.
pub(super) fn changes<K>(api: Api<K>, config: watcher::Config) -> BoxStream<'static, Heard<K>>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let events = daisy_kubernetes::watcher(api, config).backoff(Reconnect::default());
    gather(events).boxed()
}

/// A list as one change: what a watch's initial events bring one by one.
fn gather<K, E>(
    events: impl Stream<Item = Result<Event<DeserializeGuard<K>>, E>> + Send + 'static,
) -> impl Stream<Item = Heard<K>> + Send
where
    K: Send + 'static,
    E: std::fmt::Display + Send + 'static,
{
    let mut list: Vec<K> = Vec::new();
    let mut unreadable: Vec<Heard<K>> = Vec::new();
    events
        .map(move |event| {
            let change = |guard: DeserializeGuard<K>, make: fn(K) -> Change<K>| match guard.0 {
                Ok(object) => Heard::Change(make(object)),
                Err(invalid) => not_readable(invalid),
            };
            let heard = match event {
                Ok(Event::Init) => {
                    list.clear();
                    unreadable.clear();
                    vec![Heard::Change(Change::Listing)]
                }
                Ok(Event::InitApply(guard)) => {
                    match guard.0 {
                        Ok(object) => list.push(object),
                        Err(invalid) => unreadable.push(not_readable(invalid)),
                    }
                    Vec::new()
                }
                Ok(Event::InitDone) => {
                    let mut all = vec![Heard::Change(Change::Listed(std::mem::take(&mut list)))];
                    all.append(&mut unreadable);
                    all
                }
                Ok(Event::Apply(guard)) => vec![change(guard, Change::Applied)],
                Ok(Event::Delete(guard)) => vec![change(guard, Change::Deleted)],
                Err(error) => vec![Heard::Broken(error.to_string())],
            };
            stream::iter(heard)
        })
        .flatten()
}

fn not_readable<K>(invalid: kube::core::error_boundary::InvalidObject) -> Heard<K> {
    Heard::Unreadable {
        namespace: invalid.metadata.namespace.unwrap_or_default(),
        name: invalid.metadata.name.unwrap_or_default(),
        cause: invalid.error,
    }
}

#[cfg(test)]
mod tests {
    use daisy_api::Member;
    use serde_json::json;

    use super::*;

    fn guard(value: serde_json::Value) -> DeserializeGuard<Member> {
        serde_json::from_value(value).expect("a guard takes everything with metadata")
    }

    #[tokio::test]
    async fn a_list_is_one_change_and_one_bad_object_stops_nothing() {
        let member = json!({
            "apiVersion": "daisy.supercluster.local/v1alpha1", "kind": "Member", "metadata": {"name": "a", "namespace": "daisy-broker"},
            "spec": {"clusterUid": "u", "clusterCidrs": ["10.1.0.0/16"], "serviceCidrs": ["10.2.0.0/16"], "nodeCidr": "100.80.0.0/20",
                     "grant": [], "signingKey": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}});
        let bad =
            json!({"apiVersion": "daisy.supercluster.local/v1alpha1", "kind": "Member", "metadata": {"name": "b"}, "spec": 7});
        let events: Vec<Result<_, String>> = vec![
            Ok(Event::Init),
            Ok(Event::InitApply(guard(member.clone()))),
            Ok(Event::InitApply(guard(bad.clone()))),
            Ok(Event::InitDone),
            Ok(Event::Apply(guard(bad))),
            Err("away".to_owned()),
            Ok(Event::Delete(guard(member))),
        ];
        let heard: Vec<_> = gather(stream::iter(events)).collect().await;
        assert!(matches!(heard[0], Heard::Change(Change::Listing)));
        assert!(matches!(&heard[1], Heard::Change(Change::Listed(all)) if all.len() == 1));
        assert!(matches!(&heard[2], Heard::Unreadable { name, .. } if name == "b"));
        assert!(matches!(&heard[3], Heard::Unreadable { .. }));
        assert!(matches!(&heard[4], Heard::Broken(cause) if cause == "away"));
        assert!(matches!(&heard[5], Heard::Change(Change::Deleted(_))));
        assert_eq!(heard.len(), 6);
    }

    #[test]
    fn waits_grow_and_begin_anew() {
        let mut waits = Reconnect::default();
        assert_eq!(waits.next(), Some(Duration::from_millis(100)));
        assert_eq!(waits.nth(20), Some(Duration::from_secs(5)));
        waits.reset();
        assert_eq!(waits.next(), Some(Duration::from_millis(100)));
    }
}
