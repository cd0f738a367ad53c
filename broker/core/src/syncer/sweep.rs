//! What is gone, or absent from a complete list.

use daisy_api::{ClusterId, ServiceKey};

use super::Syncer;
use super::agenda::Work;
use super::note::Note;
use super::state::Own;
use crate::object::{Kind, Place, Reference};
use crate::time::Now;

impl Syncer {
    /// An object is gone: the watch said so, or it was deleted by us.
    pub(super) fn deleted(&mut self, reference: &Reference, now: Now) {
        match reference.place {
            Place::Here => self.deleted_here(reference, now),
            Place::Broker => self.deleted_broker(reference, now),
        }
    }

    fn deleted_here(&mut self, reference: &Reference, now: Now) {
        let name = (reference.namespace.clone(), reference.name.clone());
        let key = ServiceKey::parse(&reference.namespace, &reference.name).ok();
        match (reference.kind, key) {
            (Kind::ServiceExport, Some(key)) => {
                self.here.service_exports.remove(&key);
                self.mark(Work::Export(key.clone()), now);
                self.mark(Work::Import(key.clone()), now);
                self.mark(Work::Bulk(key), now);
            }
            (Kind::ServiceImport, Some(key)) => {
                self.here.service_imports.remove(&key);
                self.mark(Work::Import(key), now);
            }
            (Kind::Service, Some(key)) => {
                if let Some((import, _)) = self.here.import_services.remove(&name) {
                    self.mark(Work::Import(import), now);
                }
                self.here.services.remove(&key);
                self.mark_service(&key, now);
            }
            (Kind::EndpointSlice, _) => {
                if let Some((key, _)) = self.here.our_slices.remove(&name) {
                    self.mark(Work::Import(key), now);
                }
                self.forget_slice(&name, now);
            }
            (Kind::Namespace, _) => {
                self.here.namespaces.remove(&name.1);
                self.mark_namespace(&name.1, now);
            }
            (Kind::Node, _) => {
                self.here.nodes.remove(&name.1);
                self.node_changed(&name.1, now);
            }
            (Kind::Gateway, _) => {
                self.here.gateways.remove(&name.1);
                self.mark(Work::OwnCluster, now);
                self.see_connections(now);
            }
            (Kind::Cluster, _) => {
                self.here.clusters.remove(&name.1);
                self.mark(Work::OwnCluster, now);
                if let Ok(id) = ClusterId::new(name.1) {
                    self.mark(Work::Peer(id), now);
                }
            }
            _ => {}
        }
    }

    fn deleted_broker(&mut self, reference: &Reference, now: Now) {
        let name = (reference.namespace.clone(), reference.name.clone());
        if reference.kind == Kind::Member {
            let Ok(id) = ClusterId::new(name.1) else { return };
            return self.member_removed(&id, now);
        }
        let Some(id) = ClusterId::from_broker_namespace(&reference.namespace) else { return };
        if id == self.id {
            match reference.kind {
                Kind::Cluster => drop(self.own.cluster.remove(&name.1)),
                Kind::Heartbeat => drop(self.own.heartbeat.remove(&name.1)),
                Kind::Export => self.mark_removed(|own| own.exports.remove(&name).map(|(key, _)| key), now),
                Kind::ExportEndpoints => self.mark_removed(|own| own.endpoints.remove(&name).map(|(key, _)| key), now),
                _ => {}
            }
            self.mark(Work::OwnCluster, now);
            return;
        }
        self.dropped.remove(reference);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let key = match reference.kind {
            Kind::Export => peer.exports.remove(&name.1).map(|spec| spec.key()),
            Kind::ExportEndpoints => peer.endpoints.remove(&name.1).map(|spec| spec.key()),
            Kind::Cluster => {
                peer.cluster.remove(&name.1);
                None
            }
            _ => None,
        };
        if let Some(key) = key {
            self.mark(Work::Import(key), now);
        }
        self.mark(Work::Resolve(id.clone()), now);
        self.mark(Work::Peer(id), now);
    }

    fn mark_removed(&mut self, remove: impl FnOnce(&mut Own) -> Option<ServiceKey>, now: Now) {
        if let Some(key) = remove(&mut self.own) {
            self.mark(Work::Export(key), now);
        }
    }

    pub(super) fn member_removed(&mut self, id: &ClusterId, now: Now) {
        if *id == self.id {
            self.own.peer.remove_member();
            self.mark_exports(now);
            self.mark(Work::OwnCluster, now);
            return;
        }
        let Some(peer) = self.peers.get_mut(id) else { return };
        let keys = peer.keys();
        if peer.member.is_some() {
            self.notes.push_back(Note::Removed { cluster: id.clone() });
        }
        peer.remove_member();
        for key in keys {
            self.mark(Work::Import(key), now);
        }
        self.mark(Work::Peer(id.clone()), now);
    }

