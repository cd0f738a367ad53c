//! Times as Kubernetes writes them.

use jiff::Timestamp;

/// `2026-01-31T12:00:00Z`: whole seconds, as `metav1.Time`.
pub(crate) fn rfc3339(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Seconds since 1970, never negative.
pub(crate) fn unix(at: Timestamp) -> u64 {
    u64::try_from(at.as_second()).unwrap_or(0)
}

/// How long ago something was, as kubectl's AGE column has it: two units at most, coarser with age.
pub(crate) fn age(seconds: i64) -> String {
    let seconds = seconds.max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let two = |big: i64, big_unit: &str, small: i64, small_unit: &str| {
        if small == 0 { format!("{big}{big_unit}") } else { format!("{big}{big_unit}{small}{small_unit}") }
    };
    if seconds < 120 {
        format!("{seconds}s")
    } else if minutes < 10 {
        two(minutes, "m", seconds % 60, "s")
    } else if hours < 3 {
        format!("{minutes}m")
    } else if hours < 8 {
        two(hours, "h", minutes % 60, "m")
    } else if hours < 48 {
        format!("{hours}h")
    } else if days < 8 {
        two(days, "d", hours % 24, "h")
    } else if days < 730 {
        format!("{days}d")
    } else {
        two(days / 365, "y", days % 365, "d")
    }
}

/// [`age`] of a time in text, at `now`; `<unknown>` where the text is no time.
pub(crate) fn age_of(text: &str, now: Timestamp) -> String {
    text.parse::<Timestamp>().map_or_else(|_| "<unknown>".to_owned(), |then| age(now.as_second() - then.as_second()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_grow_coarser() {
        for (seconds, text) in [
            (-5, "0s"),
            (119, "119s"),
            (120, "2m"),
            (185, "3m5s"),
            (3_600, "60m"),
            (3 * 3600 + 60, "3h1m"),
            (47 * 3600, "47h"),
            (50 * 3600, "2d2h"),
            (100 * 86_400, "100d"),
            (731 * 86_400, "2y1d"),
        ] {
            assert_eq!(age(seconds), text);
        }
    }

    #[test]
    fn times_have_whole_seconds() {
        let at = Timestamp::from_millisecond(1_700_000_000_999).expect("a time");
        assert_eq!(rfc3339(at), "2023-11-14T22:13:20Z");
        assert_eq!(age_of("2023-11-14T22:13:10Z", at), "10s");
        assert_eq!(age_of("x", at), "<unknown>");
    }
}
