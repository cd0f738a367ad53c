//! One machine between two API servers that do what the machine needs of them, and clusters that write on the broker.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use daisy_api::keys::{PublicKey, VerifyingKey};
use daisy_api::labels::{BROKER_NAMESPACE, EXPORT_ALL, SLICE_SERVICE_NAME, SYSTEM_NAMESPACE};
use daisy_api::{
    Cluster, ClusterId, Endpoint, EndpointPort, Envelope, Export, ExportEndpoints, ExportEndpointsSpec, ExportSpec, ExportType,
    Gateway, GatewayRecord, GatewaySpec, GatewayStatus, Heartbeat, HeartbeatSpec, IpFamily, Member, MemberSpec, NodeName,
    Protocol, ServiceExport, ServiceExportSpec, ServiceKey, ServicePort, SessionAffinity,
};
use k8s_openapi::api::core::v1::{Namespace, Node, Service, ServicePort as CorePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint as SliceEndpoint, EndpointPort as SlicePort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use crate::digest::digest;
use crate::object::{Change, Kind, Object, Place, Reference};
use crate::syncer::{Action, BrokerTrouble, Config, Failure, FailureKind, Note, Syncer, Verb};
use crate::time::Now;

pub(super) fn key(text: &str) -> ServiceKey {
    let (namespace, name) = text.split_once('/').expect("NAMESPACE/NAME");
    ServiceKey::parse(namespace, name).expect("a key")
}

pub(super) fn id(text: &str) -> ClusterId {
    ClusterId::new(text).expect("an ID")
}

/// The `n` of each cluster: its pods are in 10.n.0.0/16, its Services in 10.(100+n).0.0/16, its nodes in 100.80.n.0/24.
pub(super) fn number(id: &str) -> u8 {
    id.bytes().last().map_or(0, |b| b - b'a' + 1)
}

pub(super) fn member(name: &str, grant: &str) -> Member {
    let n = number(name);
    let spec = MemberSpec {
        cluster_uid: format!("uid-of-{name}"),
        cluster_cidrs: vec![format!("10.{n}.0.0/16").parse().expect("a CIDR")],
        service_cidrs: vec![format!("10.{}.0.0/16", 100 + n).parse().expect("a CIDR")],
        node_cidr: format!("100.80.{n}.0/24").parse().expect("a CIDR"),
        grant: grant.parse().expect("a grant"),
        signing_key: VerifyingKey::from_bytes([n; 32]),
        invitation: String::new(),
    };
    let mut member = Member::new(name, spec);
    member.metadata.namespace = Some(BROKER_NAMESPACE.to_owned());
    member
}

pub(super) fn cluster(name: &str, sequence: u64) -> Cluster {
    let n = number(name);
    let gateway = GatewayRecord {
        node: NodeName::new(format!("{name}-gateway")).expect("a node"),
        public_key: PublicKey::from_bytes([n; 32]),
        address: format!("100.80.{n}.1").parse().expect("an address"),
        endpoints: Vec::new(),
    };
    let spec = member(name, "all").spec;
    let spec = daisy_api::ClusterSpec {
        envelope: Envelope { sequence, signature: None },
        cluster_cidrs: spec.cluster_cidrs,
        service_cidrs: spec.service_cidrs,
        node_cidr: spec.node_cidr,
        exporter: true,
        gateways: vec![gateway],
        consumes: Vec::new(),
        leaving: false,
        version: "test".to_owned(),
    };
    let mut cluster = Cluster::new(name, spec);
    cluster.metadata.namespace = Some(id(name).broker_namespace());
    cluster
}

pub(super) fn port(name: &str, number: u16) -> ServicePort {
    ServicePort { name: name.to_owned(), protocol: Protocol::Tcp, port: number, app_protocol: None }
}

pub(super) fn export(name: &str, service: &str, sequence: u64, at: i64) -> Export {
    let key = key(service);
    let n = number(name);
    let spec = ExportSpec {
        envelope: Envelope { sequence, signature: None },
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        exported_at: Time(k8s_openapi::jiff::Timestamp::from_second(1_767_000_000 + at).expect("in range")),
        type_: ExportType::ClusterSetIp,
        ports: vec![port("http", 80)],
        cluster_ips: vec![format!("10.{}.0.9", 100 + n).parse().expect("an address")],
        session_affinity: SessionAffinity::None,
        session_affinity_seconds: None,
        ip_families: vec![IpFamily::V4],
        internal_traffic_policy: None,
        traffic_distribution: None,
        exported_labels: BTreeMap::new(),
        exported_annotations: BTreeMap::new(),
    };
    let mut export = Export::new(&key.record_name(), spec);
    export.metadata.namespace = Some(id(name).broker_namespace());
    export
}

pub(super) fn endpoints(name: &str, service: &str, sequence: u64, hosts: &[u8]) -> ExportEndpoints {
    let key = key(service);
    let n = number(name);
    let endpoint = |host: &u8| Endpoint {
        addresses: vec![format!("10.{n}.0.{host}").parse().expect("an address")],
        ready: true,
        serving: true,
        terminating: false,
        hostname: None,
        zone: None,
    };
    let spec = ExportEndpointsSpec {
        envelope: Envelope { sequence, signature: None },
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        address_type: IpFamily::V4,
        endpoints: hosts.iter().map(endpoint).collect(),
        ports: vec![EndpointPort { name: "http".to_owned(), protocol: Protocol::Tcp, port: 8080 }],
    };
    let mut record = ExportEndpoints::new(&format!("{}.abc", key.record_name()), spec);
    record.metadata.namespace = Some(id(name).broker_namespace());
    record
}

fn metadata(namespace: &str, name: &str) -> ObjectMeta {
    ObjectMeta { namespace: Some(namespace.to_owned()), name: Some(name.to_owned()), ..ObjectMeta::default() }
}

pub(super) fn service(text: &str) -> Service {
    let key = key(text);
    let ports =
        vec![CorePort { name: Some("http".to_owned()), protocol: Some("TCP".to_owned()), port: 80, ..CorePort::default() }];
    Service {
        metadata: metadata(key.namespace.as_str(), key.name.as_str()),
        spec: Some(ServiceSpec { ports: Some(ports), ip_families: Some(vec!["IPv4".to_owned()]), ..ServiceSpec::default() }),
        status: None,
    }
}

/// The slice of a Service of cluster `a` (the machine's own).
pub(super) fn slice(text: &str, hosts: &[u8]) -> EndpointSlice {
    let key = key(text);
    let mut metadata = metadata(key.namespace.as_str(), &format!("{}-x", key.name));
    metadata.labels = Some([(SLICE_SERVICE_NAME.to_owned(), key.name.to_string())].into());
    let endpoint = |host: &u8| SliceEndpoint { addresses: vec![format!("10.1.0.{host}")], ..SliceEndpoint::default() };
    EndpointSlice {
        metadata,
        address_type: "IPv4".to_owned(),
        endpoints: hosts.iter().map(endpoint).collect(),
        ports: Some(vec![SlicePort { name: Some("http".to_owned()), port: Some(8080), ..SlicePort::default() }]),
    }
}

pub(super) fn service_export(text: &str) -> ServiceExport {
    let key = key(text);
    let mut export = ServiceExport::new(key.name.as_str(), ServiceExportSpec::default());
    export.metadata.namespace = Some(key.namespace.to_string());
    export
}

pub(super) fn namespace(name: &str, all: bool) -> Namespace {
    let labels = all.then(|| [(EXPORT_ALL.to_owned(), "true".to_owned())].into());
    Namespace { metadata: ObjectMeta { name: Some(name.to_owned()), labels, ..ObjectMeta::default() }, ..Namespace::default() }
}

pub(super) fn node(name: &str) -> Node {
    Node { metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() }, ..Node::default() }
}

