//! The machine's own resolver, through the search list of a pod, a cluster DNS that follows what `daisy join` writes into its
//! Corefile, and Daisy's server behind it: the names' half of the published pattern.
//!
//! Runs in a network and a mount namespace of its own, where port 53 is free and `/etc/resolv.conf` is the test's.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Running, SOURCES, index, sync};
use daisy_api::{ClusterIps, NamespaceName, ServiceKey};
use daisy_dns::core::corefile::{self, Corefile, Route};
use daisy_dns::core::{
    Answer, DomainName, Fact, Index, ObjectRef, Question, Rcode, Service, ServiceKind, Settings, Source, answer,
};
use daisy_dns::{Current, Reply, Respond};
use nix::mount::{MsFlags, mount};

const TEST: &str = "the_machines_resolver_falls_back";
/// Says that this process is within the namespaces.
const INSIDE: &str = "DAISY_DNS_TEST_INSIDE";
const DAISY: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
const KUBEADM: &str =
    ".:53 {\n    errors\n    kubernetes cluster.local in-addr.arpa ip6.arpa\n    forward . /etc/resolv.conf\n}\n";
const RESOLV_CONF: &str = "\
search default.svc.cluster.local svc.cluster.local cluster.local supercluster.local
nameserver 127.0.0.1
options ndots:5
";

#[test]
fn the_machines_resolver_falls_back() {
    if std::env::var_os(INSIDE).is_some() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(inside());
        return;
    }
    let user: &[&str] = if nix::unistd::geteuid().is_root() { &[] } else { &["--user", "--map-root-user"] };
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args(user).args(["--net", "--mount"]);
        command
    };
    let possible = unshare().arg("true").output().is_ok_and(|output| output.status.success());
    if !possible {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{TEST} needs `unshare` and the right to make namespaces");
        println!("{TEST}: skipped, no namespaces can be made here");
        return;
    }
    let this = std::env::current_exe().unwrap();
    let output = unshare().arg(this).args(["--exact", TEST, "--nocapture"]).env(INSIDE, "1").output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}");
    println!("{text}");
}

/// The cluster's DNS: its own zone, and what its Corefile forwards.
struct ClusterDns {
    current: Current,
    domain: DomainName,
    stubs: Vec<(DomainName, Reply)>,
}

impl ClusterDns {
    fn new(text: &str, current: Current) -> Self {
        let rules = corefile::rules(&Corefile::parse(text).unwrap());
        let stubs = rules.into_iter().map(|rule| {
            let reply = match rule.route {
                Route::Forward(to) => Reply::Forward(Arc::from(to)),
                Route::NxDomain => Reply::Answer(Answer::bare(Rcode::NxDomain)),
            };
            (DomainName::parse(&rule.zone).unwrap(), reply)
        });
        Self { current, domain: DomainName::parse("cluster.local").unwrap(), stubs: stubs.collect() }
    }
}

impl Respond for ClusterDns {
    fn respond(&self, question: &Question<'_>) -> Reply {
        if question.name.under(&self.domain).is_some() {
            return Reply::Answer(answer(&self.current.load(), question));
        }
        let stub = self.stubs.iter().filter_map(|(zone, reply)| Some((question.name.under(zone)?, reply)));
        match stub.min_by_key(|(before, _)| *before) {
            Some((_, reply)) => reply.clone(),
            None => Reply::Answer(Answer::bare(Rcode::NxDomain)),
        }
    }
}

