//! `daisy leave`: everything of Daisy goes, and nothing else, whatever of the cluster is broken.
//!
//! ```text
//! CoreDNS ─▶ local Cluster: leaving ─▶ syncer withdraws ─▶ nodes clean themselves ─▶ workloads, Secrets ─▶ pods end ─▶ marks, rights, kinds, namespace
//!                                      (no syncer: by hand)  (not Ready: named, and cleaned by the next leave)
//! ```

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use daisy_api::{Cluster, conditions, labels};
use daisy_broker::apply::{self, Applier};
use daisy_kubernetes::Api;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Secret};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt};

use super::{coredns, nodes, remains};
use crate::arguments::Leave;
use crate::connect;
use crate::manifests::{self, Settings};
use crate::progress::Progress;

/// How long the syncer may be without a pod before its work is done by hand: a rollout takes less.
const SYNCER_GRACE: Duration = Duration::from_secs(20);
/// How long what was deleted may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(90);

/// Leaves.
pub(crate) async fn run(options: Leave) -> Result<()> {
    let client = connect::cluster(&options.target).await?;
    let mut progress = Progress::new();
    let deadline = Instant::now() + options.timeout;
    // First the names, so that nothing asks Daisy for an address while it goes.
    for map in remove_stub(&client).await? {
        progress.done(&format!("ConfigMap {map} is as it was"));
    }
    let marked = marked(&client).await?;
    match announce(&client).await? {
        Some(id) => withdraw(&client, &id, deadline, &mut progress).await?,
        // Somebody removed the rest already, or a node was away during an earlier leave.
        None if !marked.is_empty() => send_cleaners(&client, &options).await?,
        None => {}
    }
    let unclean = clean_nodes(&client, &marked, deadline, &mut progress).await?;
    remove(&client, &unclean, &mut progress).await?;
    if !unclean.is_empty() {
        bail!(
            "everything of Daisy is out of this cluster, but for node {}: it could not be reached, and its routes, filter and devices are still there. Reboot it, or run `daisy leave` again once it is Ready",
            unclean.iter().cloned().collect::<Vec<_>>().join(", node ")
        );
    }
    progress.done("nothing of Daisy is left in this cluster");
    Ok(())
}

async fn remove_stub(client: &Client) -> Result<Vec<String>> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let system = namespaces.get_opt(labels::SYSTEM_NAMESPACE).await.context("reading namespace daisy-system")?;
    let named = system.and_then(|namespace| namespace.annotations().get(coredns::WHERE).cloned());
    let mut places = vec!["kube-system".to_owned()];
    places.extend(named.filter(|place| place != "kube-system"));
    coredns::remove(client, &places).await
}

async fn all_nodes(client: &Client) -> Result<Vec<Node>> {
    Ok(Api::<Node>::all(client.clone()).list(&ListParams::default()).await.context("listing nodes")?.items)
}

