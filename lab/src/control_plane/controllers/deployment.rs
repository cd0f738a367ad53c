//! Deployments: their Pods directly, without ReplicaSets between, replaced a few at a time when the template changes.

use std::cmp::Reverse;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentSpec, DeploymentStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;

use super::pods::{
    HashLabel, from_template, is_active, is_finished, is_ready, is_terminating, node_of, replaceable_at, template_hash,
};

/// The label that tells a Deployment's generations of Pods apart.
const HASH_LABEL: &str = "pod-template-hash";

/// What is to be done for a workload.
#[derive(Debug, Default)]
pub(crate) struct Plan<S> {
    /// Pods to make.
    pub(crate) create: Vec<Pod>,
    /// Pods to delete.
    pub(crate) delete: Vec<Arc<Pod>>,
    /// The status, where it differs from what is stored.
    pub(crate) status: Option<S>,
    /// When to look again though nothing changed.
    pub(crate) again_at: Option<Timestamp>,
}

/// What is to be done for this Deployment, whose Pods these are.
pub(crate) fn plan(deployment: &Deployment, pods: &[Arc<Pod>], now: Timestamp) -> Plan<DeploymentStatus> {
    let mut plan = Plan { create: Vec::new(), delete: Vec::new(), status: None, again_at: None };
    let (Some(spec), Some(owner)) = (deployment.spec.as_ref(), owner_reference(deployment)) else { return plan };
    if deployment.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    for pod in pods.iter().filter(|p| is_finished(p) && !is_terminating(p)) {
        match replaceable_at(pod) {
            Some(at) if at > now => plan.again_at = Some(plan.again_at.map_or(at, |a| a.min(at))),
            _ => plan.delete.push(Arc::clone(pod)),
        }
    }
    let hash = template_hash(&spec.template);
    let is_new = |pod: &Arc<Pod>| pod.metadata.labels.as_ref().and_then(|l| l.get(HASH_LABEL)) == Some(&hash);
    // One that failed and still waits to be replaced keeps its place, so that its successor comes no sooner.
    let counts = |pod: &&Arc<Pod>| !is_terminating(pod) && !plan.delete.iter().any(|d| Arc::ptr_eq(d, pod));
    let (mut new, mut old): (Vec<_>, Vec<_>) = pods.iter().filter(counts).cloned().partition(is_new);
    let bounds = Bounds::of(spec);
    let scaled_down = to_delete(&bounds, spec, &mut new, &mut old);
    let create = to_create(&bounds, spec, (new.len(), old.len()), pods.iter().any(|p| is_terminating(p)));
    plan.delete.extend(scaled_down);
    let prefix = format!("{}-{hash}-", owner.name);
    let namespace = deployment.metadata.namespace.as_deref().unwrap_or_default();
    let label = HashLabel { name: HASH_LABEL, hash: &hash };
    plan.create = (0..create).map(|_| from_template(&spec.template, &owner, namespace, &label, &prefix)).collect();
    let status = status(deployment, pods, &hash, &bounds, now);
    plan.status = (deployment.status.as_ref() != Some(&status)).then_some(status);
    plan
}

/// How many Pods there are to be, and how far a roll may stray from that.
struct Bounds {
    desired: usize,
    most: usize,
    least_available: usize,
}

impl Bounds {
    fn of(spec: &DeploymentSpec) -> Self {
        let desired = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
        let rolling = spec.strategy.as_ref().and_then(|s| s.rolling_update.as_ref());
        let quarter = IntOrString::String("25%".to_owned());
        let surge = rolling.and_then(|r| r.max_surge.as_ref()).unwrap_or(&quarter);
        let unavailable = rolling.and_then(|r| r.max_unavailable.as_ref()).unwrap_or(&quarter);
        let surge = scaled(surge, desired, true);
        let unavailable = scaled(unavailable, desired, false).max(usize::from(surge == 0));
        Self { desired, most: desired + surge, least_available: desired.saturating_sub(unavailable) }
    }
}

/// A number, or a percentage of `of`, rounded up or down.
pub(crate) fn scaled(value: &IntOrString, of: usize, up: bool) -> usize {
    match value {
        IntOrString::Int(n) => usize::try_from(*n).unwrap_or(0),
        IntOrString::String(text) => {
            let percent = text.strip_suffix('%').and_then(|p| p.parse::<usize>().ok()).unwrap_or(0);
            let product = percent.saturating_mul(of);
            if up { product.div_ceil(100) } else { product / 100 }
        }
    }
}

fn is_recreate(spec: &DeploymentSpec) -> bool {
    spec.strategy.as_ref().and_then(|s| s.type_.as_deref()) == Some("Recreate")
}

