//! The time, which comes in from outside: a core has no clock.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// The time of an input, by two clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Since some fixed instant, at best well before this process began; never runs backwards. Every wait is measured by it.
    pub monotonic: Duration,
    /// The time of day, for what people read (conditions) and as a floor of sequence numbers. It may jump.
    pub wall: Timestamp,
}

impl Now {
    /// When a past time of day was, by the monotonic clock: no later than now, and no earlier than that clock's beginning.
    #[must_use]
    pub fn monotonic_of(self, wall: Timestamp) -> Duration {
        let ago = Duration::try_from(self.wall.duration_since(wall)).unwrap_or(Duration::ZERO);
        self.monotonic.saturating_sub(ago)
    }

    /// The instant `since_start` after the start of a clock that began on 2026-01-01 (UTC): for simulations and tests.
    #[must_use]
    pub fn at(since_start: Duration) -> Self {
        const BEGINNING: i64 = 1_767_225_600;
        let start = Timestamp::from_second(BEGINNING).unwrap_or(Timestamp::UNIX_EPOCH);
        let passed = SignedDuration::try_from(since_start).unwrap_or(SignedDuration::ZERO);
        Self { monotonic: since_start, wall: start.checked_add(passed).unwrap_or(start) }
    }
}