/// A gateway of cluster `a` on node `n1`, and how it stands with the others.
pub(super) fn gateway(connections: &[(&str, daisy_api::ConnectionStatus)]) -> Gateway {
    let name = NodeName::new("n1").expect("a node");
    let mut gateway = Gateway::new("n1", GatewaySpec { node: name.clone() });
    gateway.metadata.namespace = Some(SYSTEM_NAMESPACE.to_owned());
    let connection = |(cluster, status): &(&str, daisy_api::ConnectionStatus)| daisy_api::Connection {
        cluster_id: id(cluster),
        node: NodeName::new(format!("{cluster}-gateway")).expect("a node"),
        status: *status,
        status_message: String::new(),
        endpoint: None,
        using_nat: false,
        latency: None,
        since: None,
    };
    gateway.status = Some(GatewayStatus {
        local_endpoint: Some(GatewayRecord {
            node: name,
            public_key: PublicKey::from_bytes([99; 32]),
            address: "100.80.1.1".parse().expect("an address"),
            endpoints: Vec::new(),
        }),
        connections: connections.iter().map(connection).collect(),
        ..GatewayStatus::default()
    });
    gateway
}

/// An API server, as far as it matters.
#[derive(Clone, Debug, Default)]
pub(super) struct Server {
    pub(super) objects: BTreeMap<Reference, Object>,
    version: u64,
    /// What each watch has still to deliver.
    pub(super) pending: BTreeMap<Kind, VecDeque<Change>>,
}

