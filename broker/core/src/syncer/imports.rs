//! What is imported: each name's Service and EndpointSlices in `daisy-system`, and the MCS objects where its namespace exists.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use daisy_api::conditions::{self, READY, Wanted};
use daisy_api::labels::SYSTEM_NAMESPACE;
use daisy_api::{
    ClusterId, EndpointSliceObjects, ExportSpec, ExportType, IpFamily, MemberSpec, ServiceImport, ServiceImportStatus,
    ServiceKey, SourceCluster,
};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::Syncer;
use super::action::Verb;
use super::agenda::{Work, decide};
use super::note::Note;
use super::state::LocalEndpoints;
use super::store::Name;
use super::watch::is_ours;
use crate::export::endpoints_name;
use crate::import::{self, Exporter, Source};
use crate::merge::{Merged, merge};
use crate::object::{Kind, Object, Place, Reference};
use crate::policy;
use crate::service::{self, cluster_ips};
use crate::time::Now;

/// Why an import cannot be made real here.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Unrealisable {
    reason: &'static str,
    message: String,
}

/// What an import is to be here.
#[derive(Default)]
struct Plan {
    service: Option<Service>,
    slices: BTreeMap<Name, EndpointSlice>,
    import: Option<ServiceImport>,
}

fn here(kind: Kind, (namespace, name): &Name) -> Reference {
    Reference { place: Place::Here, kind, namespace: namespace.clone(), name: name.clone() }
}

impl Syncer {
    /// The exports of this name that their clusters' Members allow, this cluster's own among them.
    fn offers(&mut self, key: &ServiceKey) -> BTreeMap<ClusterId, ExportSpec> {
        let record = key.record_name();
        let mut offers = BTreeMap::new();
        let mut judged: Vec<(Reference, Option<String>)> = Vec::new();
        let ids = self.offering.get(key).cloned().unwrap_or_default();
        for id in ids {
            let standing = self.peers.get(&id).and_then(|peer| Some((peer, peer.exports.get(&record)?)));
            let Some((peer, standing)) = standing else {
                if let Some(ids) = self.offering.get_mut(key) {
                    ids.remove(&id);
                }
                continue;
            };
            let reference =
                Reference { place: Place::Broker, kind: Kind::Export, namespace: id.broker_namespace(), name: record.clone() };
            let verdict = match &peer.member {
                Some(member) => policy::export(&id, &member.spec, &record, &standing.spec).map_err(|r| r.to_string()),
                // Taken by a former run, which knew the Member.
                None if standing.is_adopted() => Ok(()),
                // Nobody vouches for it, yet or any longer: not worth a word.
                None => continue,
            };
            judged.push((reference, verdict.clone().err()));
            if verdict.is_ok() {
                offers.insert(id, standing.spec.clone());
            }
        }
        if self.offering.get(key).is_some_and(BTreeSet::is_empty) {
            self.offering.remove(key);
        }
        for (reference, why) in judged {
            self.drop_record(reference, why);
        }
        if let Some(own) = self.own_offer(key) {
            offers.insert(self.id.clone(), own);
        }
        offers
    }

    /// The address families that this cluster's Services can have; `None` while that is not known.
    fn families_here(&self) -> Option<Vec<IpFamily>> {
        let local = || self.here.clusters.get(&self.id.to_string()).map(|cluster| cluster.spec.service_cidrs.clone());
        let cidrs = self.own.member().map(|member| member.service_cidrs.clone()).or_else(local)?;
        let mut families: Vec<IpFamily> = cidrs.iter().map(|cidr| IpFamily::of(cidr.address())).collect();
        families.sort_unstable();
        families.dedup();
        Some(families)
    }

    pub(super) fn decide_import(&mut self, key: &ServiceKey, since: Duration, now: Now) {
        let offers = if self.leaving.is_some() { BTreeMap::new() } else { self.offers(key) };
        let merged = merge(&offers);
        self.imported_by(key, offers.keys().cloned().collect(), now);
        let conflicts = merged.as_ref().map(|merged| merged.conflicts.clone()).unwrap_or_default();
        if self.conflicts.get(key).map_or(&[][..], Vec::as_slice) != conflicts.as_slice() {
            if conflicts.is_empty() {
                self.conflicts.remove(key);
            } else {
                self.conflicts.insert(key.clone(), conflicts);
            }
            self.mark(Work::Conditions(key.clone()), now);
        }
        let (mut plan, mut trouble) = (Plan::default(), None);
        if let Some(merged) = &merged {
            match self.realisable(key, merged) {
                Ok(families) => plan = self.plan(key, merged, &families, &offers),
                Err(why) => trouble = Some(why),
            }
            plan.import = self.import(key, merged, trouble.as_ref());
        }
        self.say_unrealisable(key, trouble.as_ref());
        self.write_import(key, plan, (since, now));
        if let Some(merged) = &merged {
            self.write_import_status(key, merged, trouble.as_ref(), (since, now));
        }
    }

