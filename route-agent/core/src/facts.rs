//! What is taken from the objects: the few facts that routes depend on.

use std::collections::BTreeSet;
use std::net::IpAddr;

use daisy_api::labels::{CLUSTER_ROLE, CLUSTER_ROLE_LOCAL, CLUSTER_ROLE_REMOTE, GATEWAY_NODE, NODE_ADDRESS, NODE_STATE};
use daisy_api::{Cidr, Cluster, Gateway, HaStatus, conditions};
use k8s_openapi::api::core::v1::Node;

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// Its addresses on the node network, in the order in which it names them.
    pub internal: Vec<IpAddr>,
    /// Its pods' networks.
    pub pods: BTreeSet<Cidr>,
    /// Its node address.
    pub address: Option<IpAddr>,
    /// Whether it is to be a gateway.
    pub gateway: bool,
    /// Whether its kubelet says that it is well. Not being so is no proof that packets stop there.
    pub ready: bool,
    /// Its annotation of a finished leave.
    pub state: Option<String>,
}

impl NodeFacts {
    /// Takes them from a Node.
    #[must_use]
    pub fn of(node: &Node) -> Self {
        let annotation = |name| node.metadata.annotations.as_ref().and_then(|a| a.get(name));
        let status = node.status.as_ref();
        let addresses = status.and_then(|s| s.addresses.as_ref()).into_iter().flatten();
        let spec = node.spec.as_ref();
        let pods = spec.and_then(|s| s.pod_cidrs.as_ref()).into_iter().flatten();
        let mut conditions = status.and_then(|s| s.conditions.as_ref()).into_iter().flatten();
        Self {
            internal: addresses.filter(|a| a.type_ == "InternalIP").filter_map(|a| a.address.parse().ok()).collect(),
            pods: pods.chain(spec.and_then(|s| s.pod_cidr.as_ref())).filter_map(|c| c.parse().ok()).collect(),
            address: annotation(NODE_ADDRESS).and_then(|a| a.parse().ok()),
            gateway: node.metadata.labels.as_ref().and_then(|l| l.get(GATEWAY_NODE)).is_some_and(|v| v == "true"),
            ready: conditions.find(|c| c.type_ == "Ready").is_none_or(|c| c.status == "True"),
            state: annotation(NODE_STATE).cloned(),
        }
    }

    /// The first address of this family on the node network.
    #[must_use]
    pub fn underlay(&self, ipv6: bool) -> Option<IpAddr> {
        self.internal.iter().copied().find(|a| a.is_ipv6() == ipv6)
    }
}

/// Whose record a Cluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterRole {
    /// This cluster's own.
    Local,
    /// Another cluster's.
    Remote,
}

impl ClusterRole {
    /// By its label; `None` without one.
    #[must_use]
    pub fn of(cluster: &Cluster) -> Option<Self> {
        match cluster.metadata.labels.as_ref()?.get(CLUSTER_ROLE)?.as_str() {
            CLUSTER_ROLE_LOCAL => Some(Self::Local),
            CLUSTER_ROLE_REMOTE => Some(Self::Remote),
            _ => None,
        }
    }
}

/// This cluster's own networks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalFacts {
    /// Its pods.
    pub pods: BTreeSet<Cidr>,
    /// Its Services.
    pub services: BTreeSet<Cidr>,
    /// Its node addresses.
    pub nodes: Cidr,
}

impl LocalFacts {
    /// Takes them from the local Cluster.
    #[must_use]
    pub fn of(cluster: &Cluster) -> Self {
        Self {
            pods: cluster.spec.cluster_cidrs.iter().copied().collect(),
            services: cluster.spec.service_cidrs.iter().copied().collect(),
            nodes: cluster.spec.node_cidr,
        }
    }

    /// All of them.
    pub fn networks(&self) -> impl Iterator<Item = Cidr> + '_ {
        self.pods.iter().chain(&self.services).copied().chain([self.nodes])
    }
}

/// Whether a gateway says that it carries traffic.
#[must_use]
pub fn gateway_is_active(gateway: &Gateway) -> bool {
    let Some(status) = &gateway.status else { return false };
    let unwell = conditions::find(&status.conditions, conditions::READY).is_some_and(|c| c.status != "True");
    status.ha_status == HaStatus::Active && !unwell
}
