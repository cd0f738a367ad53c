//! The words that rules are written in: each one a match or an action of [`Rule`].

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnetwork::IpNetwork;

use crate::expression::{Comparison, CtKey, Expression, MetaKey, NatKind, Register, Verdict};
use crate::rule::{Reject, Rule, port_selector};
use crate::selector::{IpFamily, Selector, protocol};
use crate::value::{Key, Value};

/// The TCP option that holds the maximum segment size (RFC 9293 section 3.7.1), its value 2 bytes at offset 2.
const TCP_OPTION_MSS: u8 = 2;
/// The SYN and RST bits of the TCP flags.
const SYN: u8 = 0x02;
const RST: u8 = 0x04;

fn range(ports: &RangeInclusive<u16>) -> Key {
    Key::Range(Value::U16(*ports.start()), Value::U16(*ports.end()))
}

/// Matches of a named interface: `*` at the end stands for any rest.
impl Rule {
    /// It came by this device.
    #[must_use]
    pub fn iifname(self, name: &str) -> Self {
        self.matches(Selector::Iifname, name)
    }

    /// It did not come by this device.
    #[must_use]
    pub fn not_iifname(self, name: &str) -> Self {
        self.not_matches(Selector::Iifname, name)
    }

    /// It leaves by this device.
    #[must_use]
    pub fn oifname(self, name: &str) -> Self {
        self.matches(Selector::Oifname, name)
    }

    /// It does not leave by this device.
    #[must_use]
    pub fn not_oifname(self, name: &str) -> Self {
        self.not_matches(Selector::Oifname, name)
    }
}

/// Matches of addresses: the family is that of the network or address given.
impl Rule {
    /// Its source lies in this network.
    #[must_use]
    pub fn saddr(self, network: impl Into<IpNetwork>) -> Self {
        let network = network.into();
        self.matches(Selector::saddr(IpFamily::of(network.ip())), network)
    }

    /// Its source lies elsewhere (and is of the same family).
    #[must_use]
    pub fn not_saddr(self, network: impl Into<IpNetwork>) -> Self {
        let network = network.into();
        self.not_matches(Selector::saddr(IpFamily::of(network.ip())), network)
    }

    /// Its destination lies in this network.
    #[must_use]
    pub fn daddr(self, network: impl Into<IpNetwork>) -> Self {
        let network = network.into();
        self.matches(Selector::daddr(IpFamily::of(network.ip())), network)
    }

    /// Its destination lies elsewhere (and is of the same family).
    #[must_use]
    pub fn not_daddr(self, network: impl Into<IpNetwork>) -> Self {
        let network = network.into();
        self.not_matches(Selector::daddr(IpFamily::of(network.ip())), network)
    }

    /// Its IPv4 source is in the named set.
    #[must_use]
    pub fn ip_saddr_in_set(self, set: &str) -> Self {
        self.in_set(&[Selector::IpSaddr], set)
    }

    /// Its IPv4 destination is in the named set.
    #[must_use]
    pub fn ip_daddr_in_set(self, set: &str) -> Self {
        self.in_set(&[Selector::IpDaddr], set)
    }

    /// Its IPv6 source is in the named set.
    #[must_use]
    pub fn ip6_saddr_in_set(self, set: &str) -> Self {
        self.in_set(&[Selector::Ip6Saddr], set)
    }

    /// Its IPv6 destination is in the named set.
    #[must_use]
    pub fn ip6_daddr_in_set(self, set: &str) -> Self {
        self.in_set(&[Selector::Ip6Daddr], set)
    }

    /// Its source, of this family, is in the named set.
    #[must_use]
    pub fn saddr_in_set(self, family: IpFamily, set: &str) -> Self {
        self.in_set(&[Selector::saddr(family)], set)
    }

    /// Its source, of this family, is not in the named set.
    #[must_use]
    pub fn saddr_not_in_set(self, family: IpFamily, set: &str) -> Self {
        self.not_in_set(&[Selector::saddr(family)], set)
    }

    /// Its destination, of this family, is in the named set.
    #[must_use]
    pub fn daddr_in_set(self, family: IpFamily, set: &str) -> Self {
        self.in_set(&[Selector::daddr(family)], set)
    }

    /// Its destination, of this family, is not in the named set.
    #[must_use]
    pub fn daddr_not_in_set(self, family: IpFamily, set: &str) -> Self {
        self.not_in_set(&[Selector::daddr(family)], set)
    }
}

