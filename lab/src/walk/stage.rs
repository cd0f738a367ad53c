//! Where the walk stands: the lab, a client for each cluster, and the ways to type and to look.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kube::Client;

use super::report::{Failed, Report};
use super::tools::Fetched;
use crate::machine::{Lab, Output};
use crate::protocol::Command;

/// The pod in which the walk's user of each cluster works.
pub(crate) const CLIENT: &str = "client";

/// The lab and the report of what happens in it.
pub(crate) struct Stage<'a> {
    pub(crate) lab: &'a Lab,
    pub(crate) report: Report,
    pub(crate) clients: BTreeMap<String, Client>,
}

impl Stage<'_> {
    /// A client of the cluster's API server.
    pub(crate) fn client(&self, cluster: &str) -> Result<Client, Failed> {
        let found = self.clients.get(cluster).cloned();
        found.ok_or_else(|| Failed::new(format!("a client for {cluster}"), "none was made"))
    }

    /// The clusters' names, staging first, local second.
    pub(crate) fn clusters(&self) -> Vec<String> {
        self.lab.plan().clusters.iter().map(|c| c.name.to_string()).collect()
    }

    /// Runs a command, without reporting it.
    pub(crate) async fn look(&self, place: &str, words: &[&str]) -> Result<Output, Failed> {
        let arguments = words.iter().map(|w| (*w).to_owned()).collect();
        let command = Command { place: place.to_owned(), arguments, ..Command::default() };
        Ok(self.lab.run(&command).await?)
    }

    /// Types a command, reports it, and returns what came of it.
    pub(crate) async fn try_type(&mut self, place: &str, words: &[&str]) -> Result<Output, Failed> {
        let started = Instant::now();
        let output = self.look(place, words).await?;
        self.report.command(place, &words.join(" "), started.elapsed());
        Ok(output)
    }

    /// Types a command that must succeed.
    pub(crate) async fn type_(&mut self, place: &str, words: &[&str]) -> Result<Output, Failed> {
        let output = self.try_type(place, words).await?;
        succeeded(words, &output)?;
        Ok(output)
    }

    /// What the system's own `getent hosts` says in a pod: the address and the name that was found.
    pub(crate) async fn getent(&self, place: &str, name: &str) -> Result<Option<(String, String)>, Failed> {
        let output = self.look(place, &["getent", "hosts", name]).await?;
        let mut words = output.stdout.split_whitespace().map(str::to_owned);
        Ok(match (words.next(), words.next()) {
            (Some(address), Some(found)) if output.code == 0 => Some((address, found)),
            _ => None,
        })
    }

    /// An HTTP request from a pod: what answered, or why nothing did.
    pub(crate) async fn fetch(&self, place: &str, host: &str, timeout: Duration) -> Result<Result<Fetched, String>, Failed> {
        self.fetch_within(place, host, timeout, Duration::ZERO).await
    }

    /// The same, tried again until `retry` is over.
    pub(crate) async fn fetch_within(
        &self,
        place: &str,
        host: &str,
        timeout: Duration,
        retry: Duration,
    ) -> Result<Result<Fetched, String>, Failed> {
        let (timeout, retry) = (timeout.as_millis().to_string(), retry.as_millis().to_string());
        let output = self.look(place, &["daisy", "lab-internal", "fetch", host, &timeout, &retry]).await?;
        if output.code != 0 {
            return Ok(Err(output.stderr.lines().last().unwrap_or("nothing").to_owned()));
        }
        let parsed = serde_json::from_str(&output.stdout);
        Ok(parsed.map_err(|error| format!("{error}: {:?}", output.stdout)))
    }

    /// Looks again until it is so, or the time is over; returns what was then seen and how long it took.
    pub(crate) async fn until<T>(
        &self,
        limit: Duration,
        expected: &str,
        look: impl AsyncFn() -> Result<Result<T, String>, Failed>,
    ) -> Result<(T, Duration), Failed> {
        let started = Instant::now();
        loop {
            match look().await? {
                Ok(seen) => return Ok((seen, started.elapsed())),
                Err(saw) if started.elapsed() > limit => {
                    return Err(Failed::new(expected, format!("{saw}, still after {} s", limit.as_secs())));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }
}

/// Fails where a command did.
pub(crate) fn succeeded(words: &[&str], output: &Output) -> Result<(), Failed> {
    if output.code == 0 {
        return Ok(());
    }
    let said = if output.stderr.trim().is_empty() { &output.stdout } else { &output.stderr };
    Err(Failed::new(format!("`{}` to succeed", words.join(" ")), format!("exit code {}: {}", output.code, said.trim())))
}

/// Fails unless both are the same.
pub(crate) fn same(what: &str, expected: &str, saw: &str) -> Result<(), Failed> {
    if expected == saw { Ok(()) } else { Err(Failed::new(format!("{what}: {expected}"), saw)) }
}
