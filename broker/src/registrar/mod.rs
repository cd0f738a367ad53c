//! The registrar's shell: watches the broker, feeds the machine ([`daisy_broker_core::registrar`]), and performs what comes out.
//!
//! ```text
//! broker ──watch──▶ Heard ──▶ Registrar::handle_* ──▶ poll_action ──▶ Hands::perform ──▶ broker
//! ```
//!
//! One task; one action at a time, as one judge needs it. At most one registrar works on a broker: in the embedded broker there is
//! one by nature; of a Deployment's replicas it is the one that holds the Lease `daisy-registrar`. Whoever comes to hold it lists
//! everything anew before it judges: what the one before it wrote last must not be missing.

mod events;
pub(crate) mod metrics;
pub(crate) mod perform;
mod watch;

use std::pin::pin;
use std::time::Duration;

use anyhow::Context;
use daisy_api::labels::{BROKER_NAMESPACE, MANAGED_BY, MANAGED_BY_DAISY};
use daisy_api::{Cluster, Heartbeat, Invitation, JoinRequest, Member};
use daisy_broker_core::registrar::{Action, Change, Options, Outcome, Registrar};
use daisy_kubernetes::Api;
use futures::StreamExt;
use futures::stream::{BoxStream, SelectAll};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::jiff::Timestamp;
use kube::runtime::watcher::Config;
use kube::{Client, Resource, ResourceExt};
use prometheus::Registry;
use tracing::{debug, info, warn};

use crate::lease::{Election, LeaseOptions, Turn};
use metrics::Metrics;
use perform::Hands;
use watch::Heard;

/// The Lease of the one that judges, in `daisy-broker`.
pub const LEASE: &str = "daisy-registrar";
/// How long the last action may take once the registrar is told to stop.
const LAST: Duration = Duration::from_secs(5);
/// How long one action may take before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// What can be set.
#[derive(Debug, Clone)]
pub struct RegistrarOptions {
    /// Whether clusters may have CIDRs of public addresses.
    pub public_cidrs: bool,
    /// The life of a member's first token; its syncer renews it. At least ten minutes.
    pub token_life: Duration,
    /// This replica's name among those of which one judges ([`LeaseOptions::identity`]); without one, a name is made up.
    pub replica: Option<String>,
    /// Where its metrics are registered.
    pub registry: Registry,
}

impl Default for RegistrarOptions {
    fn default() -> Self {
        let token_life = Duration::from_secs(24 * 3600);
        Self { public_cidrs: false, token_life, replica: None, registry: Registry::new() }
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

/// Runs the registrar with a client that has its rights (`manifests/broker/`) until `shutdown` ends. Of several that run,
/// the one that holds the Lease `daisy-registrar` in `daisy-broker` judges; the others stand by.
///
/// # Errors
/// A broker on which `daisy deploy-broker` made nothing yet, or that cannot be reached at the start; metrics that are registered
/// already. Later failures are retried.
pub async fn run(client: Client, options: RegistrarOptions, shutdown: impl Future<Output = ()> + Send) -> anyhow::Result<()> {
    let metrics = Metrics::new(&options.registry).context("registering the registrar's metrics")?;
    let lease = LeaseOptions::new(BROKER_NAMESPACE, LEASE, options.replica.clone());
    let (election, mut turn) = Election::start(&client, lease);
    let mut shutdown = pin!(shutdown);
    let ended = loop {
        tokio::select! {
            () = &mut shutdown => break Ok(()),
            () = turn.becomes(true) => {}
        }
        match serve(&client, &options, &metrics, &mut shutdown, turn.clone()).await {
            Ok(Ended::TurnOver) => {}
            Ok(Ended::Stopped) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    election.end().await;
    ended
}

/// Why a registrar ended that nothing went wrong with.
pub(crate) enum Ended {
    /// It was told to.
    Stopped,
    /// Another judges.
    TurnOver,
}

/// The same, where the metrics are registered already and it is this registrar's turn.
pub(crate) async fn serve(
    client: &Client,
    options: &RegistrarOptions,
    metrics: &Metrics,
    mut shutdown: impl Future<Output = ()> + Unpin,
    mut turn: Turn,
) -> anyhow::Result<Ended> {
    let broker_id = crate::setup::broker_id(client).await.context("the registrar cannot start")?;
    let mut settings = Options::new(broker_id.clone());
    settings.public_cidrs = options.public_cidrs;
    let mut registrar = Registrar::new(settings);
    let token_seconds = i64::try_from(options.token_life.as_secs()).unwrap_or(i64::MAX).max(600);
    let policies = crate::policies::served(client).await.context("the registrar cannot start")?;
    let hands = Hands { client: client.clone(), broker_id, token_seconds, policies };
    let mut inputs = watches(client);
    let mut over = pin!(turn.becomes(false));
    loop {
        while let Some(action) = registrar.poll_action(Timestamp::now()) {
            let mut acting = pin!(perform(&hands, &action));
            let outcome = tokio::select! {
                biased;
                () = &mut over => return Ok(Ended::TurnOver),
                outcome = &mut acting => outcome,
                () = &mut shutdown => {
                    // What is begun is finished, so that whoever judges next sees all of it.
                    let _ = tokio::time::timeout(LAST, acting).await;
                    return Ok(Ended::Stopped);
                }
            };
            metrics.count(name(&action), outcome != Outcome::Failed);
            registrar.handle_outcome(outcome, Timestamp::now());
        }
        metrics.members(registrar.members().len());
        let now = Timestamp::now();
        let pause = registrar.poll_deadline(now).duration_since(now).unsigned_abs();
        tokio::select! {
            biased;
            () = &mut over => return Ok(Ended::TurnOver),
            () = &mut shutdown => return Ok(Ended::Stopped),
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