async fn inside() {
    let (connection, netlink, _) = rtnetlink::new_connection().unwrap();
    let connection = tokio::spawn(connection);
    netlink.link().set(rtnetlink::LinkUnspec::new_with_index(1).up().build()).execute().await.unwrap();
    let files = tempfile::tempdir().unwrap();
    cover(&files.path().join("resolv.conf"), RESOLV_CONF, Path::new("/etc/resolv.conf"));
    cover(&files.path().join("nsswitch.conf"), "hosts: files dns\n", Path::new("/etc/nsswitch.conf"));
    // A cache of the machine's must not answer in our place.
    if Path::new("/run/nscd").exists() {
        mount(Some("tmpfs"), "/run/nscd", Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    }

    let mut daisy_index = index(3);
    let daisy = Running::start(&daisy_index, &SocketAddr::new(DAISY, 53).to_string());
    let text = corefile::insert(KUBEADM, &[DAISY]).unwrap();
    let mut cluster = Index::new(Settings::cluster(DomainName::parse("cluster.local").unwrap(), 5, 5), 1, SOURCES);
    apply(&mut cluster, "default", "kubernetes", "10.96.0.1");
    for source in SOURCES {
        cluster.handle_list(source);
        cluster.handle_unreadable(source, &ObjectRef::new("default", "kubernetes"));
        cluster.handle_listed(source);
    }
    let current = Current::new(cluster.snapshot().clone());
    let front = Running::start_with(ClusterDns::new(&text, current.clone()), current.clone(), "127.0.0.1:53");

    // Daisy's server has not read the cluster yet. What cannot be ours is settled all the same, and what is the cluster's is.
    assert_eq!(getent("kubernetes.default.svc").await, Ok("10.96.0.1 kubernetes.default.svc.cluster.local".into()));
    assert_eq!(getent("api.github.com").await, Err(2));
    sync(&mut daisy_index);
    daisy.current.publish(daisy_index.snapshot().clone());

    // Only remote, then here too, then only remote again.
    let remote = Ok("100.96.0.1 nginx.nginx.svc.supercluster.local".to_owned());
    assert_eq!(getent("nginx.nginx.svc").await, remote);
    apply(&mut cluster, "nginx", "nginx", "10.96.0.77");
    current.publish(cluster.snapshot().clone());
    assert_eq!(getent("nginx.nginx.svc").await, Ok("10.96.0.77 nginx.nginx.svc.cluster.local".into()));
    cluster.handle_delete(Source::Services, &ObjectRef::new("nginx", "nginx"));
    current.publish(cluster.snapshot().clone());
    assert_eq!(getent("nginx.nginx.svc").await, remote);
    // Not exported: no name. A StatefulSet's pod of another cluster: a name.
    assert_eq!(getent("secret.nginx.svc").await, Err(2));
    assert_eq!(getent("db-1.db.shop.svc").await, Ok("10.1.0.1 db-1.db.shop.svc.supercluster.local".into()));
    daisy_index.handle_delete(Source::Services, &ObjectRef::new("x", "i-nginx"));
    daisy.current.publish(daisy_index.snapshot().clone());
    assert_eq!(getent("nginx.nginx.svc").await, Err(2));

    // Without Daisy's server, everything that is not its is as before, and as fast.
    daisy.stop().await;
    let start = Instant::now();
    assert_eq!(getent("kubernetes.default.svc").await, Ok("10.96.0.1 kubernetes.default.svc.cluster.local".into()));
    assert_eq!(getent("api.github.com").await, Err(2));
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    front.stop().await;
    connection.abort();
}

/// Puts a file of this text in the place of another, where there is one.
fn cover(file: &Path, text: &str, target: &Path) {
    std::fs::write(file, text).unwrap();
    if target.exists() {
        mount(Some(file), target, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    }
}

fn apply(index: &mut Index, namespace: &str, name: &str, ip: &str) {
    let service =
        Service { kind: ServiceKind::Addresses(vec![ip.parse().unwrap()]), ports: Vec::new(), clusters: ClusterIps::new() };
    let fact = Fact::Local(ServiceKey::parse(namespace, name).unwrap(), service);
    index.handle_apply(Source::Services, ObjectRef::new(namespace, name), Some(fact));
    let name = NamespaceName::new(namespace).unwrap();
    index.handle_apply(Source::Namespaces, ObjectRef::new("", namespace), Some(Fact::Namespace(name)));
}

/// What `getent hosts` finds: address and name; or its exit code.
async fn getent(name: &str) -> Result<String, i32> {
    let output = tokio::process::Command::new("getent").args(["hosts", name]).output().await.unwrap();
    if !output.status.success() {
        return Err(output.status.code().unwrap());
    }
    let text = String::from_utf8(output.stdout).unwrap();
    Ok(text.split_whitespace().take(2).collect::<Vec<_>>().join(" "))
}
