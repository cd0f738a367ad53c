//! Real Kubernetes on this machine, and the tests that Daisy passes on it.
//!
//! ```text
//! components/*/go.mod ──▶ components (built once) ─┐
//! target/…/daisy ──▶ image (an archive) ───────────┼─▶ bed (clusters in network namespaces) ──▶ suite (every case, on one bed)
//! Debian's programs ──▶ images (of tests) ─────────┘
//! ```

pub mod bed;
pub mod components;
pub mod image;
pub mod images;
pub mod programs;
pub mod suite;
