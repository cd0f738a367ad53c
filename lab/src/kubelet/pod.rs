//! A pod's worker: sandbox, containers, status, and the end.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use daisy_kubernetes::Api;
use k8s_openapi::api::core::v1::{Container as ContainerSpec, Pod, PodSpec};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::container::{Container, Report, Restart, State};
use super::record::{PodRecord, pods_folder};
use super::sandbox::{Blueprint, POD_INSIDE, Sandbox};
use super::token::Token;
use super::{Context, addons, brief, files, status};
use crate::control_plane::POD_FINALIZER;
use crate::kubeconfig;
use crate::task;

/// How long a pod's processes have to end, where its spec does not say less than Kubernetes' default.
const GRACE: Duration = Duration::from_secs(2);
/// What Kubernetes fills in.
const GRACE_DEFAULT: i64 = 30;
/// The first and the longest pause after something that a pod needs could not be had.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// Where a pod sees its kubeconfig, in its folder.
const KUBECONFIG_INSIDE: &str = "/run/daisy-pod/kubeconfig";

/// What a pod's worker is told.
#[derive(Debug)]
pub(super) enum Wanted {
    /// The pod, as it is now.
    Here(Box<Pod>),
    /// It is no more.
    Gone,
}

impl Wanted {
    fn is_over(&self) -> bool {
        match self {
            Self::Here(pod) => pod.metadata.deletion_timestamp.is_some(),
            Self::Gone => true,
        }
    }
}

/// What a pod's containers share.
pub(super) struct Running {
    pub(super) context: Arc<Context>,
    /// NAMESPACE/NAME, for messages.
    pub(super) name: String,
    pub(super) pod_name: String,
    pub(super) object: Pod,
    pub(super) node_name: String,
    pub(super) node_address: IpAddr,
    pub(super) hostname: String,
    pub(super) sandbox: Sandbox,
    /// Its kubeconfig as it sees it, where it has one.
    pub(super) kubeconfig: Option<&'static str>,
    pub(super) grace: Duration,
    /// The init containers', then the containers'.
    pub(super) reports: watch::Sender<Vec<Report>>,
}

/// A pod's worker.
struct Worker {
    context: Arc<Context>,
    node_name: String,
    wanted: watch::Receiver<Wanted>,
    dns_ready: watch::Sender<bool>,
    /// As it was when the worker began: what matters here does not change.
    pod: Pod,
    namespace: String,
    name: String,
    uid: String,
    folder: PathBuf,
    started: Timestamp,
    written: Option<Value>,
}

/// Runs a pod until it is gone.
pub(super) async fn run(
    context: Arc<Context>,
    node_name: String,
    wanted: watch::Receiver<Wanted>,
    dns_ready: watch::Sender<bool>,
) {
    let pod = match &*wanted.borrow() {
        Wanted::Here(pod) => (**pod).clone(),
        Wanted::Gone => return,
    };
    let uid = pod.uid().unwrap_or_default();
    let folder = pods_folder(&context.options.data).join(&uid);
    let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
    let started = Timestamp::now();
    let worker = Worker {
        context,
        node_name,
        wanted: wanted.clone(),
        dns_ready,
        pod,
        namespace,
        name,
        uid,
        folder,
        started,
        written: None,
    };
    worker.run().await;
}

impl Worker {
    async fn run(mut self) {
        if let Some(running) = self.set_up().await {
            self.live(running).await;
        }
        PodRecord::remove(&pods_folder(&self.context.options.data), &self.uid);
        // It is in memory, and ends with the lab at the latest.
        let _ = tokio::fs::remove_dir_all(&self.folder).await;
        self.confirm_deletion().await;
        tracing::info!(pod = self.full_name(), "gone");
    }

    fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    fn spec(&self) -> PodSpec {
        self.pod.spec.clone().unwrap_or_default()
    }

