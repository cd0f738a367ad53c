//! The kinds that a cluster has and a broker has not, with the columns that users of kubectl know.

use daisy_api_server::{Column, NameRule, ResourceDefinition, builtin};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use serde_json::{Value, json};

/// Everything that a cluster of the lab serves.
pub(super) fn all() -> Vec<ResourceDefinition> {
    let mut all = builtin::broker();
    all.extend([
        ResourceDefinition::of::<Pod>()
            .with_status()
            .short_names(&["po"])
            .categories(&["all"])
            .column(Column::with("Ready", "string", containers_ready))
            .column(Column::with("Status", "string", |o| json!(pod_status(o))))
            .column(Column::with("Restarts", "integer", restarts))
            .column(Column::with("IP", "string", |o| text(&o["status"]["podIP"])).wide())
            .column(Column::with("Node", "string", |o| text(&o["spec"]["nodeName"])).wide()),
        ResourceDefinition::of::<Service>()
            .with_status()
            .short_names(&["svc"])
            .categories(&["all"])
            .names(NameRule::LetterLabel)
            .column(Column::with("Type", "string", |o| text(&o["spec"]["type"])))
            .column(Column::with("Cluster-IP", "string", |o| text(&o["spec"]["clusterIP"])))
            .column(Column::with("External-IP", "string", external_ip))
            .column(Column::with("Port(s)", "string", service_ports))
            .column(Column::with("Selector", "string", |o| labels(&o["spec"]["selector"])).wide()),
        ResourceDefinition::of::<Node>()
            .with_status()
            .short_names(&["no"])
            .column(Column::with("Status", "string", node_status))
            .column(Column::with("Roles", "string", node_roles))
            .column(Column::with("Version", "string", |o| text(&o["status"]["nodeInfo"]["kubeletVersion"])))
            .column(Column::with("Internal-IP", "string", internal_ip).wide()),
        ResourceDefinition::of::<EndpointSlice>()
            .column(Column::with("AddressType", "string", |o| text(&o["addressType"])))
            .column(Column::with("Ports", "string", slice_ports))
            .column(Column::with("Endpoints", "string", slice_endpoints)),
        ResourceDefinition::of::<Deployment>()
            .with_status()
            .short_names(&["deploy"])
            .categories(&["all"])
            .column(Column::with("Ready", "string", |o| {
                json!(format!("{}/{}", number(&o["status"]["readyReplicas"]), number(&o["spec"]["replicas"])))
            }))
            .column(Column::with("Up-to-date", "integer", |o| json!(number(&o["status"]["updatedReplicas"]))))
            .column(Column::with("Available", "integer", |o| json!(number(&o["status"]["availableReplicas"]))))
            .column(Column::with("Images", "string", images).wide())
            .column(Column::with("Selector", "string", |o| labels(&o["spec"]["selector"]["matchLabels"])).wide()),
        ResourceDefinition::of::<DaemonSet>()
            .with_status()
            .short_names(&["ds"])
            .categories(&["all"])
            .column(Column::with("Desired", "integer", |o| json!(number(&o["status"]["desiredNumberScheduled"]))))
            .column(Column::with("Current", "integer", |o| json!(number(&o["status"]["currentNumberScheduled"]))))
            .column(Column::with("Ready", "integer", |o| json!(number(&o["status"]["numberReady"]))))
            .column(Column::with("Up-to-date", "integer", |o| json!(number(&o["status"]["updatedNumberScheduled"]))))
            .column(Column::with("Available", "integer", |o| json!(number(&o["status"]["numberAvailable"]))))
            .column(Column::with("Node Selector", "string", |o| labels(&o["spec"]["template"]["spec"]["nodeSelector"])))
            .column(Column::with("Images", "string", images).wide()),
        ResourceDefinition::of::<ServiceCIDR>()
            .with_status()
            .column(Column::with("CIDRs", "string", |o| joined(&o["spec"]["cidrs"]))),
    ]);
    all
}

/// What kubectl shows where there is nothing.
fn none() -> Value {
    json!("<none>")
}

fn text(value: &Value) -> Value {
    value.as_str().filter(|s| !s.is_empty()).map_or_else(none, |s| json!(s))
}

fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn joined(value: &Value) -> Value {
    let parts: Vec<&str> = list(value).filter_map(Value::as_str).collect();
    if parts.is_empty() { none() } else { json!(parts.join(",")) }
}

fn labels(value: &Value) -> Value {
    let pairs = value.as_object().into_iter().flatten().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()));
    let pairs: Vec<String> = pairs.collect();
    if pairs.is_empty() { none() } else { json!(pairs.join(",")) }
}

fn containers_ready(pod: &Value) -> Value {
    let ready = list(&pod["status"]["containerStatuses"]).filter(|c| c["ready"] == true).count();
    json!(format!("{ready}/{}", list(&pod["spec"]["containers"]).count()))
}

fn restarts(pod: &Value) -> Value {
    json!(list(&pod["status"]["containerStatuses"]).map(|c| number(&c["restartCount"])).sum::<i64>())
}

