//! From Kubernetes objects to the facts that the index keeps.

use std::net::IpAddr;

use daisy_api::{ClusterId, ClusterIps, NameError, NamespaceName, Protocol, ServiceKey, cluster_ips, labels};
use daisy_dns_core::name::DomainNameError;
use daisy_dns_core::{DomainName, Endpoint, Fact, Port, Service, ServiceKind, Slice};
use k8s_openapi::api::core::v1::{Namespace, Service as KubeService, ServicePort};
use k8s_openapi::api::discovery::v1::{EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use thiserror::Error;

/// Whose names are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Daisy's zones: what Daisy made in `daisy-system` for imports is imports.
    Supercluster,
    /// A cluster's own zone: every Service is a Service.
    Cluster,
}

/// Why an object cannot be served. It is left out; everything else goes on.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Unusable {
    /// A name that is not one.
    #[error("{field}: {source}")]
    Name {
        /// The field.
        field: String,
        /// What is wrong with it.
        source: NameError,
    },
    /// An alias that is no domain name.
    #[error("spec.externalName: {0}")]
    Alias(#[from] DomainNameError),
    /// An address that is none.
    #[error("{field}: {value:?} is not an IP address")]
    Address {
        /// The field.
        field: &'static str,
        /// Its value.
        value: String,
    },
    /// A label that must be there.
    #[error("metadata.labels: {label} is missing")]
    NoLabel {
        /// The label.
        label: &'static str,
    },
}

/// What a Service means.
pub(crate) fn service(scope: Scope, service: &KubeService) -> Result<Option<Fact>, Unusable> {
    let Some(spec) = &service.spec else { return Ok(None) };
    let kind = match spec.type_.as_deref() {
        Some("ExternalName") => match spec.external_name.as_deref() {
            None | Some("") => return Ok(None),
            Some(alias) => ServiceKind::External(DomainName::parse(alias)?),
        },
        _ => {
            let one = spec.cluster_ip.as_slice();
            let ips = spec.cluster_ips.as_deref().filter(|ips| !ips.is_empty()).unwrap_or(one);
            if ips.iter().any(|ip| ip == "None") {
                ServiceKind::Headless
            } else {
                let addresses = ips.iter().filter(|ip| !ip.is_empty()).map(|ip| address("spec.clusterIPs", ip));
                let addresses = addresses.collect::<Result<Vec<_>, _>>()?;
                if addresses.is_empty() {
                    // No address yet: there is nothing to say of it.
                    return Ok(None);
                }
                ServiceKind::Addresses(addresses)
            }
        }
    };
    let ports = spec.ports.iter().flatten().filter_map(service_port).collect();
    let fact = Service { kind, ports, clusters: ClusterIps::new() };
    Ok(Some(match import_key(scope, &service.metadata)? {
        Some(key) => Fact::Import(key, Service { clusters: clusters(&service.metadata), ..fact }),
        None => Fact::Local(own_key(&service.metadata)?, fact),
    }))
}

/// What an EndpointSlice with the label of headless Services means.
pub(crate) fn local_slice(scope: Scope, slice: &EndpointSlice) -> Result<Option<Fact>, Unusable> {
    let metadata = &slice.metadata;
    let ours = label(metadata, labels::SLICE_MANAGED_BY) == Some(labels::SLICE_MANAGED_BY_DAISY);
    // Without the Service's name it belongs to none; Daisy's belong to imports.
    let Some(name) = label(metadata, labels::SLICE_SERVICE_NAME).filter(|_| !(ours && scope == Scope::Supercluster)) else {
        return Ok(None);
    };
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    let key = key(("metadata.namespace", namespace), (labels::SLICE_SERVICE_NAME, name))?;
    Ok(slice_facts(slice, None)?.map(|facts| Fact::LocalSlice(key, facts)))
}

