//! The route-agent of one node: device, routes, rules and filter of the way to and from other clusters.
//!
//! ```text
//! Cluster · Node · Gateway · ServiceExport · Service · EndpointSlice ──watch──▶ core::Agent ──▶ desired ─┐
//! links, routes, rules (netlink notifications) ──────────────────────────────▶     │                     ├─diff──▶ rtnetlink, nftables
//!                                               rtnetlink dumps ──▶ found ─────────┼─────────────────────┘
//!                                                                 Node annotation ◀┘ (clean, after a leave)
//! ```
//!
//! At its end everything stays in place, and the next one takes it over; only a leave removes it.

mod error;
mod filter;
mod metrics;
mod netlink;
mod node;
mod options;
mod role;
mod sysctl;
mod watch;

pub use options::RouteAgentOptions;
pub use role::run;

#[cfg(test)]
mod tests;
