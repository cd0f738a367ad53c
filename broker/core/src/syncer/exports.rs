//! This cluster's exports: their records on the broker, and the conditions of their ServiceExports.

use std::collections::BTreeMap;
use std::time::Duration;

use daisy_api::labels::{EXPORT_ID, MANAGED_BY, MANAGED_BY_DAISY};
use daisy_api::{Envelope, Export, ExportEndpoints, ExportEndpointsSpec, ExportSpec, ServiceExport, ServiceKey, conditions};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::action::Verb;
use super::agenda::Work;
use super::note::Note;
use super::state::LocalEndpoints;
use super::{Link, Syncer};
use crate::export::{self, Invalid, NotOffered, Progress};
use crate::managed::{Managed, Overlay};
use crate::object::{Kind, Object, Place, Reference};
use crate::policy;
use crate::time::Now;

/// How one record of ours stands on the broker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stand {
    /// The greatest sequence at which the broker has had it.
    acknowledged: u64,
    /// Whether the broker has it as it is to be.
    current: bool,
}

impl Stand {
    /// The sequence to vouch for: none that anybody can see, while the broker has not got it.
    pub(super) fn sequence(self) -> u64 {
        if self.current { self.acknowledged } else { 0 }
    }
}

trait Record: Managed + Into<Object> {
    fn envelope(&mut self) -> &mut Envelope;
}

impl Record for Export {
    fn envelope(&mut self) -> &mut Envelope {
        &mut self.spec.envelope
    }
}

impl Record for ExportEndpoints {
    fn envelope(&mut self) -> &mut Envelope {
        &mut self.spec.envelope
    }
}

/// Compares a record with what it is to be. A record that the broker shows at an earlier sequence than it has had is written
/// anew: the broker was restored from an old copy, and readers hold on to the greater one. So is one whose sequence is beyond
/// belief (somebody else wrote it): readers do not take it.
fn compare<K: Record>(observed: Option<&K>, mut desired: K, stand: &mut Stand, (next, most): (u64, u64)) -> Option<Verb> {
    desired.envelope().sequence = next;
    stand.current = false;
    let Some(observed) = observed else { return Some(Verb::Create(desired.into())) };
    match observed.overlay(&desired) {
        Overlay::Same => {
            let sequence = observed.clone().envelope().sequence;
            if sequence >= stand.acknowledged && sequence <= most {
                *stand = Stand { acknowledged: sequence, current: true };
                return None;
            }
            let mut again = observed.clone();
            again.envelope().sequence = next;
            Some(Verb::Replace(again.into()))
        }
        Overlay::Replace(wanted) => Some(Verb::Replace((*wanted).into())),
        Overlay::Recreate => None,
    }
}

impl Syncer {
    fn own_metadata(&self, name: String, key: &ServiceKey) -> ObjectMeta {
        let labels = [(MANAGED_BY.to_owned(), MANAGED_BY_DAISY.to_owned()), (EXPORT_ID.to_owned(), key.id())];
        ObjectMeta {
            namespace: Some(self.id.broker_namespace()),
            name: Some(name),
            labels: Some(labels.into()),
            ..ObjectMeta::default()
        }
    }

    fn own_reference(&self, kind: Kind, name: &str) -> Reference {
        Reference { place: Place::Broker, kind, namespace: self.id.broker_namespace(), name: name.to_owned() }
    }

    /// The ServiceExport, unless it is on its way out.
    fn service_export(&self, key: &ServiceKey) -> Option<&ServiceExport> {
        self.here.service_exports.get(key).filter(|export| export.metadata.deletion_timestamp.is_none())
    }

    fn judge_export(&self, key: &ServiceKey) -> Option<Result<ExportSpec, Invalid>> {
        let export = self.service_export(key)?;
        Some(export::judge(&self.id, self.own.member(), key, export, self.here.services.get(key)))
    }

    /// What this cluster itself gives to the import of this name: what it exports, also before the broker has it. While the
    /// broker has not been reached since the start, only what a former run had exported.
    pub(super) fn own_offer(&self, key: &ServiceKey) -> Option<ExportSpec> {
        if self.leaving.is_some() || (self.own.member().is_none() && !self.own.adopted.contains(key)) {
            return None;
        }
        self.judge_export(key)?.ok()
    }

