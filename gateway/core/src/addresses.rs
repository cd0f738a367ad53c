//! Which of a node's addresses others can reach its gateway at.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use daisy_api::{Reach, TunnelEndpoint};
use thiserror::Error;

/// The most endpoints that a record holds.
const ENDPOINTS_MAX: usize = 8;

/// What is known of a node's addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeAddresses {
    /// What the operator says is public, by the annotation `public-address` or the gateway's own option; a port only where a
    /// router forwards another one.
    pub declared: Vec<DeclaredAddress>,
    /// The Node's `ExternalIP`s.
    pub external: Vec<IpAddr>,
    /// The Node's `InternalIP`s.
    pub internal: Vec<IpAddr>,
}

/// A public address as an operator gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeclaredAddress {
    /// The address.
    pub address: IpAddr,
    /// The port, where it is not the gateway's own.
    pub port: Option<u16>,
}

/// What is wrong with a declared address.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{value:?} is no address that others could dial: write ADDRESS or ADDRESS:PORT, IPv6 with a port in brackets")]
pub struct DeclaredAddressError {
    /// The text.
    pub value: String,
}

impl From<IpAddr> for DeclaredAddress {
    fn from(address: IpAddr) -> Self {
        Self { address, port: None }
    }
}

/// Reads the annotation `public-address`: `ADDRESS` or `ADDRESS:PORT`, several with commas between. What is good is returned
/// beside what is not.
#[must_use]
pub fn parse_declared(text: &str) -> (Vec<DeclaredAddress>, Vec<DeclaredAddressError>) {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for value in text.split(',').map(str::trim).filter(|value| !value.is_empty()) {
        let plain = value.parse::<IpAddr>().ok().map(DeclaredAddress::from);
        let with_port = || {
            let socket = value.parse::<SocketAddr>().ok()?;
            (socket.port() != 0).then(|| DeclaredAddress { address: socket.ip(), port: Some(socket.port()) })
        };
        match plain.or_else(with_port).filter(|declared| is_dialable(declared.address)) {
            Some(declared) => good.push(declared),
            None => bad.push(DeclaredAddressError { value: value.to_owned() }),
        }
    }
    (good, bad)
}

/// The endpoints of a gateway at `port`, best first, at most 8: declared, external, internal of public scope, internal of private
/// scope. Declared and external addresses are public whatever their scope: someone who knows says so.
#[must_use]
pub fn local_endpoints(node: &NodeAddresses, port: u16) -> Vec<TunnelEndpoint> {
    let declared =
        node.declared.iter().map(|declared| (SocketAddr::new(declared.address, declared.port.unwrap_or(port)), Reach::Public));
    let external = node.external.iter().map(|address| (SocketAddr::new(*address, port), Reach::Public));
    let internal = |reach: Reach| {
        let matching = node.internal.iter().filter(move |address| scope_of(**address) == reach);
        matching.map(move |address| (SocketAddr::new(*address, port), reach))
    };
    let mut endpoints: Vec<TunnelEndpoint> = Vec::new();
    for (address, reach) in declared.chain(external).chain(internal(Reach::Public)).chain(internal(Reach::Private)) {
        let known = endpoints.iter().any(|endpoint| endpoint.address == address);
        if !known && is_dialable(address.ip()) && endpoints.len() < ENDPOINTS_MAX {
            endpoints.push(TunnelEndpoint { address, reach });
        }
    }
    endpoints
}

/// Whether a datagram to the address can reach another host at all, without a scope to say which link.
#[must_use]
pub fn is_dialable(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            let reserved = address.octets()[0] >= 240 || address.octets()[0] == 0;
            !(reserved || address.is_loopback() || address.is_multicast() || address.is_link_local())
        }
        IpAddr::V6(address) => {
            !(address.is_unspecified() || address.is_loopback() || address.is_multicast() || address.is_unicast_link_local())
        }
    }
}

/// From where an address can be reached: `Private` for those of RFC 1918, RFC 6598 (carrier-grade NAT), RFC 4193 and link-local
/// ones, `Public` for all others. Those for documentation count as public: laboratories use them so.
#[must_use]
pub fn scope_of(address: IpAddr) -> Reach {
    let private = match address.to_canonical() {
        IpAddr::V4(address) => address.is_private() || address.is_link_local() || address.is_loopback() || is_shared(address),
        IpAddr::V6(address) => is_local_v6(address),
    };
    if private { Reach::Private } else { Reach::Public }
}

/// RFC 6598: 100.64.0.0/10.
fn is_shared(address: Ipv4Addr) -> bool {
    let [first, second, ..] = address.octets();
    first == 100 && second & 0xc0 == 64
}

fn is_local_v6(address: Ipv6Addr) -> bool {
    address.is_unique_local() || address.is_unicast_link_local() || address.is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn scopes() {
        for text in
            ["10.1.2.3", "172.31.255.255", "192.168.0.1", "100.64.0.1", "100.127.255.255", "169.254.1.1", "fd00::1", "fe80::1"]
        {
            assert_eq!(scope_of(ip(text)), Reach::Private, "{text}");
        }
        for text in ["198.51.100.3", "203.0.113.10", "8.8.8.8", "172.32.0.1", "100.128.0.1", "2001:db8::1", "2606:4700::1"] {
            assert_eq!(scope_of(ip(text)), Reach::Public, "{text}");
        }
        assert_eq!(scope_of(ip("::ffff:10.0.0.1")), Reach::Private);
    }

    #[test]
    fn best_first_and_each_once() {
        let node = NodeAddresses {
            declared: parse_declared("203.0.113.7:4500, 203.0.113.8").0,
            external: vec![ip("203.0.113.8"), ip("10.9.9.9")],
            internal: vec![ip("192.168.1.3"), ip("198.51.100.3"), ip("fe80::1"), ip("2001:db8::3"), ip("127.0.0.1")],
        };
        let endpoints = local_endpoints(&node, 41820);
        let text: Vec<String> = endpoints.iter().map(|endpoint| format!("{} {:?}", endpoint.address, endpoint.reach)).collect();
        let expected = [
            "203.0.113.7:4500 Public",
            "203.0.113.8:41820 Public",
            "10.9.9.9:41820 Public",
            "198.51.100.3:41820 Public",
            "[2001:db8::3]:41820 Public",
            "192.168.1.3:41820 Private",
        ];
        assert_eq!(text, expected);
        let many = NodeAddresses {
            internal: (1..20).map(|n| Ipv4Addr::new(10, 0, 0, n).into()).collect(),
            ..NodeAddresses::default()
        };
        assert_eq!(local_endpoints(&many, 1).len(), 8);
    }

    #[test]
    fn what_cannot_be_dialled_is_named() {
        let (good, bad) = parse_declared("[2001:db8::1]:4500, gateway.example.org, 127.0.0.1, 203.0.113.9:0,");
        assert_eq!(good, [DeclaredAddress { address: ip("2001:db8::1"), port: Some(4500) }]);
        let values: Vec<&str> = bad.iter().map(|error| error.value.as_str()).collect();
        assert_eq!(values, ["gateway.example.org", "127.0.0.1", "203.0.113.9:0"]);
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,60}") {
            let (good, bad) = parse_declared(&text);
            prop_assert!(good.len() + bad.len() <= text.split(',').count());
        }
    }
}
