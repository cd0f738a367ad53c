//! The simulated supercluster: N clusters, each with the real syncer core, one broker with the real registrar core, a virtual
//! clock, a seed.
//!
//! ```text
//! seed ──▶ world ──transition──▶ stores (in-memory API servers) ──delayed, broken, relisted streams──▶ Syncer, Registrar (the real ones)
//!            │                        ▲                                                                  │
//!            └──▶ model ──compare──▶ check, membership             ◀──actions, executed late, half or never──┘
//! ```
//!
//! At every step: nothing that lives is withdrawn, nothing outside a grant appears, no address lies outside its cluster's
//! CIDRs, and no membership is given, kept or ended but by the rules. At quiescence: every cluster's imports are what the
//! reference model says, and the members are those who were told so. A failure names its seed, and `DAISY_SIM_SEED=N cargo test --release -p daisy-sim` runs it alone.

#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "there are twelve kinds of objects, and most places have to do with one or two of them"
)]

mod broker;
mod check;
mod cluster;
mod enrol;
mod heal;
mod membership;
mod model;
mod newcomers;
mod objects;
mod random;
mod registrar;
mod store;
mod trace;
mod transition;
mod world;

use std::fmt;
use std::num::NonZero;
use std::time::Instant;

pub use world::Violation;

use trace::Trace;

/// The seeds that found something, least first.
#[derive(Debug)]
pub struct Failed(pub Vec<Violation>);

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(first) = self.0.first() else { return Ok(()) };
        write!(f, "{first}")?;
        for one in self.0.iter().skip(1) {
            write!(f, "\nseed {}, step {}: {}", one.seed, one.step, one.what)?;
        }
        Ok(())
    }
}

impl std::error::Error for Failed {}

/// What a run covered.
#[derive(Debug, Clone, Copy)]
pub struct Report {
    /// How many seeds ran.
    pub seeds: u64,
    /// How many steps each.
    pub steps: u32,
    /// How many actions of syncers were executed in all: a run in which nothing happens tests nothing.
    pub actions: u64,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// Says which seed it was when something panics.
struct Naming(u64);

impl Drop for Naming {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("it was seed {}", self.0);
        }
    }
}

/// Runs one seed.
///
/// # Errors
/// The first violation, with the seed, the step and what happened before.
pub fn run_seed(seed: u64, steps: u32) -> Result<u64, Violation> {
    let _naming = Naming(seed);
    // The same seed fails in the same way: the second time it tells everything.
    let quietly = world::World::new(seed, Trace::default()).run(steps);
    quietly.or_else(|_| world::World::new(seed, Trace::begun()).run(steps))
}

/// Runs `seeds` seeds from `first` on, on all cores.
///
/// # Errors
/// The violation of the least seed that has one, and how many seeds have one.
pub fn run(first: u64, seeds: u64, steps: u32) -> Result<Report, Failed> {
    let started = Instant::now();
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get) as u64;
    let end = first.saturating_add(seeds);
    let work = |thread: u64| {
        let mine = (first..end).skip(usize::try_from(thread).unwrap_or(0)).step_by(usize::try_from(threads).unwrap_or(1));
        let (mut actions, mut violations) = (0, Vec::new());
        for seed in mine {
            match run_seed(seed, steps) {
                Ok(count) => actions += count,
                Err(violation) => violations.push(violation),
            }
        }
        (actions, violations)
    };
    let results: Vec<(u64, Vec<Violation>)> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads).map(|thread| scope.spawn(move || work(thread))).collect();
        handles.into_iter().map(|handle| handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    let actions = results.iter().map(|(count, _)| count).sum();
    let mut violations: Vec<Violation> = results.into_iter().flat_map(|(_, violations)| violations).collect();
    violations.sort_by_key(|violation| violation.seed);
    if violations.is_empty() {
        return Ok(Report { seeds, steps, actions, seconds: started.elapsed().as_secs_f64() });
    }
    Err(Failed(violations))
}
