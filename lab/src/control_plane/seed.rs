//! What a cluster has from the start, as kubeadm and the API server's own controllers make it.

use std::net::SocketAddr;

use anyhow::Context;
use daisy_api::Cidr;
use daisy_api_server::{Handle, Refusal, ResourceKey};
use serde_json::{Value, json};

use super::Options;
use super::allocator::DEFAULT_SERVICE_CIDR;

/// The namespaces that are there from the start.
pub(super) const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];
/// The domain of the cluster's own names.
const DNS_DOMAIN: &str = "cluster.local";

/// Makes what is missing. Does nothing on a cluster that has it all.
pub(super) async fn seed(handle: &Handle, options: &Options, ca: &str) -> anyhow::Result<()> {
    for namespace in NAMESPACES {
        let account = object("v1", "ServiceAccount", "default");
        ensure(handle, ("", "serviceaccounts"), namespace, account).await?;
        let mut authority = object("v1", "ConfigMap", "kube-root-ca.crt");
        authority["data"] = json!({ "ca.crt": ca });
        ensure(handle, ("", "configmaps"), namespace, authority).await?;
    }
    let mut cidr = object("networking.k8s.io/v1", "ServiceCIDR", DEFAULT_SERVICE_CIDR);
    cidr["spec"] = json!({ "cidrs": first_of_each_family(&options.service_cidrs) });
    ensure(handle, ("networking.k8s.io", "servicecidrs"), "", cidr).await?;
    ensure(handle, ("", "configmaps"), "kube-system", kubeadm_config(options)?).await?;
    let mut admin = object("rbac.authorization.k8s.io/v1", "ClusterRole", "cluster-admin");
    admin["rules"] = json!([
        { "apiGroups": ["*"], "resources": ["*"], "verbs": ["*"] },
        { "nonResourceURLs": ["*"], "verbs": ["*"] },
    ]);
    ensure(handle, ("rbac.authorization.k8s.io", "clusterroles"), "", admin).await?;
    own_service(handle, options).await
}

fn object(api_version: &str, kind: &str, name: &str) -> Value {
    json!({ "apiVersion": api_version, "kind": kind, "metadata": { "name": name } })
}

fn first_of_each_family(cidrs: &[Cidr]) -> Vec<String> {
    let mut chosen: Vec<&Cidr> = Vec::new();
    for cidr in cidrs {
        if !chosen.iter().any(|c| c.is_ipv6() == cidr.is_ipv6()) {
            chosen.push(cidr);
        }
    }
    chosen.into_iter().map(ToString::to_string).collect()
}

/// Where programs look for a cluster's ranges when the API does not say (kubeadm and kind keep them there).
fn kubeadm_config(options: &Options) -> anyhow::Result<Value> {
    let joined = |cidrs: &[Cidr]| cidrs.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let configuration = json!({
        "apiVersion": "kubeadm.k8s.io/v1beta4", "kind": "ClusterConfiguration", "clusterName": options.cluster,
        "networking": { "dnsDomain": DNS_DOMAIN, "podSubnet": joined(&options.pod_cidrs), "serviceSubnet": joined(&options.service_cidrs) },
    });
    let mut config = object("v1", "ConfigMap", "kubeadm-config");
    config["data"] = json!({ "ClusterConfiguration": daisy_api::yaml::to_string(&configuration)? });
    Ok(config)
}

/// The Service by which Pods reach the API server: the first address of the range, with the listener behind it.
async fn own_service(handle: &Handle, options: &Options) -> anyhow::Result<()> {
    let first = options.service_cidrs.first().context("a cluster needs a service CIDR")?;
    let address =
        first.nth(1).with_context(|| format!("the service CIDR {first} has no address for the Service default/kubernetes"))?;
    let labels = json!({ "component": "apiserver", "provider": "kubernetes" });
    let port = options.listen.port();
    let mut service = object("v1", "Service", "kubernetes");
    service["metadata"]["labels"] = labels;
    service["spec"] = json!({
        "clusterIP": address, "sessionAffinity": "None", "type": "ClusterIP",
        "ports": [{ "name": "https", "port": 443, "protocol": "TCP", "targetPort": port }],
    });
    ensure(handle, ("", "services"), "default", service).await?;
    if options.listen.ip().is_loopback() {
        // No endpoint can be there: nobody else would reach it.
        return Ok(());
    }
    // The listener may have moved since the last start: the slice is written anew where it differs.
    let slice = own_slice(options.listen);
    handle.apply(slice).await.map(drop).context("cannot write the EndpointSlice default/kubernetes")
}

fn own_slice(listen: SocketAddr) -> Value {
    let mut slice = object("discovery.k8s.io/v1", "EndpointSlice", "kubernetes");
    slice["metadata"]["namespace"] = json!("default");
    slice["metadata"]["labels"] = json!({ "kubernetes.io/service-name": "kubernetes" });
    slice["addressType"] = json!(if listen.is_ipv6() { "IPv6" } else { "IPv4" });
    slice["endpoints"] = json!([{ "addresses": [listen.ip()], "conditions": { "ready": true } }]);
    slice["ports"] = json!([{ "name": "https", "port": listen.port(), "protocol": "TCP" }]);
    slice
}

async fn ensure(handle: &Handle, (group, plural): (&str, &str), namespace: &str, object: Value) -> anyhow::Result<()> {
    let key = ResourceKey::new(group, plural);
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    if handle.get(&key, namespace, &name).is_some() {
        return Ok(());
    }
    match handle.create(&key, namespace, object).await {
        Ok(_) => Ok(()),
        Err(Refusal { code: 409, .. }) => Ok(()),
        Err(refusal) => Err(refusal).with_context(|| format!("cannot make {key} {namespace}/{name}")),
    }
}
