//! What an answer needs to know of a Kubernetes object, and nothing else of it.

use std::fmt;
use std::net::IpAddr;

use daisy_api::{ClusterId, ClusterIps, NamespaceName, Protocol, ServiceKey};

use crate::name::DomainName;

/// Which object: its namespace (empty where the kind has none) and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectRef {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl ObjectRef {
    /// An object of this namespace and name.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}

/// A named port. Ports without a name have no records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Its transport protocol.
    pub protocol: Protocol,
    /// Its number.
    pub number: u16,
}

/// A Service of this cluster, or the Service of an import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Where it leads.
    pub kind: ServiceKind,
    /// Its named ports.
    pub ports: Vec<Port>,
    /// Of an import: where its Service is in each cluster that exports it, unless that is headless.
    pub clusters: ClusterIps,
}

/// Where a Service leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceKind {
    /// To these ClusterIPs, at least one, at most one of each family.
    Addresses(Vec<IpAddr>),
    /// To its endpoints, each by itself.
    Headless,
    /// To another name.
    External(DomainName),
}

/// An endpoint that is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its address.
    pub address: IpAddr,
    /// Its hostname, where it has one: a DNS label.
    pub hostname: Option<Box<str>>,
}

/// An EndpointSlice: its ready endpoints, all with the same ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// The cluster that they are in, for an import.
    pub cluster: Option<ClusterId>,
    /// The named ports.
    pub ports: Vec<Port>,
    /// The ready endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// What an object means here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// A Service of this cluster.
    Local(ServiceKey, Service),
    /// The Service that stands for an import.
    Import(ServiceKey, Service),
    /// Endpoints of a headless Service of this cluster.
    LocalSlice(ServiceKey, Slice),
    /// Endpoints of an import.
    ImportSlice(ServiceKey, Slice),
    /// A namespace of this cluster.
    Namespace(NamespaceName),
}
