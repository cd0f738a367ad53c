//! Listings: what is in the kernel.

use crate::error::{Error, Malformed};
use crate::expression::{Expression, Immediate, read_data};
use crate::set::{Data, DataType, Element, Set, predecessor};
use crate::socket::{List, Socket};
use crate::sys::{self, msg};
use crate::table::{Base, Chain, ChainType, Family, Hook, Policy, Table};
use crate::value::{Key, KeyType, Value};
use crate::wire::{Attributes, Writer};

/// How often a set's elements are listed at most, for two listings to agree.
const LIST_TRIES: u32 = 32;

/// What a counter counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Their bytes, IP headers included.
    pub bytes: u64,
}

/// A rule as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedRule {
    /// The chain that it is in.
    pub chain: String,
    /// Names it for [`crate::Batch::delete_rule`].
    pub handle: u64,
    /// Its comment.
    pub comment: Option<String>,
    /// Its instructions. Registers may be numbered otherwise than they were written, and lookups name their sets' real names.
    pub expressions: Vec<Expression>,
}

impl ListedRule {
    /// What its first own counter counted, if it has one.
    #[must_use]
    pub fn count(&self) -> Option<Count> {
        self.expressions.iter().find_map(|e| {
            let Expression::Counter { packets, bytes } = e else { return None };
            Some(Count { packets: *packets, bytes: *bytes })
        })
    }
}

fn family_of(body: &[u8]) -> Option<Family> {
    body.first().and_then(|n| Family::from_number(*n))
}

fn nothing(_: &mut Writer) {}

impl Socket {
    /// All tables of all families.
    ///
    /// # Errors
    /// What the kernel refuses, or a socket's error.
    pub fn tables(&mut self) -> Result<Vec<Table>, Error> {
        let list = List { what: "tables", request: msg::GETTABLE, answer: msg::NEWTABLE, family: 0, filter: &nothing };
        let mut out = Vec::new();
        for body in self.dump(&list)? {
            let attributes = Attributes::of_message(&body)?;
            if let Some(family) = family_of(&body) {
                out.push(Table::new(family, attributes.require(sys::table::NAME, "table name")?.string()));
            }
        }
        Ok(out)
    }

    /// The chains of a table; none if it does not exist.
    ///
    /// # Errors
    /// What the kernel refuses, or a socket's error.
    pub fn chains(&mut self, table: &Table) -> Result<Vec<Chain>, Error> {
        let family = table.family.number();
        let list = List { what: "chains", request: msg::GETCHAIN, answer: msg::NEWCHAIN, family, filter: &nothing };
        let mut out = Vec::new();
        for body in self.dump(&list)? {
            let attributes = Attributes::of_message(&body)?;
            let of = attributes.require(sys::chain::TABLE, "chain's table")?.string();
            if of == table.name && family_of(&body) == Some(table.family) {
                out.push(read_chain(&attributes)?);
            }
        }
        Ok(out)
    }

    /// The rules of a table in order, chain by chain; of one chain if one is named. None if it does not exist.
    ///
    /// # Errors
    /// What the kernel refuses, or a socket's error.
    pub fn rules(&mut self, table: &Table, chain: Option<&str>) -> Result<Vec<ListedRule>, Error> {
        let filter = |w: &mut Writer| {
            w.string(sys::rule::TABLE, &table.name);
            if let Some(chain) = chain {
                w.string(sys::rule::CHAIN, chain);
            }
        };
        let family = table.family.number();
        let list = List { what: "rules", request: msg::GETRULE, answer: msg::NEWRULE, family, filter: &filter };
        let mut out = Vec::new();
        for body in none_if_absent(self.dump(&list))? {
            out.push(read_rule(&Attributes::of_message(&body)?)?);
        }
        Ok(out)
    }

    /// The sets and maps of a table whose types this crate knows, anonymous ones included; none if it does not exist.
    ///
    /// # Errors
    /// What the kernel refuses, or a socket's error.
    pub fn sets(&mut self, table: &Table) -> Result<Vec<Set>, Error> {
        let filter = |w: &mut Writer| w.string(sys::set::TABLE, &table.name);
        let family = table.family.number();
        let list = List { what: "sets", request: msg::GETSET, answer: msg::NEWSET, family, filter: &filter };
        let mut out = Vec::new();
        for body in none_if_absent(self.dump(&list))? {
            out.extend(read_set(&Attributes::of_message(&body)?)?);
        }
        Ok(out)
    }

