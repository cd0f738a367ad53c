//! kind, for real: a developer's clusters beside a shared one, on a Docker of their own, and the tests that Daisy passes there.
//!
//! ```text
//! components/*/go.mod, Debian, node/ ──▶ node (the node image) ─┐
//!                                                                 ├─▶ bed (dockerd behind a router, in namespaces) ──▶ suite
//! kind/up, walk, down · docs/quickstart.md ──────────────────────┘
//! ```

pub mod bed;
mod node;
pub mod programs;
pub mod suite;
