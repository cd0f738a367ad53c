//! Several replicas of a syncer, and of a registrar, over TLS against embedded API servers: one writes, and another takes over.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod common;

use std::time::{Duration, Instant};

use common::{Broker, Here, cluster, code, id, join, key};
use daisy_api::{Cidr, Export, Member};
use daisy_broker::lease::LeaseOptions;
use daisy_broker::registrar::{self, RegistrarOptions};
use daisy_broker::setup::{self, Invite};
use daisy_broker::syncer::{self, SyncerOptions};
use daisy_broker_core::lease::Timing;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client};
use prometheus::Registry;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const PATIENCE: Duration = Duration::from_secs(20);
/// A tenth of the usual times, about.
const TIMING: Timing =
    Timing { duration: Duration::from_secs(2), deadline: Duration::from_millis(1_400), retry: Duration::from_millis(250) };

/// A Service in the cluster, and its export.
async fn offer(here: &Here, name: &str) {
    here.apply(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
        "spec": {"clusterIP": "10.101.0.7", "clusterIPs": ["10.101.0.7"], "ports": [{"port": 80, "protocol": "TCP"}], "type": "ClusterIP"}}))
        .await;
    here.apply(json!({"apiVersion": "multicluster.x-k8s.io/v1beta1", "kind": "ServiceExport",
        "metadata": {"name": name, "namespace": "default"}}))
        .await;
}

struct Replica {
    registry: Registry,
    stop: oneshot::Sender<()>,
    running: JoinHandle<anyhow::Result<()>>,
}

impl Replica {
    fn syncer(client: &Client, name: &str) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        let registry = Registry::new();
        let mut lease = LeaseOptions::new("daisy-system", syncer::LEASE, Some(name.to_owned()));
        lease.timing = TIMING;
        let options = SyncerOptions { lease, registry: registry.clone(), ..SyncerOptions::default() };
        let running = tokio::spawn(syncer::run(client.clone(), options, async {
            let _ = stopped.await;
        }));
        Self { registry, stop, running }
    }

    fn registrar(client: &Client, name: &str) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        let registry = Registry::new();
        let options =
            RegistrarOptions { replica: Some(name.to_owned()), registry: registry.clone(), ..RegistrarOptions::default() };
        let running = tokio::spawn(registrar::run(client.clone(), options, async {
            let _ = stopped.await;
        }));
        Self { registry, stop, running }
    }

    /// The sum of a metric.
    fn counted(&self, metric: &str) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == metric);
        family.map_or(0.0, |family| {
            family.get_metric().iter().map(|one| one.get_counter().get_value() + one.get_gauge().get_value()).sum()
        })
    }

    fn writes(&self) -> f64 {
        self.counted("daisy_syncer_writes_total")
    }

    async fn stop(self) {
        drop(self.stop);
        self.running.await.unwrap().unwrap();
    }
}

async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !done().await {
        assert!(began.elapsed() < PATIENCE, "after {PATIENCE:?} still not: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    began.elapsed()
}

async fn holder(client: &Client, namespace: &str, name: &str) -> Option<String> {
    let lease = Api::<Lease>::namespaced(client.clone(), namespace).get_opt(name).await.unwrap()?;
    lease.spec?.holder_identity.filter(|holder| !holder.is_empty())
}

async fn exported(broker: &Broker, name: &str) -> bool {
    let exports: Api<Export> = Api::namespaced(broker.admin.clone(), "daisy-cluster-local");
    exports.get_opt(&format!("{name}.default")).await.unwrap().is_some()
}

#[tokio::test]
async fn one_syncer_writes_and_another_takes_over() {
    let (data, own) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let broker = Broker::start(data.path()).await;
    let info = broker.invite("all", 10).await;
    let credential = join(&info, &cluster("local", 1), &key(1)).await;
    let here = Here::start(own.path(), daisy_api::crds::member()).await;
    here.apply(json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "daisy-broker-access", "namespace": "daisy-system"},
        "stringData": {"server": info.server, "ca": info.ca, "token": credential.token, "brokerId": info.broker_id, "clusterId": "local"}}))
        .await;

    let began = Instant::now();
    let one = Replica::syncer(&here.client, "one");
    offer(&here, "web").await;
    until("web is exported", async || exported(&broker, "web").await).await;
    println!("first export {:?} after the start", began.elapsed());
    assert_eq!(holder(&here.client, "daisy-system", "daisy-syncer").await.as_deref(), Some("one"));

    let two = Replica::syncer(&here.client, "two");
    offer(&here, "second").await;
    until("second is exported", async || exported(&broker, "second").await).await;
    tokio::time::sleep(TIMING.duration).await;
    assert_eq!(two.writes(), 0.0, "who stands by writes nothing");
    assert_eq!((one.counted("daisy_syncer_writes"), two.counted("daisy_syncer_writes")), (1.0, 0.0));

    // Told to stop, it gives the lease back, and the other goes on.
    one.stop().await;
    offer(&here, "third").await;
    let took = until("third is exported", async || exported(&broker, "third").await).await;
    println!("taken over {took:?} after a stop");
    assert!(took < TIMING.duration, "the lease was given back, and not waited for: {took:?}");
    assert_eq!(holder(&here.client, "daisy-system", "daisy-syncer").await.as_deref(), Some("two"));

    // Killed without a word: when the lease has run out.
    let three = Replica::syncer(&here.client, "three");
    until("three stands by", async || three.counted("daisy_syncer_broker_connected") > 0.0).await;
    two.running.abort();
    offer(&here, "fourth").await;
    let took = until("fourth is exported", async || exported(&broker, "fourth").await).await;
    println!("taken over {took:?} after a kill; a lease lasts {:?}", TIMING.duration);
    // On a machine that is busy a look at the lease comes late; what may not be is that nobody looks.
    assert!(took < TIMING.duration * 2, "{took:?}");

    // Somebody else has the lease: from that moment nothing is written, whatever there is to write.
    let leases: Api<Lease> = Api::namespaced(here.client.clone(), "daisy-system");
    let thief = json!({ "spec": { "holderIdentity": "thief", "leaseDurationSeconds": 3 } });
    leases.patch("daisy-syncer", &PatchParams::default(), &Patch::Merge(&thief)).await.unwrap();
    until("three has lost it", async || three.counted("daisy_syncer_writes") == 0.0).await;
    let before = three.writes();
    offer(&here, "fifth").await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(three.writes(), before);
    assert!(!exported(&broker, "fifth").await);
    until("fifth is exported once it is three's turn again", async || exported(&broker, "fifth").await).await;
    three.stop().await;
    broker.stop().await;
}

