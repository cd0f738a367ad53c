//! What the broker's two programs decide: the syncer of each cluster, and the registrar.
//!
//! ```text
//! local ServiceExport, Service, EndpointSlice ──▶ export ──▶ Export, ExportEndpoints, Heartbeat ──▶ broker
//! local Gateway, Node ──▶ cluster ──▶ Cluster ──▶ broker
//! broker records ──▶ policy (held to the Member) ──▶ vouch (what still stands) ──▶ merge ──▶ import ──▶ Service,
//!                                                            EndpointSlices, ServiceImport, Clusters here
//! all of it driven by syncer: handle_* in, poll_action out
//! which of several replicas does it: lease
//! JoinRequest, Invitation ──▶ registrar ──▶ Member, namespace, rights, credential
//! ```
//!
//! Nothing here does I/O, reads a clock or draws a random number: time comes in as an argument.
#![forbid(unsafe_code)]
#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "there are twelve kinds of objects, and most places have to do with one or two of them"
)]

pub mod digest;
pub mod export;
pub mod import;
pub mod lease;
pub mod managed;
pub mod merge;
pub mod object;
pub mod policy;
mod qualified;
pub mod registrar;
pub mod service;
pub mod syncer;
pub mod time;
pub mod vouch;
