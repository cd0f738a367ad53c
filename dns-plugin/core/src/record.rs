//! Questions, records and answers, before they are put on the wire.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::name::{DomainName, QueryName};

/// A record type, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueryType {
    /// An IPv4 address.
    A,
    /// An IPv6 address.
    Aaaa,
    /// A service's host and port.
    Srv,
    /// Text.
    Txt,
    /// The start of a zone.
    Soa,
    /// A name server.
    Ns,
    /// An alias.
    Cname,
    /// Any one (RFC 8482).
    Any,
    /// A whole zone, by AXFR or IXFR: refused.
    Transfer,
    /// A type that nothing here has.
    Other,
}

impl From<u16> for QueryType {
    fn from(code: u16) -> Self {
        match code {
            1 => Self::A,
            2 => Self::Ns,
            5 => Self::Cname,
            6 => Self::Soa,
            16 => Self::Txt,
            28 => Self::Aaaa,
            33 => Self::Srv,
            251 | 252 => Self::Transfer,
            255 => Self::Any,
            _ => Self::Other,
        }
    }
}

/// A question of class IN.
#[derive(Debug, Clone, Copy)]
pub struct Question<'q> {
    /// The name.
    pub name: &'q QueryName,
    /// The type.
    pub kind: QueryType,
    /// Which of several records comes first: with a different number each time, clients that take the first spread over all.
    pub turn: usize,
}

/// How a question ended (RFC 1035 section 4.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rcode {
    /// The name exists.
    NoError,
    /// Not known yet.
    ServFail,
    /// The name does not exist.
    NxDomain,
    /// Not ours to answer.
    Refused,
}

/// A record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Whose it is.
    pub owner: Owner,
    /// How long it may be kept, in seconds.
    pub ttl: u32,
    /// What it says.
    pub data: Data,
}

/// The name that a record belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// The name asked for, as it was spelled.
    Question,
    /// Another.
    Name(DomainName),
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// An IPv4 address.
    A(Ipv4Addr),
    /// An IPv6 address.
    Aaaa(Ipv6Addr),
    /// A host and port (RFC 2782).
    Srv {
        /// Lower first.
        priority: u16,
        /// Its share among those of equal priority.
        weight: u16,
        /// The port.
        port: u16,
        /// The host.
        target: DomainName,
    },
    /// Text.
    Txt(&'static str),
    /// The start of a zone.
    Soa(Soa),
    /// A name server.
    Ns(DomainName),
    /// An alias.
    Cname(DomainName),
}

/// The start of a zone (RFC 1035 section 3.3.13). Times are in seconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Soa {
    /// The server.
    pub server: DomainName,
    /// The mailbox of who answers for it.
    pub mailbox: DomainName,
    /// Grows with each change.
    pub serial: u32,
    /// When a secondary looks again.
    pub refresh: u32,
    /// When it tries again.
    pub retry: u32,
    /// When it gives up.
    pub expire: u32,
    /// How long the absence of a record may be kept (RFC 2308).
    pub minimum: u32,
}

/// What is sent back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// How it ended.
    pub rcode: Rcode,
    /// Whether it is said with authority.
    pub authoritative: bool,
    /// The zone that it is of, by index.
    pub zone: Option<usize>,
    /// The records asked for.
    pub answers: Vec<Record>,
    /// The zone's SOA, where there are none.
    pub authority: Vec<Record>,
    /// Addresses of SRV targets; may be left out.
    pub additional: Vec<Record>,
}

impl Answer {
    /// An answer without records or authority.
    #[must_use]
    pub fn bare(rcode: Rcode) -> Self {
        let (answers, authority, additional) = Default::default();
        Self { rcode, authoritative: false, zone: None, answers, authority, additional }
    }
}
