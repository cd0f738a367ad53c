use std::collections::BTreeMap;

use daisy_api::keys::{PublicKey, VerifyingKey};
use daisy_api::{Envelope, ExportType, GatewayRecord, Grant, NodeName, Protocol, Reach, ServicePort, TunnelEndpoint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use proptest::prelude::*;

use super::*;

fn id() -> ClusterId {
    ClusterId::new("staging").expect("a cluster ID")
}

fn cidrs(texts: &[&str]) -> Vec<Cidr> {
    texts.iter().map(|text| text.parse().expect("a CIDR")).collect()
}

fn member(grant: &str) -> MemberSpec {
    MemberSpec {
        cluster_uid: "uid".into(),
        cluster_cidrs: cidrs(&["10.10.0.0/16", "fd00:10::/56"]),
        service_cidrs: cidrs(&["10.20.0.0/16"]),
        node_cidr: "100.80.0.0/20".parse().expect("a CIDR"),
        grant: grant.parse().expect("a grant"),
        signing_key: VerifyingKey::from_bytes([1; 32]),
        invitation: String::new(),
    }
}

fn an_export(namespace: &str, ips: &[&str]) -> ExportSpec {
    let key = ServiceKey::parse(namespace, "web").expect("a key");
    ExportSpec {
        envelope: Envelope::default(),
        namespace: key.namespace,
        name: key.name,
        exported_at: Time(Timestamp::UNIX_EPOCH),
        type_: ExportType::ClusterSetIp,
        ports: vec![ServicePort { name: String::new(), protocol: Protocol::Tcp, port: 80, app_protocol: None }],
        cluster_ips: ips.iter().map(|ip| ip.parse().expect("an address")).collect(),
        session_affinity: Default::default(),
        session_affinity_seconds: None,
        ip_families: vec![IpFamily::V4],
        internal_traffic_policy: None,
        traffic_distribution: None,
        exported_labels: BTreeMap::new(),
        exported_annotations: BTreeMap::new(),
    }
}

fn some_endpoints(namespace: &str, addresses: &[&str]) -> ExportEndpointsSpec {
    let key = ServiceKey::parse(namespace, "web").expect("a key");
    ExportEndpointsSpec {
        envelope: Envelope::default(),
        namespace: key.namespace,
        name: key.name,
        address_type: IpFamily::V4,
        endpoints: addresses
            .iter()
            .map(|address| Endpoint {
                addresses: vec![address.parse().expect("an address")],
                ready: true,
                serving: true,
                terminating: false,
                hostname: None,
                zone: None,
            })
            .collect(),
        ports: Vec::new(),
    }
}

fn a_cluster(grant_exports: bool) -> ClusterSpec {
    let of = member("all");
    ClusterSpec {
        envelope: Envelope::default(),
        cluster_cidrs: of.cluster_cidrs,
        service_cidrs: of.service_cidrs,
        node_cidr: of.node_cidr,
        exporter: grant_exports,
        gateways: vec![gateway(1, "100.80.0.1"), gateway(2, "100.80.0.2")],
        consumes: Vec::new(),
        leaving: false,
        version: String::new(),
    }
}

fn gateway(n: u8, address: &str) -> GatewayRecord {
    GatewayRecord {
        node: NodeName::new(format!("node-{n}")).expect("a node name"),
        public_key: PublicKey::from_bytes([n; 32]),
        address: address.parse().expect("an address"),
        endpoints: vec![TunnelEndpoint { address: "203.0.113.7:41820".parse().expect("an endpoint"), reach: Reach::Public }],
    }
}

#[test]
fn an_export_stays_inside_the_grant_and_the_service_cidrs() {
    let spec = an_export("shop-eu", &["10.20.0.5"]);
    assert_eq!(export(&id(), &member("shop-*"), "web.shop-eu", &spec), Ok(()));
    let refusal = export(&id(), &member("web"), "web.shop-eu", &spec).expect_err("outside the grant");
    let text = refusal.to_string();
    assert!(
        text.contains("Export daisy-cluster-staging/web.shop-eu") && text.contains("daisy grant staging 'web,shop-eu'"),
        "{text}"
    );
    assert!(matches!(
        export(&id(), &member("all"), "other.shop-eu", &spec),
        Err(Refusal::WrongName { expected, .. }) if &*expected == "web.shop-eu"
    ));
    let outside = an_export("shop-eu", &["10.10.0.5"]);
    assert!(matches!(export(&id(), &member("all"), "web.shop-eu", &outside), Err(Refusal::AddressOutside { .. })));
    assert!(export(&id(), &member("none"), "web.shop-eu", &spec).is_err());
}

#[test]
fn endpoints_outside_the_ranges_are_dropped_and_named() {
    let spec = some_endpoints("shop", &["10.10.3.4", "10.20.0.5", "169.254.169.254", "127.0.0.1", "100.80.0.9", "8.8.8.8"]);
    let name = "web.shop.0a1b2c";
    let all = admissible_endpoints(&id(), &member("all"), name, &spec).expect("the record stands");
    let kept: Vec<String> = all.endpoints.iter().map(|e| e.addresses[0].to_string()).collect();
    assert_eq!(kept, ["10.10.3.4", "100.80.0.9"]);
    assert_eq!(all.dropped.len(), 4);
    assert!(all.dropped[1].to_string().contains("link-local"), "{}", all.dropped[1]);
    assert!(endpoints(&id(), &member("all"), name, &spec).is_err());
    assert!(admissible_endpoints(&id(), &member("none"), name, &spec).is_err());
    for bad in ["web.shop", "web.shop.", "web.shop.a.b", "web.shopx.a", "x"] {
        assert!(matches!(endpoints(&id(), &member("all"), bad, &spec), Err(Refusal::WrongName { .. })), "{bad}");
    }
}

#[test]
fn one_bad_address_drops_its_endpoint() {
    let mut spec = some_endpoints("shop", &["10.10.3.4"]);
    spec.endpoints[0].addresses.push("1.1.1.1".parse().expect("an address"));
    let all = admissible_endpoints(&id(), &member("all"), "web.shop.h", &spec).expect("the record stands");
    assert!(all.endpoints.is_empty() && all.dropped.len() == 1);
    spec.endpoints[0].addresses[1] = "fd00:10::7".parse().expect("an address");
    assert!(matches!(endpoints(&id(), &member("all"), "web.shop.h", &spec), Err(Refusal::WrongFamily { .. })));
}

#[test]
fn a_cluster_says_what_its_member_says() {
    assert_eq!(cluster(&id(), &member("all"), "staging", &a_cluster(true)), Ok(()));
    assert_eq!(cluster(&id(), &member("all"), "staging", &a_cluster(false)), Ok(()));
    assert_eq!(cluster(&id(), &member("none"), "staging", &a_cluster(false)), Ok(()));
    assert!(matches!(
        cluster(&id(), &member("none"), "staging", &a_cluster(true)),
        Err(Refusal::NotTheMembers { field: "spec.exporter", .. })
    ));
    let taken = admissible_cluster(&id(), &member("none"), "staging", &a_cluster(true)).expect("a reader takes it");
    assert!(!taken.exporter);
    assert!(matches!(cluster(&id(), &member("all"), "local", &a_cluster(true)), Err(Refusal::WrongName { .. })));

    let mut wider = a_cluster(true);
    wider.cluster_cidrs[0] = "10.0.0.0/8".parse().expect("a CIDR");
    assert!(matches!(
        admissible_cluster(&id(), &member("all"), "staging", &wider),
        Err(Refusal::NotTheMembers { field: "spec.clusterCidrs", .. })
    ));
    let mut swapped = a_cluster(true);
    swapped.cluster_cidrs.reverse();
    assert_eq!(cluster(&id(), &member("all"), "staging", &swapped), Ok(()));
}

#[test]
fn gateways_are_where_they_may_be() {
    let with = |change: &dyn Fn(&mut Vec<GatewayRecord>)| {
        let mut spec = a_cluster(true);
        change(&mut spec.gateways);
        cluster(&id(), &member("all"), "staging", &spec)
    };
    assert!(matches!(with(&|g| g[0].address = "10.10.0.1".parse().expect("ip")), Err(Refusal::AddressOutside { .. })));
    assert!(matches!(with(&|g| g[1].public_key = g[0].public_key), Err(Refusal::Duplicate { .. })));
    assert!(matches!(with(&|g| g[1].node = g[0].node.clone()), Err(Refusal::Duplicate { .. })));
    assert!(matches!(with(&|g| g[1].address = g[0].address), Err(Refusal::Duplicate { .. })));
    for bad in ["127.0.0.1:1", "[::1]:1", "224.0.0.1:1", "169.254.1.1:1", "[fe80::1]:1", "0.0.0.0:1", "[::ffff:127.0.0.1]:1"] {
        let change = |g: &mut Vec<GatewayRecord>| g[0].endpoints[0].address = bad.parse().expect("an endpoint");
        assert!(matches!(with(&change), Err(Refusal::SpecialAddress { .. })), "{bad}");
    }
    let zero = |g: &mut Vec<GatewayRecord>| g[0].endpoints[0].address.set_port(0);
    assert!(matches!(with(&zero), Err(Refusal::PortZero { .. })));
    let many = |g: &mut Vec<GatewayRecord>| *g = (1..=9).map(|n| gateway(n, &format!("100.80.0.{n}"))).collect();
    assert!(matches!(with(&many), Err(Refusal::TooMany { count: 9, .. })));
}

proptest! {
    #[test]
    fn what_is_admitted_lies_in_the_ranges(words in proptest::collection::vec(any::<u32>(), 0..20), near in any::<bool>()) {
        let mut spec = some_endpoints("shop", &[]);
        for word in words {
            let word = if near { 0x0a0a_0000 | (word & 0x001f_ffff) } else { word };
            let mut one = some_endpoints("shop", &["10.10.0.1"]).endpoints.remove(0);
            one.addresses = vec![IpAddr::V4(word.into())];
            spec.endpoints.push(one);
        }
        let of = member("all");
        let all = admissible_endpoints(&id(), &of, "web.shop.h", &spec).expect("the record stands");
        prop_assert_eq!(all.endpoints.len() + all.dropped.len(), spec.endpoints.len());
        for one in &all.endpoints {
            prop_assert!(endpoint_ranges(&of).iter().any(|range| range.contains(one.addresses[0])));
        }
        prop_assert_eq!(endpoints(&id(), &of, "web.shop.h", &spec).is_ok(), all.dropped.is_empty());
    }

    #[test]
    fn no_grant_no_export(namespace in "[a-z]{1,6}", grant in "[a-z]{1,3}\\*?") {
        let grant: Grant = grant.parse().expect("a pattern");
        let mut of = member("none");
        of.grant = grant.clone();
        let spec = an_export(&namespace, &[]);
        let allowed = grant.allows(&spec.namespace);
        prop_assert_eq!(export(&id(), &of, &spec.key().record_name(), &spec).is_ok(), allowed);
    }
}
