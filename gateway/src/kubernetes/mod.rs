//! The gateway among Kubernetes objects.
//!
//! ```text
//! watch Node ─────▶ node::facts ──┐
//! watch Clusters ─▶ core::Clusters ┼─▶ role ─▶ DataPath (start, apply, remove)
//! secret::key ────────────────────┘     │
//!                                       ▼
//!                                status ─▶ own task ─▶ Gateway object
//! ```

mod node;
mod role;
mod secret;
mod status;
mod watch;

use std::future::Future;
use std::time::Duration;

use daisy_api::labels::{GATEWAY_KEYS_NAMESPACE, SYSTEM_NAMESPACE};
use daisy_api::{Cluster, Gateway};
use daisy_kubernetes::Api;
use k8s_openapi::api::core::v1::{Node, Secret};
use kube::Client;
use tracing::info;

use crate::options::GatewayOptions;
use role::{Outcome, Role};

/// The first pause before an API call is tried again, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// How long it may take to stop: less than what the pod is given.
const STOP: Duration = Duration::from_secs(8);

/// The APIs that a gateway uses.
#[derive(Clone)]
struct Apis {
    gateways: Api<Gateway>,
    secrets: Api<Secret>,
    nodes: Api<Node>,
    client: Client,
}

impl Apis {
    fn new(client: Client) -> Self {
        let gateways = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
        let secrets = Api::namespaced(client.clone(), GATEWAY_KEYS_NAMESPACE);
        Self { gateways, secrets, nodes: Api::all(client.clone()), client }
    }
}

/// Runs the gateway of a node until `shutdown`. The device and the key stay then, for the next start.
///
/// While the API server is away, tunnels go on; nothing is read from it on the data path. When the cluster leaves (its Cluster
/// says so, or is deleted), the tunnels end, the device, the Gateway object and the key Secret are removed, and nothing more is
/// done until `shutdown`. When the node's gateway label is taken away, the same is removed, and this returns.
///
/// # Errors
/// What keeps it from working here: no `/dev/net/tun`, no rights, the port in use, a key Secret that holds no key, the device
/// removed under it. The Gateway's condition `Ready` says the same.
pub async fn run(client: Client, options: GatewayOptions, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
    tokio::pin!(shutdown);
    let apis = Apis::new(client);
    let mut nodes = watch::follow::<Node>(
        Api::all(apis.client.clone()),
        kube::runtime::watcher::Config::default().fields(&format!("metadata.name={}", options.node_name)),
    );
    let mut clusters = watch::follow::<Cluster>(
        Api::namespaced(apis.client.clone(), SYSTEM_NAMESPACE),
        kube::runtime::watcher::Config::default(),
    );
    let mut role = tokio::select! {
        () = &mut shutdown => return Ok(()),
        role = Role::new(apis, options) => role?,
    };
    let served = tokio::select! {
        () = &mut shutdown => None,
        served = role.serve(&mut nodes, &mut clusters) => Some(served),
    };
    match served {
        None => {
            if tokio::time::timeout(STOP, role.stop()).await.is_err() {
                info!("stopping; the API server did not answer in time");
            }
        }
        // What wants a gateway here after all starts it again.
        Some(Ok(Outcome::Retired)) => {}
        Some(Ok(Outcome::Left)) => {
            info!("this cluster has left; nothing more to do here");
            shutdown.await;
        }
        Some(Err(error)) => {
            role.report_failure(&error).await;
            return Err(error.into());
        }
    }
    Ok(())
}

/// Calls until it works, with growing pauses between; says what does not.
async fn until_done<T, F: Future<Output = Result<T, kube::Error>>>(what: &str, mut call: impl FnMut() -> F) -> T {
    let mut pause = RETRY.0;
    loop {
        match call().await {
            Ok(value) => return value,
            Err(error) => tracing::warn!(%error, "{what} failed; tried again in {pause:?}"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY.1);
    }
}

/// Whether the API server said that the object is not there.
fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// Whether the API server said that the object is there already.
fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}
