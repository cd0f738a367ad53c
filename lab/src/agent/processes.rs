//! The lab's processes, as `/proc` has them.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{Shared, cluster_data};
use crate::kubelet::{PodRecord, pods_folder};
use crate::protocol::Process;

/// Every process of the lab but the kernel's.
pub(super) fn list(shared: &Shared) -> Result<Vec<Process>, String> {
    let mut places = BTreeMap::new();
    let mut names = shared.services.names();
    for (name, netns) in shared.networks()?.all() {
        if let Ok(stat) = nix::sys::stat::fstat(netns.as_fd()) {
            places.insert(stat.st_ino, name.to_owned());
        }
    }
    for cluster in &shared.description.plan.clusters {
        for pod in PodRecord::read_all(&pods_folder(&cluster_data(cluster.name.as_str()))) {
            let place = format!("{}/{}/{}", cluster.name, pod.namespace, pod.name);
            for (container, pid) in &pod.containers {
                names.insert(*pid, format!("{place}/{container}"));
            }
            if !pod.host_network
                && let Ok(meta) = fs::metadata(&pod.net)
            {
                places.insert(meta.ino(), place);
            }
        }
    }
    let entries = fs::read_dir("/proc").map_err(|e| e.to_string())?;
    let pids = entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let mut found: Vec<_> = pids.filter_map(|pid| process(pid, &places, &names)).collect();
    found.sort_by_key(|p| p.pid);
    Ok(found)
}

/// `None` for one that has ended meanwhile.
fn process(pid: i32, places: &BTreeMap<u64, String>, names: &BTreeMap<i32, String>) -> Option<Process> {
    let folder = Path::new("/proc").join(pid.to_string());
    let arguments = fs::read(folder.join("cmdline")).ok()?;
    let arguments: Vec<_> =
        arguments.split(|b| *b == 0).filter(|a| !a.is_empty()).map(|a| String::from_utf8_lossy(a).into_owned()).collect();
    if arguments.is_empty() {
        return None;
    }
    let namespace = fs::metadata(folder.join("ns/net")).ok()?.ino();
    let rollup = fs::read_to_string(folder.join("smaps_rollup")).ok()?;
    let field = |name: &str| {
        let line = rollup.lines().find_map(|l| l.strip_prefix(name));
        line.and_then(|l| l.split_whitespace().next()).and_then(|n| n.parse().ok()).unwrap_or(0)
    };
    Some(Process {
        pid,
        place: places.get(&namespace).cloned().unwrap_or_default(),
        name: names.get(&pid).cloned().unwrap_or_default(),
        arguments,
        resident_kib: field("Rss:"),
        proportional_kib: field("Pss:"),
    })
}
