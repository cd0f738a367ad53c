//! Conditions, as the API conventions have them: one of a type, its time the last change of status.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

/// The exported Service exists and is of a kind that can be exported (KEP-1645).
pub const VALID: &str = "Valid";
/// The export has reached the broker, or the import is usable (KEP-1645).
pub const READY: &str = "Ready";
/// Exports of the same name disagree; the oldest was followed (KEP-1645).
pub const CONFLICT: &str = "Conflict";

/// A condition to be set: type, status, reason (CamelCase) and a message for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The type, as `Ready`.
    pub type_: &'static str,
    /// The status.
    pub status: bool,
    /// The reason, in CamelCase.
    pub reason: String,
    /// The message: which object, which field, what was wrong, what to do.
    pub message: String,
}

impl Wanted {
    /// A condition of this type, status, reason and message.
    pub fn new(type_: &'static str, status: bool, reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { type_, status, reason: reason.into(), message: message.into() }
    }
}

/// The most characters of a condition's message (`metav1.Condition`).
const MESSAGE: usize = 32_768;

/// Sets a condition in the list, and says whether anything but times changed. The transition time moves with the status only. Of a
/// message that is longer than Kubernetes allows, the beginning is kept.
pub fn set(conditions: &mut Vec<Condition>, mut wanted: Wanted, generation: Option<i64>, now: Timestamp) -> bool {
    if let Some((end, _)) = wanted.message.char_indices().nth(MESSAGE) {
        wanted.message.truncate(end);
    }
    let status = if wanted.status { "True" } else { "False" };
    if let Some(had) = conditions.iter_mut().find(|c| c.type_ == wanted.type_) {
        if had.status == status
            && had.reason == wanted.reason
            && had.message == wanted.message
            && had.observed_generation == generation
        {
            return false;
        }
        if had.status != status {
            had.last_transition_time = Time(now);
            had.status = status.to_owned();
        }
        had.reason = wanted.reason;
        had.message = wanted.message;
        had.observed_generation = generation;
        return true;
    }
    conditions.push(Condition {
        type_: wanted.type_.to_owned(),
        status: status.to_owned(),
        reason: wanted.reason,
        message: wanted.message,
        observed_generation: generation,
        last_transition_time: Time(now),
    });
    true
}

/// The condition of this type, if there is one.
#[must_use]
pub fn find<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|c| c.type_ == type_)
}

/// Whether the condition of this type is there and true.
#[must_use]
pub fn is_true(conditions: &[Condition], type_: &str) -> bool {
    find(conditions, type_).is_some_and(|c| c.status == "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_moves_with_the_status_only() {
        let (early, late) = (Timestamp::UNIX_EPOCH, Timestamp::from_second(60).expect("in range"));
        let mut list = Vec::new();
        assert!(set(&mut list, Wanted::new(READY, true, "Exported", "a"), None, early));
        assert!(!set(&mut list, Wanted::new(READY, true, "Exported", "a"), None, late));
        assert!(set(&mut list, Wanted::new(READY, true, "Exported", "b"), None, late));
        assert_eq!(list[0].last_transition_time.0, early);
        assert!(set(&mut list, Wanted::new(READY, false, "Failed", "c"), None, late));
        assert_eq!(list[0].last_transition_time.0, late);
        assert_eq!(list.len(), 1);
    }

    #[test]
    fn a_message_is_not_longer_than_kubernetes_allows() {
        let mut list = Vec::new();
        set(&mut list, Wanted::new(READY, true, "Exported", "ü".repeat(MESSAGE + 1)), None, Timestamp::UNIX_EPOCH);
        assert_eq!(list[0].message.chars().count(), MESSAGE);
        assert!(!set(&mut list, Wanted::new(READY, true, "Exported", "ü".repeat(MESSAGE + 1)), None, Timestamp::UNIX_EPOCH));
    }
}
