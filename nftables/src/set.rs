//! Sets, maps and their elements.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

use crate::error::Invalid;
use crate::expression::{Verdict, write_verdict};
use crate::sys;
use crate::value::{Key, KeyType, Value};
use crate::wire::{PAYLOAD_MAX, Writer};

/// The most bytes of a key or of data: the kernel's registers hold no more.
const REGISTERS: usize = 64;

/// What the elements of a map hold beside their key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DataType {
    /// Verdicts.
    Verdict,
    /// Values of these types, one after another.
    Values(Vec<KeyType>),
}

/// A set (keys alone) or a map (keys with data), named. Its elements are added apart ([`crate::Batch::add_elements`]).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Set {
    /// Its name, 1 to 255 bytes.
    pub name: String,
    /// The types of its key's fields.
    pub key: Vec<KeyType>,
    /// The type of its elements' data; `None` for a set.
    pub data: Option<DataType>,
    /// Whether keys may be networks and ranges. These must not overlap each other.
    pub interval: bool,
}

impl Set {
    /// A set with this key: one type, or several for a concatenation.
    pub fn new(name: impl Into<String>, key: impl IntoIterator<Item = KeyType>) -> Self {
        Self { name: name.into(), key: key.into_iter().collect(), data: None, interval: false }
    }

    /// The same with networks and ranges as keys.
    #[must_use]
    pub fn interval(mut self) -> Self {
        self.interval = true;
        self
    }

    /// The same as a map to verdicts.
    #[must_use]
    pub fn verdicts(mut self) -> Self {
        self.data = Some(DataType::Verdict);
        self
    }

    /// The same as a map to values of these types.
    #[must_use]
    pub fn values(mut self, data: impl IntoIterator<Item = KeyType>) -> Self {
        self.data = Some(DataType::Values(data.into_iter().collect()));
        self
    }

    pub(crate) fn flags(&self) -> u32 {
        let mut flags = 0;
        if self.data.is_some() {
            flags |= sys::set::F_MAP;
        }
        if self.interval {
            flags |= sys::set::F_INTERVAL;
            if self.key.len() > 1 {
                flags |= sys::set::F_CONCATENATION;
            }
        }
        flags
    }

    /// The attributes that say what the set is, after its table and name.
    pub(crate) fn write(&self, w: &mut Writer, extra_flags: u32, id: u32, size: Option<u32>) -> Result<(), Invalid> {
        let key_length = concatenated_length(&self.key);
        if self.key.is_empty() || key_length > REGISTERS || self.key.len() > 5 {
            return Err(Invalid::TooLong("the set's key"));
        }
        w.u32(sys::set::FLAGS, self.flags() | extra_flags);
        w.u32(sys::set::KEY_TYPE, concatenated_number(&self.key));
        w.u32(sys::set::KEY_LENGTH, to_u32(key_length));
        match &self.data {
            None => {}
            Some(DataType::Verdict) => {
                w.u32(sys::set::DATA_TYPE, sys::set::VERDICT_TYPE);
                w.u32(sys::set::DATA_LENGTH, 0);
            }
            Some(DataType::Values(types)) => {
                let length = concatenated_length(types);
                if types.is_empty() || length > REGISTERS || types.len() > 5 {
                    return Err(Invalid::TooLong("the map's data"));
                }
                w.u32(sys::set::DATA_TYPE, concatenated_number(types));
                w.u32(sys::set::DATA_LENGTH, to_u32(length));
            }
        }
        w.u32(sys::set::ID, id);
        let concatenation = self.interval && self.key.len() > 1;
        if concatenation || size.is_some() {
            w.nested(sys::set::DESCRIPTION, |w| {
                if let Some(size) = size {
                    w.u32(sys::set::DESCRIPTION_SIZE, size);
                }
                if concatenation {
                    w.nested(sys::set::DESCRIPTION_CONCATENATION, |w| {
                        for field in &self.key {
                            w.nested(sys::LIST_ELEMENT, |w| w.u32(sys::set::FIELD_LENGTH, to_u32(field.length())));
                        }
                    });
                }
            });
        }
        // For nft alone: byte orders of key and data (tags 0 and 1; 1 is the host's, 2 big-endian, 0 a concatenation's).
        let order = |types: &[KeyType]| match types {
            [one] if one.is_host_order() && one.length() > 1 => 1u32,
            [_] => 2,
            _ => 0,
        };
        let mut user_data = vec![0, 4];
        user_data.extend_from_slice(&order(&self.key).to_ne_bytes());
        if let Some(DataType::Values(types)) = &self.data {
            user_data.extend_from_slice(&[1, 4]);
            user_data.extend_from_slice(&order(types).to_ne_bytes());
        }
        w.bytes(sys::set::USERDATA, &user_data);
        Ok(())
    }
}

