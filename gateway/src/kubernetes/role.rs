//! What the gateway does as its node, the clusters and its connections change.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use daisy_api::conditions::{self, READY, Wanted};
use daisy_api::labels::{GATEWAY_KEYS_NAMESPACE, TUNNEL_DEVICE};
use daisy_api::{Cluster, ClusterId, Connection, ConnectionStatus, GatewayRecord, GatewayStatus, HaStatus, NodeName};
use daisy_gateway_core::addresses::local_endpoints;
use daisy_gateway_core::clusters::{Clusters, Membership};
use daisy_gateway_core::peers::{Issue, plan};
use futures::StreamExt as _;
use futures::future::{BoxFuture, pending};
use futures::stream::BoxStream;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use kube::api::DeleteParams;
use thiserror::Error;
use tokio::sync::watch as channel;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{info, warn};

use super::node::{NodeFacts, facts};
use super::secret::{self, BadKey};
use super::status::{StatusWriter, differs};
use super::watch::Change;
use super::{Apis, is_not_found, until_done};
use crate::data_path::{DataPath, DataPathConfig, remove_device};
use crate::error::GatewayError;
use crate::metrics::Metrics;
use crate::options::GatewayOptions;
use crate::wireguard::PrivateKey;

/// How often round-trip times are looked at, and written where they moved.
const REFRESH: Duration = Duration::from_secs(5);
/// How often they are written even where they did not move.
const REFRESH_ALL: Duration = Duration::from_secs(60);
/// The condition that says whether all of the other clusters' records could be used.
const RECORDS_USABLE: &str = "RecordsUsable";
/// How many of the things left out a condition names.
const ISSUES_NAMED: usize = 5;

/// How a role ends without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The cluster left, and everything of the gateway's is removed.
    Left,
    /// The node is no gateway any more, and everything of the gateway's is removed.
    Retired,
}

/// What ends a role.
#[derive(Debug, Error)]
pub(super) enum RoleError {
    #[error(transparent)]
    Gateway(#[from] GatewayError),
    #[error(transparent)]
    BadKey(#[from] BadKey),
}

impl RoleError {
    fn reason(&self) -> &'static str {
        match self {
            Self::Gateway(error) => error.reason(),
            Self::BadKey(_) => "BadKey",
        }
    }
}

/// The gateway's role, with what it knows.
pub(super) struct Role {
    apis: Apis,
    options: GatewayOptions,
    metrics: Metrics,
    remembered: BTreeMap<(ClusterId, NodeName), SocketAddr>,
    clusters: Clusters,
    facts: Option<NodeFacts>,
    issues: Vec<Issue>,
    running: Option<Running>,
    status: GatewayStatus,
    writer: StatusWriter,
    written: Instant,
}

struct Running {
    data_path: DataPath,
    address: IpAddr,
    changes: channel::Receiver<u64>,
    failed: BoxFuture<'static, GatewayError>,
}

impl Running {
    /// The next change of a connection, or the end of the data path.
    async fn next(running: &mut Option<Self>) -> Result<(), GatewayError> {
        let Some(running) = running else { return pending().await };
        tokio::select! {
            error = &mut running.failed => Err(error),
            changed = running.changes.changed() => match changed {
                Ok(()) => Ok(()),
                Err(_) => pending().await,
            },
        }
    }
}

impl Role {
    pub(super) async fn new(apis: Apis, options: GatewayOptions) -> Result<Self, GatewayError> {
        let metrics = Metrics::new(&options.registry)?;
        let node = options.node_name.as_str();
        let known = until_done("reading this node's Gateway", || apis.gateways.get_opt(node)).await;
        let before = known.and_then(|gateway| gateway.status).unwrap_or_default();
        let endpoint =
            |connection: &Connection| Some(((connection.cluster_id.clone(), connection.node.clone()), connection.endpoint?));
        let status = GatewayStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ha_status: HaStatus::Passive,
            local_endpoint: before.local_endpoint,
            // They stay until the clusters are known, so that a start that is cut short does not forget where the others are.
            connections: before.connections.iter().cloned().map(stopped).collect(),
            conditions: before.conditions,
        };
        Ok(Self {
            writer: StatusWriter::new(apis.gateways.clone(), apis.nodes.clone(), options.node_name.clone()),
            remembered: before.connections.iter().filter_map(endpoint).collect(),
            apis,
            metrics,
            clusters: Clusters::new(),
            facts: None,
            issues: Vec::new(),
            running: None,
            status,
            written: Instant::now(),
            options,
        })
    }

