//! Images on the nodes.

use std::fs::File;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result};

use super::config::CONTAINERD;
use super::place::{shown, succeeded};
use super::{Bed, plan::Cluster};

impl Bed {
    /// ctr on a node; what it prints, if it succeeds.
    pub(super) fn ctr(&self, node: &str, words: &[&str]) -> Result<String> {
        let mut line = vec!["ctr", "--address", CONTAINERD, "--namespace", "k8s.io"];
        line.extend(words);
        self.run(node, &line)
    }

    /// Puts an image archive on one node.
    pub(super) fn import(&self, node: &str, archive: &Path) -> Result<()> {
        let file = File::open(archive).with_context(|| format!("opening {}", archive.display()))?;
        // By its standard input: the node does not see all folders of this machine.
        let words = ["ctr", "--address", CONTAINERD, "--namespace", "k8s.io", "images", "import", "-"];
        let output = self.command(node, &words)?.stdin(Stdio::from(file)).output().context("starting ctr")?;
        succeeded(&format!("{} on {node}, of {}", shown(&words), archive.display()), &output).map(drop)
    }

    /// Puts an image archive on every node of a cluster, or of all.
    ///
    /// # Errors
    /// When it is no image archive, or a node does not run.
    pub fn load_image(&self, archive: &Path, cluster: Option<&str>) -> Result<()> {
        let of = |c: &&Cluster| cluster.is_none_or(|name| c.name == name);
        let nodes: Vec<_> = self.plan.clusters.iter().filter(of).flat_map(|c| c.node_numbers().map(|n| c.node(n))).collect();
        std::thread::scope(|scope| {
            let imports: Vec<_> = nodes.iter().map(|node| scope.spawn(|| self.import(node, archive))).collect();
            imports
                .into_iter()
                .try_for_each(|import| import.join().unwrap_or_else(|_| Err(anyhow::anyhow!("an import panicked"))))
        })
    }
}
