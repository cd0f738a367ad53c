//! The objects that users, nodes and gateways of the simulated clusters make.

use std::collections::BTreeMap;
use std::net::IpAddr;

use daisy_api::keys::{PublicKey, VerifyingKey};
use daisy_api::{
    Cidr, ClusterId, Connection, ConnectionStatus, Gateway, GatewayRecord, GatewaySpec, GatewayStatus, Grant, Invitation,
    InvitationSpec, JoinRequest, JoinRequestSpec, Member, NodeName, Reach, ServiceExport, ServiceExportSpec, ServiceKey,
    TunnelEndpoint, Version, labels,
};
use daisy_broker_core::registrar::request::{SigningKey, sign};
use k8s_openapi::api::core::v1::{Namespace, Node, Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

/// Which cluster it is. One that was made anew under its ID has another UID and other keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Gives its ID.
    pub(crate) number: u8,
    /// How often it was made anew.
    pub(crate) made: u8,
    pub(crate) pods: Cidr,
    pub(crate) services: Cidr,
}

impl Identity {
    /// A cluster that has the ranges of its number, which are nobody's else, and none that a registrar gives out.
    pub(crate) fn new(number: u8) -> Self {
        let pods = cidr(&format!("172.{}.0.0/16", 16 + number));
        Self { number, made: 0, pods, services: cidr(&format!("100.{}.0.0/16", 64 + number)) }
    }

    pub(crate) fn id(&self) -> ClusterId {
        id(self.number)
    }

    pub(crate) fn uid(&self) -> String {
        format!("kube-system-of-{}-{}", self.number, self.made)
    }

    pub(crate) fn key(&self) -> SigningKey {
        SigningKey::from_bytes(&self.bytes())
    }

    fn bytes(&self) -> [u8; 32] {
        let mut bytes = [self.number; 32];
        bytes[0] = self.made;
        bytes
    }

    /// Whether a Member is of this cluster.
    pub(crate) fn is_of(&self, member: &Member) -> bool {
        member.spec.cluster_uid == self.uid() && member.spec.signing_key.as_bytes() == self.key().verifying_key().as_bytes()
    }

    /// Its request of this name to become a member, or (`reserve`) to have ranges kept for it.
    pub(crate) fn request(&self, name: &str, to: &To<'_>) -> JoinRequest {
        let ranges = |range: Cidr| if to.reserve { Vec::new() } else { vec![range] };
        let mut spec = JoinRequestSpec {
            invitation: to.invitation.to_owned(),
            cluster_id: self.id(),
            cluster_uid: self.uid(),
            cluster_cidrs: ranges(self.pods),
            service_cidrs: ranges(self.services),
            sealing_key: PublicKey::from_bytes(self.bytes()),
            signing_key: VerifyingKey::from_bytes([0; 32]),
            signature: None,
            replace: to.replace,
            version: Version::own().to_string(),
        };
        sign(&self.key(), to.broker_id, name, &mut spec);
        let mut request = JoinRequest::new(name, spec);
        request.metadata.namespace = Some(labels::BROKER_NAMESPACE.to_owned());
        request
    }
}

/// Whom a request is for, and how.
pub(crate) struct To<'a> {
    pub(crate) broker_id: &'a str,
    pub(crate) invitation: &'a str,
    pub(crate) replace: bool,
    pub(crate) reserve: bool,
}

pub(crate) fn id(number: u8) -> ClusterId {
    ClusterId::new(format!("c{number}")).expect("a label")
}

pub(crate) fn number(id: &str) -> Option<u8> {
    id.strip_prefix('c')?.parse().ok()
}

pub(crate) fn cidr(text: &str) -> Cidr {
    text.parse().expect("a CIDR")
}

pub(crate) fn node_name(number: u8) -> NodeName {
    NodeName::new(format!("c{number}-node")).expect("a name")
}

pub(crate) fn invitation(name: &str, grant: Grant, max_uses: u32, expires: Timestamp) -> Invitation {
    let mut invitation = Invitation::new(name, InvitationSpec { grant, expires: Time(expires), max_uses, public_cidrs: false });
    invitation.metadata.namespace = Some(labels::BROKER_NAMESPACE.to_owned());
    invitation
}

pub(crate) fn namespace(name: &str, bulk: bool) -> Namespace {
    let mut namespace = Namespace::default();
    namespace.metadata.name = Some(name.to_owned());
    if bulk {
        namespace.metadata.labels = Some([(labels::EXPORT_ALL.to_owned(), "true".to_owned())].into());
    }
    namespace
}

pub(crate) fn node(number: u8) -> Node {
    let mut node = Node::default();
    node.metadata.name = Some(node_name(number).to_string());
    node.metadata.labels = Some([(labels::GATEWAY_NODE.to_owned(), "true".to_owned())].into());
    node
}

