//! Bringing an object to what it is to be, without touching what is not ours in it.
//!
//! ```text
//! observed ─┐
//! desired ──┴▶ overlay ──▶ Same · Replace (the observed one with our parts set) · Recreate (a part that the API never changes)
//! ```
//!
//! Laws, held by property tests: an overlay applied once gives `Same`; an object overlaid with itself is `Same`; what others
//! put into an object of ours (annotations, fields that the API server fills in) stays.

use std::collections::BTreeMap;

use daisy_api::{Cluster, Export, ExportEndpoints, Heartbeat, ServiceExport, ServiceImport};
use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::service::CLUSTER;

/// What is to be done to an observed object.
#[derive(Clone, Debug, PartialEq)]
pub enum Overlay<K> {
    /// Nothing.
    Same,
    /// Put this in its place: the observed object, its resourceVersion included, with our parts set.
    Replace(Box<K>),
    /// Delete it and make it anew: a field differs that cannot be changed.
    Recreate,
}

/// An object that Daisy writes.
pub trait Managed: Clone + PartialEq + Sized {
    /// Compares what is with what is to be.
    fn overlay(&self, desired: &Self) -> Overlay<Self>;
}

/// Sets our labels and annotations; those of others stay.
fn metadata(observed: &mut ObjectMeta, desired: &ObjectMeta) {
    if let Some(labels) = &desired.labels {
        observed.labels.get_or_insert_default().extend(labels.clone());
    }
    if let Some(annotations) = &desired.annotations {
        observed.annotations.get_or_insert_default().extend(annotations.clone());
    }
}

/// Sets labels and annotations to exactly these, so that what is no longer exported goes.
fn exactly(observed: &mut Option<BTreeMap<String, String>>, desired: Option<&BTreeMap<String, String>>) {
    if observed.as_ref().is_some_and(|had| !had.is_empty()) || desired.is_some_and(|want| !want.is_empty()) {
        *observed = desired.cloned();
    }
}

fn finish<K: Clone + PartialEq>(observed: &K, wanted: K) -> Overlay<K> {
    if *observed == wanted { Overlay::Same } else { Overlay::Replace(Box::new(wanted)) }
}

impl Managed for Service {
    fn overlay(&self, desired: &Self) -> Overlay<Self> {
        let (Some(had), Some(want)) = (&self.spec, &desired.spec) else { return Overlay::Recreate };
        let headless = |ip: &Option<String>| ip.as_deref() == Some("None");
        let first_family = |list: &Option<Vec<String>>| list.as_ref().and_then(|l| l.first().cloned());
        // The API changes neither a ClusterIP nor the first family of a Service.
        let (had_family, want_family) = (first_family(&had.ip_families), first_family(&want.ip_families));
        let family_differs = had_family.is_some() && want_family.is_some() && had_family != want_family;
        if headless(&had.cluster_ip) != headless(&want.cluster_ip) || family_differs {
            return Overlay::Recreate;
        }
        let mut wanted = self.clone();
        metadata(&mut wanted.metadata, &desired.metadata);
        let spec = wanted.spec.get_or_insert_default();
        let ports = want.ports.clone().unwrap_or_default();
        if had.ports.clone().unwrap_or_default() != ports {
            spec.ports = Some(ports);
        }
        spec.selector = None;
        if had.type_.as_deref().unwrap_or("ClusterIP") != "ClusterIP" {
            spec.type_.clone_from(&want.type_);
        }
        if had.session_affinity.as_deref().unwrap_or("None") != want.session_affinity.as_deref().unwrap_or("None")
            || want.session_affinity_config.is_some()
        {
            spec.session_affinity.clone_from(&want.session_affinity);
            spec.session_affinity_config.clone_from(&want.session_affinity_config);
        }
        let policy = |spec: &ServiceSpec| spec.internal_traffic_policy.clone().unwrap_or_else(|| CLUSTER.to_owned());
        if policy(had) != policy(want) {
            spec.internal_traffic_policy = Some(policy(want));
        }
        if want.ip_families.is_some() && had.ip_families != want.ip_families {
            spec.ip_families.clone_from(&want.ip_families);
            spec.ip_family_policy.clone_from(&want.ip_family_policy);
            // One family fewer is one address fewer (API: secondary fields are released by narrowing the policy).
            if let (Some(ips), Some(families)) = (&mut spec.cluster_ips, &want.ip_families) {
                ips.truncate(families.len());
            }
        }
        finish(self, wanted)
    }
}

impl Managed for EndpointSlice {
    fn overlay(&self, desired: &Self) -> Overlay<Self> {
        if self.address_type != desired.address_type {
            return Overlay::Recreate;
        }
        let mut wanted = self.clone();
        metadata(&mut wanted.metadata, &desired.metadata);
        wanted.endpoints.clone_from(&desired.endpoints);
        if self.ports.clone().unwrap_or_default() != desired.ports.clone().unwrap_or_default() {
            wanted.ports.clone_from(&desired.ports);
        }
        finish(self, wanted)
    }
}

impl Managed for ServiceImport {
    fn overlay(&self, desired: &Self) -> Overlay<Self> {
        let mut wanted = self.clone();
        exactly(&mut wanted.metadata.labels, desired.metadata.labels.as_ref());
        exactly(&mut wanted.metadata.annotations, desired.metadata.annotations.as_ref());
        wanted.spec.clone_from(&desired.spec);
        finish(self, wanted)
    }
}

impl Managed for ServiceExport {
    /// A ServiceExport that is there is never changed: its spec is the user's, also where the bulk export made it.
    fn overlay(&self, _: &Self) -> Overlay<Self> {
        Overlay::Same
    }
}

impl Managed for Cluster {
    /// The envelope does not count as a difference; `leaving` of the local one stays as it is: `daisy leave` writes it.
    fn overlay(&self, desired: &Self) -> Overlay<Self> {
        let mut wanted = self.clone();
        metadata(&mut wanted.metadata, &desired.metadata);
        wanted.spec.clone_from(&desired.spec);
        wanted.spec.envelope = self.spec.envelope.clone();
        match finish(self, wanted) {
            Overlay::Replace(mut wanted) => {
                wanted.spec.envelope = desired.spec.envelope.clone();
                Overlay::Replace(wanted)
            }
            other => other,
        }
    }
}

macro_rules! record {
    ($($kind:ty),*) => {
        $(impl Managed for $kind {
            /// The envelope does not count as a difference, and comes with one.
            fn overlay(&self, desired: &Self) -> Overlay<Self> {
                let mut wanted = self.clone();
                metadata(&mut wanted.metadata, &desired.metadata);
                wanted.spec.clone_from(&desired.spec);
                wanted.spec.envelope = self.spec.envelope.clone();
                match finish(self, wanted) {
                    Overlay::Replace(mut wanted) => {
                        wanted.spec.envelope = desired.spec.envelope.clone();
                        Overlay::Replace(wanted)
                    }
                    other => other,
                }
            }
        })*
    };
}

record!(Export, ExportEndpoints);

impl Managed for Heartbeat {
    fn overlay(&self, desired: &Self) -> Overlay<Self> {
        let mut wanted = self.clone();
        wanted.spec.clone_from(&desired.spec);
        finish(self, wanted)
    }
}

#[cfg(test)]
mod tests;
