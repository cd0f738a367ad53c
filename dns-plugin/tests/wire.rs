//! The server on real sockets, asked by programs that nobody here wrote: `dig`, and hickory's resolver.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use common::{Running, dig, has, index, sync};
use daisy_dns::core::{Answer, ObjectRef, Question, Rcode, Source};
use daisy_dns::{BindError, Current, Reply, Respond, Sockets};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;

fn resolver(server: SocketAddr) -> TokioResolver {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = server.port();
        connection
    });
    let server = NameServerConfig::new(server.ip(), true, connections.to_vec());
    let search = vec!["supercluster.local.".parse().unwrap()];
    let config = ResolverConfig::from_parts(None, search, vec![server]);
    let mut options = ResolverOpts::default();
    options.ndots = 5;
    options.attempts = 1;
    options.edns0 = true;
    options.timeout = Duration::from_secs(3);
    TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).with_options(options).build().unwrap()
}

fn synced(endpoints: u16) -> daisy_dns::core::Index {
    let mut index = index(endpoints);
    sync(&mut index);
    index
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dig_sees_proper_answers() {
    if !has("dig", "dig_sees_proper_answers") {
        return;
    }
    for listen in ["127.0.0.1:0", "[::1]:0"] {
        let server = Running::start(&synced(2), listen);
        let ask = async |arguments: &str, expected: &[&str]| {
            let text = dig(server.address, arguments).await;
            for line in expected {
                let found = text.lines().any(|l| l.split_whitespace().collect::<Vec<_>>().join(" ").contains(line));
                assert!(found, "dig {arguments}: no {line:?} in {text}");
            }
        };
        ask(
            "NginX.nginx.svc.supercluster.local A",
            &[
                "status: NOERROR",
                "flags: qr aa rd;",
                "ANSWER: 1, AUTHORITY: 0, ADDITIONAL: 1",
                "EDNS: version: 0, flags:; udp: 1232",
                "NginX.nginx.svc.supercluster.local. 5 IN A 100.96.0.1",
            ],
        )
        .await;
        ask("web.shop.svc.supercluster.local AAAA +noedns", &["ADDITIONAL: 0", "5 IN AAAA fd00::10"]).await;
        ask("nginx.nginx.svc.supercluster.local AAAA", &[
            "status: NOERROR",
            "ANSWER: 0, AUTHORITY: 1",
            "supercluster.local. 1 IN SOA daisy-dns.daisy-system.svc.supercluster.local. hostmaster.supercluster.local. 50 7200 1800 86400 1",
        ])
        .await;
        ask("gone.nginx.svc.clusterset.local A", &["status: NXDOMAIN", "clusterset.local. 1 IN SOA"]).await;
        ask(
            "_http._tcp.db.shop.svc.clusterset.local SRV",
            &[
                "ANSWER: 2, AUTHORITY: 0, ADDITIONAL: 3",
                "5 IN SRV 0 100 8080 db-1.staging.db.shop.svc.clusterset.local.",
                "db-1.staging.db.shop.svc.clusterset.local. 5 IN A 10.1.0.1",
            ],
        )
        .await;
        ask("dns-version.clusterset.local TXT", &["5 IN TXT \"1.0.0\""]).await;
        ask("clusterset.local NS", &["5 IN NS daisy-dns.daisy-system.svc.supercluster.local."]).await;
        ask("nginx.nginx.svc.supercluster.local ANY", &["ANSWER: 1", "IN A 100.96.0.1"]).await;
        ask("nginx.nginx.svc.supercluster.local MX", &["status: NOERROR", "ANSWER: 0, AUTHORITY: 1"]).await;
        ask("nginx.nginx.svc.supercluster.local TYPE65", &["status: NOERROR", "ANSWER: 0, AUTHORITY: 1"]).await;
        ask(". NS", &["status: NOERROR", "ANSWER: 0"]).await;
        ask("example.com A", &["status: REFUSED"]).await;
        ask("version.bind CH TXT", &["status: REFUSED"]).await;
        ask("supercluster.local SOA +opcode=notify", &["status: NOTIMP"]).await;
        ask("nginx.nginx.svc.supercluster.local A +edns=1 +noednsneg", &["status: BADVERS", "EDNS: version: 0"]).await;
        ask("nginx.nginx.svc.supercluster.local A +dnssec", &["flags: do;", "IN A 100.96.0.1"]).await;
        ask("nginx.nginx.svc.supercluster.local A +tcp", &["(TCP)", "IN A 100.96.0.1"]).await;
        ask("supercluster.local AXFR +tcp", &["; Transfer failed."]).await;
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_is_cut_and_had_whole_by_tcp() {
    if !has("dig", "what_does_not_fit_is_cut_and_had_whole_by_tcp") {
        return;
    }
    let server = Running::start(&synced(300), "127.0.0.1:0");
    let answers = |text: &str| text.lines().filter(|l| l.contains("\tIN\tA\t")).count();
    let size = |text: &str| {
        let size = text.lines().find_map(|l| l.strip_prefix(";; MSG SIZE  rcvd: "));
        size.unwrap().parse::<usize>().unwrap()
    };
    for (options, limit) in [("+noedns", 512), ("+bufsize=512", 512), ("+bufsize=800", 800), ("+bufsize=4096", 1232)] {
        let text = dig(server.address, &format!("db.shop.svc.clusterset.local A +ignore {options}")).await;
        assert!(text.contains("flags: qr aa tc rd;"), "{options}: {text}");
        assert!(
            size(&text) <= limit && size(&text) + 64 > limit,
            "{options}: {} bytes, about as full as it can be",
            size(&text)
        );
        assert_eq!(text.contains("EDNS: version: 0"), options != "+noedns", "{text}");
        assert!(answers(&text) > 20);
        let whole = dig(server.address, &format!("db.shop.svc.clusterset.local A {options}")).await;
        assert!(whole.contains("Truncated, retrying in TCP mode") && answers(&whole) == 300, "{whole}");
    }
    // The SRV records fit with TCP only; the addresses that go with them are left out first, without a word.
    let text = dig(server.address, "_http._tcp.db.shop.svc.clusterset.local SRV +tcp").await;
    assert!(text.contains("ANSWER: 300, AUTHORITY: 0, ADDITIONAL: 301"), "{text}");
    server.stop().await;
    // What not even TCP can hold is cut there, and says so; its OPT record stays.
    let server = Running::start(&synced(5000), "127.0.0.1:0");
    let text = dig(server.address, "db.shop.svc.clusterset.local A +tcp").await;
    assert!(
        text.contains("flags: qr aa tc rd;") && text.contains("EDNS: version: 0") && answers(&text) > 1000,
        "{}",
        &text[..900]
    );
    server.stop().await;
    let server = Running::start(&synced(9), "127.0.0.1:0");
    let text = dig(server.address, "_http._tcp.db.shop.svc.clusterset.local SRV +bufsize=900").await;
    assert!(text.contains("flags: qr aa rd;") && text.contains("ANSWER: 9,") && !text.contains("TCP mode"), "{text}");
    assert!(size(&text) <= 900, "{text}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hickorys_resolver_goes_through_its_search_list() {
    let server = Running::start(&synced(300), "127.0.0.1:0");
    let resolver = resolver(server.address);
    let found: Vec<IpAddr> = resolver.lookup_ip("nginx.nginx.svc").await.unwrap().iter().collect();
    assert_eq!(found, [IpAddr::from([100, 96, 0, 1])]);
    // Longer than any datagram: by TCP.
    let all: BTreeSet<IpAddr> = resolver.lookup_ip("db.shop.svc.clusterset.local.").await.unwrap().iter().collect();
    assert_eq!(all.len(), 300);
    let srv = resolver.srv_lookup("_http._tcp.web.shop.svc.supercluster.local.").await.unwrap();
    assert_eq!(srv.answers().len(), 1);
    let error = resolver.lookup_ip("gone.shop.svc.supercluster.local.").await.unwrap_err();
    assert!(error.is_nx_domain(), "{error}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_seen_by_the_next_question() {
    let mut index = index(1);
    let server = Running::start(&index, "127.0.0.1:0");
    assert_eq!(rcode(&ask_raw(server.address, &query("web.shop.svc.supercluster.local", 1)).unwrap()), 2, "not read yet");
    assert_eq!(rcode(&ask_raw(server.address, &query("api.github.com.supercluster.local", 1)).unwrap()), 3, "never ours");
    sync(&mut index);
    server.current.publish(index.snapshot().clone());
    assert_eq!(rcode(&ask_raw(server.address, &query("web.shop.svc.supercluster.local", 1)).unwrap()), 0);
    index.handle_delete(Source::Services, &ObjectRef::new("x", "web"));
    server.current.publish(index.snapshot().clone());
    assert_eq!(rcode(&ask_raw(server.address, &query("web.shop.svc.supercluster.local", 1)).unwrap()), 3);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rubbish_is_answered_or_dropped_and_harms_nobody() {
    let server = Running::start(&synced(1), "127.0.0.1:0");
    let good = query("web.shop.svc.supercluster.local", 1);
    for length in 0..good.len() {
        let reply = ask_raw(server.address, &good[..length]);
        assert_eq!(reply.as_deref().map(rcode), (length >= 12).then_some(1), "the first {length} bytes: FORMERR");
    }
    let mut two = good.clone();
    two[5] = 2;
    two.extend_from_slice(&good[12..]);
    assert_eq!(ask_raw(server.address, &two).as_deref().map(rcode), Some(1), "two questions");
    let mut none = good[..12].to_vec();
    none[5] = 0;
    assert_eq!(ask_raw(server.address, &none).as_deref().map(rcode), Some(1), "no question");
    let mut response = good.clone();
    response[2] |= 0x80;
    assert_eq!(ask_raw(server.address, &response), None, "an answer is not answered");
    // Bytes that are names to the DNS and to nothing else.
    let mut binary = good.clone();
    binary[13] = 0xff;
    assert_eq!(ask_raw(server.address, &binary).as_deref().map(rcode), Some(3));
    // Every byte of a good query turned into every fourth other value.
    for at in 0..good.len() {
        for xor in (1..=255u8).step_by(4) {
            let mut bad = good.clone();
            bad[at] ^= xor;
            send_raw(server.address, &bad);
        }
    }
    let mut last = good;
    last[..2].copy_from_slice(&[0x43, 0x21]);
    // The burst may have filled the socket's buffer: a client asks again.
    let answer = (0..5).find_map(|_| ask_raw(server.address, &last));
    assert_eq!(answer.as_deref().map(rcode), Some(0));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_in_use_is_named() {
    let taken = Sockets::bind(&["127.0.0.1:0".parse().unwrap()]).unwrap();
    let address = taken.addresses()[0];
    let error = Sockets::bind(&[address]).unwrap_err();
    assert!(matches!(error, BindError::InUse { address: a, .. } if a == address));
    assert!(
        error.to_string().contains(&format!("port {} of 127.0.0.1 is in use by another program", address.port())),
        "{error}"
    );
    let only_udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let error = Sockets::bind(&[only_udp.local_addr().unwrap()]).unwrap_err();
    assert!(matches!(error, BindError::InUse { protocol: "UDP", .. }), "{error}");
    assert!(matches!(Sockets::bind(&["192.0.2.1:0".parse().unwrap()]), Err(BindError::NotHere { .. })));
    assert!(matches!(Sockets::bind(&[]), Err(BindError::None)));
    // A server that ended leaves the port to the next at once.
    drop(taken);
    Sockets::bind(&[address]).unwrap();
}

/// Forwards one zone and answers the rest, as the lab's cluster DNS does.
struct Stub {
    current: Current,
    to: Arc<[SocketAddr]>,
}

impl Respond for Stub {
    fn respond(&self, question: &Question<'_>) -> Reply {
        let ours = daisy_dns::core::DomainName::parse("local").unwrap();
        match question.name.under(&ours) {
            Some(_) => Reply::Forward(Arc::clone(&self.to)),
            None => Reply::Answer(Answer::bare(Rcode::NxDomain)),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forwards_and_says_so_when_it_cannot() {
    let server = Running::start(&synced(300), "127.0.0.1:0");
    let stub = |to: Vec<SocketAddr>| {
        let stub = Stub { current: server.current.clone(), to: Arc::from(to) };
        let current = stub.current.clone();
        Running::start_with(stub, current, "127.0.0.1:0")
    };
    let front = stub(vec![server.address]);
    let resolver = resolver(front.address);
    assert_eq!(resolver.lookup_ip("nginx.nginx.svc.supercluster.local.").await.unwrap().iter().count(), 1);
    assert_eq!(resolver.lookup_ip("db.shop.svc.clusterset.local.").await.unwrap().iter().count(), 300, "by TCP both ways");
    let reply = ask_raw(front.address, &query("gone.shop.svc.clusterset.local", 1)).unwrap();
    assert_eq!((rcode(&reply), reply[9]), (3, 1), "NXDOMAIN with its SOA");
    assert_eq!(rcode(&ask_raw(front.address, &query("example.com", 1)).unwrap()), 3);
    front.stop().await;

    // A closed port is heard of at once, and the next server asked.
    let closed = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let front = stub(vec![closed, server.address]);
    assert_eq!(rcode(&ask_raw(front.address, &query("nginx.nginx.svc.supercluster.local", 1)).unwrap()), 0);
    front.stop().await;

    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let front = stub(vec![silent.local_addr().unwrap()]);
    let start = std::time::Instant::now();
    assert_eq!(rcode(&ask_raw(front.address, &query("nginx.nginx.svc.supercluster.local", 1)).unwrap()), 2);
    let took = start.elapsed();
    assert!(took > Duration::from_millis(1900) && took < Duration::from_millis(2900), "{took:?}");
    front.stop().await;
    server.stop().await;
}

fn query(name: &str, kind: u16) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend(kind.to_be_bytes());
    bytes.extend(1u16.to_be_bytes());
    bytes
}

fn rcode(reply: &[u8]) -> u8 {
    reply[3] & 0xf
}

fn send_raw(server: SocketAddr, bytes: &[u8]) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.send_to(bytes, server).unwrap();
}

/// What comes back, from the server's own address; `None` where nothing does.
fn ask_raw(server: SocketAddr, bytes: &[u8]) -> Option<Vec<u8>> {
    let bytes = bytes.to_vec();
    // The server runs on the same runtime: the wait must not hold it up.
    let asking = std::thread::spawn(move || {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(server).unwrap();
        socket.send(&bytes).unwrap();
        // An answer that takes as long as a forward may take is still one; silence is told apart sooner.
        let patience = if bytes.len() < 12 || bytes[2] & 0x80 != 0 { 100 } else { 4000 };
        socket.set_read_timeout(Some(Duration::from_millis(patience))).unwrap();
        let mut buffer = [0; 4096];
        loop {
            let length = socket.recv(&mut buffer).ok()?;
            // A late answer to another test's question may find its port in use by this one.
            if bytes.len() < 2 || buffer[..2] == bytes[..2] {
                return Some(buffer[..length].to_vec());
            }
        }
    });
    tokio::task::block_in_place(|| asking.join().unwrap())
}
