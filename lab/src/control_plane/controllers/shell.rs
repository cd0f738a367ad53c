//! Watches, and performs what the core decides.

use std::sync::Arc;
use std::time::Duration;

use daisy_kubernetes::Api;
use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use futures::stream::{BoxStream, FuturesUnordered, SelectAll, StreamExt};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, PodCondition, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{ServiceCIDR, ServiceCIDRStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, OwnerReference, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::response::StatusSummary;
use kube::runtime::watcher;
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::core::Core;
use super::store::ObjectKey;
use super::work::{Action, Seen, Work};
use crate::control_plane::admission::NAMESPACE_FINALIZER;
use crate::control_plane::watch::{Change, changes};

/// How much of what was seen is taken in before it is acted upon.
const SEEN_MAX: usize = 512;
/// Nothing to wait for: as good as never.
const IDLE: Duration = Duration::from_secs(3_600);

type Answers = Result<Vec<Seen>, Failure>;

/// Why an action came to nothing.
#[derive(Debug)]
enum Failure {
    /// The API server refused, or could not be reached.
    Request(kube::Error),
    /// What was to be collected has an owner after all.
    StillOwned,
}

impl From<kube::Error> for Failure {
    fn from(error: kube::Error) -> Self {
        Self::Request(error)
    }
}

/// Runs all controllers; never ends by itself. `ca` is what Pods are to trust the API server by, PEM.
pub(crate) async fn run(client: Client, ca: String) {
    let mut core = Core::default();
    let mut watches = watches(&client);
    let hands = Hands { client, ca };
    let mut running: FuturesUnordered<BoxFuture<'_, (Work, Vec<Seen>, bool)>> = FuturesUnordered::new();
    loop {
        let now = Timestamp::now();
        core.handle_timeout(now);
        while let Some((work, actions)) = core.poll_work(now) {
            running.push(hands.perform(work, actions).boxed());
        }
        let wait = core
            .poll_timeout()
            .map_or(IDLE, |at| Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or(Duration::ZERO));
        tokio::select! {
            Some(seen) = watches.next() => {
                core.handle_seen(seen);
                for _ in 0..SEEN_MAX {
                    let Some(Some(seen)) = watches.next().now_or_never() else { break };
                    core.handle_seen(seen);
                }
            }
            Some((work, answers, well)) = running.next() => core.handle_done(work, answers, well, Timestamp::now()),
            () = tokio::time::sleep(wait) => {}
        }
    }
}

fn watches(client: &Client) -> SelectAll<BoxStream<'static, Seen>> {
    fn watch<K>(client: &Client, seen: fn(Change<K>) -> Seen) -> BoxStream<'static, Seen>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + Sync + 'static,
    {
        changes::<K>(client.clone(), watcher::Config::default()).map(seen).boxed()
    }
    let mut all = SelectAll::new();
    all.push(watch(client, Seen::Namespace));
    all.push(watch(client, Seen::Node));
    all.push(watch(client, Seen::Pod));
    all.push(watch(client, Seen::Service));
    all.push(watch(client, Seen::Slice));
    all.push(watch(client, Seen::Deployment));
    all.push(watch(client, Seen::DaemonSet));
    all.push(watch(client, Seen::ServiceCidr));
    all
}

struct Hands {
    client: Client,
    ca: String,
}

impl Hands {
    async fn perform(&self, work: Work, actions: Vec<Action>) -> (Work, Vec<Seen>, bool) {
        let mut seen = Vec::new();
        let mut well = true;
        for result in join_all(actions.into_iter().map(|a| self.act(a))).await {
            match result {
                Ok(answers) => seen.extend(answers),
                Err(Failure::StillOwned) => well = false,
                Err(Failure::Request(error)) => {
                    well = false;
                    // Somebody else was faster, or a namespace is ending: the next look knows more.
                    tracing::debug!(?work, %error, "to be tried again");
                }
            }
        }
        (work, seen, well)
    }

