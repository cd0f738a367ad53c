//! The route-agent's decisions: which device, routes, rules and filter a node is to have.
//!
//! ```text
//! Cluster · Node · Gateway · links ──handle_*──▶ Agent ──poll(now)──▶ State (desired) ─┐
//! ServiceExport · Service · EndpointSlice ──▶ Openings ──poll──▶ elements of the filter  ├─diff──▶ Change, Change, …
//!                                                      netlink ──▶ Found ──ours──▶ State ┘
//! ```
//!
//! [`agent::Agent`] takes what changes and says what is to be; [`diff::diff`] says what leads there. Nothing that is not
//! Daisy's comes into a [`state::State`], and so nothing else is ever changed. Time is an argument.

#![forbid(unsafe_code)]

pub mod agent;
pub mod diff;
pub mod facts;
pub mod filter;
pub mod openings;
pub mod plan;
pub mod state;

pub use agent::{Agent, Annotation, Phase, Settings};
pub use diff::{Change, FilterChange, apply, diff};
pub use filter::{Filter, Group, Shape};
pub use openings::{Opening, OpeningChanges, Openings};
pub use plan::{Issue, Links, Path};
pub use state::{Found, FoundDevice, FoundRoute, FoundRule, Mac, RouteKey, Rule, State, Target, Vxlan};