/// The nodes that Daisy has been on.
async fn marked(client: &Client) -> Result<BTreeSet<String>> {
    let has = |node: &Node| node.annotations().contains_key(labels::NODE_ADDRESS);
    Ok(all_nodes(client).await?.iter().filter(|node| has(node)).map(ResourceExt::name_any).collect())
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

/// Has the syncer withdraw what this cluster exports and imports; without one, does it.
async fn withdraw(client: &Client, id: &str, deadline: Instant, progress: &mut Progress) -> Result<()> {
    let clusters: Api<Cluster> = Api::namespaced(client.clone(), labels::SYSTEM_NAMESPACE);
    let mut silent: Option<Instant> = None;
    loop {
        let Some(cluster) = clusters.get_opt(id).await? else { break };
        if conditions::is_true(&cluster.status.unwrap_or_default().conditions, "Left") {
            break;
        }
        let replicas = syncer_replicas(client).await?;
        silent = if replicas.is_some_and(|ready| ready > 0) { None } else { silent.or_else(|| Some(Instant::now())) };
        let silent_for = silent.map_or(Duration::ZERO, |since| since.elapsed());
        // One that has been deleted does not come back.
        if replicas.is_none() || silent_for > SYNCER_GRACE || Instant::now() > deadline {
            progress.done(&remains::tell_broker(client).await);
            remains::delete_imports(client).await?;
            progress.done("imports are removed (by this command, since the syncer did not)");
            return Ok(());
        }
        progress.waiting("the syncer to withdraw this cluster's exports and imports");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    progress.done("exports and imports are withdrawn");
    Ok(())
}

/// How many syncers are ready; `None` where there is no Deployment of it.
async fn syncer_replicas(client: &Client) -> Result<Option<i32>> {
    let api: Api<Deployment> = Api::namespaced(client.clone(), labels::SYSTEM_NAMESPACE);
    let deployment = api.get_opt("daisy-syncer").await.context("reading Deployment daisy-system/daisy-syncer")?;
    Ok(deployment.map(|object| object.status.and_then(|status| status.ready_replicas).unwrap_or(0)))
}

/// Puts route-agents on the nodes that clean them.
async fn send_cleaners(client: &Client, options: &Leave) -> Result<()> {
    let arguments = vec![("route-agent", vec!["--clean".to_owned(), "--hold".to_owned(), "1s".to_owned()])];
    let settings = Settings { image: options.image.clone(), workers: 1, arguments };
    let applier = Applier::new(client.clone());
    for object in manifests::foundations()? {
        applier.apply(&object).await?;
    }
    for object in manifests::workloads(&settings)?.iter().filter(|object| object.name_any() == "daisy-route-agent") {
        applier.apply(object).await?;
    }
    Ok(())
}

/// Waits until each of these nodes is clean. Returns those that are not: not Ready, or out of time.
async fn clean_nodes(
    client: &Client,
    marked: &BTreeSet<String>,
    deadline: Instant,
    progress: &mut Progress,
) -> Result<BTreeSet<String>> {
    loop {
        let all = all_nodes(client).await?;
        let unclean = |node: &&Node| {
            marked.contains(&node.name_any()) && node.annotations().get(labels::NODE_STATE).is_none_or(|state| state != "clean")
        };
        let unclean: Vec<&Node> = all.iter().filter(unclean).collect();
        let waiting: Vec<String> = unclean.iter().filter(|node| nodes::is_ready(node)).map(|node| node.name_any()).collect();
        if waiting.is_empty() || Instant::now() > deadline {
            if unclean.is_empty() && !marked.is_empty() {
                progress.done("every node is clean");
            }
            return Ok(unclean.into_iter().map(ResourceExt::name_any).collect());
        }
        progress.waiting(&format!("every node to be clean, once the hold on its routes is over ({})", waiting.join(", ")));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn remove(client: &Client, unclean: &BTreeSet<String>, progress: &mut Progress) -> Result<()> {
    progress.waiting("removing Daisy's objects");
    let applier = Applier::new(client.clone());
    for object in manifests::any_workloads()?.iter().rev() {
        applier.delete(object).await?;
    }
    let secrets: Api<Secret> = Api::namespaced(client.clone(), labels::SYSTEM_NAMESPACE);
    let ours = format!("{}={}", labels::MANAGED_BY, labels::MANAGED_BY_DAISY);
    for secret in secrets.list(&ListParams::default().labels(&ours)).await.map(|list| list.items).unwrap_or_default() {
        gone(secrets.delete(&secret.name_any(), &DeleteParams::default()).await.map(drop))
            .context("deleting Daisy's Secrets")?;
    }
    // A route-agent that still runs would mark its node once more.
    pods_end(client, progress).await?;
    unmark_nodes(client, unclean).await?;
    remains::delete_imports(client).await?;
    for property in manifests::properties("any", "any")? {
        applier.delete(&property).await?;
    }
    // The kinds go last, each only while nobody else's objects need it.
    for object in manifests::foundations()?.iter().rev() {
        if remains::in_use(client, &object.name_any()).await? {
            progress.done(&format!("{} stays: there are objects of that kind that are not Daisy's", apply::describe(object)));
            continue;
        }
        applier.delete(object).await?;
    }
    for name in [labels::GATEWAY_KEYS_NAMESPACE, labels::SYSTEM_NAMESPACE] {
        namespace_gone(client, name, progress).await?;
    }
    Ok(())
}

/// What was to be deleted and is not there is deleted.
pub(super) fn gone(deleted: kube::Result<()>) -> kube::Result<()> {
    match deleted {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other,
    }
}

/// Waits for Daisy's pods; those on nodes that are not Ready, where nobody would end them, are struck off.
async fn pods_end(client: &Client, progress: &mut Progress) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), labels::SYSTEM_NAMESPACE);
    let started = Instant::now();
    loop {
        let running =
            pods.list(&ListParams::default().labels("app.kubernetes.io/name=daisy")).await.context("listing pods")?.items;
        let Some(first) = running.first() else { return Ok(()) };
        if started.elapsed() > GONE_WITHIN {
            bail!("pod daisy-system/{} does not end: look at its node; `daisy leave` can be run again", first.name_any());
        }
        progress.waiting(&format!("Daisy's pods to end ({})", first.name_any()));
        let away: BTreeSet<String> =
            all_nodes(client).await?.iter().filter(|node| !nodes::is_ready(node)).map(ResourceExt::name_any).collect();
        let on_away = |pod: &&Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref()).is_some_and(|n| away.contains(n));
        for pod in running.iter().filter(on_away) {
            let at_once = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
            gone(pods.delete(&pod.name_any(), &at_once).await.map(drop))
                .context("striking off a pod of a node that is not Ready")?;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Waits until the namespace is gone, or says what holds it.
pub(super) async fn namespace_gone(client: &Client, name: &str, progress: &mut Progress) -> Result<()> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let started = Instant::now();
    while let Some(namespace) = namespaces.get_opt(name).await? {
        if started.elapsed() > GONE_WITHIN {
            let conditions = namespace.status.and_then(|status| status.conditions).unwrap_or_default();
            let why: Vec<String> = conditions.into_iter().filter(|c| c.status == "True").filter_map(|c| c.message).collect();
            bail!("namespace {name} does not go: {}; once what holds it is gone, it goes by itself", why.join("; "));
        }
        progress.waiting(&format!("namespace {name} to be gone"));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// Takes Daisy's marks off the nodes. Those that could not be cleaned keep theirs: by them the next leave knows.
async fn unmark_nodes(client: &Client, unclean: &BTreeSet<String>) -> Result<()> {
    let api: Api<Node> = Api::all(client.clone());
    let annotations = [labels::NODE_ADDRESS, labels::NODE_STATE, labels::NODE_PROBLEM];
    for node in all_nodes(client).await? {
        let name = node.name_any();
        let marked =
            annotations.iter().any(|a| node.annotations().contains_key(*a)) || node.labels().contains_key(labels::GATEWAY_NODE);
        if marked && !unclean.contains(&name) {
            let patch = serde_json::json!({ "metadata": {
                "labels": { labels::GATEWAY_NODE: null },
                "annotations": { labels::NODE_ADDRESS: null, labels::NODE_STATE: null, labels::NODE_PROBLEM: null },
            }});
            api.patch(&name, &PatchParams::default(), &Patch::Merge(&patch))
                .await
                .with_context(|| format!("taking Daisy's marks off node {name}"))?;
        }
    }
    Ok(())
}