/// Matches of transport headers.
impl Rule {
    /// TCP from this port.
    #[must_use]
    pub fn tcp_sport(self, port: u16) -> Self {
        self.matches(Selector::TcpSport, port)
    }

    /// TCP from one of these ports, both ends included.
    #[must_use]
    pub fn tcp_sports(self, ports: RangeInclusive<u16>) -> Self {
        self.matches(Selector::TcpSport, range(&ports))
    }

    /// TCP to this port.
    #[must_use]
    pub fn tcp_dport(self, port: u16) -> Self {
        self.matches(Selector::TcpDport, port)
    }

    /// TCP to one of these ports, both ends included.
    #[must_use]
    pub fn tcp_dports(self, ports: RangeInclusive<u16>) -> Self {
        self.matches(Selector::TcpDport, range(&ports))
    }

    /// UDP from this port.
    #[must_use]
    pub fn udp_sport(self, port: u16) -> Self {
        self.matches(Selector::UdpSport, port)
    }

    /// UDP from one of these ports, both ends included.
    #[must_use]
    pub fn udp_sports(self, ports: RangeInclusive<u16>) -> Self {
        self.matches(Selector::UdpSport, range(&ports))
    }

    /// UDP to this port.
    #[must_use]
    pub fn udp_dport(self, port: u16) -> Self {
        self.matches(Selector::UdpDport, port)
    }

    /// UDP to one of these ports, both ends included.
    #[must_use]
    pub fn udp_dports(self, ports: RangeInclusive<u16>) -> Self {
        self.matches(Selector::UdpDport, range(&ports))
    }

    /// This protocol (one that has ports) to this port.
    #[must_use]
    pub fn dport(self, number: u8, port: u16) -> Self {
        self.l4proto(number).matches(port_selector(number, false), port)
    }

    /// This protocol (one that has ports) from this port.
    #[must_use]
    pub fn sport(self, number: u8, port: u16) -> Self {
        self.l4proto(number).matches(port_selector(number, true), port)
    }

    /// Of the TCP flags in `mask`, exactly those of `set` are set.
    #[must_use]
    pub fn tcp_flags(self, mask: u8, set: u8) -> Self {
        self.masked(Selector::TcpFlags, mask, set)
    }

    /// An ICMP echo request, or an ICMPv6 one.
    #[must_use]
    pub fn echo_request(self, family: IpFamily) -> Self {
        match family {
            IpFamily::V4 => self.matches(Selector::IcmpType, 8u8),
            IpFamily::V6 => self.matches(Selector::Icmpv6Type, 128u8),
        }
    }

    /// This ICMP type.
    #[must_use]
    pub fn icmp_type(self, number: u8) -> Self {
        self.matches(Selector::IcmpType, number)
    }

    /// This ICMPv6 type.
    #[must_use]
    pub fn icmpv6_type(self, number: u8) -> Self {
        self.matches(Selector::Icmpv6Type, number)
    }
}

/// Matches of marks and of connection tracking.
impl Rule {
    /// The packet mark.
    #[must_use]
    pub fn mark(self, mark: u32) -> Self {
        self.matches(Selector::Mark, mark)
    }

    /// The packet mark's bits in `mask`.
    #[must_use]
    pub fn mark_masked(self, mask: u32, value: u32) -> Self {
        self.masked(Selector::Mark, mask, value)
    }

    /// The connection mark.
    #[must_use]
    pub fn ct_mark(self, mark: u32) -> Self {
        self.matches(Selector::CtMark, mark)
    }

    /// The connection's state is one of these bits ([`crate::ct_state`]).
    #[must_use]
    pub fn ct_state(self, bits: u32) -> Self {
        self.any_bit(Selector::CtState, bits)
    }

    /// The connection has any of these status bits ([`crate::ct_status`]).
    #[must_use]
    pub fn ct_status(self, bits: u32) -> Self {
        self.any_bit(Selector::CtStatus, bits)
    }

    /// It goes from the connection's opener to the other side.
    #[must_use]
    pub fn ct_original_direction(self) -> Self {
        self.matches(Selector::CtDirection, 0u8)
    }

    /// It is an answer to the connection's opener.
    #[must_use]
    pub fn ct_reply_direction(self) -> Self {
        self.matches(Selector::CtDirection, 1u8)
    }

    /// What the connection's opener addressed, before any translation, lies in this network.
    #[must_use]
    pub fn ct_original_daddr(self, network: impl Into<IpNetwork>) -> Self {
        let network = network.into();
        self.matches(Selector::ct_original_daddr(IpFamily::of(network.ip())), network)
    }
}

