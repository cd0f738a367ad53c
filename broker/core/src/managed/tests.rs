//! The laws of the overlay.

use k8s_openapi::api::core::v1::{ServicePort, ServiceSpec};
use proptest::prelude::*;

use super::*;

fn service(families: &[&str], ports: &[i32], headless: bool, client_ip: bool) -> Service {
    let ports = ports.iter().map(|port| ServicePort { name: Some(format!("p{port}")), port: *port, ..ServicePort::default() });
    Service {
        metadata: ObjectMeta {
            labels: Some([("ours".to_owned(), "yes".to_owned())].into()),
            annotations: Some([("note".to_owned(), families.join(","))].into()),
            ..ObjectMeta::default()
        },
        spec: Some(ServiceSpec {
            cluster_ip: headless.then(|| "None".to_owned()),
            ports: Some(ports.collect()),
            session_affinity: Some(if client_ip { "ClientIP" } else { "None" }.to_owned()),
            ip_families: Some(families.iter().map(|f| (*f).to_owned()).collect()),
            ip_family_policy: Some(if families.len() > 1 { "PreferDualStack" } else { "SingleStack" }.to_owned()),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// What an API server and others make of a Service of ours.
fn lived(mut service: Service) -> Service {
    service.metadata.resource_version = Some("7".to_owned());
    service.metadata.annotations.get_or_insert_default().insert("theirs".to_owned(), "stays".to_owned());
    let spec = service.spec.get_or_insert_default();
    if spec.cluster_ip.is_none() {
        spec.cluster_ip = Some("10.101.0.1".to_owned());
        let six = spec.ip_families.iter().flatten().count() > 1;
        spec.cluster_ips =
            Some([Some("10.101.0.1"), six.then_some("fd00::1")].into_iter().flatten().map(str::to_owned).collect());
    }
    spec.internal_traffic_policy = Some("Cluster".to_owned());
    service
}

fn any_service() -> impl Strategy<Value = Service> {
    let families = prop::sample::select(vec![vec!["IPv4"], vec!["IPv6"], vec!["IPv4", "IPv6"], vec!["IPv6", "IPv4"]]);
    let ports = prop::collection::vec(80..84i32, 0..3);
    (families, ports, any::<bool>(), any::<bool>()).prop_map(|(f, p, headless, client_ip)| service(&f, &p, headless, client_ip))
}

#[test]
fn the_address_of_a_service_is_never_asked_to_change() {
    let had = lived(service(&["IPv4"], &[80], false, false));
    assert_eq!(had.overlay(&service(&["IPv6", "IPv4"], &[80], false, false)), Overlay::Recreate);
    let Overlay::Replace(wider) = had.overlay(&service(&["IPv4", "IPv6"], &[80], false, false)) else {
        panic!("a second family is added to what is there");
    };
    assert_eq!(wider.spec.and_then(|spec| spec.cluster_ip).as_deref(), Some("10.101.0.1"));
    let dual = lived(service(&["IPv4", "IPv6"], &[80], false, false));
    let Overlay::Replace(narrower) = dual.overlay(&service(&["IPv4"], &[80], false, false)) else { panic!("and taken away") };
    assert_eq!(narrower.spec.and_then(|spec| spec.cluster_ips), Some(vec!["10.101.0.1".to_owned()]));
}

#[test]
fn labels_that_are_exported_no_longer_go() {
    let import = |labels: &[(&str, &str)]| {
        let spec = daisy_api::ServiceImportSpec {
            ports: Vec::new(),
            ips: Vec::new(),
            type_: daisy_api::ImportType::Headless,
            ip_families: Vec::new(),
            session_affinity: daisy_api::SessionAffinity::None,
            session_affinity_config: None,
            internal_traffic_policy: None,
            traffic_distribution: None,
        };
        let mut import = ServiceImport::new("cart", spec);
        import.metadata.labels = Some(labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect());
        import
    };
    let Overlay::Replace(wanted) = import(&[("team", "x"), ("tier", "y")]).overlay(&import(&[("tier", "y")])) else {
        panic!("they differ")
    };
    assert_eq!(wanted.metadata.labels, import(&[("tier", "y")]).metadata.labels);
}

proptest! {
    #[test]
    fn once_is_enough(had in any_service(), want in any_service()) {
        let had = lived(had);
        prop_assert_eq!(had.overlay(&had.clone()), Overlay::Same);
        if let Overlay::Replace(wanted) = had.overlay(&want) {
            prop_assert_eq!(wanted.overlay(&want), Overlay::Same);
            let theirs = wanted.metadata.annotations.as_ref().and_then(|a| a.get("theirs"));
            prop_assert!(theirs.is_some(), "what others put there stays");
            prop_assert_eq!(&wanted.metadata.resource_version, &had.metadata.resource_version);
        }
    }
}
