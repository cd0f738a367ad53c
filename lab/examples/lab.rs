//! The lab without the rest of Daisy: `lab up [CLUSTERS [NODES]]` brings one up and waits for its standard input to close;
//! `lab exec PLACE COMMAND…`, `lab status` and `lab down` work on one that is up.

use std::ffi::OsString;
use std::io::Read;
use std::process::ExitCode;

use daisy_lab::front::{self, Request};
use daisy_lab::plan::Plan;
use daisy_lab::{Lab, StartOptions, internal_main};

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    if arguments.first().is_some_and(|a| a == "lab-internal") {
        return internal_main(&arguments[1..]);
    }
    let words: Vec<String> = arguments.iter().map(|a| a.to_string_lossy().into_owned()).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["up", rest @ ..] => up(rest, false),
        ["keep", rest @ ..] => up(rest, true),
        ["walk"] => front::run(Request::Walk { shape: front::Shape { clusters: 2, nodes: 2 }, json: false, keep: false }),
        ["exec", place, command @ ..] => front::run(Request::Exec {
            lab: None,
            place: (*place).to_owned(),
            command: command.iter().map(|w| (*w).to_owned()).collect(),
        }),
        ["status"] => front::run(Request::Status),
        ["down"] => front::run(Request::Down { lab: None }),
        ["down", name] => front::run(Request::Down { lab: Some((*name).to_owned()) }),
        _ => {
            eprintln!("lab up|keep [CLUSTERS [NODES]] | exec PLACE COMMAND… | status | down [LAB]");
            ExitCode::FAILURE
        }
    }
}

fn up(sizes: &[&str], keep: bool) -> ExitCode {
    let size = |n: usize| sizes.get(n).and_then(|s| s.parse().ok()).unwrap_or(2);
    let started =
        Plan::new(size(0), size(1)).map_err(Into::into).and_then(|plan| Lab::start(&plan, &StartOptions { name: None, keep }));
    let lab = match started {
        Ok(lab) => lab,
        Err(e) => {
            eprintln!("{e}");
            return ExitCode::FAILURE;
        }
    };
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("{e}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(lab.wait_up()) {
        Ok(up) => up.stages.iter().for_each(|(stage, at)| println!("{at:>6} ms  {stage}")),
        Err(e) => {
            eprintln!("{e}; logs in {}", lab.logs().display());
            return ExitCode::FAILURE;
        }
    }
    println!("{} {}", lab.name(), lab.kubeconfig().display());
    if !keep {
        // Until nobody wants it any more.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
    }
    ExitCode::SUCCESS
}
