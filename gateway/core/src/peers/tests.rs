use daisy_api::{Cluster, ClusterSpec, Envelope, TunnelEndpoint, labels};
use proptest::prelude::*;

use super::*;
use crate::clusters::Membership;

fn cidr(text: &str) -> Cidr {
    text.parse().expect("a CIDR")
}

fn key(byte: u8) -> PublicKey {
    PublicKey::from_bytes([byte; 32])
}

fn endpoint(text: &str, reach: Reach) -> TunnelEndpoint {
    TunnelEndpoint { address: text.parse().expect("a socket address"), reach }
}

fn gateway(byte: u8, address: &str, endpoints: Vec<TunnelEndpoint>) -> GatewayRecord {
    let node = NodeName::new(format!("node{byte}")).expect("a name");
    GatewayRecord { node, public_key: key(byte), address: address.parse().expect("an address"), endpoints }
}

/// The `n`th cluster: pods 10.n.0.0/16, Services 10.(100+n).0.0/16, nodes 100.80.n.0/24.
fn cluster(id: &str, n: u8, exporter: bool, gateways: Vec<GatewayRecord>) -> Cluster {
    let spec = ClusterSpec {
        envelope: Envelope::default(),
        cluster_cidrs: vec![cidr(&format!("10.{n}.0.0/16"))],
        service_cidrs: vec![cidr(&format!("10.{}.0.0/16", 100 + n))],
        node_cidr: cidr(&format!("100.80.{n}.0/24")),
        exporter,
        gateways,
        consumes: Vec::new(),
        leaving: false,
        version: String::new(),
    };
    let mut cluster = Cluster::new(id, spec);
    cluster.metadata.labels = Some(BTreeMap::from([(labels::CLUSTER_ROLE.to_owned(), labels::CLUSTER_ROLE_REMOTE.to_owned())]));
    cluster
}

fn local(mut cluster: Cluster) -> Cluster {
    let role = (labels::CLUSTER_ROLE.to_owned(), labels::CLUSTER_ROLE_LOCAL.to_owned());
    cluster.metadata.labels = Some(BTreeMap::from([role]));
    cluster
}

fn followed(clusters: &[Cluster]) -> Clusters {
    let mut followed = Clusters::new();
    followed.handle_all(clusters, &[]);
    followed
}

fn own() -> IpAddr {
    "100.80.1.1".parse().expect("an address")
}

#[test]
fn a_tunnel_wherever_one_of_the_two_may_export() {
    let consumer = |n: u8| cluster(&format!("laptop{n}"), n, false, vec![gateway(n, &format!("100.80.{n}.1"), vec![])]);
    let staging = cluster("staging", 20, true, vec![gateway(20, "100.80.20.1", vec![])]);
    let laptops = 1..=10u8;
    for own in laptops.clone() {
        let others = laptops.clone().filter(|n| *n != own).map(consumer);
        let all: Vec<Cluster> = others.chain([local(consumer(own)), staging.clone()]).collect();
        let address = format!("100.80.{own}.1").parse().expect("an address");
        let on_a_laptop = plan(&followed(&all), &key(own), address);
        assert_eq!(on_a_laptop.peers.keys().collect::<Vec<_>>(), [&key(20)], "no laptop has to do with another");
        assert_eq!(on_a_laptop.clusters.iter().map(|cluster| cluster.id.as_str()).collect::<Vec<_>>(), ["staging"]);
    }
    let own: IpAddr = "100.80.20.1".parse().expect("an address");
    let all: Vec<Cluster> = laptops.map(consumer).chain([local(staging)]).collect();
    let on_staging = plan(&followed(&all), &key(20), own);
    assert_eq!(on_staging.peers.len(), 10);
    assert_eq!(on_staging.issues, []);
}

#[test]
fn nothing_is_planned_before_the_local_cluster_is_known() {
    let clusters = followed(&[cluster("staging", 9, true, vec![gateway(9, "100.80.9.1", vec![])])]);
    assert_eq!(plan(&clusters, &key(1), own()), Plan::default());
    assert_eq!(clusters.membership(), Membership::Unknown);
}

#[test]
fn public_endpoints_are_tried_first_and_none_inside_a_tunnel() {
    let endpoints = vec![
        endpoint("192.168.7.3:41820", Reach::Private),
        endpoint("10.1.0.7:41820", Reach::Private),
        endpoint("10.9.0.7:41820", Reach::Private),
        endpoint("127.0.0.1:53", Reach::Public),
        endpoint("198.51.100.3:41820", Reach::Public),
    ];
    let clusters = followed(&[
        local(cluster("local", 1, false, vec![])),
        cluster("a", 2, true, vec![gateway(2, "100.80.2.1", endpoints)]),
        cluster("b", 9, true, vec![]),
    ]);
    let plan = plan(&clusters, &key(1), own());
    let tried: Vec<String> = plan.peers[&key(2)].candidates.iter().map(ToString::to_string).collect();
    assert_eq!(tried, ["198.51.100.3:41820", "192.168.7.3:41820"]);
    let said: Vec<String> = plan.issues.iter().map(ToString::to_string).collect();
    assert_eq!(said.len(), 3, "{said:?}");
    assert!(said[0].contains("Cluster a, gateway node2") && said[0].contains("127.0.0.1:53"), "{}", said[0]);
}

