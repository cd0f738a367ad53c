//! Selectors: the packet's fields and facts that rules match, and what has to hold before each can be read.

use crate::expression::{CtKey, Expression, MetaKey, PayloadBase, Register};
use crate::value::KeyType;

/// The IP family that a match is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IpFamily {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl IpFamily {
    /// The family of an address.
    #[must_use]
    pub fn of(address: std::net::IpAddr) -> Self {
        if address.is_ipv6() { Self::V6 } else { Self::V4 }
    }

    /// `NFPROTO_IPV4` or `NFPROTO_IPV6`.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::V4 => 2,
            Self::V6 => 10,
        }
    }

    pub(crate) fn ethertype(self) -> u16 {
        match self {
            Self::V4 => 0x0800,
            Self::V6 => 0x86dd,
        }
    }
}

/// IP protocol numbers that rules name.
pub mod protocol {
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
    /// SCTP.
    pub const SCTP: u8 = 132;
}

/// Bits of `ct state`.
pub mod ct_state {
    /// Belongs to no connection.
    pub const INVALID: u32 = 1;
    /// Packets went both ways.
    pub const ESTABLISHED: u32 = 2;
    /// Belongs to another connection, as an ICMP error does.
    pub const RELATED: u32 = 4;
    /// Begins a connection.
    pub const NEW: u32 = 8;
    /// Left out of connection tracking.
    pub const UNTRACKED: u32 = 64;
}

/// Bits of `ct status`.
pub mod ct_status {
    /// Packets went both ways.
    pub const SEEN_REPLY: u32 = 0x2;
    /// Its source is translated.
    pub const SNAT: u32 = 0x10;
    /// Its destination is translated.
    pub const DNAT: u32 = 0x20;
}

/// A field of the packet or a fact about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Selector {
    /// The name of the device it came by.
    Iifname,
    /// The name of the device it leaves by.
    Oifname,
    /// IPv4 or IPv6 (2 or 10).
    NfProto,
    /// The IP protocol.
    L4Proto,
    /// The packet mark.
    Mark,
    /// The IPv4 source.
    IpSaddr,
    /// The IPv4 destination.
    IpDaddr,
    /// The IPv6 source.
    Ip6Saddr,
    /// The IPv6 destination.
    Ip6Daddr,
    /// The source port of whatever protocol: the rule has to see to it that there is one.
    Sport,
    /// The destination port of whatever protocol: the rule has to see to it that there is one.
    Dport,
    /// The TCP source port.
    TcpSport,
    /// The TCP destination port.
    TcpDport,
    /// The TCP flags.
    TcpFlags,
    /// The UDP source port.
    UdpSport,
    /// The UDP destination port.
    UdpDport,
    /// The ICMP type.
    IcmpType,
    /// The ICMPv6 type.
    Icmpv6Type,
    /// The connection's state bits ([`ct_state`]).
    CtState,
    /// The connection's status bits ([`ct_status`]).
    CtStatus,
    /// The connection mark.
    CtMark,
    /// 0 for packets from the connection's opener, 1 for replies.
    CtDirection,
    /// The IPv4 destination that the connection's opener addressed, before translation.
    CtOriginalIpDaddr,
    /// The IPv6 destination that the connection's opener addressed, before translation.
    CtOriginalIp6Daddr,
    /// The destination port that the connection's opener addressed, before translation.
    CtOriginalDport,
    /// What the destination address is to this host, by its routing tables ([`address_type`]).
    FibDaddrType,
    /// What the source address is to this host, by its routing tables ([`address_type`]).
    FibSaddrType,
}

/// Values of [`Selector::FibDaddrType`] (`RTN_*` of `linux/rtnetlink.h`).
pub mod address_type {
    /// Another host's.
    pub const UNICAST: u32 = 1;
    /// This host's own.
    pub const LOCAL: u32 = 2;
    /// A broadcast address.
    pub const BROADCAST: u32 = 3;
    /// A multicast address.
    pub const MULTICAST: u32 = 5;
}

impl Selector {
    /// The IP family that it needs.
    pub(crate) fn ip_family(self) -> Option<IpFamily> {
        match self {
            Self::IpSaddr | Self::IpDaddr | Self::IcmpType | Self::CtOriginalIpDaddr => Some(IpFamily::V4),
            Self::Ip6Saddr | Self::Ip6Daddr | Self::Icmpv6Type | Self::CtOriginalIp6Daddr => Some(IpFamily::V6),
            Self::Iifname
            | Self::Oifname
            | Self::NfProto
            | Self::L4Proto
            | Self::Mark
            | Self::Sport
            | Self::Dport
            | Self::TcpSport
            | Self::TcpDport
            | Self::TcpFlags
            | Self::UdpSport
            | Self::UdpDport
            | Self::CtState
            | Self::CtStatus
            | Self::CtMark
            | Self::CtDirection
            | Self::CtOriginalDport
            | Self::FibDaddrType
            | Self::FibSaddrType => None,
        }
    }

