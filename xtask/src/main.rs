//! The chores of this repository: `cargo xtask crds|test|bench`.

use std::path::Path;

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
}

fn main() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    match Arguments::parse().chore {
        Chore::Crds => crds(&root),
    }
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
