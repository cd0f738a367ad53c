//! Devices, addresses, routes and neighbours of one network namespace, over rtnetlink.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;

use daisy_api::Cidr;
use futures::TryStreamExt;
use netlink_packet_route::link::{InfoData, InfoVeth};
use netlink_packet_route::route::{RouteScope, RouteType};
use rtnetlink::{Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};
use thiserror::Error;
use tokio::task::JoinHandle;

use crate::sys::Netns;
use crate::task;

/// The MTU of the lab's devices, as on most networks.
pub(crate) const MTU: u32 = 1500;
/// The metric of the routes that say "unreachable" beneath every other.
const METRIC_LAST: u32 = u32::MAX;

/// Why the lab's network could not be changed.
#[derive(Debug, Error)]
pub enum NetworkError {
    /// The kernel refused something over netlink.
    #[error("network namespace {namespace}: {what}: {cause}")]
    Netlink {
        /// In which namespace.
        namespace: String,
        /// What was to be done.
        what: String,
        /// The kernel's answer.
        cause: Box<rtnetlink::Error>,
    },
    /// A system call failed.
    #[error("network namespace {namespace}: {what}: {cause}")]
    System {
        /// In which namespace.
        namespace: String,
        /// What was to be done.
        what: &'static str,
        /// The kernel's answer.
        cause: io::Error,
    },
    /// A packet filter could not be set or read.
    #[error("network namespace {namespace}: nftables: {cause}")]
    Filter {
        /// In which namespace.
        namespace: String,
        /// The kernel's answer.
        cause: Box<daisy_nftables::Error>,
    },
    /// There is no such thing in this lab.
    #[error("this lab has no {what} named {name:?}")]
    Unknown {
        /// What was asked for.
        what: &'static str,
        /// By which name.
        name: String,
    },
}

/// A hardware address.
pub(crate) type Mac = [u8; 6];

/// A locally administered hardware address for the holder of an IPv4 address, or of the end of an IPv6 one.
pub(crate) fn mac_of(address: IpAddr) -> Mac {
    let end = match address {
        IpAddr::V4(a) => a.octets(),
        IpAddr::V6(a) => {
            let o = a.octets();
            [o[12], o[13], o[14], o[15]]
        }
    };
    [0x02, 0xda, end[0], end[1], end[2], end[3]]
}

/// A pair of virtual Ethernet devices to be made: `name` here, brought up, and `peer` there, which the kernel
/// does not bring up before both are.
pub(crate) struct Pair<'a> {
    pub(crate) name: &'a str,
    pub(crate) mac: Mac,
    pub(crate) peer: &'a str,
    pub(crate) peer_mac: Mac,
    pub(crate) peer_namespace: &'a Netns,
}

/// A route to be added to the main table.
#[derive(Debug, Clone, Default)]
pub(crate) struct Route {
    /// Everything when absent (IPv4).
    pub(crate) to: Option<Cidr>,
    /// The next hop, reachable by `device` whatever the prefixes say.
    pub(crate) via: Option<IpAddr>,
    /// The device's index.
    pub(crate) device: Option<u32>,
}

/// rtnetlink in one network namespace.
#[derive(Debug)]
pub(crate) struct Links {
    namespace: String,
    handle: Handle,
    connection: JoinHandle<()>,
}

impl Drop for Links {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Links {
    /// Opens rtnetlink in a namespace; `name` is for messages. Must be called within a tokio runtime.
    pub(crate) fn open(name: &str, netns: &Netns) -> Result<Self, NetworkError> {
        let runtime = tokio::runtime::Handle::current();
        let opened = netns.run(|| {
            let _entered = runtime.enter();
            rtnetlink::new_connection()
        });
        let (connection, handle, _) =
            opened.map_err(|cause| NetworkError::System { namespace: name.to_owned(), what: "opening rtnetlink", cause })?;
        Ok(Self { namespace: name.to_owned(), handle, connection: task::spawn(connection) })
    }