/// Actions that decide. They end the rule.
impl Rule {
    /// Decides so.
    #[must_use]
    pub fn verdict(self, verdict: Verdict) -> Self {
        self.expression(Expression::Verdict(verdict))
    }

    /// It passes this base chain.
    #[must_use]
    pub fn accept(self) -> Self {
        self.verdict(Verdict::Accept)
    }

    /// It is gone.
    #[must_use]
    pub fn drop(self) -> Self {
        self.verdict(Verdict::Drop)
    }

    /// Back to the calling chain.
    #[must_use]
    pub fn return_(self) -> Self {
        self.verdict(Verdict::Return)
    }

    /// On in this chain, and back.
    #[must_use]
    pub fn jump(self, chain: impl Into<String>) -> Self {
        self.verdict(Verdict::Jump(chain.into()))
    }

    /// On in this chain, and not back.
    #[must_use]
    pub fn goto(self, chain: impl Into<String>) -> Self {
        self.verdict(Verdict::Goto(chain.into()))
    }

    /// It is gone, and its sender is told.
    #[must_use]
    pub fn reject(self, with: Reject) -> Self {
        let icmp = |code| Expression::Reject { kind: 2, code };
        match with {
            Reject::NoRoute => self.expression(icmp(0)),
            Reject::PortUnreachable => self.expression(icmp(1)),
            Reject::HostUnreachable => self.expression(icmp(2)),
            Reject::AdminProhibited => self.expression(icmp(3)),
            Reject::TcpReset => self.l4proto(protocol::TCP).expression(Expression::Reject { kind: 1, code: 0 }),
        }
    }
}

/// Actions that translate addresses (nat chains). They end the rule.
impl Rule {
    /// The source becomes an address of the device that it leaves by (postrouting).
    #[must_use]
    pub fn masquerade(self) -> Self {
        self.expression(Expression::Masquerade { flags: 0 })
    }

    fn nat_to(self, kind: NatKind, address: IpAddr, port: Option<u16>) -> Self {
        let family = IpFamily::of(address);
        let bytes = match address {
            IpAddr::V4(a) => a.octets().to_vec(),
            IpAddr::V6(a) => a.octets().to_vec(),
        };
        let port_register = port.and_then(|_| Register::FIRST.after(bytes.len()));
        let mut rule = self.family(family).expression(Expression::Load { bytes, to: Register::FIRST });
        if let (Some(port), Some(to)) = (port, port_register) {
            rule = rule.expression(Expression::Load { bytes: port.to_be_bytes().to_vec(), to });
        }
        rule.nat(kind, family, Some(Register::FIRST), port_register)
    }

    /// The source becomes this address, and this port if one is given (postrouting, input). A port needs a match of its
    /// protocol before.
    #[must_use]
    pub fn snat(self, address: IpAddr, port: Option<u16>) -> Self {
        self.nat_to(NatKind::Source, address, port)
    }

    /// The destination becomes this address, and this port if one is given (prerouting, output). A port needs a match of its
    /// protocol before.
    #[must_use]
    pub fn dnat(self, address: IpAddr, port: Option<u16>) -> Self {
        self.nat_to(NatKind::Destination, address, port)
    }

    /// The source stays what it is, and later chains cannot change it: a connection is translated once (postrouting).
    #[must_use]
    pub fn snat_to_saddr(self, family: IpFamily) -> Self {
        self.family(family).expression(Selector::saddr(family).load(Register::FIRST)).nat(
            NatKind::Source,
            family,
            Some(Register::FIRST),
            None,
        )
    }

    /// The destination stays what it is, and later chains cannot change it (prerouting, output).
    #[must_use]
    pub fn dnat_to_daddr(self, family: IpFamily) -> Self {
        self.family(family).expression(Selector::daddr(family).load(Register::FIRST)).nat(
            NatKind::Destination,
            family,
            Some(Register::FIRST),
            None,
        )
    }

    /// The destination becomes this host, at this port if one is given (prerouting, output).
    #[must_use]
    pub fn redirect(self, port: Option<u16>) -> Self {
        match port {
            None => self.expression(Expression::Redirect { port: None, flags: 0 }),
            Some(port) => self
                .expression(Expression::Load { bytes: port.to_be_bytes().to_vec(), to: Register::FIRST })
                .expression(Expression::Redirect { port: Some(Register::FIRST), flags: 2 }),
        }
    }
}

