//! What must hold: at every action, and when all is quiet.

use std::collections::{BTreeMap, BTreeSet};

use daisy_api::conditions::{self, READY, VALID};
use daisy_api::{ServiceKey, labels};
use daisy_broker_core::object::{Kind, Object, Place};
use daisy_broker_core::syncer::{Action, Verb};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::cluster::{SimCluster, Standing};
use crate::model;
use crate::objects;
use crate::world::{Violation, World};

/// An import's slice: of which key, from which cluster, and its addresses.
struct Imported {
    key: ServiceKey,
    from: u8,
    addresses: BTreeSet<String>,
}

fn imported(slice: &EndpointSlice) -> Option<Imported> {
    let label = |key: &str| slice.metadata.labels.as_ref()?.get(key).cloned();
    let key = ServiceKey::parse(&label(labels::IMPORT_NAMESPACE)?, &label(labels::IMPORT_NAME)?).ok()?;
    let from = label(labels::MCS_SOURCE_CLUSTER)?.strip_prefix('c')?.parse().ok()?;
    Some(Imported { key, from, addresses: slice.endpoints.iter().flat_map(|e| e.addresses.clone()).collect() })
}

fn in_system(object: &Object) -> bool {
    object.namespace() == labels::SYSTEM_NAMESPACE
}

/// Before an action is performed: would it withdraw what lives, or show what may not be shown?
pub(crate) fn before(world: &World, number: u8, action: &Action) -> Result<(), Violation> {
    let Some(cluster) = world.clusters.get(&number) else { return Ok(()) };
    if action.place() != Place::Here || cluster.standing != Standing::Member {
        return Ok(());
    }
    let at = &action.reference;
    match &action.verb {
        Verb::Create(Object::EndpointSlice(slice)) => appears(world, number, slice),
        Verb::Replace(object @ Object::EndpointSlice(slice)) => {
            appears(world, number, slice)?;
            let had = cluster.here.get(Kind::EndpointSlice, object.namespace(), object.name());
            withdrawn(world, number, had, imported(slice).map(|i| i.addresses).unwrap_or_default())
        }
        Verb::Delete { .. } if at.kind == Kind::EndpointSlice => {
            let had = cluster.here.get(Kind::EndpointSlice, &at.namespace, &at.name);
            withdrawn(world, number, had, BTreeSet::new())
        }
        Verb::Delete { .. } if at.kind == Kind::Service => service_withdrawn(world, number, &at.name),
        _ => Ok(()),
    }
}

fn appears(world: &World, number: u8, slice: &EndpointSlice) -> Result<(), Violation> {
    let Some(import) = imported(slice) else { return Ok(()) };
    if !world.grants.ever(import.from, &import.key.namespace) {
        return Err(
            world.violation(format!("c{number} imports {} from c{}, which was never granted it", import.key, import.from))
        );
    }
    let own = world.clusters.get(&import.from).map(|from| from.identity.pods);
    for text in &import.addresses {
        let inside = text.parse().is_ok_and(|a| own.is_some_and(|own| own.contains(a)));
        if !inside {
            return Err(
                world.violation(format!("c{number} imports {text} for {} from c{}, whose it is not", import.key, import.from))
            );
        }
    }
    Ok(())
}

fn lives(world: &World, number: u8, from: u8, key: &ServiceKey) -> bool {
    let exempt = &world.exempt;
    let lawful = !objects::can_meet(number, from)
        || exempt.exports.contains(&(from, key.clone()))
        || exempt.keys.contains(key)
        || exempt.clusters.contains(&from)
        || exempt.clusters.contains(&number)
        || exempt.paths.contains(&(number, from));
    !lawful && model::exporters(&world.clusters, &world.grants, key).contains_key(&from)
}

fn withdrawn(world: &World, number: u8, had: Option<&Object>, now: BTreeSet<String>) -> Result<(), Violation> {
    let Some(Object::EndpointSlice(slice)) = had else { return Ok(()) };
    let Some(import) = imported(slice).filter(|_| had.is_some_and(in_system)) else { return Ok(()) };
    if !lives(world, number, import.from, &import.key) {
        return Ok(());
    }
    let pods: BTreeSet<String> =
        world.clusters.get(&import.from).map(|c| c.pods(&import.key)).unwrap_or_default().into_iter().collect();
    if let Some(address) = import.addresses.difference(&now).find(|a| pods.contains(*a)) {
        return Err(
            world.violation(format!("c{number} withdraws {address} of {} from c{}, which lives", import.key, import.from))
        );
    }
    Ok(())
}

