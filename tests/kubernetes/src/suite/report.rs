//! What has passed and what has not, as it is printed.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// One case: its name, and what it does on a stage.
pub struct Case<S> {
    /// What it is called.
    pub name: &'static str,
    /// What it does.
    pub test: fn(&mut S) -> Result<()>,
    /// Without it nothing after it means anything.
    pub needed: bool,
}

/// A case among others.
pub const fn case<S>(name: &'static str, test: fn(&mut S) -> Result<()>) -> Case<S> {
    Case { name, test, needed: false }
}

/// A case that all after it need.
pub const fn needed<S>(name: &'static str, test: fn(&mut S) -> Result<()>) -> Case<S> {
    Case { name, test, needed: true }
}

/// The outcomes so far.
#[derive(Default)]
pub struct Report {
    passed: usize,
    failed: Vec<&'static str>,
}

impl Report {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs a case and prints how it went; whether it went as it should.
    pub fn run(&mut self, name: &'static str, test: impl FnOnce() -> Result<()>) -> bool {
        let started = Instant::now();
        let outcome = test();
        let took = started.elapsed().as_secs_f64();
        match outcome {
            Ok(()) => {
                self.passed += 1;
                println!("ok      {took:6.1} s  {name}");
                true
            }
            Err(error) => {
                self.failed.push(name);
                println!("FAILED  {took:6.1} s  {name}\n    {}", format!("{error:#}").replace('\n', "\n    "));
                false
            }
        }
    }

    /// Runs those of these cases that are needed or whose names contain one of `only` (all, where that is empty), one after the other, and
    /// none after one that is needed and failed. How many ran.
    pub fn run_all<S>(&mut self, cases: impl IntoIterator<Item = Case<S>>, only: &[String], stage: &mut S) -> usize {
        let mut ran = 0;
        for case in cases {
            if !case.needed && !only.is_empty() && !only.iter().any(|part| case.name.contains(part)) {
                continue;
            }
            ran += 1;
            if !self.run(case.name, || (case.test)(stage)) && case.needed {
                break;
            }
        }
        ran
    }

    /// Sums up.
    ///
    /// # Errors
    /// When a case has failed.
    pub fn end(self, took: Duration, logs: &Path) -> Result<()> {
        println!("\n{} passed, {} failed, {:.0} s", self.passed, self.failed.len(), took.as_secs_f64());
        if self.failed.is_empty() {
            return Ok(());
        }
        bail!("failed: {}; logs: {}", self.failed.join("; "), logs.display())
    }
}
