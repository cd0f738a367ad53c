//! What is found on the node.

use std::collections::BTreeMap;
#[cfg(test)]
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use daisy_api::Cidr;
use daisy_api::labels::{DELIVERY_TABLE, ROUTE_TABLE, TUNNEL_DEVICE, VXLAN_DEVICE};
use daisy_route_agent_core::{Found, FoundDevice, FoundRoute, FoundRule, Links, Mac, RouteKey, Rule, Target, Vxlan};
use futures::TryStreamExt as _;
use rtnetlink::IpVersion;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
#[cfg(test)]
use rtnetlink::packet_route::route::RouteProtocol;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType, RouteVia};
use rtnetlink::packet_route::rule::{RuleAttribute, RuleMessage};

use super::Network;
use crate::error::NodeError;

/// The indices of our two devices.
#[derive(Clone, Copy, Default)]
struct Indices {
    tunnel: Option<u32>,
    vxlan: Option<u32>,
}

fn failed(what: &'static str) -> impl FnOnce(rtnetlink::Error) -> NodeError {
    move |cause| NodeError::List { what, cause }
}

impl Network {
    /// What the kernel says of devices that others make; `internal` are this node's addresses on the node network.
    pub(crate) async fn links(&self, internal: &[IpAddr]) -> Result<Links, NodeError> {
        let tunnel = self.link(TUNNEL_DEVICE).await?;
        let tunnel_up = tunnel.is_some_and(|link| link.header.flags.contains(LinkFlags::Up));
        let mut uplink_mtu = None;
        if let Some(address) = internal.first() {
            let addresses: Vec<AddressMessage> =
                self.handle.address().get().execute().try_collect().await.map_err(failed("addresses"))?;
            let holder = addresses.iter().find(|a| local_of(a) == Some(*address)).map(|a| a.header.index);
            if let Some(index) = holder {
                let mut links = self.handle.link().get().match_index(index).execute();
                let link = links.try_next().await.map_err(failed("devices"))?;
                uplink_mtu = link.as_ref().and_then(mtu_of);
            }
        }
        Ok(Links { tunnel_up, uplink_mtu })
    }

    /// Everything of the kinds that Daisy has on a node, whoever made it.
    pub(crate) async fn observe(&self) -> Result<Found, NodeError> {
        let mut found = Found::default();
        let mut indices = Indices { tunnel: self.index(TUNNEL_DEVICE).await?, vxlan: None };
        if let Some(link) = self.link(VXLAN_DEVICE).await? {
            indices.vxlan = Some(link.header.index);
            found.device = device_of(&link);
            self.observe_vxlan(&mut found, link.header.index).await?;
        }
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut filter = RouteMessage::default();
            filter.header.address_family = family;
            let routes: Result<Vec<RouteMessage>, _> = self.handle.route().get(filter).execute().try_collect().await;
            let version = if family == AddressFamily::Inet { IpVersion::V4 } else { IpVersion::V6 };
            let rules: Result<Vec<RuleMessage>, _> = self.handle.rule().get(version).execute().try_collect().await;
            match (routes, rules) {
                (Ok(routes), Ok(rules)) => {
                    found.routes.extend(routes.iter().filter_map(|r| route_of(r, indices)));
                    found.rules.extend(rules.iter().filter_map(rule_of));
                }
                // A kernel without IPv6.
                (Err(_), _) | (_, Err(_)) if family == AddressFamily::Inet6 => {}
                (Err(cause), _) => return Err(failed("routes")(cause)),
                (_, Err(cause)) => return Err(failed("rules")(cause)),
            }
        }
        Ok(found)
    }

    async fn observe_vxlan(&self, found: &mut Found, index: u32) -> Result<(), NodeError> {
        let request = self.handle.address().get().set_link_index_filter(index);
        let addresses: Vec<AddressMessage> = request.execute().try_collect().await.map_err(failed("addresses"))?;
        // The kernel's own link-local addresses are not ours to remove.
        found.addresses = addresses
            .iter()
            .filter(|a| a.header.index == index)
            .filter_map(local_of)
            .filter(|a| !matches!(a, IpAddr::V6(a) if a.is_unicast_link_local()))
            .collect();
        let bridge = self.handle.neighbours().get().set_address_family(AddressFamily::Bridge).execute();
        let entries: Vec<NeighbourMessage> = bridge.try_collect().await.map_err(failed("forwarding entries"))?;
        found.forwarding = entries.iter().filter(|n| n.header.ifindex == index).filter_map(forwarding_of).collect();
        let all: Vec<NeighbourMessage> =
            self.handle.neighbours().get().execute().try_collect().await.map_err(failed("neighbours"))?;
        let permanent = all.iter().filter(|n| n.header.ifindex == index && n.header.state == NeighbourState::Permanent);
        found.neighbours = permanent.filter_map(neighbour_of).collect::<BTreeMap<_, _>>();
        Ok(())
    }

    /// All addresses, routes that somebody made, rules, devices and neighbours of this network namespace, as text: for tests that compare before
    /// and after.
    #[cfg(test)]
    pub(crate) async fn dump(&self) -> BTreeSet<String> {
        let mut out = BTreeSet::new();
        let links: Vec<LinkMessage> = self.handle.link().get().execute().try_collect().await.expect("links");
        out.extend(links.iter().map(|l| format!("link {} {:?}", l.header.index, l.attributes.first())));
        let addresses: Vec<AddressMessage> = self.handle.address().get().execute().try_collect().await.expect("addresses");
        out.extend(addresses.iter().map(|a| format!("address {} {:?}", a.header.index, local_of(a))));
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut filter = RouteMessage::default();
            filter.header.address_family = family;
            let routes: Vec<RouteMessage> = self.handle.route().get(filter).execute().try_collect().await.expect("routes");
            let stable = |r: &RouteMessage| {
                let attributes: Vec<_> = r.attributes.iter().filter(|a| !matches!(a, RouteAttribute::CacheInfo(_))).collect();
                format!("route {:?} {attributes:?}", r.header)
            };
            // The kernel's own come and go with devices and addresses, some time after these.
            let made = routes.iter().filter(|r| r.header.protocol != RouteProtocol::Kernel);
            out.extend(made.map(stable));
        }
        for version in [IpVersion::V4, IpVersion::V6] {
            let rules: Vec<RuleMessage> = self.handle.rule().get(version).execute().try_collect().await.expect("rules");
            out.extend(rules.iter().map(|r| format!("rule {r:?}")));
        }
        out
    }
}

