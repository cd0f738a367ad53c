//! What is, or is to be, on a node: the device between nodes, its neighbours, routes, rules, and the filter.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use daisy_api::Cidr;
use daisy_api::labels::{ROUTE_PROTOCOL, ROUTE_TABLE, RULE_PREFERENCE};

use crate::filter::Filter;

/// An Ethernet address on the VXLAN device.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The address of the node with this node address: locally administered, and the same wherever it is computed, so that no
    /// node has to ask another for it. Of an IPv6 address the last 4 bytes are taken: node ranges are counted up from their
    /// beginning.
    #[must_use]
    pub fn of_node(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(a) => {
                let [b, c, d, e] = a.octets();
                Self([0x0a, 0xda, b, c, d, e])
            }
            IpAddr::V6(a) => {
                let [.., b, c, d, e] = a.octets();
                Self([0x0a, 0xdb, b, c, d, e])
            }
        }
    }

    /// The IPv6 link-local address made of it (RFC 4291 appendix A): next hop for IPv6 where node addresses are IPv4.
    #[must_use]
    pub fn link_local(self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.0;
        let [h4, h5] = [u16::from_be_bytes([a ^ 2, b]), u16::from_be_bytes([c, 0xff])];
        Ipv6Addr::new(0xfe80, 0, 0, 0, h4, h5, u16::from_be_bytes([0xfe, d]), u16::from_be_bytes([e, f]))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The VXLAN device (RFC 7348) between nodes and gateways: unicast, learning nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vxlan {
    /// The network identifier.
    pub vni: u32,
    /// The UDP port.
    pub port: u16,
    /// This node's address on the node network.
    pub local: IpAddr,
    /// Its Ethernet address.
    pub mac: Mac,
    /// Its MTU in bytes.
    pub mtu: u32,
}

impl Vxlan {
    /// Whether a device of the one kind can become one of the other without being made anew.
    #[must_use]
    pub fn differs_in_mtu_alone(&self, other: &Self) -> bool {
        Self { mtu: other.mtu, ..*self } == *other
    }
}

/// What tells one route from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteKey {
    /// The routing table.
    pub table: u32,
    /// Where to.
    pub destination: Cidr,
    /// The metric: the lowest one is taken.
    pub metric: u32,
}

/// Where a route leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// Into the tunnel device; `source` is the host's own address for it.
    Tunnel {
        /// The source address of what the host itself sends.
        source: Option<IpAddr>,
    },
    /// Over the VXLAN device to the node with this address there.
    Node {
        /// The next hop.
        via: IpAddr,
        /// The source address of what the host itself sends.
        source: Option<IpAddr>,
    },
    /// On the VXLAN device itself.
    OnVxlan {
        /// The source address of what the host itself sends.
        source: Option<IpAddr>,
    },
    /// Silently nowhere: a lost SYN is sent again.
    Blackhole,
    /// Nowhere, and the sender is told.
    Unreachable,
    /// Something that is none of these.
    Other,
}

impl Target {
    /// Whether it goes when the VXLAN device goes.
    #[must_use]
    pub fn needs_vxlan(&self) -> bool {
        match self {
            Self::Node { .. } | Self::OnVxlan { .. } => true,
            Self::Tunnel { .. } | Self::Blackhole | Self::Unreachable | Self::Other => false,
        }
    }

    /// Whether packets go anywhere by it.
    #[must_use]
    pub fn carries(&self) -> bool {
        match self {
            Self::Tunnel { .. } | Self::Node { .. } | Self::OnVxlan { .. } | Self::Other => true,
            Self::Blackhole | Self::Unreachable => false,
        }
    }

    /// The local address that it needs.
    #[must_use]
    pub fn source(&self) -> Option<IpAddr> {
        match self {
            Self::Tunnel { source } | Self::Node { source, .. } | Self::OnVxlan { source } => *source,
            Self::Blackhole | Self::Unreachable | Self::Other => None,
        }
    }
}

/// A routing rule: which table is asked, at preference [`RULE_PREFERENCE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    /// Whether it is for IPv6.
    pub ipv6: bool,
    /// The table.
    pub table: u32,
    /// Whether it is for what comes in by the tunnel device alone.
    pub from_tunnel: bool,
}

