//! What the syncer counts. The names are listed in the README.

use std::time::Duration;

use daisy_broker_core::object::{Kind, Place};
use daisy_broker_core::syncer::{Action, FailureKind, Note};
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::perform::verb;

#[derive(Clone, Debug)]
pub(super) struct Metrics {
    writes: IntCounterVec,
    lag: HistogramVec,
    notes: IntCounterVec,
    imports: IntGauge,
    clusters: IntGaugeVec,
    connected: IntGauge,
    writes_now: IntGauge,
    restarts: IntCounterVec,
    renewals: IntCounterVec,
}

fn word(place: Place) -> &'static str {
    match place {
        Place::Broker => "broker",
        Place::Here => "here",
    }
}

impl Metrics {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str, labels: &[&str]| IntCounterVec::new(Opts::new(name, help), labels);
        let buckets = vec![0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0];
        let lag = HistogramOpts::new("daisy_syncer_lag_seconds", "From an input to the end of the write that it caused.");
        let metrics = Self {
            writes: counter(
                "daisy_syncer_writes_total",
                "Writes, by API server, kind, verb and outcome.",
                &["place", "kind", "verb", "outcome"],
            )?,
            lag: HistogramVec::new(lag.buckets(buckets), &["place"])?,
            notes: counter(
                "daisy_syncer_notes_total",
                "What was noted, by reason: dropped records, silent clusters and so on.",
                &["reason"],
            )?,
            imports: IntGauge::new("daisy_syncer_imports", "Names that are imported.")?,
            clusters: IntGaugeVec::new(Opts::new("daisy_syncer_clusters", "Other members, by state."), &["state"])?,
            connected: IntGauge::new("daisy_syncer_broker_connected", "1 while all watches of the broker are live.")?,
            writes_now: IntGauge::new("daisy_syncer_writes", "1 while this replica holds the lease, and so writes.")?,
            restarts: counter(
                "daisy_syncer_watch_restarts_total",
                "Watches that broke off, by API server, kind and why.",
                &["place", "kind", "why"],
            )?,
            renewals: counter(
                "daisy_syncer_token_renewals_total",
                "Renewals of the token for the broker, by outcome.",
                &["outcome"],
            )?,
        };
        registry.register(Box::new(metrics.writes.clone()))?;
        registry.register(Box::new(metrics.lag.clone()))?;
        registry.register(Box::new(metrics.notes.clone()))?;
        registry.register(Box::new(metrics.imports.clone()))?;
        registry.register(Box::new(metrics.clusters.clone()))?;
        registry.register(Box::new(metrics.connected.clone()))?;
        registry.register(Box::new(metrics.writes_now.clone()))?;
        registry.register(Box::new(metrics.restarts.clone()))?;
        registry.register(Box::new(metrics.renewals.clone()))?;
        metrics.connected.set(-1);
        Ok(metrics)
    }

    pub(super) fn writes(&self, writes: bool) {
        self.writes_now.set(i64::from(writes));
    }

    pub(super) fn wrote(&self, action: &Action, lag: Duration) {
        let place = word(action.place());
        self.writes.with_label_values(&[place, action.reference.kind.as_str(), verb(action), "ok"]).inc();
        self.lag.with_label_values(&[place]).observe(lag.as_secs_f64());
    }

    pub(super) fn failed(&self, action: &Action, kind: FailureKind) {
        let outcome = match kind {
            FailureKind::Conflict => "conflict",
            FailureKind::AlreadyExists => "exists",
            FailureKind::NotFound => "not-found",
            FailureKind::Refused => "refused",
            FailureKind::Unreachable => "unreachable",
        };
        self.writes.with_label_values(&[word(action.place()), action.reference.kind.as_str(), verb(action), outcome]).inc();
    }

    pub(super) fn note(&self, note: &Note) {
        self.notes.with_label_values(&[note.reason()]).inc();
    }

    pub(super) fn imports(&self, count: usize) {
        self.imports.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(super) fn clusters(&self, silent: impl Iterator<Item = bool>) {
        let (mut alive, mut quiet) = (0, 0);
        for silent in silent {
            *(if silent { &mut quiet } else { &mut alive }) += 1;
        }
        self.clusters.with_label_values(&["alive"]).set(alive);
        self.clusters.with_label_values(&["silent"]).set(quiet);
    }

    /// Returns whether that is news.
    pub(super) fn broker_connected(&self, up: bool) -> bool {
        let (had, is) = (self.connected.get(), i64::from(up));
        self.connected.set(is);
        had != is
    }

    pub(super) fn restarted(&self, place: Place, kind: Kind, why: &str) {
        self.restarts.with_label_values(&[word(place), kind.as_str(), why]).inc();
    }

    pub(super) fn renewed(&self, ok: bool) {
        self.renewals.with_label_values(&[if ok { "ok" } else { "failed" }]).inc();
    }
}