    /// The ExportEndpoints records of an export: what lies outside this cluster's CIDRs (host-network pods) is left out.
    fn own_endpoints(&mut self, key: &ServiceKey) -> BTreeMap<String, ExportEndpointsSpec> {
        let Some(member) = self.own.member() else { return BTreeMap::new() };
        let (mut records, mut count, mut first) = (BTreeMap::new(), 0, None);
        for ((_, slice), LocalEndpoints { spec, .. }) in self.here.slices.of(key) {
            let name = export::endpoints_name(key, slice);
            match policy::admissible_endpoints(&self.id, member, &name, spec) {
                Ok(admissible) => {
                    count += admissible.dropped.len();
                    first = first.or_else(|| admissible.dropped.first().map(ToString::to_string));
                    let endpoints: Vec<_> = admissible.endpoints.into_iter().cloned().collect();
                    if !endpoints.is_empty() {
                        let spec = ExportEndpointsSpec { endpoints, ports: spec.ports.clone(), ..spec.clone() };
                        records.insert(name, spec);
                    }
                }
                Err(refusal) => {
                    count += spec.endpoints.len();
                    first = first.or_else(|| Some(refusal.to_string()));
                }
            }
        }
        let left_out = first.filter(|_| count > 0).map(|why| NotOffered { count, why });
        if self.own.not_offered.get(key) != left_out.as_ref() {
            match left_out {
                Some(left_out) => {
                    self.own.not_offered.insert(key.clone(), left_out.clone());
                    self.note(Note::NotOffered { key: key.clone(), count, why: left_out.why });
                }
                None => drop(self.own.not_offered.remove(key)),
            }
        }
        records
    }

    /// Whether this cluster's nodes may be taken to let others in: they follow the ServiceExports whose status says `Valid`, and hear of
    /// it at about the time at which its writing is acknowledged here.
    fn is_open(&self, key: &ServiceKey) -> bool {
        let status = self.service_export(key).and_then(|export| export.status.as_ref());
        status.is_some_and(|status| conditions::is_true(&status.conditions, conditions::VALID))
    }

    /// Whether others may be sent here by records that the broker has, or is about to have: not counting those that it refuses to let go.
    fn has_records(&self, key: &ServiceKey) -> bool {
        let exports = self.own.exports.of(key).map(|((_, name), _)| (Kind::Export, name));
        let endpoints = self.own.endpoints.of(key).map(|((_, name), _)| (Kind::ExportEndpoints, name));
        let free = |(kind, name): (Kind, &String)| !self.own.refused.contains_key(&self.own_reference(kind, name));
        exports.chain(endpoints).any(free) || self.agenda.writes_to_broker(&Work::Export(key.clone()))
    }

    pub(super) fn decide_export(&mut self, key: &ServiceKey, since: Duration, now: Now) {
        let judged = self.judge_export(key);
        let offered = match &judged {
            Some(Ok(spec)) if self.leaving.is_none() && self.own.member().is_some() => Some(spec.clone()),
            Some(Ok(_) | Err(_)) | None => None,
        };
        // Nodes first: a connection that comes before they let it in is lost, and tried again only after a second (RFC 6298).
        let offered = offered.filter(|_| self.is_open(key) || self.has_records(key));
        let endpoints = if offered.is_some() { self.own_endpoints(key) } else { BTreeMap::new() };
        if offered.is_none() {
            self.own.not_offered.remove(key);
        }
        self.write_records(key, offered, endpoints, since, now);
        if judged.is_some() {
            self.mark(Work::Conditions(key.clone()), now);
        }
    }

