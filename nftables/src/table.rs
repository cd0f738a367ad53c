//! Tables and chains.

use std::fmt;

use crate::expression::Verdict;

/// The address family of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4 and IPv6 together.
    Inet,
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
    /// ARP.
    Arp,
    /// Bridges.
    Bridge,
    /// One device's ingress or egress.
    Netdev,
}

impl Family {
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Ip => 2,
            Self::Arp => 3,
            Self::Netdev => 5,
            Self::Bridge => 7,
            Self::Ip6 => 10,
        }
    }

    pub(crate) fn from_number(number: u8) -> Option<Self> {
        [Self::Inet, Self::Ip, Self::Arp, Self::Netdev, Self::Bridge, Self::Ip6].into_iter().find(|f| f.number() == number)
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inet => "inet",
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
            Self::Arp => "arp",
            Self::Bridge => "bridge",
            Self::Netdev => "netdev",
        })
    }
}

/// A table: what every other object is in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Table {
    /// Its address family.
    pub family: Family,
    /// Its name, 1 to 255 bytes.
    pub name: String,
}

impl Table {
    /// A table of this family and name.
    pub fn new(family: Family, name: impl Into<String>) -> Self {
        Self { family, name: name.into() }
    }

    /// A table for IPv4 and IPv6 together.
    pub fn inet(name: impl Into<String>) -> Self {
        Self::new(Family::Inet, name)
    }

    /// A table for IPv4.
    pub fn ip(name: impl Into<String>) -> Self {
        Self::new(Family::Ip, name)
    }

    /// A table for IPv6.
    pub fn ip6(name: impl Into<String>) -> Self {
        Self::new(Family::Ip6, name)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.family, self.name)
    }
}

/// Where in the kernel's path a base chain sees packets (inet, ip, ip6 and bridge).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    /// Before the routing decision.
    Prerouting,
    /// For this host.
    Input,
    /// Passing through.
    Forward,
    /// From this host.
    Output,
    /// About to leave.
    Postrouting,
}

impl Hook {
    const ALL: [Self; 5] = [Self::Prerouting, Self::Input, Self::Forward, Self::Output, Self::Postrouting];

    pub(crate) fn number(self) -> u32 {
        match self {
            Self::Prerouting => 0,
            Self::Input => 1,
            Self::Forward => 2,
            Self::Output => 3,
            Self::Postrouting => 4,
        }
    }

    pub(crate) fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|h| h.number() == number)
    }
}

/// What a base chain is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChainType {
    /// Filtering: the general type.
    Filter,
    /// Address translation: sees the first packet of a connection only.
    Nat,
    /// Routes again when marks or addresses change; output hook only.
    Route,
}

impl ChainType {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
            Self::Route => "route",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        [Self::Filter, Self::Nat, Self::Route].into_iter().find(|t| t.name() == name)
    }
}

/// What a base chain does with a packet that no rule decided on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Policy {
    /// Let it pass.
    #[default]
    Accept,
    /// Drop it.
    Drop,
}

impl Policy {
    pub(crate) fn number(self) -> u32 {
        match self {
            Self::Drop => 0,
            Self::Accept => 1,
        }
    }

    pub(crate) fn from_number(number: u32) -> Option<Self> {
        [Self::Drop, Self::Accept].into_iter().find(|p| p.number() == number)
    }
}

/// The kernel's own priorities, to place a chain among (`linux/netfilter_ipv4.h`): lower comes first.
pub mod priority {
    /// Before connection tracking: where `notrack` works.
    pub const RAW: i32 = -300;
    /// Where connection tracking looks a packet up; chains after it see its state.
    pub const CONNTRACK: i32 = -200;
    /// Changes of marks and headers.
    pub const MANGLE: i32 = -150;
    /// Destination translation.
    pub const DSTNAT: i32 = -100;
    /// Filtering.
    pub const FILTER: i32 = 0;
    /// Source translation.
    pub const SRCNAT: i32 = 100;
}

/// What makes a chain a base chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Base {
    /// What it is for.
    pub chain_type: ChainType,
    /// Where it sees packets.
    pub hook: Hook,
    /// Its place among the hook's chains: lower comes first (see [`priority`]).
    pub priority: i32,
    /// What it does with a packet that no rule decided on.
    pub policy: Policy,
}

/// A chain: a base chain, that a hook calls, or a regular one, that rules jump to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Chain {
    /// Its name, 1 to 255 bytes.
    pub name: String,
    /// Its hook, if it is a base chain.
    pub base: Option<Base>,
}

impl Chain {
    /// A regular chain.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), base: None }
    }

    /// A base chain with the policy accept.
    pub fn base(name: impl Into<String>, chain_type: ChainType, hook: Hook, priority: i32) -> Self {
        Self { name: name.into(), base: Some(Base { chain_type, hook, priority, policy: Policy::Accept }) }
    }

    /// The same chain with this policy. Of a regular chain, nothing changes.
    #[must_use]
    pub fn policy(mut self, policy: Policy) -> Self {
        if let Some(base) = &mut self.base {
            base.policy = policy;
        }
        self
    }

    /// The verdict that goes on in this chain and comes back.
    #[must_use]
    pub fn jump(&self) -> Verdict {
        Verdict::Jump(self.name.clone())
    }
}
