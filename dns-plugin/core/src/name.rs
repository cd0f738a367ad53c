//! Names: what a query asks for, and the names that answers are made of.
//!
//! ```text
//! SERVICE.NAMESPACE.svc.ZONE                                  a Service
//! _PORT._PROTOCOL.SERVICE.NAMESPACE.svc.ZONE                  its named port (SRV)
//! HOSTNAME.CLUSTER.SERVICE.NAMESPACE.svc.ZONE                 an endpoint of a headless import
//! HOSTNAME.SERVICE.NAMESPACE.svc.ZONE                         an endpoint of a headless Service of this cluster
//! _PORT._PROTOCOL.HOSTNAME.CLUSTER.SERVICE.NAMESPACE.svc.ZONE that endpoint's named port (SRV)
//! dns-version.ZONE                                            the version of the schema (TXT)
//! ```

use std::fmt;
use std::str::FromStr;

use daisy_api::Protocol;
use daisy_api::names::{LABEL_MAX, SUBDOMAIN_MAX, is_label};
use thiserror::Error;

use crate::zone::{Zone, ZoneKind};

/// The longest name on the wire, in bytes, with the length bytes and the root (RFC 1035 section 2.3.4).
const WIRE_MAX: usize = 255;
/// The most labels that so many bytes hold.
const LABELS_MAX: usize = 127;

/// A name as a query carries it: any bytes, folded to lower case, on the stack.
#[derive(Clone, Copy)]
pub struct QueryName {
    bytes: [u8; WIRE_MAX],
    /// Where each label ends in `bytes`; the first label is the leftmost.
    ends: [u8; LABELS_MAX],
    count: u8,
}

impl QueryName {
    /// Takes the labels from left to right, without the root; `None` where they do not make a name of the DNS.
    pub fn from_labels<'a>(labels: impl IntoIterator<Item = &'a [u8]>) -> Option<Self> {
        let mut name = Self { bytes: [0; WIRE_MAX], ends: [0; LABELS_MAX], count: 0 };
        let mut at = 0usize;
        for label in labels {
            let count = usize::from(name.count);
            if label.is_empty() || label.len() > LABEL_MAX || count >= LABELS_MAX {
                return None;
            }
            let end = at + label.len();
            // Each label costs a length byte on the wire, and the root one more.
            if end + count + 2 > WIRE_MAX {
                return None;
            }
            name.bytes[at..end].copy_from_slice(label);
            name.bytes[at..end].make_ascii_lowercase();
            name.ends[count] = u8::try_from(end).ok()?;
            name.count += 1;
            at = end;
        }
        Some(name)
    }

    /// How many labels there are.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::from(self.count)
    }

    /// Whether it is the root.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The label at this place, counted from the left.
    fn label(&self, index: usize) -> &[u8] {
        let start = if index == 0 { 0 } else { usize::from(self.ends[index - 1]) };
        &self.bytes[start..usize::from(self.ends[index])]
    }

    /// The labels from left to right.
    pub fn labels(&self) -> impl DoubleEndedIterator<Item = &[u8]> + ExactSizeIterator {
        (0..self.len()).map(|index| self.label(index))
    }

    /// Whether the name is `domain` or lies under it; how many labels stand before it.
    #[must_use]
    pub fn under(&self, domain: &DomainName) -> Option<usize> {
        let mut before = self.len();
        for label in domain.as_str().rsplit('.') {
            before = before.checked_sub(1)?;
            if self.label(before) != label.as_bytes() {
                return None;
            }
        }
        Some(before)
    }
}

impl FromStr for QueryName {
    type Err = DomainNameError;

    /// Reads labels between dots, with or without the root's dot; there is no escape.
    fn from_str(text: &str) -> Result<Self, DomainNameError> {
        let trimmed = text.strip_suffix('.').unwrap_or(text);
        let labels = trimmed.split('.').filter(|_| !trimmed.is_empty()).map(str::as_bytes);
        Self::from_labels(labels).ok_or_else(|| DomainNameError::new(text))
    }
}

impl fmt::Display for QueryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str(".");
        }
        for (index, label) in self.labels().enumerate() {
            let dot = if index == 0 { "" } else { "." };
            write!(f, "{dot}{}", label.escape_ascii())?;
        }
        Ok(())
    }
}

impl fmt::Debug for QueryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no name of a host or a service.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{value:?} is not a domain name: use labels of 1 to 63 of a-z, 0-9, '-' and '_' between dots, 253 bytes in all")]
pub struct DomainNameError {
    /// The text, cut short.
    pub value: String,
}

