//! A cluster joins, is refused, leaves: over TLS against the embedded broker, in this process.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod common;

use std::time::Duration;

use common::{Broker, ask, cidr, cluster, code, id, join, key, refused};
use daisy_api::broker_info::{BrokerInfo, InvitationToken};
use daisy_api::labels::APP_VERSION;
use daisy_api::{Cluster, ClusterSpec, Envelope, Export, Grant, Member, Version};
use daisy_broker::enrol::{Answer, EnrolError};
use daisy_broker::server::{self, BrokerOptions};
use daisy_broker::setup::{self, Invite, SetupError};
use k8s_openapi::api::core::v1::{Event, Namespace};
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Api, Client, ResourceExt};
use tokio::sync::oneshot;

const PATIENCE: Duration = Duration::from_secs(20);

fn record(name: &str, member: &Member, leaving: bool) -> Cluster {
    let of = &member.spec;
    let spec = ClusterSpec {
        envelope: Envelope { sequence: 1, signature: None },
        cluster_cidrs: of.cluster_cidrs.clone(),
        service_cidrs: of.service_cidrs.clone(),
        node_cidr: of.node_cidr,
        exporter: !of.grant.is_none(),
        gateways: Vec::new(),
        consumes: Vec::new(),
        leaving,
        version: "test".into(),
    };
    Cluster::new(name, spec)
}

async fn member(client: &Client, name: &str) -> Option<Member> {
    Api::<Member>::namespaced(client.clone(), "daisy-broker").get_opt(name).await.unwrap()
}

/// Waits until nothing is left of a cluster.
async fn gone(client: &Client, name: &str) {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let own = id(name).broker_namespace();
    let Some(namespace) = namespaces.get_opt(&own).await.unwrap() else { return };
    let uid = namespace.uid().unwrap();
    let deleted = await_condition(namespaces, &own, conditions::is_deleted(&uid));
    tokio::time::timeout(PATIENCE, deleted).await.expect("its namespace stays").unwrap();
    assert!(member(client, name).await.is_none());
}

#[tokio::test]
async fn a_cluster_joins_and_writes_its_records() {
    let data = tempfile::tempdir().unwrap();
    let broker = Broker::start(data.path()).await;
    let info = broker.invite("shop-*", 10).await;
    assert_eq!(info.broker_id, broker.ready.broker_id);
    let text = info.to_text().unwrap();
    let info = BrokerInfo::parse("broker-info.daisy", &text, jiff::Timestamp::now()).unwrap();

    let asked = std::time::Instant::now();
    let Answer::Admitted(admitted) = ask(&info, &cluster("staging", 1), &key(1)).await.unwrap() else { panic!("reserved") };
    println!("admitted after {:?}", asked.elapsed());
    assert_eq!(admitted.credential.namespace, "daisy-cluster-staging");
    assert_eq!(admitted.ranges.node_cidr, Some(cidr("100.80.0.0/20")));
    assert!(admitted.message.contains("shop-*"), "{}", admitted.message);
    let joined = member(&broker.admin, "staging").await.expect("a Member");
    assert_eq!(joined.spec.grant.to_string(), "shop-*");

    let client = broker.member(&admitted.credential);
    let clusters: Api<Cluster> = Api::namespaced(client.clone(), "daisy-cluster-staging");
    clusters.create(&PostParams::default(), &record("staging", &joined, false)).await.unwrap();
    // It reads what everybody offers, and makes its own next token.
    assert_eq!(Api::<Cluster>::all(client.clone()).list(&ListParams::default()).await.unwrap().items.len(), 1);
    assert_eq!(Api::<Member>::all(client.clone()).list(&ListParams::default()).await.unwrap().items.len(), 1);
    assert!(Api::<Export>::all(client.clone()).list(&ListParams::default()).await.unwrap().items.is_empty());
    let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> = Api::namespaced(client, "daisy-cluster-staging");
    let request = k8s_openapi::api::authentication::v1::TokenRequest {
        spec: k8s_openapi::api::authentication::v1::TokenRequestSpec { expiration_seconds: Some(3600), ..Default::default() },
        ..Default::default()
    };
    let renewed = accounts.create_token_request("syncer", &PostParams::default(), &request).await.unwrap();
    assert!(!renewed.status.unwrap().token.is_empty());

    // Again, with the same key: the same member, a new credential.
    let again = join(&info, &cluster("staging", 1), &key(1)).await;
    assert_eq!(member(&broker.admin, "staging").await.unwrap().uid(), joined.uid());
    assert!(broker.member(&again).list_api_groups().await.is_ok());
    broker.stop().await;
}

