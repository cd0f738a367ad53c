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
use daisy_kubernetes::Api;
use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::core::DeserializeGuard;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Client, ResourceExt};
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
    let maps: Api<ConfigMap> = Api::namespaced(client, NAMESPACE);
    let config = watcher::Config::default().fields(&format!("metadata.name={CONFIG_MAP}"));
    let mut events = daisy_kubernetes::watcher(maps, config).default_backoff().boxed();
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use daisy_api_server::{Options, ResourceDefinition, Server};
    use daisy_dns::core::{QueryName, Snapshot, corefile};
    use kube::Config;
    use kube::config::{KubeConfigOptions, Kubeconfig};
    use serde_json::{Value, json};
    use tokio::net::UdpSocket;
    use tokio::sync::oneshot;

    use super::*;

    fn domain(name: &str) -> DomainName {
        DomainName::parse(name).expect("a name")
    }

    fn rcode_or_forward(responder: &Responder, name: &str, kind: u16) -> String {
        let name: QueryName = name.parse().expect("a name");
        match responder.respond(&Question { name: &name, kind: QueryType::from(kind), turn: 0 }) {
            Reply::Answer(answer) => format!("{:?}", answer.rcode),
            Reply::Forward(to) => format!("{to:?}"),
        }
    }

    #[test]
    fn the_longest_zone_wins() {
        let snapshot = Snapshot::empty(Settings::cluster(domain("cluster.local"), TTL, TTL), 1);
        let (rules, stubs) = watch::channel(Vec::new());
        let responder = Responder { domain: domain("cluster.local"), current: Current::new(snapshot), stubs };
        let ask = |name: &str| rcode_or_forward(&responder, name, 1);
        assert_eq!(ask("nginx.nginx.svc.supercluster.local"), "NxDomain", "no Corefile yet");
        assert_eq!(ask("kubernetes.default.svc.cluster.local"), "ServFail", "nothing is read yet");
        assert_eq!(ask("svc.cluster.local"), "NoError");
        assert_eq!(ask("api.github.com"), "NxDomain");
        assert_eq!(rcode_or_forward(&responder, ".", 2), "NoError");
        let own = ".:53 {\n    kubernetes cluster.local\n    forward . 192.0.2.1\n}\n";
        let text = corefile::insert(own, &["10.96.0.53".parse().expect("an address")]).expect("can take it")
            + "sub.cluster.local {\n    forward . 10.0.0.9:5353\n}\n";
        publish(&text, &domain("cluster.local"), &rules);
        assert_eq!(ask("nginx.nginx.svc.supercluster.local"), "[10.96.0.53:53]");
        assert_eq!(ask("dns-version.clusterset.local"), "[10.96.0.53:53]");
        assert_eq!(ask("api.github.com.supercluster.local"), "NxDomain");
        assert_eq!(ask("x.sub.cluster.local"), "[10.0.0.9:5353]");
        assert_eq!(ask("svc.cluster.local"), "NoError");
        assert_eq!(ask("api.github.com"), "NxDomain", "the lab has no way out");
        publish("broken {", &domain("cluster.local"), &rules);
        assert_eq!(ask("nginx.nginx.svc.supercluster.local"), "[10.96.0.53:53]", "the rules stay");
    }

    fn object(version: &str, kind: &str, namespace: &str, name: &str, key: &str, rest: Value) -> Value {
        let mut object = json!({"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": namespace}});
        object[key] = rest;
        object
    }

    /// The result code that comes back, with how many answers; (2, 0) where nothing does.
    async fn ask(server: SocketAddr, name: &str) -> (u8, u8) {
        let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            query.push(u8::try_from(label.len()).expect("a label"));
            query.extend(label.as_bytes());
        }
        query.extend([0, 0, 1, 0, 1]);
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
        socket.connect(server).await.expect("connects");
        let mut buffer = [0; 512];
        let asked = async {
            socket.send(&query).await?;
            socket.recv(&mut buffer).await
        };
        match tokio::time::timeout(Duration::from_secs(3), asked).await {
            Ok(Ok(_)) => (buffer[3] & 0xf, buffer[7]),
            Ok(Err(_)) | Err(_) => (2, 0),
        }
    }

    async fn expect(server: SocketAddr, name: &str, expected: (u8, u8)) {
        let mut found = (0, 0);
        for _ in 0..1000 {
            found = ask(server, name).await;
            if found == expected {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{name}: {found:?}, not {expected:?}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn serves_the_cluster_and_what_its_corefile_forwards() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().expect("a folder");
        let mut options = Options::new(folder.path());
        options.namespaces.push("daisy-system".into());
        options.definitions.push(ResourceDefinition::untyped(("", "v1"), "services", "Service", true));
        let slices = ResourceDefinition::untyped(("discovery.k8s.io", "v1"), "endpointslices", "EndpointSlice", true);
        options.definitions.push(slices);
        let api = Server::open(options).expect("opens");
        let listeners = Server::bind(&["127.0.0.1:0".into()]).expect("a free port");
        let url = format!("https://{}", listeners[0].local_addr().expect("an address"));
        let kubeconfig = Kubeconfig::from_yaml(&api.admin_kubeconfig(&url, "test")).expect("a kubeconfig");
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.expect("a configuration");
        let client = Client::try_from(config).expect("a client");
        let handle = api.handle();
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let until = |mut stopped: watch::Receiver<bool>| async move { drop(stopped.wait_for(|stop| *stop).await) };
        let serving = tokio::spawn(api.serve(listeners, until(stopped.clone())));

        let free = || Sockets::bind(&["127.0.0.1:0".parse().expect("an address")]).expect("a port").addresses()[0];
        let (cluster_dns, daisy_dns) = (free(), free());
        let options = ClusterDnsOptions { listen: vec![cluster_dns], ..ClusterDnsOptions::default() };
        let (done, finished) = oneshot::channel();
        let (first, until_first) = (client.clone(), until(stopped.clone()));
        tokio::spawn(async move { done.send(run(first, options, until_first).await) });
        let options = daisy_dns::DnsOptions { listen: vec![daisy_dns], ..daisy_dns::DnsOptions::default() };
        let daisy = tokio::spawn(daisy_dns::run(client, options, until(stopped)));

        let service = |namespace: &str, name: &str, ip: &str| {
            object("v1", "Service", namespace, name, "spec", json!({"clusterIP": ip, "clusterIPs": [ip]}))
        };
        handle.apply(service("default", "kubernetes", "10.96.0.1")).await.expect("applied");
        let mut import = service("daisy-system", "i-nginx", "100.96.0.1");
        import["metadata"]["labels"] = json!({
            daisy_api::labels::IMPORT_NAMESPACE: "nginx", daisy_api::labels::IMPORT_NAME: "nginx",
        });
        handle.apply(import).await.expect("applied");
        expect(cluster_dns, "kubernetes.default.svc.cluster.local", (0, 1)).await;
        expect(cluster_dns, "nginx.nginx.svc.supercluster.local", (3, 0)).await;

        // `daisy join` edits the Corefile; here our server is not on port 53.
        let own = ".:53 {\n    kubernetes cluster.local\n}\n";
        let joined = corefile::insert(own, &["127.0.0.1".parse().expect("an address")]).expect("can take it");
        let joined = joined.replace("forward . 127.0.0.1\n", &format!("forward . {daisy_dns}\n"));
        let map = |text: &str| object("v1", "ConfigMap", NAMESPACE, CONFIG_MAP, "data", json!({COREFILE: text}));
        handle
            .apply(object("v1", "ConfigMap", NAMESPACE, "other", "data", json!({COREFILE: "rubbish {"})))
            .await
            .expect("applied");
        handle.apply(map(&joined)).await.expect("applied");
        expect(cluster_dns, "nginx.nginx.svc.supercluster.local", (0, 1)).await;
        expect(cluster_dns, "nginx.nginx.svc.cluster.local", (3, 0)).await;
        expect(cluster_dns, "api.github.com.supercluster.local", (3, 0)).await;
        // And `daisy leave` takes it out again.
        handle.apply(map(&corefile::remove(&joined))).await.expect("applied");
        expect(cluster_dns, "nginx.nginx.svc.supercluster.local", (3, 0)).await;

        drop(handle);
        stop.send(true).expect("they listen");
        finished.await.expect("ends").expect("without an error");
        daisy.await.expect("ends").expect("without an error");
        serving.await.expect("ends").expect("without an error");
    }
}
