//! What holds of every history and every question.

#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use daisy_api::{ClusterId, ClusterIps, NamespaceName, Protocol, ServiceKey};
use daisy_dns_core::name::{Host, ServiceRef};
use daisy_dns_core::{
    Answer, Data, DomainName, Endpoint, Fact, Index, ObjectRef, Owner, Port, QueryName, QueryType, Question, Rcode, Service,
    ServiceKind, Settings, Slice, Snapshot, Source, What, answer,
};
use proptest::prelude::*;
use proptest::sample::select;

const SOURCES: [Source; 4] = [Source::Services, Source::LocalSlices, Source::ImportSlices, Source::Namespaces];
const NAMESPACES: [&str; 2] = ["shop", "nginx"];
const NAMES: [&str; 2] = ["web", "db"];
const CLUSTERS: [&str; 2] = ["a", "db-0"];
const HOSTS: [&str; 3] = ["db-0", "a", "10-1-0-1"];
const PORTS: [&str; 2] = ["http", "sql"];
const TYPES: [u16; 7] = [1, 28, 33, 16, 15, 5, 255];

/// One thing that happens to an object.
#[derive(Debug, Clone)]
enum Event {
    Apply(Source, ObjectRef, Option<Fact>),
    Delete(Source, ObjectRef),
    /// A source lists everything anew: what has happened to its objects meanwhile is seen only then.
    Relist(Source),
}

fn key() -> impl Strategy<Value = ServiceKey> {
    (select(&NAMESPACES[..]), select(&NAMES[..])).prop_map(|(ns, name)| ServiceKey::parse(ns, name).unwrap())
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (1u8..5).prop_map(|n| IpAddr::from([10, 1, 0, n])),
        (1u16..4).prop_map(|n| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, n]))
    ]
}

fn ports() -> impl Strategy<Value = Vec<Port>> {
    let port = (select(&PORTS[..]), select(&[Protocol::Tcp, Protocol::Udp][..]), 1u16..3);
    prop::collection::vec(port.prop_map(|(name, protocol, number)| Port { name: name.into(), protocol, number }), 0..3)
}

fn service() -> impl Strategy<Value = Service> {
    let alias = select(&["example.org", "web.shop.svc.supercluster.local", "db.nginx.svc.clusterset.local"][..]);
    let kind = prop_oneof![
        3 => prop::collection::vec(address(), 1..3).prop_map(ServiceKind::Addresses),
        3 => Just(ServiceKind::Headless),
        1 => alias.prop_map(|alias| ServiceKind::External(DomainName::parse(alias).unwrap())),
    ];
    let cluster = select(&CLUSTERS[..]).prop_map(|c| ClusterId::new(c).unwrap());
    let clusters = prop::collection::btree_map(cluster, prop::collection::vec(address(), 1..3), 0..2);
    (kind, ports(), clusters).prop_map(|(kind, ports, clusters)| Service { kind, ports, clusters })
}

fn slice(cluster: Option<ClusterId>) -> impl Strategy<Value = Slice> {
    let hostname = prop::option::of(select(&HOSTS[..]));
    let endpoint =
        (address(), hostname).prop_map(|(address, hostname)| Endpoint { address, hostname: hostname.map(Into::into) });
    (ports(), prop::collection::vec(endpoint, 0..3)).prop_map(move |(ports, endpoints)| Slice {
        cluster: cluster.clone(),
        ports,
        endpoints,
    })
}