/// The address that is this host's: IPv4 names it `Local`, IPv6 `Address`.
fn local_of(message: &AddressMessage) -> Option<IpAddr> {
    let local = |a: &AddressAttribute| if let AddressAttribute::Local(a) = a { Some(*a) } else { None };
    let address = |a: &AddressAttribute| if let AddressAttribute::Address(a) = a { Some(*a) } else { None };
    message.attributes.iter().find_map(local).or_else(|| message.attributes.iter().find_map(address))
}

fn mtu_of(link: &LinkMessage) -> Option<u32> {
    link.attributes.iter().find_map(|a| if let LinkAttribute::Mtu(mtu) = a { Some(*mtu) } else { None })
}

fn mac_of(bytes: &[u8]) -> Option<Mac> {
    bytes.try_into().ok().map(Mac)
}

#[expect(clippy::wildcard_enum_match_arm, reason = "attributes of other kinds, of which the kernel has ever more")]
fn device_of(link: &LinkMessage) -> FoundDevice {
    let infos = link.attributes.iter().find_map(|a| if let LinkAttribute::LinkInfo(i) = a { Some(i) } else { None });
    let infos = infos.map_or(&[][..], Vec::as_slice);
    if !infos.iter().any(|i| matches!(i, LinkInfo::Kind(InfoKind::Vxlan))) {
        return FoundDevice::Foreign;
    }
    let mac = link.attributes.iter().find_map(|a| if let LinkAttribute::Address(m) = a { mac_of(m) } else { None });
    let mut device = Vxlan {
        vni: 0,
        port: 0,
        local: Ipv4Addr::UNSPECIFIED.into(),
        mac: mac.unwrap_or(Mac([0; 6])),
        mtu: mtu_of(link).unwrap_or_default(),
    };
    for info in infos {
        let LinkInfo::Data(InfoData::Vxlan(data)) = info else { continue };
        for one in data {
            match one {
                InfoVxlan::Id(vni) => device.vni = *vni,
                InfoVxlan::Port(port) => device.port = *port,
                InfoVxlan::Local(local) => device.local = (*local).into(),
                InfoVxlan::Local6(local) => device.local = (*local).into(),
                _ => {}
            }
        }
    }
    let learns = |i: &LinkInfo| match i {
        LinkInfo::Data(InfoData::Vxlan(data)) => data.iter().any(|d| matches!(d, InfoVxlan::Learning(true))),
        _ => false,
    };
    // A device that learns, or is down, is none that we can use: it is made anew.
    if infos.iter().any(learns) || !link.header.flags.contains(LinkFlags::Up) {
        device.vni = 0;
    }
    FoundDevice::Vxlan(device)
}

