//! Metrics. The README lists them.

use std::sync::Mutex;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use crate::filter::FilterTable;

/// The agent's metrics.
#[derive(Clone)]
pub(crate) struct Metrics {
    pub(crate) changes: IntCounterVec,
    pub(crate) errors: IntCounterVec,
    pub(crate) members: IntGauge,
    pub(crate) routes: IntGauge,
    pub(crate) openings: IntGauge,
    pub(crate) gateway: IntGauge,
    pub(crate) issues: IntGauge,
}

impl Metrics {
    /// Makes them, and registers them with the filter's counters.
    pub(crate) fn new(registry: &Registry, filter: FilterTable) -> prometheus::Result<Self> {
        let gauge = |name: &str, help: &str| IntGauge::with_opts(Opts::new(format!("daisy_route_agent_{name}"), help));
        let counters =
            |name: &str, help: &str| IntCounterVec::new(Opts::new(format!("daisy_route_agent_{name}"), help), &["kind"]);
        let metrics = Self {
            changes: counters("changes_total", "Changes made on the node, by kind.")?,
            errors: counters("errors_total", "Changes that failed, by kind.")?,
            members: gauge("members", "Other clusters that are known.")?,
            routes: gauge("routes", "Routes of ours on the node.")?,
            openings: gauge("openings", "Addresses, protocols and ports that are open to other clusters.")?,
            gateway: gauge("gateway_up", "1 where there is a way to other clusters, else 0.")?,
            issues: gauge("issues", "Things that an operator should look at; the log names them.")?,
        };
        registry.register(Box::new(metrics.changes.clone()))?;
        registry.register(Box::new(metrics.errors.clone()))?;
        for gauge in [&metrics.members, &metrics.routes, &metrics.openings, &metrics.gateway, &metrics.issues] {
            registry.register(Box::new(gauge.clone()))?;
        }
        registry.register(Box::new(Dropped::new(filter)?))?;
        Ok(metrics)
    }
}

/// The filter's counters, read from the kernel when they are asked for.
struct Dropped {
    filter: Mutex<FilterTable>,
    packets: IntGaugeVec,
}

impl Dropped {
    fn new(filter: FilterTable) -> prometheus::Result<Self> {
        let options =
            Opts::new("daisy_route_agent_dropped_packets", "Packets that the filter dropped since it was made, by reason.");
        Ok(Self { filter: Mutex::new(filter), packets: IntGaugeVec::new(options, &["reason"])? })
    }
}

impl Collector for Dropped {
    fn desc(&self) -> Vec<&Desc> {
        self.packets.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut filter = self.filter.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match filter.dropped() {
            Ok(counts) => {
                for (reason, packets) in counts {
                    let packets = i64::try_from(packets).unwrap_or(i64::MAX);
                    self.packets.with_label_values(&[reason.as_str()]).set(packets);
                }
            }
            Err(error) => tracing::debug!(%error, "the filter's counters cannot be read"),
        }
        self.packets.collect()
    }
}