impl Server {
    fn stamp(&mut self, object: &mut Object, had: Option<&ObjectMeta>, (now, status): (Now, bool)) {
        self.version += 1;
        let version = self.version;
        let metadata = object.metadata_mut();
        metadata.resource_version = Some(version.to_string());
        match had {
            Some(had) => {
                metadata.uid.clone_from(&had.uid);
                metadata.creation_timestamp.clone_from(&had.creation_timestamp);
                // A status is no change of the spec.
                metadata.generation = had.generation.map(|g| g + i64::from(!status));
            }
            None => {
                metadata.uid = Some(format!("uid-{version}"));
                let second = now.wall.as_second();
                metadata
                    .creation_timestamp
                    .get_or_insert(Time(k8s_openapi::jiff::Timestamp::from_second(second).expect("in range")));
                metadata.generation = Some(1);
            }
        }
        if let Object::Service(service) = object {
            let spec = service.spec.get_or_insert_default();
            spec.ip_families.get_or_insert_with(|| vec!["IPv4".to_owned()]);
            if spec.cluster_ip.is_none() {
                // One address for one name, whatever the order in which names come.
                let name = daisy_api::names::short_hash(service.metadata.name.as_deref().unwrap_or_default(), 4);
                let n = u16::from_str_radix(&name, 16).unwrap_or(1);
                spec.cluster_ip = Some(format!("10.101.{}.{}", n >> 8, n & 255));
            }
            if spec.cluster_ip.as_deref() != Some("None") {
                spec.cluster_ips = spec.cluster_ip.clone().map(|ip| vec![ip]);
            }
        }
    }

    fn emit(&mut self, change: Change) {
        let kind = match &change {
            Change::Applied(object) | Change::Deleted(object) | Change::Listed(object) => object.kind(),
            Change::Started | Change::Finished | Change::Unreadable { .. } => return,
        };
        self.pending.entry(kind).or_default().push_back(change);
    }

    /// Puts an object in, or in the place of what is there.
    pub(super) fn put(&mut self, place: Place, object: impl Into<Object>, now: Now) -> Object {
        self.store(place, object.into(), (now, false))
    }

    fn store(&mut self, place: Place, mut object: Object, how: (Now, bool)) -> Object {
        let reference = object.reference(place);
        let had = self.objects.get(&reference).map(|o| o.metadata().clone());
        self.stamp(&mut object, had.as_ref(), how);
        self.objects.insert(reference, object.clone());
        self.emit(Change::Applied(object.clone()));
        object
    }

    pub(super) fn remove(&mut self, reference: &Reference) -> bool {
        let Some(mut object) = self.objects.remove(reference) else { return false };
        self.version += 1;
        object.metadata_mut().resource_version = Some(self.version.to_string());
        self.emit(Change::Deleted(object));
        true
    }

    /// A watch begins anew, with a list.
    pub(super) fn relist(&mut self, kind: Kind) {
        let listed = self.objects.values().filter(|o| o.kind() == kind).cloned().map(Change::Listed);
        let all = [Change::Started].into_iter().chain(listed).chain([Change::Finished]);
        self.pending.insert(kind, all.collect());
    }

