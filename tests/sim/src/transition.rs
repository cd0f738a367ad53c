//! What can happen to the supercluster.

use std::collections::BTreeSet;
use std::time::Duration;

use daisy_api::{
    Endpoint, EndpointPort, Envelope, Export, ExportEndpoints, ExportEndpointsSpec, ExportSpec, ExportType, Grant, IpFamily,
    Protocol, ServiceKey, SessionAffinity, labels,
};
use daisy_broker_core::object::{Kind, Object, Place};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use crate::cluster::{SimCluster, Standing};
use crate::model;
use crate::objects;
use crate::world::World;

impl World {
    /// One of the transitions, chosen at random.
    pub(crate) fn transition(&mut self) {
        let numbers: Vec<u8> = self.clusters.keys().copied().collect();
        let Some(&number) = self.random.pick(&numbers) else { return };
        let keys = model::keys();
        let Some(key) = self.random.pick(&keys).cloned() else { return };
        self.disagreed_before = self.disagreed();
        match self.random.below(115) {
            0..=24 => self.run_service(number, &key),
            25..=33 => self.stop_service(number, &key),
            34..=53 => self.export(number, &key),
            54..=60 => self.unexport(number, &key),
            61..=64 => self.toggle_namespace(number, &key),
            65..=68 => self.toggle_bulk(number, &key),
            69..=73 => self.toggle_link(number),
            74..=77 => self.toggle_process(number),
            78..=80 => self.toggle_broker(),
            81..=83 => self.stale_watch(number),
            84..=85 => self.toggle_path(number),
            86..=87 => self.take_backup(),
            88 => self.restore_backup(),
            89 => self.wipe_broker(),
            90..=92 => self.change_grant(number),
            93..=96 => self.lie(number, &key),
            97..=98 => self.leave(number),
            99..=101 => self.toggle_registrar(),
            102..=103 => self.stale_registrar(),
            _ => self.membership_changes(number),
        }
        self.refresh_gateway(number);
    }

    fn member(&mut self, number: u8) -> Option<&mut SimCluster> {
        self.clusters.get_mut(&number).filter(|c| c.standing == Standing::Member)
    }

    fn changed(&mut self, number: u8, key: &ServiceKey) {
        self.exempt.exports.insert((number, key.clone()));
        // What stops disagrees no longer, but it did.
        if self.disagreed_before.contains(key) || !model::agreed(self.clusters.values(), key) {
            self.exempt.keys.insert(key.clone());
        }
    }

    /// The cluster's exports come or go as a whole.
    pub(crate) fn changed_whole(&mut self, number: u8) {
        self.exempt.clusters.insert(number);
        self.exempt.keys.extend(self.disagreed());
    }

    /// The cluster is granted this from now on, whoever it is from.
    pub(crate) fn granted(&mut self, number: u8, grant: &Grant) {
        if self.grants.now(number) != *grant {
            self.changed_whole(number);
        }
        self.grants.set(number, grant.clone());
    }

    /// The names whose exporters disagree. There the oldest is followed (KEP-1645): when another becomes it, the import's type may
    /// change, for which its Service must be made anew, and its ports, which others' endpoints may not have.
    fn disagreed(&self) -> BTreeSet<ServiceKey> {
        model::keys().into_iter().filter(|key| !model::agreed(self.clusters.values(), key)).collect()
    }

    /// A Service with pods starts, or changes its pods, or (rarely) its shape.
    fn run_service(&mut self, number: u8, key: &ServiceKey) {
        let (port, headless) =
            (if self.random.chance(4) { 81 } else { 80 }, key.name.as_str() == "db" && !self.random.chance(5));
        let pods: Vec<u8> = (1..=4).filter(|_| self.random.chance(60)).collect();
        let wall = self.now().wall;
        let Some(cluster) = self.member(number) else { return };
        let namespace = key.namespace.as_str();
        if cluster.here.get(Kind::Namespace, "", namespace).is_none() {
            cluster.here.put(objects::namespace(namespace, false).into(), wall);
        }
        if cluster.here.get(Kind::Service, namespace, key.name.as_str()).is_none() {
            cluster.here.put(objects::service(key, port, headless).into(), wall);
        }
        cluster.here.put(objects::slice(&cluster.identity, key, &pods).into(), wall);
        self.note(format!("c{number}: {key} runs with pods {pods:?}"));
        self.changed(number, key);
    }

