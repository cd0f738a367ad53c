//! The chores of this repository: `cargo xtask crds|test|bench`.

mod arguments;
mod bench;
mod image;
mod kind;
mod kubernetes;
mod run;
mod test;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

use crate::arguments::Daisy;

#[derive(Parser)]
#[command(about = "The chores of this repository")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Writes manifests/crds from the types in api/.
    Crds,
    /// Every test: formatting, lints, docs, unit and property tests, the simulation, the embedded server, the walk.
    Test {
        /// Only these; else all but those on Kubernetes.
        #[command(subcommand)]
        what: Option<What>,
    },
    /// Makes Daisy's image archive, `daisy:VERSION`, without Docker, and prints its path.
    Image {
        #[command(flatten)]
        daisy: Daisy,
        /// The file to write; else one in target/image.
        #[arg(long)]
        output: Option<PathBuf>,
    },
    /// Real clusters on this machine, in network namespaces.
    #[command(subcommand)]
    Kubernetes(kubernetes::Bed),
    /// Clusters of kind on this machine, on a Docker of their own.
    #[command(subcommand)]
    Kind(kind::Bed),
    /// Measures, and prints a table: work, who, value, unit.
    Bench {
        /// What to measure.
        #[arg(value_enum)]
        name: bench::Name,
        /// Print one JSON object a row.
        #[arg(long)]
        json: bool,
    },
}

/// Tests that want something of their own.
#[derive(Subcommand)]
enum What {
    /// On real Kubernetes: brings a bed up, runs every case, takes it down. Wants root.
    Kubernetes(kubernetes::Test),
    /// On kind: brings a Docker of its own up, runs every case, takes it down. Wants root.
    Kind(kind::Test),
}

fn main() -> Result<()> {
    let root = root()?;
    match Arguments::parse().chore {
        Chore::Crds => crds(&root),
        Chore::Test { what: None } => test::run(&root),
        Chore::Test { what: Some(What::Kubernetes(options)) } => kubernetes::test(&root, options),
        Chore::Test { what: Some(What::Kind(options)) } => kind::test(&root, options),
        Chore::Image { daisy, output } => {
            println!("{}", image::run(&root, daisy.build(), output)?.display());
            Ok(())
        }
        Chore::Kubernetes(chore) => kubernetes::run(&root, chore),
        Chore::Kind(chore) => kind::run(&root, chore),
        Chore::Bench { name, json } => bench::run(&root, name, json),
    }
}

fn root() -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    root.canonicalize().with_context(|| format!("finding the repository at {}", root.display()))
}

fn crds(root: &Path) -> Result<()> {
    let folder = root.join("manifests/crds");
    std::fs::create_dir_all(&folder)?;
    for (name, crd) in daisy_api::crds::files() {
        let path = folder.join(&name);
        std::fs::write(&path, daisy_api::yaml::to_string(&crd)?).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}
