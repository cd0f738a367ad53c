//! Two clusters of one host each: `local` behind a router that does NAT, `staging` on the router's other side.
//!
//! ```text
//! local 192.168.51.3 ── 192.168.51.1 router 198.51.100.1 ── 198.51.100.2 staging
//! pods 10.1.0.0/16      (masquerades)                         pods 10.2.0.0/16
//! ```

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use daisy_api::{
    Cluster, ClusterId, ClusterSpec, Connection, ConnectionStatus, Envelope, GatewayRecord, NodeName, Reach, TunnelEndpoint,
    labels,
};
use daisy_gateway::data_path::{DataPath, DataPathConfig};
use daisy_gateway::{GatewayError, Intervals, Metrics, PrivateKey};
use daisy_gateway_core::clusters::Clusters;
use daisy_gateway_core::peers::{Plan, plan};
use daisy_nftables::{Batch, Chain, ChainType, Hook, Rule, Socket, Table, priority};

use super::Host;

pub(crate) const PORT: u16 = 41820;
pub(crate) const DEVICE: &str = "daisy0";
pub(crate) const NAT_ADDRESS: &str = "198.51.100.1";

/// A cluster of one host.
pub(crate) struct Site {
    pub(crate) host: Host,
    pub(crate) id: &'static str,
    /// Which of the networks are its: pods 10.N.0.0/16 and fd00:N::/64, nodes 100.80.N.0/24.
    pub(crate) number: u8,
    /// Which of its cluster's nodes this is.
    pub(crate) node: u8,
    pub(crate) key: PrivateKey,
    pub(crate) endpoints: Vec<TunnelEndpoint>,
}

impl Site {
    pub(crate) fn new(id: &'static str, number: u8, endpoints: &[(&str, Reach)]) -> Self {
        let endpoints =
            endpoints.iter().map(|(text, reach)| TunnelEndpoint { address: text.parse().unwrap(), reach: *reach }).collect();
        let site = Self { host: Host::new(), id, number, node: 1, key: PrivateKey::generate(), endpoints };
        site.host.add_address("lo", &format!("{}/32", site.pod()));
        site.host.add_address("lo", &format!("{}/128", site.pod_v6()));
        site
    }

    pub(crate) fn pod(&self) -> IpAddr {
        IpAddr::from([10, self.number, 0, 5])
    }

    pub(crate) fn pod_v6(&self) -> IpAddr {
        format!("fd00:{}::5", self.number).parse().unwrap()
    }

    pub(crate) fn address(&self) -> IpAddr {
        IpAddr::from([100, 80, self.number, self.node])
    }

    /// Its gateway, as its Cluster object has it.
    pub(crate) fn record(&self) -> GatewayRecord {
        GatewayRecord {
            node: NodeName::new(format!("{}-node", self.id)).unwrap(),
            public_key: self.key.public_key(),
            address: self.address(),
            endpoints: self.endpoints.clone(),
        }
    }

    /// Its Cluster object, as its own syncer writes it (`local`) or another's.
    pub(crate) fn cluster(&self, local: bool) -> Cluster {
        let n = self.number;
        let cidr = |text: String| text.parse().unwrap();
        let spec = ClusterSpec {
            envelope: Envelope::default(),
            cluster_cidrs: vec![cidr(format!("10.{n}.0.0/16")), cidr(format!("fd00:{n}::/64"))],
            service_cidrs: vec![cidr(format!("10.{}.0.0/16", 100 + n))],
            node_cidr: cidr(format!("100.80.{n}.0/24")),
            exporter: true,
            gateways: vec![self.record()],
            consumes: Vec::new(),
            leaving: false,
            version: String::new(),
        };
        let mut cluster = Cluster::new(self.id, spec);
        let role = if local { labels::CLUSTER_ROLE_LOCAL } else { labels::CLUSTER_ROLE_REMOTE };
        cluster.metadata.labels = Some(BTreeMap::from([(labels::CLUSTER_ROLE.to_owned(), role.to_owned())]));
        cluster
    }

    /// What this site plans with the others.
    pub(crate) fn plan(&self, others: &[Cluster]) -> Plan {
        let mut clusters = Clusters::new();
        let mut all = vec![self.cluster(true)];
        all.extend(others.iter().cloned());
        clusters.handle_all(&all, &[]);
        plan(&clusters, &self.key.public_key(), self.address())
    }

    pub(crate) fn config(&self) -> DataPathConfig {
        DataPathConfig {
            key: self.key.clone(),
            address: self.address(),
            port: PORT,
            device: DEVICE.to_owned(),
            mtu: None,
            node_addresses: self.endpoints.iter().map(|endpoint| endpoint.address.ip()).collect(),
            intervals: Intervals::default(),
            remembered: BTreeMap::new(),
            metrics: Metrics::new(&prometheus::Registry::new()).unwrap(),
        }
    }

    pub(crate) fn try_start(&self, config: DataPathConfig) -> Result<DataPath, GatewayError> {
        self.host.block_on(move || DataPath::start(config))
    }

    /// Starts its data path with these others, and routes what is theirs into the tunnel, as its route-agent would.
    pub(crate) fn start(&self, config: DataPathConfig, others: &[&Self]) -> DataPath {
        let data_path = self.try_start(config).unwrap();
        data_path.apply(&self.plan(&others.iter().map(|other| other.cluster(false)).collect::<Vec<_>>()));
        for other in others {
            for cidr in other.cluster(false).spec.cidrs() {
                self.host.add_route(&cidr.to_string(), None, Some(DEVICE));
            }
        }
        data_path
    }

