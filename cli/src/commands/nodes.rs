//! Which nodes are fit for what, and which are to be gateways.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Context, Result, bail};
use daisy_api::{NodeName, labels};
use daisy_kubernetes::Api;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use kube::{Client, ResourceExt};

/// Which nodes are to be labelled as gateways, and which no longer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Gateways {
    pub(crate) set: Vec<String>,
    pub(crate) unset: Vec<String>,
    /// All that will be gateways then.
    pub(crate) all: Vec<String>,
}

pub(crate) fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn is_gateway(node: &Node) -> bool {
    node.labels().get(labels::GATEWAY_NODE).is_some_and(|value| value == "true")
}

fn is_linux(node: &Node) -> bool {
    node.labels().get("kubernetes.io/os").is_none_or(|os| os == "linux")
}

fn has_address(node: &Node, kind: &str) -> bool {
    let addresses = node.status.as_ref().and_then(|status| status.addresses.as_ref());
    addresses.is_some_and(|list| list.iter().any(|a| a.type_ == kind && a.address.parse::<IpAddr>().is_ok()))
}

/// The label and the taint of a control plane's node.
const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";

/// Nodes that take the syncer and the DNS servers, which tolerate a control plane's taint and no other.
pub(crate) fn workers(nodes: &[Node]) -> usize {
    let takes = |node: &&Node| {
        let spec = node.spec.as_ref();
        let taints = spec.and_then(|spec| spec.taints.as_ref()).into_iter().flatten();
        let shut = spec.and_then(|spec| spec.unschedulable) == Some(true)
            || taints.into_iter().any(|taint| taint.effect != "PreferNoSchedule" && taint.key != CONTROL_PLANE);
        is_linux(node) && is_ready(node) && !shut
    };
    nodes.iter().filter(takes).count()
}

/// Refuses nodes that the data path could not reach.
pub(crate) fn check_addresses(nodes: &[Node]) -> Result<()> {
    if nodes.is_empty() {
        bail!("the cluster has no nodes: add one before it joins");
    }
    let without = |node: &&Node| is_linux(node) && !has_address(node, "InternalIP");
    let without: Vec<String> = nodes.iter().filter(without).map(ResourceExt::name_any).collect();
    if !without.is_empty() {
        bail!(
            "node {} has no InternalIP in status.addresses, so that other nodes could not reach it: its kubelet (--node-ip) or the cloud's controller has to set one",
            without.join(", node ")
        );
    }
    Ok(())
}

/// Takes the nodes that were named, else those that are labelled, else the one that is fittest.
pub(crate) fn choose_gateways(nodes: &[Node], named: &[NodeName]) -> Result<Gateways> {
    let labelled: BTreeSet<String> = nodes.iter().filter(|node| is_gateway(node)).map(ResourceExt::name_any).collect();
    if named.is_empty() {
        if !labelled.is_empty() {
            return Ok(Gateways { all: labelled.into_iter().collect(), ..Gateways::default() });
        }
        let chosen = vec![fittest(nodes)?];
        return Ok(Gateways { set: chosen.clone(), unset: Vec::new(), all: chosen });
    }
    let wanted: BTreeSet<String> = named.iter().map(ToString::to_string).collect();
    for name in &wanted {
        let node = nodes.iter().find(|node| node.name_any() == *name).with_context(|| {
            let known: Vec<String> = nodes.iter().map(ResourceExt::name_any).collect();
            format!("--gateway-node {name}: the cluster has no such node; it has: {}", known.join(", "))
        })?;
        if let Some(why) = unfit(node) {
            bail!("--gateway-node {name}: it {why}");
        }
    }
    Ok(Gateways {
        set: wanted.difference(&labelled).cloned().collect(),
        unset: labelled.difference(&wanted).cloned().collect(),
        all: wanted.into_iter().collect(),
    })
}

fn fittest(nodes: &[Node]) -> Result<String> {
    let control_plane = |node: &Node| node.labels().contains_key(CONTROL_PLANE);
    let cordoned = |node: &Node| node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true);
    let public = |node: &Node| has_address(node, "ExternalIP") || node.annotations().contains_key(labels::PUBLIC_ADDRESS);
    let fit = nodes.iter().filter(|node| unfit(node).is_none());
    // Workers first, and of them those that other clusters can reach.
    let best = fit.min_by_key(|node| (cordoned(node), control_plane(node), !public(node), node.name_any()));
    if let Some(node) = best {
        return Ok(node.name_any());
    }
    let why: Vec<String> =
        nodes.iter().filter_map(|node| unfit(node).map(|why| format!("node {} {why}", node.name_any()))).collect();
    bail!("no node is fit to be the gateway: {}", why.join("; "))
}

fn unfit(node: &Node) -> Option<&'static str> {
    if !is_linux(node) {
        return Some("does not run Linux");
    }
    if !is_ready(node) {
        return Some("is not Ready");
    }
    (!has_address(node, "InternalIP")).then_some("has no InternalIP")
}