pub(crate) fn service(key: &ServiceKey, port: i32, headless: bool) -> Service {
    let mut service = Service::default();
    service.metadata.name = Some(key.name.to_string());
    service.metadata.namespace = Some(key.namespace.to_string());
    service.spec = Some(ServiceSpec {
        cluster_ip: headless.then(|| "None".to_owned()),
        cluster_ips: headless.then(|| vec!["None".to_owned()]),
        ip_families: Some(vec!["IPv4".to_owned()]),
        ports: Some(vec![ServicePort {
            name: Some("http".to_owned()),
            port,
            protocol: Some("TCP".to_owned()),
            ..ServicePort::default()
        }]),
        selector: Some([("app".to_owned(), key.name.to_string())].into()),
        type_: Some("ClusterIP".to_owned()),
        ..ServiceSpec::default()
    });
    service
}

/// The Service's EndpointSlice, with these pods of the cluster.
pub(crate) fn slice(of: &Identity, key: &ServiceKey, pods: &[u8]) -> EndpointSlice {
    let ready = EndpointConditions { ready: Some(true), serving: Some(true), terminating: Some(false) };
    let endpoint = |pod: &u8| Endpoint {
        addresses: vec![pod_address(of, key, *pod).to_string()],
        conditions: Some(ready.clone()),
        node_name: Some(node_name(of.number).to_string()),
        ..Endpoint::default()
    };
    let mut slice = EndpointSlice {
        address_type: "IPv4".to_owned(),
        endpoints: pods.iter().map(endpoint).collect(),
        ports: Some(vec![EndpointPort {
            name: Some("http".to_owned()),
            port: Some(8080),
            protocol: Some("TCP".to_owned()),
            ..EndpointPort::default()
        }]),
        ..EndpointSlice::default()
    };
    slice.metadata.name = Some(slice_name(key));
    slice.metadata.namespace = Some(key.namespace.to_string());
    let mine = [
        (labels::SLICE_SERVICE_NAME.to_owned(), key.name.to_string()),
        (labels::SLICE_MANAGED_BY.to_owned(), "endpointslice-controller.k8s.io".to_owned()),
    ];
    slice.metadata.labels = Some(BTreeMap::from(mine));
    slice
}

pub(crate) fn slice_name(key: &ServiceKey) -> String {
    format!("{}-slice", key.name)
}

/// A pod's address: different for each Service, so that a mix-up shows.
fn pod_address(of: &Identity, key: &ServiceKey, pod: u8) -> IpAddr {
    let third = key.id().as_bytes().iter().fold(0u8, |sum, b| sum.wrapping_mul(31).wrapping_add(*b));
    of.pods.nth(u64::from(third) * 256 + u64::from(pod)).expect("pods have a /16")
}

pub(crate) fn export(key: &ServiceKey) -> ServiceExport {
    let mut export = ServiceExport::new(key.name.as_str(), ServiceExportSpec::default());
    export.metadata.namespace = Some(key.namespace.to_string());
    export
}

/// Whether a cluster is behind NAT: between two such there never is a path.
pub(crate) fn behind_nat(number: u8) -> bool {
    number.is_multiple_of(3)
}

/// Whether there can be a path between two clusters.
pub(crate) fn can_meet(one: u8, other: u8) -> bool {
    one == other || !(behind_nat(one) && behind_nat(other))
}

/// The cluster's gateway, with its connections to those given; it has no word of itself before its node has an address.
pub(crate) fn gateway(of: &Identity, address: Option<IpAddr>, others: &[(u8, ConnectionStatus)]) -> Gateway {
    let (number, name) = (of.number, node_name(of.number));
    let mut gateway = Gateway::new(name.as_str(), GatewaySpec { node: name.clone() });
    gateway.metadata.namespace = Some(labels::SYSTEM_NAMESPACE.to_owned());
    let endpoint = TunnelEndpoint { address: ([203, 0, 113, number], labels::TUNNEL_PORT).into(), reach: Reach::Public };
    let connection = |(other, status): &(u8, ConnectionStatus)| Connection {
        cluster_id: id(*other),
        node: node_name(*other),
        status: *status,
        status_message: String::new(),
        endpoint: None,
        using_nat: false,
        latency: None,
        since: None,
    };
    gateway.status = Some(GatewayStatus {
        local_endpoint: address.map(|address| GatewayRecord {
            node: name,
            public_key: PublicKey::from_bytes(of.bytes()),
            address,
            endpoints: if behind_nat(of.number) { vec![] } else { vec![endpoint] },
        }),
        connections: others.iter().map(connection).collect(),
        ..GatewayStatus::default()
    });
    gateway
}
