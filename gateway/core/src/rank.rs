//! Which of a cluster's gateways a packet goes to.

use daisy_api::ConnectionStatus;

/// What a gateway of another cluster is good for right now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Liveness {
    /// Nothing is known of where it is.
    Unknown,
    /// It is being dialled, or stopped answering.
    Doubtful,
    /// Its probes are answered.
    Live,
}

impl Liveness {
    /// From a connection's status and whether it has a path.
    #[must_use]
    pub fn of(status: ConnectionStatus, has_path: bool) -> Self {
        match (status, has_path) {
            (ConnectionStatus::Connected, _) => Self::Live,
            (ConnectionStatus::Connecting | ConnectionStatus::Error, true) => Self::Doubtful,
            (ConnectionStatus::Connecting | ConnectionStatus::Error, false) => Self::Unknown,
        }
    }
}

/// The index of the gateway to send to, of those in order of rank: the first live one, else the first that is at least being
/// dialled, else the first. Rank is a preference, never a condition of delivery. `None` only where there is none.
#[must_use]
pub fn choose(ranked: impl IntoIterator<Item = Liveness>) -> Option<usize> {
    let mut best: Option<(usize, Liveness)> = None;
    for (index, liveness) in ranked.into_iter().enumerate() {
        if liveness == Liveness::Live {
            return Some(index);
        }
        if best.is_none_or(|(_, known)| liveness > known) {
            best = Some((index, liveness));
        }
    }
    best.map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Liveness::{Doubtful, Live, Unknown};

    #[test]
    fn the_first_live_one_else_the_first_dialled_else_the_first() {
        assert_eq!(choose([Doubtful, Live, Live]), Some(1));
        assert_eq!(choose([Unknown, Doubtful, Doubtful]), Some(1));
        assert_eq!(choose([Unknown, Unknown]), Some(0));
        assert_eq!(choose([]), None);
    }
}
