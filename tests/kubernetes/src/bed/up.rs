//! Bringing a bed up.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::config::{self, Folders};
use super::kubeconfig::{self, Context as KubeContext};
use super::pki::{Authority, secret};
use super::plan::{API_PORT, Cluster, Plan};
use super::{Bed, addons, down, init, state};
use crate::{components, images, programs};

/// How long the networks may take, or one host's folders.
const HOSTS: Duration = Duration::from_secs(60);
/// How long an API server may take.
const API: Duration = Duration::from_secs(120);
/// How long the nodes and the cluster's DNS may take after it.
const NODES: Duration = Duration::from_secs(180);

/// What kind of bed is wanted.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its name.
    pub name: String,
    /// How many clusters.
    pub clusters: usize,
    /// How many nodes in each.
    pub nodes: usize,
    /// How many of the clusters are behind NAT.
    pub nat: usize,
}

/// Brings a bed up: every API server answers, every node is ready, every cluster's DNS serves.
///
/// # Errors
/// When something is missing or does not come up; what was begun is there for a look, until `down`.
pub fn up(options: &Options) -> Result<Bed> {
    if !nix::unistd::geteuid().is_root() {
        bail!("a bed is made of network namespaces, mounts and cgroups, which only root can make: run it as root");
    }
    programs::check()?;
    let binaries = components::build()?;
    let bed = begin(options, &binaries)?;
    let started = Instant::now();
    start(&bed.folder)?;
    for cluster in &bed.plan.clusters {
        wait(&bed, API, &format!("{}'s API server", cluster.name), || {
            bed.kubectl(&cluster.name, &["get", "--raw", "/readyz"]).map(drop)
        })?;
        addons::before_nodes(&bed, cluster)?;
    }
    progress(started, "the API servers answer");
    for cluster in &bed.plan.clusters {
        for number in cluster.node_numbers() {
            let node = cluster.node(number);
            wait(&bed, NODES, &format!("containerd of {node}"), || bed.ctr(&node, &["version"]).map(drop))?;
            bed.import(&node, &images::pause(&binaries)?)?;
            bed.import(&node, &images::coredns(&binaries)?)?;
        }
        addons::dns(&bed, cluster)?;
    }
    progress(started, "the nodes have their images");
    for cluster in &bed.plan.clusters {
        let what = format!("the nodes and DNS of {}", cluster.name);
        wait(&bed, NODES, &what, || addons::ready(&bed, cluster))?;
    }
    progress(started, "nodes and DNS are ready");
    Ok(bed)
}

fn progress(since: Instant, what: &str) {
    eprintln!("{:6.1} s  {what}", since.elapsed().as_secs_f64());
}

/// Writes the bed's folder.
fn begin(options: &Options, binaries: &Path) -> Result<Bed> {
    let _lock = state::lock()?;
    let folder = state::beds()?.join(&options.name);
    // Judges the name, before it becomes a folder's.
    Plan::new(&options.name, 0, options.clusters, options.nodes, options.nat)?;
    if state::runs(&folder) {
        bail!("bed {:?} is up already; `down --name {}` ends it, `--name` makes another beside it", options.name, options.name);
    }
    if folder.exists() {
        // What a bed that was killed has left.
        down::remove(&options.name, &folder)?;
    }
    let plan = Plan::new(&options.name, state::free_number()?, options.clusters, options.nodes, options.nat)?;
    fs::create_dir_all(folder.join("work/bin"))?;
    fs::create_dir_all(folder.join("logs"))?;
    state::save(&folder, &plan)?;
    fs::create_dir_all(folder.join("bin"))?;
    symlink(binaries, folder.join(state::COMPONENTS)).context("linking to the components")?;
    let program = std::env::current_exe().context("finding this program")?;
    fs::copy(&program, folder.join(state::PROGRAM)).with_context(|| format!("copying {}", program.display()))?;
    write(&folder, &plan)?;
    Ok(Bed { folder, plan })
}

/// Writes keys, kubeconfigs and configuration.
fn write(root: &Path, plan: &Plan) -> Result<()> {
    let folders = Folders::new(root);
    let mut authorities = Vec::new();
    for cluster in &plan.clusters {
        let authority = Authority::new(&folders.pki(cluster))?;
        control_plane(&folders, cluster, &authority)?;
        nodes(&folders, cluster, &authority)?;
        let admin = authority.client("kubernetes-admin", "system:masters")?;
        authorities.push((cluster, authority, admin));
    }
    for (file, outside) in [("kubeconfig", true), ("inside.kubeconfig", false)] {
        let contexts = authorities.iter().map(|(cluster, authority, identity)| {
            let address = if outside { cluster.management_address() } else { cluster.control_plane_address() };
            KubeContext { name: &cluster.name, server: format!("https://{address}:{API_PORT}"), authority, identity }
        });
        secret(&root.join(file), &kubeconfig::text(&contexts.collect::<Vec<_>>()))?;
    }
    for (host, role) in plan.hosts() {
        for (name, text) in config::files(&plan.name, &folders, &host, role) {
            put(&folders.host(&host).join("config").join(name), &text)?;
        }
        fs::create_dir_all(folders.host(&host))?;
        fs::create_dir_all(folders.logs(&host))?;
    }
    Ok(())
}