    /// Serves until the cluster leaves, or something breaks.
    pub(super) async fn serve(
        &mut self,
        nodes: &mut BoxStream<'static, Change<Node>>,
        clusters: &mut BoxStream<'static, Change<Cluster>>,
    ) -> Result<Outcome, RoleError> {
        let secrets = self.apis.secrets.clone();
        let key = until_done("reading or making the key Secret", || secret::key(&secrets, &self.options.node_name)).await?;
        let mut refresh = interval(REFRESH);
        refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(change) = nodes.next() => self.handle_node(change, &key).await?,
                Some(change) = clusters.next() => self.handle_clusters(change),
                changed = Running::next(&mut self.running) => {
                    changed?;
                    self.publish();
                }
                _ = refresh.tick() => self.refresh(),
            }
            if self.clusters.membership() == Membership::Leaving {
                info!("this cluster leaves: ending its tunnels");
                self.leave().await;
                return Ok(Outcome::Left);
            }
            if self.facts.as_ref().is_some_and(|facts| !facts.gateway) {
                self.retire().await;
                return Ok(Outcome::Retired);
            }
        }
    }

    async fn handle_node(&mut self, change: Change<Node>, key: &PrivateKey) -> Result<(), RoleError> {
        let name = self.options.node_name.as_str();
        let facts = match change {
            Change::Applied(node) => Some(facts(&node, &self.options.public_addresses)),
            Change::All(nodes, _) => {
                nodes.iter().find(|node| node.name_any() == name).map(|node| facts(node, &self.options.public_addresses))
            }
            Change::Deleted(_) => None,
        };
        // Without its Node object it goes on as it is: a Node that is deleted is soon followed by its pods, and one that is made
        // anew by the kubelet is not worth an interruption.
        let Some(facts) = facts.filter(|facts| self.facts.as_ref() != Some(facts)) else { return Ok(()) };
        for problem in &facts.problems {
            warn!("{problem}");
        }
        let address = facts.address;
        self.facts = Some(facts);
        match (address, self.running.as_ref().map(|running| running.address)) {
            (Some(address), known) if known != Some(address) => self.start(address, key).await?,
            (None, None) => {
                let message = format!(
                    "waiting for the syncer to give node {name} an address (annotation {})",
                    daisy_api::labels::NODE_ADDRESS
                );
                info!("{message}");
                self.set_condition(Wanted::new(READY, false, "WaitingForNodeAddress", message));
            }
            _ => {}
        }
        self.set_record();
        self.publish();
        Ok(())
    }

    async fn start(&mut self, address: IpAddr, key: &PrivateKey) -> Result<(), GatewayError> {
        if let Some(running) = self.running.take() {
            info!(%address, before = %running.address, "this node's address changed; starting anew with it");
            for connection in running.data_path.connections() {
                if let Some(endpoint) = connection.endpoint {
                    self.remembered.insert((connection.cluster_id, connection.node), endpoint);
                }
            }
            running.data_path.stop();
        }
        let addresses = self.facts.as_ref().map(|facts| facts.addresses.clone()).unwrap_or_default();
        let data_path = DataPath::start(DataPathConfig {
            key: key.clone(),
            address,
            port: self.options.port,
            device: TUNNEL_DEVICE.to_owned(),
            mtu: self.options.mtu,
            node_addresses: addresses.internal.into_iter().chain(addresses.external).collect(),
            intervals: self.options.intervals,
            remembered: self.remembered.clone(),
            metrics: self.metrics.clone(),
        })
        .await?;
        let message =
            format!("device {TUNNEL_DEVICE} (MTU {}), UDP port {}, node address {address}", data_path.mtu(), self.options.port);
        info!(public_key = %data_path.public_key(), "running: {message}");
        self.set_condition(Wanted::new(READY, true, "Running", message));
        self.status.ha_status = HaStatus::Active;
        self.running = Some(Running { address, changes: data_path.changes(), failed: Box::pin(data_path.failed()), data_path });
        self.follow_clusters();
        Ok(())
    }

    /// What others are told of this gateway.
    fn set_record(&mut self) {
        let (Some(running), Some(facts)) = (&self.running, &self.facts) else { return };
        self.status.local_endpoint = Some(GatewayRecord {
            node: self.options.node_name.clone(),
            public_key: running.data_path.public_key(),
            address: running.address,
            endpoints: local_endpoints(&facts.addresses, self.options.port),
        });
    }

    fn handle_clusters(&mut self, change: Change<Cluster>) {
        let changed = match change {
            Change::Applied(cluster) => self.clusters.handle_applied(&cluster),
            Change::Deleted(name) => self.clusters.handle_deleted(&name),
            Change::All(clusters, unreadable) => self.clusters.handle_all(&clusters, &unreadable),
        };
        if changed {
            self.follow_clusters();
        }
    }

    fn follow_clusters(&mut self) {
        let Some(running) = &self.running else { return };
        let plan = plan(&self.clusters, &running.data_path.public_key(), running.address);
        running.data_path.apply(&plan);
        for issue in plan.issues.iter().filter(|issue| !self.issues.contains(issue)) {
            warn!("{issue}");
        }
        self.issues = plan.issues;
        if self.clusters.local().is_some() {
            self.set_condition(records_usable(&self.issues));
        }
        self.publish();
    }

    fn set_condition(&mut self, wanted: Wanted) {
        conditions::set(&mut self.status.conditions, wanted, None, Timestamp::now());
    }

    /// Hands the status as it is now to the writer.
    fn publish(&mut self) {
        if let (Some(running), Some(_)) = (&self.running, self.clusters.local()) {
            self.status.connections = running.data_path.connections();
        }
        self.written = Instant::now();
        self.writer.set(self.status.clone());
    }

    fn refresh(&mut self) {
        let Some(running) = &self.running else { return };
        let all = self.written.elapsed() >= REFRESH_ALL;
        if all || differs(&self.status.connections, &running.data_path.connections()) {
            self.publish();
        }
    }

    /// The role is told to stop: for a while, and all stays for the next start; or for good, because its node's label was taken away,
    /// which the pod's end and not always the watch tells first.
    pub(super) async fn stop(&mut self) {
        match self.apis.nodes.get_opt(self.options.node_name.as_str()).await {
            Ok(Some(node)) if !facts(&node, &[]).gateway => self.retire().await,
            Ok(_) => info!("stopping; the tunnel device and the key stay"),
            Err(error) => info!(%error, "stopping; the tunnel device and the key stay"),
        }
    }

    /// Its node is no gateway any more: others are to forget it.
    async fn retire(&mut self) {
        info!("node {} is no longer labelled as a gateway: ending its tunnels", self.options.node_name);
        self.leave().await;
    }

    /// Nothing of the gateway's stays.
    async fn leave(&mut self) {
        let removed = match self.running.take() {
            Some(running) => running.data_path.remove().await,
            None => remove_device(TUNNEL_DEVICE).await.map(drop),
        };
        if let Err(error) = removed {
            warn!(%error, "the tunnel device stays; remove it by hand (ip link delete {TUNNEL_DEVICE})");
        }
        self.end_writer().await;
        let node = self.options.node_name.clone();
        let gateways = self.apis.gateways.clone();
        until_done("deleting this node's Gateway", || async {
            gone(gateways.delete(node.as_str(), &DeleteParams::default()).await.map(drop))
        })
        .await;
        let (secrets, name) = (self.apis.secrets.clone(), secret::name(&node));
        until_done("deleting the key Secret", || async {
            gone(secrets.delete(&name, &DeleteParams::default()).await.map(drop))
        })
        .await;
        info!("removed device {TUNNEL_DEVICE}, Gateway {node} and Secret {GATEWAY_KEYS_NAMESPACE}/{name}");
    }

    /// Ends the writer: after this nothing makes the Gateway again.
    async fn end_writer(&mut self) {
        let idle = StatusWriter::new(self.apis.gateways.clone(), self.apis.nodes.clone(), self.options.node_name.clone());
        std::mem::replace(&mut self.writer, idle).finish().await;
    }

    /// Says on the Gateway why the role ends.
    pub(super) async fn report_failure(&mut self, error: &RoleError) {
        self.running = None;
        self.status.ha_status = HaStatus::Passive;
        self.status.connections = self.status.connections.drain(..).map(stopped).collect();
        self.set_condition(Wanted::new(READY, false, error.reason(), error.to_string()));
        self.publish();
        self.end_writer().await;
    }
}

/// A connection as it is while there is no data path.
fn stopped(connection: Connection) -> Connection {
    let status_message = "the gateway is not running".to_owned();
    Connection { status: ConnectionStatus::Connecting, status_message, latency: None, ..connection }
}

/// What was to be deleted and is not there is deleted.
fn gone(deleted: Result<(), kube::Error>) -> Result<(), kube::Error> {
    deleted.or_else(|error| if is_not_found(&error) { Ok(()) } else { Err(error) })
}

fn records_usable(issues: &[Issue]) -> Wanted {
    if issues.is_empty() {
        return Wanted::new(RECORDS_USABLE, true, "AllUsed", "all parts of the other clusters' records are used");
    }
    let mut named: Vec<String> = issues.iter().take(ISSUES_NAMED).map(ToString::to_string).collect();
    if issues.len() > ISSUES_NAMED {
        named.push(format!("and {} more", issues.len() - ISSUES_NAMED));
    }
    Wanted::new(RECORDS_USABLE, false, "PartsLeftOut", named.join("; "))
}
