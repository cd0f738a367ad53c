//! Which backends every ClusterIP and port has, from Services and EndpointSlices. Decides only.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use daisy_api::ServiceKey;
use daisy_api::labels::SLICE_SERVICE_NAME;
use daisy_nftables::protocol;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use crate::control_plane::watch::Change;

/// What clients address: a ClusterIP, an IP protocol, a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Frontend {
    pub(crate) address: IpAddr,
    pub(crate) protocol: u8,
    pub(crate) port: u16,
}

/// Who answers there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Backends {
    /// `NAMESPACE/NAME:PORT`, for people who look at the rules.
    pub(crate) name: String,
    /// Addresses and ports in order, each once. With none, clients are refused.
    pub(crate) targets: Vec<(IpAddr, u16)>,
    /// A client's connections all go to the same target.
    pub(crate) affinity: bool,
}

/// What matters of a Service.
struct Facts {
    frontends: Vec<(Frontend, String)>,
    affinity: bool,
    local_only: bool,
}

/// What matters of an EndpointSlice.
struct SliceFacts {
    service: ServiceKey,
    ports: Vec<(String, u8, u16)>,
    endpoints: Vec<EndpointFacts>,
}

struct EndpointFacts {
    address: IpAddr,
    ready: bool,
    /// Not ready because it is ending, and still serving: better than nobody (KEP-1669).
    draining: bool,
    here: bool,
}

/// Everything that was seen, and what has to change because of it.
pub(crate) struct Index {
    node: String,
    services: BTreeMap<ServiceKey, Facts>,
    /// By namespace and name.
    slices: BTreeMap<(String, String), SliceFacts>,
    slices_of: BTreeMap<ServiceKey, BTreeSet<(String, String)>>,
    given: BTreeMap<ServiceKey, BTreeMap<Frontend, Backends>>,
    /// More than one Service has an address only for the moment in which one hands it to another.
    claims: BTreeMap<Frontend, BTreeMap<ServiceKey, Backends>>,
    dirty: BTreeSet<Frontend>,
}

impl Index {
    /// Nothing seen yet, on the node of this name.
    pub(crate) fn new(node: String) -> Self {
        Self {
            node,
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            slices_of: BTreeMap::new(),
            given: BTreeMap::new(),
            claims: BTreeMap::new(),
            dirty: BTreeSet::new(),
        }
    }

    /// Services changed.
    pub(crate) fn handle_services(&mut self, change: Change<Service>) {
        match change {
            Change::List(all) => {
                let present: BTreeSet<_> = all.iter().filter_map(key_of).collect();
                let absent: Vec<_> = self.services.keys().filter(|k| !present.contains(*k)).cloned().collect();
                absent.into_iter().for_each(|k| self.set_service(k, None));
                all.iter().for_each(|s| self.handle_service(s));
            }
            Change::Set(service) => self.handle_service(&service),
            Change::Gone(service) | Change::Deleted(service) => {
                if let Some(key) = key_of(&service) {
                    self.set_service(key, None);
                }
            }
        }
    }

    fn handle_service(&mut self, service: &Service) {
        if let Some(key) = key_of(service) {
            self.set_service(key, Facts::of(service));
        }
    }

    fn set_service(&mut self, key: ServiceKey, facts: Option<Facts>) {
        match facts {
            Some(facts) => self.services.insert(key.clone(), facts),
            None => self.services.remove(&key),
        };
        self.refresh(&key);
    }

    /// EndpointSlices changed.
    pub(crate) fn handle_slices(&mut self, change: Change<EndpointSlice>) {
        match change {
            Change::List(all) => {
                let present: BTreeSet<_> = all.iter().map(slice_name).collect();
                let absent: Vec<_> = self.slices.keys().filter(|k| !present.contains(*k)).cloned().collect();
                absent.into_iter().for_each(|k| self.set_slice(k, None));
                all.iter().for_each(|s| self.set_slice(slice_name(s), SliceFacts::of(s, &self.node)));
            }
            Change::Set(slice) => self.set_slice(slice_name(&slice), SliceFacts::of(&slice, &self.node)),
            Change::Gone(slice) | Change::Deleted(slice) => self.set_slice(slice_name(&slice), None),
        }
    }

    fn set_slice(&mut self, name: (String, String), facts: Option<SliceFacts>) {
        let new = facts.as_ref().map(|f| f.service.clone());
        let old = match facts {
            Some(facts) => self.slices.insert(name.clone(), facts),
            None => self.slices.remove(&name),
        }
        .map(|f| f.service);
        if let Some(old) = old.filter(|old| new.as_ref() != Some(old)) {
            if let Some(names) = self.slices_of.get_mut(&old) {
                names.remove(&name);
                if names.is_empty() {
                    self.slices_of.remove(&old);
                }
            }
            self.refresh(&old);
        }
        if let Some(new) = new {
            self.slices_of.entry(new.clone()).or_default().insert(name);
            self.refresh(&new);
        }
    }

    /// Works out the Service's backends and marks the frontends that they changed for.
    fn refresh(&mut self, key: &ServiceKey) {
        let new = self.services.get(key).map(|facts| self.backends(key, facts)).unwrap_or_default();
        let old = self.given.remove(key).unwrap_or_default();
        for frontend in old.keys().chain(new.keys()) {
            if old.get(frontend) == new.get(frontend) {
                continue;
            }
            let claims = self.claims.entry(*frontend).or_default();
            match new.get(frontend) {
                Some(backends) => claims.insert(key.clone(), backends.clone()),
                None => claims.remove(key),
            };
            if claims.is_empty() {
                self.claims.remove(frontend);
            }
            self.dirty.insert(*frontend);
        }
        if !new.is_empty() {
            self.given.insert(key.clone(), new);
        }
    }

