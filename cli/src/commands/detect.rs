//! Finds a cluster's own CIDRs, and says where each was found.
//!
//! | source | clusters | pods | Services |
//! |---|---|---|---|
//! | ServiceCIDR API | Kubernetes 1.33 and newer | | yes |
//! | ConfigMap kubeadm-config | kubeadm, kind | yes | yes |
//! | annotation k3s.io/node-args (rke2.io/node-args), else their defaults | k3s, RKE2 | yes | yes |
//! | flags of kube-controller-manager, kube-apiserver | static pods | yes | yes |
//! | kube-proxy: its ConfigMap, its flags | most | yes | |
//! | the nodes' podCIDRs | most, GKE and AKS too | yes | |
//! | what the API server says to a Service of an impossible address | any, EKS too | | yes |
//!
//! What was found for pods is held against the pods that are there: a CNI may give them other addresses than the nodes say.

use std::net::IpAddr;

use anyhow::{Context, Result, bail};
use daisy_api::{Cidr, labels};
use daisy_kubernetes::Api;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Service, ServicePort, ServiceSpec};
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::api::{ListParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::Value;

/// How many pods are looked at.
const PODS_SEEN: u32 = 500;

/// CIDRs, and where they were found.
#[derive(Debug, PartialEq, Eq)]
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
pub(crate) async fn pods(client: &Client, nodes: &[Node]) -> Result<Found> {
    let found = pods_by_settings(client, nodes).await?;
    let Some(found) = found else {
        bail!(
            "the cluster's pod CIDRs could not be found (no kubeadm-config, no k3s or RKE2 node, no kube-controller-manager pod, no kube-proxy settings, no podCIDR on any node): give them with --clustercidr"
        );
    };
    if let Some((pod, address)) = stranger(client, &found.cidrs).await? {
        bail!(
            "the pod CIDRs found are {} ({}), but pod {pod} has the address {address}: the CNI gives out others. Give the right ones with --clustercidr",
            found.list(),
            found.source
        );
    }
    Ok(found)
}

async fn pods_by_settings(client: &Client, nodes: &[Node]) -> Result<Option<Found>> {
    if let Some(found) = kubeadm(client, "podSubnet").await? {
        return Ok(Some(found));
    }
    if let Some(found) = rancher(nodes, "--cluster-cidr", "10.42.0.0/16")? {
        return Ok(Some(found));
    }
    for selector in
        ["component=kube-controller-manager", "k8s-app=kube-controller-manager", "k8s-app=kube-proxy", "component=kube-proxy"]
    {
        if let Some(found) = flag(client, selector, "--cluster-cidr").await? {
            return Ok(Some(found));
        }
    }
    if let Some(found) = kube_proxy(client).await? {
        return Ok(Some(found));
    }
    node_cidrs(nodes)
}

fn node_cidrs(nodes: &[Node]) -> Result<Option<Found>> {
    let mut cidrs = Vec::new();
    for node in nodes {
        let spec = node.spec.clone().unwrap_or_default();
        let texts = spec.pod_cidrs.filter(|list| !list.is_empty()).or_else(|| spec.pod_cidr.map(|one| vec![one]));
        for text in texts.unwrap_or_default() {
            let cidr: Cidr = text.parse().with_context(|| format!("node {}, spec.podCIDRs: {text:?}", node.name_any()))?;
            cidrs.push(cidr);
        }
    }
    cidrs.sort_unstable();
    cidrs.dedup();
    let source = "the nodes' podCIDRs; give --clustercidr if more nodes are to come".to_owned();
    Ok(if cidrs.is_empty() { None } else { Some(Found { cidrs, source }) })
}

/// A pod with an address outside these CIDRs, if there is one.
async fn stranger(client: &Client, cidrs: &[Cidr]) -> Result<Option<(String, IpAddr)>> {
    let pods: Api<Pod> = Api::all(client.clone());
    let pods = pods.list(&ListParams::default().limit(PODS_SEEN)).await.context("listing pods")?;
    Ok(pods.items.iter().find_map(|pod| outside(pod, cidrs)))
}

fn outside(pod: &Pod, cidrs: &[Cidr]) -> Option<(String, IpAddr)> {
    if pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true) {
        return None;
    }
    let status = pod.status.as_ref()?;
    // What has ended may have had its address from an earlier setting.
    if !matches!(status.phase.as_deref(), Some("Running" | "Pending")) {
        return None;
    }
    let address: IpAddr = status.pod_ip.as_ref()?.parse().ok()?;
    let name = format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any());
    (!cidrs.iter().any(|cidr| cidr.contains(address))).then_some((name, address))
}