    fn stop_service(&mut self, number: u8, key: &ServiceKey) {
        let Some(cluster) = self.member(number) else { return };
        cluster.here.remove(Kind::Service, key.namespace.as_str(), key.name.as_str());
        cluster.here.remove(Kind::EndpointSlice, key.namespace.as_str(), &objects::slice_name(key));
        self.note(format!("c{number}: {key} stops"));
        self.changed(number, key);
    }

    fn export(&mut self, number: u8, key: &ServiceKey) {
        let wall = self.now().wall;
        let Some(cluster) = self.member(number) else { return };
        let namespace = key.namespace.as_str();
        if cluster.here.get(Kind::Namespace, "", namespace).is_none() {
            cluster.here.put(objects::namespace(namespace, false).into(), wall);
        }
        if cluster.here.get(Kind::ServiceExport, namespace, key.name.as_str()).is_none() {
            cluster.here.put(objects::export(key).into(), wall);
            self.note(format!("c{number}: exports {key}"));
            self.changed(number, key);
        }
    }

    fn unexport(&mut self, number: u8, key: &ServiceKey) {
        let Some(cluster) = self.member(number) else { return };
        if cluster.here.remove(Kind::ServiceExport, key.namespace.as_str(), key.name.as_str()).is_some() {
            self.note(format!("c{number}: unexports {key}"));
            self.changed(number, key);
        }
    }

    /// A namespace is made, or ends with all that is in it.
    fn toggle_namespace(&mut self, number: u8, key: &ServiceKey) {
        let wall = self.now().wall;
        let Some(cluster) = self.member(number) else { return };
        let namespace = key.namespace.as_str();
        if cluster.here.remove(Kind::Namespace, "", namespace).is_none() {
            cluster.here.put(objects::namespace(namespace, false).into(), wall);
            self.note(format!("c{number}: namespace {namespace} is made"));
            return;
        }
        let inside: Vec<(Kind, String)> =
            cluster.here.objects().filter(|o| o.namespace() == namespace).map(|o| (o.kind(), o.name().to_owned())).collect();
        for (kind, name) in inside {
            cluster.here.remove(kind, namespace, &name);
        }
        self.note(format!("c{number}: namespace {namespace} ends"));
        for key in model::keys().into_iter().filter(|k| k.namespace == key.namespace) {
            self.changed(number, &key);
        }
    }

    fn toggle_bulk(&mut self, number: u8, key: &ServiceKey) {
        let wall = self.now().wall;
        let Some(cluster) = self.member(number) else { return };
        let namespace = key.namespace.as_str();
        if cluster.here.get(Kind::Namespace, "", namespace).is_none() {
            return;
        }
        let on = !cluster.bulk(namespace);
        cluster.here.put(objects::namespace(namespace, on).into(), wall);
        self.note(format!("c{number}: bulk export of {namespace}: {on}"));
        for key in model::keys().into_iter().filter(|k| k.namespace == key.namespace) {
            self.changed(number, &key);
        }
    }

    fn toggle_link(&mut self, number: u8) {
        let (now, up) = (self.now(), self.answers(number));
        let Some(cluster) = self.clusters.get_mut(&number).filter(|c| !c.asleep) else { return };
        cluster.linked = !cluster.linked;
        let linked = cluster.linked;
        cluster.tell_connection(up, now);
        cluster.collect(now);
        self.note(format!("c{number}: link to the broker: {linked}"));
    }

    fn toggle_process(&mut self, number: u8) {
        let now = self.now();
        let may = |c: &&mut SimCluster| !c.asleep && !c.removed && c.standing != Standing::Joining;
        let Some(cluster) = self.clusters.get_mut(&number).filter(may) else { return };
        let running = cluster.syncer.is_some();
        if running {
            cluster.crash();
        } else {
            cluster.start(now);
        }
        self.note(format!("c{number}: the syncer {}", if running { "crashes" } else { "starts" }));
    }

    fn toggle_broker(&mut self) {
        self.broker_up = !self.broker_up;
        self.cut_syncers();
        self.registrar.cut(self.now());
        self.note(format!("the broker is up: {}", self.broker_up));
    }

    /// One watch goes quiet for a while, without ending.
    fn stale_watch(&mut self, number: u8) {
        let until = self.clock + Duration::from_secs(self.random.next() % 90);
        let Some(cluster) = self.clusters.get_mut(&number) else { return };
        let which: Vec<(Place, Kind)> = cluster.streams.keys().copied().collect();
        let Some(which) = self.random.pick(&which).copied() else { return };
        if let Some(stream) = cluster.streams.get_mut(&which) {
            stream.held_until = until;
        }
        self.note(format!("c{number}: the watch of {which:?} is stale until {:.1} s", until.as_secs_f64()));
    }

