//! What can be typed.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use daisy_api::{Cidr, ClusterId, Grant, NamespaceName, NodeName, ServiceName};

/// Joins Kubernetes clusters into one supercluster.
#[derive(Parser)]
#[command(name = "daisy", version, about, after_help = "See it work on this machine, without a cluster: daisy lab")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Make a broker of a Kubernetes cluster, or serve one here, and write broker-info.daisy for clusters to join by.
    #[command(
        after_help = "Examples:\n  daisy deploy-broker --context broker\n  daisy deploy-broker --embedded --advertise 203.0.113.5\n  daisy deploy-broker --embedded --advertise 203.0.113.5 --unit systemd > daisy-broker.service"
    )]
    DeployBroker(DeployBroker),
    /// Make an invitation and print the file that a cluster joins by.
    #[command(
        after_help = "Examples:\n  daisy invite --export none > developers.daisy\n  daisy invite --export 'shop-*,web' --uses 1 --ttl 1h > shop.daisy"
    )]
    Invite(Invite),
    /// Join a cluster to the supercluster, or bring its Daisy up to date.
    #[command(after_help = "Example:\n  daisy join broker-info.daisy --context staging --clusterid staging")]
    Join(Join),
    /// Take a cluster out of the supercluster and everything of Daisy out of the cluster.
    #[command(after_help = "Example:\n  daisy leave --context staging")]
    Leave(Leave),
    /// Take everything of Daisy out of a cluster, as `leave` does; with --broker, the broker on it too.
    #[command(after_help = "Examples:\n  daisy uninstall --context staging\n  daisy uninstall --broker --context broker")]
    Uninstall(Uninstall),
    /// Offer a Service, or every Service of a namespace, to the other clusters.
    #[command(subcommand, after_help = "Examples:\n  daisy export service nginx -n nginx\n  daisy export namespace shop")]
    Export(Export),
    /// Offer it no longer.
    #[command(subcommand, after_help = "Example:\n  daisy unexport service nginx -n nginx")]
    Unexport(Export),
    /// List the members of the supercluster (at the broker).
    Members(Members),
    /// Change what a member may export (at the broker).
    #[command(after_help = "Example:\n  daisy grant local 'preview-*'")]
    Grant(SetGrant),
    /// End a membership (at the broker): what the cluster exported is withdrawn, its CIDRs are free again.
    Evict(Evict),
    /// Print a kind configuration whose CIDRs no other member has.
    #[command(
        after_help = "Example:\n  daisy kind-config developers.daisy --name local > local.yaml\n  kind create cluster --config local.yaml"
    )]
    KindConfig(KindConfig),
    /// Show what Daisy knows in a cluster.
    #[command(subcommand, after_help = "Example:\n  daisy show connections --context local")]
    Show(Show),
    /// Clusters on this machine, in network namespaces: the walk, from nothing to two joined clusters.
    #[command(
        after_help = "Examples:\n  daisy lab\n  daisy lab --keep\n  daisy lab exec local/client -- getent hosts nginx.nginx.svc\n  daisy lab down"
    )]
    Lab(Lab),
    /// Print shell completions.
    #[command(after_help = "Example:\n  daisy completions bash > /etc/bash_completion.d/daisy")]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Role: serve the embedded broker (what `deploy-broker --embedded` runs).
    #[command(display_order = 100)]
    Broker(BrokerRole),
    /// Role: judge who joins, on a broker that is a Kubernetes cluster.
    #[command(display_order = 100)]
    Registrar(RegistrarRole),
    /// Role: sync this cluster with the broker.
    #[command(display_order = 100)]
    Syncer(SyncerRole),
    /// Role: hold this node's tunnels to other clusters.
    #[command(display_order = 100)]
    Gateway(GatewayRole),
    /// Role: keep this node's routes and filter.
    #[command(display_order = 100)]
    RouteAgent(RouteAgentRole),
    /// Role: answer supercluster.local and clusterset.local.
    #[command(display_order = 100)]
    Dns(DnsRole),
}