    /// The rtnetlink handle, for what this type has no method for.
    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Names the namespace and the deed in an error.
    pub(crate) fn error(&self, what: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> NetworkError {
        let (namespace, what) = (self.namespace.clone(), what.into());
        move |cause| NetworkError::Netlink { namespace, what, cause: Box::new(cause) }
    }

    /// The index of the device of this name.
    pub(crate) async fn index(&self, name: &str) -> Result<u32, NetworkError> {
        let found = self.handle.link().get().match_name(name).execute().try_next().await;
        match found.map_err(self.error(format!("looking for device {name}")))? {
            Some(link) => Ok(link.header.index),
            None => Err(NetworkError::Unknown { what: "device", name: name.to_owned() }),
        }
    }

    /// Brings a device up.
    pub(crate) async fn up(&self, index: u32) -> Result<(), NetworkError> {
        let message = LinkUnspec::new_with_index(index).up().build();
        self.handle.link().set(message).execute().await.map_err(self.error("bringing a device up"))
    }

    /// Makes a pair of devices and returns the index of the near one.
    pub(crate) async fn pair(&self, pair: &Pair<'_>) -> Result<u32, NetworkError> {
        let peer = LinkMessageBuilder::<LinkUnspec>::default()
            .name(pair.peer)
            .mtu(MTU)
            .address(pair.peer_mac.to_vec())
            .setns_by_fd(pair.peer_namespace.as_raw_fd())
            .build();
        let message = LinkVeth::new(pair.name, pair.peer)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .mtu(MTU)
            .address(pair.mac.to_vec())
            .up()
            .build();
        let made = self.handle.link().add(message).execute().await;
        made.map_err(self.error(format!("making the devices {} and {}", pair.name, pair.peer)))?;
        self.index(pair.name).await
    }

    /// Makes a bridge, up, and returns its index.
    pub(crate) async fn bridge(&self, name: &str, mac: Mac) -> Result<u32, NetworkError> {
        let message = LinkBridge::new(name).mtu(MTU).address(mac.to_vec()).build();
        self.handle.link().add(message).execute().await.map_err(self.error(format!("making the bridge {name}")))?;
        self.index(name).await
    }

    /// Makes a device a port of a bridge.
    pub(crate) async fn attach(&self, index: u32, bridge: u32) -> Result<(), NetworkError> {
        let message = LinkUnspec::new_with_index(index).controller(bridge).build();
        self.handle.link().set(message).execute().await.map_err(self.error("attaching a device to the bridge"))
    }

    /// Removes the device of this name, if it is there.
    pub(crate) async fn remove(&self, name: &str) -> Result<(), NetworkError> {
        match self.index(name).await {
            Ok(index) => {
                self.handle.link().del(index).execute().await.map_err(self.error(format!("removing the device {name}")))
            }
            // Gone already; the kernel says ENODEV to the question, too.
            Err(NetworkError::Unknown { .. } | NetworkError::Netlink { .. }) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Gives a device an address.
    pub(crate) async fn address(&self, index: u32, address: IpAddr, prefix: u8) -> Result<(), NetworkError> {
        let request = self.handle.address().add(index, address, prefix);
        request.execute().await.map_err(self.error(format!("adding the address {address}/{prefix}")))
    }

    /// Takes an address from a device.
    pub(crate) async fn remove_address(&self, index: u32, address: IpAddr) -> Result<(), NetworkError> {
        let what = || self.error(format!("removing the address {address}"));
        let found = self.handle.address().get().set_link_index_filter(index).set_address_filter(address).execute();
        let found: Vec<_> = found.try_collect().await.map_err(what())?;
        for message in found {
            self.handle.address().del(message).execute().await.map_err(what())?;
        }
        Ok(())
    }

    /// Adds a route, or replaces the one to the same destination.
    pub(crate) async fn route(&self, route: &Route) -> Result<(), NetworkError> {
        let what = format!("adding {route:?}");
        let Some(message) = route.message() else {
            return Err(NetworkError::Unknown { what: "address family for the route", name: what });
        };
        self.handle.route().add(message).replace().execute().await.map_err(self.error(what))
    }

    /// Removes a route that was added with [`Links::route`].
    pub(crate) async fn remove_route(&self, route: &Route) -> Result<(), NetworkError> {
        let what = format!("removing {route:?}");
        let Some(message) = route.message() else {
            return Err(NetworkError::Unknown { what: "address family for the route", name: what });
        };
        self.handle.route().del(message).execute().await.map_err(self.error(what))
    }

    /// Beneath every other route: what has no route is refused at once, here, and goes nowhere.
    pub(crate) async fn unreachable_default(&self) -> Result<(), NetworkError> {
        let v4 = RouteMessageBuilder::<std::net::Ipv4Addr>::new().kind(RouteType::Unreachable).priority(METRIC_LAST).build();
        let v6 = RouteMessageBuilder::<std::net::Ipv6Addr>::new().kind(RouteType::Unreachable).priority(METRIC_LAST).build();
        self.handle.route().add(v4).execute().await.map_err(self.error("adding the unreachable default route"))?;
        match self.handle.route().add(v6).execute().await {
            // A kernel without IPv6, or one where it is switched off.
            Err(rtnetlink::Error::NetlinkError(e)) if matches!(-e.raw_code(), libc::EOPNOTSUPP | libc::EAFNOSUPPORT) => Ok(()),
            other => other.map_err(self.error("adding the unreachable IPv6 default route")),
        }
    }

    /// Says which hardware address an address has, so that nobody need ask.
    pub(crate) async fn neighbour(&self, index: u32, address: IpAddr, mac: Mac) -> Result<(), NetworkError> {
        let request = self.handle.neighbours().add(index, address).link_layer_address(&mac).replace();
        request.execute().await.map_err(self.error(format!("adding the neighbour {address}")))
    }
}

impl Route {
    /// A route straight to a device.
    pub(crate) fn on_device(to: Cidr, device: u32) -> Self {
        Self { to: Some(to), via: None, device: Some(device) }
    }

    /// A route by a next hop.
    pub(crate) fn via(to: Cidr, via: IpAddr, device: u32) -> Self {
        Self { to: Some(to), via: Some(via), device: Some(device) }
    }

    /// The default route by a next hop.
    pub(crate) fn default_via(via: IpAddr, device: u32) -> Self {
        Self { to: None, via: Some(via), device: Some(device) }
    }

    /// `None` where destination and next hop are of different families.
    fn message(&self) -> Option<netlink_packet_route::route::RouteMessage> {
        let mut builder = RouteMessageBuilder::<IpAddr>::new();
        let any: IpAddr = std::net::Ipv4Addr::UNSPECIFIED.into();
        let (to, prefix) = self.to.map_or((any, 0), |c| (c.address(), c.prefix()));
        builder = builder.destination_prefix(to, prefix).ok()?;
        if let Some(device) = self.device {
            builder = builder.output_interface(device);
        }
        builder = match self.via {
            Some(via) => builder.gateway(via).ok()?.onlink(),
            None => builder.scope(RouteScope::Link),
        };
        Some(builder.build())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_addresses_are_local_and_unicast() {
        let mac = mac_of("10.20.1.5".parse().expect("address"));
        assert_eq!(mac, [0x02, 0xda, 10, 20, 1, 5]);
        assert_eq!(mac[0] & 0b11, 0b10);
    }
}
