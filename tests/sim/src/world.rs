//! The world: clusters, broker, clock, and the order in which things happen.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::time::Duration;

use daisy_api::{ConnectionStatus, JoinRequestSpec, ServiceKey, labels};
use daisy_broker_core::object::{Kind, Object, Place};
use daisy_broker_core::policy;
use daisy_broker_core::syncer::{Action, Failure, FailureKind, Verb};
use daisy_broker_core::time::Now;

use crate::broker::Broker;
use crate::check;
use crate::cluster::{SimCluster, Standing};
use crate::enrol::{Joiner, Wish};
use crate::membership;
use crate::model::Grants;
use crate::objects;
use crate::random::Random;
use crate::registrar::Process;
use crate::store::Store;
use crate::trace::{self, Trace};

/// What went wrong, with how to see it again.
#[derive(Debug)]
pub struct Violation {
    /// The seed.
    pub seed: u64,
    /// The step, counted from 0.
    pub step: u32,
    /// What was expected and what was seen.
    pub what: String,
    /// The last things that happened.
    pub history: Vec<String>,
    /// Every delivery and every write, where the seed was run for that.
    pub trace: Vec<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}, step {}: {}", self.seed, self.step, self.what)?;
        for line in &self.history {
            writeln!(f, "  {line}")?;
        }
        write!(f, "again: DAISY_SIM_SEED={} cargo test --release -p daisy-sim", self.seed)
    }
}

impl std::error::Error for Violation {}

/// What may be withdrawn although it seems to live, until all is quiet again: somebody's view of it may lawfully lag.
#[derive(Default)]
pub(crate) struct Exempt {
    /// These clusters' exports of these keys changed.
    pub(crate) exports: BTreeSet<(u8, ServiceKey)>,
    /// Exporters of these keys disagree.
    pub(crate) keys: BTreeSet<ServiceKey>,
    /// The path from the first to the second was down.
    pub(crate) paths: BTreeSet<(u8, u8)>,
    /// All that these clusters export.
    pub(crate) clusters: BTreeSet<u8>,
}

pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) random: Random,
    pub(crate) clock: Duration,
    pub(crate) broker: Broker,
    pub(crate) broker_up: bool,
    pub(crate) backup: Option<Broker>,
    pub(crate) registrar: Process,
    pub(crate) clusters: BTreeMap<u8, SimCluster>,
    /// Who asks to become a member.
    pub(crate) joiners: Vec<Joiner>,
    /// Who was refused, or heard nothing, and asks again when everything works.
    pub(crate) refused: Vec<Joiner>,
    /// Every request that was ever made, and what was wished for.
    pub(crate) asked: BTreeMap<String, (JoinRequestSpec, Wish)>,
    pub(crate) grants: Grants,
    pub(crate) exempt: Exempt,
    pub(crate) paths_down: BTreeSet<(u8, u8)>,
    /// The names whose exporters disagreed before this step.
    pub(crate) disagreed_before: BTreeSet<ServiceKey>,
    /// How often the broker lost data.
    pub(crate) incarnations: u64,
    /// Somebody left since all was last quiet. The broker loses no data then: who did not hear of a leave before the broker
    /// forgot it keeps the cluster until its membership has run out, in days, as it is meant to.
    pub(crate) somebody_left: bool,
    /// The broker lost data since all was last quiet: nobody leaves then, for the same reason.
    pub(crate) broker_forgot: bool,
    history: VecDeque<String>,
    pub(crate) trace: Trace,
    step: u32,
    pub(crate) actions: u64,
}

impl World {
    pub(crate) fn new(seed: u64, trace: Trace) -> Self {
        let mut world = Self {
            seed,
            random: Random::new(seed),
            clock: Duration::from_secs(1_000),
            broker: Broker::new(0),
            broker_up: true,
            backup: None,
            registrar: Process::default(),
            clusters: BTreeMap::new(),
            joiners: Vec::new(),
            refused: Vec::new(),
            asked: BTreeMap::new(),
            grants: Grants::default(),
            exempt: Exempt::default(),
            paths_down: BTreeSet::new(),
            disagreed_before: BTreeSet::new(),
            incarnations: 0,
            somebody_left: false,
            broker_forgot: false,
            history: VecDeque::new(),
            trace,
            step: 0,
            actions: 0,
        };
        world.registrar.start(&world.broker.id);
        for _ in 0..2 + world.random.below(3) {
            world.join();
        }
        world
    }

