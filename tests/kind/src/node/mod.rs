//! The node image, made on the spot: where no registry can be reached, and for a Kubernetes that is built here anyway.
//!
//! ```text
//! mmdebstrap ──▶ base.tar ─┐
//! node/ (units, scripts) ──┼─▶ a root file system ──▶ IMAGE.tar, in the components' cache ──▶ docker import
//! components ──▶ images ───┘   (its images written into its containerd's store by a containerd of this machine)
//! ```

mod images;
mod root;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use daisy_kubernetes_tests::components;
use nix::fcntl::{Flock, FlockArg};
use ring::digest::{Context as Digest, SHA256};

/// What the image is called.
pub(crate) const IMAGE: &str = "daisy.test/node:1";

/// Where the programs of this machine's build are.
pub(crate) struct Built {
    /// Kubernetes' own, containerd, CoreDNS.
    kubernetes: PathBuf,
    /// kind, kubeadm, etcd, ptp.
    pub(crate) kind: PathBuf,
}

impl Built {
    /// Builds what is not built yet.
    pub(crate) fn make() -> Result<Self> {
        Ok(Self { kubernetes: components::build()?, kind: components::build_kind()? })
    }

    /// The file of a program.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        let of_kind = self.kind.join(name);
        if of_kind.exists() { of_kind } else { self.kubernetes.join(name) }
    }
}

/// The files of the repository that go onto every node.
fn files() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("node")
}

/// The archive of the node's root file system, made if there is none of these components and files yet.
pub(crate) fn archive(built: &Built) -> Result<PathBuf> {
    let archive = built.kind.join(format!("node-{}.tar", key(built)?));
    // Whoever comes second waits, and finds it made.
    let lock = File::create(built.kind.join("node.lock")).context("creating the node image's lock")?;
    let _held = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, errno)| errno).context("locking the node image")?;
    if !archive.exists() {
        let started = Instant::now();
        eprintln!("making the node image: about a minute, once");
        root::make(built, &files(), &archive)?;
        eprintln!("made in {:.0} s: {}", started.elapsed().as_secs_f64(), archive.display());
    }
    Ok(archive)
}

/// What decides what is in it.
fn key(built: &Built) -> Result<String> {
    let mut hash = Digest::new(&SHA256);
    for folder in [&built.kubernetes, &built.kind] {
        hash.update(folder.file_name().context("the components' folder")?.as_encoded_bytes());
    }
    hash.update(root::PACKAGES.join(",").as_bytes());
    hash.update(root::MASKED.join(",").as_bytes());
    hash.update(images::REVISION.as_bytes());
    let mut all = Vec::new();
    list(&files(), &mut all)?;
    all.sort();
    for file in all {
        hash.update(file.as_os_str().as_encoded_bytes());
        hash.update(&fs::read(&file).with_context(|| format!("reading {}", file.display()))?);
    }
    Ok(hex::encode(&hash.finish().as_ref()[..6]))
}

fn list(folder: &Path, into: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            list(&path, into)?;
        } else {
            into.push(path);
        }
    }
    Ok(())
}