pub(crate) fn to_u32(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Fields of a concatenation begin at registers, which have 4 bytes; the last one's padding counts too, a lone field's not.
pub(crate) fn concatenated_length(types: &[KeyType]) -> usize {
    match types {
        [one] => one.length(),
        many => many.iter().map(|t| t.length().next_multiple_of(4)).sum(),
    }
}

fn concatenated_number(types: &[KeyType]) -> u32 {
    types.iter().fold(0, |n, t| n << 6 | t.number())
}

/// What a map's element holds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Data {
    /// A verdict.
    Verdict(Verdict),
    /// Values, one after another.
    Values(Vec<Value>),
}

/// An element of a set or map.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Element {
    /// Its key's fields.
    pub key: Vec<Key>,
    /// What a map holds for that key.
    pub data: Option<Data>,
}

impl Element {
    /// An element of a set: one field, or a tuple of fields for a concatenation.
    pub fn new(key: impl IntoKeys) -> Self {
        Self { key: key.into_keys(), data: None }
    }

    /// An element of a verdict map.
    #[must_use]
    pub fn verdict(mut self, verdict: Verdict) -> Self {
        self.data = Some(Data::Verdict(verdict));
        self
    }

    /// An element of a map to values.
    #[must_use]
    pub fn values(mut self, values: impl IntoIterator<Item = Value>) -> Self {
        self.data = Some(Data::Values(values.into_iter().collect()));
        self
    }

    /// Writes the element as the kernel wants it: an interval of a set with one field is two elements, the second one its end.
    fn write(&self, set: &Set, w: &mut Writer) -> Result<(), Invalid> {
        if self.key.len() != set.key.len() {
            return Err(Invalid::Fields { got: self.key.len(), expected: set.key.len() });
        }
        let bounds = self.key.iter().zip(&set.key).map(|(key, of)| key.bounds(*of)).collect::<Result<Vec<_>, _>>()?;
        if !set.interval && bounds.iter().any(|(first, last)| first != last) {
            return Err(Invalid::Range(self.key.iter().map(ToString::to_string).collect::<Vec<_>>().join(" . ")));
        }
        let data = self.encode_data(set)?;
        let first = concatenate(bounds.iter().map(|(first, _)| first));
        let last = concatenate(bounds.iter().map(|(_, last)| last));
        w.nested(sys::LIST_ELEMENT, |w| {
            w.nested(sys::element::KEY, |w| w.bytes(sys::data::VALUE, &first));
            if set.interval && set.key.len() > 1 {
                w.nested(sys::element::KEY_END, |w| w.bytes(sys::data::VALUE, &last));
            }
            match &data {
                None => {}
                Some(Encoded::Verdict(verdict)) => w.nested(sys::element::DATA, |w| write_verdict(w, verdict)),
                Some(Encoded::Bytes(bytes)) => w.nested(sys::element::DATA, |w| w.bytes(sys::data::VALUE, bytes)),
            }
        });
        if set.interval
            && set.key.len() == 1
            && let Some(end) = successor(last)
        {
            w.nested(sys::LIST_ELEMENT, |w| {
                w.nested(sys::element::KEY, |w| w.bytes(sys::data::VALUE, &end));
                w.u32(sys::element::FLAGS, sys::element::F_INTERVAL_END);
            });
        }
        Ok(())
    }

    fn encode_data(&self, set: &Set) -> Result<Option<Encoded>, Invalid> {
        match (&set.data, &self.data) {
            (None, None) => Ok(None),
            (Some(DataType::Verdict), Some(Data::Verdict(verdict))) => Ok(Some(Encoded::Verdict(verdict.clone()))),
            (Some(DataType::Values(types)), Some(Data::Values(values))) if types.len() == values.len() => {
                let encoded = values.iter().zip(types).map(|(v, t)| v.encode(*t)).collect::<Result<Vec<_>, _>>()?;
                Ok(Some(Encoded::Bytes(concatenate(encoded.iter()))))
            }
            _ => Err(Invalid::Data(set.name.clone())),
        }
    }
}

enum Encoded {
    Verdict(Verdict),
    Bytes(Vec<u8>),
}

/// One field as it is; several each padded to a register's length.
fn concatenate<'a>(fields: impl ExactSizeIterator<Item = &'a Vec<u8>>) -> Vec<u8> {
    let several = fields.len() > 1;
    let mut out = Vec::new();
    for field in fields {
        out.extend_from_slice(field);
        if several {
            out.resize(out.len().next_multiple_of(4), 0);
        }
    }
    out
}

