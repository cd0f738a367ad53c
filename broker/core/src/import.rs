//! From a merged import to the objects that make it real in this cluster.
//!
//! ```text
//! Merged ──┬▶ service ─────────▶ Service in daisy-system, without a selector; its ClusterIP is the clusterset IP
//!          ├▶ slice ───────────▶ EndpointSlices in daisy-system, one source cluster each ──▶ mcs_slice ──▶ the same for the MCS API
//!          └▶ service_import ──▶ ServiceImport in the import's own namespace, where that exists
//! ```

use std::collections::BTreeMap;
use std::net::IpAddr;

use daisy_api::cluster_ips;
use daisy_api::labels::{
    CLUSTER_IPS, IMPORT_EXPORTS, IMPORT_NAME, IMPORT_NAMESPACE, MANAGED_BY, MANAGED_BY_DAISY, MCS_SERVICE_NAME,
    MCS_SOURCE_CLUSTER, RECORD_SEQUENCE, SLICE_MANAGED_BY, SLICE_MANAGED_BY_DAISY, SLICE_SERVICE_NAME, SYSTEM_NAMESPACE,
};
use daisy_api::names::{is_zone, short_hash};
use daisy_api::{
    ClusterId, ClusterIps, Endpoint, ExportEndpointsSpec, ExportSpec, ExportType, ImportPort, ImportType, IpFamily,
    ServiceImport, ServiceImportSpec, ServiceKey, SessionAffinity,
};
use k8s_openapi::api::core::v1::{ClientIPConfig, Service, ServicePort, ServiceSpec, SessionAffinityConfig};
use k8s_openapi::api::discovery::v1::{
    Endpoint as SliceEndpoint, EndpointConditions, EndpointHints, EndpointPort as SlicePort, EndpointSlice, ForZone,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;

use crate::merge::Merged;
use crate::qualified;
use crate::service::CLUSTER;

/// The most endpoints of an EndpointSlice (the API's own limit).
const ENDPOINTS_MAX: usize = 1000;

fn labels<const N: usize>(pairs: [(&str, &str); N]) -> Option<BTreeMap<String, String>> {
    Some(pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
}

/// Since when a cluster exports an import, at which sequence it last said so, and where its Service is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exporter {
    /// When it was exported.
    pub since: Timestamp,
    /// The sequence of its Export record; 0 where none is known.
    pub sequence: u64,
    /// The ClusterIPs of its Service in its own cluster.
    pub cluster_ips: Vec<IpAddr>,
}

impl Exporter {
    /// What an Export record says of its cluster.
    #[must_use]
    pub fn of(spec: &ExportSpec) -> Self {
        Self { since: spec.exported_at.0, sequence: spec.envelope.sequence, cluster_ips: spec.cluster_ips.clone() }
    }
}

/// The clusters that export an import: what its Service's annotation holds for a syncer that starts anew.
pub type Exporters = BTreeMap<ClusterId, Exporter>;

fn exporters_text(exporters: &Exporters) -> String {
    exporters.iter().map(|(id, one)| format!("{id}={}#{}", one.since, one.sequence)).collect::<Vec<_>>().join(",")
}

fn annotation<'s>(service: &'s Service, name: &str) -> &'s str {
    service.metadata.annotations.as_ref().and_then(|a| a.get(name)).map_or("", String::as_str)
}

/// Reads the annotations of an import's Service. What does not parse is left out.
#[must_use]
pub fn exporters(service: &Service) -> Exporters {
    let text = annotation(service, IMPORT_EXPORTS);
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    let mut ips = cluster_ips::from_text(annotation(service, CLUSTER_IPS));
    let mut read = |id: &str, text: &str| {
        let id = ClusterId::new(id).ok()?;
        let (since, sequence) = text.split_once('#').unwrap_or((text, "0"));
        let cluster_ips = ips.remove(&id).unwrap_or_default();
        Some((id, Exporter { since: since.parse().ok()?, sequence: sequence.parse().ok()?, cluster_ips }))
    };
    pairs.filter_map(|(id, text)| read(id, text)).collect()
}

/// The address families of an import here: those of the merged export that this cluster has.
///
/// `None` where the export has families and this cluster has none of them: the import cannot be made real.
#[must_use]
pub fn families(merged: &Merged, here: &[IpFamily]) -> Option<Vec<IpFamily>> {
    let both: Vec<IpFamily> = merged.ip_families.iter().copied().filter(|family| here.contains(family)).collect();
    (merged.ip_families.is_empty() || !both.is_empty()).then_some(both)
}

