//! What the registrar counts.

use prometheus::{IntCounterVec, IntGauge, Opts, Registry};

/// The registrar's metrics.
#[derive(Clone)]
pub(crate) struct Metrics {
    /// Actions, by kind and outcome.
    actions: IntCounterVec,
    /// Members known.
    members: IntGauge,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let actions = Opts::new("daisy_registrar_actions_total", "What was done, or failed and is tried again.");
        let metrics = Self {
            actions: IntCounterVec::new(actions, &["action", "outcome"])?,
            members: IntGauge::new("daisy_registrar_members", "Members of the supercluster.")?,
        };
        registry.register(Box::new(metrics.actions.clone()))?;
        registry.register(Box::new(metrics.members.clone()))?;
        Ok(metrics)
    }

    pub(crate) fn count(&self, action: &str, done: bool) {
        self.actions.with_label_values(&[action, if done { "done" } else { "failed" }]).inc();
    }

    pub(crate) fn members(&self, count: usize) {
        self.members.set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}
