//! The objects that the agent follows, as small as they can be.

use daisy_api::labels::{CLUSTER_ROLE, GATEWAY_NODE, NODE_ADDRESS, SLICE_SERVICE_NAME};
use daisy_api::{Cluster, Gateway, ServiceExport};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

fn object<K: serde::de::DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

/// A Cluster of this role with these networks.
pub(super) fn cluster(name: &str, role: &str, [pods, services, nodes]: [&[&str]; 3], leaving: bool) -> Cluster {
    object(json!({
        "apiVersion": "daisy.supercluster.local/v1alpha1",
        "kind": "Cluster",
        "metadata": { "name": name, "namespace": "daisy-system", "labels": { CLUSTER_ROLE: role } },
        "spec": {
            "envelope": { "sequence": 1 },
            "clusterCidrs": pods,
            "serviceCidrs": services,
            "nodeCidr": nodes[0],
            "leaving": leaving,
        },
    }))
}

/// A Node with these addresses, and pods in these networks.
pub(super) fn node(name: &str, internal: &str, address: &str, pods: &[&str], gateway: bool) -> Node {
    object(json!({
        "metadata": {
            "name": name,
            "labels": { GATEWAY_NODE: if gateway { "true" } else { "false" } },
            "annotations": { NODE_ADDRESS: address },
        },
        "spec": { "podCIDR": pods[0], "podCIDRs": pods },
        "status": {
            "addresses": [{ "type": "InternalIP", "address": internal }],
            "conditions": [{ "type": "Ready", "status": "True" }],
        },
    }))
}

/// A Gateway that carries traffic.
pub(super) fn gateway(node: &str) -> Gateway {
    object(json!({
        "apiVersion": "daisy.supercluster.local/v1alpha1",
        "kind": "Gateway",
        "metadata": { "name": node, "namespace": "daisy-system" },
        "spec": { "node": node },
        "status": { "haStatus": "active" },
    }))
}

/// A ServiceExport in namespace `shop`, valid.
pub(super) fn export(name: &str) -> ServiceExport {
    object(json!({
        "apiVersion": "multicluster.x-k8s.io/v1beta1",
        "kind": "ServiceExport",
        "metadata": { "name": name, "namespace": "shop" },
        "spec": {},
        "status": { "conditions": [{
            "type": "Valid", "status": "True", "reason": "Valid", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z",
        }] },
    }))
}

/// A Service in namespace `shop` with these ClusterIPs, its port 80.
pub(super) fn service(name: &str, addresses: &[&str]) -> Service {
    object(json!({
        "metadata": { "name": name, "namespace": "shop" },
        "spec": { "clusterIP": addresses[0], "clusterIPs": addresses, "ports": [{ "port": 80, "protocol": "TCP" }] },
    }))
}

/// An EndpointSlice of a Service in namespace `shop`: addresses with their nodes, port 8080.
pub(super) fn slice(service: &str, endpoints: &[(&str, &str)]) -> EndpointSlice {
    let endpoints: Vec<Value> =
        endpoints.iter().map(|(address, node)| json!({ "addresses": [address], "nodeName": node })).collect();
    object(json!({
        "metadata": { "name": format!("{service}-1"), "namespace": "shop", "labels": { SLICE_SERVICE_NAME: service } },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{ "port": 8080, "protocol": "TCP" }],
    }))
}
