//! Clusters: this one's own record on the broker and its copy here, the others' here, and a leave.

use std::collections::BTreeSet;
use std::time::Duration;

use daisy_api::conditions::{self, READY, Wanted};
use daisy_api::keys::PublicKey;
use daisy_api::labels::{
    CLUSTER_ROLE, CLUSTER_ROLE_LOCAL, CLUSTER_ROLE_REMOTE, MANAGED_BY, MANAGED_BY_DAISY, MEMBER, SYSTEM_NAMESPACE,
    VOUCHED_SEQUENCE,
};
use daisy_api::{Cluster, ClusterId, ClusterSpec, ClusterStatus, Envelope, GatewayRecord, MemberSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::action::Verb;
use super::agenda::{Timer, Work, decide};
use super::note::Note;
use super::{Link, Syncer};
use crate::export::whole_seconds;
use crate::managed::{Managed, Overlay};
use crate::object::{Kind, Place, Reference};
use crate::policy;
use crate::time::Now;
use crate::vouch::Peer;

/// The most clusters that a record can say are consumed.
const CONSUMES_MAX: usize = 1024;
/// On the local Cluster: whether the broker is reached.
const BROKER_CONNECTED: &str = "BrokerConnected";
/// On the local Cluster: that this cluster has left.
const LEFT: &str = "Left";
/// On a remote Cluster: whether it gives signs of life.
const VOUCHED: &str = "Vouched";

fn bare(member: &MemberSpec) -> ClusterSpec {
    ClusterSpec {
        envelope: Envelope::default(),
        cluster_cidrs: member.cluster_cidrs.clone(),
        service_cidrs: member.service_cidrs.clone(),
        node_cidr: member.node_cidr,
        exporter: !member.grant.is_none(),
        gateways: Vec::new(),
        consumes: Vec::new(),
        leaving: false,
        version: String::new(),
    }
}

/// A copy in `daisy-system`, with the Member beside it, and how far it was vouched for, for a syncer that starts anew.
fn copy(id: &ClusterId, role: &str, spec: ClusterSpec, peer: Option<&Peer>) -> Cluster {
    let mut cluster = object(id, SYSTEM_NAMESPACE.to_owned(), Some(role), spec);
    let member = peer.and_then(|peer| Some((MEMBER.to_owned(), peer.member.as_ref()?.to_text())));
    let floor = peer.map(|peer| peer.kept_floor).filter(|floor| *floor > 0);
    let floor = floor.map(|floor| (VOUCHED_SEQUENCE.to_owned(), floor.to_string()));
    cluster.metadata.annotations = Some(member.into_iter().chain(floor).collect());
    cluster
}

fn object(id: &ClusterId, namespace: String, role: Option<&str>, spec: ClusterSpec) -> Cluster {
    let mut cluster = Cluster::new(id.as_str(), spec);
    cluster.metadata.namespace = Some(namespace);
    let mut labels = vec![(MANAGED_BY.to_owned(), MANAGED_BY_DAISY.to_owned())];
    labels.extend(role.map(|role| (CLUSTER_ROLE.to_owned(), role.to_owned())));
    cluster.metadata.labels = Some(labels.into_iter().collect());
    cluster
}

fn role(cluster: &Cluster) -> Option<&str> {
    cluster.metadata.labels.as_ref()?.get(CLUSTER_ROLE).map(String::as_str)
}

impl Syncer {
    fn cluster_reference(&self, place: Place, id: &ClusterId) -> Reference {
        let namespace = match place {
            Place::Broker => id.broker_namespace(),
            Place::Here => SYSTEM_NAMESPACE.to_owned(),
        };
        Reference { place, kind: Kind::Cluster, namespace, name: id.to_string() }
    }

    /// This cluster's gateways: those whose node exists and that have said where they are.
    fn gateways(&self) -> Vec<GatewayRecord> {
        let said = self.here.gateways_in_place().filter_map(|gateway| gateway.status.as_ref()?.local_endpoint.clone());
        let mut records: Vec<GatewayRecord> = said.collect();
        records.sort_by(|a, b| a.node.cmp(&b.node));
        // What the registrar and the readers would refuse is not said: the whole record would be lost for it.
        let range = self.own.member().map(|member| member.node_cidr);
        let (mut keys, mut addresses) = (BTreeSet::new(), BTreeSet::new());
        records.retain(|one| {
            range.is_none_or(|range| range.contains(one.address))
                && keys.insert(one.public_key)
                && addresses.insert(one.address)
        });
        for record in &mut records {
            record.endpoints.retain(|one| policy::special_address(one.address.ip()).is_none() && one.address.port() != 0);
            record.endpoints.truncate(8);
        }
        records.truncate(policy::GATEWAYS_MAX);
        records
    }

    fn own_spec(&self) -> Option<ClusterSpec> {
        let local = || self.here.clusters.get(&self.id.to_string()).map(|cluster| cluster.spec.clone());
        let base = self.own.member().map(bare).or_else(local)?;
        let consumes = self.imported_from.keys().take(CONSUMES_MAX).cloned().collect();
        Some(ClusterSpec {
            gateways: if self.leaving.is_some() { Vec::new() } else { self.gateways() },
            consumes: if self.leaving.is_some() { Vec::new() } else { consumes },
            version: self.config.version.clone(),
            leaving: false,
            ..base
        })
    }

    pub(super) fn decide_own_cluster(&mut self, since: Duration, now: Now) {
        let work = Work::OwnCluster;
        if let Some(spec) = self.own_spec() {
            self.write_own_record(spec.clone(), (since, now));
            let name = self.id.to_string();
            let local = self.here.clusters.get(&name);
            // After a leave, or once `daisy leave` has removed it, it is not made again.
            if self.leaving.is_none() {
                let sequence = self.own.cluster.get(&name).map_or(0, |cluster| cluster.spec.envelope.sequence);
                let leaving = local.is_some_and(|cluster| cluster.spec.leaving);
                let envelope = Envelope { sequence, signature: None };
                let desired = ClusterSpec { envelope, leaving, ..spec };
                let desired = copy(&self.id, CLUSTER_ROLE_LOCAL, desired, Some(&self.own.peer));
                if let Some(verb) = decide(local, Some(desired)) {
                    self.agenda.submit(self.cluster_reference(Place::Here, &self.id), verb, (&work, since), now);
                }
            }
        }
        self.go_on_leaving(now);
        self.write_own_status((since, now));
    }

    fn write_own_record(&mut self, spec: ClusterSpec, (since, now): (Duration, Now)) {
        let observed = self.own.cluster.get(&self.id.to_string());
        let leaving = self.leaving.is_some();
        // The registrar is told once, when this cluster's records are gone; what then becomes of the record is its affair.
        let early = leaving && !(self.own.exports.is_empty() && self.own.endpoints.is_empty());
        if !self.own.is_member() || self.told || early || !self.broker_synced() {
            return;
        }
        let next = (self.sequence + 1).max(u64::try_from(now.wall.as_millisecond()).unwrap_or(0));
        let spec = ClusterSpec { envelope: Envelope { sequence: next, signature: None }, leaving, ..spec };
        let desired = object(&self.id, self.id.broker_namespace(), None, spec);
        let older = self.here.clusters.get(&self.id.to_string()).map_or(0, |cluster| cluster.spec.envelope.sequence);
        let verb = match observed {
            // Restored from an old copy: readers hold on to the greater sequence until this one passes it. Or beyond belief.
            Some(had)
                if had.overlay(&desired) == Overlay::Same
                    && !(older..=Self::believable(now)).contains(&had.spec.envelope.sequence) =>
            {
                let mut again = had.clone();
                again.spec.envelope.sequence = next;
                Some(Verb::Replace(again.into()))
            }
            observed => decide(observed, Some(desired)),
        };
        if let Some(verb) = verb {
            let reference = self.cluster_reference(Place::Broker, &self.id);
            if self.agenda.submit(reference, verb, (&Work::OwnCluster, since), now) {
                self.sequence = next;
            }
        }
    }

    fn write_own_status(&mut self, (since, now): (Duration, Now)) {
        let Some(local) = self.here.clusters.get(&self.id.to_string()) else { return };
        let mut changed = local.clone();
        let status = changed.status.get_or_insert_with(ClusterStatus::default);
        let connected = match &self.link {
            Link::Up(_) if self.own.is_member() => Wanted::new(BROKER_CONNECTED, true, "Connected", "the broker is reached"),
            Link::Up(_) => {
                let message = format!("the broker has no Member {}; ask for an invitation and join again: daisy join", self.id);
                Wanted::new(BROKER_CONNECTED, false, "NotAMember", message)
            }
            Link::Down(trouble) => Wanted::new(BROKER_CONNECTED, false, trouble.reason.as_str(), trouble.message.as_str()),
            Link::Unknown => return,
        };
        let mut differs = conditions::set(&mut status.conditions, connected, None, now.wall);
        if self.left {
            let told = if self.told { "the registrar was told" } else { "the broker could not be told" };
            let left = Wanted::new(LEFT, true, "Left", format!("exports, imports and other clusters are removed; {told}"));
            differs |= conditions::set(&mut status.conditions, left, None, now.wall);
        }
        if differs {
            let reference = self.cluster_reference(Place::Here, &self.id);
            self.agenda.submit(reference, Verb::Status(changed.into()), (&Work::OwnCluster, since), now);
        }
    }

    // === a leave ===

    /// The local Cluster says whether this cluster leaves. Once it does, only the same object saying otherwise ends that.
    pub(super) fn see_leaving(&mut self, leaving: bool, now: Now) {
        if leaving == self.leaving.is_some() {
            return;
        }
        if leaving {
            self.leaving = Some(now.monotonic);
            self.note(Note::Leaving);
        } else {
            (self.leaving, self.told, self.left) = (None, false, false);
        }
        self.mark_all(now);
    }

    /// A leave is over when nothing of the syncer's is left here, and the registrar knows, or cannot be told.
    fn go_on_leaving(&mut self, now: Now) {
        let Some(since) = self.leaving.filter(|_| !self.left) else { return };
        let imports = !(self.here.import_services.is_empty() && self.here.our_slices.is_empty());
        let ours = self.here.service_imports.iter().any(|(_, import)| super::watch::is_ours(&import.metadata));
        let remote = self.here.clusters.iter().any(|(_, cluster)| role(cluster) == Some(CLUSTER_ROLE_REMOTE));
        let up = matches!(self.link, Link::Up(_));
        let expelled = up && self.broker_synced() && !self.own.is_member();
        let given_up = since + self.config.leave_grace;
        if imports || ours || remote {
            return self.agenda.set_earlier(Timer::Again(Work::OwnCluster), now.monotonic + Duration::from_millis(100));
        }
        if self.told || expelled || (!up && now.monotonic >= given_up) {
            self.left = true;
            self.note(Note::Left);
        } else if !up {
            self.agenda.set_earlier(Timer::Again(Work::OwnCluster), given_up);
        }
    }

    // === the others ===

    /// Another cluster's Cluster as it is to be here, and what is wrong with its record: its own words where they hold against its
    /// Member; else the Member's alone, so that its addresses are routed into the tunnel, and nowhere else, from the start.
    fn peer_spec(&self, id: &ClusterId) -> Option<(ClusterSpec, Wanted, Option<String>)> {
        let peer = self.peers.get(id)?;
        let standing = peer.cluster.get(id.as_str());
        let Some(member) = &peer.member else {
            let adopted = standing.filter(|standing| standing.is_adopted())?;
            return Some((adopted.spec.clone(), Wanted::new(READY, true, "Accepted", "as it was last known"), None));
        };
        let Some(standing) = standing else {
            return Some((
                bare(&member.spec),
                Wanted::new(READY, false, "NoRecord", "it has not written its record yet"),
                None,
            ));
        };
        match policy::admissible_cluster(id, &member.spec, id.as_str(), &standing.spec) {
            Ok(mut spec) => {
                let taken = self.taken_keys(id);
                let before = spec.gateways.len();
                spec.gateways.retain(|gateway| !taken.contains(&gateway.public_key));
                if spec.gateways.len() == before {
                    return Some((spec, Wanted::new(READY, true, "Accepted", "its record agrees with its Member"), None));
                }
                let why = "spec.gateways[].publicKey is another cluster's: two gateways cannot have one key; \
                           delete the Secret of the gateway's key in one of the clusters";
                Some((spec, Wanted::new(READY, false, "RecordRefused", why), Some(why.to_owned())))
            }
            Err(refusal) => {
                let why = refusal.to_string();
                let wanted = Wanted::new(READY, false, "RecordRefused", why.as_str());
                Some((bare(&member.spec), wanted, Some(why)))
            }
        }
    }

    /// The gateway keys that are others': the one known first keeps a key.
    fn taken_keys(&self, id: &ClusterId) -> BTreeSet<PublicKey> {
        let others = self.here.clusters.iter().filter(|(name, _)| name.as_str() != id.as_str());
        others.flat_map(|(_, cluster)| cluster.spec.gateways.iter().map(|gateway| gateway.public_key)).collect()
    }

    pub(super) fn decide_peer(&mut self, id: &ClusterId, since: Duration, now: Now) {
        if *id == self.id {
            return;
        }
        let wanted = if self.leaving.is_some() { None } else { self.peer_spec(id) };
        let name = id.to_string();
        let observed = self.here.clusters.get(&name);
        let may_delete = self.broker_synced() || self.leaving.is_some();
        if observed.is_some_and(|cluster| role(cluster) != Some(CLUSTER_ROLE_REMOTE)) || (wanted.is_none() && !may_delete) {
            return;
        }
        let reference = self.cluster_reference(Place::Here, id);
        let desired = wanted.as_ref().map(|(spec, ..)| {
            // Whether it is leaving is between it and the registrar: here it is a member until its Member goes.
            let spec = ClusterSpec { leaving: false, ..spec.clone() };
            copy(id, CLUSTER_ROLE_REMOTE, spec, self.peers.get(id))
        });
        let work = Work::Peer(id.clone());
        let verb = decide(observed, desired);
        if let Some(verb) = verb {
            self.agenda.submit(reference, verb, (&work, since), now);
        } else if wanted.is_some() {
            self.mark(Work::PeerStatus(id.clone()), now);
        }
        if self.leaving.is_some() || wanted.is_none() {
            self.status_written.remove(id);
        }
        if let Some((_, _, why)) = wanted {
            self.drop_record(self.cluster_reference(Place::Broker, id), why);
        }
    }

    /// Writes what is observed of a cluster: when something changed, not for each heartbeat, and never too often.
    pub(super) fn decide_peer_status(&mut self, id: &ClusterId, since: Duration, now: Now) {
        let Some((_, ready, _)) = self.peer_spec(id).filter(|_| self.leaving.is_none()) else { return };
        let (Some(peer), Some(cluster)) = (self.peers.get(id), self.here.clusters.get(&id.to_string())) else { return };
        if role(cluster) != Some(CLUSTER_ROLE_REMOTE) {
            return;
        }
        let mut changed = cluster.clone();
        let status = changed.status.get_or_insert_with(ClusterStatus::default);
        let vouched = if peer.silent {
            let message = "it sends no heartbeat and answers no probe: its endpoints are withdrawn until it does";
            Wanted::new(VOUCHED, false, "Silent", message)
        } else if peer.unreachable {
            let message = "no probe to it through the tunnel is answered: its endpoints are withdrawn until one is; see its connections: \
                           daisy show connections";
            Wanted::new(VOUCHED, false, "Unreachable", message)
        } else {
            Wanted::new(VOUCHED, true, "Alive", "it gives signs of life")
        };
        let mut differs = conditions::set(&mut status.conditions, ready, None, now.wall);
        differs |= conditions::set(&mut status.conditions, vouched, None, now.wall);
        let exports = self.imported_from.get(id).map_or(0, BTreeSet::len);
        let exports = u32::try_from(exports).unwrap_or(u32::MAX);
        differs |= status.exports != exports;
        status.exports = exports;
        let heard = whole_seconds(peer.heard.wall);
        let interval = peer.pulse.as_ref().map_or(60, |pulse| i64::from(pulse.spec.interval_seconds));
        let advanced = peer.pulse.as_ref().is_some_and(|pulse| pulse.advanced);
        let written = status.last_heard.as_ref().map_or(i64::MIN, |time| time.0.as_second());
        // Every write wakes whoever follows Clusters here: the time alone is worth one only now and then.
        differs |= advanced && written < heard.as_second().saturating_sub(interval.saturating_mul(10));
        if !differs {
            return;
        }
        if advanced {
            status.last_heard = Some(Time(heard));
        }
        let work = Work::PeerStatus(id.clone());
        let earliest = self.status_written.get(id).map_or(Duration::ZERO, |at| *at + self.config.status_interval);
        if now.monotonic < earliest {
            return self.agenda.set_earlier(Timer::Again(work), earliest);
        }
        let reference = self.cluster_reference(Place::Here, id);
        if self.agenda.submit(reference, Verb::Status(changed.into()), (&work, since), now) {
            self.status_written.insert(id.clone(), now.monotonic);
        }
    }
}
