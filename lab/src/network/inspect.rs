//! What is set in a network namespace, to see what is left of something.

use std::net::IpAddr;

use daisy_api::labels;
use futures::TryStreamExt;
use netlink_packet_route::link::{LinkAttribute, LinkInfo};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use netlink_packet_route::rule::{RuleAttribute, RuleMessage};
use rtnetlink::{IpVersion, RouteMessageBuilder};
use serde::{Deserialize, Serialize};

use super::filter;
use super::link::{Links, NetworkError};
use crate::sys::Netns;

/// A network device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// Its kind, as `veth`, `vxlan` or `tun`; empty for loopback.
    pub kind: String,
    /// Its MTU in bytes.
    pub mtu: u32,
}

/// A route of any table but `local`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteEntry {
    /// The table's number.
    pub table: u32,
    /// Where it leads: `default` or `ADDRESS/PREFIX`.
    pub destination: String,
    /// Its kind, as `unicast`, `blackhole`, `unreachable`.
    pub kind: String,
    /// The next hop.
    pub via: Option<String>,
    /// The device.
    pub device: Option<String>,
    /// The metric.
    pub metric: u32,
    /// The number of the routing protocol that it belongs to.
    pub protocol: u8,
}

/// A routing rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleEntry {
    /// Its preference.
    pub preference: u32,
    /// The table that it leads to.
    pub table: u32,
}

/// All that is set in one namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traces {
    /// The namespace's name.
    pub namespace: String,
    /// Its devices.
    pub devices: Vec<Device>,
    /// Its routes, of all tables but `local`, of both families.
    pub routes: Vec<RouteEntry>,
    /// Its routing rules, of both families.
    pub rules: Vec<RuleEntry>,
    /// Its nftables tables, as `FAMILY NAME`.
    pub tables: Vec<String>,
}

impl Traces {
    /// What is Daisy's of it, in words, by the names and numbers that only Daisy uses.
    #[must_use]
    pub fn daisys(&self) -> Vec<String> {
        let ours = |table: u32| table == labels::ROUTE_TABLE || table == labels::DELIVERY_TABLE;
        let device = |d: &&Device| d.name == labels::TUNNEL_DEVICE || d.name == labels::VXLAN_DEVICE;
        let route = |r: &&RouteEntry| ours(r.table) || r.protocol == labels::ROUTE_PROTOCOL;
        let table = |t: &&String| t.split(' ').nth(1) == Some(labels::NFTABLES_TABLE);
        let devices = self.devices.iter().filter(device).map(|d| format!("device {}", d.name));
        let routes =
            self.routes.iter().filter(route).map(|r| format!("{} route to {} in table {}", r.kind, r.destination, r.table));
        let rules = self.rules.iter().filter(|r| ours(r.table)).map(|r| format!("rule {} to table {}", r.preference, r.table));
        let tables = self.tables.iter().filter(table).map(|t| format!("nftables table {t}"));
        devices.chain(routes).chain(rules).chain(tables).collect()
    }
}

/// The table of what the host itself answers to: the kernel's own.
const TABLE_LOCAL: u32 = 255;

