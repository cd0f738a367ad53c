//! Pods, and the templates of Pods: defaults, and what may change of one that is there.

use daisy_api::names::is_label;
use k8s_openapi::api::core::v1::{Container, Pod, PodSecurityContext, PodSpec, PodStatus, Probe, Toleration};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::collections::BTreeSet;

use super::field::{FieldError, Invalid};

/// On a Pod that is on a node: the node's kubelet has not yet ended its processes. Taking it off a Pod that is being deleted
/// removes the Pod.
pub const POD_FINALIZER: &str = "lab.daisy.supercluster.local/kubelet";
/// How long a Pod stays on a node that is not ready or not reachable, in seconds, where it does not say.
const TOLERATE_SECONDS: i64 = 300;
const RESTART_POLICIES: [&str; 3] = ["Always", "Never", "OnFailure"];
const DNS_POLICIES: [&str; 4] = ["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];

/// Fills in what was left open, and refuses what cannot be.
pub(crate) fn admit(pod: &mut Pod, old: Option<&Pod>) -> Result<(), Invalid> {
    let Some(spec) = pod.spec.as_mut() else { return Err(FieldError::required("spec", "a Pod has a spec").into()) };
    if spec.service_account_name.as_ref().or(spec.service_account.as_ref()).is_none_or(String::is_empty) {
        spec.service_account_name = Some("default".to_owned());
    }
    set_defaults(spec);
    if old.is_none() {
        tolerate(spec, "node.kubernetes.io/not-ready");
        tolerate(spec, "node.kubernetes.io/unreachable");
        pod.status = Some(PodStatus {
            phase: Some("Pending".to_owned()),
            qos_class: Some("BestEffort".to_owned()),
            ..PodStatus::default()
        });
    }
    let mut errors = check(spec, "spec");
    if let Some(old) = old.and_then(|o| o.spec.as_ref()) {
        errors.extend(check_change(spec, old));
    }
    let on_node = spec.node_name.as_ref().is_some_and(|n| !n.is_empty());
    let finalizers = pod.metadata.finalizers.get_or_insert_default();
    if on_node && pod.metadata.deletion_timestamp.is_none() && !finalizers.iter().any(|f| f == POD_FINALIZER) {
        finalizers.push(POD_FINALIZER.to_owned());
    }
    if errors.is_empty() { Ok(()) } else { Err(Invalid(errors)) }
}

fn tolerate(spec: &mut PodSpec, key: &str) {
    let tolerations = spec.tolerations.get_or_insert_default();
    let covers = |t: &Toleration| {
        t.key.as_deref().unwrap_or(key) == key && t.effect.as_deref().is_none_or(|e| e.is_empty() || e == "NoExecute")
    };
    if !tolerations.iter().any(covers) {
        tolerations.push(Toleration {
            key: Some(key.to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some("NoExecute".to_owned()),
            toleration_seconds: Some(TOLERATE_SECONDS),
            value: None,
        });
    }
}

/// The defaults of a Pod's spec, in a Pod or in a template.
pub(crate) fn set_defaults(spec: &mut PodSpec) {
    let text = |field: &mut Option<String>, value: &str| {
        field.get_or_insert_with(|| value.to_owned());
    };
    text(&mut spec.restart_policy, "Always");
    text(&mut spec.dns_policy, "ClusterFirst");
    text(&mut spec.scheduler_name, "default-scheduler");
    spec.termination_grace_period_seconds.get_or_insert(30);
    spec.security_context.get_or_insert_with(PodSecurityContext::default);
    // Two names of one field.
    let account = spec.service_account_name.clone().or(spec.service_account.clone()).filter(|a| !a.is_empty());
    if let Some(account) = account {
        spec.service_account_name = Some(account.clone());
        spec.service_account = Some(account);
    }
    let host_network = spec.host_network == Some(true);
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        set_container_defaults(container, host_network);
    }
}

fn set_container_defaults(container: &mut Container, host_network: bool) {
    container.termination_message_path.get_or_insert_with(|| "/dev/termination-log".to_owned());
    container.termination_message_policy.get_or_insert_with(|| "File".to_owned());
    container.resources.get_or_insert_default();
    let image = container.image.as_deref().unwrap_or_default();
    let tag = image.rsplit('/').next().unwrap_or_default();
    let latest = !image.contains('@') && (!tag.contains(':') || tag.ends_with(":latest"));
    container.image_pull_policy.get_or_insert_with(|| if latest { "Always" } else { "IfNotPresent" }.to_owned());
    for port in container.ports.iter_mut().flatten() {
        port.protocol.get_or_insert_with(|| "TCP".to_owned());
        if host_network {
            port.host_port.get_or_insert(port.container_port);
        }
    }
    for variable in container.env.iter_mut().flatten() {
        if let Some(field) = variable.value_from.as_mut().and_then(|v| v.field_ref.as_mut()) {
            field.api_version.get_or_insert_with(|| "v1".to_owned());
        }
    }
    let probes = [&mut container.liveness_probe, &mut container.readiness_probe, &mut container.startup_probe];
    for probe in probes.into_iter().flatten() {
        set_probe_defaults(probe);
    }
}

fn set_probe_defaults(probe: &mut Probe) {
    probe.timeout_seconds.get_or_insert(1);
    probe.period_seconds.get_or_insert(10);
    probe.success_threshold.get_or_insert(1);
    probe.failure_threshold.get_or_insert(3);
    if let Some(http) = probe.http_get.as_mut() {
        http.scheme.get_or_insert_with(|| "HTTP".to_owned());
        http.path.get_or_insert_with(|| "/".to_owned());
    }
}

/// What is wrong with a Pod's spec at `path`.
pub(crate) fn check(spec: &PodSpec, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if spec.containers.is_empty() {
        errors.push(FieldError::required(format!("{path}.containers"), "a Pod has at least one container"));
    }
    let mut names = BTreeSet::new();
    for (list, containers) in [("containers", Some(&spec.containers)), ("initContainers", spec.init_containers.as_ref())] {
        for (index, container) in containers.into_iter().flatten().enumerate() {
            let at = |field: &str| format!("{path}.{list}[{index}].{field}");
            if !is_label(&container.name) {
                errors.push(FieldError::invalid(at("name"), &container.name, "a container's name is a DNS label"));
            } else if !names.insert(&container.name) {
                errors.push(FieldError::duplicate(at("name"), &container.name));
            }
            if container.image.as_deref().unwrap_or_default().is_empty() {
                errors.push(FieldError::required(at("image"), "a container has an image"));
            }
            for (n, port) in container.ports.iter().flatten().enumerate() {
                if !(1..=65_535).contains(&port.container_port) {
                    let field = at(&format!("ports[{n}].containerPort"));
                    errors.push(FieldError::invalid(field, port.container_port, "must be between 1 and 65535, inclusive"));
                }
            }
            errors.extend(check_probe(container.readiness_probe.as_ref(), &at("readinessProbe")));
        }
    }
    let restart = spec.restart_policy.as_deref().unwrap_or_default();
    if !RESTART_POLICIES.contains(&restart) {
        errors.push(FieldError::unsupported(format!("{path}.restartPolicy"), restart, &RESTART_POLICIES));
    }
    let dns = spec.dns_policy.as_deref().unwrap_or_default();
    if !DNS_POLICIES.contains(&dns) {
        errors.push(FieldError::unsupported(format!("{path}.dnsPolicy"), dns, &DNS_POLICIES));
    }
    let servers = spec.dns_config.as_ref().and_then(|c| c.nameservers.as_deref()).unwrap_or_default();
    if dns == "None" && servers.is_empty() {
        let why = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        errors.push(FieldError::required(format!("{path}.dnsConfig.nameservers"), why));
    }
    if spec.termination_grace_period_seconds.is_some_and(|s| s < 0) {
        let field = format!("{path}.terminationGracePeriodSeconds");
        errors.push(FieldError::invalid(field, spec.termination_grace_period_seconds, "must not be negative"));
    }
    errors
}

fn check_probe(probe: Option<&Probe>, path: &str) -> Option<FieldError> {
    let probe = probe?;
    let handlers = [probe.http_get.is_some(), probe.tcp_socket.is_some(), probe.exec.is_some(), probe.grpc.is_some()];
    if handlers.iter().filter(|h| **h).count() != 1 {
        return Some(FieldError::required(path, "a probe has exactly one handler"));
    }
    let port = probe.http_get.as_ref().map(|h| &h.port).or(probe.tcp_socket.as_ref().map(|t| &t.port));
    match port {
        Some(IntOrString::Int(n)) if !(1..=65_535).contains(n) => {
            Some(FieldError::invalid(format!("{path}.port"), n, "must be between 1 and 65535, inclusive"))
        }
        Some(_) | None => None,
    }
}

/// A Pod stays as it was made, but for its node (once), images, tolerations and deadlines.
fn check_change(spec: &PodSpec, old: &PodSpec) -> Option<FieldError> {
    let mut comparable = spec.clone();
    if old.node_name.as_ref().is_none_or(String::is_empty) {
        comparable.node_name.clone_from(&old.node_name);
    }
    comparable.tolerations.clone_from(&old.tolerations);
    comparable.active_deadline_seconds = old.active_deadline_seconds;
    comparable.termination_grace_period_seconds = old.termination_grace_period_seconds;
    for (container, before) in comparable.containers.iter_mut().zip(&old.containers) {
        container.image.clone_from(&before.image);
    }
    let why = "pod updates may not change fields other than `spec.containers[*].image`, `spec.activeDeadlineSeconds`, \
               `spec.tolerations`, `spec.terminationGracePeriodSeconds`, and `spec.nodeName` while it is empty";
    (comparable != *old).then(|| FieldError {
        field: "spec".to_owned(),
        reason: "FieldValueForbidden",
        message: format!("Forbidden: {why}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({ "metadata": { "name": "p" }, "spec": spec })).expect("a Pod")
    }

    fn admitted(spec: serde_json::Value) -> Pod {
        let mut pod = pod(spec);
        admit(&mut pod, None).expect("admitted");
        pod
    }

    #[test]
    fn fills_in_what_was_left_open() {
        let got = admitted(
            json!({ "containers": [{ "name": "c", "image": "registry:5000/nginx", "ports": [{ "containerPort": 80 }] }] }),
        );
        let spec = got.spec.as_ref().expect("spec");
        assert_eq!((spec.restart_policy.as_deref(), spec.dns_policy.as_deref()), (Some("Always"), Some("ClusterFirst")));
        assert_eq!(spec.containers[0].image_pull_policy.as_deref(), Some("Always"));
        assert_eq!(spec.containers[0].ports.as_ref().expect("ports")[0].protocol.as_deref(), Some("TCP"));
        assert_eq!(spec.tolerations.as_ref().map(Vec::len), Some(2));
        assert_eq!(got.status.expect("status").phase.as_deref(), Some("Pending"));
        // A second pass finds nothing to fill in.
        let first = admitted(json!({ "containers": [{ "name": "c", "image": "a:1" }], "hostNetwork": true }));
        let mut again = first.clone();
        admit(&mut again, Some(&first)).expect("no change");
        assert_eq!(first.spec, again.spec);
    }

    #[test]
    fn a_pod_on_a_node_is_its_kubelets_to_end() {
        let spec = json!({ "containers": [{ "name": "c", "image": "a" }] });
        let first = admitted(spec.clone());
        assert_eq!(first.metadata.finalizers, Some(Vec::new()));
        let mut bound = first.clone();
        if let Some(spec) = bound.spec.as_mut() {
            spec.node_name = Some("n1".to_owned());
        }
        admit(&mut bound, Some(&first)).expect("bound");
        assert_eq!(bound.metadata.finalizers, Some(vec![POD_FINALIZER.to_owned()]));
        let mut moved = bound.clone();
        if let Some(spec) = moved.spec.as_mut() {
            spec.node_name = Some("n2".to_owned());
        }
        assert!(admit(&mut moved, Some(&bound)).is_err());
        let mut ended = bound.clone();
        ended.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).expect("a time");
        ended.metadata.finalizers = None;
        admit(&mut ended, Some(&bound)).expect("the kubelet is done");
        assert_eq!(ended.metadata.finalizers, Some(Vec::new()));
    }

    #[test]
    fn what_cannot_be_is_named() {
        for (spec, field) in [
            (json!({ "containers": [] }), "spec.containers"),
            (json!({ "containers": [{ "name": "C", "image": "a" }] }), "spec.containers[0].name"),
            (
                json!({ "containers": [{ "name": "c", "image": "a" }, { "name": "c", "image": "a" }] }),
                "spec.containers[1].name",
            ),
            (json!({ "containers": [{ "name": "c" }] }), "spec.containers[0].image"),
            (
                json!({ "containers": [{ "name": "c", "image": "a", "ports": [{ "containerPort": 0 }] }] }),
                "spec.containers[0].ports[0].containerPort",
            ),
            (
                json!({ "containers": [{ "name": "c", "image": "a", "readinessProbe": {} }] }),
                "spec.containers[0].readinessProbe",
            ),
            (json!({ "containers": [{ "name": "c", "image": "a" }], "dnsPolicy": "None" }), "spec.dnsConfig.nameservers"),
            (json!({ "containers": [{ "name": "c", "image": "a" }], "restartPolicy": "Sometimes" }), "spec.restartPolicy"),
        ] {
            let Err(Invalid(errors)) = admit(&mut pod(spec.clone()), None) else { panic!("{spec} was admitted") };
            assert_eq!(errors[0].field, field);
        }
    }
}