    fn write_records(
        &mut self,
        key: &ServiceKey,
        offered: Option<ExportSpec>,
        endpoints: BTreeMap<String, ExportEndpointsSpec>,
        since: Duration,
        now: Now,
    ) {
        let namespace = self.id.broker_namespace();
        let name_of = |name: &str| (namespace.clone(), name.to_owned());
        let mut stands = self.own.stands_by.remove(key).unwrap_or_default();
        let mut verbs: Vec<(Reference, Verb)> = Vec::new();
        let (next, most) = (self.next_sequence(now), Self::believable(now));
        let record = key.record_name();
        let exists = offered.is_some();
        if let Some(spec) = offered {
            let desired = Export { metadata: self.own_metadata(record.clone(), key), spec };
            let stand = stands.entry((Kind::Export, record.clone())).or_default();
            if let Some(verb) = compare(self.own.exports.get(&name_of(&record)), desired, stand, (next, most)) {
                verbs.push((self.own_reference(Kind::Export, &record), verb));
            }
        }
        let mut count = 0;
        for (name, spec) in &endpoints {
            count += 1;
            let desired = ExportEndpoints { metadata: self.own_metadata(name.clone(), key), spec: spec.clone() };
            let stand = stands.entry((Kind::ExportEndpoints, name.clone())).or_default();
            if let Some(verb) = compare(self.own.endpoints.get(&name_of(name)), desired, stand, (next + count, most)) {
                verbs.push((self.own_reference(Kind::ExportEndpoints, name), verb));
            }
        }
        self.sequence = next + count;
        let wanted = |kind: Kind, name: &str| match kind {
            Kind::Export => exists && name == record,
            _ => endpoints.contains_key(name),
        };
        stands.retain(|(kind, name), _| wanted(*kind, name));
        // Whatever was refused before: the broker has it now.
        for (kind, name) in stands.iter().filter(|(_, stand)| stand.current).map(|(at, _)| at) {
            self.own.refused.remove(&self.own_reference(*kind, name));
        }
        // Records of a cluster that is no member are the registrar's to remove.
        if self.broker_synced() && (self.own.is_member() || self.leaving.is_some()) {
            let exports = self.own.exports.of(key).map(|((_, name), o)| (Kind::Export, name, o.metadata.uid.clone()));
            let slices = self.own.endpoints.of(key).map(|((_, name), o)| (Kind::ExportEndpoints, name, o.metadata.uid.clone()));
            for (kind, name, uid) in exports.chain(slices).filter(|(kind, name, _)| !wanted(*kind, name)) {
                verbs.push((self.own_reference(kind, name), Verb::Delete { uid }));
            }
        }
        if !stands.is_empty() {
            self.own.stands_by.insert(key.clone(), stands);
        }
        let work = Work::Export(key.clone());
        for (reference, verb) in verbs {
            self.agenda.submit(reference, verb, (&work, since), now);
        }
    }

    fn progress(&self, key: &ServiceKey) -> Progress {
        let stands = self.own.stands_by.get(key);
        let current =
            stands.and_then(|stands| stands.get(&(Kind::Export, key.record_name()))).is_some_and(|stand| stand.current);
        let mut names = stands.into_iter().flat_map(BTreeMap::keys);
        let refusal = names.find_map(|(kind, name)| self.own.refused.get(&self.own_reference(*kind, name)));
        if let Some(why) = refusal {
            return Progress::Failed(format!("the broker refused it: {why}"));
        }
        if current {
            return Progress::Exported;
        }
        if self.leaving.is_some() {
            return Progress::Pending("this cluster leaves the supercluster".to_owned());
        }
        match &self.link {
            Link::Down(trouble) => Progress::Pending(format!("it waits for the broker: {}", trouble.message)),
            Link::Up(_) if !self.own.is_member() => {
                Progress::Pending(format!("cluster {} is no member of the supercluster; join it: daisy join", self.id))
            }
            Link::Up(_) | Link::Unknown => Progress::Pending("it is on its way to the broker".to_owned()),
        }
    }

    pub(super) fn decide_conditions(&mut self, key: &ServiceKey, since: Duration, now: Now) {
        let Some(judged) = self.judge_export(key) else { return };
        let up = matches!(self.link, Link::Up(_)) && self.own.is_member();
        if judged.is_err() && self.is_open(key) && up && self.has_records(key) {
            // And nodes last: first nobody is sent here any longer. The end of that writing brings it here again.
            return;
        }
        let conflicts = self.conflicts.get(key).map_or(&[][..], Vec::as_slice);
        let left_out = self.own.not_offered.get(key);
        let wanted = export::conditions(judged.as_ref().map(|_| ()), &self.progress(key), conflicts, left_out);
        let Some(export) = self.service_export(key) else { return };
        let mut changed = export.clone();
        let generation = export.metadata.generation;
        let list = &mut changed.status.get_or_insert_default().conditions;
        let had = list.len();
        if judged.is_err() {
            // What disagrees with an export that is none is no longer a question.
            list.retain(|condition| condition.type_ != conditions::CONFLICT);
        }
        if left_out.is_none() {
            list.retain(|condition| condition.type_ != export::ENDPOINTS_OFFERED);
        }
        let mut differs = list.len() != had;
        for condition in wanted {
            differs |= conditions::set(list, condition, generation, now.wall);
        }
        if differs {
            let reference = Object::from(changed.clone()).reference(Place::Here);
            self.agenda.submit(reference, Verb::Status(changed.into()), (&Work::Conditions(key.clone()), since), now);
        }
    }
}
