//! What is counted.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use daisy_dns_core::{Snapshot, Source};
use hickory_proto::op::ResponseCode;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

/// The results that are told apart.
const RCODES: [&str; 5] = ["NOERROR", "SERVFAIL", "NXDOMAIN", "REFUSED", "other"];
/// What is in no zone of ours.
const NO_ZONE: &str = "other";
/// Answers out of memory take microseconds; forwarded ones milliseconds.
const BUCKETS: [f64; 9] = [5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 5e-4, 5e-3, 5e-2, 2.0];

/// The server's counters. Clones count together.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    requests: IntCounterVec,
    /// The counters of `requests` by zone and result, so that a query looks nothing up; the last row is of no zone.
    by_zone: OnceLock<Vec<[IntCounter; RCODES.len()]>>,
    outside: [IntCounter; RCODES.len()],
    truncated: IntCounter,
    duration: Histogram,
    objects: IntGaugeVec,
    synced: IntGauge,
    serial: IntGauge,
    skipped: IntCounterVec,
    watch_failures: IntCounterVec,
}

impl Default for Metrics {
    /// Counters that no registry has.
    fn default() -> Self {
        match Self::new() {
            Ok(metrics) => metrics,
            // The names and buckets are constants of this file, which its tests make.
            Err(error) => unreachable!("a metric's definition is wrong: {error}"),
        }
    }
}

impl Metrics {
    /// Counters in this registry.
    ///
    /// # Errors
    /// A registry that has metrics of these names already.
    pub fn registered(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self::default();
        let inner = &metrics.0;
        registry.register(Box::new(inner.requests.clone()))?;
        registry.register(Box::new(inner.truncated.clone()))?;
        registry.register(Box::new(inner.duration.clone()))?;
        registry.register(Box::new(inner.objects.clone()))?;
        registry.register(Box::new(inner.synced.clone()))?;
        registry.register(Box::new(inner.serial.clone()))?;
        registry.register(Box::new(inner.skipped.clone()))?;
        registry.register(Box::new(inner.watch_failures.clone()))?;
        Ok(metrics)
    }

    fn new() -> Result<Self, prometheus::Error> {
        let opts = Opts::new("daisy_dns_requests_total", "Requests answered, by zone and result.");
        let requests = IntCounterVec::new(opts, &["zone", "rcode"])?;
        let outside = RCODES.map(|rcode| requests.with_label_values(&[NO_ZONE, rcode]));
        let opts = HistogramOpts::new("daisy_dns_request_duration_seconds", "Time from a request to its answer.");
        let source = ["source"];
        Ok(Self(Arc::new(Inner {
            requests,
            by_zone: OnceLock::new(),
            outside,
            truncated: IntCounter::new("daisy_dns_truncated_total", "Answers cut short for UDP.")?,
            duration: Histogram::with_opts(opts.buckets(BUCKETS.to_vec()))?,
            objects: IntGaugeVec::new(Opts::new("daisy_dns_objects", "What is served, by kind."), &["kind"])?,
            synced: IntGauge::new("daisy_dns_synced", "1 once everything was read.")?,
            serial: IntGauge::new("daisy_dns_serial", "The zones' serial number.")?,
            skipped: IntCounterVec::new(Opts::new("daisy_dns_unreadable_total", "Objects that could not be read."), &source)?,
            watch_failures: IntCounterVec::new(Opts::new("daisy_dns_watch_failures_total", "Watches that broke."), &source)?,
        })))
    }

    /// Names the zones, by the index that answers carry; once.
    pub fn name_zones<'z>(&self, zones: impl Iterator<Item = &'z str>) {
        let rows = zones.map(|zone| RCODES.map(|rcode| self.0.requests.with_label_values(&[zone, rcode]))).collect();
        // A second call would come from a second server with the same counters: it counts under the first one's names.
        let _ = self.0.by_zone.set(rows);
    }

    pub(crate) fn answered(&self, zone: Option<usize>, code: ResponseCode, truncated: bool, took: Duration) {
        let inner = &self.0;
        let row = zone.and_then(|zone| inner.by_zone.get()?.get(zone)).unwrap_or(&inner.outside);
        row[rcode(code)].inc();
        inner.truncated.inc_by(u64::from(truncated));
        inner.duration.observe(took.as_secs_f64());
    }

    pub(crate) fn published(&self, snapshot: &Snapshot) {
        let counts = snapshot.counts();
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let objects = &self.0.objects;
        objects.with_label_values(&["service"]).set(count(counts.locals));
        objects.with_label_values(&["import"]).set(count(counts.imports));
        objects.with_label_values(&["slice"]).set(count(counts.slices));
        self.0.synced.set(i64::from(snapshot.synced()));
        self.0.serial.set(i64::from(snapshot.serial()));
    }

    pub(crate) fn skipped(&self, source: Source) {
        self.0.skipped.with_label_values(&[source_name(source)]).inc();
    }

    pub(crate) fn watch_failed(&self, source: Source) {
        self.0.watch_failures.with_label_values(&[source_name(source)]).inc();
    }
}

/// The place in [`RCODES`].
fn rcode(code: ResponseCode) -> usize {
    if code == ResponseCode::NoError {
        0
    } else if code == ResponseCode::ServFail {
        1
    } else if code == ResponseCode::NXDomain {
        2
    } else if code == ResponseCode::Refused {
        3
    } else {
        4
    }
}

fn source_name(source: Source) -> &'static str {
    match source {
        Source::Services => "services",
        Source::LocalSlices => "endpointslices",
        Source::ImportSlices => "import-endpointslices",
        Source::Namespaces => "namespaces",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_by_zone_and_result() {
        let registry = Registry::new();
        let metrics = Metrics::registered(&registry).expect("the definitions are right");
        assert!(Metrics::registered(&registry).is_err(), "twice in one registry");
        metrics.name_zones(["supercluster.local", "clusterset.local"].into_iter());
        metrics.answered(Some(1), ResponseCode::NXDomain, false, Duration::from_micros(3));
        metrics.answered(None, ResponseCode::FormErr, true, Duration::from_micros(3));
        metrics.answered(Some(7), ResponseCode::NoError, false, Duration::from_micros(3));
        let count = |zone: &str, rcode: &str| metrics.0.requests.with_label_values(&[zone, rcode]).get();
        assert_eq!((count("clusterset.local", "NXDOMAIN"), count("other", "other"), count("other", "NOERROR")), (1, 1, 1));
        assert_eq!((metrics.0.truncated.get(), metrics.0.duration.get_sample_count()), (1, 3));
    }
}
