//! What the registrar knows of the broker's objects: what watches tell, and what it wrote itself and no watch has told yet.
//!
//! A watch may be behind what was just written here. Were that forgotten, the next request could be given the same ranges. So what
//! was written stands until a watch shows it, or until a list that was asked for afterwards does not hold it.

use std::collections::{BTreeMap, BTreeSet};

use daisy_api::{
    Cluster, ClusterId, Heartbeat, Invitation, JoinPhase, JoinRequest, JoinRequestSpec, JoinRequestStatus, Member,
};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

use super::Change;
use super::judge::Reservation;

/// The most time that counts as observed between two looks at the clock: one that jumps, as that of a machine that slept, ends
/// nobody's membership.
pub(super) const STEP: SignedDuration = SignedDuration::from_mins(10);

/// A JoinRequest.
#[derive(Debug)]
pub(super) struct Asked {
    /// The later of its creation and the time when it was first seen.
    pub(super) since: Timestamp,
    /// Its creation, by the API server's clock.
    pub(super) made: Timestamp,
    /// What it asks, or why that does not parse.
    pub(super) spec: Result<JoinRequestSpec, String>,
    status: JoinRequestStatus,
}

impl Asked {
    /// The invitation that it names, if it parses.
    fn invitation(&self) -> Option<&str> {
        self.spec.as_ref().ok().map(|spec| spec.invitation.as_str())
    }
}

/// A Member that was written here and not yet seen.
#[derive(Debug)]
struct Written {
    uid: String,
    version: String,
    /// The number of the last list that was asked for before it was written.
    list: u64,
}

#[derive(Debug, Default)]
struct Heard {
    last: Option<(u64, String)>,
    /// By the clock of what was observed.
    at: SignedDuration,
    /// When the member's timer fires.
    timer: Option<Timestamp>,
}

#[derive(Debug, Default)]
struct Lists {
    invitations: bool,
    members: bool,
    requests: bool,
    clusters: bool,
    heartbeats: bool,
    namespaces: bool,
}

/// What is known.
#[derive(Debug, Default)]
pub(super) struct Observed {
    lists: Lists,
    invitations: BTreeMap<String, Invitation>,
    used: BTreeMap<String, BTreeSet<ClusterId>>,
    members: BTreeMap<ClusterId, Member>,
    written: BTreeMap<ClusterId, Written>,
    /// UIDs of Members that were deleted here, with the number of the last list asked for before.
    gone: BTreeMap<String, u64>,
    members_list: u64,
    requests: BTreeMap<String, Asked>,
    answered: BTreeMap<String, (JoinRequestStatus, u64)>,
    requests_list: u64,
    /// Each cluster's record: its UID, and whether it is leaving.
    clusters: BTreeMap<ClusterId, (String, bool)>,
    /// UIDs of Cluster records whose leaving was honoured.
    left: BTreeMap<ClusterId, String>,
    heard: BTreeMap<ClusterId, Heard>,
    namespaces: BTreeSet<ClusterId>,
    /// When the namespaces without a Member are to go.
    orphans: BTreeMap<ClusterId, Timestamp>,
    clock: SignedDuration,
    last_look: Option<Timestamp>,
    blind: bool,
}

/// Whether a version is older than another. API servers of Kubernetes give numbers (KEP-5504); of what is no number nothing is known.
fn older(version: &str, than: &str) -> bool {
    match (version.parse::<u64>(), than.parse::<u64>()) {
        (Ok(one), Ok(other)) => one < other,
        (Ok(_) | Err(_), _) => false,
    }
}

/// A list begins anew, and has changed nothing yet.
fn unlisted<T>(listed: &mut bool) -> Vec<T> {
    *listed = false;
    Vec::new()
}

fn uid_of<K: ResourceExt>(object: &K) -> String {
    object.uid().unwrap_or_default()
}

impl Observed {
    /// Whether every kind was listed, and none is being listed anew: the broker may have come back on an older copy, where half of
    /// what is known is of another time.
    pub(super) fn synced(&self) -> bool {
        let Lists { invitations, members, requests, clusters, heartbeats, namespaces } = self.lists;
        invitations && members && requests && clusters && heartbeats && namespaces
    }