/// The next number, most significant byte first; `None` after the last one.
fn successor(mut bytes: Vec<u8>) -> Option<Vec<u8>> {
    for byte in bytes.iter_mut().rev() {
        let (sum, carry) = byte.overflowing_add(1);
        *byte = sum;
        if !carry {
            return Some(bytes);
        }
    }
    None
}

/// The number before, most significant byte first; `None` before the first one.
pub(crate) fn predecessor(mut bytes: Vec<u8>) -> Option<Vec<u8>> {
    for byte in bytes.iter_mut().rev() {
        let (difference, borrow) = byte.overflowing_sub(1);
        *byte = difference;
        if !borrow {
            return Some(bytes);
        }
    }
    None
}

/// Elements, written into as few lists as hold them: one list is one attribute of at most 64 KiB.
pub(crate) fn write_elements(set: &Set, elements: &[Element]) -> Result<Vec<Vec<u8>>, Invalid> {
    let mut lists = Vec::new();
    let mut current: Vec<u8> = Vec::new();
    for element in elements {
        let mut w = Writer::new();
        element.write(set, &mut w)?;
        let written = w.finish().ok_or(Invalid::TooLong("an element"))?;
        if current.len() + written.len() > PAYLOAD_MAX {
            lists.push(std::mem::take(&mut current));
        }
        current.extend_from_slice(&written);
    }
    if !current.is_empty() {
        lists.push(current);
    }
    Ok(lists)
}

/// What can be a key: one field or a tuple of them.
pub trait IntoKeys {
    /// The key's fields.
    fn into_keys(self) -> Vec<Key>;
}

macro_rules! one_key {
    ($($field:ty),*) => {
        $(impl IntoKeys for $field {
            fn into_keys(self) -> Vec<Key> {
                vec![self.into()]
            }
        })*
    };
}
one_key!(Key, Value, IpNetwork, IpAddr, Ipv4Addr, Ipv6Addr, u8, u16, u32, &str, String);

impl IntoKeys for Vec<Key> {
    fn into_keys(self) -> Vec<Key> {
        self
    }
}

impl<A: Into<Key>, B: Into<Key>> IntoKeys for (A, B) {
    fn into_keys(self) -> Vec<Key> {
        vec![self.0.into(), self.1.into()]
    }
}

impl<A: Into<Key>, B: Into<Key>, C: Into<Key>> IntoKeys for (A, B, C) {
    fn into_keys(self) -> Vec<Key> {
        vec![self.0.into(), self.1.into(), self.2.into()]
    }
}

impl<A: Into<Key>, B: Into<Key>, C: Into<Key>, D: Into<Key>> IntoKeys for (A, B, C, D) {
    fn into_keys(self) -> Vec<Key> {
        vec![self.0.into(), self.1.into(), self.2.into(), self.3.into()]
    }
}

impl<K: IntoKeys> From<K> for Element {
    fn from(key: K) -> Self {
        Self::new(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn successor_and_predecessor_are_inverse(bytes in prop::collection::vec(any::<u8>(), 1..17)) {
            match successor(bytes.clone()) {
                Some(next) => prop_assert_eq!(predecessor(next), Some(bytes)),
                None => prop_assert!(bytes.iter().all(|b| *b == 0xff)),
            }
        }

        #[test]
        fn many_elements_go_into_lists_that_fit(count in 0usize..6000) {
            let set = Set::new("s", [KeyType::Ipv4Addr, KeyType::InetProto, KeyType::InetService]);
            let elements: Vec<Element> =
                (0..count).map(|n| (Ipv4Addr::from(n as u32), 6u8, 80u16).into()).collect();
            let lists = write_elements(&set, &elements).expect("valid");
            prop_assert!(lists.iter().all(|l| l.len() <= PAYLOAD_MAX));
            let read: usize = lists.iter().map(|l| crate::wire::Attributes::parse(l).expect("well formed").iter().count()).sum();
            prop_assert_eq!(read, count);
        }
    }

    #[test]
    fn elements_that_do_not_fit_their_set_are_refused() {
        let set = Set::new("s", [KeyType::Ipv4Addr]);
        let network: IpNetwork = "10.0.0.0/8".parse().expect("network");
        for bad in [
            Element::new(network),
            Element::new(80u16),
            Element::new((Ipv4Addr::LOCALHOST, 80u16)),
            Element::new(Ipv4Addr::LOCALHOST).verdict(Verdict::Accept),
        ] {
            assert!(write_elements(&set, std::slice::from_ref(&bad)).is_err(), "{bad:?}");
        }
        let map = Set::new("m", [KeyType::Ipv4Addr]).verdicts();
        assert!(write_elements(&map, &[Ipv4Addr::LOCALHOST.into()]).is_err());
        assert!(write_elements(&set.interval(), &[network.into()]).is_ok());
    }
}
