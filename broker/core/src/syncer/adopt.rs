//! What a former run of the syncer left in this cluster is taken up, so that a restart withdraws nothing: not while the broker
//! is away, and not from a broker that came back empty.

use std::collections::BTreeMap;

use daisy_api::labels::{MCS_SOURCE_CLUSTER, MEMBER, SYSTEM_NAMESPACE, VOUCHED_SEQUENCE};
use daisy_api::{Cluster, ClusterId, Envelope, ExportEndpointsSpec, ExportSpec, ExportType, ServiceImport, ServiceKey};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::Syncer;
use super::agenda::Work;
use crate::import::{self, Exporter};
use crate::service::{self, CLUSTER, LocalService, ServiceKind};
use crate::time::Now;
use crate::vouch::{KnownMember, MemberChange};

/// An export as the import that it became tells of it.
fn export_of(key: &ServiceKey, service: &Service, import: Option<&ServiceImport>, exporter: Exporter) -> ExportSpec {
    let short = LocalService::of(service);
    let map = |map: Option<&BTreeMap<String, String>>| crate::qualified::labels(map.unwrap_or(&BTreeMap::new()));
    let annotations = import.and_then(|import| import.metadata.annotations.clone()).unwrap_or_default();
    ExportSpec {
        envelope: Envelope { sequence: exporter.sequence, signature: None },
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        exported_at: Time(exporter.since),
        type_: if short.kind == ServiceKind::Headless { ExportType::Headless } else { ExportType::ClusterSetIp },
        ports: short.ports,
        cluster_ips: exporter.cluster_ips,
        session_affinity: short.session_affinity,
        session_affinity_seconds: short.session_affinity_seconds,
        ip_families: short.ip_families,
        internal_traffic_policy: import.and_then(|import| import.spec.internal_traffic_policy.clone().filter(|p| p != CLUSTER)),
        traffic_distribution: import.and_then(|import| import.spec.traffic_distribution.clone()),
        exported_labels: map(import.and_then(|import| import.metadata.labels.as_ref())),
        exported_annotations: crate::qualified::annotations(&annotations),
    }
}

impl Syncer {
    /// Takes up what is there, where the broker has not said it better already.
    pub(super) fn adopt(&mut self, now: Now) {
        let believable = Self::believable(now);
        let member = |cluster: &Cluster| {
            cluster.metadata.annotations.as_ref()?.get(MEMBER).and_then(|text| KnownMember::from_text(text))
        };
        let floor = |cluster: &Cluster| cluster.metadata.annotations.as_ref()?.get(VOUCHED_SEQUENCE)?.parse::<u64>().ok();
        let here = self.here.clusters.iter();
        let clusters: Vec<_> = here.map(|(name, one)| (name.clone(), one.spec.clone(), member(one), floor(one))).collect();
        for (name, spec, member, floor) in clusters {
            let Ok(id) = ClusterId::new(name.as_str()) else { continue };
            if id == self.id {
                member.into_iter().for_each(|member| self.own.peer.adopt_member(member));
                self.expect_member(&id, now);
                continue;
            }
            let peer = self.peer(&id, now);
            peer.cluster.adopt(&name, spec);
            peer.adopt_floor(floor.unwrap_or(0).min(believable));
            member.into_iter().for_each(|member| peer.adopt_member(member));
            self.expect_member(&id, now);
            self.mark(Work::Peer(id), now);
        }
        let keys: Vec<ServiceKey> = self.here.import_services.keys().cloned().collect();
        for key in keys {
            self.adopt_import(&key, now);
        }
    }

    /// The broker had shown an earlier version than the former run knew.
    fn expect_member(&mut self, id: &ClusterId, now: Now) {
        let peer = if *id == self.id { Some(&self.own.peer) } else { self.peers.get(id) };
        if peer.and_then(|peer| peer.member.as_ref()).is_some_and(KnownMember::is_shown_older) {
            self.member_changed(id, MemberChange::Older, false, now);
        }
    }

    fn adopt_import(&mut self, key: &ServiceKey, now: Now) {
        let name = (SYSTEM_NAMESPACE.to_owned(), key.import_service_name());
        let Some(service) = self.here.import_services.get(&name) else { return };
        let import = self.here.service_imports.get(key).filter(|import| super::watch::is_ours(&import.metadata));
        let exports: Vec<(ClusterId, ExportSpec)> =
            import::exporters(service).into_iter().map(|(id, one)| (id, export_of(key, service, import, one))).collect();
        let mut endpoints: Vec<(ClusterId, String, ExportEndpointsSpec)> = Vec::new();
        for ((namespace, name), slice) in self.here.our_slices.of(key) {
            let source = slice.metadata.labels.as_ref().and_then(|labels| labels.get(MCS_SOURCE_CLUSTER));
            let Some(id) = source.and_then(|id| ClusterId::new(id.as_str()).ok()) else { continue };
            let record = import::record_of(key, &id, name).filter(|_| namespace == SYSTEM_NAMESPACE);
            if let (Some(record), Some(mut spec)) = (record, service::endpoints(key, slice)) {
                spec.envelope.sequence = import::sequence_of(slice);
                endpoints.push((id, record, spec));
            }
        }
        for (id, spec) in exports {
            if id == self.id {
                self.own.adopted.insert(key.clone());
                continue;
            }
            self.peer(&id, now).exports.adopt(&key.record_name(), spec);
            self.offering.entry(key.clone()).or_default().insert(id);
        }
        for (id, record, spec) in endpoints.into_iter().filter(|(id, ..)| *id != self.id).collect::<Vec<_>>() {
            self.peer(&id, now).endpoints.adopt(&record, spec);
        }
        self.mark(Work::Import(key.clone()), now);
    }
}
