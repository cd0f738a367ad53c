//! The embedded broker's admission once more, for a Kubernetes broker: ValidatingAdmissionPolicies and ResourceQuotas.
//!
//! ```text
//! setup ──▶ policies daisy-joinrequests (bound once), daisy-records ◀── a binding for each member, its Member as parameter ── registrar
//! ```
//!
//! CEL sees one object and its parameter: what lies across objects is the registrar's. What CEL cannot say (a hash, an address with
//! its port) is left to the readers, who check everything again.

use daisy_api::ClusterId;
use daisy_api::labels::{BROKER_NAMESPACE, COMPONENT, GROUP, MANAGED_BY, MANAGED_BY_DAISY, VERSION};
use daisy_broker_core::policy::GATEWAYS_MAX;
use daisy_broker_core::registrar::request::{REQUEST_NAME_MIN, REQUEST_NAME_PREFIX};
use k8s_openapi::api::admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding};
use k8s_openapi::api::core::v1::ResourceQuota;
use kube::Client;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// The policy of JoinRequests, and its binding.
pub const JOIN_REQUESTS: &str = "daisy-joinrequests";
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

fn matched(resources: &[&str], operations: &[&str]) -> Value {
    json!({"resourceRules": [{"apiGroups": [GROUP], "apiVersions": [VERSION], "resources": resources, "operations": operations}]})
}

fn valid(expression: String, message: &str) -> Value {
    json!({"expression": expression, "message": message, "reason": "Forbidden"})
}

const NO_STRINGS: &str = "(!has(object.metadata.finalizers) || size(object.metadata.finalizers) == 0) && \
    (!has(object.metadata.ownerReferences) || size(object.metadata.ownerReferences) == 0)";

fn join_requests_policy() -> Value {
    let account = format!("system:serviceaccount:{BROKER_NAMESPACE}:invitation-");
    let validations = [
        valid(
            format!("request.userInfo.username == '{account}' + object.spec.invitation"),
            "spec.invitation is not the invitation of this token",
        ),
        valid(
            format!(
                "has(object.metadata.name) && object.metadata.name.startsWith('{REQUEST_NAME_PREFIX}') && \
                 size(object.metadata.name) >= {REQUEST_NAME_MIN} && !has(object.metadata.generateName)"
            ),
            "metadata.name: a JoinRequest is named join- and at least 26 random characters, so that nobody guesses it",
        ),
        valid(NO_STRINGS.to_owned(), "metadata.finalizers and metadata.ownerReferences are not taken here; leave them out"),
    ];
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": metadata(JOIN_REQUESTS, None),
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": matched(&["joinrequests"], &["CREATE"]),
            "matchConditions": [{"name": "invited", "expression": format!("request.userInfo.username.startsWith('{account}')")}],
            "validations": validations,
        },
    })
}

/// A rule for one of the record kinds; the others pass it.
fn for_kind(plural: &str, expression: &str, message: &str) -> Value {
    valid(format!("request.resource.resource != '{plural}' || ({expression})"), message)
}

