//! Daisy's DNS server: the shell around `daisy-dns-core`.
//!
//! ```text
//! API server ──▶ watch ──▶ facts ──▶ core's index ──▶ Current (an immutable snapshot, swapped whole)
//!                                                         │
//! UDP, TCP ──▶ sockets ──▶ handler ──▶ core's answer ◀────┘
//!                             │ └──▶ wire (records that fit) ──▶ UDP, TCP
//!                             └────▶ upstream (only where a responder forwards: the lab's cluster DNS)
//! ```
//!
//! A query takes one snapshot and no lock. While the API server is away, the last snapshot goes on answering.

mod facts;
mod handler;
mod metrics;
mod sockets;
pub mod upstream;
mod watch;
mod wire;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use arc_swap::{ArcSwap, Guard};
/// The decisions, for those who serve other zones with the same sockets.
pub use daisy_dns_core as core;
use daisy_dns_core::{Index, Question, Settings, Snapshot, Source};
use kube::Client;
use tracing::info;

pub use facts::{Scope, Unusable};
pub use handler::{Reply, Respond};
pub use metrics::Metrics;
pub use sockets::{BindError, ServeError, Sockets, serve};
pub use watch::{feed, streams};

/// How the server is run.
#[derive(Debug, Clone)]
pub struct DnsOptions {
    /// Where to listen, each by UDP and TCP.
    pub listen: Vec<SocketAddr>,
    /// How long an answer with records may be kept, in seconds.
    pub ttl: u32,
    /// How long the absence of a record may be kept, in seconds: so long a client may overlook a new export.
    pub negative_ttl: u32,
    /// Where it counts.
    pub metrics: Metrics,
}

impl Default for DnsOptions {
    /// Port 53 of every IPv4 address, 5 s, and 1 s for absence.
    fn default() -> Self {
        Self { listen: vec![SocketAddr::from(([0, 0, 0, 0], 53))], ttl: 5, negative_ttl: 1, metrics: Metrics::default() }
    }
}

/// The newest snapshot, which queries read without a lock.
#[derive(Debug, Clone)]
pub struct Current(Arc<ArcSwap<Snapshot>>);

impl Current {
    /// Begins with this snapshot.
    #[must_use]
    pub fn new(snapshot: Snapshot) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(snapshot)))
    }

    /// From now on queries read this one.
    pub fn publish(&self, snapshot: Snapshot) {
        self.0.store(Arc::new(snapshot));
    }

    /// The newest snapshot.
    #[must_use]
    pub fn load(&self) -> Guard<Arc<Snapshot>> {
        self.0.load()
    }
}

impl Respond for Current {
    fn respond(&self, question: &Question<'_>) -> Reply {
        Reply::Answer(daisy_dns_core::answer(&self.load(), question))
    }
}

/// Serves `supercluster.local` and `clusterset.local` out of what the cluster holds, until `shutdown` ends.
///
/// # Errors
/// A listening address that cannot be used; a socket that is lost.
pub async fn run(client: Client, options: DnsOptions, shutdown: impl Future<Output = ()>) -> Result<()> {
    let sockets = Sockets::bind(&options.listen).context("opening the DNS server's sockets")?;
    info!(addresses = ?sockets.addresses(), "answers supercluster.local and clusterset.local");
    let sources = [Source::Services, Source::LocalSlices, Source::ImportSlices, Source::Namespaces];
    let index = Index::new(Settings::daisy(options.ttl, options.negative_ttl), first_serial(), sources);
    let current = Current::new(index.snapshot().clone());
    let zones = index.snapshot().settings().zones.clone();
    options.metrics.name_zones(zones.iter().map(|zone| zone.apex.as_str()));
    let feed = feed(streams(&client, Scope::Supercluster), index, &current, &options.metrics);
    tokio::select! {
        served = serve(sockets, current.clone(), &options.metrics, shutdown) => Ok(served?),
        () = feed => bail!("the watches ended by themselves; this is a bug"),
    }
}

/// A serial number that a restart does not run backwards, unless zones change more than once a second for long.
#[must_use]
pub fn first_serial() -> u32 {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    // Serial numbers wrap (RFC 1982).
    u32::try_from(seconds & u64::from(u32::MAX)).unwrap_or_default()
}