#[tokio::test]
async fn an_overlap_is_refused_with_free_ranges() {
    let data = tempfile::tempdir().unwrap();
    let broker = Broker::start(data.path()).await;
    let info = broker.invite("all", 10).await;
    join(&info, &cluster("staging", 1), &key(1)).await;
    let mut local = cluster("local", 1);
    let Err(EnrolError::Refused { reason, message, ranges }) = ask(&info, &local, &key(2)).await else { panic!("admitted") };
    assert_eq!(reason, "CidrOverlap");
    assert!(message.contains("staging") && message.contains("local") && message.contains("--clustercidr"), "{message}");
    let ranges = ranges.expect("free ranges");
    (local.cluster_cidrs, local.service_cidrs) = (ranges.cluster_cidrs, ranges.service_cidrs);
    join(&info, &local, &key(2)).await;

    // Without CIDRs, ranges are kept for it.
    let mut later = cluster("later", 1);
    (later.cluster_cidrs, later.service_cidrs, later.cluster_uid) = (Vec::new(), Vec::new(), "kind-config".into());
    let Answer::Reserved(reserved) = ask(&info, &later, &key(3)).await.unwrap() else { panic!("admitted without CIDRs") };
    assert!(reserved.message.contains("--servicecidr"), "{}", reserved.message);
    let thief = daisy_broker::enrol::Ask { cluster_cidrs: reserved.ranges.cluster_cidrs.clone(), ..cluster("thief", 9) };
    assert_eq!(refused(&info, &thief, &key(4)).await.0, "CidrOverlap");
    (later.cluster_cidrs, later.service_cidrs) = (reserved.ranges.cluster_cidrs, reserved.ranges.service_cidrs);
    later.cluster_uid = "uid-of-later".into();
    join(&info, &later, &key(3)).await;
    broker.stop().await;
}

#[tokio::test]
async fn twenty_at_once_never_overlap() {
    let data = tempfile::tempdir().unwrap();
    let broker = Broker::start(data.path()).await;
    let info = broker.invite("all", 100).await;
    // Ten ranges, each asked for by two.
    let all = (0..20u8).map(|n| {
        let info = info.clone();
        async move { ask(&info, &cluster(&format!("c{n}"), n / 2), &key(n + 1)).await.is_ok() }
    });
    let admitted = futures::future::join_all(all).await.into_iter().filter(|admitted| *admitted).count();
    assert_eq!(admitted, 10);
    let members = setup::members(&broker.admin).await.unwrap();
    for (index, one) in members.iter().enumerate() {
        for other in &members[..index] {
            let (one, other): (Vec<_>, Vec<_>) = (one.spec.cidrs().collect(), other.spec.cidrs().collect());
            assert_eq!(daisy_api::cidr::first_overlap(&one, &other), None);
        }
    }
    broker.stop().await;
}

#[tokio::test]
async fn another_cluster_of_the_same_id_replaces_only_when_it_may() {
    let data = tempfile::tempdir().unwrap();
    let broker = Broker::start(data.path()).await;
    let first = broker.invite("all", 10).await;
    let old = join(&first, &cluster("staging", 1), &key(1)).await;
    let mut anew = daisy_broker::enrol::Ask { cluster_uid: "made-anew".into(), ..cluster("staging", 1) };
    assert_eq!(refused(&first, &anew, &key(2)).await.0, "ClusterIdInUse");
    // The UID is no secret: whoever read it in the Member lacks the key.
    assert_eq!(refused(&first, &cluster("staging", 1), &key(2)).await.0, "ClusterIdInUse");
    anew.replace = true;
    assert_eq!(refused(&first, &anew, &key(2)).await.0, "ReplaceNeedsFreshInvitation");
    let consumers = broker.invite("none", 10).await;
    assert_eq!(refused(&consumers, &anew, &key(2)).await.0, "ReplaceNeedsGrant");
    let namespaces: Api<Namespace> = Api::all(broker.admin.clone());
    assert!(broker.member(&old).list_api_groups().await.is_ok(), "refused, and nothing was done");
    let fresh = broker.invite("all", 10).await;
    let new = join(&fresh, &anew, &key(2)).await;
    assert_eq!(member(&broker.admin, "staging").await.unwrap().spec.cluster_uid, "made-anew");
    assert!(namespaces.get_opt("daisy-cluster-staging").await.unwrap().is_some());
    assert!(broker.member(&new).list_api_groups().await.is_ok());
    assert_eq!(code(broker.member(&old).list_api_groups().await), 401, "the former cluster's token is good for nothing");
    broker.stop().await;
}

