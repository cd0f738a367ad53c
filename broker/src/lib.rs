//! The programs around the broker: what a cluster asks it, what its administrator makes on it, who judges, and a broker of our own.
//!
//! ```text
//! broker-info.daisy ──▶ enrol ──JoinRequest──▶ broker ◀──watch── registrar ──Member, namespace, rights, sealed credential──▶ broker
//! administrator ──▶ setup ──CRDs, rights, Invitation──▶ broker
//! server = daisy-api-server + admission (policy of daisy-broker-core) + registrar, one process, where no Kubernetes is to spare
//! syncer: cluster ◀──▶ broker
//! ```
//!
//! The broker is any Kubernetes API server, or [`server`]: everything here but that uses plain Kubernetes requests alone.

mod admission;
pub mod apply;
pub mod enrol;
pub mod lease;
pub mod policies;
pub mod registrar;
pub mod rights;
pub mod sealing;
pub mod server;
pub mod setup;
pub mod syncer;
