//! What `daisy join` finds out about a cluster before anything is changed.

use anyhow::{Context, Result, bail};
use daisy_api::broker_info::BrokerInfo;
use daisy_api::{Cidr, labels};
use daisy_broker::apply;
use daisy_kubernetes::Api;
use k8s_openapi::api::core::v1::{Namespace, Node, Secret};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::ListParams;
use kube::{Client, ResourceExt};

use super::nodes::{self, Gateways};
use super::{coredns, detect, kind};
use crate::arguments::Join;
use crate::connect;
use crate::manifests::{self, Settings};
use crate::preflight::{self, Need};

/// The oldest Kubernetes that Daisy joins: its EndpointSlices and server-side apply are as they are today.
const KUBERNETES_LEAST: u32 = 27;

/// What was found out.
pub(super) struct Plan {
    /// The UID of the cluster's namespace kube-system.
    pub(super) uid: String,
    pub(super) pods: detect::Found,
    pub(super) services: detect::Found,
    pub(super) gateways: Gateways,
    /// Of what kind these nodes are, where that is worth a word.
    pub(super) gateways_are: &'static str,
    /// What kind calls the cluster, if it is one of kind's.
    pub(super) kind: Option<String>,
    /// How many nodes take ordinary pods.
    pub(super) workers: usize,
    pub(super) dns: coredns::Place,
    joined: Option<Secret>,
}

impl Plan {
    /// A key of the Secret that an earlier join left.
    pub(super) fn access(&self, key: &str) -> Option<&[u8]> {
        value(self.joined.as_ref(), key)
    }
}

fn value<'a>(secret: Option<&'a Secret>, key: &str) -> Option<&'a [u8]> {
    secret?.data.as_ref()?.get(key).map(|value| value.0.as_slice())
}

/// Looks, and refuses a cluster that could not join.
pub(super) async fn look(client: &Client, options: &Join, info: &BrokerInfo) -> Result<Plan> {
    preflight::version(client, KUBERNETES_LEAST, "its EndpointSlices and server-side apply").await?;
    preflight::apis(
        client,
        &[
            ("apiextensions.k8s.io/v1", "customresourcedefinitions"),
            ("apps/v1", "daemonsets"),
            ("discovery.k8s.io/v1", "endpointslices"),
            ("rbac.authorization.k8s.io/v1", "clusterroles"),
        ],
    )
    .await?;
    rights(client, options).await?;
    let all = Api::<Node>::all(client.clone()).list(&ListParams::default()).await.context("listing nodes")?.items;
    kind::check_context(connect::context(&options.target).as_deref(), &all)?;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let system = namespaces.get("kube-system").await.context("reading namespace kube-system")?;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), labels::SYSTEM_NAMESPACE);
    let joined = secrets.get_opt(labels::BROKER_ACCESS_SECRET).await.context("reading Secrets in daisy-system")?;
    same_membership(joined.as_ref(), options, info)?;
    kinds(client).await?;
    nodes::check_addresses(&all)?;
    let gateways = nodes::choose_gateways(&all, &options.gateway_node)?;
    if let (Some(address), [_, _, ..]) = (options.public_address, &gateways.all[..]) {
        bail!(
            "--public-address {address} is one gateway's, and there are several ({}): annotate each of these nodes with its own, {}=ADDRESS",
            gateways.all.join(", "),
            labels::PUBLIC_ADDRESS
        );
    }
    let given = |cidrs: &[Cidr], flag: &str| detect::Found { cidrs: cidrs.to_vec(), source: format!("as given by {flag}") };
    let pods = match &options.clustercidr[..] {
        [] => detect::pods(client, &all).await?,
        cidrs => given(cidrs, "--clustercidr"),
    };
    let services = match &options.servicecidr[..] {
        [] => detect::services(client, &all).await?,
        cidrs => given(cidrs, "--servicecidr"),
    };
    let dns = coredns::find(client, options.coredns.as_ref(), options.skip_dns).await?;
    preflight::rehearse(client, &manifests::foundations()?).await?;
    let workers = nodes::workers(&all);
    let kind = all.iter().find_map(kind::name).map(str::to_owned);
    let gateways_are = nodes::remark(&all, &gateways);
    Ok(Plan { uid: system.uid().unwrap_or_default(), pods, services, gateways, gateways_are, kind, workers, dns, joined })
}