    fn in_namespace<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    async fn act(&self, action: Action) -> Answers {
        match action {
            Action::CreatePod(pod) => {
                let api: Api<Pod> = self.in_namespace(pod.metadata.namespace.as_deref().unwrap_or_default());
                Ok(vec![Seen::Pod(Change::Set(api.create(&PostParams::default(), &pod).await?))])
            }
            Action::DeletePod(pod) => Ok(self.delete(pod.as_ref()).await?.map(Seen::Pod).into_iter().collect()),
            Action::CollectLostPod(pod) => self.collect_lost(&pod).await,
            Action::CollectPod(pod) => {
                self.check_unowned(&pod.metadata).await?;
                Ok(self.delete(pod.as_ref()).await?.map(Seen::Pod).into_iter().collect())
            }
            Action::CollectSlice(slice) => {
                self.check_unowned(&slice.metadata).await?;
                Ok(self.delete(slice.as_ref()).await?.map(Seen::Slice).into_iter().collect())
            }
            Action::Bind { pod, node } => self.bind(&pod, &node).await,
            Action::Unschedulable { pod, message } => self.note_unschedulable(&pod, message).await,
            Action::CreateSlice(slice) => {
                let api: Api<EndpointSlice> = self.in_namespace(slice.metadata.namespace.as_deref().unwrap_or_default());
                Ok(vec![Seen::Slice(Change::Set(api.create(&PostParams::default(), &slice).await?))])
            }
            Action::ReplaceSlice(slice) => {
                let api: Api<EndpointSlice> = self.in_namespace(slice.metadata.namespace.as_deref().unwrap_or_default());
                let name = slice.metadata.name.as_deref().unwrap_or_default();
                Ok(vec![Seen::Slice(Change::Set(api.replace(name, &PostParams::default(), &slice).await?))])
            }
            Action::DeleteSlice(slice) => Ok(self.delete(slice.as_ref()).await?.map(Seen::Slice).into_iter().collect()),
            Action::DeploymentStatus { of, status } => {
                let named = Deployment { metadata: named(&of.name), status: Some(*status), spec: None };
                let api: Api<Deployment> = self.in_namespace(&of.namespace);
                Ok(vec![Seen::Deployment(Change::Set(api.replace_status(&of.name, &PostParams::default(), &named).await?))])
            }
            Action::DaemonSetStatus { of, status } => {
                let named = DaemonSet { metadata: named(&of.name), status: Some(*status), spec: None };
                let api: Api<DaemonSet> = self.in_namespace(&of.namespace);
                Ok(vec![Seen::DaemonSet(Change::Set(api.replace_status(&of.name, &PostParams::default(), &named).await?))])
            }
            Action::ServiceCidrReady { name } => {
                let condition = Condition {
                    type_: "Ready".to_owned(),
                    status: "True".to_owned(),
                    reason: "RangeServed".to_owned(),
                    message: "Kubernetes Service CIDR is ready".to_owned(),
                    last_transition_time: now(),
                    observed_generation: None,
                };
                let status = Some(ServiceCIDRStatus { conditions: Some(vec![condition]) });
                let api: Api<ServiceCIDR> = Api::all(self.client.clone());
                let ready = ServiceCIDR { metadata: named(&name), status, spec: None };
                Ok(vec![Seen::ServiceCidr(Change::Set(api.replace_status(&name, &PostParams::default(), &ready).await?))])
            }
            Action::FurnishNamespace { name } => self.furnish(&name).await,
            Action::EmptyNamespace { namespace } => self.empty(&namespace).await,
        }
    }

    async fn delete<K>(&self, object: &K) -> Result<Option<Change<K>>, Failure>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + std::fmt::Debug,
    {
        let meta = object.meta();
        let api: Api<K> = self.in_namespace(meta.namespace.as_deref().unwrap_or_default());
        let only = Preconditions { uid: meta.uid.clone(), resource_version: None };
        let answer = api.delete(meta.name.as_deref().unwrap_or_default(), &DeleteParams::default().preconditions(only)).await;
        match answer.map(|either| either.left()) {
            // One that is given time to end is there still.
            Ok(Some(left)) if left.meta().deletion_timestamp.is_some() => Ok(Some(Change::Set(left))),
            Ok(Some(_)) => Ok(Some(Change::Deleted(object.clone()))),
            Ok(None) => Ok(None),
            // Gone already, or another one of the same name is there.
            Err(error) if is_code(&error, 404) || is_code(&error, 409) => Ok(Some(Change::Deleted(object.clone()))),
            Err(error) => Err(error.into()),
        }
    }

    /// A Pod whose node is gone: there is no kubelet that would take its finalizer off.
    async fn collect_lost(&self, pod: &Arc<Pod>) -> Answers {
        let node = pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default();
        let nodes: Api<Node> = Api::all(self.client.clone());
        if nodes.get_opt(node).await?.is_some() {
            return Err(Failure::StillOwned);
        }
        let last = self.delete(pod.as_ref()).await?;
        let api: Api<Pod> = self.in_namespace(pod.metadata.namespace.as_deref().unwrap_or_default());
        let released = json!({ "metadata": { "uid": pod.metadata.uid, "finalizers": null } });
        match api
            .patch(pod.metadata.name.as_deref().unwrap_or_default(), &PatchParams::default(), &Patch::Merge(released))
            .await
        {
            Ok(_) => Ok(vec![Seen::Pod(Change::Deleted(Pod::clone(pod)))]),
            Err(error) if is_code(&error, 404) || is_code(&error, 409) => Ok(last.map(Seen::Pod).into_iter().collect()),
            Err(error) => Err(error.into()),
        }
    }

