//! The registrar's watches of the broker.

use std::time::Duration;

use daisy_api::{Cluster, Heartbeat, Invitation, JoinRequest, Member};
use daisy_broker_core::object::{Kind, Object};
use daisy_broker_core::registrar::{Action, Change, Outcome, Registrar};
use daisy_broker_core::time::Now;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use crate::broker::Broker;
use crate::store::Event;

/// How far a watch has come.
enum State<K> {
    /// It must list.
    Broken,
    /// It has asked for a list.
    Asked,
    /// The broker has answered with this list, of this revision, which is on its way.
    Answered(Vec<K>, u64),
    /// It has heard everything up to this revision.
    Live(u64),
}

struct Watch<K> {
    state: State<K>,
    held_until: Duration,
}

impl<K> Default for Watch<K> {
    fn default() -> Self {
        Self { state: State::Broken, held_until: Duration::ZERO }
    }
}

/// A kind of objects that the registrar watches.
trait Watched: Sized + ResourceExt {
    fn list(broker: &Broker) -> (Vec<Self>, u64);
    fn after(broker: &Broker, revision: u64) -> Option<(u64, Event<Self>)>;
    fn any_after(broker: &Broker, revision: u64) -> bool;
    fn tell(registrar: &mut Registrar, change: Change<Self>, now: Timestamp);
}

macro_rules! in_table {
    ($kind:ident, $table:ident, $tell:expr) => {
        impl Watched for $kind {
            fn list(broker: &Broker) -> (Vec<Self>, u64) {
                (broker.$table.iter().cloned().collect(), broker.$table.revision())
            }
            fn after(broker: &Broker, revision: u64) -> Option<(u64, Event<Self>)> {
                broker.$table.after(revision).map(|(at, event)| (at, event.clone()))
            }
            fn any_after(broker: &Broker, revision: u64) -> bool {
                broker.$table.after(revision).is_some()
            }
            fn tell(registrar: &mut Registrar, change: Change<Self>, now: Timestamp) {
                let tell: fn(&mut Registrar, Change<Self>, Timestamp) = $tell;
                tell(registrar, change, now);
            }
        }
    };
}

macro_rules! in_records {
    ($kind:ident, $tell:expr) => {
        impl Watched for $kind {
            fn list(broker: &Broker) -> (Vec<Self>, u64) {
                let typed = |o: &Object| if let Object::$kind(one) = o { Some((**one).clone()) } else { None };
                (broker.records.list(Kind::$kind).filter_map(typed).collect(), broker.records.revision())
            }
            fn after(broker: &Broker, revision: u64) -> Option<(u64, Event<Self>)> {
                let (at, event) = broker.records.after(revision, Kind::$kind)?;
                match event {
                    Event::Applied(Object::$kind(one)) => Some((at, Event::Applied((**one).clone()))),
                    Event::Deleted(Object::$kind(one)) => Some((at, Event::Deleted((**one).clone()))),
                    _ => None,
                }
            }
            fn any_after(broker: &Broker, revision: u64) -> bool {
                broker.records.after(revision, Kind::$kind).is_some()
            }
            fn tell(registrar: &mut Registrar, change: Change<Self>, now: Timestamp) {
                let tell: fn(&mut Registrar, Change<Self>, Timestamp) = $tell;
                tell(registrar, change, now);
            }
        }
    };
}

in_table!(Invitation, invitations, |registrar, change, _| registrar.handle_invitations(change));
in_table!(JoinRequest, requests, Registrar::handle_requests);
in_records!(Member, Registrar::handle_members);
in_records!(Cluster, |registrar, change, _| registrar.handle_clusters(change));
in_records!(Heartbeat, Registrar::handle_heartbeats);
in_records!(Namespace, Registrar::handle_namespaces);

impl<K: Watched> Watch<K> {
    fn pending(&self, broker: &Broker, now: Now) -> bool {
        let more = match &self.state {
            State::Live(position) => K::any_after(broker, *position),
            State::Broken | State::Asked | State::Answered(..) => true,
        };
        more && now.monotonic >= self.held_until
    }

    fn ask(&mut self, registrar: &mut Registrar, now: Now) {
        self.state = State::Asked;
        K::tell(registrar, Change::Listing, now.wall);
    }

