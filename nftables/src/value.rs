//! Values and their types: what sets hold and rules compare with.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

use crate::error::Invalid;

/// The most bytes of an interface name, without its terminating zero.
const INTERFACE_NAME_MAX: usize = 15;

/// The type of one field of a set's key or data. The kernel knows lengths only; `nft` reads the types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyType {
    /// An address family as `meta nfproto` has it.
    NfProto,
    /// A number of 4 bytes in the host's byte order, as `numgen` makes it.
    Integer,
    /// An IPv4 address.
    Ipv4Addr,
    /// An IPv6 address.
    Ipv6Addr,
    /// An IP protocol number.
    InetProto,
    /// A port.
    InetService,
    /// An ICMP type.
    IcmpType,
    /// TCP flags.
    TcpFlags,
    /// A packet or connection mark.
    Mark,
    /// Bits of a connection's state.
    CtState,
    /// A connection's direction: 0 original, 1 reply.
    CtDirection,
    /// Bits of a connection's status.
    CtStatus,
    /// An ICMPv6 type.
    Icmpv6Type,
    /// The type of an address as the routing tables see it.
    FibAddressType,
    /// An interface name.
    IfName,
}

impl KeyType {
    const ALL: [Self; 15] = [
        Self::NfProto,
        Self::Integer,
        Self::Ipv4Addr,
        Self::Ipv6Addr,
        Self::InetProto,
        Self::InetService,
        Self::IcmpType,
        Self::TcpFlags,
        Self::Mark,
        Self::CtState,
        Self::CtDirection,
        Self::CtStatus,
        Self::Icmpv6Type,
        Self::FibAddressType,
        Self::IfName,
    ];

    /// The number that `nft` knows the type by: 6 bits, so that concatenations pack into one word.
    pub(crate) fn number(self) -> u32 {
        match self {
            Self::NfProto => 2,
            Self::Integer => 4,
            Self::Ipv4Addr => 7,
            Self::Ipv6Addr => 8,
            Self::InetProto => 12,
            Self::InetService => 13,
            Self::IcmpType => 14,
            Self::TcpFlags => 15,
            Self::Mark => 19,
            Self::CtState => 26,
            Self::CtDirection => 27,
            Self::CtStatus => 28,
            Self::Icmpv6Type => 29,
            Self::FibAddressType => 38,
            Self::IfName => 41,
        }
    }

    /// The fields of a type number, a concatenation's first field first.
    pub(crate) fn from_number(mut number: u32) -> Option<Vec<Self>> {
        let mut fields = Vec::new();
        while number != 0 {
            fields.insert(0, Self::ALL.into_iter().find(|t| t.number() == number & 0x3f)?);
            number >>= 6;
        }
        (!fields.is_empty()).then_some(fields)
    }

    /// The type's name in `nft`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NfProto => "nf_proto",
            Self::Integer => "integer",
            Self::Ipv4Addr => "ipv4_addr",
            Self::Ipv6Addr => "ipv6_addr",
            Self::InetProto => "inet_proto",
            Self::InetService => "inet_service",
            Self::IcmpType => "icmp_type",
            Self::TcpFlags => "tcp_flag",
            Self::Mark => "mark",
            Self::CtState => "ct_state",
            Self::CtDirection => "ct_dir",
            Self::CtStatus => "ct_status",
            Self::Icmpv6Type => "icmpv6_type",
            Self::FibAddressType => "fib_addrtype",
            Self::IfName => "ifname",
        }
    }

    /// The length in bytes.
    pub(crate) fn length(self) -> usize {
        match self {
            Self::NfProto | Self::InetProto | Self::IcmpType | Self::TcpFlags | Self::CtDirection | Self::Icmpv6Type => 1,
            Self::InetService => 2,
            Self::Integer | Self::Ipv4Addr | Self::Mark | Self::CtState | Self::CtStatus | Self::FibAddressType => 4,
            Self::Ipv6Addr | Self::IfName => 16,
        }
    }

    /// Whether values are in the host's byte order; the kernel compares bytes, so that these have no ranges.
    pub(crate) fn is_host_order(self) -> bool {
        match self {
            Self::Integer
            | Self::Mark
            | Self::CtState
            | Self::CtStatus
            | Self::FibAddressType
            | Self::IfName
            | Self::CtDirection
            | Self::NfProto => true,
            Self::Ipv4Addr
            | Self::Ipv6Addr
            | Self::InetProto
            | Self::InetService
            | Self::IcmpType
            | Self::TcpFlags
            | Self::Icmpv6Type => false,
        }
    }

    /// Reads a value of this type.
    pub(crate) fn decode(self, bytes: &[u8]) -> Option<Value> {
        let bytes = bytes.get(..self.length())?;
        Some(match self {
            Self::Ipv4Addr => Value::Ipv4(<[u8; 4]>::try_from(bytes).ok()?.into()),
            Self::Ipv6Addr => Value::Ipv6(<[u8; 16]>::try_from(bytes).ok()?.into()),
            Self::InetService => Value::U16(u16::from_be_bytes(bytes.try_into().ok()?)),
            Self::NfProto | Self::InetProto | Self::IcmpType | Self::TcpFlags | Self::CtDirection | Self::Icmpv6Type => {
                Value::U8(*bytes.first()?)
            }
            Self::Integer | Self::Mark | Self::CtState | Self::CtStatus | Self::FibAddressType => {
                Value::U32(u32::from_ne_bytes(bytes.try_into().ok()?))
            }
            Self::IfName => {
                let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
                Value::Name(String::from_utf8_lossy(&bytes[..end]).into_owned())
            }
        })
    }
}

