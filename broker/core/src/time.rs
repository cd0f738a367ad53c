//! The time, which comes in from outside: a core has no clock.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// The time of an input, by two clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Since some fixed instant of this process; never runs backwards. Every wait is measured by it.
    pub monotonic: Duration,
    /// The time of day, for what people read (conditions) and as a floor of sequence numbers. It may jump.
    pub wall: Timestamp,
}

impl Now {
    /// The instant `since_start` after the start of a clock that began on 2026-01-01 (UTC): for simulations and tests.
    #[must_use]
    pub fn at(since_start: Duration) -> Self {
        const BEGINNING: i64 = 1_767_225_600;
        let start = Timestamp::from_second(BEGINNING).unwrap_or(Timestamp::UNIX_EPOCH);
        let passed = SignedDuration::try_from(since_start).unwrap_or(SignedDuration::ZERO);
        Self { monotonic: since_start, wall: start.checked_add(passed).unwrap_or(start) }
    }
}
