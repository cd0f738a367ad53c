//! DaemonSets: one Pod on each node that fits, from the moment it fits.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetSpec, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;

use super::deployment::{Plan, scaled};
use super::placement::daemon_fits;
use super::pods::{HashLabel, from_template, is_finished, is_ready, is_terminating, node_of, replaceable_at, template_hash};

/// The label that tells a DaemonSet's generations of Pods apart.
const HASH_LABEL: &str = "controller-revision-hash";

/// What is to be done for this DaemonSet, whose Pods these are, on these nodes.
pub(crate) fn plan(set: &DaemonSet, pods: &[Arc<Pod>], nodes: &BTreeMap<&str, &Node>, now: Timestamp) -> Plan<DaemonSetStatus> {
    let mut plan = Plan { create: Vec::new(), delete: Vec::new(), status: None, again_at: None };
    let (Some(spec), Some(owner)) = (set.spec.as_ref(), owner_reference(set)) else { return plan };
    let Some(template) = spec.template.spec.as_ref().filter(|_| set.metadata.deletion_timestamp.is_none()) else { return plan };
    let hash = template_hash(&spec.template);
    let mut by_node: BTreeMap<&str, Vec<&Arc<Pod>>> = BTreeMap::new();
    for pod in pods {
        by_node.entry(node_of(pod).unwrap_or_default()).or_default().push(pod);
    }
    let wanted: Vec<&str> = nodes.iter().filter(|(_, n)| daemon_fits(template, n)).map(|(name, _)| *name).collect();
    for (node, pods) in &by_node {
        if !wanted.contains(node) {
            plan.delete.extend(pods.iter().filter(|p| !is_terminating(p)).map(|p| Arc::clone(p)));
        }
    }
    let mut count = Count::default();
    let mut outdated = Vec::new();
    for node in &wanted {
        let here = by_node.get(node).map(Vec::as_slice).unwrap_or_default();
        let Some(keep) = keep_one(here, &mut plan, now) else {
            // The one that is going makes room first: two of a kind on the host network would fight for its ports.
            if here.iter().all(|p| plan.delete.iter().any(|d| Arc::ptr_eq(d, p))) {
                let mut pod = from_template(
                    &spec.template,
                    &owner,
                    set.metadata.namespace.as_deref().unwrap_or_default(),
                    &HashLabel { name: HASH_LABEL, hash: &hash },
                    &format!("{}-", owner.name),
                );
                if let Some(spec) = pod.spec.as_mut() {
                    spec.node_name = Some((*node).to_owned());
                }
                plan.create.push(pod);
            }
            continue;
        };
        count.scheduled += 1;
        count.ready += usize::from(is_ready(keep));
        if keep.metadata.labels.as_ref().and_then(|l| l.get(HASH_LABEL)) == Some(&hash) {
            count.updated += 1;
        } else {
            outdated.push(keep);
        }
    }
    count.misscheduled = by_node.iter().filter(|(node, _)| !wanted.contains(node)).map(|(_, pods)| pods.len()).sum();
    plan.delete.extend(roll(spec, wanted.len(), &count, outdated));
    let status = status(set, wanted.len(), &count);
    plan.status = (set.status.as_ref() != Some(&status)).then_some(status);
    plan
}

#[derive(Default)]
struct Count {
    scheduled: usize,
    updated: usize,
    ready: usize,
    misscheduled: usize,
}

/// The Pod of a node that stays: the oldest of those that still run. The others go.
fn keep_one<'a>(here: &[&'a Arc<Pod>], plan: &mut Plan<DaemonSetStatus>, now: Timestamp) -> Option<&'a Arc<Pod>> {
    let mut alive = Vec::new();
    for pod in here.iter().filter(|p| !is_terminating(p)) {
        if !is_finished(pod) {
            alive.push(*pod);
            continue;
        }
        match replaceable_at(pod) {
            Some(at) if at > now => plan.again_at = Some(plan.again_at.map_or(at, |a| a.min(at))),
            _ => plan.delete.push(Arc::clone(pod)),
        }
    }
    alive.sort_by_key(|p| (p.metadata.creation_timestamp.as_ref().map(|t| t.0), p.metadata.name.clone()));
    let mut alive = alive.into_iter();
    let keep = alive.next();
    plan.delete.extend(alive.map(Arc::clone));
    keep
}

/// Which Pods of an older template go now: those that serve nobody, and as many others as may be unavailable.
fn roll(spec: &DaemonSetSpec, desired: usize, count: &Count, outdated: Vec<&Arc<Pod>>) -> Vec<Arc<Pod>> {
    let strategy = spec.update_strategy.as_ref();
    if strategy.and_then(|s| s.type_.as_deref()) == Some("OnDelete") {
        return Vec::new();
    }
    let one = IntOrString::Int(1);
    let most = strategy.and_then(|s| s.rolling_update.as_ref()).and_then(|r| r.max_unavailable.as_ref()).unwrap_or(&one);
    let most = scaled(most, desired, true).max(1);
    let mut room = most.saturating_sub(desired.saturating_sub(count.ready));
    let mut go = |pod: &&Arc<Pod>| {
        if !is_ready(pod) {
            return true;
        }
        let fits = room > 0;
        room = room.saturating_sub(1);
        fits
    };
    outdated.into_iter().filter(|p| go(p)).map(Arc::clone).collect()
}

fn owner_reference(set: &DaemonSet) -> Option<OwnerReference> {
    Some(OwnerReference {
        api_version: "apps/v1".to_owned(),
        kind: "DaemonSet".to_owned(),
        name: set.metadata.name.clone()?,
        uid: set.metadata.uid.clone()?,
        controller: Some(true),
        block_owner_deletion: Some(true),
    })
}

fn status(set: &DaemonSet, desired: usize, count: &Count) -> DaemonSetStatus {
    let number = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    let some = |n: usize| (n > 0).then(|| number(n));
    DaemonSetStatus {
        observed_generation: set.metadata.generation,
        desired_number_scheduled: number(desired),
        current_number_scheduled: number(count.scheduled),
        updated_number_scheduled: some(count.updated),
        number_ready: number(count.ready),
        number_available: some(count.ready),
        number_unavailable: some(desired.saturating_sub(count.ready)),
        number_misscheduled: number(count.misscheduled),
        ..DaemonSetStatus::default()
    }
}

#[cfg(test)]
#[path = "daemon_set_tests.rs"]
mod tests;
