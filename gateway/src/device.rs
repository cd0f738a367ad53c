//! The tunnel device over rtnetlink: its address, MTU and state, its removal; and the uplink that it goes over.

use std::collections::BTreeSet;
use std::future::Future;
use std::net::IpAddr;

use daisy_api::labels::MTU_MIN;
use daisy_gateway_core::mtu::tunnel_mtu;
use futures::TryStreamExt as _;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use rtnetlink::packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoKind, LinkAttribute, LinkInfo, LinkMessage,
};
use rtnetlink::packet_route::route::{RouteAttribute, RouteHeader, RouteMessage};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec};
use tracing::debug;

use crate::error::GatewayError;

/// The MTU of an uplink of which nothing is known.
const UPLINK_UNKNOWN: u32 = 1_500;
/// How many packets wait in the device: with few, a burst of TCP loses packets before it is sealed.
const QUEUE_LENGTH: u32 = 1_000;

/// What outer datagrams go over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Uplink {
    /// Its MTU; the least, where there are several.
    pub(crate) mtu: u32,
    /// Whether it has no IPv6 that could carry them.
    pub(crate) only_ipv4: bool,
}

impl Uplink {
    /// The tunnel's MTU over it.
    pub(crate) fn tunnel_mtu(self) -> u32 {
        tunnel_mtu(self.mtu, self.only_ipv4)
    }
}

/// Runs what talks netlink in the network namespace of the calling thread, where the socket is opened before anything waits.
async fn with_netlink<T, F: Future<Output = Result<T, rtnetlink::Error>>>(
    name: &str,
    what: &'static str,
    run: impl FnOnce(Handle) -> F,
) -> Result<T, GatewayError> {
    let failed = |cause: String| GatewayError::Device { name: name.to_owned(), what, cause };
    let (connection, handle, _) = rtnetlink::new_connection().map_err(|cause| failed(cause.to_string()))?;
    let task = tokio::spawn(connection);
    let result = run(handle).await;
    task.abort();
    result.map_err(|error| {
        let rtnetlink::Error::NetlinkError(message) = &error else { return failed(error.to_string()) };
        let cause = message.to_io();
        if matches!(cause.raw_os_error(), Some(libc::EPERM | libc::EACCES)) {
            return GatewayError::NoRights { what: format!("set up device {name} ({what})"), cause };
        }
        failed(cause.to_string())
    })
}

/// Gives the device its MTU and this address as its only one, and sets it up.
pub(crate) async fn configure(name: &str, address: IpAddr, mtu: u32) -> Result<(), GatewayError> {
    let index = with_netlink(name, "setting the MTU", |handle| async move {
        let index = find(&handle, name).await?.map(|link| link.header.index).ok_or(rtnetlink::Error::RequestFailed)?;
        // Without this the kernel gives it a link-local address and sends to multicast groups that nobody is in. Refused where
        // IPv6 is off, and then not needed.
        let quiet = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
        let message = of(index).append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![quiet])).build();
        if let Err(error) = handle.link().set(message).execute().await {
            debug!(device = name, %error, "the device keeps its own IPv6 link-local address");
        }
        handle.link().set(of(index).mtu(mtu.max(MTU_MIN)).txqueuelen(QUEUE_LENGTH).build()).execute().await?;
        Ok(index)
    })
    .await?;
    with_netlink(name, "setting the address", |handle| async move {
        let mut known = false;
        for message in addresses(&handle, Some(index)).await? {
            let local = local_of(&message);
            if local == Some(address) && message.header.prefix_len == host_prefix(address) {
                known = true;
            } else if message.header.scope == AddressScope::Universe {
                // From an earlier life of this node: it would draw traffic that is another's now.
                handle.address().del(message).execute().await?;
            }
        }
        if known {
            return Ok(());
        }
        let mut add = handle.address().add(index, address, host_prefix(address)).replace();
        // On a device with one end there is nobody to have the address twice.
        add.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad | AddressFlags::Permanent));
        add.execute().await
    })
    .await?;
    with_netlink(name, "setting it up", |handle| async move { handle.link().set(of(index).up().build()).execute().await }).await
}