/// Which cluster a command talks to.
#[derive(Args, Clone, Default)]
pub(crate) struct Target {
    /// The kubeconfig file; else $KUBECONFIG, ~/.kube/config, or the pod's own.
    #[arg(long, global = true)]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The context in it; else its current one.
    #[arg(long, global = true)]
    pub(crate) context: Option<String>,
}

/// How a command reaches the broker as its administrator.
#[derive(Args, Clone)]
pub(crate) struct BrokerTarget {
    /// The broker's kubeconfig [default: yours with --broker-context; else daisy-broker-data/admin.kubeconfig, which an embedded
    /// broker writes].
    #[arg(long, env = "DAISY_BROKER_KUBECONFIG")]
    pub(crate) broker_kubeconfig: Option<PathBuf>,
    /// The context in it; else its current one.
    #[arg(long)]
    pub(crate) broker_context: Option<String>,
}

impl BrokerTarget {
    /// Where an embedded broker that was started in this folder has its kubeconfig.
    pub(crate) const EMBEDDED: &str = "daisy-broker-data/admin.kubeconfig";
}

/// Where an embedded broker keeps its data: a folder beside whoever types it.
pub(crate) const DATA: &str = "daisy-broker-data";
/// Where a new broker's first invitation is written to.
pub(crate) const INVITATION: &str = "broker-info.daisy";
/// Daisy's image, in the version of this program.
pub(crate) const IMAGE: &str = concat!("daisy:", env!("CARGO_PKG_VERSION"));

#[derive(Args, Clone)]
pub(crate) struct BrokerRole {
    /// Where its keys and database are kept.
    #[arg(long, default_value = DATA)]
    pub(crate) data: PathBuf,
    /// The addresses to listen on.
    #[arg(long, default_values = ["0.0.0.0:6443"], value_delimiter = ',')]
    pub(crate) listen: Vec<SocketAddr>,
    /// The addresses or names that clusters reach it at, the first one in broker-info.daisy.
    #[arg(long, required = true, value_delimiter = ',')]
    pub(crate) advertise: Vec<String>,
}

/// What runs an embedded broker.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Unit {
    /// A systemd service.
    Systemd,
    /// A container of Podman's, by systemd (Quadlet).
    Podman,
}

#[derive(Args)]
pub(crate) struct DeployBroker {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Serve the broker here, in the foreground, with a database of its own, instead of on a Kubernetes cluster.
    #[arg(long, conflicts_with_all = ["kubeconfig", "context", "server", "ca_file", "dry_run"])]
    pub(crate) embedded: bool,
    /// With --embedded: where its keys and database are kept.
    #[arg(long, default_value = DATA, requires = "embedded")]
    pub(crate) data: PathBuf,
    /// With --embedded: the addresses to listen on.
    #[arg(long, default_values = ["0.0.0.0:6443"], value_delimiter = ',', requires = "embedded")]
    pub(crate) listen: Vec<SocketAddr>,
    /// With --embedded: the addresses or names that clusters reach it at, the first one in broker-info.daisy.
    #[arg(long, required_if_eq("embedded", "true"), value_delimiter = ',', requires = "embedded")]
    pub(crate) advertise: Vec<String>,
    /// With --embedded: print a unit that serves like this, instead of serving; its invitation is beside its data.
    #[arg(long, value_enum, requires = "embedded", conflicts_with = "output")]
    pub(crate) unit: Option<Unit>,
    /// The URL that clusters reach the broker's API server at; else the one in the kubeconfig.
    #[arg(long)]
    pub(crate) server: Option<String>,
    /// The certificate authority (PEM) that clusters are to pin; else that of the kubeconfig, or the cluster's own.
    #[arg(long)]
    pub(crate) ca_file: Option<PathBuf>,
    /// Daisy's image.
    #[arg(long, default_value = IMAGE)]
    pub(crate) image: String,
    /// The file to write the first invitation to (all namespaces, 24 hours, 10 uses).
    #[arg(long, default_value = INVITATION)]
    pub(crate) output: PathBuf,
    /// Print what would be applied, and change nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// How long to wait until the registrar is ready.
    #[arg(long, default_value = "2m", value_parser = duration)]
    pub(crate) timeout: std::time::Duration,
}

