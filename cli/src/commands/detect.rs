//! Finds a cluster's own CIDRs, and says where each was found.
//!
//! Pods: `kubeadm-config` (kubeadm, kind), then the flags of kube-controller-manager, then kube-proxy's configuration, then the
//! nodes' podCIDRs. Services: the ServiceCIDR API (Kubernetes 1.33), then `kubeadm-config`, then the flags of kube-apiserver.

use anyhow::{Context, Result, bail};
use daisy_api::Cidr;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod};
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::api::ListParams;
use kube::{Api, Client};
use serde_json::Value;

/// CIDRs, and where they were found.
pub(crate) struct Found {
    /// The CIDRs.
    pub(crate) cidrs: Vec<Cidr>,
    /// Where, for people.
    pub(crate) source: String,
}

impl Found {
    fn parse(text: &str, source: &str) -> Result<Option<Self>> {
        if text.trim().is_empty() {
            return Ok(None);
        }
        let cidrs = text.split(',').map(|part| part.trim().parse()).collect::<Result<Vec<Cidr>, _>>();
        let cidrs = cidrs.with_context(|| format!("{source} names CIDRs that do not parse"))?;
        Ok(Some(Self { cidrs, source: source.to_owned() }))
    }

    /// The CIDRs with commas between.
    pub(crate) fn list(&self) -> String {
        self.cidrs.iter().map(Cidr::to_string).collect::<Vec<_>>().join(",")
    }
}

/// The pod CIDRs.
pub(crate) async fn pods(client: &Client) -> Result<Found> {
    if let Some(found) = kubeadm(client, "podSubnet").await? {
        return Ok(found);
    }
    if let Some(found) = flag(client, "kube-controller-manager", "--cluster-cidr=").await? {
        return Ok(found);
    }
    if let Some(found) = kube_proxy(client).await? {
        return Ok(found);
    }
    let nodes: Api<Node> = Api::all(client.clone());
    let mut cidrs = Vec::new();
    for node in nodes.list(&ListParams::default()).await.context("listing nodes")? {
        let spec = node.spec.unwrap_or_default();
        for text in spec.pod_cidrs.or_else(|| spec.pod_cidr.map(|one| vec![one])).unwrap_or_default() {
            cidrs.push(text.parse().with_context(|| format!("a node's podCIDR {text:?}"))?);
        }
    }
    if cidrs.is_empty() {
        bail!(
            "the cluster's pod CIDRs could not be found (no kubeadm-config, no kube-controller-manager pod, no kube-proxy configuration, no podCIDR on any node): give them with --clustercidr"
        );
    }
    Ok(Found { cidrs, source: "the nodes' podCIDRs; give --clustercidr if more nodes are to come".to_owned() })
}

/// The service CIDRs.
pub(crate) async fn services(client: &Client) -> Result<Found> {
    let api: Api<ServiceCIDR> = Api::all(client.clone());
    // An API server before 1.33 does not know the kind, which is no error.
    if let Ok(Some(object)) = api.get_opt("kubernetes").await
        && let Some(found) =
            Found::parse(&object.spec.and_then(|s| s.cidrs).unwrap_or_default().join(","), "ServiceCIDR kubernetes")?
    {
        return Ok(found);
    }
    if let Some(found) = kubeadm(client, "serviceSubnet").await? {
        return Ok(found);
    }
    if let Some(found) = flag(client, "kube-apiserver", "--service-cluster-ip-range=").await? {
        return Ok(found);
    }
    bail!(
        "the cluster's service CIDRs could not be found (no ServiceCIDR API, no kubeadm-config, no kube-apiserver pod): give them with --servicecidr"
    )
}

async fn config_map(client: &Client, name: &str) -> Result<Option<ConfigMap>> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), "kube-system");
    api.get_opt(name).await.with_context(|| format!("reading ConfigMap kube-system/{name}"))
}

async fn kubeadm(client: &Client, field: &str) -> Result<Option<Found>> {
    let Some(map) = config_map(client, "kubeadm-config").await? else { return Ok(None) };
    let text = map.data.unwrap_or_default().remove("ClusterConfiguration").unwrap_or_default();
    let Ok(value) = daisy_api::yaml::from_str::<Value>(&text) else { return Ok(None) };
    let found = value.pointer(&format!("/networking/{field}")).and_then(Value::as_str).unwrap_or_default();
    Found::parse(found, &format!("kubeadm-config, networking.{field}"))
}

async fn kube_proxy(client: &Client) -> Result<Option<Found>> {
    let Some(map) = config_map(client, "kube-proxy").await? else { return Ok(None) };
    let text = map.data.unwrap_or_default().remove("config.conf").unwrap_or_default();
    let Ok(value) = daisy_api::yaml::from_str::<Value>(&text) else { return Ok(None) };
    Found::parse(value["clusterCIDR"].as_str().unwrap_or_default(), "kube-proxy's configuration, clusterCIDR")
}

async fn flag(client: &Client, component: &str, flag: &str) -> Result<Option<Found>> {
    let api: Api<Pod> = Api::namespaced(client.clone(), "kube-system");
    let pods = api.list(&ListParams::default().labels(&format!("component={component}"))).await.context("listing pods")?;
    let containers = pods.items.into_iter().filter_map(|pod| pod.spec).flat_map(|spec| spec.containers);
    let words = containers.flat_map(|c| c.command.unwrap_or_default().into_iter().chain(c.args.unwrap_or_default()));
    for word in words {
        if let Some(value) = word.strip_prefix(flag) {
            return Found::parse(value, &format!("{component}, {}", flag.trim_end_matches('=')));
        }
    }
    Ok(None)
}