/// The families with the one first that the import's Service has first already: its address must not change because another
/// cluster's export came to be the oldest.
#[must_use]
pub fn keep_first(mut families: Vec<IpFamily>, first: Option<IpFamily>) -> Vec<IpFamily> {
    if let Some(place) = families.iter().position(|family| Some(*family) == first) {
        families[..=place].rotate_right(1);
    }
    families
}

/// What the condition `Ready` says of an import that can be used.
#[must_use]
pub fn ready_message(merged: &Merged) -> &'static str {
    if internal_traffic_policy(merged) != CLUSTER {
        return "it can be used in this cluster; its internalTrafficPolicy is Local: a pod reaches endpoints on its own node only, and none \
                in other clusters, which are on no node of this one";
    }
    "it can be used in this cluster"
}

/// One of the two that there are: an API server refuses a Service with any other, and who exports may have written anything.
fn internal_traffic_policy(merged: &Merged) -> &'static str {
    if merged.internal_traffic_policy.as_deref() == Some("Local") { "Local" } else { CLUSTER }
}

/// Whether endpoints of a pod's own zone are preferred; of the distributions that Kubernetes has, `PreferSameNode` among them, each
/// means at least that.
fn prefers_zone(merged: &Merged) -> bool {
    merged.traffic_distribution.is_some()
}

