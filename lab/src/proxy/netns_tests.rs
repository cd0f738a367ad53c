//! The rules against the kernel: a node between two Pods, each in a network namespace of its own.
//!
//! ```text
//! client 10.10.0.2 ── node (10.10.0.1, 10.20.0.1, 192.0.2.1) ── web 10.20.0.2 and 10.20.0.3 · outside 192.0.2.2
//! ```

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use daisy_nftables::protocol;
use kube::api::PostParams;
use nix::sched::{CloneFlags, unshare};

use super::index::{Backends, Frontend};
use super::*;
use crate::control_plane::cluster_tests::{Cluster, service};

const TIMEOUT: Duration = Duration::from_secs(3);

/// Why a test that needs root cannot run here, which in CI is a failure.
fn skipped(test: &str) -> bool {
    if nix::unistd::geteuid().is_root() && Command::new("ip").arg("-V").output().is_ok() {
        return false;
    }
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{test} needs root and the program ip");
    eprintln!("skipped: {test} (needs root and the program ip)");
    true
}

type Job = Box<dyn FnOnce() + Send>;

/// A thread in a network namespace of its own, which goes with it.
struct Namespace {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    tid: i32,
}

impl Namespace {
    fn new() -> Self {
        let (jobs, todo) = mpsc::channel::<Job>();
        let (tell, tid) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
            tell.send(nix::unistd::gettid().as_raw()).expect("told");
            todo.into_iter().for_each(|job| job());
        });
        Self { jobs: Some(jobs), thread: Some(thread), tid: tid.recv().expect("a thread id") }
    }

    /// Runs `work` in the namespace.
    fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (tell, result) = mpsc::channel();
        let job: Job = Box::new(move || {
            let _ = tell.send(work());
        });
        self.jobs.as_ref().expect("alive").send(job).expect("alive");
        result.recv().expect("the work in the namespace succeeded")
    }

    fn ip(&self, arguments: &str) {
        let words: Vec<String> = arguments.split_whitespace().map(str::to_owned).collect();
        let output = self.run(move || Command::new("ip").args(&words).output().expect("ip runs"));
        assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// A pair of devices: `name` here with `here`, `eth0` there with `there` and a default route back.
    fn connect(&self, other: &Self, name: &str, addresses: [&str; 2]) {
        let [here, there] = addresses;
        self.ip(&format!("link add {name} type veth peer name eth0 netns /proc/{}/ns/net", other.tid));
        let gateway = here.split('/').next().expect("an address");
        for (namespace, device, address) in [(self, name, here), (other, "eth0", there)] {
            namespace.ip(&format!("addr add {address} dev {device} nodad"));
            namespace.ip(&format!("link set {device} up"));
        }
        other.ip(&format!("route add default via {gateway}"));
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.jobs.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Node {
    node: Namespace,
    client: Namespace,
    web: Namespace,
    outside: Namespace,
    rules: Rules,
}

fn node() -> Node {
    let (node, client, web, outside) = (Namespace::new(), Namespace::new(), Namespace::new(), Namespace::new());
    for namespace in [&node, &client, &web, &outside] {
        namespace.ip("link set lo up");
    }
    node.connect(&client, "c", ["10.10.0.1/24", "10.10.0.2/24"]);
    node.connect(&web, "w", ["10.20.0.1/24", "10.20.0.2/24"]);
    node.connect(&outside, "o", ["192.0.2.1/24", "192.0.2.2/24"]);
    for (namespace, device, addresses) in [
        (&node, "c", "fd00:10::1/64"),
        (&client, "eth0", "fd00:10::2/64"),
        (&node, "w", "fd00:20::1/64"),
        (&web, "eth0", "fd00:20::2/64"),
        (&web, "eth0", "10.20.0.3/24"),
    ] {
        namespace.ip(&format!("addr add {addresses} dev {device} nodad"));
    }
    client.ip("-6 route add default via fd00:10::1");
    web.ip("-6 route add default via fd00:20::1");
    // The node's own way to ClusterIPs: any route will do, as its default route does on a real one.
    node.ip("route add default via 192.0.2.2");
    node.run(|| {
        for file in ["/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"] {
            // Of the namespace whose thread opens it.
            std::fs::write(file, "1").expect("forwarding");
        }
    });
    let cidrs = ["10.10.0.0/16", "10.20.0.0/16", "fd00:10::/64", "fd00:20::/64"].map(|c| c.parse().expect("a CIDR"));
    let services = ["10.96.0.0/16", "fd00:96::/112"].map(|c| c.parse().expect("a CIDR"));
    let mut rules = Rules::new(cidrs.into(), services.into());
    let batch = rules.rebuild();
    node.run(move || batch.commit(&mut Socket::open().expect("a socket")).expect("the table is made"));
    Node { node, client, web, outside, rules }
}

impl Node {
    fn program(&mut self, frontend: (&str, u8, u16), backends: Option<(&[&str], bool)>) {
        let frontend = Frontend { address: frontend.0.parse().expect("an address"), protocol: frontend.1, port: frontend.2 };
        let backends = backends.map(|(targets, affinity)| Backends {
            name: "shop/web:http".to_owned(),
            targets: targets.iter().map(|t| t.parse::<SocketAddr>().expect("a target")).map(|t| (t.ip(), t.port())).collect(),
            affinity,
        });
        let batch = self.rules.apply(vec![(frontend, backends)]);
        self.node.run(move || batch.commit(&mut Socket::open().expect("a socket")).expect("the change is made"));
    }

    /// Each address answers with what it is asked at, and whom it sees.
    fn serve(&self, addresses: &[&str]) {
        for address in addresses {
            let address: SocketAddr = address.parse().expect("an address");
            self.web.run(move || {
                let listener = TcpListener::bind(address).expect("bound");
                let udp = UdpSocket::bind(address).expect("bound");
                std::thread::spawn(move || {
                    for stream in listener.incoming() {
                        let Ok(mut stream) = stream else { return };
                        let peer = stream.peer_addr().map(|p| p.ip().to_string()).unwrap_or_default();
                        let _ = write!(stream, "{} {peer}", address.ip());
                    }
                });
                std::thread::spawn(move || {
                    let mut buffer = [0; 64];
                    while let Ok((_, peer)) = udp.recv_from(&mut buffer) {
                        let _ = udp.send_to(format!("{} {}", address.ip(), peer.ip()).as_bytes(), peer);
                    }
                });
            });
        }
    }
}

fn ask(from: &Namespace, address: &str) -> Result<String, ErrorKind> {
    let address: SocketAddr = address.parse().expect("an address");
    from.run(move || {
        let mut stream = TcpStream::connect_timeout(&address, TIMEOUT).map_err(|e| e.kind())?;
        stream.set_read_timeout(Some(TIMEOUT)).map_err(|e| e.kind())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map_err(|e| e.kind())?;
        Ok(answer)
    })
}

fn ask_udp(from: &Namespace, address: &str) -> Result<String, ErrorKind> {
    let address: SocketAddr = address.parse().expect("an address");
    from.run(move || {
        let any: IpAddr = if address.is_ipv6() { "::" } else { "0.0.0.0" }.parse().expect("an address");
        let socket = UdpSocket::bind((any, 0)).map_err(|e| e.kind())?;
        socket.set_read_timeout(Some(TIMEOUT)).map_err(|e| e.kind())?;
        socket.connect(address).and_then(|()| socket.send(b"?")).map_err(|e| e.kind())?;
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer).map_err(|e| e.kind())?;
        Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    })
}

const TCP: u8 = protocol::TCP;
const UDP: u8 = protocol::UDP;

#[test]
fn connections_reach_backends_and_refusals_are_quick() {
    if skipped("connections_reach_backends_and_refusals_are_quick") {
        return;
    }
    let mut node = node();
    node.serve(&["10.20.0.2:8080", "10.20.0.3:8080", "[fd00:20::2]:8080"]);
    let vip = ("10.96.0.9", TCP, 80);
    // Before it is known it is refused, and not left to the default route.
    for from in [&node.client, &node.node] {
        assert_eq!(ask(from, "10.96.0.9:80"), Err(ErrorKind::ConnectionRefused));
    }
    node.program(vip, Some((&["10.20.0.2:8080"], false)));
    assert_eq!(ask(&node.client, "10.96.0.9:80").as_deref(), Ok("10.20.0.2 10.10.0.2"), "a Pod keeps its address");
    let own = ask(&node.node, "10.96.0.9:80").expect("the node itself");
    assert_eq!(own, "10.20.0.2 10.20.0.1", "who is no Pod is masqueraded");
    assert_eq!(ask(&node.outside, "10.96.0.9:80").as_deref(), Ok("10.20.0.2 10.20.0.1"), "from outside too");
    assert_eq!(
        ask(&node.web, "10.96.0.9:80").as_deref(),
        Ok("10.20.0.2 10.20.0.1"),
        "a Pod reaches itself through its Service"
    );
    // Another port of the same address is nobody's.
    assert_eq!(ask(&node.client, "10.96.0.9:81"), Err(ErrorKind::ConnectionRefused));
    node.program(("10.96.0.9", UDP, 53), Some((&["10.20.0.2:8080"], false)));
    assert_eq!(ask_udp(&node.client, "10.96.0.9:53").as_deref(), Ok("10.20.0.2 10.10.0.2"));
    node.program(("fd00:96::9", TCP, 80), Some((&["[fd00:20::2]:8080"], true)));
    assert_eq!(ask(&node.client, "[fd00:96::9]:80").as_deref(), Ok("fd00:20::2 fd00:10::2"));
    // Nobody is there: refused at once, from Pods and from the node.
    node.program(vip, Some((&[], false)));
    node.program(("10.96.0.9", UDP, 53), Some((&[], false)));
    for from in [&node.client, &node.node] {
        assert_eq!(ask(from, "10.96.0.9:80"), Err(ErrorKind::ConnectionRefused));
    }
    assert_eq!(ask_udp(&node.client, "10.96.0.9:53"), Err(ErrorKind::ConnectionRefused));
    assert!(ask_udp(&node.node, "10.96.0.9:53").is_err(), "its own datagrams the kernel refuses to take");
    node.program(vip, Some((&["10.20.0.3:8080"], false)));
    assert_eq!(ask(&node.client, "10.96.0.9:80").as_deref(), Ok("10.20.0.3 10.10.0.2"), "and back");
    node.program(vip, None);
    node.program(("10.96.0.9", UDP, 53), None);
    node.program(("fd00:96::9", TCP, 80), None);
    let left = node.node.run(|| {
        let mut socket = Socket::open().expect("a socket");
        let table = daisy_nftables::Table::inet(TABLE);
        let sets = socket.sets(&table).expect("listed");
        let elements = sets
            .iter()
            .filter(|s| !s.name.starts_with("pods") && !s.name.starts_with("ranges"))
            .map(|s| socket.elements(&table, s).expect("listed").len());
        let elements: usize = elements.collect::<Vec<_>>().into_iter().sum();
        let chains = socket.chains(&table).expect("listed").into_iter().filter(|c| c.name.starts_with("svc-")).count();
        (elements, chains)
    });
    assert_eq!(left, (0, 0), "of what is gone nothing is left");
}

#[test]
fn connections_are_spread_and_clients_may_stay() {
    if skipped("connections_are_spread_and_clients_may_stay") {
        return;
    }
    let mut node = node();
    node.serve(&["10.20.0.2:8080", "10.20.0.3:8080"]);
    let vip = ("10.96.0.9", TCP, 80);
    let both: &[&str] = &["10.20.0.2:8080", "10.20.0.3:8080"];
    node.program(vip, Some((both, false)));
    let answers: std::collections::BTreeSet<String> = (0..40).filter_map(|_| ask(&node.client, "10.96.0.9:80").ok()).collect();
    assert_eq!(answers.len(), 2, "40 connections all went to one of two: {answers:?}");
    node.program(vip, Some((both, true)));
    let answers: std::collections::BTreeSet<String> = (0..20).filter_map(|_| ask(&node.client, "10.96.0.9:80").ok()).collect();
    assert_eq!(answers.len(), 1, "with affinity: {answers:?}");
    // A table that somebody flushed is made anew.
    let rebuilt = node.rules.rebuild();
    node.node.run(move || {
        let mut socket = Socket::open().expect("a socket");
        Batch::new().destroy_table(&daisy_nftables::Table::inet(TABLE)).commit(&mut socket).expect("destroyed");
        rebuilt.commit(&mut socket).expect("made anew");
    });
    assert!(ask(&node.client, "10.96.0.9:80").is_ok());
}

/// The proxy as a whole: a control plane, a node's namespace, and how long it takes from an EndpointSlice to its rule.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_api_says_is_in_the_kernel_soon() {
    if skipped("what_the_api_says_is_in_the_kernel_soon") {
        return;
    }
    let cluster = Cluster::start().await;
    let node = Namespace::new();
    let (socket, mut look) = node.run(|| (Socket::open().expect("a socket"), Socket::open().expect("a socket")));
    let options = Options {
        node: "n1".to_owned(),
        kubeconfig: PathBuf::new(),
        pod_cidrs: vec!["10.10.0.0/16".parse().expect("a CIDR")],
        service_cidrs: Vec::new(),
    };
    let (tell, ready) = tokio::sync::oneshot::channel();
    let client = cluster.client.clone();
    let running = tokio::spawn(async move {
        let on_ready = || {
            let _ = tell.send(());
        };
        serve(client, socket, &options, on_ready).await
    });
    ready.await.expect("it is up");
    let table = daisy_nftables::Table::inet(TABLE);
    let mut targets = |chain: &str| {
        let rules = look.rules(&table, Some(chain)).unwrap_or_default();
        let words: Vec<String> = rules.iter().filter_map(|r| r.comment.clone()).collect();
        words.join(" ")
    };
    let spec = serde_json::json!({ "clusterIP": "10.110.0.20", "ports": [{ "name": "http", "port": 80 }] });
    let services = cluster.api::<Service>("default");
    services.create(&PostParams::default(), &service("web", spec)).await.expect("created");
    let slices = cluster.api::<EndpointSlice>("default");
    for round in 1..=5u32 {
        if round == 3 {
            let gone = node.run(|| {
                Batch::new().destroy_table(&daisy_nftables::Table::inet(TABLE)).commit(&mut Socket::open().expect("a socket"))
            });
            gone.expect("somebody took the table away");
        }
        let slice: EndpointSlice = serde_json::from_value(serde_json::json!({
            "metadata": { "name": format!("web-{round}"), "labels": { "kubernetes.io/service-name": "web" } },
            "addressType": "IPv4", "endpoints": [{ "addresses": [format!("10.10.0.{round}")] }], "ports": [{ "name": "http", "port": 8080 }],
        }))
        .expect("a slice");
        let chain = "svc-10.110.0.20-6-80";
        let started = std::time::Instant::now();
        slices.create(&PostParams::default(), &slice).await.expect("created");
        while !targets(chain).contains("default/web:http") {
            assert!(started.elapsed() < Duration::from_secs(10), "the rule is not there");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        eprintln!("from the EndpointSlice to its rule: {:?}", started.elapsed());
        slices.delete(&format!("web-{round}"), &kube::api::DeleteParams::default()).await.expect("deleted");
        while !targets(chain).is_empty() {
            assert!(started.elapsed() < Duration::from_secs(10), "the rule is still there");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    assert!(targets("svc-10.110.0.1-6-443").is_empty(), "nobody is behind default/kubernetes here");
    running.abort();
    cluster.stop().await;
}
