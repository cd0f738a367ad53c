//! Runs the scenarios of `tests/scenarios/`: text files that say what is applied, what is asked, and what is answered.
//!
//! ```text
//! ZONES daisy | ZONES cluster DOMAIN          once, first
//! STEP text                                   names what follows in messages
//! SYNC                                        every source has been listed
//! APPLY namespace NAME
//! APPLY local NS/NAME WHAT... | APPLY import NS/NAME WHAT...
//!     WHAT: ip ADDRESS, at CLUSTER ADDRESS, headless, external NAME, port NAME/PROTOCOL/NUMBER
//! APPLY local-slice NS/OBJECT of NS/NAME PART... | APPLY import-slice OBJECT of NS/NAME from CLUSTER PART...
//!     PART: port NAME/PROTOCOL/NUMBER, endpoint ADDRESS[=HOSTNAME]
//! DELETE namespace NAME | local NS/NAME | import NS/NAME | local-slice NS/OBJECT | import-slice OBJECT
//! QUERY NAME TYPE
//! ANSWER RCODE                                then, indented, each record: TYPE DATA, or `extra NAME TYPE DATA`
//! ```
//!
//! An answer's records are compared as a set. Every answer with authority and without records must carry its zone's SOA.

#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use daisy_api::{ClusterId, ClusterIps, NamespaceName, Protocol, ServiceKey, labels};
use daisy_dns_core::{
    Answer, Data, DomainName, Endpoint, Fact, Index, ObjectRef, Owner, Port, QueryName, QueryType, Question, Rcode, Record,
    Service, ServiceKind, Settings, Slice, Source, answer,
};

const SOURCES: [Source; 4] = [Source::Services, Source::LocalSlices, Source::ImportSlices, Source::Namespaces];

struct Run {
    index: Index,
    step: String,
    answer: Option<Answer>,
    expected: Option<(Rcode, BTreeSet<String>)>,
    checked: usize,
}

fn run(text: &str) -> Result<usize, String> {
    let mut run: Option<Run> = None;
    for (number, line) in text.lines().enumerate() {
        let words: Vec<&str> = line.split('#').next().unwrap_or_default().split_whitespace().collect();
        let fail = |why: String| format!("line {}: {line:?}: {why}", number + 1);
        if words.is_empty() {
            continue;
        }
        if let ["ZONES", zones @ ..] = words.as_slice() {
            let settings = match zones {
                ["daisy"] => Settings::daisy(5, 1),
                ["cluster", domain] => Settings::cluster(DomainName::parse(domain).map_err(|e| fail(e.to_string()))?, 5, 5),
                _ => return Err(fail("what zones?".into())),
            };
            let index = Index::new(settings, 1, SOURCES);
            run = Some(Run { index, step: String::new(), answer: None, expected: None, checked: 0 });
            continue;
        }
        let run = run.as_mut().ok_or_else(|| fail("ZONES comes first".into()))?;
        if line.starts_with(' ') {
            let (_, records) = run.expected.as_mut().ok_or_else(|| fail("a record of which answer?".into()))?;
            records.insert(words.join(" "));
        } else {
            run.check().map_err(|why| fail(format!("before it: {why}")))?;
            run.line(&words).map_err(|why| fail(format!("step {:?}: {why}", run.step)))?;
        }
    }
    let mut run = run.ok_or("an empty scenario")?;
    run.check()?;
    Ok(run.checked)
}

impl Run {
    fn line(&mut self, words: &[&str]) -> Result<(), String> {
        match words {
            ["STEP", text @ ..] => self.step = text.join(" "),
            ["SYNC"] => {
                for source in SOURCES {
                    // What was applied before is what was listed.
                    self.index.handle_list(source);
                    for object in self.objects(source) {
                        self.index.handle_unreadable(source, &object);
                    }
                    self.index.handle_listed(source);
                }
            }
            ["APPLY", what @ ..] => {
                let (source, object, fact) = fact(what)?;
                self.index.handle_apply(source, object, Some(fact));
            }
            ["DELETE", what @ ..] => {
                let (source, object) = target(what)?;
                self.index.handle_delete(source, &object);
            }
            ["QUERY", name, kind] => {
                let name: QueryName = name.parse().map_err(|e| format!("{e}"))?;
                let question = Question { name: &name, kind: query_type(kind)?, turn: 0 };
                self.answer = Some(answer(self.index.snapshot(), &question));
            }
            ["ANSWER", code] => self.expected = Some((rcode(code)?, BTreeSet::new())),
            _ => return Err("what is that?".into()),
        }
        Ok(())
    }