fn put(path: &Path, text: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

fn control_plane(folders: &Folders, cluster: &Cluster, authority: &Authority) -> Result<()> {
    let names =
        ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost"];
    let addresses =
        [cluster.api_service(), cluster.control_plane_address(), cluster.management_address(), std::net::Ipv4Addr::LOCALHOST];
    let names = names.map(str::to_owned).into_iter().chain(addresses.map(|a| a.to_string()));
    authority.server("apiserver", names.collect())?;
    authority.write("apiserver-kubelet-client", &authority.client("kube-apiserver-kubelet-client", "system:masters")?)?;
    for (file, user) in
        [("controller-manager.conf", "system:kube-controller-manager"), ("scheduler.conf", "system:kube-scheduler")]
    {
        client(folders, cluster, authority, (&cluster.control_plane(), file), (user, "system:authenticated"))?;
    }
    Ok(())
}

fn nodes(folders: &Folders, cluster: &Cluster, authority: &Authority) -> Result<()> {
    for number in cluster.node_numbers() {
        let node = cluster.node(number);
        client(folders, cluster, authority, (&node, "kubelet.conf"), (&format!("system:node:{node}"), "system:nodes"))?;
        client(folders, cluster, authority, (&node, "kube-proxy.conf"), ("system:kube-proxy", "system:authenticated"))?;
    }
    Ok(())
}

/// A kubeconfig in a host's folder, as somebody.
fn client(
    folders: &Folders,
    cluster: &Cluster,
    authority: &Authority,
    (host, file): (&str, &str),
    (user, group): (&str, &str),
) -> Result<()> {
    let identity = authority.client(user, group)?;
    let server = format!("https://{}:{API_PORT}", cluster.control_plane_address());
    let text = kubeconfig::text(&[KubeContext { name: &cluster.name, server, authority, identity: &identity }]);
    let path = folders.host(host).join("config").join(file);
    put(&path, "")?;
    secret(&path, &text)
}

/// Starts the first process, in namespaces of its own, and waits until all hosts have theirs.
fn start(folder: &Path) -> Result<()> {
    let program = folder.join(state::PROGRAM);
    let log = fs::File::create(folder.join("logs/holder.log"))?;
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]);
    command.arg(&program).args(["kubernetes", init::HOLD]).arg(folder);
    command.env("PATH", programs::path()).current_dir("/");
    // A group of its own: a Ctrl-C that ends `up` or a test leaves the bed to be looked at.
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
    let mut child = command.spawn().context("starting the bed's first process")?;
    let plan = state::load(folder)?;
    let folders = Folders::new(folder);
    let mut files: Vec<PathBuf> = vec![folder.join(state::HELD)];
    files.extend(plan.hosts().iter().map(|(host, _)| folders.host(host).join(state::HELD)));
    let started = Instant::now();
    for file in files {
        while !file.exists() {
            if let Some(status) = child.try_wait()? {
                let said = fs::read_to_string(folder.join("logs/holder.log")).unwrap_or_default();
                bail!("the bed's first process ended ({status}): {}", said.trim());
            }
            if started.elapsed() > HOSTS {
                bail!("after {} s there is no {}; see {}", HOSTS.as_secs(), file.display(), folder.join("logs").display());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    Ok(())
}

/// Tries until it succeeds.
fn wait(bed: &Bed, limit: Duration, what: &str, mut attempt: impl FnMut() -> Result<()>) -> Result<()> {
    let started = Instant::now();
    let mut pause = Duration::from_millis(50);
    loop {
        let Err(error) = attempt() else { return Ok(()) };
        if started.elapsed() > limit {
            return Err(error.context(format!("after {} s, {what}; see {}", limit.as_secs(), bed.logs().display())));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(500));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bed::plan::Role;

    #[test]
    fn all_that_a_bed_needs_is_written() {
        let root = tempfile::tempdir().expect("a folder");
        let plan = Plan::new("a", 0, 2, 2, 1).expect("a plan");
        write(root.path(), &plan).expect("written");
        let folders = Folders::new(root.path());
        for (host, role) in plan.hosts() {
            // Every file that a command line names is there, but for the components and the nodes' own folders.
            for process in config::processes(&folders, &host, role) {
                let named =
                    process.words.iter().flat_map(|w| w.split('=')).filter(|w| w.starts_with(&*root.path().to_string_lossy()));
                for path in named {
                    assert!(Path::new(path).exists(), "{host}: {}: no {path}", process.name);
                }
            }
            if let Role::Node(..) = role {
                assert!(folders.host(&host).join("config/cni/10-bed.conflist").exists());
            }
        }
    }
}