#[tokio::test]
async fn a_syncer_without_rights_on_leases_writes_nothing_and_starts_once_it_has_them() {
    let (data, own) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let broker = Broker::start(data.path()).await;
    let info = broker.invite("all", 10).await;
    let credential = join(&info, &cluster("local", 1), &key(1)).await;
    let here = Here::start(own.path(), daisy_api::crds::member()).await;
    here.apply(json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "daisy-broker-access", "namespace": "daisy-system"},
        "stringData": {"server": info.server, "ca": info.ca, "token": credential.token, "brokerId": info.broker_id, "clusterId": "local"}}))
        .await;
    here.apply(json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "daisy-syncer", "namespace": "daisy-system"}}))
        .await;
    let role = |groups: Value| {
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "syncer"},
            "rules": [{"apiGroups": groups, "resources": ["*"], "verbs": ["*"]}]})
    };
    let without = json!(["", "discovery.k8s.io", "daisy.supercluster.local", "multicluster.x-k8s.io"]);
    here.apply(role(without)).await;
    here.apply(
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "syncer"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "syncer"},
        "subjects": [{"kind": "ServiceAccount", "name": "daisy-syncer", "namespace": "daisy-system"}]}),
    )
    .await;
    let token = here.handle.issue_token("daisy-system", "daisy-syncer", Duration::from_secs(3600)).unwrap().token;
    let client = daisy_broker::enrol::client(&here.address.server, &here.address.ca, &token).unwrap();
    assert_eq!(code(Api::<Lease>::namespaced(client.clone(), "daisy-system").get("daisy-syncer").await), 403);

    let only = Replica::syncer(&client, "only");
    offer(&here, "web").await;
    until("it is connected", async || only.counted("daisy_syncer_broker_connected") > 0.0).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(only.writes(), 0.0);
    here.apply(role(json!(["*"]))).await;
    until("web is exported", async || exported(&broker, "web").await).await;
    only.stop().await;
    broker.stop().await;
}

#[tokio::test]
async fn one_registrar_judges_and_another_takes_over() {
    let own = tempfile::tempdir().unwrap();
    let here = Here::start(own.path(), daisy_api::crds::broker()).await;
    setup::install(&here.client).await.unwrap();
    let one = Replica::registrar(&here.client, "one");
    until("one judges", async || holder(&here.client, "daisy-broker", registrar::LEASE).await.is_some()).await;
    let two = Replica::registrar(&here.client, "two");
    let info = setup::create_invitation(&here.client, &here.address, &Invite::default()).await.unwrap();
    for n in 1..5u8 {
        join(&info, &cluster(&format!("c{n}"), n), &key(n)).await;
    }
    assert_eq!(two.counted("daisy_registrar_actions_total"), 0.0, "who stands by does nothing");

    // The next one knows what the one before it wrote last: the same range is not given again.
    let began = Instant::now();
    one.stop().await;
    let (reason, message) = common::refused(&info, &cluster("thief", 4), &key(9)).await;
    println!("answered {:?} after a stop", began.elapsed());
    assert_eq!(reason, "CidrOverlap", "{message}");
    join(&info, &cluster("c5", 5), &key(5)).await;
    assert_eq!(holder(&here.client, "daisy-broker", registrar::LEASE).await.as_deref(), Some("two"));
    let members = Api::<Member>::namespaced(here.client.clone(), "daisy-broker").list(&ListParams::default()).await.unwrap();
    assert_eq!(members.items.len(), 5);
    let ranges: Vec<Cidr> = members.items.iter().map(|member| member.spec.node_cidr).collect();
    assert!(ranges.iter().enumerate().all(|(n, one)| ranges[..n].iter().all(|other| !one.overlaps(other))), "{ranges:?}");
    assert_eq!(id("c5").as_str(), "c5");
    two.stop().await;
    assert_eq!(holder(&here.client, "daisy-broker", registrar::LEASE).await, None, "given back");
}