#[tokio::test]
async fn invitations_end() {
    let data = tempfile::tempdir().unwrap();
    let broker = Broker::start(data.path()).await;
    let single = broker.invite("all", 1).await;
    join(&single, &cluster("one", 1), &key(1)).await;
    let (reason, message) = refused(&single, &cluster("two", 2), &key(2)).await;
    assert_eq!(reason, "InvitationUsedUp", "{message}");
    join(&single, &cluster("one", 1), &key(1)).await;

    let short = Invite { ttl: Duration::from_secs(1), name: Some("short".into()), ..Invite::default() };
    let short = setup::create_invitation(&broker.admin, broker.address(), &short).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let text = short.to_text().unwrap();
    assert!(BrokerInfo::parse("f", &text, jiff::Timestamp::now()).is_err());
    assert_eq!(refused(&short, &cluster("two", 2), &key(2)).await.0, "InvitationExpired");
    let again = Invite { name: Some("short".into()), ..Invite::default() };
    let taken = setup::create_invitation(&broker.admin, broker.address(), &again).await;
    assert!(matches!(taken, Err(SetupError::InvitationExists { .. })), "{taken:?}");

    let revoked = broker.invite("all", 1).await;
    setup::revoke_invitation(&broker.admin, &revoked.invitation.name).await.unwrap();
    let error = ask(&revoked, &cluster("two", 2), &key(2)).await.unwrap_err();
    assert!(matches!(error, EnrolError::Invitation { .. }), "{error}");
    broker.stop().await;
}

