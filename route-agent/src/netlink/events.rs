//! What happens to the node's network by others' hands, as the kernel tells it.

use daisy_api::labels::{DELIVERY_TABLE, ROUTE_TABLE};
use futures::StreamExt as _;
use futures::channel::mpsc::UnboundedReceiver;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::route::RouteAttribute;
use rtnetlink::packet_route::rule::RuleAttribute;
use rtnetlink::sys::SocketAddr;
use tokio::task::JoinHandle;

use super::our_name;
use crate::error::NodeError;

/// Something happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Devices or addresses came, went or changed.
    Links,
    /// One of our two devices, or a route or rule in our tables, did.
    Ours,
}

type Messages = UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>;

/// The kernel's notifications, of the network namespace of the thread that asked for them.
pub(crate) struct Events {
    messages: Messages,
    connection: JoinHandle<()>,
}

impl Drop for Events {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Events {
    /// Begins to listen.
    pub(crate) fn open() -> Result<Self, NodeError> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
            MulticastGroup::Ipv4Rule,
            MulticastGroup::Ipv6Rule,
        ];
        let (connection, _, messages) = rtnetlink::new_multicast_connection(&groups).map_err(NodeError::Socket)?;
        Ok(Self { messages, connection: tokio::spawn(connection) })
    }

    /// The next thing that matters here. Never ends.
    pub(crate) async fn next(&mut self) -> Event {
        loop {
            match self.messages.next().await {
                Some((message, _)) => {
                    if let Some(event) = relevant(&message.payload) {
                        return event;
                    }
                }
                None => std::future::pending().await,
            }
        }
    }

    /// The next thing that has happened already.
    pub(crate) fn try_next(&mut self) -> Option<Event> {
        // A bound, so that a flood of notifications cannot keep the agent from its work.
        for _ in 0..4096 {
            let (message, _) = self.messages.try_recv().ok()?;
            if let Some(event) = relevant(&message.payload) {
                return Some(event);
            }
        }
        Some(Event::Ours)
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "messages of other kinds, of which the kernel has ever more")]
fn relevant(payload: &NetlinkPayload<RouteNetlinkMessage>) -> Option<Event> {
    let inner = match payload {
        // Some were lost: anything may have happened.
        NetlinkPayload::Overrun(_) => return Some(Event::Ours),
        NetlinkPayload::InnerMessage(inner) => inner,
        _ => return None,
    };
    let ours = |table: Option<u32>| table.is_some_and(|t| t == ROUTE_TABLE || t == DELIVERY_TABLE).then_some(Event::Ours);
    match inner {
        RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link) => {
            Some(if our_name(link).is_some() { Event::Ours } else { Event::Links })
        }
        RouteNetlinkMessage::NewAddress(_) | RouteNetlinkMessage::DelAddress(_) => Some(Event::Links),
        // What is added to our tables by others is not ours; what is taken from them may be.
        RouteNetlinkMessage::DelRoute(route) => ours(route.attributes.iter().find_map(|a| match a {
            RouteAttribute::Table(table) => Some(*table),
            _ => None,
        })),
        RouteNetlinkMessage::DelRule(rule) => ours(rule.attributes.iter().find_map(|a| match a {
            RuleAttribute::Table(table) => Some(*table),
            _ => None,
        })),
        _ => None,
    }
}
