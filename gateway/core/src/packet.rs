//! Inner packets: the addresses of any, and the UDP datagrams that probes are.
//!
//! IPv4 is RFC 791, IPv6 RFC 8200, UDP RFC 768, the checksum RFC 1071. Everything that comes in is somebody else's: each byte is
//! looked at only after its presence was checked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
const UDP_HEADER: usize = 8;
const UDP: u8 = 17;
const HOP_LIMIT: u8 = 64;

/// Where an inner packet comes from and where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// Its source.
    pub source: IpAddr,
    /// Its destination.
    pub destination: IpAddr,
}

/// A UDP datagram inside an inner packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpDatagram<'a> {
    /// The packet's addresses.
    pub addresses: Addresses,
    /// The port it comes from.
    pub source_port: u16,
    /// The port it goes to.
    pub destination_port: u16,
    /// What it carries.
    pub payload: &'a [u8],
}

/// The addresses of an IPv4 or IPv6 packet, and how many of the bytes are the packet's. `None` for what is neither, or is cut short.
#[must_use]
pub fn parse_addresses(packet: &[u8]) -> Option<(Addresses, usize)> {
    match packet.first()? >> 4 {
        4 => {
            let header = packet.first_chunk::<IPV4_HEADER>()?;
            let header_length = usize::from(header[0] & 0x0f) * 4;
            let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
            if header_length < IPV4_HEADER || length < header_length || length > packet.len() {
                return None;
            }
            let source = Ipv4Addr::new(header[12], header[13], header[14], header[15]);
            let destination = Ipv4Addr::new(header[16], header[17], header[18], header[19]);
            Some((Addresses { source: source.into(), destination: destination.into() }, length))
        }
        6 => {
            let header = packet.first_chunk::<IPV6_HEADER>()?;
            let length = IPV6_HEADER + usize::from(u16::from_be_bytes([header[4], header[5]]));
            if length > packet.len() {
                return None;
            }
            let source = Ipv6Addr::from(*header.get(8..24)?.first_chunk::<16>()?);
            let destination = Ipv6Addr::from(*header.get(24..40)?.first_chunk::<16>()?);
            Some((Addresses { source: source.into(), destination: destination.into() }, length))
        }
        _ => None,
    }
}

/// The UDP datagram that a packet is, with its checksum verified. `None` for anything else: other protocols, fragments, IPv6
/// extension headers, a wrong length or checksum. Bytes after the packet's own length are left out.
#[must_use]
pub fn parse_udp(packet: &[u8]) -> Option<UdpDatagram<'_>> {
    let (addresses, length) = parse_addresses(packet)?;
    let packet = packet.get(..length)?;
    let segment = if addresses.source.is_ipv4() {
        let header_length = usize::from(packet.first()? & 0x0f) * 4;
        let (header, segment) = packet.split_at_checked(header_length)?;
        // More fragments, or not the first: the UDP header is not here, or not all of it.
        let fragment = u16::from_be_bytes([*header.get(6)?, *header.get(7)?]) & 0x3fff;
        if *header.get(9)? != UDP || fragment != 0 || Sum::default().add(header).finish() != 0 {
            return None;
        }
        segment
    } else {
        if *packet.get(6)? != UDP {
            return None;
        }
        packet.get(IPV6_HEADER..)?
    };
    let header = segment.first_chunk::<UDP_HEADER>()?;
    let [source_port, destination_port, udp_length, checksum] =
        [0, 2, 4, 6].map(|at| u16::from_be_bytes([header[at], header[at + 1]]));
    if usize::from(udp_length) != segment.len() {
        return None;
    }
    // Only over IPv4 may a datagram go without a checksum (RFC 768; RFC 8200 section 8.1), and ours never do.
    if checksum == 0 || Sum::default().pseudo(addresses, udp_length)?.add(segment).finish() != 0 {
        return None;
    }
    Some(UdpDatagram { addresses, source_port, destination_port, payload: segment.get(UDP_HEADER..)? })
}

/// Writes the datagram as a packet at the start of `out` and returns its length. `None` where the addresses are of different
/// families, `out` is too short, or the payload is longer than a packet can hold.
#[must_use]
pub fn write_udp(datagram: &UdpDatagram<'_>, out: &mut [u8]) -> Option<usize> {
    let udp_length = u16::try_from(UDP_HEADER.checked_add(datagram.payload.len())?).ok()?;
    let header_length = match (datagram.addresses.source, datagram.addresses.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let header = out.get_mut(..IPV4_HEADER)?;
            header.fill(0);
            header[0] = 0x45;
            header[2..4].copy_from_slice(&u16::try_from(IPV4_HEADER).ok()?.checked_add(udp_length)?.to_be_bytes());
            header[6] = 0x40; // Do not fragment, so that the identification may be zero (RFC 6864 section 4.1).
            header[8] = HOP_LIMIT;
            header[9] = UDP;
            header[12..16].copy_from_slice(&source.octets());
            header[16..20].copy_from_slice(&destination.octets());
            let checksum = Sum::default().add(header).finish();
            header[10..12].copy_from_slice(&checksum.to_be_bytes());
            IPV4_HEADER
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let header = out.get_mut(..IPV6_HEADER)?;
            header.fill(0);
            header[0] = 0x60;
            header[4..6].copy_from_slice(&udp_length.to_be_bytes());
            header[6] = UDP;
            header[7] = HOP_LIMIT;
            header[8..24].copy_from_slice(&source.octets());
            header[24..40].copy_from_slice(&destination.octets());
            IPV6_HEADER
        }
        _ => return None,
    };
    let length = header_length.checked_add(usize::from(udp_length))?;
    let segment = out.get_mut(header_length..length)?;
    segment[0..2].copy_from_slice(&datagram.source_port.to_be_bytes());
    segment[2..4].copy_from_slice(&datagram.destination_port.to_be_bytes());
    segment[4..6].copy_from_slice(&udp_length.to_be_bytes());
    segment[6..8].fill(0);
    segment[UDP_HEADER..].copy_from_slice(datagram.payload);
    let checksum = match Sum::default().pseudo(datagram.addresses, udp_length)?.add(segment).finish() {
        0 => 0xffff, // Zero would mean none.
        checksum => checksum,
    };
    segment[6..8].copy_from_slice(&checksum.to_be_bytes());
    Some(length)
}