    // Time that was observed.

    pub(super) fn advance(&mut self, now: Timestamp) {
        if let Some(last) = self.last_look
            && !self.blind
        {
            let passed = now.duration_since(last).max(SignedDuration::ZERO).min(STEP);
            self.clock = self.clock.saturating_add(passed);
        }
        self.last_look = Some(now);
    }

    pub(super) fn blind(&mut self) {
        self.blind = true;
    }

    /// For how long nothing was heard of a member, of the time observed.
    pub(super) fn silence(&self, id: &ClusterId) -> SignedDuration {
        self.heard.get(id).map_or(SignedDuration::ZERO, |heard| self.clock.saturating_sub(heard.at))
    }

    /// Whether a timer of the member has yet to fire.
    pub(super) fn timed(&self, id: &ClusterId, now: Timestamp) -> bool {
        self.heard.get(id).and_then(|heard| heard.timer).is_some_and(|at| at > now)
    }

    pub(super) fn set_timed(&mut self, id: &ClusterId, at: Timestamp) {
        if let Some(heard) = self.heard.get_mut(id) {
            heard.timer = Some(at);
        }
    }

    pub(super) fn heartbeats(&mut self, change: Change<Heartbeat>) {
        let mut hear = |heartbeat: &Heartbeat| {
            let namespace = heartbeat.namespace().unwrap_or_default();
            let Some(id) = ClusterId::from_broker_namespace(&namespace) else { return };
            let Some(heard) = self.heard.get_mut(&id) else { return };
            let beat = (heartbeat.spec.sequence, heartbeat.spec.digest.clone());
            if heartbeat.name_any() == id.as_str() && heard.last.as_ref() != Some(&beat) {
                heard.last = Some(beat);
                heard.at = self.clock;
            }
        };
        match change {
            Change::Listing => self.lists.heartbeats = false,
            Change::Listed(all) => {
                all.iter().for_each(&mut hear);
                self.lists.heartbeats = true;
                self.blind = false;
            }
            Change::Applied(one) => {
                hear(&one);
                self.blind = false;
            }
            Change::Deleted(_) => {}
        }
    }

    // Invitations.

    pub(super) fn invitation(&self, name: &str) -> Option<&Invitation> {
        self.invitations.get(name)
    }

    pub(super) fn invitations(&mut self, change: Change<Invitation>) -> Vec<String> {
        match change {
            Change::Listing => unlisted(&mut self.lists.invitations),
            Change::Listed(all) => {
                self.lists.invitations = true;
                let names: BTreeSet<String> = all.iter().map(ResourceExt::name_any).collect();
                self.invitations.retain(|name, _| names.contains(name));
                all.into_iter().for_each(|one| self.apply_invitation(one));
                names.into_iter().collect()
            }
            Change::Applied(one) => {
                let name = one.name_any();
                self.apply_invitation(one);
                vec![name]
            }
            Change::Deleted(one) => {
                self.forget_invitation(&one.name_any());
                Vec::new()
            }
        }
    }

    fn apply_invitation(&mut self, invitation: Invitation) {
        let name = invitation.name_any();
        if self.invitations.get(&name).is_some_and(|had| uid_of(had) != uid_of(&invitation)) {
            self.used.remove(&name);
        }
        self.invitations.insert(name, invitation);
    }

    pub(super) fn forget_invitation(&mut self, name: &str) {
        self.invitations.remove(name);
        self.used.remove(name);
    }

    /// The clusters that have joined by an invitation, seen or just written.
    pub(super) fn uses(&self, name: &str) -> BTreeSet<ClusterId> {
        let status = self.invitations.get(name).and_then(|invitation| invitation.status.as_ref());
        let seen = status.map(|status| status.members.iter().cloned()).into_iter().flatten();
        seen.chain(self.used.get(name).into_iter().flatten().cloned()).collect()
    }

    pub(super) fn used(&mut self, invitation: &str, id: ClusterId) {
        self.used.entry(invitation.to_owned()).or_default().insert(id);
    }

    // Members.

