//! What there is, what has to be looked at because of it, and what comes of looking. Decides only; [`super::shell`] performs.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use daisy_api::labels::{SLICE_MANAGED_BY, SLICE_SERVICE_NAME};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::jiff::Timestamp;

use super::placement::{choose, placement_facts};
use super::pods::{controller_of, is_active, is_terminating, node_of};
use super::store::{ObjectKey, Step, Store};
use super::work::{Action, Dependent, Kind, Seen, Work};
use super::{daemon_set, deployment, slices};

/// The kinds whose objects own others here. What belongs to another kind is left alone.
const OWNER_KINDS: [(&str, &str); 4] = [("apps/v1", "Deployment"), ("apps/v1", "DaemonSet"), ("v1", "Service"), ("v1", "Node")];
/// After a failed request: this long, doubled with each failure, up to the most.
const RETRY_FIRST: Duration = Duration::from_millis(20);
const RETRY_MOST: Duration = Duration::from_secs(5);
/// How long until a namespace that was not yet empty is looked at again.
const EMPTYING: Duration = Duration::from_secs(1);

fn cluster_key(name: &str) -> ObjectKey {
    ObjectKey { namespace: String::new(), name: name.to_owned() }
}

/// The state of all controllers.
#[derive(Default)]
pub(crate) struct Core {
    namespaces: Store<Namespace>,
    nodes: Store<Node>,
    pods: Store<Pod>,
    services: Store<Service>,
    slices: Store<EndpointSlice>,
    deployments: Store<Deployment>,
    daemon_sets: Store<DaemonSet>,
    service_cidrs: Store<ServiceCIDR>,
    /// What belongs to whom, by the owner's UID.
    dependents: HashMap<String, BTreeSet<Dependent>>,
    /// UIDs of the owners that there are, and what to look at when something of theirs changes.
    owners: HashMap<String, Option<Work>>,
    pods_by_node: HashMap<String, BTreeSet<ObjectKey>>,
    pending: BTreeSet<ObjectKey>,
    /// Nodes that were chosen and are not stored yet.
    assumed: HashMap<ObjectKey, String>,
    /// UIDs of the namespaces that have got what every namespace has.
    furnished: HashSet<String>,
    synced: BTreeSet<Kind>,
    queue: VecDeque<Work>,
    queued: HashSet<Work>,
    busy: HashSet<Work>,
    failures: HashMap<Work, u32>,
    timers: BTreeSet<(Timestamp, Work)>,
}

impl Core {
    /// Takes in what was seen.
    pub(crate) fn handle_seen(&mut self, seen: Seen) {
        let listed = seen.listed();
        match seen {
            Seen::Namespace(change) => self.namespaces.absorb(change).into_iter().for_each(|s| self.on_namespace(s)),
            Seen::Node(change) => self.nodes.absorb(change).into_iter().for_each(|s| self.on_node(s)),
            Seen::Pod(change) => self.pods.absorb(change).into_iter().for_each(|s| self.on_pod(s)),
            Seen::Service(change) => self.services.absorb(change).into_iter().for_each(|s| self.on_service(s)),
            Seen::Slice(change) => self.slices.absorb(change).into_iter().for_each(|s| self.on_slice(s)),
            Seen::Deployment(change) => {
                let steps = self.deployments.absorb(change);
                steps.into_iter().for_each(|s| self.on_owner(s, |d| &d.metadata, |k| Some(Work::Deployment(k))));
            }
            Seen::DaemonSet(change) => {
                let steps = self.daemon_sets.absorb(change);
                steps.into_iter().for_each(|s| self.on_owner(s, |d| &d.metadata, |k| Some(Work::DaemonSet(k))));
            }
            Seen::ServiceCidr(change) => {
                let steps = self.service_cidrs.absorb(change);
                steps
                    .into_iter()
                    .filter_map(|(_, new)| new?.metadata.name.clone())
                    .for_each(|n| self.mark(Work::ServiceCidr(n)));
            }
        }
        self.synced.extend(listed);
    }

