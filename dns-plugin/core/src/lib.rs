//! What Daisy's DNS server answers, decided without a socket, a clock or a Kubernetes client.
//!
//! ```text
//! Services, EndpointSlices, Namespaces ──▶ facts ──▶ index ──▶ snapshot (immutable)
//!                                                                 │
//! query name ──▶ name (what is asked) ──▶ fallback (whose) ──▶ answer ──▶ records
//! Corefile ──▶ corefile (the block that forwards our zones here)
//! ```
//!
//! The index takes one change at a time and publishes snapshots that share all that did not change; a query reads one snapshot
//! from beginning to end, so that no answer mixes two states.

#![forbid(unsafe_code)]

pub mod answer;
pub mod corefile;
pub mod dashed;
pub mod facts;
pub mod fallback;
pub mod index;
pub mod name;
pub mod record;
pub mod trie;
pub mod zone;

pub use answer::answer;
pub use facts::{Endpoint, Fact, ObjectRef, Port, Service, ServiceKind, Slice};
pub use index::{Index, Snapshot, Source};
pub use name::{Asked, DomainName, QueryName, What};
pub use record::{Answer, Data, Owner, QueryType, Question, Rcode, Record, Soa};
pub use zone::{Settings, Zone, ZoneKind};
