//! A pod's sandbox: its network, mount and UTS namespaces. No process holds them, only this one's descriptors.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use daisy_api::Cidr;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::sethostname;
use thiserror::Error;

use super::nodes::Node;
use crate::holder::{BIN_INSIDE, DAISY_INSIDE};
use crate::network::{self, Links, Mac, NetworkError, Pair, Route, mac_of};
use crate::sys::{self, Entrance, Netns};

/// Where a pod sees its own folder: token, CA, kubeconfig.
pub(super) const POD_INSIDE: &str = "/run/daisy-pod";
/// Where programs of Kubernetes look for their token.
const SERVICE_ACCOUNT: &str = "/run/secrets/kubernetes.io/serviceaccount";
/// Every pod's gateway: the node's end of its pair of devices, which has no address.
const GATEWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1));
/// The hardware address of that end, on every pair.
const GATEWAY_MAC: Mac = [0xee; 6];

/// Why a pod has no sandbox.
#[derive(Debug, Error)]
pub(super) enum SandboxError {
    /// Its network could not be made.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// Its namespaces or mounts could not be made.
    #[error("its namespaces: {0}")]
    Namespaces(#[from] io::Error),
    /// The node has no address left.
    #[error("node {0} has no free pod address; delete pods, or spread them over more nodes")]
    NoAddress(String),
}

/// What a sandbox is made of.
pub(super) struct Blueprint<'a> {
    pub(super) node_name: &'a str,
    pub(super) node: &'a Node,
    pub(super) host_network: bool,
    pub(super) uid: &'a str,
    pub(super) hostname: &'a str,
    /// The pod's folder of files; its `etc/` covers the system's.
    pub(super) folder: &'a Path,
}

/// A pod's sandbox.
#[derive(Debug)]
pub(super) struct Sandbox {
    pub(super) address: IpAddr,
    device: Option<String>,
    net: Netns,
    mount: Arc<OwnedFd>,
    uts: Arc<OwnedFd>,
}

impl Sandbox {
    /// Makes the network, when it is the pod's own; the files are not seen yet.
    pub(super) async fn network(blueprint: &Blueprint<'_>) -> Result<(IpAddr, Option<(String, Netns)>), SandboxError> {
        if blueprint.host_network {
            return Ok((blueprint.node.address, None));
        }
        let no_address = || SandboxError::NoAddress(blueprint.node_name.to_owned());
        let address = blueprint.node.allocate().ok_or_else(no_address)?;
        let device: String = "pod".chars().chain(blueprint.uid.chars().filter(|c| *c != '-').take(11)).collect();
        match connect(blueprint.node, &device, address).await {
            Ok(netns) => Ok((address, Some((device, netns)))),
            Err(e) => {
                // It may have been made in part.
                let _ = blueprint.node.links.remove(&device).await;
                blueprint.node.release(address);
                Err(e)
            }
        }
    }

    /// Makes the mount and UTS namespaces over a network that [`Sandbox::network`] made.
    pub(super) async fn enclose(
        blueprint: &Blueprint<'_>,
        address: IpAddr,
        own: Option<(String, Netns)>,
    ) -> Result<Self, SandboxError> {
        let (folder, hostname) = (blueprint.folder.to_owned(), blueprint.hostname.to_owned());
        let host = blueprint.host_network;
        let made = tokio::task::spawn_blocking(move || namespaces(&folder, (!host).then_some(hostname.as_str()))).await;
        let (mount, uts) = match made.map_err(io::Error::other).and_then(|m| m) {
            Ok(made) => made,
            Err(e) => {
                if let Some((device, _)) = own {
                    let _ = blueprint.node.links.remove(&device).await;
                    blueprint.node.release(address);
                }
                return Err(e.into());
            }
        };
        let (device, net) = own.map_or((None, blueprint.node.netns.clone()), |(device, net)| (Some(device), net));
        Ok(Self { address, device, net, mount: Arc::new(mount), uts: Arc::new(uts) })
    }

    /// How a container enters.
    pub(super) fn entrance(&self, directory: CString) -> Entrance {
        Entrance {
            net: Some(self.net.clone()),
            mount: Some(Arc::clone(&self.mount)),
            uts: Some(Arc::clone(&self.uts)),
            directory,
            dies_with_parent: true,
        }
    }

