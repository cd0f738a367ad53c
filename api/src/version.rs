//! Versions of Daisy, and which of them work together.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// A version of Daisy: MAJOR.MINOR.PATCH (semver.org 2.0.0). What follows a `-` or a `+` decides nothing here and is not kept.
///
/// A broker serves clusters of its own minor version and of the one before it, of the same major version: brokers are upgraded first,
/// and a cluster may wait for one release. What one of them adds to an object the other leaves alone or does not see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    major: u32,
    minor: u32,
    patch: u32,
}

/// Text that is no version.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is no version: it is written as MAJOR.MINOR.PATCH, for example 0.1.0")]
pub struct VersionError(String);

/// Why a broker and a cluster do not work together, and which of them is to be upgraded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Skew {
    /// The cluster's is newer.
    #[error(
        "it runs Daisy {cluster}, which is newer than the broker's {broker}: brokers are upgraded first (daisy deploy-broker of that version)"
    )]
    BrokerIsOlder {
        /// The broker's version.
        broker: Version,
        /// The cluster's version.
        cluster: Version,
    },
    /// The cluster's is too old.
    #[error(
        "it runs Daisy {cluster}, and a broker of {broker} serves its own minor version and the one before it: upgrade the cluster first (daisy join of a version in between)"
    )]
    ClusterIsTooOld {
        /// The broker's version.
        broker: Version,
        /// The cluster's version.
        cluster: Version,
    },
}

impl Version {
    /// A version of these numbers.
    #[must_use]
    pub const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self { major, minor, patch }
    }

    /// This program's.
    #[must_use]
    pub fn own() -> Self {
        let number = |text: &str| text.parse().unwrap_or(0);
        // Cargo takes nothing but numbers.
        Self {
            major: number(env!("CARGO_PKG_VERSION_MAJOR")),
            minor: number(env!("CARGO_PKG_VERSION_MINOR")),
            patch: number(env!("CARGO_PKG_VERSION_PATCH")),
        }
    }

    /// Whether a broker of this version serves a cluster of that one.
    ///
    /// # Errors
    /// Which of the two is too old for the other.
    pub fn serves(self, cluster: Self) -> Result<(), Skew> {
        let (ours, theirs) = ((self.major, self.minor), (cluster.major, cluster.minor));
        if theirs > ours {
            return Err(Skew::BrokerIsOlder { broker: self, cluster });
        }
        if theirs.0 != ours.0 || theirs.1.saturating_add(1) < ours.1 {
            return Err(Skew::ClusterIsTooOld { broker: self, cluster });
        }
        Ok(())
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl FromStr for Version {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        let error = || VersionError(text.chars().take(64).collect());
        let core = text.split(['-', '+']).next().unwrap_or_default();
        let mut numbers = core.split('.').map(|part| {
            let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| part.parse::<u32>().ok()).flatten()
        });
        match (numbers.next().flatten(), numbers.next().flatten(), numbers.next().flatten(), numbers.next()) {
            (Some(major), Some(minor), Some(patch), None) => Ok(Self { major, minor, patch }),
            _ => Err(error()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_a_version_or_an_error() {
        for (text, version) in
            [("0.1.0", (0, 1, 0)), ("12.3.45", (12, 3, 45)), ("1.2.3-rc.1", (1, 2, 3)), ("1.2.3+build-7", (1, 2, 3))]
        {
            assert_eq!(text.parse(), Ok(Version::new(version.0, version.1, version.2)), "{text}");
        }
        for bad in ["", "1", "1.2", "1.2.3.4", "1.2.x", "v1.2.3", "1..3", "+1.2.3", "1.2.99999999999", "test"] {
            assert!(bad.parse::<Version>().is_err(), "{bad:?}");
        }
        assert_eq!(Version::own().to_string(), env!("CARGO_PKG_VERSION"));
    }

    #[test]
    fn a_broker_serves_its_own_minor_version_and_the_one_before() {
        let v = Version::new;
        let broker = v(1, 4, 2);
        for cluster in [v(1, 4, 2), v(1, 4, 0), v(1, 4, 9), v(1, 3, 0), v(1, 3, 7)] {
            assert_eq!(broker.serves(cluster), Ok(()), "{cluster}");
        }
        for cluster in [v(1, 5, 0), v(2, 0, 0), v(2, 4, 2)] {
            assert_eq!(broker.serves(cluster), Err(Skew::BrokerIsOlder { broker, cluster }), "{cluster}");
        }
        for cluster in [v(1, 2, 9), v(1, 0, 0), v(0, 4, 2), v(0, 3, 0)] {
            assert_eq!(broker.serves(cluster), Err(Skew::ClusterIsTooOld { broker, cluster }), "{cluster}");
        }
        let said = broker.serves(v(1, 2, 0)).expect_err("too old").to_string();
        assert!(said.contains("1.2.0") && said.contains("1.4.2"), "{said}");
    }
}
