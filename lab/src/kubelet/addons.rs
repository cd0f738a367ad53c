//! What every cluster has beside its nodes: its DNS, and what kubeadm leaves for others to read.

use anyhow::Context as _;
use futures::future::try_join_all;
use kube::Api;
use kube::api::{DynamicObject, PostParams};
use kube::core::{ApiResource, GroupVersionKind, TypeMeta};
use serde_json::{Value, json};

use super::Context;

/// The namespace of the cluster's own.
const NAMESPACE: &str = "kube-system";
/// The label of the cluster's DNS, as Services and people select it.
pub(super) const DNS_LABEL: (&str, &str) = ("k8s-app", "kube-dns");
/// The cluster's own zone.
pub(super) const CLUSTER_DOMAIN: &str = "cluster.local";

/// The Corefile that kind's clusters have, which `daisy join` adds to.
const COREFILE: &str = "\
.:53 {
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

/// Makes whatever of it is not there yet.
pub(super) async fn install(context: &Context) -> anyhow::Result<()> {
    try_join_all(objects(context).into_iter().map(|object| create(context, object))).await?;
    Ok(())
}

async fn create(context: &Context, object: Value) -> anyhow::Result<()> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let types = TypeMeta { api_version: text("/apiVersion"), kind: text("/kind") };
    let what = format!("{} {}", types.kind, text("/metadata/name"));
    let resource = ApiResource::from_gvk(&GroupVersionKind::try_from(types)?);
    let api: Api<DynamicObject> = match text("/metadata/namespace").as_str() {
        "" => Api::all_with(context.client.clone(), &resource),
        namespace => Api::namespaced_with(context.client.clone(), namespace, &resource),
    };
    match api.create(&PostParams::default(), &serde_json::from_value(object)?).await {
        Ok(_) => Ok(()),
        // Of a kubelet before this one, and perhaps changed since by `daisy join`.
        Err(kube::Error::Api(e)) if e.code == 409 => Ok(()),
        Err(e) => Err(e).context(what),
    }
}

fn objects(context: &Context) -> Vec<Value> {
    let plan = &context.options.plan;
    let list = |cidrs: &[daisy_api::Cidr]| cidrs.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let labels = json!({ DNS_LABEL.0: DNS_LABEL.1 });
    let metadata = |name: &str| json!({ "name": name, "namespace": NAMESPACE, "labels": labels });
    let rules = json!([
        { "apiGroups": [""], "resources": ["services", "pods", "namespaces", "endpoints"], "verbs": ["list", "watch"] },
        { "apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"] },
        // A real CoreDNS has its Corefile mounted.
        { "apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "watch"] },
    ]);
    let kubeadm = format!(
        "apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\nclusterName: {}\nnetworking:\n  dnsDomain: {}\n  \
         podSubnet: {}\n  serviceSubnet: {}\n",
        plan.name,
        CLUSTER_DOMAIN,
        list(&plan.pod_cidrs),
        list(&plan.service_cidrs),
    );
    let port = |name: &str, protocol: &str| json!({ "name": name, "port": 53, "protocol": protocol, "targetPort": 53 });
    let probe = json!({ "tcpSocket": { "port": 53 }, "periodSeconds": 5 });
    vec![
        json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata("coredns") }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": { "name": "system:coredns" },
            "rules": rules,
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": { "name": "system:coredns" },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:coredns" },
            "subjects": [{ "kind": "ServiceAccount", "name": "coredns", "namespace": NAMESPACE }],
        }),
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata("coredns"), "data": { "Corefile": COREFILE } }),
        json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": { "name": "kubeadm-config", "namespace": NAMESPACE },
            "data": { "ClusterConfiguration": kubeadm },
        }),
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata("kube-dns"),
            "spec": {
                "clusterIP": plan.dns_address(),
                "selector": labels,
                "ports": [port("dns", "UDP"), port("dns-tcp", "TCP")],
            },
        }),
        json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": metadata("coredns"),
            "spec": {
                "replicas": 1,
                "selector": { "matchLabels": labels },
                "template": {
                    "metadata": { "labels": labels },
                    "spec": {
                        "serviceAccountName": "coredns",
                        "dnsPolicy": "Default",
                        "containers": [{
                            "name": "coredns",
                            "image": "daisy",
                            "args": ["lab-internal", "cluster-dns"],
                            "ports": [
                                { "name": "dns", "containerPort": 53, "protocol": "UDP" },
                                { "name": "dns-tcp", "containerPort": 53, "protocol": "TCP" },
                            ],
                            "readinessProbe": probe,
                        }],
                    },
                },
            },
        }),
    ]
}