/// The service CIDRs.
pub(crate) async fn services(client: &Client, nodes: &[Node]) -> Result<Found> {
    if let Some(found) = service_cidr_api(client).await? {
        return Ok(found);
    }
    if let Some(found) = kubeadm(client, "serviceSubnet").await? {
        return Ok(found);
    }
    if let Some(found) = rancher(nodes, "--service-cidr", "10.43.0.0/16")? {
        return Ok(found);
    }
    for selector in ["component=kube-apiserver", "k8s-app=kube-apiserver"] {
        if let Some(found) = flag(client, selector, "--service-cluster-ip-range").await? {
            return Ok(found);
        }
    }
    if let Some(found) = refused_service(client).await? {
        return Ok(found);
    }
    bail!(
        "the cluster's service CIDRs could not be found (no ServiceCIDR API, no kubeadm-config, no k3s or RKE2 node, no kube-apiserver pod, and the API server does not say): give them with --servicecidr"
    )
}

async fn service_cidr_api(client: &Client) -> Result<Option<Found>> {
    let api: Api<ServiceCIDR> = Api::all(client.clone());
    let list = match api.list(&ListParams::default()).await {
        Ok(list) => list.items,
        // An API server before 1.33 does not know the kind, which is no error.
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(None),
        Err(error) => return Err(error).context("listing ServiceCIDRs"),
    };
    let theirs = list.iter().filter(|one| one.labels().get(labels::MANAGED_BY).is_none_or(|by| by != labels::MANAGED_BY_DAISY));
    let names: Vec<String> = theirs.clone().map(ResourceExt::name_any).collect();
    let cidrs: Vec<String> = theirs.filter_map(|one| one.spec.as_ref()?.cidrs.clone()).flatten().collect();
    Found::parse(&cidrs.join(","), &format!("ServiceCIDR {}", names.join(", ")))
}

/// An API server that is asked for a Service of an address which it cannot have names the range that it gives out. (It is asked
/// to try only.)
async fn refused_service(client: &Client) -> Result<Option<Found>> {
    let mut service = Service::default();
    service.metadata.name = Some("daisy-asks-for-the-range".to_owned());
    let port = ServicePort { port: 443, ..ServicePort::default() };
    service.spec =
        Some(ServiceSpec { cluster_ip: Some("192.0.2.1".to_owned()), ports: Some(vec![port]), ..ServiceSpec::default() });
    let api: Api<Service> = Api::namespaced(client.clone(), "default");
    match api.create(&PostParams { dry_run: true, field_manager: None }, &service).await {
        Err(kube::Error::Api(status)) => range_of(&status.message),
        Ok(_) | Err(_) => Ok(None),
    }
}

fn range_of(message: &str) -> Result<Option<Found>> {
    let Some((_, after)) = message.split_once("range of valid IPs is ") else { return Ok(None) };
    let text = after.split(|c: char| !(c.is_ascii_hexdigit() || matches!(c, '.' | ':' | '/' | ','))).next().unwrap_or_default();
    Found::parse(text.trim_end_matches([',', '.']), "the API server's own word")
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
    let data = map.data.unwrap_or_default();
    let text = data.get("config.conf").or_else(|| data.get("config")).cloned().unwrap_or_default();
    let Ok(value) = daisy_api::yaml::from_str::<Value>(&text) else { return Ok(None) };
    Found::parse(value["clusterCIDR"].as_str().unwrap_or_default(), "kube-proxy's configuration, clusterCIDR")
}

/// A flag of a component that runs as a pod.
async fn flag(client: &Client, selector: &str, flag: &str) -> Result<Option<Found>> {
    let api: Api<Pod> = Api::namespaced(client.clone(), "kube-system");
    let pods = api.list(&ListParams::default().labels(selector).limit(1)).await.context("listing pods in kube-system")?;
    let containers = pods.items.into_iter().filter_map(|pod| pod.spec).flat_map(|spec| spec.containers);
    let words: Vec<String> =
        containers.flat_map(|c| c.command.unwrap_or_default().into_iter().chain(c.args.unwrap_or_default())).collect();
    let component = selector.rsplit('=').next().unwrap_or(selector);
    Found::parse(&value_of(&words, flag).unwrap_or_default(), &format!("{component}, {flag}"))
}

/// The value of a flag among a program's words: `--flag=VALUE`, `--flag VALUE`, or either inside a shell's line. A flag that is
/// given several times counts once each, as k3s has it.
fn value_of(words: &[String], flag: &str) -> Option<String> {
    let words: Vec<&str> = words.iter().flat_map(|word| word.split_whitespace()).collect();
    let values = words.iter().enumerate().filter_map(|(at, word)| {
        let rest = word.strip_prefix(flag)?;
        match rest.strip_prefix('=') {
            Some(value) => Some(value),
            None if rest.is_empty() => words.get(at + 1).copied().filter(|next| !next.starts_with('-')),
            None => None,
        }
    });
    let values: Vec<&str> = values.map(|value| value.trim_matches(['"', '\''])).collect();
    if values.is_empty() { None } else { Some(values.join(",")) }
}

