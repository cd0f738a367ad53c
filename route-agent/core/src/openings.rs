//! What is open to other clusters: the (address, protocol, port) triples of valid exports, kept up per change.
//!
//! ```text
//! ServiceExport · Service · EndpointSlice ──▶ sources ──▶ count of each triple ──▶ changes since last asked
//! ```
//!
//! A change of one slice touches that slice's triples and no others. Endpoints are open whether ready or not: what the outside
//! world of the filter sees of readiness comes later than the first connection.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use daisy_api::Protocol;
use daisy_api::labels::{SLICE_MANAGED_BY, SLICE_MANAGED_BY_DAISY, SLICE_SERVICE_NAME};
use daisy_api::{Cidr, NodeName, ServiceExport, conditions};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

/// Something that other clusters may reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Opening {
    /// A pod's, Service's or node's address.
    pub address: IpAddr,
    /// The protocol.
    pub protocol: Protocol,
    /// The port.
    pub port: u16,
}

/// A namespace and a name.
type Key = (String, String);

/// Where triples come from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    Service(Key),
    Slice(Key),
}

/// What an endpoint offers, before it is known whether that lies in scope.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Offer {
    node: Option<String>,
    opening: Opening,
}

/// What of all the exports is open on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// On a gateway: all Services' addresses and all nodes' endpoints, since they all pass here.
    pub everything: bool,
    /// Elsewhere: the endpoints on this node.
    pub node: Option<NodeName>,
    /// The cluster's pod CIDRs: an endpoint outside of them is none of a pod's.
    pub pods: Vec<Cidr>,
    /// The node address of each node's address on the node network: where endpoints of host-network pods are reached.
    pub hosts: BTreeMap<IpAddr, IpAddr>,
}

impl Scope {
    fn admit(&self, offer: &Offer) -> Option<Opening> {
        let here = self.everything
            || match (&offer.node, &self.node) {
                (Some(node), Some(own)) => node == own.as_str(),
                (None, _) => true,
                (Some(_), None) => false,
            };
        if !here {
            return None;
        }
        let address = offer.opening.address;
        if self.pods.iter().any(|c| c.contains(address)) {
            return Some(offer.opening);
        }
        self.hosts.get(&address).map(|address| Opening { address: *address, ..offer.opening })
    }
}

/// What has changed since it was last asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpeningChanges {
    /// Newly open.
    pub add: Vec<Opening>,
    /// No longer open.
    pub remove: Vec<Opening>,
}

impl OpeningChanges {
    /// Whether nothing has.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.add.is_empty() && self.remove.is_empty()
    }
}

/// The exports, and what they open.
#[derive(Clone, Debug, Default)]
pub struct Openings {
    scope: Scope,
    exported: BTreeSet<Key>,
    offers: BTreeMap<Source, Vec<Offer>>,
    /// The Service that a slice belongs to.
    service_of: BTreeMap<Key, Key>,
    /// The slices of a Service.
    slices_of: BTreeMap<Key, BTreeSet<Key>>,
    /// What each source has open.
    contributed: BTreeMap<Source, BTreeSet<Opening>>,
    /// How many sources have it open.
    counts: BTreeMap<Opening, u32>,
    /// What was touched since last asked, and whether it was open then.
    touched: BTreeMap<Opening, bool>,
}

impl Openings {
    /// Sets the scope. A change of it looks at everything anew.
    pub fn set_scope(&mut self, scope: Scope) {
        if self.scope == scope {
            return;
        }
        self.scope = scope;
        let all: Vec<Source> = self.offers.keys().cloned().collect();
        for source in all {
            self.refresh(&source);
        }
    }

    /// A ServiceExport is there or has changed.
    pub fn handle_export(&mut self, export: &ServiceExport) {
        let Some(key) = key_of(&export.metadata.namespace, &export.metadata.name) else { return };
        let valid = export.status.as_ref().is_some_and(|s| conditions::is_true(&s.conditions, conditions::VALID));
        self.set_exported(key, valid);
    }

    /// A ServiceExport is gone.
    pub fn forget_export(&mut self, namespace: &str, name: &str) {
        self.set_exported((namespace.to_owned(), name.to_owned()), false);
    }

    fn set_exported(&mut self, key: Key, exported: bool) {
        let changed = if exported { self.exported.insert(key.clone()) } else { self.exported.remove(&key) };
        if changed {
            let slices: Vec<Source> = self.slices_of.get(&key).into_iter().flatten().cloned().map(Source::Slice).collect();
            for source in slices.into_iter().chain([Source::Service(key)]) {
                self.refresh(&source);
            }
        }
    }

    /// A Service is there or has changed.
    pub fn handle_service(&mut self, service: &Service) {
        let Some(key) = key_of(&service.metadata.namespace, &service.metadata.name) else { return };
        self.set_offers(Source::Service(key), offers_of_service(service));
    }

    /// A Service is gone.
    pub fn forget_service(&mut self, namespace: &str, name: &str) {
        self.set_offers(Source::Service((namespace.to_owned(), name.to_owned())), Vec::new());
    }

    /// An EndpointSlice is there or has changed.
    pub fn handle_slice(&mut self, slice: &EndpointSlice) {
        let Some(key) = key_of(&slice.metadata.namespace, &slice.metadata.name) else { return };
        let label = |name| slice.metadata.labels.as_ref().and_then(|l| l.get(name));
        // What Daisy writes holds other clusters' endpoints.
        let foreign = label(SLICE_MANAGED_BY).is_some_and(|by| by == SLICE_MANAGED_BY_DAISY);
        match label(SLICE_SERVICE_NAME).filter(|_| !foreign) {
            Some(service) => {
                let service = (key.0.clone(), service.clone());
                self.set_service_of(&key, Some(service));
                self.set_offers(Source::Slice(key), offers_of_slice(slice));
            }
            None => self.forget_slice(&key.0, &key.1),
        }
    }