/// The import's Service: no selector, so nobody else writes its EndpointSlices; headless where the import is.
///
/// Its internal traffic policy is the import's. Its traffic distribution is in the hints of its EndpointSlices, which is where
/// kube-proxy looks for it.
#[must_use]
pub fn service(key: &ServiceKey, merged: &Merged, families: &[IpFamily], exporters: &Exporters) -> Service {
    let ports = merged.ports.iter().map(|port| ServicePort {
        name: (!port.name.is_empty()).then(|| port.name.clone()),
        protocol: Some(port.protocol.as_str().to_owned()),
        port: i32::from(port.port),
        target_port: Some(IntOrString::Int(i32::from(port.port))),
        app_protocol: port.app_protocol.clone(),
        ..ServicePort::default()
    });
    let client_ip = merged.session_affinity == SessionAffinity::ClientIp;
    let headless = merged.type_ == ExportType::Headless;
    let ips: ClusterIps = exporters.iter().map(|(id, one)| (id.clone(), one.cluster_ips.clone())).collect();
    let mut annotations = vec![(IMPORT_EXPORTS, exporters_text(exporters))];
    annotations.extend((!headless).then(|| (CLUSTER_IPS, cluster_ips::to_text(&ips))));
    let policy = match families.len() {
        0 => None,
        1 => Some("SingleStack"),
        _ => Some("PreferDualStack"),
    };
    Service {
        metadata: ObjectMeta {
            namespace: Some(SYSTEM_NAMESPACE.to_owned()),
            name: Some(key.import_service_name()),
            labels: labels([
                (MANAGED_BY, MANAGED_BY_DAISY),
                (IMPORT_NAMESPACE, key.namespace.as_str()),
                (IMPORT_NAME, key.name.as_str()),
            ]),
            annotations: Some(annotations.into_iter().map(|(name, text)| (name.to_owned(), text)).collect()),
            ..ObjectMeta::default()
        },
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".to_owned()),
            cluster_ip: headless.then(|| "None".to_owned()),
            ports: Some(ports.collect()),
            session_affinity: Some(if client_ip { "ClientIP" } else { "None" }.to_owned()),
            session_affinity_config: merged.session_affinity_seconds.filter(|_| client_ip).map(affinity_config),
            ip_families: (!families.is_empty()).then(|| families.iter().map(|f| f.as_str().to_owned()).collect()),
            ip_family_policy: policy.map(str::to_owned),
            // Said in any case: absent, it would stay what it was.
            internal_traffic_policy: (!headless).then(|| internal_traffic_policy(merged).to_owned()),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

fn affinity_config(seconds: i32) -> SessionAffinityConfig {
    // The API takes 1 to 86,400; another cluster may have written anything.
    SessionAffinityConfig { client_ip: Some(ClientIPConfig { timeout_seconds: Some(seconds.clamp(1, 86_400)) }) }
}

/// What tells a record's slice from the others of its import and cluster: the record's own hash, or one made of its name.
#[must_use]
pub fn slice_suffix(key: &ServiceKey, record: &str) -> String {
    let beginning = format!("{}.", key.record_name());
    let hash = record.strip_prefix(&beginning).unwrap_or_default();
    let plain = !hash.is_empty() && hash.len() <= 32 && hash.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if plain { hash.to_owned() } else { format!("x{}", short_hash(record, 32)) }
}

/// The name of the slice that [`slice()`] makes of a record.
#[must_use]
pub fn slice_name(key: &ServiceKey, cluster: &ClusterId, record: &str) -> String {
    format!("{}-{cluster}-{}", key.import_service_name(), slice_suffix(key, record))
}

/// The record of a slice that [`slice()`] made, if it is one of this import and cluster.
#[must_use]
pub fn record_of(key: &ServiceKey, cluster: &ClusterId, slice: &str) -> Option<String> {
    let suffix = slice.strip_prefix(&format!("{}-{cluster}-", key.import_service_name()))?;
    Some(format!("{}.{suffix}", key.record_name()))
}

/// Where an import's endpoints of one record come from.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The cluster.
    pub cluster: &'a ClusterId,
    /// The record's name.
    pub record: &'a str,
    /// The family of the addresses, and the ports.
    pub spec: &'a ExportEndpointsSpec,
    /// On which node each address is, of this cluster's own.
    pub nodes: Option<&'a BTreeMap<IpAddr, String>>,
}

/// The EndpointSlice of one record in `daisy-system`; `None` where nothing of it can be used: a family that the import has not,
/// or none but ports that lost a conflict.
#[must_use]
pub fn slice<'a>(
    key: &ServiceKey,
    merged: &Merged,
    families: &[IpFamily],
    source: Source<'_>,
    endpoints: impl IntoIterator<Item = &'a Endpoint>,
) -> Option<EndpointSlice> {
    let Source { cluster, record, spec, nodes } = source;
    if !families.is_empty() && !families.contains(&spec.address_type) {
        return None;
    }
    let names = merged.port_names.get(cluster)?;
    let mut taken = Vec::new();
    let ports: Vec<SlicePort> = spec
        .ports
        .iter()
        .filter_map(|port| {
            let name = names.get(&port.name)?;
            let same_protocol = merged.ports.iter().any(|one| one.name == *name && one.protocol == port.protocol);
            if !same_protocol || taken.contains(name) {
                return None;
            }
            taken.push(name.clone());
            Some(SlicePort {
                name: Some(name.clone()),
                protocol: Some(port.protocol.as_str().to_owned()),
                port: Some(i32::from(port.port)),
                app_protocol: None,
            })
        })
        .collect();
    let portless = merged.type_ == ExportType::Headless && spec.ports.is_empty();
    if ports.is_empty() && !portless {
        return None;
    }
    let endpoints: Vec<SliceEndpoint> =
        endpoints.into_iter().take(ENDPOINTS_MAX).filter_map(|one| endpoint(one, nodes, prefers_zone(merged))).collect();
    let name = slice_name(key, cluster, record);
    let sequence = spec.envelope.sequence;
    Some(EndpointSlice {
        metadata: ObjectMeta {
            namespace: Some(SYSTEM_NAMESPACE.to_owned()),
            name: Some(name),
            // The cluster's own endpoints come from no record.
            annotations: (sequence > 0).then(|| [(RECORD_SEQUENCE.to_owned(), sequence.to_string())].into()),
            labels: labels([
                (SLICE_SERVICE_NAME, &key.import_service_name()),
                (SLICE_MANAGED_BY, SLICE_MANAGED_BY_DAISY),
                (MCS_SOURCE_CLUSTER, cluster.as_str()),
                (IMPORT_NAMESPACE, key.namespace.as_str()),
                (IMPORT_NAME, key.name.as_str()),
            ]),
            ..ObjectMeta::default()
        },
        address_type: spec.address_type.as_str().to_owned(),
        endpoints,
        ports: Some(ports),
    })
}

/// The sequence of the record that a slice was made of; 0 where it does not say.
#[must_use]
pub fn sequence_of(slice: &EndpointSlice) -> u64 {
    let annotations = slice.metadata.annotations.as_ref();
    annotations.and_then(|annotations| annotations.get(RECORD_SEQUENCE)?.parse().ok()).unwrap_or(0)
}

