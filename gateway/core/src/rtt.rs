//! Round-trip times over a connection's last probes.

use std::collections::VecDeque;
use std::time::Duration;

use daisy_api::RoundTrip;

/// How many of the newest round trips are kept.
const WINDOW: usize = 64;

/// The newest round-trip times of a connection, in microseconds.
#[derive(Clone, Debug, Default)]
pub struct RoundTrips {
    micros: VecDeque<u64>,
}

impl RoundTrips {
    /// Takes one more in; the oldest goes where there are 64.
    pub fn push(&mut self, round_trip: Duration) {
        if self.micros.len() == WINDOW {
            self.micros.pop_front();
        }
        self.micros.push_back(u64::try_from(round_trip.as_micros()).unwrap_or(u64::MAX));
    }

    /// The greatest of them.
    #[must_use]
    pub fn greatest(&self) -> Option<Duration> {
        self.micros.iter().max().copied().map(Duration::from_micros)
    }

    /// Last, least, mean, greatest, and the standard deviation over all of them. `None` where there are none.
    #[must_use]
    pub fn summary(&self) -> Option<RoundTrip> {
        let last_micros = *self.micros.back()?;
        let min_micros = *self.micros.iter().min()?;
        let max_micros = *self.micros.iter().max()?;
        let count = u128::try_from(self.micros.len()).ok()?;
        let mean = self.micros.iter().map(|value| u128::from(*value)).sum::<u128>() / count;
        let squares: u128 =
            self.micros.iter().map(|value| u128::from(*value).abs_diff(mean).saturating_pow(2)).fold(0, u128::saturating_add);
        Some(RoundTrip {
            last_micros,
            min_micros,
            average_micros: u64::try_from(mean).unwrap_or(u64::MAX),
            max_micros,
            std_dev_micros: u64::try_from((squares / count).isqrt()).unwrap_or(u64::MAX),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_standard_deviation_is_that_of_all_of_them() {
        let mut trips = RoundTrips::default();
        assert_eq!(trips.summary(), None);
        [2, 4, 4, 4, 5, 5, 7, 9].into_iter().for_each(|millis| trips.push(Duration::from_millis(millis)));
        let summary = trips.summary().expect("some");
        assert_eq!(summary.std_dev_micros, 2_000);
        assert_eq!(
            (summary.last_micros, summary.min_micros, summary.average_micros, summary.max_micros),
            (9_000, 2_000, 5_000, 9_000)
        );
    }

    proptest! {
        #[test]
        fn the_mean_lies_between_least_and_greatest(micros in prop::collection::vec(any::<u64>(), 1..200)) {
            let mut trips = RoundTrips::default();
            micros.iter().for_each(|value| trips.push(Duration::from_micros(*value)));
            let summary = trips.summary().expect("some");
            prop_assert!(summary.min_micros <= summary.average_micros && summary.average_micros <= summary.max_micros);
            prop_assert!(summary.std_dev_micros <= summary.max_micros - summary.min_micros);
            prop_assert_eq!(Some(&summary.last_micros), micros.last());
        }
    }
}