/// Takes what is to go out of `new` and `old`.
fn to_delete(bounds: &Bounds, spec: &DeploymentSpec, new: &mut Vec<Arc<Pod>>, old: &mut Vec<Arc<Pod>>) -> Vec<Arc<Pod>> {
    // Those that serve least go first; among equals the youngest.
    let order = |p: &Arc<Pod>| {
        (
            is_ready(p),
            node_of(p).is_some(),
            Reverse(p.metadata.creation_timestamp.as_ref().map(|t| t.0)),
            p.metadata.name.clone(),
        )
    };
    new.sort_by_key(order);
    old.sort_by_key(order);
    let paused = spec.paused == Some(true);
    let mut out: Vec<Arc<Pod>> = new.drain(..new.len().saturating_sub(bounds.desired)).collect();
    let total = new.len() + old.len();
    let go = if is_recreate(spec) && !paused {
        old.len()
    } else if paused {
        total.saturating_sub(bounds.desired).min(old.len())
    } else {
        // As many old ones as can go with the least number still available; those that are not ready go first and free of
        // charge, except for the room that new ones which are not ready yet will need.
        let unready_new = new.iter().filter(|p| !is_ready(p)).count();
        let unready_old = old.iter().filter(|p| !is_ready(p)).count();
        let available = new.len() + old.len() - unready_new - unready_old;
        let free = unready_old.min(total.saturating_sub(bounds.least_available + unready_new));
        free + if free == unready_old {
            available.saturating_sub(bounds.least_available).min(old.len() - unready_old)
        } else {
            0
        }
    };
    out.extend(old.drain(..go.min(old.len())));
    out
}

fn to_create(bounds: &Bounds, spec: &DeploymentSpec, (new, old): (usize, usize), terminating: bool) -> usize {
    let missing = bounds.desired.saturating_sub(new);
    if spec.paused == Some(true) {
        return bounds.desired.saturating_sub(new + old);
    }
    if is_recreate(spec) {
        return if old == 0 && !terminating { missing } else { 0 };
    }
    missing.min(bounds.most.saturating_sub(new + old))
}

fn owner_reference(deployment: &Deployment) -> Option<OwnerReference> {
    Some(OwnerReference {
        api_version: "apps/v1".to_owned(),
        kind: "Deployment".to_owned(),
        name: deployment.metadata.name.clone()?,
        uid: deployment.metadata.uid.clone()?,
        controller: Some(true),
        block_owner_deletion: Some(true),
    })
}

fn status(deployment: &Deployment, pods: &[Arc<Pod>], hash: &String, bounds: &Bounds, now: Timestamp) -> DeploymentStatus {
    let active: Vec<_> = pods.iter().filter(|p| is_active(p)).collect();
    let is_new = |p: &&&Arc<Pod>| p.metadata.labels.as_ref().and_then(|l| l.get(HASH_LABEL)) == Some(hash);
    let updated = active.iter().filter(is_new).count();
    let ready = active.iter().filter(|p| is_ready(p)).count();
    let number = |n: usize| (n > 0).then(|| i32::try_from(n).unwrap_or(i32::MAX));
    let available = ready >= bounds.least_available;
    let complete = updated == bounds.desired && active.len() == updated && ready >= bounds.desired;
    let had = deployment.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let (words, progress) = (
        if available {
            ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
        } else {
            ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
        },
        if complete {
            ("True", "NewReplicaSetAvailable", "All Pods of the current template are available.")
        } else {
            ("True", "ReplicaSetUpdated", "Pods of the current template are being made available.")
        },
    );
    DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: number(active.len()),
        updated_replicas: number(updated),
        ready_replicas: number(ready),
        available_replicas: number(ready),
        unavailable_replicas: number(bounds.desired.saturating_sub(ready)),
        conditions: Some(vec![condition("Available", words, had, now), condition("Progressing", progress, had, now)]),
        ..DeploymentStatus::default()
    }
}

fn condition(
    kind: &str,
    (status, reason, message): (&str, &str, &str),
    had: &[DeploymentCondition],
    now: Timestamp,
) -> DeploymentCondition {
    let now = Timestamp::from_second(now.as_second()).map_or(Time(now), Time);
    let had = had.iter().find(|c| c.type_ == kind);
    let same_status = had.filter(|c| c.status == status);
    let same = same_status.filter(|c| c.reason.as_deref() == Some(reason));
    DeploymentCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: same_status.and_then(|c| c.last_transition_time.clone()).or(Some(now.clone())),
        last_update_time: same.and_then(|c| c.last_update_time.clone()).or(Some(now)),
    }
}

#[cfg(test)]
#[path = "deployment_tests.rs"]
mod tests;