    async fn over(wanted: &mut watch::Receiver<Wanted>) {
        // When nobody wants it any more, it is over.
        let _ = wanted.wait_for(Wanted::is_over).await;
    }

    /// Makes sandbox and files, however often it takes; `None` when the pod is gone before.
    async fn set_up(&mut self) -> Option<Arc<Running>> {
        let mut backoff = BACKOFF.0;
        loop {
            if self.wanted.borrow().is_over() {
                return None;
            }
            let problem = match self.attempt().await {
                Ok(running) => return Some(running),
                Err(problem) => problem,
            };
            tracing::warn!(pod = self.full_name(), "{problem:#}");
            let state = State::Waiting { reason: "FailedCreatePodSandBox", message: format!("{problem:#}") };
            let count = self.spec().containers.len();
            let reports = vec![Report { state, ..Report::default() }; count];
            self.write_status(None, &[], &reports, false).await;
            let mut wanted = self.wanted.clone();
            tokio::select! {
                () = tokio::time::sleep(backoff) => {}
                () = Self::over(&mut wanted) => return None,
            }
            backoff = (backoff * 2).min(BACKOFF.1);
        }
    }

    async fn attempt(&self) -> anyhow::Result<Arc<Running>> {
        let spec = self.spec();
        let node = self.context.nodes.get(&self.node_name).ok_or_else(|| anyhow::anyhow!("no node {}", self.node_name))?;
        let host_network = spec.host_network.unwrap_or_default();
        let hostname = match (&spec.hostname, host_network) {
            (_, true) => self.node_name.clone(),
            (Some(name), false) if !name.is_empty() => name.clone(),
            (_, false) => self.name.clone(),
        };
        tokio::fs::create_dir_all(self.folder.join("etc")).await?;
        let blueprint = Blueprint {
            node_name: &self.node_name,
            node,
            host_network,
            uid: &self.uid,
            hostname: &hostname,
            folder: &self.folder,
        };
        // The token first, so that a failure leaves no network behind; both take about as long as one.
        let token = Token::of(&self.context.client, &self.pod, &self.folder);
        let renewal = match &token {
            Some(token) => Some(token.write().await?),
            None => None,
        };
        let (address, own) = Sandbox::network(&blueprint).await?;
        self.write_files(&spec, &hostname, address, token.is_some())?;
        let sandbox = Sandbox::enclose(&blueprint, address, own).await?;
        if let (Some(token), Some(pause)) = (token, renewal) {
            let mut wanted = self.wanted.clone();
            task::spawn(async move {
                tokio::select! {
                    () = token.renew(pause) => {}
                    () = Self::over(&mut wanted) => {}
                }
            });
        }
        let count = spec.init_containers.as_ref().map_or(0, Vec::len) + spec.containers.len();
        Ok(Arc::new(Running {
            context: Arc::clone(&self.context),
            name: self.full_name(),
            pod_name: self.name.clone(),
            object: self.pod.clone(),
            node_name: self.node_name.clone(),
            node_address: node.address,
            hostname,
            kubeconfig: renewal.map(|_| KUBECONFIG_INSIDE),
            sandbox,
            grace: grace(&spec),
            reports: watch::Sender::new(vec![Report::default(); count]),
        }))
    }

    fn write_files(&self, spec: &PodSpec, hostname: &str, address: IpAddr, with_token: bool) -> anyhow::Result<()> {
        let plan = &self.context.options.plan;
        let resolv = files::resolv_conf(spec, &self.namespace, plan.dns_address(), addons::CLUSTER_DOMAIN);
        let etc = self.folder.join("etc");
        std::fs::write(etc.join("resolv.conf"), resolv)?;
        std::fs::write(etc.join("hosts"), files::hosts(spec, hostname, address))?;
        std::fs::write(etc.join("hostname"), format!("{hostname}\n"))?;
        if with_token {
            std::fs::write(self.folder.join("ca.crt"), &self.context.ca_pem)?;
            std::fs::write(self.folder.join("namespace"), &self.namespace)?;
            let token = Path::new(POD_INSIDE).join("token");
            let api_server = self.context.options.api_server;
            let text = kubeconfig::pod(plan.name.as_str(), api_server, &self.context.ca_pem, &token)?;
            kubeconfig::replace(&self.folder.join("kubeconfig"), text.as_bytes())?;
        }
        Ok(())
    }

