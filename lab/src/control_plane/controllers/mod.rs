mod core;
mod daemon_set;
mod deployment;
mod placement;
mod pods;
mod slices;
mod store;
mod work;