    /// Keeps the books on what is imported from whom.
    fn imported_by(&mut self, key: &ServiceKey, clusters: BTreeSet<ClusterId>, now: Now) {
        let had = self.imported.get(key).cloned().unwrap_or_default();
        if had == clusters {
            return;
        }
        for id in had.symmetric_difference(&clusters) {
            if *id == self.id {
                continue;
            }
            let keys = self.imported_from.entry(id.clone()).or_default();
            let was_empty = keys.is_empty();
            if clusters.contains(id) {
                keys.insert(key.clone());
            } else {
                keys.remove(key);
            }
            let is_empty = keys.is_empty();
            if is_empty {
                self.imported_from.remove(id);
            }
            self.agenda.mark(Work::PeerStatus(id.clone()), now.monotonic);
            if was_empty != is_empty {
                // The clusters that this one consumes are said in its own record.
                self.agenda.mark(Work::OwnCluster, now.monotonic);
            }
        }
        if clusters.is_empty() {
            self.imported.remove(key);
            self.note(Note::Unimported { key: key.clone() });
        } else {
            self.note(Note::Imported { key: key.clone(), clusters: clusters.iter().cloned().collect() });
            self.imported.insert(key.clone(), clusters);
        }
    }

    fn realisable(&self, key: &ServiceKey, merged: &Merged) -> Result<Vec<IpFamily>, Unrealisable> {
        if merged.type_ == ExportType::ClusterSetIp && merged.ports.is_empty() {
            let message = "none of its exports has a port, without which a Service can have no ClusterIP".to_owned();
            return Err(Unrealisable { reason: "Pending", message });
        }
        let name = (SYSTEM_NAMESPACE.to_owned(), key.import_service_name());
        let taken = ServiceKey::parse(&name.0, &name.1).ok().and_then(|key| self.here.services.get(&key));
        if taken.is_some() && self.here.import_services.get(&name).is_none() {
            let message = format!("there is a Service {}/{} that is not Daisy's; rename or delete it", name.0, name.1);
            return Err(Unrealisable { reason: "Pending", message });
        }
        let Some(here) = self.families_here() else { return Ok(merged.ip_families.clone()) };
        let observed = self.here.import_services.get(&name).and_then(|service| service.spec.as_ref()?.ip_families.as_ref());
        let first = observed.and_then(|families| service::family(families.first()?));
        import::families(merged, &here).map(|families| import::keep_first(families, first)).ok_or_else(|| {
            let names = |list: &[IpFamily]| list.iter().map(|family| family.as_str()).collect::<Vec<_>>().join(" and ");
            let message = format!("it is exported as {}, and this cluster has {}", names(&merged.ip_families), names(&here));
            Unrealisable { reason: "IPFamilyNotSupported", message }
        })
    }

    fn say_unrealisable(&mut self, key: &ServiceKey, trouble: Option<&Unrealisable>) {
        match trouble {
            Some(trouble) if self.unrealisable.get(key) != Some(&trouble.message) => {
                let why = trouble.message.clone();
                self.unrealisable.insert(key.clone(), why.clone());
                self.note(Note::NotRealisable { key: key.clone(), why });
            }
            None => drop(self.unrealisable.remove(key)),
            Some(_) => {}
        }
    }