/// What an EndpointSlice that Daisy made in `daisy-system` means.
pub(crate) fn import_slice(slice: &EndpointSlice) -> Result<Option<Fact>, Unusable> {
    let Some(key) = import_key(Scope::Supercluster, &slice.metadata)? else { return Ok(None) };
    let label_name = labels::MCS_SOURCE_CLUSTER;
    let cluster = label(&slice.metadata, label_name).ok_or(Unusable::NoLabel { label: label_name })?;
    let cluster = ClusterId::new(cluster).map_err(|source| Unusable::Name { field: label_name.into(), source })?;
    Ok(slice_facts(slice, Some(cluster))?.map(|facts| Fact::ImportSlice(key, facts)))
}

/// What a Namespace means.
pub(crate) fn namespace(namespace: &Namespace) -> Result<Option<Fact>, Unusable> {
    let name = namespace.metadata.name.as_deref().unwrap_or_default();
    let name = NamespaceName::new(name).map_err(|source| Unusable::Name { field: "metadata.name".into(), source })?;
    Ok(Some(Fact::Namespace(name)))
}

fn clusters(metadata: &ObjectMeta) -> ClusterIps {
    let text = metadata.annotations.as_ref().and_then(|all| all.get(labels::CLUSTER_IPS));
    text.map(|text| cluster_ips::from_text(text)).unwrap_or_default()
}

fn label<'m>(metadata: &'m ObjectMeta, name: &str) -> Option<&'m str> {
    metadata.labels.as_ref()?.get(name).map(String::as_str)
}

fn key(namespace: (&str, &str), name: (&str, &str)) -> Result<ServiceKey, Unusable> {
    let parse_error = |field: &str| {
        let field = field.to_owned();
        move |source| Unusable::Name { field, source }
    };
    Ok(ServiceKey {
        namespace: NamespaceName::new(namespace.1).map_err(parse_error(namespace.0))?,
        name: daisy_api::ServiceName::new(name.1).map_err(parse_error(name.0))?,
    })
}

fn own_key(metadata: &ObjectMeta) -> Result<ServiceKey, Unusable> {
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    key(("metadata.namespace", namespace), ("metadata.name", metadata.name.as_deref().unwrap_or_default()))
}

/// What an object of Daisy's stands for. Only what is in `daisy-system` counts: elsewhere anyone may write such labels.
fn import_key(scope: Scope, metadata: &ObjectMeta) -> Result<Option<ServiceKey>, Unusable> {
    if scope == Scope::Cluster || metadata.namespace.as_deref() != Some(labels::SYSTEM_NAMESPACE) {
        return Ok(None);
    }
    match (label(metadata, labels::IMPORT_NAMESPACE), label(metadata, labels::IMPORT_NAME)) {
        (Some(namespace), Some(name)) => Ok(Some(key((labels::IMPORT_NAMESPACE, namespace), (labels::IMPORT_NAME, name))?)),
        (None, None) => Ok(None),
        (None, Some(_)) => Err(Unusable::NoLabel { label: labels::IMPORT_NAMESPACE }),
        (Some(_), None) => Err(Unusable::NoLabel { label: labels::IMPORT_NAME }),
    }
}

fn address(field: &'static str, text: &str) -> Result<IpAddr, Unusable> {
    text.parse().map_err(|_| Unusable::Address { field, value: text.to_owned() })
}

fn service_port(port: &ServicePort) -> Option<Port> {
    named_port(port.name.as_deref(), port.protocol.as_deref(), port.port)
}

fn endpoint_port(port: &EndpointPort) -> Option<Port> {
    named_port(port.name.as_deref(), port.protocol.as_deref(), port.port?)
}

/// Ports without a name have no records (Kubernetes DNS specification 2.3.2).
fn named_port(name: Option<&str>, protocol: Option<&str>, number: i32) -> Option<Port> {
    let name = name.filter(|name| !name.is_empty())?.to_ascii_lowercase();
    Some(Port { name, protocol: Protocol::parse(protocol)?, number: u16::try_from(number).ok()? })
}

