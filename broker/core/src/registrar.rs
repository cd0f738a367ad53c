//! The registrar: who becomes a member, with which ranges and which grant, and until when.
//!
//! ```text
//! JoinRequest ─▶ judge ─┬▶ Refused (reason, message, free ranges) · Reserved (ranges, an hour)
//! Invitation ──▶   ▲    └▶ Admit: Invitation's use → Member → namespace, rights → token, sealed → Admitted
//! Member ──────────┤
//! Cluster.leaving, Heartbeat (7 days) ──▶ EndMember ──▶ namespace without a Member ──▶ RemoveCluster
//! ```
//!
//! One registrar writes Members, so that two requests for the same ranges meet one judge. Its inputs are changes of objects
//! ([`Change`]), its outputs one [`Action`] at a time; what became of an action comes back as an [`Outcome`]. Every action may be
//! performed again after a crash: nothing is remembered but what the objects hold.
//!
//! **A rejoin** (same ID, same kube-system UID, signed with the Member's key) is admitted again with a new credential, and with
//! new CIDRs where they are free. Its grant becomes that of the invitation by which it now comes, no more and no less, unless an
//! administrator has set the Member's grant: then that stays.
//!
//! **A replacement** (same ID, other UID or key, `--replace`) needs an invitation that is newer than the Member, not used by it,
//! and that allows at least what the Member may export: an invitation for those who only consume cannot take a name that exports.

mod action;
mod attempts;
pub mod denial;
mod judge;
mod observed;
pub mod ranges;
pub mod request;

use std::collections::{BTreeMap, BTreeSet};

use daisy_api::labels::{INVITED_GRANT, MANAGED_BY, MANAGED_BY_DAISY};
use daisy_api::{
    Cluster, ClusterId, Heartbeat, Invitation, InvitationStatus, JoinPhase, JoinRequest, JoinRequestStatus, Member, MemberSpec,
    Version,
};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

pub use action::{Action, Admission, Change, Ending, Outcome};

use attempts::Attempts;
use judge::{Verdict, World};
use observed::{Asked, Observed};

/// What can be set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The UID of the broker's `daisy-broker` namespace; requests are signed for it.
    pub broker_id: String,
    /// The broker's version: clusters that it does not serve are refused.
    pub version: Version,
    /// Whether clusters may have ranges of public addresses.
    pub public_cidrs: bool,
    /// How long a membership lasts without a heartbeat: 7 days.
    pub membership: SignedDuration,
    /// How long ranges are reserved: an hour.
    pub reservation: SignedDuration,
    /// How long an answered request is kept: an hour.
    pub request_kept: SignedDuration,
    /// How long a cluster's namespace whose Member is not there, though nobody saw it go, is left alone: a minute.
    pub orphan_kept: SignedDuration,
    /// How long an expired invitation is kept: a day.
    pub invitation_kept: SignedDuration,
}

impl Options {
    /// The defaults, for the broker of this ID.
    #[must_use]
    pub fn new(broker_id: impl Into<String>) -> Self {
        Self {
            broker_id: broker_id.into(),
            version: Version::own(),
            public_cidrs: false,
            membership: SignedDuration::from_hours(7 * 24),
            reservation: SignedDuration::from_hours(1),
            request_kept: SignedDuration::from_hours(1),
            orphan_kept: SignedDuration::from_mins(1),
            invitation_kept: SignedDuration::from_hours(24),
        }
    }
}

/// What may need something done. In this order: an end before a beginning.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Work {
    Member(ClusterId),
    Namespace(ClusterId),
    Invitation(String),
    /// Who asked first is answered first, after a new start too: its ranges may be those of a member that was ended for it.
    Request(Timestamp, String),
}

#[derive(Debug, Clone, Copy)]
struct Backoff {
    failures: u32,
    not_before: Timestamp,
}

