//! The networks between and within clusters, made with `ip` and `nft`.
//!
//! ```text
//!                         broker
//!                           │
//!   staging-router ── internet (drops and counts inner addresses) ── local-router (masquerades, lets in replies only)
//!        │ bridge                                                       │ bridge
//!   control-plane, node1, node2                                   control-plane, node1, node2
//!        │                                                              │
//!   this machine (kubectl)                                        this machine (kubectl)
//! ```
//!
//! Beneath every routing table is an `unreachable` default, and nothing routes to this machine, so that no packet leaves by it.

use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::Bed;
use super::plan::{BROKER, BROKER_ADDRESS, Cluster, INTERNET, INTERNET_ADDRESS, Plan, Role};
use crate::programs;

/// The table of ours in routers and nodes.
const TABLE: &str = "bed";
/// What routers and hosts are set to. Whoever asks for what is unreachable is told each time, and not once a second.
const FORWARDING: &[&str] = &[
    "net.ipv4.ip_forward=1",
    "net.ipv4.conf.all.rp_filter=0",
    "net.ipv4.conf.default.rp_filter=0",
    "net.ipv4.icmp_ratelimit=0",
    "net.ipv6.conf.all.forwarding=1",
];
/// What nodes are set to: as distributions do, loose reverse path filtering included. Nobody else has their IPv6 addresses, and a pod
/// need not wait until that is sure.
const NODE: &[&str] = &[
    "net.ipv4.ip_forward=1",
    "net.ipv4.conf.all.rp_filter=0",
    "net.ipv4.conf.default.rp_filter=2",
    "net.ipv6.conf.all.forwarding=1",
    "net.ipv6.conf.default.accept_dad=0",
];

/// One thing to do in one network namespace.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Lines for `ip -batch`; a host of "" is the machine itself.
    Ip { host: String, lines: Vec<String> },
    /// A ruleset for `nft -f -`.
    Nft { host: String, text: String },
    /// Settings for `sysctl -w`.
    Sysctl { host: String, settings: &'static [&'static str] },
}

impl Bed {
    /// Gives a cluster's router another address on the internet, as a provider does overnight.
    ///
    /// # Errors
    /// When the router does not have the old one.
    pub fn readdress(&self, cluster: &Cluster, old: Ipv4Addr, new: Ipv4Addr) -> Result<()> {
        let (router, port) = (cluster.router(), format!("to-{}", cluster.name));
        let run = |host: &str, line: String| self.run(host, &line.split(' ').collect::<Vec<_>>()).map(drop);
        // The new one first: with its last address a device loses its routes.
        run(&router, format!("ip addr add {new}/32 dev wan"))?;
        run(INTERNET, format!("ip route add {new}/32 dev {port}"))?;
        if !cluster.nat {
            run(INTERNET, format!("ip route replace {} via {new} dev {port}", cluster.network()))?;
        }
        run(&router, format!("ip addr del {old}/32 dev wan"))?;
        run(INTERNET, format!("ip route del {old}/32 dev {port}"))
    }
}

/// Makes the network namespaces of all hosts, and everything between them.
pub(super) fn make(plan: &Plan) -> Result<()> {
    for step in steps(plan) {
        step.run()?;
    }
    Ok(())
}

/// What the internet has seen and dropped since the last look: packets with an address of a pod, a Service or the like.
pub(super) const DROPPED: &[&str] = &["nft", "-j", "list", "chain", "inet", TABLE, "crossing"];

fn steps(plan: &Plan) -> Vec<Step> {
    let hosts = plan.hosts();
    let mut steps = vec![machine(hosts.iter().map(|(name, _)| format!("netns add {name}")).collect())];
    for (name, role) in &hosts {
        let settings = if matches!(role, Role::Node(..)) { NODE } else { FORWARDING };
        steps.push(Step::Sysctl { host: name.clone(), settings });
        let unreachable = "route add unreachable default metric 4278198272";
        steps.push(ip(name, &["link set lo up".to_owned(), unreachable.to_owned(), format!("-6 {unreachable}")]));
    }
    steps.extend(internet(plan));
    for cluster in &plan.clusters {
        steps.extend(router(cluster));
        steps.extend(hosts_of(cluster));
        steps.push(management(cluster));
    }
    steps
}