    pub(crate) fn now(&self) -> Now {
        Now::at(self.clock)
    }

    pub(crate) fn note(&mut self, what: impl Into<String>) {
        if self.history.len() >= 60 {
            self.history.pop_front();
        }
        let what = what.into();
        self.trace.tell(self.now(), || format!("=== step {}: {what}", self.step));
        self.history.push_back(format!("step {} at {:.1} s: {what}", self.step, self.clock.as_secs_f64()));
    }

    pub(crate) fn violation(&self, what: impl Into<String>) -> Violation {
        let mut history: Vec<String> = self.history.iter().cloned().collect();
        history.extend(self.broker.records.objects().map(|o| format!("broker has {}", o.reference(Place::Broker))));
        Violation { seed: self.seed, step: self.step, what: what.into(), history, trace: self.trace.lines() }
    }

    /// Runs the seed to its end.
    pub(crate) fn run(mut self, steps: u32) -> Result<u64, Violation> {
        // Who is there from the beginning joins first.
        self.drain()?;
        for step in 0..steps {
            self.step = step;
            self.transition();
            let work = self.random.below(30);
            for _ in 0..work {
                self.micro_step()?;
            }
            if step % 50 == 49 {
                self.quiesce()?;
            }
        }
        self.quiesce()?;
        Ok(self.actions)
    }

    /// One small thing happens somewhere.
    fn micro_step(&mut self) -> Result<(), Violation> {
        let numbers: Vec<u8> = self.clusters.keys().copied().collect();
        let Some(&number) = self.random.pick(&numbers) else { return Ok(()) };
        match self.random.below(12) {
            0..=4 => self.deliver_one(number),
            5..=7 => self.perform_one(number)?,
            8 => {
                let by = Duration::from_millis(self.random.next() % 2_000);
                self.advance(by);
            }
            9 => self.registrar_hears(),
            10 => self.registrar_acts()?,
            _ => self.joiner_steps()?,
        }
        Ok(())
    }

    /// Time passes; whoever waited for it is told.
    fn advance(&mut self, by: Duration) {
        self.clock += by;
        self.registrar.stir();
        let now = self.now();
        for cluster in self.clusters.values_mut() {
            if let Some(syncer) = cluster.syncer.as_mut()
                && syncer.poll_timeout().is_some_and(|at| at <= now.monotonic)
            {
                syncer.handle_timeout(now);
            }
            cluster.collect(now);
        }
    }

    fn deliver_one(&mut self, number: u8) {
        let (now, up) = (self.now(), self.answers(number));
        let Some(cluster) = self.clusters.get_mut(&number) else { return };
        cluster.tell_connection(up, now);
        let reaches = cluster.reaches_broker(up);
        let ready: Vec<(Place, Kind)> = cluster
            .streams
            .keys()
            .copied()
            .filter(|which| match which.0 {
                Place::Broker => reaches && cluster.pending(*which, &self.broker.records, now),
                Place::Here => cluster.pending(*which, &cluster.here, now),
            })
            .collect();
        let Some(which) = self.random.pick(&ready).copied() else { return };
        match which.0 {
            Place::Broker => cluster.deliver(which, &self.broker.records, now),
            Place::Here => {
                // The store is the cluster's own: it is lent out for the call.
                let here = std::mem::replace(&mut cluster.here, Store::new(Place::Here, None));
                cluster.deliver(which, &here, now);
                cluster.here = here;
            }
        }
        cluster.tell_connection(up, now);
        cluster.collect(now);
    }

    fn perform_one(&mut self, number: u8) -> Result<(), Violation> {
        let Some(cluster) = self.clusters.get(&number) else { return Ok(()) };
        let at = {
            let count = cluster.in_flight.len();
            if count == 0 {
                return Ok(());
            }
            self.random.below(count)
        };
        let Some(cluster) = self.clusters.get_mut(&number) else { return Ok(()) };
        let action = cluster.in_flight.remove(at);
        let now = self.now();
        self.trace.tell(now, || format!("c{number} writes {}", trace::action(&action)));
        check::before(self, number, &action)?;
        self.actions += 1;
        let result = self.perform(number, &action);
        if let Err(failure) = &result {
            self.trace.tell(now, || format!("  which failed: {failure}"));
        }
        let Some(cluster) = self.clusters.get_mut(&number) else { return Ok(()) };
        if let Some(syncer) = cluster.syncer.as_mut() {
            syncer.handle_action_done(action.id, result, now);
            if syncer.left() && cluster.standing == Standing::Leaving {
                cluster.standing = Standing::Left;
            }
        }
        cluster.collect(now);
        self.refresh_gateway(number);
        Ok(())
    }

