//! The node's root file system.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use daisy_kubernetes_tests::bed::{shown, succeeded};
use daisy_kubernetes_tests::{components, programs};

use super::{Built, images};

/// What a node has of Debian.
pub(super) const PACKAGES: &[&str] = &[
    "systemd",
    "systemd-sysv",
    "dbus",
    "runc",
    "libseccomp2",
    "iptables",
    "nftables",
    "iproute2",
    "iputils-ping",
    "conntrack",
    "ethtool",
    "socat",
    "kmod",
    "mount",
    "procps",
    "curl",
    "ca-certificates",
];

/// What of systemd a container does without.
pub(super) const MASKED: &[&str] = &[
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "console-getty.service",
    "dev-hugepages.mount",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty.target",
    "modprobe@.service",
    "proc-sys-fs-binfmt_misc.automount",
    "sys-fs-fuse-connections.mount",
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "systemd-binfmt.service",
    "systemd-logind.service",
    "systemd-modules-load.service",
    "systemd-networkd.service",
    "systemd-remount-fs.service",
    "systemd-resolved.service",
    "systemd-sysctl.service",
    "systemd-timesyncd.service",
    "systemd-tmpfiles-setup.service",
    "systemd-udev-trigger.service",
    "systemd-udevd-control.socket",
    "systemd-udevd-kernel.socket",
    "systemd-udevd.service",
    "systemd-update-utmp.service",
    "systemd-update-utmp-runlevel.service",
];

/// The programs of a node, and where they are on it.
const PROGRAMS: &[(&str, &[&str])] = &[
    ("usr/bin", &["kubeadm", "kubectl", "kubelet"]),
    ("usr/local/bin", &["containerd", "containerd-shim-runc-v2", "ctr"]),
    ("opt/cni/bin", &["host-local", "loopback", "ptp"]),
];

/// How long the store's containerd may take to begin, and to end.
const STORE: Duration = Duration::from_secs(30);

/// Makes the archive.
pub(super) fn make(built: &Built, files: &Path, archive: &Path) -> Result<()> {
    let work = archive.with_extension("work");
    if work.exists() {
        fs::remove_dir_all(&work).with_context(|| format!("removing {}", work.display()))?;
    }
    let root = work.join("root");
    fs::create_dir_all(&root)?;
    let base = base(built)?;
    run(Command::new("tar").arg("-xf").arg(&base).arg("-C").arg(&root).args(["--exclude=./dev/*"]))?;
    fill(built, files, &root)?;
    let list = images::make(built, &work.join("images"))?;
    preload(built, &list, &root, &work.join("store"))?;
    let unfinished = archive.with_extension("unfinished");
    run(Command::new("tar").arg("-C").arg(&root).args(["--numeric-owner", "-cf"]).arg(&unfinished).arg("."))?;
    fs::rename(&unfinished, archive).with_context(|| format!("writing {}", archive.display()))?;
    fs::remove_dir_all(&work).with_context(|| format!("removing {}", work.display()))
}

fn run(command: &mut Command) -> Result<String> {
    let words: Vec<_> = [command.get_program()].into_iter().chain(command.get_args()).map(ToOwned::to_owned).collect();
    let output = command.env("PATH", programs::path()).stdin(Stdio::null()).output();
    let shown = shown(&words);
    succeeded(&shown, &output.with_context(|| format!("starting {shown}"))?)
}

/// Debian itself, of the machine's own release and from where the machine has it.
fn base(built: &Built) -> Result<PathBuf> {
    let release = fs::read_to_string("/etc/os-release").context("reading /etc/os-release")?;
    let codename = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let codename =
        codename.context("/etc/os-release names no VERSION_CODENAME: the node image is made of Debian's packages")?;
    let hash = ring::digest::digest(&ring::digest::SHA256, PACKAGES.join(",").as_bytes());
    let base = built.kind.join(format!("{codename}-{}.tar", hex::encode(&hash.as_ref()[..6])));
    if base.exists() {
        return Ok(base);
    }
    let unfinished = base.with_extension("unfinished.tar");
    let mut command = Command::new("mmdebstrap");
    command.args(["--mode=root", "--variant=minbase", "--quiet", &format!("--include={}", PACKAGES.join(","))]);
    for left_out in ["doc", "man", "locale", "info"] {
        command.arg(format!("--dpkgopt=path-exclude=/usr/share/{left_out}/*"));
    }
    command.arg(codename).arg(&unfinished);
    let sources = ["/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list"];
    command.args(sources.iter().filter(|file| Path::new(file).exists()).take(1));
    run(&mut command)?;
    fs::rename(&unfinished, &base).with_context(|| format!("writing {}", base.display()))?;
    Ok(base)
}

