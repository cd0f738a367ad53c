//! Expressions: the instructions that a rule is made of, as the kernel's rule machine has them.
//!
//! [`crate::Rule`] builds them; a listing gives them back. Each is written and read here, side by side.

use crate::error::Malformed;
use crate::sys::data;
use crate::wire::{Attribute, Writer};

/// A register: one of sixteen words of 4 bytes. Longer values fill the words that follow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Register(u8);

impl Register {
    /// The first word.
    pub const FIRST: Self = Self(0);

    /// The register that begins `bytes` further on, rounded up to a word; `None` past the last one.
    #[must_use]
    pub fn after(self, bytes: usize) -> Option<Self> {
        let word = usize::from(self.0) + bytes.div_ceil(4);
        u8::try_from(word).ok().filter(|w| *w < 16).map(Self)
    }

    /// The kernel counts words from 8; 1 to 4 are an older name for every fourth one.
    fn number(self) -> u32 {
        8 + u32::from(self.0)
    }

    fn read(attribute: Attribute<'_>) -> Result<Self, Malformed> {
        let word = match attribute.u32()? {
            n @ 1..=4 => (n - 1) * 4,
            n @ 8..=23 => n - 8,
            _ => return Err(Malformed::new("register")),
        };
        u8::try_from(word).map(Self).map_err(|_| Malformed::new("register"))
    }
}

/// What happens to a packet next.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// It passes this base chain; later base chains of the hook still see it.
    Accept,
    /// It is gone.
    Drop,
    /// The next rule.
    Continue,
    /// Back to the calling chain; from a base chain, its policy.
    Return,
    /// The chain of this name, and back afterwards.
    Jump(String),
    /// The chain of this name, and not back here.
    Goto(String),
}

impl Verdict {
    fn code(&self) -> i32 {
        match self {
            Self::Drop => 0,
            Self::Accept => 1,
            Self::Continue => -1,
            Self::Jump(_) => -3,
            Self::Goto(_) => -4,
            Self::Return => -5,
        }
    }

    fn chain(&self) -> Option<&str> {
        match self {
            Self::Jump(chain) | Self::Goto(chain) => Some(chain),
            Self::Accept | Self::Drop | Self::Continue | Self::Return => None,
        }
    }
}

/// Writes a verdict as data.
pub(crate) fn write_verdict(w: &mut Writer, verdict: &Verdict) {
    w.nested(data::VERDICT, |w| {
        w.bytes(data::VERDICT_CODE, &verdict.code().to_be_bytes());
        if let Some(chain) = verdict.chain() {
            w.string(data::VERDICT_CHAIN, chain);
        }
    });
}

/// Reads data: a verdict or plain bytes.
pub(crate) fn read_data(attribute: Attribute<'_>) -> Result<Immediate, Malformed> {
    let inner = attribute.attributes()?;
    if let Some(value) = inner.find(data::VALUE) {
        return Ok(Immediate::Bytes(value.payload.to_vec()));
    }
    let verdict = inner.require(data::VERDICT, "verdict")?.attributes()?;
    let code = verdict.require(data::VERDICT_CODE, "verdict code")?.u32()?.cast_signed();
    let chain = || verdict.require(data::VERDICT_CHAIN, "verdict chain").map(|a| a.string());
    Ok(Immediate::Verdict(match code {
        0 => Verdict::Drop,
        1 => Verdict::Accept,
        -1 => Verdict::Continue,
        -3 => Verdict::Jump(chain()?),
        -4 => Verdict::Goto(chain()?),
        -5 => Verdict::Return,
        _ => return Err(Malformed::new("known verdict")),
    }))
}

/// A verdict or bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Immediate {
    /// A verdict.
    Verdict(Verdict),
    /// Bytes for a register, at most 64.
    Bytes(Vec<u8>),
}

macro_rules! numbered {
    ($(#[$doc:meta])* $name:ident: $($(#[$variant_doc:meta])* $variant:ident = $number:literal),* $(,)?) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $name {
            pub(crate) fn number(self) -> u32 {
                match self {
                    $(Self::$variant => $number,)*
                }
            }

            fn read(attribute: Attribute<'_>) -> Result<Self, Malformed> {
                match attribute.u32()? {
                    $($number => Ok(Self::$variant),)*
                    _ => Err(Malformed::new(concat!("known ", stringify!($name)))),
                }
            }

            #[cfg(test)]
            pub(crate) const ALL: &'static [Self] = &[$(Self::$variant),*];
        }
    };
}
numbered!(
    /// What a packet carries beside its bytes.
    MetaKey:
    /// The ethertype.
    Protocol = 1,
    /// The packet mark.
    Mark = 3,
    /// The index of the device it came by.
    Iif = 4,
    /// The index of the device it leaves by.
    Oif = 5,
    /// The name of the device it came by.
    Iifname = 6,
    /// The name of the device it leaves by.
    Oifname = 7,
    /// The address family: 2 for IPv4, 10 for IPv6.
    NfProto = 15,
    /// The IP protocol, after IPv6's extension headers.
    L4Proto = 16,
    /// The packet type: 0 for this host.
    PacketType = 19,
);

numbered!(
    /// What connection tracking knows.
    CtKey:
    /// The state's bit (see [`crate::ct_state`]).
    State = 0,
    /// 0 for the original direction, 1 for replies.
    Direction = 1,
    /// The status' bits (see [`crate::ct_status`]).
    Status = 2,
    /// The connection mark.
    Mark = 3,
    /// The destination port, of a direction.
    DestinationPort = 12,
    /// The IPv4 source, of a direction.
    SourceIp = 19,
    /// The IPv4 destination, of a direction.
    DestinationIp = 20,
    /// The IPv6 source, of a direction.
    SourceIp6 = 21,
    /// The IPv6 destination, of a direction.
    DestinationIp6 = 22,
);