    /// The IP protocol that it needs.
    pub(crate) fn protocol(self) -> Option<u8> {
        match self {
            Self::TcpSport | Self::TcpDport | Self::TcpFlags => Some(protocol::TCP),
            Self::UdpSport | Self::UdpDport => Some(protocol::UDP),
            Self::IcmpType => Some(protocol::ICMP),
            Self::Icmpv6Type => Some(protocol::ICMPV6),
            Self::Iifname
            | Self::Oifname
            | Self::NfProto
            | Self::L4Proto
            | Self::Mark
            | Self::IpSaddr
            | Self::IpDaddr
            | Self::Ip6Saddr
            | Self::Ip6Daddr
            | Self::Sport
            | Self::Dport
            | Self::CtState
            | Self::CtStatus
            | Self::CtMark
            | Self::CtDirection
            | Self::CtOriginalIpDaddr
            | Self::CtOriginalIp6Daddr
            | Self::CtOriginalDport
            | Self::FibDaddrType
            | Self::FibSaddrType => None,
        }
    }

    /// The type of its values.
    #[must_use]
    pub fn key_type(self) -> KeyType {
        match self {
            Self::Iifname | Self::Oifname => KeyType::IfName,
            Self::NfProto => KeyType::NfProto,
            Self::L4Proto => KeyType::InetProto,
            Self::Mark | Self::CtMark => KeyType::Mark,
            Self::IpSaddr | Self::IpDaddr | Self::CtOriginalIpDaddr => KeyType::Ipv4Addr,
            Self::Ip6Saddr | Self::Ip6Daddr | Self::CtOriginalIp6Daddr => KeyType::Ipv6Addr,
            Self::Sport
            | Self::Dport
            | Self::TcpSport
            | Self::TcpDport
            | Self::UdpSport
            | Self::UdpDport
            | Self::CtOriginalDport => KeyType::InetService,
            Self::TcpFlags => KeyType::TcpFlags,
            Self::IcmpType => KeyType::IcmpType,
            Self::Icmpv6Type => KeyType::Icmpv6Type,
            Self::CtState => KeyType::CtState,
            Self::CtStatus => KeyType::CtStatus,
            Self::CtDirection => KeyType::CtDirection,
            Self::FibDaddrType | Self::FibSaddrType => KeyType::FibAddressType,
        }
    }

    /// The instruction that loads it.
    pub(crate) fn load(self, to: Register) -> Expression {
        let meta = |key| Expression::Meta { key, to };
        let payload = |base, offset, length| Expression::Payload { base, offset, length, to };
        let ct = |key, direction| Expression::Ct { key, direction, to };
        let (network, transport) = (PayloadBase::Network, PayloadBase::Transport);
        match self {
            Self::Iifname => meta(MetaKey::Iifname),
            Self::Oifname => meta(MetaKey::Oifname),
            Self::NfProto => meta(MetaKey::NfProto),
            Self::L4Proto => meta(MetaKey::L4Proto),
            Self::Mark => meta(MetaKey::Mark),
            Self::IpSaddr => payload(network, 12, 4),
            Self::IpDaddr => payload(network, 16, 4),
            Self::Ip6Saddr => payload(network, 8, 16),
            Self::Ip6Daddr => payload(network, 24, 16),
            Self::Sport | Self::TcpSport | Self::UdpSport => payload(transport, 0, 2),
            Self::Dport | Self::TcpDport | Self::UdpDport => payload(transport, 2, 2),
            Self::TcpFlags => payload(transport, 13, 1),
            Self::IcmpType | Self::Icmpv6Type => payload(transport, 0, 1),
            Self::CtState => ct(CtKey::State, None),
            Self::CtStatus => ct(CtKey::Status, None),
            Self::CtMark => ct(CtKey::Mark, None),
            Self::CtDirection => ct(CtKey::Direction, None),
            Self::CtOriginalIpDaddr => ct(CtKey::DestinationIp, Some(0)),
            Self::CtOriginalIp6Daddr => ct(CtKey::DestinationIp6, Some(0)),
            Self::CtOriginalDport => ct(CtKey::DestinationPort, Some(0)),
            // Result 3 is the address type; flag 1 asks about the source, 2 about the destination.
            Self::FibSaddrType => Expression::Fib { to, result: 3, flags: 1 },
            Self::FibDaddrType => Expression::Fib { to, result: 3, flags: 2 },
        }
    }

    /// The source address of a family.
    #[must_use]
    pub fn saddr(family: IpFamily) -> Self {
        match family {
            IpFamily::V4 => Self::IpSaddr,
            IpFamily::V6 => Self::Ip6Saddr,
        }
    }

    /// The destination address of a family.
    #[must_use]
    pub fn daddr(family: IpFamily) -> Self {
        match family {
            IpFamily::V4 => Self::IpDaddr,
            IpFamily::V6 => Self::Ip6Daddr,
        }
    }

    /// The destination that a connection's opener addressed, of a family.
    #[must_use]
    pub fn ct_original_daddr(family: IpFamily) -> Self {
        match family {
            IpFamily::V4 => Self::CtOriginalIpDaddr,
            IpFamily::V6 => Self::CtOriginalIp6Daddr,
        }
    }
}
