//! The tests: every case on one bed, one after the other, each with its time.

mod bad_input;
mod laptop;
mod others;
mod page;
mod pattern;
mod stage;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use daisy_kubernetes_tests::suite::{CaseOf, Report, case, needed};

use crate::bed::{self, Bed};
use stage::Stage;

/// Daisy, built.
#[derive(Debug, Clone)]
pub struct Daisy {
    /// The image's archive.
    pub image: PathBuf,
    /// The `daisy` that is typed.
    pub program: PathBuf,
    /// The repository.
    pub repository: PathBuf,
}

/// What is to be tested, and where.
#[derive(Debug, Clone)]
pub struct Options {
    /// The bed.
    pub bed: bed::Options,
    /// Take a bed that is up, if one of that name is, and leave it up.
    pub keep: bool,
    /// Only the cases whose names contain one of these.
    pub only: Vec<String>,
    /// What is tested.
    pub daisy: Daisy,
}

/// One case of this suite's.
type Case = CaseOf<Stage>;

/// All cases, in their order.
fn cases() -> Vec<Case> {
    let mut cases = pattern::begin();
    cases.extend(pattern::cases());
    cases.extend(bad_input::cases());
    cases.extend(laptop::cases());
    cases.extend(others::cases());
    cases.extend(pattern::end());
    cases
}

/// Puts Daisy onto the bed: the program into the path; the image's archive, and the repository's kind/, into the developer's folder.
///
/// # Errors
/// When it cannot be copied.
pub fn offer(bed: &Bed, daisy: &Daisy) -> Result<()> {
    bed.offer(&daisy.program, "daisy")?;
    std::fs::copy(&daisy.image, bed.work().join("daisy.tar")).context("copying Daisy's image")?;
    let kind = bed.work().join("kind");
    if !kind.exists() {
        std::os::unix::fs::symlink(daisy.repository.join("kind"), kind).context("linking kind/")?;
    }
    Ok(())
}

/// Runs them.
///
/// # Errors
/// When a case fails, after all that can be run have been.
pub fn run(options: &Options) -> Result<()> {
    let started = Instant::now();
    let bed = match Bed::open(&options.bed.name) {
        Ok(bed) if options.keep => bed,
        _ => bed::up(&options.bed)?,
    };
    offer(&bed, &options.daisy)?;
    println!("bed {} is up after {:.1} s; logs: {}", options.bed.name, started.elapsed().as_secs_f64(), bed.logs().display());
    let mut report = Report::new();
    let logs = bed.logs();
    let mut stage = Stage { bed, options: options.clone(), corefile: String::new() };
    // What others need stands already on a bed that was kept.
    let stands = options.keep && stage.has("local")?;
    let cases = cases().into_iter().filter(|case| !(case.needed && stands));
    if report.run_all(cases, &options.only, &mut stage) == 0 {
        bail!("no case's name contains any of {:?}", options.only);
    }
    if !options.keep {
        report.run("bed: down leaves nothing", || bed::down(&options.bed.name));
    }
    report.end(started.elapsed(), &logs)
}
