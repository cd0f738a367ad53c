//! KEP-1645's rules for what several exports of one name make together.

use daisy_api::{Envelope, ServiceKey};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use proptest::prelude::*;

use super::*;

fn id(text: &str) -> ClusterId {
    ClusterId::new(text).expect("an ID")
}

fn port(name: &str, number: u16) -> ServicePort {
    ServicePort { name: name.to_owned(), protocol: Protocol::Tcp, port: number, app_protocol: None }
}

fn export(at: i64, ports: Vec<ServicePort>) -> ExportSpec {
    let key = ServiceKey::parse("shop", "cart").expect("a key");
    ExportSpec {
        envelope: Envelope::default(),
        namespace: key.namespace,
        name: key.name,
        exported_at: Time(Timestamp::from_second(1_767_000_000 + at).expect("in range")),
        type_: ExportType::ClusterSetIp,
        ports,
        cluster_ips: Vec::new(),
        session_affinity: SessionAffinity::None,
        session_affinity_seconds: None,
        ip_families: vec![IpFamily::V4],
        internal_traffic_policy: None,
        traffic_distribution: None,
        exported_labels: BTreeMap::new(),
        exported_annotations: BTreeMap::new(),
    }
}

fn merged(exports: &[(&str, ExportSpec)]) -> Merged {
    let ids: Vec<(ClusterId, &ExportSpec)> = exports.iter().map(|(name, spec)| (id(name), spec)).collect();
    merge(ids.iter().map(|(id, spec)| (id, *spec))).expect("exports")
}

fn reasons(merged: &Merged) -> Vec<&'static str> {
    merged.conflicts.iter().map(|conflict| conflict.kind.reason()).collect()
}

#[test]
fn no_export_is_no_import() {
    assert_eq!(merge([]), None);
}

#[test]
fn the_oldest_wins_and_the_cluster_id_breaks_the_tie() {
    let mut headless = export(5, vec![port("http", 80)]);
    headless.type_ = ExportType::Headless;
    let younger = export(6, vec![port("http", 80)]);
    assert_eq!(merged(&[("a", younger.clone()), ("b", headless.clone())]).type_, ExportType::Headless);
    headless.exported_at = younger.exported_at.clone();
    assert_eq!(merged(&[("a", younger), ("b", headless)]).type_, ExportType::ClusterSetIp);
}

#[test]
fn ports_are_a_union() {
    let first = export(1, vec![port("http", 80)]);
    let second = export(2, vec![port("http", 80), port("metrics", 9090)]);
    let both = merged(&[("a", first), ("b", second)]);
    assert_eq!(both.ports, [port("http", 80), port("metrics", 9090)]);
    assert_eq!(reasons(&both), ["PortConflict"], "the ports differ, though nobody loses one");
    assert!(both.conflicts[0].message.contains("a has no port metrics (TCP 9090), which b has"), "{:?}", both.conflicts);
    assert!(!both.port_names[&id("a")].contains_key("metrics"), "traffic for it goes to who has it");
}

#[test]
fn a_port_that_conflicts_is_not_its_clusters_any_longer() {
    let first = export(1, vec![port("http", 80)]);
    for other in [port("http", 81), port("web", 80)] {
        let both = merged(&[("a", first.clone()), ("b", export(2, vec![other, port("x", 1)]))]);
        assert_eq!(reasons(&both), ["PortConflict"]);
        assert_eq!(both.ports, [port("http", 80), port("x", 1)]);
        assert_eq!(both.port_names[&id("b")].keys().collect::<Vec<_>>(), ["x"]);
    }
    let udp = ServicePort { protocol: Protocol::Udp, ..port("dns", 80) };
    let both = merged(&[("a", first), ("b", export(2, vec![udp]))]);
    assert_eq!(both.port_names[&id("b")].keys().collect::<Vec<_>>(), ["dns"], "another protocol is another port");
}

