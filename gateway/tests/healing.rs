//! Two data paths in network namespaces, with a router between them: what breaks, and how soon it works again by itself.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use common::enter;
use common::site::{Dropped, Site, World, connected, converse, serve, wait_for};
use daisy_api::ConnectionStatus;
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
