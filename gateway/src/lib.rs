//! The gateway: tunnels to other clusters.
//!
//! ```text
//! Node, Cluster, Secret ──▶ run ──▶ core::peers::plan ──▶ DataPath ⇄ other gateways (WireGuard over UDP)
//!                            ▲                              ⇅ daisy0 (TUN) ⇄ route-agent's routes
//!                            └── connections, status ◀──────┘
//!                                     │
//!                                     ▼
//!                                  Gateway object ──▶ syncer → broker; `daisy show connections`
//! ```
//! [`run`] is the role; [`data_path`] is the part that knows nothing of Kubernetes, and keeps working when it is away.

pub mod data_path;
mod device;
mod error;
mod kubernetes;
mod metrics;
mod options;
mod socket;
mod tun;
mod wireguard;

pub use daisy_gateway_core::Intervals;
pub use error::GatewayError;
pub use kubernetes::run;
pub use metrics::Metrics;
pub use options::GatewayOptions;
pub use wireguard::{PrivateKey, PrivateKeyError};