/// The programs, the repository's files, and systemd told what to start and what not.
fn fill(built: &Built, files: &Path, root: &Path) -> Result<()> {
    for (folder, names) in PROGRAMS {
        let folder = root.join(folder);
        fs::create_dir_all(&folder)?;
        for name in *names {
            let at = folder.join(name);
            fs::copy(built.file(name), &at).with_context(|| format!("copying {name}"))?;
            fs::set_permissions(&at, Permissions::from_mode(0o755))?;
        }
    }
    for folder in ["etc/cni/net.d", "etc/kubernetes/manifests", "var/lib/containerd"] {
        fs::create_dir_all(root.join(folder))?;
    }
    run(Command::new("cp").arg("-r").arg(files.join(".")).arg(root))?;
    let config = root.join("etc/containerd/config.toml");
    let text = fs::read_to_string(&config).context("reading containerd's configuration")?;
    fs::write(&config, text.replace("@PAUSE@", &images::pause_name(built)?))?;
    fs::write(root.join("kind/version"), components::kubernetes_version()?)?;
    fs::write(root.join("etc/crictl.yaml"), "runtime-endpoint: unix:///run/containerd/containerd.sock\n")?;
    let units = root.join("etc/systemd/system");
    let wants = units.join("multi-user.target.wants");
    fs::create_dir_all(&wants)?;
    link("/lib/systemd/system/multi-user.target", &units.join("default.target"))?;
    for unit in ["containerd.service", "kubelet.service"] {
        link(&format!("/etc/systemd/system/{unit}"), &wants.join(unit))?;
    }
    for unit in MASKED {
        link("/dev/null", &units.join(unit))?;
    }
    // What is each node's own, or Docker's to write.
    for file in ["etc/machine-id", "etc/hostname", "etc/resolv.conf", "etc/fstab"] {
        match fs::remove_file(root.join(file)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("removing {file}"));
            }
            _ => {}
        }
    }
    Ok(())
}

fn link(to: &str, at: &Path) -> Result<()> {
    if at.symlink_metadata().is_ok() {
        fs::remove_file(at)?;
    }
    symlink(to, at).with_context(|| format!("linking {}", at.display()))
}

/// Writes the images into the store that the node's containerd will find.
fn preload(built: &Built, archives: &[PathBuf], root: &Path, work: &Path) -> Result<()> {
    fs::create_dir_all(work)?;
    let (socket, config) = (work.join("sock"), work.join("config.toml"));
    let text = format!(
        "version = 3\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.cri.v1.runtime\", \"io.containerd.cri.v1.images\", \"io.containerd.nri.v1.nri\"]\n[grpc]\n  address = {socket:?}\n",
        root.join("var/lib/containerd"),
        work.join("state"),
    );
    fs::write(&config, text)?;
    let log = File::create(work.join("log"))?;
    let mut store = Command::new(built.file("containerd"));
    store.arg("--config").arg(&config).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let mut store = store.spawn().context("starting containerd")?;
    let written = fill_store(built, archives, &socket, &mut store);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(store.id().cast_signed()), nix::sys::signal::Signal::SIGTERM)
        .or_else(|error| if error == nix::errno::Errno::ESRCH { Ok(()) } else { Err(error) })
        .context("ending containerd")?;
    store.wait().context("waiting for containerd")?;
    written
}

fn fill_store(built: &Built, archives: &[PathBuf], socket: &Path, store: &mut Child) -> Result<()> {
    let ctr = |words: &[&str]| {
        let mut command = Command::new("timeout");
        command.arg("120").arg(built.file("ctr")).arg("--address").arg(socket).args(["--namespace", "k8s.io"]).args(words);
        run(&mut command)
    };
    let started = Instant::now();
    while let Err(error) = ctr(&["version"]) {
        if started.elapsed() > STORE || store.try_wait()?.is_some() {
            return Err(error).context("a containerd that writes the node's store");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    for archive in archives {
        let archive = archive.display().to_string();
        let pinned = "--label=io.cri-containerd.pinned=pinned";
        ctr(&["images", "import", "--all-platforms", "--no-unpack", "--digests", pinned, &archive])?;
    }
    let names = ctr(&["images", "list", "--quiet"])?;
    if names.lines().filter(|name| !name.contains('@')).count() < archives.len() {
        bail!("the node's store has {names:?}, and {} images were to be in it", archives.len());
    }
    Ok(())
}