    fn perform(&mut self, action: &Action, now: Now) -> Result<Option<Object>, Failure> {
        let fail = |kind: FailureKind| Failure { kind, message: format!("{kind:?} of {}", action.reference) };
        let place = action.place();
        let had = self.objects.get(&action.reference).cloned();
        match (&action.verb, had) {
            (Verb::Create(_), Some(_)) => Err(fail(FailureKind::AlreadyExists)),
            (Verb::Create(object), None) => {
                assert!(object.metadata().resource_version.is_none(), "{object:?}");
                Ok(Some(self.put(place, object.clone(), now)))
            }
            (Verb::Replace(_) | Verb::Status(_) | Verb::Annotate { .. } | Verb::Delete { .. }, None) => {
                Err(fail(FailureKind::NotFound))
            }
            (Verb::Replace(object), Some(had)) => {
                if object.metadata().resource_version != had.metadata().resource_version {
                    return Err(fail(FailureKind::Conflict));
                }
                Ok(Some(self.put(place, object.clone(), now)))
            }
            (Verb::Status(object), Some(mut had)) => {
                if object.metadata().resource_version != had.metadata().resource_version {
                    return Err(fail(FailureKind::Conflict));
                }
                match (&mut had, object) {
                    (Object::Cluster(had), Object::Cluster(new)) => had.status.clone_from(&new.status),
                    (Object::ServiceExport(had), Object::ServiceExport(new)) => had.status.clone_from(&new.status),
                    (Object::ServiceImport(had), Object::ServiceImport(new)) => had.status.clone_from(&new.status),
                    _ => panic!("no status to write: {object:?}"),
                }
                Ok(Some(self.store(place, had, (now, true))))
            }
            (Verb::Annotate { address }, Some(mut had)) => {
                let annotations = had.metadata_mut().annotations.get_or_insert_default();
                match address {
                    Some(address) => drop(annotations.insert(daisy_api::labels::NODE_ADDRESS.to_owned(), address.to_string())),
                    None => drop(annotations.remove(daisy_api::labels::NODE_ADDRESS)),
                }
                Ok(Some(self.put(place, had, now)))
            }
            (Verb::Delete { uid }, Some(had)) => {
                if uid.is_some() && *uid != had.metadata().uid {
                    return Err(fail(FailureKind::Conflict));
                }
                self.remove(&action.reference);
                Ok(None)
            }
        }
    }
}

/// The machine of cluster `a`, its API server, and the broker.
pub(super) struct World {
    pub(super) machine: Syncer,
    pub(super) here: Server,
    pub(super) broker: Server,
    pub(super) time: Duration,
    pub(super) connected: bool,
    pub(super) notes: Vec<Note>,
    /// Everything that was ever done.
    pub(super) actions: Vec<Action>,
}

impl World {
    pub(super) fn config() -> Config {
        Config { version: "test".to_owned(), ..Config::default() }
    }

    pub(super) fn new() -> Self {
        let now = Now::at(Duration::ZERO);
        let mut here = Server::default();
        here.put(Place::Here, node("n1"), now);
        let mut world = Self {
            machine: Syncer::new(id("a"), Self::config(), now),
            here,
            broker: Server::default(),
            time: Duration::ZERO,
            connected: false,
            notes: Vec::new(),
            actions: Vec::new(),
        };
        world.broker.put(Place::Broker, member("a", "all"), now);
        world
    }

    /// With the first lists on their way and the broker connected.
    pub(super) fn started() -> Self {
        let mut world = Self::new();
        world.start();
        world
    }

    pub(super) fn start(&mut self) {
        self.here.pending.clear();
        self.broker.pending.clear();
        for kind in Kind::HERE {
            self.here.relist(kind);
        }
        self.connect();
    }

    pub(super) fn now(&self) -> Now {
        Now::at(self.time)
    }

    pub(super) fn connect(&mut self) {
        self.connected = true;
        for kind in Kind::BROKER {
            self.broker.relist(kind);
        }
    }

    /// The connection to the broker breaks; what it had still to deliver is lost.
    pub(super) fn disconnect(&mut self) {
        self.connected = false;
        self.broker.pending.clear();
        let trouble = BrokerTrouble { reason: "Unreachable".to_owned(), message: "connection refused".to_owned() };
        let now = self.now();
        self.machine.handle_broker_connection(Err(trouble), now);
    }

    /// The machine crashes and starts anew.
    pub(super) fn restart(&mut self) {
        self.machine = Syncer::new(id("a"), Self::config(), self.now());
        let connected = self.connected;
        self.start();
        if !connected {
            self.disconnect();
        }
    }

