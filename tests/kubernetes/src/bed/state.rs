//! Where beds are kept, and which there are.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};

use super::init;
use super::plan::Plan;
use crate::programs;

/// The copy of the program that made the bed, which its first processes run: a build in between must not take it away.
pub(super) const PROGRAM: &str = "bed";
/// Written when a first process has done its part.
pub(super) const HELD: &str = "held";
/// What this file names is not started again.
pub(super) const OFF: &str = "off";
/// The components, for this machine; hosts have them in `bin`, wherever this leads.
pub(super) const COMPONENTS: &str = "components";
const PLAN: &str = "plan.json";

/// The folder of all beds: `$DAISY_KUBERNETES_BEDS`, else below the user's state.
///
/// # Errors
/// When it would lie where a node has a folder of its own.
pub(super) fn beds() -> Result<PathBuf> {
    let from = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let folder = from("DAISY_KUBERNETES_BEDS")
        .or_else(|| from("XDG_STATE_HOME").map(|base| base.join("daisy/kubernetes")))
        .or_else(|| from("HOME").map(|home| home.join(".local/state/daisy/kubernetes")));
    let folder = folder.context("neither DAISY_KUBERNETES_BEDS nor XDG_STATE_HOME nor HOME is set: set one")?;
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let folder = folder.canonicalize()?;
    for own in ["/run", "/tmp", "/etc", "/var/lib", "/var/log"] {
        if folder.starts_with(own) {
            bail!("beds cannot be kept in {}: nodes have a {own} of their own; set DAISY_KUBERNETES_BEDS", folder.display());
        }
    }
    Ok(folder)
}

/// Held while beds begin and end.
pub(super) fn lock() -> Result<Flock<File>> {
    let path = beds()?.join("lock");
    let file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno).context("locking the beds")
}

/// The plan of the bed in this folder.
pub(super) fn load(folder: &Path) -> Result<Plan> {
    let path = folder.join(PLAN);
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no plan of a bed", path.display()))
}

/// Writes the plan of a bed that begins.
pub(super) fn save(folder: &Path, plan: &Plan) -> Result<()> {
    fs::write(folder.join(PLAN), serde_json::to_string_pretty(plan)?)?;
    Ok(())
}

/// The folders of all beds, whether they run or not.
pub(super) fn folders() -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(beds()?)?.collect::<std::io::Result<Vec<_>>>()?;
    let mut folders: Vec<_> = entries.into_iter().map(|e| e.path()).filter(|p| p.is_dir()).collect();
    folders.sort();
    Ok(folders)
}

/// A number that no other bed has and whose addresses nobody on this machine uses.
pub(super) fn free_number() -> Result<u8> {
    let taken: Vec<u8> = folders()?.iter().filter_map(|folder| load(folder).ok()).map(|plan| plan.number).collect();
    let output = Command::new("ip").args(["-4", "-o", "addr"]).env("PATH", programs::path()).output().context("starting ip")?;
    let used = addresses(&String::from_utf8_lossy(&output.stdout));
    let free = (0..=u8::MAX).find(|n| !taken.contains(n) && !used.iter().any(|a| a.octets()[..3] == [198, 19, *n]));
    free.context("all 256 networks of 198.19.0.0/16 are in use on this machine")
}

fn addresses(text: &str) -> Vec<Ipv4Addr> {
    let words = text.lines().filter_map(|line| line.split_whitespace().nth(3));
    words.filter_map(|word| word.split('/').next()?.parse().ok()).collect()
}

/// Whether the bed in this folder runs.
pub(super) fn runs(folder: &Path) -> bool {
    init::find(folder, init::HOLD, None).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_from_ip() {
        let text = "1: lo    inet 127.0.0.1/8 scope host lo\n2: dkt0c0    inet 198.19.0.1/30 scope global dkt0c0\\  valid_lft forever\n";
        assert_eq!(addresses(text), [Ipv4Addr::LOCALHOST, Ipv4Addr::new(198, 19, 0, 1)]);
    }
}