    /// Runs the containers and says how they are, until the pod is over.
    async fn live(&mut self, running: Arc<Running>) {
        let spec = self.spec();
        let init = spec.init_containers.clone().unwrap_or_default();
        let (stop, stopped) = watch::channel(false);
        let mut reports = running.reports.subscribe();
        reports.mark_changed();
        let mut containers = JoinSet::new();
        let split = init.len();
        let restart = Restart::parse(spec.restart_policy.as_deref());
        task::spawn_in(&mut containers, all(Arc::clone(&running), init, spec.containers, restart, stopped));
        let mut over = false;
        let mut wanted = self.wanted.clone();
        let mut again = None;
        loop {
            tokio::select! {
                () = Self::over(&mut wanted) => break,
                Ok(()) = reports.changed() => {}
                Some(_) = containers.join_next(), if !over => over = true,
                () = tokio::time::sleep(again.unwrap_or_default()), if again.is_some() => {}
            }
            let now = reports.borrow_and_update().clone();
            self.write_record(&running, &now[split..]);
            let written = self.write_status(Some(running.sandbox.address), &now[..split], &now[split..], over).await;
            again = (!written).then_some(BACKOFF.1);
        }
        PodRecord::remove(&pods_folder(&self.context.options.data), &self.uid);
        stop.send_replace(true);
        while containers.join_next().await.is_some() {}
        let Some(running) = Arc::into_inner(running) else { return };
        if let Some(node) = self.context.nodes.get(&self.node_name) {
            running.sandbox.remove(node).await;
        }
    }

    fn write_record(&self, running: &Running, containers: &[Report]) {
        let [net, mount, uts] = running.sandbox.paths();
        let specs = self.pod.spec.iter().flat_map(|s| &s.containers);
        let pids = specs.zip(containers).filter_map(|(spec, report)| match report.state {
            State::Running { pid, .. } => Some((spec.name.clone(), pid)),
            State::Waiting { .. } | State::Ended(_) => None,
        });
        let record = PodRecord {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            uid: self.uid.clone(),
            node: self.node_name.clone(),
            host_network: self.spec().host_network.unwrap_or_default(),
            net,
            mount,
            uts,
            environment: containers.first().map(|r| r.environment.to_vec()).unwrap_or_default(),
            containers: pids.collect(),
        };
        if let Err(e) = record.write(&pods_folder(&self.context.options.data)) {
            tracing::warn!(pod = self.full_name(), "its record cannot be written, so nothing can be run in it: {e}");
        }
    }

    /// Writes the status where it differs from what was written last; says whether it is written.
    async fn write_status(&mut self, address: Option<IpAddr>, init: &[Report], containers: &[Report], over: bool) -> bool {
        let Some(node) = self.context.nodes.get(&self.node_name) else { return true };
        let now = match &*self.wanted.borrow() {
            Wanted::Here(pod) => (**pod).clone(),
            Wanted::Gone => return true,
        };
        let facts = status::Facts {
            pod: &now,
            node_address: node.address,
            pod_address: address,
            started: self.started,
            init,
            containers,
            over,
        };
        let (status, ready) = status::of(&facts, Timestamp::now());
        if self.written.as_ref().is_some_and(|w| same(w, &status)) {
            return true;
        }
        let pods: Api<Pod> = Api::namespaced(self.context.client.clone(), &self.namespace);
        // With its UID, so that a new pod of the same name is never given the old one's.
        let patch = json!({ "metadata": { "uid": self.uid }, "status": status });
        match pods.patch_status(&self.name, &PatchParams::default(), &Patch::Merge(&patch)).await {
            Ok(_) => {}
            // Deleted, or made anew: the watch says so next.
            Err(kube::Error::Api(e)) if e.code == 404 || e.code == 409 => return true,
            Err(e) => {
                tracing::warn!(pod = self.full_name(), "its status cannot be written: {}", brief(&e));
                return false;
            }
        }
        self.written = Some(status);
        if ready && self.pod.labels().get(addons::DNS_LABEL.0).is_some_and(|v| v == addons::DNS_LABEL.1) {
            self.dns_ready.send_replace(true);
        }
        true
    }