    pub(super) fn put_here(&mut self, object: impl Into<Object>) {
        let now = self.now();
        self.here.put(Place::Here, object, now);
    }

    /// Somebody writes on the broker; a watch that is not connected does not hear of it.
    pub(super) fn put_broker(&mut self, object: impl Into<Object>) {
        let now = self.now();
        self.broker.put(Place::Broker, object, now);
        if !self.connected {
            self.broker.pending.clear();
        }
    }

    pub(super) fn remove(&mut self, place: Place, kind: Kind, namespace: &str, name: &str) -> bool {
        let reference = Reference { place, kind, namespace: namespace.to_owned(), name: name.to_owned() };
        match place {
            Place::Here => self.here.remove(&reference),
            Place::Broker => {
                let removed = self.broker.remove(&reference);
                if !self.connected {
                    self.broker.pending.clear();
                }
                removed
            }
        }
    }

    /// A cluster joins: its Member and its record.
    pub(super) fn join(&mut self, name: &str, grant: &str) {
        self.put_broker(member(name, grant));
        self.put_broker(cluster(name, 1));
    }

    /// A cluster vouches for what it has on the broker.
    pub(super) fn beat(&mut self, name: &str, sequence: u64) {
        let namespace = id(name).broker_namespace();
        let lines: Vec<(Kind, String, u64)> = self
            .broker
            .objects
            .iter()
            .filter(|(reference, _)| reference.namespace == namespace)
            .filter_map(|(reference, object)| match object {
                Object::Export(o) => Some((Kind::Export, reference.name.clone(), o.spec.envelope.sequence)),
                Object::ExportEndpoints(o) => Some((Kind::ExportEndpoints, reference.name.clone(), o.spec.envelope.sequence)),
                _ => None,
            })
            .collect();
        let (digest, records) = digest(lines.iter().map(|(kind, name, sequence)| (*kind, name.as_str(), *sequence)));
        let mut heartbeat = Heartbeat::new(name, HeartbeatSpec { sequence, digest, records, interval_seconds: 60 });
        heartbeat.metadata.namespace = Some(namespace);
        self.put_broker(heartbeat);
    }

    /// Delivers one change of one watch. Returns whether there was one.
    pub(super) fn deliver(&mut self, place: Place, kind: Kind) -> bool {
        let now = self.now();
        let server = if place == Place::Here { &mut self.here } else { &mut self.broker };
        let Some(change) = server.pending.get_mut(&kind).and_then(VecDeque::pop_front) else { return false };
        self.machine.handle_watch(place, kind, change, now);
        if place == Place::Broker && self.connected && self.broker.pending.values().all(VecDeque::is_empty) {
            self.machine.handle_broker_connection(Ok(()), now);
        }
        true
    }

    /// Performs the machine's next action. Returns whether there was one.
    pub(super) fn act(&mut self) -> bool {
        let now = self.now();
        let Some(action) = self.machine.poll_action(now) else { return false };
        let outcome = match action.place() {
            Place::Here => self.here.perform(&action, now),
            Place::Broker if self.connected => self.broker.perform(&action, now),
            Place::Broker => Err(Failure { kind: FailureKind::Unreachable, message: "connection refused".to_owned() }),
        };
        self.machine.handle_action_done(action.id, outcome, now);
        self.actions.push(action);
        true
    }

    /// Delivers one change, or performs one action. Returns whether there was one.
    pub(super) fn stir(&mut self) -> bool {
        Kind::HERE.iter().any(|kind| self.deliver(Place::Here, *kind))
            || Kind::BROKER.iter().any(|kind| self.deliver(Place::Broker, *kind))
            || self.act()
    }

    /// Delivers and performs everything, time standing still.
    pub(super) fn settle(&mut self) {
        for _ in 0..100_000 {
            let mut moved = false;
            for kind in Kind::HERE {
                moved |= self.deliver(Place::Here, kind);
            }
            for kind in Kind::BROKER {
                moved |= self.deliver(Place::Broker, kind);
            }
            moved |= self.act();
            if !moved {
                while let Some(note) = self.machine.poll_note() {
                    self.notes.push(note);
                }
                return;
            }
        }
        panic!("it never comes to rest: {:?}", self.actions.iter().rev().take(4).collect::<Vec<_>>());
    }

