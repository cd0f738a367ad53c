//! The built-in resources that a broker needs.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Value, json};

use crate::definition::{Column, ResourceDefinition, Source};
use crate::validation::NameRule;

/// How long Events are kept, as in Kubernetes.
const EVENTS_KEPT: Duration = Duration::from_secs(3_600);

/// Namespaces, Secrets, ConfigMaps, ServiceAccounts with their tokens, Events, the four kinds of RBAC, Leases,
/// CustomResourceDefinitions and SelfSubjectAccessReviews.
#[must_use]
pub fn broker() -> Vec<ResourceDefinition> {
    vec![
        ResourceDefinition::of::<Namespace>().with_status().short_names(&["ns"]).names(NameRule::Label).column(path(
            "Status",
            "string",
            ".status.phase",
        )),
        ResourceDefinition::of::<Secret>().column(path("Type", "string", ".type")).column(count("Data", ".data")),
        ResourceDefinition::of::<ConfigMap>().short_names(&["cm"]).column(count("Data", ".data")),
        ResourceDefinition::of::<ServiceAccount>().short_names(&["sa"]).column(count("Secrets", ".secrets")),
        ResourceDefinition::of::<Event>()
            .short_names(&["ev"])
            .kept_for(EVENTS_KEPT)
            .column(path("Last Seen", "date", ".lastTimestamp"))
            .column(path("Type", "string", ".type"))
            .column(path("Reason", "string", ".reason"))
            .column(Column::with("Object", "string", involved))
            .column(path("Message", "string", ".message")),
        ResourceDefinition::of::<Lease>().column(path("Holder", "string", ".spec.holderIdentity")),
        ResourceDefinition::of::<Role>().names(NameRule::PathSegment),
        ResourceDefinition::of::<ClusterRole>().names(NameRule::PathSegment),
        ResourceDefinition::of::<RoleBinding>().names(NameRule::PathSegment).column(Column::with("Role", "string", role)),
        ResourceDefinition::of::<ClusterRoleBinding>()
            .names(NameRule::PathSegment)
            .column(Column::with("Role", "string", role)),
        ResourceDefinition::of::<CustomResourceDefinition>()
            .with_status()
            .short_names(&["crd", "crds"])
            .categories(&["api-extensions"]),
        ResourceDefinition::untyped(
            ("authorization.k8s.io", "v1"),
            "selfsubjectaccessreviews",
            "SelfSubjectAccessReview",
            false,
        )
        .verbs(&["create"]),
    ]
}

/// The paths above are ours: that each of them parses is tested.
fn path(name: &str, kind: &str, path: &str) -> Column {
    Column::path(name, kind, path).unwrap_or_else(|_| Column::new(name, kind, Source::With(|_| Value::Null)))
}

fn count(name: &str, path: &str) -> Column {
    Column::count(name, path).unwrap_or_else(|_| Column::new(name, "integer", Source::With(|_| Value::Null)))
}

fn involved(event: &Value) -> Value {
    let text = |key: &str| event["involvedObject"][key].as_str().unwrap_or_default();
    json!(format!("{}/{}", text("kind").to_lowercase(), text("name")))
}

fn role(binding: &Value) -> Value {
    let text = |key: &str| binding["roleRef"][key].as_str().unwrap_or_default();
    json!(format!("{}/{}", text("kind"), text("name")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jsonpath::JsonPath;

    #[test]
    fn every_column_has_its_path() {
        for path in [".status.phase", ".type", ".data", ".secrets", ".lastTimestamp", ".spec.holderIdentity"] {
            assert!(path.parse::<JsonPath>().is_ok());
        }
        let fallback = |column: &Column| matches!(column.source, Source::With(cell) if cell(&json!({})) == Value::Null);
        assert!(broker().iter().flat_map(|definition| &definition.columns).all(|column| !fallback(column)));
    }

    #[test]
    fn no_resource_is_there_twice() {
        let mut keys: Vec<_> = broker().iter().map(ResourceDefinition::key).collect();
        let all = keys.len();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), all);
    }
}