#[derive(Args)]
pub(crate) struct Invite {
    #[command(flatten)]
    pub(crate) broker: BrokerTarget,
    /// The namespaces that its clusters may export from: all, none, or patterns such as 'shop-*,web'.
    #[arg(long, default_value = "all")]
    pub(crate) export: Grant,
    /// How long it is good for: 30m, 24h, 7d.
    #[arg(long, default_value = "24h", value_parser = duration)]
    pub(crate) ttl: std::time::Duration,
    /// How many clusters may join by it.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) uses: u32,
    /// Let them have CIDRs of public addresses: every member then sends these addresses to them.
    #[arg(long)]
    pub(crate) allow_public_cidrs: bool,
    /// The broker's URL in the file; else the one that it was deployed with.
    #[arg(long)]
    pub(crate) server: Option<String>,
}

#[derive(Args)]
pub(crate) struct Join {
    /// The file that `daisy deploy-broker` or `daisy invite` wrote.
    pub(crate) broker_info: PathBuf,
    #[command(flatten)]
    pub(crate) target: Target,
    /// The cluster's ID in the supercluster: a DNS label.
    #[arg(long)]
    pub(crate) clusterid: ClusterId,
    /// Its pod CIDRs, with commas between; else found.
    #[arg(long, value_delimiter = ',')]
    pub(crate) clustercidr: Vec<Cidr>,
    /// Its service CIDRs, with commas between; else found.
    #[arg(long, value_delimiter = ',')]
    pub(crate) servicecidr: Vec<Cidr>,
    /// The node or nodes to be gateways, with commas between; else those that are labelled so, else a worker.
    #[arg(long, alias = "gateway", value_delimiter = ',')]
    pub(crate) gateway_node: Vec<NodeName>,
    /// The gateway's public address, where the node does not know it.
    #[arg(long)]
    pub(crate) public_address: Option<IpAddr>,
    /// The ConfigMap with the Corefile of the cluster's CoreDNS, as NAMESPACE/NAME; else found.
    #[arg(long, conflicts_with = "skip_dns")]
    pub(crate) coredns: Option<ObjectName>,
    /// Leave the cluster's DNS alone, and say what to forward by hand.
    #[arg(long)]
    pub(crate) skip_dns: bool,
    /// Take the place of a cluster that was made anew under this ID (with a fresh invitation).
    #[arg(long)]
    pub(crate) replace: bool,
    /// Daisy's image.
    #[arg(long, default_value = IMAGE)]
    pub(crate) image: String,
    /// Admit traffic from other clusters to everything, not only to what is exported.
    #[arg(long, value_enum, default_value_t = Reach::Exported)]
    pub(crate) reach: Reach,
    /// How long routes to a cluster that went are held, so that nothing leaves by another way: 30s, 5m.
    #[arg(long, default_value = "30s", value_parser = duration)]
    pub(crate) hold: std::time::Duration,
    /// How often to vouch for this cluster's records at the broker.
    #[arg(long, default_value = "60s", value_parser = duration)]
    pub(crate) heartbeat: std::time::Duration,
    /// The UDP port of the gateways' tunnels, where the usual one is another program's.
    #[arg(long, default_value_t = daisy_api::labels::TUNNEL_PORT, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) tunnel_port: u16,
    /// The UDP port of the VXLAN between this cluster's nodes, where the usual one is another program's on any of them.
    #[arg(long, default_value_t = daisy_api::labels::VXLAN_PORT, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) vxlan_port: u16,
    /// Print what would be applied, and change nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// How long to wait until everything is ready.
    #[arg(long, default_value = "2m", value_parser = duration)]
    pub(crate) timeout: std::time::Duration,
}

/// What other clusters may reach.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Reach {
    /// What is exported.
    Exported,
    /// Every pod and Service.
    All,
}

#[derive(Args)]
pub(crate) struct Leave {
    #[command(flatten)]
    pub(crate) target: Target,
    /// How long to wait for parts that do not answer, before going on without them.
    #[arg(long, default_value = "2m", value_parser = duration)]
    pub(crate) timeout: std::time::Duration,
    /// Daisy's image, for nodes that have to be cleaned and where none runs any more.
    #[arg(long, default_value = IMAGE)]
    pub(crate) image: String,
}

