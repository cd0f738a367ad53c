//! Clusters that cannot be joined: each is told what it lacks, before anything is changed.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::time::Duration;

use common::{Cluster, Folder, assert_all, cluster, cluster_with, node, tomorrow};
use daisy_api_server::ResourceDefinition;
use k8s_openapi::api::core::v1::Node;
use serde_json::{Value, json};

const RANGES: [&str; 4] = ["--clustercidr", "10.244.0.0/16", "--servicecidr", "10.96.0.0/16"];

/// What `daisy join` says to a cluster, which stays as it was.
fn refused(folder: &Folder, cluster: &Cluster, more: &[&str]) -> String {
    folder.file("f.daisy", "https://203.0.113.5:6443", tomorrow());
    let before = cluster.handle.version();
    let words = ["join", "f.daisy", "--clusterid", "a", "--kubeconfig", "kubeconfig"];
    let said = folder.refused(1, &[&words[..], more].concat());
    assert_eq!(cluster.handle.version(), before, "something was changed: {said}");
    said
}

fn told(objects: Vec<Value>, more: &[&str], parts: &[&str]) {
    let folder = Folder::new();
    let cluster = cluster(&folder, objects);
    assert_all(&refused(&folder, &cluster, more), parts);
}

fn without(name: &str, field: &str) -> Value {
    let mut node = node(name, json!({}));
    node["status"][field] = json!([]);
    node
}

#[test]
fn nodes_that_cannot_carry_it() {
    told(vec![], &RANGES, &["the cluster has no nodes", "add one"]);
    told(vec![without("one", "addresses")], &RANGES, &["node one has no InternalIP in status.addresses", "--node-ip"]);
    told(vec![without("one", "conditions")], &RANGES, &["no node is fit to be the gateway: node one is not Ready"]);
    let named = [&RANGES[..], &["--gateway-node", "two"]].concat();
    told(vec![node("one", json!({}))], &named, &["--gateway-node two: the cluster has no such node; it has: one"]);
}

#[test]
fn ranges_that_cannot_be_found() {
    let one = || vec![node("one", json!({}))];
    told(one(), &["--skip-dns", "--servicecidr", "10.96.0.0/16"], &["pod CIDRs could not be found", "--clustercidr"]);
    told(one(), &["--skip-dns", "--clustercidr", "10.244.0.0/16"], &["service CIDRs could not be found", "--servicecidr"]);
    let elsewhere = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "default"},
        "spec": {"containers": [{"name": "c", "image": "i"}]}, "status": {"phase": "Running", "podIP": "172.30.0.9", "podIPs": [{"ip": "172.30.0.9"}]}});
    let mut ranged = node("one", json!({}));
    ranged["spec"] = json!({"podCIDR": "10.244.0.0/24", "podCIDRs": ["10.244.0.0/24"]});
    let wrong = ["pod default/p has the address 172.30.0.9", "10.244.0.0/24", "--clustercidr"];
    told(vec![ranged, elsewhere], &["--skip-dns", "--servicecidr", "10.96.0.0/16"], &wrong);
}

#[test]
fn a_dns_server_that_is_elsewhere() {
    let one = || vec![node("one", json!({}))];
    told(one(), &RANGES, &["there is no ConfigMap kube-system/coredns with a Corefile", "--coredns", "--skip-dns"]);
    let named = [&RANGES[..], &["--coredns", "dns/mine"]].concat();
    told(one(), &named, &["there is no ConfigMap dns/mine"]);
}

#[test]
fn an_api_that_is_not_served() {
    let folder = Folder::new();
    let cluster = cluster_with(&folder, vec![ResourceDefinition::of::<Node>()], vec![node("one", json!({}))]);
    let said = refused(&folder, &cluster, &RANGES);
    assert_all(&said, &["does not serve daemonsets of apps/v1, endpointslices of discovery.k8s.io/v1", "--runtime-config"]);
}

#[test]
fn kinds_of_an_older_standard() {
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    let old = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "serviceexports.multicluster.x-k8s.io", "annotations": {"api-approved.kubernetes.io": "yes"}},
        "spec": {"group": "multicluster.x-k8s.io", "scope": "Namespaced",
            "names": {"kind": "ServiceExport", "plural": "serviceexports", "singular": "serviceexport", "listKind": "ServiceExportList"},
            "versions": [{"name": "v1alpha1", "served": true, "storage": true, "schema": schema}]}});
    let said = [
        "CustomResourceDefinition serviceexports.multicluster.x-k8s.io is installed already, not by Daisy",
        "serves v1alpha1 only",
        "Daisy needs v1beta1",
    ];
    told(vec![node("one", json!({})), old], &RANGES, &said);
}

#[test]
fn a_user_who_may_not() {
    let folder = Folder::new();
    let meta = |name: &str| json!({"name": name, "namespace": "default"});
    let rules = json!([
        {"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list", "create"]},
        {"apiGroups": ["", "apps", "apiextensions.k8s.io"], "resources": ["*"], "verbs": ["patch"]},
    ]);
    let subjects = json!([{"kind": "ServiceAccount", "name": "half", "namespace": "default"}]);
    let role_ref = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "half"});
    let rbac = "rbac.authorization.k8s.io/v1";
    let objects = vec![
        node("one", json!({})),
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta("half")}),
        json!({"apiVersion": rbac, "kind": "ClusterRole", "metadata": {"name": "half"}, "rules": rules}),
        json!({"apiVersion": rbac, "kind": "ClusterRoleBinding", "metadata": {"name": "half"}, "roleRef": role_ref, "subjects": subjects}),
    ];
    let cluster = cluster(&folder, objects);
    let token = cluster.handle.issue_token("default", "half", Duration::from_secs(600)).unwrap().token;
    let mut kubeconfig: Value = serde_yaml::from_str(&std::fs::read_to_string(folder.path("kubeconfig")).unwrap()).unwrap();
    kubeconfig["users"][0]["user"] = json!({"token": token});
    folder.write("kubeconfig", &serde_yaml::to_string(&kubeconfig).unwrap());
    let said = refused(&folder, &cluster, &RANGES);
    assert_all(&said, &["this user may not join this cluster", "nothing was changed", "administrator"]);
    // Which verb on which resource; and what Daisy's Roles would hand on and he has not.
    assert_all(
        &said,
        &[
            "patch clusterroles.rbac.authorization.k8s.io",
            "roles.rbac.authorization.k8s.io in daisy-system",
            "update, watch secrets in daisy-system",
        ],
    );
    assert!(!said.contains("create") && !said.contains(" nodes"), "what he may is no part of it: {said}");
}
