//! Which clusters give a sign of life, which of their records still stand, and what depends on either.

use std::collections::BTreeMap;
use std::time::Duration;

use daisy_api::{ClusterId, ConnectionStatus, HeartbeatSpec, NamespaceName, ServiceKey, ServiceName};

use super::agenda::{Timer, Work};
use super::note::Note;
use super::state::{Reachability, Said};
use super::{Link, Syncer};
use crate::object::Reference;
use crate::time::Now;
use crate::vouch::KnownMember;

impl Syncer {
    /// Judges whether a cluster is silent or out of reach, or when that is to be judged again. Either way its endpoints leave the
    /// imports.
    ///
    /// It is out of reach once the path through the tunnel has broken for long enough, or has not come up for long enough (between two
    /// clusters that are both behind NAT none ever does): whatever it says on the broker, nothing that is sent to it arrives. It is silent once its heartbeats have stopped for long enough and no probe is answered. While the
    /// broker is connected, a cluster to which there is no tunnel counts as not answering; the wait then begins no earlier than the
    /// connection. While the broker is away nobody's heartbeats arrive, and only probes that are tried and fail make a cluster
    /// silent.
    pub(super) fn judge(&mut self, id: &ClusterId, now: Now) {
        let until = self.judge_path(id, now);
        let Some(peer) = self.peers.get(id) else { return };
        let reach = self.reachability.get(id).copied();
        if peer.silent {
            if reach == Some(Reachability::Connected) {
                self.heard(id, now);
            } else {
                self.forget_absent(id, now);
                self.judge_again(id, until);
            }
            return;
        }
        let limits = (self.config.heartbeat_interval, self.config.longest_interval);
        let patience = peer.patience(self.config.vouch_intervals, self.config.vouch_margin, limits);
        let (heard, up) = (peer.heard.monotonic, matches!(self.link, Link::Up(_)));
        let from = if let Link::Up(since) = self.link { heard.max(since) } else { heard };
        let quiet = match reach {
            Some(reach) => reach.failing_since().map(|since| since + self.config.probe_margin),
            None => up.then_some(from),
        };
        let silent_at = quiet.map(|quiet| quiet.max(from + patience));
        if silent_at.is_none_or(|at| now.monotonic < at) {
            return self.judge_again(id, until.into_iter().chain(silent_at).min());
        }
        if let Some(peer) = self.peers.get_mut(id) {
            peer.silent = true;
        }
        self.note(Note::Silent { cluster: id.clone() });
        self.mark_imports_of(id, now);
        self.mark(Work::Peer(id.clone()), now);
        self.forget_absent(id, now);
        self.judge_again(id, until);
    }

    fn judge_again(&mut self, id: &ClusterId, at: Option<Duration>) {
        match at {
            Some(at) => self.agenda.set(Timer::Vouch(id.clone()), at),
            None => self.agenda.clear(&Timer::Vouch(id.clone())),
        }
    }

    /// Judges the path alone. Returns when that is to be done again, if at all.
    fn judge_path(&mut self, id: &ClusterId, now: Now) -> Option<Duration> {
        let peer = self.peers.get_mut(id)?;
        let lost_at = match self.reachability.get(id) {
            Some(Reachability::Broken(since)) => Some(*since + self.config.probe_margin),
            Some(Reachability::Trying(since)) => Some(*since + self.config.path_patience),
            Some(Reachability::Connected) | None => None,
        };
        let lost = lost_at.is_some_and(|at| at <= now.monotonic);
        if peer.unreachable != lost {
            peer.unreachable = lost;
            let cluster = id.clone();
            self.note(if lost { Note::Unreachable { cluster } } else { Note::Reachable { cluster } });
            self.mark_imports_of(id, now);
            self.mark(Work::Peer(id.clone()), now);
        }
        lost_at.filter(|_| !lost)
    }

    pub(super) fn judge_all(&mut self, now: Now) {
        let ids: Vec<ClusterId> = self.peers.keys().cloned().collect();
        for id in ids {
            self.judge(&id, now);
        }
    }

    fn heard(&mut self, id: &ClusterId, now: Now) {
        if let Some(peer) = self.peers.get_mut(id) {
            (peer.silent, peer.heard) = (false, now);
        }
        self.note(Note::Heard { cluster: id.clone() });
        self.mark_imports_of(id, now);
        self.mark(Work::Peer(id.clone()), now);
        self.judge(id, now);
    }

