//! `daisy leave`: everything of Daisy goes, and nothing else.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use daisy_api::{Cluster, ServiceExport, ServiceImport, conditions, labels};
use daisy_broker::apply::{self, Applier};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Secret};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};

use super::coredns;
use crate::arguments::Leave;
use crate::connect;
use crate::manifests;
use crate::progress::Progress;

/// Leaves.
pub(crate) async fn run(options: Leave) -> Result<()> {
    let client = connect::cluster(&options.target).await?;
    let mut progress = Progress::new();
    let deadline = Instant::now() + options.timeout;
    // First the names, so that nothing asks Daisy for an address while it goes.
    if remove_stub(&client).await? {
        progress.done("CoreDNS is as it was");
    }
    if let Some(id) = announce(&client).await? {
        wait(deadline, &mut progress, "the syncer to withdraw this cluster's exports and imports", async || {
            withdrawn(&client, &id).await
        })
        .await?;
        progress.done("exports and imports are withdrawn");
        wait(deadline, &mut progress, "every node to be clean, once the hold on its routes is over", async || {
            clean(&client).await
        })
        .await?;
        progress.done("every node is clean");
    }
    remove(&client, &mut progress, deadline).await?;
    progress.done("nothing of Daisy is left in this cluster");
    Ok(())
}

async fn remove_stub(client: &Client) -> Result<bool> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let system = namespaces.get_opt(labels::SYSTEM_NAMESPACE).await.context("reading namespace daisy-system")?;
    let named = system.and_then(|namespace| namespace.annotations().get(coredns::WHERE).cloned());
    let mut places = vec!["kube-system".to_owned()];
    places.extend(named.filter(|place| !places.contains(place)));
    Ok(!coredns::remove(client, &places).await?.is_empty())
}

