//! What is known of the clusters: this one and the others, from the Cluster objects in `daisy-system`.

use std::collections::BTreeMap;

use daisy_api::{Cidr, Cluster, ClusterId, ClusterSpec, labels};

/// This cluster's own record, as far as its gateway cares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalCluster {
    /// Its ID.
    pub id: ClusterId,
    /// Its pod, service and node CIDRs.
    pub cidrs: Vec<Cidr>,
    /// Whether it may export.
    pub exporter: bool,
}

/// Where this cluster's membership stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Membership {
    /// No local Cluster was seen yet.
    Unknown,
    /// There is one.
    Member,
    /// It says that the cluster is leaving, or it was there and is deleted.
    Leaving,
}

/// The Cluster objects, followed.
#[derive(Clone, Debug, Default)]
pub struct Clusters {
    local: Option<(String, LocalCluster, bool)>,
    local_gone: bool,
    remotes: BTreeMap<ClusterId, ClusterSpec>,
}

impl Clusters {
    /// None known yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Where the membership stands.
    #[must_use]
    pub fn membership(&self) -> Membership {
        match &self.local {
            Some((_, _, true)) => Membership::Leaving,
            Some((_, _, false)) => Membership::Member,
            None if self.local_gone => Membership::Leaving,
            None => Membership::Unknown,
        }
    }

    /// This cluster's own record.
    #[must_use]
    pub fn local(&self) -> Option<&LocalCluster> {
        self.local.as_ref().map(|(_, local, _)| local)
    }

    /// The other clusters' records, in the order of their IDs.
    pub fn remotes(&self) -> impl Iterator<Item = (&ClusterId, &ClusterSpec)> {
        self.remotes.iter()
    }

    /// An object is there or has changed. Says whether anything that matters to a gateway did (a heartbeat does not). One whose
    /// name is no cluster ID or which has no role is skipped.
    pub fn handle_applied(&mut self, cluster: &Cluster) -> bool {
        let Ok(id) = ClusterId::new(name_of(cluster)) else { return false };
        let role = cluster.metadata.labels.as_ref().and_then(|all| all.get(labels::CLUSTER_ROLE));
        match role.map(String::as_str) {
            Some(labels::CLUSTER_ROLE_LOCAL) => {
                let local =
                    LocalCluster { id: id.clone(), cidrs: cluster.spec.cidrs().collect(), exporter: cluster.spec.exporter };
                let entry = Some((id.to_string(), local, cluster.spec.leaving));
                let other = self.remotes.remove(&id).is_some();
                let changed = other || self.local != entry;
                self.local = entry;
                self.local_gone = false;
                changed
            }
            Some(labels::CLUSTER_ROLE_REMOTE) => match self.remotes.get_mut(&id) {
                Some(known) => {
                    let changed = !same_for_gateways(known, &cluster.spec);
                    *known = cluster.spec.clone();
                    changed
                }
                None => {
                    self.remotes.insert(id, cluster.spec.clone());
                    true
                }
            },
            _ => false,
        }
    }

    /// An object was deleted. Says whether anything that matters changed.
    pub fn handle_deleted(&mut self, name: &str) -> bool {
        if self.local.as_ref().is_some_and(|(local, _, _)| local == name) {
            self.local = None;
            self.local_gone = true;
            return true;
        }
        ClusterId::new(name).is_ok_and(|id| self.remotes.remove(&id).is_some())
    }

    /// These are all objects there are; `unreadable` are the names of those that did not parse, and what was known of them stays.
    /// Says whether anything that matters changed.
    pub fn handle_all(&mut self, clusters: &[Cluster], unreadable: &[String]) -> bool {
        let listed =
            |name: &str| clusters.iter().any(|cluster| name_of(cluster) == name) || unreadable.iter().any(|one| one == name);
        let local = self.local.iter().map(|(name, _, _)| name.clone());
        let known: Vec<String> = self.remotes.keys().map(ToString::to_string).chain(local).collect();
        let mut changed = false;
        for name in known.iter().filter(|name| !listed(name)) {
            changed |= self.handle_deleted(name);
        }
        for cluster in clusters {
            changed |= self.handle_applied(cluster);
        }
        changed
    }
}

fn name_of(cluster: &Cluster) -> &str {
    cluster.metadata.name.as_deref().unwrap_or_default()
}

/// Whether two specs say the same to a gateway.
fn same_for_gateways(a: &ClusterSpec, b: &ClusterSpec) -> bool {
    let key = |spec: &ClusterSpec| (spec.exporter, spec.cidrs().collect::<Vec<_>>(), spec.gateways.clone());
    key(a) == key(b)
}
