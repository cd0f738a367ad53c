//! The role: from what is watched to what is done.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context as _;
use daisy_api::labels::{NODE_PROBLEM, NODE_STATE};
use daisy_kubernetes::Api;
use daisy_route_agent_core::agent::CLEAN;
use daisy_route_agent_core::{Agent, Annotation, Issue, Links, Opening, OpeningChanges, Phase, Settings};
use futures::Future;
use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::Client;
use kube::api::{Patch, PatchParams};
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use crate::filter::FilterTable;
use crate::metrics::Metrics;
use crate::netlink::{Event, Events, Network};
use crate::node::Node;
use crate::options::RouteAgentOptions;
use crate::sysctl::ensure_forwarding;
use crate::watch::{Change, Input, KINDS, Watches};

/// The first and the longest pause before what failed is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// Keeps this node's routes and filter until `shutdown`, and leaves them in place then. The network namespace is that of the
/// thread that first polls it.
///
/// # Errors
/// No netlink socket, or metrics that are registered already. What the kernel or the API server refuses later is logged, and
/// tried again.
pub async fn run(client: Client, options: RouteAgentOptions, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
    let mut role = Role::open(&client, &options)?;
    let mut watches = Watches::start(&client);
    let (found, ours) = role.node.leftovers().await.context("looking at what is on this node")?;
    if ours || options.clean {
        info!("taking over what an earlier route-agent left on this node");
        role.agent.handle_leftovers(found.leftover_networks(), role.now());
    }
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let wake = role.wake();
        tokio::select! {
            () = &mut shutdown => {
                info!("ending; routes and filter stay in place");
                return Ok(());
            }
            event = role.events.next() => role.handle_event(event),
            input = watches.inputs.recv() => match input {
                Some(input) => role.handle_input(input),
                None => anyhow::bail!("the watches ended"),
            },
            () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
        }
        // Whatever else has come meanwhile belongs to the same step.
        while let Ok(input) = watches.inputs.try_recv() {
            role.handle_input(input);
        }
        while let Some(event) = role.events.try_next() {
            role.handle_event(event);
            if event == Event::Ours {
                break;
            }
        }
        role.step().await;
    }
}

struct Role {
    agent: Agent,
    node: Node,
    events: Events,
    metrics: Metrics,
    nodes: Api<NodeObject>,
    name: String,
    /// The clock's beginning.
    started: Instant,
    /// The kinds that have been listed.
    synced: BTreeSet<&'static str>,
    links_changed: bool,
    links: Option<Links>,
    issues: BTreeSet<Issue>,
    phase: Phase,
    checked_forwarding: bool,
    /// When what failed is tried again, and how long was waited for it.
    retry: Option<(Instant, Duration)>,
    /// The problem that the Node says it has; not known before the first writing, since an earlier route-agent may have left one.
    told: Option<Option<String>>,
}