    /// The objects that a source has given, from the snapshot.
    fn objects(&self, source: Source) -> Vec<ObjectRef> {
        let snapshot = self.index.snapshot();
        let mut objects = Vec::new();
        for (key, entry) in snapshot.entries() {
            match source {
                Source::Services => {
                    objects.extend(entry.local.iter().map(|_| ObjectRef::new(key.namespace.as_str(), key.name.as_str())));
                    objects.extend(entry.imports.iter().map(|i| i.object.clone()));
                }
                Source::LocalSlices => objects.extend(entry.local_slices.iter().map(|s| s.object.clone())),
                Source::ImportSlices => objects.extend(entry.import_slices.iter().map(|s| s.object.clone())),
                Source::Namespaces => {}
            }
        }
        if source == Source::Namespaces {
            objects.extend(snapshot.namespaces().keys().map(|name| ObjectRef::new("", name.as_str())));
        }
        objects
    }

    fn check(&mut self) -> Result<(), String> {
        let Some((code, expected)) = self.expected.take() else { return Ok(()) };
        let answer = self.answer.take().ok_or("an answer to what?")?;
        let snapshot = self.index.snapshot();
        let mut found: BTreeSet<String> = answer.answers.iter().map(print).collect();
        found.extend(answer.additional.iter().map(|record| match &record.owner {
            Owner::Name(name) => format!("extra {name} {}", print(record)),
            Owner::Question => format!("extra ? {}", print(record)),
        }));
        if answer.rcode != code || found != expected {
            return Err(format!("step {:?}: expected {code:?} {expected:?}, got {:?} {found:?}", self.step, answer.rcode));
        }
        let soa = answer.authority.iter().any(|r| matches!(r.data, Data::Soa(_)));
        let negative = answer.authoritative && answer.answers.iter().all(|r| matches!(r.data, Data::Cname(_)));
        let question_is_an_alias = !answer.answers.is_empty() && answer.rcode == Rcode::NoError;
        if soa != (negative && !question_is_an_alias) {
            return Err(format!("step {:?}: SOA in authority: {soa}, records: {found:?}", self.step));
        }
        for record in &answer.answers {
            if record.ttl != snapshot.settings().ttl {
                return Err(format!("TTL {} of {record:?}", record.ttl));
            }
        }
        self.checked += 1;
        Ok(())
    }
}

fn print(record: &Record) -> String {
    match &record.data {
        Data::A(a) => format!("A {a}"),
        Data::Aaaa(a) => format!("AAAA {a}"),
        Data::Srv { priority, weight, port, target } => format!("SRV {priority} {weight} {port} {target}"),
        Data::Txt(text) => format!("TXT {text}"),
        Data::Soa(soa) => format!("SOA {} {}", soa.server, soa.minimum),
        Data::Ns(name) => format!("NS {name}"),
        Data::Cname(name) => format!("CNAME {name}"),
    }
}

fn rcode(text: &str) -> Result<Rcode, String> {
    match text {
        "NOERROR" => Ok(Rcode::NoError),
        "NXDOMAIN" => Ok(Rcode::NxDomain),
        "SERVFAIL" => Ok(Rcode::ServFail),
        "REFUSED" => Ok(Rcode::Refused),
        _ => Err(format!("rcode {text}?")),
    }
}

fn query_type(text: &str) -> Result<QueryType, String> {
    let types =
        [("A", 1u16), ("NS", 2), ("CNAME", 5), ("SOA", 6), ("MX", 15), ("TXT", 16), ("AAAA", 28), ("SRV", 33), ("AXFR", 252)];
    let any = [("ANY", 255)];
    let found = types.iter().chain(&any).find(|(name, _)| *name == text).ok_or_else(|| format!("type {text}?"))?;
    Ok(QueryType::from(found.1))
}

fn pair(text: &str) -> Result<(&str, &str), String> {
    text.split_once('/').ok_or_else(|| format!("{text} is not NS/NAME"))
}

fn key(text: &str) -> Result<ServiceKey, String> {
    let (namespace, name) = pair(text)?;
    ServiceKey::parse(namespace, name).map_err(|e| e.to_string())
}