/// The registrar's machine.
#[derive(Debug)]
pub struct Registrar {
    options: Options,
    observed: Observed,
    queue: BTreeSet<Work>,
    timers: BTreeSet<(Timestamp, Work)>,
    backoff: BTreeMap<Work, Backoff>,
    in_flight: Option<(Work, Action)>,
    attempts: Attempts,
}

impl Registrar {
    /// A registrar that knows nothing yet. It acts once every kind was listed, and not while one is being listed anew.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self {
            options,
            observed: Observed::default(),
            queue: BTreeSet::new(),
            timers: BTreeSet::new(),
            backoff: BTreeMap::new(),
            in_flight: None,
            attempts: Attempts::default(),
        }
    }

    /// The members as they are known here, what was just written included.
    #[must_use]
    pub fn members(&self) -> &BTreeMap<ClusterId, Member> {
        self.observed.members()
    }

    /// Whether every kind was listed, and none is being listed anew.
    #[must_use]
    pub fn synced(&self) -> bool {
        self.observed.synced()
    }

    /// Takes in changes of Invitations.
    pub fn handle_invitations(&mut self, change: Change<Invitation>) {
        let names = self.observed.invitations(change);
        self.queue.extend(names.into_iter().map(Work::Invitation));
    }

    /// Takes in changes of Members.
    pub fn handle_members(&mut self, change: Change<Member>, now: Timestamp) {
        self.observed.advance(now);
        let deleted = matches!(change, Change::Deleted(_));
        for id in self.observed.apply_members(change, now, self.options.orphan_kept) {
            if deleted {
                self.attempts.ended(&id);
            }
            self.queue.insert(Work::Namespace(id.clone()));
            self.queue.insert(Work::Member(id));
        }
        self.queue_spent();
    }

    /// Takes in changes of JoinRequests.
    pub fn handle_requests(&mut self, change: Change<JoinRequest>, now: Timestamp) {
        let names = self.observed.requests(change, now);
        let asked = |name: String| Some(Work::Request(self.observed.asked(&name)?.made, name));
        self.queue.extend(names.into_iter().filter_map(asked));
        let observed = &self.observed;
        let over = self.attempts.forget(|name| observed.asked(name).is_some());
        self.queue.extend(over.into_iter().map(Work::Namespace));
    }

    /// A JoinRequest that is there but does not parse.
    pub fn handle_unreadable_request(&mut self, name: &str, cause: &str, now: Timestamp) {
        let made = self.observed.unreadable_request(name, cause, now);
        self.queue.insert(Work::Request(made, name.to_owned()));
    }

    /// Takes in changes of Clusters, in all namespaces.
    pub fn handle_clusters(&mut self, change: Change<Cluster>) {
        let ids = self.observed.clusters(change);
        self.queue.extend(ids.into_iter().map(Work::Member));
    }

    /// Takes in changes of Heartbeats, in all namespaces.
    pub fn handle_heartbeats(&mut self, change: Change<Heartbeat>, now: Timestamp) {
        self.observed.advance(now);
        self.observed.heartbeats(change);
    }

    /// Nothing is heard from the broker: until Heartbeats are listed again, nobody's membership runs out.
    pub fn handle_blind(&mut self, now: Timestamp) {
        self.observed.advance(now);
        self.observed.blind();
    }

    /// Takes in changes of Namespaces that are Daisy's.
    pub fn handle_namespaces(&mut self, change: Change<Namespace>, now: Timestamp) {
        let ids = self.observed.namespaces(change, now, self.options.orphan_kept);
        self.queue.extend(ids.into_iter().map(Work::Namespace));
    }

    /// What became of the last action.
    pub fn handle_outcome(&mut self, outcome: Outcome, now: Timestamp) {
        let Some((work, action)) = self.in_flight.take() else { return };
        if outcome == Outcome::Failed {
            let failures = self.backoff.get(&work).map_or(0, |backoff| backoff.failures).saturating_add(1);
            let pause = SignedDuration::from_millis(250i64 << failures.min(8));
            let not_before = now.saturating_add(pause).unwrap_or(Timestamp::MAX);
            self.backoff.insert(work.clone(), Backoff { failures, not_before });
            self.timers.insert((not_before, work));
            self.attempts.failed(action, |request| self.observed.asker(request));
            return;
        }
        self.backoff.remove(&work);
        self.done(action, outcome, now);
        self.queue.insert(work);
    }

    fn done(&mut self, action: Action, outcome: Outcome, now: Timestamp) {
        match action {
            Action::Answer { request, status, .. } => {
                self.forget_attempt(&request);
                self.observed.answered(request, status);
            }
            Action::Admit(admission) => {
                self.forget_attempt(&admission.request);
                let (Some(id), Outcome::Admitted(member)) = (admission.id(), outcome) else { return };
                self.observed.used(&admission.invitation, id.clone());
                self.observed.wrote_member(id.clone(), *member);
                self.observed.answered(admission.request, admission.status);
                self.queue.insert(Work::Member(id));
                self.queue_spent();
            }
            Action::EndMember { id, uid, why } => {
                self.observed.ended(&id, &uid, why == Ending::Left, now);
                self.attempts.ended(&id);
                self.queue.insert(Work::Namespace(id));
            }
            Action::RemoveCluster { id } => self.observed.removed(&id),
            Action::DeleteRequest { name } => self.observed.forget_request(&name),
            Action::DeleteInvitation { name } => self.observed.forget_invitation(&name),
        }
    }

    /// The next thing to do; `None` while there is nothing, while something is being done, and until every kind was listed (anew).
    pub fn poll_action(&mut self, now: Timestamp) -> Option<Action> {
        self.observed.advance(now);
        if self.in_flight.is_some() || !self.observed.synced() {
            return None;
        }
        while let Some((at, _)) = self.timers.first()
            && *at <= now
        {
            let (_, work) = self.timers.pop_first()?;
            self.queue.insert(work);
        }
        while let Some(work) = self.queue.pop_first() {
            if self.backoff.get(&work).is_some_and(|backoff| backoff.not_before > now) {
                continue;
            }
            if let Some((work, action)) = self.evaluate(work, now) {
                self.in_flight = Some((work, action.clone()));
                return Some(action);
            }
        }
        None
    }

    /// When to poll again though nothing happened.
    #[must_use]
    pub fn poll_deadline(&self, now: Timestamp) -> Timestamp {
        // Often enough for the time to count as observed.
        let tick = now.saturating_add(observed::STEP / 2).unwrap_or(Timestamp::MAX);
        self.timers.first().map_or(tick, |(at, _)| tick.min(*at))
    }

    fn evaluate(&mut self, work: Work, now: Timestamp) -> Option<(Work, Action)> {
        let action = match &work {
            Work::Member(id) => self.evaluate_member(id, now),
            Work::Namespace(id) => self.evaluate_namespace(id, now),
            Work::Invitation(name) => self.evaluate_invitation(name, now),
            Work::Request(_, name) => return self.evaluate_request(name.clone(), now),
        };
        action.map(|action| (work, action))
    }

    fn after(&mut self, pause: SignedDuration, work: Work, now: Timestamp) {
        let at = now.saturating_add(pause).unwrap_or(Timestamp::MAX);
        self.timers.insert((at, work));
    }

    fn evaluate_member(&mut self, id: &ClusterId, now: Timestamp) -> Option<Action> {
        let uid = self.observed.members().get(id)?.uid().unwrap_or_default();
        let end = |why| Some(Action::EndMember { id: id.clone(), uid, why });
        if self.observed.leaving(id) {
            return end(Ending::Left);
        }
        let left = self.options.membership.saturating_sub(self.observed.silence(id));
        if left <= SignedDuration::ZERO {
            return end(Ending::Lapsed);
        }
        let work = Work::Member(id.clone());
        // Each member has one such timer at a time, or heartbeats would gather them.
        if !self.observed.timed(id, now) {
            self.observed.set_timed(id, now.saturating_add(left).unwrap_or(Timestamp::MAX));
            self.after(left, work, now);
        }
        None
    }

    fn evaluate_namespace(&mut self, id: &ClusterId, now: Timestamp) -> Option<Action> {
        let at = self.orphaned(id)?;
        if at <= now {
            return Some(Action::RemoveCluster { id: id.clone() });
        }
        self.timers.insert((at, Work::Namespace(id.clone())));
        None
    }

    /// When a namespace without a Member is to go. After an admission that failed on the way, its Member may be there and the watch
    /// that tells of it late.
    fn orphaned(&self, id: &ClusterId) -> Option<Timestamp> {
        self.observed.orphaned(id).filter(|_| !self.attempts.may_stand(id))
    }

    /// There may be a new member: what was reserved for it is not kept beside what it has.
    fn queue_spent(&mut self) {
        self.queue.extend(self.observed.spent().map(|(name, asked)| Work::Request(asked.made, name.clone())));
    }

    /// An attempt is over: what it kept from being removed may have to be.
    fn forget_attempt(&mut self, request: &str) {
        self.queue.extend(self.attempts.over(request).map(Work::Namespace));
    }

    fn evaluate_invitation(&mut self, name: &str, now: Timestamp) -> Option<Action> {
        let expires = self.observed.invitation(name)?.spec.expires.0;
        let at = expires.saturating_add(self.options.invitation_kept).unwrap_or(Timestamp::MAX);
        if at <= now {
            return Some(Action::DeleteInvitation { name: name.to_owned() });
        }
        self.timers.insert((at, Work::Invitation(name.to_owned())));
        None
    }

    fn evaluate_request(&mut self, name: String, now: Timestamp) -> Option<(Work, Action)> {
        let asked = self.observed.asked(&name)?;
        let work = Work::Request(asked.made, name.clone());
        let status = self.observed.status(&name, asked);
        let pending = status.phase == JoinPhase::Pending;
        let kept_until = self.kept_until(asked, status);
        // One that could not be served for so long has nobody waiting for it any more.
        if kept_until <= now && (!pending || self.backoff.contains_key(&work)) {
            return Some((work, Action::DeleteRequest { name }));
        }
        if !pending {
            if self.observed.is_spent(&name, asked) {
                return Some((work, Action::DeleteRequest { name }));
            }
            self.timers.insert((kept_until, work));
            return None;
        }
        // Else whoever holds one invitation could fill the broker's quota, and keep those of all others out.
        if self.observed.before(&name, asked) >= request::REQUESTS_PER_INVITATION {
            return Some((work, Action::DeleteRequest { name }));
        }
        let spec = match &asked.spec {
            Ok(spec) => spec,
            Err(cause) => {
                let status = denial::Denial::Malformed { cause: cause.clone() }.status();
                return Some((work, Action::Answer { request: name, invitation: String::new(), status }));
            }
        };
        let id = spec.cluster_id.clone();
        let (first, action) = if self.orphaned(&id).is_some() {
            // What a former member of this ID left goes before the new one comes.
            (Work::Namespace(id.clone()), Action::RemoveCluster { id })
        } else {
            let verdict = judge::judge(&self.world(&spec.invitation, asked.made, now), &name, spec);
            let action = self.act(&name, verdict, now)?;
            if !matches!(action, Action::EndMember { .. }) {
                return Some((work, action));
            }
            self.attempts.replaces(name, spec);
            (Work::Member(id), action)
        };
        // Something else has to be done before the request, with a backoff of its own.
        match self.backoff.get(&first).map(|backoff| backoff.not_before).filter(|at| *at > now) {
            Some(at) => {
                self.timers.insert((at, work));
                None
            }
            None => {
                self.queue.insert(work);
                Some((first, action))
            }
        }
    }

    fn kept_until(&self, asked: &Asked, status: &JoinRequestStatus) -> Timestamp {
        let kept = asked.since.saturating_add(self.options.request_kept).unwrap_or(Timestamp::MAX);
        status.reserved_until.as_ref().map_or(kept, |until| kept.max(until.0))
    }

    fn world(&self, invitation: &str, made: Timestamp, now: Timestamp) -> World<'_> {
        let members = self.observed.members();
        let reserved = self.observed.reservations(now);
        World {
            options: &self.options,
            invitation: self.observed.invitation(invitation),
            used: self.uses(invitation),
            members,
            // What an attempt may have written counts beside what its Member was seen to have.
            reservations: reserved.filter(|one| !members.contains_key(one.id)).chain(self.attempts.reservations()).collect(),
            made,
            now,
        }
    }

    /// The clusters that have joined by an invitation.
    fn uses(&self, invitation: &str) -> BTreeSet<ClusterId> {
        let mut used = self.observed.uses(invitation);
        used.extend(self.attempts.uses(invitation).cloned());
        used
    }

    fn act(&self, name: &str, verdict: Verdict, now: Timestamp) -> Option<Action> {
        let request = name.to_owned();
        let spec = self.observed.asked(name)?.spec.as_ref().ok()?;
        let invitation = spec.invitation.clone();
        match verdict {
            Verdict::Refuse(denial) => Some(Action::Answer { request, invitation, status: denial.status() }),
            Verdict::Reserve { ranges, until, message } => {
                let until = until.or_else(|| now.checked_add(self.options.reservation).ok());
                let status = JoinRequestStatus {
                    phase: JoinPhase::Reserved,
                    reason: "Reserved".to_owned(),
                    message,
                    ranges: Some(ranges),
                    reserved_until: until.map(Time),
                    sealed_credential: None,
                };
                Some(Action::Answer { request, invitation, status })
            }
            Verdict::Replace => {
                let member = self.observed.members().get(&spec.cluster_id)?;
                let uid = member.uid().unwrap_or_default();
                Some(Action::EndMember { id: spec.cluster_id.clone(), uid, why: Ending::Replaced })
            }
            Verdict::Admit { member, message } => {
                let status = JoinRequestStatus {
                    phase: JoinPhase::Admitted,
                    reason: "Admitted".to_owned(),
                    message,
                    ranges: Some(judge::ranges_of(&member)),
                    reserved_until: None,
                    sealed_credential: None,
                };
                let mut used = self.uses(&invitation);
                used.insert(spec.cluster_id.clone());
                let status_of_invitation = InvitationStatus {
                    used: u32::try_from(used.len()).unwrap_or(u32::MAX),
                    members: used.into_iter().collect(),
                };
                let had = self.observed.invitation(&invitation).and_then(|invitation| invitation.status.as_ref());
                Some(Action::Admit(Box::new(Admission {
                    request,
                    invitation,
                    invitation_status: (had != Some(&status_of_invitation)).then_some(status_of_invitation),
                    member: self.member(&spec.cluster_id, *member),
                    sealing_key: spec.sealing_key,
                    status,
                })))
            }
        }
    }

    /// The Member object: the present one with this spec, or a new one.
    fn member(&self, id: &ClusterId, spec: MemberSpec) -> Member {
        let had = self.observed.members().get(id);
        // Where an administrator has set the grant, the annotation stays as it is: absent, or another grant's.
        let administrators = had.is_some_and(|had| !judge::grant_is_the_invitations(had));
        let mut member = had.cloned().unwrap_or_else(|| Member::new(id.as_str(), spec.clone()));
        member.spec = spec;
        member.metadata.namespace = Some(daisy_api::labels::BROKER_NAMESPACE.to_owned());
        member.metadata.managed_fields = None;
        member.labels_mut().insert(MANAGED_BY.to_owned(), MANAGED_BY_DAISY.to_owned());
        if !administrators {
            let grant = member.spec.grant.to_string();
            member.annotations_mut().insert(INVITED_GRANT.to_owned(), grant);
        }
        member
    }
}

#[cfg(test)]
mod tests;
