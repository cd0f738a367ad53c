//! Taking a bed down, however little of it still runs, and making sure that nothing of it is left.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{config, init, state};
use crate::programs;

/// How long the kernel may take to end a bed's processes and mounts.
const END: Duration = Duration::from_secs(60);
/// Where cgroups are, whether in one hierarchy or in many.
const CGROUPS: &str = "/sys/fs/cgroup";

/// Takes the bed of this name down.
///
/// # Errors
/// When there is none, or something of it is left.
pub fn down(name: &str) -> Result<()> {
    let _lock = state::lock()?;
    let folder = state::beds()?.join(name);
    if name.is_empty() || name.contains('/') || name.starts_with('.') || !folder.is_dir() {
        bail!("there is no bed {name:?}; `cargo xtask kubernetes status` lists those there are");
    }
    remove(name, &folder)
}

/// Ends all that runs of a bed, and removes its folder and cgroups.
pub(super) fn remove(name: &str, folder: &Path) -> Result<()> {
    let number = state::load(folder).ok().map(|plan| plan.number);
    let started = Instant::now();
    loop {
        let running = running(folder);
        for pid in &running {
            // One that has ended meanwhile is what is wanted.
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        if running.is_empty() && remove_cgroups(name)? {
            break;
        }
        if started.elapsed() > END {
            bail!("bed {name}: after {} s there is still {}", END.as_secs(), left(name, folder, number)?.join(", "));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    // Mounts of the last processes go a moment after them, and until then their folders are busy.
    while let Err(error) = fs::remove_dir_all(folder) {
        if error.kind() == ErrorKind::NotFound {
            break;
        }
        if started.elapsed() > END {
            return Err(error).with_context(|| format!("removing {}", folder.display()));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    // A network outlives its processes while their last segments are not acknowledged, for minutes at times. What leads there from this
    // machine goes now.
    for device in devices(number)? {
        // One that went by itself meanwhile is what is wanted.
        let _ = Command::new("ip").args(["link", "delete", &device]).env("PATH", programs::path()).output();
    }
    loop {
        let left = left(name, folder, number)?;
        if left.is_empty() {
            return Ok(());
        }
        if started.elapsed() > END {
            bail!("bed {name}: still there: {}", left.join(", "));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The first processes of a bed and what started them: with a first process the kernel ends the rest.
fn running(folder: &Path) -> Vec<i32> {
    let program = folder.join(state::PROGRAM).display().to_string();
    init::processes().filter(|(_, words)| words.contains(&program)).map(|(pid, _)| pid).collect()
}

/// Whether there are none of the bed's cgroups any more. One that still has a process stays for now.
fn remove_cgroups(name: &str) -> Result<bool> {
    let mut gone = true;
    for cgroup in cgroups(name)? {
        gone &= remove_cgroup(&cgroup);
    }
    Ok(gone)
}

/// Removes a cgroup and those in it; whether it is gone.
pub fn remove_cgroup(path: &Path) -> bool {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    for entry in entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
        remove_cgroup(&entry.path());
    }
    match fs::remove_dir(path) {
        Err(error) => error.kind() == ErrorKind::NotFound,
        Ok(()) => true,
    }
}

/// The topmost cgroups of a bed, in every hierarchy.
fn cgroups(name: &str) -> Result<Vec<PathBuf>> {
    let prefix = config::cgroup_prefix(name);
    let list = |folder: &Path| -> Result<Vec<PathBuf>> {
        let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
        Ok(entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect())
    };
    let ours = |path: &PathBuf| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&prefix));
    let mut found = Vec::new();
    for path in list(Path::new(CGROUPS))? {
        if ours(&path) {
            found.push(path);
        } else if path.join("cgroup.procs").exists() {
            found.extend(list(&path)?.into_iter().filter(ours));
        }
    }
    Ok(found)
}

/// What is left of a bed, in words; nothing, if all is well.
pub(super) fn left(name: &str, folder: &Path, number: Option<u8>) -> Result<Vec<String>> {
    let mut left: Vec<String> = running(folder).into_iter().map(|pid| format!("process {pid}")).collect();
    left.extend(cgroups(name)?.into_iter().map(|path| format!("cgroup {}", path.display())));
    if folder.exists() {
        left.push(format!("folder {}", folder.display()));
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let shown = folder.display().to_string();
    let ours = |line: &&str| line.split(' ').any(|word| Path::new(word).starts_with(&shown));
    left.extend(mounts.lines().filter(ours).map(|line| format!("mount {line}")));
    left.extend(devices(number)?.into_iter().map(|name| format!("device {name}")));
    Ok(left)
}

/// The devices on this machine that lead to the bed of this number.
fn devices(number: Option<u8>) -> Result<Vec<String>> {
    let Some(number) = number else { return Ok(Vec::new()) };
    let output = Command::new("ip").args(["-o", "link"]).env("PATH", programs::path()).output().context("starting ip")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let prefix = format!("dkt{number}c");
    let names = text.lines().filter_map(|line| line.split(": ").nth(1)?.split('@').next());
    Ok(names.filter(|name| name.starts_with(&prefix)).map(str::to_owned).collect())
}
