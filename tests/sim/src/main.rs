//! Runs the simulation and prints how fast: `daisy-sim [--json] [--trace] [SEEDS [STEPS [FIRST]]]`. `--trace` prints, for the first
//! seed that fails, every delivery and every write.

use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let flag = |name: &str| words.iter().any(|w| w == name);
    let mut numbers = words.iter().filter_map(|w| w.parse::<u64>().ok());
    let seeds = numbers.next().unwrap_or(1_000);
    let steps = numbers.next().and_then(|n| u32::try_from(n).ok()).unwrap_or(200);
    let first = numbers.next().unwrap_or(0);
    match daisy_sim::run(first, seeds, steps) {
        Ok(report) if flag("--json") => {
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
        Err(failed) => {
            for line in failed.0.first().filter(|_| flag("--trace")).iter().flat_map(|violation| &violation.trace) {
                println!("{line}");
            }
            eprintln!("{failed}");
            ExitCode::FAILURE
        }
    }
}
