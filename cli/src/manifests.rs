//! The files of `manifests/`, as they are applied: create, or merge where there is one.

use anyhow::{Context, Result, anyhow};
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::{Api, Client, ResourceExt};
use serde_json::Value;

const NAMESPACE: &str = include_str!("../../manifests/namespace.yaml");
const RBAC: &str = include_str!("../../manifests/rbac.yaml");
const WORKLOADS: [&str; 4] = [
    include_str!("../../manifests/syncer.yaml"),
    include_str!("../../manifests/gateway.yaml"),
    include_str!("../../manifests/route-agent.yaml"),
    include_str!("../../manifests/dns.yaml"),
];

/// What a join sets in the workloads.
pub(crate) struct Settings {
    /// Daisy's image.
    pub(crate) image: String,
    /// Further arguments of a role, by component.
    pub(crate) arguments: Vec<(&'static str, Vec<String>)>,
}

/// The namespace, the kinds and the rights: what comes before the workloads.
pub(crate) fn foundations() -> Result<Vec<DynamicObject>> {
    let mut all = objects(NAMESPACE)?;
    for crd in daisy_api::crds::member() {
        all.push(serde_json::from_value(serde_json::to_value(crd)?)?);
    }
    all.extend(objects(RBAC)?);
    Ok(all)
}

/// The roles' Deployments, DaemonSets and Service.
pub(crate) fn workloads(settings: &Settings) -> Result<Vec<DynamicObject>> {
    let mut all = Vec::new();
    for file in WORKLOADS {
        for mut object in objects(file)? {
            set(&mut object, settings);
            all.push(object);
        }
    }
    Ok(all)
}

fn objects(file: &str) -> Result<Vec<DynamicObject>> {
    daisy_api::yaml::documents(file)?.into_iter().map(|value| Ok(serde_json::from_value(value)?)).collect()
}

fn set(object: &mut DynamicObject, settings: &Settings) {
    let component = object.labels().get(daisy_api::labels::COMPONENT).cloned().unwrap_or_default();
    let Some(containers) = object.data.pointer_mut("/spec/template/spec/containers").and_then(Value::as_array_mut) else {
        return;
    };
    for container in containers {
        if container["image"] == "daisy" {
            container["image"] = settings.image.clone().into();
        }
        let further = settings.arguments.iter().filter(|(of, _)| *of == component).flat_map(|(_, words)| words);
        if let Some(arguments) = container.get_mut("args").and_then(Value::as_array_mut) {
            arguments.extend(further.map(|word| Value::from(word.as_str())));
        }
    }
}

/// The kinds that we apply, with their plurals: no discovery is needed for our own files.
fn resource(object: &DynamicObject) -> Result<(ApiResource, bool)> {
    let types = object.types.as_ref().ok_or_else(|| anyhow!("a manifest without apiVersion and kind"))?;
    let (group, version) = types.api_version.split_once('/').unwrap_or(("", types.api_version.as_str()));
    let gvk = GroupVersionKind::gvk(group, version, &types.kind);
    let cluster_scoped = ["Namespace", "CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding"];
    Ok((ApiResource::from_gvk(&gvk), !cluster_scoped.contains(&types.kind.as_str())))
}

fn api(client: &Client, object: &DynamicObject) -> Result<Api<DynamicObject>> {
    let (resource, namespaced) = resource(object)?;
    Ok(match object.namespace() {
        Some(namespace) if namespaced => Api::namespaced_with(client.clone(), &namespace, &resource),
        _ => Api::all_with(client.clone(), &resource),
    })
}

/// What the object is called in messages: `Deployment daisy-system/daisy-dns`.
pub(crate) fn describe(object: &DynamicObject) -> String {
    let kind = object.types.as_ref().map_or("?", |t| t.kind.as_str());
    match object.namespace() {
        Some(namespace) => format!("{kind} {namespace}/{}", object.name_any()),
        None => format!("{kind} {}", object.name_any()),
    }
}

/// Creates the object, or merges it into the one that is there. An MCS kind that somebody else brought stays theirs.
pub(crate) async fn apply(client: &Client, object: &DynamicObject) -> Result<()> {
    let api = api(client, object)?;
    let what = || describe(object);
    match api.create(&PostParams::default(), object).await {
        Ok(_) => return Ok(()),
        Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {}
        Err(error) => return Err(error).with_context(|| format!("creating {}", what())),
    }
    let name = object.name_any();
    let had = api.get(&name).await.with_context(|| format!("reading {}", what()))?;
    let ours = had.labels().get(daisy_api::labels::MANAGED_BY).is_some_and(|v| v == daisy_api::labels::MANAGED_BY_DAISY);
    let is_crd = object.types.as_ref().is_some_and(|t| t.kind == "CustomResourceDefinition");
    if is_crd && !ours {
        return Ok(());
    }
    api.patch(&name, &PatchParams::default(), &Patch::Merge(object)).await.with_context(|| format!("updating {}", what()))?;
    Ok(())
}

/// Deletes the object if it is there and Daisy's.
pub(crate) async fn delete(client: &Client, object: &DynamicObject) -> Result<()> {
    let api = api(client, object)?;
    let name = object.name_any();
    let what = || describe(object);
    let Some(had) = api.get_opt(&name).await.with_context(|| format!("reading {}", what()))? else { return Ok(()) };
    if had.labels().get(daisy_api::labels::MANAGED_BY).is_none_or(|v| v != daisy_api::labels::MANAGED_BY_DAISY) {
        return Ok(());
    }
    match api.delete(&name, &kube::api::DeleteParams::default()).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error).with_context(|| format!("deleting {}", what())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_parses_and_every_object_is_labelled_as_ours() {
        let settings = Settings {
            image: "registry.example/daisy:1".into(),
            arguments: vec![("route-agent", vec!["--hold".into(), "5000ms".into()])],
        };
        let mut all = foundations().expect("foundations parse");
        let workloads = workloads(&settings).expect("workloads parse");
        let agent = workloads.iter().find(|o| o.name_any() == "daisy-route-agent").expect("there is one");
        let container = agent.data.pointer("/spec/template/spec/containers/0").expect("a container");
        assert_eq!(container["image"], "registry.example/daisy:1");
        assert_eq!(container["args"], serde_json::json!(["route-agent", "--hold", "5000ms"]));
        all.extend(workloads);
        for object in all {
            let label = object.labels().get(daisy_api::labels::MANAGED_BY).map(String::as_str);
            assert_eq!(label, Some("daisy"), "{}", describe(&object));
        }
    }
}
