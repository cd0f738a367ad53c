//! Two data paths in network namespaces, with a router between them: what goes through, and what does not.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use common::enter;
use common::site::{DEVICE, NAT_ADDRESS, PORT, World, connected, converse, serve};
use daisy_api::{Cluster, Reach, TunnelEndpoint};
use daisy_gateway::{GatewayError, PrivateKey};
use rtnetlink::packet_route::link::LinkAttribute;

const SOON: Duration = Duration::from_secs(5);

#[test]
fn comes_up_from_behind_a_nat_and_keeps_sources() {
    if !enter("comes_up_from_behind_a_nat_and_keeps_sources") {
        return;
    }
    let world = World::new(1500);
    let (local, staging) = world.start();
    let here = connected(&local, SOON);
    assert_eq!(here.endpoint, Some("198.51.100.2:41820".parse().unwrap()));
    assert!(!here.using_nat);
    let latency = here.latency.expect("measured");
    assert!(latency.last_micros > 0 && latency.average_micros < 1_000_000, "{latency:?}");
    let there = connected(&staging, SOON);
    assert!(there.using_nat, "{there:?}");
    assert_eq!(there.endpoint.map(|endpoint| endpoint.ip()), NAT_ADDRESS.parse().ok());

    for (from, to) in [(world.local.pod(), world.staging.pod()), (world.local.pod_v6(), world.staging.pod_v6())] {
        let server = serve(&world.staging, to, 1);
        assert_eq!(converse(&world.local, from, to, 300_000, SOON).unwrap(), from.to_string(), "the source is kept");
        server.join().unwrap();
    }
    // And the other way, to the one that nobody can dial.
    let server = serve(&world.local, world.local.pod(), 1);
    let seen = converse(&world.staging, world.staging.pod(), world.local.pod(), 300_000, SOON).unwrap();
    assert_eq!(seen, world.staging.pod().to_string());
    server.join().unwrap();
}

#[test]
fn over_ipv6_too() {
    if !enter("over_ipv6_too") {
        return;
    }
    let mut world = World::new(1500);
    world.local.host.add_address("eth0", "2001:db8:1::3/64");
    world.router.add_address("inside", "2001:db8:1::1/64");
    world.router.add_address("outside", "2001:db8:2::1/64");
    world.staging.host.add_address("eth0", "2001:db8:2::2/64");
    world.local.host.add_route("::/0", Some("2001:db8:1::1"), None);
    world.staging.host.add_route("::/0", Some("2001:db8:2::1"), None);
    world.staging.endpoints = vec![TunnelEndpoint { address: "[2001:db8:2::2]:41820".parse().unwrap(), reach: Reach::Public }];
    let (local, staging) = world.start();
    assert_eq!(connected(&local, SOON).endpoint, Some("[2001:db8:2::2]:41820".parse().unwrap()));
    assert!(connected(&staging, SOON).endpoint.unwrap().is_ipv6());
    assert_eq!((local.mtu(), staging.mtu()), (1420, 1420), "the outer header is IPv6's");
    let server = serve(&world.staging, world.staging.pod(), 1);
    converse(&world.local, world.local.pod(), world.staging.pod(), 300_000, SOON).unwrap();
    server.join().unwrap();
}

/// A cluster as others are told, with one more CIDR than they are told of, or less.
fn with_pods(cluster: Cluster, cidrs: &[&str]) -> Cluster {
    let mut cluster = cluster;
    cluster.spec.cluster_cidrs = cidrs.iter().map(|text| text.parse().unwrap()).collect();
    cluster
}

