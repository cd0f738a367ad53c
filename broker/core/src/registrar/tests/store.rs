//! A broker in memory: performs the registrar's actions, and tells it of changes when the test lets it.

use std::collections::{BTreeMap, VecDeque};

use daisy_api::keys::{PublicKey, VerifyingKey};
use daisy_api::{Cidr, ClusterSpec, Envelope, HeartbeatSpec, InvitationSpec, JoinRequestSpec};
use ed25519_dalek::SigningKey;

use super::super::*;

pub(super) const BROKER: &str = "broker-uid";
const OWN: &str = env!("CARGO_PKG_VERSION");

pub(super) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + seconds).expect("in range")
}

pub(super) fn id(text: &str) -> ClusterId {
    ClusterId::new(text).expect("a cluster ID")
}

pub(super) fn cidr(text: &str) -> Cidr {
    text.parse().expect("a CIDR")
}

/// A cluster that asks.
#[derive(Debug, Clone)]
pub(super) struct Asker {
    pub(super) id: &'static str,
    pub(super) uid: &'static str,
    pub(super) key: u8,
    pub(super) invitation: &'static str,
    pub(super) pods: Vec<Cidr>,
    pub(super) services: Vec<Cidr>,
    pub(super) replace: bool,
    pub(super) version: &'static str,
}

impl Asker {
    pub(super) fn new(id: &'static str, pods: &str, services: &str) -> Self {
        let (pods, services) = (vec![cidr(pods)], vec![cidr(services)]);
        Self { id, uid: id, key: 1, invitation: "first", pods, services, replace: false, version: OWN }
    }

    pub(super) fn reserving(id: &'static str) -> Self {
        Self { uid: "none-yet", pods: Vec::new(), services: Vec::new(), ..Self::new(id, "10.0.0.0/16", "10.1.0.0/16") }
    }

    pub(super) fn spec(&self, name: &str) -> JoinRequestSpec {
        let mut spec = JoinRequestSpec {
            invitation: self.invitation.into(),
            cluster_id: id(self.id),
            cluster_uid: self.uid.into(),
            cluster_cidrs: self.pods.clone(),
            service_cidrs: self.services.clone(),
            sealing_key: PublicKey::from_bytes([2; 32]),
            signing_key: VerifyingKey::from_bytes([0; 32]),
            signature: None,
            replace: self.replace,
            version: self.version.into(),
        };
        request::sign(&SigningKey::from_bytes(&[self.key; 32]), BROKER, name, &mut spec);
        spec
    }
}

#[derive(Debug, Clone)]
enum Event {
    Invitation(Change<Invitation>),
    Member(Change<Member>),
    Request(Change<JoinRequest>),
    Cluster(Change<Cluster>),
    Heartbeat(Change<Heartbeat>),
    Namespace(Change<Namespace>),
}

/// The broker, and the registrar that watches it.
pub(super) struct Broker {
    options: Options,
    pub(super) registrar: Registrar,
    pub(super) invitations: BTreeMap<String, Invitation>,
    pub(super) members: BTreeMap<ClusterId, Member>,
    pub(super) requests: BTreeMap<String, JoinRequest>,
    pub(super) clusters: BTreeMap<ClusterId, Cluster>,
    pub(super) namespaces: BTreeMap<ClusterId, Namespace>,
    pub(super) now: Timestamp,
    pub(super) actions: Vec<Action>,
    version: u64,
    names: u64,
    /// Not told yet.
    events: VecDeque<Event>,
    /// How many of the next actions fail, each as far through as it says (0 to 3 steps of an admission are done).
    pub(super) failures: VecDeque<u8>,
}

impl Broker {
    pub(super) fn new() -> Self {
        Self::with(Options::new(BROKER))
    }

