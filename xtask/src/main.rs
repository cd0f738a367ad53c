//! The chores of this repository: `cargo xtask crds|test|bench`.

mod bench;
mod run;
mod test;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

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
    Test,
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

fn main() -> Result<()> {
    let root = root()?;
    match Arguments::parse().chore {
        Chore::Crds => crds(&root),
        Chore::Test => test::run(&root),
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