#[expect(clippy::wildcard_enum_match_arm, reason = "attributes of other kinds, of which the kernel has ever more")]
fn entry_of(message: &NeighbourMessage) -> (Option<IpAddr>, Option<Mac>) {
    let (mut address, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => address = Some(IpAddr::V4(*a)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(a)) => address = Some(IpAddr::V6(*a)),
            // In the bridge family, the kernel's address has no family beside it.
            NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => {
                let four = <[u8; 4]>::try_from(bytes.as_slice()).map(|b| IpAddr::V4(Ipv4Addr::from(b)));
                let six = <[u8; 16]>::try_from(bytes.as_slice()).map(|b| IpAddr::V6(Ipv6Addr::from(b)));
                address = four.or(six).ok();
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = mac_of(bytes),
            _ => {}
        }
    }
    (address, mac)
}

fn forwarding_of(message: &NeighbourMessage) -> Option<(Mac, IpAddr)> {
    let (address, mac) = entry_of(message);
    Some((mac?, address?))
}

fn neighbour_of(message: &NeighbourMessage) -> Option<(IpAddr, Mac)> {
    let (address, mac) = entry_of(message);
    Some((address?, mac?))
}

#[expect(clippy::wildcard_enum_match_arm, reason = "addresses of other kinds, of which the kernel has ever more")]
fn ip_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(a) => Some((*a).into()),
        RouteAddress::Inet6(a) => Some((*a).into()),
        _ => None,
    }
}

/// A route of our tables.
#[expect(clippy::wildcard_enum_match_arm, reason = "attributes of other kinds, of which the kernel has ever more")]
fn route_of(message: &RouteMessage, indices: Indices) -> Option<FoundRoute> {
    let (mut table, mut metric) = (u32::from(message.header.table), 0);
    let (mut destination, mut via, mut source, mut device) = (None, None, None, None);
    let mut special = false;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(t) => table = *t,
            RouteAttribute::Priority(p) => metric = *p,
            RouteAttribute::Destination(a) => destination = ip_of(a),
            RouteAttribute::Gateway(a) => via = ip_of(a),
            RouteAttribute::Via(RouteVia::Inet6(a)) => via = Some((*a).into()),
            RouteAttribute::PrefSource(a) => source = ip_of(a),
            RouteAttribute::Oif(index) => device = Some(*index),
            RouteAttribute::MultiPath(_) => special = true,
            _ => {}
        }
    }
    if table != ROUTE_TABLE && table != DELIVERY_TABLE {
        return None;
    }
    let unspecified: IpAddr = if message.header.address_family == AddressFamily::Inet6 {
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        Ipv4Addr::UNSPECIFIED.into()
    };
    let destination = Cidr::containing(destination.unwrap_or(unspecified), message.header.destination_prefix_length)?;
    let target = match message.header.kind {
        RouteType::BlackHole => Target::Blackhole,
        RouteType::Unreachable => Target::Unreachable,
        RouteType::Unicast if !special => match (device, via) {
            (Some(d), None) if Some(d) == indices.tunnel => Target::Tunnel { source },
            (Some(d), None) if Some(d) == indices.vxlan => Target::OnVxlan { source },
            (Some(d), Some(via)) if Some(d) == indices.vxlan => Target::Node { via, source },
            _ => Target::Other,
        },
        _ => Target::Other,
    };
    let protocol = u8::from(message.header.protocol);
    Some(FoundRoute { key: RouteKey { table, destination, metric }, target, protocol })
}

#[expect(clippy::wildcard_enum_match_arm, reason = "attributes of other kinds, of which the kernel has ever more")]
fn rule_of(message: &RuleMessage) -> Option<FoundRule> {
    let (mut table, mut preference, mut protocol) = (u32::from(message.header.table), 0, 0);
    let (mut from_tunnel, mut special) = (false, message.header.src_len > 0 || message.header.dst_len > 0);
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Table(t) => table = *t,
            RuleAttribute::Priority(p) => preference = *p,
            RuleAttribute::Protocol(p) => protocol = u8::from(*p),
            RuleAttribute::Iifname(name) if name == TUNNEL_DEVICE => from_tunnel = true,
            RuleAttribute::Iifname(_)
            | RuleAttribute::Oifname(_)
            | RuleAttribute::FwMark(_)
            | RuleAttribute::IpProtocol(_)
            | RuleAttribute::UidRange(_) => special = true,
            _ => {}
        }
    }
    let ipv6 = message.header.family == AddressFamily::Inet6;
    Some(FoundRule { rule: Rule { ipv6, table, from_tunnel }, preference, protocol, special })
}
