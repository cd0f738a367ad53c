//! The broker loses data, and everything is set right again.

use std::time::Duration;

use daisy_api::{ClusterId, Grant, ServiceKey};
use daisy_broker_core::object::{Kind, Object};
use kube::ResourceExt;

use crate::broker::Broker;
use crate::cluster::{SimCluster, Standing};
use crate::enrol::Wish;
use crate::world::World;

impl World {
    pub(crate) fn take_backup(&mut self) {
        // What two may have a right to is decided once: on a copy from before, it might be decided otherwise.
        if self.joiners.iter().any(|joiner| joiner.contested) {
            return;
        }
        self.backup = Some(self.broker.clone());
        self.note("a backup of the broker is taken");
    }

    fn replace_broker(&mut self, broker: Broker) {
        self.broker = broker;
        self.cut_syncers();
    }

    /// Every syncer's watches of the broker break, and each hears whether it can have others.
    pub(crate) fn cut_syncers(&mut self) {
        let (now, up) = (self.now(), self.broker_up);
        for cluster in self.clusters.values_mut() {
            cluster.break_broker_streams();
            let known = cluster.known(&self.broker);
            cluster.tell_connection(up && known, now);
            cluster.collect(now);
        }
    }

    /// The broker comes back on an old copy: its versions run backwards. The registrar's process goes on, or begins anew with it.
    pub(crate) fn restore_backup(&mut self) {
        let Some(backup) = self.backup.clone().filter(|_| !self.somebody_left) else { return };
        self.broker_forgot = true;
        self.incarnations += 1;
        self.ghosts_export(&backup);
        self.replace_broker(backup.restored(self.incarnations));
        let goes_on = self.random.chance(50);
        if goes_on {
            self.registrar.cut(self.now());
        } else if self.registrar.runs() {
            self.registrar.start(&self.broker.id);
        }
        self.note(format!("the broker is restored from the backup; the registrar goes on: {goes_on}"));
    }

    /// Who is no member any more, or was made anew, is what it was before on a copy from then, until the administrator removes it
    /// (`heal` does): nobody who joined or started since can know better, and its exports count meanwhile, the oldest first. So names
    /// that it exports there may change. And what one that was made anew exports since is not its who has its ID there.
    fn ghosts_export(&mut self, backup: &Broker) {
        let ghost = |object: &&Object| {
            let id = ClusterId::from_broker_namespace(object.namespace());
            let cluster = self.clusters.values().find(|cluster| Some(&cluster.id) == id.as_ref());
            let present = cluster.filter(|cluster| cluster.standing == Standing::Member);
            let member = id.as_ref().and_then(|id| backup.member(id));
            !present.is_some_and(|cluster| member.is_some_and(|member| cluster.identity.is_of(member)))
        };
        let keys = backup.records.list(Kind::Export).filter(ghost);
        let keys: Vec<ServiceKey> =
            keys.filter_map(|o| if let Object::Export(o) = o { Some(o.spec.key()) } else { None }).collect();
        self.exempt.keys.extend(keys);
        let another = |cluster: &&SimCluster| backup.member(&cluster.id).is_some_and(|member| !cluster.identity.is_of(member));
        let replaced: Vec<u8> = self.clusters.values().filter(another).map(|cluster| cluster.number).collect();
        replaced.into_iter().for_each(|number| self.changed_whole(number));
    }

    /// The broker comes back empty, and so as another.
    pub(crate) fn wipe_broker(&mut self) {
        if self.somebody_left {
            return;
        }
        self.broker_forgot = true;
        self.note("the broker is wiped");
        self.backup = None;
        self.incarnations += 1;
        self.replace_broker(Broker::new(self.incarnations));
        if self.registrar.runs() {
            self.registrar.start(&self.broker.id);
        }
    }