    async fn check_unowned(&self, metadata: &ObjectMeta) -> Result<(), Failure> {
        let namespace = metadata.namespace.as_deref().unwrap_or_default();
        for owner in metadata.owner_references.iter().flatten() {
            let uid = match owner.kind.as_str() {
                "Deployment" => self.uid_of(self.in_namespace::<Deployment>(namespace), owner).await?,
                "DaemonSet" => self.uid_of(self.in_namespace::<DaemonSet>(namespace), owner).await?,
                "Service" => self.uid_of(self.in_namespace::<Service>(namespace), owner).await?,
                _ => self.uid_of(Api::<Node>::all(self.client.clone()), owner).await?,
            };
            if uid.as_deref() == Some(&owner.uid) {
                return Err(Failure::StillOwned);
            }
        }
        Ok(())
    }

    async fn uid_of<K>(&self, api: Api<K>, owner: &OwnerReference) -> Result<Option<String>, Failure>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
    {
        Ok(api.get_opt(&owner.name).await?.and_then(|o| o.meta().uid.clone()))
    }

    async fn bind(&self, pod: &Arc<Pod>, node: &str) -> Answers {
        let key = ObjectKey::of(pod.as_ref());
        let patch = json!({ "metadata": { "uid": pod.metadata.uid }, "spec": { "nodeName": node } });
        let api: Api<Pod> = self.in_namespace(&key.namespace);
        match api.patch(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(pod) => Ok(vec![Seen::Pod(Change::Set(pod))]),
            Err(error) if is_code(&error, 404) => Ok(vec![Seen::Pod(Change::Deleted(Pod::clone(pod)))]),
            Err(error) => Err(error.into()),
        }
    }

    async fn note_unschedulable(&self, pod: &Arc<Pod>, message: String) -> Answers {
        let key = ObjectKey::of(pod.as_ref());
        let had = pod.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
        let mut conditions: Vec<PodCondition> = had.into_iter().filter(|c| c.type_ != "PodScheduled").collect();
        conditions.push(PodCondition {
            type_: "PodScheduled".to_owned(),
            status: "False".to_owned(),
            reason: Some("Unschedulable".to_owned()),
            message: Some(message),
            last_transition_time: Some(now()),
            ..PodCondition::default()
        });
        let patch = json!({ "metadata": { "uid": pod.metadata.uid }, "status": { "conditions": conditions } });
        let api: Api<Pod> = self.in_namespace(&key.namespace);
        Ok(vec![Seen::Pod(Change::Set(api.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await?))])
    }

    async fn furnish(&self, namespace: &str) -> Answers {
        let accounts: Api<ServiceAccount> = self.in_namespace(namespace);
        let maps: Api<ConfigMap> = self.in_namespace(namespace);
        let account = ServiceAccount { metadata: named("default"), ..ServiceAccount::default() };
        let data = Some([("ca.crt".to_owned(), self.ca.clone())].into());
        let map = ConfigMap { metadata: named("kube-root-ca.crt"), data, ..ConfigMap::default() };
        let parameters = PostParams::default();
        let (account, map) = futures::join!(accounts.create(&parameters, &account), maps.create(&parameters, &map));
        for error in [account.err(), map.err()].into_iter().flatten() {
            // There already, or the namespace is gone or ending.
            if !is_code(&error, 409) && !is_code(&error, 404) && !is_code(&error, 403) {
                return Err(error.into());
            }
        }
        Ok(Vec::new())
    }

    /// Pods first, which takes the time that their processes need. What else there is the API server removes together with the
    /// namespace, once the finalizer is off.
    async fn empty(&self, namespace: &Arc<Namespace>) -> Answers {
        let name = namespace.metadata.name.as_deref().unwrap_or_default();
        let pods: Api<Pod> = self.in_namespace(name);
        let there = pods.list(&kube::api::ListParams::default()).await?.items;
        if !there.is_empty() {
            let fresh = there.iter().filter(|p| p.metadata.deletion_timestamp.is_none());
            let results = join_all(fresh.map(|p| self.delete(p))).await;
            let deleted: Vec<_> = results.into_iter().collect::<Result<_, _>>()?;
            return Ok(deleted.into_iter().flatten().map(Seen::Pod).collect());
        }
        let others: Vec<_> = namespace.metadata.finalizers.iter().flatten().filter(|f| *f != NAMESPACE_FINALIZER).collect();
        let patch = json!({ "metadata": { "uid": namespace.metadata.uid, "finalizers": others } });
        let api: Api<Namespace> = Api::all(self.client.clone());
        match api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => Ok(Vec::new()),
            Err(error) if is_code(&error, 404) || is_code(&error, 409) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Metadata that says no more than the name. A status is replaced whole, whatever version is there: a merge would leave counts
/// behind that are no longer.
fn named(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() }
}

fn now() -> Time {
    let now = Timestamp::now();
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}

fn is_code(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code && status.status != Some(StatusSummary::Success))
}
