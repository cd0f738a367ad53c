//! What the syncer needs to know of a Service and of an EndpointSlice of its own cluster.

use std::collections::BTreeMap;
use std::net::IpAddr;

use daisy_api::labels::{EXPORT_EXCLUDE, MANAGED_BY, MANAGED_BY_DAISY};
use daisy_api::names::{is_label, is_zone};
use daisy_api::{
    Endpoint, EndpointPort, Envelope, ExportEndpointsSpec, IpFamily, Protocol, ServiceKey, ServicePort, SessionAffinity,
};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint as SliceEndpoint, EndpointSlice};

/// The internal traffic policy of a Service that says none.
pub const CLUSTER: &str = "Cluster";
/// How long a client stays with an endpoint where a Service does not say, in seconds (the API server's default).
pub const AFFINITY_SECONDS: i32 = 10_800;

/// What kind of Service it is, as far as exporting goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceKind {
    /// It has a ClusterIP: ClusterIP, NodePort and LoadBalancer alike.
    ClusterIp,
    /// `clusterIP: None`.
    Headless,
    /// A name for something elsewhere, which cannot be exported.
    ExternalName,
}

/// A Service, in short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalService {
    /// Its kind.
    pub kind: ServiceKind,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// Its ClusterIPs.
    pub cluster_ips: Vec<IpAddr>,
    /// Its session affinity.
    pub session_affinity: SessionAffinity,
    /// How long a client stays with an endpoint, in seconds.
    pub session_affinity_seconds: Option<i32>,
    /// Its address families.
    pub ip_families: Vec<IpFamily>,
    /// Its internal traffic policy, where it is not the default.
    pub internal_traffic_policy: Option<String>,
    /// Its traffic distribution, where set.
    pub traffic_distribution: Option<String>,
    /// Whether Daisy made it.
    pub ours: bool,
    /// Whether an annotation keeps it out of its namespace's bulk export.
    pub excluded: bool,
}

/// Reads an address family as Kubernetes writes it.
#[must_use]
pub fn family(text: &str) -> Option<IpFamily> {
    match text {
        "IPv4" => Some(IpFamily::V4),
        "IPv6" => Some(IpFamily::V6),
        _ => None,
    }
}

fn port_number(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|n| *n > 0)
}

/// The addresses of a Service's ClusterIPs; none where it is headless or has none yet.
#[must_use]
pub fn cluster_ips(service: &Service) -> Vec<IpAddr> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let listed = spec.cluster_ips.iter().flatten();
    let mut addresses: Vec<IpAddr> = listed.chain(&spec.cluster_ip).filter_map(|text| text.parse().ok()).collect();
    // The first of the list is given once more on its own.
    let mut seen = Vec::new();
    addresses.retain(|address| {
        !seen.contains(address) && {
            seen.push(*address);
            true
        }
    });
    addresses
}

impl LocalService {
    /// Reads a Service. A port of a protocol that is not known here is left out.
    #[must_use]
    pub fn of(service: &Service) -> Self {
        let spec = service.spec.clone().unwrap_or_default();
        let annotation = |name: &str| service.metadata.annotations.as_ref().and_then(|a| a.get(name)).map(String::as_str);
        let label = |name: &str| service.metadata.labels.as_ref().and_then(|a| a.get(name)).map(String::as_str);
        let kind = match (spec.type_.as_deref(), spec.cluster_ip.as_deref()) {
            (Some("ExternalName"), _) => ServiceKind::ExternalName,
            (_, Some("None")) => ServiceKind::Headless,
            _ => ServiceKind::ClusterIp,
        };
        let ports = spec.ports.iter().flatten().filter_map(|port| {
            Some(ServicePort {
                name: port.name.clone().unwrap_or_default(),
                protocol: Protocol::parse(port.protocol.as_deref())?,
                port: port_number(port.port)?,
                app_protocol: port.app_protocol.clone(),
            })
        });
        let affinity = if spec.session_affinity.as_deref() == Some("ClientIP") {
            SessionAffinity::ClientIp
        } else {
            SessionAffinity::None
        };
        let seconds = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref()).and_then(|c| c.timeout_seconds);
        Self {
            kind,
            ports: ports.collect(),
            cluster_ips: cluster_ips(service),
            session_affinity: affinity,
            session_affinity_seconds: (affinity == SessionAffinity::ClientIp).then(|| seconds.unwrap_or(AFFINITY_SECONDS)),
            ip_families: spec.ip_families.iter().flatten().filter_map(|text| family(text)).collect(),
            internal_traffic_policy: spec.internal_traffic_policy.filter(|policy| policy != CLUSTER),
            traffic_distribution: spec.traffic_distribution,
            ours: label(MANAGED_BY) == Some(MANAGED_BY_DAISY),
            excluded: annotation(EXPORT_EXCLUDE) == Some("false"),
        }
    }
}

/// The node of each address of an EndpointSlice, where it says one.
#[must_use]
pub fn nodes(slice: &EndpointSlice) -> BTreeMap<IpAddr, String> {
    let of = |endpoint: &SliceEndpoint| Some((endpoint.addresses.first()?.parse().ok()?, endpoint.node_name.clone()?));
    slice.endpoints.iter().filter_map(of).collect()
}

/// Reads an EndpointSlice as the endpoints of `key`; `None` for one of names instead of addresses.
///
/// Each endpoint keeps its first address: "no semantics are defined for additional addresses" (EndpointSlice API).
#[must_use]
pub fn endpoints(key: &ServiceKey, slice: &EndpointSlice) -> Option<ExportEndpointsSpec> {
    let address_type = family(&slice.address_type)?;
    let endpoints = slice.endpoints.iter().filter_map(|endpoint| {
        let address: IpAddr = endpoint.addresses.first()?.parse().ok()?;
        let conditions = endpoint.conditions.clone().unwrap_or_default();
        let ready = conditions.ready.unwrap_or(true);
        Some(Endpoint {
            addresses: vec![address],
            ready,
            serving: conditions.serving.unwrap_or(ready),
            terminating: conditions.terminating.unwrap_or(false),
            hostname: endpoint.hostname.clone().filter(|name| is_label(name)),
            zone: endpoint.zone.clone().filter(|zone| is_zone(zone)),
        })
    });
    let ports = slice.ports.iter().flatten().filter_map(|port| {
        Some(EndpointPort {
            name: port.name.clone().unwrap_or_default(),
            protocol: Protocol::parse(port.protocol.as_deref())?,
            port: port_number(port.port?)?,
        })
    });
    Some(ExportEndpointsSpec {
        envelope: Envelope::default(),
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        address_type,
        endpoints: endpoints.collect(),
        ports: ports.collect(),
    })
}