    /// One step: what the registrar hears, in words.
    fn deliver(&mut self, registrar: &mut Registrar, broker: &Broker, now: Now) -> String {
        let kind = std::any::type_name::<K>().rsplit("::").next().unwrap_or_default();
        let names = |list: &[K]| list.iter().map(ResourceExt::name_any).collect::<Vec<_>>().join(", ");
        match std::mem::replace(&mut self.state, State::Broken) {
            State::Broken => {
                self.ask(registrar, now);
                format!("that its list of {kind} is asked for")
            }
            State::Asked => {
                let (list, revision) = K::list(broker);
                self.state = State::Answered(list, revision);
                format!("nothing: the list of {kind} is on its way")
            }
            State::Answered(list, revision) => {
                self.state = State::Live(revision);
                let said = format!("the list of {kind}: {}", names(&list));
                K::tell(registrar, Change::Listed(list), now.wall);
                said
            }
            State::Live(position) => {
                let Some((position, event)) = K::after(broker, position) else {
                    self.state = State::Live(position);
                    return "nothing".to_owned();
                };
                self.state = State::Live(position);
                let (change, said) = match event {
                    Event::Applied(one) => {
                        let said = format!("of {kind} {}", one.name_any());
                        (Change::Applied(one), said)
                    }
                    Event::Deleted(one) => {
                        let said = format!("of the end of {kind} {}", one.name_any());
                        (Change::Deleted(one), said)
                    }
                };
                K::tell(registrar, change, now.wall);
                said
            }
        }
    }

    fn position(&self) -> u64 {
        match &self.state {
            State::Live(position) | State::Answered(_, position) => *position,
            State::Broken | State::Asked => u64::MAX,
        }
    }
}

/// All of them.
#[derive(Default)]
pub(super) struct Watches {
    invitations: Watch<Invitation>,
    members: Watch<Member>,
    requests: Watch<JoinRequest>,
    clusters: Watch<Cluster>,
    heartbeats: Watch<Heartbeat>,
    namespaces: Watch<Namespace>,
}

impl Watches {
    pub(super) const COUNT: usize = 6;

    pub(super) fn pending(&self, which: usize, broker: &Broker, now: Now) -> bool {
        match which {
            0 => self.invitations.pending(broker, now),
            1 => self.members.pending(broker, now),
            2 => self.requests.pending(broker, now),
            3 => self.clusters.pending(broker, now),
            4 => self.heartbeats.pending(broker, now),
            _ => self.namespaces.pending(broker, now),
        }
    }

    pub(super) fn deliver(&mut self, which: usize, registrar: &mut Registrar, broker: &Broker, now: Now) -> String {
        match which {
            0 => self.invitations.deliver(registrar, broker, now),
            1 => self.members.deliver(registrar, broker, now),
            2 => self.requests.deliver(registrar, broker, now),
            3 => self.clusters.deliver(registrar, broker, now),
            4 => self.heartbeats.deliver(registrar, broker, now),
            _ => self.namespaces.deliver(registrar, broker, now),
        }
    }

    pub(super) fn hold(&mut self, which: usize, until: Duration) -> &'static str {
        let (held, name) = match which {
            0 => (&mut self.invitations.held_until, "Invitations"),
            1 => (&mut self.members.held_until, "Members"),
            2 => (&mut self.requests.held_until, "JoinRequests"),
            3 => (&mut self.clusters.held_until, "Clusters"),
            4 => (&mut self.heartbeats.held_until, "Heartbeats"),
            _ => (&mut self.namespaces.held_until, "Namespaces"),
        };
        *held = until;
        name
    }

    /// They break, and each asks for a list at once.
    pub(super) fn break_all(&mut self, registrar: &mut Registrar, now: Now) {
        self.invitations.ask(registrar, now);
        self.members.ask(registrar, now);
        self.requests.ask(registrar, now);
        self.clusters.ask(registrar, now);
        self.heartbeats.ask(registrar, now);
        self.namespaces.ask(registrar, now);
    }

    /// Whether a list of Members has been asked for, and not answered.
    pub(super) fn ask_for_members(&self) -> bool {
        matches!(self.members.state, State::Asked)
    }

    pub(super) fn read_upto(&self) -> u64 {
        let (members, clusters) = (self.members.position(), self.clusters.position());
        members.min(clusters).min(self.heartbeats.position()).min(self.namespaces.position())
    }

    pub(super) fn trim(&self, broker: &mut Broker) {
        broker.invitations.trim(self.invitations.position());
        broker.requests.trim(self.requests.position());
    }
}

/// An action in a line.
pub(super) fn in_a_line(action: &Action) -> String {
    match action {
        Action::Answer { request, status, .. } => format!("answering {request}: {:?} {}", status.phase, status.reason),
        Action::Admit(admission) => {
            format!("admitting {} by {} for {}", admission.member.name_any(), admission.invitation, admission.request)
        }
        Action::EndMember { id, uid, why } => format!("ending Member {id} ({uid}): {why:?}"),
        Action::RemoveCluster { id } => format!("removing what {id} has left"),
        Action::DeleteRequest { name } => format!("deleting {name}"),
        Action::DeleteInvitation { name } => format!("deleting {name}"),
    }
}

pub(super) fn outcome_in_a_line(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Done => "done",
        Outcome::Admitted(_) => "admitted",
        Outcome::Failed => "failed",
    }
}