    pub(super) fn members(&self) -> &BTreeMap<ClusterId, Member> {
        &self.members
    }

    /// Returns the IDs whose membership changed.
    pub(super) fn apply_members(&mut self, change: Change<Member>, now: Timestamp, kept: SignedDuration) -> Vec<ClusterId> {
        match change {
            Change::Listing => {
                self.members_list += 1;
                unlisted(&mut self.lists.members)
            }
            Change::Listed(all) => {
                self.lists.members = true;
                let list = self.members_list;
                let uids: BTreeSet<String> = all.iter().map(uid_of).collect();
                // One that was asked for later is believed: the broker may have come back on an older copy.
                self.gone.retain(|_, at| *at >= list);
                self.written.retain(|_, written| written.list >= list);
                let written = &self.written;
                let lost: Vec<ClusterId> = self
                    .members
                    .iter()
                    .filter(|(id, member)| !uids.contains(&uid_of(*member)) && !written.contains_key(*id))
                    .map(|(id, _)| id.clone())
                    .collect();
                for id in &lost {
                    self.members.remove(id);
                }
                let mut changed: Vec<ClusterId> = all.into_iter().filter_map(|member| self.apply_member(member)).collect();
                let later = now.saturating_add(kept).unwrap_or(Timestamp::MAX);
                // Another Member of the name of one that is lost may be there; and namespaces may be listed before their Members are.
                let orphans = self.namespaces.iter().chain(&lost).filter(|id| !self.members.contains_key(*id));
                let orphans: BTreeSet<ClusterId> = orphans.cloned().collect();
                orphans.iter().for_each(|id| self.orphan(id, later));
                changed.extend(orphans);
                changed
            }
            Change::Applied(member) => self.apply_member(member).into_iter().collect(),
            Change::Deleted(member) => {
                let uid = uid_of(&member);
                self.gone.remove(&uid);
                let Ok(id) = ClusterId::new(member.name_any()) else { return Vec::new() };
                if self.members.get(&id).is_none_or(|had| uid_of(had) != uid) {
                    return Vec::new();
                }
                self.members.remove(&id);
                self.written.remove(&id);
                self.orphan(&id, now);
                vec![id]
            }
        }
    }

    fn apply_member(&mut self, member: Member) -> Option<ClusterId> {
        let uid = uid_of(&member);
        let id = ClusterId::new(member.name_any()).ok()?;
        if self.gone.contains_key(&uid) {
            return None;
        }
        if let Some(written) = self.written.get(&id) {
            let version = member.resource_version().unwrap_or_default();
            if uid == written.uid && older(&version, &written.version) {
                return None;
            }
            self.written.remove(&id);
        }
        self.orphans.remove(&id);
        let clock = self.clock;
        let anew = self.members.get(&id).is_none_or(|had| uid_of(had) != uid);
        if anew {
            self.heard.insert(id.clone(), Heard { at: clock, ..Heard::default() });
        }
        self.members.insert(id.clone(), member);
        Some(id)
    }

    /// A Member was written here.
    pub(super) fn wrote_member(&mut self, id: ClusterId, member: Member) {
        let written =
            Written { uid: uid_of(&member), version: member.resource_version().unwrap_or_default(), list: self.members_list };
        self.written.remove(&id);
        self.apply_member(member);
        self.namespaces.insert(id.clone());
        self.written.insert(id, written);
    }

    /// A Member was deleted here; `left`: because its cluster asked for it.
    pub(super) fn ended(&mut self, id: &ClusterId, uid: &str, left: bool, now: Timestamp) {
        self.gone.insert(uid.to_owned(), self.members_list);
        if left && let Some((cluster, _)) = self.clusters.get(id) {
            self.left.insert(id.clone(), cluster.clone());
        }
        if self.members.get(id).is_some_and(|member| uid_of(member) == uid) {
            self.members.remove(id);
            self.written.remove(id);
            self.orphan(id, now);
        }
    }

    fn orphan(&mut self, id: &ClusterId, at: Timestamp) {
        self.heard.remove(id);
        if self.namespaces.contains(id) {
            let earliest = self.orphans.get(id).map_or(at, |had| at.min(*had));
            self.orphans.insert(id.clone(), earliest);
        }
    }