#[derive(Args)]
pub(crate) struct Uninstall {
    #[command(flatten)]
    pub(crate) leave: Leave,
    /// The broker on this cluster too, with all its members' records and rights.
    #[arg(long)]
    pub(crate) broker: bool,
}

#[derive(Subcommand)]
pub(crate) enum Export {
    /// One Service.
    Service {
        /// Its name.
        name: ServiceName,
        /// Its namespace.
        #[arg(short, long, default_value = "default")]
        namespace: NamespaceName,
        #[command(flatten)]
        target: Target,
    },
    /// Every Service of a namespace, present and to come.
    Namespace {
        /// The namespace.
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        name: Option<NamespaceName>,
        /// Every namespace that there is, without those of Kubernetes and of Daisy.
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        target: Target,
    },
}

#[derive(Args)]
pub(crate) struct Members {
    #[command(flatten)]
    pub(crate) broker: BrokerTarget,
    #[command(flatten)]
    pub(crate) format: Format,
}

#[derive(Args)]
pub(crate) struct SetGrant {
    #[command(flatten)]
    pub(crate) broker: BrokerTarget,
    /// The member.
    pub(crate) clusterid: ClusterId,
    /// The namespaces that it may export from: all, none, or patterns such as 'shop-*,web'.
    pub(crate) export: Grant,
}

#[derive(Args)]
pub(crate) struct Evict {
    #[command(flatten)]
    pub(crate) broker: BrokerTarget,
    /// The member.
    pub(crate) clusterid: ClusterId,
}

#[derive(Args)]
pub(crate) struct KindConfig {
    /// The file that `daisy invite` wrote.
    pub(crate) broker_info: PathBuf,
    /// The kind cluster's name, and the ID that it will join under.
    #[arg(long, default_value = "local")]
    pub(crate) name: ClusterId,
    /// How many workers.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=16))]
    pub(crate) workers: u8,
}

/// How to print.
#[derive(Args, Clone, Copy)]
pub(crate) struct Format {
    /// For people, or for programs.
    #[arg(short, long, value_enum, default_value_t = OutputFormat::Table)]
    pub(crate) output: OutputFormat,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    Table,
    Json,
    Yaml,
}

#[derive(Args)]
pub(crate) struct ShowOptions {
    #[command(flatten)]
    pub(crate) target: Target,
    #[command(flatten)]
    pub(crate) format: Format,
}

#[derive(Subcommand)]
pub(crate) enum Show {
    /// The clusters of the supercluster, as this one knows them.
    Clusters(ShowOptions),
    /// This cluster's gateways.
    Gateways(ShowOptions),
    /// Its connections to other clusters, with their round-trip times.
    Connections(ShowOptions),
    /// Its nodes: which are gateways, their addresses, and what is wrong on them.
    Nodes(ShowOptions),
    /// What it exports and imports.
    Services(ShowOptions),
    /// All of these.
    All(ShowOptions),
}

#[derive(Args)]
pub(crate) struct Lab {
    #[command(subcommand)]
    pub(crate) action: Option<LabAction>,
    /// How many clusters: staging, local, then c3, c4, …
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(2..=16))]
    pub(crate) clusters: u8,
    /// How many nodes each.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=8))]
    pub(crate) nodes: u8,
    /// Print one JSON object a step.
    #[arg(long)]
    pub(crate) json: bool,
    /// Leave the lab up; `daisy lab down` ends it.
    #[arg(long)]
    pub(crate) keep: bool,
}

