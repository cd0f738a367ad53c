//! What can go wrong on a node.

use std::io;

use daisy_route_agent_core::{Change, FilterChange};
use thiserror::Error;

/// Why the node is not, or cannot be brought, into the state that it is to be in.
#[derive(Debug, Error)]
pub(crate) enum NodeError {
    /// A netlink socket cannot be had.
    #[error("cannot open a netlink socket: {0}")]
    Socket(#[source] io::Error),
    /// Something cannot be listed.
    #[error("cannot list {what}: {cause}")]
    List {
        /// What.
        what: &'static str,
        /// What the kernel says.
        cause: rtnetlink::Error,
    },
    /// Something cannot be changed.
    #[error("cannot {change}: {cause}")]
    Change {
        /// The change.
        change: String,
        /// What the kernel says.
        cause: rtnetlink::Error,
    },
    /// A device that the change needs is not there.
    #[error("cannot {change}: there is no device {device}")]
    NoDevice {
        /// The change.
        change: String,
        /// The device.
        device: &'static str,
    },
    /// A device of our name is somebody else's.
    #[error("device {0} is there and is no VXLAN device: it is left alone, and nothing goes over it; rename or remove it")]
    ForeignDevice(&'static str),
    /// The VXLAN's UDP port is another's.
    #[error(
        "UDP port {port} on this node is another program's or another VXLAN's, and without it packets between the nodes and the \
         gateways are lost: end what holds it, or give all nodes of this cluster another port (daisy join --vxlan-port)"
    )]
    PortInUse {
        /// The port.
        port: u16,
    },
    /// The filter cannot be changed.
    #[error("cannot {change}: {cause}")]
    Filter {
        /// The change.
        change: String,
        /// The cause.
        cause: daisy_nftables::Error,
    },
}

/// A change of the filter in words, for messages.
pub(crate) fn describe_filter(change: &FilterChange) -> String {
    match change {
        FilterChange::Set(_) => "make the filter".to_owned(),
        FilterChange::Shape(_) => "change the filter's rules".to_owned(),
        FilterChange::Group { group, .. } => format!("change the networks {} of the filter", group.name()),
        FilterChange::Remove => "remove the filter".to_owned(),
    }
}

/// A change in words, for messages.
pub(crate) fn describe(change: &Change) -> String {
    match change {
        Change::Filter(change) => describe_filter(change),
        Change::AddDevice(device) => format!("add the VXLAN device (port {}, from {})", device.port, device.local),
        Change::RemoveDevice => "remove the VXLAN device".to_owned(),
        Change::SetMtu(mtu) => format!("set the VXLAN device's MTU to {mtu}"),
        Change::AddAddress(address) => format!("add address {address}"),
        Change::RemoveAddress(address) => format!("remove address {address}"),
        Change::SetForwarding(mac, at) => format!("forward {mac} to {at}"),
        Change::RemoveForwarding(mac) => format!("stop forwarding {mac}"),
        Change::SetNeighbour(address, mac) => format!("set neighbour {address} to {mac}"),
        Change::RemoveNeighbour(address) => format!("remove neighbour {address}"),
        Change::SetRoute(key, target) => {
            format!("set route {} in table {} metric {} to {target:?}", key.destination, key.table, key.metric)
        }
        Change::RemoveRoute(key) => {
            format!("remove route {} from table {} metric {}", key.destination, key.table, key.metric)
        }
        Change::AddRule(rule) => format!("add the rule for table {} (IPv6: {})", rule.table, rule.ipv6),
        Change::RemoveRule(rule) => format!("remove the rule for table {} (IPv6: {})", rule.table, rule.ipv6),
    }
}

/// What kind of change it is, as a metric's label.
pub(crate) fn kind(change: &Change) -> &'static str {
    match change {
        Change::Filter(_) => "filter",
        Change::AddDevice(_) | Change::RemoveDevice | Change::SetMtu(_) => "device",
        Change::AddAddress(_) | Change::RemoveAddress(_) => "address",
        Change::SetForwarding(..) | Change::RemoveForwarding(_) => "forwarding",
        Change::SetNeighbour(..) | Change::RemoveNeighbour(_) => "neighbour",
        Change::SetRoute(..) | Change::RemoveRoute(_) => "route",
        Change::AddRule(_) | Change::RemoveRule(_) => "rule",
    }
}
