//! The block of Daisy's in a cluster's Corefile.
//!
//! ```text
//! Corefile ──▶ parse ──▶ who else serves our zones? ──▶ insert: our two server blocks between two marked lines
//!                   └──▶ rules: which zone goes where (the lab's cluster DNS follows them)
//! ```
//!
//! Only `svc` and `dns-version` of the two zones are forwarded to Daisy's server; for the rest of the zones CoreDNS answers
//! NXDOMAIN by itself, so that a search list which makes `api.github.com.supercluster.local` of `api.github.com` never depends
//! on us. What CoreDNS may keep of our answers is up to their TTLs; the block has no `cache`: a kept NXDOMAIN would hide a new
//! export for as long as it is kept.

mod edit;
mod lex;
mod parse;
mod rules;

pub use edit::{CorefileError, insert, remove};
pub use parse::{Block, Corefile, Directive, Key, SyntaxError};
pub use rules::{Route, Rule, kubernetes_zones, rules};

/// The port of plain DNS.
pub const DNS_PORT: u16 = 53;