    // Clusters and their namespaces.

    pub(super) fn clusters(&mut self, change: Change<Cluster>) -> Vec<ClusterId> {
        let parse = |cluster: &Cluster| {
            let id = ClusterId::from_broker_namespace(&cluster.namespace().unwrap_or_default())?;
            (cluster.name_any() == id.as_str()).then(|| (id, (uid_of(cluster), cluster.spec.leaving)))
        };
        match change {
            Change::Listing => unlisted(&mut self.lists.clusters),
            Change::Listed(all) => {
                self.lists.clusters = true;
                self.clusters = all.iter().filter_map(parse).collect();
                self.clusters.keys().cloned().collect()
            }
            Change::Applied(one) => {
                let Some((id, record)) = parse(&one) else { return Vec::new() };
                let leaving = record.1;
                self.clusters.insert(id.clone(), record);
                if leaving { vec![id] } else { Vec::new() }
            }
            Change::Deleted(one) => {
                if let Some((id, (uid, _))) = parse(&one)
                    && self.clusters.get(&id).is_some_and(|had| had.0 == uid)
                {
                    self.clusters.remove(&id);
                }
                Vec::new()
            }
        }
    }

    /// Whether the cluster asks for its membership to end, and has not asked with the same record before.
    pub(super) fn leaving(&self, id: &ClusterId) -> bool {
        self.clusters.get(id).is_some_and(|(uid, leaving)| *leaving && self.left.get(id) != Some(uid))
    }

    /// Returns the IDs of namespaces that may be orphans.
    pub(super) fn namespaces(&mut self, change: Change<Namespace>, now: Timestamp, kept: SignedDuration) -> Vec<ClusterId> {
        let later = now.saturating_add(kept).unwrap_or(Timestamp::MAX);
        // One that is ending is as good as gone.
        let parse = |namespace: &Namespace| {
            let lives = namespace.metadata.deletion_timestamp.is_none();
            ClusterId::from_broker_namespace(&namespace.name_any()).map(|id| (id, lives))
        };
        let found: Vec<(ClusterId, bool)> = match &change {
            Change::Listing => unlisted(&mut self.lists.namespaces),
            Change::Listed(all) => {
                self.lists.namespaces = true;
                let all: Vec<_> = all.iter().filter_map(parse).collect();
                let names: BTreeSet<&ClusterId> = all.iter().map(|(id, _)| id).collect();
                self.namespaces.retain(|id| names.contains(id));
                self.orphans.retain(|id, _| names.contains(id));
                all
            }
            Change::Applied(one) => parse(one).into_iter().collect(),
            Change::Deleted(one) => parse(one).map(|(id, _)| (id, false)).into_iter().collect(),
        };
        let mut orphans = Vec::new();
        for (id, lives) in found {
            if !lives {
                self.namespaces.remove(&id);
                self.orphans.remove(&id);
                continue;
            }
            self.namespaces.insert(id.clone());
            // What a list of Members that is under way does not name is an orphan once it has come.
            if self.lists.members && !self.members.contains_key(&id) {
                self.orphan(&id, later);
                orphans.push(id);
            }
        }
        orphans
    }

    /// When the cluster's namespace is to go, if it has no Member.
    pub(super) fn orphaned(&self, id: &ClusterId) -> Option<Timestamp> {
        self.orphans.get(id).copied()
    }

    /// Everything of a former member was removed here.
    pub(super) fn removed(&mut self, id: &ClusterId) {
        self.namespaces.remove(id);
        self.orphans.remove(id);
        self.clusters.remove(id);
    }

    // JoinRequests.

    pub(super) fn asked(&self, name: &str) -> Option<&Asked> {
        self.requests.get(name)
    }

    /// Who made a request that parses.
    pub(super) fn asker(&self, name: &str) -> Option<ClusterId> {
        Some(self.asked(name)?.spec.as_ref().ok()?.cluster_id.clone())
    }

