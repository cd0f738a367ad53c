//! Running programs on a bed's hosts.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

use super::{Bed, init, state};

impl Bed {
    /// A command on a host, or on a cluster's control plane by the cluster's name; in the bed's work folder, with KUBECONFIG set to
    /// what works there, and with Daisy and Kubernetes' own programs in its path.
    ///
    /// # Errors
    /// When there is no such host, or it does not run.
    pub fn command<S: AsRef<std::ffi::OsStr>>(&self, place: &str, words: &[S]) -> Result<Command> {
        let host = self.host_of(place)?;
        let pid = init::find(&self.folder, init::HOST, Some(&host));
        let pid = pid.with_context(|| format!("bed {}: host {host} does not run", self.plan.name))?;
        let work = self.folder.join("work");
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={pid}")).args(["--mount", "--uts", "--net", "--pid"]);
        command.arg(format!("--wd={}", work.display())).arg("--").args(words);
        command.env("PATH", self.path()).env("KUBECONFIG", self.inside_kubeconfig());
        Ok(command)
    }

    /// Runs a command on a host; what it prints, if it succeeds.
    ///
    /// # Errors
    /// When it cannot be started, or fails.
    pub fn run<S: AsRef<std::ffi::OsStr>>(&self, place: &str, words: &[S]) -> Result<String> {
        let shown = shown(words);
        let output = self
            .command(place, words)?
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("starting {shown} on {place}"))?;
        succeeded(&format!("{shown} on {place}"), &output)
    }

    /// kubectl, as the administrator of a cluster, on this machine; what it prints, if it succeeds.
    ///
    /// # Errors
    /// When it fails.
    pub fn kubectl<S: AsRef<std::ffi::OsStr>>(&self, cluster: &str, words: &[S]) -> Result<String> {
        let output = self.kubectl_command(cluster, words).stdin(Stdio::null()).output().context("starting kubectl")?;
        succeeded(&format!("kubectl {} in {cluster}", shown(words)), &output)
    }

    /// Applies YAML to a cluster.
    ///
    /// # Errors
    /// When kubectl refuses it.
    pub fn apply(&self, cluster: &str, yaml: &str) -> Result<String> {
        use std::io::Write;
        let mut command = self.kubectl_command(cluster, &["apply", "-f", "-"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("starting kubectl")?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(yaml.as_bytes()).context("writing to kubectl")?;
        }
        succeeded(&format!("kubectl apply in {cluster}"), &child.wait_with_output()?)
    }

    /// kubectl, as the administrator of a cluster, on this machine.
    #[must_use]
    pub fn kubectl_command<S: AsRef<std::ffi::OsStr>>(&self, cluster: &str, words: &[S]) -> Command {
        let mut command = Command::new(self.folder.join(state::COMPONENTS).join("kubectl"));
        command.arg("--kubeconfig").arg(self.kubeconfig()).args(["--context", cluster]).args(words);
        command.env("HOME", self.folder.join("work"));
        command
    }

    /// Puts a program of this machine into the path of commands on hosts.
    ///
    /// # Errors
    /// When it cannot be linked to.
    pub fn offer(&self, program: &Path, name: &str) -> Result<()> {
        let at = self.folder.join("work/bin").join(name);
        match std::fs::remove_file(&at) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error).context("removing the one before"),
            _ => {}
        }
        // A symbolic link would lead into folders of this machine that hosts do not see.
        if std::fs::hard_link(program, &at).is_err() {
            std::fs::copy(program, &at).with_context(|| format!("copying {}", program.display()))?;
        }
        Ok(())
    }

    fn host_of(&self, place: &str) -> Result<String> {
        if let Ok(cluster) = self.plan.cluster(place) {
            return Ok(cluster.control_plane());
        }
        if self.plan.role(place).is_some() {
            return Ok(place.to_owned());
        }
        let hosts: Vec<_> = self.plan.hosts().into_iter().map(|(name, _)| name).collect();
        bail!("bed {}: no host or cluster {place:?}; there are {}", self.plan.name, hosts.join(", "))
    }
}

/// A command line, for people.
pub fn shown<S: AsRef<std::ffi::OsStr>>(words: &[S]) -> String {
    words.iter().map(|w| w.as_ref().to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// What a program printed, or an error with all that it said.
///
/// # Errors
/// When it failed.
pub fn succeeded(what: &str, output: &Output) -> Result<String> {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if !output.status.success() {
        bail!("{what}: {}: {} {}", output.status, out.trim(), err.trim());
    }
    Ok(out.into_owned())
}
