//! `daisy export` and `daisy unexport`.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use daisy_api::conditions::{self, READY, VALID};
use daisy_api::{NamespaceName, ServiceExport, ServiceExportSpec, ServiceName, labels};
use daisy_kubernetes::Api;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::{Client, ResourceExt};

use crate::arguments::Export;
use crate::connect;

/// How long to wait for the syncer's word on an export.
const VERDICT: Duration = Duration::from_secs(15);
/// The reason of `Valid` where there is no Service of the export's name (KEP-1645).
const NO_SERVICE: &str = "NoService";
/// Namespaces that no bulk export takes.
const NEVER: [&str; 6] = [
    "kube-system",
    "kube-public",
    "kube-node-lease",
    labels::SYSTEM_NAMESPACE,
    labels::GATEWAY_KEYS_NAMESPACE,
    labels::BROKER_NAMESPACE,
];

/// Exports, and says what came of it.
pub(crate) async fn export(what: Export) -> Result<()> {
    match what {
        Export::Service { name, namespace, target } => service(&connect::cluster(&target).await?, &namespace, &name).await,
        Export::Namespace { name, all, target } => {
            let client = connect::cluster(&target).await?;
            for namespace in chosen(&client, name, all).await? {
                mark(&client, &namespace, true).await?;
                println!("namespace {namespace}: each of its Services is exported, present and to come");
            }
            Ok(())
        }
    }
}

/// Withdraws what was exported.
pub(crate) async fn unexport(what: Export) -> Result<()> {
    match what {
        Export::Service { name, namespace, target } => {
            let api: Api<ServiceExport> = Api::namespaced(connect::cluster(&target).await?, namespace.as_str());
            match api.delete(name.as_str(), &DeleteParams::default()).await {
                Ok(_) => println!("{namespace}/{name}: no longer exported"),
                Err(kube::Error::Api(status)) if status.code == 404 => bail!("{namespace}/{name}: is not exported"),
                Err(error) => return Err(error).with_context(|| format!("deleting ServiceExport {namespace}/{name}")),
            }
        }
        Export::Namespace { name, all, target } => {
            let client = connect::cluster(&target).await?;
            for namespace in chosen(&client, name, all).await? {
                mark(&client, &namespace, false).await?;
                println!("namespace {namespace}: what was exported with it no longer is");
            }
        }
    }
    Ok(())
}

async fn service(client: &Client, namespace: &NamespaceName, name: &ServiceName) -> Result<()> {
    let api: Api<ServiceExport> = Api::namespaced(client.clone(), namespace.as_str());
    let object = ServiceExport::new(name.as_str(), ServiceExportSpec::default());
    match api.create(&PostParams::default(), &object).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {}
        Err(kube::Error::Api(status)) if status.code == 404 => bail!(
            "ServiceExport {namespace}/{name}: {}: does the namespace exist, and has this cluster joined (`daisy join`)?",
            status.message
        ),
        Err(error) => return Err(error).with_context(|| format!("creating ServiceExport {namespace}/{name}")),
    }
    let services: Api<Service> = Api::namespaced(client.clone(), namespace.as_str());
    let exists =
        services.get_opt(name.as_str()).await.with_context(|| format!("reading Service {namespace}/{name}"))?.is_some();
    let conditions = verdict(&api, name, exists).await?;
    let bad = [VALID, READY].iter().find_map(|t| conditions::find(&conditions, t).filter(|c| c.status != "True"));
    if let Some(condition) = bad {
        bail!("{namespace}/{name} is not exported ({}): {}", condition.reason, condition.message);
    }
    if conditions::find(&conditions, READY).is_none() {
        bail!(
            "{namespace}/{name}: the ServiceExport was made, but nothing has judged it for {} s: is the syncer running?",
            VERDICT.as_secs()
        );
    }
    println!("{namespace}/{name}: exported");
    if let Some(conflict) = conditions::find(&conditions, conditions::CONFLICT).filter(|c| c.status == "True") {
        println!("{namespace}/{name}: {}: {}", conflict.reason, conflict.message);
    }
    Ok(())
}

