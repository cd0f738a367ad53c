//! The changes to the node's network.

use std::net::IpAddr;

use daisy_api::labels::{ROUTE_PROTOCOL, RULE_PREFERENCE, TUNNEL_DEVICE, VXLAN_DEVICE};
use daisy_route_agent_core::{Change, Mac, RouteKey, Rule, Target, Vxlan};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use rtnetlink::packet_route::link::{AfSpecInet, AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InetDevConf, LinkAttribute};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteScope, RouteType, RouteVia,
};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::{LinkUnspec, LinkVxlan};

use super::{Network, host_prefix};
use crate::error::{NodeError, describe};

/// `net.ipv4.conf.DEVICE.rp_filter`: a source is right if any route leads to it (RFC 3704 section 2.4).
const SOURCES_LOOSE: i32 = 2;

/// The settings of our devices: packets pass through, and their sources are checked loosely.
pub(super) fn loose_sources() -> LinkAttribute {
    let mut settings = InetDevConf::default();
    settings.forwarding = 1;
    settings.rp_filter = SOURCES_LOOSE;
    LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet(vec![AfSpecInet::DevConfRequest(settings)])])
}

fn our_protocol() -> RouteProtocol {
    RouteProtocol::from(ROUTE_PROTOCOL)
}

fn family_of(ipv6: bool) -> AddressFamily {
    if ipv6 { AddressFamily::Inet6 } else { AddressFamily::Inet }
}

/// Whether the kernel says that what is to go is not there.
pub(super) fn is_gone(error: &rtnetlink::Error) -> bool {
    let rtnetlink::Error::NetlinkError(message) = error else { return false };
    [libc::ENOENT, libc::ESRCH, libc::ENODEV, libc::EADDRNOTAVAIL].contains(&-message.raw_code())
}

/// Whether the kernel says that what is to come is there.
fn is_there(error: &rtnetlink::Error) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message) if message.raw_code() == -libc::EEXIST)
}

/// Whether the kernel says that a port is in use.
fn is_in_use(error: &rtnetlink::Error) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message) if message.raw_code() == -libc::EADDRINUSE)
}

/// Whether the change takes something away.
fn removes(change: &Change) -> bool {
    match change {
        Change::RemoveDevice
        | Change::RemoveAddress(_)
        | Change::RemoveForwarding(_)
        | Change::RemoveNeighbour(_)
        | Change::RemoveRoute(_)
        | Change::RemoveRule(_) => true,
        Change::Filter(_)
        | Change::AddDevice(_)
        | Change::SetMtu(_)
        | Change::AddAddress(_)
        | Change::SetForwarding(..)
        | Change::SetNeighbour(..)
        | Change::SetRoute(..)
        | Change::AddRule(_) => false,
    }
}

impl Network {
    /// Carries out one change. Changes of the filter are not this one's.
    pub(crate) async fn perform(&self, change: &Change) -> Result<(), NodeError> {
        let result = match change {
            Change::Filter(_) => Ok(()),
            Change::AddDevice(device) => self.add_device(device, change).await?,
            Change::RemoveDevice => match self.index(VXLAN_DEVICE).await? {
                Some(index) => self.handle.link().del(index).execute().await,
                None => Ok(()),
            },
            Change::SetMtu(mtu) => {
                let index = self.require(VXLAN_DEVICE, change).await?;
                self.handle.link().set(LinkUnspec::new_with_index(index).mtu(*mtu).build()).execute().await
            }
            Change::AddAddress(address) => {
                let index = self.require(VXLAN_DEVICE, change).await?;
                let mut add = self.handle.address().add(index, *address, host_prefix(*address)).replace();
                // Nobody else is to have it: the registrar gives it to one cluster, the syncer to one node.
                let flags = AddressFlags::Nodad | AddressFlags::Permanent;
                add.message_mut().attributes.push(AddressAttribute::Flags(flags));
                add.execute().await
            }
            Change::RemoveAddress(address) => match self.index(VXLAN_DEVICE).await? {
                Some(index) => self.handle.address().del(address_message(index, *address)).execute().await,
                None => Ok(()),
            },
            Change::SetForwarding(mac, at) => {
                let index = self.require(VXLAN_DEVICE, change).await?;
                let add = self.handle.neighbours().add_bridge(index, &mac.0).destination(*at);
                add.state(NeighbourState::Permanent).flags(NeighbourFlags::Own).replace().execute().await
            }
            Change::SetNeighbour(address, mac) => {
                let index = self.require(VXLAN_DEVICE, change).await?;
                let add = self.handle.neighbours().add(index, *address).link_layer_address(&mac.0);
                add.state(NeighbourState::Permanent).replace().execute().await
            }
            Change::RemoveForwarding(mac) => match self.index(VXLAN_DEVICE).await? {
                Some(index) => self.handle.neighbours().del(forwarding_message(index, *mac)).execute().await,
                None => Ok(()),
            },
            Change::RemoveNeighbour(address) => match self.index(VXLAN_DEVICE).await? {
                Some(index) => self.handle.neighbours().del(neighbour_message(index, *address)).execute().await,
                None => Ok(()),
            },
            Change::SetRoute(key, target) => {
                let device = match target {
                    Target::Tunnel { .. } => Some(self.require(TUNNEL_DEVICE, change).await?),
                    Target::Node { .. } | Target::OnVxlan { .. } => Some(self.require(VXLAN_DEVICE, change).await?),
                    Target::Blackhole | Target::Unreachable | Target::Other => None,
                };
                self.handle.route().add(route_message(key, target, device)).replace().execute().await
            }
            Change::RemoveRoute(key) => self.handle.route().del(bare_route(key)).execute().await,
            Change::AddRule(rule) => {
                let mut add = self.handle.rule().add();
                *add.message_mut() = rule_message(rule);
                add.execute().await
            }
            Change::RemoveRule(rule) => self.handle.rule().del(rule_message(rule)).execute().await,
        };
        match result {
            Err(error) if removes(change) && is_gone(&error) => Ok(()),
            Err(error) if matches!(change, Change::AddRule(_)) && is_there(&error) => Ok(()),
            Err(cause) => Err(NodeError::Change { change: describe(change), cause }),
            Ok(()) => Ok(()),
        }
    }

