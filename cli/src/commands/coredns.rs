//! Daisy's zones in the cluster's DNS: where CoreDNS is configured, what is added there, and how it is taken out again.
//!
//! | cluster | where the block goes |
//! |---|---|
//! | kubeadm, kind, most | ConfigMap kube-system/coredns, in the Corefile |
//! | k3s, AKS, and others that write the Corefile themselves and import `custom/*.server` | ConfigMap coredns-custom, a key of its own |
//! | another DNS | nowhere: `join` says what to forward |

use std::net::IpAddr;

use anyhow::{Context, Result, bail};
use daisy_api::labels::{CLUSTERSET_ZONE, MANAGED_BY, MANAGED_BY_DAISY, SUPERCLUSTER_ZONE};
use daisy_dns_core::corefile;
use daisy_kubernetes::Api;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, PodSpec};
use kube::api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};

use super::reload::{DNS_PODS, Reload, TOLD, Way, tell};
use crate::arguments::ObjectName;

/// Annotation on namespace daisy-system: the namespace of the ConfigMap that holds Daisy's zones.
pub(crate) const WHERE: &str = "daisy.supercluster.local/coredns-namespace";
/// Where a cluster's own DNS lives.
const NAMESPACE: &str = "kube-system";
/// The ConfigMap of further server blocks, where the Corefile imports them.
const CUSTOM: &str = "coredns-custom";
/// Our key in it.
const CUSTOM_KEY: &str = "daisy.server";
/// What such a Corefile says.
const CUSTOM_IMPORT: &str = "custom/*.server";
/// The key of a Corefile.
const COREFILE: &str = "Corefile";

/// Where Daisy's zones are added.
pub(crate) enum Place {
    /// In this ConfigMap's Corefile.
    Corefile(ObjectName, String),
    /// In a ConfigMap of further blocks beside this one; `true` where it is there already.
    Custom(ObjectName, bool),
    /// Nowhere: the operator does it.
    ByHand,
}

/// Finds the Corefile, and sees that the zones can be added to it.
pub(crate) async fn find(client: &Client, named: Option<&ObjectName>, skip: bool) -> Result<Place> {
    if skip {
        return Ok(Place::ByHand);
    }
    let name = match named {
        Some(name) => name.clone(),
        None => {
            mounted(client).await?.unwrap_or_else(|| ObjectName { namespace: NAMESPACE.to_owned(), name: "coredns".to_owned() })
        }
    };
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &name.namespace);
    let map = maps.get_opt(&name.name).await.with_context(|| format!("reading ConfigMap {name}"))?;
    let Some(text) = map.and_then(|map| map.data?.remove(COREFILE)) else {
        bail!(
            "the cluster's DNS is not where it is expected: there is no ConfigMap {name} with a {COREFILE}. Name the ConfigMap of its CoreDNS with --coredns NAMESPACE/NAME; where it is no CoreDNS, join with --skip-dns and forward Daisy's zones by hand"
        );
    };
    // What cannot be edited is found out before anything is changed.
    corefile::insert(&text, &[IpAddr::from([192, 0, 2, 1])]).with_context(|| format!("ConfigMap {name}, {COREFILE}"))?;
    if text.lines().any(|line| line.trim_start().starts_with("import") && line.contains(CUSTOM_IMPORT)) {
        let custom = ObjectName { namespace: name.namespace, name: CUSTOM.to_owned() };
        let there = maps.get_opt(CUSTOM).await.with_context(|| format!("reading ConfigMap {custom}"))?.is_some();
        return Ok(Place::Custom(custom, there));
    }
    Ok(Place::Corefile(name, text))
}

/// The ConfigMap with a Corefile that the cluster's DNS has mounted.
async fn mounted(client: &Client) -> Result<Option<ObjectName>> {
    let dns = ListParams::default().labels(DNS_PODS);
    let deployments = Api::<Deployment>::namespaced(client.clone(), NAMESPACE)
        .list(&dns)
        .await
        .context("listing Deployments in kube-system")?;
    let sets = Api::<DaemonSet>::namespaced(client.clone(), NAMESPACE)
        .list(&dns)
        .await
        .context("listing DaemonSets in kube-system")?;
    let templates = deployments.items.into_iter().filter_map(|object| object.spec?.template.spec);
    let templates = templates.chain(sets.items.into_iter().filter_map(|object| object.spec?.template.spec));
    Ok(templates.filter_map(|spec| corefile_of(&spec)).next().map(|name| ObjectName { namespace: NAMESPACE.to_owned(), name }))
}

