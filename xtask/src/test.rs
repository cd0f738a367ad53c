//! `cargo xtask test`: everything that can fail, cheapest first.

use std::path::Path;

use anyhow::{Result, bail};
use serde_json::Value;

use crate::run::{Step, output};

/// Runs everything; the first failure ends it.
pub(crate) fn run(root: &Path) -> Result<()> {
    let steps = [
        Step { name: "formatting", words: &["cargo", "fmt", "--all", "--check"], environment: &[] },
        Step {
            name: "lints",
            words: &["cargo", "clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"],
            environment: &[],
        },
        Step {
            name: "docs",
            words: &["cargo", "doc", "--workspace", "--no-deps", "--quiet"],
            environment: &[("RUSTDOCFLAGS", "-D warnings")],
        },
        Step { name: "release build", words: &["cargo", "build", "--release", "--quiet"], environment: &[] },
        Step {
            name: "unit, property, simulation and network-namespace tests",
            words: &["cargo", "test", "--release", "--workspace", "--quiet"],
            environment: &[],
        },
    ];
    for step in steps {
        step.run(root)?;
    }
    walk(root)
}

/// The lab's walk itself, two ways: as it comes, and larger.
fn walk(root: &Path) -> Result<()> {
    let daisy = crate::image::target(root).join("release/daisy");
    let daisy = daisy.to_string_lossy();
    let mut passed = 0;
    for shape in [&["--clusters", "2", "--nodes", "2"], &["--clusters", "3", "--nodes", "1"]] {
        println!("==> walk: daisy lab {}", shape.join(" "));
        let mut words = vec![&*daisy, "lab", "--json"];
        words.extend(shape.iter());
        let (ok, text) = output(root, &words)?;
        for line in text.lines().filter(|line| line.starts_with('{')) {
            let step: Value = serde_json::from_str(line)?;
            let mark = if step["ok"] == true { "ok" } else { "FAILED" };
            println!(
                "walk {}: {mark} ({} ms) {}",
                step["step"].as_str().unwrap_or("?"),
                step["ms"],
                step["detail"].as_str().unwrap_or("")
            );
            passed += i32::from(step["ok"] == true);
        }
        if !ok {
            bail!("the walk failed; `daisy lab {}` shows it again", shape.join(" "));
        }
    }
    println!("\n{passed} passed, 0 failed");
    Ok(())
}
