//! The tests: every case on one bed, one after the other, each with its time.

mod availability;
mod bed_itself;
mod bench;
mod dataplane;
mod discovery;
mod dual_stack;
mod kubernetes_broker;
mod report;
mod stack;
mod stage;
mod supercluster;
mod walk;
mod workloads;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;

use crate::bed::{self, Bed};
use crate::programs;
pub use bench::{Measured, bench};
pub use report::{Case as CaseOf, Report, case, needed};
use stage::Stage;
pub use stage::{SOON, same, until};
pub use supercluster::ready_after;

/// What is to be tested, and where.
#[derive(Debug, Clone)]
pub struct Options {
    /// The bed's name.
    pub bed: String,
    /// Take a bed that is up, if one of that name is, and leave it up.
    pub keep: bool,
    /// Only the cases whose names contain one of these.
    pub only: Vec<String>,
    /// Daisy's image archive.
    pub image: PathBuf,
    /// The image's name in manifests.
    pub image_name: String,
    /// The `daisy` that is typed on the clusters' hosts.
    pub daisy: PathBuf,
    /// The broker's suite of hostile tests, built.
    pub hostile: Option<PathBuf>,
}

/// One case of this suite's.
type Case = report::Case<Stage>;

/// All cases, in their order.
fn cases() -> Vec<Case> {
    let mut cases = bed_itself::before();
    cases.extend(supercluster::begin());
    cases.extend(walk::cases());
    cases.extend(dataplane::cases());
    cases.extend(availability::cases());
    cases.extend(stack::cases());
    cases.extend(discovery::cases());
    cases.extend(dual_stack::cases());
    cases.extend(supercluster::end());
    cases.extend(kubernetes_broker::cases());
    cases.extend(bed_itself::after());
    cases
}

/// Runs them.
///
/// # Errors
/// When a case fails, after all that can be run have been.
pub fn run(options: &Options) -> Result<()> {
    programs::check_tests()?;
    let started = Instant::now();
    let bed = match Bed::open(&options.bed) {
        Ok(bed) if options.keep => bed,
        _ => bed::up(&bed::Options { name: options.bed.clone(), clusters: 3, nodes: 2, nat: 2 })?,
    };
    println!("bed {} is up after {:.1} s; logs: {}", options.bed, started.elapsed().as_secs_f64(), bed.logs().display());
    let mut report = Report::new();
    let mut stage = Stage::new(bed, options)?;
    report.run_all(cases(), &options.only, &mut stage);
    if !options.keep {
        report.run("bed: down leaves nothing", || bed::down(&options.bed));
    }
    report.end(started.elapsed(), &stage.logs())
}
