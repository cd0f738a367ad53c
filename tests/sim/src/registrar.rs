//! The registrar's process: the real machine, watches that lag, break and list again, and writes that fail or whose answer is
//! lost.

pub(crate) mod perform;
mod watch;

use std::time::Duration;

use daisy_api::Member;
use daisy_broker_core::registrar::{Action, Options, Outcome, Registrar};
use daisy_broker_core::time::Now;
use k8s_openapi::jiff::SignedDuration;

use crate::broker::Broker;
use crate::membership;
use crate::world::{Violation, World};
use watch::Watches;

/// How long a membership lasts without a heartbeat: short, so that a simulated sleep is.
pub(crate) const MEMBERSHIP: SignedDuration = SignedDuration::from_mins(10);
/// How long an answered request is kept.
pub(crate) const REQUEST_KEPT: SignedDuration = SignedDuration::from_mins(3);
/// How long an expired invitation is kept.
pub(crate) const INVITATION_KEPT: SignedDuration = SignedDuration::from_mins(10);

/// An action that is under way: which of its writes comes next, and what became of it.
pub(crate) struct Doing {
    pub(crate) action: Action,
    pub(crate) step: usize,
    /// The Member that it wrote.
    wrote: Option<Member>,
    /// Known here, and not yet told to the machine.
    outcome: Option<Outcome>,
}

/// The process that the registrar runs in.
#[derive(Default)]
pub(crate) struct Process {
    /// `None` while it is crashed.
    machine: Option<Registrar>,
    watches: Watches,
    pub(crate) doing: Option<Doing>,
    /// Nothing has happened since the machine had nothing to do.
    idle: bool,
}

impl Process {
    /// It begins anew, and knows nothing.
    pub(crate) fn start(&mut self, broker_id: &str) {
        let mut options = Options::new(broker_id);
        options.membership = MEMBERSHIP;
        options.reservation = REQUEST_KEPT;
        options.request_kept = REQUEST_KEPT;
        options.invitation_kept = INVITATION_KEPT;
        *self = Self { machine: Some(Registrar::new(options)), ..Self::default() };
    }

    /// It dies. What it was in the middle of stays half done.
    pub(crate) fn crash(&mut self) {
        *self = Self::default();
    }

    pub(crate) fn runs(&self) -> bool {
        self.machine.is_some()
    }

    /// Time has passed: it may have something to do.
    pub(crate) fn stir(&mut self) {
        self.idle = false;
    }

    /// The broker goes away beneath it, or comes back as another.
    pub(crate) fn cut(&mut self, now: Now) {
        if let Some(machine) = &mut self.machine {
            machine.handle_blind(now.wall);
            self.watches.break_all(machine, now);
        }
        if let Some(doing) = &mut self.doing {
            doing.outcome.get_or_insert(Outcome::Failed);
        }
        self.idle = false;
    }

    /// One watch goes quiet, without ending. Which, in words.
    pub(crate) fn hold(&mut self, which: usize, until: Duration) -> &'static str {
        self.watches.hold(which, until)
    }

    /// No watch is held back any more.
    pub(crate) fn release(&mut self) {
        for which in 0..Watches::COUNT {
            self.watches.hold(which, Duration::ZERO);
        }
    }

    /// Whether it has asked for a list of Members that is not answered yet.
    pub(crate) fn asks_for_members(&self) -> bool {
        self.watches.ask_for_members()
    }

    /// When it is to be polled again.
    pub(crate) fn deadline(&self, now: Now) -> Option<Duration> {
        let at = self.machine.as_ref()?.poll_deadline(now.wall);
        Some(now.monotonic + at.duration_since(now.wall).unsigned_abs())
    }

    /// How far its watches of the records have read.
    pub(crate) fn read_upto(&self) -> u64 {
        self.watches.read_upto()
    }

    pub(crate) fn trim(&self, broker: &mut Broker) {
        self.watches.trim(broker);
    }
}

impl World {
    /// The registrar hears of one thing, or begins to list. While an action is under way it listens to nothing: it is one task.
    pub(crate) fn registrar_hears(&mut self) {
        if !self.broker_up || self.registrar.doing.is_some() {
            return;
        }
        let now = self.now();
        let Process { machine: Some(machine), watches, idle, .. } = &mut self.registrar else { return };
        let ready: Vec<usize> = (0..Watches::COUNT).filter(|which| watches.pending(*which, &self.broker, now)).collect();
        let Some(which) = self.random.pick(&ready) else { return };
        let what = watches.deliver(*which, machine, &self.broker, now);
        *idle = false;
        self.trace.tell(now, || format!("the registrar hears {what}"));
    }