    pub(super) fn with(options: Options) -> Self {
        let mut broker = Self {
            registrar: Registrar::new(options.clone()),
            options,
            invitations: BTreeMap::new(),
            members: BTreeMap::new(),
            requests: BTreeMap::new(),
            clusters: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            now: at(0),
            actions: Vec::new(),
            version: 0,
            names: 0,
            events: VecDeque::new(),
            failures: VecDeque::new(),
        };
        broker.restart();
        broker
    }

    /// The registrar begins anew, with what the store holds.
    pub(super) fn restart(&mut self) {
        self.registrar = Registrar::new(self.options.clone());
        self.events.clear();
        self.relist();
        self.tell(usize::MAX);
    }

    /// Every watch begins anew; what was not told is not told one by one any more.
    pub(super) fn relist(&mut self) {
        self.events.clear();
        let (registrar, now) = (&mut self.registrar, self.now);
        registrar.handle_invitations(Change::Listing);
        registrar.handle_members(Change::Listing, now);
        registrar.handle_requests(Change::Listing, now);
        self.events.extend([
            Event::Invitation(Change::Listed(self.invitations.values().cloned().collect())),
            Event::Member(Change::Listed(self.members.values().cloned().collect())),
            Event::Request(Change::Listed(self.requests.values().cloned().collect())),
            Event::Cluster(Change::Listed(self.clusters.values().cloned().collect())),
            Event::Heartbeat(Change::Listed(Vec::new())),
            Event::Namespace(Change::Listed(self.namespaces.values().cloned().collect())),
        ]);
    }

    /// Tells the registrar of the next changes, at most so many.
    pub(super) fn tell(&mut self, count: usize) {
        for _ in 0..count.min(self.events.len()) {
            let Some(event) = self.events.pop_front() else { return };
            match event {
                Event::Invitation(change) => self.registrar.handle_invitations(change),
                Event::Member(change) => self.registrar.handle_members(change, self.now),
                Event::Request(change) => self.registrar.handle_requests(change, self.now),
                Event::Cluster(change) => self.registrar.handle_clusters(change),
                Event::Heartbeat(change) => self.registrar.handle_heartbeats(change, self.now),
                Event::Namespace(change) => self.registrar.handle_namespaces(change, self.now),
            }
        }
    }

    /// Tells nothing of this request.
    pub(super) fn withhold(&mut self, name: &str) {
        self.events.retain(|event| !matches!(event, Event::Request(Change::Applied(request)) if request.name_any() == name));
    }

    /// Tells of namespaces before everything else: watches of two kinds are not in one order.
    pub(super) fn tell_namespaces(&mut self) {
        let (first, rest) = self.events.drain(..).partition(|event| matches!(event, Event::Namespace(_)));
        self.events = first;
        let count = self.events.len();
        self.tell(count);
        self.events = rest;
    }

    fn stamp<K: kube::Resource>(&mut self, object: &mut K, anew: bool) {
        self.version += 1;
        let meta = object.meta_mut();
        meta.resource_version = Some(self.version.to_string());
        if anew {
            meta.uid = Some(format!("uid-{}", self.version));
            meta.creation_timestamp = Some(Time(self.now));
        }
    }

    pub(super) fn invite(&mut self, name: &str, grant: &str, uses: u32) {
        let spec = InvitationSpec {
            grant: grant.parse().expect("a grant"),
            expires: Time(self.now + SignedDuration::from_hours(24)),
            max_uses: uses,
            public_cidrs: name.starts_with("public"),
        };
        let mut invitation = Invitation::new(name, spec);
        self.stamp(&mut invitation, true);
        self.invitations.insert(name.to_owned(), invitation.clone());
        self.events.push_back(Event::Invitation(Change::Applied(invitation)));
    }

    /// Creates a request, and returns its name.
    pub(super) fn ask(&mut self, asker: &Asker) -> String {
        self.names += 1;
        let name = format!("join-{:026}", self.names);
        let spec = asker.spec(&name);
        self.ask_as(&name, spec);
        name
    }

