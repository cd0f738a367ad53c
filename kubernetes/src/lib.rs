//! The client of every shell: kube's [`Api`] and [`watcher`], compiled once instead of once a kind and crate.
//!
//! Requests, watches and their retries work on JSON; an object is read as its kind where it is handed out.

mod api;
mod far;
mod objects;
mod raw;

pub use api::{Api, watcher};
pub use far::far_client;
