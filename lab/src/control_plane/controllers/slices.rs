//! EndpointSlices of Services with a selector, as Kubernetes' own controller writes them (KEP-752).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use daisy_api::labels::{SLICE_HEADLESS, SLICE_MANAGED_BY, SLICE_SERVICE_NAME};
use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::pods::{is_finished, is_ready, is_terminating, node_of};
use crate::control_plane::admission::service::HEADLESS;

/// The value of `endpointslice.kubernetes.io/managed-by` on what this writes.
pub(crate) const MANAGED_BY: &str = "endpointslice-controller.k8s.io";
/// The most endpoints of one slice.
const ENDPOINTS_MAX: usize = 100;

/// What is to be done for a Service.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct SlicePlan {
    /// Slices to make.
    pub(crate) create: Vec<EndpointSlice>,
    /// Slices to write anew.
    pub(crate) replace: Vec<EndpointSlice>,
    /// Slices to delete.
    pub(crate) delete: Vec<Arc<EndpointSlice>>,
}

/// Whether this Pod is one of the Service's.
pub(crate) fn selects(service: &Service, labels: Option<&BTreeMap<String, String>>) -> bool {
    let selector = service.spec.as_ref().and_then(|s| s.selector.as_ref());
    selector.is_some_and(|s| !s.is_empty() && s.iter().all(|(k, v)| labels.and_then(|l| l.get(k)) == Some(v)))
}

/// Whether this controller writes the slices of the Service.
fn is_ours(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    let selector = spec.and_then(|s| s.selector.as_ref()).is_some_and(|s| !s.is_empty());
    selector && spec.and_then(|s| s.type_.as_deref()) != Some("ExternalName") && service.metadata.deletion_timestamp.is_none()
}

/// Slices are told apart by family and ports: Pods that resolve a named port differently are in slices of their own.
type Group = (bool, String);

/// What is to be done so that `slices`, those of the Service that this controller wrote, hold `pods`.
pub(crate) fn plan(
    service: &Service,
    pods: &[Arc<Pod>],
    slices: &[Arc<EndpointSlice>],
    zone: impl Fn(&str) -> Option<String>,
) -> SlicePlan {
    let mut plan = SlicePlan::default();
    let mut groups: BTreeMap<Group, (Vec<EndpointPort>, Vec<Endpoint>)> = BTreeMap::new();
    if is_ours(service) {
        for ipv6 in families(service) {
            for pod in pods {
                let Some(endpoint) = endpoint(service, pod, ipv6, &zone) else { continue };
                let ports = ports(service, pod);
                groups.entry((ipv6, fingerprint(&ports))).or_insert_with(|| (ports, Vec::new())).1.push(endpoint);
            }
            // A Service that selects nobody has an empty slice, by which its users know that it was looked at.
            if !groups.keys().any(|(v6, _)| *v6 == ipv6) {
                groups.insert((ipv6, String::new()), (Vec::new(), Vec::new()));
            }
        }
    }
    let mut have: BTreeMap<Group, Vec<&Arc<EndpointSlice>>> = BTreeMap::new();
    for slice in slices.iter().filter(|s| s.metadata.deletion_timestamp.is_none()) {
        let ports = slice.ports.as_deref().unwrap_or_default();
        have.entry((slice.address_type == "IPv6", fingerprint(ports))).or_default().push(slice);
    }
    // A group that is no longer there leaves its slices to a new one of the same family: one write instead of two, and no
    // moment without endpoints.
    let mut spare: Vec<&Arc<EndpointSlice>> = Vec::new();
    have.retain(|group, slices| {
        groups.contains_key(group) || {
            spare.append(slices);
            false
        }
    });
    for ((ipv6, print), (ports, endpoints)) in groups {
        let mut existing = have.remove(&(ipv6, print)).unwrap_or_default();
        if existing.is_empty()
            && let Some(at) = spare.iter().position(|s| (s.address_type == "IPv6") == ipv6)
        {
            existing.push(spare.remove(at));
        }
        fill(service, (ipv6, ports), endpoints, &existing, &mut plan);
    }
    plan.delete.extend(spare.into_iter().map(Arc::clone));
    plan
}

/// Spreads the endpoints of a group over its slices: each stays in the slice that it is in, so that one change is one write.
fn fill(
    service: &Service,
    (ipv6, ports): (bool, Vec<EndpointPort>),
    endpoints: Vec<Endpoint>,
    existing: &[&Arc<EndpointSlice>],
    plan: &mut SlicePlan,
) {
    let key = |e: &Endpoint| e.target_ref.as_ref().and_then(|t| t.uid.clone()).unwrap_or_else(|| e.addresses.join(","));
    let mut wanted: HashMap<String, Endpoint> = HashMap::new();
    let mut order = Vec::new();
    for endpoint in endpoints {
        let key = key(&endpoint);
        if wanted.insert(key.clone(), endpoint).is_none() {
            order.push(key);
        }
    }
    let mut contents: Vec<Vec<Endpoint>> = Vec::new();
    for slice in existing {
        contents.push(slice.endpoints.iter().filter_map(|e| wanted.remove(&key(e))).take(ENDPOINTS_MAX).collect());
    }
    for endpoint in order.iter().filter_map(|k| wanted.remove(k)) {
        match contents.iter_mut().find(|c| c.len() < ENDPOINTS_MAX) {
            Some(room) => room.push(endpoint),
            None => contents.push(vec![endpoint]),
        }
    }
    if contents.is_empty() {
        contents.push(Vec::new());
    }
    let all_empty = contents.iter().all(Vec::is_empty);
    for (index, content) in contents.into_iter().enumerate() {
        let desired = slice(service, ipv6, &ports, content);
        match existing.get(index) {
            None => plan.create.push(desired),
            Some(had) if desired.endpoints.is_empty() && !(all_empty && index == 0) => plan.delete.push(Arc::clone(had)),
            Some(had) if same(had, &desired) => {}
            Some(had) => {
                let metadata = ObjectMeta {
                    labels: desired.metadata.labels,
                    owner_references: desired.metadata.owner_references,
                    ..had.metadata.clone()
                };
                plan.replace.push(EndpointSlice { metadata, ..desired });
            }
        }
    }
}

