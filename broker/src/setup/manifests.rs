//! The files of `manifests/broker`, which are in this program.

use daisy_api::Version;
use daisy_api::labels::APP_VERSION;
use kube::ResourceExt;
use kube::api::DynamicObject;
use serde_json::Value;

use crate::apply::{self, ApplyError};

const NAMESPACE: &str = include_str!("../../../manifests/broker/namespace.yaml");
const RBAC: &str = include_str!("../../../manifests/broker/rbac.yaml");
const POLICIES: &str = include_str!("../../../manifests/broker/policies.yaml");
const QUOTA: &str = include_str!("../../../manifests/broker/quota.yaml");
const REGISTRAR: &str = include_str!("../../../manifests/broker/registrar.yaml");

/// The kinds that a broker keeps.
///
/// # Errors
/// Never, as tested.
pub fn kinds() -> Result<Vec<DynamicObject>, ApplyError> {
    daisy_api::crds::broker().iter().map(apply::object).collect()
}

/// The namespace, which says the broker's version, and the roles of members and of the invited: what every broker has.
///
/// # Errors
/// Never, as tested.
pub fn roles() -> Result<Vec<DynamicObject>, ApplyError> {
    let mut all = files(&[NAMESPACE, RBAC])?;
    for object in all.iter_mut().filter(|object| object.types.as_ref().is_some_and(|types| types.kind == "Namespace")) {
        object.labels_mut().insert(APP_VERSION.to_owned(), Version::own().to_string());
    }
    Ok(all)
}

/// Admission policies and quota, which an embedded broker has built in.
///
/// # Errors
/// Never, as tested.
pub fn admission() -> Result<Vec<DynamicObject>, ApplyError> {
    files(&[POLICIES, QUOTA])
}

/// The quota of namespace `daisy-broker`.
///
/// # Errors
/// Never, as tested.
pub fn quota() -> Result<Vec<DynamicObject>, ApplyError> {
    files(&[QUOTA])
}

/// The registrar with its rights, as a Deployment of this image.
///
/// # Errors
/// Never, as tested.
pub fn registrar(image: &str) -> Result<Vec<DynamicObject>, ApplyError> {
    let mut all = files(&[REGISTRAR])?;
    for object in &mut all {
        if let Some(container) = object.data.pointer_mut("/spec/template/spec/containers/0/image") {
            *container = Value::from(image);
        }
    }
    Ok(all)
}

fn files(files: &[&str]) -> Result<Vec<DynamicObject>, ApplyError> {
    files.iter().try_fold(Vec::new(), |mut all, file| {
        all.extend(apply::objects(file)?);
        Ok(all)
    })
}

#[cfg(test)]
pub(crate) fn one(kind: &str, name: &str) -> Value {
    let all = [roles(), admission(), registrar("daisy")].map(|objects| objects.expect("the files parse")).concat();
    let is = |object: &&DynamicObject| {
        object.types.as_ref().is_some_and(|types| types.kind == kind) && object.metadata.name.as_deref() == Some(name)
    };
    serde_json::to_value(all.iter().find(is).expect("it is in a file")).expect("JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_parses_and_every_object_is_labelled_as_ours() {
        let all =
            [kinds(), roles(), admission(), registrar("registry.example/daisy:1")].map(|all| all.expect("parses")).concat();
        for object in &all {
            assert!(apply::is_ours(object), "{}", apply::describe(object));
            apply::resource(object).expect("it has apiVersion and kind");
        }
        let images: Vec<_> = all.iter().filter_map(|o| o.data.pointer("/spec/template/spec/containers/0/image")).collect();
        assert_eq!(images, ["registry.example/daisy:1"]);
    }
}
