//! From Kubernetes objects to the facts that the index keeps.

use std::net::IpAddr;

use daisy_api::{ClusterId, NameError, NamespaceName, Protocol, ServiceKey, labels};
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
    let fact = Service { kind, ports };
    Ok(Some(match import_key(scope, &service.metadata)? {
        Some(key) => Fact::Import(key, fact),
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