/// Marks the local Cluster as leaving; `None` where there is none, so that only remains are to be removed.
async fn announce(client: &Client) -> Result<Option<String>> {
    let api: Api<Cluster> = Api::namespaced(client.clone(), labels::SYSTEM_NAMESPACE);
    let selector = format!("{}={}", labels::CLUSTER_ROLE, labels::CLUSTER_ROLE_LOCAL);
    let found = match api.list(&ListParams::default().labels(&selector)).await {
        Ok(list) => list.items.into_iter().next(),
        Err(kube::Error::Api(status)) if status.code == 404 => None,
        Err(error) => return Err(error).context("listing Clusters in daisy-system"),
    };
    let Some(cluster) = found else { return Ok(None) };
    let patch = serde_json::json!({ "spec": { "leaving": true } });
    let name = cluster.name_any();
    api.patch(&name, &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .with_context(|| format!("marking Cluster {name} as leaving"))?;
    Ok(Some(name))
}

async fn wait(
    deadline: Instant,
    progress: &mut Progress,
    what: &str,
    done: impl AsyncFn() -> Result<Option<String>>,
) -> Result<()> {
    loop {
        let Some(still) = done().await? else { return Ok(()) };
        progress.waiting(&format!("waiting for {what} ({still})"));
        if Instant::now() > deadline {
            bail!(
                "gave up waiting for {what}: {still}; run `daisy leave` again, with a longer --timeout if that is what it needs"
            );
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn withdrawn(client: &Client, id: &str) -> Result<Option<String>> {
    let api: Api<Cluster> = Api::namespaced(client.clone(), labels::SYSTEM_NAMESPACE);
    let Some(cluster) = api.get_opt(id).await? else { return Ok(None) };
    let list = cluster.status.unwrap_or_default().conditions;
    Ok(if conditions::is_true(&list, "Left") { None } else { Some(format!("Cluster {id} is not yet Left")) })
}

async fn clean(client: &Client) -> Result<Option<String>> {
    let api: Api<Node> = Api::all(client.clone());
    let nodes = api.list(&ListParams::default()).await?.items;
    let state = |n: &&Node| n.annotations().get(labels::NODE_STATE).is_none_or(|v| v != "clean");
    let not_yet: Vec<String> = nodes.iter().filter(state).map(Node::name_any).collect();
    Ok(if not_yet.is_empty() { None } else { Some(not_yet.join(", ")) })
}

async fn remove(client: &Client, progress: &mut Progress, deadline: Instant) -> Result<()> {
    progress.waiting("removing Daisy's objects");
    let applier = Applier::new(client.clone());
    for object in manifests::any_workloads()?.iter().rev() {
        applier.delete(object).await?;
    }
    let secrets: Api<Secret> = Api::namespaced(client.clone(), labels::SYSTEM_NAMESPACE);
    let ours = format!("{}={}", labels::MANAGED_BY, labels::MANAGED_BY_DAISY);
    for secret in secrets.list(&ListParams::default().labels(&ours)).await.map(|l| l.items).unwrap_or_default() {
        secrets.delete(&secret.name_any(), &DeleteParams::default()).await.context("deleting Daisy's Secrets")?;
    }
    // A route-agent that still runs would mark its node once more.
    let pods: Api<Pod> = Api::namespaced(client.clone(), labels::SYSTEM_NAMESPACE);
    wait(deadline, progress, "Daisy's pods to end", async || {
        let running = pods.list(&ListParams::default().labels("app.kubernetes.io/name=daisy")).await?.items;
        Ok(running.first().map(ResourceExt::name_any))
    })
    .await?;
    unmark_nodes(client).await?;
    // The kinds go last, each only while nobody else's objects need it.
    for object in manifests::foundations()?.iter().rev() {
        if in_use(client, &object.name_any()).await? {
            progress.done(&format!("{} stays: there are objects of that kind that are not Daisy's", apply::describe(object)));
            continue;
        }
        applier.delete(object).await?;
    }
    let namespaces: Api<Namespace> = Api::all(client.clone());
    for name in [labels::GATEWAY_KEYS_NAMESPACE, labels::SYSTEM_NAMESPACE] {
        wait(deadline, progress, &format!("namespace {name} to be gone"), async || {
            Ok(namespaces.get_opt(name).await?.map(|_| "it is ending".to_owned()))
        })
        .await?;
    }
    Ok(())
}

/// Whether a CRD still has objects that somebody else needs: users' exports, or a broker's Clusters on the same API server.
async fn in_use(client: &Client, name: &str) -> Result<bool> {
    let count = match name {
        "serviceexports.multicluster.x-k8s.io" => {
            Api::<ServiceExport>::all(client.clone()).list(&ListParams::default()).await.map(|l| l.items.len())
        }
        "serviceimports.multicluster.x-k8s.io" => {
            Api::<ServiceImport>::all(client.clone()).list(&ListParams::default()).await.map(|l| l.items.len())
        }
        "clusters.daisy.supercluster.local" => {
            let namespaces: Api<Namespace> = Api::all(client.clone());
            return Ok(namespaces.get_opt(labels::BROKER_NAMESPACE).await?.is_some());
        }
        _ => return Ok(false),
    };
    match count {
        Ok(count) => Ok(count > 0),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
        Err(error) => Err(error).with_context(|| format!("listing what {name} defines")),
    }
}

async fn unmark_nodes(client: &Client) -> Result<()> {
    let api: Api<Node> = Api::all(client.clone());
    let annotations = [labels::NODE_ADDRESS, labels::NODE_STATE];
    for node in api.list(&ListParams::default()).await?.items {
        let marked =
            annotations.iter().any(|a| node.annotations().contains_key(*a)) || node.labels().contains_key(labels::GATEWAY_NODE);
        if marked {
            let patch = serde_json::json!({ "metadata": {
                "labels": { labels::GATEWAY_NODE: null },
                "annotations": { labels::NODE_ADDRESS: null, labels::NODE_STATE: null },
            }});
            let name = node.name_any();
            api.patch(&name, &PatchParams::default(), &Patch::Merge(&patch))
                .await
                .with_context(|| format!("taking Daisy's marks off node {name}"))?;
        }
    }
    Ok(())
}
