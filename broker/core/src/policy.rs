//! Holds a cluster's records to its Member: the same checks in the embedded broker's admission and in every reader.
//!
//! ```text
//! Member ─┐
//! record ─┴▶ export · endpoints · cluster ──▶ admitted, or the Refusal that names object, field, value and remedy
//! ```
//!
//! A reader checks again because a broker may be older, misconfigured or stolen. Where a whole record would be too much to lose
//! for one bad part, [`admissible_endpoints`] and [`admissible_cluster`] give what remains.

use std::collections::BTreeSet;
use std::net::IpAddr;

use daisy_api::{
    Cidr, ClusterId, ClusterSpec, Endpoint, ExportEndpointsSpec, ExportSpec, IpFamily, MemberSpec, NamespaceName, ServiceKey,
};
use thiserror::Error;

/// Why a record is not what its cluster may say. (Boxed texts: it is returned for each record, most often not at all.)
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// The namespace of an export is not in the grant.
    #[error(
        "{object}: spec.namespace {namespace} is outside the grant of cluster {cluster} ({grant}); \
         an administrator of the broker can widen it: daisy grant {cluster} {suggestion}"
    )]
    OutsideGrant {
        /// The record.
        object: Box<str>,
        /// The cluster.
        cluster: ClusterId,
        /// The namespace.
        namespace: NamespaceName,
        /// The grant as it is.
        grant: Box<str>,
        /// The grant that would allow it.
        suggestion: Box<str>,
    },
    /// The record is not named after what it holds.
    #[error("{object}: metadata.name does not belong to what the record holds; name it {expected}")]
    WrongName {
        /// The record.
        object: Box<str>,
        /// What its name would have to be, or begin with.
        expected: Box<str>,
    },
    /// An address that lies in none of the ranges that the Member has for its purpose.
    #[error(
        "{object}: {field} {address} lies outside the ranges of cluster {cluster} ({ranges}); \
         leave it out, or join again with the CIDRs that the cluster really has"
    )]
    AddressOutside {
        /// The record.
        object: Box<str>,
        /// The cluster.
        cluster: ClusterId,
        /// The field.
        field: Box<str>,
        /// The address.
        address: IpAddr,
        /// The ranges that it would have to lie in.
        ranges: Box<str>,
    },
    /// An address that means something else on every host, or nobody's.
    #[error("{object}: {field} {address} is {what}, which no other cluster can reach; leave it out")]
    SpecialAddress {
        /// The record.
        object: Box<str>,
        /// The field.
        field: Box<str>,
        /// The address.
        address: IpAddr,
        /// What it is, as "a loopback address".
        what: &'static str,
    },
    /// An address of the other family than the record says.
    #[error("{object}: {field} {address} is not of the record's addressType {expected}; write one record for each family")]
    WrongFamily {
        /// The record.
        object: Box<str>,
        /// The field.
        field: Box<str>,
        /// The address.
        address: IpAddr,
        /// The family that the record says.
        expected: &'static str,
    },
    /// A value that must equal the Member's does not.
    #[error("{object}: {field} is {found}, but the Member of cluster {cluster} has {expected}; write the Member's")]
    NotTheMembers {
        /// The record.
        object: Box<str>,
        /// The cluster.
        cluster: ClusterId,
        /// The field.
        field: &'static str,
        /// What the record has.
        found: Box<str>,
        /// What the Member has.
        expected: Box<str>,
    },
    /// Something that must be there once is there twice.
    #[error("{object}: {field} {value} is there twice; each may be there once")]
    Duplicate {
        /// The record.
        object: Box<str>,
        /// The field.
        field: &'static str,
        /// The value.
        value: Box<str>,
    },
    /// More entries than a record may have.
    #[error("{object}: {field} has {count} entries; at most {max} are allowed")]
    TooMany {
        /// The record.
        object: Box<str>,
        /// The field.
        field: &'static str,
        /// How many it has.
        count: usize,
        /// How many it may have.
        max: usize,
    },
    /// A port number that cannot be one.
    #[error("{object}: {field} is 0; ports are 1 to 65535")]
    PortZero {
        /// The record.
        object: Box<str>,
        /// The field.
        field: Box<str>,
    },
}

