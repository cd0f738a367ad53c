//! `cargo xtask bench NAME`: each number that the documents name, from a command.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde::Serialize;
use serde_json::Value;

use crate::run::{Step, output};

/// What can be measured.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Name {
    /// The lab: from nothing to the first remote answer, export to remote answer, each role's memory.
    Lab,
    /// A clean release build.
    Build,
    /// The simulation: seeds × steps a minute.
    Sim,
    /// Real Kubernetes: join, export to first remote connection, a change among a thousand exports, a steady state. Wants root.
    Kubernetes,
}

/// A row of the table.
#[derive(Serialize)]
struct Row {
    work: String,
    who: String,
    value: f64,
    unit: String,
}

impl Row {
    fn new(work: &str, who: &str, value: f64, unit: &str) -> Self {
        Self { work: work.to_owned(), who: who.to_owned(), value, unit: unit.to_owned() }
    }
}

/// Measures and prints.
pub(crate) fn run(root: &Path, name: Name, json: bool) -> Result<()> {
    let rows = match name {
        Name::Lab => lab(root)?,
        Name::Build => build(root)?,
        Name::Sim => sim(root)?,
        Name::Kubernetes => kubernetes(root)?,
    };
    for row in rows {
        if json {
            println!("{}", serde_json::to_string(&row)?);
        } else {
            println!("{:<56} {:<24} {:>12.1} {}", row.work, row.who, row.value, row.unit);
        }
    }
    Ok(())
}

fn release(root: &Path) -> Result<()> {
    Step { name: "release build", words: &["cargo", "build", "--release", "--quiet"], environment: &[] }.run(root)
}

/// The median over runs of the walk, and the largest memory of each role.
fn lab(root: &Path) -> Result<Vec<Row>> {
    const RUNS: usize = 5;
    release(root)?;
    let daisy = root.join("target/release/daisy");
    let mut measured: std::collections::BTreeMap<(String, String, String), Vec<f64>> = std::collections::BTreeMap::new();
    for _ in 0..RUNS {
        let (ok, text) = output(root, &[&daisy.to_string_lossy(), "lab", "--json"])?;
        if !ok {
            bail!("the walk failed, so there is nothing to measure; run `daisy lab`");
        }
        for line in text.lines() {
            let step: Value = serde_json::from_str(line).with_context(|| format!("the lab printed {line:?}"))?;
            for number in step["numbers"].as_array().into_iter().flatten() {
                let word = |key: &str| number[key].as_str().unwrap_or_default().to_owned();
                let key = (word("work"), word("who"), word("unit"));
                measured.entry(key).or_default().push(number["value"].as_f64().unwrap_or(f64::NAN));
            }
        }
    }
    let mut rows = Vec::new();
    for ((work, who, unit), mut values) in measured {
        values.sort_by(f64::total_cmp);
        let (least, median, most) = (values[0], values[values.len() / 2], values[values.len() - 1]);
        rows.push(Row {
            work: format!("{work}, median of {}", values.len()),
            who: who.clone(),
            value: median,
            unit: unit.clone(),
        });
        if (least - most).abs() > f64::EPSILON {
            rows.push(Row { work: format!("{work}, least"), who: who.clone(), value: least, unit: unit.clone() });
            rows.push(Row { work: format!("{work}, most"), who, value: most, unit });
        }
    }
    Ok(rows)
}

/// A clean release build into a folder of its own, which is removed.
fn build(root: &Path) -> Result<Vec<Row>> {
    let target = root.join("target/bench-build");
    let _ = std::fs::remove_dir_all(&target);
    // Fetched beforehand: it is the build that is measured, not the network.
    Step { name: "fetch", words: &["cargo", "fetch", "--locked"], environment: &[] }.run(root)?;
    let started = Instant::now();
    let folder = target.to_string_lossy().into_owned();
    let step = Step {
        name: "clean release build",
        words: &["cargo", "build", "--release", "--locked", "--quiet"],
        environment: &[("CARGO_TARGET_DIR", &folder)],
    };
    step.run(root)?;
    let seconds = started.elapsed().as_secs_f64();
    let size = std::fs::metadata(target.join("release/daisy"))?.len();
    std::fs::remove_dir_all(&target)?;
    #[expect(clippy::cast_precision_loss, reason = "a file size in MiB")]
    let mebibytes = size as f64 / 1_048_576.0;
    Ok(vec![Row::new("clean release build", "cargo", seconds, "s"), Row::new("size of the binary", "daisy", mebibytes, "MiB")])
}

fn kubernetes(root: &Path) -> Result<Vec<Row>> {
    let measured = crate::kubernetes::bench(root)?;
    Ok(measured.iter().map(|one| Row::new(&one.work, &one.who, one.value, one.unit)).collect())
}

fn sim(root: &Path) -> Result<Vec<Row>> {
    let words = ["cargo", "run", "--release", "--quiet", "--package", "daisy-sim", "--", "--json"];
    let (ok, text) = output(root, &words)?;
    if !ok {
        bail!("the simulation failed; it printed the seed above");
    }
    let report: Value =
        serde_json::from_str(text.lines().last().unwrap_or_default()).context("reading the simulation's report")?;
    let number = |key: &str| report[key].as_f64().with_context(|| format!("the simulation's report has no {key}"));
    let steps = number("seeds")? * number("steps")?;
    Ok(vec![
        Row::new("seeds", "daisy-sim", number("seeds")?, "seeds"),
        Row::new("steps a seed", "daisy-sim", number("steps")?, "steps"),
        Row::new("seeds × steps a minute", "daisy-sim", steps * 60.0 / number("seconds")?, "steps/min"),
    ])
}