    /// The actions of `work` are done, whether they all went well, and this is what the API server answered.
    pub(crate) fn handle_done(&mut self, work: Work, answers: Vec<Seen>, well: bool, now: Timestamp) {
        self.busy.remove(&work);
        answers.into_iter().for_each(|a| self.handle_seen(a));
        if let Work::Schedule(key) = &work {
            self.assumed.remove(key);
        }
        if well {
            self.failures.remove(&work);
            match &work {
                Work::Namespace(name) => self.after_namespace(&name.clone(), now),
                Work::Deployment(_)
                | Work::DaemonSet(_)
                | Work::Schedule(_)
                | Work::Slices(_)
                | Work::Garbage(_)
                | Work::ServiceCidr(_) => {
                    self.mark(work);
                }
            }
            return;
        }
        let failures = self.failures.entry(work.clone()).or_default();
        *failures = failures.saturating_add(1);
        let delay = RETRY_FIRST.saturating_mul(1 << (*failures - 1).min(16)).min(RETRY_MOST);
        self.queued.remove(&work);
        self.queue.retain(|w| *w != work);
        self.at(now, delay, work);
    }

    fn after_namespace(&mut self, name: &str, now: Timestamp) {
        let Some(namespace) = self.namespaces.get(&cluster_key(name)).cloned() else { return };
        if namespace.metadata.deletion_timestamp.is_some() {
            self.at(now, EMPTYING, Work::Namespace(name.to_owned()));
        } else {
            self.furnished.extend(namespace.metadata.uid.clone());
        }
    }