    /// An object is there, though it cannot be read.
    pub(super) fn touch(&mut self, reference: &Reference) {
        let epoch = self.epoch(reference.place, reference.kind);
        let name = (reference.namespace.clone(), reference.name.clone());
        let key = ServiceKey::parse(&reference.namespace, &reference.name).ok();
        if reference.place == Place::Here {
            match (reference.kind, key) {
                (Kind::ServiceExport, Some(key)) => self.here.service_exports.touch(&key, epoch),
                (Kind::ServiceImport, Some(key)) => self.here.service_imports.touch(&key, epoch),
                (Kind::Service, Some(key)) => {
                    self.here.import_services.touch(&name, epoch);
                    self.here.services.touch(&key, epoch);
                }
                (Kind::EndpointSlice, _) => {
                    self.here.our_slices.touch(&name, epoch);
                    self.here.slices.touch(&name, epoch);
                }
                (Kind::Namespace, _) => self.here.namespaces.touch(&name.1, epoch),
                (Kind::Node, _) => self.here.nodes.touch(&name.1, epoch),
                (Kind::Gateway, _) => self.here.gateways.touch(&name.1, epoch),
                (Kind::Cluster, _) => self.here.clusters.touch(&name.1, epoch),
                _ => {}
            }
            return;
        }
        if reference.kind == Kind::Member {
            let Ok(id) = ClusterId::new(name.1) else { return };
            let peer = if id == self.id { Some(&mut self.own.peer) } else { self.peers.get_mut(&id) };
            if let Some(peer) = peer {
                peer.touch_member(epoch);
            }
            return;
        }
        let Some(id) = ClusterId::from_broker_namespace(&name.0) else { return };
        if id == self.id {
            match reference.kind {
                Kind::Export => self.own.exports.touch(&name, epoch),
                Kind::ExportEndpoints => self.own.endpoints.touch(&name, epoch),
                Kind::Cluster => self.own.cluster.touch(&name.1, epoch),
                Kind::Heartbeat => self.own.heartbeat.touch(&name.1, epoch),
                _ => {}
            }
        } else if let Some(peer) = self.peers.get_mut(&id) {
            match reference.kind {
                Kind::Export => peer.exports.touch(&name.1, epoch),
                Kind::ExportEndpoints => peer.endpoints.touch(&name.1, epoch),
                Kind::Cluster => peer.cluster.touch(&name.1, epoch),
                _ => {}
            }
        }
    }

    pub(super) fn sweep_here(&mut self, kind: Kind, epoch: u64, now: Now) {
        let reference = |namespace: String, name: String| Reference { place: Place::Here, kind, namespace, name };
        let of_key = |key: ServiceKey| reference(key.namespace.into(), key.name.into());
        let gone: Vec<Reference> = match kind {
            Kind::ServiceExport => self.here.service_exports.sweep(epoch).into_iter().map(|(key, _)| of_key(key)).collect(),
            Kind::ServiceImport => self.here.service_imports.sweep(epoch).into_iter().map(|(key, _)| of_key(key)).collect(),
            Kind::Service => {
                for key in self.here.import_services.sweep(epoch) {
                    self.mark(Work::Import(key), now);
                }
                self.here.services.sweep(epoch).into_iter().map(|(key, _)| of_key(key)).collect()
            }
            Kind::EndpointSlice => {
                for key in self.here.our_slices.sweep(epoch) {
                    self.mark(Work::Import(key), now);
                }
                for key in self.here.slices.sweep(epoch) {
                    self.mark_endpoints(&key, now);
                }
                Vec::new()
            }
            Kind::Namespace => {
                self.here.namespaces.sweep(epoch).into_iter().map(|(n, _)| reference(String::new(), n)).collect()
            }
            Kind::Node => self.here.nodes.sweep(epoch).into_iter().map(|(n, _)| reference(String::new(), n)).collect(),
            Kind::Gateway => self.here.gateways.sweep(epoch).into_iter().map(|(n, _)| reference(String::new(), n)).collect(),
            Kind::Cluster => self.here.clusters.sweep(epoch).into_iter().map(|(n, _)| reference(String::new(), n)).collect(),
            Kind::Member | Kind::Heartbeat | Kind::Export | Kind::ExportEndpoints => Vec::new(),
        };
        for reference in gone {
            self.deleted_here(&reference, now);
        }
    }

    pub(super) fn sweep_broker(&mut self, kind: Kind, epoch: u64, now: Now) {
        if kind == Kind::Member {
            self.own.peer.sweep_member(epoch);
            self.mark_exports(now);
        }
        // Our own records are simply not there; what others say of theirs is judged.
        match kind {
            Kind::Cluster => drop(self.own.cluster.sweep(epoch)),
            Kind::Heartbeat => drop(self.own.heartbeat.sweep(epoch)),
            Kind::Export => self.own.exports.sweep(epoch).into_iter().for_each(|key| self.mark(Work::Export(key), now)),
            Kind::ExportEndpoints => {
                self.own.endpoints.sweep(epoch).into_iter().for_each(|key| self.mark(Work::Export(key), now))
            }
            _ => {}
        }
        self.mark(Work::OwnCluster, now);
        let ids: Vec<ClusterId> = self.peers.keys().cloned().collect();
        for id in ids {
            let Some(peer) = self.peers.get_mut(&id) else { continue };
            let absent = if kind == Kind::Member { usize::from(peer.sweep_member(epoch)) } else { peer.sweep(kind, epoch) };
            if absent > 0 {
                self.note(Note::Absent { cluster: id.clone(), records: absent });
                self.mark(Work::Peer(id.clone()), now);
            }
            if absent > 0 && kind == Kind::Member {
                // One that was silent before is judged by nothing else.
                self.judge(&id, now);
            }
            self.mark(Work::Resolve(id), now);
        }
    }
}
