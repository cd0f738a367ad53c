//! What has passed and what has not, as it is printed.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

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
