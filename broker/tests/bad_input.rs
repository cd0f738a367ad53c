//! What whoever joins, and whoever has joined, is told about a broker that cannot be worked with.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Broker, Here, ask, cluster, join, key};
use daisy_api::broker_info::BrokerInfo;
use daisy_broker::enrol::EnrolError;
use daisy_broker::setup;
use daisy_broker::syncer::{self, SyncerOptions};
use k8s_openapi::api::core::v1::Event;
use kube::api::ListParams;
use kube::{Api, Client};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// PEM, and no certificate in it.
const HALF: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";

/// A server behind a certificate of an authority of its own, valid between these years.
async fn server_of(years: (i32, i32)) -> (String, String) {
    let authority_key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = authority.self_signed(&authority_key).unwrap().pem();
    let own_key = KeyPair::generate().unwrap();
    let mut own = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    own.not_before = date_time_ymd(years.0, 1, 1);
    own.not_after = date_time_ymd(years.1, 1, 1);
    let certificate = own.signed_by(&own_key, &Issuer::new(authority, authority_key)).unwrap();
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(own_key.serialize_der()));
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            // No client goes on after this certificate.
            tokio::spawn(async move { drop(acceptor.accept(stream).await) });
        }
    });
    (url, ca)
}

#[tokio::test]
async fn a_certificate_that_is_not_valid_now_is_a_question_of_clocks() {
    let data = tempfile::tempdir().unwrap();
    let broker = Broker::start(data.path()).await;
    let info = broker.invite("all", 10).await;
    for years in [(2001, 2002), (2090, 2091)] {
        let (url, ca) = server_of(years).await;
        let file = BrokerInfo::new(url.clone(), ca, info.broker_id.clone(), info.invitation.clone());
        let error = ask(&file, &cluster("a", 1), &key(1)).await.unwrap_err();
        assert!(matches!(error, EnrolError::Clock { .. }), "{years:?}: {error:?}");
        let text = error.to_string();
        assert!(text.contains(&url) && text.contains("is this machine's clock right?"), "{text}");
    }
    assert!(setup::members(&broker.admin).await.unwrap().is_empty());
    broker.stop().await;
}

/// A cluster whose syncer has this in its Secret; what its first warning says.
async fn first_warning(secret: Value) -> (String, String) {
    let data = tempfile::tempdir().unwrap();
    let here = Here::start(data.path(), daisy_api::crds::member()).await;
    let mut object =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "daisy-broker-access", "namespace": "daisy-system"}});
    object["stringData"] = secret;
    here.apply(object).await;
    let syncing = tokio::spawn(syncer::run(here.client.clone(), SyncerOptions::default(), std::future::pending::<()>()));
    let said = warning(&here.client).await;
    syncing.abort();
    said
}

async fn warning(client: &Client) -> (String, String) {
    let events: Api<Event> = Api::namespaced(client.clone(), "daisy-system");
    let began = Instant::now();
    loop {
        if let Some(event) = events.list(&ListParams::default()).await.unwrap().items.into_iter().next() {
            return (event.reason.unwrap_or_default(), event.message.unwrap_or_default());
        }
        assert!(began.elapsed() < Duration::from_secs(20), "nothing is said");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_syncer_says_why_there_is_no_broker() {
    let (data, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let broker = Broker::start(data.path()).await;
    let other = Broker::start(elsewhere.path()).await;
    let info = broker.invite("all", 10).await;
    let credential = join(&info, &cluster("local", 1), &key(1)).await;
    let secret = |server: &str, ca: &str, token: &str| json!({"server": server, "ca": ca, "token": token, "brokerId": info.broker_id, "clusterId": "local"});
    let (expired, expired_ca) = server_of((2001, 2002)).await;
    let away = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        format!("https://{}", listener.local_addr().unwrap())
    };
    for (what, secret, reason, words) in [
        (
            "another certificate",
            secret(&other.address().server, &info.ca, &credential.token),
            "CertificateNotTrusted",
            ["broker-info.daisy pins", "daisy join"],
        ),
        ("a clock", secret(&expired, &expired_ca, &credential.token), "CertificateNotValidNow", ["clocks", "certificate"]),
        (
            "nobody there",
            secret(&away, &info.ca, &credential.token),
            "Unreachable",
            ["refused", "may this cluster's pods connect"],
        ),
        ("another broker's token", secret(&info.server, &info.ca, "nonsense"), "Unauthorized", ["invitation", "daisy join"]),
        ("half a certificate", secret(&info.server, HALF, &credential.token), "NoCredential", ["ca: ", "daisy join"]),
        ("no certificate", secret(&info.server, "nonsense", &credential.token), "NoCredential", ["ca: ", "daisy join"]),
        ("no address", secret("http://10.0.0.1", &info.ca, &credential.token), "NoCredential", ["https://", "daisy join"]),
    ] {
        let (said, message) = first_warning(secret).await;
        assert_eq!(said, reason, "{what}: {message}");
        assert!(words.iter().all(|word| message.contains(word)), "{what}: {message}");
        assert!(!message.contains(&credential.token), "the token is a secret");
        println!("{what}: {said}: {message}");
    }
    other.stop().await;
    broker.stop().await;
}