fn event() -> impl Strategy<Value = Event> {
    let object = |ns: &str, n: u8| ObjectRef::new(ns, format!("o{n}"));
    let own = |key: &ServiceKey| ObjectRef::new(key.namespace.as_str(), key.name.as_str());
    let cluster = select(&CLUSTERS[..]).prop_map(|c| ClusterId::new(c).unwrap());
    let local = (key(), service()).prop_map(move |(key, service)| {
        let service = Service { clusters: ClusterIps::new(), ..service };
        Event::Apply(Source::Services, own(&key), Some(Fact::Local(key, service)))
    });
    let import = (0u8..3, key(), service()).prop_map(move |(n, key, service)| {
        let external = matches!(service.kind, ServiceKind::External(_));
        // An import's Service is never an alias.
        let fact = (!external).then_some(Fact::Import(key, service));
        Event::Apply(Source::Services, object("daisy-system", n), fact)
    });
    let local_slice = (0u8..3, key(), slice(None)).prop_map(move |(n, key, slice)| {
        Event::Apply(Source::LocalSlices, object("any", n), Some(Fact::LocalSlice(key, slice)))
    });
    let import_slice = (0u8..4, key(), cluster.prop_flat_map(|c| slice(Some(c)))).prop_map(move |(n, key, slice)| {
        Event::Apply(Source::ImportSlices, object("daisy-system", n), Some(Fact::ImportSlice(key, slice)))
    });
    let namespace = select(&NAMESPACES[..]).prop_map(|name| {
        Event::Apply(Source::Namespaces, ObjectRef::new("", name), Some(Fact::Namespace(NamespaceName::new(name).unwrap())))
    });
    let meaningless = (select(&SOURCES[..]), 0u8..3).prop_map(move |(s, n)| Event::Apply(s, object("daisy-system", n), None));
    let delete = prop_oneof![
        (select(&[Source::Services, Source::ImportSlices][..]), 0u8..4)
            .prop_map(move |(s, n)| Event::Delete(s, object("daisy-system", n))),
        (0u8..3).prop_map(move |n| Event::Delete(Source::LocalSlices, object("any", n))),
        key().prop_map(move |key| Event::Delete(Source::Services, own(&key))),
        select(&NAMESPACES[..]).prop_map(|name| Event::Delete(Source::Namespaces, ObjectRef::new("", name))),
    ];
    prop_oneof![
        4 => local, 4 => import, 3 => local_slice, 4 => import_slice, 2 => namespace,
        1 => meaningless, 4 => delete, 1 => select(&SOURCES[..]).prop_map(Event::Relist),
    ]
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    prop::collection::vec(event(), 0..40)
}

type Objects = BTreeMap<(Source, ObjectRef), Fact>;

fn settings() -> Settings {
    let mut settings = Settings::daisy(5, 1);
    settings.zones.extend(Settings::cluster(DomainName::parse("cluster.local").unwrap(), 5, 1).zones);
    settings
}

/// The index after these events, and the objects that there are in the end. With `lossy`, an event just before its source's
/// relist is not seen at all, as when a watch was away.
fn play(events: &[Event], lossy: bool) -> (Index, Objects) {
    let mut index = Index::new(settings(), 7, SOURCES);
    let mut objects = Objects::new();
    for (at, event) in events.iter().enumerate() {
        let missed = |s: &Source| lossy && matches!(events.get(at + 1), Some(Event::Relist(next)) if next == s);
        match event {
            Event::Apply(source, object, fact) => {
                match fact {
                    Some(fact) => objects.insert((*source, object.clone()), fact.clone()),
                    None => objects.remove(&(*source, object.clone())),
                };
                if !missed(source) {
                    index.handle_apply(*source, object.clone(), fact.clone());
                }
            }
            Event::Delete(source, object) => {
                objects.remove(&(*source, object.clone()));
                if !missed(source) {
                    index.handle_delete(*source, object);
                }
            }
            Event::Relist(source) => relist(&mut index, *source, &objects),
        }
    }
    (index, objects)
}

fn relist(index: &mut Index, source: Source, objects: &Objects) {
    index.handle_list(source);
    for ((_, object), fact) in objects.iter().filter(|((s, _), _)| *s == source) {
        index.handle_apply(source, object.clone(), Some(fact.clone()));
    }
    index.handle_listed(source);
}

fn rebuilt(objects: &Objects) -> Index {
    let mut index = Index::new(settings(), 7, SOURCES);
    for source in SOURCES {
        relist(&mut index, source, objects);
    }
    index
}

/// Every name of every shape that the little world has, in every zone.
fn names() -> Vec<DomainName> {
    let mut names = Vec::new();
    for zone in settings().zones {
        let mut whats = vec![What::Apex, What::Services, What::Version];
        whats.extend(NAMESPACES.map(What::Namespace));
        for (namespace, name) in NAMESPACES.iter().flat_map(|ns| NAMES.map(|name| (*ns, name))) {
            let service = ServiceRef { namespace, name };
            whats.push(What::Service(service));
            whats.extend(CLUSTERS.iter().chain(&HOSTS).map(|label| What::Under(service, label)));
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                whats.push(What::Protocol(service, protocol));
                whats.extend(PORTS.map(|port| What::Port(service, protocol, port)));
            }
            for (cluster, hostname) in CLUSTERS.iter().flat_map(|c| HOSTS.map(|h| (*c, h))) {
                let host = Host { cluster, hostname };
                whats.push(What::Endpoint(service, host));
                whats.push(What::EndpointProtocol(service, host, Protocol::Tcp));
                whats.extend(PORTS.map(|port| What::EndpointPort(service, host, Protocol::Tcp, port)));
            }
        }
        names.extend(whats.iter().filter_map(|what| what.print(&zone.apex)));
    }
    names
}

