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
        let outcome = match (lacking, test()) {
            (true, Ok(())) => Err(anyhow!("it passes, and is listed as lacking: make it a case like the others")),
            (_, outcome) => outcome,
        };
        let took = started.elapsed().as_secs_f64();
        match outcome {
            Ok(()) => {
                self.passed += 1;
                println!("ok      {took:6.1} s  {name}");
                true
            }
            Err(error) if lacking && !error.to_string().starts_with("it passes") => {
                self.lacking.push(name);
                println!("lacks   {took:6.1} s  {name}\n    {}", format!("{error:#}").replace('\n', "\n    "));
                true
            }
            Err(error) => {
                self.failed.push(name);
                println!("FAILED  {took:6.1} s  {name}\n    {}", format!("{error:#}").replace('\n', "\n    "));
                false
            }
        }
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
