//! The lab's kubelet: one process a cluster, which runs the pods of all its nodes as processes of this machine.
//!
//! ```text
//! Pods (watch) ──▶ one worker a pod ──▶ sandbox (network, mount and UTS namespace) ──▶ containers (processes)
//!                        └──▶ status ──▶ Pod                              token, files ──┘      └── logs
//! plan ──▶ Nodes, cluster DNS
//! ```
//!
//! A container's "image" names a program of this machine (see [`image`]); there are no images, volumes or cgroups here.

mod addons;
mod container;
mod environment;
mod files;
mod image;
mod ipam;
mod nodes;
mod pod;
mod probe;
mod record;
mod sandbox;
mod status;
mod token;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use daisy_kubernetes::Api;
use futures::TryStreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::core::DeserializeGuard;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

pub(crate) use record::{PodRecord, pods_folder};

use crate::internal;
use crate::kubeconfig;
use crate::plan::ClusterPlan;
use crate::task;

/// What the kubelet of a cluster is started with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Options {
    /// The cluster.
    pub(crate) plan: ClusterPlan,
    /// The administrator's kubeconfig.
    pub(crate) kubeconfig: PathBuf,
    /// The cluster's folder of data.
    pub(crate) data: PathBuf,
    /// The cluster's folder of logs.
    pub(crate) logs: PathBuf,
    /// Where pods reach the API server.
    pub(crate) api_server: SocketAddr,
}

/// What every task of the kubelet shares.
struct Context {
    options: Options,
    client: Client,
    ca_pem: String,
    nodes: BTreeMap<String, nodes::Node>,
}

/// A pod that has a worker.
struct Worker {
    pod: watch::Sender<pod::Wanted>,
}

/// Runs until the process is asked to end.
pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let text = tokio::fs::read_to_string(&options.kubeconfig).await.context("the kubeconfig")?;
    let ca_pem = kubeconfig::certificate_authority(&text)?;
    let client = internal::client(&options.kubeconfig).await?;
    // Records of a kubelet before this one: its pods have ended with it.
    let folder = pods_folder(&options.data);
    let _ = tokio::fs::remove_dir_all(&folder).await;
    tokio::fs::create_dir_all(&folder).await.context("the folder of pods")?;
    let nodes = nodes::open(&options.plan)?;
    let context = Arc::new(Context { options, client, ca_pem, nodes });
    let registered = futures::future::try_join(nodes::register(&context), addons::install(&context));
    registered.await?;
    let (dns_ready, mut dns) = watch::channel(false);
    task::spawn(async move {
        if dns.wait_for(|ready| *ready).await.is_ok() {
            internal::say_ready();
        }
    });
    let workers = watch_pods(&context, &dns_ready);
    tokio::select! {
        ended = workers => ended,
        // The containers are killed with this process.
        () = internal::terminated() => Ok(()),
    }
}

async fn watch_pods(context: &Arc<Context>, dns_ready: &watch::Sender<bool>) -> anyhow::Result<()> {
    let pods: Api<Pod> = Api::all(context.client.clone());
    let mut events = Box::pin(daisy_kubernetes::watcher(pods, watcher::Config::default()).default_backoff());
    let mut workers: BTreeMap<String, Worker> = BTreeMap::new();
    let mut listed: Option<Vec<String>> = None;
    loop {
        let event = match events.try_next().await {
            Ok(Some(event)) => event,
            Ok(None) => anyhow::bail!("the watch of Pods ended"),
            // The watcher lists or watches again by itself, after a pause.
            Err(e) => {
                tracing::warn!("watching Pods: {e}");
                continue;
            }
        };
        match event {
            watcher::Event::Init => listed = Some(Vec::new()),
            watcher::Event::InitApply(pod) => {
                if let Some(uids) = &mut listed {
                    uids.extend(pod.uid());
                }
                applied(context, &mut workers, pod, dns_ready);
            }
            watcher::Event::InitDone => {
                if let Some(uids) = listed.take() {
                    workers.iter().filter(|(uid, _)| !uids.contains(uid)).for_each(|(_, w)| w.stop());
                    workers.retain(|uid, _| uids.contains(uid));
                }
            }
            watcher::Event::Apply(pod) => applied(context, &mut workers, pod, dns_ready),
            watcher::Event::Delete(pod) => {
                if let Some(worker) = pod.uid().and_then(|uid| workers.remove(&uid)) {
                    worker.stop();
                }
            }
        }
    }
}

impl Worker {
    fn stop(&self) {
        self.pod.send_replace(pod::Wanted::Gone);
    }
}

/// What an API server says, without the whole of its answer.
fn brief(e: &kube::Error) -> String {
    if let kube::Error::Api(status) = e { status.message.clone() } else { e.to_string() }
}

fn applied(
    context: &Arc<Context>,
    workers: &mut BTreeMap<String, Worker>,
    pod: DeserializeGuard<Pod>,
    dns_ready: &watch::Sender<bool>,
) {
    let name = format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any());
    let (Some(uid), pod) = (pod.uid(), pod.0) else { return };
    let pod = match pod {
        Ok(pod) => pod,
        Err(e) => {
            tracing::warn!(pod = name, "this Pod does not parse and is left alone: {e}");
            return;
        }
    };
    let Some(node) = pod.spec.as_ref().and_then(|s| s.node_name.clone()) else { return };
    if !context.nodes.contains_key(&node) {
        return;
    }
    let wanted = pod::Wanted::Here(Box::new(pod));
    if let Some(worker) = workers.get(&uid) {
        worker.pod.send_replace(wanted);
        return;
    }
    let pod::Wanted::Here(pod) = &wanted else { return };
    let ended = pod.status.as_ref().and_then(|s| s.phase.as_deref()).is_some_and(|p| p == "Succeeded" || p == "Failed");
    if ended && pod.metadata.deletion_timestamp.is_none() {
        return;
    }
    let (sender, receiver) = watch::channel(wanted);
    workers.insert(uid, Worker { pod: sender });
    task::spawn(pod::run(Arc::clone(context), node, receiver, dns_ready.clone()));
}
