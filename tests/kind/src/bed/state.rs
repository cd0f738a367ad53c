//! Where beds are kept, how one is found again, and its end.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use daisy_kubernetes_tests::bed::init::processes;
use daisy_kubernetes_tests::bed::remove_cgroup;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The copy of the program that made the bed, which its first process runs: a build in between must not take it away.
pub(super) const PROGRAM: &str = "bed";
/// What the first process is started as: `PROGRAM kind hold FOLDER NAME`.
pub(super) const HOLD: &str = "hold";
/// Where the daemon listens.
pub(super) const SOCKET: &str = "docker.sock";
/// Which image the nodes are of.
pub(super) const IMAGE: &str = "node-image";
/// How many of the kernel's file watches root may have at once (inotify(7)): kubelets and what runs beside them want more than is usual.
const WATCHES: &str = "/proc/sys/fs/inotify/max_user_instances";
/// As many as ten nodes take.
const WATCHES_LEAST: u32 = 1024;
/// Where it is written how many were allowed before.
const WATCHES_BEFORE: &str = "inotify.before";
/// How long the kernel may take to end a bed's processes and mounts: a minute for five clusters on a busy machine.
const END: Duration = Duration::from_secs(180);
/// Where cgroups are, whether in one hierarchy or in many.
const CGROUPS: &str = "/sys/fs/cgroup";

/// The folder of all beds: `$DAISY_KIND_BEDS`, else below the user's state.
fn beds() -> Result<PathBuf> {
    let from = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let folder = from("DAISY_KIND_BEDS")
        .or_else(|| from("XDG_STATE_HOME").map(|base| base.join("daisy/kind")))
        .or_else(|| from("HOME").map(|home| home.join(".local/state/daisy/kind")));
    let folder = folder.context("neither DAISY_KIND_BEDS nor XDG_STATE_HOME nor HOME is set: set one")?;
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let folder = folder.canonicalize()?;
    for own in ["/run", "/etc"] {
        if folder.starts_with(own) {
            bail!("beds cannot be kept in {}: a bed has a {own} of its own; set DAISY_KIND_BEDS", folder.display());
        }
    }
    Ok(folder)
}

/// The folder of the bed of this name, whether there is one or not.
pub(super) fn folder(name: &str) -> Result<PathBuf> {
    let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || name.len() > 20 || !name.chars().all(fine) {
        bail!("{name:?} is no name for a bed: use up to 20 of a-z, 0-9 and '-'");
    }
    Ok(beds()?.join(name))
}

/// Held while beds begin and end.
pub(super) fn lock() -> Result<Flock<File>> {
    let path = beds()?.join("lock");
    let file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno).context("locking the beds")
}

/// The cgroup of all that the bed's daemon starts, in each hierarchy.
pub(super) fn cgroup(name: &str) -> String {
    format!("daisy-kind-{name}")
}

/// The bed's first process, as this machine sees it: by the command line that only it has.
pub(super) fn first_process(folder: &Path) -> Option<i32> {
    let program = folder.join(PROGRAM).display().to_string();
    let mut found = processes().filter(|(_, words)| words.first() == Some(&program) && words.get(2).is_some_and(|w| w == HOLD));
    found.next().map(|(pid, _)| pid)
}

/// Takes the bed of this name down, however little of it still runs.
///
/// # Errors
/// When something of it is left.
pub fn down(name: &str) -> Result<()> {
    let _lock = lock()?;
    let folder = folder(name)?;
    if !folder.exists() && cgroups(name)?.is_empty() {
        bail!("there is no bed {name:?} in {}", beds()?.display());
    }
    remove(name, &folder)?;
    restore_watches()
}

/// Allows enough file watches: the one thing that a bed changes outside of itself.
pub(super) fn allow_watches() -> Result<()> {
    let had = fs::read_to_string(WATCHES).with_context(|| format!("reading {WATCHES}"))?;
    if had.trim().parse::<u32>().is_ok_and(|had| had < WATCHES_LEAST) {
        let before = beds()?.join(WATCHES_BEFORE);
        // Of an earlier bed that changed it, and of which nothing else may be left.
        if !before.exists() {
            fs::write(&before, had)?;
        }
        fs::write(WATCHES, WATCHES_LEAST.to_string()).with_context(|| format!("writing {WATCHES}"))?;
    }
    Ok(())
}

/// Allows as many as before, once there is no bed.
fn restore_watches() -> Result<()> {
    let before = beds()?.join(WATCHES_BEFORE);
    let others = fs::read_dir(beds()?)?.filter_map(std::result::Result::ok).any(|entry| entry.path().is_dir());
    if others || !before.exists() {
        return Ok(());
    }
    fs::write(WATCHES, fs::read(&before)?).with_context(|| format!("writing {WATCHES}"))?;
    fs::remove_file(before).context("removing what was allowed before")
}

/// Ends all that runs of a bed, and removes its folder and cgroups.
pub(super) fn remove(name: &str, folder: &Path) -> Result<()> {
    let started = Instant::now();
    let mut left = Vec::new();
    while started.elapsed() < END {
        left = ended(name, folder)?;
        if left.is_empty() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    bail!("bed {name}: after {} s there is still {}", END.as_secs(), left.join(", "))
}

/// Ends what can be ended now; what is left.
fn ended(name: &str, folder: &Path) -> Result<Vec<String>> {
    let program = folder.join(PROGRAM).display().to_string();
    let running: Vec<i32> = processes().filter(|(_, words)| words.contains(&program)).map(|(pid, _)| pid).collect();
    for pid in &running {
        // One that has ended meanwhile is what is wanted.
        let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
    }
    if !running.is_empty() {
        return Ok(running.into_iter().map(|pid| format!("process {pid}")).collect());
    }
    let mut left = Vec::new();
    for cgroup in cgroups(name)? {
        if !remove_cgroup(&cgroup) {
            left.push(format!("cgroup {}", cgroup.display()));
        }
    }
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => left.push(format!("{} ({error})", folder.display())),
        _ => {}
    }
    Ok(left)
}

/// The bed's cgroups, in every hierarchy.
fn cgroups(name: &str) -> Result<Vec<PathBuf>> {
    let mut at = vec![PathBuf::from(CGROUPS)];
    for entry in fs::read_dir(CGROUPS).with_context(|| format!("reading {CGROUPS}"))? {
        at.push(entry?.path());
    }
    Ok(at.into_iter().map(|folder| folder.join(cgroup(name))).filter(|path| path.is_dir()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_beds() {
        for bad in ["", "..", "a/b", "A", "a b", "a-name-of-more-than-twenty"] {
            assert!(folder(bad).is_err(), "{bad:?}");
        }
    }
}