/// Refuses a user who could not do all of a join.
async fn rights(client: &Client, options: &Join) -> Result<()> {
    let settings = Settings { image: options.image.clone(), workers: 1, arguments: Vec::new() };
    let mut objects = manifests::foundations()?;
    objects.extend(manifests::workloads(&settings)?);
    objects.extend(manifests::properties("any", "any")?);
    let mut needs = Vec::new();
    let ours = Some(labels::SYSTEM_NAMESPACE);
    for (verb, resource) in [("get", "secrets"), ("create", "secrets"), ("patch", "secrets"), ("list", "pods")] {
        needs.push(Need::new(verb, ("", resource), ours));
    }
    for verb in ["get", "list"] {
        needs.push(Need::new(verb, (labels::GROUP, "clusters"), ours));
        needs.push(Need::new(verb, (labels::GROUP, "gateways"), ours));
    }
    for verb in ["list", "patch"] {
        needs.push(Need::new(verb, ("", "nodes"), None));
    }
    let dns = options.coredns.as_ref().map_or("kube-system", |name| &name.namespace);
    for (verb, wanted) in [("get", true), ("patch", !options.skip_dns)] {
        if wanted {
            needs.push(Need::new(verb, ("", "configmaps"), Some(dns)));
        }
    }
    preflight::rights(client, &objects, needs, "join this cluster").await
}

/// Refuses to make another member, or another broker's, of a cluster that has joined.
fn same_membership(joined: Option<&Secret>, options: &Join, info: &BrokerInfo) -> Result<()> {
    if joined.is_none() {
        return Ok(());
    }
    let had = |key: &str| value(joined, key).map(|bytes| String::from_utf8_lossy(bytes).into_owned()).unwrap_or_default();
    if had("clusterId") != options.clusterid.as_str() {
        bail!(
            "this cluster has joined as {:?} already; `daisy leave` first, or join with --clusterid {}",
            had("clusterId"),
            had("clusterId")
        );
    }
    if had("brokerId") != info.broker_id {
        bail!(
            "this cluster has joined another broker ({}) already, and {} is for the one at {}; `daisy leave` first",
            had("server"),
            options.broker_info.display(),
            info.server
        );
    }
    Ok(())
}

/// Refuses kinds of the same name that somebody else brought and that are not ours to change, in a version that Daisy does not
/// speak.
async fn kinds(client: &Client) -> Result<()> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    for object in manifests::kinds()? {
        let name = object.name_any();
        let Some(had) = api.get_opt(&name).await.with_context(|| format!("reading CustomResourceDefinition {name}"))? else {
            continue;
        };
        let ours = had.labels().get(labels::MANAGED_BY).is_some_and(|by| by == labels::MANAGED_BY_DAISY);
        let wanted = apply_version(&object);
        if !ours && !serves(&had, &wanted) {
            let has: Vec<&str> = had.spec.versions.iter().filter(|v| v.served).map(|v| v.name.as_str()).collect();
            bail!(
                "CustomResourceDefinition {name} is installed already, not by Daisy, and serves {} only; Daisy needs {wanted}. Upgrade it with what installed it, or delete it if nothing uses it any more, and Daisy brings its own",
                has.join(", ")
            );
        }
    }
    Ok(())
}

fn apply_version(object: &kube::api::DynamicObject) -> String {
    let versions = object.data.pointer("/spec/versions").and_then(serde_json::Value::as_array);
    let names = versions.into_iter().flatten().filter(|v| v["storage"] == true).filter_map(|v| v["name"].as_str());
    names.map(str::to_owned).next().unwrap_or_else(|| apply::describe(object))
}

fn serves(definition: &CustomResourceDefinition, version: &str) -> bool {
    definition.spec.versions.iter().any(|v| v.name == version && v.served)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_kinds_serve_what_we_speak() {
        for object in manifests::kinds().expect("parse") {
            let typed: CustomResourceDefinition =
                serde_json::from_value(serde_json::to_value(&object).expect("JSON")).expect("a CRD");
            assert!(serves(&typed, &apply_version(&object)), "{}", object.name_any());
            assert!(!serves(&typed, "v1alpha0"));
        }
    }
}
