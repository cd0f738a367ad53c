//! What can happen to the supercluster.

use std::collections::BTreeSet;
use std::time::Duration;

use daisy_api::{
    Endpoint, EndpointPort, Envelope, Export, ExportEndpoints, ExportEndpointsSpec, ExportSpec, ExportType, Grant, IpFamily,
    Protocol, ServiceKey, SessionAffinity, labels,
};
use daisy_broker_core::object::{Kind, Object, Place};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::cluster::{SimCluster, Standing};
use crate::model;
use crate::objects;
use crate::store::Store;
use crate::world::World;

impl World {
    /// One of the transitions, chosen at random.
    pub(crate) fn transition(&mut self) {
        let numbers: Vec<u8> = self.clusters.keys().copied().collect();
        let Some(&number) = self.random.pick(&numbers) else { return };
        let keys = model::keys();
        let Some(key) = self.random.pick(&keys).cloned() else { return };
        self.disagreed_before = self.disagreed();
        match self.random.below(100) {
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
            97 => self.leave(number),
            _ => {
                if self.clusters.len() < 6 {
                    self.join();
                }
            }
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
    fn changed_whole(&mut self, number: u8) {
        self.exempt.clusters.insert(number);
        self.exempt.keys.extend(self.disagreed());
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
        cluster.here.put(objects::slice(number, key, &pods).into(), wall);
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
        let (now, up) = (self.now(), self.broker_up);
        let Some(cluster) = self.clusters.get_mut(&number) else { return };
        cluster.linked = !cluster.linked;
        let linked = cluster.linked;
        cluster.tell_connection(up, now);
        cluster.collect(now);
        self.note(format!("c{number}: link to the broker: {linked}"));
    }

    fn toggle_process(&mut self, number: u8) {
        let now = self.now();
        let Some(cluster) = self.clusters.get_mut(&number) else { return };
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
        let (now, up) = (self.now(), self.broker_up);
        for cluster in self.clusters.values_mut() {
            cluster.break_broker_streams();
            cluster.tell_connection(up, now);
            cluster.collect(now);
        }
        self.note(format!("the broker is up: {up}"));
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

    fn take_backup(&mut self) {
        self.backup = Some(self.broker.clone());
        self.note("a backup of the broker is taken");
    }

    fn replace_broker(&mut self, store: Store) {
        self.broker = store;
        let (now, up) = (self.now(), self.broker_up);
        for cluster in self.clusters.values_mut() {
            cluster.break_broker_streams();
            let known = self.broker.get(Kind::Member, labels::BROKER_NAMESPACE, cluster.id.as_str()).is_some();
            cluster.credential = known;
            cluster.tell_connection(up, now);
            cluster.collect(now);
        }
    }

    /// The broker comes back on an old copy: its versions run backwards.
    fn restore_backup(&mut self) {
        let Some(backup) = self.backup.clone().filter(|_| !self.somebody_left) else { return };
        self.broker_forgot = true;
        self.note("the broker is restored from the backup");
        self.incarnations += 1;
        self.ghosts_export(&backup);
        self.replace_broker(backup.reborn(self.incarnations));
    }

    /// Who has left is a member again on a copy from before, until the administrator removes it (`heal` does): nobody who joined or started
    /// since can know better, and its exports count meanwhile, the oldest first. So names that it exports there may change.
    fn ghosts_export(&mut self, backup: &Store) {
        let left = |object: &&Object| {
            let of = |cluster: &&SimCluster| cluster.id.broker_namespace() == object.namespace();
            self.clusters.values().find(of).is_some_and(|cluster| cluster.standing == Standing::Left)
        };
        let keys = backup.list(Kind::Export).filter(left);
        let keys: Vec<ServiceKey> =
            keys.filter_map(|o| if let Object::Export(o) = o { Some(o.spec.key()) } else { None }).collect();
        self.exempt.keys.extend(keys);
    }

    /// The broker comes back empty.
    fn wipe_broker(&mut self) {
        if self.somebody_left {
            return;
        }
        self.broker_forgot = true;
        self.note("the broker is wiped");
        self.backup = None;
        self.incarnations += 1;
        self.replace_broker(Store::new(Place::Broker, [0, 0]).reborn(self.incarnations));
    }

    fn change_grant(&mut self, number: u8) {
        let grant: Grant = match self.random.below(3) {
            0 => Grant::none(),
            1 => "shop-*,web".parse().unwrap_or_default(),
            _ => Grant::all(),
        };
        let wall = self.now().wall;
        if self.member(number).is_none() {
            return;
        }
        let known = self.broker.get(Kind::Member, labels::BROKER_NAMESPACE, objects::id(number).as_str()).is_some();
        if !known {
            return;
        }
        self.grants.set(number, grant.clone());
        self.broker.put(objects::member(number, grant.clone()).into(), wall);
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
        let had = self.broker.get(Kind::Export, &objects::id(number).broker_namespace(), &key.record_name()).is_some();
        if !had {
            self.broker.put(export.into(), wall);
        }
        self.broker.put(endpoints.into(), wall);
        self.note(format!("c{number}: lies about {key}"));
        self.changed(number, key);
    }

    fn leave(&mut self, number: u8) {
        let wall = self.now().wall;
        if self.broker_forgot || self.clusters.values().filter(|c| c.standing == Standing::Member).count() < 3 {
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
        self.changed_whole(number);
        self.note(format!("c{number}: leaves"));
    }

    /// Everything works again; whom the broker has forgotten joins again.
    pub(crate) fn heal(&mut self) {
        self.broker_up = true;
        self.paths_down.clear();
        let now = self.now();
        let numbers: Vec<u8> = self.clusters.keys().copied().collect();
        for number in numbers {
            let grant = self.grants.now(number);
            let Some(cluster) = self.clusters.get_mut(&number) else { continue };
            cluster.linked = true;
            if cluster.syncer.is_none() {
                cluster.start(now);
            }
            for stream in cluster.streams.values_mut() {
                stream.held_until = Duration::ZERO;
            }
            let id = cluster.id.clone();
            let member = self.broker.get(Kind::Member, labels::BROKER_NAMESPACE, id.as_str());
            match (cluster.standing, member) {
                // A restored broker has the grant of its day; the administrator sets it again.
                (Standing::Member, Some(Object::Member(had))) if had.spec.grant != grant => {
                    self.broker.put(objects::member(number, grant).into(), now.wall);
                }
                (Standing::Member, None) => {
                    self.broker.put(objects::member(number, grant).into(), now.wall);
                    cluster.credential = true;
                }
                // Who has left stays away, though a restored broker remembers it: the administrator evicts it.
                (Standing::Left, Some(_)) => self.evict(&id),
                // Who was leaving when the broker forgot it has nobody left to tell.
                (Standing::Leaving, None) => {}
                _ => {}
            }
            self.refresh_gateway(number);
        }
    }

    fn evict(&mut self, id: &daisy_api::ClusterId) {
        self.broker.remove(Kind::Member, labels::BROKER_NAMESPACE, id.as_str());
        let namespace = id.broker_namespace();
        let records: Vec<(Kind, String)> =
            self.broker.objects().filter(|o| o.namespace() == namespace).map(|o| (o.kind(), o.name().to_owned())).collect();
        for (kind, name) in records {
            self.broker.remove(kind, &namespace, &name);
        }
    }
}