numbered!(
    /// Where a payload offset counts from.
    PayloadBase:
    /// The link layer's header.
    Link = 0,
    /// The IP header.
    Network = 1,
    /// The transport header.
    Transport = 2,
);

numbered!(
    /// How bytes are compared.
    Comparison:
    /// Equal.
    Equal = 0,
    /// Not equal.
    NotEqual = 1,
    /// Less.
    Less = 2,
    /// Less or equal.
    LessOrEqual = 3,
    /// Greater.
    Greater = 4,
    /// Greater or equal.
    GreaterOrEqual = 5,
);

numbered!(
    /// Which address is translated.
    NatKind:
    /// The source.
    Source = 0,
    /// The destination.
    Destination = 1,
);

/// One instruction.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the fields' names say what they are: registers, offsets, lengths in bytes, bit masks")]
pub enum Expression {
    /// Loads what the packet carries beside its bytes.
    Meta { key: MetaKey, to: Register },
    /// Sets it.
    MetaSet { key: MetaKey, from: Register },
    /// Loads bytes of the packet.
    Payload { base: PayloadBase, offset: u32, length: u32, to: Register },
    /// Goes on only if the comparison holds.
    Compare { register: Register, comparison: Comparison, value: Vec<u8> },
    /// Goes on only if the value is within the bounds (or, inverted, is not).
    Range { register: Register, inverted: bool, first: Vec<u8>, last: Vec<u8> },
    /// `to = (from & mask) ^ xor`.
    Bitwise { from: Register, to: Register, mask: Vec<u8>, xor: Vec<u8> },
    /// Turns the byte order of each `size` bytes from the host's to the network's.
    ToNetworkOrder { from: Register, to: Register, length: u32, size: u32 },
    /// Looks the key up in a set; with `to`, loads a map's data; `to_verdict` takes the verdict that the map holds.
    Lookup { set: String, set_id: Option<u32>, key: Register, to: Option<Register>, to_verdict: bool, inverted: bool },
    /// Loads what connection tracking knows; `direction` is 0 (original) or 1 (reply) where the key has one.
    Ct { key: CtKey, direction: Option<u8>, to: Register },
    /// Sets it.
    CtSet { key: CtKey, from: Register },
    /// Counts.
    Counter { packets: u64, bytes: u64 },
    /// Counts in a named counter.
    NamedCounter { name: String },
    /// Loads bytes.
    Load { bytes: Vec<u8>, to: Register },
    /// Decides.
    Verdict(Verdict),
    /// Refuses with an answer: `kind` 0 ICMP unreachable, 1 TCP reset, 2 ICMP of either family; `code` says why.
    Reject { kind: u32, code: u8 },
    /// Translates the source to the leaving device's address.
    Masquerade { flags: u32 },
    /// Translates an address (`family` 2 or 10), a port, or both, to what the registers hold.
    Nat { kind: NatKind, family: u32, address: Option<Register>, port: Option<Register>, flags: u32 },
    /// Translates the destination to this host.
    Redirect { port: Option<Register>, flags: u32 },
    /// Loads a number from `offset` to `offset + modulus - 1`.
    Numgen { to: Register, modulus: u32, random: bool, offset: u32 },
    /// Loads the Jenkins hash of `length` bytes, modulo `modulus`, plus `offset`.
    Hash { from: Register, length: u32, to: Register, modulus: u32, seed: Option<u32>, offset: u32 },
    /// Leaves the packet out of connection tracking.
    Notrack,
    /// Loads what the routing tables say: `result` 1 device, 2 its name, 3 address type; `flags` say of which address.
    Fib { to: Register, result: u32, flags: u32 },
    /// Loads bytes of a TCP option, or whether it is there.
    TcpOption { option: u8, offset: u32, length: u32, present: bool, to: Register },
    /// Sets bytes of a TCP option, where it is there. The maximum segment size is only ever lowered.
    TcpOptionSet { option: u8, offset: u32, length: u32, from: Register },
    /// Loads the maximum TCP segment that the route's MTU allows, in the host's byte order.
    RouteMss { to: Register },
    /// Lets pass up to `rate` packets in `unit` seconds and `burst` more (or, inverted, what is over).
    Limit { rate: u64, unit: u64, burst: u32, inverted: bool },
    /// What this crate does not know.
    Unknown { name: String },
}

impl Expression {
    /// The name that the kernel knows it by.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Meta { .. } | Self::MetaSet { .. } => "meta",
            Self::Payload { .. } => "payload",
            Self::Compare { .. } => "cmp",
            Self::Range { .. } => "range",
            Self::Bitwise { .. } => "bitwise",
            Self::ToNetworkOrder { .. } => "byteorder",
            Self::Lookup { .. } => "lookup",
            Self::Ct { .. } | Self::CtSet { .. } => "ct",
            Self::Counter { .. } => "counter",
            Self::NamedCounter { .. } => "objref",
            Self::Load { .. } | Self::Verdict(_) => "immediate",
            Self::Reject { .. } => "reject",
            Self::Masquerade { .. } => "masq",
            Self::Nat { .. } => "nat",
            Self::Redirect { .. } => "redir",
            Self::Numgen { .. } => "numgen",
            Self::Hash { .. } => "hash",
            Self::Notrack => "notrack",
            Self::Fib { .. } => "fib",
            Self::TcpOption { .. } | Self::TcpOptionSet { .. } => "exthdr",
            Self::RouteMss { .. } => "rt",
            Self::Limit { .. } => "limit",
            Self::Unknown { name } => name,
        }
    }
}

mod codec;
#[cfg(test)]
mod tests;
