//! The nouns of Daisy: every type that two stages share.
//!
//! ```text
//! text at the edge ──parse──▶ names · cidr · grant · keys ──▶ kinds (CRD types) ──▶ every core and shell
//!                                                              └──▶ crds ──▶ manifests/crds/*.yaml
//! ```
//!
//! What cannot be valid cannot be built: a [`names::ClusterId`], a [`cidr::Cidr`] or a [`grant::Grant`] is parsed once, where
//! it enters, and never checked again. The kinds of `daisy.supercluster.local` and the two of the MCS API
//! (`multicluster.x-k8s.io`, KEP-1645) are here with their schemas; nothing in this crate does I/O.

pub mod broker_info;
pub mod cidr;
pub mod cluster_ips;
pub mod conditions;
pub mod crds;
pub mod grant;
pub mod keys;
pub mod kinds;
pub mod labels;
pub mod names;
pub mod version;
pub mod yaml;

pub use cidr::{Cidr, CidrError};
pub use cluster_ips::ClusterIps;
pub use grant::Grant;
pub use kinds::*;
pub use names::{ClusterId, NameError, NamespaceName, NodeName, ServiceKey, ServiceName};
pub use version::Version;