    async fn require(&self, device: &'static str, change: &Change) -> Result<u32, NodeError> {
        let missing = || NodeError::NoDevice { change: describe(change), device };
        self.index(device).await?.ok_or_else(missing)
    }

    async fn add_device(&self, device: &Vxlan, change: &Change) -> Result<Result<(), rtnetlink::Error>, NodeError> {
        let link = LinkVxlan::new(VXLAN_DEVICE, device.vni).port(device.port).learning(false);
        let link = match device.local {
            IpAddr::V4(local) => link.local(local),
            IpAddr::V6(local) => link.local6(local),
        };
        let message = link.mtu(device.mtu).address(device.mac.0.to_vec()).build();
        // Where another VXLAN has this port and this number, the kernel says so here; where a program has the port, below.
        let taken = || NodeError::PortInUse { port: device.port };
        if let Err(error) = self.handle.link().add(message).execute().await {
            return if is_there(&error) { Err(taken()) } else { Ok(Err(error)) };
        }
        let index = self.require(VXLAN_DEVICE, change).await?;
        // No address of the kernel's own, and so no multicast of its own that nobody hears. Refused where IPv6 is off, and
        // not needed then.
        let quiet = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
        let message =
            LinkUnspec::new_with_index(index).append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![quiet])).build();
        if let Err(error) = self.handle.link().set(message).execute().await {
            tracing::debug!(%error, "device {VXLAN_DEVICE} keeps its own IPv6 link-local address");
        }
        let message = LinkUnspec::new_with_index(index).append_extra_attribute(loose_sources()).up().build();
        let Err(error) = self.handle.link().set(message).execute().await else { return Ok(Ok(())) };
        // A device that is there and is not up would be taken for done the next time.
        if let Err(error) = self.handle.link().del(index).execute().await {
            tracing::warn!(%error, "device {VXLAN_DEVICE}, which could not be set up, stays");
        }
        if is_in_use(&error) { Err(taken()) } else { Ok(Err(error)) }
    }
}

fn address_message(index: u32, address: IpAddr) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family_of(address.is_ipv6());
    message.header.prefix_len = host_prefix(address);
    message.header.index = index;
    message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
    message
}

fn forwarding_message(index: u32, mac: Mac) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = index;
    message.header.flags = NeighbourFlags::Own;
    message.header.state = NeighbourState::Permanent;
    message.attributes = vec![NeighbourAttribute::LinkLayerAddress(mac.0.to_vec())];
    message
}

fn neighbour_message(index: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family_of(address.is_ipv6());
    message.header.ifindex = index;
    let address = match address {
        IpAddr::V4(a) => NeighbourAddress::Inet(a),
        IpAddr::V6(a) => NeighbourAddress::Inet6(a),
    };
    message.attributes = vec![NeighbourAttribute::Destination(address)];
    message
}

/// A route by what tells it from others: enough to remove it.
fn bare_route(key: &RouteKey) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family_of(key.destination.is_ipv6());
    message.header.destination_prefix_length = key.destination.prefix();
    message.header.protocol = our_protocol();
    message.header.scope = RouteScope::NoWhere;
    message.header.kind = RouteType::Unspec;
    message.attributes = vec![
        RouteAttribute::Table(key.table),
        RouteAttribute::Priority(key.metric),
        RouteAttribute::Destination(RouteAddress::from(key.destination.address())),
    ];
    message
}

fn route_message(key: &RouteKey, target: &Target, device: Option<u32>) -> RouteMessage {
    let mut message = bare_route(key);
    let ipv6 = key.destination.is_ipv6();
    message.header.scope = RouteScope::Universe;
    message.header.kind = match target {
        Target::Tunnel { .. } | Target::Node { .. } | Target::OnVxlan { .. } => RouteType::Unicast,
        Target::Blackhole => RouteType::BlackHole,
        Target::Unreachable | Target::Other => RouteType::Unreachable,
    };
    if let Some(index) = device {
        message.attributes.push(RouteAttribute::Oif(index));
    }
    if let Some(source) = target.source() {
        message.attributes.push(RouteAttribute::PrefSource(RouteAddress::from(source)));
    }
    if let Target::Node { via, .. } = target {
        // The next hop is a neighbour by our word alone: no route of the main table leads to it.
        message.header.flags |= RouteFlags::Onlink;
        message.attributes.push(match via {
            IpAddr::V6(via) if !ipv6 => RouteAttribute::Via(RouteVia::Inet6(*via)),
            IpAddr::V4(_) | IpAddr::V6(_) => RouteAttribute::Gateway(RouteAddress::from(*via)),
        });
    } else if device.is_some() && !ipv6 {
        message.header.scope = RouteScope::Link;
    }
    message
}

fn rule_message(rule: &Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = family_of(rule.ipv6);
    message.header.action = RuleAction::ToTable;
    message.attributes = vec![
        RuleAttribute::Table(rule.table),
        RuleAttribute::Priority(RULE_PREFERENCE),
        RuleAttribute::Protocol(our_protocol()),
    ];
    if rule.from_tunnel {
        message.attributes.push(RuleAttribute::Iifname(TUNNEL_DEVICE.to_owned()));
    }
    message
}