/// k3s and RKE2 have no pods of their control plane to look at; each server node says how it was started.
fn rancher(nodes: &[Node], flag: &str, default: &str) -> Result<Option<Found>> {
    for (name, annotation) in [("k3s", "k3s.io/node-args"), ("RKE2", "rke2.io/node-args")] {
        let arguments = nodes.iter().filter_map(|node| node.annotations().get(annotation));
        let arguments: Vec<Vec<String>> = arguments.filter_map(|text| serde_json::from_str(text).ok()).collect();
        // Agents are told by servers, and have no such flag.
        let Some(servers) = arguments.iter().find(|words| words.first().is_some_and(|first| first == "server")) else {
            continue;
        };
        return match value_of(servers, flag) {
            Some(value) => Found::parse(&value, &format!("{annotation}, {flag}")),
            None => Found::parse(default, &format!("{name}'s default, since {annotation} has no {flag}")),
        };
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    fn node(annotations: &[(&str, &str)], cidrs: &[&str]) -> Node {
        let mut node = Node::default();
        node.metadata.annotations = Some(annotations.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect());
        let spec = node.spec.get_or_insert_default();
        spec.pod_cidrs = Some(cidrs.iter().map(|c| (*c).to_owned()).collect());
        node
    }

    #[test]
    fn flags_however_they_are_written() {
        for line in [
            "kube-proxy --cluster-cidr=10.1.0.0/16 --v=2",
            "kube-proxy --cluster-cidr 10.1.0.0/16",
            "--cluster-cidr=\"10.1.0.0/16\"",
        ] {
            assert_eq!(value_of(&words(line), "--cluster-cidr").as_deref(), Some("10.1.0.0/16"), "{line}");
        }
        let shell =
            vec!["/bin/sh".to_owned(), "-c".to_owned(), "exec kube-proxy --cluster-cidr=10.4.0.0/14 1>>/log".to_owned()];
        assert_eq!(value_of(&shell, "--cluster-cidr").as_deref(), Some("10.4.0.0/14"));
        for line in ["--cluster-cidrs=10.1.0.0/16", "--cluster-cidr --v", "--cluster-cidr"] {
            assert_eq!(value_of(&words(line), "--cluster-cidr"), None, "{line}");
        }
    }

    #[test]
    fn k3s_by_its_arguments_or_its_defaults() {
        let agent = node(&[("k3s.io/node-args", r#"["agent","--server","https://a:6443"]"#)], &[]);
        assert_eq!(rancher(std::slice::from_ref(&agent), "--cluster-cidr", "10.42.0.0/16").expect("parses"), None);
        let plain = node(&[("k3s.io/node-args", r#"["server","--disable","traefik"]"#)], &[]);
        let found = rancher(&[agent, plain], "--cluster-cidr", "10.42.0.0/16").expect("parses").expect("is k3s");
        assert_eq!(found.list(), "10.42.0.0/16");
        let both = node(&[("rke2.io/node-args", r#"["server","--cluster-cidr","10.60.0.0/16,fd00:60::/56"]"#)], &[]);
        let found = rancher(&[both], "--cluster-cidr", "10.42.0.0/16").expect("parses").expect("is RKE2");
        assert_eq!(found.list(), "10.60.0.0/16,fd00:60::/56");
    }

    #[test]
    fn the_nodes_word_where_there_is_no_other() {
        let nodes = [node(&[], &["10.8.1.0/24"]), node(&[], &["10.8.0.0/24"]), node(&[], &[])];
        assert_eq!(node_cidrs(&nodes).expect("parse").map(|f| f.list()).as_deref(), Some("10.8.0.0/24,10.8.1.0/24"));
        assert_eq!(node_cidrs(&[node(&[], &[])]).expect("parses"), None);
        assert!(node_cidrs(&[node(&[], &["10.8.0.0"])]).is_err());
    }

    #[test]
    fn the_range_that_an_api_server_names() {
        let message = "Service \"x\" is invalid: spec.clusterIPs: Invalid value: [\"192.0.2.1\"]: failed to allocate IP 192.0.2.1: the \
                       provided IP (192.0.2.1) is not in the valid range. The range of valid IPs is 10.100.0.0/16";
        assert_eq!(range_of(message).expect("parses").map(|f| f.list()).as_deref(), Some("10.100.0.0/16"));
        assert_eq!(range_of("no such thing").expect("parses"), None);
    }

    #[test]
    fn a_pod_elsewhere_is_seen() {
        let pod = |ip: &str, host: bool, phase: &str| -> Pod {
            serde_json::from_value(serde_json::json!({
                "metadata": {"name": "web", "namespace": "shop"}, "spec": {"hostNetwork": host, "containers": []},
                "status": {"podIP": ip, "phase": phase},
            }))
            .expect("a pod")
        };
        let cidrs = ["10.8.0.0/16".parse().expect("a CIDR")];
        assert_eq!(outside(&pod("10.8.3.4", false, "Running"), &cidrs), None);
        let found = outside(&pod("192.168.3.4", false, "Running"), &cidrs);
        assert_eq!(found.map(|(name, _)| name).as_deref(), Some("shop/web"));
        assert_eq!(outside(&pod("192.168.3.4", true, "Running"), &cidrs), None);
        assert_eq!(outside(&pod("192.168.3.4", false, "Succeeded"), &cidrs), None);
    }
}
