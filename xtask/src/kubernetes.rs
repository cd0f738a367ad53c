//! `cargo xtask kubernetes`: real clusters on this machine.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use daisy_kubernetes_tests::{bed, components, suite};

use crate::arguments::{Daisy, Name};
use crate::image::Build;
use crate::run::output;

/// What to do with a bed.
#[derive(Subcommand)]
pub(crate) enum Bed {
    /// Brings real clusters up in network namespaces, and prints the path of a kubeconfig with a context for each.
    Up {
        #[command(flatten)]
        name: Name,
        /// How many clusters: staging, local, c3, …
        #[arg(long, default_value_t = 2)]
        clusters: usize,
        /// How many nodes in each.
        #[arg(long, default_value_t = 2)]
        nodes: usize,
        /// How many of the clusters, the last ones, are behind NAT.
        #[arg(long, default_value_t = 1)]
        nat: usize,
    },
    /// Puts an image archive on every node.
    LoadImage {
        #[command(flatten)]
        name: Name,
        /// The archive, as `docker save` or `cargo xtask image` makes it.
        archive: PathBuf,
        /// Only on the nodes of this cluster.
        #[arg(long)]
        cluster: Option<String>,
    },
    /// Runs a command on a host: a node, CLUSTER-router, internet, broker, or CLUSTER for its control plane.
    Exec {
        #[command(flatten)]
        name: Name,
        /// The host.
        place: String,
        /// The command and its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
    /// Lists the beds, their hosts and how much memory each takes.
    Status,
    /// Ends a bed and removes all of it.
    Down {
        #[command(flatten)]
        name: Name,
    },
    /// Builds the components, if they are not built yet, and prints their folder.
    Components,
    /// The first process of a bed.
    #[command(hide = true)]
    Hold { folder: PathBuf },
    /// The first process of a host.
    #[command(hide = true)]
    Host { folder: PathBuf, host: String },
}

/// Does it.
pub(crate) fn run(root: &Path, chore: Bed) -> Result<()> {
    match chore {
        Bed::Up { name: Name { name }, clusters, nodes, nat } => {
            let bed = bed::up(&bed::Options { name, clusters, nodes, nat })?;
            offer_daisy(root, &bed)?;
            println!("export KUBECONFIG={}", bed.kubeconfig().display());
            Ok(())
        }
        Bed::LoadImage { name, archive, cluster } => bed::Bed::open(&name.name)?.load_image(&archive, cluster.as_deref()),
        Bed::Exec { name, place, command } => {
            let bed = bed::Bed::open(&name.name)?;
            let status = bed.command(&place, &command)?.status().with_context(|| format!("starting {}", command[0]))?;
            std::process::exit(status.code().unwrap_or(128));
        }
        Bed::Status => {
            print!("{}", bed::status()?);
            Ok(())
        }
        Bed::Down { name } => bed::down(&name.name),
        Bed::Components => {
            println!("{}", components::build()?.display());
            Ok(())
        }
        Bed::Hold { folder } => bed::init::hold(&folder),
        Bed::Host { folder, host } => bed::init::host(&folder, &host),
    }
}

/// What of the tests on Kubernetes is wanted.
#[derive(clap::Args)]
pub(crate) struct Test {
    #[command(flatten)]
    name: Name,
    /// Leaves the bed up, and takes the one that is up: for trying again quickly.
    #[arg(long)]
    keep: bool,
    #[command(flatten)]
    daisy: Daisy,
    /// Only the cases whose names contain one of these, and those that all others need.
    only: Vec<String>,
}

/// Measures on a bed of its own.
pub(crate) fn bench(root: &Path) -> Result<Vec<suite::Measured>> {
    suite::bench(&built(root, Build::Static, "bench".to_owned())?)
}

/// What is run on a bed of this name, once it is built; the rest is for who asks for more.
fn built(root: &Path, wanted: Build, bed: String) -> Result<suite::Options> {
    Ok(suite::Options {
        bed,
        keep: false,
        only: Vec::new(),
        image: crate::image::run(root, wanted, None)?,
        image_name: format!("daisy:{}", env!("CARGO_PKG_VERSION")),
        daisy: crate::image::target(root).join("image/daisy"),
        hostile: None,
    })
}

/// Runs them.
pub(crate) fn test(root: &Path, options: Test) -> Result<()> {
    let built = built(root, options.daisy.build(), options.name.name)?;
    let hostile = Some(hostile(root, options.daisy.dev)?);
    suite::run(&suite::Options { keep: options.keep, only: options.only, hostile, ..built })
}

/// The broker's suite of hostile tests, as `cargo xtask test` builds it.
fn hostile(root: &Path, dev: bool) -> Result<PathBuf> {
    let profile: &[&str] = if dev { &["--package", "daisy-broker"] } else { &["--workspace", "--release"] };
    let words = [&["cargo", "test", "--no-run", "--quiet", "--test", "hostile", "--message-format=json"], profile].concat();
    let (ok, text) = output(root, &words)?;
    if !ok {
        bail!("{} failed", words.join(" "));
    }
    let messages = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let mut built =
        messages.filter(|m| m["target"]["name"] == "hostile").filter_map(|m| m["executable"].as_str().map(PathBuf::from));
    built.next().with_context(|| format!("{} built nothing", words.join(" ")))
}

/// Puts the `daisy` that was built last into the path of commands on the bed's hosts, so that it is what is tried out there.
fn offer_daisy(root: &Path, bed: &bed::Bed) -> Result<()> {
    let target = crate::image::target(root);
    let built = ["debug/daisy", "release/daisy"].map(|file| target.join(file));
    let newest = built.iter().filter_map(|file| Some((file.metadata().ok()?.modified().ok()?, file))).max();
    newest.map_or(Ok(()), |(_, file)| bed.offer(file, "daisy"))
}
