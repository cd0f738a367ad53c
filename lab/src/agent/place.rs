//! Where a command can be run, by name.

use std::ffi::CString;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use super::{Shared, admin_kubeconfig, cluster_data};
use crate::holder::STATE_INSIDE;
use crate::kubelet::{PodRecord, pods_folder};
use crate::plan::{BROKER, INTERNET};
use crate::sys::{Entrance, Netns};

/// A place, ready to be entered.
#[derive(Debug, Clone)]
pub(super) struct Site {
    /// What is entered.
    pub(super) entrance: Entrance,
    /// The whole environment, where it is not the lab's own.
    pub(super) environment: Option<Vec<(String, String)>>,
    /// What is added to the environment.
    pub(super) additional: Vec<(String, String)>,
}

/// Finds the place of this name; [`crate::protocol::Command::place`] says how it is written.
pub(super) fn resolve(shared: &Shared, place: &str) -> Result<Site, String> {
    let parts: Vec<&str> = place.split('/').collect();
    let plan = &shared.description.plan;
    if let [host @ (INTERNET | BROKER)] = parts.as_slice() {
        return host_site(shared, host, None);
    }
    let cluster = parts.first().copied().unwrap_or_default();
    let Some(cluster) = plan.cluster(cluster) else {
        let names: Vec<_> = plan.clusters.iter().map(|c| c.name.as_str()).collect();
        return Err(format!("no place {place:?}: {cluster:?} is none of {INTERNET}, {BROKER}, {}", names.join(", ")));
    };
    let admin = Some(cluster.name.as_str());
    match parts.as_slice() {
        [_] => host_site(shared, &cluster.control_plane_namespace(), admin),
        [_, "router"] => host_site(shared, &cluster.router_namespace(), None),
        [_, "control-plane"] => host_site(shared, &cluster.control_plane_namespace(), admin),
        [_, name] if (0..cluster.nodes).any(|n| cluster.node_name(n) == *name) => host_site(shared, name, admin),
        [_, pod] => pod_site(cluster.name.as_str(), None, pod),
        [_, namespace, pod] => pod_site(cluster.name.as_str(), Some(namespace), pod),
        _ => Err(format!("no place {place:?}: write CLUSTER, CLUSTER/NODE, CLUSTER/POD or CLUSTER/NAMESPACE/POD")),
    }
}

fn host_site(shared: &Shared, namespace: &str, cluster: Option<&str>) -> Result<Site, String> {
    let netns = shared.networks()?.get(namespace).map_err(|e| e.to_string())?.clone();
    let directory = CString::new(Path::new(STATE_INSIDE).join("work").as_os_str().as_bytes()).map_err(|e| e.to_string())?;
    let kubeconfig = cluster.map(|c| ("KUBECONFIG".to_owned(), admin_kubeconfig(c).display().to_string()));
    Ok(Site {
        entrance: Entrance { net: Some(netns), directory, ..Entrance::default() },
        environment: None,
        additional: kubeconfig.into_iter().collect(),
    })
}

fn pod_site(cluster: &str, namespace: Option<&str>, pod: &str) -> Result<Site, String> {
    let records = PodRecord::read_all(&pods_folder(&cluster_data(cluster)));
    let wanted: Vec<_> = records.into_iter().filter(|r| r.name == pod && namespace.is_none_or(|n| n == r.namespace)).collect();
    let record = match wanted.as_slice() {
        [] => {
            return Err(format!("cluster {cluster} runs no pod {pod:?}; `kubectl --context {cluster} get pods -A` lists them"));
        }
        [record] => record,
        [..] => {
            let namespaces: Vec<_> = wanted.iter().map(|r| r.namespace.as_str()).collect();
            return Err(format!("pod {pod:?} is in namespaces {}: write CLUSTER/NAMESPACE/POD", namespaces.join(", ")));
        }
    };
    let open = |path: &Path| File::open(path).map_err(|e| format!("pod {pod:?} has just ended ({}: {e})", path.display()));
    Ok(Site {
        entrance: Entrance {
            net: Some(Netns::open(&record.net).map_err(|e| format!("pod {pod:?} has just ended ({e})"))?),
            mount: Some(Arc::new(open(&record.mount)?.into())),
            uts: Some(Arc::new(open(&record.uts)?.into())),
            directory: CString::from(c"/"),
            dies_with_parent: false,
        },
        environment: Some(record.environment.clone()),
        additional: Vec::new(),
    })
}
