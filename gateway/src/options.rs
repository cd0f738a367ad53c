//! What a gateway is told on its command line.

use std::net::IpAddr;

use daisy_api::{NodeName, labels};
use daisy_gateway_core::Intervals;
use prometheus::Registry;

/// The options of [`crate::run`].
#[derive(Clone, Debug)]
pub struct GatewayOptions {
    /// The node that it runs on.
    pub node_name: NodeName,
    /// The UDP port of its tunnels.
    pub port: u16,
    /// Public addresses of this node, beside those that the Node object names.
    pub public_addresses: Vec<IpAddr>,
    /// How often connections are probed.
    pub intervals: Intervals,
    /// The tunnel device's MTU; `None`: found by the uplink's.
    pub mtu: Option<u32>,
    /// Where its metrics are registered.
    pub registry: Registry,
}

impl GatewayOptions {
    /// The defaults for the gateway on this node: port 41820, probes each second and 30 ms, a registry of its own.
    #[must_use]
    pub fn new(node_name: NodeName) -> Self {
        Self {
            node_name,
            port: labels::TUNNEL_PORT,
            public_addresses: Vec::new(),
            intervals: Intervals::default(),
            mtu: None,
            registry: Registry::new(),
        }
    }
}
