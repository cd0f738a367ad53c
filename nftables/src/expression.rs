//! Expressions: the instructions that a rule is made of, as the kernel's rule machine has them.
//!
//! [`crate::Rule`] builds them; a listing gives them back. Each is written and read here, side by side.

use crate::error::Malformed;
use crate::sys::{self, data};
use crate::wire::{Attribute, Attributes, Writer};

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

const EXTHDR_TCP_OPTION: u32 = 1;
const RT_TCPMSS: u32 = 3;
const COUNTER_OBJECT: u32 = 1;

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

    /// Writes it as an element of a rule's list.
    pub(crate) fn write(&self, w: &mut Writer) {
        w.nested(sys::LIST_ELEMENT, |w| {
            w.string(1, self.name());
            w.nested(2, |w| self.write_attributes(w));
        });
    }

    fn write_attributes(&self, w: &mut Writer) {
        let value = |w: &mut Writer, kind: u16, bytes: &[u8]| w.nested(kind, |w| w.bytes(data::VALUE, bytes));
        let optional = |w: &mut Writer, kind: u16, register: &Option<Register>| {
            if let Some(register) = register {
                w.u32(kind, register.number());
            }
        };
        match self {
            Self::Meta { key, to } => {
                w.u32(1, to.number());
                w.u32(2, key.number());
            }
            Self::MetaSet { key, from } => {
                w.u32(2, key.number());
                w.u32(3, from.number());
            }
            Self::Payload { base, offset, length, to } => {
                w.u32(1, to.number());
                w.u32(2, base.number());
                w.u32(3, *offset);
                w.u32(4, *length);
            }
            Self::Compare { register, comparison, value: bytes } => {
                w.u32(1, register.number());
                w.u32(2, comparison.number());
                value(w, 3, bytes);
            }
            Self::Range { register, inverted, first, last } => {
                w.u32(1, register.number());
                w.u32(2, u32::from(*inverted));
                value(w, 3, first);
                value(w, 4, last);
            }
            Self::Bitwise { from, to, mask, xor } => {
                w.u32(1, from.number());
                w.u32(2, to.number());
                w.u32(3, crate::set::to_u32(mask.len()));
                value(w, 4, mask);
                value(w, 5, xor);
            }
            Self::ToNetworkOrder { from, to, length, size } => {
                w.u32(1, from.number());
                w.u32(2, to.number());
                w.u32(3, 1);
                w.u32(4, *length);
                w.u32(5, *size);
            }
            Self::Lookup { set, set_id, key, to, to_verdict, inverted } => {
                w.string(1, set);
                w.u32(2, key.number());
                if *to_verdict {
                    w.u32(3, 0);
                } else {
                    optional(w, 3, to);
                }
                if let Some(id) = set_id {
                    w.u32(4, *id);
                }
                if *inverted {
                    w.u32(5, 1);
                }
            }
            Self::Ct { key, direction, to } => {
                w.u32(1, to.number());
                w.u32(2, key.number());
                if let Some(direction) = direction {
                    w.u8(3, *direction);
                }
            }
            Self::CtSet { key, from } => {
                w.u32(2, key.number());
                w.u32(4, from.number());
            }
            Self::Counter { packets, bytes } => {
                w.u64(1, *bytes);
                w.u64(2, *packets);
            }
            Self::NamedCounter { name } => {
                w.u32(1, COUNTER_OBJECT);
                w.string(2, name);
            }
            Self::Load { bytes, to } => {
                w.u32(1, to.number());
                value(w, 2, bytes);
            }
            Self::Verdict(verdict) => {
                w.u32(1, 0);
                w.nested(2, |w| write_verdict(w, verdict));
            }
            Self::Reject { kind, code } => {
                w.u32(1, *kind);
                w.u8(2, *code);
            }
            Self::Masquerade { flags } => w.u32(1, *flags),
            Self::Nat { kind, family, address, port, flags } => {
                w.u32(1, kind.number());
                w.u32(2, *family);
                optional(w, 3, address);
                optional(w, 5, port);
                if *flags != 0 {
                    w.u32(7, *flags);
                }
            }
            Self::Redirect { port, flags } => {
                optional(w, 1, port);
                if *flags != 0 {
                    w.u32(3, *flags);
                }
            }
            Self::Numgen { to, modulus, random, offset } => {
                w.u32(1, to.number());
                w.u32(2, *modulus);
                w.u32(3, u32::from(*random));
                w.u32(4, *offset);
            }
            Self::Hash { from, length, to, modulus, seed, offset } => {
                w.u32(1, from.number());
                w.u32(2, to.number());
                w.u32(3, *length);
                w.u32(4, *modulus);
                if let Some(seed) = seed {
                    w.u32(5, *seed);
                }
                w.u32(6, *offset);
                w.u32(7, 0);
            }
            Self::Notrack | Self::Unknown { .. } => {}
            Self::Fib { to, result, flags } => {
                w.u32(1, to.number());
                w.u32(2, *result);
                w.u32(3, *flags);
            }
            Self::TcpOption { option, offset, length, present, to } => {
                w.u32(1, to.number());
                w.u8(2, *option);
                w.u32(3, *offset);
                w.u32(4, *length);
                w.u32(5, u32::from(*present));
                w.u32(6, EXTHDR_TCP_OPTION);
            }
            Self::TcpOptionSet { option, offset, length, from } => {
                w.u8(2, *option);
                w.u32(3, *offset);
                w.u32(4, *length);
                w.u32(6, EXTHDR_TCP_OPTION);
                w.u32(7, from.number());
            }
            Self::RouteMss { to } => {
                w.u32(1, to.number());
                w.u32(2, RT_TCPMSS);
            }
            Self::Limit { rate, unit, burst, inverted } => {
                w.u64(1, *rate);
                w.u64(2, *unit);
                w.u32(3, *burst);
                w.u32(4, 0);
                w.u32(5, u32::from(*inverted));
            }
        }
    }

    /// Reads an element of a rule's list.
    pub(crate) fn read(attribute: Attribute<'_>) -> Result<Self, Malformed> {
        let outer = attribute.attributes()?;
        let name = outer.require(1, "expression name")?.string();
        let inner = outer.find(2).map_or_else(|| Ok(Attributes::default()), |a| a.attributes())?;
        read_named(name, &inner)
    }
}

