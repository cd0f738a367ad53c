//! The answer to a question, out of one snapshot.
//!
//! | the name | until synced | then |
//! |---|---|---|
//! | in none of our zones | REFUSED | REFUSED |
//! | in a zone, of a shape that nothing can have | NXDOMAIN | NXDOMAIN |
//! | zone, `svc`, `dns-version` | answered | answered |
//! | could be a Service, an endpoint, a port | SERVFAIL | answered, NODATA, or NXDOMAIN |
//!
//! NODATA (NOERROR without records) is said of a name only where it has records of another type or names under it. That matters
//! more than usual: musl ends its search of the `search` list at SERVFAIL, REFUSED and NODATA, and goes on at NXDOMAIN only.

use std::collections::BTreeMap;
use std::net::IpAddr;

use daisy_api::{ClusterIps, Protocol};

use crate::facts::{Port, ServiceKind, Slice};
use crate::fallback::{self, Chosen, Origin, choose, is_host};
use crate::index::Snapshot;
use crate::name::{Asked, DomainName, Host, ServiceRef, What, parse};
use crate::record::{Answer, Data, Owner, QueryType, Question, Rcode, Record, Soa};
use crate::zone::{Zone, ZoneKind};

/// How many CNAMEs are followed.
const ALIASES_MAX: usize = 8;
/// What secondaries are told in the SOA, in seconds: refresh, retry, expire. There are none yet; CoreDNS's own values.
const SOA_TIMES: (u32, u32, u32) = (7200, 1800, 86400);
/// The weight of every SRV record: all targets alike (RFC 2782).
const SRV_WEIGHT: u16 = 100;

/// Answers a question out of a snapshot.
#[must_use]
pub fn answer(snapshot: &Snapshot, question: &Question<'_>) -> Answer {
    match parse(question.name, &snapshot.settings().zones) {
        // CoreDNS's `forward` asks this to see whether we live.
        Asked::Root if question.kind == QueryType::Ns => Answer::bare(Rcode::NoError),
        Asked::Root | Asked::Outside => Answer::bare(Rcode::Refused),
        Asked::In(zone, _) if question.kind == QueryType::Transfer => {
            Answer { zone: Some(zone), ..Answer::bare(Rcode::Refused) }
        }
        Asked::In(zone, what) if !snapshot.synced() && depends(&what) => {
            Answer { zone: Some(zone), ..Answer::bare(Rcode::ServFail) }
        }
        Asked::In(zone, what) => Asking { snapshot, question }.answer(zone, what),
    }
}

/// Whether what a name stands for depends on what the cluster holds.
fn depends(what: &What<'_>) -> bool {
    !matches!(what, What::Nothing | What::Apex | What::Services | What::Version)
}

/// What is at a name.
enum Node {
    /// Nothing, and nothing under it.
    Missing,
    /// Names under it only.
    Empty,
    Apex,
    Version,
    Addresses(Vec<IpAddr>),
    Alias(DomainName),
    /// Ports, each with its host and the host's addresses.
    Ports(BTreeMap<(DomainName, u16), Vec<IpAddr>>),
}

impl Node {
    fn empty_if(exists: bool) -> Self {
        if exists { Self::Empty } else { Self::Missing }
    }

    fn addresses(addresses: impl Iterator<Item = IpAddr>) -> Self {
        let mut list: Vec<IpAddr> = addresses.collect();
        // An endpoint may be in two slices while it moves from one to the other.
        list.sort_unstable();
        list.dedup();
        if list.is_empty() { Self::Missing } else { Self::Addresses(list) }
    }
}

#[derive(Clone, Copy)]
struct Asking<'a> {
    snapshot: &'a Snapshot,
    question: &'a Question<'a>,
}

