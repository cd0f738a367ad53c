//! What the controllers look at, and what they do about it.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus, Deployment, DeploymentStatus};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;

use super::store::ObjectKey;
use crate::control_plane::watch::Change;

/// A kind that the controllers watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    Namespace,
    Node,
    Pod,
    Service,
    Slice,
    Deployment,
    DaemonSet,
    ServiceCidr,
}

impl Kind {
    pub(crate) const ALL: [Self; 8] = [
        Self::Namespace,
        Self::Node,
        Self::Pod,
        Self::Service,
        Self::Slice,
        Self::Deployment,
        Self::DaemonSet,
        Self::ServiceCidr,
    ];
}

/// Something seen: by a watch, or in the answer to a request of ours.
#[derive(Clone, Debug)]
pub(crate) enum Seen {
    Namespace(Change<Namespace>),
    Node(Change<Node>),
    Pod(Change<Pod>),
    Service(Change<Service>),
    Slice(Change<EndpointSlice>),
    Deployment(Change<Deployment>),
    DaemonSet(Change<DaemonSet>),
    ServiceCidr(Change<ServiceCIDR>),
}

impl Seen {
    /// The kind, if this is a list of all its objects.
    pub(crate) fn listed(&self) -> Option<Kind> {
        let (kind, list) = match self {
            Self::Namespace(c) => (Kind::Namespace, c.is_list()),
            Self::Node(c) => (Kind::Node, c.is_list()),
            Self::Pod(c) => (Kind::Pod, c.is_list()),
            Self::Service(c) => (Kind::Service, c.is_list()),
            Self::Slice(c) => (Kind::Slice, c.is_list()),
            Self::Deployment(c) => (Kind::Deployment, c.is_list()),
            Self::DaemonSet(c) => (Kind::DaemonSet, c.is_list()),
            Self::ServiceCidr(c) => (Kind::ServiceCidr, c.is_list()),
        };
        list.then_some(kind)
    }
}

/// One thing to look at. While its actions run, it is not looked at again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Work {
    /// A Deployment's Pods and status.
    Deployment(ObjectKey),
    /// A DaemonSet's Pods and status.
    DaemonSet(ObjectKey),
    /// The node of a Pod that has none.
    Schedule(ObjectKey),
    /// A Service's EndpointSlices.
    Slices(ObjectKey),
    /// Whether those that an object belongs to are still there.
    Garbage(Dependent),
    /// What every namespace has, or, when it ends, nothing.
    Namespace(String),
    /// A ServiceCIDR's condition.
    ServiceCidr(String),
}

/// An object that goes when those are gone that it belongs to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Dependent {
    Pod(ObjectKey),
    Slice(ObjectKey),
}

/// A request to the API server.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    CreatePod(Box<Pod>),
    DeletePod(Arc<Pod>),
    /// Delete it if its node is gone indeed; no kubelet is left to be given time.
    CollectLostPod(Arc<Pod>),
    /// Delete it if its owners are gone indeed.
    CollectPod(Arc<Pod>),
    /// Delete it if its owners are gone indeed.
    CollectSlice(Arc<EndpointSlice>),
    Bind {
        pod: Arc<Pod>,
        node: String,
    },
    /// The condition `PodScheduled`, false, with this message.
    Unschedulable {
        pod: Arc<Pod>,
        message: String,
    },
    CreateSlice(Box<EndpointSlice>),
    ReplaceSlice(Box<EndpointSlice>),
    DeleteSlice(Arc<EndpointSlice>),
    DeploymentStatus {
        of: ObjectKey,
        status: Box<DeploymentStatus>,
    },
    DaemonSetStatus {
        of: ObjectKey,
        status: Box<DaemonSetStatus>,
    },
    ServiceCidrReady {
        name: String,
    },
    /// The ServiceAccount `default` and the ConfigMap `kube-root-ca.crt`.
    FurnishNamespace {
        name: String,
    },
    /// Delete all that is in it and, once nothing is, the namespace itself.
    EmptyNamespace {
        namespace: Arc<Namespace>,
    },
}