/// Removes the device. Says whether it was there; a device of this name that is no TUN device is not ours, and stays.
pub(crate) async fn remove(name: &str) -> Result<bool, GatewayError> {
    with_netlink(name, "removing it", |handle| async move {
        match find(&handle, name).await? {
            Some(link) if is_tun(&link) => handle.link().del(link.header.index).execute().await.map(|()| true),
            _ => Ok(false),
        }
    })
    .await
}

/// The uplink of this node: the devices that hold the node's addresses or a default route.
pub(crate) async fn uplink(name: &str, node: &[IpAddr]) -> Result<Uplink, GatewayError> {
    with_netlink(name, "finding the uplink", |handle| async move {
        let mut indices: BTreeSet<u32> = BTreeSet::new();
        let mut ipv6 = false;
        for message in addresses(&handle, None).await? {
            if let Some(local) = local_of(&message).filter(|local| node.contains(local)) {
                indices.insert(message.header.index);
                ipv6 |= local.is_ipv6();
            }
        }
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut filter = RouteMessage::default();
            filter.header.address_family = family;
            let routes: Vec<RouteMessage> = match handle.route().get(filter).execute().try_collect().await {
                Ok(routes) => routes,
                // No IPv6 in this kernel.
                Err(_) if family == AddressFamily::Inet6 => Vec::new(),
                Err(error) => return Err(error),
            };
            for device in routes.iter().filter_map(default_device) {
                indices.insert(device);
                ipv6 |= family == AddressFamily::Inet6;
            }
        }
        let links: Vec<LinkMessage> = handle.link().get().execute().try_collect().await?;
        let uplinks = links.iter().filter(|link| indices.contains(&link.header.index) && name_of(link) != Some(name));
        Ok(Uplink { mtu: uplinks.filter_map(mtu_of).min().unwrap_or(UPLINK_UNKNOWN), only_ipv4: !ipv6 })
    })
    .await
}

fn of(index: u32) -> LinkMessageBuilder<LinkUnspec> {
    LinkUnspec::new_with_index(index)
}

async fn find(handle: &Handle, name: &str) -> Result<Option<LinkMessage>, rtnetlink::Error> {
    match handle.link().get().match_name(name).execute().try_next().await {
        Ok(link) => Ok(link),
        Err(rtnetlink::Error::NetlinkError(message)) if message.raw_code() == -libc::ENODEV => Ok(None),
        Err(error) => Err(error),
    }
}

async fn addresses(handle: &Handle, index: Option<u32>) -> Result<Vec<AddressMessage>, rtnetlink::Error> {
    let request = handle.address().get();
    let request = match index {
        Some(index) => request.set_link_index_filter(index),
        None => request,
    };
    request.execute().try_collect().await
}

fn host_prefix(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The address that is this node's: IPv4 names it `Local`, IPv6 `Address`.
#[expect(clippy::wildcard_enum_match_arm, reason = "attributes of other kinds, of which the kernel has ever more")]
fn local_of(message: &AddressMessage) -> Option<IpAddr> {
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(local) => Some(*local),
        _ => None,
    });
    let address = || {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    };
    local.or_else(address)
}

/// The device of a default route in the main table.
#[expect(clippy::wildcard_enum_match_arm, reason = "attributes of other kinds, of which the kernel has ever more")]
fn default_device(route: &RouteMessage) -> Option<u32> {
    if route.header.destination_prefix_length != 0 || route.header.table != RouteHeader::RT_TABLE_MAIN {
        return None;
    }
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

#[expect(clippy::wildcard_enum_match_arm, reason = "attributes of other kinds, of which the kernel has ever more")]
fn mtu_of(link: &LinkMessage) -> Option<u32> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Mtu(mtu) => Some(*mtu),
        _ => None,
    })
}

#[expect(clippy::wildcard_enum_match_arm, reason = "attributes of other kinds, of which the kernel has ever more")]
fn name_of(link: &LinkMessage) -> Option<&str> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    })
}

#[expect(clippy::wildcard_enum_match_arm, reason = "attributes of other kinds, of which the kernel has ever more")]
fn is_tun(link: &LinkMessage) -> bool {
    link.attributes.iter().any(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.iter().any(|info| matches!(info, LinkInfo::Kind(InfoKind::Tun))),
        _ => false,
    })
}