impl Asking<'_> {
    fn answer(self, zone: usize, what: What<'_>) -> Answer {
        let zones = &self.snapshot.settings().zones;
        let mut answer = Answer { authoritative: true, zone: Some(zone), ..Answer::bare(Rcode::NoError) };
        let (mut at, mut owner, mut node) = (&zones[zone], Owner::Question, self.node(&zones[zone], what));
        let follows = !matches!(self.question.kind, QueryType::Cname | QueryType::Any);
        for _ in 0..ALIASES_MAX {
            let target = match &node {
                Node::Alias(target) if follows => Some(target.clone()),
                Node::Missing
                | Node::Empty
                | Node::Apex
                | Node::Version
                | Node::Addresses(_)
                | Node::Alias(_)
                | Node::Ports(_) => None,
            };
            let Some(target) = target else {
                self.fill(&mut answer, at, &owner, node);
                return answer;
            };
            answer.answers.push(self.record(&owner, Data::Cname(target.clone())));
            let Some(name) = target.to_query() else { return answer };
            // Another's name is for the resolver to follow.
            let Asked::In(zone, what) = parse(&name, zones) else { return answer };
            at = &zones[zone];
            node = self.node(at, what);
            owner = Owner::Name(target);
        }
        Answer { zone: Some(zone), ..Answer::bare(Rcode::ServFail) }
    }

    /// Adds what the node has of the type asked for, or says that it has none.
    fn fill(self, answer: &mut Answer, zone: &Zone, owner: &Owner, node: Node) {
        use QueryType::{A, Aaaa, Any, Cname, Ns, Srv, Txt};
        let kind = self.question.kind;
        let missing = matches!(node, Node::Missing);
        let before = answer.answers.len();
        match node {
            Node::Missing | Node::Empty => {}
            Node::Apex => match kind {
                QueryType::Soa | Any => {
                    answer.answers.push(Record { ttl: self.snapshot.settings().ttl, ..self.soa(zone) });
                }
                Ns => answer.answers.push(self.record(owner, Data::Ns(zone.name_server.clone()))),
                A | Aaaa | Srv | Txt | Cname | QueryType::Transfer | QueryType::Other => {}
            },
            Node::Version if matches!(kind, Txt | Any) => {
                answer.answers.push(self.record(owner, Data::Txt(zone.kind.schema_version())));
            }
            Node::Addresses(addresses) => answer.answers.extend(self.addresses(owner, &addresses)),
            Node::Alias(target) if matches!(kind, Cname | Any) => answer.answers.push(self.record(owner, Data::Cname(target))),
            Node::Ports(ports) if matches!(kind, Srv | Any) => self.ports(answer, owner, &ports),
            Node::Version | Node::Alias(_) | Node::Ports(_) => {}
        }
        if answer.answers.len() == before {
            // RFC 2308 section 2: both kinds of absence carry the SOA.
            answer.authority.push(self.soa(zone));
            if missing {
                answer.rcode = Rcode::NxDomain;
            }
        }
    }

    fn addresses(self, owner: &Owner, addresses: &[IpAddr]) -> Vec<Record> {
        let v4 = |a: &IpAddr| a.is_ipv4();
        // Of ANY, one of the sets is enough (RFC 8482 section 4.1).
        let of: fn(&IpAddr) -> bool = match self.question.kind {
            QueryType::A => IpAddr::is_ipv4,
            QueryType::Aaaa => IpAddr::is_ipv6,
            QueryType::Any if addresses.iter().any(v4) => IpAddr::is_ipv4,
            QueryType::Any => IpAddr::is_ipv6,
            QueryType::Srv
            | QueryType::Txt
            | QueryType::Soa
            | QueryType::Ns
            | QueryType::Cname
            | QueryType::Transfer
            | QueryType::Other => |_| false,
        };
        let mut records: Vec<Record> = addresses.iter().filter(|a| of(a)).map(|a| self.record(owner, address(*a))).collect();
        turn(&mut records, self.question.turn);
        records
    }

    fn ports(self, answer: &mut Answer, owner: &Owner, ports: &BTreeMap<(DomainName, u16), Vec<IpAddr>>) {
        // Aliases that led here stay before them.
        let from = answer.answers.len();
        for ((target, port), addresses) in ports {
            let data = Data::Srv { priority: 0, weight: SRV_WEIGHT, port: *port, target: target.clone() };
            answer.answers.push(self.record(owner, data));
            let of_target = Owner::Name(target.clone());
            answer.additional.extend(addresses.iter().map(|a| self.record(&of_target, address(*a))));
        }
        turn(&mut answer.answers[from..], self.question.turn);
    }

    fn record(self, owner: &Owner, data: Data) -> Record {
        Record { owner: owner.clone(), ttl: self.snapshot.settings().ttl, data }
    }

    /// The SOA as a negative answer carries it: its own TTL bounds the answer's as its last field does (RFC 2308 section 5).
    fn soa(self, zone: &Zone) -> Record {
        let ttl = self.snapshot.settings().negative_ttl;
        let (refresh, retry, expire) = SOA_TIMES;
        let soa = Soa {
            server: zone.name_server.clone(),
            mailbox: DomainName::compose(&["hostmaster"], &zone.apex).unwrap_or_else(|| zone.apex.clone()),
            serial: self.snapshot.serial(),
            refresh,
            retry,
            expire,
            minimum: ttl,
        };
        Record { owner: Owner::Name(zone.apex.clone()), ttl, data: Data::Soa(soa) }
    }

    fn node(self, zone: &Zone, what: What<'_>) -> Node {
        let chosen = |service| choose(self.snapshot, zone.kind, service).filter(|c| c.exists());
        let import = |service| fallback::import(self.snapshot, zone.kind, service).filter(|c| c.is_headless());
        match what {
            What::Nothing => Node::Missing,
            What::Apex => Node::Apex,
            What::Services => Node::Empty,
            What::Version => Node::Version,
            What::Namespace(name) => self.namespace(zone.kind, name),
            What::Service(service) => match chosen(service) {
                // This cluster's may be headless with nothing ready, and yet the import has names under this: its endpoints', or its
                // clusters'.
                None => {
                    Node::empty_if(import(service).is_some_and(Chosen::exists) || self.by_cluster(zone.kind, service).is_some())
                }
                // All of its named ports, as Kubernetes' own DNS answers this (and the MCS API's suite asks it).
                Some(chosen)
                    if self.question.kind == QueryType::Srv && !matches!(chosen.service.kind, ServiceKind::External(_)) =>
                {
                    let ports = service_port(chosen, zone, service, None);
                    if matches!(ports, Node::Missing) { Node::Empty } else { ports }
                }
                Some(chosen) => match &chosen.service.kind {
                    ServiceKind::Addresses(addresses) => Node::addresses(addresses.iter().copied()),
                    ServiceKind::Headless => Node::addresses(chosen.endpoints().map(|(_, e)| e.address)),
                    ServiceKind::External(target) => Node::Alias(target.clone()),
                },
            },
            What::Under(service, label) => self.under(zone.kind, service, label),
            What::Protocol(service, protocol) => {
                let has = |ports: &[Port]| ports.iter().any(|p| p.protocol == protocol);
                Node::empty_if(chosen(service).is_some_and(|chosen| match &chosen.service.kind {
                    ServiceKind::Addresses(_) => has(&chosen.service.ports),
                    ServiceKind::Headless => chosen.slices().any(|s| !s.endpoints.is_empty() && has(&s.ports)),
                    ServiceKind::External(_) => false,
                }))
            }
            What::Port(service, protocol, port) => {
                chosen(service).map_or(Node::Missing, |chosen| service_port(chosen, zone, service, Some((protocol, port))))
            }
            What::Endpoint(service, host) => {
                import(service).map_or(Node::Missing, |import| Node::addresses(hosts(import, host).map(|(_, address)| address)))
            }
            What::EndpointProtocol(service, host, protocol) => {
                let has = |slice: &Slice| slice.ports.iter().any(|p| p.protocol == protocol);
                Node::empty_if(import(service).is_some_and(|import| hosts(import, host).any(|(slice, _)| has(slice))))
            }
            What::EndpointPort(service, host, protocol, port) => {
                import(service).map_or(Node::Missing, |import| endpoint_port(import, zone, service, host, (protocol, port)))
            }
        }
    }

    fn namespace(self, kind: ZoneKind, name: &str) -> Node {
        let namespace = self.snapshot.namespace(name);
        Node::empty_if(match kind {
            ZoneKind::Supercluster => namespace.locals + namespace.imports > 0,
            ZoneKind::Clusterset => namespace.exists && namespace.imports > 0,
            ZoneKind::Cluster => namespace.exists || namespace.locals > 0,
        })
    }

    /// Where the Service of an import with a clusterset IP is in each cluster that exports it; `None` where it is in none, and in
    /// `clusterset.local`, whose specification has no such names.
    fn by_cluster(&self, kind: ZoneKind, service: ServiceRef<'_>) -> Option<&ClusterIps> {
        let import = (kind == ZoneKind::Supercluster).then(|| fallback::import(self.snapshot, kind, service)).flatten()?;
        Some(&import.service.clusters).filter(|clusters| !import.is_headless() && !clusters.is_empty())
    }

    /// What is at `LABEL.SERVICE.NAMESPACE.svc`: in `supercluster.local` the endpoint of that hostname, as in `cluster.local`,
    /// so that what a StatefulSet's client looks for falls back too; else that cluster's endpoints of a headless import, as
    /// Submariner's users know it. Where an import has a clusterset IP, its endpoints' ports may differ from the Service's, and
    /// a name that leads to them would mislead: there it is the ClusterIPs of that cluster's own Service.
    fn under(self, kind: ZoneKind, service: ServiceRef<'_>, label: &str) -> Node {
        let chosen = choose(self.snapshot, kind, service).filter(|c| c.is_headless());
        let import = fallback::import(self.snapshot, kind, service).filter(|c| c.is_headless());
        let of_cluster = |slice: &Slice| slice.cluster.as_ref().is_some_and(|c| c.as_str() == label);
        if kind == ZoneKind::Clusterset {
            // The specification wants no record here; there may be names under it.
            return Node::empty_if(import.is_some_and(|import| import.endpoints().any(|(slice, _)| of_cluster(slice))));
        }
        if let Some(chosen) = chosen {
            let is = is_host(label);
            let matching = || chosen.endpoints().filter(|(_, endpoint)| is(endpoint));
            // Two clusters may each have a `db-0`, which are not the same: one of them answers, and the next when it is gone.
            let first = matching().map(|(slice, _)| &slice.cluster).min();
            if let Some(first) = first {
                return Node::addresses(matching().filter(|(slice, _)| slice.cluster == *first).map(|(_, e)| e.address));
            }
        }
        let Some(import) = import else {
            let ips = self.by_cluster(kind, service).and_then(|clusters| clusters.iter().find(|(id, _)| id.as_str() == label));
            return ips.map_or(Node::Missing, |(_, ips)| Node::addresses(ips.iter().copied()));
        };
        Node::addresses(import.endpoints().filter(|(slice, _)| of_cluster(slice)).map(|(_, e)| e.address))
    }
}