fn records_policy() -> Value {
    const GRANTED: &str = "params.spec.grant.exists(p, p.endsWith('*') \
        ? object.spec.namespace.startsWith(p.substring(0, size(p) - 1)) : object.spec.namespace == p)";
    const RECORD: &str = "(object.spec.name + '.' + object.spec.namespace)";
    let same = |field: &str| {
        format!(
            "size(object.spec.{field}) == size(params.spec.{field}) && object.spec.{field}.all(c, c in params.spec.{field}) && \
             params.spec.{field}.all(c, c in object.spec.{field})"
        )
    };
    let own_name = "object.metadata.name == params.metadata.name";
    let outside = "outside the grant of this cluster; an administrator of the broker can widen it (daisy grant)";
    let validations = [
        valid(NO_STRINGS.to_owned(), "metadata.finalizers and metadata.ownerReferences are not taken here; leave them out"),
        for_kind("exports", &format!("object.metadata.name == {RECORD}"), "metadata.name is not NAME.NAMESPACE of the Service"),
        for_kind("exports", GRANTED, outside),
        for_kind(
            "exports",
            "!has(object.spec.clusterIPs) || object.spec.clusterIPs.all(a, params.spec.serviceCidrs.exists(c, cidr(c).containsIP(a)))",
            "spec.clusterIPs has an address outside the service CIDRs of this cluster's Member",
        ),
        for_kind(
            "exportendpoints",
            &format!("object.metadata.name.matches('^' + {RECORD}.replace('.', '[.]') + '[.][^.]+$')"),
            "metadata.name is not NAME.NAMESPACE.HASH of the Service",
        ),
        for_kind("exportendpoints", GRANTED, outside),
        for_kind(
            "exportendpoints",
            "!has(object.spec.endpoints) || object.spec.endpoints.all(e, e.addresses.all(a, \
             ip(a).family() == (object.spec.addressType == 'IPv4' ? 4 : 6) && (cidr(params.spec.nodeCidr).containsIP(a) || \
             params.spec.clusterCidrs.exists(c, cidr(c).containsIP(a)))))",
            "spec.endpoints has an address outside the CIDRs of this cluster's Member, or of the other family",
        ),
        for_kind("clusters", own_name, "metadata.name is not the cluster's ID"),
        for_kind("clusters", &same("clusterCidrs"), "spec.clusterCidrs are not those of this cluster's Member"),
        for_kind("clusters", &same("serviceCidrs"), "spec.serviceCidrs are not those of this cluster's Member"),
        for_kind(
            "clusters",
            "object.spec.nodeCidr == params.spec.nodeCidr",
            "spec.nodeCidr is not that of this cluster's Member",
        ),
        for_kind(
            "clusters",
            "!has(object.spec.exporter) || !object.spec.exporter || size(params.spec.grant) > 0",
            "spec.exporter is true, but the grant of this cluster's Member is none",
        ),
        for_kind(
            "clusters",
            &format!(
                "!has(object.spec.gateways) || (size(object.spec.gateways) <= {GATEWAYS_MAX} && object.spec.gateways.all(g, \
                 cidr(params.spec.nodeCidr).containsIP(g.address) && \
                 object.spec.gateways.exists_one(o, o.publicKey == g.publicKey) && \
                 object.spec.gateways.exists_one(o, o.address == g.address) && \
                 object.spec.gateways.exists_one(o, o.node == g.node)))"
            ),
            "spec.gateways has an address outside the node range of this cluster's Member, or a key, address or node twice",
        ),
        for_kind("heartbeats", own_name, "metadata.name is not the cluster's ID"),
    ];
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": metadata(RECORDS, None),
        "spec": {
            "failurePolicy": "Fail",
            "paramKind": {"apiVersion": format!("{GROUP}/{VERSION}"), "kind": "Member"},
            "matchConstraints": matched(&["clusters", "exportendpoints", "exports", "heartbeats"], &["CREATE", "UPDATE"]),
            "validations": validations,
        },
    })
}

/// The two policies.
#[must_use]
pub fn policies() -> [ValidatingAdmissionPolicy; 2] {
    [object(join_requests_policy()), object(records_policy())]
}

fn binding(name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": metadata(name, None), "spec": spec,
    })
}

/// The binding of the policy of JoinRequests.
#[must_use]
pub fn join_requests_binding() -> ValidatingAdmissionPolicyBinding {
    object(binding(JOIN_REQUESTS, json!({"policyName": JOIN_REQUESTS, "validationActions": ["Deny"]})))
}

/// Holds the records of a member's namespace to its Member. Without a Member, none is admitted.
#[must_use]
pub fn member_binding(id: &ClusterId) -> ValidatingAdmissionPolicyBinding {
    let own = id.broker_namespace();
    let spec = json!({
        "policyName": RECORDS,
        "validationActions": ["Deny"],
        "paramRef": {"name": id, "namespace": BROKER_NAMESPACE, "parameterNotFoundAction": "Deny"},
        "matchResources": {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": own}}},
    });
    object(binding(&own, spec))
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
    use super::*;

    #[test]
    fn every_object_is_what_its_type_says() {
        let [requests, records] = policies();
        assert_eq!(requests.metadata.name.as_deref(), Some(JOIN_REQUESTS));
        assert_eq!(records.spec.and_then(|spec| spec.validations).map(|all| all.len()), Some(14));
        let id = ClusterId::new("local").expect("an ID");
        assert_eq!(member_binding(&id).metadata.name.as_deref(), Some("daisy-cluster-local"));
        assert!(join_requests_binding().spec.is_some());
        assert!(quota("daisy-broker").spec.and_then(|spec| spec.hard).is_some_and(|hard| hard.len() == 7));
    }
}
