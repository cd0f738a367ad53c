//! The roles: what runs in a cluster until it is told to stop.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context, Result};
use daisy_api::labels::SYSTEM_NAMESPACE;
use daisy_broker::lease::LeaseOptions;
use daisy_broker::server::{BrokerOptions, BrokerReady};
use kube::{Client, Config};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::arguments::{BrokerRole, DnsRole, GatewayRole, HealthAddress, Reach, RegistrarRole, RouteAgentRole, SyncerRole};
use crate::health::{self, Health};

/// Ends at SIGTERM or SIGINT.
fn stop() -> Result<impl Future<Output = ()> + Send + 'static> {
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Logs go to standard error; `RUST_LOG` sets what is logged.
fn log() {
    // What fails at the API server's client is told by whoever asked it.
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new("info,boringtun=off,hickory_server=warn,kube_client=off"));
    // A second call, as in `deploy-broker`, changes nothing.
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).try_init();
}

/// How long a connection to the cluster's API server may take to come up. One that was begun before the node's kube-proxy had its rules,
/// as when the node starts, leads nowhere however long it is waited for; the next one does not.
const CONNECT: Duration = Duration::from_secs(3);

async fn client() -> Result<Client> {
    let config = Config::infer().await;
    let mut config = config.context("no cluster to talk to: set KUBECONFIG, or run in a pod with a ServiceAccount")?;
    config.connect_timeout = Some(CONNECT);
    Ok(Client::try_from(config)?)
}

/// Serves the embedded broker.
pub(crate) async fn broker(options: BrokerRole) -> Result<()> {
    let (ready, _) = tokio::sync::oneshot::channel();
    serve_broker(options, ready).await
}

/// Serves the embedded broker, and says when it does.
pub(crate) async fn serve_broker(options: BrokerRole, ready: tokio::sync::oneshot::Sender<BrokerReady>) -> Result<()> {
    log();
    let options =
        BrokerOptions { data_dir: options.data, listen: options.listen, advertise: options.advertise, ..Default::default() };
    daisy_broker::server::run(options, ready, stop()?).await
}

/// Runs a role until it ends, answering for its health meanwhile.
async fn with_health(address: HealthAddress, health: Health, role: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::select! {
        ended = role => ended,
        failed = health::serve(address.health, health) => failed,
    }
}

/// Judges who joins.
pub(crate) async fn registrar(options: RegistrarRole) -> Result<()> {
    log();
    let settings = daisy_broker::registrar::RegistrarOptions {
        public_cidrs: options.allow_public_cidrs,
        replica: options.replica,
        ..Default::default()
    };
    let health = Health { registry: settings.registry.clone(), ready: None };
    with_health(options.health, health, daisy_broker::registrar::run(client().await?, settings, stop()?)).await
}

/// Syncs this cluster with the broker.
pub(crate) async fn syncer(options: SyncerRole) -> Result<()> {
    log();
    let lease = LeaseOptions::new(SYSTEM_NAMESPACE, daisy_broker::syncer::LEASE, options.replica);
    let settings = daisy_broker::syncer::SyncerOptions { heartbeat: options.heartbeat, lease, ..Default::default() };
    let health = Health { registry: settings.registry.clone(), ready: None };
    with_health(options.health, health, daisy_broker::syncer::run(client().await?, settings, stop()?)).await
}

/// Holds this node's tunnels.
pub(crate) async fn gateway(options: GatewayRole) -> Result<()> {
    log();
    let mut settings = daisy_gateway::GatewayOptions::new(options.node_name);
    settings.port = options.port;
    let health = Health { registry: settings.registry.clone(), ready: None };
    let client = client().await?;
    with_health(options.health, health, daisy_gateway::run(client, settings, stop()?)).await
}

/// Keeps this node's routes and filter.
pub(crate) async fn route_agent(options: RouteAgentRole) -> Result<()> {
    log();
    let mut settings = daisy_route_agent::RouteAgentOptions::new(options.node_name);
    settings.hold = options.hold;
    settings.reach_all = options.reach == Reach::All;
    settings.clean = options.clean;
    settings.vxlan_port = options.vxlan_port;
    let health = Health { registry: settings.registry.clone(), ready: None };
    with_health(options.health, health, daisy_route_agent::run(client().await?, settings, stop()?)).await
}

/// Answers names.
pub(crate) async fn dns(options: DnsRole) -> Result<()> {
    log();
    let registry = prometheus::Registry::new();
    let metrics = daisy_dns::Metrics::registered(&registry).context("registering the DNS server's metrics")?;
    let settings = daisy_dns::DnsOptions { listen: options.listen, metrics, ..Default::default() };
    // Until it has read everything it answers SERVFAIL, where another replica could answer.
    let health = Health { registry, ready: Some("daisy_dns_synced") };
    with_health(options.health, health, daisy_dns::run(client().await?, settings, stop()?)).await
}
