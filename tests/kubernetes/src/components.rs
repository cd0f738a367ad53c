//! Kubernetes and what it runs on, built from Go modules that `components/*/go.mod` and `go.sum` pin, once for each such pinning.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use ring::digest::{Context as Digest, SHA256};

use crate::programs;

/// A Go module of ours whose `tool` lines name what is built from it.
struct Module {
    folder: &'static str,
    tags: &'static str,
    linker_flags: fn(&str) -> String,
    binaries: &'static [&'static str],
}

/// A program that Go calls after its folder, and what it is called by everyone else.
const RENAMED: &[(&str, &str)] = &[("server", "etcd")];

/// What a bed in network namespaces runs on. Each a module of its own, since their dependencies disagree.
const KUBERNETES: &[Module] = &[
    Module {
        folder: "kubernetes",
        tags: "",
        linker_flags: kubernetes_flags,
        binaries: &["kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubectl", "kubelet"],
    },
    Module {
        folder: "containerd",
        tags: "no_btrfs",
        linker_flags: plain_flags,
        binaries: &["containerd", "containerd-shim-runc-v2", "ctr"],
    },
    Module { folder: "cni", tags: "", linker_flags: plain_flags, binaries: &["bridge", "host-local", "loopback"] },
    Module { folder: "coredns", tags: "", linker_flags: plain_flags, binaries: &["coredns"] },
];

/// What clusters of kind want besides.
const KIND: &[Module] = &[
    Module { folder: "kubeadm", tags: "", linker_flags: kubernetes_flags, binaries: &["kubeadm"] },
    Module { folder: "etcd", tags: "", linker_flags: plain_flags, binaries: &["etcd"] },
    Module { folder: "kind", tags: "", linker_flags: plain_flags, binaries: &["kind"] },
    Module { folder: "ptp", tags: "", linker_flags: plain_flags, binaries: &["ptp"] },
];

fn plain_flags(_: &str) -> String {
    "-s -w".to_owned()
}

/// Kubernetes asks the linker for its version; without it, kubelet and API server disagree with each other.
fn kubernetes_flags(go_mod: &str) -> String {
    let version = version_of(go_mod, "k8s.io/kubernetes").unwrap_or("v0.0.0");
    let mut numbers = version.trim_start_matches('v').split('.');
    let (major, minor) = (numbers.next().unwrap_or("0"), numbers.next().unwrap_or("0"));
    let at = "-X k8s.io/component-base/version";
    format!("-s -w {at}.gitVersion={version} {at}.gitMajor={major} {at}.gitMinor={minor} {at}.gitTreeState=clean")
}

/// The version that a go.mod requires of a module.
fn version_of<'a>(go_mod: &'a str, module: &str) -> Option<&'a str> {
    go_mod.lines().filter(|line| !line.contains("=>")).find_map(|line| {
        let mut words = line.trim().trim_start_matches("require ").split_whitespace();
        (words.next() == Some(module)).then(|| words.next()).flatten()
    })
}

/// The folder of the repository that pins them.
fn pins() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("components")
}

/// Which version of a module is pinned, as `v1.2.3`.
///
/// # Errors
/// When the go.mod file of that folder cannot be read or does not name it.
pub fn version(folder: &str, module: &str) -> Result<String> {
    let path = pins().join(folder).join("go.mod");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    version_of(&text, module).map(str::to_owned).with_context(|| format!("{}: no {module}", path.display()))
}

/// Which version of Kubernetes they make, as `v1.2.3`.
///
/// # Errors
/// When the go.mod file cannot be read or does not name it.
pub fn kubernetes_version() -> Result<String> {
    version("kubernetes", "k8s.io/kubernetes")
}

/// Where built components are kept: `$DAISY_KUBERNETES_CACHE`, else below the user's cache.
///
/// # Errors
/// When the environment names no such place.
pub fn cache() -> Result<PathBuf> {
    if let Some(given) = std::env::var_os("DAISY_KUBERNETES_CACHE") {
        return Ok(given.into());
    }
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let base = base.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")));
    Ok(base.context("neither DAISY_KUBERNETES_CACHE nor XDG_CACHE_HOME nor HOME is set: set one")?.join("daisy/kubernetes"))
}

/// What decides which binaries come out: the pins, and how they are built.
fn key(modules: &[Module]) -> Result<String> {
    let mut hash = Digest::new(&SHA256);
    for module in modules {
        for file in ["go.mod", "go.sum"] {
            let path = pins().join(module.folder).join(file);
            let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
            hash.update(&(bytes.len() as u64).to_be_bytes());
            hash.update(&bytes);
        }
        hash.update(module.tags.as_bytes());
        hash.update((module.linker_flags)("").as_bytes());
    }
    Ok(hex::encode(&hash.finish().as_ref()[..8]))
}

