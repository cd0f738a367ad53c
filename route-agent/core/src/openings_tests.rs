#![allow(clippy::wildcard_enum_match_arm, reason = "tests")]

use super::*;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use proptest::prelude::*;

use k8s_openapi::api::core::v1::{ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;

fn metadata(name: &str) -> ObjectMeta {
    ObjectMeta { namespace: Some("shop".to_owned()), name: Some(name.to_owned()), ..ObjectMeta::default() }
}

fn export(name: &str, valid: bool) -> ServiceExport {
    let mut export = ServiceExport { metadata: metadata(name), ..ServiceExport::default() };
    let condition = Condition {
        type_: conditions::VALID.to_owned(),
        status: if valid { "True" } else { "False" }.to_owned(),
        reason: "R".to_owned(),
        message: String::new(),
        observed_generation: None,
        last_transition_time: Time(Timestamp::UNIX_EPOCH),
    };
    export.status = Some(daisy_api::ServiceExportStatus { conditions: vec![condition] });
    export
}

fn service(name: &str, address: &str, port: i32) -> Service {
    let port = ServicePort { port, ..ServicePort::default() };
    let spec = ServiceSpec { cluster_ip: Some(address.to_owned()), ports: Some(vec![port]), ..ServiceSpec::default() };
    Service { metadata: metadata(name), spec: Some(spec), ..Service::default() }
}

fn slice(name: &str, service: &str, endpoints: &[(u8, Option<u8>)], port: i32) -> EndpointSlice {
    let labels = [(SLICE_SERVICE_NAME.to_owned(), service.to_owned())];
    let endpoint = |(address, node): &(u8, Option<u8>)| Endpoint {
        addresses: vec![format!("10.0.0.{address}")],
        node_name: node.map(|n| format!("node-{n}")),
        ..Endpoint::default()
    };
    EndpointSlice {
        address_type: "IPv4".to_owned(),
        metadata: ObjectMeta { labels: Some(labels.into_iter().collect()), ..metadata(name) },
        endpoints: endpoints.iter().map(endpoint).collect(),
        ports: Some(vec![EndpointPort { port: Some(port), ..EndpointPort::default() }]),
    }
}

/// What can happen.
#[derive(Clone, Debug)]
enum Step {
    Export(u8, bool),
    Unexport(u8),
    Service(u8, u8, i32),
    NoService(u8),
    Slice(u8, u8, Vec<(u8, Option<u8>)>, i32),
    NoSlice(u8),
    Scope(bool, u8),
    Poll,
}

fn step() -> impl Strategy<Value = Step> {
    let small = 0u8..3;
    prop_oneof![
        (small.clone(), any::<bool>()).prop_map(|(n, valid)| Step::Export(n, valid)),
        small.clone().prop_map(Step::Unexport),
        (small.clone(), 0u8..4, 79i32..82).prop_map(|(n, a, p)| Step::Service(n, a, p)),
        small.clone().prop_map(Step::NoService),
        (small.clone(), small.clone(), prop::collection::vec((0u8..8, prop::option::of(0u8..3)), 0..4), 79i32..82)
            .prop_map(|(n, s, e, p)| Step::Slice(n, s, e, p)),
        small.clone().prop_map(Step::NoSlice),
        (any::<bool>(), 0u8..3).prop_map(|(everything, node)| Step::Scope(everything, node)),
        Just(Step::Poll),
    ]
}

fn scope(everything: bool, node: u8) -> Scope {
    Scope {
        everything,
        node: Some(NodeName::new(format!("node-{node}")).expect("a name")),
        // Half of the addresses are pods', one is a host's, the others are nobody's.
        pods: vec!["10.0.0.0/30".parse().expect("a network")],
        hosts: [("10.0.0.5".parse().expect("address"), "100.80.0.5".parse().expect("address"))].into(),
    }
}

fn take(openings: &mut Openings, step: &Step) {
    match step {
        Step::Export(n, valid) => openings.handle_export(&export(&format!("s{n}"), *valid)),
        Step::Unexport(n) => openings.forget_export("shop", &format!("s{n}")),
        Step::Service(n, a, p) => openings.handle_service(&service(&format!("s{n}"), &format!("10.96.0.{a}"), *p)),
        Step::NoService(n) => openings.forget_service("shop", &format!("s{n}")),
        Step::Slice(n, s, e, p) => openings.handle_slice(&slice(&format!("e{n}"), &format!("s{s}"), e, *p)),
        Step::NoSlice(n) => openings.forget_slice("shop", &format!("e{n}")),
        Step::Scope(everything, node) => openings.set_scope(scope(*everything, *node)),
        Step::Poll => {}
    }
}

/// What is open, worked out from the last word on each object.
fn model(steps: &[Step]) -> BTreeSet<Opening> {
    let mut last: BTreeMap<(u8, u8), &Step> = BTreeMap::new();
    for step in steps {
        let key = match step {
            Step::Export(n, _) | Step::Unexport(n) => (0, *n),
            Step::Service(n, ..) | Step::NoService(n) => (1, *n),
            Step::Slice(n, ..) | Step::NoSlice(n) => (2, *n),
            Step::Scope(..) => (3, 0),
            Step::Poll => continue,
        };
        last.insert(key, step);
    }
    let exported = |n: u8| matches!(last.get(&(0, n)), Some(Step::Export(_, true)));
    let (everything, own) = match last.get(&(3, 0)) {
        Some(Step::Scope(everything, node)) => (*everything, Some(*node)),
        _ => (false, None),
    };
    let mut out = BTreeSet::new();
    let mut open = |address: String, port: i32| {
        let address = address.parse().expect("an address");
        out.insert(Opening { address, protocol: Protocol::Tcp, port: u16::try_from(port).expect("a port") });
    };
    for step in last.values() {
        match step {
            Step::Service(n, a, p) if exported(*n) && everything => open(format!("10.96.0.{a}"), *p),
            Step::Slice(_, s, endpoints, p) if exported(*s) && own.is_some() => {
                for (address, node) in endpoints {
                    let here = everything || node.is_none() || *node == own;
                    match address {
                        0..=3 if here => open(format!("10.0.0.{address}"), *p),
                        5 if here => open("100.80.0.5".to_owned(), *p),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    out
}

proptest! {
    /// Whatever happens in whatever order: what is open is what the objects say in the end, and whoever follows the changes
    /// alone has the same.
    #[test]
    fn changes_add_up_to_what_is_open(steps in prop::collection::vec(step(), 0..60)) {
        let mut openings = Openings::default();
        let mut followed = BTreeSet::new();
        for (n, step) in steps.iter().enumerate() {
            take(&mut openings, step);
            prop_assert_eq!(openings.all().collect::<BTreeSet<_>>(), model(&steps[..=n]), "after step {}", n);
            if matches!(step, Step::Poll) || n + 1 == steps.len() {
                let changes = openings.poll();
                for gone in &changes.remove {
                    prop_assert!(followed.remove(gone), "closed what was not open");
                }
                for new in &changes.add {
                    prop_assert!(followed.insert(*new), "opened what was open");
                }
                prop_assert!(openings.poll().is_empty());
            }
        }
        prop_assert_eq!(followed, openings.all().collect::<BTreeSet<_>>());
    }
}

#[test]
fn other_clusters_endpoints_are_never_opened() {
    let mut openings = Openings::default();
    openings.set_scope(scope(true, 0));
    openings.handle_export(&export("s0", true));
    let mut imported = slice("e0", "s0", &[(1, None)], 80);
    let labels = imported.metadata.labels.get_or_insert_default();
    labels.insert(SLICE_MANAGED_BY.to_owned(), SLICE_MANAGED_BY_DAISY.to_owned());
    openings.handle_slice(&imported);
    assert!(openings.is_empty());
}

#[test]
fn a_slice_that_changes_its_service_takes_its_endpoints_along() {
    let mut openings = Openings::default();
    openings.set_scope(scope(true, 0));
    openings.handle_export(&export("s0", true));
    openings.handle_slice(&slice("e0", "s0", &[(1, None)], 80));
    assert_eq!(openings.len(), 1);
    openings.handle_slice(&slice("e0", "s1", &[(1, None)], 80));
    assert!(openings.is_empty());
}

#[test]
fn ports_out_of_range_and_addresses_that_are_none_are_left_out() {
    let mut openings = Openings::default();
    openings.set_scope(scope(true, 0));
    openings.handle_export(&export("s0", true));
    openings.handle_service(&service("s0", "None", 80));
    openings.handle_slice(&slice("e0", "s0", &[(1, None)], 70_000));
    openings.handle_slice(&slice("e1", "s0", &[(1, None)], 0));
    openings.handle_slice(&slice("e2", "s0", &[(1, None)], -1));
    assert!(openings.is_empty());
}