    pub(super) fn net(&self) -> &Netns {
        &self.net
    }

    /// Where others find the namespaces: network, mount, UTS.
    pub(super) fn paths(&self) -> [PathBuf; 3] {
        let own = std::process::id();
        [self.net.as_raw_fd(), self.mount.as_raw_fd(), self.uts.as_raw_fd()].map(|fd| format!("/proc/{own}/fd/{fd}").into())
    }

    /// Takes the network apart. What is still in it is killed: nothing of a pod outlives it.
    pub(super) async fn remove(self, node: &Node) {
        let Some(device) = &self.device else { return };
        kill_all_in(&self.net);
        if let Err(e) = node.links.remove(device).await {
            tracing::warn!("{e}");
        }
        node.release(self.address);
    }
}

/// Connects a new network namespace to the node: a pair of devices, a route on each side, and nobody needs ask for addresses.
async fn connect(node: &Node, device: &str, address: IpAddr) -> Result<Netns, SandboxError> {
    let netns = tokio::task::spawn_blocking(|| {
        let netns = Netns::create()?;
        netns.set_parameters(network::HOST)?;
        Ok::<_, io::Error>(netns)
    });
    let netns = netns.await.map_err(io::Error::other)??;
    let links = Links::open(device, &netns)?;
    let mac = mac_of(address);
    let pair = Pair { name: device, mac: GATEWAY_MAC, peer: "eth0", peer_mac: mac, peer_namespace: &netns };
    network::bottom(&links).await?;
    let outside = node.links.pair(&pair).await?;
    let inside = links.index("eth0").await?;
    links.up(inside).await?;
    links.address(inside, address, if address.is_ipv6() { 128 } else { 32 }).await?;
    links.neighbour(inside, GATEWAY, GATEWAY_MAC).await?;
    links.route(&Route::default_via(GATEWAY, inside)).await?;
    node.links.neighbour(outside, address, mac).await?;
    node.links.route(&Route::on_device(Cidr::host(address), outside)).await?;
    Ok(netns)
}

/// The mount and UTS namespaces of a pod. A thread makes and leaves them; descriptors keep them.
fn namespaces(folder: &Path, hostname: Option<&str>) -> io::Result<(OwnedFd, OwnedFd)> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS)?;
            sys::make_private()?;
            mounts(folder)?;
            if let Some(hostname) = hostname {
                // The kernel takes 64 bytes.
                sethostname(hostname.chars().take(63).collect::<String>())?;
            }
            let open = |name: &str| File::open(format!("/proc/thread-self/ns/{name}")).map(OwnedFd::from);
            Ok((open("mnt")?, open("uts")?))
        });
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread in the pod's namespaces panicked")))
    })
}

fn mounts(folder: &Path) -> io::Result<()> {
    // Opened before /run is hidden.
    let (executable, files) = (sys::open_path(Path::new(DAISY_INSIDE))?, sys::open_path(folder)?);
    sys::tmpfs(Path::new("/run"), "755")?;
    sys::tmpfs(Path::new("/tmp"), "1777")?;
    for path in [BIN_INSIDE, POD_INSIDE, SERVICE_ACCOUNT] {
        fs::create_dir_all(path)?;
    }
    File::create(DAISY_INSIDE)?;
    sys::bind(&sys::fd_path(&executable), Path::new(DAISY_INSIDE))?;
    for path in [POD_INSIDE, SERVICE_ACCOUNT] {
        sys::bind(&sys::fd_path(&files), Path::new(path))?;
    }
    for name in ["resolv.conf", "hosts", "hostname"] {
        sys::cover(&Path::new(POD_INSIDE).join("etc").join(name), &Path::new("/etc").join(name))?;
    }
    Ok(())
}

/// Kills every process in a network namespace.
fn kill_all_in(netns: &Netns) {
    use std::os::unix::fs::MetadataExt;
    let Ok(own) = nix::sys::stat::fstat(netns) else { return };
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in entries.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok()) {
        if fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|m| m.ino() == own.st_ino) {
            // It may end by itself meanwhile.
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
    }
}
