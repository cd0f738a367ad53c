//! The `daisy` binary: every role that runs in a cluster, and every command that a user types.
//!
//! ```text
//! arguments ──▶ commands::*  (a user's command: talks to Kubernetes API servers, prints, ends)
//!          └──▶ roles        (syncer, gateway, route-agent, dns, broker, registrar: run until told to stop)
//!          └──▶ daisy_lab    (a supercluster on this machine)
//! ```

mod arguments;
mod commands;
mod connect;
mod health;
mod manifests;
mod output;
mod preflight;
mod progress;
mod roles;
mod rollout;

use std::process::ExitCode;

use arguments::{Arguments, Command};
use clap::Parser;

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    if let [first, rest @ ..] = words.as_slice()
        && first == "lab-internal"
    {
        return daisy_lab::internal_main(rest);
    }
    let arguments = Arguments::parse();
    // The lab makes namespaces of its own before any thread starts, and so before a runtime does.
    if let Command::Lab(lab) = arguments.command {
        return commands::lab::run(lab);
    }
    let result = runtime(arguments.command);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::error(&error);
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn runtime(command: Command) -> anyhow::Result<()> {
    commands::run(command).await
}
