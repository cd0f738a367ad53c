//! `daisy lab`, and what works on a lab that is up: `exec`, `status`, `down`.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::time::Instant;

use crate::internal;
use crate::machine::{Lab, LabError, StartOptions, can_tunnel};
use crate::plan::Plan;
use crate::protocol::Command;
use crate::state::{Found, list};
use crate::walk;

/// How large a lab is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// How many clusters: `staging`, `local`, `c3` and so on.
    pub clusters: u8,
    /// How many nodes each has.
    pub nodes: u8,
}

/// What is asked of the lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Brings a lab up and walks through it.
    Walk {
        /// How large.
        shape: Shape,
        /// One JSON object a step, for programs.
        json: bool,
        /// Leaves it up afterwards.
        keep: bool,
    },
    /// Runs a command in a lab that is up.
    Exec {
        /// Which, when more than one is up.
        lab: Option<String>,
        /// Where, as [`Command::place`] has it.
        place: String,
        /// The command and its arguments.
        command: Vec<String>,
    },
    /// Lists the labs that are up, and removes what killed ones left.
    Status,
    /// Ends a lab.
    Down {
        /// Which, when more than one is up.
        lab: Option<String>,
    },
}

/// Does what is asked. Must be called from `main`, before any other thread is started.
#[must_use]
pub fn run(request: Request) -> ExitCode {
    let done = match request {
        Request::Walk { shape, json, keep } => walk(shape, json, keep),
        Request::Exec { lab, place, command } => on_runtime(exec(lab, place, command)),
        Request::Status => status(),
        Request::Down { lab } => on_runtime(down(lab)),
    };
    done.unwrap_or_else(|e| {
        eprintln!("error: {e:#}");
        ExitCode::FAILURE
    })
}

fn on_runtime(work: impl Future<Output = Result<ExitCode, LabError>>) -> anyhow::Result<ExitCode> {
    Ok(internal::runtime()?.block_on(work)?)
}

fn walk(shape: Shape, json: bool, keep: bool) -> anyhow::Result<ExitCode> {
    let started = Instant::now();
    let plan = Plan::new(shape.clusters.into(), shape.nodes.into())?;
    // Before anything is made: without it the gateways never come up, and the walk only waits for them.
    can_tunnel()?;
    let lab = Lab::start(&plan, &StartOptions { name: None, keep })?;
    let runtime = internal::runtime()?;
    let well = runtime.block_on(async {
        tokio::select! {
            well = walk::run(&lab, json, started) => Some(well),
            () = internal::terminated() => None,
        }
    });
    if keep && !json {
        println!("{}", how_to_use(&lab));
    }
    let code = match well {
        Some(true) => ExitCode::SUCCESS,
        // What happened is in the logs; a kept lab has its folder anyway.
        Some(false) => {
            if !keep {
                lab.keep_logs()?;
            }
            ExitCode::FAILURE
        }
        None => ExitCode::from(130),
    };
    Ok(code)
}

/// What to do with a lab that is left up.
fn how_to_use(lab: &Lab) -> String {
    let name = lab.name();
    let first = lab.plan().clusters.first().map(|c| c.name.to_string()).unwrap_or_default();
    format!(
        "\nlab {name} is up:\n  daisy lab exec {first} -- daisy show all\n  KUBECONFIG={} kubectl --context {first} get daisy -A\n  \
         daisy lab down",
        lab.kubeconfig().display(),
    )
}

async fn exec(lab: Option<String>, place: String, arguments: Vec<String>) -> Result<ExitCode, LabError> {
    let lab = Lab::open(lab.as_deref())?;
    let command = Command { place, arguments, ..Command::default() };
    let stdio = stdio().map_err(|e| LabError::Refused(format!("the standard streams: {e}")))?;
    tokio::select! {
        code = lab.exec(&command, stdio) => Ok(u8::try_from(code?).map_or(ExitCode::FAILURE, ExitCode::from)),
        // Dropping the request kills the command.
        () = internal::terminated() => Ok(ExitCode::from(130)),
    }
}

fn stdio() -> io::Result<[OwnedFd; 3]> {
    Ok([
        io::stdin().as_fd().try_clone_to_owned()?,
        io::stdout().as_fd().try_clone_to_owned()?,
        io::stderr().as_fd().try_clone_to_owned()?,
    ])
}

fn status() -> anyhow::Result<ExitCode> {
    let found = list()?;
    if found.is_empty() {
        println!("no lab is up");
    }
    for lab in found {
        match lab {
            Found::Up(state) => {
                let clusters = match state.description() {
                    Ok(description) => {
                        description.plan.clusters.iter().map(|c| format!("{} ({} nodes)", c.name, c.nodes)).collect()
                    }
                    // It has just been made.
                    Err(_) => Vec::new(),
                };
                println!("{}: up: {}; KUBECONFIG={}", state.name(), clusters.join(", "), state.kubeconfig().display());
            }
            Found::Failed(state) => println!("{}: failed; its logs are in {}", state.name(), state.logs().display()),
            Found::Removed(name) => println!("{name}: was killed; its folder is removed"),
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn down(name: Option<String>) -> Result<ExitCode, LabError> {
    // The folder of a failed run is all that there is of it.
    if let Some(name) = &name
        && let Some(Found::Failed(state)) = list()?.into_iter().find(|f| f.name() == name)
    {
        state.remove_with_logs()?;
        return Ok(ExitCode::SUCCESS);
    }
    let lab = Lab::open(name.as_deref())?;
    let name = lab.name().to_owned();
    lab.down().await?;
    println!("lab {name} is down");
    Ok(ExitCode::SUCCESS)
}
