//! What the watches say goes into the stores, and marks what depends on it.

use daisy_api::labels::{
    MANAGED_BY, MANAGED_BY_DAISY, SLICE_MANAGED_BY, SLICE_MANAGED_BY_DAISY, SLICE_SERVICE_NAME, SYSTEM_NAMESPACE,
};
use daisy_api::{Cluster, ClusterId, ServiceExport, ServiceImport, ServiceKey};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::Syncer;
use super::agenda::{Timer, Work};
use super::note::Note;
use super::state::{LocalEndpoints, LocalNamespace, LocalNode};
use super::store::Name;
use crate::import::key_of;
use crate::object::{Change, Kind, Object, Place, Reference};
use crate::service::{self, LocalService};
use crate::time::Now;
use crate::vouch::{MemberChange, Peer};

pub(super) fn is_ours(metadata: &ObjectMeta) -> bool {
    metadata.labels.as_ref().and_then(|labels| labels.get(MANAGED_BY)).is_some_and(|value| value == MANAGED_BY_DAISY)
}

fn name_of(metadata: &ObjectMeta) -> Name {
    (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
}

fn version(metadata: &ObjectMeta) -> Option<u64> {
    metadata.resource_version.as_deref()?.parse().ok()
}

impl Syncer {
    /// Takes what a watch says.
    pub fn handle_watch(&mut self, place: Place, kind: Kind, change: Change, now: Now) {
        match change {
            Change::Started => *self.epochs.entry((place, kind)).or_default() += 1,
            Change::Listed(object) => self.see(place, object, false, now),
            Change::Applied(object) => self.see_unless_outdated(place, object, now),
            Change::Deleted(object) => {
                let reference = object.reference(place);
                // Ours of this name may have been made anew since.
                let other = |known: &ObjectMeta| known.uid.is_some() && known.uid != object.metadata().uid;
                if !self.known(&reference).is_some_and(other) {
                    self.deleted(&reference, now);
                }
            }
            Change::Unreadable { namespace, name, why } => {
                let reference = Reference { place, kind, namespace, name };
                self.touch(&reference);
                self.note(Note::Unreadable { object: reference, why });
            }
            Change::Finished => self.finished(place, kind, now),
        }
    }

    pub(super) fn epoch(&self, place: Place, kind: Kind) -> u64 {
        self.epochs.get(&(place, kind)).copied().unwrap_or(0)
    }

    fn finished(&mut self, place: Place, kind: Kind, now: Now) {
        let epoch = self.epoch(place, kind);
        match place {
            Place::Here => self.sweep_here(kind, epoch, now),
            Place::Broker => self.sweep_broker(kind, epoch, now),
        }
        let first = self.synced.insert((place, kind));
        if first && self.here_synced() && !self.adopted {
            self.adopted = true;
            self.adopt(now);
        }
        // From now on what is not wanted may be deleted.
        if first && self.ready() {
            self.mark_all(now);
        }
    }

    /// What is known of an object that we write ourselves.
    fn known(&self, reference: &Reference) -> Option<&ObjectMeta> {
        let name = (reference.namespace.clone(), reference.name.clone());
        let key = || ServiceKey::parse(&reference.namespace, &reference.name).ok();
        match (reference.place, reference.kind) {
            (Place::Here, Kind::Service) => self.here.import_services.get(&name).map(|o| &o.metadata),
            (Place::Here, Kind::EndpointSlice) => self.here.our_slices.get(&name).map(|o| &o.metadata),
            (Place::Here, Kind::Cluster) => self.here.clusters.get(&reference.name).map(|o| &o.metadata),
            (Place::Here, Kind::ServiceExport) => self.here.service_exports.get(&key()?).map(|o| &o.metadata),
            (Place::Here, Kind::ServiceImport) => self.here.service_imports.get(&key()?).map(|o| &o.metadata),
            (Place::Broker, Kind::Export) => self.own.exports.get(&name).map(|o| &o.metadata),
            (Place::Broker, Kind::ExportEndpoints) => self.own.endpoints.get(&name).map(|o| &o.metadata),
            (Place::Broker, Kind::Cluster) if reference.namespace == self.id.broker_namespace() => {
                self.own.cluster.get(&reference.name).map(|o| &o.metadata)
            }
            (Place::Broker, Kind::Heartbeat) if reference.namespace == self.id.broker_namespace() => {
                self.own.heartbeat.get(&reference.name).map(|o| &o.metadata)
            }
            _ => None,
        }
    }

    /// Whether the answer to a write of ours has shown a newer state already. Within one watch versions only grow; a restored
    /// server starts with a list, which is always taken.
    fn is_outdated(&self, place: Place, object: &Object) -> bool {
        let Some(known) = self.known(&object.reference(place)) else { return false };
        known.uid == object.metadata().uid
            && matches!((version(object.metadata()), version(known)), (Some(new), Some(had)) if new < had)
    }

    pub(super) fn see_unless_outdated(&mut self, place: Place, object: Object, now: Now) {
        if !self.is_outdated(place, &object) {
            self.see(place, object, true, now);
        }
    }

    fn see(&mut self, place: Place, mut object: Object, live: bool, now: Now) {
        object.metadata_mut().managed_fields = None;
        match place {
            Place::Here => self.see_here(object, now),
            Place::Broker => self.see_broker(object, live, now),
        }
    }

    fn see_here(&mut self, object: Object, now: Now) {
        let epoch = self.epoch(Place::Here, object.kind());
        match object {
            Object::ServiceExport(export) => self.see_service_export(*export, epoch, now),
            Object::ServiceImport(import) => self.see_service_import(*import, epoch, now),
            Object::Service(service) => self.see_service(*service, epoch, now),
            Object::EndpointSlice(slice) => self.see_slice(*slice, epoch, now),
            Object::Namespace(namespace) => {
                let name = namespace.metadata.name.clone().unwrap_or_default();
                let short = LocalNamespace::of(&namespace);
                if self.here.namespaces.put(name.clone(), short, epoch) != Some(short) {
                    self.mark_namespace(&name, now);
                }
            }
            Object::Node(node) => {
                let name = node.metadata.name.clone().unwrap_or_default();
                let short = LocalNode::of(&node);
                if self.here.nodes.put(name.clone(), short.clone(), epoch) != Some(short) {
                    self.node_changed(&name, now);
                }
            }
            Object::Gateway(gateway) => {
                let name = gateway.metadata.name.clone().unwrap_or_default();
                self.here.gateways.put(name, *gateway, epoch);
                self.mark(Work::OwnCluster, now);
                self.see_connections(now);
            }
            Object::Cluster(cluster) => self.see_cluster_here(*cluster, epoch, now),
            Object::Member(_) | Object::Heartbeat(_) | Object::Export(_) | Object::ExportEndpoints(_) => {}
        }
    }

    fn see_service_export(&mut self, export: ServiceExport, epoch: u64, now: Now) {
        let Ok(key) = ServiceKey::of(&export) else { return };
        let same = |had: &ServiceExport| {
            had.spec == export.spec
                && had.metadata.uid == export.metadata.uid
                && had.metadata.deletion_timestamp.is_some() == export.metadata.deletion_timestamp.is_some()
        };
        if !self.here.service_exports.get(&key).is_some_and(same) {
            self.mark(Work::Bulk(key.clone()), now);
            self.mark(Work::Import(key.clone()), now);
        }
        self.here.service_exports.put(key.clone(), export, epoch);
        self.mark(Work::Export(key), now);
    }

    fn see_service_import(&mut self, import: ServiceImport, epoch: u64, now: Now) {
        let Ok(key) = ServiceKey::of(&import) else { return };
        self.here.service_imports.put(key.clone(), import, epoch);
        self.mark(Work::Import(key), now);
    }

    fn see_service(&mut self, service: Service, epoch: u64, now: Now) {
        let Ok(key) = ServiceKey::of(&service) else { return };
        let short = LocalService::of(&service);
        let name = name_of(&service.metadata);
        let import = if name.0 == SYSTEM_NAMESPACE && short.ours { key_of(&service.metadata) } else { None };
        match import {
            Some(import) => {
                if let Some((was, _)) = self.here.import_services.put(name, import.clone(), service, epoch)
                    && was != import
                {
                    self.mark(Work::Import(was), now);
                }
                self.mark(Work::Import(import), now);
            }
            None => {
                if let Some((was, _)) = self.here.import_services.remove(&name) {
                    self.mark(Work::Import(was), now);
                }
            }
        }
        if self.here.services.put(key.clone(), short.clone(), epoch) != Some(short) {
            self.mark_service(&key, now);
        }
    }

    pub(super) fn mark_service(&mut self, key: &ServiceKey, now: Now) {
        self.mark(Work::Bulk(key.clone()), now);
        if self.here.service_exports.get(key).is_some() {
            self.mark(Work::Export(key.clone()), now);
            self.mark(Work::Import(key.clone()), now);
        }
    }

    fn see_slice(&mut self, slice: EndpointSlice, epoch: u64, now: Now) {
        let name = name_of(&slice.metadata);
        let label = |label: &str| slice.metadata.labels.as_ref().and_then(|labels| labels.get(label)).cloned();
        if label(SLICE_MANAGED_BY).as_deref() == Some(SLICE_MANAGED_BY_DAISY) {
            self.forget_slice(&name, now);
            let Some(key) = key_of(&slice.metadata) else { return };
            if let Some((was, _)) = self.here.our_slices.put(name, key.clone(), slice, epoch)
                && was != key
            {
                self.mark(Work::Import(was), now);
            }
            self.mark(Work::Import(key), now);
            return;
        }
        if let Some((was, _)) = self.here.our_slices.remove(&name) {
            self.mark(Work::Import(was), now);
        }
        let key = label(SLICE_SERVICE_NAME).and_then(|service| ServiceKey::parse(&name.0, &service).ok());
        let read = key.and_then(|key| {
            let spec = service::endpoints(&key, &slice)?;
            Some((LocalEndpoints { spec, nodes: service::nodes(&slice) }, key))
        });
        let Some((endpoints, key)) = read else {
            self.forget_slice(&name, now);
            return;
        };
        if self.here.slices.get(&name) == Some(&endpoints) {
            self.here.slices.touch(&name, epoch);
            return;
        }
        if let Some((was, _)) = self.here.slices.put(name, key.clone(), endpoints, epoch)
            && was != key
        {
            self.mark_endpoints(&was, now);
        }
        self.mark_endpoints(&key, now);
    }

    pub(super) fn forget_slice(&mut self, name: &Name, now: Now) {
        if let Some((was, _)) = self.here.slices.remove(name) {
            self.mark_endpoints(&was, now);
        }
    }

    pub(super) fn mark_endpoints(&mut self, key: &ServiceKey, now: Now) {
        if self.here.service_exports.get(key).is_some() {
            self.mark(Work::Export(key.clone()), now);
            self.mark(Work::Import(key.clone()), now);
        }
    }

    fn see_cluster_here(&mut self, cluster: Cluster, epoch: u64, now: Now) {
        if cluster.metadata.namespace.as_deref() != Some(SYSTEM_NAMESPACE) {
            return;
        }
        let name = cluster.metadata.name.clone().unwrap_or_default();
        let Ok(id) = ClusterId::new(name.as_str()) else { return };
        if id == self.id {
            // A count that went on past what the broker now shows.
            self.count_from(cluster.spec.envelope.sequence, now);
            let leaving = cluster.spec.leaving;
            self.here.clusters.put(name, cluster, epoch);
            self.see_leaving(leaving, now);
            self.mark(Work::OwnCluster, now);
            self.mark(Work::Nodes, now);
            return;
        }
        let new = self.here.clusters.put(name, cluster, epoch).is_none();
        self.mark(Work::Peer(id.clone()), now);
        if new {
            self.mark_imports_of(&id, now);
        }
    }

    fn see_broker(&mut self, object: Object, live: bool, now: Now) {
        let epoch = self.epoch(Place::Broker, object.kind());
        let (namespace, name) = (object.namespace().to_owned(), object.name().to_owned());
        if let Object::Member(member) = object {
            let Ok(id) = ClusterId::new(name) else { return };
            let own = id == self.id;
            let peer = if own { &mut self.own.peer } else { self.peer(&id, now) };
            let new = peer.member.is_none();
            // What is known of another cluster under this ID may be forgotten with it.
            let replaced = peer.member.as_ref().is_some_and(|had| had.is_anothers(&member.spec));
            let keys = if replaced { peer.keys() } else { Vec::new() };
            let change = peer.see_member(&member.metadata, member.spec, (epoch, live));
            keys.into_iter().for_each(|key| self.mark(Work::Import(key), now));
            self.member_changed(&id, change, new, now);
            return;
        }
        let Some(id) = ClusterId::from_broker_namespace(&namespace) else { return };
        if id == self.id {
            return self.see_own(object, (namespace, name), epoch, now);
        }
        if self.is_beyond_belief(&object, now) {
            return;
        }
        match object {
            Object::Cluster(cluster) => {
                self.peer(&id, now).cluster.see(&name, cluster.spec, (epoch, 0));
                self.mark(Work::Peer(id), now);
            }
            Object::Heartbeat(heartbeat) if name == id.as_str() => self.see_heartbeat(&id, heartbeat.spec, now),
            Object::Export(export) => {
                let key = export.spec.key();
                let was = self.peer(&id, now).exports.get(&name).map(|standing| standing.spec.key());
                self.peer(&id, now).see_export(&name, export.spec, epoch);
                self.offering.entry(key.clone()).or_default().insert(id.clone());
                for key in was.into_iter().filter(|was| *was != key).chain([key.clone()]) {
                    self.mark(Work::Import(key), now);
                }
                self.misnamed(&id, Kind::Export, &name, name == key.record_name(), &key);
                self.mark(Work::Resolve(id), now);
            }
            Object::ExportEndpoints(endpoints) => {
                let key = endpoints.spec.key();
                let was = self.peer(&id, now).endpoints.get(&name).map(|standing| standing.spec.key());
                self.peer(&id, now).see_endpoints(&name, endpoints.spec, epoch);
                for key in was.into_iter().filter(|was| *was != key).chain([key.clone()]) {
                    self.mark(Work::Import(key), now);
                }
                let fits = name.starts_with(&format!("{}.", key.record_name()));
                self.misnamed(&id, Kind::ExportEndpoints, &name, fits, &key);
                self.mark(Work::Resolve(id), now);
            }
            _ => {}
        }
    }

    /// A sequence that no syncer can have come to: the record is dropped, and what was known of it stands.
    fn is_beyond_belief(&mut self, object: &Object, now: Now) -> bool {
        let sequence = match object {
            Object::Cluster(o) => o.spec.envelope.sequence,
            Object::Export(o) => o.spec.envelope.sequence,
            Object::ExportEndpoints(o) => o.spec.envelope.sequence,
            Object::Heartbeat(o) => o.spec.sequence,
            _ => 0,
        };
        let limit = Self::believable(now);
        if sequence <= limit {
            return false;
        }
        let record = object.reference(Place::Broker);
        self.touch(&record);
        let why = format!(
            "its sequence {sequence} is beyond belief: at most {limit} (the time in milliseconds, and a year) is taken"
        );
        self.drop_record(record, Some(why));
        true
    }

    /// A record that is not named after what it holds is never looked up, and so has to be named here.
    fn misnamed(&mut self, id: &ClusterId, kind: Kind, name: &str, fits: bool, key: &ServiceKey) {
        if !fits {
            let record = Reference { place: Place::Broker, kind, namespace: id.broker_namespace(), name: name.to_owned() };
            let why =
                format!("metadata.name does not belong to what the record holds ({key}); it begins {}", key.record_name());
            self.drop_record(record, Some(why));
        }
    }

    fn see_own(&mut self, object: Object, name: Name, epoch: u64, now: Now) {
        match object {
            Object::Cluster(cluster) => {
                self.count_from(cluster.spec.envelope.sequence, now);
                self.told |= cluster.spec.leaving && self.leaving.is_some();
                self.own.cluster.put(name.1, *cluster, epoch);
                self.mark(Work::OwnCluster, now);
            }
            Object::Heartbeat(heartbeat) => {
                self.count_from(heartbeat.spec.sequence, now);
                self.own.heartbeat.put(name.1, *heartbeat, epoch);
            }
            Object::Export(export) => {
                self.count_from(export.spec.envelope.sequence, now);
                let key = export.spec.key();
                if let Some((was, _)) = self.own.exports.put(name, key.clone(), *export, epoch)
                    && was != key
                {
                    self.mark(Work::Export(was), now);
                }
                self.mark(Work::Export(key), now);
            }
            Object::ExportEndpoints(endpoints) => {
                self.count_from(endpoints.spec.envelope.sequence, now);
                let key = endpoints.spec.key();
                if let Some((was, _)) = self.own.endpoints.put(name, key.clone(), *endpoints, epoch)
                    && was != key
                {
                    self.mark(Work::Export(was), now);
                }
                self.mark(Work::Export(key), now);
            }
            _ => {}
        }
    }

    pub(super) fn peer(&mut self, id: &ClusterId, now: Now) -> &mut Peer {
        if !self.peers.contains_key(id) {
            self.peers.insert(id.clone(), Peer::new(now));
            self.judge(id, now);
        }
        self.peers.entry(id.clone()).or_insert_with(|| Peer::new(now))
    }

    pub(super) fn member_changed(&mut self, id: &ClusterId, change: MemberChange, new: bool, now: Now) {
        if change == MemberChange::Older {
            let namespace = daisy_api::labels::BROKER_NAMESPACE.to_owned();
            let object = Reference { place: Place::Broker, kind: Kind::Member, namespace, name: id.to_string() };
            self.note(Note::BrokerOlder { object });
            // Whoever restored it has this long to set it right; then the broker's word is taken.
            let patience = self.config.heartbeat_interval * self.config.vouch_intervals + self.config.vouch_margin;
            self.agenda.set_earlier(Timer::Member(id.clone()), now.monotonic + patience);
        }
        if change == MemberChange::Version {
            // It is written beside the Cluster here, for the next run.
            self.mark(if *id == self.id { Work::OwnCluster } else { Work::Peer(id.clone()) }, now);
        }
        if !matches!(change, MemberChange::Changed | MemberChange::Replaced) {
            return;
        }
        if *id == self.id {
            self.mark_exports(now);
            self.mark(Work::OwnCluster, now);
            self.mark(Work::Nodes, now);
            self.mark(Work::Heartbeat, now);
            return;
        }
        if new {
            self.note(Note::Joined { cluster: id.clone() });
        }
        self.mark(Work::Peer(id.clone()), now);
        self.mark_imports_of(id, now);
    }
}