fn machine(lines: Vec<String>) -> Step {
    Step::Ip { host: String::new(), lines }
}

fn ip<S: AsRef<str>>(host: &str, lines: &[S]) -> Step {
    Step::Ip { host: host.to_owned(), lines: lines.iter().map(|l| l.as_ref().to_owned()).collect() }
}

/// A link from the internet's router to a host, point to point.
fn uplink(port: &str, host: &str, address: Ipv4Addr, behind: Option<String>) -> [Step; 3] {
    let behind = behind.map(|network| format!("route add {network} via {address} dev {port}"));
    let mut lines = vec![
        format!("link set {port} up"),
        format!("addr add {INTERNET_ADDRESS}/32 dev {port}"),
        format!("route add {address}/32 dev {port}"),
    ];
    lines.extend(behind);
    [
        machine(vec![format!("link add {port} netns {INTERNET} type veth peer name wan netns {host}")]),
        ip(INTERNET, &lines),
        ip(
            host,
            &[
                "link set wan up".to_owned(),
                format!("addr add {address}/32 dev wan"),
                format!("route add {INTERNET_ADDRESS}/32 dev wan"),
                format!("route add default via {INTERNET_ADDRESS} dev wan metric 100"),
            ],
        ),
    ]
}

/// Routes to everyone, drops and counts what bears an inner address: what came across, came through a tunnel.
fn internet(plan: &Plan) -> Vec<Step> {
    let mut steps = Vec::from(uplink("broker", BROKER, BROKER_ADDRESS, None));
    for cluster in &plan.clusters {
        let network = (!cluster.nat).then(|| cluster.network());
        steps.extend(uplink(&format!("to-{}", cluster.name), &cluster.router(), cluster.public_address(), network));
    }
    let inner = plan.inner_cidrs();
    let drops = inner.iter().map(|cidr| {
        format!(
            "    ip saddr {cidr} counter drop comment \"from {cidr}\"\n    ip daddr {cidr} counter drop comment \"to {cidr}\"\n"
        )
    });
    let text = format!(
        "table inet {TABLE} {{\n  chain crossing {{\n    type filter hook prerouting priority filter;\n{}  }}\n}}\n",
        drops.collect::<String>()
    );
    steps.push(Step::Nft { host: INTERNET.to_owned(), text });
    steps
}

/// A cluster's router, with the bridge that its hosts are on.
fn router(cluster: &Cluster) -> Vec<Step> {
    let host = cluster.router();
    let mut steps = vec![ip(
        &host,
        &[
            "link add lan type bridge".to_owned(),
            "link set lan up".to_owned(),
            format!("addr add {} dev lan", cluster.on_network(cluster.router_address())),
        ],
    )];
    if cluster.nat {
        let text = format!(
            "table inet {TABLE} {{
  chain postrouting {{
    type nat hook postrouting priority srcnat;
    oifname \"wan\" masquerade
  }}
  chain forward {{
    type filter hook forward priority filter;
    iifname \"wan\" ct state established,related accept
    iifname \"wan\" counter drop
  }}
}}
"
        );
        steps.push(Step::Nft { host, text });
    }
    steps
}