/// The folder of Kubernetes' binaries, built if they are not there yet.
///
/// # Errors
/// When Go is missing or too old, or a build fails.
pub fn build() -> Result<PathBuf> {
    build_set(KUBERNETES, "Kubernetes' components", "8 minutes")
}

/// The folder of what clusters of kind want besides, built if it is not there yet: kind itself, kubeadm, etcd, the CNI plugin ptp.
///
/// # Errors
/// When Go is missing or too old, or a build fails.
pub fn build_kind() -> Result<PathBuf> {
    build_set(KIND, "kind, kubeadm, etcd and ptp", "3 minutes")
}

fn build_set(modules: &[Module], what: &str, long: &str) -> Result<PathBuf> {
    let folder = cache()?.join(key(modules)?);
    let complete = |folder: &Path| modules.iter().flat_map(|m| m.binaries).all(|name| folder.join(name).is_file());
    if complete(&folder) {
        return Ok(folder);
    }
    fs::create_dir_all(cache()?)?;
    // Whoever comes second waits, and finds them built.
    let lock = File::create(cache()?.join("lock")).context("creating the cache's lock")?;
    let _held = nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusive)
        .map_err(|(_, errno)| errno)
        .context("locking the cache")?;
    if complete(&folder) {
        return Ok(folder);
    }
    programs::check_go()?;
    let started = Instant::now();
    eprintln!("building {what} into {}: about {long} on 2 cores, once", folder.display());
    let unfinished = folder.with_extension("unfinished");
    fs::create_dir_all(&unfinished)?;
    for module in modules {
        build_module(module, &unfinished)?;
    }
    if !complete(&unfinished) {
        bail!(
            "{}: the build ended well but did not make all of {:?}",
            unfinished.display(),
            modules.iter().flat_map(|m| m.binaries).collect::<Vec<_>>()
        );
    }
    fs::rename(&unfinished, &folder).with_context(|| format!("moving {} into place", unfinished.display()))?;
    eprintln!("built in {:.0} s", started.elapsed().as_secs_f64());
    Ok(folder)
}

fn build_module(module: &Module, into: &Path) -> Result<()> {
    let started = Instant::now();
    let source = pins().join(module.folder);
    let go_mod = fs::read_to_string(source.join("go.mod"))?;
    let mut command = Command::new("go");
    // `tool` stands for all that the go.mod file lists as tools. Without cgo all are static, as what runs in pods must be.
    command.current_dir(&source).env("CGO_ENABLED", "0").env("GOFLAGS", "-mod=readonly").env_remove("GOWORK");
    command.args(["build", "-trimpath", "-ldflags", &(module.linker_flags)(&go_mod)]);
    if !module.tags.is_empty() {
        command.args(["-tags", module.tags]);
    }
    command.arg("-o").arg(format!("{}/", into.display())).arg("tool");
    let status = command.status().context("starting go")?;
    if !status.success() {
        bail!("go build in {} failed ({status}); the lines above say why", source.display());
    }
    for (made, name) in RENAMED.iter().filter(|(_, name)| module.binaries.contains(name)) {
        fs::rename(into.join(made), into.join(name)).with_context(|| format!("{made}, which is {name}"))?;
    }
    eprintln!("  {}: {:.0} s", module.binaries.join(", "), started.elapsed().as_secs_f64());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_binary_is_a_tool_of_its_module() {
        for module in KUBERNETES.iter().chain(KIND) {
            let text = fs::read_to_string(pins().join(module.folder).join("go.mod")).expect("a go.mod");
            for binary in module.binaries {
                let made = RENAMED.iter().find(|(_, name)| name == binary).map_or(*binary, |(made, _)| made);
                let tool = |line: &str| line.trim().trim_start_matches("tool ").trim_end_matches("/v3").to_owned();
                let named = text.lines().any(|line| tool(line).ends_with(&format!("/{made}")));
                assert!(named, "{}: no tool {binary}", module.folder);
            }
        }
    }

    #[test]
    fn all_parts_of_kubernetes_are_of_one_version() {
        assert_eq!(version("kubeadm", "k8s.io/kubernetes").expect("a version"), kubernetes_version().expect("a version"));
    }

    #[test]
    fn the_version_comes_from_the_pin() {
        let version = kubernetes_version().expect("a version");
        assert!(version.starts_with("v1."), "{version}");
        let flags = kubernetes_flags(&format!("require k8s.io/kubernetes {version}\n"));
        assert!(flags.contains(&format!("gitVersion={version}")), "{flags}");
        assert_eq!(
            version_of("replace (\n\tk8s.io/api => k8s.io/api v0.1.0\n)\nrequire (\n\tk8s.io/api v0.2.0\n)", "k8s.io/api"),
            Some("v0.2.0")
        );
    }
}
