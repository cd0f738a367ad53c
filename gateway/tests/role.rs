//! The gateway's role against the embedded API server: what it makes of its node and the clusters, and what it leaves.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use common::api_server::ApiServer;
use common::enter;
use common::site::{DEVICE, PORT, Site, World, converse, serve};
use daisy_api::conditions::{READY, find, is_true};
use daisy_api::labels::SYSTEM_NAMESPACE;
use daisy_api::{Cluster, ConnectionStatus, GatewayStatus, HaStatus, NodeName, Reach};
use daisy_api_server::ResourceKey;
use daisy_gateway::GatewayOptions;
use serde_json::json;

const SOON: Duration = Duration::from_secs(5);

fn options(site: &Site) -> GatewayOptions {
    GatewayOptions::new(NodeName::new(format!("{}-node", site.id)).unwrap())
}

/// The other site's Cluster as a syncer would write it: with the gateway that the other's Gateway object names.
fn told(site: &Site, status: &GatewayStatus) -> Cluster {
    let mut cluster = site.cluster(false);
    cluster.spec.gateways = vec![status.local_endpoint.clone().unwrap()];
    cluster
}

fn is_connected(status: &GatewayStatus) -> bool {
    matches!(&status.connections[..], [one] if one.status == ConnectionStatus::Connected && one.latency.is_some())
}