#[test]
fn every_difference_has_its_reason() {
    let plain = || export(2, vec![port("http", 80)]);
    type Change = fn(&mut ExportSpec);
    let changes: [(&str, Change); 8] = [
        ("TypeConflict", |e| e.type_ = ExportType::Headless),
        ("SessionAffinityConflict", |e| {
            (e.session_affinity, e.session_affinity_seconds) = (SessionAffinity::ClientIp, Some(60));
        }),
        ("LabelsConflict", |e| e.exported_labels = [("team".to_owned(), "x".to_owned())].into()),
        ("AnnotationsConflict", |e| e.exported_annotations = [("team".to_owned(), "x".to_owned())].into()),
        ("InternalTrafficPolicyConflict", |e| e.internal_traffic_policy = Some("Local".to_owned())),
        ("TrafficDistributionConflict", |e| e.traffic_distribution = Some("PreferClose".to_owned())),
        ("IPFamilyConflict", |e| e.ip_families = vec![IpFamily::V4, IpFamily::V6]),
        ("PortConflict", |e| e.ports = vec![port("http", 81)]),
    ];
    for (reason, change) in changes {
        let mut other = plain();
        change(&mut other);
        let mut first = plain();
        first.exported_at = export(1, Vec::new()).exported_at;
        let both = merged(&[("a", first.clone()), ("b", other)]);
        assert_eq!(reasons(&both), [reason]);
        assert!(both.conflicts[0].message.contains("older a"), "{}", both.conflicts[0].message);
        let alone = merged(&[("a", first)]);
        assert_eq!((both.type_, &both.labels, &both.ip_families), (alone.type_, &alone.labels, &alone.ip_families));
    }
    let affinity = |seconds| {
        let mut one = plain();
        (one.session_affinity, one.session_affinity_seconds) = (SessionAffinity::ClientIp, Some(seconds));
        one
    };
    assert_eq!(reasons(&merged(&[("a", affinity(1)), ("b", affinity(2))])), ["SessionAffinityConfigConflict"]);
}

#[test]
fn ports_without_a_name_get_one_where_there_are_several() {
    let both = merged(&[("a", export(1, vec![port("", 80)])), ("b", export(2, vec![port("tcp-80", 81)]))]);
    let names: Vec<&str> = both.ports.iter().map(|port| port.name.as_str()).collect();
    assert_eq!(names, ["tcp-80-2", "tcp-80"]);
    assert_eq!(both.port_names[&id("a")][""], "tcp-80-2");
}

fn any_export() -> impl Strategy<Value = ExportSpec> {
    let name = prop::sample::select(vec!["", "http", "web", "x"]);
    let ports = prop::collection::vec((name, 79..83u16, any::<bool>()), 0..4);
    (0..4i64, ports, any::<bool>(), any::<bool>()).prop_map(|(at, ports, headless, dual)| {
        let protocol = |udp| if udp { Protocol::Udp } else { Protocol::Tcp };
        let ports = ports.into_iter().map(|(name, number, udp)| ServicePort { protocol: protocol(udp), ..port(name, number) });
        let mut export = export(at, ports.collect());
        export.type_ = if headless { ExportType::Headless } else { ExportType::ClusterSetIp };
        export.ip_families.extend(dual.then_some(IpFamily::V6));
        export
    })
}

proptest! {
    #[test]
    fn the_merge_looks_at_the_exports_alone(exports in prop::collection::btree_map(0..6u8, any_export(), 1..6), turn in any::<usize>()) {
        let list: Vec<(ClusterId, ExportSpec)> = exports.into_iter().map(|(n, spec)| (id(&format!("c{n}")), spec)).collect();
        let straight = merge(list.iter().map(|(id, spec)| (id, spec))).expect("exports");
        // Neither the order nor a repetition matters.
        let mut turned = list.clone();
        turned.rotate_left(turn % list.len());
        turned.extend(list.iter().take(1).cloned());
        prop_assert_eq!(&merge(turned.iter().map(|(id, spec)| (id, spec))).expect("exports"), &straight);

        let names: BTreeSet<&str> = straight.ports.iter().map(|port| port.name.as_str()).collect();
        let numbers: BTreeSet<(&str, u16)> = straight.ports.iter().map(|port| (port.protocol.as_str(), port.port)).collect();
        prop_assert_eq!(names.len(), straight.ports.len(), "no name twice");
        prop_assert_eq!(numbers.len(), straight.ports.len(), "no protocol and number twice");
        prop_assert!(straight.ports.len() < 2 || !names.contains(""), "a Service of several ports names each");

        let (oldest, first) = list.iter().min_by_key(|(id, spec)| (spec.exported_at.0, id)).expect("one");
        prop_assert_eq!(straight.type_, first.type_);
        prop_assert_eq!(&straight.ip_families, &first.ip_families);
        for (cluster, spec) in &list {
            let kept = &straight.port_names[cluster];
            for own in &spec.ports {
                let Some(name) = kept.get(&own.name) else { continue };
                // What is kept under a name of its own is that port of the union, for the first of the cluster's ports of the name.
                let union = straight.ports.iter().find(|port| port.name == *name).expect("in the union");
                let same = |one: &ServicePort| one.name == own.name && (one.protocol, one.port) == (union.protocol, union.port);
                prop_assert!(spec.ports.iter().any(same), "{cluster}: {own:?} is not {union:?}");
            }
            let agrees = spec.type_ == first.type_ && spec.ip_families == first.ip_families;
            let named = straight.conflicts.iter().any(|conflict| conflict.message.contains(&format!("{cluster} has")));
            prop_assert!(agrees || cluster == oldest || named, "a difference is said");
        }
    }
}
