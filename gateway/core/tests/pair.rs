//! Two connections' machines against each other on a simulated network with a NAT: whatever happens, they find each other again.
//!
//! Sessions are played by a stand-in that keeps WireGuard's order of messages and nothing of its cryptography.

#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use daisy_api::ConnectionStatus;
use daisy_gateway_core::endpoints::{Path, Port};
use daisy_gateway_core::link::{Link, Output};
use daisy_gateway_core::probe::{Probe, ProbeKind};
use daisy_gateway_core::{Intervals, Moment};
use proptest::prelude::*;

/// The step of the simulation, and the time that a datagram takes, in milliseconds.
const STEP: u64 = 5;
const LATENCY: u64 = 10;
/// How old a spare port may be and still serve a dial, as in the shell.
const SPARE_FRESH: u64 = 10_000;

fn socket(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[derive(Clone, Debug)]
enum Message {
    Initiation(u64),
    Response(u64),
    Keepalive(u64),
    Probe(u64, Probe),
}

/// One gateway with its only connection.
struct End {
    link: Link,
    incarnation: u64,
    /// The sessions it can open, and the one that it seals with.
    sessions: BTreeSet<u64>,
    proved: BTreeSet<u64>,
    current: Option<u64>,
    /// Which spare port this is, and since when.
    spare: (u64, u64),
}

impl End {
    fn new(now: u64, incarnation: u64, candidates: Vec<SocketAddr>) -> Self {
        let link = Link::new(at(now), Link::health(Intervals::default(), incarnation), candidates, None);
        let (sessions, proved) = (BTreeSet::new(), BTreeSet::new());
        Self { link, incarnation, sessions, proved, current: None, spare: (0, 0) }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    /// Behind the NAT.
    Inside,
    /// With an endpoint that can be dialled.
    Outside,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    /// Nothing gets through for so many milliseconds.
    Cut(u64),
    /// One direction only gets through.
    OneWay(Side, u64),
    /// The NAT has another address, and forgets its flows.
    Renumber,
    /// The NAT has another address for new flows, and goes on rewriting the old ones to the one that is dead.
    RenumberStale,
    Restart(Side),
    SessionEnds(Side),
}

struct World {
    now: u64,
    inside: End,
    outside: End,
    wire: Vec<(u64, Side, Path, Message)>,
    next_session: u64,
    next_incarnation: u64,
    cut_until: u64,
    one_way: (Side, u64),
    /// From the port inside (the listening one is 0) to the public side of its flow.
    flows: BTreeMap<u64, SocketAddr>,
    dead: BTreeSet<SocketAddr>,
    nat_address: u8,
    next_port: u16,
    statuses: Vec<(u64, Side, ConnectionStatus)>,
}

fn at(millis: u64) -> Moment {
    Moment::from_micros(millis * 1_000)
}

fn outside_address() -> SocketAddr {
    socket("198.51.100.2:41820")
}

impl World {
    fn new() -> Self {
        Self {
            now: 0,
            inside: End::new(0, 1, vec![outside_address()]),
            outside: End::new(0, 2, vec![socket("192.168.51.3:41820")]),
            wire: Vec::new(),
            next_session: 0,
            next_incarnation: 3,
            cut_until: 0,
            one_way: (Side::Inside, 0),
            flows: BTreeMap::new(),
            dead: BTreeSet::new(),
            nat_address: 10,
            next_port: 1_024,
            statuses: Vec::new(),
        }
    }

    fn end(&mut self, side: Side) -> &mut End {
        match side {
            Side::Inside => &mut self.inside,
            Side::Outside => &mut self.outside,
        }
    }

    /// Puts a message on the wire as the other side will see it, if it gets through.
    fn send(&mut self, from: Side, path: Path, message: Message) {
        let spare = self.end(from).spare.0;
        let port_inside = if path.port == Port::Listening { 0 } else { spare };
        let (to, seen) = match from {
            Side::Inside => {
                if path.remote.ip() != outside_address().ip() {
                    return;
                }
                let port = &mut self.next_port;
                let address = self.nat_address;
                let public = *self.flows.entry(port_inside).or_insert_with(|| {
                    *port += 1;
                    SocketAddr::from(([203, 0, 113, address], *port))
                });
                // The other side's port: its listening one, or its spare one, which nobody dials but to answer.
                let port = if path.remote == outside_address() { Port::Listening } else { Port::Spare };
                (Side::Outside, Path { remote: public, local: None, port })
            }
            Side::Outside => {
                let flow = self.flows.iter().find(|(_, public)| **public == path.remote && !self.dead.contains(public));
                let Some((inside, _)) = flow else { return };
                let inside_spare = self.inside.spare.0;
                let port = if *inside == 0 { Port::Listening } else { Port::Spare };
                if *inside != 0 && *inside != inside_spare {
                    return;
                }
                let from = if path.port == Port::Listening {
                    outside_address()
                } else {
                    SocketAddr::new(outside_address().ip(), 50_000)
                };
                // An address-dependent filter: only what the flow was made for comes in.
                if from != outside_address() {
                    return;
                }
                (Side::Inside, Path { remote: from, local: None, port })
            }
        };
        let blocked = self.now < self.cut_until || (self.one_way.0 == from && self.now < self.one_way.1);
        if !blocked {
            self.wire.push((self.now + LATENCY, to, seen, message));
        }
    }

    fn receive(&mut self, side: Side, path: Path, message: Message) {
        let now = at(self.now);
        match message {
            Message::Initiation(session) => {
                let end = self.end(side);
                end.sessions.insert(session);
                end.link.handle_datagram(path);
                self.send(side, path, Message::Response(session));
            }
            Message::Response(session) => {
                let end = self.end(side);
                // Only what this start asked for.
                if !end.sessions.contains(&session) {
                    return;
                }
                end.link.handle_datagram(path);
                end.proved.insert(session);
                end.current = Some(session);
                end.link.handle_session(now);
                self.send(side, path, Message::Keepalive(session));
            }
            Message::Keepalive(session) | Message::Probe(session, _) => {
                let end = self.end(side);
                if !end.sessions.contains(&session) {
                    return;
                }
                end.link.handle_datagram(path);
                if end.proved.insert(session) {
                    end.current = Some(session);
                    end.link.handle_session(now);
                }
                let Message::Probe(_, probe) = message else { return };
                match probe.kind {
                    ProbeKind::Reply => end.link.handle_reply(now, &probe),
                    ProbeKind::Request => {
                        let reply = probe.reply(end.incarnation).unwrap();
                        self.send_probe(side, reply);
                    }
                }
            }
        }
    }

    fn send_probe(&mut self, side: Side, probe: Probe) {
        let end = self.end(side);
        if let (Some(session), Some(path)) = (end.current, end.link.path()) {
            self.send(side, path, Message::Probe(session, probe));
        }
    }

    fn step(&mut self) {
        self.now += STEP;
        let now = self.now;
        let (due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.wire).into_iter().partition(|(when, ..)| *when <= now);
        self.wire = later;
        for (_, side, path, message) in due {
            self.receive(side, path, message);
        }
        for side in [Side::Inside, Side::Outside] {
            let mut count = 0;
            while let Some(output) = self.end(side).link.poll(at(now)) {
                count += 1;
                assert!(count < 16, "a link that never has enough");
                match output {
                    Output::Dial(path) => {
                        if path.port == Port::Spare
                            && (self.end(side).spare.0 == 0 || now - self.end(side).spare.1 > SPARE_FRESH)
                        {
                            self.next_incarnation += 1;
                            self.end(side).spare = (self.next_incarnation, now);
                        }
                        self.next_session += 1;
                        let session = self.next_session;
                        self.end(side).sessions.insert(session);
                        self.send(side, path, Message::Initiation(session));
                    }
                    Output::Probe(probe) => self.send_probe(side, probe),
                    Output::Status(status) => self.statuses.push((now, side, status)),
                }
            }
        }
    }

    fn run(&mut self, millis: u64) {
        for _ in 0..millis / STEP {
            self.step();
        }
    }

    /// How long until both are connected.
    fn until_connected(&mut self, bound: u64) -> Option<u64> {
        let since = self.now;
        while self.now - since < bound {
            if self.is_connected() {
                return Some(self.now - since);
            }
            self.step();
        }
        None
    }

    fn is_connected(&self) -> bool {
        [&self.inside, &self.outside].iter().all(|end| end.link.status() == ConnectionStatus::Connected)
    }

    fn happens(&mut self, fault: Fault) {
        let now = self.now;
        match fault {
            Fault::Cut(span) => self.cut_until = now + span,
            Fault::OneWay(side, span) => self.one_way = (side, now + span),
            Fault::Renumber => {
                self.nat_address = self.nat_address.wrapping_add(1);
                self.flows.clear();
            }
            Fault::RenumberStale => {
                self.nat_address = self.nat_address.wrapping_add(1);
                self.dead.extend(self.flows.values());
            }
            Fault::Restart(side) => {
                self.next_incarnation += 1;
                let candidates = match side {
                    Side::Inside => vec![outside_address()],
                    Side::Outside => vec![socket("192.168.51.3:41820")],
                };
                *self.end(side) = End::new(now, self.next_incarnation, candidates);
            }
            Fault::SessionEnds(side) => {
                let end = self.end(side);
                end.current = None;
                end.sessions.clear();
                end.proved.clear();
                end.link.handle_session_ended(at(now));
            }
        }
    }
}

#[test]
fn they_find_each_other_at_once() {
    let mut world = World::new();
    let took = world.until_connected(2_000).expect("connected");
    assert!(took < 200, "{took} ms");
}

#[test]
fn a_stale_rewriting_is_got_round_within_four_seconds() {
    let mut world = World::new();
    world.until_connected(2_000).expect("connected");
    world.run(20_000);
    world.happens(Fault::RenumberStale);
    world.run(2_000);
    let took = world.until_connected(10_000).expect("heals");
    assert!(took < 2_000, "{took} ms more");
    // And a second time, from the spare port.
    world.run(20_000);
    world.happens(Fault::RenumberStale);
    world.run(2_000);
    world.until_connected(10_000).expect("heals again");
}

fn any_side() -> impl Strategy<Value = Side> {
    prop_oneof![Just(Side::Inside), Just(Side::Outside)]
}

fn any_fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        (10u64..20_000).prop_map(Fault::Cut),
        (any_side(), 10u64..20_000).prop_map(|(side, span)| Fault::OneWay(side, span)),
        Just(Fault::Renumber),
        Just(Fault::RenumberStale),
        any_side().prop_map(Fault::Restart),
        any_side().prop_map(Fault::SessionEnds),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_happens_they_find_each_other_again(faults in prop::collection::vec((any_fault(), 0u64..6_000), 1..8)) {
        let mut world = World::new();
        world.run(1_000);
        for (fault, pause) in faults {
            world.happens(fault);
            world.run(pause);
        }
        // The last fault may go on for a while.
        let quiet = world.cut_until.max(world.one_way.1);
        world.run(quiet.saturating_sub(world.now));
        // A change that is not noticed yet is noticed first.
        world.run(3_000);
        let took = world.until_connected(20_000);
        prop_assert!(took.is_some(), "not connected: {:?}", world.statuses);
        // And stays so.
        let before = world.statuses.len();
        world.run(30_000);
        let later: Vec<_> = world.statuses[before..].iter().filter(|(_, _, status)| *status == ConnectionStatus::Error).collect();
        prop_assert!(world.is_connected() && later.is_empty(), "does not stay: {later:?}");
    }
}
