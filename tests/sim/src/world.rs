//! The world: clusters, broker, clock, and the order in which things happen.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::time::Duration;

use daisy_api::{Grant, ServiceKey, labels};
use daisy_broker_core::object::{Kind, Object, Place};
use daisy_broker_core::policy;
use daisy_broker_core::syncer::{Action, Failure, FailureKind, Verb};
use daisy_broker_core::time::Now;

use crate::check;
use crate::cluster::{SimCluster, Standing};
use crate::model::Grants;
use crate::objects;
use crate::random::Random;
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
    pub(crate) broker: Store,
    pub(crate) broker_up: bool,
    pub(crate) backup: Option<Store>,
    pub(crate) clusters: BTreeMap<u8, SimCluster>,
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
    trace: Trace,
    step: u32,
    actions: u64,
}

impl World {
    pub(crate) fn new(seed: u64, trace: Trace) -> Self {
        let mut world = Self {
            seed,
            random: Random::new(seed),
            clock: Duration::from_secs(1_000),
            broker: Store::new(Place::Broker, [0, 0]),
            broker_up: true,
            backup: None,
            clusters: BTreeMap::new(),
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
        history.extend(self.broker.objects().map(|o| format!("broker has {}", o.reference(Place::Broker))));
        Violation { seed: self.seed, step: self.step, what: what.into(), history, trace: self.trace.lines() }
    }

    /// A new cluster joins, with a grant.
    pub(crate) fn join(&mut self) {
        let number = self.clusters.keys().last().map_or(1, |last| last + 1);
        let grant: Grant = match self.random.below(4) {
            0 => Grant::none(),
            1 => "shop-*,web".parse().unwrap_or_default(),
            _ => Grant::all(),
        };
        let now = self.now();
        self.grants.set(number, grant.clone());
        self.broker.put(objects::member(number, grant).into(), now.wall);
        self.clusters.insert(number, SimCluster::new(number, now, self.trace.clone()));
        self.note(format!("c{number} joins"));
    }

    /// Runs the seed to its end.
    pub(crate) fn run(mut self, steps: u32) -> Result<u64, Violation> {
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
        match self.random.below(10) {
            0..=4 => self.deliver_one(number),
            5..=7 => self.perform_one(number)?,
            8 => {
                let by = Duration::from_millis(self.random.next() % 2_000);
                self.advance(by);
            }
            _ => self.registrar(),
        }
        Ok(())
    }

    /// Time passes; whoever waited for it is told.
    fn advance(&mut self, by: Duration) {
        self.clock += by;
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
        let (now, up) = (self.now(), self.broker_up);
        let Some(cluster) = self.clusters.get_mut(&number) else { return };
        cluster.tell_connection(up, now);
        let reaches = cluster.reaches_broker(up);
        let ready: Vec<(Place, Kind)> = cluster
            .streams
            .keys()
            .copied()
            .filter(|which| match which.0 {
                Place::Broker => reaches && cluster.pending(*which, &self.broker, now),
                Place::Here => cluster.pending(*which, &cluster.here, now),
            })
            .collect();
        let Some(which) = self.random.pick(&ready).copied() else { return };
        match which.0 {
            Place::Broker => cluster.deliver(which, &self.broker, now),
            Place::Here => {
                // The store is the cluster's own: it is lent out for the call.
                let here = std::mem::replace(&mut cluster.here, Store::new(Place::Here, [0, 0]));
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
                let reaches = self.clusters.get(&number).is_some_and(|c| c.reaches_broker(self.broker_up));
                if !reaches {
                    return fail(FailureKind::Unreachable, "no route to the broker".to_owned());
                }
                if let Err(why) = self.admit(number, action) {
                    return fail(FailureKind::Refused, why);
                }
                // An answer may be lost after the write was done.
                let result = self.broker.perform(&action.reference, &action.verb, now.wall);
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
        let Some(Object::Member(member)) = self.broker.get(Kind::Member, labels::BROKER_NAMESPACE, id.as_str()) else {
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

    /// The registrar ends the membership of those who leave.
    pub(crate) fn registrar(&mut self) {
        if !self.broker_up {
            return;
        }
        let leaving = |o: &Object| matches!(o, Object::Cluster(c) if c.spec.leaving);
        let gone: Vec<String> = self.broker.list(Kind::Cluster).filter(|o| leaving(o)).map(|o| o.name().to_owned()).collect();
        for name in gone {
            self.note(format!("the registrar ends {name}'s membership"));
            self.broker.remove(Kind::Member, labels::BROKER_NAMESPACE, &name);
            let namespace = format!("{}{name}", labels::BROKER_CLUSTER_NAMESPACE_PREFIX);
            let records: Vec<(Kind, String)> =
                self.broker.objects().filter(|o| o.namespace() == namespace).map(|o| (o.kind(), o.name().to_owned())).collect();
            for (kind, record) in records {
                self.broker.remove(kind, &namespace, &record);
            }
        }
    }

    /// The cluster's gateway follows the Clusters that are mirrored there.
    pub(crate) fn refresh_gateway(&mut self, number: u8) {
        let now = self.now();
        // Whoever left has no gateway that would answer.
        let gone: BTreeSet<u8> = self.clusters.values().filter(|c| c.standing != Standing::Member).map(|c| c.number).collect();
        let Some(cluster) = self.clusters.get_mut(&number) else { return };
        let remote = |o: &&Object| o.name() != cluster.id.as_str();
        let others: Vec<(u8, bool)> = cluster
            .here
            .list(Kind::Cluster)
            .filter(remote)
            .filter_map(|o| o.name().strip_prefix('c')?.parse::<u8>().ok())
            .map(|other| (other, !gone.contains(&other) && !self.paths_down.contains(&(number, other))))
            .collect();
        let wanted = Object::from(objects::gateway(number, &others));
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
        let until = self.clock + Duration::from_secs(420);
        while self.clock < until {
            self.drain()?;
            let next = self.clusters.values().filter_map(|c| c.syncer.as_ref()?.poll_timeout()).min();
            let at = next.unwrap_or(until).clamp(self.clock + Duration::from_millis(1), until);
            let by = at.saturating_sub(self.clock);
            self.advance(by);
        }
        self.drain()?;
        check::quiet(self)?;
        self.exempt = Exempt::default();
        (self.somebody_left, self.broker_forgot) = (false, false);
        let read = self.clusters.values().map(|c| c.read_upto(Place::Broker)).min().unwrap_or(0);
        self.broker.trim(read);
        for cluster in self.clusters.values_mut() {
            let read = cluster.read_upto(Place::Here);
            cluster.here.trim(read);
        }
        Ok(())
    }

    /// Delivers and performs until nothing is left to do at this time.
    fn drain(&mut self) -> Result<(), Violation> {
        let numbers: Vec<u8> = self.clusters.keys().copied().collect();
        for &number in &numbers {
            self.refresh_gateway(number);
        }
        for round in 0.. {
            let before = self.busy();
            if before.is_empty() {
                return Ok(());
            }
            if round > 20_000 {
                return Err(self.violation(format!("it never becomes quiet: {}", before.join(", "))));
            }
            for &number in &numbers {
                self.deliver_one(number);
                self.perform_one(number)?;
            }
            self.registrar();
        }
        Ok(())
    }

    /// What there is still to deliver or to do.
    fn busy(&self) -> Vec<String> {
        let (now, up) = (self.now(), self.broker_up);
        let mut list = Vec::new();
        for cluster in self.clusters.values().filter(|c| c.syncer.is_some()) {
            if let Some(action) = cluster.in_flight.first() {
                list.push(format!("{}: {:?}", cluster.id, action.verb).chars().take(300).collect());
            }
            let reaches = cluster.reaches_broker(up);
            for which in cluster.streams.keys() {
                let pending = match which.0 {
                    Place::Broker => reaches && cluster.pending(*which, &self.broker, now),
                    Place::Here => cluster.pending(*which, &cluster.here, now),
                };
                if pending {
                    list.push(format!("{}: watch of {:?}", cluster.id, which));
                }
            }
        }
        list
    }
}
