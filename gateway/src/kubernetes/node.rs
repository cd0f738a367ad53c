//! What the Node object says that a gateway needs.

use std::net::IpAddr;

use daisy_api::labels::{GATEWAY_NODE, NODE_ADDRESS, PUBLIC_ADDRESS};
use daisy_gateway_core::addresses::{DeclaredAddress, NodeAddresses, parse_declared};
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt as _;

/// The Node, as far as its gateway cares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct NodeFacts {
    /// Its address in the node range. `None` before the syncer has given it one.
    pub(super) address: Option<IpAddr>,
    /// Where others may reach it.
    pub(super) addresses: NodeAddresses,
    /// Whether it is labelled as a gateway.
    pub(super) gateway: bool,
    /// What of it cannot be read.
    pub(super) problems: Vec<String>,
}

/// Reads a Node; `declared` are public addresses from the gateway's own options.
pub(super) fn facts(node: &Node, declared: &[IpAddr]) -> NodeFacts {
    let mut facts =
        NodeFacts { gateway: node.labels().get(GATEWAY_NODE).is_some_and(|value| value == "true"), ..NodeFacts::default() };
    let name = node.name_any();
    let annotation = |key: &str| node.metadata.annotations.as_ref().and_then(|all| all.get(key));
    if let Some(text) = annotation(NODE_ADDRESS) {
        facts.address = text.parse().ok();
        if facts.address.is_none() {
            facts.problems.push(format!(
                "Node {name}, annotation {NODE_ADDRESS}: {text:?} is no IP address; the syncer sets it anew when it is removed"
            ));
        }
    }
    facts.addresses.declared = declared.iter().copied().map(DeclaredAddress::from).collect();
    if let Some(text) = annotation(PUBLIC_ADDRESS) {
        let (good, bad) = parse_declared(text);
        facts.addresses.declared.extend(good);
        facts.problems.extend(bad.into_iter().map(|error| format!("Node {name}, annotation {PUBLIC_ADDRESS}: {error}")));
    }
    for address in node.status.iter().flat_map(|status| status.addresses.iter().flatten()) {
        let Ok(parsed) = address.address.parse() else { continue };
        match address.type_.as_str() {
            "ExternalIP" => facts.addresses.external.push(parsed),
            "InternalIP" => facts.addresses.internal.push(parsed),
            _ => {}
        }
    }
    facts
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::api::core::v1::{NodeAddress, NodeStatus};

    use super::*;

    fn node(annotations: &[(&str, &str)], addresses: &[(&str, &str)]) -> Node {
        let mut node = Node::default();
        node.metadata.name = Some("one".to_owned());
        let annotations: BTreeMap<String, String> =
            annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        node.metadata.annotations = Some(annotations);
        let of = |(kind, text): &(&str, &str)| NodeAddress { type_: (*kind).to_owned(), address: (*text).to_owned() };
        node.status = Some(NodeStatus { addresses: Some(addresses.iter().map(of).collect()), ..NodeStatus::default() });
        node
    }

    #[test]
    fn reads_annotations_and_addresses() {
        let facts = facts(
            &node(
                &[(NODE_ADDRESS, "100.80.1.1"), (PUBLIC_ADDRESS, "203.0.113.9,nonsense")],
                &[
                    ("InternalIP", "192.168.1.3"),
                    ("Hostname", "one"),
                    ("ExternalIP", "198.51.100.9"),
                    ("InternalIP", "fd00::3"),
                ],
            ),
            &["203.0.113.77".parse().expect("an address")],
        );
        assert_eq!(facts.address, "100.80.1.1".parse().ok());
        assert_eq!(facts.addresses.declared.len(), 2);
        assert_eq!((facts.addresses.external.len(), facts.addresses.internal.len()), (1, 2));
        let [problem] = &facts.problems[..] else { panic!("{:?}", facts.problems) };
        assert!(
            problem.contains("Node one, annotation daisy.supercluster.local/public-address") && problem.contains("nonsense"),
            "{problem}"
        );
    }

    #[test]
    fn an_address_that_is_none_is_named() {
        let facts = facts(&node(&[(NODE_ADDRESS, "100.80.1")], &[]), &[]);
        assert_eq!(facts.address, None);
        assert!(facts.problems[0].contains("100.80.1"), "{:?}", facts.problems);
    }
}