#[test]
fn from_the_objects_to_a_tunnel_and_back_to_nothing() {
    if !enter("from_the_objects_to_a_tunnel_and_back_to_nothing") {
        return;
    }
    let world = World::new(1500);
    let (here, there) = (&world.local, &world.staging);
    let (mut here_api, there_api) = (ApiServer::start(&here.host), ApiServer::start(&there.host));
    here_api.add_node(here, "192.168.51.3");
    there_api.add_node(there, "198.51.100.2");
    let here_role = here_api.run(here, options(here));
    let there_role = there_api.run(there, options(there));

    let waiting = here_api.wait_for(here, "waiting", |status| find(&status.conditions, READY).is_some());
    assert_eq!(find(&waiting.conditions, READY).unwrap().reason, "WaitingForNodeAddress");
    assert_eq!(waiting.ha_status, HaStatus::Passive);
    let owners = here_api.gateway(here).and_then(|gateway| gateway.metadata.owner_references).unwrap_or_default();
    assert_eq!(owners.iter().map(|owner| owner.kind.as_str()).collect::<Vec<_>>(), ["Node"], "it goes with its node");
    here_api.annotate_node(here);
    there_api.annotate_node(there);
    let is_ready = |status: &GatewayStatus| is_true(&status.conditions, READY) && status.local_endpoint.is_some();
    let here_status = here_api.wait_for(here, "ready", is_ready);
    let there_status = there_api.wait_for(there, "ready", is_ready);
    let record = there_status.local_endpoint.clone().unwrap();
    assert_eq!(record.address, there.address());
    assert_eq!(
        (record.endpoints[0].address, record.endpoints[0].reach),
        ("198.51.100.2:41820".parse().unwrap(), Reach::Public)
    );
    assert_eq!(here_status.local_endpoint.as_ref().unwrap().endpoints[0].reach, Reach::Private);
    assert!(here_api.secret(here).is_some());

    // One that does not parse stops nobody.
    let broken = json!({ "apiVersion": "daisy.supercluster.local/v1alpha1", "kind": "Cluster", "metadata": { "name": "broken", "namespace": SYSTEM_NAMESPACE },
        "spec": { "envelope": { "sequence": 1 }, "clusterCidrs": ["10.77.0.1/16"], "serviceCidrs": ["10.177.0.0/16"], "nodeCidr": "100.80.77.0/24" } });
    here_api.apply(broken);
    here_api.add_cluster(&here.cluster(true));
    there_api.add_cluster(&there.cluster(true));
    let clock = Instant::now();
    there_api.add_cluster(&told(here, &here_status));
    here_api.add_cluster(&told(there, &there_status));
    let connected = here_api.wait_for(here, "connected", is_connected);
    println!("from the records to a connection with its round-trip time in the Gateway: {:?}", clock.elapsed());
    assert!(is_true(&connected.conditions, "RecordsUsable"), "{:?}", connected.conditions);
    assert_eq!(connected.ha_status, HaStatus::Active);
    let through_nat = there_api.wait_for(there, "connected", is_connected);
    assert!(through_nat.connections[0].using_nat);

    for (site, other) in [(here, there), (there, here)] {
        for cidr in other.cluster(false).spec.cidrs() {
            site.host.add_route(&cidr.to_string(), None, Some(DEVICE));
        }
    }
    // Without its API server it goes on, and a restart of the other side's gateway keeps its key and is got over.
    here_api.stop();
    there_role.stop().unwrap();
    assert!(there.host.device(DEVICE).is_some(), "the device stays");
    // Times in objects have seconds.
    std::thread::sleep(Duration::from_millis(1_100));
    let there_role = there_api.run(there, options(there));
    let again = there_api.wait_for(there, "connected again", |status| {
        is_connected(status) && status.connections[0].since > through_nat.connections[0].since
    });
    assert_eq!(again.local_endpoint, through_nat.local_endpoint);
    let server = serve(there, there.pod(), 1);
    converse(here, here.pod(), there.pod(), 100_000, SOON).unwrap();
    server.join().unwrap();
    here_role.stop().unwrap();

    // The cluster leaves.
    let clusters = ResourceKey::new(daisy_api::labels::GROUP, "clusters");
    there_api.patch(&clusters, there.id, json!({ "spec": { "leaving": true } }));
    let clock = Instant::now();
    while there_api.gateway(there).is_some() || there_api.secret(there).is_some() {
        assert!(clock.elapsed() < SOON, "the Gateway or its Secret stays");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(there.host.device(DEVICE).is_none());
    std::thread::sleep(Duration::from_millis(100));
    assert!(there_api.gateway(there).is_none(), "nothing is made again");
    assert!(!there_role.thread.is_finished(), "it idles until it is told to end");
    there_role.stop().unwrap();
}

#[test]
fn a_node_that_is_no_gateway_any_more_is_forgotten() {
    if !enter("a_node_that_is_no_gateway_any_more_is_forgotten") {
        return;
    }
    let world = World::new(1500);
    let site = &world.staging;
    let api = ApiServer::start(&site.host);
    api.add_node(site, "198.51.100.2");
    api.annotate_node(site);
    let role = api.run(site, options(site));
    api.wait_for(site, "ready", |status| is_true(&status.conditions, READY) && status.local_endpoint.is_some());
    api.unlabel_node(site);
    let clock = Instant::now();
    while !role.thread.is_finished() {
        assert!(clock.elapsed() < SOON, "it still runs");
        std::thread::sleep(Duration::from_millis(5));
    }
    role.stop().unwrap();
    assert!(api.gateway(site).is_none() && api.secret(site).is_none(), "the Gateway or its Secret stays");
    assert!(site.host.device(DEVICE).is_none(), "the device stays");
}

#[test]
fn what_keeps_it_from_working_is_said_on_the_gateway() {
    if !enter("what_keeps_it_from_working_is_said_on_the_gateway") {
        return;
    }
    let world = World::new(1500);
    let site = &world.staging;
    let api = ApiServer::start(&site.host);
    api.add_node(site, "198.51.100.2");
    api.annotate_node(site);
    let holder = site.host.run(|_| UdpSocket::bind(("0.0.0.0", PORT)).unwrap());
    let error = api.run(site, options(site)).thread.join().unwrap().expect_err("the port is in use");
    assert!(error.to_string().contains("41820 is in use"), "{error}");
    let status = api.wait_for(site, "refused", |status| !is_true(&status.conditions, READY));
    let condition = find(&status.conditions, READY).unwrap();
    assert_eq!(condition.reason, "PortInUse");
    assert!(condition.message.contains("daisy join --tunnel-port"), "{}", condition.message);
    assert!(site.host.device(DEVICE).is_none(), "nothing half-done");
    drop(holder);

    // Another port does; the public addresses of the options come first.
    let mut options = options(site);
    options.port = 41999;
    options.public_addresses = vec!["203.0.113.200".parse().unwrap()];
    let role = api.run(site, options);
    let status = api.wait_for(site, "ready", |status| is_true(&status.conditions, READY) && status.local_endpoint.is_some());
    let endpoints: Vec<String> = status.local_endpoint.unwrap().endpoints.iter().map(|one| one.address.to_string()).collect();
    assert_eq!(endpoints, ["203.0.113.200:41999", "198.51.100.2:41999"]);
    // Removed under it, the device is missed at once.
    site.host.delete_device(DEVICE);
    let error = role.thread.join().unwrap().expect_err("the device is gone");
    assert!(error.to_string().contains("was it removed?"), "{error}");
    let status = api.wait_for(site, "refused", |status| !is_true(&status.conditions, READY));
    assert_eq!(find(&status.conditions, READY).unwrap().reason, "DataPathEnded");

    // A Secret that holds no key is named, not overwritten.
    let spoilt = json!({ "data": { "privateKey": "bm9uc2Vuc2U=" } });
    api.patch_secret(site, spoilt);
    let error = api.run(site, self::options(site)).thread.join().unwrap().expect_err("no key");
    assert!(error.to_string().contains("Secret daisy-gateway-keys/daisy-gateway-key-staging-node, key privateKey"), "{error}");
}