    /// Everything works again; whom the broker has forgotten joins again.
    pub(crate) fn heal(&mut self) {
        self.broker_up = true;
        self.paths_down.clear();
        if !self.registrar.runs() {
            self.registrar.start(&self.broker.id);
        }
        self.registrar.release();
        let now = self.now();
        for cluster in self.clusters.values_mut().filter(|cluster| !cluster.asleep) {
            cluster.linked = true;
            if cluster.syncer.is_none() && cluster.standing != Standing::Joining && !cluster.removed {
                cluster.start(now);
            }
            for stream in cluster.streams.values_mut() {
                stream.held_until = Duration::ZERO;
            }
        }
        self.set_right();
        let numbers: Vec<u8> = self.clusters.keys().copied().collect();
        numbers.into_iter().for_each(|number| self.refresh_gateway(number));
    }

    /// What administrators do about members: who should be one and is none is invited, who should not be and is is evicted.
    pub(crate) fn set_right(&mut self) {
        self.evict_ghosts();
        let numbers: Vec<u8> = self.clusters.keys().copied().collect();
        for number in numbers {
            self.enlist(number);
        }
        for joiner in std::mem::take(&mut self.refused) {
            let cluster = self.clusters.get(&joiner.identity.number);
            if cluster.is_none_or(|cluster| cluster.identity == joiner.identity && cluster.standing == Standing::Joining) {
                let grant = if joiner.wish == Wish::Replace { Grant::all() } else { self.some_grant() };
                let invitation = self.invite(grant);
                self.ask(joiner.identity, joiner.wish, (invitation, false));
            }
        }
    }

    /// A cluster that takes itself for a member has what a member has.
    fn enlist(&mut self, number: u8) {
        let Some(cluster) = self.clusters.get(&number).filter(|cluster| cluster.standing == Standing::Member) else { return };
        let (id, identity, known) = (cluster.id.clone(), cluster.identity.clone(), cluster.known(&self.broker));
        let grant = self.grants.now(number);
        let member = self.broker.member(&id);
        let another = member.is_some_and(|member| !identity.is_of(member));
        if known
            && !another
            && let Some(member) = member
        {
            // A restored broker has the grant of its day.
            if member.spec.grant != grant {
                let wall = self.now().wall;
                self.broker.grant(&id, grant, wall);
            }
            return;
        }
        if self.joiners.iter().any(|joiner| joiner.identity == identity && !joiner.contested && joiner.sent()) {
            return;
        }
        self.joiners.retain(|joiner| joiner.identity != identity || joiner.contested);
        let (wish, grant) = if another { (Wish::Replace, Grant::all()) } else { (Wish::Join, grant) };
        let invitation = self.invite(grant);
        self.ask(identity, wish, (invitation, false));
    }

    /// A restored broker remembers who has left since.
    fn evict_ghosts(&mut self) {
        let stays = |member: &&daisy_api::Member| {
            let of = self.clusters.values().find(|cluster| cluster.identity.is_of(member));
            let standing =
                of.is_some_and(|cluster| cluster.asleep || !matches!(cluster.standing, Standing::Left | Standing::Out));
            let asks = self.joiners.iter().chain(&self.refused).any(|joiner| joiner.identity.is_of(member));
            // One that was made anew takes the place of what it was.
            let takes =
                |c: &SimCluster| matches!(c.standing, Standing::Member | Standing::Joining) && !c.identity.is_of(member);
            let anew = self.clusters.values().any(|c| c.id.as_str() == member.name_any() && takes(c));
            standing || asks || anew
        };
        let ghosts: Vec<String> = self.broker.members().filter(|member| !stays(member)).map(ResourceExt::name_any).collect();
        for id in ghosts.iter().filter_map(|name| ClusterId::new(name.clone()).ok()) {
            self.note(format!("{id} is evicted, which is no cluster's any more"));
            self.broker.evict(&id);
        }
    }

    /// Who slept wakes, and who was evicted may come again, by an invitation like any other.
    pub(crate) fn wake(&mut self) {
        let now = self.now();
        let out: Vec<u8> = self.clusters.values().filter(|c| c.standing == Standing::Out).map(|c| c.number).collect();
        for number in out {
            let Some(cluster) = self.clusters.get_mut(&number) else { continue };
            if cluster.asleep {
                (cluster.asleep, cluster.linked) = (false, true);
                cluster.start(now);
            }
            cluster.standing = Standing::Joining;
            let identity = cluster.identity.clone();
            let invitation = self.some_invitation();
            self.ask(identity, Wish::Join, (invitation, true));
        }
    }
}