/// All that Daisy has, or is to have, on a node. The default is nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The VXLAN device.
    pub device: Option<Vxlan>,
    /// Addresses on it, each alone in its network.
    pub addresses: BTreeSet<IpAddr>,
    /// Which node an Ethernet address is behind (its address on the node network).
    pub forwarding: BTreeMap<Mac, IpAddr>,
    /// The Ethernet addresses of addresses on the device.
    pub neighbours: BTreeMap<IpAddr, Mac>,
    /// Routes.
    pub routes: BTreeMap<RouteKey, Target>,
    /// Rules.
    pub rules: BTreeSet<Rule>,
    /// The filter, but for what is open in it ([`crate::openings`]).
    pub filter: Option<Filter>,
}

impl State {
    /// Whether there is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A route as found, whoever made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundRoute {
    /// What tells it from others.
    pub key: RouteKey,
    /// Where it leads.
    pub target: Target,
    /// Who made it.
    pub protocol: u8,
}

/// A rule as found, whoever made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundRule {
    /// The rule.
    pub rule: Rule,
    /// Its preference.
    pub preference: u32,
    /// Who made it.
    pub protocol: u8,
    /// Whether it has matches beside those that a [`Rule`] names.
    pub special: bool,
}

/// The device of our name as found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FoundDevice {
    /// There is none.
    #[default]
    None,
    /// It is a VXLAN device, and so ours.
    Vxlan(Vxlan),
    /// It is something else, made by somebody else: it is left alone.
    Foreign,
}

/// What is found on a node, whoever made it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The device of our name.
    pub device: FoundDevice,
    /// Addresses on it.
    pub addresses: BTreeSet<IpAddr>,
    /// Its forwarding entries.
    pub forwarding: BTreeMap<Mac, IpAddr>,
    /// Its permanent neighbours.
    pub neighbours: BTreeMap<IpAddr, Mac>,
    /// Routes of our tables.
    pub routes: Vec<FoundRoute>,
    /// All rules.
    pub rules: Vec<FoundRule>,
}

impl Found {
    /// What of it is ours. The filter is not looked at: it is made anew as a whole, in one transaction.
    #[must_use]
    pub fn ours(&self) -> State {
        let mut state = State::default();
        if let FoundDevice::Vxlan(device) = self.device {
            state.device = Some(device);
            state.addresses.clone_from(&self.addresses);
            state.forwarding.clone_from(&self.forwarding);
            state.neighbours.clone_from(&self.neighbours);
        }
        let our_tables = [ROUTE_TABLE, daisy_api::labels::DELIVERY_TABLE];
        let ours = |protocol, table| protocol == ROUTE_PROTOCOL && our_tables.contains(&table);
        state.routes = self.routes.iter().filter(|r| ours(r.protocol, r.key.table)).map(|r| (r.key, r.target)).collect();
        let our_rule = |r: &&FoundRule| ours(r.protocol, r.rule.table) && r.preference == RULE_PREFERENCE && !r.special;
        state.rules = self.rules.iter().filter(our_rule).map(|r| r.rule).collect();
        state
    }

    /// The networks that an earlier life of this agent held routes to.
    #[must_use]
    pub fn leftover_networks(&self) -> BTreeSet<Cidr> {
        let of_member =
            |(key, target): (RouteKey, Target)| (key.table == ROUTE_TABLE && !target.carries()).then_some(key.destination);
        self.ours().routes.into_iter().filter_map(of_member).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ethernet_addresses_are_local_unicast_and_make_link_local_addresses() {
        let mac = Mac::of_node("100.80.1.7".parse().expect("address"));
        assert_eq!(mac.to_string(), "0a:da:64:50:01:07");
        assert_eq!(mac.0[0] & 3, 2);
        assert_eq!(mac.link_local(), "fe80::8da:64ff:fe50:107".parse::<Ipv6Addr>().expect("address"));
        assert_eq!(Mac::of_node("fd80::1:203".parse().expect("address")).to_string(), "0a:db:00:01:02:03");
    }
}
