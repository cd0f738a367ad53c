//! `ServiceExport` of the MCS API (KEP-1645).

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema;

/// Offers the Service of the same namespace and name to the other clusters of the clusterset.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[kube(
    group = "multicluster.x-k8s.io",
    version = "v1beta1",
    kind = "ServiceExport",
    namespaced,
    derive = "PartialEq",
    derive = "Default",
    shortname = "svcex",
    status = "ServiceExportStatus",
    printcolumn = r#"{"name":"Valid","type":"string","jsonPath":".status.conditions[?(@.type==\"Valid\")].status"}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Conflict","type":"string","jsonPath":".status.conditions[?(@.type==\"Conflict\")].status"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct ServiceExportSpec {
    /// Labels that the ServiceImport is to have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub exported_labels: BTreeMap<String, String>,
    /// Annotations that the ServiceImport is to have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub exported_annotations: BTreeMap<String, String>,
}

/// Most people write a ServiceExport without a `spec`, as the MCS API lets them: absent is empty.
impl<'de> Deserialize<'de> for ServiceExportSpec {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Default, Deserialize)]
        #[serde(default, rename_all = "camelCase")]
        struct Fields {
            exported_labels: BTreeMap<String, String>,
            exported_annotations: BTreeMap<String, String>,
        }
        let fields = Option::<Fields>::deserialize(deserializer)?.unwrap_or_default();
        Ok(Self { exported_labels: fields.exported_labels, exported_annotations: fields.exported_annotations })
    }
}

/// How the export stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ServiceExportStatus {
    /// `Valid`, `Ready` and `Conflict`.
    #[serde(default)]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_is_not_needed() {
        let text = r#"{"apiVersion": "multicluster.x-k8s.io/v1beta1", "kind": "ServiceExport", "metadata": {"name": "web"}}"#;
        let export: ServiceExport = serde_json::from_str(text).expect("as users write it");
        assert_eq!((export.metadata.name.as_deref(), export.spec), (Some("web"), ServiceExportSpec::default()));
        let schema = serde_json::to_value(crate::crds::member()[0].clone()).expect("JSON");
        let version = &schema["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        assert_eq!(version["required"], serde_json::Value::Null, "{version}");
    }
}