fn corefile_of(spec: &PodSpec) -> Option<String> {
    let maps = spec.volumes.iter().flatten().filter_map(|volume| volume.config_map.as_ref());
    let mut with_corefile = maps.filter(|map| map.items.iter().flatten().any(|item| item.key == COREFILE));
    with_corefile.next().map(|map| map.name.clone())
}

/// What was done to the cluster's DNS.
pub(crate) struct Added {
    /// What is said of it.
    pub(crate) said: String,
    /// CoreDNS as it was before, where it tells: it has to read what was written.
    pub(crate) reload: Option<Reload>,
}

/// Adds the zones, answered at these addresses; `None` where it was so already.
pub(super) async fn add(client: &Client, place: &Place, servers: &[IpAddr], way: Way) -> Result<Option<Added>> {
    let (name, key, text) = match place {
        Place::Corefile(name, text) => (name, COREFILE, text.as_str()),
        Place::Custom(name, _) => (name, CUSTOM_KEY, ""),
        Place::ByHand => {
            let servers = addresses(servers, " and ");
            let said = format!("--skip-dns: forward {} to {servers} in the cluster's DNS by hand", zones());
            return Ok(Some(Added { said, reload: None }));
        }
    };
    let edited = corefile::insert(text, servers)?;
    if edited == text {
        return Ok(None);
    }
    let reload = Some(Reload::before(client, &name.namespace, way).await).filter(Reload::is_told);
    if matches!(place, Place::Custom(_, false)) {
        create(client, name, &edited).await?;
    } else {
        patch(client, name, key, Some(&edited)).await?;
    }
    nudge(client, &name.namespace, Told::Servers(&addresses(servers, " "))).await;
    let late = if reload.is_some() { "" } else { "; it takes that up within about half a minute" };
    let map = if key == COREFILE { name.to_string() } else { format!("{name}, {key}") };
    Ok(Some(Added { said: format!("CoreDNS (ConfigMap {map}) forwards {} to Daisy{late}", zones()), reload }))
}

fn addresses(servers: &[IpAddr], between: &str) -> String {
    servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(between)
}

fn zones() -> String {
    format!("svc.{SUPERCLUSTER_ZONE} and svc.{CLUSTERSET_ZONE}")
}

async fn patch(client: &Client, map: &ObjectName, key: &str, value: Option<&str>) -> Result<()> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &map.namespace);
    let patch = serde_json::json!({ "data": { key: value } });
    let patched = maps.patch(&map.name, &PatchParams::default(), &Patch::Merge(&patch)).await;
    patched.map(drop).with_context(|| format!("updating ConfigMap {map}"))
}

async fn create(client: &Client, map: &ObjectName, block: &str) -> Result<()> {
    let metadata = ObjectMeta {
        name: Some(map.name.clone()),
        namespace: Some(map.namespace.clone()),
        labels: Some([(MANAGED_BY.to_owned(), MANAGED_BY_DAISY.to_owned())].into()),
        ..ObjectMeta::default()
    };
    let object = ConfigMap { metadata, data: Some([(CUSTOM_KEY.to_owned(), block.to_owned())].into()), ..ConfigMap::default() };
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &map.namespace);
    maps.create(&PostParams::default(), &object).await.map(drop).with_context(|| format!("creating ConfigMap {map}"))
}

/// What CoreDNS's pods are to say of their Corefile.
#[derive(Clone, Copy)]
enum Told<'a> {
    /// That it forwards to these servers.
    Servers(&'a str),
    /// Nothing any more: the zones were taken out now, or earlier.
    Nothing { now: bool },
}

impl<'a> Told<'a> {
    /// What a pod's annotation becomes, in order; the pod's kubelet looks at it after each.
    fn annotations(self, annotated: bool) -> Vec<Option<&'a str>> {
        match self {
            Told::Servers(servers) => vec![Some(servers)],
            Told::Nothing { .. } if annotated => vec![None],
            // Younger than the join (decision 0014).
            Told::Nothing { now: true } => vec![Some(""), None],
            Told::Nothing { now: false } => Vec::new(),
        }
    }
}

