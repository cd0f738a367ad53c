//! A pod's status, from what is known of its containers. Pure.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::container::{Ending, Report, State};

/// What a status is made of.
pub(super) struct Facts<'a> {
    pub(super) pod: &'a Pod,
    pub(super) node_address: IpAddr,
    /// Absent while there is no network.
    pub(super) pod_address: Option<IpAddr>,
    pub(super) started: Timestamp,
    pub(super) init: &'a [Report],
    pub(super) containers: &'a [Report],
    /// Whether no container is started again.
    pub(super) over: bool,
}

/// The conditions that are the kubelet's to say.
const OURS: [&str; 4] = ["PodScheduled", "Initialized", "ContainersReady", "Ready"];

/// The status, and whether the pod is ready.
pub(super) fn of(facts: &Facts<'_>, now: Timestamp) -> (Value, bool) {
    let spec = facts.pod.spec.as_ref();
    let done = |r: &Report| matches!(&r.state, State::Ended(ending) if ending.code == 0);
    let initialized = facts.init.iter().all(done);
    let running = |r: &Report| matches!(r.state, State::Running { .. }) || r.last.is_some();
    let phase = if facts.over {
        if initialized && facts.containers.iter().all(done) { "Succeeded" } else { "Failed" }
    } else if initialized && facts.containers.iter().any(running) {
        "Running"
    } else {
        "Pending"
    };
    let ready = initialized && !facts.over && !facts.containers.is_empty() && facts.containers.iter().all(|r| r.ready);
    let mut conditions: Vec<Value> = kept(facts.pod);
    for (kind, holds) in OURS.into_iter().zip([true, initialized, ready, ready]) {
        conditions.push(condition(facts.pod, kind, holds, now));
    }
    let statuses = |reports: &[Report], specs: Option<&Vec<Container>>| -> Vec<Value> {
        let specs = specs.into_iter().flatten();
        reports
            .iter()
            .zip(specs)
            .map(|(report, c)| container(report, &c.name, c.image.as_deref().unwrap_or_default()))
            .collect()
    };
    let mut status = json!({
        "phase": phase,
        "hostIP": facts.node_address,
        "hostIPs": [{ "ip": facts.node_address }],
        "startTime": facts.started.to_string(),
        "conditions": conditions,
        "containerStatuses": statuses(facts.containers, spec.map(|s| &s.containers)),
    });
    if !facts.init.is_empty() {
        status["initContainerStatuses"] = json!(statuses(facts.init, spec.and_then(|s| s.init_containers.as_ref())));
    }
    if let Some(address) = facts.pod_address {
        status["podIP"] = json!(address);
        status["podIPs"] = json!([{ "ip": address }]);
    }
    (status, ready)
}

/// The conditions that others have set.
fn kept(pod: &Pod) -> Vec<Value> {
    let all = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    all.filter(|c| !OURS.contains(&c.type_.as_str())).filter_map(|c| serde_json::to_value(c).ok()).collect()
}

fn condition(pod: &Pod, kind: &str, holds: bool, now: Timestamp) -> Value {
    let status = if holds { "True" } else { "False" };
    let mut all = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let before = all.find(|c| c.type_ == kind && c.status == status).and_then(|c| c.last_transition_time.clone());
    let since = before.map_or(now, |t| t.0);
    let mut condition = json!({ "type": kind, "status": status, "lastTransitionTime": since.to_string() });
    if !holds {
        condition["reason"] = json!(if kind == "Initialized" { "ContainersNotInitialized" } else { "ContainersNotReady" });
    }
    condition
}

fn container(report: &Report, name: &str, image: &str) -> Value {
    let ending = |e: &Ending| {
        json!({
            "exitCode": e.code,
            "reason": if e.code == 0 { "Completed" } else { "Error" },
            "startedAt": e.started.to_string(),
            "finishedAt": e.finished.to_string(),
        })
    };
    let (state, started) = match &report.state {
        State::Waiting { reason, message } => (json!({ "waiting": { "reason": reason, "message": message } }), false),
        State::Running { since, .. } => (json!({ "running": { "startedAt": since.to_string() } }), true),
        State::Ended(e) => (json!({ "terminated": ending(e) }), false),
    };
    let mut status = json!({
        "name": name,
        "image": image,
        "imageID": "",
        "ready": report.ready,
        "started": started,
        "restartCount": report.restarts,
        "state": state,
    });
    if let (Some(last), false) = (&report.last, matches!(report.state, State::Ended(_))) {
        status["lastState"] = json!({ "terminated": ending(last) });
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": { "name": "web", "namespace": "shop" },
            "spec": { "containers": [{ "name": "web", "image": "nginx" }] },
            "status": { "conditions": [{ "type": "example.com/gate", "status": "True" }] },
        }))
        .expect("a Pod")
    }

    fn status(report: Report, over: bool) -> (Value, bool) {
        let pod = pod();
        let address = "10.10.0.2".parse().ok();
        let facts = Facts {
            pod: &pod,
            node_address: "198.51.100.3".parse().expect("address"),
            pod_address: address,
            started: Timestamp::UNIX_EPOCH,
            init: &[],
            containers: &[report],
            over,
        };
        of(&facts, Timestamp::UNIX_EPOCH)
    }

    fn running(ready: bool) -> Report {
        Report { state: State::Running { since: Timestamp::UNIX_EPOCH, pid: 7 }, ready, ..Report::default() }
    }

    #[test]
    fn a_pod_on_its_way() {
        assert_eq!(status(Report::default(), false).0["phase"], "Pending");
        let (value, ready) = status(running(false), false);
        assert_eq!((value["phase"].as_str(), ready), (Some("Running"), false));
        let (value, ready) = status(running(true), false);
        assert!(ready);
        assert_eq!(value["podIPs"][0]["ip"], "10.10.0.2");
        let conditions = value["conditions"].as_array().expect("conditions");
        assert!(conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"));
        assert!(conditions.iter().any(|c| c["type"] == "example.com/gate"), "what others said stays");
        assert_eq!(value["containerStatuses"][0]["state"]["running"]["startedAt"], "1970-01-01T00:00:00Z");
    }

    #[test]
    fn a_pod_that_is_over() {
        let ending = |code| Ending { code, started: Timestamp::UNIX_EPOCH, finished: Timestamp::UNIX_EPOCH };
        let report = |code| Report { state: State::Ended(ending(code)), last: Some(ending(code)), ..Report::default() };
        assert_eq!(status(report(0), true).0["phase"], "Succeeded");
        assert_eq!(status(report(1), true).0["phase"], "Failed");
    }

    #[test]
    fn a_status_is_one_of_kubernetes() {
        let (value, _) = status(running(true), false);
        let parsed: k8s_openapi::api::core::v1::PodStatus = serde_json::from_value(value).expect("a PodStatus");
        assert_eq!(parsed.phase.as_deref(), Some("Running"));
    }
}
