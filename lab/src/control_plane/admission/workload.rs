//! Deployments and DaemonSets: defaults, and that they select what they make.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{
    DaemonSet, DaemonSetSpec, DaemonSetUpdateStrategy, Deployment, DeploymentStrategy, RollingUpdateDaemonSet,
    RollingUpdateDeployment,
};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::field::{FieldError, Invalid};
use super::pod;

/// Fills in what was left open of a Deployment, and refuses what cannot be.
pub(crate) fn admit_deployment(deployment: &mut Deployment, old: Option<&Deployment>) -> Result<(), Invalid> {
    let Some(spec) = deployment.spec.as_mut() else {
        return Err(FieldError::required("spec", "a Deployment has a spec").into());
    };
    spec.replicas.get_or_insert(1);
    spec.revision_history_limit.get_or_insert(10);
    spec.progress_deadline_seconds.get_or_insert(600);
    let strategy = spec.strategy.get_or_insert_with(DeploymentStrategy::default);
    let kind = strategy.type_.get_or_insert_with(|| "RollingUpdate".to_owned()).clone();
    if kind == "RollingUpdate" {
        let rolling = strategy.rolling_update.get_or_insert_with(RollingUpdateDeployment::default);
        let quarter = || IntOrString::String("25%".to_owned());
        rolling.max_surge.get_or_insert_with(quarter);
        rolling.max_unavailable.get_or_insert_with(quarter);
    }
    let mut errors = Vec::new();
    if kind != "RollingUpdate" && kind != "Recreate" {
        errors.push(FieldError::unsupported("spec.strategy.type", kind, &["Recreate", "RollingUpdate"]));
    }
    if spec.replicas.is_some_and(|n| n < 0) {
        errors.push(FieldError::invalid("spec.replicas", spec.replicas, "must be greater than or equal to 0"));
    }
    let old = old.and_then(|o| o.spec.as_ref()).map(|s| &s.selector);
    errors.extend(admit_template(&mut spec.template, &spec.selector, old));
    if errors.is_empty() { Ok(()) } else { Err(Invalid(errors)) }
}

/// Fills in what was left open of a DaemonSet, and refuses what cannot be.
pub(crate) fn admit_daemon_set(set: &mut DaemonSet, old: Option<&DaemonSet>) -> Result<(), Invalid> {
    let Some(spec) = set.spec.as_mut() else { return Err(FieldError::required("spec", "a DaemonSet has a spec").into()) };
    spec.revision_history_limit.get_or_insert(10);
    let mut errors = Vec::from_iter(admit_update_strategy(spec));
    let old = old.and_then(|o| o.spec.as_ref()).map(|s| &s.selector);
    errors.extend(admit_template(&mut spec.template, &spec.selector, old));
    if errors.is_empty() { Ok(()) } else { Err(Invalid(errors)) }
}

fn admit_update_strategy(spec: &mut DaemonSetSpec) -> Option<FieldError> {
    let strategy = spec.update_strategy.get_or_insert_with(DaemonSetUpdateStrategy::default);
    let kind = strategy.type_.get_or_insert_with(|| "RollingUpdate".to_owned()).clone();
    if kind == "RollingUpdate" {
        let rolling = strategy.rolling_update.get_or_insert_with(RollingUpdateDaemonSet::default);
        rolling.max_unavailable.get_or_insert(IntOrString::Int(1));
        rolling.max_surge.get_or_insert(IntOrString::Int(0));
    }
    (kind != "RollingUpdate" && kind != "OnDelete")
        .then(|| FieldError::unsupported("spec.updateStrategy.type", kind, &["OnDelete", "RollingUpdate"]))
}

fn admit_template(template: &mut PodTemplateSpec, selector: &LabelSelector, old: Option<&LabelSelector>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let labels = template.metadata.as_ref().and_then(|m| m.labels.clone()).unwrap_or_default();
    if is_empty(selector) {
        errors.push(FieldError::required("spec.selector", "an empty selector would select every Pod"));
    } else if !selects(selector, &labels) {
        errors.push(FieldError::invalid(
            "spec.template.metadata.labels",
            &labels,
            "`selector` does not match template `labels`",
        ));
    }
    if old.is_some_and(|old| old != selector) {
        errors.push(FieldError::invalid("spec.selector", selector, "field is immutable"));
    }
    let Some(spec) = template.spec.as_mut() else {
        errors.push(FieldError::required("spec.template.spec", "a template has a Pod's spec"));
        return errors;
    };
    pod::set_defaults(spec);
    errors.extend(pod::check(spec, "spec.template.spec"));
    if spec.restart_policy.as_deref() != Some("Always") {
        errors.push(FieldError::unsupported("spec.template.spec.restartPolicy", &spec.restart_policy, &["Always"]));
    }
    errors
}

fn is_empty(selector: &LabelSelector) -> bool {
    selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty)
        && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
}

fn selects(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let matches = |r: &LabelSelectorRequirement| {
        let value = labels.get(&r.key);
        let listed = value.is_some_and(|v| r.values.iter().flatten().any(|w| w == v));
        match r.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            _ => false,
        }
    };
    selector.match_labels.iter().flatten().all(|(k, v)| labels.get(k) == Some(v))
        && selector.match_expressions.iter().flatten().all(matches)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spec(selector: &str, restart: serde_json::Value) -> serde_json::Value {
        json!({
            "selector": { "matchLabels": { "app": selector } },
            "template": {
                "metadata": { "labels": { "app": "web" } },
                "spec": { "restartPolicy": restart, "containers": [{ "name": "c", "image": "a" }] },
            },
        })
    }

    fn deployment(spec: serde_json::Value) -> Deployment {
        serde_json::from_value(json!({ "metadata": { "name": "web" }, "spec": spec })).expect("a Deployment")
    }

    #[test]
    fn a_deployment_selects_what_it_makes() {
        let mut good = deployment(spec("web", json!(null)));
        admit_deployment(&mut good, None).expect("admitted");
        let stored = good.spec.clone().expect("spec");
        assert_eq!(stored.replicas, Some(1));
        assert_eq!(stored.strategy.and_then(|s| s.type_).as_deref(), Some("RollingUpdate"));
        let mut again = good.clone();
        admit_deployment(&mut again, Some(&good)).expect("no change");
        assert_eq!(again, good);
        assert!(admit_deployment(&mut deployment(spec("other", json!(null))), None).is_err());
        assert!(admit_deployment(&mut deployment(spec("web", json!("Never"))), None).is_err());
        let mut moved = good.clone();
        if let Some(spec) = moved.spec.as_mut() {
            spec.selector.match_labels = Some(BTreeMap::from([("tier".to_owned(), "web".to_owned())]));
        }
        assert!(admit_deployment(&mut moved, Some(&good)).is_err());
    }

    #[test]
    fn a_daemon_set_too() {
        let make = |spec| -> DaemonSet {
            serde_json::from_value(json!({ "metadata": { "name": "web" }, "spec": spec })).expect("a DaemonSet")
        };
        let mut good: DaemonSet = make(spec("web", json!(null)));
        admit_daemon_set(&mut good, None).expect("admitted");
        let mut bad = spec("web", json!(null));
        bad["updateStrategy"] = json!({ "type": "Recreate" });
        assert!(admit_daemon_set(&mut make(bad), None).is_err());
        let mut empty = spec("web", json!(null));
        empty["selector"] = json!({});
        assert!(admit_daemon_set(&mut make(empty), None).is_err());
    }
}