/// The Internet checksum (RFC 1071), as it adds up.
#[derive(Clone, Copy, Debug, Default)]
struct Sum(u64);

impl Sum {
    fn add(self, bytes: &[u8]) -> Self {
        let (pairs, rest) = bytes.as_chunks::<2>();
        let whole: u64 = pairs.iter().map(|pair| u64::from(u16::from_be_bytes(*pair))).sum();
        let odd = rest.first().map_or(0, |byte| u64::from(*byte) << 8);
        Self(self.0 + whole + odd)
    }

    /// The pseudo-header of UDP. `None` across families.
    fn pseudo(self, addresses: Addresses, udp_length: u16) -> Option<Self> {
        let sum = match (addresses.source, addresses.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => self.add(&source.octets()).add(&destination.octets()),
            (IpAddr::V6(source), IpAddr::V6(destination)) => self.add(&source.octets()).add(&destination.octets()),
            _ => return None,
        };
        Some(sum.add(&[0, UDP]).add(&udp_length.to_be_bytes()))
    }

    fn finish(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !u16::try_from(sum).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn datagram<'a>(source: &str, destination: &str, payload: &'a [u8]) -> UdpDatagram<'a> {
        let [source, destination] = [source, destination].map(|text| text.parse().expect("an address"));
        UdpDatagram { addresses: Addresses { source, destination }, source_port: 4842, destination_port: 4842, payload }
    }

    #[test]
    fn a_known_datagram_has_its_known_bytes() {
        // Worked out by hand from RFC 768 and RFC 791.
        let mut out = [0; 64];
        let length = write_udp(&datagram("10.0.0.1", "10.0.0.2", b"ab"), &mut out).expect("fits");
        assert_eq!(length, 30);
        assert_eq!(&out[..20], [0x45, 0, 0, 30, 0, 0, 0x40, 0, 64, 17, 0x26, 0xcd, 10, 0, 0, 1, 10, 0, 0, 2]);
        let sum: u32 = 0x0a00 + 1 + 0x0a00 + 2 + 17 + 10 + 4842 + 4842 + 10 + 0x6162;
        let checksum = !u16::try_from((sum & 0xffff) + (sum >> 16)).expect("folded");
        assert_eq!(&out[26..28], checksum.to_be_bytes());
    }

    #[test]
    fn fragments_other_protocols_and_families_are_no_datagrams() {
        let mut out = [0; 128];
        assert_eq!(write_udp(&datagram("10.0.0.1", "fd00::1", b""), &mut out), None);
        let length = write_udp(&datagram("10.0.0.1", "10.0.0.2", b"probe"), &mut out).expect("fits");
        assert!(parse_udp(&out[..length]).is_some());
        for (at, value) in [(6, 0x20), (9, 6), (0, 0x46), (3, 10), (20, 1)] {
            let mut broken = out;
            broken[at] = value;
            assert_eq!(parse_udp(&broken[..length]), None, "byte {at}");
        }
        let length = write_udp(&datagram("fd00::1", "fd00::2", b"probe"), &mut out).expect("fits");
        assert!(parse_udp(&out[..length]).is_some());
        out[6] = 44;
        assert_eq!(parse_udp(&out[..length]), None, "a fragment header");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(v6: bool, a: u128, b: u128, ports: (u16, u16), payload in prop::collection::vec(any::<u8>(), 0..80)) {
            let address = |bits: u128| if v6 { IpAddr::V6(bits.into()) } else { IpAddr::V4((bits as u32).into()) };
            let addresses = Addresses { source: address(a), destination: address(b) };
            let datagram = UdpDatagram { addresses, source_port: ports.0, destination_port: ports.1, payload: &payload };
            let mut out = [0xaa; 256];
            let length = write_udp(&datagram, &mut out).expect("fits");
            prop_assert_eq!(parse_udp(&out[..length]), Some(datagram));
            prop_assert_eq!(parse_udp(&out), Some(datagram), "what follows the packet is not the packet's");
            for short in 0..length {
                prop_assert_eq!(parse_udp(&out[..short]), None);
                prop_assert_eq!(write_udp(&datagram, &mut [0; 256][..short]), None);
            }
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..120), first in prop::sample::select(vec![0x45u8, 0x46, 0x4f, 0x60, 0x41, 0xff])) {
            let _ = parse_udp(&bytes);
            let mut shaped = bytes;
            if let Some(byte) = shaped.first_mut() { *byte = first; }
            if let Some((_, length)) = parse_addresses(&shaped) {
                prop_assert!(length <= shaped.len());
            }
            let _ = parse_udp(&shaped);
        }
    }
}
