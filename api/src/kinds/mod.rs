//! The kinds, one file each: Daisy's own, the two of the MCS API, and the About API's one.

mod cluster;
mod cluster_property;
mod export;
mod export_endpoints;
mod gateway;
mod heartbeat;
mod invitation;
mod join_request;
mod member;
mod schema;
mod service_export;
mod service_import;

pub use cluster::{Cluster, ClusterSpec, ClusterStatus, GatewayRecord, Reach, TunnelEndpoint};
pub use cluster_property::{ClusterProperty, ClusterPropertySpec};
pub use export::{Export, ExportSpec, ExportType, ServicePort};
pub use export_endpoints::{Endpoint, EndpointPort, ExportEndpoints, ExportEndpointsSpec};
pub use gateway::{Connection, ConnectionStatus, Gateway, GatewaySpec, GatewayStatus, HaStatus, RoundTrip};
pub use heartbeat::{Heartbeat, HeartbeatSpec};
pub use invitation::{Invitation, InvitationSpec, InvitationStatus};
pub use join_request::{JoinPhase, JoinRequest, JoinRequestSpec, JoinRequestStatus, Ranges};
pub use member::{Member, MemberSpec};
pub use service_export::{ServiceExport, ServiceExportSpec, ServiceExportStatus};
pub use service_import::{
    EndpointSliceObjects, ImportPort, ImportType, ServiceImport, ServiceImportSpec, ServiceImportStatus, SourceCluster,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::keys::Signature;

/// What every record on the broker carries beside its contents.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Envelope {
    /// Grows by at least one with each write of this record by its cluster; a reader that has seen a greater one keeps that.
    pub sequence: u64,
    /// Room for the cluster's signature over the record, with the Member's key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<Signature>,
}

/// A transport protocol, as Services name it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Protocol {
    /// TCP.
    #[default]
    #[serde(rename = "TCP")]
    Tcp,
    /// UDP.
    #[serde(rename = "UDP")]
    Udp,
    /// SCTP.
    #[serde(rename = "SCTP")]
    Sctp,
}

impl Protocol {
    /// As Kubernetes writes it: `TCP`, `UDP` or `SCTP`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }

    /// Reads what Kubernetes writes; absent means TCP.
    #[must_use]
    pub fn parse(text: Option<&str>) -> Option<Self> {
        match text {
            None | Some("TCP") => Some(Self::Tcp),
            Some("UDP") => Some(Self::Udp),
            Some("SCTP") => Some(Self::Sctp),
            Some(_) => None,
        }
    }

    /// The IP protocol number.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

/// A Service's session affinity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SessionAffinity {
    /// Each connection goes where it may.
    #[default]
    None,
    /// A client's connections go to one endpoint.
    #[serde(rename = "ClientIP")]
    ClientIp,
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum IpFamily {
    /// IPv4.
    #[serde(rename = "IPv4")]
    V4,
    /// IPv6.
    #[serde(rename = "IPv6")]
    V6,
}

impl IpFamily {
    /// The family of an address.
    #[must_use]
    pub fn of(address: std::net::IpAddr) -> Self {
        if address.is_ipv6() { Self::V6 } else { Self::V4 }
    }

    /// As Kubernetes writes it: `IPv4` or `IPv6`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}
