//! Which nodes a Pod may be on, and which of them it goes to.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Taint, Toleration};

/// The taints that a DaemonSet's Pods tolerate without saying so.
const DAEMON_TOLERATED: [&str; 7] = [
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/unreachable",
    "node.kubernetes.io/disk-pressure",
    "node.kubernetes.io/memory-pressure",
    "node.kubernetes.io/pid-pressure",
    "node.kubernetes.io/unschedulable",
    "node.kubernetes.io/network-unavailable",
];

/// Whether the node's condition `Ready` is true.
pub(crate) fn is_node_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// What of a node decides about placement: when none of it changed, no Pod needs another look.
pub(crate) fn placement_facts(node: &Node) -> impl PartialEq + '_ {
    let spec = node.spec.as_ref();
    (
        node.metadata.labels.as_ref(),
        spec.and_then(|s| s.taints.as_ref()),
        spec.and_then(|s| s.unschedulable).unwrap_or(false),
        is_node_ready(node),
        node.metadata.deletion_timestamp.is_some(),
    )
}

/// Whether a DaemonSet with this template has a Pod on the node. Readiness and cordons do not count, as on Kubernetes.
pub(crate) fn daemon_fits(spec: &PodSpec, node: &Node) -> bool {
    selects(spec, node)
        && first_untolerated(spec, node, |taint| DAEMON_TOLERATED.contains(&taint.key.as_str())).is_none()
        && spec.node_name.as_ref().is_none_or(|n| n.is_empty() || Some(n) == node.metadata.name.as_ref())
}

/// Why the Pod cannot go to the node; `None` where it can.
pub(crate) fn obstacle(pod: &Pod, node: &Node) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    if !is_node_ready(node) {
        return Some("node(s) were not ready".to_owned());
    }
    let unschedulable = node.spec.as_ref().and_then(|s| s.unschedulable).unwrap_or(false);
    if unschedulable && !tolerates(spec, "node.kubernetes.io/unschedulable", None, "NoSchedule") {
        return Some("node(s) were unschedulable".to_owned());
    }
    if let Some(taint) = first_untolerated(spec, node, |_| false) {
        let value = taint.value.as_deref().unwrap_or_default();
        return Some(format!("node(s) had untolerated taint {{{}: {value}}}", taint.key));
    }
    (!selects(spec, node)).then(|| "node(s) didn't match Pod's node affinity/selector".to_owned())
}

/// A choice of node for a Pod, or why there is none, as the condition `PodScheduled` says it.
pub(crate) fn choose<'a>(
    pod: &Pod,
    nodes: impl Iterator<Item = &'a Node>,
    load: impl Fn(&str) -> (usize, usize),
) -> Result<String, String> {
    let mut total = 0usize;
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    let mut best: Option<((usize, usize), &str)> = None;
    for node in nodes {
        total += 1;
        let Some(name) = node.metadata.name.as_deref() else { continue };
        if let Some(reason) = obstacle(pod, node) {
            *reasons.entry(reason).or_default() += 1;
            continue;
        }
        let candidate = (load(name), name);
        if best.as_ref().is_none_or(|b| candidate < *b) {
            best = Some(candidate);
        }
    }
    best.map(|(_, name)| name.to_owned()).ok_or_else(|| {
        let reasons = reasons.iter().map(|(reason, n)| format!("{n} {reason}")).collect::<Vec<_>>().join(", ");
        if reasons.is_empty() {
            "no nodes available to schedule pods".to_owned()
        } else {
            format!("0/{total} nodes are available: {reasons}.")
        }
    })
}

fn first_untolerated<'a>(spec: &PodSpec, node: &'a Node, also: impl Fn(&Taint) -> bool) -> Option<&'a Taint> {
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_ref()).into_iter().flatten();
    taints
        .filter(|t| t.effect == "NoSchedule" || t.effect == "NoExecute")
        .find(|t| !also(t) && !tolerates(spec, &t.key, t.value.as_deref(), &t.effect))
}

fn tolerates(spec: &PodSpec, key: &str, value: Option<&str>, effect: &str) -> bool {
    let matches = |t: &Toleration| {
        let any_effect = t.effect.as_deref().unwrap_or_default();
        let exists = t.operator.as_deref() == Some("Exists");
        let same_key = match t.key.as_deref().unwrap_or_default() {
            "" => exists,
            k => k == key,
        };
        (any_effect.is_empty() || any_effect == effect)
            && same_key
            && (exists || t.value.as_deref().unwrap_or_default() == value.unwrap_or_default())
    };
    spec.tolerations.iter().flatten().any(matches)
}