    /// The Service and the EndpointSlices.
    fn plan(
        &mut self,
        key: &ServiceKey,
        merged: &Merged,
        families: &[IpFamily],
        offers: &BTreeMap<ClusterId, ExportSpec>,
    ) -> Plan {
        let exporters = offers.iter().map(|(id, spec)| (id.clone(), Exporter::of(spec))).collect();
        let mut slices: Vec<EndpointSlice> = Vec::new();
        let mut judged: Vec<(Reference, Option<String>)> = Vec::new();
        for id in offers.keys() {
            if *id == self.id {
                for ((_, name), LocalEndpoints { spec, nodes }) in self.here.slices.of(key) {
                    let record = endpoints_name(key, name);
                    let source = Source { cluster: id, record: &record, spec, nodes: Some(nodes) };
                    slices.extend(import::slice(key, merged, families, source, &spec.endpoints));
                }
                continue;
            }
            // Routes first: what nobody has a route for would leave by the default route, in clear.
            let routed = self.here.clusters.get(&id.to_string()).is_some();
            let Some(peer) = self.peers.get(id).filter(|peer| routed && !peer.given_up()) else { continue };
            let member: Option<&MemberSpec> = peer.member.as_ref().map(|member| &member.spec);
            // An export that only a former run knew is known without the ports that were its own: what was made of it stands and is kept up
            // to date, but nothing new is made, which might turn out to have lost a conflict.
            let known = peer.exports.get(&key.record_name()).is_some_and(|export| !export.is_adopted());
            let made = |record: &str, slice: Option<EndpointSlice>| {
                if known {
                    return slice;
                }
                let had = self.here.our_slices.get(&(SYSTEM_NAMESPACE.to_owned(), import::slice_name(key, id, record)))?;
                Some(slice.unwrap_or_else(|| had.clone()))
            };
            for (record, standing) in peer.endpoints.beginning(&format!("{}.", key.record_name())) {
                let source = Source { cluster: id, record, spec: &standing.spec, nodes: None };
                let Some(member) = member else {
                    // Taken by a former run, which knew the Member. What comes from a broker that has none is not.
                    if standing.is_adopted() {
                        slices.extend(made(record, import::slice(key, merged, families, source, &standing.spec.endpoints)));
                    }
                    continue;
                };
                let namespace = id.broker_namespace();
                let reference =
                    Reference { place: Place::Broker, kind: Kind::ExportEndpoints, namespace, name: record.to_owned() };
                match policy::admissible_endpoints(id, member, record, &standing.spec) {
                    Ok(admissible) => {
                        let why = admissible.dropped.first().map(|first| {
                            format!("{} of its {} endpoints: {first}", admissible.dropped.len(), standing.spec.endpoints.len())
                        });
                        judged.push((reference, why));
                        slices.extend(made(record, import::slice(key, merged, families, source, admissible.endpoints)));
                    }
                    Err(refusal) => judged.push((reference, Some(refusal.to_string()))),
                }
            }
        }
        for (reference, why) in judged {
            self.drop_record(reference, why);
        }
        let mut plan = Plan { service: Some(import::service(key, merged, families, &exporters)), ..Plan::default() };
        if self.has_namespace(key) {
            plan.slices.extend(slices.iter().map(|slice| named(import::mcs_slice(key, slice))));
        }
        plan.slices.extend(slices.into_iter().map(named));
        plan
    }

    /// Whether the import's namespace exists here, and a ServiceImport of ours can be in it.
    fn has_namespace(&self, key: &ServiceKey) -> bool {
        let namespace = self.here.namespaces.get(&key.namespace.to_string());
        let foreign = self.here.service_imports.get(key).is_some_and(|import| !is_ours(&import.metadata));
        namespace.is_some_and(|namespace| !namespace.terminating) && !foreign
    }

    fn clusterset_ips(&self, key: &ServiceKey) -> Vec<IpAddr> {
        let name = (SYSTEM_NAMESPACE.to_owned(), key.import_service_name());
        self.here.import_services.get(&name).map(cluster_ips).unwrap_or_default()
    }

    /// The ServiceImport, as soon as its clusterset IP is known, or is known not to come.
    fn import(&self, key: &ServiceKey, merged: &Merged, trouble: Option<&Unrealisable>) -> Option<ServiceImport> {
        if !self.has_namespace(key) {
            return None;
        }
        let ips = if trouble.is_some() { Vec::new() } else { self.clusterset_ips(key) };
        let service = here(Kind::Service, &(SYSTEM_NAMESPACE.to_owned(), key.import_service_name()));
        let given_up = trouble.is_some() || self.agenda.has_failed(&service);
        let there = self.here.service_imports.get(key).is_some();
        let ready = merged.type_ == ExportType::Headless || !ips.is_empty() || given_up || there;
        let families = self.families_here().and_then(|here| import::families(merged, &here));
        ready.then(|| import::service_import(key, merged, &families.unwrap_or_default(), &ips))
    }