    fn perform(&mut self, number: u8, action: &Action) -> Result<Option<Object>, Failure> {
        let now = self.now();
        let fail = |kind, message: String| Err(Failure { kind, message });
        match action.place() {
            Place::Here => {
                let Some(cluster) = self.clusters.get_mut(&number) else { return Ok(None) };
                cluster.here.perform(&action.reference, &action.verb, now.wall)
            }
            Place::Broker => {
                let reaches = self.clusters.get(&number).is_some_and(|c| c.linked) && self.answers(number);
                if !reaches {
                    return fail(FailureKind::Unreachable, "no route to the broker".to_owned());
                }
                if let Err(why) = self.admit(number, action) {
                    return fail(FailureKind::Refused, why);
                }
                // An answer may be lost after the write was done.
                let result = self.broker.records.perform(&action.reference, &action.verb, now.wall);
                if let (Verb::Create(Object::Heartbeat(_)) | Verb::Replace(Object::Heartbeat(_)), Ok(_)) =
                    (&action.verb, &result)
                    && let Some(cluster) = self.clusters.get_mut(&number)
                {
                    cluster.beat = now.monotonic;
                }
                if self.random.chance(3) {
                    return fail(FailureKind::Unreachable, "the answer was lost".to_owned());
                }
                result
            }
        }
    }

    /// What the broker's rights and admission allow.
    fn admit(&self, number: u8, action: &Action) -> Result<(), String> {
        let id = objects::id(number);
        let own = id.broker_namespace();
        if action.reference.namespace != own {
            return Err(format!("{} is not in {own}", action.reference));
        }
        let object = match &action.verb {
            Verb::Create(object) | Verb::Replace(object) | Verb::Status(object) => object,
            Verb::Delete { .. } => return Ok(()),
            Verb::Annotate { .. } => return Err(format!("{} is not the broker's to annotate", action.reference)),
        };
        let Some(member) = self.broker.member(&id) else {
            return Err(format!("{id} is no member"));
        };
        let refused = |refusal: policy::Refusal| refusal.to_string();
        match object {
            Object::Export(o) => policy::export(&id, &member.spec, object.name(), &o.spec).map_err(refused),
            Object::ExportEndpoints(o) => policy::endpoints(&id, &member.spec, object.name(), &o.spec).map_err(refused),
            Object::Cluster(o) => policy::cluster(&id, &member.spec, object.name(), &o.spec).map_err(refused),
            Object::Heartbeat(_) if object.name() == id.as_str() => Ok(()),
            _ => Err(format!("{} may not be written", object.reference(Place::Broker))),
        }
    }

    /// Whether the broker is up and takes the cluster's token.
    pub(crate) fn answers(&self, number: u8) -> bool {
        self.broker_up && self.clusters.get(&number).is_some_and(|cluster| cluster.known(&self.broker))
    }

    /// The cluster's gateway follows the Clusters that are mirrored there.
    pub(crate) fn refresh_gateway(&mut self, number: u8) {
        let now = self.now();
        // Whoever is no member has no gateway that would answer.
        let there: BTreeSet<u8> = self.clusters.values().filter(|c| c.standing == Standing::Member).map(|c| c.number).collect();
        let Some(cluster) = self.clusters.get_mut(&number) else { return };
        let remote = |o: &&Object| o.name() != cluster.id.as_str();
        let status = |other| {
            if !objects::can_meet(number, other) {
                ConnectionStatus::Connecting
            } else if there.contains(&other) && !self.paths_down.contains(&(number, other)) {
                ConnectionStatus::Connected
            } else {
                ConnectionStatus::Error
            }
        };
        let others: Vec<(u8, ConnectionStatus)> = cluster
            .here
            .list(Kind::Cluster)
            .filter(remote)
            .filter_map(|o| objects::number(o.name()))
            .map(|other| (other, status(other)))
            .collect();
        let node = cluster.here.get(Kind::Node, "", objects::node_name(number).as_str());
        let annotations = node.and_then(|node| node.metadata().annotations.as_ref());
        let address = annotations.and_then(|all| all.get(labels::NODE_ADDRESS)?.parse().ok());
        let wanted = Object::from(objects::gateway(&cluster.identity, address, &others));
        let had = cluster.here.get(Kind::Gateway, labels::SYSTEM_NAMESPACE, wanted.name());
        let same = matches!((had, &wanted), (Some(Object::Gateway(a)), Object::Gateway(b)) if a.status == b.status);
        if !same && cluster.standing == Standing::Member {
            cluster.here.put(wanted, now.wall);
        }
    }

