//! A cluster of two nodes and another cluster behind its gateway, each part a network namespace.
//!
//! ```text
//! pod-1 10.10.1.5 ── node-1 (gateway) ─── daisy0 ─── other cluster: 10.20.0.5, fd20::5
//!                      │ eth0 192.168.0.1
//! pod-2 10.10.2.5 ── node-2, eth0 192.168.0.2
//! ```

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use daisy_nftables::{Batch, Chain, ChainType, Hook, Rule, Socket, Table, ct_status, priority};
use daisy_route_agent_core::{Agent, Settings};
use tokio::runtime::Runtime;

use super::common::{self, Namespace};
use super::objects;
use crate::filter::FilterTable;
use crate::metrics::Metrics;
use crate::netlink::Network;
use crate::node::Node;

pub(super) const HOLD: Duration = Duration::from_secs(10);
pub(super) const OTHER: [&str; 2] = ["10.20.0.5", "fd20::5"];
pub(super) const POD: [[&str; 2]; 2] = [["10.10.1.5", "fd10:0:0:1::5"], ["10.10.2.5", "fd10:0:0:2::5"]];
pub(super) const NODE_ADDRESS: [&str; 2] = ["100.80.0.1", "100.80.0.2"];
pub(super) const INTERNAL: [&str; 2] = ["192.168.0.1", "192.168.0.2"];
/// A ClusterIP whose pod is on node-2.
pub(super) const CLUSTER_IP: &str = "10.110.0.7";
/// Another one of the same pod, of a Service that nobody exports.
pub(super) const SECRET_IP: &str = "10.110.0.8";

const LOCAL: [&[&str]; 3] = [&["10.10.0.0/16", "fd10::/48"], &["10.110.0.0/16"], &["100.80.0.0/24"]];
const REMOTE: [&[&str]; 3] = [&["10.20.0.0/16", "fd20::/48"], &["10.120.0.0/16"], &["100.80.1.0/24"]];

/// A node's agent, in its namespace.
pub(super) struct Host {
    pub(super) namespace: Namespace,
    part: Arc<Mutex<Part>>,
}

/// What lives in the namespace.
pub(super) struct Part {
    pub(super) agent: Agent,
    pub(super) node: Node,
    runtime: Runtime,
}

impl Part {
    fn new(name: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let guard = runtime.enter();
        let network = Network::open().unwrap();
        drop(guard);
        let metrics = Metrics::new(&prometheus::Registry::new(), FilterTable::open().unwrap()).unwrap();
        let settings = Settings { hold: HOLD, ..Settings::new(name.parse().unwrap()) };
        let node = Node::new(network, FilterTable::open().unwrap(), metrics);
        Self { agent: Agent::new(settings), node, runtime }
    }

    /// Looks at the links, and brings the node to where the agent wants it. What is wrong, if it could not be brought there.
    pub(super) fn try_step(&mut self, now: Duration) -> Option<String> {
        let Self { agent, node, runtime } = self;
        runtime.block_on(async {
            let links = node.links(agent.internal_addresses()).await.unwrap();
            agent.handle_links(links);
            node.tune_tunnel().await;
            let want = agent.poll(now).expect("a member");
            let changes = agent.openings().poll();
            let openings = agent.openings();
            let brought = node.bring(&want, || openings.all().collect(), &changes).await;
            let problem = node.problem().map(str::to_owned);
            assert_eq!(brought, problem.is_none());
            problem
        })
    }

    fn step(&mut self, now: Duration) {
        assert_eq!(self.try_step(now), None);
    }
}

impl Host {
    fn new(test: &str, name: &'static str) -> Option<Self> {
        let namespace = Namespace::new(test)?;
        let part = namespace.run(move || Arc::new(Mutex::new(Part::new(name))));
        Some(Self { namespace, part })
    }

    /// Runs this in the namespace, on the agent there.
    pub(super) fn with<T: Send + 'static>(&self, job: impl FnOnce(&mut Part) -> T + Send + 'static) -> T {
        let part = self.part.clone();
        self.namespace.run(move || job(&mut part.lock().unwrap()))
    }

    /// Tells the agent something, and brings the node to where it wants it.
    pub(super) fn tell(&self, now: Duration, job: impl FnOnce(&mut Agent) + Send + 'static) {
        self.with(move |part| {
            job(&mut part.agent);
            part.node.look_again();
            part.step(now);
        });
    }

    /// As [`Self::tell`], but what is there is not looked at: the agent goes by what it knows.
    pub(super) fn tell_only(&self, now: Duration, job: impl FnOnce(&mut Agent) + Send + 'static) {
        self.with(move |part| {
            job(&mut part.agent);
            part.step(now);
        });
    }

    /// An agent that begins anew, as after a restart; it knows nothing of the one before.
    pub(super) fn restart(&self, name: &'static str) {
        self.with(move |part| *part = Part::new(name));
    }

    /// All addresses, routes, rules and devices here, and all nftables tables.
    pub(super) fn dump(&self) -> Vec<String> {
        self.namespace.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let network = runtime.block_on(async { Network::open().unwrap().dump().await });
            let tables = Socket::open().unwrap().tables().unwrap();
            network.into_iter().chain(tables.iter().map(ToString::to_string)).collect()
        })
    }

    /// How many packets the filter dropped for this reason.
    pub(super) fn dropped(&self, reason: &'static str) -> u64 {
        self.namespace.run(move || {
            let counts = FilterTable::open().unwrap().dropped().unwrap();
            counts.into_iter().find(|(name, _)| name == reason).map_or(0, |(_, packets)| packets)
        })
    }
}