/// What remains of an ExportEndpoints record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admissible<'a> {
    /// The endpoints that may be used, in the record's order.
    pub endpoints: Vec<&'a Endpoint>,
    /// Why each of the others was dropped, one refusal an endpoint.
    pub dropped: Vec<Refusal>,
}

/// The most gateways that a Cluster record may have.
pub const GATEWAYS_MAX: usize = 8;

/// What an address is where it is one that can stand for no pod, Service or gateway; `None` for an ordinary one.
///
/// Sources: RFC 6890 (special-purpose registry), RFC 3927 (link-local, which holds 169.254.169.254, the metadata service of most
/// clouds), RFC 4291 section 2.5.5.2 (mapped addresses, which would name an IPv4 address in disguise).
#[must_use]
pub fn special_address(address: IpAddr) -> Option<&'static str> {
    match address {
        _ if address.is_unspecified() => Some("the unspecified address"),
        _ if address.is_loopback() => Some("a loopback address"),
        _ if address.is_multicast() => Some("a multicast address"),
        IpAddr::V4(v4) if v4.is_link_local() => Some("a link-local address"),
        IpAddr::V4(v4) if v4.octets()[0] == 0 => Some("an address of \"this network\""),
        IpAddr::V4(v4) if v4.octets()[0] >= 240 => Some("a reserved address"),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some("a link-local address"),
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Some("an IPv4-mapped address"),
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}

/// The name under which messages speak of a record.
fn object(kind: &str, id: &ClusterId, name: &str) -> Box<str> {
    format!("{kind} {}/{name}", id.broker_namespace()).into()
}

fn list(cidrs: &[Cidr]) -> Box<str> {
    cidrs.iter().map(Cidr::to_string).collect::<Vec<_>>().join(", ").into()
}

/// Whether the cluster's grant allows what the key names.
///
/// # Errors
/// [`Refusal::OutsideGrant`], with the grant that would allow it.
pub fn granted(id: &ClusterId, member: &MemberSpec, object: &str, key: &ServiceKey) -> Result<(), Refusal> {
    if member.grant.allows(&key.namespace) {
        return Ok(());
    }
    let suggestion =
        if member.grant.is_none() { key.namespace.to_string() } else { format!("'{},{}'", member.grant, key.namespace) };
    Err(Refusal::OutsideGrant {
        object: object.into(),
        cluster: id.clone(),
        namespace: key.namespace.clone(),
        grant: member.grant.to_string().into(),
        suggestion: suggestion.into(),
    })
}

/// Holds an Export named `name` in the namespace of `id` to its Member: named after what it holds, its namespace granted, its
/// ClusterIPs inside the Member's service CIDRs.
///
/// # Errors
/// The first thing that is wrong.
pub fn export(id: &ClusterId, member: &MemberSpec, name: &str, spec: &ExportSpec) -> Result<(), Refusal> {
    let object = object("Export", id, name);
    let key = spec.key();
    let expected = key.record_name();
    if name != expected {
        return Err(Refusal::WrongName { object, expected: expected.into() });
    }
    granted(id, member, &object, &key)?;
    if spec.ports.iter().any(|port| port.port == 0) {
        return Err(Refusal::PortZero { object, field: "spec.ports[].port".into() });
    }
    for (index, address) in spec.cluster_ips.iter().copied().enumerate() {
        inside((id, &object), || format!("spec.clusterIPs[{index}]"), address, &member.service_cidrs)?;
    }
    Ok(())
}

