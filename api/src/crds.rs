//! The CustomResourceDefinitions, generated from the types. `cargo xtask crds` writes them to `manifests/crds`, and a test
//! fails when what is checked in differs.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

use crate::labels::{MANAGED_BY, MANAGED_BY_DAISY};
use crate::{
    Cluster, Export, ExportEndpoints, Gateway, Heartbeat, Invitation, JoinRequest, Member, ServiceExport, ServiceImport,
};

fn ours(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    crd.metadata.labels.get_or_insert_default().insert(MANAGED_BY.to_owned(), MANAGED_BY_DAISY.to_owned());
    crd
}

/// Lets objects of a kind have no `spec`.
fn without_spec(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut crd.spec.versions {
        if let Some(schema) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) {
            let others = schema.required.take().unwrap_or_default().into_iter().filter(|name| name != "spec");
            schema.required = Some(others.collect::<Vec<_>>()).filter(|list| !list.is_empty());
        }
    }
    crd
}

/// The kinds that a broker keeps.
#[must_use]
pub fn broker() -> Vec<CustomResourceDefinition> {
    [
        Invitation::crd(),
        JoinRequest::crd(),
        Member::crd(),
        Cluster::crd(),
        Heartbeat::crd(),
        Export::crd(),
        ExportEndpoints::crd(),
    ]
    .map(ours)
    .into()
}

/// The kinds that a member cluster keeps: the MCS API's two, and Daisy's own two.
#[must_use]
pub fn member() -> Vec<CustomResourceDefinition> {
    let mut mcs = [without_spec(ServiceExport::crd()), ServiceImport::crd()];
    for crd in &mut mcs {
        // A group under k8s.io is protected: an API server wants to see where its approval is (KEP-1111).
        crd.metadata
            .annotations
            .get_or_insert_default()
            .insert("api-approved.kubernetes.io".to_owned(), "https://github.com/kubernetes/enhancements/pull/1748".to_owned());
    }
    mcs.into_iter().chain([Cluster::crd(), Gateway::crd()]).map(ours).collect()
}

/// Every kind once, with the name of the file that holds it.
#[must_use]
pub fn files() -> Vec<(String, CustomResourceDefinition)> {
    let mut all = broker();
    all.extend(member());
    let mut files: Vec<_> =
        all.into_iter().map(|crd| (format!("{}.yaml", crd.metadata.name.clone().unwrap_or_default()), crd)).collect();
    files.sort_by(|a, b| a.0.cmp(&b.0));
    files.dedup_by(|a, b| a.0 == b.0);
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_checked_in_is_what_the_types_say() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/crds");
        for (name, crd) in files() {
            let had = std::fs::read_to_string(folder.join(&name)).unwrap_or_default();
            let want = crate::yaml::to_string(&crd).expect("a CRD is YAML");
            assert!(had == want, "manifests/crds/{name} is not what the types say: run `cargo xtask crds`");
        }
    }
}