    /// The elements of a set or map, sorted by their keys' bytes. The kernel lists a set that has just grown by much with
    /// elements missing or twice while it spreads them anew, so that this lists until two listings agree.
    ///
    /// # Errors
    /// A set that does not exist ([`Error::is_not_found`]), or a socket's error.
    pub fn elements(&mut self, table: &Table, set: &Set) -> Result<Vec<Element>, Error> {
        let filter = |w: &mut Writer| {
            w.string(sys::element::LIST_TABLE, &table.name);
            w.string(sys::element::LIST_SET, &set.name);
        };
        let list = List {
            what: "set elements",
            request: msg::GETSETELEM,
            answer: msg::NEWSETELEM,
            family: table.family.number(),
            filter: &filter,
        };
        let mut before = None;
        for _ in 0..LIST_TRIES {
            let raw = read_elements(&self.dump(&list)?)?;
            if before.as_ref() == Some(&raw) {
                return join_elements(set, &raw);
            }
            before = Some(raw);
        }
        Err(Error::Interrupted { what: list.what, tries: LIST_TRIES })
    }

    /// What the named counters of a table counted, by name; none if it does not exist.
    ///
    /// # Errors
    /// What the kernel refuses, or a socket's error.
    pub fn counters(&mut self, table: &Table) -> Result<Vec<(String, Count)>, Error> {
        let filter = |w: &mut Writer| {
            w.string(sys::object::TABLE, &table.name);
            w.u32(sys::object::TYPE, sys::object::COUNTER);
        };
        let family = table.family.number();
        let list = List { what: "counters", request: msg::GETOBJ, answer: msg::NEWOBJ, family, filter: &filter };
        let mut out = Vec::new();
        for body in none_if_absent(self.dump(&list))? {
            let attributes = Attributes::of_message(&body)?;
            let of = attributes.require(sys::object::TABLE, "counter's table")?.string();
            let kind = attributes.u32_or(sys::object::TYPE, 0)?;
            if of != table.name || family_of(&body) != Some(table.family) || kind != sys::object::COUNTER {
                continue;
            }
            let name = attributes.require(sys::object::NAME, "counter name")?.string();
            let data = attributes.require(sys::object::DATA, "counter data")?.attributes()?;
            let number = |kind| data.find(kind).map_or(Ok(0), |n| n.u64());
            let count = Count { packets: number(sys::object::COUNTER_PACKETS)?, bytes: number(sys::object::COUNTER_BYTES)? };
            out.push((name, count));
        }
        out.sort();
        Ok(out)
    }

    /// What one named counter counted; `None` if there is none of that name.
    ///
    /// # Errors
    /// What the kernel refuses, or a socket's error.
    pub fn counter(&mut self, table: &Table, name: &str) -> Result<Option<Count>, Error> {
        Ok(self.counters(table)?.into_iter().find(|(n, _)| n == name).map(|(_, count)| count))
    }
}

/// A listing within a table that does not exist finds nothing.
fn none_if_absent(listed: Result<Vec<Vec<u8>>, Error>) -> Result<Vec<Vec<u8>>, Error> {
    match listed {
        Err(error) if error.is_not_found() => Ok(Vec::new()),
        other => other,
    }
}

fn read_chain(attributes: &Attributes<'_>) -> Result<Chain, Malformed> {
    let name = attributes.require(sys::chain::NAME, "chain name")?.string();
    let Some(hook) = attributes.find(sys::chain::HOOK) else { return Ok(Chain::new(name)) };
    let hook = hook.attributes()?;
    let number = hook.require(sys::chain::HOOK_NUMBER, "hook number")?.u32()?;
    let priority = hook.require(sys::chain::HOOK_PRIORITY, "hook priority")?.u32()?.cast_signed();
    let chain_type = attributes.require(sys::chain::TYPE, "chain type")?.string();
    let policy = attributes.u32_or(sys::chain::POLICY, 1)?;
    // A hook that this crate has no name for (ingress, egress): the chain is there, and that much is said.
    let base = match (Hook::from_number(number), ChainType::from_name(&chain_type), Policy::from_number(policy)) {
        (Some(hook), Some(chain_type), Some(policy)) => Some(Base { chain_type, hook, priority, policy }),
        _ => None,
    };
    Ok(Chain { name, base })
}

fn read_rule(attributes: &Attributes<'_>) -> Result<ListedRule, Malformed> {
    let expressions = match attributes.find(sys::rule::EXPRESSIONS) {
        Some(list) => list.attributes()?.iter().map(|e| Expression::read(*e)).collect::<Result<_, _>>()?,
        None => Vec::new(),
    };
    Ok(ListedRule {
        chain: attributes.require(sys::rule::CHAIN, "rule's chain")?.string(),
        handle: attributes.require(sys::rule::HANDLE, "rule's handle")?.u64()?,
        comment: attributes.find(sys::rule::USERDATA).and_then(|data| read_comment(data.payload)),
        expressions,
    })
}

/// User data are tags, lengths and values of one byte, one byte and as many as that.
fn read_comment(mut data: &[u8]) -> Option<String> {
    while let [tag, length, rest @ ..] = data {
        let value = rest.get(..usize::from(*length))?;
        if *tag == sys::rule::USERDATA_COMMENT {
            let end = value.iter().position(|b| *b == 0).unwrap_or(value.len());
            return Some(String::from_utf8_lossy(&value[..end]).into_owned());
        }
        data = &rest[value.len()..];
    }
    None
}

