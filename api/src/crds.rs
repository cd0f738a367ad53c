//! The CustomResourceDefinitions, generated from the types. `cargo xtask crds` writes them to `manifests/crds`, and a test
//! fails when what is checked in differs.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

use crate::labels::{MANAGED_BY, MANAGED_BY_DAISY};
use crate::{
    Cluster, ClusterProperty, Export, ExportEndpoints, Gateway, Heartbeat, Invitation, JoinRequest, Member, ServiceExport,
    ServiceImport,
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

/// Which release of the MCS API (sigs.k8s.io/mcs-api) the two kinds are as of, by labels of that project: who brings the same kinds
/// sees whether his are newer.
const MCS_RELEASE: [(&str, &str); 2] =
    [("multicluster.x-k8s.io/release-version", "v0.5.2"), ("multicluster.x-k8s.io/crd-schema-revision", "0")];

/// A kind of a group under k8s.io, which is protected: an API server wants to see where it was approved (KEP-1111).
fn approved(mut crd: CustomResourceDefinition, pull: u32) -> CustomResourceDefinition {
    let at = format!("https://github.com/kubernetes/enhancements/pull/{pull}");
    crd.metadata.annotations.get_or_insert_default().insert("api-approved.kubernetes.io".to_owned(), at);
    crd
}

/// Serves the same objects as v1alpha1 too, for those who still speak it.
fn and_v1alpha1(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    let older = crd.spec.versions.iter().map(|version| {
        let mut older = version.clone();
        "v1alpha1".clone_into(&mut older.name);
        older.storage = false;
        older
    });
    let older: Vec<_> = older.collect();
    crd.spec.versions.extend(older);
    crd
}

/// The kinds that a member cluster keeps: the MCS API's two, the About API's one, and Daisy's own two.
#[must_use]
pub fn member() -> Vec<CustomResourceDefinition> {
    let mut mcs = [without_spec(ServiceExport::crd()), ServiceImport::crd()].map(|crd| approved(and_v1alpha1(crd), 1748));
    for crd in &mut mcs {
        let labels = MCS_RELEASE.map(|(key, value)| (key.to_owned(), value.to_owned()));
        crd.metadata.labels.get_or_insert_default().extend(labels);
    }
    let about = approved(and_v1alpha1(ClusterProperty::crd()), 3084);
    mcs.into_iter().chain([about, Cluster::crd(), Gateway::crd()]).map(ours).collect()
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
    fn the_standards_kinds_are_served_in_both_versions_and_stored_in_the_newer() {
        let standard = member().into_iter().filter(|crd| !crd.spec.group.starts_with("daisy"));
        let versions: Vec<_> = standard
            .map(|crd| crd.spec.versions.into_iter().map(|v| (v.name, v.served, v.storage)).collect::<Vec<_>>())
            .collect();
        assert_eq!(versions.len(), 3, "ServiceExport, ServiceImport, ClusterProperty");
        for of_one in versions {
            assert_eq!(of_one, [("v1beta1".to_owned(), true, true), ("v1alpha1".to_owned(), true, false)]);
        }
    }

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
