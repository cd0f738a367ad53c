//! The data path: a TUN device, UDP sockets and the sessions between, on threads of its own. It knows nothing of Kubernetes.
//!
//! ```text
//! device ──▶ transmit: route → seal ──▶ UDP        UDP ──▶ receive: recognise → open → check ──▶ device
//!                                                                             └▶ probes ⇄ links
//! timers: links → dial, probe, report; sessions → renew                plan ──▶ apply: table, peers
//! ```
//! Three threads: `transmit` waits for packets, `receive` for datagrams, `timers` for what is due. None of them ever waits for
//! anything else.

mod peer;
mod receive;
mod shared;
mod table;
mod timers;
mod transmit;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use daisy_api::keys::PublicKey;
use daisy_api::{ClusterId, Connection, NodeName};
use daisy_gateway_core::Intervals;
use daisy_gateway_core::link::Link;
use daisy_gateway_core::peers::{GatewayPeer, Plan};
use rand_core::{OsRng, RngCore};
use tokio::sync::watch;

use crate::device;
use crate::error::GatewayError;
use crate::metrics::Metrics;
use crate::socket::UdpSocket;
use crate::tun::Tun;
use crate::wireguard::{Identity, PrivateKey};
use peer::Peer;
use shared::{Parts, Shared};
use table::Table;

/// What a data path is made of.
#[derive(Clone, Debug)]
pub struct DataPathConfig {
    /// This gateway's key.
    pub key: PrivateKey,
    /// Its address in the node range.
    pub address: IpAddr,
    /// The UDP port that others dial.
    pub port: u16,
    /// The name of the TUN device.
    pub device: String,
    /// The device's MTU; `None`: what the uplink leaves room for.
    pub mtu: Option<u32>,
    /// The node's own addresses, which tell the uplink.
    pub node_addresses: Vec<IpAddr>,
    /// How often connections are probed.
    pub intervals: Intervals,
    /// Where the gateways of other clusters last were.
    pub remembered: BTreeMap<(ClusterId, NodeName), SocketAddr>,
    /// What is counted.
    pub metrics: Metrics,
}

/// A running data path. Dropped, it stops; the device stays.
pub struct DataPath {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    device: String,
    mtu: u32,
    intervals: Intervals,
    remembered: BTreeMap<(ClusterId, NodeName), SocketAddr>,
    peers: Mutex<BTreeMap<PublicKey, Arc<Peer>>>,
}

impl DataPath {
    /// Binds the port, makes or adopts the device, and starts the threads, all in the network namespace of the calling thread. What
    /// fails leaves nothing running.
    ///
    /// # Errors
    /// [`GatewayError`] says what is missing and what to do.
    pub async fn start(config: DataPathConfig) -> Result<Self, GatewayError> {
        let listening = UdpSocket::bind(config.port)?;
        let mtu = match config.mtu {
            Some(mtu) => mtu,
            None => device::uplink(&config.device, &config.node_addresses).await?.tunnel_mtu(),
        };
        let tun = Tun::open(&config.device)?;
        device::configure(&config.device, config.address, mtu).await?;
        let identity = Identity::new(config.key);
        let parts =
            Parts { identity, address: config.address, incarnation: OsRng.next_u64(), tun, listening, metrics: config.metrics };
        let shared = Arc::new(Shared::new(parts).map_err(|cause| GatewayError::Thread { cause })?);
        let mut this = Self {
            shared,
            threads: Vec::new(),
            device: config.device,
            mtu,
            intervals: config.intervals,
            remembered: config.remembered,
            peers: Mutex::default(),
        };
        let started = this
            .spawn("daisy-transmit", transmit::run)
            .and_then(|()| this.spawn("daisy-receive", receive::run))
            .and_then(|()| {
                this.spawn("daisy-timers", |shared| {
                    timers::run(shared);
                    Ok(())
                })
            });
        started.map_err(|cause| GatewayError::Thread { cause })?;
        Ok(this)
    }

