//! The decisions of a gateway: whom to connect to, where they are, whether they answer.
//!
//! ```text
//! Cluster objects ──▶ clusters ──▶ peers::plan ──▶ who is a peer, whose address is whose (prefix), rank
//! Node, options ────▶ addresses ─▶ the endpoints that this gateway's record names
//! datagrams ────────▶ engine (trait) ──▶ packet ──▶ probe ──┐
//!                                                           ▼
//!                                    link: endpoints ⇄ health ──▶ dial · probe · status (rtt)
//! ```
//!
//! Nothing here reads a clock, opens a socket or draws a random number: time is a [`Moment`] that the shell passes in.

#![forbid(unsafe_code)]

pub mod addresses;
pub mod clusters;
pub mod endpoints;
pub mod engine;
pub mod health;
pub mod link;
pub mod moment;
pub mod mtu;
pub mod packet;
pub mod peers;
pub mod prefix;
pub mod probe;
pub mod rank;
pub mod rtt;

pub use health::Intervals;
pub use moment::Moment;

/// The README's examples, as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct ReadMe;
