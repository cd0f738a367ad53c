//! The registrar's shell: watches the broker, feeds the machine ([`daisy_broker_core::registrar`]), and performs what comes out.
//!
//! ```text
//! broker ──watch──▶ Heard ──▶ Registrar::handle_* ──▶ poll_action ──▶ Hands::perform ──▶ broker
//! ```
//!
//! One task; one action at a time, as one judge needs it. At most one registrar may work on a broker: in the embedded broker there
//! is one by nature; as a Deployment it has one replica and the strategy `Recreate`.

mod events;
pub(crate) mod metrics;
pub(crate) mod perform;
mod watch;

use std::time::Duration;

use anyhow::Context;
use daisy_api::labels::{BROKER_NAMESPACE, MANAGED_BY, MANAGED_BY_DAISY};
use daisy_api::{Cluster, Heartbeat, Invitation, JoinRequest, Member};
use daisy_broker_core::registrar::{Action, Change, Options, Outcome, Registrar};
use futures::StreamExt;
use futures::stream::{BoxStream, SelectAll};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::jiff::Timestamp;
use kube::runtime::watcher::Config;
use kube::{Api, Client, Resource, ResourceExt};
use prometheus::Registry;
use tracing::{debug, info, warn};

use metrics::Metrics;
use perform::Hands;
use watch::Heard;

/// How long one action may take before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// What can be set.
#[derive(Debug, Clone)]
pub struct RegistrarOptions {
    /// Whether clusters may have CIDRs of public addresses.
    pub public_cidrs: bool,
    /// The life of a member's first token; its syncer renews it. At least ten minutes.
    pub token_life: Duration,
    /// Where its metrics are registered.
    pub registry: Registry,
}

impl Default for RegistrarOptions {
    fn default() -> Self {
        Self { public_cidrs: false, token_life: Duration::from_secs(24 * 3600), registry: Registry::new() }
    }
}

#[derive(Debug)]
enum Input {
    Invitation(Heard<Invitation>),
    Member(Heard<Member>),
    Request(Heard<JoinRequest>),
    Cluster(Heard<Cluster>),
    Heartbeat(Heard<Heartbeat>),
    Namespace(Heard<Namespace>),
}

fn watches(client: &Client) -> SelectAll<BoxStream<'static, Input>> {
    let all = Config::default();
    let ours = Config::default().labels(&format!("{MANAGED_BY}={MANAGED_BY_DAISY}"));
    let mut inputs: SelectAll<BoxStream<'static, Input>> = SelectAll::new();
    inputs.push(watch::changes(Api::namespaced(client.clone(), BROKER_NAMESPACE), all.clone()).map(Input::Invitation).boxed());
    inputs.push(watch::changes(Api::namespaced(client.clone(), BROKER_NAMESPACE), all.clone()).map(Input::Member).boxed());
    inputs.push(watch::changes(Api::namespaced(client.clone(), BROKER_NAMESPACE), all.clone()).map(Input::Request).boxed());
    inputs.push(watch::changes(Api::all(client.clone()), all.clone()).map(Input::Cluster).boxed());
    inputs.push(watch::changes(Api::all(client.clone()), all).map(Input::Heartbeat).boxed());
    inputs.push(watch::changes(Api::all(client.clone()), ours).map(Input::Namespace).boxed());
    inputs
}

/// Runs the registrar with a client that has its rights ([`crate::rights::registrar`]) until `shutdown` ends.
///
/// # Errors
/// A broker on which `daisy deploy-broker` made nothing yet, or that cannot be reached at the start; metrics that are registered
/// already. Later failures are retried.
pub async fn run(client: Client, options: RegistrarOptions, shutdown: impl Future<Output = ()> + Send) -> anyhow::Result<()> {
    let metrics = Metrics::new(&options.registry).context("registering the registrar's metrics")?;
    serve(client, &options, &metrics, shutdown).await
}

