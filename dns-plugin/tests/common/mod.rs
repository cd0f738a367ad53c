//! A server on loopback, and questions to it.

#![allow(dead_code, clippy::unwrap_used, missing_docs)]

use std::net::{IpAddr, SocketAddr};

use daisy_api::{ClusterId, ClusterIps, NamespaceName, Protocol, ServiceKey};
use daisy_dns::core::{Endpoint, Fact, Index, ObjectRef, Port, Service, ServiceKind, Settings, Slice, Source};
use daisy_dns::{Current, Metrics, Sockets, serve};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub(crate) const SOURCES: [Source; 4] = [Source::Services, Source::LocalSlices, Source::ImportSlices, Source::Namespaces];

pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) current: Current,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Running {
    pub(crate) fn start(index: &Index, listen: &str) -> Self {
        let current = Current::new(index.snapshot().clone());
        Self::start_with(current.clone(), current, listen)
    }

    pub(crate) fn start_with(responder: impl daisy_dns::Respond, current: Current, listen: &str) -> Self {
        let sockets = Sockets::bind(&[listen.parse().unwrap()]).unwrap();
        let address = sockets.addresses()[0];
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            serve(sockets, responder, &Metrics::default(), async { drop(stopped.await) }).await.unwrap();
        });
        Self { address, current, stop, task }
    }

    pub(crate) async fn stop(self) {
        self.stop.send(()).unwrap();
        self.task.await.unwrap();
    }
}

/// An index with one of each: `nginx/nginx` imported, `shop/web` local, `shop/db` a headless import with this many endpoints.
pub(crate) fn index(endpoints: u16) -> Index {
    let mut index = Index::new(Settings::daisy(5, 1), 41, SOURCES);
    let http = |number| vec![Port { name: "http".into(), protocol: Protocol::Tcp, number }];
    let ips = |ips: &[&str]| ServiceKind::Addresses(ips.iter().map(|ip| ip.parse().unwrap()).collect());
    let key = |ns: &str, name: &str| ServiceKey::parse(ns, name).unwrap();
    let mut apply = |source, name: &str, fact| index.handle_apply(source, ObjectRef::new("x", name), Some(fact));
    apply(Source::Namespaces, "shop", Fact::Namespace(NamespaceName::new("shop").unwrap()));
    let web = Service { kind: ips(&["10.96.0.10", "fd00::10"]), ports: http(80), clusters: ClusterIps::new() };
    apply(Source::Services, "web", Fact::Local(key("shop", "web"), web));
    let nginx = Service { kind: ips(&["100.96.0.1"]), ports: http(80), clusters: ClusterIps::new() };
    apply(Source::Services, "i-nginx", Fact::Import(key("nginx", "nginx"), nginx));
    let db = Service { kind: ServiceKind::Headless, ports: http(80), clusters: ClusterIps::new() };
    apply(Source::Services, "i-db", Fact::Import(key("shop", "db"), db));
    let endpoints = (0..endpoints).map(|n| {
        let [high, low] = n.to_be_bytes();
        Endpoint { address: IpAddr::from([10, 1, high, low]), hostname: Some(format!("db-{n}").into()) }
    });
    let slice = Slice { cluster: Some(ClusterId::new("staging").unwrap()), ports: http(8080), endpoints: endpoints.collect() };
    apply(Source::ImportSlices, "db-1", Fact::ImportSlice(key("shop", "db"), slice));
    index
}

/// Says that everything was listed as it is.
pub(crate) fn sync(index: &mut Index) {
    for (source, objects) in [
        (Source::Services, vec!["web", "i-nginx", "i-db"]),
        (Source::LocalSlices, vec![]),
        (Source::ImportSlices, vec!["db-1"]),
        (Source::Namespaces, vec!["shop"]),
    ] {
        index.handle_list(source);
        for object in objects {
            index.handle_unreadable(source, &ObjectRef::new("x", object));
        }
        index.handle_listed(source);
    }
}

/// The test goes without this program where there is none; in CI it must be there.
pub(crate) fn has(program: &str, test: &str) -> bool {
    let there = std::process::Command::new(program).arg("-v").output().is_ok();
    if !there {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{program} is needed by {test}");
        println!("{test}: skipped, there is no {program} on this machine");
    }
    there
}

/// What `dig` prints, without comments that say when and how fast.
pub(crate) async fn dig(server: SocketAddr, arguments: &str) -> String {
    let output = tokio::process::Command::new("dig")
        .args([&format!("@{}", server.ip()), "-p", &server.port().to_string(), "+tries=1", "+time=3"])
        .args(arguments.split_whitespace())
        .output()
        .await
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "dig {arguments}: {text}");
    text
}