    /// Lets time pass, each timer at its time.
    pub(super) fn pass(&mut self, span: Duration) {
        let end = self.time + span;
        self.settle();
        for _ in 0..100_000 {
            match self.machine.poll_timeout().filter(|at| *at <= end) {
                Some(at) => self.time = self.time.max(at),
                None => {
                    self.time = end;
                    return;
                }
            }
            let now = self.now();
            self.machine.handle_timeout(now);
            self.settle();
        }
        panic!("timers without end");
    }

    pub(super) fn get(&self, place: Place, kind: Kind, namespace: &str, name: &str) -> Option<&Object> {
        let reference = Reference { place, kind, namespace: namespace.to_owned(), name: name.to_owned() };
        let server = if place == Place::Here { &self.here } else { &self.broker };
        server.objects.get(&reference)
    }

    pub(super) fn import_service(&self, name: &str) -> Option<Service> {
        match self.get(Place::Here, Kind::Service, SYSTEM_NAMESPACE, &key(name).import_service_name()) {
            Some(Object::Service(service)) => Some((**service).clone()),
            _ => None,
        }
    }

    /// The addresses that an import leads to.
    pub(super) fn addresses(&self, name: &str) -> Vec<String> {
        let service = key(name).import_service_name();
        let slices = self.here.objects.values().filter_map(|object| match object {
            Object::EndpointSlice(slice) => Some(slice),
            _ => None,
        });
        let of = slices.filter(|s| s.metadata.labels.as_ref().and_then(|l| l.get(SLICE_SERVICE_NAME)) == Some(&service));
        let mut addresses: Vec<String> = of.flat_map(|s| s.endpoints.iter().flat_map(|e| e.addresses.clone())).collect();
        addresses.sort();
        addresses
    }

    pub(super) fn condition(&self, name: &str, type_: &str) -> Option<(String, String, String)> {
        let key = key(name);
        let Some(Object::ServiceExport(export)) =
            self.get(Place::Here, Kind::ServiceExport, key.namespace.as_str(), key.name.as_str())
        else {
            return None;
        };
        let status = export.status.clone()?;
        let found = status.conditions.into_iter().find(|c| c.type_ == type_)?;
        Some((found.status, found.reason, found.message))
    }

    /// Everything that is there, without what differs by when and in which order it was written.
    pub(super) fn essence(&self) -> Vec<String> {
        let mut all = Vec::new();
        for (place, server) in [(Place::Here, &self.here), (Place::Broker, &self.broker)] {
            for (reference, object) in &server.objects {
                if reference.kind == Kind::Heartbeat {
                    continue;
                }
                let mut object = object.clone();
                let metadata = object.metadata_mut();
                (metadata.uid, metadata.resource_version, metadata.creation_timestamp) = (None, None, None);
                metadata.generation = None;
                if let Some(annotations) = &mut metadata.annotations {
                    annotations.remove(daisy_api::labels::IMPORT_EXPORTS);
                    annotations.remove(daisy_api::labels::MEMBER);
                    annotations.remove(daisy_api::labels::RECORD_SEQUENCE);
                    annotations.remove(daisy_api::labels::VOUCHED_SEQUENCE);
                }
                let conditions = match &mut object {
                    Object::Cluster(o) => {
                        o.spec.envelope.sequence = 0;
                        o.status.as_mut().map(|s| {
                            s.last_heard = None;
                            &mut s.conditions
                        })
                    }
                    Object::Export(o) => {
                        o.spec.envelope.sequence = 0;
                        None
                    }
                    Object::ExportEndpoints(o) => {
                        o.spec.envelope.sequence = 0;
                        None
                    }
                    Object::ServiceExport(o) => o.status.as_mut().map(|s| &mut s.conditions),
                    Object::ServiceImport(o) => o.status.as_mut().map(|s| &mut s.conditions),
                    _ => None,
                };
                if let Some(conditions) = conditions {
                    conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
                    for condition in conditions {
                        condition.last_transition_time = Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH);
                        condition.observed_generation = None;
                    }
                }
                all.push(format!("{place:?} {object:?}"));
            }
        }
        all
    }
}
