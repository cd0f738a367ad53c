//! Two data paths in network namespaces, with a router between them: what breaks, and how soon it works again by itself.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use common::enter;
use common::site::{Dropped, Site, World, connected, converse, serve, wait_for};
use daisy_api::{ConnectionStatus, GatewayRecord, NodeName, Reach};
use daisy_gateway::data_path::DataPath;
use daisy_nftables::Rule;

const SOON: Duration = Duration::from_secs(5);

/// Waits until a conversation from one site's pod to the other's gets through, and says how long it took.
fn heals(from: &Site, to: &Site) -> Duration {
    let started = Instant::now();
    let server = serve(to, to.pod(), 1);
    while converse(from, from.pod(), to.pod(), 1_000, Duration::from_millis(500)).is_err() {
        assert!(started.elapsed() < Duration::from_secs(15), "it does not heal");
    }
    let took = started.elapsed();
    server.join().unwrap();
    assert!(took < SOON, "healed after {took:?}");
    took
}

fn endpoint(data_path: &DataPath) -> Option<SocketAddr> {
    data_path.connections().first().and_then(|connection| connection.endpoint)
}

#[test]
fn a_nat_s_new_address_is_learnt_from_what_comes_through_it() {
    if !enter("a_nat_s_new_address_is_learnt_from_what_comes_through_it") {
        return;
    }
    let world = World::new(1500);
    let (local, staging) = world.start();
    world.router.add_address("outside", "198.51.100.77/24");
    world.router.delete_address("outside", "198.51.100.1/24");
    // Deleting the primary address may take the secondary ones of its network with it.
    world.router.run(|_| ());
    world.router.delete_address("outside", "198.51.100.77/24");
    world.router.add_address("outside", "198.51.100.77/24");
    let new: IpAddr = "198.51.100.77".parse().unwrap();
    let is_there = |one: &daisy_api::Connection| {
        one.status == ConnectionStatus::Connected && one.endpoint.is_some_and(|at| at.ip() == new)
    };
    let (_, took) = wait_for(&staging, SOON, "connected at the new address", is_there);
    println!("masqueraded: learnt after {took:?}");
    println!("masqueraded: traffic after {:?}", heals(&world.staging, &world.local));
    connected(&local, SOON);
}

#[test]
fn a_nat_that_goes_on_rewriting_to_its_old_address_is_got_round() {
    if !enter("a_nat_that_goes_on_rewriting_to_its_old_address_is_got_round") {
        return;
    }
    let world = World::new(1500);
    let (old, new): (IpAddr, IpAddr) = ("198.51.100.66".parse().unwrap(), "198.51.100.77".parse().unwrap());
    world.router.add_address("outside", "198.51.100.66/24");
    world.nat(&Rule::new().oifname("outside").snat(old, None));
    let (local, staging) = world.start();
    assert_eq!(endpoint(&staging).map(|at| at.ip()), Some(old));
    // New flows get the new address; old ones keep the one that is no more, for as long as probes keep them alive.
    world.router.add_address("outside", "198.51.100.77/24");
    world.nat(&Rule::new().oifname("outside").snat(new, None));
    world.router.delete_address("outside", "198.51.100.66/24");
    world.drop_packets(Dropped::To(old));
    let started = Instant::now();
    println!("rewritten: traffic after {:?}", heals(&world.local, &world.staging));
    let is_there = |one: &daisy_api::Connection| {
        one.status == ConnectionStatus::Connected && one.endpoint.is_some_and(|at| at.ip() == new)
    };
    wait_for(&staging, SOON.saturating_sub(started.elapsed()), "connected at the new address", is_there);
    connected(&local, SOON);
}

#[test]
fn a_restart_of_the_side_that_dials_heals() {
    if !enter("a_restart_of_the_side_that_dials_heals") {
        return;
    }
    let world = World::new(1500);
    let (local, _staging) = world.start();
    local.stop();
    std::thread::sleep(Duration::from_millis(300));
    let local = world.local.start(world.local.config(), &[&world.staging]);
    println!("dialling side: traffic after {:?}", heals(&world.staging, &world.local));
    connected(&local, SOON);
}

#[test]
fn a_restart_of_the_side_that_is_dialled_heals() {
    if !enter("a_restart_of_the_side_that_is_dialled_heals") {
        return;
    }
    let world = World::new(1500);
    let (local, staging) = world.start();
    let known = staging.connections();
    staging.stop();
    // It remembers nothing: the other side has to notice.
    let staging = world.staging.start(world.staging.config(), &[&world.local]);
    println!("dialled side, without memory: traffic after {:?}", heals(&world.local, &world.staging));
    connected(&staging, SOON);
    staging.stop();
    // It remembers where the other side was, through the NAT, and is there at once.
    let mut config = world.staging.config();
    config.remembered = world.staging.remembered(&known);
    let staging = world.staging.start(config, &[&world.local]);
    let (_, took) = wait_for(&staging, Duration::from_secs(1), "connected", |one| one.status == ConnectionStatus::Connected);
    println!("dialled side, with memory: connected after {took:?}");
    println!("dialled side, with memory: traffic after {:?}", heals(&world.staging, &world.local));
    connected(&local, SOON);
}

