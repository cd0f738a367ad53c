//! The lab's cluster DNS: stands where CoreDNS stands in a real cluster, in the lab and only there.
//!
//! ```text
//! Services, EndpointSlices, Namespaces ──▶ daisy-dns's watches ──▶ its index, with the zone cluster.local ─┐
//! ConfigMap kube-system/coredns ──▶ its Corefile's stub zones ────────────────────────────────────────────▶│
//! pods ──▶ daisy-dns's sockets ──▶ longest zone: forward, NXDOMAIN, or the index ◀─────────────────────────┘
//! ```
//!
//! It serves the cluster's own zone by the Kubernetes DNS specification 1.1.0 (A, AAAA, SRV, headless Services, hostnames,
//! ExternalName; no reverse lookups and no `pod` names), and follows of the Corefile what `daisy join` writes into it:
//!
//! - `ZONE... { forward . ADDRESS... }`: asked of the first of these that answers, over UDP, and TCP where that is cut short;
//!   SERVFAIL after two seconds. Nothing is kept: `cache` is read past.
//! - `ZONE... { template ANY ANY { rcode NXDOMAIN } }`: NXDOMAIN.
//!
//! Everything else in it is read past. A lab has no internet, so every other name is NXDOMAIN, as a name is that the internet
//! does not have. A Corefile that cannot be read leaves the rules as they were, as CoreDNS's `reload` does.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use daisy_dns::core::corefile::{Corefile, Route, kubernetes_zones, rules};
use daisy_dns::core::{Answer, DomainName, Index, QueryType, Question, Rcode, Settings, Source, answer};
use daisy_dns::{Current, Metrics, Reply, Respond, Scope, Sockets};
use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::core::DeserializeGuard;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::sync::watch;
use tracing::{info, warn};

/// How long an answer with records may be kept, in seconds: what CoreDNS's `kubernetes` says.
const TTL: u32 = 5;
/// Where the Corefile is.
const NAMESPACE: &str = "kube-system";
/// The ConfigMap that has it.
const CONFIG_MAP: &str = "coredns";
/// Its key.
const COREFILE: &str = "Corefile";

/// How the lab's cluster DNS is run.
#[derive(Debug, Clone)]
pub struct ClusterDnsOptions {
    /// Where to listen, each by UDP and TCP.
    pub listen: Vec<SocketAddr>,
    /// The cluster's own zone.
    pub cluster_domain: String,
}

impl Default for ClusterDnsOptions {
    /// Port 53 of every IPv4 address, `cluster.local`.
    fn default() -> Self {
        Self { listen: vec![SocketAddr::from(([0, 0, 0, 0], 53))], cluster_domain: "cluster.local".into() }
    }
}

/// Serves the cluster's names until `shutdown` ends.
///
/// # Errors
/// A cluster domain that is no name; a listening address that cannot be used; a socket that is lost.
pub async fn run(client: Client, options: ClusterDnsOptions, shutdown: impl Future<Output = ()>) -> Result<()> {
    let domain = DomainName::parse(&options.cluster_domain).context("the cluster domain")?;
    let sockets = Sockets::bind(&options.listen).context("opening the cluster DNS's sockets")?;
    info!(addresses = ?sockets.addresses(), %domain, "answers the cluster's names");
    let sources = [Source::Services, Source::LocalSlices, Source::Namespaces];
    let index = Index::new(Settings::cluster(domain.clone(), TTL, TTL), daisy_dns::first_serial(), sources);
    let current = Current::new(index.snapshot().clone());
    let (rules, stubs) = watch::channel(Vec::new());
    let responder = Responder { domain: domain.clone(), current: current.clone(), stubs };
    let metrics = Metrics::default();
    let names = daisy_dns::feed(daisy_dns::streams(&client, Scope::Cluster), index, &current, &metrics);
    tokio::select! {
        served = daisy_dns::serve(sockets, responder, &metrics, shutdown) => served.map_err(Into::into),
        () = names => anyhow::bail!("the watches ended by themselves; this is a bug"),
        () = follow(client, &domain, rules) => anyhow::bail!("the watch of the Corefile ended by itself; this is a bug"),
    }
}

