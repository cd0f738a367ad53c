//! The start of a lab, step by step.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use futures::future::try_join_all;
use serde::Serialize;

use super::{Progress, Shared, admin_kubeconfig, cluster_data, place};
use crate::holder::DAISY_INSIDE;
use crate::kubeconfig::{self, Context};
use crate::network::Networks;
use crate::plan::ClusterPlan;
use crate::protocol::Command;
use crate::{control_plane, kubelet, proxy};

/// The port of every API server in the lab.
const API_PORT: u16 = 6443;

/// Brings the lab up, and says how that ended.
pub(super) async fn run(shared: Arc<Shared>) {
    let ended = bring_up(&shared).await;
    shared.progress.send_modify(|progress| {
        *progress = match (ended, &*progress) {
            (Ok(()), Progress::Starting(up)) => Progress::Up(up.clone()),
            (Err(message), _) => Progress::Failed(message),
            (Ok(()), other) => other.clone(),
        }
    });
}

async fn bring_up(shared: &Shared) -> Result<(), String> {
    shared.reached("processes and mounts");
    let networks = Networks::build(&shared.description.plan).await.map_err(|e| e.to_string())?;
    // Only this function sets it.
    let _ = shared.networks.set(networks);
    shared.reached("networks");
    let clusters = shared.description.plan.clusters.iter().zip(&shared.description.ports);
    try_join_all(clusters.map(|(cluster, port)| start_cluster(shared, cluster, *port))).await?;
    Ok(())
}

async fn start_cluster(shared: &Shared, cluster: &ClusterPlan, port: u16) -> Result<(), String> {
    let name = cluster.name.as_str();
    let listen = SocketAddr::new(cluster.control_plane_address(), API_PORT);
    let control_plane = control_plane::Options {
        cluster: name.to_owned(),
        listen,
        data: cluster_data(name).join("control-plane"),
        pod_cidrs: cluster.pod_cidrs.clone(),
        service_cidrs: cluster.service_cidrs.clone(),
    };
    start_own(shared, &format!("{name}/control-plane"), name, &control_plane).await?;
    let netns = shared.networks()?.get(&cluster.control_plane_namespace()).map_err(|e| e.to_string())?;
    shared.forwards.lead(port, netns, listen)?;
    shared.add_context(name, &admin_kubeconfig(name), port).await?;
    shared.reached(format!("{name}: control plane"));

    let kubelet = kubelet::Options {
        plan: cluster.clone(),
        kubeconfig: admin_kubeconfig(name),
        data: cluster_data(name),
        logs: Path::new(crate::holder::STATE_INSIDE).join("logs").join(name),
        api_server: listen,
    };
    let kubelet_name = format!("{name}/kubelet");
    let kubelet = start_own(shared, &kubelet_name, name, &kubelet);
    let proxies = try_join_all((0..cluster.nodes).map(|n| start_proxy(shared, cluster, cluster.node_name(n))));
    futures::future::try_join(kubelet, proxies).await?;
    shared.reached(format!("{name}: nodes and cluster DNS"));
    Ok(())
}

async fn start_proxy(shared: &Shared, cluster: &ClusterPlan, node: String) -> Result<(), String> {
    let name = cluster.name.as_str();
    let arguments = proxy::Options {
        node: node.clone(),
        kubeconfig: admin_kubeconfig(name),
        pod_cidrs: cluster.pod_cidrs.clone(),
        service_cidrs: cluster.service_cidrs.clone(),
    };
    start_own(shared, &format!("{name}/proxy-{node}"), &format!("{name}/{node}"), &arguments).await
}

/// Starts `daisy lab-internal ROLE JSON`; the role is what stands after the cluster in the name, up to a `-` and a node's name.
async fn start_own<T: Serialize>(shared: &Shared, name: &str, place: &str, arguments: &T) -> Result<(), String> {
    let role = name.split_once('/').map_or(name, |(_, role)| role);
    let role = if role.starts_with("proxy-") { "proxy" } else { role };
    let json = serde_json::to_string(arguments).map_err(|e| e.to_string())?;
    let command = Command {
        place: place.to_owned(),
        arguments: [DAISY_INSIDE, "lab-internal", role].into_iter().map(str::to_owned).chain([json]).collect(),
        ..Command::default()
    };
    let mut site = place::resolve(shared, place)?;
    // With the agent ends the lab; its own processes must not see a moment of it without.
    site.entrance.dies_with_parent = true;
    shared.services.start_own(name, command, site).await
}

impl Shared {
    /// Adds a cluster of the lab to the host's kubeconfig, by a port of the host's loopback.
    pub(super) async fn add_context(&self, name: &str, inside: &Path, port: u16) -> Result<(), String> {
        let text = tokio::fs::read_to_string(inside).await.map_err(|e| format!("{}: {e}", inside.display()))?;
        let context = Context::through_port(name, &text, port).map_err(|e| format!("{}: {e}", inside.display()))?;
        if !self.description.plan.clusters.iter().any(|c| c.name.as_str() == name) {
            let address: SocketAddr = context.server_inside;
            let netns = self.networks()?.get(crate::plan::BROKER).map_err(|e| e.to_string())?;
            self.forwards.lead(port, netns, address)?;
        }
        let mut contexts = self.contexts.lock().await;
        contexts.insert(name.to_owned(), context);
        kubeconfig::write(&self.state.kubeconfig(), contexts.values()).map_err(|e| e.to_string())
    }
}