    /// What has waited long enough is looked at.
    pub(crate) fn handle_timeout(&mut self, now: Timestamp) {
        while let Some((at, _)) = self.timers.first()
            && *at <= now
        {
            if let Some((_, work)) = self.timers.pop_first() {
                self.mark(work);
            }
        }
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub(crate) fn poll_timeout(&self) -> Option<Timestamp> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// The next thing with something to be done; nothing before all kinds were listed once.
    pub(crate) fn poll_work(&mut self, now: Timestamp) -> Option<(Work, Vec<Action>)> {
        if self.synced.len() < Kind::ALL.len() {
            return None;
        }
        for _ in 0..self.queue.len() {
            let work = self.queue.pop_front()?;
            if self.busy.contains(&work) {
                self.queue.push_back(work);
                continue;
            }
            self.queued.remove(&work);
            let actions = self.look_at(&work, now);
            if !actions.is_empty() {
                self.busy.insert(work.clone());
                return Some((work, actions));
            }
        }
        None
    }

    fn mark(&mut self, work: Work) {
        if self.queued.insert(work.clone()) {
            self.queue.push_back(work);
        }
    }

    fn at(&mut self, now: Timestamp, delay: Duration, work: Work) {
        if let Ok(at) = now.checked_add(delay) {
            self.timers.insert((at, work));
        }
    }

    // === What follows from a change ===

    fn on_namespace(&mut self, (old, new): Step<Namespace>) {
        if let (Some(old), None) = (&old, &new) {
            self.furnished.remove(old.metadata.uid.as_deref().unwrap_or_default());
        }
        let ending = |n: &Option<Arc<Namespace>>| n.as_ref().map(|n| n.metadata.deletion_timestamp.is_some());
        if ending(&old) != ending(&new)
            && let Some(name) = new.as_ref().and_then(|n| n.metadata.name.clone())
        {
            self.mark(Work::Namespace(name));
        }
    }

    fn on_node(&mut self, (old, new): Step<Node>) {
        let changed = match (&old, &new) {
            (Some(old), Some(new)) => placement_facts(old) != placement_facts(new),
            _ => true,
        };
        let uid = |n: &Option<Arc<Node>>| n.as_ref().and_then(|n| n.metadata.uid.clone());
        if let Some(uid) = uid(&new) {
            self.owners.insert(uid, None);
        }
        if let (Some(gone), true) = (uid(&old), uid(&old) != uid(&new)) {
            self.owner_gone(&gone);
        }
        if new.is_none() {
            let name = old.as_ref().and_then(|n| n.metadata.name.clone()).unwrap_or_default();
            let pods = self.pods_by_node.get(&name).cloned().unwrap_or_default();
            pods.into_iter().for_each(|p| self.mark(Work::Garbage(Dependent::Pod(p))));
        }
        if changed {
            let sets: Vec<_> = self.daemon_sets.iter().map(|(k, _)| k.clone()).collect();
            sets.into_iter().for_each(|k| self.mark(Work::DaemonSet(k)));
            let pending: Vec<_> = self.pending.iter().cloned().collect();
            pending.into_iter().for_each(|k| self.mark(Work::Schedule(k)));
        }
    }

    fn on_pod(&mut self, (old, new): Step<Pod>) {
        let Some(key) = new.as_ref().or(old.as_ref()).map(|p| ObjectKey::of(p.as_ref())) else { return };
        if let Some(node) = old.as_ref().and_then(|p| node_of(p))
            && let Some(pods) = self.pods_by_node.get_mut(node)
        {
            pods.remove(&key);
            if pods.is_empty() {
                self.pods_by_node.remove(node);
            }
        }
        if let Some(node) = new.as_ref().and_then(|p| node_of(p)) {
            self.pods_by_node.entry(node.to_owned()).or_default().insert(key.clone());
        }
        let waits = new.as_ref().is_some_and(|p| node_of(p).is_none() && is_active(p));
        if waits {
            if self.pending.insert(key.clone()) {
                self.mark(Work::Schedule(key.clone()));
            }
        } else {
            self.pending.remove(&key);
        }
        let metadata = |p: &Option<Arc<Pod>>| p.as_ref().map(|p| p.metadata.clone());
        self.on_dependent(&Dependent::Pod(key.clone()), metadata(&old).as_ref(), metadata(&new).as_ref());
        let labels = |p: &Option<Arc<Pod>>| p.as_ref().and_then(|p| p.metadata.labels.clone());
        let (before, after) = (labels(&old), labels(&new));
        let selecting = self
            .services
            .in_namespace(&key.namespace)
            .filter(|(_, s)| slices::selects(s, before.as_ref()) || slices::selects(s, after.as_ref()));
        let selecting: Vec<_> = selecting.map(|(k, _)| k.clone()).collect();
        selecting.into_iter().for_each(|k| self.mark(Work::Slices(k)));
        if new.is_none()
            && self.namespaces.get(&cluster_key(&key.namespace)).is_some_and(|n| n.metadata.deletion_timestamp.is_some())
        {
            self.mark(Work::Namespace(key.namespace.clone()));
        }
        if new.as_ref().and_then(|p| node_of(p)).is_some_and(|n| self.nodes.get(&cluster_key(n)).is_none()) {
            self.mark(Work::Garbage(Dependent::Pod(key)));
        }
    }

    fn on_service(&mut self, step: Step<Service>) {
        self.on_owner(step, |s| &s.metadata, |k| Some(Work::Slices(k)));
    }

    fn on_slice(&mut self, (old, new): Step<EndpointSlice>) {
        let Some(key) = new.as_ref().or(old.as_ref()).map(|s| ObjectKey::of(s.as_ref())) else { return };
        let metadata = |s: &Option<Arc<EndpointSlice>>| s.as_ref().map(|s| s.metadata.clone());
        self.on_dependent(&Dependent::Slice(key), metadata(&old).as_ref(), metadata(&new).as_ref());
    }

    /// An object that others belong to: its own work, and at its end theirs.
    fn on_owner<K>(
        &mut self,
        (old, new): Step<K>,
        metadata: impl Fn(&K) -> &ObjectMeta,
        work: impl Fn(ObjectKey) -> Option<Work>,
    ) {
        let facts = |k: &Option<Arc<K>>| k.as_ref().map(|k| metadata(k).clone());
        let (old, new) = (facts(&old), facts(&new));
        let Some(any) = new.as_ref().or(old.as_ref()) else { return };
        let key =
            ObjectKey { namespace: any.namespace.clone().unwrap_or_default(), name: any.name.clone().unwrap_or_default() };
        let (before, after) = (old.and_then(|m| m.uid), new.and_then(|m| m.uid));
        if let Some(uid) = &after {
            self.owners.insert(uid.clone(), work(key.clone()));
        }
        if let Some(gone) = before.filter(|uid| after.as_ref() != Some(uid)) {
            self.owner_gone(&gone);
        }
        work(key).into_iter().for_each(|w| self.mark(w));
    }

    fn owner_gone(&mut self, uid: &str) {
        self.owners.remove(uid);
        let dependents = self.dependents.get(uid).cloned().unwrap_or_default();
        dependents.into_iter().for_each(|d| self.mark(Work::Garbage(d)));
    }

    fn on_dependent(&mut self, dependent: &Dependent, old: Option<&ObjectMeta>, new: Option<&ObjectMeta>) {
        for owner in old.and_then(|m| m.owner_references.as_ref()).into_iter().flatten() {
            if let Some(all) = self.dependents.get_mut(&owner.uid) {
                all.remove(dependent);
                if all.is_empty() {
                    self.dependents.remove(&owner.uid);
                }
            }
        }
        for owner in new.and_then(|m| m.owner_references.as_ref()).into_iter().flatten() {
            self.dependents.entry(owner.uid.clone()).or_default().insert(dependent.clone());
            if !self.owners.contains_key(&owner.uid) {
                self.mark(Work::Garbage(dependent.clone()));
            }
        }
        let controllers = [old, new].into_iter().flatten().filter_map(controller_of);
        let work: BTreeSet<Work> = controllers.filter_map(|o| self.owners.get(&o.uid).cloned().flatten()).collect();
        work.into_iter().for_each(|w| self.mark(w));
    }

    // === What is to be done ===

    fn look_at(&mut self, work: &Work, now: Timestamp) -> Vec<Action> {
        match work {
            Work::Deployment(key) => self.look_at_deployment(key, now),
            Work::DaemonSet(key) => self.look_at_daemon_set(key, now),
            Work::Schedule(key) => self.look_at_pending(key),
            Work::Slices(key) => self.look_at_service(key),
            Work::Garbage(dependent) => self.look_at_dependent(dependent),
            Work::Namespace(name) => self.look_at_namespace(name),
            Work::ServiceCidr(name) => self.look_at_service_cidr(name),
        }
    }

    fn pods_of(&self, metadata: &ObjectMeta) -> Vec<Arc<Pod>> {
        let uid = metadata.uid.as_deref().unwrap_or_default();
        let keys = self.dependents.get(uid).into_iter().flatten().filter_map(|d| match d {
            Dependent::Pod(key) => Some(key),
            Dependent::Slice(_) => None,
        });
        let pods = keys.filter_map(|k| self.pods.get(k));
        pods.filter(|p| controller_of(&p.metadata).is_some_and(|o| o.uid == uid)).cloned().collect()
    }

    fn look_at_deployment(&mut self, key: &ObjectKey, now: Timestamp) -> Vec<Action> {
        let Some(of) = self.deployments.get(key).cloned() else { return Vec::new() };
        let plan = deployment::plan(&of, &self.pods_of(&of.metadata), now);
        let mut actions = self.pod_actions(Work::Deployment(key.clone()), plan.create, plan.delete, plan.again_at);
        // A status that the next look will correct anyway is not worth a write, unless the Pods cannot be had.
        if let Some(status) =
            plan.status.filter(|_| actions.is_empty() || self.failures.contains_key(&Work::Deployment(key.clone())))
        {
            actions.push(Action::DeploymentStatus { of: key.clone(), status: Box::new(status) });
        }
        actions
    }

    fn look_at_daemon_set(&mut self, key: &ObjectKey, now: Timestamp) -> Vec<Action> {
        let Some(of) = self.daemon_sets.get(key).cloned() else { return Vec::new() };
        let nodes = self.nodes.iter().map(|(k, n)| (k.name.as_str(), n.as_ref())).collect();
        let plan = daemon_set::plan(&of, &self.pods_of(&of.metadata), &nodes, now);
        let mut actions = self.pod_actions(Work::DaemonSet(key.clone()), plan.create, plan.delete, plan.again_at);
        if let Some(status) =
            plan.status.filter(|_| actions.is_empty() || self.failures.contains_key(&Work::DaemonSet(key.clone())))
        {
            actions.push(Action::DaemonSetStatus { of: key.clone(), status: Box::new(status) });
        }
        actions
    }

    fn pod_actions(&mut self, work: Work, create: Vec<Pod>, delete: Vec<Arc<Pod>>, again_at: Option<Timestamp>) -> Vec<Action> {
        if let Some(at) = again_at {
            self.timers.insert((at, work));
        }
        let create = create.into_iter().map(|p| Action::CreatePod(Box::new(p)));
        create.chain(delete.into_iter().map(Action::DeletePod)).collect()
    }

    fn look_at_pending(&mut self, key: &ObjectKey) -> Vec<Action> {
        let Some(pod) = self.pods.get(key).filter(|_| self.pending.contains(key)).cloned() else { return Vec::new() };
        let owner = controller_of(&pod.metadata).map(|o| o.uid.as_str());
        let siblings: HashMap<&str, usize> = self.count_siblings(owner);
        let load = |node: &str| {
            let assumed = self.assumed.values().filter(|n| n.as_str() == node).count();
            let stored = self.pods_by_node.get(node).map_or(0, BTreeSet::len);
            (siblings.get(node).copied().unwrap_or(0), stored + assumed)
        };
        match choose(&pod, self.nodes.iter().map(|(_, n)| n.as_ref()), load) {
            Ok(node) => {
                self.assumed.insert(key.clone(), node.clone());
                vec![Action::Bind { pod, node }]
            }
            Err(message) => {
                let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
                let said =
                    conditions.into_iter().flatten().any(|c| c.type_ == "PodScheduled" && c.message.as_ref() == Some(&message));
                if said { Vec::new() } else { vec![Action::Unschedulable { pod, message }] }
            }
        }
    }

    /// How many Pods of the same controller are on each node, or will be.
    fn count_siblings(&self, owner: Option<&str>) -> HashMap<&str, usize> {
        let mut counts = HashMap::new();
        for dependent in owner.and_then(|uid| self.dependents.get(uid)).into_iter().flatten() {
            let Dependent::Pod(key) = dependent else { continue };
            let stored = self.pods.get(key).filter(|p| is_active(p)).and_then(|p| node_of(p));
            if let Some(node) = stored.or(self.assumed.get(key).map(String::as_str)) {
                *counts.entry(node).or_default() += 1;
            }
        }
        counts
    }

    fn look_at_service(&self, key: &ObjectKey) -> Vec<Action> {
        let label = |s: &EndpointSlice, name: &str| s.metadata.labels.as_ref().and_then(|l| l.get(name)).cloned();
        let Some(service) = self.services.get(key) else { return Vec::new() };
        let uid = service.metadata.uid.as_deref().unwrap_or_default();
        let ours = self.dependents.get(uid).into_iter().flatten().filter_map(|d| match d {
            Dependent::Slice(key) => self.slices.get(key),
            Dependent::Pod(_) => None,
        });
        let ours: Vec<_> = ours
            .filter(|s| {
                label(s, SLICE_MANAGED_BY).as_deref() == Some(slices::MANAGED_BY)
                    && label(s, SLICE_SERVICE_NAME).as_deref() == Some(&key.name)
            })
            .cloned()
            .collect();
        let pods: Vec<_> = self
            .pods
            .in_namespace(&key.namespace)
            .map(|(_, p)| p)
            .filter(|p| slices::selects(service, p.metadata.labels.as_ref()))
            .cloned()
            .collect();
        let zone = |node: &str| {
            self.nodes.get(&cluster_key(node))?.metadata.labels.as_ref()?.get("topology.kubernetes.io/zone").cloned()
        };
        let plan = slices::plan(service, &pods, &ours, zone);
        let create = plan.create.into_iter().map(|s| Action::CreateSlice(Box::new(s)));
        let replace = plan.replace.into_iter().map(|s| Action::ReplaceSlice(Box::new(s)));
        create.chain(replace).chain(plan.delete.into_iter().map(Action::DeleteSlice)).collect()
    }

    /// The watches of owners and of what they own are apart: one who is not known here may have been made a moment ago. The
    /// shell asks the API server before it deletes.
    fn look_at_dependent(&self, dependent: &Dependent) -> Vec<Action> {
        let orphan = |metadata: &ObjectMeta| {
            let owners = metadata.owner_references.as_deref().unwrap_or_default();
            let known = |o: &OwnerReference| OWNER_KINDS.contains(&(o.api_version.as_str(), o.kind.as_str()));
            !owners.is_empty() && owners.iter().all(|o| known(o) && !self.owners.contains_key(&o.uid))
        };
        match dependent {
            Dependent::Pod(key) => {
                let Some(pod) = self.pods.get(key) else { return Vec::new() };
                let lost = node_of(pod).filter(|n| self.nodes.get(&cluster_key(n)).is_none());
                if lost.is_some() {
                    return vec![Action::CollectLostPod(Arc::clone(pod))];
                }
                let collect = orphan(&pod.metadata) && !is_terminating(pod);
                collect.then(|| Action::CollectPod(Arc::clone(pod))).into_iter().collect()
            }
            Dependent::Slice(key) => {
                let slice = self.slices.get(key).filter(|s| orphan(&s.metadata));
                slice.map(|s| Action::CollectSlice(Arc::clone(s))).into_iter().collect()
            }
        }
    }

    fn look_at_namespace(&self, name: &str) -> Vec<Action> {
        let Some(namespace) = self.namespaces.get(&cluster_key(name)) else { return Vec::new() };
        if namespace.metadata.deletion_timestamp.is_some() {
            return vec![Action::EmptyNamespace { namespace: Arc::clone(namespace) }];
        }
        // Furnished once: afterwards there is nothing to look at until it ends.
        if self.furnished.contains(namespace.metadata.uid.as_deref().unwrap_or_default()) {
            return Vec::new();
        }
        vec![Action::FurnishNamespace { name: name.to_owned() }]
    }

    fn look_at_service_cidr(&self, name: &str) -> Vec<Action> {
        let Some(cidr) = self.service_cidrs.get(&cluster_key(name)) else { return Vec::new() };
        let conditions = cidr.status.as_ref().and_then(|s| s.conditions.as_ref());
        let ready = conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
        if ready { Vec::new() } else { vec![Action::ServiceCidrReady { name: name.to_owned() }] }
    }
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