/// Has the kubelets look at CoreDNS's pods now: they bring a changed ConfigMap to a pod when the pod changes, else within a minute
/// or more. Who may not touch pods waits that long, and nothing is lost.
async fn nudge(client: &Client, namespace: &str, told: Told<'_>) {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let Ok(dns) = pods.list(&ListParams::default().labels(DNS_PODS)).await else { return };
    for pod in dns.items {
        for value in told.annotations(pod.annotations().contains_key(TOLD)) {
            let _ = tell(client, &pod, value).await;
        }
    }
}

/// What an operator of NodeLocal DNSCache has to do, if it is there: it answers pods before CoreDNS does.
pub(crate) async fn node_local_hint(client: &Client) -> Result<Option<String>> {
    let sets: Api<DaemonSet> = Api::namespaced(client.clone(), NAMESPACE);
    if sets.get_opt("node-local-dns").await.context("reading DaemonSet kube-system/node-local-dns")?.is_none() {
        return Ok(None);
    }
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
    let map = maps.get_opt("node-local-dns").await.context("reading ConfigMap kube-system/node-local-dns")?;
    let text = map.and_then(|map| map.data?.remove(COREFILE)).unwrap_or_default();
    if text.contains(SUPERCLUSTER_ZONE) {
        return Ok(None);
    }
    let bind = text.lines().map(str::trim).find(|line| line.starts_with("bind ")).unwrap_or("bind 169.254.20.10");
    Ok(Some(format!(
        "NodeLocal DNSCache answers this cluster's pods: add to ConfigMap kube-system/node-local-dns, {COREFILE} (`daisy leave` does not take it out):\n{SUPERCLUSTER_ZONE}:53 {CLUSTERSET_ZONE}:53 {{\n    errors\n    {bind}\n    forward . __PILLAR__CLUSTER__DNS__ {{\n        force_tcp\n    }}\n}}"
    )))
}

/// Takes the zones out of every ConfigMap of these namespaces that has them. Returns which these were.
pub(crate) async fn remove(client: &Client, namespaces: &[String]) -> Result<Vec<String>> {
    let mut changed = Vec::new();
    for namespace in namespaces {
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
        let list = maps.list(&ListParams::default()).await.with_context(|| format!("listing ConfigMaps in {namespace}"))?;
        let before = changed.len();
        for map in list {
            let name = ObjectName { namespace: namespace.clone(), name: map.name_any() };
            if remove_from(client, &name, map).await? {
                changed.push(name.to_string());
            }
        }
        nudge(client, namespace, Told::Nothing { now: changed.len() > before }).await;
    }
    Ok(changed)
}

async fn remove_from(client: &Client, name: &ObjectName, map: ConfigMap) -> Result<bool> {
    let ours = map.labels().get(MANAGED_BY).is_some_and(|by| by == MANAGED_BY_DAISY);
    let data = map.data.unwrap_or_default();
    if data.contains_key(CUSTOM_KEY) {
        if ours && data.len() == 1 {
            let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &name.namespace);
            maps.delete(&name.name, &DeleteParams::default()).await.with_context(|| format!("deleting ConfigMap {name}"))?;
        } else {
            patch(client, name, CUSTOM_KEY, None).await?;
        }
        return Ok(true);
    }
    let Some(text) = data.get(COREFILE) else { return Ok(false) };
    let edited = corefile::remove(text);
    if edited == *text {
        return Ok(false);
    }
    patch(client, name, COREFILE, Some(&edited)).await?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_that_were_told_nothing_look_again_too() {
        assert_eq!(Told::Servers("10.0.0.1").annotations(false), [Some("10.0.0.1")]);
        assert_eq!(Told::Nothing { now: true }.annotations(true), [None]);
        assert_eq!(Told::Nothing { now: true }.annotations(false), [Some(""), None], "it changes, and nothing is left");
        assert_eq!(Told::Nothing { now: false }.annotations(true), [None]);
        assert!(Told::Nothing { now: false }.annotations(false).is_empty(), "whose Corefile did not change is not touched");
    }
}
