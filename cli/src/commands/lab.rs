//! `daisy lab`: handed to the lab before any thread starts.

use std::process::ExitCode;

use daisy_lab::front::{Request, Shape};

use crate::arguments::{Lab, LabAction};

/// Runs the lab, or works on one that is up.
pub(crate) fn run(lab: Lab) -> ExitCode {
    let request = match lab.action {
        None => Request::Walk { shape: Shape { clusters: lab.clusters, nodes: lab.nodes }, json: lab.json, keep: lab.keep },
        Some(LabAction::Exec { lab, place, command }) => Request::Exec { lab, place, command },
        Some(LabAction::Status) => Request::Status,
        Some(LabAction::Down { lab }) => Request::Down { lab },
    };
    daisy_lab::front::run(request)
}