/// What is to be said of the nodes that will be gateways.
pub(crate) fn remark(nodes: &[Node], gateways: &Gateways) -> &'static str {
    let control_plane = |node: &Node| node.labels().contains_key(CONTROL_PLANE);
    if nodes.iter().all(control_plane) && !gateways.all.is_empty() {
        " (of the control plane: the cluster has no worker node, so everything of Daisy runs there)"
    } else {
        ""
    }
}

/// Labels the nodes as chosen; a public address is its one gateway's.
pub(crate) async fn label(client: &Client, gateways: &Gateways, public_address: Option<IpAddr>) -> Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    let patches = gateways.set.iter().map(|name| (name, serde_json::json!("true")));
    let patches = patches.chain(gateways.unset.iter().map(|name| (name, serde_json::Value::Null)));
    for (name, value) in patches {
        let patch = serde_json::json!({ "metadata": { "labels": { labels::GATEWAY_NODE: value } } });
        let patched = nodes.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await;
        patched.with_context(|| format!("labelling node {name}"))?;
    }
    if let (Some(address), [name]) = (public_address, &gateways.all[..]) {
        let patch = serde_json::json!({ "metadata": { "annotations": { labels::PUBLIC_ADDRESS: address.to_string() } } });
        let patched = nodes.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await;
        patched.with_context(|| format!("annotating node {name} with its public address"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(name: &str, ready: bool, labels: serde_json::Value, addresses: serde_json::Value) -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": name, "labels": labels},
            "status": {"addresses": addresses, "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
        }))
        .expect("a node")
    }

    fn internal() -> serde_json::Value {
        json!([{"type": "InternalIP", "address": "192.168.1.2"}])
    }

    #[test]
    fn workers_that_others_can_reach_come_first() {
        let both = json!([{"type": "InternalIP", "address": "192.168.1.4"}, {"type": "ExternalIP", "address": "203.0.113.4"}]);
        let nodes = [
            node("a", true, json!({"node-role.kubernetes.io/control-plane": ""}), both.clone()),
            node("b", true, json!({}), internal()),
            node("c", false, json!({}), both.clone()),
            node("d", true, json!({}), both),
        ];
        assert_eq!(choose_gateways(&nodes, &[]).expect("d is fit").all, ["d"]);
        assert_eq!(choose_gateways(&nodes[..2], &[]).expect("b is fit").all, ["b"]);
        assert_eq!(choose_gateways(&nodes[..1], &[]).expect("a will do").all, ["a"]);
        let remark_on = |nodes: &[Node]| remark(nodes, &choose_gateways(nodes, &[]).expect("one is fit"));
        assert_eq!(remark_on(&nodes[..2]), "", "there is a worker");
        assert!(remark_on(&nodes[..1]).contains("no worker node"), "a is of the control plane, and there is nothing else");
        let error = choose_gateways(&nodes[2..3], &[]).expect_err("not ready").to_string();
        assert!(error.contains("node c is not Ready"), "{error}");
    }

    #[test]
    fn what_is_named_replaces_what_is_labelled() {
        let labelled = json!({labels::GATEWAY_NODE: "true"});
        let nodes = [node("a", true, labelled, internal()), node("b", true, json!({}), internal())];
        assert_eq!(choose_gateways(&nodes, &[]).expect("a").set, Vec::<String>::new());
        let name = |text: &str| NodeName::new(text).expect("a name");
        let chosen = choose_gateways(&nodes, &[name("b")]).expect("b");
        assert_eq!((chosen.set, chosen.unset, chosen.all), (vec!["b".into()], vec!["a".into()], vec!["b".into()]));
        let error = choose_gateways(&nodes, &[name("z")]).expect_err("no z").to_string();
        assert!(error.contains("--gateway-node z") && error.contains("a, b"), "{error}");
    }

    #[test]
    fn nodes_without_addresses_are_named() {
        let nodes =
            [node("a", true, json!({}), internal()), node("b", true, json!({}), json!([{"type": "Hostname", "address": "b"}]))];
        let error = check_addresses(&nodes).expect_err("b has none").to_string();
        assert!(error.starts_with("node b has no InternalIP"), "{error}");
        check_addresses(&nodes[..1]).expect("a has one");
        assert!(check_addresses(&[]).is_err());
    }

    #[test]
    fn workers_take_ordinary_pods() {
        let mut tainted = node("a", true, json!({}), internal());
        tainted.spec = serde_json::from_value(json!({"taints": [{"key": "k", "effect": "NoSchedule"}]})).ok();
        let mut cordoned = node("b", true, json!({}), internal());
        cordoned.spec = serde_json::from_value(json!({"unschedulable": true})).ok();
        let nodes = [tainted, cordoned, node("c", true, json!({}), internal()), node("d", false, json!({}), internal())];
        assert_eq!(workers(&nodes), 1);
    }
}