    fn write_import(&mut self, key: &ServiceKey, mut plan: Plan, (since, now): (Duration, Now)) {
        // Before the broker has said once what there is, nothing is deleted for its silence.
        let may_delete = self.broker_synced() || self.leaving.is_some();
        let mut verbs: Vec<(Reference, Verb)> = Vec::new();
        let name = (SYSTEM_NAMESPACE.to_owned(), key.import_service_name());
        let service = plan.service.is_some();
        // A later run knows by the Service whose an import's slices are, and would take them for strays without it.
        let made = self.here.import_services.get(&name).is_some();
        let stray: Vec<Name> = self.here.import_services.of(key).map(|(name, _)| name.clone()).filter(|n| *n != name).collect();
        for one in stray.iter().chain([&name]) {
            let desired = if *one == name { plan.service.take() } else { None };
            verbs.extend(decide(self.here.import_services.get(one), desired).map(|verb| (here(Kind::Service, one), verb)));
        }
        let observed: Vec<Name> = self.here.our_slices.of(key).map(|(name, _)| name.clone()).collect();
        let names: BTreeSet<Name> = observed.into_iter().chain(plan.slices.keys().cloned()).collect();
        for one in names {
            let verb = decide(self.here.our_slices.get(&one), plan.slices.remove(&one));
            // EndpointSlices of a namespace that ends go with it.
            let doomed = self.here.namespaces.get(&one.0).is_none_or(|namespace| namespace.terminating);
            let creates = matches!(verb, Some(Verb::Create(_)));
            if !creates || (made && (!doomed || (one.0 == SYSTEM_NAMESPACE && service))) {
                verbs.extend(verb.map(|verb| (here(Kind::EndpointSlice, &one), verb)));
            }
        }
        let observed = self.here.service_imports.get(key).filter(|import| is_ours(&import.metadata));
        let reference = here(Kind::ServiceImport, &(key.namespace.to_string(), key.name.to_string()));
        verbs.extend(decide(observed, plan.import).map(|verb| (reference, verb)));
        let work = Work::Import(key.clone());
        for (reference, verb) in verbs {
            if may_delete || !matches!(verb, Verb::Delete { .. }) {
                self.agenda.submit(reference, verb, (&work, since), now);
            }
        }
    }

    fn write_import_status(
        &mut self,
        key: &ServiceKey,
        merged: &Merged,
        trouble: Option<&Unrealisable>,
        (since, now): (Duration, Now),
    ) {
        let Some(import) = self.here.service_imports.get(key).filter(|import| is_ours(&import.metadata)) else { return };
        let clusters: Vec<SourceCluster> = merged.port_names.keys().map(|id| SourceCluster { cluster: id.clone() }).collect();
        let service = here(Kind::Service, &(SYSTEM_NAMESPACE.to_owned(), key.import_service_name()));
        let ready = match trouble {
            Some(trouble) => Wanted::new(READY, false, trouble.reason, trouble.message.as_str()),
            None if import.spec.type_ == daisy_api::ImportType::Headless || !import.spec.ips.is_empty() => {
                Wanted::new(READY, true, "Ready", import::ready_message(merged))
            }
            None if self.agenda.has_failed(&service) => {
                Wanted::new(READY, false, "Pending", format!("{service} could not be written, and is tried again"))
            }
            None => Wanted::new(READY, false, "Pending", "its clusterset IP is not allocated yet"),
        };
        let mut slices = self.here.our_slices.of(key);
        let present = slices.any(|((namespace, _), _)| namespace == key.namespace.as_str());
        let objects = if present { EndpointSliceObjects::Present } else { EndpointSliceObjects::Absent };
        let mut changed = import.clone();
        let status = changed.status.get_or_insert_with(ServiceImportStatus::default);
        let differs = status.clusters != clusters || status.endpoint_slice_objects != objects;
        (status.clusters, status.endpoint_slice_objects) = (clusters, objects);
        if conditions::set(&mut status.conditions, ready, import.metadata.generation, now.wall) || differs {
            let reference = Object::from(changed.clone()).reference(Place::Here);
            self.agenda.submit(reference, Verb::Status(changed.into()), (&Work::Import(key.clone()), since), now);
        }
    }
}

fn named(slice: EndpointSlice) -> (Name, EndpointSlice) {
    let metadata = &slice.metadata;
    ((metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default()), slice)
}