    /// A cluster that is silent, and that a broker which knows us does not know, is no member any more: nobody was listening when
    /// its Member was deleted.
    fn forget_absent(&mut self, id: &ClusterId, now: Now) {
        let known_ourselves = self.own.peer.member.as_ref().is_some_and(|member| member.listed);
        if !matches!(self.link, Link::Up(_)) || !self.broker_synced() || !known_ourselves {
            return;
        }
        let Some(peer) = self.peers.get_mut(id) else { return };
        if peer.member.as_ref().is_some_and(|member| member.listed) {
            return;
        }
        let keys = peer.keys();
        let was_member = peer.member.is_some();
        peer.forget_unlisted();
        if peer.is_empty() {
            self.peers.remove(id);
        }
        if was_member {
            self.note(Note::Removed { cluster: id.clone() });
        }
        for key in keys {
            self.mark(Work::Import(key), now);
        }
        self.mark(Work::Peer(id.clone()), now);
    }

    pub(super) fn take_older_member(&mut self, id: &ClusterId, now: Now) {
        let up = matches!(self.link, Link::Up(_));
        let peer = if *id == self.id { Some(&mut self.own.peer) } else { self.peers.get_mut(id) };
        // The next list shows it again, if it still is so.
        let Some(peer) = peer.filter(|peer| up && peer.member.as_ref().is_some_and(KnownMember::is_shown_older)) else {
            return;
        };
        let keys = peer.keys();
        let change = peer.take_older_member();
        keys.into_iter().for_each(|key| self.mark(Work::Import(key), now));
        self.member_changed(id, change, false, now);
    }

    pub(super) fn see_heartbeat(&mut self, id: &ClusterId, spec: HeartbeatSpec, now: Now) {
        let peer = self.peer(id, now);
        let (was_silent, first) = (peer.silent, peer.pulse.is_none());
        let beat = peer.beat(spec, now);
        if first {
            let keys = peer.keys();
            self.offered(id, keys, now);
        }
        if beat && was_silent {
            self.note(Note::Heard { cluster: id.clone() });
            self.mark_imports_of(id, now);
        }
        if beat {
            self.mark(Work::PeerStatus(id.clone()), now);
        }
        self.judge(id, now);
        self.mark(Work::Resolve(id.clone()), now);
    }