/// Watches the export until it is judged for good: not valid, or ready, or failed; at the end of the wait, what there is.
async fn verdict(api: &Api<ServiceExport>, name: &ServiceName, exists: bool) -> Result<Vec<Condition>> {
    let started = Instant::now();
    let of = |export: ServiceExport| export.status.unwrap_or_default().conditions;
    let settled = |list: &[Condition]| settled(list, exists);
    loop {
        let object = api.get(name.as_str()).await?;
        let version = object.resource_version().unwrap_or_default();
        let now = of(object);
        if settled(&now) || started.elapsed() > VERDICT {
            return Ok(now);
        }
        let left = VERDICT.saturating_sub(started.elapsed()).as_secs().max(1);
        let parameters =
            WatchParams::default().fields(&format!("metadata.name={name}")).timeout(u32::try_from(left).unwrap_or(1));
        let mut events = api.watch(&parameters, &version).await?;
        while let Some(event) = events.next().await {
            if let Ok(WatchEvent::Modified(object) | WatchEvent::Added(object)) = event {
                let now = of(object.0?);
                if settled(&now) {
                    return Ok(now);
                }
            }
        }
    }
}

/// Whether nothing better is to be waited for. A syncer whose watch of Services is behind says that there is none: where we have seen
/// it, `exists`, that will change.
fn settled(list: &[Condition], exists: bool) -> bool {
    match conditions::find(list, VALID) {
        Some(invalid) if invalid.status == "False" => !(exists && invalid.reason == NO_SERVICE),
        _ => conditions::find(list, READY).is_some_and(|c| c.status == "True" || c.reason == "Failed"),
    }
}

async fn chosen(client: &Client, name: Option<NamespaceName>, all: bool) -> Result<Vec<String>> {
    if let (Some(name), false) = (&name, all) {
        if NEVER.contains(&name.as_str()) {
            bail!("namespace {name} is never exported as a whole; export single Services of it by name");
        }
        return Ok(vec![name.to_string()]);
    }
    let api: Api<Namespace> = Api::all(client.clone());
    let names = api.list(&ListParams::default()).await.context("listing namespaces")?.into_iter().map(|n| n.name_any());
    Ok(names.filter(|n| !NEVER.contains(&n.as_str())).collect())
}

async fn mark(client: &Client, namespace: &str, on: bool) -> Result<()> {
    let api: Api<Namespace> = Api::all(client.clone());
    let value = if on { serde_json::json!("true") } else { serde_json::Value::Null };
    let patch = serde_json::json!({ "metadata": { "labels": { labels::EXPORT_ALL: value } } });
    match api.patch(namespace, &PatchParams::default(), &Patch::Merge(&patch)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => bail!("namespace {namespace} does not exist"),
        Err(error) => Err(error).with_context(|| format!("labelling namespace {namespace}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(kind: &str, status: &str, reason: &str) -> Condition {
        let json = serde_json::json!({
            "type": kind, "status": status, "reason": reason, "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z",
        });
        serde_json::from_value(json).expect("a condition")
    }

    #[test]
    fn a_syncer_that_has_not_yet_seen_the_service_has_not_judged() {
        let missing = [condition(VALID, "False", NO_SERVICE), condition(READY, "False", "Failed")];
        assert!(!settled(&missing, true), "it exists: the syncer will see it");
        assert!(settled(&missing, false));
        assert!(settled(&[condition(VALID, "False", "InvalidServiceType")], true));
        assert!(settled(&[condition(VALID, "True", "Valid"), condition(READY, "True", "Exported")], true));
        assert!(!settled(&[condition(VALID, "True", "Valid"), condition(READY, "False", "Pending")], true));
    }
}
