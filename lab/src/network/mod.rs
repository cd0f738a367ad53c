//! The lab's networks.
//!
//! ```text
//!                       broker
//!                         │
//!   staging-router ── internet ── local-router (masquerades, lets in replies only)
//!       │ bridge                      │ bridge
//!   control-plane, node1, node2   control-plane, node1, node2
//!                  │                             │
//!                 pods                          pods
//! ```
//!
//! `internet` drops and counts whatever bears a pod, Service or node-range address: what crosses did so in a tunnel.

mod connect;
mod filter;
mod inspect;
mod link;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Mutex;

use daisy_api::Cidr;
use futures::future::{try_join, try_join_all};

pub(crate) use connect::connect;
pub use filter::Dropped;
pub use inspect::{Device, RouteEntry, RuleEntry, Traces};
pub use link::NetworkError;
pub(crate) use link::{Links, Mac, Pair, Route, mac_of};

use crate::plan::{BROKER, BROKER_ADDRESS, ClusterPlan, INTERNET, INTERNET_ADDRESS, Plan, Reach};
use crate::sys::Netns;

/// The device towards the rest of the world, on every host.
const UPLINK: &str = "eth0";
/// The router's device towards the internet.
const WAN: &str = "wan";
/// The router's bridge that its nodes are on.
const SWITCH: &str = "nodes";

/// Kernel parameters of what passes packets on.
const FORWARDING: &[(&str, &str)] =
    &[("net/ipv4/ip_forward", "1"), ("net/ipv4/conf/all/rp_filter", "0"), ("net/ipv4/conf/default/rp_filter", "0")];
/// Kernel parameters of a node: those of most distributions, with what a kubelet needs.
const NODE: &[(&str, &str)] =
    &[("net/ipv4/ip_forward", "1"), ("net/ipv4/conf/all/rp_filter", "0"), ("net/ipv4/conf/default/rp_filter", "2")];
/// Kernel parameters of what only sends and receives.
pub(crate) const HOST: &[(&str, &str)] =
    &[("net/ipv4/ip_forward", "0"), ("net/ipv4/conf/all/rp_filter", "0"), ("net/ipv4/conf/default/rp_filter", "0")];

/// The network namespaces of a lab, wired.
#[derive(Debug)]
pub(crate) struct Networks {
    plan: Plan,
    namespaces: BTreeMap<String, Netns>,
    public: Mutex<BTreeMap<String, IpAddr>>,
}

impl Networks {
    /// Makes and wires everything.
    pub(crate) async fn build(plan: &Plan) -> Result<Self, NetworkError> {
        let namespaces = create_all(plan)?;
        let public = plan.clusters.iter().map(|c| (c.name.to_string(), c.public_address())).collect();
        let networks = Self { plan: plan.clone(), namespaces, public: Mutex::new(public) };
        let mut links = BTreeMap::new();
        for (name, netns) in &networks.namespaces {
            links.insert(name.as_str(), Links::open(name, netns)?);
        }
        try_join_all(links.values().map(bottom)).await?;
        let wiring = Wiring { networks: &networks, links: &links };
        try_join(wiring.broker(), try_join_all(plan.clusters.iter().map(|c| wiring.cluster(c)))).await?;
        filter::internet(networks.get(INTERNET)?, plan)?;
        for cluster in &plan.clusters {
            if cluster.reach == Reach::Nat {
                filter::nat_router(&cluster.router_namespace(), networks.get(&cluster.router_namespace())?, WAN)?;
            }
            for node in (0..cluster.nodes).map(|n| cluster.node_name(n)) {
                filter::node(&node, networks.get(&node)?, &cluster.pod_cidrs)?;
            }
        }
        Ok(networks)
    }

    /// The namespace of this name.
    pub(crate) fn get(&self, name: &str) -> Result<&Netns, NetworkError> {
        self.namespaces.get(name).ok_or_else(|| NetworkError::Unknown { what: "network namespace", name: name.to_owned() })
    }

    /// Every namespace with its name.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&str, &Netns)> {
        self.namespaces.iter().map(|(name, netns)| (name.as_str(), netns))
    }

    /// What `internet` has dropped so far.
    pub(crate) fn dropped(&self) -> Result<Vec<Dropped>, NetworkError> {
        filter::dropped(self.get(INTERNET)?)
    }

    /// What is set in one namespace.
    pub(crate) async fn inspect(&self, name: &str) -> Result<Traces, NetworkError> {
        inspect::traces(name, self.get(name)?).await
    }

    /// Gives the router of a cluster another address on the internet, and takes the old one away.
    pub(crate) async fn set_public_address(&self, cluster: &str, address: IpAddr) -> Result<(), NetworkError> {
        let unknown = || NetworkError::Unknown { what: "cluster", name: cluster.to_owned() };
        let plan = self.plan.cluster(cluster).ok_or_else(unknown)?;
        let old = self.public.lock().ok().and_then(|p| p.get(cluster).copied()).ok_or_else(unknown)?;
        if old == address {
            return Ok(());
        }
        let (router_name, internet_name) = (plan.router_namespace(), INTERNET);
        let router = Links::open(&router_name, self.get(&router_name)?)?;
        let internet = Links::open(internet_name, self.get(internet_name)?)?;
        let (wan, port) = (router.index(WAN).await?, internet.index(&port_name(plan)).await?);
        // The new one first: with its last address a device loses its routes.
        router.address(wan, address, host_prefix(address)).await?;
        internet.route(&Route::on_device(Cidr::host(address), port)).await?;
        if plan.reach == Reach::Reachable {
            internet.route(&Route::via(plan.node_network(), address, port)).await?;
        }
        router.remove_address(wan, old).await?;
        internet.remove_route(&Route::on_device(Cidr::host(old), port)).await?;
        if let Ok(mut public) = self.public.lock() {
            public.insert(cluster.to_owned(), address);
        }
        Ok(())
    }
}

