//! What a cluster's API server does to objects before it stores them, and the broker's does not: defaults, checks, ClusterIPs.
//!
//! ```text
//! object as sent ──▶ its type ──▶ defaults ──▶ checks ──▶ addresses (Services) ──▶ object as stored, or 422 naming each field
//! ```

pub(crate) mod field;
pub(crate) mod network;
pub(crate) mod pod;
pub(crate) mod service;
pub(crate) mod workload;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use daisy_api_server::{AdmissionRequest, Cause, Hooks, Operation, Refusal, ResourceKey, View};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::networking::v1::ServiceCIDR;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::allocator::{Allocator, Holders};
use field::Invalid;

/// On every namespace: its contents go first, Pods with the time that they need.
pub(crate) const NAMESPACE_FINALIZER: &str = "lab.daisy.supercluster.local/contents";

/// Takes part in every write to a cluster of the lab.
#[derive(Default)]
pub(crate) struct ClusterHooks {
    /// `None` until the first Service is written after a start.
    holders: Mutex<Option<Holders>>,
}

impl Hooks for ClusterHooks {
    fn mutate(&self, request: &AdmissionRequest<'_>, object: &mut Value, view: View<'_>) -> Result<(), Refusal> {
        if request.subresource.is_some() || request.operation == Operation::Delete {
            return Ok(());
        }
        match (&*request.resource.group, &*request.resource.plural) {
            ("", "namespaces") => {
                hold_namespace(object);
                Ok(())
            }
            ("", "pods") => {
                let account = typed(request, object, pod::admit)?;
                self.check_account(request, &account, view)
            }
            ("", "services") => self.admit_service(request, object, view),
            ("apps", "deployments") => typed(request, object, workload::admit_deployment).map(drop),
            ("apps", "daemonsets") => typed(request, object, workload::admit_daemon_set).map(drop),
            ("discovery.k8s.io", "endpointslices") => typed(request, object, network::admit_slice).map(drop),
            ("networking.k8s.io", "servicecidrs") => {
                typed(request, object, |o, old| network::admit_service_cidr(o, old)).map(drop)
            }
            _ => Ok(()),
        }
    }
}

impl ClusterHooks {
    fn admit_service(&self, request: &AdmissionRequest<'_>, object: &mut Value, view: View<'_>) -> Result<(), Refusal> {
        let owner = format!("{}/{}", request.namespace.unwrap_or_default(), request.name);
        let services = ResourceKey::of::<Service>();
        let mut holders = self.holders.lock().unwrap_or_else(PoisonError::into_inner);
        let holders = holders.get_or_insert_with(|| {
            let mut holders = Holders::default();
            for service in view.list(&services, None).into_iter().filter_map(|s| serde_json::from_value::<Service>(s).ok()) {
                let (namespace, name) = (service.metadata.namespace.as_deref(), service.metadata.name.as_deref());
                let owner = format!("{}/{}", namespace.unwrap_or_default(), name.unwrap_or_default());
                service::addresses(&service).into_iter().for_each(|a| holders.note(a, &owner));
            }
            holders
        });
        let holds = |holder: &str, address: IpAddr| {
            let (namespace, name) = holder.split_once('/').unwrap_or_default();
            let stored = view.get(&services, namespace, name).and_then(|s| serde_json::from_value::<Service>(s).ok());
            stored.is_some_and(|s| service::addresses(&s).contains(&address))
        };
        let mut allocator = Allocator::new(service_ranges(view), holders, &holds);
        typed(request, object, |new: &mut Service, old| {
            service::admit(new, old)?;
            service::allocate(new, &owner, &mut allocator)
        })
        .map(drop)
    }

    /// As Kubernetes' ServiceAccount admission: a Pod's account is there before the Pod.
    fn check_account(&self, request: &AdmissionRequest<'_>, pod: &Pod, view: View<'_>) -> Result<(), Refusal> {
        let account = pod.spec.as_ref().and_then(|s| s.service_account_name.as_deref()).unwrap_or_default();
        let namespace = request.namespace.unwrap_or_default();
        let key = ResourceKey::new("", "serviceaccounts");
        if request.operation != Operation::Create || view.get(&key, namespace, account).is_some() {
            return Ok(());
        }
        let why = format!("error looking up service account {namespace}/{account}: serviceaccount {account:?} not found");
        Err(Refusal::forbidden("", "pods", request.name, why))
    }
}

fn service_ranges(view: View<'_>) -> BTreeMap<String, Vec<daisy_api::Cidr>> {
    let objects = view.list(&ResourceKey::of::<ServiceCIDR>(), None);
    let objects = objects.into_iter().filter_map(|o| serde_json::from_value::<ServiceCIDR>(o).ok());
    objects.map(|o| (o.metadata.name.clone().unwrap_or_default(), network::ranges(&o))).collect()
}

fn hold_namespace(object: &mut Value) {
    if !object["metadata"]["deletionTimestamp"].is_null() {
        return;
    }
    let finalizers = &mut object["metadata"]["finalizers"];
    if !finalizers.is_array() {
        *finalizers = json!([]);
    }
    if let Some(finalizers) = finalizers.as_array_mut().filter(|all| !all.iter().any(|f| f == NAMESPACE_FINALIZER)) {
        finalizers.push(json!(NAMESPACE_FINALIZER));
    }
}

/// Runs `admit` on the object as its type, and writes back what it made of it.
fn typed<K>(
    request: &AdmissionRequest<'_>,
    object: &mut Value,
    admit: impl FnOnce(&mut K, Option<&K>) -> Result<(), Invalid>,
) -> Result<K, Refusal>
where
    K: DeserializeOwned + Serialize + k8s_openapi::Resource,
{
    let parse = |value: &Value| serde_json::from_value::<K>(value.clone());
    let mut new =
        parse(object).map_err(|e| Refusal::bad_request(format!("{} {:?} does not parse: {e}", K::KIND, request.name)))?;
    let old = request.old_object.and_then(|o| parse(o).ok());
    admit(&mut new, old.as_ref()).map_err(|Invalid(errors)| {
        let causes = errors.into_iter().map(|e| Cause::new(e.reason, e.field, e.message)).collect();
        Refusal::invalid(K::GROUP, K::KIND, request.name, causes)
    })?;
    *object = serde_json::to_value(&new)
        .map_err(|e| Refusal::bad_request(format!("{} {:?} cannot be written: {e}", K::KIND, request.name)))?;
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_held_until_it_is_empty() {
        let mut object = json!({ "metadata": { "name": "shop" } });
        hold_namespace(&mut object);
        hold_namespace(&mut object);
        assert_eq!(object["metadata"]["finalizers"], json!([NAMESPACE_FINALIZER]));
        let mut ending = json!({ "metadata": { "name": "shop", "deletionTimestamp": "2026-01-01T00:00:00Z" } });
        hold_namespace(&mut ending);
        assert!(ending["metadata"]["finalizers"].is_null());
    }
}
