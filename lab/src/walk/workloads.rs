//! What the walk's users run: an HTTP server as Deployment and Service, and a client.

use anyhow::Context;
use daisy_kubernetes::Api;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use kube::api::{DeleteParams, ListParams, PostParams};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::report::Failed;

fn object<K: DeserializeOwned>(value: serde_json::Value) -> Result<K, Failed> {
    Ok(serde_json::from_value(value).context("a workload of the walk")?)
}

async fn create<K>(api: &Api<K>, object: &K) -> Result<(), Failed>
where
    K: Clone + DeserializeOwned + serde::Serialize + std::fmt::Debug,
{
    match api.create(&PostParams::default(), object).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Makes the namespace, if it is not there.
pub(crate) async fn namespace(client: &Client, name: &str) -> Result<(), Failed> {
    create(&Api::<Namespace>::all(client.clone()), &object(json!({ "metadata": { "name": name } }))?).await
}

/// An HTTP server: namespace, Deployment and Service, all of this name.
pub(crate) async fn http(client: &Client, space: &str, name: &str) -> Result<(), Failed> {
    namespace(client, space).await?;
    let labels = json!({ "app": name });
    let deployment: Deployment = object(json!({
        "metadata": { "name": name },
        "spec": {
            "replicas": 1,
            "selector": { "matchLabels": labels },
            "template": {
                "metadata": { "labels": labels },
                "spec": { "terminationGracePeriodSeconds": 1, "containers": [
                    { "name": "http", "image": "nginx", "ports": [{ "name": "http", "containerPort": 80 }],
                      "readinessProbe": { "tcpSocket": { "port": 80 }, "periodSeconds": 1 } }
                ] },
            },
        },
    }))?;
    create(&Api::namespaced(client.clone(), space), &deployment).await?;
    service(client, space, name, name).await
}

/// A Service in front of the pods of an app.
pub(crate) async fn service(client: &Client, space: &str, name: &str, app: &str) -> Result<(), Failed> {
    let service: Service = object(json!({
        "metadata": { "name": name },
        "spec": { "selector": { "app": app }, "ports": [{ "name": "http", "port": 80, "targetPort": "http" }] },
    }))?;
    create(&Api::namespaced(client.clone(), space), &service).await
}

/// A pod to run commands in, with the search list of the published pattern.
pub(crate) async fn client_pod(client: &Client, name: &str, node: &str) -> Result<(), Failed> {
    let pod: Pod = object(json!({
        "metadata": { "name": name },
        "spec": {
            "nodeName": node,
            "terminationGracePeriodSeconds": 1,
            "dnsConfig": { "searches": ["supercluster.local"] },
            "containers": [{ "name": "main", "image": "sleep" }],
        },
    }))?;
    create(&Api::namespaced(client.clone(), "default"), &pod).await
}

/// Deletes a namespace and all that is in it.
pub(crate) async fn delete_namespace(client: &Client, name: &str) -> Result<(), Failed> {
    Api::<Namespace>::all(client.clone()).delete(name, &DeleteParams::default()).await?;
    Ok(())
}

/// The addresses of the Service's ready endpoints, and the nodes they are on.
pub(crate) async fn endpoints(client: &Client, space: &str, name: &str) -> Result<Vec<String>, Failed> {
    let api: Api<EndpointSlice> = Api::namespaced(client.clone(), space);
    let selector = format!("{}={name}", daisy_api::labels::SLICE_SERVICE_NAME);
    let slices = api.list(&ListParams::default().labels(&selector)).await?;
    let ready = |e: &k8s_openapi::api::discovery::v1::Endpoint| e.conditions.as_ref().is_none_or(|c| c.ready != Some(false));
    Ok(slices.items.into_iter().flat_map(|s| s.endpoints).filter(ready).flat_map(|e| e.addresses).collect())
}

/// The Service's ClusterIP.
pub(crate) async fn cluster_ip(client: &Client, space: &str, name: &str) -> Result<String, Failed> {
    let api: Api<Service> = Api::namespaced(client.clone(), space);
    let service = api.get(name).await?;
    Ok(service.spec.and_then(|s| s.cluster_ip).with_context(|| format!("Service {space}/{name} has no ClusterIP"))?)
}

/// The pod's address, once it is ready.
pub(crate) async fn pod_address(client: &Client, name: &str) -> Result<Option<String>, Failed> {
    let api: Api<Pod> = Api::namespaced(client.clone(), "default");
    let status = api.get(name).await?.status.unwrap_or_default();
    let ready = status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
    Ok(status.pod_ip.filter(|_| ready))
}
