//! The programs of this machine that the bed needs, and the Debian packages that have them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// What a bed needs: a program, and the Debian package that it is in.
const NEEDED: &[(&str, &str)] = &[
    ("etcd", "etcd-server"),
    ("runc", "runc"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("unshare", "util-linux"),
    ("nsenter", "util-linux"),
    ("mount", "mount"),
    ("busybox", "busybox-static"),
    ("ldd", "libc-bin"),
    ("strip", "binutils"),
    ("rustc", "a Rust toolchain"),
];

/// What the tests run in clusters.
const TESTED_WITH: &[(&str, &str)] = &[
    ("nginx", "nginx-light"),
    ("curl", "curl"),
    ("dig", "bind9-dnsutils"),
    ("nc", "netcat-openbsd"),
    ("getent", "libc-bin"),
    ("redis-check-rdb", "redis-tools"),
    ("redis-benchmark", "redis-tools"),
];

/// The oldest Go that builds the components.
const GO_LEAST: (u32, u32) = (1, 26);

/// Where programs are looked for: what users have, and what only root has in its path on Debian.
#[must_use]
pub fn path() -> String {
    let own = std::env::var("PATH").unwrap_or_default();
    format!("{own}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
}

/// The file of a program.
#[must_use]
pub fn find(name: &str) -> Option<PathBuf> {
    path().split(':').filter(|folder| !folder.is_empty()).map(|folder| Path::new(folder).join(name)).find(|file| file.is_file())
}

/// The file of a program that [`check`] found.
///
/// # Errors
/// When it is not there.
pub fn file(name: &str) -> Result<PathBuf> {
    find(name).with_context(|| format!("{name}: not found; `cargo xtask kubernetes up` says what to install"))
}

/// The folder of PostgreSQL's programs: Debian keeps one for each version, out of the way.
///
/// # Errors
/// When there is none.
pub fn postgres() -> Result<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().filter_map(Result::ok);
    let mut folders: Vec<_> =
        versions.map(|version| version.path().join("bin")).filter(|bin| bin.join("postgres").is_file()).collect();
    folders.sort();
    folders.pop().context("postgres: not found in /usr/lib/postgresql; `cargo xtask kubernetes up` says what to install")
}

/// Says all that a bed lacks at once, with the line that installs it.
///
/// # Errors
/// When something is missing.
pub fn check() -> Result<()> {
    complain(&absent(NEEDED))
}

/// The same for what a bed and the tests on it want.
///
/// # Errors
/// When something is missing.
pub fn check_tests() -> Result<()> {
    let mut missing = [absent(NEEDED), absent(TESTED_WITH)].concat();
    if postgres().is_err() {
        missing.push(("postgres", "postgresql"));
    }
    complain(&missing)
}

/// Those of these programs that are not here, each with the package that it is in.
#[must_use]
pub fn absent(programs: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    programs.iter().filter(|(program, _)| find(program).is_none()).copied().collect()
}

/// Says which programs are missing, and the line that installs them.
///
/// # Errors
/// When one is.
pub fn complain(missing: &[(&str, &str)]) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    let programs: Vec<_> = missing.iter().map(|(program, _)| *program).collect();
    let mut packages: Vec<_> = missing.iter().map(|(_, package)| *package).filter(|package| !package.contains(' ')).collect();
    packages.dedup();
    bail!(
        "these programs are missing: {}\ninstall them: sudo apt-get install --no-install-recommends {}",
        programs.join(", "),
        packages.join(" ")
    );
}

/// Whether the Go here is new enough.
///
/// # Errors
/// When there is none, or an older one.
pub fn check_go() -> Result<()> {
    let remedy = format!("install Go {}.{} or newer (https://go.dev/dl) and put it in PATH", GO_LEAST.0, GO_LEAST.1);
    let output = Command::new("go").args(["env", "GOVERSION"]).output();
    let output = output.with_context(|| format!("Kubernetes' components are built with Go, and there is no `go`: {remedy}"))?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    match go_version(&text) {
        Some(version) if version >= GO_LEAST => Ok(()),
        _ => bail!("Kubernetes' components are not built by {text}: {remedy}"),
    }
}

fn go_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.strip_prefix("go")?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_versions_are_read() {
        assert_eq!(go_version("go1.26.8"), Some((1, 26)));
        assert_eq!(go_version("go1.30"), Some((1, 30)));
        assert_eq!(go_version("devel"), None);
        assert_eq!(go_version(""), None);
    }
}