#[derive(Subcommand)]
pub(crate) enum LabAction {
    /// Run a command in a cluster's network (CLUSTER), a node (CLUSTER/NODE) or a pod (CLUSTER/POD or CLUSTER/NAMESPACE/POD).
    Exec {
        /// The lab, where several are up.
        #[arg(long)]
        lab: Option<String>,
        /// CLUSTER, CLUSTER/NODE, CLUSTER/POD or CLUSTER/NAMESPACE/POD.
        place: String,
        /// The command.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// The labs that are up.
    Status,
    /// End a lab.
    Down {
        /// The lab, where several are up.
        #[arg(long)]
        lab: Option<String>,
    },
}

#[derive(Args)]
pub(crate) struct RegistrarRole {
    /// This replica's name (its pod's): of several, the one that holds the Lease daisy-broker/daisy-registrar judges. Else made up.
    #[arg(long, env = "DAISY_REPLICA")]
    pub(crate) replica: Option<String>,
    #[command(flatten)]
    pub(crate) health: HealthAddress,
    /// Let clusters have CIDRs of public addresses, whatever their invitation says.
    #[arg(long)]
    pub(crate) allow_public_cidrs: bool,
}

/// Where a role is asked how it is.
#[derive(Args, Clone, Copy)]
pub(crate) struct HealthAddress {
    /// Where to answer /healthz, /readyz and /metrics, as 0.0.0.0:8080; nowhere unless given.
    #[arg(long)]
    pub(crate) health: Option<SocketAddr>,
}

#[derive(Args)]
pub(crate) struct SyncerRole {
    #[command(flatten)]
    pub(crate) health: HealthAddress,
    /// How often to vouch for this cluster's records at the broker.
    #[arg(long, default_value = "60s", value_parser = duration)]
    pub(crate) heartbeat: std::time::Duration,
    /// This replica's name (its pod's): of several, the one that holds the Lease daisy-system/daisy-syncer writes. Else made up.
    #[arg(long, env = "DAISY_REPLICA")]
    pub(crate) replica: Option<String>,
}

#[derive(Args)]
pub(crate) struct GatewayRole {
    #[command(flatten)]
    pub(crate) health: HealthAddress,
    /// The node it runs on.
    #[arg(long, env = "DAISY_NODE_NAME")]
    pub(crate) node_name: NodeName,
    /// The UDP port of its tunnels.
    #[arg(long, default_value_t = daisy_api::labels::TUNNEL_PORT, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: u16,
}

#[derive(Args)]
pub(crate) struct RouteAgentRole {
    #[command(flatten)]
    pub(crate) health: HealthAddress,
    /// The node it runs on.
    #[arg(long, env = "DAISY_NODE_NAME")]
    pub(crate) node_name: NodeName,
    /// How long routes to a cluster that went are held.
    #[arg(long, default_value = "30s", value_parser = duration)]
    pub(crate) hold: std::time::Duration,
    /// What other clusters may reach.
    #[arg(long, value_enum, default_value_t = Reach::Exported)]
    pub(crate) reach: Reach,
    /// Clean the node of what an earlier life may have left, where the cluster is no member.
    #[arg(long)]
    pub(crate) clean: bool,
    /// The UDP port of the VXLAN between nodes and gateways; the same on all nodes of a cluster.
    #[arg(long, default_value_t = daisy_api::labels::VXLAN_PORT, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) vxlan_port: u16,
}

#[derive(Args)]
pub(crate) struct DnsRole {
    #[command(flatten)]
    pub(crate) health: HealthAddress,
    /// The addresses to listen on, UDP and TCP.
    #[arg(long, default_values = ["0.0.0.0:5353"], value_delimiter = ',')]
    pub(crate) listen: Vec<SocketAddr>,
}

/// `NAMESPACE/NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ObjectName {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl std::fmt::Display for ObjectName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl std::str::FromStr for ObjectName {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((namespace, name)) if daisy_api::names::is_label(namespace) && !name.is_empty() && !name.contains('/') => {
                Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
            }
            _ => Err(format!("{text:?} is not NAMESPACE/NAME, as kube-system/coredns")),
        }
    }
}

/// Reads `500ms`, `30s`, `5m`, `24h` or `7d`.
pub(crate) fn duration(text: &str) -> Result<std::time::Duration, String> {
    let wrong = || format!("{text:?} is not a duration: write a number and a unit, as 500ms, 30s, 5m, 24h or 7d");
    let split = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wrong()),
    };
    number.checked_mul(millis).map(std::time::Duration::from_millis).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_commands_are_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn durations() {
        assert_eq!(duration("500ms"), Ok(std::time::Duration::from_millis(500)));
        assert_eq!(duration("7d"), Ok(std::time::Duration::from_secs(7 * 86_400)));
        for bad in ["", "5", "s", "5 m", "-1s", "18446744073709551615d"] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
    }
}
