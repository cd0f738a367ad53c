//! How a route-agent is to work.

use std::time::Duration;

use daisy_api::NodeName;
use daisy_api::labels::VXLAN_PORT;

/// A route-agent's settings.
#[derive(Clone, Debug)]
pub struct RouteAgentOptions {
    /// The node it runs on.
    pub node_name: NodeName,
    /// How long packets to other clusters are held silently where the way or the member is lost. 30 s by default.
    pub hold: Duration,
    /// Whether other clusters may reach all pods and Services here, exported or not. Hosts stay out of their reach.
    pub reach_all: bool,
    /// The UDP port of the VXLAN between nodes and gateways; the same on all nodes of a cluster.
    pub vxlan_port: u16,
    /// Whether the node is to be cleaned of what an earlier life may have left, where the cluster is no member: what a leave does
    /// on a node that was away during an earlier one.
    pub clean: bool,
    /// Where metrics are registered.
    pub registry: prometheus::Registry,
}

impl RouteAgentOptions {
    /// The usual settings on this node.
    #[must_use]
    pub fn new(node_name: NodeName) -> Self {
        Self {
            node_name,
            hold: Duration::from_secs(30),
            reach_all: false,
            vxlan_port: VXLAN_PORT,
            clean: false,
            registry: prometheus::Registry::new(),
        }
    }
}
