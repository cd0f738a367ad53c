//! Netlink messages and attributes: how they are written and read.
//!
//! An attribute is a header of 4 bytes (length with header, kind; both in the host's byte order), a payload, and padding to 4
//! bytes that its length does not count. A payload may be attributes again. Integers inside are big-endian where nf_tables
//! says so, which is nearly everywhere.

use crate::error::Malformed;

/// The netlink message header: length, type, flags, sequence, port ID.
pub(crate) const MESSAGE_HEADER: usize = 16;
/// What follows it in the netfilter family: address family, version, resource ID.
pub(crate) const FAMILY_HEADER: usize = 4;
const ATTRIBUTE_HEADER: usize = 4;
/// The most bytes that one attribute's payload can have: its length field has 16 bits.
pub(crate) const PAYLOAD_MAX: usize = u16::MAX as usize - ATTRIBUTE_HEADER;
/// Says that a payload is made of attributes.
const NESTED: u16 = 1 << 15;
const KIND_MASK: u16 = 0x3fff;

const fn align(length: usize) -> usize {
    (length + 3) & !3
}

/// Writes messages one after another into one buffer.
#[derive(Debug, Default, Clone)]
pub(crate) struct Writer {
    buffer: Vec<u8>,
    /// A payload did not fit its 16-bit length: what was written is not to be sent.
    overflowed: bool,
}

impl Writer {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// The bytes written; `None` if a payload was too long for its attribute.
    pub(crate) fn finish(self) -> Option<Vec<u8>> {
        (!self.overflowed).then_some(self.buffer)
    }

    /// One message of the netfilter family, its attributes written by `body`.
    pub(crate) fn message(&mut self, header: MessageHeader, body: impl FnOnce(&mut Self)) {
        let start = self.buffer.len();
        self.buffer.extend_from_slice(&[0; 4]);
        self.buffer.extend_from_slice(&header.kind.to_ne_bytes());
        self.buffer.extend_from_slice(&header.flags.to_ne_bytes());
        self.buffer.extend_from_slice(&header.sequence.to_ne_bytes());
        self.buffer.extend_from_slice(&[0; 4]);
        self.buffer.push(header.family);
        self.buffer.push(0);
        self.buffer.extend_from_slice(&header.resource.to_be_bytes());
        body(self);
        let Ok(length) = u32::try_from(self.buffer.len() - start) else {
            self.overflowed = true;
            return;
        };
        self.buffer[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    fn attribute(&mut self, kind: u16, payload: impl FnOnce(&mut Self)) {
        let start = self.buffer.len();
        self.buffer.extend_from_slice(&[0, 0]);
        self.buffer.extend_from_slice(&kind.to_ne_bytes());
        payload(self);
        match u16::try_from(self.buffer.len() - start) {
            Ok(length) => self.buffer[start..start + 2].copy_from_slice(&length.to_ne_bytes()),
            Err(_) => self.overflowed = true,
        }
        self.buffer.resize(align(self.buffer.len()), 0);
    }

    pub(crate) fn bytes(&mut self, kind: u16, payload: &[u8]) {
        self.attribute(kind, |w| w.buffer.extend_from_slice(payload));
    }

    /// Attributes that were written before, with their padding.
    pub(crate) fn raw(&mut self, attributes: &[u8]) {
        self.buffer.extend_from_slice(attributes);
    }

    pub(crate) fn nested(&mut self, kind: u16, payload: impl FnOnce(&mut Self)) {
        self.attribute(kind | NESTED, payload);
    }

    /// A string with its terminating zero.
    pub(crate) fn string(&mut self, kind: u16, text: &str) {
        self.attribute(kind, |w| {
            w.buffer.extend_from_slice(text.as_bytes());
            w.buffer.push(0);
        });
    }

    pub(crate) fn u8(&mut self, kind: u16, value: u8) {
        self.bytes(kind, &[value]);
    }

    pub(crate) fn u32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    pub(crate) fn u64(&mut self, kind: u16, value: u64) {
        self.bytes(kind, &value.to_be_bytes());
    }
}

/// What stands before a message's attributes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MessageHeader {
    /// The type, subsystem included.
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    /// The address family.
    pub(crate) family: u8,
    pub(crate) resource: u16,
}

/// One message as received.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    /// Everything after the netlink header.
    pub(crate) body: &'a [u8],
}

fn ne_u16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

fn ne_u32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

/// Splits a received buffer into its messages.
pub(crate) fn messages(mut buffer: &[u8]) -> Result<Vec<Message<'_>>, Malformed> {
    let mut out = Vec::new();
    while !buffer.is_empty() {
        let malformed = || Malformed::new("netlink message");
        let length = ne_u32(buffer, 0).ok_or_else(malformed)? as usize;
        let (Some(kind), Some(flags), Some(sequence)) = (ne_u16(buffer, 4), ne_u16(buffer, 6), ne_u32(buffer, 8)) else {
            return Err(malformed());
        };
        if length < MESSAGE_HEADER || length > buffer.len() {
            return Err(malformed());
        }
        out.push(Message { kind, flags, sequence, body: &buffer[MESSAGE_HEADER..length] });
        buffer = &buffer[align(length).min(buffer.len())..];
    }
    Ok(out)
}

/// An attribute as received: its kind without flags, and its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attribute<'a> {
    pub(crate) kind: u16,
    pub(crate) payload: &'a [u8],
}

impl<'a> Attribute<'a> {
    pub(crate) fn u8(&self) -> Result<u8, Malformed> {
        self.payload.first().copied().ok_or_else(|| Malformed::new("8-bit attribute"))
    }

