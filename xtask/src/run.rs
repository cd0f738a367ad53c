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
        let mut command = command(program);
        command.args(arguments).current_dir(root).envs(self.environment.iter().copied());
        Ok(command)
    }
}

/// A program as it runs from a shell: without what the cargo that runs this one says of this package, by which build scripts (ring's, for
/// one) would be run anew, and everything that depends on them be built anew, each time one goes from `cargo build` to `cargo xtask`
/// and back.
pub(crate) fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    let of_a_package = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"];
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    for name in names.filter(|name| name == "CARGO" || of_a_package.iter().any(|part| name.starts_with(part))) {
        command.env_remove(name);
    }
    command
}

/// Runs a program in `root` and returns what it printed, whether or not it succeeded.
pub(crate) fn output(root: &Path, words: &[&str]) -> Result<(bool, String)> {
    let [program, arguments @ ..] = words else { bail!("nothing to run") };
    let output = command(program).args(arguments).current_dir(root).stderr(std::process::Stdio::inherit()).output();
    let output = output.with_context(|| format!("starting {program}"))?;
    Ok((output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned()))
}