/// As kubectl has it: what hinders a container says more than the phase.
fn pod_status(pod: &Value) -> String {
    let status = &pod["status"];
    if !pod["metadata"]["deletionTimestamp"].is_null() {
        return "Terminating".to_owned();
    }
    let hindrance = list(&status["containerStatuses"]).find_map(|c| {
        let state = &c["state"];
        let waiting = state["waiting"]["reason"].as_str();
        waiting.or_else(|| state["terminated"]["reason"].as_str()).filter(|r| !r.is_empty())
    });
    let phase = || status["reason"].as_str().or_else(|| status["phase"].as_str());
    hindrance.or_else(phase).unwrap_or("Unknown").to_owned()
}

fn external_ip(service: &Value) -> Value {
    if service["spec"]["type"] == "ExternalName" {
        return text(&service["spec"]["externalName"]);
    }
    joined(&service["spec"]["externalIPs"])
}

fn service_ports(service: &Value) -> Value {
    let ports: Vec<String> = list(&service["spec"]["ports"])
        .map(|p| {
            let protocol = p["protocol"].as_str().unwrap_or("TCP");
            match p["nodePort"].as_i64().filter(|n| *n != 0) {
                Some(node_port) => format!("{}:{node_port}/{protocol}", number(&p["port"])),
                None => format!("{}/{protocol}", number(&p["port"])),
            }
        })
        .collect();
    if ports.is_empty() { none() } else { json!(ports.join(",")) }
}

fn node_status(node: &Value) -> Value {
    let ready = list(&node["status"]["conditions"]).find(|c| c["type"] == "Ready");
    let mut words = match ready.and_then(|c| c["status"].as_str()) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if node["spec"]["unschedulable"] == true {
        words.push_str(",SchedulingDisabled");
    }
    json!(words)
}

fn node_roles(node: &Value) -> Value {
    let names = node["metadata"]["labels"].as_object().into_iter().flatten();
    let roles: Vec<&str> =
        names.filter_map(|(k, _)| k.strip_prefix("node-role.kubernetes.io/")).filter(|r| !r.is_empty()).collect();
    if roles.is_empty() { none() } else { json!(roles.join(",")) }
}

fn internal_ip(node: &Value) -> Value {
    list(&node["status"]["addresses"]).find(|a| a["type"] == "InternalIP").map_or_else(none, |a| text(&a["address"]))
}

fn images(workload: &Value) -> Value {
    let images: Vec<&str> =
        list(&workload["spec"]["template"]["spec"]["containers"]).filter_map(|c| c["image"].as_str()).collect();
    json!(images.join(","))
}

fn slice_ports(slice: &Value) -> Value {
    let ports: Vec<String> = list(&slice["ports"]).map(|p| number(&p["port"]).to_string()).collect();
    if ports.is_empty() { json!("<unset>") } else { json!(ports.join(",")) }
}

/// The first three, as kubectl has it.
fn slice_endpoints(slice: &Value) -> Value {
    let all: Vec<&str> = list(&slice["endpoints"]).flat_map(|e| list(&e["addresses"])).filter_map(Value::as_str).collect();
    match all.len() {
        0 => json!("<unset>"),
        1..=3 => json!(all.join(",")),
        n => json!(format!("{} + {} more...", all[..3].join(","), n - 3)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_kind_is_there_twice() {
        let keys: std::collections::BTreeSet<String> = all().iter().map(|d| d.key().to_string()).collect();
        assert_eq!(keys.len(), all().len());
        assert!(keys.contains("endpointslices.discovery.k8s.io") && keys.contains("pods"));
    }

    #[test]
    fn cells_say_what_kubectl_says() {
        let mut pod = json!({
            "spec": { "containers": [{}, {}] },
            "status": { "phase": "Running", "containerStatuses": [{ "ready": true, "restartCount": 2 }, { "ready": false, "restartCount": 1 }] },
        });
        assert_eq!((containers_ready(&pod), restarts(&pod), pod_status(&pod).as_str()), (json!("1/2"), json!(3), "Running"));
        pod["status"]["containerStatuses"][1]["state"] = json!({ "waiting": { "reason": "CrashLoopBackOff" } });
        assert_eq!(pod_status(&pod), "CrashLoopBackOff");
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert_eq!(pod_status(&pod), "Terminating");
        let service = json!({ "spec": { "ports": [{ "port": 80 }, { "port": 53, "protocol": "UDP", "nodePort": 30053 }] } });
        assert_eq!(service_ports(&service), json!("80/TCP,53:30053/UDP"));
        assert_eq!(external_ip(&service), json!("<none>"));
        let node = json!({
            "metadata": { "labels": { "node-role.kubernetes.io/control-plane": "", "a": "b" } },
            "spec": { "unschedulable": true }, "status": { "conditions": [{ "type": "Ready", "status": "True" }] },
        });
        assert_eq!((node_status(&node), node_roles(&node)), (json!("Ready,SchedulingDisabled"), json!("control-plane")));
        let slice = json!({ "endpoints": [{ "addresses": ["a"] }, { "addresses": ["b"] }, { "addresses": ["c"] }, { "addresses": ["d"] }] });
        assert_eq!((slice_endpoints(&slice), slice_ports(&slice)), (json!("a,b,c + 1 more..."), json!("<unset>")));
    }
}