    /// Where the other site's gateway was when the data path was asked.
    pub(crate) fn remembered(&self, connections: &[Connection]) -> BTreeMap<(ClusterId, NodeName), SocketAddr> {
        connections.iter().filter_map(|one| Some(((one.cluster_id.clone(), one.node.clone()), one.endpoint?))).collect()
    }
}

/// What the router drops.
#[derive(Clone, Copy)]
pub(crate) enum Dropped {
    Nothing,
    To(IpAddr),
    All,
}

/// The two sites and the router between them.
pub(crate) struct World {
    pub(crate) router: Host,
    pub(crate) local: Site,
    pub(crate) staging: Site,
}

impl World {
    /// Both sites; uplinks of this MTU.
    pub(crate) fn new(mtu: u32) -> Self {
        let router = Host::new();
        let local = Site::new("local", 1, &[("192.168.51.3:41820", Reach::Private)]);
        let staging = Site::new("staging", 2, &[("198.51.100.2:41820", Reach::Public)]);
        local.host.join("eth0", &router, "inside", mtu);
        staging.host.join("eth0", &router, "outside", mtu);
        local.host.add_address("eth0", "192.168.51.3/24");
        router.add_address("inside", "192.168.51.1/24");
        router.add_address("outside", "198.51.100.1/24");
        staging.host.add_address("eth0", "198.51.100.2/24");
        local.host.add_route("0.0.0.0/0", Some("192.168.51.1"), None);
        router.forward();
        let world = Self { router, local, staging };
        world.nat(&Rule::new().not_oifname("inside").masquerade());
        world
    }

    /// Makes this the router's only rule of address translation.
    pub(crate) fn nat(&self, rule: &Rule) {
        let rule = rule.clone();
        self.router.run(move |_| {
            let table = Table::inet("nat");
            let mut batch = Batch::new();
            batch.replace_table(&table);
            batch.add_chain(&table, &Chain::base("post", ChainType::Nat, Hook::Postrouting, priority::SRCNAT));
            batch.add_rule(&table, "post", &rule);
            batch.commit(&mut Socket::open().unwrap()).unwrap();
        });
    }

    /// Makes the router drop what is sent to this address, as if it were nobody's any more; or everything, or nothing.
    pub(crate) fn drop_packets(&self, which: Dropped) {
        self.router.run(move |_| {
            let table = Table::inet("drop");
            let mut batch = Batch::new();
            batch.replace_table(&table);
            batch.add_chain(&table, &Chain::base("pre", ChainType::Filter, Hook::Prerouting, priority::RAW));
            match which {
                Dropped::Nothing => {}
                Dropped::To(address) => {
                    batch.add_rule(&table, "pre", &Rule::new().daddr(address).drop());
                }
                Dropped::All => {
                    batch.add_rule(&table, "pre", &Rule::new().drop());
                }
            }
            batch.commit(&mut Socket::open().unwrap()).unwrap();
        });
    }

    /// Starts both sites and waits until they are connected.
    pub(crate) fn start(&self) -> (DataPath, DataPath) {
        let staging = self.staging.start(self.staging.config(), &[&self.local]);
        let local = self.local.start(self.local.config(), &[&self.staging]);
        connected(&local, Duration::from_secs(5));
        connected(&staging, Duration::from_secs(5));
        (local, staging)
    }
}

/// Waits until the data path's only connection is as it should be; returns it and how long that took.
pub(crate) fn wait_for(
    data_path: &DataPath,
    within: Duration,
    what: &str,
    is: impl Fn(&Connection) -> bool,
) -> (Connection, Duration) {
    let started = Instant::now();
    loop {
        let connections = data_path.connections();
        if let [connection] = &connections[..]
            && is(connection)
        {
            return (connection.clone(), started.elapsed());
        }
        assert!(started.elapsed() < within, "not {what} within {within:?}: {connections:#?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until it is connected.
pub(crate) fn connected(data_path: &DataPath, within: Duration) -> Connection {
    wait_for(data_path, within, "connected", |one| one.status == ConnectionStatus::Connected).0
}

/// A TCP server on a site's pod address that says to each client where it came from, and an echo to all it sends.
pub(crate) fn serve(site: &Site, address: IpAddr, clients: usize) -> std::thread::JoinHandle<()> {
    use std::io::{Read, Write};
    let listener = site.host.run(move |_| std::net::TcpListener::bind((address, 8080)).unwrap());
    site.host.spawn(move || {
        for _ in 0..clients {
            let (mut stream, from) = listener.accept().unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            writeln!(stream, "{}", from.ip()).unwrap();
            let mut all = Vec::new();
            let _ = stream.read_to_end(&mut all);
            let _ = stream.write_all(&all);
        }
    })
}

/// Connects from one address to another, sends so many bytes and reads them back; returns the address that the server saw.
pub(crate) fn converse(site: &Site, from: IpAddr, to: IpAddr, bytes: usize, within: Duration) -> std::io::Result<String> {
    site.host.block_on(move || async move {
        use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
        let talk = async {
            let socket = if from.is_ipv4() { tokio::net::TcpSocket::new_v4()? } else { tokio::net::TcpSocket::new_v6()? };
            socket.bind((from, 0).into())?;
            let (reader, mut writer) = socket.connect((to, 8080).into()).await?.into_split();
            let mut reader = BufReader::new(reader);
            let mut seen = String::new();
            reader.read_line(&mut seen).await?;
            let payload: Vec<u8> = (0..bytes).map(|n| (n % 251) as u8).collect();
            writer.write_all(&payload).await?;
            writer.shutdown().await?;
            let mut back = Vec::new();
            reader.read_to_end(&mut back).await?;
            assert!(back == payload, "{} bytes came back of {bytes}", back.len());
            Ok(seen.trim().to_owned())
        };
        tokio::time::timeout(within, talk).await?
    })
}
