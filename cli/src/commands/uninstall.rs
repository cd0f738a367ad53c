//! `daisy uninstall`: what `daisy leave` does, and with `--broker` the broker on the cluster too.

use std::fmt::Debug;

use anyhow::{Context, Result};
use daisy_api::labels;
use daisy_broker::apply::Applier;
use daisy_broker::setup::manifests;
use daisy_kubernetes::Api;
use k8s_openapi::ClusterResourceScope;
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicyBinding;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use kube::api::{DeleteParams, ListParams};
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use super::leave::{self, gone, namespace_gone};
use super::remains;
use crate::arguments::Uninstall;
use crate::connect;
use crate::progress::Progress;

/// Uninstalls.
pub(crate) async fn run(options: Uninstall) -> Result<()> {
    let target = options.leave.target.clone();
    let left = leave::run(options.leave).await;
    if options.broker {
        remove_broker(&connect::cluster(&target).await?).await?;
    }
    left
}

/// The objects of each member bear this label.
fn of_members() -> ListParams {
    let (by, daisy, component) = (labels::MANAGED_BY, labels::MANAGED_BY_DAISY, labels::COMPONENT);
    ListParams::default().labels(&format!("{by}={daisy},{component} in (cluster, broker)"))
}

async fn remove_broker(client: &Client) -> Result<()> {
    let mut progress = Progress::new();
    progress.waiting("removing the broker");
    let applier = Applier::new(client.clone());
    // The registrar first: it would make anew what it misses.
    for object in manifests::registrar("daisy")?.iter().rev() {
        applier.delete(object).await?;
    }
    // What bounds members' writes goes after their rights.
    delete_all::<ClusterRoleBinding>(client).await?;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let members: Vec<String> = namespaces
        .list(&of_members())
        .await
        .context("listing the members' namespaces")?
        .items
        .iter()
        .map(ResourceExt::name_any)
        .collect();
    for name in &members {
        gone(namespaces.delete(name, &DeleteParams::default()).await.map(drop))
            .with_context(|| format!("deleting namespace {name}"))?;
    }
    for name in &members {
        namespace_gone(client, name, &mut progress).await?;
    }
    delete_all::<ValidatingAdmissionPolicyBinding>(client).await?;
    for object in manifests::admission()?.iter().chain(&manifests::roles()?).rev() {
        applier.delete(object).await?;
    }
    for object in &manifests::kinds()? {
        // A member on the same cluster has Clusters of its own.
        let shared = object.name_any() == "clusters.daisy.supercluster.local";
        if !(shared && remains::exists(client, labels::SYSTEM_NAMESPACE).await?) {
            applier.delete(object).await?;
        }
    }
    progress.done("nothing of the broker is left in this cluster");
    Ok(())
}

async fn delete_all<K>(client: &Client) -> Result<()>
where
    K: Resource<DynamicType = (), Scope = ClusterResourceScope> + Clone + Debug + DeserializeOwned,
{
    let api: Api<K> = Api::all(client.clone());
    let list = match api.list(&of_members()).await {
        Ok(list) => list.items,
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("listing Daisy's {}", K::plural(&()))),
    };
    for object in list {
        let name = object.name_any();
        gone(api.delete(&name, &DeleteParams::default()).await.map(drop))
            .with_context(|| format!("deleting {} {name}", K::kind(&())))?;
    }
    Ok(())
}