/// The endpoints of an import that a host names, each with its slice.
fn hosts<'s>(import: Chosen<'s>, host: Host<'_>) -> impl Iterator<Item = (&'s Slice, IpAddr)> {
    let is = is_host(host.hostname);
    let of_cluster = move |slice: &Slice| slice.cluster.as_ref().is_some_and(|c| c.as_str() == host.cluster);
    import.endpoints().filter(move |(slice, endpoint)| of_cluster(slice) && is(endpoint)).map(|(s, e)| (s, e.address))
}

/// The SRV records of a Service's named port, or of all that it has: itself, or each of its endpoints.
fn service_port(chosen: Chosen<'_>, zone: &Zone, service: ServiceRef<'_>, port: Option<(Protocol, &str)>) -> Node {
    let mut targets = BTreeMap::new();
    match &chosen.service.kind {
        ServiceKind::Addresses(addresses) => {
            for number in numbers(&chosen.service.ports, port) {
                if let Some(target) = What::Service(service).print(&zone.apex) {
                    targets.insert((target, number), addresses.clone());
                }
            }
        }
        ServiceKind::Headless => {
            for (slice, endpoint) in chosen.endpoints() {
                let hostname = fallback::hostname(endpoint);
                for number in numbers(&slice.ports, port) {
                    let what = match (chosen.origin, &slice.cluster) {
                        (Origin::Import, Some(cluster)) => {
                            What::Endpoint(service, Host { cluster: cluster.as_str(), hostname: &hostname })
                        }
                        (Origin::Import, None) | (Origin::Local, _) => What::Under(service, &hostname),
                    };
                    if let Some(target) = what.print(&zone.apex) {
                        add(targets.entry((target, number)).or_default(), endpoint.address);
                    }
                }
            }
        }
        ServiceKind::External(_) => {}
    }
    if targets.is_empty() { Node::Missing } else { Node::Ports(targets) }
}