/// `None` for a set of types that this crate does not know.
fn read_set(attributes: &Attributes<'_>) -> Result<Option<Set>, Malformed> {
    let flags = attributes.u32_or(sys::set::FLAGS, 0)?;
    let Some(key) = KeyType::from_number(attributes.u32_or(sys::set::KEY_TYPE, 0)?) else { return Ok(None) };
    let data = if flags & sys::set::F_MAP == 0 {
        None
    } else {
        match attributes.u32_or(sys::set::DATA_TYPE, 0)? {
            sys::set::VERDICT_TYPE => Some(DataType::Verdict),
            number => match KeyType::from_number(number) {
                Some(types) => Some(DataType::Values(types)),
                None => return Ok(None),
            },
        }
    };
    let name = attributes.require(sys::set::NAME, "set name")?.string();
    Ok(Some(Set { name, key, data, interval: flags & sys::set::F_INTERVAL != 0 }))
}

/// An element as the kernel has it.
#[derive(PartialEq, Eq)]
struct Raw {
    key: Vec<u8>,
    key_end: Option<Vec<u8>>,
    is_end: bool,
    data: Option<Immediate>,
}

/// Reads the messages of an element listing. Where one interval ends exactly where the next begins, the end comes first.
fn read_elements(bodies: &[Vec<u8>]) -> Result<Vec<Raw>, Malformed> {
    let mut raw = Vec::new();
    for body in bodies {
        if let Some(elements) = Attributes::of_message(body)?.find(sys::element::LIST_ELEMENTS) {
            for element in elements.attributes()?.iter() {
                raw.push(read_element(&element.attributes()?)?);
            }
        }
    }
    raw.sort_by(|a, b| (&a.key, !a.is_end, &a.key_end).cmp(&(&b.key, !b.is_end, &b.key_end)));
    raw.dedup();
    Ok(raw)
}

fn read_element(attributes: &Attributes<'_>) -> Result<Raw, Malformed> {
    let bytes = |kind| match attributes.find(kind).map(read_data).transpose()? {
        Some(Immediate::Bytes(bytes)) => Ok(Some(bytes)),
        Some(Immediate::Verdict(_)) => Err(Malformed::new("element key")),
        None => Ok(None),
    };
    Ok(Raw {
        key: bytes(sys::element::KEY)?.ok_or_else(|| Malformed::new("element key"))?,
        key_end: bytes(sys::element::KEY_END)?,
        is_end: attributes.u32_or(sys::element::FLAGS, 0)? & sys::element::F_INTERVAL_END != 0,
        data: attributes.find(sys::element::DATA).map(read_data).transpose()?,
    })
}

/// Makes elements of what the kernel lists: in an interval set with one field, each beginning reaches to the next end.
fn join_elements(set: &Set, raw: &[Raw]) -> Result<Vec<Element>, Error> {
    let mut out = Vec::new();
    let pairs = set.interval && set.key.len() == 1;
    for (position, one) in raw.iter().enumerate().filter(|(_, r)| !r.is_end) {
        let last = if pairs {
            let end = raw[position + 1..].iter().find(|r| r.is_end).map(|r| r.key.clone());
            let to_the_last = || Some(vec![0xff; one.key.len()]);
            end.map_or_else(to_the_last, predecessor).ok_or_else(|| Malformed::new("interval"))?
        } else {
            one.key_end.clone().unwrap_or_else(|| one.key.clone())
        };
        let first_fields = split(&set.key, &one.key)?;
        let last_fields = split(&set.key, &last)?;
        let key = first_fields.into_iter().zip(last_fields).map(|(a, b)| Key::from_bounds(a, b)).collect();
        let data = match (&set.data, &one.data) {
            (None, _) | (_, None) => None,
            (Some(_), Some(Immediate::Verdict(verdict))) => Some(Data::Verdict(verdict.clone())),
            (Some(DataType::Values(types)), Some(Immediate::Bytes(bytes))) => Some(Data::Values(split(types, bytes)?)),
            (Some(DataType::Verdict), Some(Immediate::Bytes(_))) => return Err(Malformed::new("verdict").into()),
        };
        out.push(Element { key, data });
    }
    Ok(out)
}

fn split(types: &[KeyType], bytes: &[u8]) -> Result<Vec<Value>, Malformed> {
    let mut at = 0;
    let mut out = Vec::new();
    for field in types {
        let rest = bytes.get(at..).ok_or_else(|| Malformed::new("field of a key"))?;
        out.push(field.decode(rest).ok_or_else(|| Malformed::new("field of a key"))?);
        at += field.length().next_multiple_of(4);
    }
    Ok(out)
}