#[test]
fn what_cannot_be_right_is_left_out_and_named() {
    let many: Vec<GatewayRecord> = (20..30).map(|n| gateway(n, "100.80.4.1", vec![])).collect();
    let clusters = followed(&[
        local(cluster("local", 1, true, vec![])),
        cluster("a-same-range", 1, true, vec![gateway(5, "100.80.1.9", vec![])]),
        cluster("b", 2, true, vec![gateway(1, "100.80.2.1", vec![]), gateway(6, "100.80.77.1", vec![])]),
        cluster("c-same-as-b", 2, true, vec![]),
        cluster("d", 4, true, many),
    ]);
    let plan = plan(&clusters, &key(1), own());
    let kinds: Vec<&IssueKind> = plan.issues.iter().map(|issue| &issue.kind).collect();
    assert_eq!(kinds.iter().filter(|kind| matches!(kind, IssueKind::OverlapsLocal { .. })).count(), 3);
    assert_eq!(kinds.iter().filter(|kind| matches!(kind, IssueKind::OverlapsRemote { .. })).count(), 3);
    assert_eq!(kinds.iter().filter(|kind| matches!(kind, IssueKind::AddressOutside { .. })).count(), 2);
    assert_eq!(kinds.iter().filter(|kind| matches!(kind, IssueKind::KeyTaken)).count(), 1);
    assert_eq!(kinds.iter().filter(|kind| matches!(kind, IssueKind::TooManyGateways)).count(), 2);
    assert_eq!(plan.peers.len(), 8);
}

#[test]
fn heartbeats_change_nothing_and_deletions_do() {
    let staging = cluster("staging", 9, true, vec![gateway(9, "100.80.9.1", vec![])]);
    let mut clusters = followed(&[local(cluster("local", 1, false, vec![])), staging.clone()]);
    let mut newer = staging.clone();
    newer.spec.envelope.sequence += 1;
    newer.spec.version = "0.2.0".to_owned();
    assert!(!clusters.handle_applied(&newer));
    newer.spec.gateways.clear();
    assert!(clusters.handle_applied(&newer));
    assert!(!clusters.handle_deleted("never-there"));
    assert!(
        !clusters.handle_all(&[local(cluster("local", 1, false, vec![]))], &["staging".to_owned()]),
        "unreadable is not gone"
    );
    assert!(clusters.handle_all(&[local(cluster("local", 1, false, vec![]))], &[]));
    assert_eq!(clusters.membership(), Membership::Member);
    let mut leaving = local(cluster("local", 1, false, vec![]));
    leaving.spec.leaving = true;
    assert!(clusters.handle_applied(&leaving));
    assert_eq!(clusters.membership(), Membership::Leaving);
    assert!(clusters.handle_deleted("local"));
    assert_eq!(clusters.membership(), Membership::Leaving, "deleted after having existed");
    assert!(clusters.handle_applied(&local(cluster("local", 1, false, vec![]))));
    assert_eq!(clusters.membership(), Membership::Member, "joined anew");
}

proptest! {
    #[test]
    fn no_address_is_planned_twice(
        order in Just((2u8..12).collect::<Vec<_>>()).prop_shuffle(),
        ranges in prop::collection::vec(0u8..12, 10),
        keys in prop::collection::vec(0u8..12, 10),
    ) {
        let mut objects = vec![local(cluster("local", 1, true, vec![]))];
        for ((id, range), byte) in order.iter().zip(&ranges).zip(&keys) {
            let record = gateway(*byte, &format!("100.80.{range}.1"), vec![]);
            objects.push(cluster(&format!("c{id}"), *range, true, vec![record]));
        }
        let plan = plan(&followed(&objects), &key(1), own());
        let mut all: Vec<Cidr> = plan.local.clone();
        for cluster in &plan.clusters {
            for cidr in &cluster.cidrs {
                prop_assert!(!all.iter().any(|known| known.overlaps(cidr)));
            }
            all.extend(&cluster.cidrs);
            for key in &cluster.gateways {
                prop_assert_eq!(&plan.peers[key].cluster, &cluster.id);
            }
        }
        prop_assert_eq!(plan.clusters.iter().map(|cluster| cluster.gateways.len()).sum::<usize>(), plan.peers.len());
        prop_assert!(!plan.peers.contains_key(&key(1)), "never a peer of its own");
    }
}

#[test]
fn a_cluster_s_own_cidrs_may_lie_inside_one_another() {
    let mut nested = cluster("b", 2, true, vec![]);
    nested.spec.cluster_cidrs = vec![cidr("10.2.0.0/16"), cidr("10.2.7.0/24"), cidr("10.2.0.0/15"), cidr("10.3.1.0/24")];
    let clusters = followed(&[local(cluster("local", 1, true, vec![])), nested, cluster("c", 3, true, vec![])]);
    let plan = plan(&clusters, &key(1), own());
    assert_eq!(plan.clusters[0].cidrs.len(), 6);
    let [issue] = &plan.issues[..] else { panic!("{:?}", plan.issues) };
    assert!(issue.to_string().contains("Cluster c: its CIDR 10.3.0.0/16 overlaps 10.2.0.0/15 of cluster b"), "{issue}");
}
