//! What can happen to memberships: joins of all kinds, lawful and not, and ends.

use daisy_api::ClusterId;
use daisy_api::Grant;

use crate::cluster::{SimCluster, Standing};
use crate::enrol::Wish;
use crate::objects::Identity;
use crate::world::World;

/// As many clusters as there are at most.
const CLUSTERS: usize = 6;
/// The greatest number that has ranges of its own.
const NUMBERS: u8 = 15;

impl World {
    /// One of the transitions of memberships.
    pub(crate) fn membership_changes(&mut self, number: u8) {
        match self.random.below(20) {
            0..=3 => self.join(),
            4..=6 => self.rejoin(number),
            7..=8 => self.come_back(number),
            9..=10 => self.rivals(),
            11 => self.intrude(number),
            12 => self.overlap(number),
            13 => self.forge(number),
            14..=15 => self.replace(number),
            16..=17 => self.reserve(),
            18 => self.evict(number),
            _ => self.sleep(number),
        }
    }

    /// The identity of one more cluster.
    fn newcomer(&self, after: u8) -> Option<Identity> {
        let asks = self.joiners.iter().chain(&self.refused).map(|joiner| joiner.identity.number);
        let taken: std::collections::BTreeSet<u8> = self.clusters.keys().copied().chain(asks).collect();
        let number = taken.last().map_or(1, |last| last + 1) + after;
        (taken.len() < CLUSTERS && number <= NUMBERS).then(|| Identity::new(number))
    }

    /// Whether the broker knows the member as what it is, and nobody is about to join as it.
    fn settled(&self, number: u8) -> Option<&SimCluster> {
        let cluster = self.clusters.get(&number).filter(|c| c.standing == Standing::Member)?;
        let member = self.broker.member(&cluster.id).filter(|member| cluster.identity.is_of(member));
        let asks = self.joiners.iter().chain(&self.refused).any(|joiner| joiner.identity.number == number);
        (member.is_some() && !asks).then_some(cluster)
    }

    /// A new cluster joins.
    pub(crate) fn join(&mut self) {
        let Some(identity) = self.newcomer(0) else { return };
        let invitation = self.some_invitation();
        self.ask(identity, Wish::Join, (invitation, false));
    }

    /// A member joins again, as one does whose token has run out.
    fn rejoin(&mut self, number: u8) {
        let Some(identity) = self.settled(number).map(|cluster| cluster.identity.clone()) else { return };
        let invitation = self.some_invitation();
        self.ask(identity, Wish::Join, (invitation, false));
    }

    /// One that has left joins again.
    fn come_back(&mut self, number: u8) {
        let Some(cluster) = self.clusters.get_mut(&number).filter(|c| c.standing == Standing::Left) else { return };
        if self.broker_forgot || self.broker.member(&cluster.id).is_some() {
            return;
        }
        cluster.forget();
        let identity = cluster.identity.clone();
        let invitation = self.some_invitation();
        self.ask(identity, Wish::Join, (invitation, true));
    }

    /// Two new clusters ask at once for what only one can have: addresses, or the one use of an invitation.
    fn rivals(&mut self) {
        let (Some(first), Some(mut second)) = (self.newcomer(0), self.newcomer(1)) else { return };
        if self.broker_forgot {
            return;
        }
        match self.random.below(3) {
            0 => {
                let wall = self.now().wall;
                let invitation = self.broker.invite(Grant::all(), (1, 24 * 3600), wall);
                self.ask(first, Wish::Join, (invitation.clone(), true));
                self.ask(second, Wish::Join, (invitation, true));
                return;
            }
            1 => second.pods = first.pods,
            _ => second.services = first.pods,
        }
        for identity in [first, second] {
            let invitation = self.some_invitation();
            self.ask(identity, Wish::Join, (invitation, true));
        }
    }

    /// Another cluster asks for a member's ID.
    fn intrude(&mut self, number: u8) {
        let Some(cluster) = self.settled(number).filter(|_| !self.broker_forgot) else { return };
        let identity = Identity { made: cluster.identity.made.wrapping_add(50), ..cluster.identity.clone() };
        let invitation = self.some_invitation();
        self.ask(identity, Wish::Join, (invitation, true));
    }

    /// A new cluster asks for a member's addresses.
    fn overlap(&mut self, number: u8) {
        let Some(pods) = self.settled(number).filter(|_| !self.broker_forgot).map(|cluster| cluster.identity.pods) else {
            return;
        };
        let Some(identity) = self.newcomer(0) else { return };
        let invitation = self.some_invitation();
        self.ask(Identity { pods, ..identity }, Wish::Join, (invitation, true));
    }

    /// Somebody who has read a Member asks as if it were that.
    fn forge(&mut self, number: u8) {
        let Some(identity) = self.settled(number).map(|cluster| cluster.identity.clone()) else { return };
        let invitation = self.some_invitation();
        self.ask(identity, Wish::Forge, (invitation, true));
    }

    /// A member's cluster is gone for good; one that was made anew takes its place.
    fn replace(&mut self, number: u8) {
        let now = self.now();
        let Some(cluster) = self.settled(number).filter(|_| !self.broker_forgot) else { return };
        let identity = Identity { made: cluster.identity.made.wrapping_add(1), ..cluster.identity.clone() };
        self.somebody_left = true;
        self.changed_whole(number);
        self.clusters.insert(number, SimCluster::new(identity.clone(), now, self.trace.clone()));
        self.note(format!("c{number}: is made anew"));
        let invitation = if self.random.chance(50) { self.invite(Grant::all()) } else { self.some_invitation() };
        self.ask(identity, Wish::Replace, (invitation, false));
    }

    /// Ranges are reserved for a cluster that has yet to be made; perhaps it joins with them then.
    fn reserve(&mut self) {
        let Some(identity) = self.newcomer(0).filter(|_| !self.broker_forgot) else { return };
        let invitation = self.some_invitation();
        self.ask(identity, Wish::Reserve, (invitation, true));
    }

    fn may_end(&self, number: u8) -> Option<ClusterId> {
        let members = self.clusters.values().filter(|c| c.standing == Standing::Member).count();
        self.settled(number).filter(|_| members >= 3 && !self.broker_forgot).map(|cluster| cluster.id.clone())
    }

    /// The administrator evicts a member.
    fn evict(&mut self, number: u8) {
        let Some(id) = self.may_end(number) else { return };
        // A list that is asked for before a Member is written, and answered after it is gone again, tells of neither.
        if self.registrar.asks_for_members() {
            return;
        }
        self.broker.evict(&id);
        self.ends(number);
        self.note(format!("c{number}: is evicted"));
    }

    /// A cluster is shut down for longer than a membership lasts without a sign of life.
    fn sleep(&mut self, number: u8) {
        if self.may_end(number).is_none() || !self.random.chance(40) {
            return;
        }
        self.ends(number);
        if let Some(cluster) = self.clusters.get_mut(&number) {
            cluster.crash();
            (cluster.asleep, cluster.linked) = (true, false);
        }
        self.note(format!("c{number}: falls asleep"));
    }

    fn ends(&mut self, number: u8) {
        if let Some(cluster) = self.clusters.get_mut(&number) {
            cluster.standing = Standing::Out;
        }
        self.somebody_left = true;
        self.changed_whole(number);
        self.refresh_gateway(number);
    }

    /// May it leave, now?
    pub(crate) fn may_leave(&self, number: u8) -> bool {
        self.may_end(number).is_some()
    }
}
