//! As much of X.509 (RFC 5280) as it takes to read back what we wrote: a certificate's validity and its names.

use std::collections::BTreeSet;
use std::net::IpAddr;

use jiff::Timestamp;
use jiff::civil::date;
use jiff::tz::TimeZone;

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Certificate {
    pub(super) from: Timestamp,
    pub(super) until: Timestamp,
    /// Names and addresses, as text.
    pub(super) names: BTreeSet<String>,
}

const SEQUENCE: u8 = 0x30;
const OBJECT_IDENTIFIER: u8 = 0x06;
const OCTET_STRING: u8 = 0x04;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
const DNS_NAME: u8 = 0x82;
const IP_ADDRESS: u8 = 0x87;
/// subjectAltName, 2.5.29.17.
const SUBJECT_ALT_NAME: [u8; 3] = [0x55, 0x1d, 0x11];

/// A reader of DER (X.690): tag, length, contents.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    fn next(&mut self) -> Option<(u8, Der<'a>)> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, mut rest) = rest.split_first()?;
        let mut length = usize::from(first);
        if first & 0x80 != 0 {
            let bytes = usize::from(first & 0x7f);
            if bytes == 0 || bytes > 4 {
                return None;
            }
            let (digits, after) = rest.split_at_checked(bytes)?;
            length = digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit));
            rest = after;
        }
        let (contents, after) = rest.split_at_checked(length)?;
        self.0 = after;
        Some((tag, Der(contents)))
    }

    fn expect(&mut self, tag: u8) -> Option<Der<'a>> {
        self.next().filter(|(is, _)| *is == tag).map(|(_, contents)| contents)
    }

    fn time(&mut self) -> Option<Timestamp> {
        let (tag, contents) = self.next()?;
        let text = std::str::from_utf8(contents.0).ok()?.strip_suffix('Z')?;
        let (year, rest) = match tag {
            UTC_TIME => {
                let year: i16 = text.get(..2)?.parse().ok()?;
                (if year < 50 { 2000 + year } else { 1900 + year }, text.get(2..)?)
            }
            GENERALIZED_TIME => (text.get(..4)?.parse().ok()?, text.get(4..)?),
            _ => return None,
        };
        let two = |at: usize| rest.get(at..at + 2)?.parse::<i8>().ok();
        let (month, day, hour, minute, second) = (two(0)?, two(2)?, two(4)?, two(6)?, two(8)?);
        if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let midnight = jiff::civil::Date::new(year, month, day).ok().unwrap_or_else(|| date(year, month, 28));
        Some(midnight.at(hour, minute, second, 0).to_zoned(TimeZone::UTC).ok()?.timestamp())
    }
}

/// Reads a certificate in DER; `None` where it is none.
pub(super) fn read(der: &[u8]) -> Option<Certificate> {
    let mut signed = Der(der).expect(SEQUENCE)?.expect(SEQUENCE)?;
    if signed.0.first() == Some(&VERSION) {
        signed.next()?;
    }
    // Serial number, signature algorithm, issuer.
    for _ in 0..3 {
        signed.next()?;
    }
    let mut validity = signed.expect(SEQUENCE)?;
    let (from, until) = (validity.time()?, validity.time()?);
    let mut names = BTreeSet::new();
    while let Some((tag, mut contents)) = signed.next() {
        if tag != EXTENSIONS {
            continue;
        }
        let mut extensions = contents.expect(SEQUENCE)?;
        while let Some((SEQUENCE, mut extension)) = extensions.next() {
            if extension.expect(OBJECT_IDENTIFIER)?.0 != SUBJECT_ALT_NAME {
                continue;
            }
            // The flag "critical" may stand before the value.
            let mut value = loop {
                let (tag, contents) = extension.next()?;
                if tag == OCTET_STRING {
                    break contents;
                }
            };
            let mut list = value.expect(SEQUENCE)?;
            while let Some((tag, name)) = list.next() {
                names.extend(alternative(tag, name.0));
            }
        }
    }
    Some(Certificate { from, until, names })
}

fn alternative(tag: u8, bytes: &[u8]) -> Option<String> {
    match tag {
        DNS_NAME => String::from_utf8(bytes.to_vec()).ok(),
        IP_ADDRESS => <[u8; 4]>::try_from(bytes)
            .map(IpAddr::from)
            .or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
            .ok()
            .map(|address| address.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn certificate(names: &[&str], year: i32) -> Vec<u8> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = rcgen::CertificateParams::new(names).expect("names");
        params.not_before = rcgen::date_time_ymd(2024, 2, 29);
        params.not_after = rcgen::date_time_ymd(year, 12, 31);
        let key = rcgen::KeyPair::generate().expect("a key");
        params.self_signed(&key).expect("a certificate").der().to_vec()
    }

    #[test]
    fn what_was_written_is_read() {
        for (year, until) in [(2049, "2049-12-31T00:00:00Z"), (2050, "2050-12-31T00:00:00Z")] {
            let read = read(&certificate(&["broker.example", "10.0.0.1", "fd00::1"], year)).expect("a certificate");
            assert_eq!(read.from.to_string(), "2024-02-29T00:00:00Z");
            assert_eq!(read.until.to_string(), until);
            assert_eq!(read.names.into_iter().collect::<Vec<_>>(), ["10.0.0.1", "broker.example", "fd00::1"]);
        }
    }

    proptest! {
        #[test]
        fn never_panics(at in 0_usize..600, to: u8, cut in 0_usize..600) {
            let mut der = certificate(&["a.b", "::1"], 2050);
            let at = at % der.len();
            der[at] = to;
            read(&der);
            read(&der[..cut % der.len()]);
        }
    }
}