/// Each namespace takes the kernel a while; together they take little more than one.
fn create_all(plan: &Plan) -> Result<BTreeMap<String, Netns>, NetworkError> {
    let names = plan.namespaces();
    std::thread::scope(|scope| {
        let threads: Vec<_> = names
            .into_iter()
            .map(|name| {
                let parameters = parameters(plan, &name);
                scope.spawn(move || {
                    let made = Netns::create_named(&name).and_then(|n| n.set_parameters(parameters).map(|()| n));
                    made.map(|netns| (name.clone(), netns)).map_err(|cause| NetworkError::System {
                        namespace: name,
                        what: "making the network namespace",
                        cause,
                    })
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|t| t.join().unwrap_or_else(|_| Err(NetworkError::Unknown { what: "thread", name: "netns".to_owned() })))
            .collect()
    })
}

fn parameters(plan: &Plan, name: &str) -> &'static [(&'static str, &'static str)] {
    if plan.node(name).is_some() {
        NODE
    } else if name == INTERNET || plan.clusters.iter().any(|c| c.router_namespace() == name) {
        FORWARDING
    } else {
        HOST
    }
}

/// What every namespace has: loopback, and "unreachable" beneath whatever is routed.
pub(crate) async fn bottom(links: &Links) -> Result<(), NetworkError> {
    links.up(links.index("lo").await?).await?;
    links.unreachable_default().await
}

fn host_prefix(address: IpAddr) -> u8 {
    if address.is_ipv6() { 128 } else { 32 }
}

/// The device in `internet` that leads to a cluster's router.
fn port_name(cluster: &ClusterPlan) -> String {
    format!("cluster{}", cluster.index)
}

struct Wiring<'a> {
    networks: &'a Networks,
    links: &'a BTreeMap<&'a str, Links>,
}

impl Wiring<'_> {
    fn links(&self, name: &str) -> Result<&Links, NetworkError> {
        self.links.get(name).ok_or_else(|| NetworkError::Unknown { what: "network namespace", name: name.to_owned() })
    }

    /// A host or router by its one device to the internet; returns that device's index there.
    async fn to_internet(&self, name: &str, device: (&str, &str), address: IpAddr) -> Result<u32, NetworkError> {
        let (internet, host) = (self.links(INTERNET)?, self.links(name)?);
        let middle = IpAddr::V4(INTERNET_ADDRESS);
        let pair = Pair {
            name: device.0,
            mac: mac_of(middle),
            peer: device.1,
            peer_mac: mac_of(address),
            peer_namespace: self.networks.get(name)?,
        };
        let port = internet.pair(&pair).await?;
        internet.address(port, middle, host_prefix(middle)).await?;
        internet.route(&Route::on_device(Cidr::host(address), port)).await?;
        let uplink = host.index(device.1).await?;
        host.up(uplink).await?;
        host.address(uplink, address, host_prefix(address)).await?;
        host.route(&Route::default_via(middle, uplink)).await?;
        Ok(port)
    }

    async fn broker(&self) -> Result<(), NetworkError> {
        self.to_internet(BROKER, ("broker", UPLINK), BROKER_ADDRESS.into()).await.map(|_| ())
    }

    async fn cluster(&self, cluster: &ClusterPlan) -> Result<(), NetworkError> {
        let name = cluster.router_namespace();
        let port = self.to_internet(&name, (&port_name(cluster), WAN), cluster.public_address()).await?;
        if cluster.reach == Reach::Reachable {
            let route = Route::via(cluster.node_network(), cluster.public_address(), port);
            self.links(INTERNET)?.route(&route).await?;
        }
        let router = self.links(&name)?;
        let switch = router.bridge(SWITCH, mac_of(cluster.router_address())).await?;
        router.address(switch, cluster.router_address(), cluster.node_network().prefix()).await?;
        let control_plane = cluster.control_plane_namespace();
        let control_plane = self.host(cluster, switch, &control_plane, cluster.control_plane_address());
        let nodes = try_join_all(
            (0..cluster.nodes)
                .map(|n| async move { self.host(cluster, switch, &cluster.node_name(n), cluster.node_address(n)).await }),
        );
        try_join(control_plane, nodes).await?;
        Ok(())
    }

    /// A host on a cluster's node network, with routes to the pods of its nodes.
    async fn host(&self, cluster: &ClusterPlan, switch: u32, name: &str, address: IpAddr) -> Result<(), NetworkError> {
        let router = self.links(&cluster.router_namespace())?;
        let port = format!("port{}", last_octet(address));
        let pair = Pair {
            name: &port,
            // The bridge has its own; a port's only must be another.
            mac: [0x02, 0xdb, 0, 0, cluster.index, last_octet(address)],
            peer: UPLINK,
            peer_mac: mac_of(address),
            peer_namespace: self.networks.get(name)?,
        };
        let port = router.pair(&pair).await?;
        router.attach(port, switch).await?;
        let host = self.links(name)?;
        let uplink = host.index(UPLINK).await?;
        host.up(uplink).await?;
        host.address(uplink, address, cluster.node_network().prefix()).await?;
        host.route(&Route::default_via(cluster.router_address(), uplink)).await?;
        for other in (0..cluster.nodes).filter(|n| cluster.node_address(*n) != address) {
            for pods in cluster.node_pod_cidrs(other) {
                host.route(&Route::via(pods, cluster.node_address(other), uplink)).await?;
            }
        }
        Ok(())
    }
}

fn last_octet(address: IpAddr) -> u8 {
    mac_of(address)[5]
}
