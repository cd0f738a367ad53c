//! Running programs, with their time.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

/// A step of a chore.
pub(crate) struct Step<'a> {
    /// What it is called.
    pub(crate) name: &'static str,
    /// The program and its arguments.
    pub(crate) words: &'a [&'a str],
    /// Variables to set.
    pub(crate) environment: &'a [(&'a str, &'a str)],
}

impl Step<'_> {
    /// Runs it in `root`, its output shown.
    pub(crate) fn run(&self, root: &Path) -> Result<()> {
        let started = Instant::now();
        println!("==> {}: {}", self.name, self.words.join(" "));
        let status = self.command(root)?.status().with_context(|| format!("starting {}", self.words[0]))?;
        if !status.success() {
            bail!("{} failed ({status}): {}", self.name, self.words.join(" "));
        }
        println!("==> {}: {:.1} s", self.name, started.elapsed().as_secs_f64());
        Ok(())
    }

    fn command(&self, root: &Path) -> Result<Command> {
        let [program, arguments @ ..] = self.words else { bail!("{}: nothing to run", self.name) };
        let mut command = Command::new(program);
        command.args(arguments).current_dir(root).envs(self.environment.iter().copied());
        Ok(command)
    }
}

/// Runs a program in `root` and returns what it printed, whether or not it succeeded.
pub(crate) fn output(root: &Path, words: &[&str]) -> Result<(bool, String)> {
    let [program, arguments @ ..] = words else { bail!("nothing to run") };
    let output = Command::new(program).args(arguments).current_dir(root).stderr(std::process::Stdio::inherit()).output();
    let output = output.with_context(|| format!("starting {program}"))?;
    Ok((output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned()))
}
