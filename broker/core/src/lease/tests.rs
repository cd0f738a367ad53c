//! One API server, some replicas, a network that delays and loses, clocks that disagree about the time of day.

use jiff::SignedDuration;
use proptest::prelude::*;

use super::*;

const TIMING: Timing =
    Timing { duration: Duration::from_secs(15), deadline: Duration::from_secs(10), retry: Duration::from_secs(2) };

/// The API server, as far as one Lease goes.
#[derive(Default)]
struct Server {
    lease: Option<Lease>,
    version: u64,
}

impl Server {
    fn answer(&mut self, ask: Ask) -> Answer {
        let version = |lease: &Lease| lease.metadata.resource_version.clone();
        match (ask, &self.lease) {
            (Ask::Read, Some(lease)) => Answer::Lease(Box::new(lease.clone())),
            (Ask::Read | Ask::Replace(_), None) => Answer::Absent,
            (Ask::Create(_), Some(_)) => Answer::Conflict,
            (Ask::Create(lease), None) => self.put(*lease),
            (Ask::Replace(lease), Some(had)) if version(&lease) == version(had) => self.put(*lease),
            (Ask::Replace(_), Some(_)) => Answer::Conflict,
        }
    }

    fn put(&mut self, mut lease: Lease) -> Answer {
        self.version += 1;
        lease.metadata.resource_version = Some(self.version.to_string());
        self.lease = Some(lease.clone());
        Answer::Lease(Box::new(lease))
    }

    fn holder(&self) -> Option<&str> {
        self.lease.as_ref()?.spec.as_ref()?.holder_identity.as_deref().filter(|holder| !holder.is_empty())
    }
}

struct Replica {
    elector: Elector,
    /// How far its time of day is off, in seconds.
    skew: i64,
    /// A request on its way, and an answer on its way back, with the times they arrive.
    going: Option<(Duration, Ask)>,
    coming: Option<(Duration, Answer)>,
    /// Until when requests and answers get lost.
    cut: Duration,
}

impl Replica {
    fn new(identity: &str, skew: i64, at: Duration) -> Self {
        let elector = Elector::new("daisy-syncer", identity, TIMING, now(at, skew));
        Self { elector, skew, going: None, coming: None, cut: Duration::ZERO }
    }

    fn writes(&self, at: Duration) -> bool {
        self.elector.writes_until(now(at, self.skew)).is_some()
    }
}

fn now(at: Duration, skew: i64) -> Now {
    let mut now = Now::at(at);
    now.wall = now.wall.checked_add(SignedDuration::from_secs(skew)).expect("a time");
    now
}

#[derive(Clone, Debug)]
enum Happening {
    /// One replica's requests and answers get lost for so many milliseconds.
    Cut(usize, u64),
    /// A replica's process ends without a word; the next has its identity, or another.
    Crash(usize, bool),
    /// A replica is told to stop: it gives the lease back. Another takes its place.
    Stop(usize),
}

struct World {
    server: Server,
    replicas: Vec<Replica>,
    at: Duration,
    /// How long a request, or an answer, is on its way.
    delay: Duration,
    made: usize,
}

impl World {
    fn new(replicas: usize, delay: u64) -> Self {
        let mut world = Self {
            server: Server::default(),
            replicas: Vec::new(),
            at: Duration::ZERO,
            delay: Duration::from_millis(delay),
            made: 0,
        };
        for _ in 0..replicas {
            let replica = world.another();
            world.replicas.push(replica);
        }
        world
    }

    fn another(&mut self) -> Replica {
        self.made += 1;
        let skew = [0, 3_600, -7_200, 86_400][self.made % 4];
        Replica::new(&format!("replica-{}", self.made), skew, self.at)
    }

    fn writers(&self) -> Vec<usize> {
        (0..self.replicas.len()).filter(|index| self.replicas[*index].writes(self.at)).collect()
    }

    /// 50 ms pass.
    fn tick(&mut self) {
        self.at += Duration::from_millis(50);
        for replica in &mut self.replicas {
            let (here, cut) = (now(self.at, replica.skew), self.at < replica.cut);
            if replica.going.as_ref().is_some_and(|(at, _)| *at <= self.at)
                && let Some((_, ask)) = replica.going.take()
            {
                let answer = if cut { Answer::Failed } else { self.server.answer(ask) };
                replica.coming = Some((self.at + self.delay, answer));
            }
            if replica.coming.as_ref().is_some_and(|(at, _)| *at <= self.at)
                && let Some((_, answer)) = replica.coming.take()
            {
                replica.elector.handle_answer(if cut { Answer::Failed } else { answer }, here);
            }
            if let Some(ask) = replica.elector.poll_ask(here) {
                replica.going = Some((self.at + self.delay, ask));
            }
        }
        let writers = self.writers();
        assert!(writers.len() <= 1, "{writers:?} write at {:?}", self.at);
        if let Some(writer) = writers.first() {
            let elector = &self.replicas[*writer].elector;
            assert_eq!(self.server.holder(), Some(elector.identity.as_str()), "the writer holds the lease");
        }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.at + time;
        while self.at < end {
            self.tick();
        }
    }

