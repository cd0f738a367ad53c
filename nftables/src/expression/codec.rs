//! Expressions as netlink attributes: their numbers are those of `linux/netfilter/nf_tables.h`, each instruction's own.

use super::{Comparison, CtKey, Expression, Immediate, MetaKey, NatKind, PayloadBase, Register, read_data, write_verdict};
use crate::error::Malformed;
use crate::sys::{self, data};
use crate::wire::{Attribute, Attributes, Writer};

const EXTHDR_TCP_OPTION: u32 = 1;
const RT_TCPMSS: u32 = 3;
const COUNTER_OBJECT: u32 = 1;

impl Expression {
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

pub(super) fn read_named(name: String, a: &Attributes<'_>) -> Result<Expression, Malformed> {
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