    /// The registrar begins an action, does one write of it, or takes in what became of it.
    pub(crate) fn registrar_acts(&mut self) -> Result<(), Violation> {
        let now = self.now();
        let Some(machine) = &mut self.registrar.machine else { return Ok(()) };
        let Some(doing) = &mut self.registrar.doing else {
            let action = machine.poll_action(now.wall);
            self.registrar.idle = action.is_none();
            if let Some(action) = action {
                self.trace.tell(now, || format!("the registrar decides on {}", watch::in_a_line(&action)));
                self.registrar.doing = Some(Doing { action, step: 0, wrote: None, outcome: None });
            }
            return Ok(());
        };
        if let Some(outcome) = doing.outcome.take() {
            self.trace.tell(now, || format!("the registrar's action is over: {}", watch::outcome_in_a_line(&outcome)));
            machine.handle_outcome(outcome, now.wall);
            (self.registrar.doing, self.registrar.idle) = (None, false);
            return Ok(());
        }
        self.registrar_writes()
    }

    /// One write of the action under way; it may fail, with or without having been done.
    fn registrar_writes(&mut self) -> Result<(), Violation> {
        let Some(mut doing) = self.registrar.doing.take() else { return Ok(()) };
        let fate = self.random.below(100);
        let fails_before = !self.broker_up || fate < 3;
        if fails_before {
            doing.outcome = Some(Outcome::Failed);
        } else {
            membership::before(self, &doing)?;
            let done = perform::write(self, &mut doing);
            self.actions += 1;
            if done.is_ok() {
                membership::after(self, &doing)?;
            }
            doing.step += 1;
            doing.outcome = match (done, fate < 6) {
                (Err(()), _) | (Ok(_), true) => Some(Outcome::Failed),
                (Ok(outcome), false) => outcome,
            };
        }
        self.registrar.doing = Some(doing);
        Ok(())
    }

    /// Whether the registrar, and who joins, have nothing to do now.
    pub(crate) fn registrar_is_quiet(&self) -> bool {
        let now = self.now();
        let Process { watches, doing, idle, .. } = &self.registrar;
        let hears = || self.broker_up && (0..Watches::COUNT).any(|which| watches.pending(which, &self.broker, now));
        let quiet = !self.registrar.runs() || (doing.is_none() && *idle && !hears());
        quiet && !self.joiners.iter().any(|joiner| self.may_step(joiner))
    }

    /// The same in words: what there is to do.
    pub(crate) fn busy_registrar(&self) -> Vec<String> {
        let now = self.now();
        let mut list: Vec<String> = self.joiners.iter().filter(|joiner| self.may_step(joiner)).map(|j| j.to_string()).collect();
        if !self.registrar.runs() {
            return list;
        }
        if let Some(doing) = &self.registrar.doing {
            list.push(format!("the registrar: {}", watch::in_a_line(&doing.action)));
        }
        let heard = |which: &usize| self.broker_up && self.registrar.watches.pending(*which, &self.broker, now);
        list.extend((0..Watches::COUNT).filter(heard).map(|which| format!("the registrar: watch {which}")));
        if list.is_empty() && !self.registrar.idle {
            list.push("the registrar was not asked".to_owned());
        }
        list
    }

    /// The registrar's process dies, or comes back.
    pub(crate) fn toggle_registrar(&mut self) {
        if self.registrar.runs() {
            let under_way = self.registrar.doing.as_ref().map(|doing| (watch::in_a_line(&doing.action), doing.step));
            self.registrar.crash();
            self.note(match under_way {
                Some((action, step)) => format!("the registrar crashes after {step} writes of: {action}"),
                None => "the registrar crashes".to_owned(),
            });
        } else {
            self.registrar.start(&self.broker.id);
            self.note("the registrar starts");
        }
    }

    /// One of the registrar's watches goes quiet for a while.
    pub(crate) fn stale_registrar(&mut self) {
        let until = self.clock + Duration::from_secs(self.random.next() % 90);
        let which = self.random.below(Watches::COUNT);
        let what = self.registrar.hold(which, until);
        self.note(format!("the registrar's watch of {what} is stale until {:.1} s", until.as_secs_f64()));
    }
}