/// Whether an address of a record lies in the ranges. The field is named only where it does not: records have many addresses.
fn inside(
    (id, object): (&ClusterId, &str),
    field: impl FnOnce() -> String,
    address: IpAddr,
    ranges: &[Cidr],
) -> Result<(), Refusal> {
    if let Some(what) = special_address(address) {
        return Err(Refusal::SpecialAddress { object: object.into(), field: field().into(), address, what });
    }
    if ranges.iter().any(|range| range.contains(address)) {
        return Ok(());
    }
    let (field, ranges) = (field().into(), list(ranges));
    Err(Refusal::AddressOutside { object: object.into(), cluster: id.clone(), field, address, ranges })
}

/// What is wrong with an ExportEndpoints record as a whole, its addresses apart.
fn endpoints_head(id: &ClusterId, member: &MemberSpec, name: &str, spec: &ExportEndpointsSpec) -> Result<Box<str>, Refusal> {
    let object = object("ExportEndpoints", id, name);
    let key = spec.key();
    let beginning = format!("{}.", key.record_name());
    let hash = name.strip_prefix(&beginning).unwrap_or_default();
    if hash.is_empty() || hash.contains('.') {
        return Err(Refusal::WrongName { object, expected: format!("{beginning}HASH").into() });
    }
    granted(id, member, &object, &key)?;
    if spec.ports.iter().any(|port| port.port == 0) {
        return Err(Refusal::PortZero { object, field: "spec.ports[].port".into() });
    }
    Ok(object)
}

fn endpoint(
    id: &ClusterId,
    object: &str,
    ranges: &[Cidr],
    family: IpFamily,
    (index, endpoint): (usize, &Endpoint),
) -> Result<(), Refusal> {
    for (n, address) in endpoint.addresses.iter().copied().enumerate() {
        let field = || format!("spec.endpoints[{index}].addresses[{n}]");
        if IpFamily::of(address) != family {
            let (object, field) = (object.into(), field().into());
            return Err(Refusal::WrongFamily { object, field, address, expected: family.as_str() });
        }
        inside((id, object), field, address, ranges)?;
    }
    Ok(())
}

fn endpoint_ranges(member: &MemberSpec) -> Vec<Cidr> {
    member.cluster_cidrs.iter().copied().chain(std::iter::once(member.node_cidr)).collect()
}

/// Holds an ExportEndpoints record named `name` in the namespace of `id` to its Member, every address included: for admission.
///
/// # Errors
/// The first thing that is wrong.
pub fn endpoints(id: &ClusterId, member: &MemberSpec, name: &str, spec: &ExportEndpointsSpec) -> Result<(), Refusal> {
    let object = endpoints_head(id, member, name, spec)?;
    let ranges = endpoint_ranges(member);
    spec.endpoints.iter().enumerate().try_for_each(|one| endpoint(id, &object, &ranges, spec.address_type, one))
}

/// The endpoints of a record that may be used, and why each of the others may not: for readers. An endpoint goes as a whole
/// when any of its addresses lies outside the Member's pod CIDRs and node range.
///
/// # Errors
/// What is wrong with the record as a whole: its name, or its namespace outside the grant.
pub fn admissible_endpoints<'a>(
    id: &ClusterId,
    member: &MemberSpec,
    name: &str,
    spec: &'a ExportEndpointsSpec,
) -> Result<Admissible<'a>, Refusal> {
    let object = endpoints_head(id, member, name, spec)?;
    let ranges = endpoint_ranges(member);
    let mut admissible = Admissible { endpoints: Vec::with_capacity(spec.endpoints.len()), dropped: Vec::new() };
    for (index, one) in spec.endpoints.iter().enumerate() {
        match endpoint(id, &object, &ranges, spec.address_type, (index, one)) {
            Ok(()) if one.addresses.is_empty() => {}
            Ok(()) => admissible.endpoints.push(one),
            Err(refusal) => admissible.dropped.push(refusal),
        }
    }
    Ok(admissible)
}

