//! Kubernetes events: what `kubectl get events -n daisy-broker` shows of who came, went, or was refused.

use std::time::Duration;

use daisy_api::labels::{BROKER_NAMESPACE, GROUP, VERSION};
use daisy_api::names::short_hash;
use daisy_api::{JoinPhase, JoinRequestStatus};
use daisy_broker_core::registrar::{Action, Ending};
use daisy_kubernetes::Api;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Client, ResourceExt};
use tracing::debug;

/// The API takes messages of up to 1 KiB.
const MESSAGE_MAX: usize = 1000;
/// Where the latest event has to wait, it is no news any more.
const PATIENCE: Duration = Duration::from_secs(5);

/// What an event is about, its type, reason and message; `None` for what is nobody's news.
fn news(action: &Action) -> Option<(&'static str, String, &'static str, String, String)> {
    match action {
        Action::Answer { status: JoinRequestStatus { phase: JoinPhase::Refused, reason, message, .. }, invitation, .. } => {
            Some(("Invitation", invitation.clone(), "Warning", reason.clone(), message.clone()))
        }
        Action::Admit(admission) => {
            Some(("Member", admission.member.name_any(), "Normal", "Admitted".into(), admission.status.message.clone()))
        }
        Action::EndMember { id, why, .. } => {
            let (type_, reason, message) = match why {
                Ending::Left => ("Normal", "Left", "it asked to leave"),
                Ending::Lapsed => ("Warning", "Lapsed", "no heartbeat was seen for as long as a membership lasts"),
                Ending::Replaced => {
                    ("Warning", "Replaced", "another cluster took its ID with --replace and a fresh invitation")
                }
            };
            Some(("Member", id.to_string(), type_, reason.into(), message.into()))
        }
        Action::Answer { .. }
        | Action::RemoveCluster { .. }
        | Action::DeleteRequest { .. }
        | Action::DeleteInvitation { .. } => None,
    }
}

/// Publishes what was done, if it is news. An event that cannot be made is no trouble.
pub(super) fn publish(client: &Client, action: &Action) {
    let Some((kind, object, type_, reason, message)) = news(action) else { return };
    let now = Timestamp::now();
    let message: String = if message.len() > MESSAGE_MAX { message.chars().take(MESSAGE_MAX / 4).collect() } else { message };
    let name = format!("{object}.{}", short_hash(&format!("{reason}{message}{now}"), 16));
    let event = Event {
        metadata: ObjectMeta { namespace: Some(BROKER_NAMESPACE.to_owned()), name: Some(name), ..ObjectMeta::default() },
        involved_object: ObjectReference {
            api_version: Some(format!("{GROUP}/{VERSION}")),
            kind: Some(kind.to_owned()),
            namespace: Some(BROKER_NAMESPACE.to_owned()),
            name: Some(object),
            ..ObjectReference::default()
        },
        type_: Some(type_.to_owned()),
        reason: Some(reason),
        message: Some(message),
        source: Some(EventSource { component: Some("daisy-registrar".to_owned()), host: None }),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        count: Some(1),
        ..Event::default()
    };
    let api: Api<Event> = Api::namespaced(client.clone(), BROKER_NAMESPACE);
    tokio::spawn(async move {
        let params = PostParams::default();
        if let Ok(Err(error)) = tokio::time::timeout(PATIENCE, api.create(&params, &event)).await {
            debug!("an event could not be made: {error}");
        }
    });
}
