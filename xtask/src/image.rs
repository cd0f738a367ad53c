//! `cargo xtask image`: Daisy's image archive, without Docker.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use daisy_kubernetes_tests::images;

use crate::run::command;

/// The most that the released image's archive may have: what a laptop pulls without a thought.
const SIZE_MAX: u64 = 30 << 20;

/// What is packed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Build {
    /// As it is released: one static file of the release profile.
    Static,
    /// The dev profile's, and its shared libraries: quick to build, for trying out.
    Dev,
}

/// Builds Daisy and packs it; returns the archive.
pub(crate) fn run(root: &Path, wanted: Build, output: Option<PathBuf>) -> Result<PathBuf> {
    let target = target(root);
    let version = env!("CARGO_PKG_VERSION");
    let (built, suffix) = match wanted {
        Build::Static => (build_static(root)?, ""),
        Build::Dev => (build(root, &["build", "--package", "daisy"])?.join("debug/daisy"), "-dev"),
    };
    let folder = target.join("image");
    let name = format!("daisy-{version}{suffix}.tar");
    let archive = output.unwrap_or_else(|| folder.join(name));
    images::daisy(&built, &folder.join("daisy"), &format!("daisy:{version}"), &archive)?;
    let size = archive.metadata()?.len();
    if wanted == Build::Static && size > SIZE_MAX {
        bail!("{} has {} MiB; it is to have at most {}", archive.display(), size >> 20, SIZE_MAX >> 20);
    }
    eprintln!("daisy:{version}, {:.1} MiB", size as f64 / f64::from(1 << 20));
    Ok(archive)
}

/// Where cargo puts what it builds.
pub(crate) fn target(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from)
}

fn build(root: &Path, words: &[&str]) -> Result<PathBuf> {
    let status = command("cargo").args(words).current_dir(root).status().context("starting cargo")?;
    if !status.success() {
        bail!("cargo {} failed ({status})", words.join(" "));
    }
    Ok(target(root))
}

/// A release build that needs no library of the system. Only the program itself is compiled with the flag, so that all else is what
/// `cargo build --release` has made already.
fn build_static(root: &Path) -> Result<PathBuf> {
    let words = ["rustc", "--release", "--package", "daisy", "--bin", "daisy", "--", "-Ctarget-feature=+crt-static"];
    Ok(build(root, &words)?.join("release/daisy"))
}
