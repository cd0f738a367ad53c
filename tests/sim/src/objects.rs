//! The objects that users, nodes and gateways of the simulated clusters make.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use daisy_api::keys::{PublicKey, VerifyingKey};
use daisy_api::{
    Cidr, ClusterId, Connection, ConnectionStatus, Gateway, GatewayRecord, GatewaySpec, GatewayStatus, Grant, Member,
    MemberSpec, NodeName, Reach, ServiceExport, ServiceExportSpec, ServiceKey, TunnelEndpoint, labels,
};
use k8s_openapi::api::core::v1::{Namespace, Node, Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};

/// What is fixed about a cluster: its number gives its ranges.
pub(crate) fn id(number: u8) -> ClusterId {
    ClusterId::new(format!("c{number}")).expect("a label")
}

pub(crate) fn cidr(text: &str) -> Cidr {
    text.parse().expect("a CIDR")
}

pub(crate) fn node_name(number: u8) -> NodeName {
    NodeName::new(format!("c{number}-node")).expect("a name")
}

pub(crate) fn member(number: u8, grant: Grant) -> Member {
    let mut member = Member::new(
        id(number).as_str(),
        MemberSpec {
            cluster_uid: format!("kube-system-of-{number}"),
            cluster_cidrs: vec![cidr(&format!("10.{number}.0.0/16"))],
            service_cidrs: vec![cidr(&format!("10.{}.0.0/16", 100 + number))],
            node_cidr: cidr(&format!("100.80.{}.0/24", number)),
            grant,
            signing_key: VerifyingKey::from_bytes([number; 32]),
            invitation: "simulated".to_owned(),
        },
    );
    member.metadata.namespace = Some(labels::BROKER_NAMESPACE.to_owned());
    member
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
pub(crate) fn slice(number: u8, key: &ServiceKey, pods: &[u8]) -> EndpointSlice {
    let ready = EndpointConditions { ready: Some(true), serving: Some(true), terminating: Some(false) };
    let endpoint = |pod: &u8| Endpoint {
        addresses: vec![pod_address(number, key, *pod).to_string()],
        conditions: Some(ready.clone()),
        node_name: Some(node_name(number).to_string()),
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
pub(crate) fn pod_address(number: u8, key: &ServiceKey, pod: u8) -> IpAddr {
    let third = key.id().as_bytes().iter().fold(0u8, |sum, b| sum.wrapping_mul(31).wrapping_add(*b));
    IpAddr::V4(Ipv4Addr::new(10, number, third, pod))
}

pub(crate) fn export(key: &ServiceKey) -> ServiceExport {
    let mut export = ServiceExport::new(key.name.as_str(), ServiceExportSpec::default());
    export.metadata.namespace = Some(key.namespace.to_string());
    export
}

/// The cluster's gateway, connected to those given.
pub(crate) fn gateway(number: u8, others: &[(u8, bool)]) -> Gateway {
    let name = node_name(number);
    let mut gateway = Gateway::new(name.as_str(), GatewaySpec { node: name.clone() });
    gateway.metadata.namespace = Some(labels::SYSTEM_NAMESPACE.to_owned());
    let endpoint = TunnelEndpoint { address: ([203, 0, 113, number], labels::TUNNEL_PORT).into(), reach: Reach::Public };
    let connection = |(other, up): &(u8, bool)| Connection {
        cluster_id: id(*other),
        node: node_name(*other),
        status: if *up { ConnectionStatus::Connected } else { ConnectionStatus::Error },
        status_message: String::new(),
        endpoint: None,
        using_nat: false,
        latency: None,
        since: None,
    };
    gateway.status = Some(GatewayStatus {
        local_endpoint: Some(GatewayRecord {
            node: name,
            public_key: PublicKey::from_bytes([number; 32]),
            address: IpAddr::V4(Ipv4Addr::new(100, 80, number, 1)),
            endpoints: vec![endpoint],
        }),
        connections: others.iter().map(connection).collect(),
        ..GatewayStatus::default()
    });
    gateway
}