/// Control plane and nodes: on the router's bridge, with routes to each other's pods, masquerading what leaves the cluster.
fn hosts_of(cluster: &Cluster) -> Vec<Step> {
    let router = cluster.router();
    let addresses = (cluster.control_plane_address(), cluster.control_plane_address6());
    let mut hosts = vec![("cp".to_owned(), cluster.control_plane(), addresses, 0)];
    let node = |n| (format!("n{n}"), cluster.node(n), (cluster.node_address(n), cluster.node_address6(n)), n);
    hosts.extend(cluster.node_numbers().map(node));
    let mut steps = Vec::new();
    for (port, host, (four, six), number) in hosts {
        steps.push(machine(vec![format!("link add {port} netns {router} type veth peer name eth0 netns {host}")]));
        steps.push(ip(&router, &[format!("link set {port} master lan up")]));
        let mut lines = vec![
            "link set eth0 up".to_owned(),
            format!("addr add {} dev eth0", cluster.on_network(four)),
            format!("addr add {six}/64 dev eth0 nodad"),
            format!("route add default via {} dev eth0 metric 100", cluster.router_address()),
        ];
        for other in cluster.node_numbers().filter(|n| *n != number) {
            let [pods, pods6] = cluster.node_pod_cidrs(other);
            lines.push(format!("route add {pods} via {} dev eth0", cluster.node_address(other)));
            lines.push(format!("-6 route add {pods6} via {} dev eth0", cluster.node_address6(other)));
        }
        steps.push(ip(&host, &lines));
        if number > 0 {
            let [pods, _] = cluster.pod_cidrs();
            let text = format!(
                "table ip {TABLE} {{
  chain postrouting {{
    type nat hook postrouting priority srcnat;
    ip saddr {pods} ip daddr != {pods} ip daddr != 224.0.0.0/4 masquerade
  }}
}}
"
            );
            steps.push(Step::Nft { host, text });
        }
    }
    steps
}

/// The link between this machine and the control plane, for kubectl; no route leads by it anywhere else.
fn management(cluster: &Cluster) -> Step {
    let (device, host) = (cluster.machine_device(), cluster.control_plane());
    machine(vec![
        format!("link add {device} type veth peer name management netns {host}"),
        format!("addr add {}/30 dev {device}", cluster.machine_address()),
        format!("link set {device} up"),
        format!("-n {host} addr add {}/30 dev management", cluster.management_address()),
        format!("-n {host} link set management up"),
    ])
}

impl Step {
    fn run(&self) -> Result<()> {
        match self {
            Self::Ip { host, lines } => lines.iter().try_for_each(|line| {
                let inside = if host.is_empty() { String::new() } else { format!("-n {host} ") };
                let words = format!("{inside}{line}");
                run(Command::new("ip").args(words.split(' ')), &format!("ip {words}"), None)
            }),
            Self::Nft { host, text } => {
                run(Command::new("ip").args(["netns", "exec", host, "nft", "-f", "-"]), &format!("nft in {host}"), Some(text))
            }
            Self::Sysctl { host, settings } => {
                let what = format!("sysctl in {host}");
                run(Command::new("ip").args(["netns", "exec", host, "sysctl", "-qw"]).args(*settings), &what, None)
            }
        }
    }
}

fn run(command: &mut Command, what: &str, input: Option<&str>) -> Result<()> {
    use std::io::Write;
    command.env("PATH", programs::path()).stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().with_context(|| format!("starting {what}"))?;
    if let (Some(text), Some(mut stdin)) = (input, child.stdin.take()) {
        stdin.write_all(text.as_bytes()).with_context(|| format!("writing to {what}"))?;
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("{what}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(plan: &Plan, of: &str) -> Vec<String> {
        let all = steps(plan).into_iter();
        all.filter_map(|step| match step {
            Step::Ip { host, lines } if host == of => Some(lines),
            Step::Ip { .. } | Step::Nft { .. } | Step::Sysctl { .. } => None,
        })
        .flatten()
        .collect()
    }

    #[test]
    fn every_host_ends_in_unreachable_and_nothing_leads_to_this_machine() {
        let plan = Plan::new("a", 3, 3, 2, 1).expect("a plan");
        for (host, _) in plan.hosts() {
            let lines = lines(&plan, &host);
            assert!(lines.iter().any(|l| l.starts_with("route add unreachable default")), "{host}");
            assert!(!lines.iter().any(|l| l.starts_with("route") && l.contains("management")), "{host}: {lines:?}");
        }
    }

    #[test]
    fn only_networks_that_are_not_behind_nat_are_routed() {
        let plan = Plan::new("a", 0, 2, 1, 1).expect("a plan");
        let lines = lines(&plan, INTERNET);
        assert!(lines.iter().any(|l| l.contains(&plan.clusters[0].network())));
        assert!(!lines.iter().any(|l| l.contains("192.168.")), "{lines:?}");
    }
}
