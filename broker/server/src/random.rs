//! Names and identifiers that nobody guesses.

use ring::rand::{SecureRandom as _, SystemRandom};

use crate::refusal::Refusal;

fn bytes<const N: usize>() -> Result<[u8; N], Refusal> {
    let mut out = [0; N];
    SystemRandom::new().fill(&mut out).map_err(|_| Refusal::internal("the system gives no random bytes"))?;
    Ok(out)
}

/// A random UUID (RFC 9562, version 4).
pub(crate) fn uuid() -> Result<String, Refusal> {
    let mut uuid: [u8; 16] = bytes()?;
    uuid[6] = uuid[6] & 0x0f | 0x40;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    let hex: String = uuid.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok([&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-"))
}

/// The five characters that follow a `generateName`: Kubernetes' alphabet, which spells no words.
pub(crate) fn suffix() -> Result<String, Refusal> {
    const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let random: [u8; 5] = bytes()?;
    Ok(random.iter().map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()])).collect())
}

/// A number below `most` (at least 1), to spread what would otherwise happen at once.
pub(crate) fn below(most: u64) -> u64 {
    bytes::<8>().map_or(0, u64::from_le_bytes) % most.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_have_their_version() {
        let uuid = uuid().expect("random");
        assert_eq!(uuid.len(), 36);
        assert_eq!(&uuid[14..15], "4");
        assert!("89ab".contains(&uuid[19..20]));
        assert_eq!(suffix().expect("random").len(), 5);
        assert!(below(3) < 3);
    }
}
