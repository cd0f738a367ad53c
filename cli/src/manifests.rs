//! The files of `manifests/`, which are in this program, with what a join sets in them.

use anyhow::Result;
use daisy_api::labels::{CLUSTER_PROPERTY, CLUSTERSET_PROPERTY, DNS_SERVERS, MANAGED_BY, MANAGED_BY_DAISY};
use daisy_api::{ClusterProperty, ClusterPropertySpec};
use daisy_broker::apply;
use kube::ResourceExt;
use kube::api::DynamicObject;
use serde_json::Value;

const NAMESPACE: &str = include_str!("../../manifests/namespace.yaml");
const RBAC: &str = include_str!("../../manifests/rbac.yaml");
const WORKLOADS: [&str; 3] = [
    include_str!("../../manifests/syncer.yaml"),
    include_str!("../../manifests/gateway.yaml"),
    include_str!("../../manifests/route-agent.yaml"),
];
/// The first DNS server.
const DNS: &str = include_str!("../../manifests/dns.yaml");

/// What a join sets in the workloads.
pub(crate) struct Settings {
    /// Daisy's image.
    pub(crate) image: String,
    /// How many nodes take ordinary pods: where it is one, nothing runs twice.
    pub(crate) workers: usize,
    /// Further arguments of a role, by component.
    pub(crate) arguments: Vec<(&'static str, Vec<String>)>,
}

impl Settings {
    /// The DNS servers that there are to be.
    pub(crate) fn dns_servers(&self) -> &'static [&'static str] {
        if self.workers <= 1 { &DNS_SERVERS[..1] } else { &DNS_SERVERS }
    }
}

/// The kinds.
pub(crate) fn kinds() -> Result<Vec<DynamicObject>> {
    Ok(daisy_api::crds::member().iter().map(apply::object).collect::<Result<_, _>>()?)
}

/// The namespace, the kinds and the rights: what comes before the workloads.
pub(crate) fn foundations() -> Result<Vec<DynamicObject>> {
    let mut all = apply::objects(NAMESPACE)?;
    all.extend(kinds()?);
    all.extend(apply::objects(RBAC)?);
    Ok(all)
}

/// The roles' Deployments, DaemonSets and Service.
pub(crate) fn workloads(settings: &Settings) -> Result<Vec<DynamicObject>> {
    let mut all = Vec::new();
    for file in WORKLOADS {
        all.extend(apply::objects(file)?);
    }
    for server in settings.dns_servers() {
        all.extend(dns_server(server)?);
    }
    all.iter_mut().for_each(|object| set(object, settings));
    Ok(all)
}

/// A DNS server's objects.
pub(crate) fn dns_server(name: &str) -> Result<Vec<DynamicObject>> {
    let suffix = |name: &str| name.trim_start_matches("daisy-").to_owned();
    Ok(apply::objects(&DNS.replace(&suffix(DNS_SERVERS[0]), &suffix(name)))?)
}

/// What the cluster says of itself (KEP-2149): its ID, and that of the supercluster, which is its broker's.
pub(crate) fn properties(id: &str, broker: &str) -> Result<[DynamicObject; 2]> {
    let property = |name: &str, value: &str| {
        let mut property = ClusterProperty::new(name, ClusterPropertySpec { value: value.to_owned() });
        property.labels_mut().insert(MANAGED_BY.to_owned(), MANAGED_BY_DAISY.to_owned());
        apply::object(&property)
    };
    Ok([property(CLUSTER_PROPERTY, id)?, property(CLUSTERSET_PROPERTY, broker)?])
}

/// What is there to be removed, whatever it was set to.
pub(crate) fn any_workloads() -> Result<Vec<DynamicObject>> {
    workloads(&Settings { image: "daisy".to_owned(), workers: usize::MAX, arguments: Vec::new() })
}

fn set(object: &mut DynamicObject, settings: &Settings) {
    let component = object.labels().get(daisy_api::labels::COMPONENT).cloned().unwrap_or_default();
    if let Some(replicas) = object.data.pointer_mut("/spec/replicas")
        && settings.workers <= 1
    {
        *replicas = 1.into();
    }
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

#[cfg(test)]
mod rights_tests;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_parses_and_every_object_is_labelled_as_ours() {
        let settings = Settings {
            image: "registry.example/daisy:1".into(),
            workers: 1,
            arguments: vec![("route-agent", vec!["--hold".into(), "5000ms".into()])],
        };
        let mut all = foundations().expect("foundations parse");
        let workloads = workloads(&settings).expect("workloads parse");
        let agent = workloads.iter().find(|o| o.name_any() == "daisy-route-agent").expect("there is one");
        let container = agent.data.pointer("/spec/template/spec/containers/0").expect("a container");
        assert_eq!(container["image"], "registry.example/daisy:1");
        let arguments: Vec<_> = container["args"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        assert_eq!((arguments.first(), arguments.last()), (Some(&"route-agent"), Some(&"5000ms")));
        let syncer = workloads.iter().find(|o| o.name_any() == "daisy-syncer").expect("there is one");
        assert_eq!(syncer.data.pointer("/spec/replicas"), Some(&Value::from(1)));
        all.extend(workloads);
        for object in all {
            assert!(apply::is_ours(&object), "{}", apply::describe(&object));
            apply::resource(&object).expect("it has apiVersion and kind");
        }
    }
    #[test]
    fn of_two_dns_servers_each_has_its_own_service() {
        let settings = |workers| Settings { image: "daisy:1".into(), workers, arguments: Vec::new() };
        let named = |workers, name: &str| {
            let all = workloads(&settings(workers)).expect("they parse");
            all.into_iter().filter(|object| object.name_any() == name).collect::<Vec<_>>()
        };
        for name in DNS_SERVERS {
            let [deployment, service] = &named(2, name)[..] else { panic!("{name} is not two objects") };
            let labels = deployment.data.pointer("/spec/template/metadata/labels").expect("labels");
            assert_eq!(Some(labels), service.data.pointer("/spec/selector"));
            assert_eq!(labels["daisy.supercluster.local/dns-server"], name.trim_start_matches("daisy-"));
        }
        assert_eq!((named(1, DNS_SERVERS[0]).len(), named(1, DNS_SERVERS[1]).len()), (2, 0));
    }
}
