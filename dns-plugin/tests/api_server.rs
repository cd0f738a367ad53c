//! The whole server against a Kubernetes API: Daisy's embedded one, which ends and comes back.

#![allow(clippy::unwrap_used, missing_docs)]

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use daisy_api::{ServiceKey, labels};
use daisy_api_server::{Handle, Options, ResourceDefinition, ResourceKey, Server};
use daisy_dns::{DnsOptions, Metrics, Sockets};
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use prometheus::Registry;
use serde_json::{Value, json};
use tokio::net::UdpSocket;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Far more than any step takes.
const PATIENCE: Duration = Duration::from_secs(30);

struct Api {
    address: SocketAddr,
    kubeconfig: String,
    handle: Handle,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Api {
    fn start(folder: &Path, listen: &str) -> Self {
        let mut options = Options::new(folder);
        options.namespaces.push(labels::SYSTEM_NAMESPACE.into());
        // Untyped, so that it takes objects that do not parse.
        options.definitions.push(ResourceDefinition::untyped(("", "v1"), "services", "Service", true));
        let slices = ResourceDefinition::untyped(("discovery.k8s.io", "v1"), "endpointslices", "EndpointSlice", true);
        options.definitions.push(slices);
        let server = Server::open(options).unwrap();
        let listeners = Server::bind(&[listen.to_owned()]).unwrap();
        let address = listeners[0].local_addr().unwrap();
        let kubeconfig = server.admin_kubeconfig(&format!("https://{address}"), "test");
        let handle = server.handle();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(async move { server.serve(listeners, async { drop(stopped.await) }).await.unwrap() });
        Self { address, kubeconfig, handle, stop, task }
    }

    async fn client(&self) -> Client {
        let kubeconfig = Kubeconfig::from_yaml(&self.kubeconfig).unwrap();
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
        Client::try_from(config).unwrap()
    }

    async fn apply(&self, object: Value) {
        self.handle.apply(object).await.unwrap();
    }

    async fn delete(&self, group: &str, plural: &str, namespace: &str, name: &str) {
        self.handle.delete(&ResourceKey::new(group, plural), namespace, name).await.unwrap();
    }

    async fn stop(self) {
        drop(self.handle);
        self.stop.send(()).unwrap();
        self.task.await.unwrap();
    }
}

fn object(version: &str, kind: &str, namespace: &str, name: &str, rest: Value) -> Value {
    let mut object = json!({"apiVersion": version, "kind": kind, "metadata": {"namespace": namespace, "name": name}});
    let (map, Value::Object(rest)) = (object.as_object_mut().unwrap(), rest) else { panic!("an object") };
    for (key, value) in rest {
        if key == "labels" {
            map["metadata"]["labels"] = value;
        } else {
            map.insert(key, value);
        }
    }
    object
}

fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

fn service(namespace: &str, name: &str, ips: &[&str]) -> Value {
    let ports = json!([{"name": "http", "port": 80}, {"port": 81}]);
    object("v1", "Service", namespace, name, json!({"spec": {"clusterIP": ips[0], "clusterIPs": ips, "ports": ports}}))
}

/// The Service of an import, as the syncer makes it.
fn import(key: &ServiceKey, ip: &str) -> Value {
    let mut service = service(labels::SYSTEM_NAMESPACE, &key.import_service_name(), &[ip]);
    service["metadata"]["labels"] = json!({
        labels::MANAGED_BY: labels::MANAGED_BY_DAISY,
        labels::IMPORT_NAMESPACE: key.namespace,
        labels::IMPORT_NAME: key.name,
    });
    service
}

fn slice(namespace: &str, name: &str, extra: Value, endpoints: Value) -> Value {
    let rest = json!({
        "addressType": "IPv4", "labels": extra, "endpoints": endpoints,
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
    });
    object("discovery.k8s.io/v1", "EndpointSlice", namespace, name, rest)
}

fn import_slice(key: &ServiceKey, cluster: &str, endpoints: Value) -> Value {
    let extra = json!({
        labels::SLICE_SERVICE_NAME: key.import_service_name(),
        labels::SLICE_MANAGED_BY: labels::SLICE_MANAGED_BY_DAISY,
        labels::MCS_SOURCE_CLUSTER: cluster,
        labels::IMPORT_NAMESPACE: key.namespace,
        labels::IMPORT_NAME: key.name,
    });
    slice(labels::SYSTEM_NAMESPACE, &format!("{}-{cluster}", key.import_service_name()), extra, endpoints)
}

struct Dns {
    address: SocketAddr,
    registry: Registry,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Dns {
    fn start(client: Client) -> Self {
        // A port that was free a moment ago.
        let address = Sockets::bind(&["127.0.0.1:0".parse().unwrap()]).unwrap().addresses()[0];
        let registry = Registry::new();
        let metrics = Metrics::registered(&registry).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            let options = DnsOptions { listen: vec![address], metrics, ..DnsOptions::default() };
            daisy_dns::run(client, options, async { drop(stopped.await) }).await.unwrap();
        });
        Self { address, registry, stop, task }
    }

