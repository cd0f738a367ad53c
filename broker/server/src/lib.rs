//! An embedded Kubernetes-style API server: one process, one durable file, TLS.
//!
//! ```text
//! HTTPS ─▶ http: path, token, flow, rights ─┬─ get, list, watch ─▶ read ──▶ store::State (in memory, all of it durable)
//!                                           └─ create, update, patch, delete ─▶ write ─▶ store: one writer, redb, fsync
//! embedder ─▶ Handle ────────────────────────────────────────────────┘  │
//!                                                       Hooks::mutate, Hooks::admit
//! ```
//!
//! It is Daisy's embedded broker, and the control plane of each cluster of the lab. What it serves, and what it refuses with which
//! code, is listed in the crate's README.

pub mod builtin;

mod auth;
mod catalog;
mod clock;
mod crd;
mod definition;
mod error;
mod flow;
mod handle;
mod hooks;
mod http;
mod jsonpath;
mod object;
mod options;
mod patch;
mod random;
mod rbac;
mod read;
mod refusal;
mod schema;
mod selector;
mod server;
mod store;
mod tls;
pub mod typed;
mod validation;
mod write;

pub use auth::{AUTHENTICATED, MASTERS, User};
pub use definition::{ALL_VERBS, Column, ResourceDefinition, ResourceKey};
pub use error::Error;
pub use handle::Handle;
pub use hooks::{AdmissionRequest, Hooks, NoHooks, Operation, View};
pub use jsonpath::{JsonPath, JsonPathError};
pub use object::{Labels, Stored};
pub use options::{Limits, Options};
pub use refusal::{Cause, Details, Refusal};
pub use selector::{FieldSelector, LabelSelector, SelectorError, Selectors};
pub use server::{IssuedToken, Server};
pub use store::{Event, EventKind};
pub use validation::NameRule;
