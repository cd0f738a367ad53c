//! What stands, what is left aside, and what a heartbeat settles, without a machine around it.

use std::collections::BTreeMap;
use std::time::Duration;

use daisy_api::keys::VerifyingKey;
use daisy_api::{Envelope, ExportEndpointsSpec, HeartbeatSpec, IpFamily, MemberSpec, ServiceKey};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use proptest::prelude::*;

use super::*;

fn record(sequence: u64) -> ExportEndpointsSpec {
    let key = ServiceKey::parse("shop", "cart").expect("a key");
    ExportEndpointsSpec {
        envelope: Envelope { sequence, signature: None },
        namespace: key.namespace,
        name: key.name,
        address_type: IpFamily::V4,
        endpoints: Vec::new(),
        ports: Vec::new(),
    }
}

/// A heartbeat that vouches for these records.
fn heartbeat(sequence: u64, records: &[(&str, u64)]) -> HeartbeatSpec {
    let (digest, records) = digest(records.iter().map(|(name, sequence)| (Kind::ExportEndpoints, *name, *sequence)));
    HeartbeatSpec { sequence, digest, records, interval_seconds: 60 }
}

fn now() -> Now {
    Now::at(Duration::from_secs(1))
}

struct Reader {
    peer: Peer,
    epoch: u64,
}

impl Reader {
    fn new() -> Self {
        Self { peer: Peer::new(now()), epoch: 0 }
    }

    /// A whole list of the endpoints' records.
    fn list(&mut self, records: &[(&str, u64)]) {
        self.epoch += 1;
        for (name, sequence) in records {
            self.peer.see_endpoints(name, record(*sequence), self.epoch);
        }
        self.peer.sweep(Kind::ExportEndpoints, self.epoch);
    }

    fn beat(&mut self, sequence: u64, records: &[(&str, u64)]) -> Vouched {
        self.peer.beat(heartbeat(sequence, records), now());
        self.peer.resolve()
    }

    /// What stands: each record at its sequence.
    fn stands(&self) -> Vec<(String, u64)> {
        self.peer.endpoints.iter().map(|(name, standing)| (name.to_owned(), standing.spec.envelope.sequence)).collect()
    }

    fn assert_stands(&self, records: &[(&str, u64)]) {
        let expected: Vec<(String, u64)> = records.iter().map(|(name, sequence)| ((*name).to_owned(), *sequence)).collect();
        assert_eq!(self.stands(), expected);
    }
}

#[test]
fn what_a_former_run_took_is_not_replaced_by_an_older_one() {
    let mut reader = Reader::new();
    reader.peer.endpoints.adopt("a", record(9));
    reader.list(&[("a", 5)]);
    reader.assert_stands(&[("a", 9)]);
    // The order in which the lists of the two sides are complete does not matter.
    let mut reader = Reader::new();
    reader.list(&[("a", 5), ("b", 10)]);
    reader.peer.endpoints.adopt("a", record(9));
    reader.peer.endpoints.adopt("b", record(9));
    reader.assert_stands(&[("a", 9), ("b", 10)]);
}

#[test]
fn a_withdrawn_record_is_not_brought_back_by_an_old_copy() {
    let mut reader = Reader::new();
    reader.list(&[("a", 5)]);
    assert!(reader.peer.endpoints.remove("a").is_some());
    reader.list(&[("a", 5)]);
    reader.assert_stands(&[]);
    assert!(reader.peer.endpoints.remove("a").is_none(), "it is withdrawn once");
    reader.list(&[("a", 6)]);
    reader.assert_stands(&[("a", 6)]);
}

#[test]
fn nor_after_a_heartbeat_when_it_is_remembered_no_longer() {
    let mut reader = Reader::new();
    reader.list(&[("a", 5), ("b", 6)]);
    reader.peer.endpoints.remove("a");
    assert!(reader.beat(7, &[("b", 6)]).passed);
    assert_eq!(reader.peer.kept_floor, 7);
    reader.list(&[("a", 5), ("b", 6)]);
    reader.assert_stands(&[("b", 6)]);
}

#[test]
fn nor_after_a_restart() {
    for floor_first in [true, false] {
        let mut reader = Reader::new();
        if !floor_first {
            reader.list(&[("a", 5), ("b", 6), ("c", 8)]);
        }
        reader.peer.adopt_floor(7);
        reader.peer.endpoints.adopt("b", record(6));
        if floor_first {
            reader.list(&[("a", 5), ("b", 6), ("c", 8)]);
        }
        reader.assert_stands(&[("b", 6), ("c", 8)]);
    }
}

#[test]
fn a_floor_says_nothing_of_a_broker_that_is_newer() {
    let mut reader = Reader::new();
    reader.peer.adopt_floor(7);
    // Not imported when the former run ended, for its cluster was not allowed it.
    reader.list(&[("a", 5)]);
    reader.assert_stands(&[]);
    reader.beat(8, &[("a", 5), ("late", 9)]);
    reader.assert_stands(&[("a", 5)]);
}

