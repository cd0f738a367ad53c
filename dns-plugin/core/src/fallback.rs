//! Whose Service answers: this cluster's, or the import.

use std::net::IpAddr;
use std::sync::Arc;

use crate::dashed::{dashed, undash};
use crate::facts::{Endpoint, Service, ServiceKind, Slice};
use crate::index::{Entry, Held, Snapshot};
use crate::name::ServiceRef;
use crate::zone::ZoneKind;

/// Whose a Service is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// This cluster's.
    Local,
    /// Imported.
    Import,
}

/// The Service that answers, with its endpoints.
#[derive(Debug, Clone, Copy)]
pub struct Chosen<'s> {
    /// Whose it is.
    pub origin: Origin,
    /// The Service.
    pub service: &'s Service,
    slices: &'s [Arc<Held<Slice>>],
}

impl<'s> Chosen<'s> {
    fn local(entry: &'s Entry) -> Option<Self> {
        Some(Self { origin: Origin::Local, service: entry.local.as_deref()?, slices: &entry.local_slices })
    }

    fn import(entry: &'s Entry) -> Option<Self> {
        Some(Self { origin: Origin::Import, service: &entry.imports.first()?.fact, slices: &entry.import_slices })
    }

    /// Its slices.
    pub fn slices(self) -> impl Iterator<Item = &'s Slice> {
        self.slices.iter().map(|slice| &slice.fact)
    }

    /// Its ready endpoints, each with its slice.
    pub fn endpoints(self) -> impl Iterator<Item = (&'s Slice, &'s Endpoint)> {
        self.slices().flat_map(|slice| slice.endpoints.iter().map(move |endpoint| (slice, endpoint)))
    }

    /// Whether it leads to its endpoints, each by itself.
    #[must_use]
    pub fn is_headless(self) -> bool {
        self.service.kind == ServiceKind::Headless
    }

    /// Whether its name exists: a headless Service has a name while an endpoint is ready (MCS DNS specification 2.4.1, and the
    /// Kubernetes one); one with an address keeps its name while nothing is ready behind it.
    #[must_use]
    pub fn exists(self) -> bool {
        !self.is_headless() || self.endpoints().next().is_some()
    }
}

/// The Service that answers for a name in a zone of this kind.
///
/// `supercluster.local`: the local one wherever it exists, also with no endpoint ready: borrowing another cluster's is the
/// operator's choice, never the default (decision 10). `clusterset.local`: the import, where the namespace exists here.
#[must_use]
pub fn choose<'s>(snapshot: &'s Snapshot, kind: ZoneKind, service: ServiceRef<'_>) -> Option<Chosen<'s>> {
    let entry = snapshot.entry(service)?;
    match kind {
        ZoneKind::Supercluster => Chosen::local(entry).or_else(|| Chosen::import(entry)),
        ZoneKind::Clusterset => snapshot.namespace(service.namespace).exists.then(|| Chosen::import(entry)).flatten(),
        ZoneKind::Cluster => Chosen::local(entry),
    }
}

/// The import that answers for the name of an endpoint of a given cluster, whatever this cluster has itself.
#[must_use]
pub fn import<'s>(snapshot: &'s Snapshot, kind: ZoneKind, service: ServiceRef<'_>) -> Option<Chosen<'s>> {
    match kind {
        ZoneKind::Supercluster => Chosen::import(snapshot.entry(service)?),
        ZoneKind::Clusterset => choose(snapshot, kind, service),
        ZoneKind::Cluster => None,
    }
}

/// The label of an endpoint: its hostname, or what stands for it.
#[must_use]
pub fn hostname(endpoint: &Endpoint) -> String {
    endpoint.hostname.as_deref().map_or_else(|| dashed(endpoint.address), str::to_owned)
}

/// Whether the label is the endpoint's.
pub fn is_host(label: &str) -> impl Fn(&Endpoint) -> bool {
    let address: Option<IpAddr> = undash(label);
    move |endpoint| match &endpoint.hostname {
        Some(hostname) => **hostname == *label,
        None => address == Some(endpoint.address),
    }
}