impl DomainNameError {
    fn new(text: &str) -> Self {
        Self { value: text.chars().take(SUBDOMAIN_MAX).collect() }
    }
}

/// A name that answers are made of: lower case, labels of letters, digits, `-` and `_`, without the root's dot.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomainName(String);

impl DomainName {
    /// Parses a name, folding it to lower case; the root's dot may be there.
    ///
    /// # Errors
    /// [`DomainNameError`] names the text.
    pub fn parse(text: &str) -> Result<Self, DomainNameError> {
        let folded = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let label = |label: &str| {
            let byte = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
            !label.is_empty() && label.len() <= LABEL_MAX && label.bytes().all(byte)
        };
        if folded.len() <= SUBDOMAIN_MAX && folded.split('.').all(label) {
            Ok(Self(folded))
        } else {
            Err(DomainNameError::new(text))
        }
    }

    /// A name of our own, which is valid.
    pub(crate) fn from_constant(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// These labels under a domain; `None` where that would be too long to be a name.
    #[must_use]
    pub fn compose(labels: &[&str], domain: &Self) -> Option<Self> {
        let length = labels.iter().map(|l| l.len() + 1).sum::<usize>() + domain.0.len();
        if length > SUBDOMAIN_MAX {
            return None;
        }
        let mut text = String::with_capacity(length);
        for label in labels {
            text.push_str(label);
            text.push('.');
        }
        text.push_str(&domain.0);
        Some(Self(text))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as a query would carry it.
    #[must_use]
    pub fn to_query(&self) -> Option<QueryName> {
        QueryName::from_labels(self.0.split('.').map(str::as_bytes))
    }
}

impl fmt::Display for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// A Service in a name: both parts are DNS labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServiceRef<'n> {
    /// Its namespace.
    pub namespace: &'n str,
    /// Its name.
    pub name: &'n str,
}

/// Where a query's name lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked<'n> {
    /// The root itself, as in CoreDNS's health question `. IN NS`.
    Root,
    /// In none of the zones.
    Outside,
    /// In the zone of this index.
    In(usize, What<'n>),
}

/// What a name in a zone stands for, by its shape alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What<'n> {
    /// Nothing, whatever the cluster holds.
    Nothing,
    /// The zone itself.
    Apex,
    /// `svc`, under which all Services are.
    Services,
    /// `dns-version`.
    Version,
    /// A namespace, under which its Services are.
    Namespace(&'n str),
    /// A Service.
    Service(ServiceRef<'n>),
    /// A label under a Service: a hostname, or a cluster.
    Under(ServiceRef<'n>, &'n str),
    /// `_tcp` and its like under a Service, under which its ports are.
    Protocol(ServiceRef<'n>, Protocol),
    /// A named port of a Service.
    Port(ServiceRef<'n>, Protocol, &'n str),
    /// An endpoint of a headless import.
    Endpoint(ServiceRef<'n>, Host<'n>),
    /// `_tcp` and its like under an endpoint.
    EndpointProtocol(ServiceRef<'n>, Host<'n>, Protocol),
    /// A named port of an endpoint.
    EndpointPort(ServiceRef<'n>, Host<'n>, Protocol, &'n str),
}

/// An endpoint's hostname and its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Host<'n> {
    /// The cluster's ID.
    pub cluster: &'n str,
    /// The hostname, or what stands for it ([`crate::dashed`]).
    pub hostname: &'n str,
}

/// Finds the zone that a name lies in, and what it stands for there.
#[must_use]
pub fn parse<'n>(name: &'n QueryName, zones: &[Zone]) -> Asked<'n> {
    if name.is_empty() {
        return Asked::Root;
    }
    let found = zones
        .iter()
        .enumerate()
        .filter_map(|(index, zone)| Some((name.under(&zone.apex)?, index, zone.kind)))
        .min_by_key(|found| found.0);
    match found {
        None => Asked::Outside,
        Some((before, index, kind)) => Asked::In(index, parse_in_zone(name, before, kind)),
    }
}

fn parse_in_zone(name: &QueryName, before: usize, kind: ZoneKind) -> What<'_> {
    // The deepest name has eight labels before the zone.
    let mut labels: [&str; 8] = [""; 8];
    if before > labels.len() {
        return What::Nothing;
    }
    for (place, label) in labels.iter_mut().zip(name.labels().take(before)) {
        match std::str::from_utf8(label) {
            Ok(text) => *place = text,
            Err(_) => return What::Nothing,
        }
    }
    shape(&labels[..before], kind).unwrap_or(What::Nothing)
}

