//! The reference model: what should be imported where, from what users did and what the registrar granted. No syncer code.

use std::collections::{BTreeMap, BTreeSet};

use daisy_api::{Grant, NamespaceName, ServiceKey};
use daisy_broker_core::object::{Kind, Object};

use crate::cluster::{SimCluster, Standing};

/// The grants, present and past.
#[derive(Default)]
pub(crate) struct Grants(BTreeMap<u8, Vec<Grant>>);

impl Grants {
    pub(crate) fn set(&mut self, number: u8, grant: Grant) {
        self.0.entry(number).or_default().push(grant);
    }

    pub(crate) fn now(&self, number: u8) -> Grant {
        self.0.get(&number).and_then(|list| list.last()).cloned().unwrap_or_default()
    }

    /// Whether the cluster was ever allowed to export from there.
    pub(crate) fn ever(&self, number: u8, namespace: &NamespaceName) -> bool {
        self.0.get(&number).is_some_and(|list| list.iter().any(|grant| grant.allows(namespace)))
    }
}

/// The namespaces and names that the simulation uses: few, so that clusters meet.
pub(crate) fn keys() -> Vec<ServiceKey> {
    let names = ["cart", "db", "api"];
    let spaces = ["shop", "shop-eu", "web"];
    spaces.iter().flat_map(|ns| names.iter().filter_map(|n| ServiceKey::parse(ns, n).ok())).collect()
}

/// The clusters that export the key, and their pods.
pub(crate) fn exporters(
    clusters: &BTreeMap<u8, SimCluster>,
    grants: &Grants,
    key: &ServiceKey,
) -> BTreeMap<u8, BTreeSet<String>> {
    let exporting =
        |c: &&SimCluster| c.standing == Standing::Member && c.wants(key) && grants.now(c.number).allows(&key.namespace);
    clusters.values().filter(exporting).map(|c| (c.number, c.pods(key).into_iter().collect())).collect()
}

/// Whether all who export the key agree on its type and port: where they do not, the standard's conflict rules leave things
/// out, which merge's own property tests cover.
pub(crate) fn agreed<'a>(clusters: impl Iterator<Item = &'a SimCluster>, key: &ServiceKey) -> bool {
    let mut shapes = clusters.filter_map(|c| shape(c, key));
    let first = shapes.next();
    shapes.all(|shape| Some(&shape) == first.as_ref())
}

/// Whether the Service is headless, and its port.
pub(crate) fn shape(cluster: &SimCluster, key: &ServiceKey) -> Option<(bool, i32)> {
    let Some(Object::Service(service)) = cluster.here.get(Kind::Service, key.namespace.as_str(), key.name.as_str()) else {
        return None;
    };
    let spec = service.spec.as_ref()?;
    Some((spec.cluster_ip.as_deref() == Some("None"), spec.ports.as_ref()?.first()?.port))
}