/// All of it.
pub(super) struct Site {
    pub(super) nodes: [Host; 2],
    pub(super) pods: [Namespace; 2],
    pub(super) other: Namespace,
}

impl Site {
    /// The networks without Daisy. `None` where no namespace can be made.
    pub(super) fn new(test: &str) -> Option<Self> {
        let nodes = [Host::new(test, "node-1")?, Host::new(test, "node-2")?];
        let pods = [Namespace::new(test)?, Namespace::new(test)?];
        let other = Namespace::new(test)?;
        let [one, two] = [&nodes[0].namespace, &nodes[1].namespace];
        one.connect(("eth0", &["192.168.0.1/24"]), two, ("eth0", &["192.168.0.2/24"]));
        for (index, (host, pod)) in nodes.iter().zip(&pods).enumerate() {
            let [pod4, pod6] = [[("10.10.1.5/24"), "fd10:0:0:1::5/64"], ["10.10.2.5/24", "fd10:0:0:2::5/64"]][index];
            let [host4, host6] = [["10.10.1.1/24", "fd10:0:0:1::1/64"], ["10.10.2.1/24", "fd10:0:0:2::1/64"]][index];
            pod.connect(("eth0", &[pod4, pod6]), &host.namespace, ("pod0", &[host4, host6]));
            let gateway = |a: &str| a.split('/').next().unwrap().to_owned();
            pod.route(&[("0.0.0.0/0", &gateway(host4)), ("::/0", &gateway(host6))]);
            host.namespace.forward();
            host.namespace.run(cluster_network);
        }
        // Pods of one node reach those of the other as a CNI would have it; whatever is not theirs goes out by eth0.
        one.route(&[("10.10.2.0/24", INTERNAL[1]), ("0.0.0.0/0", INTERNAL[1])]);
        two.route(&[("10.10.1.0/24", INTERNAL[0]), ("0.0.0.0/0", INTERNAL[0])]);
        let site = Self { nodes, pods, other };
        site.add_tunnel();
        Some(site)
    }

    /// What stands for the tunnel: a wire to the other cluster, whose address is everything there.
    pub(super) fn add_tunnel(&self) {
        let addresses = ["10.20.0.5/32", "fd20::5/128", "10.120.0.9/32", "100.80.1.1/32"];
        self.other.connect(("tun", &addresses), &self.nodes[0].namespace, ("daisy0", &["100.80.0.1/32", "fe80::1/64"]));
        self.other.run(|| {
            common::netlink(|handle| async move {
                use rtnetlink::RouteMessageBuilder;
                let index = common::index_of(&handle, "tun").await;
                let v4 = RouteMessageBuilder::<std::net::Ipv4Addr>::new()
                    .output_interface(index)
                    .gateway("100.80.0.1".parse().unwrap())
                    .onlink();
                handle.route().add(v4.build()).execute().await.unwrap();
                let v6 = RouteMessageBuilder::<std::net::Ipv6Addr>::new()
                    .output_interface(index)
                    .gateway("fe80::1".parse().unwrap());
                handle.route().add(v6.build()).execute().await.unwrap();
            });
        });
        // In a tunnel, unlike on a wire, nobody is asked for an Ethernet address: both ends have the same one.
        for (namespace, device) in [(&self.other, "tun"), (&self.nodes[0].namespace, "daisy0")] {
            namespace.run(move || {
                common::netlink(|handle| async move {
                    let index = common::index_of(&handle, device).await;
                    let link = rtnetlink::LinkUnspec::new_with_index(index).arp(false).address(vec![2, 0, 0, 0, 0, 1]);
                    handle.link().set(link.build()).execute().await.unwrap();
                });
            });
        }
    }

    /// Takes the tunnel away.
    pub(super) fn remove_tunnel(&self) {
        self.other.run(|| {
            common::netlink(|handle| async move {
                let index = common::index_of(&handle, "tun").await;
                handle.link().del(index).execute().await.unwrap();
            });
        });
    }

    /// Tells both agents of both clusters, the nodes, and the exported Service `web` (its pods both, its ClusterIP on node-2).
    pub(super) fn join(&self, now: Duration) {
        for host in self.nodes.iter() {
            host.tell(now, move |agent| tell_all(agent, now));
        }
    }

