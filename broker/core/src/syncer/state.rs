//! What the machine knows of its own cluster and of its own records.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use daisy_api::labels::{EXPORT_ALL, NODE_ADDRESS, NODE_STATE};
use daisy_api::{
    Cluster, Export, ExportEndpoints, ExportEndpointsSpec, Gateway, Heartbeat, MemberSpec, ServiceExport, ServiceImport,
    ServiceKey,
};
use k8s_openapi::api::core::v1::{Namespace, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::jiff::Timestamp;

use super::exports::Stand;
use super::store::{Keyed, Listed};
use crate::export::NotOffered;
use crate::object::{Kind, Reference};
use crate::service::LocalService;
use crate::time::Now;
use crate::vouch::Peer;

/// A namespace of this cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LocalNamespace {
    /// Whether all its Services are exported.
    pub(super) export_all: bool,
    /// Whether it is on its way out: nothing can be created in it.
    pub(super) terminating: bool,
}

impl LocalNamespace {
    pub(super) fn of(namespace: &Namespace) -> Self {
        let label = namespace.metadata.labels.as_ref().and_then(|labels| labels.get(EXPORT_ALL));
        Self {
            export_all: label.is_some_and(|value| value == "true"),
            terminating: namespace.metadata.deletion_timestamp.is_some(),
        }
    }
}

/// A node of this cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LocalNode {
    /// The annotation, whatever it says.
    pub(super) annotation: Option<String>,
    /// Whether nothing of Daisy's is left on it after a leave.
    pub(super) clean: bool,
    /// The older node keeps an address that two claim.
    pub(super) created: Option<Timestamp>,
}

impl LocalNode {
    pub(super) fn of(node: &Node) -> Self {
        let annotation = |name: &str| node.metadata.annotations.as_ref().and_then(|a| a.get(name));
        Self {
            annotation: annotation(NODE_ADDRESS).cloned(),
            clean: annotation(NODE_STATE).is_some_and(|state| state == "clean"),
            created: node.metadata.creation_timestamp.as_ref().map(|time| time.0),
        }
    }

    pub(super) fn address(&self) -> Option<IpAddr> {
        self.annotation.as_ref().and_then(|text| text.parse().ok())
    }
}

/// An EndpointSlice of a Service of this cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LocalEndpoints {
    /// What others may know of it.
    pub(super) spec: ExportEndpointsSpec,
    /// On which node each address is; that means nothing elsewhere.
    pub(super) nodes: BTreeMap<IpAddr, String>,
}

/// This cluster, as its API server shows it.
#[derive(Clone, Debug, Default)]
pub(super) struct Here {
    pub(super) service_exports: Listed<ServiceKey, ServiceExport>,
    /// ServiceImports, ours and others'.
    pub(super) service_imports: Listed<ServiceKey, ServiceImport>,
    /// Every Service, in short.
    pub(super) services: Listed<ServiceKey, LocalService>,
    /// The Services that make imports real.
    pub(super) import_services: Keyed<Service>,
    /// The EndpointSlices of Services, ours apart.
    pub(super) slices: Keyed<LocalEndpoints>,
    /// Our EndpointSlices.
    pub(super) our_slices: Keyed<EndpointSlice>,
    pub(super) namespaces: Listed<String, LocalNamespace>,
    pub(super) nodes: Listed<String, LocalNode>,
    pub(super) gateways: Listed<String, Gateway>,
    /// Clusters in `daisy-system`, this one's and the others'.
    pub(super) clusters: Listed<String, Cluster>,
}

impl Here {
    /// The gateways whose node is there: what another said last is no longer so.
    pub(super) fn gateways_in_place(&self) -> impl Iterator<Item = &Gateway> {
        self.gateways.iter().filter(|(name, _)| self.nodes.get(name).is_some()).map(|(_, gateway)| gateway)
    }
}

/// This cluster, as the broker shows it.
#[derive(Clone, Debug)]
pub(super) struct Own {
    /// Its Member.
    pub(super) peer: Peer,
    pub(super) cluster: Listed<String, Cluster>,
    pub(super) heartbeat: Listed<String, Heartbeat>,
    pub(super) exports: Keyed<Export>,
    pub(super) endpoints: Keyed<ExportEndpoints>,
    /// The records that it stands by, and how each stands on the broker.
    pub(super) stands_by: BTreeMap<ServiceKey, BTreeMap<(Kind, String), Stand>>,
    /// What the broker refused, and why.
    pub(super) refused: BTreeMap<Reference, String>,
    /// Own exports that a former run had in its imports.
    pub(super) adopted: BTreeSet<ServiceKey>,
    /// How many endpoints of an export are not offered, and why the first is not, as it was last said.
    pub(super) not_offered: BTreeMap<ServiceKey, NotOffered>,
}

impl Own {
    pub(super) fn new(now: Now) -> Self {
        Self {
            peer: Peer::new(now),
            cluster: Listed::default(),
            heartbeat: Listed::default(),
            exports: Keyed::default(),
            endpoints: Keyed::default(),
            stands_by: BTreeMap::new(),
            refused: BTreeMap::new(),
            adopted: BTreeSet::new(),
            not_offered: BTreeMap::new(),
        }
    }

    pub(super) fn member(&self) -> Option<&MemberSpec> {
        self.peer.member.as_ref().map(|member| &member.spec)
    }

    /// Whether the broker knows this cluster now.
    pub(super) fn is_member(&self) -> bool {
        self.peer.member.as_ref().is_some_and(|member| member.listed)
    }
}

/// What this cluster's gateways say of another cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reachability {
    /// One of them has its probes answered.
    Connected,
    /// They try, and none has had yet, since then.
    Trying(Duration),
    /// One had, and none has any more, since then.
    Broken(Duration),
}

impl Reachability {
    /// Since when no probe is answered.
    pub(super) fn failing_since(self) -> Option<Duration> {
        match self {
            Self::Connected => None,
            Self::Trying(since) | Self::Broken(since) => Some(since),
        }
    }

    /// With what the gateways say now.
    pub(super) fn next(had: Option<Self>, said: Said, now: Duration) -> Self {
        match had {
            _ if said.connected => Self::Connected,
            // A gateway that starts anew knows of no path that broke.
            Some(Self::Broken(since)) => Self::Broken(since),
            Some(Self::Connected) => Self::Broken(now),
            Some(Self::Trying(_)) if said.broke => Self::Broken(now),
            Some(Self::Trying(since)) => Self::Trying(since),
            // A syncer that starts anew knows of no path at all; the gateways do.
            None if said.broke => Self::Broken(said.since.unwrap_or(now)),
            None => Self::Trying(said.since.unwrap_or(now)),
        }
    }
}

/// What the gateways say of their connections to one cluster, taken together.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Said {
    /// One has its probes answered.
    pub(super) connected: bool,
    /// One had.
    pub(super) broke: bool,
    /// Since when the newest of them stands so.
    pub(super) since: Option<Duration>,
}