    pub(crate) fn u32(&self) -> Result<u32, Malformed> {
        let bytes = self.payload.try_into().map_err(|_| Malformed::new("32-bit attribute"))?;
        Ok(u32::from_be_bytes(bytes))
    }

    pub(crate) fn u64(&self) -> Result<u64, Malformed> {
        let bytes = self.payload.try_into().map_err(|_| Malformed::new("64-bit attribute"))?;
        Ok(u64::from_be_bytes(bytes))
    }

    pub(crate) fn string(&self) -> String {
        let end = self.payload.iter().position(|b| *b == 0).unwrap_or(self.payload.len());
        String::from_utf8_lossy(&self.payload[..end]).into_owned()
    }

    pub(crate) fn attributes(&self) -> Result<Attributes<'a>, Malformed> {
        Attributes::parse(self.payload)
    }
}

/// The attributes of a message or of a nested payload.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Attributes<'a>(Vec<Attribute<'a>>);

impl<'a> Attributes<'a> {
    pub(crate) fn parse(mut buffer: &'a [u8]) -> Result<Self, Malformed> {
        let mut out = Vec::new();
        while !buffer.is_empty() {
            let malformed = || Malformed::new("netlink attribute");
            let (Some(length), Some(kind)) = (ne_u16(buffer, 0), ne_u16(buffer, 2)) else { return Err(malformed()) };
            let length = usize::from(length);
            if length < ATTRIBUTE_HEADER || length > buffer.len() {
                return Err(malformed());
            }
            out.push(Attribute { kind: kind & KIND_MASK, payload: &buffer[ATTRIBUTE_HEADER..length] });
            buffer = &buffer[align(length).min(buffer.len())..];
        }
        Ok(Self(out))
    }

    /// The attributes of a message of the netfilter family.
    pub(crate) fn of_message(body: &'a [u8]) -> Result<Self, Malformed> {
        Self::parse(body.get(FAMILY_HEADER..).ok_or_else(|| Malformed::new("netfilter header"))?)
    }

    pub(crate) fn find(&self, kind: u16) -> Option<Attribute<'a>> {
        self.0.iter().find(|a| a.kind == kind).copied()
    }

    pub(crate) fn require(&self, kind: u16, what: &'static str) -> Result<Attribute<'a>, Malformed> {
        self.find(kind).ok_or_else(|| Malformed::new(what))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Attribute<'a>> {
        self.0.iter()
    }

    /// A 32-bit attribute; `default` where it is absent.
    pub(crate) fn u32_or(&self, kind: u16, default: u32) -> Result<u32, Malformed> {
        self.find(kind).map_or(Ok(default), |a| a.u32())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A tree of attributes, as any message can hold.
    #[derive(Debug, Clone, PartialEq)]
    enum Tree {
        Leaf(u16, Vec<u8>),
        Node(u16, Vec<Tree>),
    }

    fn tree() -> impl Strategy<Value = Tree> {
        let leaf = (0..KIND_MASK, prop::collection::vec(any::<u8>(), 0..40)).prop_map(|(k, p)| Tree::Leaf(k, p));
        leaf.prop_recursive(4, 64, 6, |inner| {
            (0..KIND_MASK, prop::collection::vec(inner, 0..6)).prop_map(|(k, t)| Tree::Node(k, t))
        })
    }

    fn write(w: &mut Writer, tree: &Tree) {
        match tree {
            Tree::Leaf(kind, payload) => w.bytes(*kind, payload),
            Tree::Node(kind, inner) => w.nested(*kind, |w| inner.iter().for_each(|t| write(w, t))),
        }
    }

    fn agrees(read: &Attribute<'_>, wrote: &Tree) -> bool {
        match wrote {
            Tree::Leaf(kind, payload) => read.kind == *kind && read.payload == payload.as_slice(),
            Tree::Node(kind, inner) => {
                let Ok(attributes) = read.attributes() else { return false };
                read.kind == *kind
                    && attributes.0.len() == inner.len()
                    && attributes.iter().zip(inner).all(|(a, t)| agrees(a, t))
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(trees in prop::collection::vec(tree(), 0..5), count in 1usize..4) {
            let mut w = Writer::new();
            for sequence in 0..count {
                let header = MessageHeader { kind: 0xa00, flags: 5, sequence: sequence as u32, family: 1, resource: 10 };
                w.message(header, |w| trees.iter().for_each(|t| write(w, t)));
            }
            let bytes = w.finish().expect("short payloads");
            prop_assert_eq!(bytes.len() % 4, 0);
            let read = messages(&bytes).expect("well formed");
            prop_assert_eq!(read.len(), count);
            for (sequence, message) in read.iter().enumerate() {
                prop_assert_eq!((message.kind, message.flags, message.sequence), (0xa00, 5, sequence as u32));
                let attributes = Attributes::of_message(message.body).expect("well formed");
                prop_assert_eq!(attributes.0.len(), trees.len());
                prop_assert!(attributes.iter().zip(&trees).all(|(a, t)| agrees(a, t)));
            }
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(read) = messages(&bytes) {
                for message in read {
                    let _ = Attributes::of_message(message.body);
                }
            }
            let _ = Attributes::parse(&bytes);
        }
    }

    #[test]
    fn a_payload_that_does_not_fit_is_never_sent() {
        let mut w = Writer::new();
        w.bytes(1, &vec![0; PAYLOAD_MAX]);
        assert!(w.clone().finish().is_some());
        w.bytes(1, &vec![0; PAYLOAD_MAX + 1]);
        assert!(w.finish().is_none());
    }
}