    /// How many requests there are that were made before this one, by the same invitation.
    pub(super) fn before(&self, name: &str, asked: &Asked) -> usize {
        let same = |one: &Asked| one.invitation() == asked.invitation();
        self.requests.iter().filter(|(other, one)| (one.made, other.as_str()) < (asked.made, name) && same(one)).count()
    }

    /// A request's status: as answered here, or as seen.
    pub(super) fn status<'a>(&'a self, name: &str, asked: &'a Asked) -> &'a JoinRequestStatus {
        self.answered.get(name).map_or(&asked.status, |(status, _)| status)
    }

    pub(super) fn requests(&mut self, change: Change<JoinRequest>, now: Timestamp) -> Vec<String> {
        match change {
            Change::Listing => {
                self.requests_list += 1;
                unlisted(&mut self.lists.requests)
            }
            Change::Listed(all) => {
                self.lists.requests = true;
                let names: BTreeSet<String> = all.iter().map(ResourceExt::name_any).collect();
                self.requests.retain(|name, _| names.contains(name));
                let list = self.requests_list;
                self.answered.retain(|name, (_, at)| *at >= list && names.contains(name));
                all.into_iter().map(|one| self.apply_request(one, now)).collect()
            }
            Change::Applied(one) => vec![self.apply_request(one, now)],
            Change::Deleted(one) => {
                self.forget_request(&one.name_any());
                Vec::new()
            }
        }
    }

    fn apply_request(&mut self, request: JoinRequest, now: Timestamp) -> String {
        let name = request.name_any();
        let status = request.status.unwrap_or_default();
        if status.phase != JoinPhase::Pending {
            self.answered.remove(&name);
        }
        let created = request.metadata.creation_timestamp.map(|time| time.0);
        let since = self.since(&name, created, now);
        let made = created.unwrap_or(since);
        self.requests.insert(name.clone(), Asked { since, made, spec: Ok(request.spec), status });
        name
    }

    fn since(&self, name: &str, created: Option<Timestamp>, now: Timestamp) -> Timestamp {
        self.requests.get(name).map_or_else(|| created.map_or(now, |created| created.max(now)), |had| had.since)
    }

    /// Returns when it was made, as far as that is known.
    pub(super) fn unreadable_request(&mut self, name: &str, cause: &str, now: Timestamp) -> Timestamp {
        let since = self.since(name, None, now);
        let asked = Asked { since, made: since, spec: Err(cause.to_owned()), status: JoinRequestStatus::default() };
        self.requests.insert(name.to_owned(), asked);
        since
    }

    pub(super) fn answered(&mut self, name: String, status: JoinRequestStatus) {
        self.answered.insert(name, (status, self.requests_list));
    }

    pub(super) fn forget_request(&mut self, name: &str) {
        self.requests.remove(name);
        self.answered.remove(name);
    }

    /// Whether this is a reservation whose cluster has joined since. Else its ranges would be kept once more when it is a member no
    /// longer. One that a member asked for is an answer of what it has, which its asker has yet to read.
    pub(super) fn is_spent(&self, name: &str, asked: &Asked) -> bool {
        let member = asked.spec.as_ref().ok().and_then(|spec| self.members.get(&spec.cluster_id));
        let joined = member.and_then(|member| member.metadata.creation_timestamp.as_ref());
        self.status(name, asked).phase == JoinPhase::Reserved && joined.is_some_and(|joined| asked.made < joined.0)
    }

    /// All such.
    pub(super) fn spent(&self) -> impl Iterator<Item = (&String, &Asked)> {
        self.requests.iter().filter(|(name, asked)| self.is_spent(name, asked))
    }

    /// The ranges that are reserved now.
    pub(super) fn reservations(&self, now: Timestamp) -> impl Iterator<Item = Reservation<'_>> {
        self.requests.iter().filter_map(move |(name, asked)| {
            let spec = asked.spec.as_ref().ok()?;
            let status = self.status(name, asked);
            let live = status.phase == JoinPhase::Reserved && status.reserved_until.as_ref().is_some_and(|until| until.0 > now);
            let ranges = status.ranges.as_ref().filter(|_| live)?;
            Some(Reservation { id: &spec.cluster_id, invitation: &spec.invitation, ranges })
        })
    }
}
