//! All clusters' exports of one namespace and name, merged into one import (KEP-1645, "constraints and conflict resolution").
//!
//! ```text
//! Export of A ─┐
//! Export of B ─┼▶ oldest first, cluster ID breaks the tie ──▶ Merged: what the import is, and what disagreed
//! Export of C ─┘
//! ```
//!
//! The merge looks at the exports of this moment and at nothing else: never at what was merged before. So all clusters come to
//! the same result, whatever they saw in between.

use std::collections::{BTreeMap, BTreeSet};

use daisy_api::names::is_label;
use daisy_api::{ClusterId, ExportSpec, ExportType, IpFamily, Protocol, ServicePort, SessionAffinity};

/// The most ports of an import: as many as an EndpointSlice can name.
pub const PORTS_MAX: usize = 100;

/// What exports of one name can disagree about, in the order in which a condition names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConflictKind {
    /// A port's name, number or protocol.
    Port,
    /// With a clusterset IP, or headless.
    Type,
    /// The session affinity.
    SessionAffinity,
    /// How long a client stays.
    SessionAffinityConfig,
    /// The labels to export.
    Labels,
    /// The annotations to export.
    Annotations,
    /// The internal traffic policy.
    InternalTrafficPolicy,
    /// The traffic distribution.
    TrafficDistribution,
    /// The address families.
    IpFamily,
}

impl ConflictKind {
    /// The reason of the condition `Conflict`.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Port => "PortConflict",
            Self::Type => "TypeConflict",
            Self::SessionAffinity => "SessionAffinityConflict",
            Self::SessionAffinityConfig => "SessionAffinityConfigConflict",
            Self::Labels => "LabelsConflict",
            Self::Annotations => "AnnotationsConflict",
            Self::InternalTrafficPolicy => "InternalTrafficPolicyConflict",
            Self::TrafficDistribution => "TrafficDistributionConflict",
            Self::IpFamily => "IPFamilyConflict",
        }
    }
}

/// One disagreement, in words: who says what, and which is followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// About what.
    pub kind: ConflictKind,
    /// In words, the same in every cluster.
    pub message: String,
}

/// What an import is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merged {
    /// With a clusterset IP, or headless.
    pub type_: ExportType,
    /// The union of the ports: no name twice, no protocol and number twice; each has a name where there are several.
    pub ports: Vec<ServicePort>,
    /// The session affinity.
    pub session_affinity: SessionAffinity,
    /// How long a client stays, in seconds.
    pub session_affinity_seconds: Option<i32>,
    /// The address families, the preferred one first; empty where the oldest export names none.
    pub ip_families: Vec<IpFamily>,
    /// The internal traffic policy.
    pub internal_traffic_policy: Option<String>,
    /// The traffic distribution.
    pub traffic_distribution: Option<String>,
    /// The labels to export.
    pub labels: BTreeMap<String, String>,
    /// The annotations to export.
    pub annotations: BTreeMap<String, String>,
    /// For each cluster that exports it: the ports of its own that are in the union, by its own name for them, and the union's
    /// name. A port that lost a conflict is not there.
    pub port_names: BTreeMap<ClusterId, BTreeMap<String, String>>,
    /// What disagreed.
    pub conflicts: Vec<Conflict>,
}

/// Merges exports, one a cluster; `None` where there are none. Neither order nor repetition matters.
#[must_use]
pub fn merge<'a>(exports: impl IntoIterator<Item = (&'a ClusterId, &'a ExportSpec)>) -> Option<Merged> {
    let by_cluster: BTreeMap<&ClusterId, &ExportSpec> = exports.into_iter().collect();
    let mut offers: Vec<(&ClusterId, &ExportSpec)> = by_cluster.into_iter().collect();
    offers.sort_by_key(|(id, export)| (export.exported_at.0, *id));
    let (oldest, first) = offers.first().copied()?;
    let mut conflicts = Conflicts { oldest, found: BTreeMap::new() };
    let mut union = Union::default();
    for (id, export) in &offers {
        union.add(id, export, &mut conflicts);
        conflicts.compare(id, first, export);
    }
    for (id, export) in &offers {
        union.lacks(id, export, &mut conflicts);
    }
    let (ports, port_names) = union.finish();
    Some(Merged {
        type_: first.type_,
        ports,
        session_affinity: first.session_affinity,
        session_affinity_seconds: first.session_affinity_seconds,
        ip_families: first.ip_families.clone(),
        internal_traffic_policy: first.internal_traffic_policy.clone(),
        traffic_distribution: first.traffic_distribution.clone(),
        labels: first.exported_labels.clone(),
        annotations: first.exported_annotations.clone(),
        port_names,
        conflicts: conflicts.finish(),
    })
}

