//! What an operator would want to read once.

use std::fmt;
use std::net::IpAddr;

use daisy_api::{ClusterId, ServiceKey};

use crate::object::Reference;

/// How much a note matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Something changed, as it may.
    Info,
    /// Somebody should look.
    Warning,
}

/// Something that happened, said once when it begins and once when it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// A record from the broker, or a part of one, is dropped.
    Dropped {
        /// The record.
        record: Reference,
        /// Why: it names field, value and remedy.
        why: String,
    },
    /// A record that was dropped is taken again.
    Taken {
        /// The record.
        record: Reference,
    },
    /// An object cannot be read and is skipped.
    Unreadable {
        /// The object.
        object: Reference,
        /// What the parser says.
        why: String,
    },
    /// Records that were known are absent from the broker's list; they stand.
    Absent {
        /// Whose.
        cluster: ClusterId,
        /// How many.
        records: usize,
    },
    /// Records were withdrawn: their cluster vouched for a list without them.
    Withdrawn {
        /// Whose.
        cluster: ClusterId,
        /// How many.
        records: usize,
    },
    /// A cluster gives no sign of life: its endpoints leave the imports.
    Silent {
        /// The cluster.
        cluster: ClusterId,
    },
    /// A cluster that was silent gives a sign of life.
    Heard {
        /// The cluster.
        cluster: ClusterId,
    },
    /// The path to a cluster is broken, or does not come up: its endpoints leave the imports.
    Unreachable {
        /// The cluster.
        cluster: ClusterId,
    },
    /// A cluster that was out of reach is not any more.
    Reachable {
        /// The cluster.
        cluster: ClusterId,
    },
    /// A cluster became a member.
    Joined {
        /// The cluster.
        cluster: ClusterId,
    },
    /// A cluster is no member any more.
    Removed {
        /// The cluster.
        cluster: ClusterId,
    },
    /// The broker shows an older state than it showed before.
    BrokerOlder {
        /// Of what.
        object: Reference,
    },
    /// A name is imported from now on.
    Imported {
        /// The name.
        key: ServiceKey,
        /// From where.
        clusters: Vec<ClusterId>,
    },
    /// A name is imported no longer.
    Unimported {
        /// The name.
        key: ServiceKey,
    },
    /// A merged import cannot be made real here.
    NotRealisable {
        /// The name.
        key: ServiceKey,
        /// Why.
        why: String,
    },
    /// Endpoints of an own export lie outside this cluster's CIDRs and are not offered.
    NotOffered {
        /// The name.
        key: ServiceKey,
        /// How many.
        count: usize,
        /// One of them, and why.
        why: String,
    },
    /// Every address of the node range is taken.
    NodeRangeFull {
        /// The node that has none.
        node: String,
        /// The range.
        range: String,
    },
    /// A node was given its address.
    NodeAddress {
        /// The node.
        node: String,
        /// The address.
        address: IpAddr,
    },
    /// A write failed, and is tried again.
    Failed {
        /// Of what.
        object: Reference,
        /// Why.
        why: String,
    },
    /// This cluster leaves.
    Leaving,
    /// This cluster has left: nothing of the syncer's is left.
    Left,
}

impl Note {
    /// How much it matters.
    #[must_use]
    pub fn severity(&self) -> Severity {
        match self {
            Self::Taken { .. }
            | Self::Withdrawn { .. }
            | Self::Heard { .. }
            | Self::Reachable { .. }
            | Self::Joined { .. }
            | Self::Removed { .. }
            | Self::Imported { .. }
            | Self::Unimported { .. }
            | Self::NodeAddress { .. }
            | Self::Leaving
            | Self::Left => Severity::Info,
            Self::Dropped { .. }
            | Self::Unreadable { .. }
            | Self::Absent { .. }
            | Self::Silent { .. }
            | Self::Unreachable { .. }
            | Self::BrokerOlder { .. }
            | Self::NotRealisable { .. }
            | Self::NotOffered { .. }
            | Self::NodeRangeFull { .. }
            | Self::Failed { .. } => Severity::Warning,
        }
    }

    /// The reason in CamelCase, for events and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Dropped { .. } => "RecordDropped",
            Self::Taken { .. } => "RecordTaken",
            Self::Unreadable { .. } => "Unreadable",
            Self::Absent { .. } => "RecordsAbsent",
            Self::Withdrawn { .. } => "RecordsWithdrawn",
            Self::Silent { .. } => "ClusterSilent",
            Self::Heard { .. } => "ClusterHeard",
            Self::Unreachable { .. } => "ClusterUnreachable",
            Self::Reachable { .. } => "ClusterReachable",
            Self::Joined { .. } => "ClusterJoined",
            Self::Removed { .. } => "ClusterRemoved",
            Self::BrokerOlder { .. } => "BrokerOlder",
            Self::Imported { .. } => "Imported",
            Self::Unimported { .. } => "Unimported",
            Self::NotRealisable { .. } => "NotRealisable",
            Self::NotOffered { .. } => "EndpointsNotOffered",
            Self::NodeRangeFull { .. } => "NodeRangeFull",
            Self::NodeAddress { .. } => "NodeAddress",
            Self::Failed { .. } => "WriteFailed",
            Self::Leaving => "Leaving",
            Self::Left => "Left",
        }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dropped { record, why } => write!(f, "{record} is dropped: {why}"),
            Self::Taken { record } => write!(f, "{record} is taken again"),
            Self::Unreadable { object, why } => write!(f, "{object} cannot be read and is skipped: {why}"),
            Self::Absent { cluster, records } => write!(
                f,
                "{records} records of cluster {cluster} are absent from the broker; they stand until {cluster} says that they are withdrawn"
            ),
            Self::Withdrawn { cluster, records } => {
                write!(f, "cluster {cluster} vouches for its records without {records} that were absent: these are withdrawn")
            }
            Self::Silent { cluster } => write!(
                f,
                "cluster {cluster} sends no heartbeat and answers no probe: its endpoints are withdrawn until it does"
            ),
            Self::Heard { cluster } => write!(f, "cluster {cluster} gives a sign of life again"),
            Self::Unreachable { cluster } => {
                write!(f, "cluster {cluster} answers no probe through the tunnel: its endpoints are withdrawn until it does")
            }
            Self::Reachable { cluster } => write!(f, "cluster {cluster} answers probes through the tunnel"),
            Self::Joined { cluster } => write!(f, "cluster {cluster} is a member"),
            Self::Removed { cluster } => write!(f, "cluster {cluster} is no member any more"),
            Self::BrokerOlder { object } => {
                write!(f, "the broker shows {object} in an older state than before; what was known stands")
            }
            Self::Imported { key, clusters } => {
                let names: Vec<&str> = clusters.iter().map(ClusterId::as_str).collect();
                write!(f, "{key} is imported from {}", names.join(", "))
            }
            Self::Unimported { key } => write!(f, "{key} is imported no longer"),
            Self::NotRealisable { key, why } => write!(f, "the import {key} cannot be made real here: {why}"),
            Self::NotOffered { key, count, why } => write!(f, "{count} endpoints of the export {key} are not offered: {why}"),
            Self::NodeRangeFull { node, range } => write!(
                f,
                "node {node} has no address: every one of the node range {range} is taken; join again with a larger range"
            ),
            Self::NodeAddress { node, address } => write!(f, "node {node} has the address {address} of the node range"),
            Self::Failed { object, why } => write!(f, "{object} could not be written, and is tried again: {why}"),
            Self::Leaving => f.write_str("this cluster leaves: exports, imports and other clusters are removed"),
            Self::Left => f.write_str("this cluster has left"),
        }
    }
}