    /// Lets this namespace serve TCP on a port: whoever connects is told whom it is seen as, and the segment size.
    pub(super) fn serve(namespace: &Namespace, port: u16) {
        namespace.run(move || {
            let listener = TcpListener::bind(("::", port)).unwrap();
            std::thread::spawn(move || {
                for stream in listener.incoming().take(100) {
                    let mut stream = stream.unwrap();
                    let from = stream.peer_addr().unwrap().ip().to_canonical();
                    let mss = nix::sys::socket::getsockopt(&stream, nix::sys::socket::sockopt::TcpMaxSeg).unwrap();
                    let _ = write!(stream, "{from} {mss}");
                }
            });
        });
    }
}

/// What both agents are told.
pub(super) fn tell_all(agent: &mut Agent, now: Duration) {
    agent.handle_node(&objects::node("node-1", INTERNAL[0], NODE_ADDRESS[0], &["10.10.1.0/24", "fd10:0:0:1::/64"], true));
    agent.handle_node(&objects::node("node-2", INTERNAL[1], NODE_ADDRESS[1], &["10.10.2.0/24", "fd10:0:0:2::/64"], false));
    agent.handle_gateway(&objects::gateway("node-1"));
    agent.handle_cluster(&local(false), now);
    agent.handle_cluster(&remote(), now);
    agent.openings().handle_export(&objects::export("web"));
    agent.openings().handle_service(&objects::service("web", &[CLUSTER_IP]));
    agent.openings().handle_service(&objects::service("secret", &[SECRET_IP]));
    let endpoints = [(POD[0][0], "node-1"), (POD[1][0], "node-2"), (POD[0][1], "node-1"), (POD[1][1], "node-2")];
    agent.openings().handle_slice(&objects::slice("web", &endpoints));
    agent.openings().handle_slice(&objects::slice("secret", &[(POD[1][0], "node-2")]));
    agent.handle_synced(now);
}

/// This cluster's own record.
pub(super) fn local(leaving: bool) -> daisy_api::Cluster {
    objects::cluster("home", "local", LOCAL, leaving)
}

/// The other cluster's record.
pub(super) fn remote() -> daisy_api::Cluster {
    objects::cluster("other", "remote", REMOTE, false)
}

/// Long enough for a lost packet to be sent again: the kernel takes new IPv6 addresses into use some time after it says so.
const PATIENCE: Duration = Duration::from_millis(3500);
/// Long enough to see that nothing answers.
const IMPATIENCE: Duration = Duration::from_millis(400);

/// What a connection says: whom the other end sees, and the segment size that it may send. `None` if nothing answers.
pub(super) fn ask(namespace: &Namespace, to: &str, port: u16) -> Option<(IpAddr, u32)> {
    connect(namespace, to, port, PATIENCE)
}

/// Whether nothing answers.
pub(super) fn is_closed(namespace: &Namespace, to: &str, port: u16) -> bool {
    connect(namespace, to, port, IMPATIENCE).is_none()
}

fn connect(namespace: &Namespace, to: &str, port: u16, patience: Duration) -> Option<(IpAddr, u32)> {
    let to = SocketAddr::new(to.parse().unwrap(), port);
    namespace.run(move || {
        let mut stream = TcpStream::connect_timeout(&to, patience).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let (from, mss) = text.split_once(' ')?;
        Some((from.parse().unwrap(), mss.parse().unwrap()))
    })
}

/// Whom the other end sees.
pub(super) fn sees(namespace: &Namespace, to: &str, port: u16) -> Option<IpAddr> {
    ask(namespace, to, port).map(|(from, _)| from)
}

/// What a CNI and kube-proxy have on a node: what leaves the cluster is masqueraded, and so is what comes from outside for a
/// ClusterIP; ClusterIPs are translated.
fn cluster_network() {
    let table = Table::inet("cluster-network");
    let pods: ipnetwork::IpNetwork = "10.10.0.0/16".parse().unwrap();
    let pods6: ipnetwork::IpNetwork = "fd10::/48".parse().unwrap();
    let pod: IpAddr = POD[1][0].parse().unwrap();
    let mut batch = Batch::new();
    batch.replace_table(&table);
    for (name, hook, at) in [
        ("pre", Hook::Prerouting, priority::DSTNAT),
        ("out", Hook::Output, priority::DSTNAT),
        ("post", Hook::Postrouting, priority::SRCNAT),
    ] {
        batch.add_chain(&table, &Chain::base(name, ChainType::Nat, hook, at));
    }
    for address in [CLUSTER_IP, SECRET_IP] {
        let address: IpAddr = address.parse().unwrap();
        for chain in ["pre", "out"] {
            batch.add_rule(&table, chain, &Rule::new().daddr(address).tcp_dport(80).dnat(pod, Some(8080)));
        }
    }
    batch.add_rule(&table, "post", &Rule::new().saddr(pods).not_daddr(pods).masquerade());
    batch.add_rule(&table, "post", &Rule::new().saddr(pods6).not_daddr(pods6).masquerade());
    batch.add_rule(&table, "post", &Rule::new().not_saddr(pods).ct_status(ct_status::DNAT).masquerade());
    batch.commit(&mut Socket::open().unwrap()).unwrap();
}
