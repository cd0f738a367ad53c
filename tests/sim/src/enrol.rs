//! Who asks to become a member, and how: by a JoinRequest that its key signs, with an invitation of the administrator's.

use std::fmt;

use daisy_api::{Grant, JoinPhase, JoinRequestSpec, JoinRequestStatus, Ranges};

use crate::cluster::{SimCluster, Standing};
use crate::objects::{Identity, To};
use crate::world::{Violation, World};

/// What somebody asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// To become a member, or to have a new credential.
    Join,
    /// The same, in place of the present member of its ID.
    Replace,
    /// Ranges.
    Reserve,
    /// To become a member with another's signing key, which it does not hold.
    Forge,
}

/// Somebody who asks.
#[derive(Clone, Debug)]
pub(crate) struct Joiner {
    pub(crate) identity: Identity,
    pub(crate) wish: Wish,
    pub(crate) invitation: String,
    /// Whether another may have a right to what it asks for: then it may be refused, and asks no more.
    pub(crate) contested: bool,
    /// The name of its request, and whether the broker has taken that.
    request: String,
    sent: bool,
}

impl Joiner {
    /// Whether the broker has taken its request.
    pub(crate) fn sent(&self) -> bool {
        self.sent
    }
}

impl fmt::Display for Joiner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sent = if self.sent { "waits for an answer to" } else { "is about to make" };
        write!(f, "c{} ({}) {sent} {} ({:?})", self.identity.number, self.identity.uid(), self.request, self.wish)
    }
}

impl World {
    /// Somebody begins to ask, by this invitation.
    pub(crate) fn ask(&mut self, identity: Identity, wish: Wish, (invitation, contested): (String, bool)) {
        let request = format!("join-{:026}", self.random.next());
        let joiner = Joiner { identity, wish, invitation, contested, request, sent: false };
        self.note(format!("{joiner} by {}", joiner.invitation));
        self.joiners.push(joiner);
    }

    /// The administrator makes an invitation of this grant that is good for a day and ten clusters.
    pub(crate) fn invite(&mut self, grant: Grant) -> String {
        let wall = self.now().wall;
        self.broker.invite(grant, (10, 24 * 3600), wall)
    }

    /// An invitation by which somebody may come: a new one, which may be good for few or for a short time, or one that others have.
    pub(crate) fn some_invitation(&mut self) -> String {
        let there: Vec<String> = self.broker.invitations.iter().filter_map(|one| one.metadata.name.clone()).collect();
        if self.random.chance(35)
            && let Some(name) = self.random.pick(&there)
        {
            return name.clone();
        }
        let grant = self.some_grant();
        let uses = if self.random.chance(40) { 1 } else { 10 };
        let seconds = if self.random.chance(20) { 5 + i64::try_from(self.random.below(60)).unwrap_or(0) } else { 24 * 3600 };
        let wall = self.now().wall;
        let name = self.broker.invite(grant.clone(), (uses, seconds), wall);
        self.note(format!("{name}: {uses} clusters may export {grant}, for {seconds} s"));
        name
    }

    pub(crate) fn some_grant(&mut self) -> Grant {
        match self.random.below(4) {
            0 => Grant::none(),
            1 => "shop-*,web".parse().unwrap_or_default(),
            _ => Grant::all(),
        }
    }

    /// Whether something is to be done for it now.
    pub(crate) fn may_step(&self, joiner: &Joiner) -> bool {
        let answered = || {
            let request = self.broker.requests.get(&joiner.request);
            // One that is not there any more is an answer, too.
            request.is_none_or(|request| request.status.as_ref().is_some_and(|status| status.phase != JoinPhase::Pending))
        };
        self.reaches(joiner) && (!joiner.sent || answered())
    }

    fn reaches(&self, joiner: &Joiner) -> bool {
        self.broker_up && self.clusters.get(&joiner.identity.number).is_none_or(|cluster| cluster.linked)
    }

    /// One of those who ask makes its request, or reads the answer.
    pub(crate) fn joiner_steps(&mut self) -> Result<(), Violation> {
        let ready: Vec<usize> = (0..self.joiners.len()).filter(|at| self.may_step(&self.joiners[*at])).collect();
        let Some(&at) = self.random.pick(&ready) else { return Ok(()) };
        if !self.joiners[at].sent {
            self.send(at);
            return Ok(());
        }
        let joiner = self.joiners.remove(at);
        match self.broker.requests.get(&joiner.request).and_then(|request| request.status.clone()) {
            Some(status) => self.answered(joiner, status),
            None => {
                self.note(format!("{joiner}, which the broker has lost"));
                self.gives_up(joiner);
                Ok(())
            }
        }
    }

