//! What a cluster has from the start beside its control plane, as kubeadm leaves it: nodes, CoreDNS, what says how it was made.

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::plan::Cluster;
use super::{Bed, config};
use crate::{components, images};

/// How many CoreDNS pods a cluster has.
const DNS_REPLICAS: u64 = 2;

/// Nodes with their podCIDR, and the ConfigMaps that say how the cluster was made.
pub(super) fn before_nodes(bed: &Bed, cluster: &Cluster) -> Result<()> {
    let mut objects: Vec<Value> = cluster.node_numbers().map(|number| node(cluster, number)).collect();
    objects.extend(kubeadm(cluster)?);
    bed.apply(&cluster.name, &list(objects)).map(drop)
}

/// CoreDNS.
pub(super) fn dns(bed: &Bed, cluster: &Cluster) -> Result<()> {
    bed.apply(&cluster.name, &list(coredns(cluster)?)).map(drop)
}

/// Whether all nodes are ready, and the cluster's DNS serves.
pub(super) fn ready(bed: &Bed, cluster: &Cluster) -> Result<()> {
    let nodes: Value = serde_json::from_str(&bed.kubectl(&cluster.name, &["get", "nodes", "-o", "json"])?)?;
    let is_ready = |node: &Value| {
        let conditions = node["status"]["conditions"].as_array().into_iter().flatten();
        conditions.into_iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
    };
    let all = nodes["items"].as_array().cloned().unwrap_or_default();
    let waiting: Vec<_> = all.iter().filter(|n| !is_ready(n)).map(|n| n["metadata"]["name"].to_string()).collect();
    if all.len() != usize::from(cluster.nodes) || !waiting.is_empty() {
        bail!("{} of {} nodes are there; not ready: {}", all.len(), cluster.nodes, waiting.join(", "));
    }
    let dns = bed.kubectl(&cluster.name, &["-n", "kube-system", "get", "deployment", "coredns", "-o", "json"])?;
    let dns: Value = serde_json::from_str(&dns)?;
    if dns["status"]["readyReplicas"].as_u64() != Some(DNS_REPLICAS) {
        let pods = bed.kubectl(&cluster.name, &["-n", "kube-system", "get", "pods", "-o", "wide"])?;
        bail!("CoreDNS is not ready:\n{pods}");
    }
    Ok(())
}

fn list(items: Vec<Value>) -> String {
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

/// Made before its kubelet registers it, so that its podCIDR is the one that the routes are for.
fn node(cluster: &Cluster, number: u8) -> Value {
    let (name, cidrs) = (cluster.node(number), cluster.node_pod_cidrs(number));
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}},
        "spec": {"podCIDR": cidrs[0], "podCIDRs": cidrs},
    })
}

/// The ConfigMaps by which programs find out about a cluster that kubeadm has made.
fn kubeadm(cluster: &Cluster) -> Result<Vec<Value>> {
    let made = format!(
        "apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
clusterName: {}
controlPlaneEndpoint: {}:6443
kubernetesVersion: {}
networking:
  dnsDomain: cluster.local
  podSubnet: {}
  serviceSubnet: {}
",
        cluster.name,
        cluster.control_plane_address(),
        components::kubernetes_version()?,
        cluster.pod_cidrs().join(","),
        cluster.service_cidrs().join(",")
    );
    let map = |name: &str, key: &str, text: String| {
        let metadata = json!({"name": name, "namespace": "kube-system"});
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {key: text}})
    };
    Ok(vec![
        map("kubeadm-config", "ClusterConfiguration", made),
        map("kube-proxy", "config.conf", config::kube_proxy("/var/lib/kube-proxy/kubeconfig.conf", cluster)),
    ])
}

