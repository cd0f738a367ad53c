//! The service proxy of a node of the lab: stands in for kube-proxy there, and only there.
//!
//! ```text
//! Services, EndpointSlices ──watch──▶ index (who answers where) ──▶ rules (one transaction a change) ──netlink──▶ nftables
//! ```
//!
//! Every Service with a ClusterIP is translated to one of its endpoints, whoever wrote the EndpointSlice: ports are matched by
//! name. As kube-proxy does, it masquerades what comes from outside of the cluster's pods and what comes back to its own sender,
//! refuses connections to Services without endpoints, and honours `sessionAffinity: ClientIP` (by a hash of the client's address,
//! so that it holds as long as the endpoints do, whatever the timeout) and `internalTrafficPolicy: Local`. Not here: node ports,
//! external IPs, load balancers.

mod index;
mod rules;

use std::path::PathBuf;

use anyhow::Context;
use daisy_api::Cidr;
use daisy_nftables::{Batch, Socket};
use futures::FutureExt;
use futures::stream::{Stream, StreamExt, select};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher;
use serde::{Deserialize, Serialize};

use crate::Ready;
use crate::control_plane::watch::{Change, changes};
use index::Index;
use rules::Rules;

pub use rules::TABLE;

/// How many changes go into one transaction at most.
const CHANGES_MAX: usize = 256;

/// What a node's proxy has to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Options {
    /// The node's name.
    pub node: String,
    /// A kubeconfig that may list and watch Services and EndpointSlices.
    pub kubeconfig: PathBuf,
    /// The cluster's pod CIDRs: what comes from elsewhere to a ClusterIP is masqueraded.
    pub pod_cidrs: Vec<Cidr>,
    /// The cluster's service CIDRs: what is for one of their addresses never leaves the node as it is.
    pub service_cidrs: Vec<Cidr>,
}

/// Programs the network namespace of the process until it is ended. `ready` is signalled when all Services that there are have
/// their rules.
///
/// # Errors
/// A kubeconfig that cannot be used, or nftables that cannot be programmed at all.
pub async fn run(options: Options, ready: Ready) -> anyhow::Result<()> {
    let path = options.kubeconfig.display().to_string();
    let kubeconfig = kube::config::Kubeconfig::read_from(&options.kubeconfig)
        .with_context(|| format!("cannot read the kubeconfig {path}"))?;
    let context = kube::config::KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &context).await;
    let client = kube::Client::try_from(config.with_context(|| format!("cannot use the kubeconfig {path}"))?)?;
    let socket = Socket::open().context("cannot open the nftables socket of the node's network namespace")?;
    serve(client, socket, &options, || ready.signal()).await
}

enum Seen {
    Services(Box<Change<Service>>),
    Slices(Box<Change<EndpointSlice>>),
}

/// The same with a client and a socket that are there already. Ends when the watches do, which they do not by themselves.
///
/// # Errors
/// The kernel refuses even a table made anew.
async fn serve(client: kube::Client, mut socket: Socket, options: &Options, on_ready: impl FnOnce()) -> anyhow::Result<()> {
    let services = changes::<Service>(client.clone(), watcher::Config::default()).map(|c| Seen::Services(Box::new(c)));
    let slices = changes::<EndpointSlice>(client, watcher::Config::default()).map(|c| Seen::Slices(Box::new(c)));
    let mut seen = std::pin::pin!(select(services, slices));
    let mut index = Index::new(options.node.clone());
    let mut rules = Rules::new(options.pod_cidrs.clone(), options.service_cidrs.clone());
    let mut missing = (true, true);
    let mut on_ready = Some(on_ready);
    while let Some(first) = seen.next().await {
        for next in std::iter::once(first).chain(more(&mut seen)) {
            match next {
                Seen::Services(change) => {
                    missing.0 &= !change.is_list();
                    index.handle_services(*change);
                }
                Seen::Slices(change) => {
                    missing.1 &= !change.is_list();
                    index.handle_slices(*change);
                }
            }
        }
        // Half a picture would refuse connections that the other half has answers for.
        if missing.0 || missing.1 {
            continue;
        }
        let batch = rules.apply(index.poll_changes());
        match on_ready.take() {
            Some(tell) => {
                rules.rebuild().commit(&mut socket).with_context(|| format!("cannot program the nftables table {TABLE}"))?;
                tracing::info!(node = options.node, frontends = rules.len(), "services are programmed");
                tell();
            }
            None => commit(&batch, &mut rules, &mut socket)?,
        }
    }
    Ok(())
}

/// What else is there already: it goes into the same transaction.
fn more<'a>(seen: &'a mut (impl Stream<Item = Seen> + Unpin)) -> impl Iterator<Item = Seen> + 'a {
    std::iter::from_fn(move || seen.next().now_or_never().flatten()).take(CHANGES_MAX)
}

fn commit(batch: &Batch, rules: &mut Rules, socket: &mut Socket) -> anyhow::Result<()> {
    if batch.is_empty() {
        return Ok(());
    }
    let Err(error) = batch.commit(socket) else { return Ok(()) };
    // Somebody changed the table. It is ours: it is made anew.
    tracing::warn!(%error, "the table {TABLE} is not as it was left; it is made anew");
    rules.rebuild().commit(socket).with_context(|| format!("cannot program the nftables table {TABLE}"))
}

#[cfg(test)]
#[path = "netns_tests.rs"]
mod netns_tests;
