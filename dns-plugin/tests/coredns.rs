//! The real CoreDNS, with the block that `daisy join` writes, in front of the server.
//!
//! CoreDNS is in no package repository: the test looks for `coredns` in the `PATH`, or where `DAISY_COREDNS` says, and goes
//! without it otherwise.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::{Running, dig, has, index, sync};
use daisy_dns::Sockets;
use daisy_dns::core::corefile;
use tokio::process::Command;

const TEST: &str = "coredns_takes_our_block";
const OWN: &str = ".:53 {\n    errors\n    template ANY ANY {\n        rcode REFUSED\n    }\n}\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn coredns_takes_our_block() {
    let program = std::env::var("DAISY_COREDNS").unwrap_or_else(|_| "coredns".into());
    if std::process::Command::new(&program).arg("-version").output().is_err() {
        println!("{TEST}: skipped, there is no {program} on this machine");
        return;
    }
    if !has("dig", TEST) {
        return;
    }
    let mut index = index(300);
    sync(&mut index);
    let daisy = Running::start(&index, "127.0.0.1:0");
    let (address, current) = (daisy.address, daisy.current.clone());
    let front: SocketAddr = Sockets::bind(&["127.0.0.1:0".parse().unwrap()]).unwrap().addresses()[0];
    let text = corefile::insert(OWN, &[address.ip()]).unwrap();
    // The block as it is, but for the ports, which are root's.
    let text =
        text.replace(":53", &format!(":{}", front.port())).replace("forward . 127.0.0.1", &format!("forward . {address}"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("Corefile");
    std::fs::write(&file, text).unwrap();
    let mut coredns = Command::new(&program);
    let mut coredns = coredns.arg("-conf").arg(&file).stdout(Stdio::null()).kill_on_drop(true).spawn().unwrap();
    let started = Instant::now();
    while tokio::net::TcpStream::connect(front).await.is_err() {
        assert!(started.elapsed() < Duration::from_secs(20) && coredns.try_wait().unwrap().is_none(), "CoreDNS does not start");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    let ask = async |arguments: &str, expected: &[&str]| {
        let text = dig(front, arguments).await;
        for line in expected {
            let found = text.lines().any(|l| l.split_whitespace().collect::<Vec<_>>().join(" ").contains(line));
            assert!(found, "dig {arguments}: no {line:?} in {text}");
        }
        text
    };
    ask("nginx.nginx.svc.supercluster.local A", &["status: NOERROR", "5 IN A 100.96.0.1"]).await;
    ask("nginx.nginx.svc.supercluster.local AAAA", &["status: NOERROR", "ANSWER: 0, AUTHORITY: 1", "1 IN SOA"]).await;
    ask("gone.nginx.svc.supercluster.local A", &["status: NXDOMAIN", "supercluster.local. 1 IN SOA"]).await;
    ask("dns-version.clusterset.local TXT", &["TXT \"1.0.0\""]).await;
    let whole = ask("db.shop.svc.clusterset.local A", &["Truncated, retrying in TCP mode", "ANSWER: 300"]).await;
    assert!(whole.contains("(TCP)"));
    let never = ["status: NXDOMAIN", "supercluster.local. 60 IN SOA ns.dns.supercluster.local."];
    ask("api.github.com.supercluster.local A", &never).await;
    ask("nginx.nginx.clusterset.local AAAA", &["status: NXDOMAIN", "clusterset.local. 60 IN SOA"]).await;
    ask("example.com A", &["status: REFUSED"]).await;

    // Daisy's server ends: what was never its to answer is answered as before, and as fast.
    daisy.stop().await;
    let start = Instant::now();
    ask("api.github.com.supercluster.local A", &never).await;
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    ask("nginx.nginx.svc.supercluster.local A +time=8", &["status: SERVFAIL"]).await;
    // It is back: CoreDNS's health question finds it.
    let daisy = Running::start_with(current.clone(), current, &address.to_string());
    let start = Instant::now();
    while !dig(front, "nginx.nginx.svc.supercluster.local A +time=8").await.contains("100.96.0.1") {
        assert!(start.elapsed() < Duration::from_secs(10), "CoreDNS does not come back");
    }
    println!("{TEST}: back after {:?}", start.elapsed());
    coredns.kill().await.unwrap();
    daisy.stop().await;
}