fn ask(snapshot: &Snapshot, name: &DomainName, kind: u16) -> Answer {
    let name: QueryName = name.as_str().parse().unwrap();
    answer(snapshot, &Question { name: &name, kind: QueryType::from(kind), turn: 0 })
}

fn addresses(answer: &Answer) -> BTreeSet<IpAddr> {
    let records = answer.answers.iter().chain(&answer.additional);
    records
        .filter_map(|record| match record.data {
            Data::A(a) => Some(IpAddr::from(a)),
            Data::Aaaa(a) => Some(IpAddr::from(a)),
            Data::Srv { .. } | Data::Txt(_) | Data::Soa(_) | Data::Ns(_) | Data::Cname(_) => None,
        })
        .collect()
}

fn addresses_of(fact: &Fact) -> Vec<IpAddr> {
    match fact {
        Fact::Local(_, service) | Fact::Import(_, service) => {
            let own = if let ServiceKind::Addresses(ips) = &service.kind { ips.clone() } else { Vec::new() };
            own.into_iter().chain(service.clusters.values().flatten().copied()).collect()
        }
        Fact::LocalSlice(_, slice) | Fact::ImportSlice(_, slice) => slice.endpoints.iter().map(|e| e.address).collect(),
        Fact::Namespace(_) => Vec::new(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn one_change_at_a_time_comes_to_what_a_rebuild_comes_to(events in events(), lossy in any::<bool>()) {
        let (mut index, objects) = play(&events, lossy);
        for source in SOURCES {
            // What a lossy watch missed, its next list brings.
            relist(&mut index, source, &objects);
        }
        let fresh = rebuilt(&objects);
        let (a, b) = (index.snapshot(), fresh.snapshot());
        prop_assert_eq!(a.entries(), b.entries());
        prop_assert_eq!(a.namespaces(), b.namespaces());
        prop_assert_eq!(a.counts(), b.counts());
        for name in names() {
            // The zones' serial numbers tell the histories apart, as they should.
            if settings().zones.iter().any(|zone| zone.apex == name) {
                continue;
            }
            let (a, b) = (ask(a, &name, 255), ask(b, &name, 255));
            prop_assert_eq!((a.rcode, a.answers), (b.rcode, b.answers), "{}", name);
        }
    }

    #[test]
    fn a_snapshot_never_changes(before in events(), after in events()) {
        let (mut index, _) = play(&before, false);
        let snapshot = index.snapshot().clone();
        let names = names();
        let first: Vec<_> = names.iter().map(|name| ask(&snapshot, name, 255)).collect();
        for event in after {
            match event {
                Event::Apply(source, object, fact) => index.handle_apply(source, object, fact),
                Event::Delete(source, object) => index.handle_delete(source, &object),
                Event::Relist(source) => index.handle_listed(source),
            }
        }
        let second: Vec<_> = names.iter().map(|name| ask(&snapshot, name, 255)).collect();
        prop_assert_eq!(first, second);
    }

    #[test]
    fn nothing_is_said_before_everything_is_read(events in events()) {
        let synced = |index: &Index| index.snapshot().synced();
        let unlisted: Vec<Event> = events.into_iter().filter(|e| !matches!(e, Event::Relist(Source::Namespaces))).collect();
        let (index, _) = play(&unlisted, false);
        prop_assert!(!synced(&index), "Namespaces were never listed");
        for name in names() {
            let always = name.as_str().split(".svc.").count() < 2;
            for kind in TYPES {
                let answer = ask(index.snapshot(), &name, kind);
                prop_assert!(addresses(&answer).is_empty());
                // Shapes that a zone does not have are NXDOMAIN from the first; of all others nothing is said.
                if answer.rcode == Rcode::NxDomain {
                    let full = rebuilt(&Objects::new());
                    prop_assert_eq!(ask(full.snapshot(), &name, kind).rcode, Rcode::NxDomain);
                    prop_assert!(!name.as_str().ends_with("supercluster.local"), "{} could be ours", name);
                } else {
                    prop_assert_eq!(answer.rcode == Rcode::ServFail, !always, "{}", name);
                }
            }
        }
    }

    #[test]
    fn answers_hold_only_what_there_is_and_agree(events in events()) {
        let (_, objects) = play(&events, false);
        let index = rebuilt(&objects);
        let snapshot = index.snapshot();
        let all: BTreeSet<IpAddr> = objects.values().flat_map(addresses_of).collect();
        let imported: BTreeSet<IpAddr> = objects
            .values()
            .filter(|fact| matches!(fact, Fact::Import(..) | Fact::ImportSlice(..)))
            .flat_map(addresses_of)
            .collect();
        let mut exists: BTreeMap<String, bool> = BTreeMap::new();
        for name in names() {
            let codes: BTreeSet<Rcode> = TYPES.iter().map(|kind| ask(snapshot, &name, *kind).rcode).collect();
            let alias = !ask(snapshot, &name, 5).answers.is_empty();
            if !alias {
                prop_assert_eq!(codes.len(), 1, "{}: all types agree on whether the name exists: {:?}", name, codes);
                prop_assert!(codes.is_subset(&BTreeSet::from([Rcode::NoError, Rcode::NxDomain])));
            }
            exists.insert(name.to_string(), alias || codes.contains(&Rcode::NoError));
            for kind in TYPES {
                let answer = ask(snapshot, &name, kind);
                let found = addresses(&answer);
                prop_assert!(found.is_subset(&all), "{}: {:?}", name, found);
                if name.as_str().ends_with("clusterset.local") {
                    prop_assert!(found.is_subset(&imported), "{}: {:?} in the MCS zone", name, found);
                }
                let mut unique = answer.answers.clone();
                unique.dedup();
                prop_assert_eq!(unique.len(), answer.answers.len(), "a record twice");
                let soa = answer.authority.iter().any(|r| matches!(r.data, Data::Soa(_)));
                prop_assert!(soa || !answer.answers.is_empty() || !answer.authoritative, "{} without SOA", name);
            }
        }
        // A name above one that exists exists (RFC 8020).
        for (name, _) in exists.iter().filter(|(_, exists)| **exists) {
            if let Some((_, parent)) = name.split_once('.') {
                prop_assert_ne!(exists.get(parent), Some(&false), "{} exists and {} does not", name, parent);
            }
        }
    }

    #[test]
    fn local_first(events in events()) {
        let (_, objects) = play(&events, false);
        let index = rebuilt(&objects);
        for fact in objects.values() {
            let Fact::Local(key, service) = fact else { continue };
            let service_ref = ServiceRef { namespace: key.namespace.as_str(), name: key.name.as_str() };
            let name = What::Service(service_ref).print(&settings().zones[0].apex).unwrap();
            let expected: BTreeSet<IpAddr> = match &service.kind {
                ServiceKind::Addresses(ips) => ips.iter().copied().collect(),
                ServiceKind::Headless => {
                    let slices = objects.values().filter(|f| matches!(f, Fact::LocalSlice(k, _) if k == key));
                    slices.flat_map(addresses_of).collect()
                }
                ServiceKind::External(_) => continue,
            };
            let found: BTreeSet<IpAddr> = [1, 28].iter().flat_map(|kind| addresses(&ask(index.snapshot(), &name, *kind))).collect();
            prop_assert_eq!(found, expected, "{}", name);
        }
    }

    #[test]
    fn turning_changes_the_order_only(events in events(), turn in any::<usize>()) {
        let (_, objects) = play(&events, false);
        let index = rebuilt(&objects);
        for name in names() {
            let query: QueryName = name.as_str().parse().unwrap();
            for kind in [QueryType::A, QueryType::Srv] {
                let ask = |turn| answer(index.snapshot(), &Question { name: &query, kind, turn });
                let sorted = |answer: Answer| {
                    let mut records: Vec<String> = answer.answers.iter().map(|r| format!("{r:?}")).collect();
                    records.sort();
                    records
                };
                prop_assert_eq!(sorted(ask(turn)), sorted(ask(0)));
                // An alias comes before what it leads to.
                let answer = ask(turn);
                let last_alias = answer.answers.iter().rposition(|r| matches!(r.data, Data::Cname(_)));
                prop_assert!(last_alias.is_none_or(|at| answer.answers[..at].iter().all(|r| matches!(r.data, Data::Cname(_)))));
                prop_assert!(answer.answers.first().is_none_or(|r| r.owner == Owner::Question));
            }
        }
    }
}

#[test]
fn any_bytes_are_answered() {
    let index = rebuilt(&Objects::new());
    let mut runner = proptest::test_runner::TestRunner::default();
    let labels = prop::collection::vec(prop::collection::vec(any::<u8>(), 1..64), 0..8);
    let zones = select(&["supercluster.local", "clusterset.local", "svc.supercluster.local", "example.com", ""][..]);
    runner
        .run(&(labels, zones, any::<u16>()), |(labels, zone, kind)| {
            let zone = zone.split('.').filter(|l| !l.is_empty()).map(str::as_bytes);
            if let Some(name) = QueryName::from_labels(labels.iter().map(Vec::as_slice).chain(zone)) {
                let answer = answer(index.snapshot(), &Question { name: &name, kind: kind.into(), turn: 3 });
                prop_assert!(addresses(&answer).is_empty());
            }
            Ok(())
        })
        .unwrap();
}