#[tokio::test]
async fn only_the_pinned_broker_is_talked_to() {
    let (data, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let broker = Broker::start(data.path()).await;
    let other = Broker::start(elsewhere.path()).await;
    let info = broker.invite("all", 10).await;
    let with = |server: &str, ca: &str| {
        let token = InvitationToken { ..info.invitation.clone() };
        BrokerInfo::new(server.to_owned(), ca.to_owned(), info.broker_id.clone(), token)
    };
    let error = ask(&with(&other.address().server, &info.ca), &cluster("a", 1), &key(1)).await.unwrap_err();
    assert!(matches!(error, EnrolError::OtherBroker { .. }), "{error}");
    assert!(!error.to_string().contains(&info.invitation.token));
    let error = ask(&with(&info.server, "no certificate"), &cluster("a", 1), &key(1)).await.unwrap_err();
    assert!(matches!(error, EnrolError::Ca), "{error}");
    let error = ask(&with("http://127.0.0.1", &info.ca), &cluster("a", 1), &key(1)).await.unwrap_err();
    assert!(matches!(error, EnrolError::Server { .. }), "{error}");
    // A file of one broker at the other's address and with the other's certificate: the token is not the other's.
    let error = ask(&with(&other.address().server, &other.address().ca), &cluster("a", 1), &key(1)).await.unwrap_err();
    assert!(matches!(error, EnrolError::Invitation { .. }), "{error}");
    // A file that names another broker's ID with this one's token: the request is signed for that, and refused by this.
    let wrong = BrokerInfo::new(info.server.clone(), info.ca.clone(), "another".into(), info.invitation.clone());
    assert_eq!(refused(&wrong, &cluster("a", 1), &key(1)).await.0, "BadSignature");
    let away = other.address().server.clone();
    other.stop().await;
    let error = ask(&with(&away, &info.ca), &cluster("a", 1), &key(1)).await.unwrap_err();
    assert!(matches!(error, EnrolError::Unreachable { .. }), "{error}");
    broker.stop().await;
}

#[tokio::test]
async fn who_leaves_or_is_evicted_leaves_nothing() {
    let data = tempfile::tempdir().unwrap();
    let broker = Broker::start(data.path()).await;
    let info = broker.invite("all", 10).await;
    let credential = join(&info, &cluster("local", 1), &key(1)).await;
    let client = broker.member(&credential);
    let joined = member(&client, "local").await.unwrap();
    let clusters: Api<Cluster> = Api::namespaced(client.clone(), "daisy-cluster-local");
    clusters.create(&PostParams::default(), &record("local", &joined, true)).await.unwrap();
    gone(&broker.admin, "local").await;
    assert_eq!(code(client.list_api_groups().await), 401);

    // It comes back, by the same invitation.
    let credential = join(&info, &cluster("local", 1), &key(1)).await;
    let client = broker.member(&credential);
    assert!(client.list_api_groups().await.is_ok());
    setup::evict(&broker.admin, &id("local")).await.unwrap();
    gone(&broker.admin, "local").await;
    assert_eq!(code(client.list_api_groups().await), 401);
    let events: Api<Event> = Api::namespaced(broker.admin.clone(), "daisy-broker");
    let told: Vec<_> =
        events.list(&ListParams::default()).await.unwrap().items.into_iter().filter_map(|one| one.reason).collect();
    assert_eq!(told.iter().filter(|reason| *reason == "Admitted").count(), 2, "{told:?}");
    assert!(told.contains(&"Left".to_owned()), "{told:?}");
    let error = setup::evict(&broker.admin, &id("local")).await.unwrap_err();
    assert!(matches!(&error, SetupError::NoMember { known, .. } if known == "none"), "{error}");
    broker.stop().await;
}

#[tokio::test]
async fn a_broker_that_comes_back_serves_what_it_served() {
    let data = tempfile::tempdir().unwrap();
    let broker = Broker::start(data.path()).await;
    let info = broker.invite("shop", 10).await;
    let credential = join(&info, &cluster("staging", 1), &key(1)).await;
    setup::grant(&broker.admin, &id("staging"), &"shop,web".parse::<Grant>().unwrap()).await.unwrap();
    let before = broker.ready.broker_id.clone();
    broker.stop().await;

    let broker = Broker::start(data.path()).await;
    assert_eq!(broker.ready.broker_id, before);
    let client = broker.member(&credential);
    let joined = member(&client, "staging").await.unwrap();
    assert_eq!(joined.spec.grant.to_string(), "shop,web");
    let moved = |info: &BrokerInfo| {
        BrokerInfo::new(broker.address().server.clone(), info.ca.clone(), info.broker_id.clone(), info.invitation.clone())
    };
    // The registrar works, and an administrator's grant outlives a rejoin.
    join(&moved(&info), &cluster("staging", 1), &key(1)).await;
    assert_eq!(member(&client, "staging").await.unwrap().spec.grant.to_string(), "shop,web");
    let address = broker.address().clone();
    broker.stop().await;

    // The database is lost, the keys are not: the same certificate, another broker.
    std::fs::remove_dir_all(data.path().join("db")).unwrap();
    let broker = Broker::start(data.path()).await;
    assert_eq!(broker.address().ca, address.ca);
    assert_ne!(broker.ready.broker_id, before);
    assert_eq!(code(broker.member(&credential).list_api_groups().await), 401);
    let info =
        BrokerInfo::new(broker.address().server.clone(), info.ca.clone(), info.broker_id.clone(), info.invitation.clone());
    let error = ask(&info, &cluster("staging", 1), &key(1)).await.unwrap_err();
    assert!(matches!(error, EnrolError::Invitation { .. }), "{error}");
    broker.stop().await;
}

#[tokio::test]
async fn what_is_in_use_is_named() {
    use daisy_broker::server::{BrokerOptions, run};
    let (data, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let broker = Broker::start(data.path()).await;
    let start = async |data: &std::path::Path, listen: std::net::SocketAddr| {
        let options = BrokerOptions { data_dir: data.to_owned(), listen: vec![listen], ..BrokerOptions::default() };
        let (ready, _) = tokio::sync::oneshot::channel();
        format!("{:#}", run(options, ready, std::future::pending()).await.unwrap_err())
    };
    let taken = broker.ready.listening[0];
    let error = start(elsewhere.path(), taken).await;
    assert!(error.contains(&taken.to_string()) && error.contains("port"), "{error}");
    let error = start(data.path(), "127.0.0.1:0".parse().unwrap()).await;
    assert!(error.contains("in use by another process"), "{error}");
    broker.stop().await;
}

#[tokio::test]
async fn the_kubeconfig_is_the_administrators_alone() {
    use std::os::unix::fs::PermissionsExt;
    let data = tempfile::tempdir().unwrap();
    let broker = Broker::start(data.path()).await;
    let mode = std::fs::metadata(&broker.ready.kubeconfig).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(setup::broker_id(&broker.admin).await.unwrap(), broker.ready.broker_id);
    // Everything that is made on a Kubernetes cluster can be made here once more, and changes nothing.
    assert_eq!(setup::install(&broker.admin).await.unwrap(), broker.ready.broker_id);
    broker.stop().await;
}

/// A broker's record of a cluster, in another version's words.
async fn says_version(broker: &Broker, client: &Client, name: &str, version: &str) {
    let clusters: Api<Cluster> = Api::namespaced(client.clone(), &id(name).broker_namespace());
    let mut record = record(name, &member(&broker.admin, name).await.unwrap(), false);
    record.spec.version = version.to_owned();
    clusters.create(&PostParams::default(), &record).await.unwrap();
}

#[tokio::test]
async fn a_broker_that_would_not_serve_its_members_does_not_start() {
    let data = tempfile::tempdir().unwrap();
    let broker = Broker::start(data.path()).await;
    let info = broker.invite("all", 10).await;
    for (n, (name, version)) in [("a", "99.0.0"), ("b", env!("CARGO_PKG_VERSION"))].into_iter().enumerate() {
        let n = u8::try_from(n).unwrap() + 1;
        let credential = join(&info, &cluster(name, n), &key(n)).await;
        says_version(&broker, &broker.member(&credential), name, version).await;
    }
    let said = setup::serves_members(&broker.admin, Version::own()).await.unwrap_err().to_string();
    assert!(said.contains("Cluster a: it runs Daisy 99.0.0") && !said.contains("Cluster b"), "{said}");
    setup::serves_members(&broker.admin, Version::new(99, 0, 1)).await.unwrap_err();
    broker.stop().await;

    let options = BrokerOptions {
        data_dir: data.path().to_owned(),
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        ..BrokerOptions::default()
    };
    let error = server::run(options, oneshot::channel().0, std::future::pending()).await.unwrap_err();
    let said = format!("{error:#}");
    assert!(said.contains("nothing was changed") && said.contains("99.0.0"), "{said}");
}

#[tokio::test]
async fn a_member_reads_its_brokers_version() {
    let data = tempfile::tempdir().unwrap();
    let broker = Broker::start(data.path()).await;
    // As a broker that was made by a version which did not say its own, and that its administrator has labelled.
    let namespaces: Api<Namespace> = Api::all(broker.admin.clone());
    let labels = serde_json::json!({ "metadata": { "labels": { APP_VERSION: null, "team": "platform" } } });
    namespaces.patch("daisy-broker", &PatchParams::default(), &Patch::Merge(&labels)).await.unwrap();
    assert_eq!(setup::version(&broker.admin).await.unwrap(), None);
    broker.stop().await;

    let broker = Broker::start(data.path()).await;
    let info = broker.invite("all", 10).await;
    let client = broker.member(&join(&info, &cluster("local", 1), &key(1)).await);
    assert_eq!(setup::version(&client).await.unwrap(), Some(Version::own()));
    // That namespace and no other, and nobody's list.
    let own: Api<Namespace> = Api::all(client.clone());
    assert_eq!(own.get("daisy-broker").await.unwrap().labels()["team"], "platform");
    assert_eq!(code(own.get("daisy-cluster-local").await), 403);
    assert_eq!(code(own.list(&ListParams::default()).await), 403);
    broker.stop().await;
}