/// The SRV records of an endpoint's named port.
fn endpoint_port(import: Chosen<'_>, zone: &Zone, service: ServiceRef<'_>, host: Host<'_>, port: (Protocol, &str)) -> Node {
    let mut targets = BTreeMap::new();
    if let Some(target) = What::Endpoint(service, host).print(&zone.apex) {
        for (slice, address) in hosts(import, host) {
            for number in numbers(&slice.ports, Some(port)) {
                add(targets.entry((target.clone(), number)).or_default(), address);
            }
        }
    }
    if targets.is_empty() { Node::Missing } else { Node::Ports(targets) }
}

fn numbers(ports: &[Port], wanted: Option<(Protocol, &str)>) -> impl Iterator<Item = u16> {
    ports.iter().filter(move |p| wanted.is_none_or(|wanted| wanted == (p.protocol, p.name.as_str()))).map(|p| p.number)
}

fn add(list: &mut Vec<IpAddr>, address: IpAddr) {
    if !list.contains(&address) {
        list.push(address);
    }
}

fn address(address: IpAddr) -> Data {
    match address {
        IpAddr::V4(v4) => Data::A(v4),
        IpAddr::V6(v6) => Data::Aaaa(v6),
    }
}

fn turn(records: &mut [Record], turn: usize) {
    if let Some(by) = turn.checked_rem(records.len()) {
        records.rotate_left(by);
    }
}
