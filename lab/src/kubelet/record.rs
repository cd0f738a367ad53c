//! What the kubelet tells the agent about a pod: how to enter it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// A pod that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PodRecord {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) node: String,
    /// Whether it shares its node's network namespace.
    pub(crate) host_network: bool,
    /// Its network namespace.
    pub(crate) net: PathBuf,
    /// Its mount namespace.
    pub(crate) mount: PathBuf,
    /// Its UTS namespace.
    pub(crate) uts: PathBuf,
    /// The environment of its first container.
    pub(crate) environment: Vec<(String, String)>,
    /// Its containers that run, each with its process's number.
    pub(crate) containers: Vec<(String, i32)>,
}

/// The folder with what the pods of a cluster need, given the cluster's own.
pub(crate) fn pods_folder(data: &Path) -> PathBuf {
    data.join("pods")
}

impl PodRecord {
    fn path(folder: &Path, uid: &str) -> PathBuf {
        folder.join(format!("{uid}.json"))
    }

    /// Writes it, whole or not at all.
    pub(crate) fn write(&self, folder: &Path) -> io::Result<()> {
        let json = serde_json::to_vec(self).map_err(io::Error::other)?;
        crate::kubeconfig::replace(&Self::path(folder, &self.uid), &json)
    }

    /// Removes the one of this UID, if it is there.
    pub(crate) fn remove(folder: &Path, uid: &str) {
        // Nothing is there for a pod that never came to run.
        let _ = fs::remove_file(Self::path(folder, uid));
    }

    /// All of a cluster.
    pub(crate) fn read_all(folder: &Path) -> Vec<Self> {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path());
        let records = entries.filter(|p| p.extension().is_some_and(|e| e == "json"));
        // One that cannot be read has just gone.
        records.filter_map(|p| serde_json::from_slice(&fs::read(p).ok()?).ok()).collect()
    }
}