    async fn ask(&self, name: &str) -> (ResponseCode, Vec<IpAddr>) {
        let mut message = Message::query();
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
        let bytes = message.to_vec().unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(self.address).await.unwrap();
        let mut buffer = [0; 4096];
        for _ in 0..50 {
            // The server may not listen yet: its port is closed then.
            let asked = async {
                socket.send(&bytes).await?;
                socket.recv(&mut buffer).await
            };
            if let Ok(Ok(length)) = tokio::time::timeout(Duration::from_secs(1), asked).await {
                let answer = Message::from_vec(&buffer[..length]).unwrap();
                let addresses = answer.answers.iter().filter_map(|record| {
                    let RData::A(a) = &record.data else { return None };
                    Some(IpAddr::from(a.0))
                });
                return (answer.metadata.response_code, addresses.collect());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{} does not answer", self.address);
    }

    /// Waits until the name is answered so: the API's events take their time.
    async fn expect(&self, name: &str, code: ResponseCode, ips: &[&str]) {
        let expected: Vec<IpAddr> = ips.iter().map(|ip| ip.parse().unwrap()).collect();
        let start = Instant::now();
        loop {
            let (found, mut addresses) = self.ask(name).await;
            addresses.sort_unstable();
            if found == code && addresses == expected {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "{name}: {found} {addresses:?}, not {code} {ips:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|f| f.name() == name).unwrap();
        let has = |m: &&prometheus::proto::Metric| {
            labels.iter().all(|(n, v)| m.get_label().iter().any(|l| l.name() == *n && l.value() == *v))
        };
        let metrics = family.get_metric().iter().filter(has);
        metrics.map(|m| m.get_counter().get_value() + m.get_gauge().get_value()).sum()
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        self.task.await.unwrap();
    }
}

use ResponseCode::{NXDomain, NoError, ServFail};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn follows_the_cluster_and_outlives_its_api_server() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir().unwrap();
    let api = Api::start(folder.path(), "127.0.0.1:0");
    let nginx = ServiceKey::parse("nginx", "nginx").unwrap();
    let db = ServiceKey::parse("shop", "db").unwrap();
    api.apply(namespace("shop")).await;
    api.apply(service("shop", "web", &["10.96.0.10", "fd00::10"])).await;
    let mut broken = service("shop", "broken", &["10.96.0.66"]);
    broken["spec"]["ports"] = json!("nonsense");
    api.apply(broken).await;
    api.apply(service("shop", "odd", &["not-an-address"])).await;
    api.apply(import(&nginx, "100.96.0.1")).await;
    // Labels of ours outside our namespace are anyone's, and make no import.
    let mut spoof = service("shop", "spoof", &["10.96.0.99"]);
    spoof["metadata"]["labels"] =
        import(&ServiceKey::parse("bank", "api").unwrap(), "10.96.0.99")["metadata"]["labels"].clone();
    api.apply(spoof).await;

    let dns = Dns::start(api.client().await);
    dns.expect("web.shop.svc.supercluster.local", NoError, &["10.96.0.10"]).await;
    dns.expect("nginx.nginx.svc.supercluster.local", NoError, &["100.96.0.1"]).await;
    dns.expect("nginx.nginx.svc.clusterset.local", NXDomain, &[]).await;
    dns.expect("api.bank.svc.supercluster.local", NXDomain, &[]).await;
    dns.expect("spoof.shop.svc.supercluster.local", NoError, &["10.96.0.99"]).await;
    dns.expect("broken.shop.svc.supercluster.local", NXDomain, &[]).await;
    dns.expect("odd.shop.svc.supercluster.local", NXDomain, &[]).await;
    // Daisy's own Services are no Services of the user's by their import's object name, but its DNS server is one.
    dns.expect(&format!("{}.daisy-system.svc.supercluster.local", nginx.import_service_name()), NXDomain, &[]).await;
    assert!(dns.metric("daisy_dns_unreadable_total", &[("source", "services")]) >= 1.0);
    assert!(dns.metric("daisy_dns_synced", &[]) >= 1.0);
    assert!(dns.metric("daisy_dns_requests_total", &[("zone", "supercluster.local"), ("rcode", "NXDOMAIN")]) >= 3.0);

    // A Service that stops parsing stays as it was last understood.
    let mut web = service("shop", "web", &["10.96.0.10"]);
    web["spec"]["ports"] = json!(7);
    api.apply(web).await;
    // The namespace comes; nginx starts here, and ends.
    api.apply(namespace("nginx")).await;
    dns.expect("nginx.nginx.svc.clusterset.local", NoError, &["100.96.0.1"]).await;
    dns.expect("web.shop.svc.supercluster.local", NoError, &["10.96.0.10"]).await;
    api.apply(service("nginx", "nginx", &["10.96.0.77"])).await;
    dns.expect("nginx.nginx.svc.supercluster.local", NoError, &["10.96.0.77"]).await;
    dns.expect("nginx.nginx.svc.clusterset.local", NoError, &["100.96.0.1"]).await;
    api.delete("", "services", "nginx", "nginx").await;
    dns.expect("nginx.nginx.svc.supercluster.local", NoError, &["100.96.0.1"]).await;

    // A headless import: ready endpoints only, of two clusters.
    let mut headless = import(&db, "None");
    headless["spec"]["clusterIPs"] = json!(["None"]);
    api.apply(headless).await;
    let ready = json!([
        {"addresses": ["10.1.0.1", "10.1.0.2"], "hostname": "db-0", "conditions": {"ready": true}},
        {"addresses": ["10.1.0.3"], "hostname": "db-1", "conditions": {"ready": false}},
    ]);
    api.apply(import_slice(&db, "staging", ready)).await;
    api.apply(import_slice(&db, "eu", json!([{"addresses": ["10.2.0.1"], "hostname": "db-0"}]))).await;
    dns.expect("db.shop.svc.clusterset.local", NoError, &["10.1.0.1", "10.2.0.1"]).await;
    dns.expect("db-0.eu.db.shop.svc.clusterset.local", NoError, &["10.2.0.1"]).await;
    dns.expect("db-1.staging.db.shop.svc.clusterset.local", NXDomain, &[]).await;
    // A headless Service of this cluster; the syncer's slices in the import's namespace are none of it.
    api.apply(service("shop", "db", &["None"])).await;
    let own = json!({labels::SLICE_SERVICE_NAME: "db", labels::SLICE_HEADLESS: ""});
    api.apply(slice("shop", "db-x", own, json!([{"addresses": ["10.0.0.1"]}]))).await;
    let mcs = json!({
        labels::SLICE_SERVICE_NAME: "db", labels::SLICE_HEADLESS: "", labels::SLICE_MANAGED_BY: labels::SLICE_MANAGED_BY_DAISY,
    });
    api.apply(slice("shop", "db-mcs", mcs, json!([{"addresses": ["10.1.0.1"]}]))).await;
    dns.expect("db.shop.svc.supercluster.local", NoError, &["10.0.0.1"]).await;

    // The API server is away: what is known goes on.
    let address = api.address;
    api.stop().await;
    for _ in 0..20 {
        dns.expect("web.shop.svc.supercluster.local", NoError, &["10.96.0.10"]).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // It is back, and meanwhile one thing went and one came.
    let api = Api::start(folder.path(), &address.to_string());
    api.delete("", "services", labels::SYSTEM_NAMESPACE, &nginx.import_service_name()).await;
    api.apply(service("shop", "new", &["10.96.0.12"])).await;
    dns.expect("nginx.nginx.svc.supercluster.local", NXDomain, &[]).await;
    dns.expect("new.shop.svc.supercluster.local", NoError, &["10.96.0.12"]).await;
    dns.expect("web.shop.svc.supercluster.local", NoError, &["10.96.0.10"]).await;
    dns.stop().await;
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn says_nothing_before_it_has_read_everything() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir().unwrap();
    let api = Api::start(folder.path(), "127.0.0.1:0");
    let client = api.client().await;
    let address = api.address;
    api.stop().await;
    let dns = Dns::start(client);
    dns.expect("web.shop.svc.supercluster.local", ServFail, &[]).await;
    dns.expect("api.github.com.supercluster.local", NXDomain, &[]).await;
    dns.expect("svc.supercluster.local", NoError, &[]).await;
    let api = Api::start(folder.path(), &address.to_string());
    dns.expect("web.shop.svc.supercluster.local", NXDomain, &[]).await;
    dns.stop().await;
    api.stop().await;
}