    fn toggle_path(&mut self, number: u8) {
        let others: Vec<u8> = self.clusters.keys().copied().filter(|n| *n != number).collect();
        let Some(&other) = self.random.pick(&others) else { return };
        for pair in [(number, other), (other, number)] {
            if !self.paths_down.remove(&pair) {
                self.paths_down.insert(pair);
            }
            self.exempt.paths.insert(pair);
            self.refresh_gateway(pair.0);
        }
        self.note(format!("the path between c{number} and c{other} changes"));
    }

    fn change_grant(&mut self, number: u8) {
        let (grant, wall) = (self.some_grant(), self.now().wall);
        let Some(cluster) = self.clusters.get(&number).filter(|c| c.standing == Standing::Member) else { return };
        let id = cluster.id.clone();
        if !self.broker.member(&id).is_some_and(|member| cluster.identity.is_of(member)) {
            return;
        }
        self.grants.set(number, grant.clone());
        self.broker.grant(&id, grant.clone(), wall);
        self.changed_whole(number);
        self.note(format!("c{number}: may now export {grant}"));
    }

    /// The cluster's credential is used to write what it may not: past an admission that is broken, too.
    fn lie(&mut self, number: u8, key: &ServiceKey) {
        let wall = self.now().wall;
        if self.member(number).is_none() || self.grants.ever(number, &key.namespace) && self.random.chance(50) {
            return;
        }
        let namespace = objects::id(number).broker_namespace();
        if self.broker.records.get(Kind::Namespace, "", &namespace).is_none() {
            return;
        }
        let envelope = Envelope { sequence: u64::MAX / 2, signature: None };
        let mut export = Export::new(
            &key.record_name(),
            ExportSpec {
                envelope: envelope.clone(),
                namespace: key.namespace.clone(),
                name: key.name.clone(),
                exported_at: Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH),
                type_: ExportType::ClusterSetIp,
                ports: Vec::new(),
                // Somebody else's Service.
                cluster_ips: vec!["10.199.0.1".parse().expect("an address")],
                session_affinity: SessionAffinity::None,
                session_affinity_seconds: None,
                ip_families: vec![IpFamily::V4],
                internal_traffic_policy: None,
                traffic_distribution: None,
                exported_labels: std::collections::BTreeMap::new(),
                exported_annotations: std::collections::BTreeMap::new(),
            },
        );
        export.metadata.namespace = Some(namespace.clone());
        let mut endpoints = ExportEndpoints::new(
            &format!("{}.forged", key.record_name()),
            ExportEndpointsSpec {
                envelope,
                namespace: key.namespace.clone(),
                name: key.name.clone(),
                address_type: IpFamily::V4,
                endpoints: vec![Endpoint {
                    addresses: vec!["169.254.169.254".parse().expect("an address")],
                    ready: true,
                    serving: true,
                    terminating: false,
                    hostname: None,
                    zone: None,
                }],
                ports: vec![EndpointPort { name: "http".to_owned(), protocol: Protocol::Tcp, port: 80 }],
            },
        );
        endpoints.metadata.namespace = Some(namespace);
        endpoints.metadata.labels = Some([(labels::EXPORT_ID.to_owned(), key.id())].into());
        let had = self.broker.records.get(Kind::Export, &objects::id(number).broker_namespace(), &key.record_name()).is_some();
        if !had {
            self.broker.records.put(export.into(), wall);
        }
        self.broker.records.put(endpoints.into(), wall);
        self.note(format!("c{number}: lies about {key}"));
        self.changed(number, key);
    }

    fn leave(&mut self, number: u8) {
        let wall = self.now().wall;
        if !self.may_leave(number) {
            return;
        }
        let Some(cluster) = self.member(number) else { return };
        let name = cluster.id.to_string();
        let Some(Object::Cluster(local)) = cluster.here.get(Kind::Cluster, labels::SYSTEM_NAMESPACE, &name).cloned() else {
            return;
        };
        let mut local = *local;
        local.spec.leaving = true;
        cluster.here.put(local.into(), wall);
        cluster.standing = Standing::Leaving;
        self.somebody_left = true;
        let uid = self.broker.member(&objects::id(number)).and_then(ResourceExt::uid);
        self.broker.book.leaving.extend(uid);
        self.changed_whole(number);
        self.note(format!("c{number}: leaves"));
    }
}
