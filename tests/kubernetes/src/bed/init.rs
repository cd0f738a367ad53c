//! The first processes: of the whole bed, and of each host.
//!
//! ```text
//! up ──▶ unshare ──▶ holder (PID 1 of the bed; its own /run with all network namespaces)
//!                       ├─ unshare ──▶ host staging-node1 (PID 1 of the node; its own /run, /tmp, /etc, /var/lib, /var/log)
//!                       │                 ├─ containerd ── pods …
//!                       │                 ├─ kubelet
//!                       │                 └─ kube-proxy
//!                       └─ …
//! ```
//!
//! The kernel ends with a first process all that it is the first of: every process, mount and network of a bed goes with its holder,
//! however that dies; and a node that loses its first process has lost its power, until the holder starts it again.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use super::config::{self, Folders, Process};
use super::plan::Role;
use super::{network, state};
use crate::programs;

/// How often a first process looks after its children.
const LOOK: Duration = Duration::from_millis(100);
/// How long something that ended stays ended.
const PAUSE: Duration = Duration::from_millis(500);

/// What the holder and the hosts are started as: `PROGRAM kubernetes WORD FOLDER [HOST]`.
pub(super) const HOLD: &str = "hold";
/// See [`HOLD`].
pub(super) const HOST: &str = "host";

/// The bed's first process. Returns only when it could not begin.
///
/// # Errors
/// When the networks cannot be made.
pub fn hold(folder: &Path) -> Result<()> {
    first_of_its_namespace()?;
    let plan = state::load(folder)?;
    let components = folder.join(state::COMPONENTS).canonicalize().context("finding the components")?;
    bind(&components, &folder.join("bin"))?;
    tmpfs("/run", "mode=755")?;
    fs::create_dir_all("/run/netns")?;
    network::make(&plan)?;
    let folders = Folders::new(folder);
    let program = folder.join(state::PROGRAM);
    let hosts = plan.hosts();
    let children = hosts.iter().map(|(host, _)| {
        let words = ["--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc", "--"].map(str::to_owned);
        let mut line = vec!["nsenter".to_owned(), format!("--net=/run/netns/{host}"), "unshare".to_owned()];
        line.extend(words);
        line.extend([program.display().to_string(), "kubernetes".to_owned(), HOST.to_owned()]);
        line.extend([folder.display().to_string(), host.clone()]);
        Child::new(host, line, folders.host(host).join(state::OFF), folders.logs(host).join("host.log"))
    });
    let children = children.collect();
    fs::write(folder.join(state::HELD), "")?;
    supervise(children)
}

/// A host's first process. Returns only when it could not begin.
///
/// # Errors
/// When it cannot have its own folders.
pub fn host(folder: &Path, name: &str) -> Result<()> {
    first_of_its_namespace()?;
    let plan = state::load(folder)?;
    let role = plan.role(name).with_context(|| format!("bed {}: no host {name:?}", plan.name))?;
    nix::unistd::sethostname(name).context("setting the host's name")?;
    own_folders(&Folders::new(folder).host(name), role)?;
    let folders = Folders::new(folder);
    let binaries = folder.join("bin");
    let children = config::processes(&folders, name, role).into_iter().map(|Process { name: process, mut words }| {
        // What is not built is Debian's, and in the path.
        let built = binaries.join(&words[0]);
        if built.exists() {
            words[0] = built.display().to_string();
        }
        let off = folders.host(name).join(format!("{process}.{}", state::OFF));
        Child::new(process, words, off, folders.logs(name).join(format!("{process}.log")))
    });
    let children = children.collect();
    fs::write(folders.host(name).join(state::HELD), "")?;
    supervise(children)
}

/// Neither is to be started by hand: it would mount over the machine's own folders.
fn first_of_its_namespace() -> Result<()> {
    if std::process::id() != 1 {
        bail!("this is started by `cargo xtask kubernetes up` alone");
    }
    Ok(())
}

/// Mounts a folder in memory.
///
/// # Errors
/// When it cannot be mounted.
pub fn tmpfs(at: &str, options: &str) -> Result<()> {
    mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some(options))
        .with_context(|| format!("mounting a tmpfs at {at}"))
}

fn bind(from: &Path, at: &Path) -> Result<()> {
    mount(Some(from), at, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .with_context(|| format!("mounting {} at {}", from.display(), at.display()))
}

/// What a host writes stays its own: runtime state and /etc in memory, the rest in the bed's folder.
fn own_folders(folder: &Path, role: Role<'_>) -> Result<()> {
    tmpfs("/run", "mode=755")?;
    tmpfs("/tmp", "mode=1777")?;
    fs::create_dir_all("/run/lock")?;
    own_etc(&config::resolv_conf())?;
    for (own, at) in [("var-lib", "/var/lib"), ("var-log", "/var/log")] {
        fs::create_dir_all(folder.join(own))?;
        bind(&folder.join(own), Path::new(at))?;
    }
    if matches!(role, Role::Node(..)) {
        // A pod that asks for it sees what is mounted on the node later.
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_SHARED | MsFlags::MS_REC, None::<&str>)
            .context("making the node's mounts shared")?;
    }
    Ok(())
}