    /// Where the API server waits for the kubelet before it removes the object, says that nothing runs any more: by taking the
    /// control plane's finalizer off, and on a server that knows no such thing, as a kubelet does.
    async fn confirm_deletion(&self) {
        let finalizers = match &*self.wanted.borrow() {
            Wanted::Here(pod) if pod.metadata.deletion_timestamp.is_some() => pod.finalizers().to_vec(),
            Wanted::Here(_) | Wanted::Gone => return,
        };
        let pods: Api<Pod> = Api::namespaced(self.context.client.clone(), &self.namespace);
        let mut backoff = BACKOFF.0;
        loop {
            let said = if finalizers.iter().any(|f| f == POD_FINALIZER) {
                let left: Vec<_> = finalizers.iter().filter(|f| *f != POD_FINALIZER).collect();
                let patch = json!({ "metadata": { "uid": self.uid, "finalizers": left } });
                pods.patch(&self.name, &PatchParams::default(), &Patch::Merge(&patch)).await.map(|_| ())
            } else {
                let preconditions = Preconditions { uid: Some(self.uid.clone()), resource_version: None };
                let now = DeleteParams {
                    grace_period_seconds: Some(0),
                    preconditions: Some(preconditions),
                    ..DeleteParams::default()
                };
                pods.delete(&self.name, &now).await.map(|_| ())
            };
            match said {
                Ok(()) => return,
                // Gone already, or made anew.
                Err(kube::Error::Api(e)) if e.code == 404 || e.code == 409 => return,
                Err(e) => tracing::warn!(pod = self.full_name(), "its end cannot be said: {}", brief(&e)),
            }
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF.1);
        }
    }
}

/// Whether two statuses say the same, whenever their conditions changed.
fn same(a: &Value, b: &Value) -> bool {
    let plain = |status: &Value| {
        let mut status = status.clone();
        for condition in status["conditions"].as_array_mut().into_iter().flatten() {
            if let Some(condition) = condition.as_object_mut() {
                condition.remove("lastTransitionTime");
            }
        }
        status
    };
    plain(a) == plain(b)
}

fn grace(spec: &PodSpec) -> Duration {
    let seconds = spec.termination_grace_period_seconds.filter(|s| *s < GRACE_DEFAULT);
    seconds.map_or(GRACE, |s| Duration::from_secs(u64::try_from(s).unwrap_or_default()))
}

/// Runs the init containers one after another, then the containers together, until none is started again.
async fn all(
    running: Arc<Running>,
    init: Vec<ContainerSpec>,
    containers: Vec<ContainerSpec>,
    restart: Restart,
    stop: watch::Receiver<bool>,
) {
    let first = init.len();
    // An init container that has done its work is not started again.
    let restart_init = if restart == Restart::Never { Restart::Never } else { Restart::OnFailure };
    let make = |index, spec, restart| Container { pod: Arc::clone(&running), spec, index, restart, stop: stop.clone() };
    for (index, spec) in init.into_iter().enumerate() {
        if make(index, spec, restart_init).run().await != 0 || *stop.borrow() {
            return;
        }
    }
    let mut set = JoinSet::new();
    for (index, spec) in containers.into_iter().enumerate() {
        let container = make(first + index, spec, restart);
        task::spawn_in(&mut set, async move {
            container.run().await;
        });
    }
    while set.join_next().await.is_some() {}
}
