//! Clusters on this machine, in network namespaces: real networks, real processes, no root needed where the kernel allows.
//!
//! ```text
//! front ──▶ machine::Lab ──start──▶ holder (namespaces, mounts) ──▶ agent ──▶ network (routers, nodes, NAT)
//!   │            └── control.sock: exec, services, inspect ──────────▶ │
//!   └──▶ walk                                                          ├──▶ control_plane ◀── kubectl, by the host's loopback
//!                                                                      ├──▶ proxy (one a node)
//!                                                                      └──▶ kubelet ──▶ pods: cluster_dns, http, Daisy's roles
//! ```
//!
//! Everything lives in namespaces of the lab's own and ends with its first process (design, decision 22). No program of the
//! system is needed: all is done by system calls and netlink.

pub mod cluster_dns;
pub mod control_plane;
pub mod front;
pub mod machine;
pub mod network;
pub mod plan;
pub mod protocol;
pub mod proxy;
pub mod state;

mod agent;
mod holder;
mod http;
mod internal;
mod kubeconfig;
mod kubelet;
mod sys;
mod task;
mod walk;

pub use internal::{Ready, internal_main};
pub use machine::{Lab, LabError, Output, StartOptions, can_tunnel};