fn read_named(name: String, a: &Attributes<'_>) -> Result<Expression, Malformed> {
    let register = |kind| a.require(kind, "register").and_then(Register::read);
    let optional = |kind| a.find(kind).map(Register::read).transpose();
    let number = |kind| a.u32_or(kind, 0);
    let value = |kind| match read_data(a.require(kind, "value")?)? {
        Immediate::Bytes(bytes) => Ok(bytes),
        Immediate::Verdict(_) => Err(Malformed::new("value")),
    };
    let unknown = |name: String| Ok(Expression::Unknown { name });
    Ok(match name.as_str() {
        "meta" => match (a.find(2).map(MetaKey::read), a.find(1), a.find(3)) {
            (Some(Ok(key)), Some(to), _) => Expression::Meta { key, to: Register::read(to)? },
            (Some(Ok(key)), None, Some(from)) => Expression::MetaSet { key, from: Register::read(from)? },
            _ => return unknown(name),
        },
        "payload" if a.find(1).is_some() => match PayloadBase::read(a.require(2, "payload base")?) {
            Ok(base) => Expression::Payload { base, offset: number(3)?, length: number(4)?, to: register(1)? },
            Err(_) => return unknown(name),
        },
        "cmp" => Expression::Compare {
            register: register(1)?,
            comparison: Comparison::read(a.require(2, "comparison")?)?,
            value: value(3)?,
        },
        "range" => Expression::Range { register: register(1)?, inverted: number(2)? == 1, first: value(3)?, last: value(4)? },
        "bitwise" if number(6)? == 0 => {
            Expression::Bitwise { from: register(1)?, to: register(2)?, mask: value(4)?, xor: value(5)? }
        }
        "byteorder" if number(3)? == 1 => {
            Expression::ToNetworkOrder { from: register(1)?, to: register(2)?, length: number(4)?, size: number(5)? }
        }
        "lookup" => {
            let to_verdict = a.find(3).map(|d| d.u32()).transpose()? == Some(0);
            Expression::Lookup {
                set: a.require(1, "set name")?.string(),
                set_id: a.find(4).map(|id| id.u32()).transpose()?,
                key: register(2)?,
                to: if to_verdict { None } else { optional(3)? },
                to_verdict,
                inverted: number(5)? & 1 == 1,
            }
        }
        "ct" => match (a.find(2).map(CtKey::read), a.find(1), a.find(4)) {
            (Some(Ok(key)), Some(to), _) => {
                Expression::Ct { key, direction: a.find(3).map(|d| d.u8()).transpose()?, to: Register::read(to)? }
            }
            (Some(Ok(key)), None, Some(from)) => Expression::CtSet { key, from: Register::read(from)? },
            _ => return unknown(name),
        },
        "counter" => {
            let count = |kind| a.find(kind).map_or(Ok(0), |c| c.u64());
            Expression::Counter { bytes: count(1)?, packets: count(2)? }
        }
        "objref" if a.find(1).is_some() && number(1)? == COUNTER_OBJECT => {
            Expression::NamedCounter { name: a.require(2, "object name")?.string() }
        }
        "immediate" => match read_data(a.require(2, "immediate")?)? {
            Immediate::Verdict(verdict) => Expression::Verdict(verdict),
            Immediate::Bytes(bytes) => Expression::Load { bytes, to: register(1)? },
        },
        "reject" => Expression::Reject { kind: number(1)?, code: a.find(2).map_or(Ok(0), |c| c.u8())? },
        "masq" => Expression::Masquerade { flags: number(1)? },
        "nat" => Expression::Nat {
            kind: NatKind::read(a.require(1, "nat kind")?)?,
            family: number(2)?,
            address: optional(3)?,
            port: optional(5)?,
            flags: number(7)?,
        },
        "redir" => Expression::Redirect { port: optional(1)?, flags: number(3)? },
        "numgen" => Expression::Numgen { to: register(1)?, modulus: number(2)?, random: number(3)? == 1, offset: number(4)? },
        "hash" if number(7)? == 0 => Expression::Hash {
            from: register(1)?,
            length: number(3)?,
            to: register(2)?,
            modulus: number(4)?,
            seed: a.find(5).map(|s| s.u32()).transpose()?,
            offset: number(6)?,
        },
        "notrack" => Expression::Notrack,
        "fib" => Expression::Fib { to: register(1)?, result: number(2)?, flags: number(3)? },
        "exthdr" if number(6)? == EXTHDR_TCP_OPTION => {
            let option = a.require(2, "option")?.u8()?;
            let (offset, length) = (number(3)?, number(4)?);
            match (optional(1)?, optional(7)?) {
                (Some(to), _) => Expression::TcpOption { option, offset, length, present: number(5)? & 1 == 1, to },
                (None, Some(from)) => Expression::TcpOptionSet { option, offset, length, from },
                (None, None) => return unknown(name),
            }
        }
        "rt" if number(2)? == RT_TCPMSS => Expression::RouteMss { to: register(1)? },
        "limit" if number(4)? == 0 => {
            let count = |kind| a.find(kind).map_or(Ok(0), |c| c.u64());
            Expression::Limit { rate: count(1)?, unit: count(2)?, burst: number(3)?, inverted: number(5)? & 1 == 1 }
        }
        _ => return unknown(name),
    })
}

#[cfg(test)]
mod tests;