/// Actions after which the rule goes on.
impl Rule {
    /// Counts what has matched so far.
    #[must_use]
    pub fn counter(self) -> Self {
        self.expression(Expression::Counter { packets: 0, bytes: 0 })
    }

    /// Counts in a named counter ([`crate::Batch::add_counter`]).
    #[must_use]
    pub fn named_counter(self, name: impl Into<String>) -> Self {
        self.expression(Expression::NamedCounter { name: name.into() })
    }

    /// Goes on for up to `rate` packets a second, and `burst` more at once.
    #[must_use]
    pub fn limit(self, rate: u64, burst: u32) -> Self {
        self.expression(Expression::Limit { rate, unit: 1, burst, inverted: false })
    }

    /// Sets the packet mark.
    #[must_use]
    pub fn set_mark(self, mark: u32) -> Self {
        self.set_meta(MetaKey::Mark, mark.to_ne_bytes().to_vec())
    }

    /// Sets the bits of `mask` in the packet mark to those of `value`, and leaves the others.
    #[must_use]
    pub fn set_mark_masked(self, mask: u32, value: u32) -> Self {
        let register = Register::FIRST;
        self.expression(Selector::Mark.load(register))
            .expression(Expression::Bitwise {
                from: register,
                to: register,
                mask: (!mask).to_ne_bytes().to_vec(),
                xor: (value & mask).to_ne_bytes().to_vec(),
            })
            .expression(Expression::MetaSet { key: MetaKey::Mark, from: register })
    }

    /// Sets the connection mark.
    #[must_use]
    pub fn set_ct_mark(self, mark: u32) -> Self {
        let register = Register::FIRST;
        self.expression(Expression::Load { bytes: mark.to_ne_bytes().to_vec(), to: register })
            .expression(Expression::CtSet { key: CtKey::Mark, from: register })
    }

    /// Gives the connection the packet's mark.
    #[must_use]
    pub fn save_mark(self) -> Self {
        let register = Register::FIRST;
        self.expression(Selector::Mark.load(register)).expression(Expression::CtSet { key: CtKey::Mark, from: register })
    }

    /// Gives the packet the connection's mark.
    #[must_use]
    pub fn restore_mark(self) -> Self {
        let register = Register::FIRST;
        self.expression(Selector::CtMark.load(register)).expression(Expression::MetaSet { key: MetaKey::Mark, from: register })
    }

    /// Leaves the packet out of connection tracking (before [`crate::priority::CONNTRACK`]).
    #[must_use]
    pub fn notrack(self) -> Self {
        self.expression(Expression::Notrack)
    }

    fn of_syn(self) -> Self {
        self.tcp_flags(SYN | RST, SYN)
    }

    fn set_mss(self, from: Register) -> Self {
        self.expression(Expression::TcpOptionSet { option: TCP_OPTION_MSS, offset: 2, length: 2, from })
    }

    /// On TCP SYN packets, lowers the maximum segment size to what the route's MTU allows (forward, output, postrouting).
    #[must_use]
    pub fn clamp_mss_to_route(self) -> Self {
        let register = Register::FIRST;
        self.of_syn()
            .expression(Expression::RouteMss { to: register })
            .expression(Expression::ToNetworkOrder { from: register, to: register, length: 2, size: 2 })
            .set_mss(register)
    }

    /// On TCP SYN packets, lowers the maximum segment size to this many bytes.
    #[must_use]
    pub fn clamp_mss(self, bytes: u16) -> Self {
        let register = Register::FIRST;
        self.of_syn().expression(Expression::Load { bytes: bytes.to_be_bytes().to_vec(), to: register }).set_mss(register)
    }

    /// The way back to its source does not lead out of the device that it came by: the source may be forged (prerouting, input,
    /// forward; RFC 3704 section 2.2).
    #[must_use]
    pub fn reverse_path_missing(self) -> Self {
        // Result 1 is a device; the flags ask about the source (1), by the device it came by (8), for its being there (32).
        let register = Register::FIRST;
        self.expression(Expression::Fib { to: register, result: 1, flags: 1 | 8 | 32 }).expression(Expression::Compare {
            register,
            comparison: Comparison::Equal,
            value: vec![0; 4],
        })
    }

    /// The destination, by the routing tables, is of this type ([`crate::address_type`]): one of this host's own, say.
    #[must_use]
    pub fn daddr_type(self, address_type: u32) -> Self {
        self.matches(Selector::FibDaddrType, Value::U32(address_type))
    }
}
