//! x
mod admission;
mod allocator;
mod controllers;
pub(crate) mod watch;
