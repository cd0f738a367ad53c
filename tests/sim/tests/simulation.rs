//! The simulation over many seeds. `DAISY_SIM_SEED` runs one, `DAISY_SIM_SEEDS` sets how many.

/// Seeds of 200 steps that show a fault which is not mended yet; they must fail until it is. 636: a cluster withdraws an endpoint
/// that lives after the broker was restored, wiped, and everything healed.
const OPEN_FAULTS: [u64; 1] = [636];

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
    let seeds = number("DAISY_SIM_SEEDS").unwrap_or(if cfg!(debug_assertions) { 30 } else { 1_001 });
    let open: Vec<u64> = OPEN_FAULTS.into_iter().filter(|seed| *seed < seeds).collect();
    let (mut from, mut ran, mut actions) = (0, 0, 0);
    for end in open.iter().copied().chain([seeds]) {
        let report = daisy_sim::run(from, end - from, 200).unwrap_or_else(|failed| panic!("{failed}"));
        (from, ran, actions) = (end + 1, ran + report.seeds, actions + report.actions);
    }
    println!("{ran} seeds of 200 steps: {actions} actions");
    assert!(actions > ran * 100, "hardly anything happened: {actions} actions");
    for seed in open {
        assert!(daisy_sim::run_seed(seed, 200).is_err(), "seed {seed} is mended: take it from OPEN_FAULTS");
    }
}