fn service_withdrawn(world: &World, number: u8, name: &str) -> Result<(), Violation> {
    let Some(cluster) = world.clusters.get(&number) else { return Ok(()) };
    let of_service = |o: &&Object| {
        in_system(o)
            && o.metadata().labels.as_ref().is_some_and(|l| l.get(labels::SLICE_SERVICE_NAME).is_some_and(|s| s == name))
    };
    for object in cluster.here.list(Kind::EndpointSlice).filter(of_service) {
        withdrawn(world, number, Some(object), BTreeSet::new())?;
    }
    Ok(())
}

/// When all is quiet: every cluster agrees with the model.
pub(crate) fn quiet(world: &World) -> Result<(), Violation> {
    for cluster in world.clusters.values() {
        match cluster.standing {
            Standing::Member => member(world, cluster)?,
            Standing::Left => left(world, cluster)?,
            // It cannot finish while the broker does not know it.
            Standing::Leaving => {}
            // What these have is what they had.
            Standing::Joining | Standing::Out => {}
        }
    }
    Ok(())
}

fn member(world: &World, cluster: &SimCluster) -> Result<(), Violation> {
    let number = cluster.number;
    let differs = |what: &str, model: String, seen: String| {
        if model == seen {
            Ok(())
        } else {
            Err(world.violation(format!("c{number}: {what}: the model says {model}, the cluster has {seen}")))
        }
    };
    let others: BTreeSet<String> =
        world.clusters.values().filter(|c| c.standing == Standing::Member).map(|c| c.id.to_string()).collect();
    let leaving: BTreeSet<String> =
        world.clusters.values().filter(|c| c.standing == Standing::Leaving).map(|c| c.id.to_string()).collect();
    let mirrored =
        cluster.here.list(Kind::Cluster).map(|o| o.name().to_owned()).filter(|n| !leaving.contains(n)).collect::<BTreeSet<_>>();
    differs("Clusters", format!("{others:?}"), format!("{mirrored:?}"))?;

    routes(world, cluster)?;

    for key in model::keys() {
        let exporters: BTreeMap<u8, BTreeSet<String>> = model::exporters(&world.clusters, &world.grants, &key);
        let exporting = |c: &&SimCluster| exporters.contains_key(&c.number);
        let service = cluster.here.get(Kind::Service, labels::SYSTEM_NAMESPACE, &key.import_service_name());
        let lagging = world.clusters.values().any(|c| {
            c.standing == Standing::Leaving
                && c.pods(&key).len()
                    + usize::from(c.here.get(Kind::Service, key.namespace.as_str(), key.name.as_str()).is_some())
                    > 0
        });
        if lagging {
            continue;
        }
        differs(&format!("{key} is imported"), format!("{}", !exporters.is_empty()), format!("{}", service.is_some()))?;
        conditions_of(world, cluster, &key, exporters.contains_key(&number))?;
        imports_of(world, cluster, &key, &exporters)?;
        if !model::agreed(world.clusters.values().filter(exporting), &key) {
            continue;
        }
        let slices = |namespace: &str, label: &str| {
            let mut found: BTreeMap<u8, BTreeSet<String>> = exporters.keys().map(|n| (*n, BTreeSet::new())).collect();
            let bound = |s: &&EndpointSlice| s.metadata.labels.as_ref().is_some_and(|l| l.contains_key(label));
            let all = cluster.here.list(Kind::EndpointSlice).filter(|o| o.namespace() == namespace);
            let typed = all.filter_map(|o| if let Object::EndpointSlice(s) = o { Some(&**s) } else { None });
            for import in typed.filter(bound).filter_map(imported).filter(|i| i.key == key) {
                found.entry(import.from).or_default().extend(import.addresses);
            }
            found
        };
        let seen = slices(labels::SYSTEM_NAMESPACE, labels::SLICE_SERVICE_NAME);
        let within_reach = |(from, pods): (&u8, &BTreeSet<String>)| {
            (*from, if objects::can_meet(number, *from) { pods.clone() } else { BTreeSet::new() })
        };
        let offered: BTreeMap<u8, BTreeSet<String>> = exporters.iter().map(within_reach).collect();
        differs(&format!("endpoints of {key}"), format!("{offered:?}"), format!("{seen:?}"))?;
        let exists = cluster.here.get(Kind::Namespace, "", key.namespace.as_str()).is_some();
        if exists {
            let seen = slices(key.namespace.as_str(), labels::MCS_SERVICE_NAME);
            differs(&format!("MCS endpoints of {key}"), format!("{offered:?}"), format!("{seen:?}"))?;
        }
    }
    Ok(())
}

