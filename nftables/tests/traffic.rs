//! What the rules do to packets: a client, a router and a server, each a network namespace.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

mod common;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use common::Namespace;
use daisy_nftables::{
    Batch, Chain, ChainType, Element, Hook, IpFamily, KeyType, Reject, Rule, Selector, Set, Socket, Spread, Table, Verdict,
    ct_state, priority, protocol,
};
use ipnetwork::IpNetwork;

const CLIENT: [&str; 2] = ["10.1.0.2", "fd01::2"];
const SERVER: [&str; 2] = ["10.2.0.2", "fd02::2"];
const ROUTER_INSIDE: [&str; 2] = ["10.2.0.1", "fd02::1"];
/// How long to wait for what must come. A network just made may lose its first packets: a neighbour that was not found is asked for
/// again after one second.
const PATIENCE: Duration = Duration::from_secs(5);

/// client — router — server; the server has no route back to the client's network unless `routed`.
struct Network {
    client: Namespace,
    router: Namespace,
    server: Namespace,
}

impl Network {
    fn new(test: &str, routed: bool) -> Option<Self> {
        let (client, router, server) = (Namespace::new(test)?, Namespace::new(test)?, Namespace::new(test)?);
        client.connect(("c0", &["10.1.0.2/24", "fd01::2/64"]), &router, ("r0", &["10.1.0.1/24", "fd01::1/64"]));
        server.connect(("s0", &["10.2.0.2/24", "fd02::2/64"]), &router, ("r1", &["10.2.0.1/24", "fd02::1/64"]));
        client.route(&[("0.0.0.0/0", "10.1.0.1"), ("::/0", "fd01::1")]);
        if routed {
            server.route(&[("0.0.0.0/0", "10.2.0.1"), ("::/0", "fd02::1")]);
        }
        router.forward();
        Some(Self { client, router, server })
    }

    /// On the router, these rules and nothing else.
    fn rules(&self, build: impl FnOnce(&Table, &mut Batch) + Send + 'static) {
        self.router.run(move || {
            let table = Table::inet("test");
            let mut batch = Batch::new();
            batch.replace_table(&table);
            build(&table, &mut batch);
            batch.commit(&mut Socket::open().unwrap()).unwrap();
        });
    }

    /// The server listens; each connection is told who it comes from.
    fn serve(&self, port: u16) {
        self.server.run(move || {
            let listener = TcpListener::bind(("::", port)).unwrap();
            std::thread::spawn(move || {
                for stream in listener.incoming().take(64) {
                    let mut stream = stream.unwrap();
                    let from = stream.peer_addr().unwrap().ip().to_canonical();
                    let mss = nix::sys::socket::getsockopt(&stream, nix::sys::socket::sockopt::TcpMaxSeg).unwrap();
                    let _ = write!(stream, "{from} {mss} {port}");
                }
            });
        });
    }

    /// What the server says to the client, within so long: whom it sees, the segment size it may send, its port. `None` if it says
    /// nothing.
    fn hear(&self, to: &str, port: u16, limit: Duration) -> Option<(IpAddr, u32, u16)> {
        let to = SocketAddr::new(ip(to), port);
        self.client.run(move || {
            let mut stream = TcpStream::connect_timeout(&to, limit).ok()?;
            stream.set_read_timeout(Some(limit)).unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).ok()?;
            let mut words = text.split(' ');
            let mut word = || words.next().unwrap();
            Some((word().parse().unwrap(), word().parse().unwrap(), word().parse().unwrap()))
        })
    }

    /// What the server says where it is to be heard.
    fn ask(&self, to: &str, port: u16) -> (IpAddr, u32, u16) {
        self.hear(to, port, PATIENCE).unwrap_or_else(|| panic!("{to}, port {port}, says nothing"))
    }

    /// Whom the server sees.
    fn sees(&self, to: &str, port: u16) -> IpAddr {
        self.ask(to, port).0
    }

    /// Whether the server is not to be heard. It tells something of the rules only once the server was heard without them.
    fn is_silent(&self, to: &str, port: u16) -> bool {
        self.hear(to, port, Duration::from_millis(400)).is_none()
    }
}