/// `None` where the labels have no meaning.
fn shape<'n>(labels: &[&'n str], kind: ZoneKind) -> Option<What<'n>> {
    let (last, rest) = match labels.split_last() {
        None => return Some(What::Apex),
        Some((&"dns-version", [])) => return Some(What::Version),
        Some((&"svc", [])) => return Some(What::Services),
        Some((&"svc", [rest @ .., namespace])) => (valid(namespace)?, rest),
        Some(_) => return None,
    };
    let Some((name, rest)) = rest.split_last() else { return Some(What::Namespace(last)) };
    let service = ServiceRef { namespace: last, name: valid(name)? };
    match *rest {
        [] => Some(What::Service(service)),
        [label] if label.starts_with('_') => Some(What::Protocol(service, protocol(label)?)),
        [label] => Some(What::Under(service, valid(label)?)),
        [port, proto] if proto.starts_with('_') => Some(What::Port(service, protocol(proto)?, port_name(port)?)),
        // What follows is of other clusters.
        _ if kind == ZoneKind::Cluster => None,
        [.., hostname, cluster] => {
            let host = Host { cluster: valid(cluster)?, hostname: valid(hostname)? };
            match rest[..rest.len() - 2] {
                [] => Some(What::Endpoint(service, host)),
                // The MCS specification has no such names.
                _ if kind == ZoneKind::Clusterset => None,
                [proto] => Some(What::EndpointProtocol(service, host, protocol(proto)?)),
                [port, proto] => Some(What::EndpointPort(service, host, protocol(proto)?, port_name(port)?)),
                _ => None,
            }
        }
    }
}

fn valid(label: &str) -> Option<&str> {
    is_label(label).then_some(label)
}

fn port_name(label: &str) -> Option<&str> {
    label.strip_prefix('_').and_then(valid)
}

fn protocol(label: &str) -> Option<Protocol> {
    match label {
        "_tcp" => Some(Protocol::Tcp),
        "_udp" => Some(Protocol::Udp),
        "_sctp" => Some(Protocol::Sctp),
        _ => None,
    }
}

/// The label of a protocol in an SRV name (RFC 2782).
#[must_use]
pub fn protocol_label(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "_tcp",
        Protocol::Udp => "_udp",
        Protocol::Sctp => "_sctp",
    }
}

