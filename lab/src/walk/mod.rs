//! The walk: everything that Daisy promises, for real, step by step.
//!
//! ```text
//! up ▶ broker ▶ join ▶ export ▶ answer ▶ fallback ▶ resilience ▶ leave ▶ summary
//! ```
//!
//! Each step types the commands that a user would type, inside the lab, and looks at what came of them. The first thing that
//! is not as it should be ends the walk, with what was expected, what was seen, and where the logs are.

mod begin;
mod fallback;
mod leave;
mod names;
mod report;
mod resilience;
mod stage;
pub(crate) mod tools;
mod workloads;

use std::collections::BTreeMap;
use std::time::Instant;

use crate::machine::Lab;
use report::{Failed, Report};
use stage::Stage;

/// Walks through the lab; says whether all was well.
pub(crate) async fn run(lab: &Lab, json: bool, started: Instant) -> bool {
    let mut stage = Stage { lab, report: Report::new(json, started), clients: BTreeMap::new() };
    match steps(&mut stage).await {
        Ok(()) => {
            stage.report.summary();
            true
        }
        Err(failed) => {
            let logs = lab.logs().display().to_string();
            stage.report.fail(&failed, &logs);
            false
        }
    }
}

async fn steps(stage: &mut Stage<'_>) -> Result<(), Failed> {
    begin::up(stage).await?;
    begin::broker(stage).await?;
    begin::join(stage).await?;
    names::export(stage).await?;
    names::answer(stage).await?;
    fallback::local_first(stage).await?;
    fallback::whole_namespace(stage).await?;
    resilience::broker_dies(stage).await?;
    resilience::address_changes(stage).await?;
    resilience::memory(stage).await?;
    leave::run(stage).await
}