fn target(words: &[&str]) -> Result<(Source, ObjectRef), String> {
    let object = |text| pair(text).map(|(ns, name)| ObjectRef::new(ns, name));
    match words {
        ["namespace", name] => Ok((Source::Namespaces, ObjectRef::new("", *name))),
        ["local", name] => Ok((Source::Services, object(name)?)),
        ["import", name] => Ok((Source::Services, ObjectRef::new(labels::SYSTEM_NAMESPACE, key(name)?.import_service_name()))),
        ["local-slice", name] => Ok((Source::LocalSlices, object(name)?)),
        ["import-slice", name] => Ok((Source::ImportSlices, ObjectRef::new(labels::SYSTEM_NAMESPACE, *name))),
        _ => Err("delete what?".into()),
    }
}

fn fact(words: &[&str]) -> Result<(Source, ObjectRef, Fact), String> {
    let (source, object) = target(&words[..2])?;
    let fact = match words {
        ["namespace", name] => Fact::Namespace(NamespaceName::new(*name).map_err(|e| e.to_string())?),
        ["local", name, what @ ..] => Fact::Local(key(name)?, service(what)?),
        ["import", name, what @ ..] => Fact::Import(key(name)?, service(what)?),
        ["local-slice", _, "of", name, parts @ ..] => Fact::LocalSlice(key(name)?, slice(None, parts)?),
        ["import-slice", _, "of", name, "from", cluster, parts @ ..] => {
            let cluster = ClusterId::new(*cluster).map_err(|e| e.to_string())?;
            Fact::ImportSlice(key(name)?, slice(Some(cluster), parts)?)
        }
        _ => return Err("apply what?".into()),
    };
    Ok((source, object, fact))
}

fn service(mut words: &[&str]) -> Result<Service, String> {
    let (mut addresses, mut kind, mut ports, mut clusters) = (Vec::new(), None, Vec::new(), ClusterIps::new());
    while !words.is_empty() {
        words = match words {
            ["ip", ip, rest @ ..] => {
                addresses.push(ip.parse().map_err(|_| format!("address {ip}?"))?);
                rest
            }
            ["at", cluster, ip, rest @ ..] => {
                let cluster = ClusterId::new(*cluster).map_err(|e| e.to_string())?;
                clusters.entry(cluster).or_default().push(ip.parse().map_err(|_| format!("address {ip}?"))?);
                rest
            }
            ["headless", rest @ ..] => {
                kind = Some(ServiceKind::Headless);
                rest
            }
            ["external", name, rest @ ..] => {
                kind = Some(ServiceKind::External(DomainName::parse(name).map_err(|e| e.to_string())?));
                rest
            }
            ["port", text, rest @ ..] => {
                ports.push(port(text)?);
                rest
            }
            _ => return Err(format!("{words:?}?")),
        };
    }
    Ok(Service { kind: kind.unwrap_or(ServiceKind::Addresses(addresses)), ports, clusters })
}

fn slice(cluster: Option<ClusterId>, mut words: &[&str]) -> Result<Slice, String> {
    let mut slice = Slice { cluster, ports: Vec::new(), endpoints: Vec::new() };
    while !words.is_empty() {
        words = match words {
            ["port", text, rest @ ..] => {
                slice.ports.push(port(text)?);
                rest
            }
            ["endpoint", text, rest @ ..] => {
                let (address, hostname) = text.split_once('=').map_or((*text, None), |(a, h)| (a, Some(h.into())));
                let address = address.parse().map_err(|_| format!("address {address}?"))?;
                slice.endpoints.push(Endpoint { address, hostname });
                rest
            }
            _ => return Err(format!("{words:?}?")),
        };
    }
    Ok(slice)
}

fn port(text: &str) -> Result<Port, String> {
    let parts: Vec<&str> = text.split('/').collect();
    let [name, protocol, number] = parts.as_slice() else { return Err(format!("port {text}?")) };
    let protocol = Protocol::parse(Some(&protocol.to_uppercase())).ok_or("protocol?")?;
    Ok(Port { name: (*name).to_owned(), protocol, number: number.parse().map_err(|_| "number?")? })
}

#[test]
fn scenarios() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut failures = String::new();
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 6, "the scenarios are gone: {files:?}");
    for file in files {
        match run(&std::fs::read_to_string(&file).unwrap()) {
            Ok(checked) => assert!(checked > 0, "{} checks nothing", file.display()),
            Err(why) => writeln!(failures, "{}: {why}", file.display()).unwrap(),
        }
    }
    assert!(failures.is_empty(), "\n{failures}");
}

#[test]
fn a_scenario_that_is_wrong_fails() {
    let wrong = "ZONES daisy\nSYNC\nQUERY a.b.svc.clusterset.local A\nANSWER NOERROR\n";
    assert!(run(wrong).unwrap_err().contains("expected NoError"));
}
