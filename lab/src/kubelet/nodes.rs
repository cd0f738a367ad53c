//! The cluster's nodes: their network namespaces here, their Node objects there.

use std::net::IpAddr;
use std::sync::Mutex;

use anyhow::Context as _;
use daisy_kubernetes::Api;
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::Node as NodeObject;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;

use super::Context;
use super::ipam::Ipam;
use crate::network::Links;
use crate::plan::ClusterPlan;
use crate::sys::Netns;

/// A node of the cluster.
pub(super) struct Node {
    /// Its number in the plan.
    number: usize,
    pub(super) address: IpAddr,
    pub(super) netns: Netns,
    pub(super) links: Links,
    ipam: Mutex<Option<Ipam>>,
}

impl Node {
    /// A free address for a pod.
    pub(super) fn allocate(&self) -> Option<IpAddr> {
        self.ipam.lock().ok()?.as_mut()?.allocate()
    }

    /// Gives a pod's address back.
    pub(super) fn release(&self, address: IpAddr) {
        if let Ok(mut ipam) = self.ipam.lock()
            && let Some(ipam) = ipam.as_mut()
        {
            ipam.release(address);
        }
    }
}

/// Opens every node's network namespace.
pub(super) fn open(plan: &ClusterPlan) -> anyhow::Result<std::collections::BTreeMap<String, Node>> {
    (0..plan.nodes)
        .map(|number| {
            let name = plan.node_name(number);
            let netns = Netns::open_named(&name).with_context(|| format!("the network namespace of {name}"))?;
            let links = Links::open(&name, &netns)?;
            let ipam = Mutex::new(plan.node_pod_cidrs(number).first().copied().map(Ipam::new));
            Ok((name, Node { number, address: plan.node_address(number), netns, links, ipam }))
        })
        .collect()
}

/// Makes the Node objects, or finds them, and says that they are ready.
pub(super) async fn register(context: &Context) -> anyhow::Result<()> {
    try_join_all(context.nodes.iter().map(|(name, node)| register_one(context, name, node))).await?;
    Ok(())
}

async fn register_one(context: &Context, name: &str, node: &Node) -> anyhow::Result<()> {
    let api: Api<NodeObject> = Api::all(context.client.clone());
    let cidrs = context.options.plan.node_pod_cidrs(node.number);
    let object = json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {
                "kubernetes.io/hostname": name,
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": std::env::consts::ARCH,
            },
        },
        "spec": { "podCIDR": cidrs.first(), "podCIDRs": cidrs },
    });
    match api.create(&PostParams::default(), &serde_json::from_value(object)?).await {
        Ok(_) => {}
        // Of a kubelet before this one.
        Err(kube::Error::Api(e)) if e.code == 409 => {}
        Err(e) => return Err(e).with_context(|| format!("registering {name}")),
    }
    let now = Timestamp::now().to_string();
    let version = concat!("v1.33.0-daisy-lab.", env!("CARGO_PKG_VERSION"));
    let status = json!({ "status": {
        "addresses": [
            { "type": "InternalIP", "address": node.address },
            { "type": "Hostname", "address": name },
        ],
        "conditions": [{
            "type": "Ready",
            "status": "True",
            "reason": "KubeletReady",
            "message": "the lab's kubelet runs its pods",
            "lastHeartbeatTime": now,
            "lastTransitionTime": now,
        }],
        "nodeInfo": {
            "architecture": std::env::consts::ARCH,
            "operatingSystem": "linux",
            "kubeletVersion": version,
            "kubeProxyVersion": version,
            "containerRuntimeVersion": "daisy-lab://processes",
            "kernelVersion": std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
            "osImage": "the lab",
            "machineID": "",
            "systemUUID": "",
            "bootID": "",
        },
        "capacity": { "pods": "110" },
        "allocatable": { "pods": "110" },
    } });
    api.patch_status(name, &PatchParams::default(), &Patch::Merge(status))
        .await
        .with_context(|| format!("the status of {name}"))?;
    Ok(())
}