#[test]
fn a_path_that_breaks_is_seen_and_heals() {
    if !enter("a_path_that_breaks_is_seen_and_heals") {
        return;
    }
    let world = World::new(1500);
    let (local, staging) = world.start();
    world.drop_packets(Dropped::All);
    let (broken, took) = wait_for(&local, SOON, "in error", |one| one.status == ConnectionStatus::Error);
    println!("broken: seen after {took:?}: {}", broken.status_message);
    wait_for(&staging, SOON, "in error", |one| one.status == ConnectionStatus::Error);
    world.drop_packets(Dropped::Nothing);
    println!("mended: traffic after {:?}", heals(&world.local, &world.staging));
    connected(&local, SOON);
    connected(&staging, SOON);
}

#[test]
fn an_active_path_that_breaks_is_seen_within_half_a_second() {
    if !enter("an_active_path_that_breaks_is_seen_within_half_a_second") {
        return;
    }
    let world = World::new(1500);
    let (local, _staging) = world.start();
    let server = serve(&world.staging, world.staging.pod(), 1);
    converse(&world.local, world.local.pod(), world.staging.pod(), 100_000, SOON).unwrap();
    server.join().unwrap();
    world.drop_packets(Dropped::All);
    let (_, took) = wait_for(&local, SOON, "in error", |one| one.status == ConnectionStatus::Error);
    println!("active: seen after {took:?}");
    assert!(took < Duration::from_millis(900), "{took:?}");
}

#[test]
fn a_plan_that_changes_leaves_the_others_alone() {
    if !enter("a_plan_that_changes_leaves_the_others_alone") {
        return;
    }
    let world = World::new(1500);
    let (local, staging) = world.start();
    let since = connected(&local, SOON).since;
    // A third cluster comes, without a gateway that could be reached, and goes.
    let third = Site::new("third", 3, &[]);
    local.apply(&world.local.plan(&[world.staging.cluster(false), third.cluster(false)]));
    assert_eq!(local.connections().len(), 2);
    assert_eq!(local.connections()[1].status, ConnectionStatus::Connecting);
    local.apply(&world.local.plan(&[world.staging.cluster(false)]));
    assert_eq!(connected(&local, SOON).since, since, "the connection to staging never changed");
    // The other one leaves, and comes back.
    local.apply(&world.local.plan(&[]));
    assert_eq!(local.connections(), []);
    local.apply(&world.local.plan(&[world.staging.cluster(false)]));
    println!("come back: traffic after {:?}", heals(&world.local, &world.staging));
    connected(&staging, SOON);
}

#[test]
fn a_second_gateway_takes_over_from_one_that_dies() {
    if !enter("a_second_gateway_takes_over_from_one_that_dies") {
        return;
    }
    let world = World::new(1500);
    // A second node of staging's, on a network of its own, which reaches the same pod.
    let mut second = Site::new("staging", 2, &[("203.0.113.2:41820", Reach::Public)]);
    second.node = 2;
    second.host.join("eth0", &world.router, "elsewhere", 1500);
    second.host.add_address("eth0", "203.0.113.2/24");
    world.router.add_address("elsewhere", "203.0.113.1/24");
    let first_running = world.staging.start(world.staging.config(), &[&world.local]);
    let second_running = second.start(second.config(), &[&world.local]);
    let local = world.local.start(world.local.config(), &[&world.staging]);
    let mut both = world.staging.cluster(false);
    both.spec.gateways.push(GatewayRecord { node: NodeName::new("staging-node2").unwrap(), ..second.record() });
    local.apply(&world.local.plan(&[both]));
    connected(&first_running, SOON);
    connected(&second_running, SOON);

    let ask = |at: &Site| serve(at, at.pod(), 1);
    let server = ask(&world.staging);
    converse(&world.local, world.local.pod(), world.staging.pod(), 1_000, SOON).unwrap();
    server.join().unwrap();
    let server = ask(&second);
    first_running.stop();
    let started = Instant::now();
    while converse(&world.local, world.local.pod(), second.pod(), 1_000, Duration::from_millis(100)).is_err() {
        assert!(started.elapsed() < SOON, "nobody takes over");
    }
    println!("second gateway: traffic after {:?}", started.elapsed());
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    server.join().unwrap();
}

/// Sessions are renewed each two minutes, and end after three where they are not.
#[test]
#[ignore = "takes four minutes"]
fn renewals_lose_nothing() {
    if !enter("renewals_lose_nothing") {
        return;
    }
    let world = World::new(1500);
    let (local, staging) = world.start();
    let since = (connected(&local, SOON).since, connected(&staging, SOON).since);
    let (from, to) = (world.local.pod(), world.staging.pod());
    let receiver = world.staging.host.run(|_| UdpSocket::bind("0.0.0.0:9000").unwrap());
    receiver.set_read_timeout(Some(SOON)).unwrap();
    let sender = world.local.host.run(move |_| {
        let socket = UdpSocket::bind((from, 0)).unwrap();
        socket.connect((to, 9000)).unwrap();
        socket
    });
    let started = Instant::now();
    let mut number = 0u32;
    while started.elapsed() < Duration::from_secs(250) {
        sender.send(&number.to_be_bytes()).unwrap();
        let mut buffer = [0; 4];
        receiver.recv(&mut buffer).unwrap_or_else(|error| panic!("{number} was lost after {:?}: {error}", started.elapsed()));
        assert_eq!(buffer, number.to_be_bytes());
        number += 1;
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!((connected(&local, SOON).since, connected(&staging, SOON).since), since, "connected all the time");
}