    pub(super) fn ask_as(&mut self, name: &str, spec: JoinRequestSpec) {
        let mut request = JoinRequest::new(name, spec);
        self.stamp(&mut request, true);
        self.requests.insert(name.to_owned(), request.clone());
        self.events.push_back(Event::Request(Change::Applied(request)));
    }

    /// Asks, lets the registrar finish, and returns the answer.
    pub(super) fn answer(&mut self, asker: &Asker) -> JoinRequestStatus {
        let name = self.ask(asker);
        self.settle();
        self.requests[&name].status.clone().expect("answered")
    }

    pub(super) fn pass(&mut self, duration: SignedDuration) {
        self.now += duration;
        self.settle();
    }

    pub(super) fn record(&mut self, cluster: &str, leaving: bool) {
        let of = self.members[&id(cluster)].spec.clone();
        let spec = ClusterSpec {
            envelope: Envelope::default(),
            cluster_cidrs: of.cluster_cidrs,
            service_cidrs: of.service_cidrs,
            node_cidr: of.node_cidr,
            exporter: false,
            gateways: Vec::new(),
            consumes: Vec::new(),
            leaving,
            version: String::new(),
        };
        let mut record = Cluster::new(cluster, spec);
        record.metadata.namespace = Some(id(cluster).broker_namespace());
        let had = self.clusters.get(&id(cluster)).and_then(|had| had.uid());
        self.stamp(&mut record, had.is_none());
        record.metadata.uid = had.or(record.metadata.uid);
        self.clusters.insert(id(cluster), record.clone());
        self.events.push_back(Event::Cluster(Change::Applied(record)));
    }

    pub(super) fn heartbeat(&mut self, cluster: &str, sequence: u64) {
        let spec = HeartbeatSpec { sequence, digest: "0".repeat(64), records: 0, interval_seconds: 60 };
        let mut heartbeat = Heartbeat::new(cluster, spec);
        heartbeat.metadata.namespace = Some(id(cluster).broker_namespace());
        self.events.push_back(Event::Heartbeat(Change::Applied(heartbeat)));
    }

    /// The administrator sets a grant, with `daisy grant` or, `by_hand`, with an editor.
    pub(super) fn grant(&mut self, cluster: &str, grant: &str, by_hand: bool) {
        let mut member = self.members[&id(cluster)].clone();
        member.spec.grant = grant.parse().expect("a grant");
        if !by_hand {
            member.annotations_mut().remove(INVITED_GRANT);
        }
        self.stamp(&mut member, false);
        self.members.insert(id(cluster), member.clone());
        self.events.push_back(Event::Member(Change::Applied(member)));
    }

    pub(super) fn evict(&mut self, cluster: &str) {
        if let Some(member) = self.members.remove(&id(cluster)) {
            self.events.push_back(Event::Member(Change::Deleted(member)));
        }
    }

    /// Tells everything and does everything, until there is nothing left now.
    pub(super) fn settle(&mut self) {
        for _ in 0..10_000 {
            self.tell(usize::MAX);
            if !self.step() && self.events.is_empty() {
                return;
            }
        }
        panic!("the registrar does not come to rest: {:?}", self.actions.last());
    }

    /// Performs one action; false where there is none.
    pub(super) fn step(&mut self) -> bool {
        let Some(action) = self.registrar.poll_action(self.now) else { return false };
        self.actions.push(action.clone());
        let steps = self.failures.pop_front();
        let outcome = self.perform(action, steps);
        self.registrar.handle_outcome(outcome, self.now);
        true
    }