/// A zone that is not answered out of the index.
#[derive(Debug, Clone)]
struct Stub {
    zone: DomainName,
    reply: Reply,
}

struct Responder {
    domain: DomainName,
    current: Current,
    stubs: watch::Receiver<Vec<Stub>>,
}

impl Respond for Responder {
    fn respond(&self, question: &Question<'_>) -> Reply {
        // The fewer labels before the zone, the longer the zone.
        let own = question.name.under(&self.domain);
        let stubs = self.stubs.borrow();
        let stub =
            stubs.iter().filter_map(|stub| Some((question.name.under(&stub.zone)?, stub))).min_by_key(|(before, _)| *before);
        match (stub, own) {
            (Some((before, stub)), own) if own.is_none_or(|own| before <= own) => stub.reply.clone(),
            (_, Some(_)) => Reply::Answer(answer(&self.current.load(), question)),
            (_, None) if question.name.is_empty() && question.kind == QueryType::Ns => {
                Reply::Answer(Answer::bare(Rcode::NoError))
            }
            (_, None) => Reply::Answer(Answer::bare(Rcode::NxDomain)),
        }
    }
}

/// Keeps the stub zones as the Corefile has them.
async fn follow(client: Client, domain: &DomainName, rules: watch::Sender<Vec<Stub>>) {
    let maps: Api<DeserializeGuard<ConfigMap>> = Api::namespaced(client, NAMESPACE);
    let config = watcher::Config::default().fields(&format!("metadata.name={CONFIG_MAP}"));
    let mut events = watcher(maps, config).default_backoff().boxed();
    let mut listed = false;
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => listed = false,
            Ok(Event::InitApply(map) | Event::Apply(map)) if map.name_any() == CONFIG_MAP => {
                listed = true;
                read(map, domain, &rules);
            }
            Ok(Event::InitApply(_) | Event::Apply(_)) => {}
            Ok(Event::Delete(map)) if map.name_any() != CONFIG_MAP => {}
            Ok(Event::InitDone) if listed => {}
            Ok(Event::Delete(_) | Event::InitDone) => drop(rules.send_replace(Vec::new())),
            Err(error) => warn!("watching ConfigMap {NAMESPACE}/{CONFIG_MAP}: {error}; its rules stay as they are"),
        }
    }
}

fn read(map: DeserializeGuard<ConfigMap>, domain: &DomainName, rules: &watch::Sender<Vec<Stub>>) {
    match map.0 {
        Ok(map) => match map.data.as_ref().and_then(|data| data.get(COREFILE)) {
            Some(text) => publish(text, domain, rules),
            None => warn!("ConfigMap {NAMESPACE}/{CONFIG_MAP} has no key {COREFILE}; its rules stay as they are"),
        },
        Err(invalid) => warn!("ConfigMap {NAMESPACE}/{CONFIG_MAP} cannot be read; its rules stay as they are: {invalid}"),
    }
}

fn publish(text: &str, domain: &DomainName, sender: &watch::Sender<Vec<Stub>>) {
    match Corefile::parse(text) {
        Ok(corefile) => {
            let own = kubernetes_zones(&corefile);
            if !own.iter().any(|zone| zone == domain.as_str()) {
                warn!("the Corefile's plugin kubernetes names {own:?}; {domain} is served all the same");
            }
            let stubs: Vec<Stub> = rules(&corefile)
                .into_iter()
                .filter_map(|rule| {
                    let zone = DomainName::parse(&rule.zone).inspect_err(|error| warn!("the Corefile: {error}")).ok()?;
                    let reply = match rule.route {
                        Route::Forward(to) => Reply::Forward(Arc::from(to)),
                        Route::NxDomain => Reply::Answer(Answer::bare(Rcode::NxDomain)),
                    };
                    Some(Stub { zone, reply })
                })
                .collect();
            info!(zones = stubs.len(), "follows the Corefile");
            sender.send_replace(stubs);
        }
        Err(error) => warn!("the Corefile is not understood; its rules stay as they are: {error}"),
    }
}