/// One value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Value {
    /// An IPv4 address.
    Ipv4(Ipv4Addr),
    /// An IPv6 address.
    Ipv6(Ipv6Addr),
    /// A number of one byte: a protocol, an ICMP type, a direction.
    U8(u8),
    /// A port.
    U16(u16),
    /// A mark, a number, state or status bits.
    U32(u32),
    /// An interface name, at most 15 bytes.
    Name(String),
}

impl Value {
    /// The value's bytes as the kernel compares them.
    pub(crate) fn encode(&self, as_type: KeyType) -> Result<Vec<u8>, Invalid> {
        let wrong = || Invalid::Type { value: self.to_string(), expected: as_type.name() };
        match (self, as_type.length()) {
            (Self::Ipv4(a), _) if as_type == KeyType::Ipv4Addr => Ok(a.octets().to_vec()),
            (Self::Ipv6(a), _) if as_type == KeyType::Ipv6Addr => Ok(a.octets().to_vec()),
            (Self::Name(name), _) if as_type == KeyType::IfName => {
                if name.is_empty() || name.len() > INTERFACE_NAME_MAX || name.contains('\0') {
                    return Err(Invalid::Name { what: "interface", name: name.clone(), max: INTERFACE_NAME_MAX });
                }
                let mut bytes = name.as_bytes().to_vec();
                bytes.resize(as_type.length(), 0);
                Ok(bytes)
            }
            (Self::U8(n), 1) => Ok(vec![*n]),
            (Self::U16(n), 2) => Ok(n.to_be_bytes().to_vec()),
            (Self::U32(n), 4) if as_type != KeyType::Ipv4Addr => Ok(n.to_ne_bytes().to_vec()),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ipv4(a) => write!(f, "{a}"),
            Self::Ipv6(a) => write!(f, "{a}"),
            Self::U8(n) => write!(f, "{n}"),
            Self::U16(n) => write!(f, "{n}"),
            Self::U32(n) => write!(f, "{n}"),
            Self::Name(n) => write!(f, "{n:?}"),
        }
    }
}

impl From<Ipv4Addr> for Value {
    fn from(a: Ipv4Addr) -> Self {
        Self::Ipv4(a)
    }
}

impl From<Ipv6Addr> for Value {
    fn from(a: Ipv6Addr) -> Self {
        Self::Ipv6(a)
    }
}

impl From<IpAddr> for Value {
    fn from(a: IpAddr) -> Self {
        match a {
            IpAddr::V4(a) => Self::Ipv4(a),
            IpAddr::V6(a) => Self::Ipv6(a),
        }
    }
}

impl From<u8> for Value {
    fn from(n: u8) -> Self {
        Self::U8(n)
    }
}

impl From<u16> for Value {
    fn from(n: u16) -> Self {
        Self::U16(n)
    }
}

impl From<u32> for Value {
    fn from(n: u32) -> Self {
        Self::U32(n)
    }
}

impl From<&str> for Value {
    fn from(name: &str) -> Self {
        Self::Name(name.to_owned())
    }
}

impl From<String> for Value {
    fn from(name: String) -> Self {
        Self::Name(name)
    }
}

/// One field of an element's key: a value, or in a set with intervals, a network or range.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// One value.
    One(Value),
    /// All addresses of a network.
    Network(IpNetwork),
    /// All values from the first to the last, both included.
    Range(Value, Value),
}

impl Key {
    /// The first and the last value's bytes.
    pub(crate) fn bounds(&self, as_type: KeyType) -> Result<(Vec<u8>, Vec<u8>), Invalid> {
        let (first, last) = match self {
            Self::One(value) => (value.encode(as_type)?, value.encode(as_type)?),
            Self::Network(network) => {
                let first = Value::from(network.network()).encode(as_type)?;
                let last = Value::from(last_of(network)).encode(as_type)?;
                (first, last)
            }
            Self::Range(first, last) => (first.encode(as_type)?, last.encode(as_type)?),
        };
        // Bytes in the host's order do not sort as their values do.
        if first > last || (first != last && as_type.is_host_order()) {
            return Err(Invalid::Range(self.to_string()));
        }
        Ok((first, last))
    }