pub(super) async fn traces(name: &str, netns: &Netns) -> Result<Traces, NetworkError> {
    let links = Links::open(name, netns)?;
    let handle = links.handle();
    let found: Vec<_> = handle.link().get().execute().try_collect().await.map_err(links.error("listing devices"))?;
    let mut names = std::collections::BTreeMap::new();
    let mut devices = Vec::new();
    for link in found {
        let mut device = Device { name: String::new(), kind: String::new(), mtu: 0 };
        for attribute in &link.attributes {
            if let LinkAttribute::IfName(name) = attribute {
                device.name.clone_from(name);
            } else if let LinkAttribute::Mtu(mtu) = attribute {
                device.mtu = *mtu;
            } else if let LinkAttribute::LinkInfo(infos) = attribute {
                let kind = infos.iter().find_map(|i| if let LinkInfo::Kind(kind) = i { Some(kind.to_string()) } else { None });
                device.kind = kind.unwrap_or_default();
            }
        }
        names.insert(link.header.index, device.name.clone());
        devices.push(device);
    }
    let v4 = RouteMessageBuilder::<std::net::Ipv4Addr>::new().build();
    let v6 = RouteMessageBuilder::<std::net::Ipv6Addr>::new().build();
    let mut routes = Vec::new();
    for any in [v4, v6] {
        let found: Vec<_> = handle.route().get(any).execute().try_collect().await.map_err(links.error("listing routes"))?;
        routes.extend(found.iter().map(|r| route(r, &names)).filter(|r| r.table != TABLE_LOCAL));
    }
    let mut rules = Vec::new();
    for version in [IpVersion::V4, IpVersion::V6] {
        let found: Vec<_> = handle.rule().get(version).execute().try_collect().await.map_err(links.error("listing rules"))?;
        rules.extend(found.iter().map(rule));
    }
    Ok(Traces { namespace: name.to_owned(), devices, routes, rules, tables: filter::tables(name, netns)? })
}

fn address(address: &RouteAddress) -> Option<IpAddr> {
    if let RouteAddress::Inet(a) = address {
        Some((*a).into())
    } else if let RouteAddress::Inet6(a) = address {
        Some((*a).into())
    } else {
        None
    }
}

fn route(message: &RouteMessage, names: &std::collections::BTreeMap<u32, String>) -> RouteEntry {
    let mut entry = RouteEntry {
        table: message.header.table.into(),
        destination: "default".to_owned(),
        kind: format!("{:?}", message.header.kind).to_lowercase(),
        via: None,
        device: None,
        metric: 0,
        protocol: message.header.protocol.into(),
    };
    for attribute in &message.attributes {
        if let RouteAttribute::Table(table) = attribute {
            entry.table = *table;
        } else if let RouteAttribute::Destination(to) = attribute {
            if let Some(to) = address(to) {
                entry.destination = format!("{to}/{}", message.header.destination_prefix_length);
            }
        } else if let RouteAttribute::Gateway(via) = attribute {
            entry.via = address(via).map(|a| a.to_string());
        } else if let RouteAttribute::Oif(index) = attribute {
            entry.device = Some(names.get(index).cloned().unwrap_or_else(|| index.to_string()));
        } else if let RouteAttribute::Priority(metric) = attribute {
            entry.metric = *metric;
        }
    }
    entry
}

fn rule(message: &RuleMessage) -> RuleEntry {
    let mut entry = RuleEntry { preference: 0, table: message.header.table.into() };
    for attribute in &message.attributes {
        if let RuleAttribute::Priority(preference) = attribute {
            entry.preference = *preference;
        } else if let RuleAttribute::Table(table) = attribute {
            entry.table = *table;
        }
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_daisys_is_told_from_what_is_not() {
        let device = |name: &str| Device { name: name.to_owned(), kind: String::new(), mtu: 1500 };
        let route = |table, protocol| RouteEntry {
            table,
            destination: "10.20.0.0/16".to_owned(),
            kind: "blackhole".to_owned(),
            via: None,
            device: None,
            metric: 0,
            protocol,
        };
        let mut traces = Traces {
            namespace: "staging-node1".to_owned(),
            devices: vec![device("eth0"), device("daisy0")],
            routes: vec![route(254, 4), route(4841, 4), route(254, 184)],
            rules: vec![RuleEntry { preference: 32766, table: 254 }, RuleEntry { preference: 1841, table: 4841 }],
            tables: vec!["inet daisy".to_owned(), "inet daisy-lab-proxy".to_owned()],
        };
        assert_eq!(traces.daisys().len(), 5, "{:?}", traces.daisys());
        traces.devices.truncate(1);
        traces.routes.truncate(1);
        traces.rules.truncate(1);
        traces.tables.remove(0);
        assert!(traces.daisys().is_empty());
    }
}
