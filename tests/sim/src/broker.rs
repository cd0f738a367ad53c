//! The broker: what every syncer sees of it, and what only the registrar and those who join have to do with.

use std::collections::{BTreeMap, BTreeSet};

use daisy_api::{ClusterId, Grant, Invitation, JoinRequest, Member, labels};
use daisy_broker_core::object::{Kind, Object, Place};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::{Resource, ResourceExt};

use crate::objects;
use crate::store::{Event, Store, whole_seconds};

/// The objects of one kind, all in one namespace, with the log that watches read.
#[derive(Clone, Debug)]
pub(crate) struct Table<K> {
    objects: BTreeMap<String, K>,
    log: Vec<(u64, Event<K>)>,
    revision: u64,
}

impl<K: Resource<DynamicType = ()> + Clone> Table<K> {
    fn new() -> Self {
        Self { objects: BTreeMap::new(), log: Vec::new(), revision: 1 }
    }

    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &K> {
        self.objects.values()
    }

    pub(crate) fn get(&self, name: &str) -> Option<&K> {
        self.objects.get(name)
    }

    /// What happened after `revision`: the position after it, and the event.
    pub(crate) fn after(&self, revision: u64) -> Option<(u64, &Event<K>)> {
        let from = self.log.partition_point(|(at, _)| *at <= revision);
        self.log.get(from).map(|(at, event)| (*at, event))
    }

    pub(crate) fn trim(&mut self, revision: u64) {
        let upto = self.log.partition_point(|(at, _)| *at <= revision);
        self.log.drain(..upto);
    }

    /// Makes the object, or puts this in its place.
    pub(crate) fn put(&mut self, mut object: K, uid: String, now: Timestamp) {
        self.revision += 1;
        let name = object.name_any();
        let had = self.objects.get(&name).map(|had| (had.meta().uid.clone(), had.meta().creation_timestamp.clone()));
        let meta = object.meta_mut();
        meta.resource_version = Some(self.revision.to_string());
        (meta.uid, meta.creation_timestamp) = had.unwrap_or_else(|| (Some(uid), Some(Time(whole_seconds(now)))));
        self.log.push((self.revision, Event::Applied(object.clone())));
        self.objects.insert(name, object);
    }

    pub(crate) fn remove(&mut self, name: &str) {
        if let Some(object) = self.objects.remove(name) {
            self.revision += 1;
            self.log.push((self.revision, Event::Deleted(object)));
        }
    }
}

/// What the simulation itself remembers of a broker: it is as old as the broker's own data.
#[derive(Clone, Debug, Default)]
pub(crate) struct Book {
    /// The clusters that became members by each invitation.
    pub(crate) uses: BTreeMap<String, BTreeSet<ClusterId>>,
    /// Whose grant an administrator has set since it became a member.
    pub(crate) by_hand: BTreeSet<ClusterId>,
    /// The UIDs of Members whose cluster asked for an end of its membership.
    pub(crate) leaving: BTreeSet<String>,
    /// The requests that Members were written for.
    pub(crate) made: BTreeSet<String>,
}

/// The broker. A clone of it is a backup.
#[derive(Clone, Debug)]
pub(crate) struct Broker {
    /// Its ID: the UID of its namespace.
    pub(crate) id: String,
    pub(crate) records: Store,
    pub(crate) invitations: Table<Invitation>,
    pub(crate) requests: Table<JoinRequest>,
    /// Each member's ServiceAccount: a token is good while the one of this number is there.
    pub(crate) accounts: BTreeMap<ClusterId, u64>,
    pub(crate) book: Book,
    /// How often the broker lost data: nothing is ever named twice, whatever a server remembers.
    incarnation: u64,
    given: u64,
}

impl Broker {
    /// An empty one.
    pub(crate) fn new(incarnation: u64) -> Self {
        Self {
            id: format!("broker-{incarnation}"),
            records: Store::new(Place::Broker, None).reborn(incarnation),
            invitations: Table::new(),
            requests: Table::new(),
            accounts: BTreeMap::new(),
            book: Book::default(),
            incarnation,
            given: 0,
        }
    }

    /// It goes on as another, from this copy.
    pub(crate) fn restored(&self, incarnation: u64) -> Self {
        let mut copy = self.clone();
        copy.records = copy.records.reborn(incarnation);
        (copy.incarnation, copy.given) = (incarnation, 0);
        copy
    }

    /// A number that nothing else has had.
    pub(crate) fn number(&mut self) -> u64 {
        self.given += 1;
        (self.incarnation << 32) + self.given
    }

    fn uid(&mut self) -> String {
        format!("uid-of-{}", self.number())
    }

    pub(crate) fn member(&self, id: &ClusterId) -> Option<&Member> {
        match self.records.get(Kind::Member, labels::BROKER_NAMESPACE, id.as_str()) {
            Some(Object::Member(member)) => Some(member),
            _ => None,
        }
    }

    pub(crate) fn members(&self) -> impl Iterator<Item = &Member> {
        self.records.list(Kind::Member).filter_map(|o| if let Object::Member(member) = o { Some(&**member) } else { None })
    }

    /// The clusters that have a namespace.
    pub(crate) fn namespaces(&self) -> impl Iterator<Item = &Namespace> {
        self.records.list(Kind::Namespace).filter_map(|o| if let Object::Namespace(one) = o { Some(&**one) } else { None })
    }

    /// The administrator sets a grant, as `daisy grant` does.
    pub(crate) fn grant(&mut self, id: &ClusterId, grant: Grant, now: Timestamp) {
        let Some(mut member) = self.member(id).cloned() else { return };
        member.spec.grant = grant;
        member.annotations_mut().remove(labels::INVITED_GRANT);
        self.records.put(member.into(), now);
        self.book.by_hand.insert(id.clone());
    }

    /// The administrator ends a membership, as `daisy evict` does. The rest is the registrar's.
    pub(crate) fn evict(&mut self, id: &ClusterId) {
        self.records.remove(Kind::Member, labels::BROKER_NAMESPACE, id.as_str());
    }

    /// The administrator makes an invitation. Returns its name.
    pub(crate) fn invite(&mut self, grant: Grant, (uses, seconds): (u32, i64), now: Timestamp) -> String {
        let name = format!("invitation-{}", self.number());
        let invitation = objects::invitation(&name, grant, uses, whole_seconds(now) + jiff::SignedDuration::from_secs(seconds));
        let uid = self.uid();
        self.invitations.put(invitation, uid, now);
        name
    }

    /// Whether the token of the invitation is good.
    pub(crate) fn invites(&self, invitation: &str, now: Timestamp) -> bool {
        self.invitations.get(invitation).is_some_and(|invitation| invitation.spec.expires.0 > now)
    }

    pub(crate) fn ask(&mut self, request: JoinRequest, now: Timestamp) {
        let uid = self.uid();
        self.requests.put(request, uid, now);
    }
}