#[test]
fn what_is_not_the_peer_s_or_not_ours_is_dropped() {
    if !enter("what_is_not_the_peer_s_or_not_ours_is_dropped") {
        return;
    }
    let world = World::new(1500);
    let config = world.staging.config();
    let metrics = config.metrics.clone();
    let staging = world.staging.start(config, &[&world.local]);
    // This side believes that 10.7.0.0/16 is its own, and that 10.8.0.0/16 is staging's. Staging knows of neither.
    let local = world.local.start(world.local.config(), &[&world.staging]);
    let mut clusters = daisy_gateway_core::clusters::Clusters::new();
    let wide = with_pods(world.local.cluster(true), &["10.1.0.0/16", "10.7.0.0/16"]);
    let staging_wide = with_pods(world.staging.cluster(false), &["10.2.0.0/16", "10.8.0.0/16"]);
    clusters.handle_all(&[wide, staging_wide], &[]);
    local.apply(&daisy_gateway_core::peers::plan(&clusters, &world.local.key.public_key(), world.local.address()));
    connected(&local, SOON);
    connected(&staging, SOON);
    world.local.host.add_address("lo", "10.7.0.5/32");
    world.local.host.add_route("10.8.0.0/16", None, Some(DEVICE));

    let receiver = world.staging.host.run(|_| UdpSocket::bind("0.0.0.0:9000").unwrap());
    receiver.set_read_timeout(Some(SOON)).unwrap();
    let send = |from: &str, to: &str| {
        let (from, to): (IpAddr, IpAddr) = (from.parse().unwrap(), to.parse().unwrap());
        world
            .local
            .host
            .run(move |_| UdpSocket::bind((from, 0)).unwrap().send_to(from.to_string().as_bytes(), (to, 9000)).unwrap());
    };
    send("10.7.0.5", "10.2.0.5");
    send("10.1.0.5", "10.8.0.5");
    // A host's own address belongs to nobody: it is dropped before it leaves.
    send("192.168.51.3", "10.2.0.5");
    send("10.1.0.5", "10.2.0.5");
    let mut buffer = [0; 64];
    let (length, from) = receiver.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..length], from.ip()), (&b"10.1.0.5"[..], world.local.pod()), "the only one that arrives");
    assert_eq!(metrics.dropped("source-not-allowed"), 1);
    assert_eq!(metrics.dropped("not-for-us"), 1);
}

#[test]
fn strangers_hear_nothing() {
    if !enter("strangers_hear_nothing") {
        return;
    }
    let mut world = World::new(1500);
    let config = world.staging.config();
    let metrics = config.metrics.clone();
    let staging = world.staging.start(config, &[&world.local]);
    // Someone who knows staging's public key and endpoint, but is not known to it: the same place, another key.
    world.local.key = PrivateKey::generate();
    let stranger = world.local.start(world.local.config(), &[&world.staging]);
    let socket = world.router.run(|_| UdpSocket::bind("198.51.100.1:0").unwrap());
    socket.set_read_timeout(Some(Duration::from_millis(1500))).unwrap();
    for garbage in [
        &[0u8; 148][..],
        &[1; 148],
        b"hello",
        &[4, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ] {
        socket.send_to(garbage, ("198.51.100.2", PORT)).unwrap();
    }
    assert!(socket.recv(&mut [0; 64]).is_err(), "an answer to garbage");
    let connections = stranger.connections();
    assert_eq!(connections[0].status, daisy_api::ConnectionStatus::Connecting, "{connections:?}");
    assert!(metrics.dropped("stranger") >= 5, "{}", metrics.dropped("stranger"));
    assert_eq!(staging.connections()[0].status, daisy_api::ConnectionStatus::Connecting);
}

#[test]
fn the_mtu_is_what_the_uplink_leaves() {
    if !enter("the_mtu_is_what_the_uplink_leaves") {
        return;
    }
    let world = World::new(1400);
    let (local, _staging) = world.start();
    assert_eq!(local.mtu(), 1340, "there is IPv4 only");
    let link = world.local.host.device(DEVICE).expect("there");
    assert!(link.attributes.contains(&LinkAttribute::Mtu(1340)));
    // A full packet passes the uplink whole; a larger one does not pass the device.
    let (from, to) = (world.local.pod_v6(), world.staging.pod_v6());
    let receiver = world.staging.host.run(|_| UdpSocket::bind("[::]:9000").unwrap());
    receiver.set_read_timeout(Some(SOON)).unwrap();
    let headers = 40 + 8;
    let sent = world.local.host.run(move |_| {
        let socket = UdpSocket::bind((from, 0)).unwrap();
        nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::Ipv6DontFrag, &true).unwrap();
        let full = socket.send_to(&[7; 1340][headers..], (to, 9000)).is_ok();
        (full, socket.send_to(&[7; 1341][headers..], (to, 9000)).is_err())
    });
    assert_eq!(sent, (true, true));
    assert_eq!(receiver.recv(&mut [0; 2000]).unwrap(), 1340 - headers);
}