/// An /etc of its own over the machine's, below /run, with this resolv.conf.
///
/// # Errors
/// When it cannot be mounted.
pub fn own_etc(resolv_conf: &str) -> Result<()> {
    fs::create_dir_all("/run/etc/upper")?;
    fs::create_dir_all("/run/etc/work")?;
    let layers = "lowerdir=/etc,upperdir=/run/etc/upper,workdir=/run/etc/work";
    mount(Some("overlay"), "/etc", Some("overlay"), MsFlags::empty(), Some(layers)).context("mounting an overlay at /etc")?;
    // It may be a link into the machine's /run.
    match fs::remove_file("/etc/resolv.conf") {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).context("removing /etc/resolv.conf"),
        _ => fs::write("/etc/resolv.conf", resolv_conf).context("writing /etc/resolv.conf"),
    }
}

/// Something that is started, and again when it ends, unless a file says not to.
pub struct Child {
    name: String,
    words: Vec<String>,
    off: PathBuf,
    log: PathBuf,
    not_before: Instant,
    running: bool,
}

impl Child {
    /// One that is started soon: what it is called, its command line, the file that says not to, and its log.
    #[must_use]
    pub fn new(name: &str, words: Vec<String>, off: PathBuf, log: PathBuf) -> Self {
        Self { name: name.to_owned(), words, off, log, not_before: Instant::now(), running: false }
    }

    /// Starts it if it is time to; `None` where it is not.
    fn start(&mut self) -> Option<Result<Pid>> {
        if self.running || Instant::now() < self.not_before || self.off.exists() {
            return None;
        }
        self.not_before = Instant::now() + PAUSE;
        Some(self.spawn())
    }

    fn spawn(&mut self) -> Result<Pid> {
        if let Some(folder) = self.log.parent() {
            fs::create_dir_all(folder)?;
        }
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let log: File = log.with_context(|| format!("opening {}", self.log.display()))?;
        let mut command = Command::new(&self.words[0]);
        // What was built with it comes first: containerd takes the first shim of the path, and a Docker on this machine has its own.
        let path = match Path::new(&self.words[0]).parent().filter(|folder| folder.is_absolute()) {
            Some(own) => format!("{}:{}", own.display(), programs::path()),
            None => programs::path(),
        };
        command.args(&self.words[1..]).env_clear().env("PATH", path).env("HOME", "/root").current_dir("/");
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        let child = command.spawn().with_context(|| format!("starting {}", self.name))?;
        self.running = true;
        Ok(Pid::from_raw(child.id().cast_signed()))
    }
}

/// Keeps the children running, and reaps whoever else comes to be its child, as a first process must.
///
/// # Errors
/// When they cannot be waited for.
pub fn supervise(mut children: Vec<Child>) -> Result<()> {
    let mut pids: HashMap<Pid, usize> = HashMap::new();
    loop {
        for (index, child) in children.iter_mut().enumerate() {
            match child.start() {
                None => {}
                Some(Ok(pid)) => {
                    pids.insert(pid, index);
                }
                Some(Err(error)) => eprintln!("{error:#}"),
            }
        }
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(status) => {
                    let Some(pid) = status.pid() else { break };
                    if let Some(child) = pids.remove(&pid).and_then(|index| children.get_mut(index)) {
                        eprintln!("{} ended: {status:?}", child.name);
                        child.running = false;
                        child.not_before = Instant::now() + PAUSE;
                    }
                }
                Err(Errno::ECHILD | Errno::EINTR) => break,
                Err(errno) => bail!("waiting for children: {errno}"),
            }
        }
        std::thread::sleep(LOOK);
    }
}

/// The host's first process, or the bed's, as everyone sees it: by the command line that only it has.
pub(super) fn find(plan_folder: &Path, word: &str, host: Option<&str>) -> Option<i32> {
    let program = plan_folder.join(state::PROGRAM).display().to_string();
    let folder = plan_folder.display().to_string();
    let mut wanted = vec![program.as_str(), "kubernetes", word, folder.as_str()];
    wanted.extend(host);
    processes().find(|(_, words)| words.iter().map(String::as_str).eq(wanted.iter().copied())).map(|(pid, _)| pid)
}

/// All processes of this machine with their command lines.
pub fn processes() -> impl Iterator<Item = (i32, Vec<String>)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        let words = line.split(|b| *b == 0).map(|word| String::from_utf8_lossy(word).into_owned());
        let mut words: Vec<_> = words.collect();
        words.pop();
        Some((pid, words))
    })
}
