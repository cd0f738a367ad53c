//! What keeps a gateway from working, with what to do about it.

use std::io;
use std::net::IpAddr;

use thiserror::Error;

/// Why a data path cannot start, or ended.
#[derive(Debug, Error)]
pub enum GatewayError {
    /// `/dev/net/tun` is not there.
    #[error(
        "/dev/net/tun is not there: load the module `tun` on the node (modprobe tun) and give the gateway's pod the device"
    )]
    NoTunDevice,
    /// The kernel refuses for lack of rights.
    #[error("no rights to {what}: {cause}; run the gateway with CAP_NET_ADMIN (and access to /dev/net/tun)")]
    NoRights {
        /// What was refused, as "open /dev/net/tun".
        what: String,
        /// What the kernel says.
        cause: io::Error,
    },
    /// The device's name is taken by a device that is no TUN device.
    #[error("there is a device {name} that is no TUN device of a gateway: remove it (ip link delete {name})")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// Another process holds the device.
    #[error("device {name} is held by another process: end the other gateway on this node")]
    DeviceBusy {
        /// The name.
        name: String,
    },
    /// The device cannot be set up.
    #[error("device {name}: {what} failed: {cause}")]
    Device {
        /// The name.
        name: String,
        /// What was tried.
        what: &'static str,
        /// What the kernel says.
        cause: String,
    },
    /// The UDP port is another's.
    #[error(
        "UDP port {port} is in use on this node: end what holds it, or give the gateways another (daisy join --tunnel-port; \
         daisy gateway --port)"
    )]
    PortInUse {
        /// The port.
        port: u16,
    },
    /// A UDP socket cannot be made.
    #[error("no UDP socket on port {port}: {cause}")]
    Socket {
        /// The port.
        port: u16,
        /// What the kernel says.
        cause: io::Error,
    },
    /// A thread of the data path cannot be started.
    #[error("a thread of the data path cannot be started: {cause}")]
    Thread {
        /// What the system says.
        cause: io::Error,
    },
    /// A thread of the data path ended.
    #[error("the data path ended: {cause}")]
    Ended {
        /// Which thread, and why.
        cause: String,
    },
    /// The node-range address changed to one that cannot be set.
    #[error("node address {address}: {cause}")]
    Address {
        /// The address.
        address: IpAddr,
        /// What is wrong.
        cause: String,
    },
    /// A metric is registered already.
    #[error("the gateway's metrics are registered already in this registry: {0}")]
    Metrics(#[from] prometheus::Error),
}

impl GatewayError {
    /// The reason of the condition `Ready` that this error sets, in CamelCase.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoTunDevice => "NoTunDevice",
            Self::NoRights { .. } => "NoRights",
            Self::NameTaken { .. } | Self::DeviceBusy { .. } => "DeviceTaken",
            Self::Device { .. } | Self::Address { .. } => "DeviceFailed",
            Self::PortInUse { .. } => "PortInUse",
            Self::Socket { .. } => "SocketFailed",
            Self::Thread { .. } | Self::Ended { .. } => "DataPathEnded",
            Self::Metrics(_) => "MetricsTaken",
        }
    }
}