impl Role {
    fn open(client: &Client, options: &RouteAgentOptions) -> anyhow::Result<Self> {
        let network = Network::open()?;
        let metrics = Metrics::new(&options.registry, FilterTable::open()?).context("registering metrics")?;
        let settings = Settings {
            node: options.node_name.clone(),
            hold: options.hold,
            reach_all: options.reach_all,
            vxlan_port: options.vxlan_port,
        };
        Ok(Self {
            agent: Agent::new(settings),
            node: Node::new(network, FilterTable::open()?, metrics.clone()),
            events: Events::open()?,
            metrics,
            nodes: Api::all(client.clone()),
            name: options.node_name.to_string(),
            started: Instant::now(),
            synced: BTreeSet::new(),
            links_changed: true,
            links: None,
            issues: BTreeSet::new(),
            phase: Phase::NotJoined,
            checked_forwarding: false,
            retry: None,
            told: None,
        })
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn is_synced(&self) -> bool {
        self.synced.len() == KINDS
    }

    /// When something is to be done without being asked.
    fn wake(&self) -> Option<Instant> {
        if !self.is_synced() {
            return None;
        }
        let deadline = self.agent.poll_timeout().map(|at| self.started + at);
        deadline.into_iter().chain(self.retry.map(|(at, _)| at)).min()
    }

    fn handle_event(&mut self, event: Event) {
        self.links_changed = true;
        if event == Event::Ours {
            self.node.look_again();
        }
    }

    fn handle_input(&mut self, input: Input) {
        let now = self.now();
        let kind = match input {
            Input::Cluster(change) => {
                match change {
                    Change::Applied(cluster) => self.agent.handle_cluster(&cluster, now),
                    Change::Deleted { name, .. } => self.agent.forget_cluster(&name, now),
                    Change::Synced => return self.handle_synced("Cluster"),
                }
                return;
            }
            Input::Node(change) => match change {
                Change::Applied(node) => {
                    let before = self.agent.internal_addresses().to_vec();
                    self.agent.handle_node(&node);
                    self.links_changed |= before != self.agent.internal_addresses();
                    return;
                }
                Change::Deleted { name, .. } => return self.agent.forget_node(&name),
                Change::Synced => "Node",
            },
            Input::Gateway(change) => match change {
                Change::Applied(gateway) => return self.agent.handle_gateway(&gateway),
                Change::Deleted { name, .. } => return self.agent.forget_gateway(&name),
                Change::Synced => "Gateway",
            },
            Input::Export(change) => match change {
                Change::Applied(export) => return self.agent.openings().handle_export(&export),
                Change::Deleted { namespace, name } => return self.agent.openings().forget_export(&namespace, &name),
                Change::Synced => "ServiceExport",
            },
            Input::Service(change) => match change {
                Change::Applied(service) => return self.agent.openings().handle_service(&service),
                Change::Deleted { namespace, name } => return self.agent.openings().forget_service(&namespace, &name),
                Change::Synced => "Service",
            },
            Input::Slice(change) => match change {
                Change::Applied(slice) => return self.agent.openings().handle_slice(&slice),
                Change::Deleted { namespace, name } => return self.agent.openings().forget_slice(&namespace, &name),
                Change::Synced => "EndpointSlice",
            },
        };
        self.handle_synced(kind);
    }

    fn handle_synced(&mut self, kind: &'static str) {
        if self.synced.insert(kind) && self.is_synced() {
            self.agent.handle_synced(self.now());
        }
    }

    /// Looks at what is to be, and does it. Before everything has been listed once nothing is done: an incomplete picture
    /// would close what is open.
    async fn step(&mut self) {
        if !self.is_synced() {
            return;
        }
        if !self.follow_links().await {
            return self.fail();
        }
        let now = self.now();
        let state = self.agent.poll(now);
        self.report();
        let Some(want) = state else {
            self.retry = None;
            return;
        };
        if !self.checked_forwarding && !want.is_empty() {
            self.checked_forwarding = true;
            ensure_forwarding(want.rules.iter().any(|rule| rule.ipv6));
        }
        let changes: OpeningChanges = self.agent.openings().poll();
        let openings = self.agent.openings();
        let count = i64::try_from(openings.len()).unwrap_or(i64::MAX);
        self.metrics.openings.set(count);
        let all = || openings.all().collect::<Vec<Opening>>();
        let brought = self.node.bring(&want, all, &changes).await;
        // What fails once and works the next time is nobody's business.
        if (brought || self.retry.is_some())
            && let Err(error) = self.tell_problem().await
        {
            warn!(%error, "annotating Node {} failed; trying again", self.name);
            return self.fail();
        }
        if !brought {
            return self.fail();
        }
        match self.annotate().await {
            Ok(()) => self.retry = None,
            Err(error) => {
                warn!("annotating Node {} failed; trying again: {error:#}", self.name);
                self.fail();
            }
        }
    }

    fn fail(&mut self) {
        let pause = self.retry.map_or(RETRY.0, |(_, before)| (before * 2).min(RETRY.1));
        self.retry = Some((Instant::now() + pause, pause));
    }

    /// Asks the kernel about others' devices, if these may have changed.
    async fn follow_links(&mut self) -> bool {
        if !self.links_changed {
            return true;
        }
        match self.node.links(self.agent.internal_addresses()).await {
            Ok(links) => {
                self.links_changed = false;
                if links.tunnel_up && !self.links.is_some_and(|before| before.tunnel_up) {
                    self.node.tune_tunnel().await;
                }
                self.links = Some(links);
                self.agent.handle_links(links);
                true
            }
            Err(error) => {
                warn!(%error, "the node's devices cannot be listed; trying again");
                false
            }
        }
    }

    /// Logs what is new, and sets the metrics.
    fn report(&mut self) {
        let issues = self.agent.issues();
        for issue in issues.difference(&self.issues) {
            warn!("{issue}");
        }
        for issue in self.issues.difference(issues) {
            info!("no longer: {issue}");
        }
        self.issues.clone_from(issues);
        let phase = self.agent.phase();
        if phase != self.phase {
            match phase {
                Phase::NotJoined => {}
                Phase::Joined => info!("this cluster is a member: routes and filter are kept"),
                Phase::Leaving { .. } => {
                    info!("this cluster leaves: packets to other clusters are held, then everything is removed")
                }
                Phase::Left => info!("this cluster left: everything is removed"),
            }
            self.phase = phase;
        }
        self.metrics.members.set(i64::try_from(self.agent.members()).unwrap_or(i64::MAX));
        self.metrics.issues.set(i64::try_from(self.issues.len()).unwrap_or(i64::MAX));
        let way = self.agent.members() > 0 && phase == Phase::Joined;
        let lost = self.issues.contains(&Issue::NoGateway) || self.issues.contains(&Issue::NoGatewayNode);
        self.metrics.gateway.set(i64::from(way && !lost));
    }

    /// Says on the Node what is wrong on it, where `daisy show nodes` and `daisy join` find it.
    async fn tell_problem(&mut self) -> Result<(), kube::Error> {
        let problem = self.node.problem().map(str::to_owned);
        if self.told.as_ref() == Some(&problem) {
            return Ok(());
        }
        let patch = serde_json::json!({ "metadata": { "annotations": { NODE_PROBLEM: problem } } });
        self.nodes.patch(&self.name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        self.told = Some(problem);
        Ok(())
    }

    async fn annotate(&self) -> anyhow::Result<()> {
        let value = match self.agent.annotation() {
            None => return Ok(()),
            Some(Annotation::Clean) => {
                // A gateway that did not live to see the leave has left its device.
                self.node.remove_tunnel().await?;
                serde_json::json!(CLEAN)
            }
            Some(Annotation::Absent) => serde_json::Value::Null,
        };
        let patch = serde_json::json!({ "metadata": { "annotations": { NODE_STATE: value } } });
        self.nodes.patch(&self.name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        info!("annotated Node {}: {NODE_STATE} {value}", self.name);
        Ok(())
    }
}