    fn spawn(
        &mut self,
        name: &'static str,
        run: impl FnOnce(&Shared) -> Result<(), String> + Send + 'static,
    ) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let watched = Watched { shared: &shared, name };
            if let Err(cause) = run(&shared) {
                shared.failure.send_replace(Some(format!("{name}: {cause}")));
            }
            drop(watched);
        })?;
        self.threads.push(thread);
        Ok(())
    }

    /// The public key that others know this gateway by.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        self.shared.identity.public_key()
    }

    /// The device's MTU.
    #[must_use]
    pub fn mtu(&self) -> u32 {
        self.mtu
    }

    /// Follows a plan: sessions with peers that stay go on, whatever else changes.
    pub fn apply(&self, plan: &Plan) {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let stays = |key: &PublicKey, peer: &Arc<Peer>| {
            let record = peer.record();
            plan.peers
                .get(key)
                .is_some_and(|wanted| wanted.cluster == record.cluster && wanted.record.node == record.record.node)
        };
        let named = |peer: &GatewayPeer| (peer.cluster.clone(), peer.record.node.clone());
        let wanted: BTreeSet<(ClusterId, NodeName)> = plan.peers.values().map(named).collect();
        let gone: Vec<Arc<Peer>> =
            peers.iter().filter(|(key, peer)| !stays(key, peer)).map(|(_, peer)| Arc::clone(peer)).collect();
        peers.retain(|_, peer| !gone.iter().any(|one| Arc::ptr_eq(one, peer)));
        for record in gone.iter().map(|peer| peer.record()) {
            if !wanted.contains(&named(&record)) {
                self.shared.metrics.forget(record.cluster.as_str(), record.record.node.as_str());
            }
        }
        let now = self.shared.now();
        for (key, wanted) in &plan.peers {
            match peers.get(key) {
                Some(peer) => {
                    peer.with_link(|link| link.handle_candidates(now, wanted.candidates.clone()));
                    peer.set_record(wanted.clone());
                }
                None => {
                    let peer = self.peer(wanted, &peers, plan);
                    peers.insert(*key, Arc::new(peer));
                }
            }
        }
        self.shared.set_table(Table::new(plan, &peers));
        self.shared.wakers.timers.wake();
        self.shared.note_change();
    }

    fn peer(&self, wanted: &GatewayPeer, peers: &BTreeMap<PublicKey, Arc<Peer>>, plan: &Plan) -> Peer {
        // At random, so that a session from before a restart is not taken for one of now; 24 bits, so that one is soon found.
        let index = loop {
            let index = OsRng.next_u32() >> 8;
            if !peers.values().any(|peer| peer.index == index) {
                break index;
            }
        };
        let tunnelled = |address: IpAddr| {
            plan.local.iter().chain(plan.clusters.iter().flat_map(|cluster| &cluster.cidrs)).any(|cidr| cidr.contains(address))
        };
        let remembered = self.remembered.get(&(wanted.cluster.clone(), wanted.record.node.clone())).copied();
        let remembered = remembered.filter(|endpoint| !tunnelled(endpoint.ip()));
        let session = Box::new(self.shared.identity.session(&wanted.record.public_key, index));
        let health = Link::health(self.intervals, self.shared.incarnation);
        let link = Link::new(self.shared.now(), health, wanted.candidates.clone(), remembered);
        let metrics = self.shared.metrics.peer(wanted.cluster.as_str(), wanted.record.node.as_str());
        Peer::new(index, wanted.clone(), session, link, metrics)
    }

    /// The connections as they are now, in the order of their clusters and nodes.
    #[must_use]
    pub fn connections(&self) -> Vec<Connection> {
        let now = self.shared.now();
        let peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut connections: Vec<Connection> = peers.values().map(|peer| peer.connection(now)).collect();
        connections.sort_by(|a, b| (&a.cluster_id, &a.node).cmp(&(&b.cluster_id, &b.node)));
        connections
    }

    /// A number that changes whenever a connection's status or endpoint does.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    /// Waits until the data path ends by itself, as when its device is removed under it, and says why.
    #[must_use = "nothing waits unless it is awaited"]
    pub fn failed(&self) -> impl Future<Output = GatewayError> + Send + 'static {
        let mut failure = self.shared.failure.subscribe();
        async move {
            let cause = match failure.wait_for(Option::is_some).await {
                Ok(cause) => cause.clone().unwrap_or_default(),
                Err(_) => "it was dropped".to_owned(),
            };
            GatewayError::Ended { cause }
        }
    }

    /// Stops the threads. The device, its address and the routes to it stay, for the next start to adopt.
    pub fn stop(mut self) {
        self.end();
    }

    /// Stops the threads and removes the device.
    ///
    /// # Errors
    /// The kernel keeps the device.
    pub async fn remove(mut self) -> Result<(), GatewayError> {
        self.end();
        let name = std::mem::take(&mut self.device);
        self.shared.tun.set_persistent(false)?;
        drop(self);
        // With its last descriptor closed it is gone already; unless somebody else holds one.
        remove_device(&name).await.map(drop)
    }

    fn end(&mut self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        for waker in [&self.shared.wakers.transmit, &self.shared.wakers.receive, &self.shared.wakers.timers] {
            waker.wake();
        }
        for thread in self.threads.drain(..) {
            // One that panicked has said so.
            let _ = thread.join();
        }
    }
}

impl Drop for DataPath {
    fn drop(&mut self) {
        self.end();
    }
}

/// Removes the device of this name if it is there and a TUN device, and says whether it was.
///
/// # Errors
/// The kernel keeps the device.
pub async fn remove_device(name: &str) -> Result<bool, GatewayError> {
    device::remove(name).await
}

/// Says that a thread ended though nobody asked it to.
struct Watched<'a> {
    shared: &'a Shared,
    name: &'static str,
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.shared.failure.send_replace(Some(format!("{} panicked", self.name)));
        }
    }
}
