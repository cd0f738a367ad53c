//! How fast the tunnel is here: two hosts in network namespaces, a veth pair between, both data paths and the load on this machine.
//!
//! `cargo run --release -p daisy-gateway --example throughput -- [--seconds N] [--json]`, as root.
//!
//! TCP by one and by four streams, and the round trip of a small UDP packet, over the bare veth pair and through the tunnel.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use common::site::{Site, connected};
use common::{Host, enter};
use daisy_api::Reach;

const BARE: [&str; 2] = ["203.0.113.1", "203.0.113.2"];

fn main() {
    if !enter("throughput") {
        return;
    }
    let arguments: Vec<String> = std::env::args().collect();
    let json = arguments.iter().any(|argument| argument == "--json");
    let seconds = arguments.iter().position(|argument| argument == "--seconds");
    let seconds: u64 = seconds.and_then(|at| arguments.get(at + 1)?.parse().ok()).unwrap_or(3);

    let a = Site::new("a", 1, &[("203.0.113.1:41820", Reach::Public)]);
    let b = Site::new("b", 2, &[("203.0.113.2:41820", Reach::Public)]);
    a.host.join("eth0", &b.host, "eth1", 1500);
    a.host.add_address("eth0", "203.0.113.1/24");
    b.host.add_address("eth1", "203.0.113.2/24");
    let one = a.start(a.config(), &[&b]);
    let two = b.start(b.config(), &[&a]);
    connected(&one, Duration::from_secs(5));
    connected(&two, Duration::from_secs(5));

    let bare: [IpAddr; 2] = BARE.map(|text| text.parse().unwrap());
    let tunnel = [a.pod(), b.pod()];
    for (who, [from, to]) in [("bare veth", bare), ("daisy", tunnel)] {
        for streams in [1, 4] {
            let bits = transfer((&a.host, from), (&b.host, to), streams, Duration::from_secs(seconds));
            report(json, &format!("TCP, {streams} stream(s)"), who, bits / 1e9, "Gbit/s");
        }
        report(json, "UDP round trip", who, round_trip((&a.host, from), (&b.host, to)).as_secs_f64() * 1e6, "µs");
    }
    let resident = std::fs::read_to_string("/proc/self/status").unwrap();
    let resident =
        resident.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    report(json, "memory of both ends and the load", "daisy", resident.unwrap() / 1024.0, "MiB");
}

fn report(json: bool, work: &str, who: &str, value: f64, unit: &str) {
    if json {
        println!("{}", serde_json::json!({ "work": work, "who": who, "value": value, "unit": unit }));
    } else {
        println!("{work:<34} {who:<10} {value:>10.2} {unit}");
    }
}

/// Bits a second from one host to the other.
fn transfer(from: (&Host, IpAddr), to: (&Host, IpAddr), streams: usize, time: Duration) -> f64 {
    let address = to.1;
    let listener = to.0.run(move |_| TcpListener::bind((address, 0)).unwrap());
    let port = listener.local_addr().unwrap().port();
    let sinks: Vec<_> = (0..streams)
        .map(|_| {
            let listener = listener.try_clone().unwrap();
            to.0.spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let (mut buffer, mut total) = (vec![0; 256 * 1024], 0usize);
                while let Ok(length @ 1..) = stream.read(&mut buffer) {
                    total += length;
                }
                total
            })
        })
        .collect();
    let started = Instant::now();
    let sources: Vec<_> = (0..streams)
        .map(|_| {
            from.0.spawn(move || {
                let mut stream = TcpStream::connect((address, port)).unwrap();
                let buffer = vec![7; 256 * 1024];
                while started.elapsed() < time {
                    stream.write_all(&buffer).unwrap();
                }
            })
        })
        .collect();
    sources.into_iter().for_each(|source| source.join().unwrap());
    let total: usize = sinks.into_iter().map(|sink| sink.join().unwrap()).sum();
    total as f64 * 8.0 / started.elapsed().as_secs_f64()
}

/// The mean round trip of a small packet.
fn round_trip(from: (&Host, IpAddr), to: (&Host, IpAddr)) -> Duration {
    const ROUNDS: u32 = 2_000;
    let (here, there) = (from.1, to.1);
    let echo = to.0.run(move |_| UdpSocket::bind((there, 0)).unwrap());
    let port = echo.local_addr().unwrap().port();
    let echo = to.0.spawn(move || {
        let mut buffer = [0; 64];
        for _ in 0..ROUNDS {
            let (length, from) = echo.recv_from(&mut buffer).unwrap();
            echo.send_to(&buffer[..length], from).unwrap();
        }
    });
    let socket = from.0.run(move |_| UdpSocket::bind((here, 0)).unwrap());
    socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let started = Instant::now();
    for _ in 0..ROUNDS {
        socket.send_to(&[1; 32], (there, port)).unwrap();
        socket.recv(&mut [0; 64]).unwrap();
    }
    let took = started.elapsed();
    echo.join().unwrap();
    took / ROUNDS
}
