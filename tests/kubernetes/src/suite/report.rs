//! What has passed and what has not, as it is printed.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};

/// The outcomes so far.
pub(super) struct Report {
    passed: usize,
    lacking: Vec<&'static str>,
    failed: Vec<&'static str>,
}

impl Report {
    pub(super) fn new() -> Self {
        Self { passed: 0, lacking: Vec::new(), failed: Vec::new() }
    }

    /// Runs a case and prints how it went; whether it went as it should. One that is `lacking` should fail.
    pub(super) fn run(&mut self, name: &'static str, lacking: bool, test: impl FnOnce() -> Result<()>) -> bool {
        let started = Instant::now();
        let outcome = test();
        let took = started.elapsed().as_secs_f64();
        let (mark, error, list) = match (lacking, outcome) {
            (false, Ok(())) => {
                self.passed += 1;
                println!("ok      {took:6.1} s  {name}");
                return true;
            }
            (false, Err(error)) => ("FAILED", error, &mut self.failed),
            (true, Err(error)) => ("lacks", error, &mut self.lacking),
            (true, Ok(())) => ("FAILED", anyhow!("it passes: take it off what is lacking"), &mut self.failed),
        };
        list.push(name);
        println!("{mark:7} {took:6.1} s  {name}\n    {}", format!("{error:#}").replace('\n', "\n    "));
        mark == "lacks"
    }

    /// Sums up.
    pub(super) fn end(self, took: Duration, logs: &Path) -> Result<()> {
        let counts = (self.passed, self.failed.len(), self.lacking.len());
        println!("\n{} passed, {} failed, {} lacking, {:.0} s", counts.0, counts.1, counts.2, took.as_secs_f64());
        if self.failed.is_empty() {
            return Ok(());
        }
        bail!("failed: {}; logs: {}", self.failed.join("; "), logs.display())
    }
}