/// A port of the union, and whose it was first.
struct UnionPort {
    port: ServicePort,
    owner: ClusterId,
}

#[derive(Default)]
struct Union {
    ports: Vec<UnionPort>,
    /// For each cluster, its own name of a port and the port's place in the union.
    kept: BTreeMap<ClusterId, BTreeMap<String, usize>>,
}

impl Union {
    fn add(&mut self, id: &ClusterId, export: &ExportSpec, conflicts: &mut Conflicts<'_>) {
        let kept = self.kept.entry(id.clone()).or_default();
        for port in &export.ports {
            // A name that no Service can have would make the whole import's Service invalid.
            if port.port == 0 || !(port.name.is_empty() || is_label(&port.name)) {
                continue;
            }
            let same_name = self.ports.iter().position(|had| had.port.name == port.name);
            let same_number =
                self.ports.iter().position(|had| had.port.protocol == port.protocol && had.port.port == port.port);
            match (same_name, same_number) {
                (Some(place), Some(other)) if place == other => {
                    if self.ports[place].port.app_protocol != port.app_protocol {
                        conflicts.port(id, port, &self.ports[place]);
                    }
                    kept.entry(port.name.clone()).or_insert(place);
                }
                (Some(place), _) | (None, Some(place)) => conflicts.port(id, port, &self.ports[place]),
                (None, None) if self.ports.len() >= PORTS_MAX => conflicts.too_many(id, port),
                (None, None) => {
                    let app_protocol = port.app_protocol.clone().filter(|text| crate::qualified::is_name(text));
                    kept.insert(port.name.clone(), self.ports.len());
                    self.ports.push(UnionPort { port: ServicePort { app_protocol, ..port.clone() }, owner: id.clone() });
                }
            }
        }
    }

    /// Says which ports a cluster has not that another has: the standard's own suite wants that said, though nobody loses by it.
    fn lacks(&self, id: &ClusterId, export: &ExportSpec, conflicts: &mut Conflicts<'_>) {
        for had in &self.ports {
            let same = |port: &ServicePort| {
                port.name == had.port.name || (port.protocol, port.port) == (had.port.protocol, had.port.port)
            };
            if !export.ports.iter().any(same) {
                conflicts
                    .note(ConflictKind::Port, format!("{id} has no port {}, which {} has", describe(&had.port), had.owner));
            }
        }
    }

    /// The ports, each with a name where there are several, as Services must have them.
    fn finish(self) -> (Vec<ServicePort>, BTreeMap<ClusterId, BTreeMap<String, String>>) {
        let mut ports: Vec<ServicePort> = self.ports.into_iter().map(|one| one.port).collect();
        if ports.len() > 1 {
            let mut taken: BTreeSet<String> = ports.iter().map(|port| port.name.clone()).collect();
            for port in ports.iter_mut().filter(|port| port.name.is_empty()) {
                port.name = free_name(&taken, port.protocol, port.port);
                taken.insert(port.name.clone());
            }
        }
        let names = self.kept.into_iter().map(|(id, kept)| {
            let names = kept.into_iter().map(|(own, place)| (own, ports[place].name.clone()));
            (id, names.collect())
        });
        let names = names.collect();
        (ports, names)
    }
}

fn free_name(taken: &BTreeSet<String>, protocol: Protocol, number: u16) -> String {
    let plain = format!("{}-{number}", protocol.as_str().to_ascii_lowercase());
    if !taken.contains(&plain) {
        return plain;
    }
    (2..=PORTS_MAX + 1).map(|n| format!("{plain}-{n}")).find(|name| !taken.contains(name)).unwrap_or(plain)
}

struct Conflicts<'a> {
    oldest: &'a ClusterId,
    found: BTreeMap<ConflictKind, Vec<String>>,
}

fn describe(port: &ServicePort) -> String {
    let name = if port.name.is_empty() { "without a name" } else { &port.name };
    let protocol = port.app_protocol.as_ref().map(|p| format!(", {p}")).unwrap_or_default();
    format!("{name} ({} {}{protocol})", port.protocol.as_str(), port.port)
}

fn families(list: &[IpFamily]) -> String {
    list.iter().map(|family| family.as_str()).collect::<Vec<_>>().join(" and ")
}