    fn backends(&self, key: &ServiceKey, facts: &Facts) -> BTreeMap<Frontend, Backends> {
        let slices: Vec<&SliceFacts> =
            self.slices_of.get(key).into_iter().flatten().filter_map(|n| self.slices.get(n)).collect();
        let mut all = BTreeMap::new();
        for (frontend, name) in &facts.frontends {
            let (mut ready, mut draining) = (BTreeSet::new(), BTreeSet::new());
            for slice in &slices {
                let ports = slice.ports.iter().filter(|(n, p, _)| n == name && *p == frontend.protocol);
                for (_, _, port) in ports {
                    let usable = slice.endpoints.iter().filter(|e| e.address.is_ipv6() == frontend.address.is_ipv6());
                    for endpoint in usable.filter(|e| e.here || !facts.local_only) {
                        if endpoint.ready {
                            ready.insert((endpoint.address, *port));
                        } else if endpoint.draining {
                            draining.insert((endpoint.address, *port));
                        }
                    }
                }
            }
            let targets = if ready.is_empty() { draining } else { ready };
            let label = if name.is_empty() { key.to_string() } else { format!("{key}:{name}") };
            let backends = Backends { name: label, targets: targets.into_iter().collect(), affinity: facts.affinity };
            all.insert(*frontend, backends);
        }
        all
    }

    /// What changed since the last call: each frontend with its backends, or with `None` where it is no longer one.
    pub(crate) fn poll_changes(&mut self) -> Vec<(Frontend, Option<Backends>)> {
        let dirty = std::mem::take(&mut self.dirty);
        dirty.into_iter().map(|f| (f, self.claims.get(&f).and_then(|c| c.values().next()).cloned())).collect()
    }
}

fn key_of(service: &Service) -> Option<ServiceKey> {
    ServiceKey::parse(service.metadata.namespace.as_deref()?, service.metadata.name.as_deref()?).ok()
}

fn slice_name(slice: &EndpointSlice) -> (String, String) {
    (slice.metadata.namespace.clone().unwrap_or_default(), slice.metadata.name.clone().unwrap_or_default())
}

fn protocol_number(name: Option<&str>) -> Option<u8> {
    match name.unwrap_or("TCP") {
        "TCP" => Some(protocol::TCP),
        "UDP" => Some(protocol::UDP),
        "SCTP" => Some(protocol::SCTP),
        _ => None,
    }
}

impl Facts {
    /// `None` for a Service that has no ClusterIP.
    fn of(service: &Service) -> Option<Self> {
        let spec = service.spec.as_ref()?;
        if spec.type_.as_deref() == Some("ExternalName") {
            return None;
        }
        let several = spec.cluster_ips.as_deref().unwrap_or_default();
        let one = spec.cluster_ip.as_slice();
        let addresses: Vec<IpAddr> =
            if several.is_empty() { one } else { several }.iter().filter_map(|ip| ip.parse().ok()).collect();
        let mut frontends = Vec::new();
        for port in spec.ports.iter().flatten() {
            let (Some(protocol), Ok(number)) = (protocol_number(port.protocol.as_deref()), u16::try_from(port.port)) else {
                continue;
            };
            for address in &addresses {
                let frontend = Frontend { address: *address, protocol, port: number };
                frontends.push((frontend, port.name.clone().unwrap_or_default()));
            }
        }
        (!frontends.is_empty()).then(|| Self {
            frontends,
            affinity: spec.session_affinity.as_deref() == Some("ClientIP"),
            local_only: spec.internal_traffic_policy.as_deref() == Some("Local"),
        })
    }
}

impl SliceFacts {
    /// `None` for a slice of no Service.
    fn of(slice: &EndpointSlice, node: &str) -> Option<Self> {
        let name = slice.metadata.labels.as_ref()?.get(SLICE_SERVICE_NAME)?;
        let service = ServiceKey::parse(slice.metadata.namespace.as_deref()?, name).ok()?;
        let ports = slice.ports.iter().flatten().filter_map(|p| {
            let number = p.port.and_then(|n| u16::try_from(n).ok()).filter(|n| *n != 0)?;
            Some((p.name.clone().unwrap_or_default(), protocol_number(p.protocol.as_deref())?, number))
        });
        let endpoints = slice.endpoints.iter().filter_map(|e| EndpointFacts::of(e, node));
        Some(Self { service, ports: ports.collect(), endpoints: endpoints.collect() })
    }
}

impl EndpointFacts {
    fn of(endpoint: &Endpoint, node: &str) -> Option<Self> {
        let conditions = endpoint.conditions.as_ref();
        let flag = |value: fn(&k8s_openapi::api::discovery::v1::EndpointConditions) -> Option<bool>| conditions.and_then(value);
        Some(Self {
            // Consumers use the first address only (the EndpointSlice API says so).
            address: endpoint.addresses.first()?.parse().ok()?,
            // What is not said counts as ready.
            ready: flag(|c| c.ready) != Some(false),
            draining: flag(|c| c.serving) == Some(true) && flag(|c| c.terminating) == Some(true),
            here: endpoint.node_name.as_deref() == Some(node),
        })
    }
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;
