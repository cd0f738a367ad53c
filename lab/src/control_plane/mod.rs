//! The control plane of a cluster of the lab: the broker's API server, and what makes a cluster of it.
//!
//! ```text
//! kubectl, kubelets, Daisy ──TLS──▶ API server ──every write──▶ admission: defaults, checks, ClusterIPs ──▶ database
//!                                       ▲
//!                                       └──watch, write── controllers: Deployments, DaemonSets, scheduling, EndpointSlices,
//!                                                         garbage, namespaces
//! ```
//!
//! It is for the lab alone: what of Kubernetes is not here, is not needed there. There are no ReplicaSets (a Deployment has its
//! Pods directly), no `/scale`, `/binding`, `/eviction`, `/log` and `/exec`, no node ports, no Endpoints beside EndpointSlices, no
//! node lifecycle (a node is what its kubelet says until it is deleted), no grace period in the API: a Pod that is on a node has
//! the finalizer [`POD_FINALIZER`], and is gone when its kubelet takes that off.

mod admission;
mod allocator;
mod controllers;
mod kinds;
mod seed;
pub(crate) mod watch;

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use daisy_api::Cidr;
use daisy_api_server::Server;
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};

use crate::{Ready, task};
use admission::ClusterHooks;

pub use admission::pod::POD_FINALIZER;

/// The file in [`Options::data`] by which the administrator reaches the cluster.
pub const ADMIN_KUBECONFIG: &str = "admin.kubeconfig";

/// What a control plane has to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Options {
    /// The cluster's name, for kubeconfigs and logs.
    pub cluster: String,
    /// Where the API server listens; also the endpoint of the Service default/kubernetes.
    pub listen: SocketAddr,
    /// The folder of the database and the keys. Kept over restarts.
    pub data: PathBuf,
    /// The Pods' ranges.
    pub pod_cidrs: Vec<Cidr>,
    /// The Services' ranges; the first of each family counts.
    pub service_cidrs: Vec<Cidr>,
}

/// Runs a control plane until SIGTERM. `ready` is signalled when it listens, has what every cluster has from the start, and
/// [`ADMIN_KUBECONFIG`] is written.
///
/// # Errors
/// The address cannot be listened on, or the folder cannot be used.
pub async fn run(options: Options, ready: Ready) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let shutdown = async move {
        terminate.recv().await;
    };
    run_until(options, || ready.signal(), shutdown).await
}

async fn run_until(
    options: Options,
    on_ready: impl FnOnce(),
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    let listeners = Server::bind(&[options.listen.to_string()])?;
    // A test's port 0 is settled here.
    let listen = listeners.first().and_then(|l| l.local_addr().ok()).unwrap_or(options.listen);
    let options = Options { listen, ..options };
    let settings = server_options(&options)?;
    let server = tokio::task::spawn_blocking(move || Server::open(settings))
        .await
        .context("the API server ended while it started")??;
    let ca = server.ca_pem().to_owned();
    seed::seed(&server.handle(), &options, &ca)
        .await
        .with_context(|| format!("cannot set up the cluster {}", options.cluster))?;
    let url = format!("https://{listen}");
    let kubeconfig = server.admin_kubeconfig(&url, &options.cluster);
    server.write_admin_kubeconfig(&options.data.join(ADMIN_KUBECONFIG), &url, &options.cluster)?;
    let client = admin_client(&kubeconfig).await?;
    let serving = task::spawn(server.serve(listeners, shutdown));
    let controllers = task::spawn(controllers::run(client, ca));
    tracing::info!(cluster = options.cluster, %url, "the control plane is up");
    on_ready();
    let result = serving.await;
    controllers.abort();
    result.context("the API server ended")??;
    Ok(())
}

fn server_options(options: &Options) -> anyhow::Result<daisy_api_server::Options> {
    let mut settings = daisy_api_server::Options::new(&options.data);
    settings.definitions = kinds::all();
    settings.hooks = Arc::new(ClusterHooks::default());
    settings.namespaces = seed::NAMESPACES.map(str::to_owned).into();
    settings.sans.push(options.listen.ip().to_string());
    let service = options
        .service_cidrs
        .first()
        .and_then(|c| c.nth(1))
        .context("a cluster needs a service CIDR with at least two addresses")?;
    settings.sans.push(service.to_string());
    settings.sans.extend(
        ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"]
            .map(str::to_owned),
    );
    Ok(settings)
}

async fn admin_client(kubeconfig: &str) -> anyhow::Result<kube::Client> {
    let kubeconfig = kube::config::Kubeconfig::from_yaml(kubeconfig)?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &kube::config::KubeConfigOptions::default()).await?;
    Ok(kube::Client::try_from(config)?)
}

#[cfg(test)]
pub(crate) mod cluster_tests;