impl Conflicts<'_> {
    fn note(&mut self, kind: ConflictKind, text: String) {
        self.found.entry(kind).or_default().push(text);
    }

    fn port(&mut self, id: &ClusterId, port: &ServicePort, had: &UnionPort) {
        let text = format!("{id} has port {}, older {} has {}", describe(port), had.owner, describe(&had.port));
        self.note(ConflictKind::Port, text);
    }

    fn too_many(&mut self, id: &ClusterId, port: &ServicePort) {
        let text = format!("{id} has port {}, and the import has {PORTS_MAX} already", describe(port));
        self.note(ConflictKind::Port, text);
    }

    /// Compares one export with the oldest, which is followed.
    fn compare(&mut self, id: &ClusterId, first: &ExportSpec, other: &ExportSpec) {
        let word = |type_: ExportType| match type_ {
            ExportType::ClusterSetIp => "ClusterSetIP",
            ExportType::Headless => "Headless",
        };
        let affinity = |affinity: SessionAffinity| match affinity {
            SessionAffinity::None => "None",
            SessionAffinity::ClientIp => "ClientIP",
        };
        let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "the default".to_owned());
        let seconds = |value: Option<i32>| value.map_or_else(|| "the default".to_owned(), |s| format!("{s} s"));
        let map = |map: &BTreeMap<String, String>| {
            let pairs: Vec<String> = map.iter().take(4).map(|(key, value)| format!("{key}={value}")).collect();
            let more = if map.len() > 4 { ", …" } else { "" };
            if pairs.is_empty() { "none".to_owned() } else { format!("{}{more}", pairs.join(", ")) }
        };
        let same_affinity = first.session_affinity == other.session_affinity;
        let differences = [
            (ConflictKind::Type, first.type_ != other.type_, word(other.type_).to_owned(), word(first.type_).to_owned()),
            (
                ConflictKind::SessionAffinity,
                !same_affinity,
                affinity(other.session_affinity).to_owned(),
                affinity(first.session_affinity).to_owned(),
            ),
            (
                ConflictKind::SessionAffinityConfig,
                same_affinity && first.session_affinity_seconds != other.session_affinity_seconds,
                seconds(other.session_affinity_seconds),
                seconds(first.session_affinity_seconds),
            ),
            (
                ConflictKind::Labels,
                first.exported_labels != other.exported_labels,
                map(&other.exported_labels),
                map(&first.exported_labels),
            ),
            (
                ConflictKind::Annotations,
                first.exported_annotations != other.exported_annotations,
                map(&other.exported_annotations),
                map(&first.exported_annotations),
            ),
            (
                ConflictKind::InternalTrafficPolicy,
                first.internal_traffic_policy != other.internal_traffic_policy,
                text(&other.internal_traffic_policy),
                text(&first.internal_traffic_policy),
            ),
            (
                ConflictKind::TrafficDistribution,
                first.traffic_distribution != other.traffic_distribution,
                text(&other.traffic_distribution),
                text(&first.traffic_distribution),
            ),
            (
                ConflictKind::IpFamily,
                first.ip_families != other.ip_families,
                families(&other.ip_families),
                families(&first.ip_families),
            ),
        ];
        for (kind, _, theirs, followed) in differences.into_iter().filter(|(_, differs, ..)| *differs) {
            let oldest = self.oldest;
            self.note(kind, format!("{id} has {theirs}, older {oldest} has {followed}"));
        }
    }

    fn finish(self) -> Vec<Conflict> {
        let what = |kind| match kind {
            ConflictKind::Port => "ports",
            ConflictKind::Type => "type",
            ConflictKind::SessionAffinity => "session affinity",
            ConflictKind::SessionAffinityConfig => "session affinity's time",
            ConflictKind::Labels => "exported labels",
            ConflictKind::Annotations => "exported annotations",
            ConflictKind::InternalTrafficPolicy => "internal traffic policy",
            ConflictKind::TrafficDistribution => "traffic distribution",
            ConflictKind::IpFamily => "address families",
        };
        let conflicts = self.found.into_iter().map(|(kind, mut texts)| {
            let more = texts.len().saturating_sub(8);
            texts.truncate(8);
            let more = if more > 0 { format!(", and {more} more") } else { String::new() };
            let policy = match kind {
                ConflictKind::Port => "all are imported, of two that disagree the older; traffic for a port goes to who has it",
                ConflictKind::Type
                | ConflictKind::SessionAffinity
                | ConflictKind::SessionAffinityConfig
                | ConflictKind::Labels
                | ConflictKind::Annotations
                | ConflictKind::InternalTrafficPolicy
                | ConflictKind::TrafficDistribution
                | ConflictKind::IpFamily => "the oldest is followed",
            };
            Conflict { kind, message: format!("{}: {}{more}; {policy}", what(kind), texts.join(", ")) }
        });
        conflicts.collect()
    }
}

#[cfg(test)]
mod tests;