fn same(had: &EndpointSlice, desired: &EndpointSlice) -> bool {
    had.endpoints == desired.endpoints
        && had.ports.as_deref().unwrap_or_default() == desired.ports.as_deref().unwrap_or_default()
        && had.metadata.labels == desired.metadata.labels
}

fn families(service: &Service) -> BTreeSet<bool> {
    let spec = service.spec.as_ref();
    let named = spec.and_then(|s| s.ip_families.as_ref()).into_iter().flatten().map(|f| f == "IPv6");
    named.collect()
}

fn fingerprint(ports: &[EndpointPort]) -> String {
    let mut parts: Vec<String> = ports
        .iter()
        .map(|p| {
            let text = |s: &Option<String>| s.clone().unwrap_or_default();
            format!("{}/{}/{}/{}", text(&p.name), text(&p.protocol), p.port.unwrap_or_default(), text(&p.app_protocol))
        })
        .collect();
    parts.sort();
    parts.join(",")
}

fn ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let wanted = service.spec.as_ref().and_then(|s| s.ports.as_deref()).unwrap_or_default();
    // A named port that this Pod does not have is no port of its endpoint.
    let resolved = wanted.iter().filter_map(|port| Some((port, target(port, pod)?)));
    resolved
        .map(|(port, number)| EndpointPort {
            name: Some(port.name.clone().unwrap_or_default()),
            protocol: port.protocol.clone(),
            port: Some(number),
            app_protocol: port.app_protocol.clone(),
        })
        .collect()
}

fn target(port: &ServicePort, pod: &Pod) -> Option<i32> {
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    match port.target_port.as_ref() {
        None | Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => {
            let containers = pod.spec.as_ref().into_iter().flat_map(|s| &s.containers);
            let mut ports = containers.flat_map(|c| c.ports.iter().flatten());
            ports
                .find(|p| p.name.as_ref() == Some(name) && p.protocol.as_deref().unwrap_or("TCP") == protocol)
                .map(|p| p.container_port)
        }
    }
}

fn address(pod: &Pod, ipv6: bool) -> Option<String> {
    let status = pod.status.as_ref()?;
    let several = status.pod_ips.iter().flatten().map(|p| p.ip.as_str());
    let all = several.chain(status.pod_ip.as_deref());
    let parsed = all.filter_map(|text| text.parse::<IpAddr>().ok());
    parsed.into_iter().find(|ip| ip.is_ipv6() == ipv6).map(|ip| ip.to_string())
}

fn endpoint(service: &Service, pod: &Pod, ipv6: bool, zone: &impl Fn(&str) -> Option<String>) -> Option<Endpoint> {
    if is_finished(pod) {
        return None;
    }
    let address = address(pod, ipv6)?;
    let spec = pod.spec.as_ref()?;
    let all = service.spec.as_ref().and_then(|s| s.publish_not_ready_addresses) == Some(true);
    let (serving, terminating) = (is_ready(pod), is_terminating(pod));
    let node = node_of(pod);
    let named = spec.hostname.as_ref().filter(|h| !h.is_empty() && spec.subdomain == service.metadata.name);
    Some(Endpoint {
        addresses: vec![address],
        conditions: Some(EndpointConditions {
            ready: Some(all || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: named.cloned(),
        node_name: node.map(str::to_owned),
        zone: node.and_then(zone),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    })
}

fn slice(service: &Service, ipv6: bool, ports: &[EndpointPort], endpoints: Vec<Endpoint>) -> EndpointSlice {
    let name = service.metadata.name.clone().unwrap_or_default();
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(SLICE_HEADLESS);
    labels.insert(SLICE_SERVICE_NAME.to_owned(), name.clone());
    labels.insert(SLICE_MANAGED_BY.to_owned(), MANAGED_BY.to_owned());
    if service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()) == Some(HEADLESS) {
        labels.insert(SLICE_HEADLESS.to_owned(), String::new());
    }
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{name}-")),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Service".to_owned(),
                name,
                uid: service.metadata.uid.clone().unwrap_or_default(),
                controller: Some(true),
                block_owner_deletion: Some(true),
            }]),
            ..ObjectMeta::default()
        },
        address_type: if ipv6 { "IPv6" } else { "IPv4" }.to_owned(),
        endpoints,
        ports: Some(ports.to_vec()),
    }
}

#[cfg(test)]
#[path = "slices_tests.rs"]
mod tests;
