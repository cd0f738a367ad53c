//! What a gateway counts. The names are listed in the README.

use daisy_api::{ConnectionStatus, RoundTrip};
use prometheus::{GaugeVec, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry};

/// Why a packet or datagram was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Drop {
    /// From the device: neither IPv4 nor IPv6, or cut short.
    Malformed,
    /// From the device: to an address of no other cluster.
    NoRoute,
    /// From the device: from an address that is not this cluster's, which the other side would drop.
    ForeignSource,
    /// The peer is known, and nobody knows where it is.
    NoPath,
    /// The session would not take it.
    NotSealed,
    /// The socket would not take it.
    NotSent,
    /// From the network: of no peer, or no WireGuard at all.
    Stranger,
    /// From the network: not authentic, or a repetition.
    NotOpened,
    /// From a tunnel: from an address outside the peer's cluster.
    SourceNotAllowed,
    /// From a tunnel: to an address outside this cluster.
    NotForUs,
    /// From a tunnel: to the probe port, and no probe, or not from the peer's own address.
    BadProbe,
    /// The device would not take it.
    NotDelivered,
    /// To or from an endpoint that lies inside a tunnelled CIDR.
    EndpointTunnelled,
}

impl Drop {
    const ALL: [(Self, &'static str); 13] = [
        (Self::Malformed, "malformed"),
        (Self::NoRoute, "no-route"),
        (Self::ForeignSource, "foreign-source"),
        (Self::NoPath, "no-path"),
        (Self::NotSealed, "not-sealed"),
        (Self::NotSent, "not-sent"),
        (Self::Stranger, "stranger"),
        (Self::NotOpened, "not-opened"),
        (Self::SourceNotAllowed, "source-not-allowed"),
        (Self::NotForUs, "not-for-us"),
        (Self::BadProbe, "bad-probe"),
        (Self::NotDelivered, "not-delivered"),
        (Self::EndpointTunnelled, "endpoint-tunnelled"),
    ];
}

/// The metrics of one gateway.
#[derive(Clone, Debug)]
pub struct Metrics {
    dropped: [IntCounter; Drop::ALL.len()],
    bytes: IntCounterVec,
    packets: IntCounterVec,
    handshakes: IntCounterVec,
    round_trip: GaugeVec,
    state: IntGaugeVec,
}

impl Metrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// They are registered in this registry already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str, labels: &[&str]| IntCounterVec::new(Opts::new(name, help), labels);
        let dropped = counter("daisy_gateway_dropped_packets_total", "Packets and datagrams dropped, by reason.", &["reason"])?;
        let peer = ["cluster", "node"];
        let metrics = Self {
            bytes: counter(
                "daisy_gateway_bytes_total",
                "Bytes of inner packets to and from a gateway of another cluster, without probes.",
                &["cluster", "node", "direction"],
            )?,
            packets: counter(
                "daisy_gateway_packets_total",
                "Inner packets to and from a gateway of another cluster, without probes.",
                &["cluster", "node", "direction"],
            )?,
            handshakes: counter(
                "daisy_gateway_handshakes_total",
                "Handshakes with a gateway of another cluster: initiated here, answered here, and completed.",
                &["cluster", "node", "step"],
            )?,
            round_trip: GaugeVec::new(
                Opts::new("daisy_gateway_round_trip_seconds", "Mean round-trip time of the last probes."),
                &peer,
            )?,
            state: IntGaugeVec::new(
                Opts::new("daisy_gateway_connection_state", "1 for the state that a connection is in, 0 for the others."),
                &["cluster", "node", "state"],
            )?,
            dropped: Drop::ALL.map(|(_, reason)| dropped.with_label_values(&[reason])),
        };
        registry.register(Box::new(dropped))?;
        for vector in [&metrics.bytes, &metrics.packets, &metrics.handshakes] {
            registry.register(Box::new(vector.clone()))?;
        }
        registry.register(Box::new(metrics.round_trip.clone()))?;
        registry.register(Box::new(metrics.state.clone()))?;
        Ok(metrics)
    }

    pub(crate) fn drop(&self, reason: Drop) {
        let at = Drop::ALL.iter().position(|(known, _)| *known == reason);
        if let Some(counter) = at.and_then(|at| self.dropped.get(at)) {
            counter.inc();
        }
    }

    /// How many were dropped for the reason of this name.
    #[must_use]
    pub fn dropped(&self, reason: &str) -> u64 {
        let at = Drop::ALL.iter().position(|(_, known)| *known == reason);
        at.and_then(|at| self.dropped.get(at)).map_or(0, IntCounter::get)
    }

    /// Forgets a peer that is none any more.
    pub(crate) fn forget(&self, cluster: &str, node: &str) {
        // What was never set is not there to remove, which is no error.
        for direction in [IN, OUT] {
            let _ = self.bytes.remove_label_values(&[cluster, node, direction]);
            let _ = self.packets.remove_label_values(&[cluster, node, direction]);
        }
        for step in STEPS {
            let _ = self.handshakes.remove_label_values(&[cluster, node, step]);
        }
        for (_, state) in STATES {
            let _ = self.state.remove_label_values(&[cluster, node, state]);
        }
        let _ = self.round_trip.remove_label_values(&[cluster, node]);
    }

    /// The metrics of one peer, the same ones for the same cluster and node.
    pub(crate) fn peer(&self, cluster: &str, node: &str) -> PeerMetrics {
        let of = |vector: &IntCounterVec, value: &str| vector.with_label_values(&[cluster, node, value]);
        PeerMetrics {
            bytes_in: of(&self.bytes, IN),
            bytes_out: of(&self.bytes, OUT),
            packets_in: of(&self.packets, IN),
            packets_out: of(&self.packets, OUT),
            initiated: of(&self.handshakes, STEPS[0]),
            answered: of(&self.handshakes, STEPS[1]),
            completed: of(&self.handshakes, STEPS[2]),
            labels: (cluster.to_owned(), node.to_owned()),
            all: self.clone(),
        }
    }
}

const IN: &str = "in";
const OUT: &str = "out";
const STEPS: [&str; 3] = ["initiated", "answered", "completed"];
const STATES: [(ConnectionStatus, &str); 3] = [
    (ConnectionStatus::Connecting, "connecting"),
    (ConnectionStatus::Connected, "connected"),
    (ConnectionStatus::Error, "error"),
];

/// The metrics of one peer.
#[derive(Debug)]
pub(crate) struct PeerMetrics {
    pub(crate) bytes_in: IntCounter,
    pub(crate) bytes_out: IntCounter,
    pub(crate) packets_in: IntCounter,
    pub(crate) packets_out: IntCounter,
    pub(crate) initiated: IntCounter,
    pub(crate) answered: IntCounter,
    pub(crate) completed: IntCounter,
    labels: (String, String),
    all: Metrics,
}

impl PeerMetrics {
    pub(crate) fn set_state(&self, status: ConnectionStatus) {
        let (cluster, node) = &self.labels;
        for (state, name) in STATES {
            self.all.state.with_label_values(&[cluster.as_str(), node.as_str(), name]).set(i64::from(state == status));
        }
    }

    pub(crate) fn set_round_trip(&self, round_trip: &RoundTrip) {
        let (cluster, node) = &self.labels;
        // Microseconds of any round trip fit a double exactly enough.
        let seconds = std::time::Duration::from_micros(round_trip.average_micros).as_secs_f64();
        self.all.round_trip.with_label_values(&[cluster.as_str(), node.as_str()]).set(seconds);
    }
}
