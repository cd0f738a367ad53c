//! Kubernetes events: what `kubectl get events -n daisy-system` shows of the syncer's notes.

use std::collections::VecDeque;
use std::time::Duration;

use daisy_api::ClusterId;
use daisy_api::labels::{GROUP, SYSTEM_NAMESPACE, VERSION};
use daisy_api::names::short_hash;
use daisy_broker_core::syncer::{BrokerTrouble, Note, Severity};
use daisy_kubernetes::Api;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Client;
use kube::api::PostParams;
use tokio::time::Instant;
use tracing::debug;

/// How many events may be made within [`WINDOW`]: a storm of them helps nobody, and the log has all.
const AT_MOST: usize = 20;
const WINDOW: Duration = Duration::from_secs(60);
/// The API takes messages of up to 1 KiB.
const MESSAGE_MAX: usize = 1000;

pub(super) struct Events {
    client: Client,
    id: ClusterId,
    made: VecDeque<Instant>,
}

impl Events {
    pub(super) fn new(client: Client, id: ClusterId) -> Self {
        Self { client, id, made: VecDeque::new() }
    }

    /// Publishes a note, if it is one that somebody should look at. An event that cannot be made is no trouble.
    pub(super) fn publish(&mut self, note: &Note) {
        if note.severity() < Severity::Warning {
            return;
        }
        self.make(note.reason(), &note.to_string());
    }

    /// Publishes why there is no working connection to the broker: on a first join there is no Cluster yet that could say so.
    pub(super) fn trouble(&mut self, trouble: &BrokerTrouble) {
        self.make(&trouble.reason, &trouble.message);
    }

    fn make(&mut self, reason: &str, message: &str) {
        let now = Instant::now();
        while self.made.front().is_some_and(|at| now.duration_since(*at) > WINDOW) {
            self.made.pop_front();
        }
        if self.made.len() >= AT_MOST {
            return;
        }
        self.made.push_back(now);
        let event = event(&self.id, reason, message, Timestamp::now());
        let api: Api<Event> = Api::namespaced(self.client.clone(), SYSTEM_NAMESPACE);
        tokio::spawn(async move {
            let parameters = PostParams::default();
            let creating = api.create(&parameters, &event);
            if let Ok(Err(error)) = tokio::time::timeout(Duration::from_secs(5), creating).await {
                debug!("an event could not be made: {error}");
            }
        });
    }
}

fn event(id: &ClusterId, reason: &str, message: &str, now: Timestamp) -> Event {
    let mut message = message.to_owned();
    if message.len() > MESSAGE_MAX {
        message = message.chars().take(MESSAGE_MAX / 4).chain("…".chars()).collect();
    }
    let name = format!("{id}.{}", short_hash(&format!("{reason}{message}{now}"), 16));
    Event {
        metadata: ObjectMeta { namespace: Some(SYSTEM_NAMESPACE.to_owned()), name: Some(name), ..ObjectMeta::default() },
        involved_object: ObjectReference {
            api_version: Some(format!("{GROUP}/{VERSION}")),
            kind: Some("Cluster".to_owned()),
            namespace: Some(SYSTEM_NAMESPACE.to_owned()),
            name: Some(id.to_string()),
            ..ObjectReference::default()
        },
        type_: Some("Warning".to_owned()),
        reason: Some(reason.to_owned()),
        message: Some(message),
        source: Some(EventSource { component: Some("daisy-syncer".to_owned()), host: None }),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        count: Some(1),
        ..Event::default()
    }
}