/// The same, where the metrics are registered already.
pub(crate) async fn serve(
    client: Client,
    options: &RegistrarOptions,
    metrics: &Metrics,
    shutdown: impl Future<Output = ()> + Send,
) -> anyhow::Result<()> {
    let broker_id = crate::setup::broker_id(&client).await.context("the registrar cannot start")?;
    let mut settings = Options::new(broker_id.clone());
    settings.public_cidrs = options.public_cidrs;
    let mut registrar = Registrar::new(settings);
    let token_seconds = i64::try_from(options.token_life.as_secs()).unwrap_or(i64::MAX).max(600);
    let policies = crate::policies::served(&client).await.context("the registrar cannot start")?;
    let hands = Hands { client: client.clone(), broker_id, token_seconds, policies };
    let mut inputs = watches(&client);
    tokio::pin!(shutdown);
    loop {
        while let Some(action) = registrar.poll_action(Timestamp::now()) {
            let outcome = tokio::select! {
                () = &mut shutdown => return Ok(()),
                outcome = perform(&hands, &action) => outcome,
            };
            metrics.count(name(&action), outcome != Outcome::Failed);
            registrar.handle_outcome(outcome, Timestamp::now());
        }
        metrics.members(registrar.members().len());
        let now = Timestamp::now();
        let pause = registrar.poll_deadline(now).duration_since(now).unsigned_abs();
        tokio::select! {
            () = &mut shutdown => return Ok(()),
            input = inputs.next() => match input {
                Some(input) => take_in(&mut registrar, input),
                None => anyhow::bail!("the watches on the broker ended"),
            },
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn perform(hands: &Hands, action: &Action) -> Outcome {
    match tokio::time::timeout(PATIENCE, hands.perform(action)).await {
        Ok(Ok(outcome)) => {
            tell(action);
            events::publish(&hands.client, action);
            outcome
        }
        Ok(Err(error)) => {
            warn!(action = name(action), %error, "not done; it is tried again");
            Outcome::Failed
        }
        Err(_) => {
            warn!(action = name(action), "the broker does not answer; it is tried again");
            Outcome::Failed
        }
    }
}

fn name(action: &Action) -> &'static str {
    match action {
        Action::Answer { .. } => "answer",
        Action::Admit(_) => "admit",
        Action::EndMember { .. } => "end membership",
        Action::RemoveCluster { .. } => "remove cluster",
        Action::DeleteRequest { .. } => "delete request",
        Action::DeleteInvitation { .. } => "delete invitation",
    }
}

/// What an operator wants to read once.
fn tell(action: &Action) {
    match action {
        // The whole name of a request is what lets its maker read it.
        Action::Answer { status, .. } => info!(reason = %status.reason, "join request answered: {}", status.message),
        Action::Admit(admission) => {
            info!(cluster = %admission.member.name_any(), invitation = %admission.invitation, "{}", admission.status.message);
        }
        Action::EndMember { id, why, .. } => info!(cluster = %id, ?why, "membership ended"),
        Action::RemoveCluster { id } => info!(cluster = %id, "its rights, records and namespace are removed"),
        Action::DeleteRequest { .. } => debug!("an old join request is deleted"),
        Action::DeleteInvitation { name } => info!(invitation = %name, "expired; deleted"),
    }
}

/// The change, unless it is none; what is no change is logged.
fn change<K: Resource<DynamicType = ()>>(heard: Heard<K>) -> Option<Change<K>> {
    match heard {
        Heard::Change(change) => Some(change),
        Heard::Unreadable { namespace, name, cause } => {
            warn!(kind = %K::kind(&()), namespace, name, cause, "does not parse; left out");
            None
        }
        Heard::Broken(cause) => {
            warn!(kind = %K::kind(&()), cause, "the watch broke; it begins anew");
            None
        }
    }
}

fn take_in(registrar: &mut Registrar, input: Input) {
    let now = Timestamp::now();
    match input {
        Input::Invitation(heard) => {
            if let Some(change) = change(heard) {
                registrar.handle_invitations(change);
            }
        }
        Input::Member(heard) => {
            if let Some(change) = change(heard) {
                registrar.handle_members(change, now);
            }
        }
        Input::Request(Heard::Unreadable { name, cause, .. }) => registrar.handle_unreadable_request(&name, &cause, now),
        Input::Request(heard) => {
            if let Some(change) = change(heard) {
                registrar.handle_requests(change, now);
            }
        }
        Input::Cluster(heard) => {
            if let Some(change) = change(heard) {
                registrar.handle_clusters(change);
            }
        }
        Input::Heartbeat(heard) => {
            if matches!(heard, Heard::Broken(_)) {
                registrar.handle_blind(now);
            }
            if let Some(change) = change(heard) {
                registrar.handle_heartbeats(change, now);
            }
        }
        Input::Namespace(heard) => {
            if let Some(change) = change(heard) {
                registrar.handle_namespaces(change, now);
            }
        }
    }
}
