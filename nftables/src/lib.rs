//! nftables over netlink: typed objects, atomic transactions, listings. Needs neither the `nft` program nor a C library.
//!
//! ```text
//! Rule · Set · Chain · Table ──▶ Batch ──expressions, attributes──▶ netlink message ──▶ Socket ──▶ kernel
//!                                  ▲                                                      │
//!                                  └── Error: which operation, errno, the kernel's text ◀─┤
//!                     tables · chains · rules · sets · elements · counters ◀──────────────┘
//! ```
//!
//! A [`Batch`] is one transaction: the kernel takes all of it or nothing, and no packet sees a state in between. A [`Rule`]
//! is built from matches and actions, and asks by itself for what each match needs. A [`Socket`] belongs to the network
//! namespace of the thread that opened it; its calls block, for microseconds: the kernel answers while it is called.

mod batch;
mod error;
mod expression;
mod list;
mod rule;
mod selector;
mod set;
mod socket;
mod sys;
mod table;
mod value;
mod wire;
mod words;

pub use batch::Batch;
pub use error::{Error, Invalid, Malformed, Rejection};
pub use expression::{Comparison, CtKey, Expression, Immediate, MetaKey, NatKind, PayloadBase, Register, Verdict};
pub use list::{Count, ListedRule};
pub use rule::{Reject, Rule, Spread};
pub use selector::{IpFamily, Selector, address_type, ct_state, ct_status, protocol};
pub use set::{Data, DataType, Element, IntoKeys, Set};
pub use socket::Socket;
pub use table::{Base, Chain, ChainType, Family, Hook, Policy, Table, priority};
pub use value::{Key, KeyType, Value};