    /// The shortest way to say that a field lies between these bounds.
    pub(crate) fn from_bounds(first: Value, last: Value) -> Self {
        if first == last {
            return Self::One(first);
        }
        let network = match (&first, &last) {
            (Value::Ipv4(a), Value::Ipv4(b)) => network_of(u128::from(u32::from(*a)), u128::from(u32::from(*b)), 32)
                .and_then(|prefix| IpNetwork::new(IpAddr::V4(*a), prefix).ok()),
            (Value::Ipv6(a), Value::Ipv6(b)) => {
                network_of(u128::from(*a), u128::from(*b), 128).and_then(|prefix| IpNetwork::new(IpAddr::V6(*a), prefix).ok())
            }
            _ => None,
        };
        network.map_or(Self::Range(first, last), Self::Network)
    }
}

/// The last address of a network.
fn last_of(network: &IpNetwork) -> IpAddr {
    match network {
        IpNetwork::V4(n) => IpAddr::V4(n.broadcast()),
        IpNetwork::V6(n) => IpAddr::V6(n.broadcast()),
    }
}

/// The prefix length of the network that spans exactly these addresses, if one does.
fn network_of(first: u128, last: u128, width: u8) -> Option<u8> {
    let differing = first ^ last;
    let host_bits = u8::try_from(128 - differing.leading_zeros()).ok()?;
    let mask = if host_bits == 128 { u128::MAX } else { (1u128 << host_bits) - 1 };
    (differing == mask && first & mask == 0).then(|| width.checked_sub(host_bits)).flatten()
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(value) => write!(f, "{value}"),
            Self::Network(network) => write!(f, "{network}"),
            Self::Range(first, last) => write!(f, "{first}-{last}"),
        }
    }
}

impl From<IpNetwork> for Key {
    fn from(network: IpNetwork) -> Self {
        Self::Network(network)
    }
}

macro_rules! key_from_value {
    ($($value:ty),*) => {
        $(impl From<$value> for Key {
            fn from(value: $value) -> Self {
                Self::One(value.into())
            }
        })*
    };
}
key_from_value!(Ipv4Addr, Ipv6Addr, IpAddr, u8, u16, u32, &str, String);

impl From<Value> for Key {
    fn from(value: Value) -> Self {
        Self::One(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn networks_survive_their_bounds(address: u128, prefix in 0u8..=128, four in any::<u32>(), short in 0u8..=32) {
            let six = IpNetwork::new(IpAddr::V6(address.into()), prefix).expect("prefix in range");
            let six = IpNetwork::new(six.network(), prefix).expect("prefix in range");
            let four = IpNetwork::new(IpAddr::V4(four.into()), short).expect("prefix in range");
            let four = IpNetwork::new(four.network(), short).expect("prefix in range");
            for (network, of) in [(six, KeyType::Ipv6Addr), (four, KeyType::Ipv4Addr)] {
                let (first, last) = Key::from(network).bounds(of).expect("addresses");
                let read = Key::from_bounds(of.decode(&first).expect("address"), of.decode(&last).expect("address"));
                if network.prefix() == of.length() as u8 * 8 {
                    prop_assert_eq!(read, Key::from(network.ip()));
                } else {
                    prop_assert_eq!(read, Key::Network(network));
                }
            }
        }

        #[test]
        fn values_are_read_as_written(n: u8, port: u16, mark: u32, name in "[a-z0-9]{1,15}") {
            for (value, of) in [
                (Value::from(n), KeyType::InetProto),
                (Value::from(port), KeyType::InetService),
                (Value::from(mark), KeyType::Mark),
                (Value::from(name), KeyType::IfName),
            ] {
                prop_assert_eq!(of.decode(&value.encode(of).expect("fits")), Some(value));
            }
        }
    }

    #[test]
    fn types_pack_into_one_number() {
        let fields = [KeyType::Ipv4Addr, KeyType::InetProto, KeyType::InetService];
        let packed = fields.iter().fold(0, |n, t| n << 6 | t.number());
        assert_eq!(packed, 0x730d);
        assert_eq!(KeyType::from_number(packed).as_deref(), Some(&fields[..]));
        assert_eq!(KeyType::from_number(63), None);
    }

    #[test]
    fn a_value_of_another_type_is_refused() {
        assert!(Value::from(80u16).encode(KeyType::Ipv4Addr).is_err());
        assert!(Value::from(1u32).encode(KeyType::Ipv4Addr).is_err());
        assert!(Value::from("a-name-of-16-byt").encode(KeyType::IfName).is_err());
        assert!(Key::Range(Value::from(1u32), Value::from(2u32)).bounds(KeyType::Mark).is_err());
        assert!(Key::Range(Value::from(2u16), Value::from(1u16)).bounds(KeyType::InetService).is_err());
    }
}