/// Holds a Cluster record named `name` in the namespace of `id` to its Member: for admission.
///
/// A cluster whose grant allows something may still say that it exports nothing; the other way round is refused.
///
/// # Errors
/// The first thing that is wrong: the name, CIDRs other than the Member's, `exporter` without a grant, a gateway's address outside
/// the node range, an endpoint that nobody can reach, a key or node or address that is there twice.
pub fn cluster(id: &ClusterId, member: &MemberSpec, name: &str, spec: &ClusterSpec) -> Result<(), Refusal> {
    let object = cluster_head(id, member, name, spec)?;
    if spec.exporter && member.grant.is_none() {
        return Err(Refusal::NotTheMembers {
            object,
            cluster: id.clone(),
            field: "spec.exporter",
            found: "true".into(),
            expected: "the grant none".into(),
        });
    }
    Ok(())
}

/// A Cluster record as a reader may take it: `exporter` is what the Member's grant says, whatever the record says, so that a
/// grant taken away does not cost the cluster its tunnels until it has written its record anew.
///
/// # Errors
/// As [`cluster`], `exporter` excepted.
pub fn admissible_cluster(id: &ClusterId, member: &MemberSpec, name: &str, spec: &ClusterSpec) -> Result<ClusterSpec, Refusal> {
    cluster_head(id, member, name, spec)?;
    Ok(ClusterSpec { exporter: !member.grant.is_none(), ..spec.clone() })
}

fn same(found: &[Cidr], expected: &[Cidr]) -> bool {
    found.len() == expected.len() && found.iter().collect::<BTreeSet<_>>() == expected.iter().collect::<BTreeSet<_>>()
}

fn cluster_head(id: &ClusterId, member: &MemberSpec, name: &str, spec: &ClusterSpec) -> Result<Box<str>, Refusal> {
    let object = object("Cluster", id, name);
    if name != id.as_str() {
        return Err(Refusal::WrongName { object, expected: id.as_str().into() });
    }
    let node_range = [member.node_cidr];
    let ranges: [(&'static str, &[Cidr], &[Cidr]); 3] = [
        ("spec.clusterCidrs", &spec.cluster_cidrs, &member.cluster_cidrs),
        ("spec.serviceCidrs", &spec.service_cidrs, &member.service_cidrs),
        ("spec.nodeCidr", std::slice::from_ref(&spec.node_cidr), &node_range),
    ];
    for (field, found, expected) in ranges {
        if !same(found, expected) {
            let (found, expected) = (list(found), list(expected));
            return Err(Refusal::NotTheMembers { object, cluster: id.clone(), field, found, expected });
        }
    }
    gateways(id, member, &object, spec)?;
    Ok(object)
}

fn gateways(id: &ClusterId, member: &MemberSpec, object: &str, spec: &ClusterSpec) -> Result<(), Refusal> {
    if spec.gateways.len() > GATEWAYS_MAX {
        let count = spec.gateways.len();
        return Err(Refusal::TooMany { object: object.into(), field: "spec.gateways", count, max: GATEWAYS_MAX });
    }
    let duplicate = |field, value: String| Err(Refusal::Duplicate { object: object.into(), field, value: value.into() });
    let (mut nodes, mut keys, mut addresses) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (index, gateway) in spec.gateways.iter().enumerate() {
        if !nodes.insert(&gateway.node) {
            return duplicate("spec.gateways[].node", gateway.node.to_string());
        }
        if !keys.insert(gateway.public_key) {
            return duplicate("spec.gateways[].publicKey", gateway.public_key.to_string());
        }
        if !addresses.insert(gateway.address) {
            return duplicate("spec.gateways[].address", gateway.address.to_string());
        }
        let field = || format!("spec.gateways[{index}].address");
        inside((id, object), field, gateway.address, &[member.node_cidr])?;
        for (n, endpoint) in gateway.endpoints.iter().enumerate() {
            let address = endpoint.address.ip();
            let field = || format!("spec.gateways[{index}].endpoints[{n}].address").into();
            if let Some(what) = special_address(address) {
                return Err(Refusal::SpecialAddress { object: object.into(), field: field(), address, what });
            }
            if endpoint.address.port() == 0 {
                return Err(Refusal::PortZero { object: object.into(), field: field() });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
