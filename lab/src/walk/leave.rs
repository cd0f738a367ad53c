//! Step 8: everyone leaves, and nothing remains.

use std::time::{Duration, Instant};

use daisy_kubernetes::Api;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::ListParams;
use kube::{Client, ResourceExt};
use serde::de::DeserializeOwned;

use super::begin::BROKER_KUBECONFIG;
use super::report::Failed;
use super::stage::{Stage, same, succeeded};

/// `daisy leave` everywhere, then a look at every node, API server and process.
pub(crate) async fn run(stage: &mut Stage<'_>) -> Result<(), Failed> {
    stage.report.begin("Every cluster leaves: no route, rule, device, object or process remains");
    let clusters = stage.clusters();
    // What users made goes as users take it away; Daisy does not do it for them.
    stage.type_("staging", &["daisy", "unexport", "namespace", "shop"]).await?;
    let lab = &*stage;
    let leaves = clusters.iter().map(|cluster| async move {
        let words = ["daisy", "leave"];
        let started = Instant::now();
        let output = lab.look(cluster, &words).await?;
        succeeded(&words, &output)?;
        Ok::<_, Failed>((cluster.clone(), started.elapsed()))
    });
    let mut left = Vec::new();
    for result in futures::future::join_all(leaves).await {
        left.push(result?);
    }
    for (cluster, took) in left {
        stage.report.command(&cluster, "daisy leave", took);
    }
    let plan = stage.lab.plan().clone();
    for cluster in &plan.clusters {
        let client = stage.client(cluster.name.as_str())?;
        let objects = async || Ok(remaining_objects(&client).await?.map_or(Ok(()), Err));
        stage.until(Duration::from_secs(10), &format!("no object of Daisy's in {}", cluster.name), objects).await?;
        for node in 0..cluster.nodes {
            let name = cluster.node_name(node);
            let clean = async || {
                let remains = stage.lab.inspect(&name).await?.daisys();
                Ok(if remains.is_empty() { Ok(()) } else { Err(remains.join("; ")) })
            };
            stage.until(Duration::from_secs(10), &format!("nothing of Daisy's on {name}"), clean).await?;
        }
    }
    stage.report.saw("no device, address, route, rule or nftables table of Daisy's on any node; no object in any API server; CoreDNS as it was");
    let gone = async || {
        let roles = ["syncer", "gateway", "route-agent", "dns"];
        let of_role = |words: &[String]| words.get(1).is_some_and(|w| roles.contains(&w.as_str()));
        let running: Vec<String> =
            stage.lab.processes().await?.into_iter().filter(|p| of_role(&p.arguments)).map(|p| p.name).collect();
        Ok(if running.is_empty() { Ok(()) } else { Err(running.join(", ")) })
    };
    stage.until(Duration::from_secs(10), "no process of a role to run", gone).await?;
    stage.report.saw("no process of any role runs");
    let members = async || {
        let output =
            stage.look("broker", &["daisy", "members", "--broker-kubeconfig", BROKER_KUBECONFIG, "-o", "json"]).await?;
        Ok(if output.stdout.trim() == "[]" { Ok(()) } else { Err(output.stdout) })
    };
    stage.until(Duration::from_secs(10), "the broker to have no members", members).await?;
    stage.report.command("broker", "daisy members", Duration::ZERO);
    stage.report.saw("the broker has no members");
    stage.report.end();
    Ok(())
}

/// The first object of Daisy's that is still there.
async fn remaining_objects(client: &Client) -> Result<Option<String>, Failed> {
    async fn of<K>(client: &Client) -> Result<Option<String>, Failed>
    where
        K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned,
    {
        let ours = format!("{}={}", daisy_api::labels::MANAGED_BY, daisy_api::labels::MANAGED_BY_DAISY);
        let list = Api::<K>::all(client.clone()).list(&ListParams::default().labels(&ours)).await?;
        Ok(list.items.first().map(|o| format!("{} {}/{}", K::kind(&()), o.namespace().unwrap_or_default(), o.name_any())))
    }
    let found = [
        of::<Namespace>(client).await?,
        of::<CustomResourceDefinition>(client).await?,
        of::<ClusterRole>(client).await?,
        of::<ClusterRoleBinding>(client).await?,
        of::<Service>(client).await?,
        of::<EndpointSlice>(client).await?,
    ];
    if let Some(first) = found.into_iter().flatten().next() {
        return Ok(Some(first));
    }
    for node in Api::<Node>::all(client.clone()).list(&ListParams::default()).await?.items {
        let marks = node.annotations().keys().chain(node.labels().keys());
        if let Some(mark) = marks.into_iter().find(|key| key.contains("daisy.supercluster.local")) {
            return Ok(Some(format!("{mark} on node {}", node.name_any())));
        }
    }
    let map = Api::<ConfigMap>::namespaced(client.clone(), "kube-system").get("coredns").await?;
    let corefile = map.data.unwrap_or_default().remove("Corefile").unwrap_or_default();
    same(
        "Daisy's lines in the Corefile",
        "0",
        &corefile.lines().filter(|l| l.contains("daisy") || l.contains("supercluster")).count().to_string(),
    )
    .map(|()| None)
}