    /// Everything heals, everything is delivered, time passes; then all must agree with the model.
    fn quiesce(&mut self) -> Result<(), Violation> {
        self.note("everything heals");
        self.heal();
        // Long enough for the membership of one that sleeps to run out.
        let seconds = if self.clusters.values().any(|c| c.asleep) { 800 } else { 420 };
        let until = self.clock + Duration::from_secs(seconds);
        // Who was refused is invited again, as long as there is time for what comes of it.
        let mut again = self.clock + Duration::from_secs(60);
        let retries = |at: Duration| at + Duration::from_secs(120) < until;
        while self.clock < until {
            self.drain()?;
            if retries(again) && self.clock >= again {
                again += Duration::from_secs(60);
                self.set_right();
                self.drain()?;
            }
            let syncers = self.clusters.values().filter_map(|c| c.syncer.as_ref()?.poll_timeout());
            let next = syncers.chain(self.registrar.deadline(self.now())).chain(retries(again).then_some(again)).min();
            let at = next.unwrap_or(until).clamp(self.clock + Duration::from_millis(1), until);
            let by = at.saturating_sub(self.clock);
            self.advance(by);
        }
        self.drain()?;
        check::quiet(self)?;
        membership::quiet(self)?;
        self.exempt = Exempt::default();
        (self.somebody_left, self.broker_forgot) = (false, false);
        let read = self.clusters.values().map(|c| c.read_upto(Place::Broker)).min().unwrap_or(0);
        self.broker.records.trim(read.min(self.registrar.read_upto()));
        self.registrar.trim(&mut self.broker);
        for cluster in self.clusters.values_mut() {
            let read = cluster.read_upto(Place::Here);
            cluster.here.trim(read);
        }
        self.wake();
        Ok(())
    }

    /// Delivers and performs until nothing is left to do at this time.
    fn drain(&mut self) -> Result<(), Violation> {
        for round in 0.. {
            let numbers: Vec<u8> = self.clusters.keys().copied().collect();
            if round == 0 {
                numbers.iter().for_each(|number| self.refresh_gateway(*number));
            }
            if self.is_quiet() {
                return Ok(());
            }
            if round > 20_000 {
                return Err(self.violation(format!("it never becomes quiet: {}", self.busy().join(", "))));
            }
            for &number in &numbers {
                self.deliver_one(number);
                self.perform_one(number)?;
            }
            self.registrar_hears();
            self.registrar_acts()?;
            self.joiner_steps()?;
        }
        Ok(())
    }

    /// Whether nothing is to be delivered or done.
    fn is_quiet(&self) -> bool {
        let running = || self.clusters.values().filter(|c| c.syncer.is_some());
        running().all(|c| c.in_flight.is_empty())
            && running().all(|c| self.pending(c).next().is_none())
            && self.registrar_is_quiet()
    }

    /// The cluster's watches that have something to deliver.
    fn pending<'a>(&'a self, cluster: &'a SimCluster) -> impl Iterator<Item = (Place, Kind)> + 'a {
        let (now, reaches) = (self.now(), cluster.reaches_broker(self.answers(cluster.number)));
        cluster.streams.keys().copied().filter(move |which| match which.0 {
            Place::Broker => reaches && cluster.pending(*which, &self.broker.records, now),
            Place::Here => cluster.pending(*which, &cluster.here, now),
        })
    }

    /// What there is still to deliver or to do, in words.
    fn busy(&self) -> Vec<String> {
        let mut list = self.busy_registrar();
        for cluster in self.clusters.values().filter(|c| c.syncer.is_some()) {
            list.extend(cluster.in_flight.iter().map(|action| format!("{}: {}", cluster.id, trace::action(action))));
            list.extend(self.pending(cluster).map(|which| format!("{}: watch of {which:?}", cluster.id)));
        }
        list
    }
}
