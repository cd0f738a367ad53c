//! The node's network by rtnetlink: what is found, and the changes to it.

mod events;
mod observe;
mod perform;

use std::net::IpAddr;

use daisy_api::labels::{TUNNEL_DEVICE, VXLAN_DEVICE};
use futures::TryStreamExt as _;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::{Handle, LinkUnspec};
use tokio::task::JoinHandle;

pub(crate) use events::{Event, Events};

use crate::error::NodeError;

/// A connection to the kernel's routing, of the network namespace of the thread that opened it.
pub(crate) struct Network {
    handle: Handle,
    connection: JoinHandle<()>,
}

impl Drop for Network {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Network {
    /// Opens it, in the calling thread's network namespace.
    pub(crate) fn open() -> Result<Self, NodeError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(NodeError::Socket)?;
        Ok(Self { handle, connection: tokio::spawn(connection) })
    }

    /// The device of this name; `None` where there is none.
    async fn link(&self, name: &str) -> Result<Option<LinkMessage>, NodeError> {
        match self.handle.link().get().match_name(name.to_owned()).execute().try_next().await {
            Ok(link) => Ok(link),
            Err(rtnetlink::Error::NetlinkError(message)) if message.raw_code() == -libc::ENODEV => Ok(None),
            Err(cause) => Err(NodeError::List { what: "devices", cause }),
        }
    }

    async fn index(&self, name: &str) -> Result<Option<u32>, NodeError> {
        Ok(self.link(name).await?.map(|link| link.header.index))
    }

    /// What becomes of packets on our devices: their sources are checked loosely, since pods' routes lead elsewhere.
    pub(crate) async fn tune(&self, device: &'static str) -> Result<(), NodeError> {
        let Some(index) = self.index(device).await? else { return Ok(()) };
        let message = LinkUnspec::new_with_index(index).append_extra_attribute(perform::loose_sources()).build();
        let change = || format!("let device {device} take packets from sources whose routes lead elsewhere");
        self.handle.link().set(message).execute().await.map_err(|cause| NodeError::Change { change: change(), cause })
    }
}

impl Network {
    /// Removes the tunnel device, and says whether it was there. One of this name that is no TUN device is not ours, and stays.
    pub(crate) async fn remove_tunnel(&self) -> Result<bool, NodeError> {
        let Some(link) = self.link(TUNNEL_DEVICE).await?.filter(is_tun) else { return Ok(false) };
        let removed = self.handle.link().del(link.header.index).execute().await;
        let failed = |cause| NodeError::Change { change: format!("remove device {TUNNEL_DEVICE}"), cause };
        removed.map(|()| true).or_else(|error| if perform::is_gone(&error) { Ok(false) } else { Err(failed(error)) })
    }
}

fn is_tun(link: &LinkMessage) -> bool {
    let is = |info: &LinkInfo| matches!(info, LinkInfo::Kind(InfoKind::Tun));
    link.attributes.iter().any(|a| matches!(a, LinkAttribute::LinkInfo(infos) if infos.iter().any(is)))
}

/// The name of the tunnel or VXLAN device that a device has, if it is one of these.
fn our_name(link: &LinkMessage) -> Option<&'static str> {
    let is = |name: &str| link.attributes.iter().any(|a| matches!(a, LinkAttribute::IfName(n) if n == name));
    [TUNNEL_DEVICE, VXLAN_DEVICE].into_iter().find(|name| is(name))
}

fn host_prefix(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}