/// What CoreDNS is told, to the letter as kubeadm has it.
pub(crate) const COREFILE: &str = ".:53 {
    errors
    health {
       lameduck 5s
    }
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
       pods insecure
       fallthrough in-addr.arpa ip6.arpa
       ttl 30
    }
    prometheus :9153
    forward . /etc/resolv.conf {
       max_concurrent 1000
    }
    cache 30 {
       disable success cluster.local
       disable denial cluster.local
    }
    loop
    reload
    loadbalance
}
";

fn coredns(cluster: &Cluster) -> Result<Vec<Value>> {
    let metadata = |name: &str| json!({"name": name, "namespace": "kube-system", "labels": {"k8s-app": "kube-dns"}});
    let read = json!(["list", "watch"]);
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "system:coredns"},
        "rules": [
            {"apiGroups": [""], "resources": ["endpoints", "services", "pods", "namespaces"], "verbs": read},
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": read},
        ],
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "system:coredns"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:coredns"},
        "subjects": [{"kind": "ServiceAccount", "name": "coredns", "namespace": "kube-system"}],
    });
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "coredns", "namespace": "kube-system"},
        "data": {"Corefile": COREFILE},
    });
    let mut service_metadata = metadata("kube-dns");
    service_metadata["labels"]["kubernetes.io/cluster-service"] = "true".into();
    service_metadata["labels"]["kubernetes.io/name"] = "CoreDNS".into();
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": service_metadata,
        "spec": {
            "clusterIP": cluster.dns_service(), "selector": {"k8s-app": "kube-dns"},
            "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53},
                {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53},
                {"name": "metrics", "port": 9153, "protocol": "TCP", "targetPort": 9153},
            ],
        },
    });
    let account =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "coredns", "namespace": "kube-system"}});
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata("coredns"),
        "spec": {
            "replicas": DNS_REPLICAS,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}},
            "selector": {"matchLabels": {"k8s-app": "kube-dns"}},
            "template": {"metadata": {"labels": {"k8s-app": "kube-dns"}}, "spec": dns_pod()?},
        },
    });
    Ok(vec![account, role, binding, map, service, deployment])
}

fn dns_pod() -> Result<Value> {
    let probe = |path: &str, port: u16| json!({"httpGet": {"path": path, "port": port, "scheme": "HTTP"}});
    let mut ready = probe("/ready", 8181);
    // The sooner it is seen, the sooner the bed is up.
    ready["periodSeconds"] = 1.into();
    Ok(json!({
        "serviceAccountName": "coredns",
        "priorityClassName": "system-cluster-critical",
        "dnsPolicy": "Default",
        "tolerations": [{"key": "CriticalAddonsOnly", "operator": "Exists"}],
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{
            "weight": 100,
            "podAffinityTerm": {
                "labelSelector": {"matchExpressions": [{"key": "k8s-app", "operator": "In", "values": ["kube-dns"]}]},
                "topologyKey": "kubernetes.io/hostname",
            },
        }]}},
        "containers": [{
            "name": "coredns",
            "image": images::coredns_name()?,
            "imagePullPolicy": "IfNotPresent",
            "args": ["-conf", "/etc/coredns/Corefile"],
            "resources": {"limits": {"memory": "170Mi"}, "requests": {"cpu": "100m", "memory": "70Mi"}},
            "ports": [
                {"containerPort": 53, "name": "dns", "protocol": "UDP"},
                {"containerPort": 53, "name": "dns-tcp", "protocol": "TCP"},
                {"containerPort": 9153, "name": "metrics", "protocol": "TCP"},
            ],
            "volumeMounts": [{"name": "config-volume", "mountPath": "/etc/coredns", "readOnly": true}],
            "readinessProbe": ready,
            "livenessProbe": probe("/health", 8080),
            "securityContext": {
                "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                "capabilities": {"add": ["NET_BIND_SERVICE"], "drop": ["ALL"]},
            },
        }],
        "volumes": [{"name": "config-volume", "configMap": {
            "name": "coredns", "items": [{"key": "Corefile", "path": "Corefile"}],
        }}],
    }))
}
