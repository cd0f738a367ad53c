//! `cargo xtask kind`: a developer's clusters beside staging, on a Docker of their own.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use daisy_kind_tests::{bed, suite};
use daisy_kubernetes_tests::components;

use crate::arguments::{Daisy, Name};
use crate::run::output;

/// What these tests are about, and what they are made of.
const FILES: [&str; 10] = [
    "cli",
    "docs/quickstart.md",
    "kind",
    "manifests",
    "tests/kind",
    "tests/kubernetes/components",
    "tests/kubernetes/src/components.rs",
    "tests/kubernetes/src/image.rs",
    "tests/kubernetes/src/images.rs",
    "tests/kubernetes/src/programs.rs",
];

/// What to do with a bed.
#[derive(Subcommand)]
pub(crate) enum Bed {
    /// Starts a Docker of its own, makes the node image if there is none, and runs kind/up there.
    Up {
        #[command(flatten)]
        name: Name,
        #[command(flatten)]
        daisy: Daisy,
        #[command(flatten)]
        nodes: Nodes,
        /// Only Docker and the node image: no cluster.
        #[arg(long)]
        bare: bool,
    },
    /// Runs kind/walk there.
    Walk {
        #[command(flatten)]
        name: Name,
    },
    /// Runs a command there: with docker, kind, kubectl and daisy in its path.
    Exec {
        #[command(flatten)]
        name: Name,
        /// The command and its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
    /// Ends all of it; nothing is left.
    Down {
        #[command(flatten)]
        name: Name,
    },
    /// Builds the components and makes the node image, if they are not there yet, and prints the image's path.
    NodeImage,
    /// The first process of a bed.
    #[command(hide = true)]
    Hold { folder: PathBuf, name: String },
    /// What its Docker runs containers by.
    #[command(hide = true)]
    Runtime {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<OsString>,
    },
}

/// Which nodes.
#[derive(clap::Args, Clone)]
pub(crate) struct Nodes {
    /// The nodes' image, to be pulled; else one is made on the spot.
    #[arg(long)]
    node_image: Option<String>,
}

/// Does it.
pub(crate) fn run(root: &Path, chore: Bed) -> Result<()> {
    match chore {
        Bed::Up { name, daisy, nodes, bare } => {
            let options = built(root, daisy)?;
            let bed = bed::up(&bed::Options { name: name.name, node_image: nodes.node_image })?;
            suite::offer(&bed, &options)?;
            if bare { Ok(()) } else { script(root, &bed, "up") }
        }
        Bed::Walk { name } => script(root, &bed::Bed::open(&name.name)?, "walk"),
        Bed::Exec { name, command } => {
            let status = bed::Bed::open(&name.name)?.command(&command)?.status();
            let status = status.with_context(|| format!("starting {}", command[0]))?;
            std::process::exit(status.code().unwrap_or(128));
        }
        Bed::Down { name } => bed::down(&name.name),
        Bed::NodeImage => {
            println!("{}", bed::node_image()?.display());
            Ok(())
        }
        Bed::Hold { folder, name } => bed::hold(&folder, &name),
        Bed::Runtime { words } => bed::runtime(&words),
    }
}

/// Runs a script of kind/ on the bed.
fn script(root: &Path, bed: &bed::Bed, name: &str) -> Result<()> {
    let file = root.join("kind").join(name);
    let status = bed.command(&[&file])?.status().with_context(|| format!("starting {}", file.display()))?;
    if !status.success() {
        bail!("{} failed ({status})", file.display());
    }
    Ok(())
}

fn built(root: &Path, daisy: Daisy) -> Result<suite::Daisy> {
    let image = crate::image::run(root, daisy.build(), None)?;
    Ok(suite::Daisy { image, program: crate::image::target(root).join("image/daisy"), repository: root.to_owned() })
}

/// What of the tests on kind is wanted.
#[derive(clap::Args)]
pub(crate) struct Test {
    #[command(flatten)]
    name: Name,
    /// Leaves the bed up, and takes the one that is up: for trying again quickly.
    #[arg(long)]
    keep: bool,
    #[command(flatten)]
    daisy: Daisy,
    #[command(flatten)]
    nodes: Nodes,
    /// Not when all cases have passed on this machine with the files that they are about: the install's and kind's.
    #[arg(long, conflicts_with_all = ["keep", "only", "dev", "node_image"])]
    if_changed: bool,
    /// Only the cases whose names contain one of these, and those that all others need.
    only: Vec<String>,
}

/// Runs them.
pub(crate) fn test(root: &Path, options: Test) -> Result<()> {
    let passed = components::cache()?.join("kind-passed");
    // Of a copy that is no clone nothing is known: there nothing is skipped, and nothing noted.
    let files = files(root).ok();
    if options.if_changed && files.is_some() && files == fs::read_to_string(&passed).ok() {
        println!("skipped: all cases on kind, which have passed here with the same {}", FILES.join(", "));
        return Ok(());
    }
    // What is released, on nodes that are made here: anything else has not passed.
    let whole = !options.keep && options.only.is_empty() && !options.daisy.dev && options.nodes.node_image.is_none();
    suite::run(&suite::Options {
        bed: bed::Options { name: options.name.name, node_image: options.nodes.node_image },
        keep: options.keep,
        only: options.only,
        daisy: built(root, options.daisy)?,
    })?;
    if let Some(files) = files.filter(|_| whole) {
        fs::write(&passed, files).with_context(|| format!("writing {}", passed.display()))?;
    }
    Ok(())
}

/// Each of these files as it is now, with a digest of what is in it.
fn files(root: &Path) -> Result<String> {
    let list = [&["git", "ls-files", "--cached", "--others", "--exclude-standard", "--"][..], &FILES].concat();
    let (ok, names) = output(root, &list)?;
    let names: Vec<&str> = names.lines().filter(|name| root.join(name).is_file()).collect();
    let (hashed, digests) = output(root, &[&["git", "hash-object", "--"], &names[..]].concat())?;
    if !ok || !hashed {
        bail!("git does not list this repository's files");
    }
    Ok(names.iter().zip(digests.lines()).map(|(name, digest)| format!("{digest} {name}\n")).collect())
}
