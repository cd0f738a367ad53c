//! The simulation over many seeds. `DAISY_SIM_SEED` runs one, `DAISY_SIM_SEEDS` sets how many.

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn every_cluster_agrees_with_the_model() {
    if let Some(seed) = number("DAISY_SIM_SEED") {
        daisy_sim::run_seed(seed, 200).unwrap_or_else(|violation| panic!("{violation}"));
        return;
    }
    // Unoptimised it is some twenty times slower: enough seeds there to show that it runs.
    let seeds = number("DAISY_SIM_SEEDS").unwrap_or(if cfg!(debug_assertions) { 30 } else { 1_000 });
    let report = daisy_sim::run(0, seeds, 200).unwrap_or_else(|failed| panic!("{failed}"));
    println!("{} seeds of 200 steps: {} actions", report.seeds, report.actions);
    assert!(report.actions > report.seeds * 100, "hardly anything happened: {} actions", report.actions);
}
