//! Probes: what a gateway asks another inside the tunnel, and what it is answered.
//!
//! ```text
//!  0      4  5  6      8                16               24               32               40
//!  | magic |v |k | zero | incarnation   | sequence       | sent           | responder      |   big endian
//! ```
//! A request carries the asker's incarnation (a number drawn at each start), sequence and time; a reply carries them back as they
//! were, and the answerer's own incarnation, which tells the asker of its restart.

/// The length of a probe, request or reply, in bytes.
pub const PROBE_LENGTH: usize = 40;
const MAGIC: [u8; 4] = *b"dzyP";
const VERSION: u8 = 1;

/// What a probe is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeKind {
    /// Are you there?
    Request,
    /// Yes.
    Reply,
}

/// A probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// What it is.
    pub kind: ProbeKind,
    /// Which start of the asker sent it.
    pub incarnation: u64,
    /// Which of the asker's probes to this peer it is.
    pub sequence: u64,
    /// When the asker sent it, by a clock of its own: nobody else's business.
    pub sent: u64,
    /// Which start of the answerer answers; 0 in a request.
    pub responder: u64,
}

impl Probe {
    /// Its bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; PROBE_LENGTH] {
        let kind = match self.kind {
            ProbeKind::Request => 1,
            ProbeKind::Reply => 2,
        };
        let mut out = [0; PROBE_LENGTH];
        out[..4].copy_from_slice(&MAGIC);
        out[4] = VERSION;
        out[5] = kind;
        let words = [self.incarnation, self.sequence, self.sent, self.responder];
        for (slot, word) in out[8..].as_chunks_mut::<8>().0.iter_mut().zip(words) {
            *slot = word.to_be_bytes();
        }
        out
    }

    /// The probe that these bytes are. Bytes after those of this version are a later version's, and are not looked at.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.first_chunk::<PROBE_LENGTH>()?;
        let (head, words) = bytes.split_first_chunk::<8>()?;
        if head[..4] != MAGIC || head[4] != VERSION {
            return None;
        }
        let kind = match head[5] {
            1 => ProbeKind::Request,
            2 => ProbeKind::Reply,
            _ => return None,
        };
        let (words, _) = words.as_chunks::<8>();
        let [incarnation, sequence, sent, responder] = *<&[[u8; 8]; 4]>::try_from(words).ok()?;
        Some(Self {
            kind,
            incarnation: u64::from_be_bytes(incarnation),
            sequence: u64::from_be_bytes(sequence),
            sent: u64::from_be_bytes(sent),
            responder: u64::from_be_bytes(responder),
        })
    }

    /// The reply to this request by the start `responder`. `None` for a reply: answering those would never end.
    #[must_use]
    pub fn reply(&self, responder: u64) -> Option<Self> {
        match self.kind {
            ProbeKind::Request => Some(Self { kind: ProbeKind::Reply, responder, ..*self }),
            ProbeKind::Reply => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn replies_are_not_answered() {
        let request = Probe { kind: ProbeKind::Request, incarnation: 1, sequence: 2, sent: 3, responder: 0 };
        let reply = request.reply(9).expect("a request is answered");
        assert_eq!(reply, Probe { kind: ProbeKind::Reply, responder: 9, ..request });
        assert_eq!(reply.reply(9), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(request: bool, words: [u64; 4], tail in prop::collection::vec(any::<u8>(), 0..9)) {
            let kind = if request { ProbeKind::Request } else { ProbeKind::Reply };
            let [incarnation, sequence, sent, responder] = words;
            let probe = Probe { kind, incarnation, sequence, sent, responder };
            let mut bytes = probe.to_bytes().to_vec();
            bytes.extend(tail);
            prop_assert_eq!(Probe::parse(&bytes), Some(probe));
            prop_assert_eq!(Probe::parse(&bytes[..PROBE_LENGTH - 1]), None);
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = Probe::parse(&bytes);
        }
    }
}