/// The ranges that are routed to each cluster are its Member's: the registrar may have given it other ones for its nodes.
fn routes(world: &World, cluster: &SimCluster) -> Result<(), Violation> {
    for object in cluster.here.list(Kind::Cluster) {
        let Object::Cluster(here) = object else { continue };
        let member = world.broker.members().find(|member| member.metadata.name.as_deref() == Some(object.name()));
        let Some(member) = member else { continue };
        if !here.spec.cidrs().eq(member.spec.cidrs()) {
            let what = format!("{}: Cluster {} is not what its Member says: {:?}", cluster.id, object.name(), here.spec);
            return Err(world.violation(what));
        }
    }
    Ok(())
}

fn imports_of(
    world: &World,
    cluster: &SimCluster,
    key: &ServiceKey,
    exporters: &BTreeMap<u8, BTreeSet<String>>,
) -> Result<(), Violation> {
    let exists = cluster.here.get(Kind::Namespace, "", key.namespace.as_str()).is_some();
    let import = cluster.here.get(Kind::ServiceImport, key.namespace.as_str(), key.name.as_str());
    let wanted = exists && !exporters.is_empty();
    if import.is_some() != wanted {
        return Err(world.violation(format!(
            "{}: ServiceImport {key}: wanted {wanted}, there {}",
            cluster.id,
            import.is_some()
        )));
    }
    let Some(Object::ServiceImport(import)) = import else { return Ok(()) };
    let named: BTreeSet<String> = import.status.iter().flat_map(|s| &s.clusters).map(|c| c.cluster.to_string()).collect();
    let model: BTreeSet<String> = exporters.keys().map(|n| objects::id(*n).to_string()).collect();
    if named != model && model::agreed(world.clusters.values(), key) {
        return Err(
            world.violation(format!("{}: ServiceImport {key}: clusters {named:?}, the model says {model:?}", cluster.id))
        );
    }
    Ok(())
}

fn conditions_of(world: &World, cluster: &SimCluster, key: &ServiceKey, exported: bool) -> Result<(), Violation> {
    let object = cluster.here.get(Kind::ServiceExport, key.namespace.as_str(), key.name.as_str());
    let Some(Object::ServiceExport(export)) = object else {
        if cluster.bulk(key.namespace.as_str()) && cluster.wants(key) {
            return Err(
                world.violation(format!("{}: {key} has no ServiceExport, though its namespace is exported", cluster.id))
            );
        }
        return Ok(());
    };
    let list = export.status.clone().unwrap_or_default().conditions;
    let good = conditions::is_true(&list, VALID) && conditions::is_true(&list, READY);
    if good != exported {
        return Err(world
            .violation(format!("{}: ServiceExport {key}: exported {exported}, but its conditions are {list:?}", cluster.id)));
    }
    Ok(())
}

fn left(world: &World, cluster: &SimCluster) -> Result<(), Violation> {
    let ours = |o: &&Object| {
        let labels_of = o.metadata().labels.as_ref();
        labels_of.is_some_and(|l| l.get(labels::MANAGED_BY).is_some_and(|v| v == labels::MANAGED_BY_DAISY))
    };
    let remains = cluster.here.objects().filter(ours).find(|o| !(o.kind() == Kind::Cluster && o.name() == cluster.id.as_str()));
    match remains {
        None => Ok(()),
        Some(object) => Err(world.violation(format!("{} has left, but {} remains", cluster.id, object.reference(Place::Here)))),
    }
}