#[test]
fn a_cluster_that_vouches_for_something_older_is_believed() {
    let mut reader = Reader::new();
    reader.list(&[("a", 9), ("b", 8)]);
    reader.peer.endpoints.remove("b");
    // The broker is restored; the cluster starts anew, finds its records as it wants them, and vouches for them.
    reader.list(&[("a", 5), ("b", 6)]);
    reader.assert_stands(&[("a", 9)]);
    assert_eq!(reader.beat(7, &[("a", 5), ("b", 6)]).keys, [], "an old heartbeat says nothing of what is newer");
    let vouched = reader.beat(10, &[("a", 5), ("b", 6)]);
    assert!(!vouched.keys.is_empty() && vouched.withdrawn == 0);
    reader.assert_stands(&[("a", 5), ("b", 6)]);
}

#[test]
fn many_withdrawn_records_are_not_remembered_for_ever() {
    let mut reader = Reader::new();
    for n in 1..20_000u64 {
        let name = format!("r{n}");
        reader.peer.see_endpoints(&name, record(n), 0);
        reader.peer.endpoints.remove(&name);
    }
    let held = reader.peer.endpoints.remembered();
    assert!(held <= 4096, "{held}");
}

#[test]
fn an_earlier_version_of_a_member_is_left_aside_though_it_was_never_seen() {
    let spec = |grant: &str| MemberSpec {
        cluster_uid: "uid".to_owned(),
        cluster_cidrs: Vec::new(),
        service_cidrs: Vec::new(),
        node_cidr: "100.80.1.0/24".parse().expect("a CIDR"),
        grant: grant.parse().expect("a grant"),
        signing_key: VerifyingKey::from_bytes([1; 32]),
        invitation: String::new(),
    };
    let metadata = |generation: i64| ObjectMeta {
        uid: Some("one".to_owned()),
        generation: Some(generation),
        resource_version: Some(generation.to_string()),
        ..ObjectMeta::default()
    };
    let mut peer = Peer::new(now());
    let _ = peer.see_member(&metadata(2), spec("all"), (1, false));
    assert_eq!(peer.see_member(&metadata(1), spec("none"), (2, false)), MemberChange::Older);
    assert!(!peer.member.as_ref().expect("a Member").spec.grant.is_none());
    // A later run knows it too.
    let text = peer.member.as_ref().expect("a Member").to_text();
    let mut later = Peer::new(now());
    let _ = later.see_member(&metadata(1), spec("none"), (1, false));
    later.adopt_member(KnownMember::from_text(&text).expect("its own text"));
    assert!(!later.member.as_ref().expect("a Member").spec.grant.is_none());
    // What is written now counts, whatever number a restored server gives it.
    let mut rewritten = metadata(1);
    rewritten.resource_version = Some("77".to_owned());
    assert_eq!(peer.see_member(&rewritten, spec("shop"), (2, true)), MemberChange::Changed);
}

proptest! {
    /// A cluster writes, withdraws and vouches; the broker falls back to old copies, and the reader lists, in any order. Whatever the
    /// cluster does not withdraw stands from when it is first seen, and is never replaced by something older; and once the broker
    /// has all of it again, and a heartbeat came, the reader has exactly what the cluster stands by.
    #[test]
    fn nothing_old_wins(steps in prop::collection::vec((0..5u8, 0..3usize), 1..40)) {
        const NAMES: [&str; 3] = ["a", "b", "c"];
        let mut sequence = 1;
        let (mut truth, mut broker, mut copy) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let mut reader = Reader::new();
        let lines = |map: &BTreeMap<&'static str, u64>| map.iter().map(|(name, s)| (*name, *s)).collect::<Vec<_>>();
        for (what, which) in steps {
            sequence += 1;
            match what {
                0 => {
                    truth.insert(NAMES[which], sequence);
                    broker.insert(NAMES[which], sequence);
                    reader.peer.see_endpoints(NAMES[which], record(sequence), reader.epoch);
                }
                1 => {
                    truth.remove(NAMES[which]);
                    if broker.remove(NAMES[which]).is_some() {
                        reader.peer.endpoints.remove(NAMES[which]);
                    }
                }
                2 => {
                    reader.beat(sequence, &lines(&truth));
                }
                3 => copy = broker.clone(),
                _ => {
                    broker = copy.clone();
                    reader.list(&lines(&broker));
                }
            }
            for (name, stands) in reader.stands() {
                let had = truth.get(name.as_str()).copied();
                prop_assert!(had.is_none_or(|had| had == stands), "{name}: {stands}, and it is {had:?}");
            }
            for name in truth.keys() {
                prop_assert!(reader.peer.endpoints.get(name).is_some(), "{name} lives");
            }
        }
        // The cluster writes anew what the broker has otherwise than it should, and withdraws the rest.
        for (name, at) in &mut truth {
            if broker.get(name) != Some(at) {
                sequence += 1;
                *at = sequence;
            }
        }
        reader.list(&lines(&truth));
        reader.beat(sequence + 1, &lines(&truth));
        let expected: Vec<(String, u64)> = truth.iter().map(|(name, at)| ((*name).to_owned(), *at)).collect();
        prop_assert_eq!(reader.stands(), expected);
    }
}