fn forward(table: &Table, batch: &mut Batch) {
    batch.add_chain(table, &Chain::base("forward", ChainType::Filter, Hook::Forward, priority::FILTER));
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn drops_and_counts() {
    let Some(network) = Network::new("drops_and_counts", true) else { return };
    network.serve(80);
    for (server, client) in SERVER.iter().zip(CLIENT) {
        assert_eq!(network.sees(server, 80), ip(client));
    }
    network.rules(|table, batch| {
        forward(table, batch);
        batch.add_counter(table, "refused");
        let replies = Rule::new().ct_state(ct_state::ESTABLISHED | ct_state::RELATED).accept();
        batch.add_rule(table, "forward", &replies);
        batch.add_rule(table, "forward", &Rule::new().iifname("r*").tcp_dport(80).named_counter("refused").drop());
    });
    for server in SERVER {
        assert!(network.is_silent(server, 80));
    }
    let count = network.router.run(|| Socket::open().unwrap().counter(&Table::inet("test"), "refused").unwrap().unwrap());
    assert!(count.packets >= 2 && count.bytes >= count.packets * 60, "{count:?}");

    network.rules(|table, batch| {
        forward(table, batch);
        batch.add_rule(table, "forward", &Rule::new().tcp_dport(80).reject(Reject::TcpReset));
    });
    let refused = network
        .client
        .run(|| TcpStream::connect_timeout(&"10.2.0.2:80".parse().unwrap(), Duration::from_secs(5)).unwrap_err().kind());
    assert_eq!(refused, std::io::ErrorKind::ConnectionRefused);
}

#[test]
fn sets_decide_by_interval_and_by_concatenation() {
    let Some(network) = Network::new("sets_decide", true) else { return };
    network.serve(80);
    network.serve(81);
    for port in [80, 81] {
        assert_eq!(network.sees(SERVER[0], port), ip(CLIENT[0]));
    }
    let table = Table::inet("test");
    let clients = Set::new("clients", [KeyType::Ipv4Addr]).interval();
    let open = Set::new("open", [KeyType::Ipv4Addr, KeyType::InetProto, KeyType::InetService]);
    let (clients2, open2) = (clients.clone(), open.clone());
    network.rules(move |table, batch| {
        forward(table, batch);
        batch.add_set(table, &clients2).add_set(table, &open2);
        batch.add_rule(table, "forward", &Rule::new().ct_state(ct_state::ESTABLISHED).accept());
        batch.add_rule(
            table,
            "forward",
            &Rule::new()
                .ip_saddr_in_set("clients")
                .in_set(&[Selector::IpDaddr, Selector::L4Proto, Selector::Dport], "open")
                .accept(),
        );
        batch.add_rule(table, "forward", &Rule::new().drop());
    });
    let change = |batch: Batch| network.router.run(move || batch.commit(&mut Socket::open().unwrap()).unwrap());
    assert!(network.is_silent(SERVER[0], 80));
    let block: IpNetwork = "10.1.0.0/30".parse().unwrap();
    let mut batch = Batch::new();
    batch.add_elements(&table, &clients, [block]).add_elements(&table, &open, [(ip(SERVER[0]), 6u8, 80u16)]);
    change(batch);
    assert_eq!(network.sees(SERVER[0], 80), ip(CLIENT[0]));
    assert!(network.is_silent(SERVER[0], 81));
    let mut batch = Batch::new();
    batch.delete_elements(&table, &clients, [block]).add_elements(&table, &clients, ["10.1.0.3".parse::<IpNetwork>().unwrap()]);
    change(batch);
    assert!(network.is_silent(SERVER[0], 80));
}

#[test]
fn masquerades_and_translates_to_constants() {
    let Some(network) = Network::new("masquerades", false) else { return };
    network.serve(80);
    assert!(network.is_silent(SERVER[0], 80), "the server has no way back");
    network.rules(|table, batch| {
        batch.add_chain(table, &Chain::base("post", ChainType::Nat, Hook::Postrouting, priority::SRCNAT));
        batch.add_chain(table, &Chain::base("pre", ChainType::Nat, Hook::Prerouting, priority::DSTNAT));
        batch.add_rule(table, "post", &Rule::new().oifname("r1").masquerade());
        for (virtual_address, server) in ["10.9.9.9", "fd09::9"].into_iter().zip(SERVER) {
            let rule = Rule::new().daddr(ip(virtual_address)).tcp_dport(8080).dnat(ip(server), Some(80));
            batch.add_rule(table, "pre", &rule);
        }
    });
    for ((server, virtual_address), router) in SERVER.into_iter().zip(["10.9.9.9", "fd09::9"]).zip(ROUTER_INSIDE) {
        assert_eq!(network.sees(server, 80), ip(router));
        assert_eq!(network.sees(virtual_address, 8080), ip(router));
    }
    network.rules(|table, batch| {
        batch.add_chain(table, &Chain::base("post", ChainType::Nat, Hook::Postrouting, priority::SRCNAT));
        batch.add_rule(table, "post", &Rule::new().tcp_dport(80).snat(ip("10.2.0.1"), Some(4000)));
    });
    assert_eq!(network.sees(SERVER[0], 80), ip(ROUTER_INSIDE[0]));
}

#[test]
fn a_source_translated_to_itself_outlives_a_later_masquerade() {
    let Some(network) = Network::new("snat_to_saddr", true) else { return };
    network.serve(80);
    network.rules(|table, batch| {
        for (name, at) in [("keep", priority::SRCNAT - 10), ("post", priority::SRCNAT)] {
            batch.add_chain(table, &Chain::base(name, ChainType::Nat, Hook::Postrouting, at));
        }
        batch.add_rule(table, "keep", &Rule::new().saddr(ip(CLIENT[0])).snat_to_saddr(IpFamily::V4));
        batch.add_rule(table, "post", &Rule::new().masquerade());
    });
    assert_eq!(network.sees(SERVER[0], 80), ip(CLIENT[0]));
    assert_eq!(network.sees(SERVER[1], 80), ip(ROUTER_INSIDE[1]), "IPv6 is masqueraded");
}

#[test]
fn segment_sizes_are_clamped() {
    let Some(network) = Network::new("segment_sizes", true) else { return };
    network.serve(80);
    let mss = |to: &str| network.ask(to, 80).1;
    let (plain4, plain6) = (mss(SERVER[0]), mss(SERVER[1]));
    network.rules(|table, batch| {
        forward(table, batch);
        batch.add_rule(table, "forward", &Rule::new().clamp_mss(1000));
    });
    assert_eq!((plain4 - mss(SERVER[0]), plain6 - mss(SERVER[1])), (460, 440));
    // The router's way to the client takes less: what the route says is what the server may send.
    network.router.run(|| {
        common::netlink(|handle| async move {
            let index = common::index_of(&handle, "r1").await;
            let message = rtnetlink::LinkUnspec::new_with_index(index).mtu(1400).build();
            handle.link().set(message).execute().await.unwrap();
        });
    });
    network.rules(|table, batch| {
        forward(table, batch);
        batch.add_rule(table, "forward", &Rule::new().oifname("r1").clamp_mss_to_route());
    });
    assert_eq!((plain4 - mss(SERVER[0]), plain6 - mss(SERVER[1])), (100, 100));
}

#[test]
fn services_are_spread_over_their_endpoints() {
    let Some(network) = Network::new("services_spread", true) else { return };
    for port in [8001, 8002, 8003] {
        network.serve(port);
    }
    let services = Set::new("services", [KeyType::Ipv4Addr, KeyType::InetProto, KeyType::InetService]).verdicts();
    network.rules(move |table, batch| {
        batch
            .add_chain(table, &Chain::new("one"))
            .add_chain(table, &Chain::new("two"))
            .add_chain(table, &Chain::new("by-client"));
        let endpoints: Vec<(IpAddr, u16)> = [8001, 8002, 8003].map(|port| (ip(SERVER[0]), port)).to_vec();
        batch.add_rule(table, "one", &Rule::new().l4proto(protocol::TCP).spread_dnat(Spread::Turns, &endpoints));
        for (chain, port) in [("ep0", 8001), ("ep1", 8002)] {
            batch.add_chain(table, &Chain::new(chain));
            batch.add_rule(table, chain, &Rule::new().l4proto(protocol::TCP).dnat(ip(SERVER[0]), Some(port)));
        }
        let jumps = ["ep0", "ep1"].map(|c| Verdict::Jump(c.to_owned()));
        batch.add_rule(table, "two", &Rule::new().spread_verdicts(Spread::Random, jumps));
        batch.add_rule(table, "by-client", &Rule::new().l4proto(protocol::TCP).spread_dnat(Spread::IpSource, &endpoints));
        batch.add_set(table, &services);
        let to = |address: &str, chain: &str| Element::new((ip(address), 6u8, 80u16)).verdict(Verdict::Jump(chain.to_owned()));
        batch.add_elements(table, &services, [to("10.9.0.1", "one"), to("10.9.0.2", "two"), to("10.9.0.3", "by-client")]);
        batch.add_chain(table, &Chain::base("pre", ChainType::Nat, Hook::Prerouting, priority::DSTNAT));
        let key = [Selector::IpDaddr, Selector::L4Proto, Selector::Dport];
        batch.add_rule(table, "pre", &Rule::new().verdict_map(&key, "services"));
    });
    let ports = |address: &str, times: usize| -> Vec<u16> {
        let mut ports: Vec<u16> = (0..times).map(|_| network.ask(address, 80).2).collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    };
    assert_eq!(ports("10.9.0.1", 3), [8001, 8002, 8003]);
    assert_eq!(ports("10.9.0.2", 16), [8001, 8002]);
    assert_eq!(ports("10.9.0.3", 6).len(), 1);
}

#[test]
fn marks_and_untracked_packets() {
    let Some(network) = Network::new("marks", true) else { return };
    network.rules(|table, batch| {
        batch.add_chain(table, &Chain::base("raw", ChainType::Filter, Hook::Prerouting, priority::RAW));
        batch.add_chain(table, &Chain::base("late", ChainType::Filter, Hook::Forward, 0));
        batch.add_counter(table, "marked").add_counter(table, "untracked");
        batch.add_rule(table, "raw", &Rule::new().udp_dport(9).notrack());
        batch.add_rule(table, "raw", &Rule::new().udp_dport(9).set_mark(0x1234).set_mark_masked(0xff, 0x99));
        batch.add_rule(table, "late", &Rule::new().mark_masked(0xffff, 0x1299).named_counter("marked"));
        batch.add_rule(table, "late", &Rule::new().ct_state(ct_state::UNTRACKED).named_counter("untracked").drop());
    });
    network.client.run(|| {
        let socket = UdpSocket::bind("10.1.0.2:0").unwrap();
        for _ in 0..3 {
            socket.send_to(b"x", "10.2.0.2:9").unwrap();
        }
    });
    let count = || -> Vec<u64> {
        let counters = network.router.run(|| Socket::open().unwrap().counters(&Table::inet("test")).unwrap());
        counters.iter().map(|(_, c)| c.packets).collect()
    };
    let started = Instant::now();
    while count() != [3, 3] && started.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(count(), [3, 3]);
}