    /// An EndpointSlice is gone.
    pub fn forget_slice(&mut self, namespace: &str, name: &str) {
        let key = (namespace.to_owned(), name.to_owned());
        self.set_offers(Source::Slice(key.clone()), Vec::new());
        self.set_service_of(&key, None);
    }

    fn set_service_of(&mut self, slice: &Key, service: Option<Key>) {
        if self.service_of.get(slice) == service.as_ref() {
            return;
        }
        if let Some(before) = self.service_of.remove(slice)
            && let Some(slices) = self.slices_of.get_mut(&before)
        {
            slices.remove(slice);
            if slices.is_empty() {
                self.slices_of.remove(&before);
            }
        }
        if let Some(service) = service {
            self.slices_of.entry(service.clone()).or_default().insert(slice.clone());
            self.service_of.insert(slice.clone(), service);
        }
        self.refresh(&Source::Slice(slice.clone()));
    }

    fn set_offers(&mut self, source: Source, offers: Vec<Offer>) {
        if offers.is_empty() {
            self.offers.remove(&source);
        } else {
            self.offers.insert(source.clone(), offers);
        }
        self.refresh(&source);
    }

    /// Looks at one source anew.
    fn refresh(&mut self, source: &Source) {
        let now = self.open_by(source);
        let before = if now.is_empty() {
            self.contributed.remove(source).unwrap_or_default()
        } else {
            self.contributed.insert(source.clone(), now.clone()).unwrap_or_default()
        };
        for gone in before.difference(&now) {
            let count = self.counts.get(gone).copied().unwrap_or_default();
            self.touched.entry(*gone).or_insert(count > 0);
            if count > 1 {
                self.counts.insert(*gone, count - 1);
            } else {
                self.counts.remove(gone);
            }
        }
        for new in now.difference(&before) {
            let count = self.counts.get(new).copied().unwrap_or_default();
            self.touched.entry(*new).or_insert(count > 0);
            self.counts.insert(*new, count + 1);
        }
    }

    fn open_by(&self, source: &Source) -> BTreeSet<Opening> {
        let offers = self.offers.get(source).into_iter().flatten();
        match source {
            Source::Service(key) if self.scope.everything && self.exported.contains(key) => offers.map(|o| o.opening).collect(),
            Source::Slice(key) if self.service_of.get(key).is_some_and(|s| self.exported.contains(s)) => {
                offers.filter_map(|o| self.scope.admit(o)).collect()
            }
            Source::Service(_) | Source::Slice(_) => BTreeSet::new(),
        }
    }

    /// All that is open.
    pub fn all(&self) -> impl Iterator<Item = Opening> + '_ {
        self.counts.keys().copied()
    }

    /// How many triples are open.
    #[must_use]
    pub fn len(&self) -> usize {
        self.counts.len()
    }

    /// Whether nothing is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// What has changed since this was last called.
    pub fn poll(&mut self) -> OpeningChanges {
        let mut changes = OpeningChanges::default();
        for (opening, was_open) in std::mem::take(&mut self.touched) {
            match (was_open, self.counts.contains_key(&opening)) {
                (false, true) => changes.add.push(opening),
                (true, false) => changes.remove.push(opening),
                (false, false) | (true, true) => {}
            }
        }
        changes
    }
}

fn key_of(namespace: &Option<String>, name: &Option<String>) -> Option<Key> {
    Some((namespace.clone()?, name.clone()?))
}

fn port_of(protocol: Option<&str>, port: i32) -> Option<(Protocol, u16)> {
    Some((Protocol::parse(protocol)?, u16::try_from(port).ok().filter(|p| *p > 0)?))
}

fn offers_of_service(service: &Service) -> Vec<Offer> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let many = spec.cluster_ips.iter().flatten();
    // "None" of a headless Service, and the empty text of one without an address yet, are no addresses.
    let addresses: BTreeSet<IpAddr> = many.chain(&spec.cluster_ip).filter_map(|a| a.parse().ok()).collect();
    let ports: Vec<_> = spec.ports.iter().flatten().filter_map(|p| port_of(p.protocol.as_deref(), p.port)).collect();
    let each = |address: IpAddr| {
        ports
            .iter()
            .map(move |(protocol, port)| Offer { node: None, opening: Opening { address, protocol: *protocol, port: *port } })
    };
    addresses.into_iter().flat_map(each).collect()
}

fn offers_of_slice(slice: &EndpointSlice) -> Vec<Offer> {
    let ports: Vec<_> =
        slice.ports.iter().flatten().filter_map(|p| p.port.and_then(|port| port_of(p.protocol.as_deref(), port))).collect();
    let mut offers = Vec::new();
    for endpoint in &slice.endpoints {
        for address in endpoint.addresses.iter().filter_map(|a| a.parse::<IpAddr>().ok()) {
            for (protocol, port) in &ports {
                let opening = Opening { address, protocol: *protocol, port: *port };
                offers.push(Offer { node: endpoint.node_name.clone(), opening });
            }
        }
    }
    offers
}

#[cfg(test)]
#[path = "openings_tests.rs"]
mod tests;