#[test]
fn a_narrow_uplink_fragments_rather_than_going_under_1280() {
    if !enter("a_narrow_uplink_fragments_rather_than_going_under_1280") {
        return;
    }
    let world = World::new(1300);
    let (local, _staging) = world.start();
    assert_eq!(local.mtu(), 1280);
    let server = serve(&world.staging, world.staging.pod_v6(), 1);
    converse(&world.local, world.local.pod_v6(), world.staging.pod_v6(), 300_000, SOON).unwrap();
    server.join().unwrap();
}

#[test]
fn the_device_outlives_the_data_path_and_goes_when_told() {
    if !enter("the_device_outlives_the_data_path_and_goes_when_told") {
        return;
    }
    let world = World::new(1500);
    let site = &world.staging;
    let first = site.start(site.config(), &[&world.local]);
    let Err(GatewayError::PortInUse { port }) = site.try_start(site.config()) else { panic!("the port is in use") };
    assert_eq!(port, PORT);
    let mut config = site.config();
    config.port += 1;
    let Err(error) = site.try_start(config) else { panic!("the device is held") };
    assert_eq!(error.reason(), "DeviceTaken", "{error}");
    let index = site.host.device(DEVICE).expect("there").header.index;
    first.stop();
    assert_eq!(site.host.device(DEVICE).expect("it stays").header.index, index);

    // The next start adopts it, and takes away an address that the node no longer has.
    let mut config = site.config();
    config.address = "100.80.2.9".parse().unwrap();
    let second = site.try_start(config).unwrap();
    assert_eq!(site.host.device(DEVICE).expect("adopted").header.index, index);
    let old = site.address();
    assert!(site.host.run(move |_| UdpSocket::bind((old, 0)).is_err()), "the old address is gone");
    assert!(site.host.run(|_| UdpSocket::bind("100.80.2.9:0").is_ok()));
    site.host.block_on(|| second.remove()).unwrap();
    assert!(site.host.device(DEVICE).is_none());

    // Left over by a gateway that is no more.
    site.try_start(site.config()).unwrap().stop();
    assert!(site.host.block_on(|| daisy_gateway::data_path::remove_device(DEVICE)).unwrap());
    assert!(!site.host.block_on(|| daisy_gateway::data_path::remove_device(DEVICE)).unwrap(), "once is enough");
    assert!(site.host.device(DEVICE).is_none());
}

#[test]
fn a_device_that_is_removed_under_it_is_said() {
    if !enter("a_device_that_is_removed_under_it_is_said") {
        return;
    }
    let world = World::new(1500);
    let data_path = world.staging.start(world.staging.config(), &[&world.local]);
    let failed = data_path.failed();
    world.staging.host.delete_device(DEVICE);
    let error = world.staging.host.block_on(|| async move { tokio::time::timeout(SOON, failed).await }).expect("it is seen");
    assert!(error.to_string().contains("was it removed?"), "{error}");
}

#[test]
fn another_device_of_its_name_is_left_alone() {
    if !enter("another_device_of_its_name_is_left_alone") {
        return;
    }
    let world = World::new(1500);
    world.router.join(DEVICE, &world.staging.host, "other", 1500);
    let error = world.router.block_on({
        let config = world.staging.config();
        move || async move { daisy_gateway::data_path::DataPath::start(config).await.err() }
    });
    let error = error.expect("the name is taken");
    assert!(error.to_string().contains("ip link delete daisy0"), "{error}");
    assert!(!world.router.block_on(|| daisy_gateway::data_path::remove_device(DEVICE)).unwrap(), "it is not ours");
    assert!(world.router.device(DEVICE).is_some());
}