impl What<'_> {
    /// The name in a zone that stands for this; `None` for [`What::Nothing`], and where it would be too long.
    #[must_use]
    pub fn print(&self, zone: &DomainName) -> Option<DomainName> {
        let port_label = |port: &str| format!("_{port}");
        match *self {
            Self::Nothing => None,
            Self::Apex => Some(zone.clone()),
            Self::Services => DomainName::compose(&["svc"], zone),
            Self::Version => DomainName::compose(&["dns-version"], zone),
            Self::Namespace(namespace) => DomainName::compose(&[namespace, "svc"], zone),
            Self::Service(s) => DomainName::compose(&[s.name, s.namespace, "svc"], zone),
            Self::Under(s, label) => DomainName::compose(&[label, s.name, s.namespace, "svc"], zone),
            Self::Protocol(s, p) => DomainName::compose(&[protocol_label(p), s.name, s.namespace, "svc"], zone),
            Self::Port(s, p, port) => {
                DomainName::compose(&[&port_label(port), protocol_label(p), s.name, s.namespace, "svc"], zone)
            }
            Self::Endpoint(s, h) => DomainName::compose(&[h.hostname, h.cluster, s.name, s.namespace, "svc"], zone),
            Self::EndpointProtocol(s, h, p) => {
                let labels = [protocol_label(p), h.hostname, h.cluster, s.name, s.namespace, "svc"];
                DomainName::compose(&labels, zone)
            }
            Self::EndpointPort(s, h, p, port) => {
                let labels = [&port_label(port), protocol_label(p), h.hostname, h.cluster, s.name, s.namespace, "svc"];
                DomainName::compose(&labels, zone)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::zone::Settings;

    fn label() -> impl Strategy<Value = String> {
        "[a-z0-9]([-a-z0-9]{0,10}[a-z0-9])?"
    }

    fn protocols() -> impl Strategy<Value = Protocol> {
        prop::sample::select(vec![Protocol::Tcp, Protocol::Udp, Protocol::Sctp])
    }

    fn zones() -> Vec<Zone> {
        Settings::daisy(5, 1).zones
    }

    #[test]
    fn finds_what_is_asked() {
        let zones = zones();
        let asked = |text: &str, check: &dyn Fn(Asked<'_>) -> bool| {
            let name: QueryName = text.parse().expect("a name");
            let found = parse(&name, &zones);
            assert!(check(found), "{text} is {found:?}");
        };
        let web = ServiceRef { namespace: "shop", name: "web" };
        asked(".", &|a| a == Asked::Root);
        asked("example.com", &|a| a == Asked::Outside);
        asked("notsupercluster.local", &|a| a == Asked::Outside);
        asked("local", &|a| a == Asked::Outside);
        asked("SuperCluster.LOCAL.", &|a| a == Asked::In(0, What::Apex));
        asked("Web.Shop.SVC.clusterset.local", &|a| a == Asked::In(1, What::Service(web)));
        asked("dns-version.clusterset.local", &|a| a == Asked::In(1, What::Version));
        asked("x.dns-version.clusterset.local", &|a| a == Asked::In(1, What::Nothing));
        asked("_http._tcp.web.shop.svc.clusterset.local", &|a| a == Asked::In(1, What::Port(web, Protocol::Tcp, "http")));
        asked("_tcp.web.shop.svc.clusterset.local", &|a| a == Asked::In(1, What::Protocol(web, Protocol::Tcp)));
        let host = Host { cluster: "b", hostname: "web-0" };
        asked("web-0.b.web.shop.svc.clusterset.local", &|a| a == Asked::In(1, What::Endpoint(web, host)));
        asked("_http._tcp.web-0.b.web.shop.svc.clusterset.local", &|a| a == Asked::In(1, What::Nothing));
        asked("_http._tcp.web-0.b.web.shop.svc.supercluster.local", &|a| {
            a == Asked::In(0, What::EndpointPort(web, host, Protocol::Tcp, "http"))
        });
        for never in [
            "api.github.com.supercluster.local",
            "web.shop.supercluster.local",
            "a.b.c.d.e.svc.supercluster.local",
            "_http._icmp.web.shop.svc.supercluster.local",
            "http._tcp.web.shop.svc.supercluster.local",
            "_tcp.shop.svc.supercluster.local",
            "web_1.shop.svc.supercluster.local",
            "-web.shop.svc.supercluster.local",
        ] {
            asked(never, &|a| a == Asked::In(0, What::Nothing));
        }
    }

    #[test]
    fn names_have_bounds() {
        assert!(QueryName::from_labels(["a".repeat(64).as_bytes()]).is_none());
        assert!(QueryName::from_labels(std::iter::repeat_n(b"a".as_slice(), 127)).is_some(), "255 bytes on the wire");
        assert!(QueryName::from_labels(std::iter::repeat_n(b"a".as_slice(), 128)).is_none());
        assert!("a..b".parse::<QueryName>().is_err());
        assert!(DomainName::parse("").is_err());
        assert!(DomainName::parse("a b").is_err());
        let zone = DomainName::from_constant("supercluster.local");
        assert_eq!(DomainName::compose(&["a".repeat(63).as_str(); 4], &zone), None);
    }

    proptest! {
        #[test]
        fn never_panics(labels in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..70), 0..140)) {
            if let Some(name) = QueryName::from_labels(labels.iter().map(Vec::as_slice)) {
                let _ = parse(&name, &zones());
                prop_assert_eq!(name.labels().count(), labels.len());
            }
        }

        #[test]
        fn never_panics_in_our_zones(labels in prop::collection::vec("[-_a-z0-9A-Z]{1,6}|svc|_tcp|dns-version", 0..12)) {
            let name = QueryName::from_labels(labels.iter().map(String::as_bytes).chain([b"Supercluster".as_slice(), b"local"]));
            prop_assert!(matches!(parse(&name.expect("short"), &zones()), Asked::In(0, _)));
        }

        #[test]
        fn what_is_printed_is_parsed(
            (namespace, name, hostname, cluster, port) in (label(), label(), label(), label(), label()),
            protocol in protocols(),
            shape in 0..8usize,
            upper in any::<bool>(),
        ) {
            let service = ServiceRef { namespace: &namespace, name: &name };
            let host = Host { cluster: &cluster, hostname: &hostname };
            let what = match shape {
                0 => What::Namespace(&namespace),
                1 => What::Service(service),
                2 => What::Under(service, &hostname),
                3 => What::Protocol(service, protocol),
                4 => What::Port(service, protocol, &port),
                5 => What::Endpoint(service, host),
                6 => What::EndpointProtocol(service, host, protocol),
                _ => What::EndpointPort(service, host, protocol, &port),
            };
            let zones = zones();
            let mut text = what.print(&zones[0].apex).expect("short labels").to_string();
            if upper {
                text.make_ascii_uppercase();
            }
            let name: QueryName = text.parse().expect("a name");
            prop_assert_eq!(parse(&name, &zones), Asked::In(0, what));
        }
    }
}