fn selects(spec: &PodSpec, node: &Node) -> bool {
    let empty = BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&empty);
    let selector = spec.node_selector.iter().flatten().all(|(k, v)| labels.get(k) == Some(v));
    let required = spec
        .affinity
        .as_ref()
        .and_then(|a| a.node_affinity.as_ref())
        .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    selector && required.is_none_or(|r| r.node_selector_terms.iter().any(|term| term_matches(term, node, labels)))
}

fn term_matches(term: &NodeSelectorTerm, node: &Node, labels: &BTreeMap<String, String>) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    // A term without requirements matches nothing.
    (!expressions.is_empty() || !fields.is_empty())
        && expressions.iter().all(|r| requirement_matches(r, labels.get(&r.key).map(String::as_str)))
        && fields.iter().all(|r| r.key == "metadata.name" && requirement_matches(r, node.metadata.name.as_deref()))
}

fn requirement_matches(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|v| values.iter().any(|w| w == v));
    let numbers = || Some((value?.parse::<i64>().ok()?, values.first()?.parse::<i64>().ok()?));
    match requirement.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => numbers().is_some_and(|(have, bound)| have > bound),
        "Lt" => numbers().is_some_and(|(have, bound)| have < bound),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(name: &str, more: serde_json::Value) -> Node {
        let mut value =
            json!({ "metadata": { "name": name }, "status": { "conditions": [{ "type": "Ready", "status": "True" }] } });
        for (key, part) in more.as_object().cloned().unwrap_or_default() {
            match value.get_mut(&key).and_then(|v| v.as_object_mut()) {
                Some(had) => had.extend(part.as_object().cloned().unwrap_or_default()),
                None => value[&key] = part,
            }
        }
        serde_json::from_value(value).expect("a Node")
    }

    fn pod(spec: serde_json::Value) -> Pod {
        let mut spec = spec;
        spec["containers"] = json!([]);
        serde_json::from_value(json!({ "metadata": { "name": "p" }, "spec": spec })).expect("a Pod")
    }

    #[test]
    fn goes_where_fewest_are() {
        let nodes = [node("a", json!({})), node("b", json!({})), node("c", json!({ "spec": { "unschedulable": true } }))];
        let load = |n: &str| if n == "a" { (1, 1) } else { (0, 9) };
        assert_eq!(choose(&pod(json!({})), nodes.iter(), load), Ok("b".to_owned()));
        assert_eq!(choose(&pod(json!({})), nodes.iter(), |_| (0, 0)), Ok("a".to_owned()));
        let nowhere = choose(&pod(json!({ "nodeSelector": { "x": "y" } })), nodes.iter(), load).expect_err("no such node");
        assert_eq!(
            nowhere,
            "0/3 nodes are available: 2 node(s) didn't match Pod's node affinity/selector, 1 node(s) were unschedulable."
        );
    }

    #[test]
    fn taints_keep_out_who_does_not_tolerate_them() {
        let tainted = node("a", json!({ "spec": { "taints": [{ "key": "k", "value": "v", "effect": "NoSchedule" }] } }));
        assert!(obstacle(&pod(json!({})), &tainted).is_some());
        for toleration in [
            json!({ "operator": "Exists" }),
            json!({ "key": "k", "value": "v" }),
            json!({ "key": "k", "operator": "Exists", "effect": "NoSchedule" }),
        ] {
            assert_eq!(obstacle(&pod(json!({ "tolerations": [toleration] })), &tainted), None);
        }
        for toleration in
            [json!({ "key": "k", "value": "w" }), json!({ "key": "k", "operator": "Exists", "effect": "NoExecute" })]
        {
            assert!(obstacle(&pod(json!({ "tolerations": [toleration] })), &tainted).is_some());
        }
    }

    #[test]
    fn daemons_ignore_readiness_but_not_labels() {
        let unready: Node = serde_json::from_value(json!({
            "metadata": { "name": "a", "labels": { "gateway": "true", "n": "5" } },
            "spec": { "taints": [{ "key": "node.kubernetes.io/not-ready", "effect": "NoSchedule" }] },
        }))
        .expect("a Node");
        let fits = |spec: serde_json::Value| daemon_fits(pod(spec).spec.as_ref().expect("spec"), &unready);
        assert!(fits(json!({ "nodeSelector": { "gateway": "true" } })));
        assert!(!fits(json!({ "nodeSelector": { "gateway": "false" } })));
        let affinity = |r: serde_json::Value| json!({ "affinity": { "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": [r] } } } });
        assert!(fits(affinity(json!({ "matchExpressions": [{ "key": "n", "operator": "Gt", "values": ["4"] }] }))));
        assert!(!fits(affinity(json!({ "matchExpressions": [{ "key": "n", "operator": "NotIn", "values": ["5"] }] }))));
        assert!(fits(affinity(json!({ "matchFields": [{ "key": "metadata.name", "operator": "In", "values": ["a"] }] }))));
        assert!(!fits(affinity(json!({}))));
    }
}
