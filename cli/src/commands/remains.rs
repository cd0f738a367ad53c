//! What remains where a part of Daisy does not live to see its leave: done by `daisy leave` in its place.

use std::fmt::Debug;
use std::time::Duration;

use anyhow::{Context, Result};
use daisy_api::{Cluster, ClusterId, ClusterProperty, Export, ExportEndpoints, ServiceExport, ServiceImport, labels};
use daisy_broker::enrol;
use daisy_kubernetes::Api;
use k8s_openapi::api::core::v1::{Namespace, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use super::leave::gone;

/// How long the broker is tried.
const BROKER_WITHIN: Duration = Duration::from_secs(10);

fn ours() -> ListParams {
    ListParams::default().labels(&format!("{}={}", labels::MANAGED_BY, labels::MANAGED_BY_DAISY))
}

/// Tells the broker that this cluster leaves, with the credential that the syncer would have used. Says what came of it.
pub(super) async fn tell_broker(client: &Client) -> String {
    match tokio::time::timeout(BROKER_WITHIN, try_tell(client)).await {
        Ok(Ok(id)) => format!("the broker is told that {id} leaves"),
        Ok(Err(error)) => format!(
            "the broker could not be told ({error:#}): its administrator ends the membership with `daisy evict`, or it ends by itself after 7 days without a heartbeat"
        ),
        Err(_) => "the broker does not answer: its administrator ends the membership with `daisy evict`, or it ends by itself after 7 days without a heartbeat".to_owned(),
    }
}

async fn try_tell(client: &Client) -> Result<ClusterId> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), labels::SYSTEM_NAMESPACE);
    let data = secrets.get(labels::BROKER_ACCESS_SECRET).await.context("reading its Secret")?.data.unwrap_or_default();
    let text = |key: &str| data.get(key).map(|value| String::from_utf8_lossy(&value.0).into_owned()).unwrap_or_default();
    let id = ClusterId::new(text("clusterId")).context("Secret daisy-system/daisy-broker-access, clusterId")?;
    let broker = enrol::client(&text("server"), &text("ca"), &text("token"))?;
    let own = id.broker_namespace();
    let all = ListParams::default();
    let params = DeleteParams::default();
    Api::<Export>::namespaced(broker.clone(), &own).delete_collection(&params, &all).await.context("withdrawing exports")?;
    let endpoints: Api<ExportEndpoints> = Api::namespaced(broker.clone(), &own);
    endpoints.delete_collection(&params, &all).await.context("withdrawing endpoints")?;
    let patch = serde_json::json!({ "spec": { "leaving": true } });
    let record: Api<Cluster> = Api::namespaced(broker, &own);
    record.patch(id.as_str(), &PatchParams::default(), &Patch::Merge(&patch)).await.context("marking its record")?;
    Ok(id)
}

/// Deletes what imports and bulk exports made, in every namespace.
pub(super) async fn delete_imports(client: &Client) -> Result<()> {
    let system = Api::<Service>::namespaced(client.clone(), labels::SYSTEM_NAMESPACE);
    let import = ours().labels(&format!("{}={},{}", labels::MANAGED_BY, labels::MANAGED_BY_DAISY, labels::IMPORT_NAME));
    for service in system.list(&import).await.context("listing imports' Services")? {
        gone(system.delete(&service.name_any(), &DeleteParams::default()).await.map(drop))
            .context("deleting an import's Service")?;
    }
    delete_all::<ServiceImport>(client, &ours()).await?;
    delete_all::<EndpointSlice>(client, &import).await?;
    let bulk = ListParams::default().labels(&format!(
        "{}={},{}",
        labels::MANAGED_BY,
        labels::MANAGED_BY_DAISY,
        labels::EXPORTED_BY_NAMESPACE
    ));
    delete_all::<ServiceExport>(client, &bulk).await
}

async fn delete_all<K>(client: &Client, which: &ListParams) -> Result<()>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    let list = match Api::<K>::all(client.clone()).list(which).await {
        Ok(list) => list.items,
        // The kind itself is not there.
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("listing Daisy's {}", K::plural(&()))),
    };
    for object in list {
        let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
        let api: Api<K> = Api::namespaced(client.clone(), &namespace);
        let deleted = api.delete(&name, &DeleteParams::default()).await.map(drop);
        gone(deleted).with_context(|| format!("deleting {} {namespace}/{name}", K::kind(&())))?;
    }
    Ok(())
}

/// Whether a CRD still has objects that somebody else needs: users' exports, or a broker's Clusters on the same API server.
pub(super) async fn in_use(client: &Client, name: &str) -> Result<bool> {
    let any = match name {
        "serviceexports.multicluster.x-k8s.io" => Api::<ServiceExport>::all(client.clone()).any().await,
        "serviceimports.multicluster.x-k8s.io" => Api::<ServiceImport>::all(client.clone()).any().await,
        "clusterproperties.about.k8s.io" => Api::<ClusterProperty>::all(client.clone()).any().await,
        "clusters.daisy.supercluster.local" => return exists(client, labels::BROKER_NAMESPACE).await,
        _ => return Ok(false),
    };
    match any {
        Ok(any) => Ok(any),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
        Err(error) => Err(error).with_context(|| format!("listing what {name} defines")),
    }
}

/// Whether there is a namespace of this name.
pub(super) async fn exists(client: &Client, namespace: &str) -> Result<bool> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    Ok(namespaces.get_opt(namespace).await.with_context(|| format!("reading namespace {namespace}"))?.is_some())
}
