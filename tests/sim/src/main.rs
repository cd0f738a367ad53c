//! Runs the simulation and prints how fast: `daisy-sim [--json] [SEEDS [STEPS [FIRST]]]`.

use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let json = words.iter().any(|w| w == "--json");
    let mut numbers = words.iter().filter_map(|w| w.parse::<u64>().ok());
    let seeds = numbers.next().unwrap_or(1_000);
    let steps = numbers.next().and_then(|n| u32::try_from(n).ok()).unwrap_or(200);
    let first = numbers.next().unwrap_or(0);
    match daisy_sim::run(first, seeds, steps) {
        Ok(report) if json => {
            let value = serde_json::json!({
                "seeds": report.seeds, "steps": report.steps, "actions": report.actions, "seconds": report.seconds,
            });
            println!("{value}");
            ExitCode::SUCCESS
        }
        Ok(report) => {
            println!("{} seeds of {} steps, {} actions, {:.1} s", report.seeds, report.steps, report.actions, report.seconds);
            ExitCode::SUCCESS
        }
        Err(violation) => {
            eprintln!("{violation}");
            ExitCode::FAILURE
        }
    }
}