    fn perform(&mut self, action: Action, steps: Option<u8>) -> Outcome {
        match action {
            Action::Admit(admission) => return self.admit(*admission, steps),
            // Done, and the answer was lost.
            Action::Answer { request, status, .. } if steps == Some(1) => {
                self.set_status(&request, status);
                return Outcome::Failed;
            }
            _ if steps.is_some() => return Outcome::Failed,
            Action::Answer { request, status, .. } => self.set_status(&request, status),
            Action::EndMember { id, uid, .. } => {
                if self.members.get(&id).is_some_and(|member| member.uid().as_deref() == Some(&uid)) {
                    let member = self.members.remove(&id).expect("just seen");
                    self.events.push_back(Event::Member(Change::Deleted(member)));
                }
            }
            Action::RemoveCluster { id } => {
                assert!(!self.members.contains_key(&id), "{id} is a member, and its things were removed");
                if let Some(cluster) = self.clusters.remove(&id) {
                    self.events.push_back(Event::Cluster(Change::Deleted(cluster)));
                }
                if let Some(namespace) = self.namespaces.remove(&id) {
                    self.events.push_back(Event::Namespace(Change::Deleted(namespace)));
                }
            }
            Action::DeleteRequest { name } => {
                if let Some(request) = self.requests.remove(&name) {
                    self.events.push_back(Event::Request(Change::Deleted(request)));
                }
            }
            Action::DeleteInvitation { name } => {
                if let Some(invitation) = self.invitations.remove(&name) {
                    self.events.push_back(Event::Invitation(Change::Deleted(invitation)));
                }
            }
        }
        Outcome::Done
    }

    fn set_status(&mut self, request: &str, status: JoinRequestStatus) {
        let Some(mut object) = self.requests.get(request).cloned() else { return };
        object.status = Some(status);
        self.stamp(&mut object, false);
        self.requests.insert(request.to_owned(), object.clone());
        self.events.push_back(Event::Request(Change::Applied(object)));
    }

    fn admit(&mut self, admission: Admission, steps: Option<u8>) -> Outcome {
        let steps = steps.unwrap_or(u8::MAX);
        let id = admission.id().expect("a cluster ID");
        if steps == 0 {
            return Outcome::Failed;
        }
        if let Some(status) = admission.invitation_status {
            let Some(mut invitation) = self.invitations.get(&admission.invitation).cloned() else { return Outcome::Failed };
            invitation.status = Some(status);
            self.stamp(&mut invitation, false);
            self.invitations.insert(admission.invitation.clone(), invitation.clone());
            self.events.push_back(Event::Invitation(Change::Applied(invitation)));
        }
        if steps == 1 {
            return Outcome::Failed;
        }
        let mut member = admission.member;
        let had = self.members.get(&id).and_then(|had| had.resource_version());
        if had != member.resource_version() {
            return Outcome::Failed;
        }
        self.stamp(&mut member, had.is_none());
        self.members.insert(id.clone(), member.clone());
        self.events.push_back(Event::Member(Change::Applied(member.clone())));
        if steps == 2 {
            return Outcome::Failed;
        }
        if !self.namespaces.contains_key(&id) {
            let mut namespace = Namespace::default();
            namespace.metadata.name = Some(id.broker_namespace());
            self.stamp(&mut namespace, true);
            self.namespaces.insert(id, namespace.clone());
            self.events.push_back(Event::Namespace(Change::Applied(namespace)));
        }
        if steps == 3 {
            return Outcome::Failed;
        }
        self.set_status(&admission.request, admission.status);
        Outcome::Admitted(Box::new(member))
    }

    /// What must hold at any time.
    pub(super) fn check(&self) {
        let all: Vec<(&ClusterId, Cidr)> =
            self.members.iter().flat_map(|(id, member)| member.spec.cidrs().map(move |range| (id, range))).collect();
        for (index, (id, range)) in all.iter().enumerate() {
            for (other, taken) in &all[..index] {
                assert!(!range.overlaps(taken), "{id} has {range}, {other} has {taken}");
            }
        }
        for (name, invitation) in &self.invitations {
            let status = invitation.status.clone().unwrap_or_default();
            assert!(status.used <= invitation.spec.max_uses, "{name} was used {} times", status.used);
            let joined = self.members.values().filter(|member| member.spec.invitation == *name).count();
            assert!(joined <= usize::try_from(invitation.spec.max_uses).expect("fits"), "{joined} joined by {name}");
        }
    }
}