    pub(super) fn resolve(&mut self, id: &ClusterId, now: Now) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        let vouched = peer.resolve();
        if vouched.passed {
            self.mark(Work::Peer(id.clone()), now);
        }
        if vouched.keys.is_empty() {
            return;
        }
        if vouched.withdrawn > 0 {
            self.note(Note::Withdrawn { cluster: id.clone(), records: vouched.withdrawn });
        }
        self.offered(id, vouched.keys, now);
        self.mark(Work::Peer(id.clone()), now);
    }

    /// What stands of these of a cluster may have changed.
    fn offered(&mut self, id: &ClusterId, keys: Vec<ServiceKey>, now: Now) {
        for key in keys {
            self.offering.entry(key.clone()).or_default().insert(id.clone());
            self.mark(Work::Import(key), now);
        }
    }

    /// A node came, changed or went: if it is a gateway's, what that one says counts from now on, or no longer.
    pub(super) fn node_changed(&mut self, name: &str, now: Now) {
        self.mark(Work::Nodes, now);
        if self.here.gateways.iter().any(|(gateway, _)| gateway == name) {
            self.see_connections(now);
        }
    }

    /// Reads anew, from all gateways, which clusters answer probes.
    pub(super) fn see_connections(&mut self, now: Now) {
        let mut answers: BTreeMap<ClusterId, Said> = BTreeMap::new();
        for gateway in self.here.gateways_in_place() {
            for connection in gateway.status.iter().flat_map(|status| &status.connections) {
                let said = answers.entry(connection.cluster_id.clone()).or_default();
                said.connected |= connection.status == ConnectionStatus::Connected;
                said.broke |= connection.status == ConnectionStatus::Error;
                said.since = said.since.max(connection.since.as_ref().map(|since| now.monotonic_of(since.0)));
            }
        }
        let mut changed: Vec<ClusterId> = self.reachability.keys().filter(|id| !answers.contains_key(*id)).cloned().collect();
        self.reachability.retain(|id, _| answers.contains_key(id));
        for (id, said) in answers {
            let had = self.reachability.get(&id).copied();
            let is = Reachability::next(had, said, now.monotonic);
            if had != Some(is) {
                self.reachability.insert(id.clone(), is);
                changed.push(id);
            }
        }
        for id in changed {
            self.judge(&id, now);
        }
    }

    /// Says that a record is dropped, or (with `None`) taken again, once each.
    pub(super) fn drop_record(&mut self, record: Reference, why: Option<String>) {
        match why {
            Some(why) if self.dropped.get(&record) != Some(&why) => {
                self.dropped.insert(record.clone(), why.clone());
                self.note(Note::Dropped { record, why });
            }
            None if self.dropped.remove(&record).is_some() => self.note(Note::Taken { record }),
            _ => {}
        }
    }

    // === marks ===

    /// Marks the imports of everything that stands of a cluster.
    pub(super) fn mark_imports_of(&mut self, id: &ClusterId, now: Now) {
        let keys = self.peers.get(id).map(crate::vouch::Peer::keys).unwrap_or_default();
        for key in keys {
            self.mark(Work::Import(key), now);
        }
    }

    /// Marks everything that has to do with this cluster's exports.
    pub(super) fn mark_exports(&mut self, now: Now) {
        let mut keys: Vec<ServiceKey> = self.here.service_exports.iter().map(|(key, _)| key.clone()).collect();
        keys.extend(self.own.exports.keys().chain(self.own.endpoints.keys()).chain(&self.own.adopted).cloned());
        for key in keys {
            self.mark(Work::Export(key.clone()), now);
            self.mark(Work::Import(key), now);
        }
    }

    /// Marks everything.
    pub(super) fn mark_all(&mut self, now: Now) {
        self.mark(Work::OwnCluster, now);
        self.mark(Work::Nodes, now);
        self.mark(Work::Heartbeat, now);
        let mut ids: Vec<ClusterId> = self.peers.keys().cloned().collect();
        ids.extend(self.here.clusters.iter().filter_map(|(name, _)| ClusterId::new(name.as_str()).ok()));
        for id in ids.into_iter().filter(|id| *id != self.id).collect::<Vec<_>>() {
            self.mark_imports_of(&id, now);
            self.mark(Work::Peer(id), now);
        }
        let services = self.here.services.iter().map(|(key, _)| key);
        let bulk: Vec<ServiceKey> = services.chain(self.here.service_exports.iter().map(|(key, _)| key)).cloned().collect();
        for key in bulk {
            self.mark(Work::Bulk(key), now);
        }
        self.mark_exports(now);
        let mut imports: Vec<ServiceKey> = self.here.service_imports.iter().map(|(key, _)| key.clone()).collect();
        imports.extend(self.here.import_services.keys().chain(self.here.our_slices.keys()).cloned());
        for key in imports {
            self.mark(Work::Import(key), now);
        }
    }

    /// Marks what depends on whether a namespace exists, and on its label.
    pub(super) fn mark_namespace(&mut self, name: &str, now: Now) {
        // "0" is the least name that there can be.
        let (Ok(namespace), Ok(least)) = (NamespaceName::new(name), ServiceName::new("0")) else { return };
        let first = ServiceKey { namespace, name: least };
        let within = |key: &&ServiceKey| key.namespace == first.namespace;
        let services = self.here.services.from(&first).map(|(key, _)| key).take_while(within);
        let exports = self.here.service_exports.from(&first).map(|(key, _)| key).take_while(within);
        let bulk: Vec<ServiceKey> = services.chain(exports).cloned().collect();
        let imported = self.imported.range(first.clone()..).map(|(key, _)| key).take_while(within);
        let known = self.here.service_imports.from(&first).map(|(key, _)| key).take_while(within);
        let imports: Vec<ServiceKey> = imported.chain(known).cloned().collect();
        for key in bulk {
            self.mark(Work::Bulk(key), now);
        }
        for key in imports {
            self.mark(Work::Import(key), now);
        }
    }
}
