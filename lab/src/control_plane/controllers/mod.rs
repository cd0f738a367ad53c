//! The controllers of a lab's cluster: what a kube-controller-manager and a scheduler do, as far as the lab needs it.
//!
//! ```text
//! watches ─▶ store (newest of each object) ─▶ core: what to look at ─▶ deployment · daemon_set · placement · slices: what to do
//!              ▲                                                                      │
//!              └─────────────── answers ◀── shell: requests to the API server ◀───────┘
//! ```
//!
//! One task holds all state. What a request answers is taken in like something watched, and nothing is looked at while its own
//! requests run: so no Pod is made twice because a watch is slow. Nothing polls, but for a namespace that waits for its Pods.

mod core;
mod daemon_set;
mod deployment;
mod placement;
mod pods;
mod shell;
mod slices;
mod store;
mod work;

pub(crate) use shell::run;