    fn happen(&mut self, happening: &Happening) {
        match *happening {
            Happening::Cut(which, millis) => {
                let index = which % self.replicas.len();
                self.replicas[index].cut = self.at + Duration::from_millis(millis);
            }
            Happening::Crash(which, same) => {
                let index = which % self.replicas.len();
                let mut new = self.another();
                if same {
                    let old = &self.replicas[index].elector.identity;
                    new.elector = Elector::new("daisy-syncer", old, TIMING, now(self.at, new.skew));
                }
                self.replicas[index] = new;
            }
            Happening::Stop(which) => {
                let index = which % self.replicas.len();
                let replica = &mut self.replicas[index];
                let here = now(self.at, replica.skew);
                // The shell waits for what is under way; here that is cut short.
                if replica.elector.asked.is_none()
                    && let Some(ask) = replica.elector.release(here)
                {
                    self.server.answer(ask);
                }
                self.replicas[index] = self.another();
            }
        }
    }
}

#[test]
fn a_single_replica_writes_after_two_round_trips() {
    let mut world = World::new(1, 0);
    world.pass(Duration::from_millis(250));
    assert_eq!(world.writers(), [0]);
    world.pass(Duration::from_secs(3600));
    assert_eq!(world.writers(), [0]);
    let spec = world.server.lease.as_ref().and_then(|lease| lease.spec.clone()).expect("a Lease");
    assert_eq!(spec.lease_transitions, Some(1));
    assert!(world.server.version < 3600, "one renewal each two seconds at most: {}", world.server.version);
}

#[test]
fn a_container_that_starts_again_goes_on_at_once() {
    let mut world = World::new(2, 0);
    world.pass(Duration::from_secs(5));
    let writer = world.writers()[0];
    world.happen(&Happening::Crash(writer, true));
    world.pass(Duration::from_millis(250));
    assert_eq!(world.writers(), [writer]);
}

#[test]
fn a_lease_given_back_is_taken_at_the_next_look() {
    let mut world = World::new(2, 0);
    world.pass(Duration::from_secs(5));
    let writer = world.writers()[0];
    world.happen(&Happening::Stop(writer));
    assert!(world.writers().is_empty(), "it writes no more");
    world.pass(TIMING.retry + Duration::from_millis(250));
    assert_eq!(world.writers().len(), 1);
}

#[test]
fn a_lease_that_runs_out_is_taken_then() {
    let mut world = World::new(2, 0);
    world.pass(Duration::from_secs(5));
    let writer = world.writers()[0];
    world.replicas[writer].cut = Duration::MAX;
    world.pass(TIMING.deadline + Duration::from_millis(100));
    assert!(world.writers().is_empty(), "it stopped before anybody could take it");
    world.pass(TIMING.duration - TIMING.deadline + Duration::from_millis(500));
    assert_eq!(world.writers(), [1 - writer]);
    // Back again, it waits for its turn.
    world.replicas[writer].cut = Duration::ZERO;
    world.pass(Duration::from_secs(60));
    assert_eq!(world.writers(), [1 - writer]);
}

#[test]
fn a_lost_answer_loses_nothing() {
    let mut world = World::new(1, 0);
    world.pass(Duration::from_secs(5));
    for _ in 0..100 {
        world.tick();
        if let Some((_, answer)) = &mut world.replicas[0].coming {
            *answer = Answer::Failed;
            break;
        }
    }
    for _ in 0..200 {
        world.tick();
        assert_eq!(world.writers(), [0]);
    }
}

#[test]
fn a_lease_deleted_under_its_holder_is_made_again() {
    let mut world = World::new(2, 0);
    world.pass(Duration::from_secs(5));
    let writer = world.writers()[0];
    // In one step the holder would be the writer of a lease that is not there: only what comes of it counts here.
    world.server.lease = None;
    for _ in 0..100 {
        world.at += Duration::from_millis(50);
        for replica in &mut world.replicas {
            let here = now(world.at, replica.skew);
            if let Some(ask) = replica.elector.poll_ask(here) {
                let answer = world.server.answer(ask);
                replica.elector.handle_answer(answer, here);
            }
        }
        assert!(world.writers().len() <= 1);
    }
    assert_eq!(world.writers(), [writer], "who held it has it again; the other knew that it was held");
}

#[test]
fn who_never_gets_an_answer_never_writes() {
    let mut world = World::new(1, 0);
    world.replicas[0].cut = Duration::MAX;
    world.pass(Duration::from_secs(600));
    assert!(world.writers().is_empty());
}

fn happenings() -> impl Strategy<Value = Vec<(u64, Happening)>> {
    let one = prop_oneof![
        3 => (0usize..3, 1u64..40_000).prop_map(|(which, millis)| Happening::Cut(which, millis)),
        1 => (0usize..3, any::<bool>()).prop_map(|(which, same)| Happening::Crash(which, same)),
        1 => (0usize..3).prop_map(Happening::Stop),
    ];
    prop::collection::vec((50u64..20_000, one), 0..12)
}

proptest! {
    /// Whatever gets lost, is late, crashes or stops: at most one writes (asserted at every step); and once all is well, one does.
    #[test]
    fn at_most_one_writes_and_in_the_end_one_does(count in 1usize..4, delay in 0u64..2_500, happenings in happenings()) {
        let mut world = World::new(count, delay);
        for (pause, happening) in &happenings {
            world.pass(Duration::from_millis(*pause));
            world.happen(happening);
        }
        for replica in &mut world.replicas {
            replica.cut = Duration::ZERO;
        }
        world.pass(TIMING.duration + TIMING.retry * 4 + Duration::from_millis(delay * 12));
        prop_assert_eq!(world.writers().len(), 1);
        let writer = world.writers();
        world.pass(Duration::from_secs(60));
        prop_assert_eq!(world.writers(), writer, "and nobody takes it from who renews it");
    }
}