/// `None` for a slice of names (address type FQDN), whose addresses are not ours to find.
fn slice_facts(slice: &EndpointSlice, cluster: Option<ClusterId>) -> Result<Option<Slice>, Unusable> {
    if slice.address_type == "FQDN" {
        return Ok(None);
    }
    let ports = slice.ports.iter().flatten().filter_map(endpoint_port).collect();
    let mut endpoints = Vec::new();
    for endpoint in &slice.endpoints {
        // Unknown is to be taken as ready (EndpointConditions).
        let ready = endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true);
        // All addresses of an endpoint lead to the same; only the first is to be used (Endpoint.addresses).
        let Some(first) = endpoint.addresses.first().filter(|_| ready) else { continue };
        let hostname = endpoint.hostname.as_deref().filter(|h| !h.is_empty()).map(|h| h.to_ascii_lowercase().into_boxed_str());
        endpoints.push(Endpoint { address: address("endpoints.addresses", first)?, hostname });
    }
    Ok(Some(Slice { cluster, ports, endpoints }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn kube_service(metadata: &Value, spec: &Value) -> KubeService {
        serde_json::from_value(json!({"metadata": metadata, "spec": spec})).expect("a Service")
    }

    fn endpoint_slice(labels: &Value, rest: &Value) -> EndpointSlice {
        let mut slice =
            json!({"metadata": {"namespace": "shop", "name": "s", "labels": labels}, "addressType": "IPv4", "endpoints": []});
        for (key, value) in rest.as_object().expect("an object") {
            slice[key] = value.clone();
        }
        serde_json::from_value(slice).expect("an EndpointSlice")
    }

    fn local(spec: &Value) -> Result<Option<ServiceKind>, Unusable> {
        let fact = service(Scope::Supercluster, &kube_service(&json!({"namespace": "shop", "name": "web"}), spec))?;
        Ok(fact.map(|fact| match fact {
            Fact::Local(key, service) if key.to_string() == "shop/web" => service.kind,
            other
            @ (Fact::Local(..) | Fact::Import(..) | Fact::LocalSlice(..) | Fact::ImportSlice(..) | Fact::Namespace(_)) => {
                panic!("{other:?}")
            }
        }))
    }

    #[test]
    fn services() {
        let ips =
            |ips: &[&str]| Ok(Some(ServiceKind::Addresses(ips.iter().map(|ip| ip.parse().expect("an address")).collect())));
        assert_eq!(local(&json!({"clusterIP": "10.0.0.1"})), ips(&["10.0.0.1"]));
        assert_eq!(
            local(&json!({"type": "NodePort", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1"]})),
            ips(&["10.0.0.1", "fd00::1"])
        );
        assert_eq!(local(&json!({"clusterIP": "None", "clusterIPs": ["None"]})), Ok(Some(ServiceKind::Headless)));
        let alias = ServiceKind::External(DomainName::parse("mail.example.org").expect("a name"));
        assert_eq!(local(&json!({"type": "ExternalName", "externalName": "Mail.example.org."})), Ok(Some(alias)));
        assert_eq!(local(&json!({"clusterIP": ""})), Ok(None), "no address yet");
        assert_eq!(local(&json!({})), Ok(None));
        assert!(matches!(local(&json!({"clusterIP": "10.0.0"})), Err(Unusable::Address { .. })));
        let error = local(&json!({"type": "ExternalName", "externalName": "a b"})).expect_err("no name");
        assert!(error.to_string().starts_with("spec.externalName: \"a b\" is not a domain name"), "{error}");
    }

    #[test]
    fn ports_without_a_name_or_a_known_protocol_are_left_out() {
        let spec = json!({"clusterIP": "10.0.0.1", "ports": [
            {"name": "http", "port": 80}, {"port": 81}, {"name": "dns", "protocol": "UDP", "port": 53},
            {"name": "odd", "protocol": "QUIC", "port": 1}, {"name": "big", "port": 70000},
        ]});
        let fact =
            service(Scope::Supercluster, &kube_service(&json!({"namespace": "shop", "name": "web"}), &spec)).expect("usable");
        let Some(Fact::Local(_, service)) = fact else { panic!("{fact:?}") };
        let ports: Vec<_> = service.ports.iter().map(|p| (p.name.as_str(), p.protocol, p.number)).collect();
        assert_eq!(ports, [("http", Protocol::Tcp, 80), ("dns", Protocol::Udp, 53)]);
    }

    #[test]
    fn imports_are_known_by_both_labels_in_our_namespace_only() {
        let spec = json!({"clusterIP": "100.96.0.1"});
        let both = json!({labels::IMPORT_NAMESPACE: "nginx", labels::IMPORT_NAME: "web"});
        let of = |scope, namespace: &str, marks: &Value| {
            service(scope, &kube_service(&json!({"namespace": namespace, "name": "i-x", "labels": marks}), &spec))
        };
        let key = |fact: Result<Option<Fact>, Unusable>| match fact.expect("usable").expect("a fact") {
            Fact::Import(key, _) => format!("import {key}"),
            Fact::Local(key, _) => format!("local {key}"),
            other @ (Fact::LocalSlice(..) | Fact::ImportSlice(..) | Fact::Namespace(_)) => panic!("{other:?}"),
        };
        assert_eq!(key(of(Scope::Supercluster, "daisy-system", &both)), "import nginx/web");
        assert_eq!(key(of(Scope::Supercluster, "shop", &both)), "local shop/i-x");
        assert_eq!(key(of(Scope::Supercluster, "daisy-system", &json!({}))), "local daisy-system/i-x");
        assert_eq!(key(of(Scope::Cluster, "daisy-system", &both)), "local daisy-system/i-x");
        let half = of(Scope::Supercluster, "daisy-system", &json!({labels::IMPORT_NAME: "web"}));
        assert_eq!(half, Err(Unusable::NoLabel { label: labels::IMPORT_NAMESPACE }));
        let bad =
            of(Scope::Supercluster, "daisy-system", &json!({labels::IMPORT_NAMESPACE: "nginx", labels::IMPORT_NAME: "W"}));
        assert!(bad.expect_err("no label").to_string().starts_with("daisy.supercluster.local/import-name: service name \"W\""));
    }

    #[test]
    fn an_import_knows_where_its_services_are_in_their_own_clusters() {
        let marks = json!({labels::IMPORT_NAMESPACE: "nginx", labels::IMPORT_NAME: "web"});
        let notes = json!({labels::CLUSTER_IPS: "a=10.96.0.7,b=10.97.0.9 fd00:97::9,c=none"});
        let of = |namespace: &str| {
            let metadata = json!({"namespace": namespace, "name": "i-x", "labels": marks, "annotations": notes});
            service(Scope::Supercluster, &kube_service(&metadata, &json!({"clusterIP": "100.96.0.1"}))).expect("usable")
        };
        let Some(Fact::Import(_, import)) = of("daisy-system") else { panic!("no import") };
        let read: Vec<String> = import.clusters.iter().map(|(id, ips)| format!("{id} {ips:?}")).collect();
        assert_eq!(read, ["a [10.96.0.7]", "b [10.97.0.9, fd00:97::9]"]);
        // Elsewhere anyone may write such annotations.
        let Some(Fact::Local(_, local)) = of("shop") else { panic!("no Service") };
        assert!(local.clusters.is_empty());
    }

    #[test]
    fn slices() {
        let marks = json!({labels::SLICE_SERVICE_NAME: "db", labels::SLICE_HEADLESS: ""});
        let rest = json!({
            "ports": [{"name": "sql", "port": 5432}, {"name": "any"}],
            "endpoints": [
                {"addresses": ["10.0.0.1", "10.0.0.2"], "hostname": "DB-0"},
                {"addresses": ["10.0.0.3"], "conditions": {"ready": false}},
                {"addresses": ["10.0.0.4"], "conditions": {"ready": true}, "hostname": ""},
                {"addresses": []},
            ],
        });
        let fact = local_slice(Scope::Supercluster, &endpoint_slice(&marks, &rest)).expect("usable");
        let Some(Fact::LocalSlice(key, slice)) = fact else { panic!("{fact:?}") };
        assert_eq!(key.to_string(), "shop/db");
        assert_eq!(slice.ports.len(), 1);
        let endpoints: Vec<_> = slice.endpoints.iter().map(|e| (e.address.to_string(), e.hostname.as_deref())).collect();
        assert_eq!(endpoints, [("10.0.0.1".to_owned(), Some("db-0")), ("10.0.0.4".to_owned(), None)]);
        // Names instead of addresses, no Service, and Daisy's own are none.
        assert_eq!(local_slice(Scope::Supercluster, &endpoint_slice(&marks, &json!({"addressType": "FQDN"}))), Ok(None));
        assert_eq!(local_slice(Scope::Supercluster, &endpoint_slice(&json!({}), &rest)), Ok(None));
        let mut ours = marks;
        ours[labels::SLICE_MANAGED_BY] = json!(labels::SLICE_MANAGED_BY_DAISY);
        assert_eq!(local_slice(Scope::Supercluster, &endpoint_slice(&ours, &rest)), Ok(None));
        assert!(matches!(local_slice(Scope::Cluster, &endpoint_slice(&ours, &rest)), Ok(Some(_))));
    }

    #[test]
    fn an_import_slice_says_its_cluster() {
        let marks = json!({labels::IMPORT_NAMESPACE: "shop", labels::IMPORT_NAME: "db"});
        let mut slice = endpoint_slice(&marks, &json!({}));
        slice.metadata.namespace = Some(labels::SYSTEM_NAMESPACE.into());
        assert_eq!(import_slice(&slice), Err(Unusable::NoLabel { label: labels::MCS_SOURCE_CLUSTER }));
        slice.metadata.labels.get_or_insert_default().insert(labels::MCS_SOURCE_CLUSTER.into(), "staging".into());
        let fact = import_slice(&slice);
        assert!(
            matches!(&fact, Ok(Some(Fact::ImportSlice(_, s))) if s.cluster.as_ref().is_some_and(|c| c.as_str() == "staging")),
            "{fact:?}"
        );
        slice.metadata.namespace = Some("shop".into());
        assert_eq!(import_slice(&slice), Ok(None), "outside our namespace");
    }

    proptest! {
        #[test]
        fn never_panics(
            namespace in "\\PC{0,8}", name in "\\PC{0,8}", ips in prop::collection::vec("None||[0-9a-f.:]{0,9}|\\PC{0,4}", 0..3),
            kind in "ClusterIP|ExternalName|\\PC{0,4}", alias in "\\PC{0,300}", port in any::<i32>(), protocol in "TCP|\\PC{0,3}",
        ) {
            let spec = json!({"type": kind, "clusterIPs": ips, "externalName": alias, "ports": [{"name": name, "port": port, "protocol": protocol}]});
            let marks = json!({labels::IMPORT_NAME: name, labels::IMPORT_NAMESPACE: namespace, labels::SLICE_SERVICE_NAME: name, labels::MCS_SOURCE_CLUSTER: kind});
            let metadata = json!({"namespace": namespace, "name": name, "labels": marks});
            let _ = service(Scope::Supercluster, &kube_service(&metadata, &spec));
            let endpoints = json!({"endpoints": [{"addresses": ips, "hostname": alias}]});
            let mut slice = endpoint_slice(&marks, &endpoints);
            let _ = local_slice(Scope::Cluster, &slice);
            slice.metadata.namespace = Some(labels::SYSTEM_NAMESPACE.into());
            let _ = import_slice(&slice);
        }
    }
}