    fn send(&mut self, at: usize) {
        let wall = self.now().wall;
        let joiner = self.joiners[at].clone();
        if !self.broker.invites(&joiner.invitation, wall) {
            // Its token is not taken.
            self.note(format!("{joiner}, and its invitation is over"));
            self.joiners.remove(at);
            self.gives_up(joiner);
            return;
        }
        let to = To {
            broker_id: &self.broker.id,
            invitation: &joiner.invitation,
            replace: joiner.wish == Wish::Replace,
            reserve: joiner.wish == Wish::Reserve,
        };
        let mut request = joiner.identity.request(&joiner.request, &to);
        if joiner.wish == Wish::Forge {
            let another = Identity { made: u8::MAX, ..joiner.identity.clone() };
            request.spec.signature = another.request(&joiner.request, &to).spec.signature;
        }
        self.trace.tell(self.now(), || format!("the broker takes {}", joiner.request));
        self.asked.insert(joiner.request.clone(), (request.spec.clone(), joiner.wish));
        self.broker.ask(request, wall);
        self.joiners[at].sent = true;
    }

    fn answered(&mut self, joiner: Joiner, status: JoinRequestStatus) -> Result<(), Violation> {
        self.note(format!("{joiner}: {:?} {} {}", status.phase, status.reason, status.message));
        match status.phase {
            JoinPhase::Admitted => {
                let account = status.sealed_credential.as_ref().and_then(|sealed| sealed.parse().ok());
                self.admitted(joiner.identity, account);
            }
            JoinPhase::Reserved => {
                if let (true, Some(ranges)) = (self.random.chance(60), &status.ranges) {
                    self.joins_with(&joiner, ranges);
                }
            }
            JoinPhase::Refused | JoinPhase::Pending => {
                if !joiner.contested && !self.may_be_refused(&joiner, &status.reason) {
                    return Err(self.violation(format!("{joiner}: {} {}", status.reason, status.message)));
                }
                self.gives_up(joiner);
            }
        }
        Ok(())
    }

    /// What is refused for what its invitation is, or was, may be tried again with another.
    fn may_be_refused(&self, joiner: &Joiner, reason: &str) -> bool {
        match reason {
            "InvitationUsedUp" => true,
            "InvitationExpired" | "InvitationUnknown" => {
                let limited = |asked: &(JoinRequestSpec, Wish)| !self.broker.invites(&asked.0.invitation, self.now().wall);
                self.asked.get(&joiner.request).is_some_and(limited)
            }
            // The invitation may be one that was used for the member, and may allow less.
            "ReplaceNeedsFreshInvitation" | "ReplaceNeedsGrant" => joiner.wish == Wish::Replace,
            // On an old copy, somebody who has left since may have it.
            _ => self.broker_forgot,
        }
    }

    fn admitted(&mut self, identity: Identity, account: Option<u64>) {
        let (now, number) = (self.now(), identity.number);
        let same = self.clusters.get(&number).is_some_and(|cluster| cluster.identity == identity);
        if !same {
            self.clusters.insert(number, SimCluster::new(identity, now, self.trace.clone()));
        }
        let Some(cluster) = self.clusters.get_mut(&number) else { return };
        match cluster.standing {
            Standing::Member => cluster.admitted(account, now),
            Standing::Joining => {
                cluster.admitted(account, now);
                self.changed_whole(number);
            }
            Standing::Leaving | Standing::Left | Standing::Out => {}
        }
        self.refresh_gateway(number);
    }

    /// A cluster is made with the ranges that were reserved for it.
    fn joins_with(&mut self, joiner: &Joiner, ranges: &Ranges) {
        let mut identity = joiner.identity.clone();
        let (Some(pods), Some(services)) = (ranges.cluster_cidrs.first(), ranges.service_cidrs.first()) else { return };
        (identity.pods, identity.services) = (*pods, *services);
        let invitation = joiner.invitation.clone();
        self.ask(identity, Wish::Join, (invitation, true));
    }

    /// It was refused, or heard nothing.
    pub(crate) fn gives_up(&mut self, joiner: Joiner) {
        // Who may ask for what is nobody else's asks again once everything works.
        if !joiner.contested {
            self.refused.push(joiner);
            return;
        }
        if let Some(cluster) = self.clusters.get_mut(&joiner.identity.number)
            && cluster.identity == joiner.identity
            && cluster.standing == Standing::Joining
            && joiner.wish == Wish::Join
        {
            // One that had left has left still.
            cluster.standing = if cluster.removed { Standing::Left } else { Standing::Out };
        }
    }
}