/// Never a target, nor the node of an endpoint elsewhere: they would mean something else here, or nothing. A zone means the same in
/// two clusters that share one, and nothing in others: a hint for a zone that no node here is in is not followed.
fn endpoint(endpoint: &Endpoint, nodes: Option<&BTreeMap<IpAddr, String>>, prefers_zone: bool) -> Option<SliceEndpoint> {
    let address = endpoint.addresses.first()?;
    let zone = endpoint.zone.clone().filter(|zone| is_zone(zone));
    let hints = zone
        .clone()
        .filter(|_| prefers_zone)
        .map(|name| EndpointHints { for_zones: Some(vec![ForZone { name }]), ..EndpointHints::default() });
    Some(SliceEndpoint {
        addresses: vec![address.to_string()],
        node_name: nodes.and_then(|nodes| nodes.get(address).cloned()),
        zone,
        hints,
        conditions: Some(EndpointConditions {
            ready: Some(endpoint.ready),
            serving: Some(endpoint.serving),
            terminating: Some(endpoint.terminating),
        }),
        hostname: endpoint.hostname.clone().filter(|name| daisy_api::names::is_label(name)),
        ..SliceEndpoint::default()
    })
}

/// The same slice once more, in the import's own namespace, for the MCS API. kube-proxy does not see it.
#[must_use]
pub fn mcs_slice(key: &ServiceKey, slice: &EndpointSlice) -> EndpointSlice {
    let mut copy = slice.clone();
    copy.metadata.namespace = Some(key.namespace.to_string());
    copy.metadata.annotations = None;
    // Another name: in daisy-system itself both exist side by side.
    copy.metadata.name = copy.metadata.name.map(|name| format!("mcs-{name}"));
    if let Some(labels) = &mut copy.metadata.labels {
        labels.remove(SLICE_SERVICE_NAME);
        labels.insert(MCS_SERVICE_NAME.to_owned(), key.name.to_string());
    }
    copy
}

/// The ServiceImport. `ips` are the ClusterIPs of the import's Service, `families` what can be used here.
#[must_use]
pub fn service_import(key: &ServiceKey, merged: &Merged, families: &[IpFamily], ips: &[IpAddr]) -> ServiceImport {
    let headless = merged.type_ == ExportType::Headless;
    let client_ip = merged.session_affinity == SessionAffinity::ClientIp;
    let mut labels = qualified::labels(&merged.labels);
    labels.insert(MANAGED_BY.to_owned(), MANAGED_BY_DAISY.to_owned());
    let annotations = qualified::annotations(&merged.annotations);
    let ports = merged.ports.iter().map(|port| ImportPort {
        name: port.name.clone(),
        protocol: port.protocol,
        port: port.port,
        app_protocol: port.app_protocol.clone(),
    });
    let ips: Vec<IpAddr> = if headless { Vec::new() } else { ips.iter().copied().take(2).collect() };
    let ip_families = if ips.is_empty() { families.to_vec() } else { ips.iter().copied().map(IpFamily::of).collect() };
    let spec = ServiceImportSpec {
        ports: ports.collect(),
        ips,
        type_: if headless { ImportType::Headless } else { ImportType::ClusterSetIp },
        ip_families,
        session_affinity: merged.session_affinity,
        session_affinity_config: merged.session_affinity_seconds.filter(|_| client_ip).map(affinity_config),
        // Absent in a merged export, it is the default: an import says that, too.
        internal_traffic_policy: (!headless).then(|| internal_traffic_policy(merged).to_owned()),
        traffic_distribution: merged.traffic_distribution.clone(),
    };
    let mut import = ServiceImport::new(key.name.as_str(), spec);
    import.metadata.namespace = Some(key.namespace.to_string());
    import.metadata.labels = Some(labels);
    import.metadata.annotations = (!annotations.is_empty()).then_some(annotations);
    import
}

/// What an object of Daisy's stands for, by its import labels.
#[must_use]
pub fn key_of(metadata: &ObjectMeta) -> Option<ServiceKey> {
    let labels = metadata.labels.as_ref()?;
    ServiceKey::parse(labels.get(IMPORT_NAMESPACE)?, labels.get(IMPORT_NAME)?).ok()
}
