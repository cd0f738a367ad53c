//! The embedded broker's admission once more, for a Kubernetes broker: ValidatingAdmissionPolicies and ResourceQuotas.
//!
//! ```text
//! manifests/broker ──setup──▶ policies daisy-joinrequests (bound once), daisy-records, quota of daisy-broker
//!                                                                          ▲
//! registrar ──a binding for each member, its Member as parameter; its namespace's quota
//! ```
//!
//! CEL sees one object and its parameter: what lies across objects is the registrar's. What CEL cannot say (a hash, an address with
//! its port) is left to the readers, who check everything again.

use daisy_api::ClusterId;
use daisy_api::labels::{BROKER_NAMESPACE, COMPONENT, MANAGED_BY, MANAGED_BY_DAISY};
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicyBinding;
use k8s_openapi::api::core::v1::ResourceQuota;
use kube::Client;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// The policy of records. Each member's binding is named as its namespace.
pub const RECORDS: &str = "daisy-records";
/// The ResourceQuota of a namespace.
pub const QUOTA: &str = "daisy";

/// Whether the API server has admission policies (Kubernetes 1.30) and quotas. The embedded broker has its own instead.
///
/// # Errors
/// What keeps the API server from being asked.
pub async fn served(client: &Client) -> Result<bool, kube::Error> {
    let groups = client.list_api_groups().await?;
    let named =
        |group: &&k8s_openapi::apimachinery::pkg::apis::meta::v1::APIGroup| group.name == "admissionregistration.k8s.io";
    let Some(group) = groups.groups.iter().find(named) else { return Ok(false) };
    if !group.versions.iter().any(|version| version.version == "v1") {
        return Ok(false);
    }
    let resources = client.list_api_group_resources("admissionregistration.k8s.io/v1").await?;
    Ok(resources.resources.iter().any(|resource| resource.name == "validatingadmissionpolicies"))
}

/// Our own JSON is what the type says: that each of the objects parses is tested.
fn object<T: DeserializeOwned + Default>(value: Value) -> T {
    serde_json::from_value(value).unwrap_or_default()
}

fn metadata(name: &str, namespace: Option<&str>) -> Value {
    json!({"name": name, "namespace": namespace, "labels": {MANAGED_BY: MANAGED_BY_DAISY, COMPONENT: "broker"}})
}

/// Holds the records of a member's namespace to its Member. Without a Member, none is admitted.
#[must_use]
pub fn member_binding(id: &ClusterId) -> ValidatingAdmissionPolicyBinding {
    let own = id.broker_namespace();
    object(json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": metadata(&own, None),
        "spec": {
            "policyName": RECORDS,
            "validationActions": ["Deny"],
            "paramRef": {"name": id, "namespace": BROKER_NAMESPACE, "parameterNotFoundAction": "Deny"},
            "matchResources": {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": own}}},
        },
    }))
}

/// How many objects of our kinds a namespace may have.
#[must_use]
pub fn quota(namespace: &str) -> ResourceQuota {
    let limits: serde_json::Map<String, Value> = crate::server::limits()
        .objects
        .into_iter()
        .map(|(resource, most)| (format!("count/{resource}"), json!(most.to_string())))
        .collect();
    object(json!({
        "apiVersion": "v1", "kind": "ResourceQuota",
        "metadata": metadata(QUOTA, Some(namespace)), "spec": {"hard": limits},
    }))
}

#[cfg(test)]
mod tests {
    use daisy_api::labels::{GROUP, VERSION};
    use daisy_broker_core::policy::GATEWAYS_MAX;
    use daisy_broker_core::registrar::request::{REQUEST_NAME_MIN, REQUEST_NAME_PREFIX};
    use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy;
    use kube::ResourceExt;

    use super::*;
    use crate::setup::manifests;

    #[test]
    fn every_object_is_what_its_type_says() {
        let id = ClusterId::new("local").expect("an ID");
        assert_eq!(member_binding(&id).metadata.name.as_deref(), Some("daisy-cluster-local"));
        assert!(quota("daisy-broker").spec.and_then(|spec| spec.hard).is_some_and(|hard| hard.len() == 7));
    }

    #[test]
    fn the_files_have_the_numbers_and_names_of_the_code() {
        let quota_file: ResourceQuota = serde_json::from_value(manifests::one("ResourceQuota", QUOTA)).expect("parses");
        assert_eq!(quota_file.spec, quota(BROKER_NAMESPACE).spec);
        let policy = |name: &str| -> ValidatingAdmissionPolicy {
            serde_json::from_value(manifests::one("ValidatingAdmissionPolicy", name)).expect("parses")
        };
        let text = |policy: &ValidatingAdmissionPolicy| serde_json::to_string(policy).expect("JSON");
        let (requests, records) = (policy("daisy-joinrequests"), policy(RECORDS));
        assert!(text(&requests).contains(&format!("startsWith('{REQUEST_NAME_PREFIX}')")));
        assert!(text(&requests).contains(&format!(">= {REQUEST_NAME_MIN}")));
        assert!(text(&requests).contains(&format!("system:serviceaccount:{BROKER_NAMESPACE}:invitation-")));
        assert!(text(&records).contains(&format!("<= {GATEWAYS_MAX} &&")));
        for policy in [requests, records] {
            let rules = policy.spec.and_then(|spec| spec.match_constraints).and_then(|all| all.resource_rules).expect("rules");
            assert_eq!(
                (rules[0].api_groups.clone(), rules[0].api_versions.clone()),
                (Some(vec![GROUP.into()]), Some(vec![VERSION.into()])),
                "{:?}",
                policy.metadata.name
            );
        }
        let binding = manifests::one("ValidatingAdmissionPolicyBinding", "daisy-joinrequests");
        assert_eq!(binding["spec"]["policyName"], "daisy-joinrequests");
        assert_eq!(member_binding(&ClusterId::new("a").expect("an ID")).name_any(), "daisy-cluster-a");
    }
}
