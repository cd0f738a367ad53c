use proptest::prelude::*;

use super::*;

const INCARNATION: u64 = 7;

fn at(millis: u64) -> Moment {
    Moment::from_micros(millis * 1_000)
}

fn health() -> Health {
    Health::new(Intervals::default(), INCARNATION)
}

/// Runs from `from` to `to`, a millisecond at a time; `answers` says after how long each probe is answered. Returns the moments of
/// probes and of changes.
fn run(
    health: &mut Health,
    (from, to): (u64, u64),
    answers: impl Fn(u64) -> Option<u64>,
) -> (Vec<u64>, Vec<(u64, ConnectionStatus)>) {
    let (mut probes, mut changes, mut replies) = (Vec::new(), Vec::new(), Vec::<(u64, Probe)>::new());
    for millis in from..to {
        let now = at(millis);
        let mut changed = health.handle_timeout(now);
        while let Some(at) = replies.iter().position(|(due, _)| *due <= millis) {
            let (_, reply) = replies.remove(at);
            changed |= health.handle_reply(now, &reply);
        }
        while let Some(probe) = health.poll_probe(now) {
            probes.push(millis);
            if let Some(after) = answers(millis) {
                replies.push((millis + after, probe.reply(1).expect("a request")));
            }
        }
        if changed {
            changes.push((millis, health.status()));
        }
    }
    (probes, changes)
}

#[test]
fn comes_up_with_the_first_reply_and_then_probes_at_the_idle_interval() {
    let mut health = health();
    assert_eq!(health.poll_probe(at(0)), None, "no session, no probe");
    health.handle_session(at(0));
    let (probes, changes) = run(&mut health, (0, 5_000), |_| Some(2));
    assert_eq!(changes, [(2, ConnectionStatus::Connected)]);
    assert_eq!(probes, [0, 1_000, 2_000, 3_000, 4_000]);
    assert_eq!(health.round_trip().expect("measured").average_micros, 2_000);
}

#[test]
fn an_idle_connection_that_stops_answering_is_found_within_a_second_and_a_half_of_the_next_probe() {
    let mut health = health();
    health.handle_session(at(0));
    run(&mut health, (0, 3_500), |_| Some(2));
    let (_, changes) = run(&mut health, (3_500, 8_000), |_| None);
    let [(when, ConnectionStatus::Error)] = changes[..] else { panic!("{changes:?}") };
    assert!((4_000..4_500).contains(&when), "{when}");
}

#[test]
fn an_active_connection_that_stops_answering_is_found_within_half_a_second() {
    let mut health = health();
    health.handle_session(at(0));
    run(&mut health, (0, 1_500), |_| Some(2));
    health.handle_data(at(1_500), true, true);
    run(&mut health, (1_500, 2_000), |_| Some(2));
    let (probes, changes) = run(&mut health, (2_000, 4_000), |_| None);
    assert!(probes[1] - probes[0] <= 30);
    let [(when, ConnectionStatus::Error)] = changes[..] else { panic!("{changes:?}") };
    assert!((2_300..2_500).contains(&when), "{when}");
}

#[test]
fn data_is_life_but_not_forever() {
    let mut health = health();
    health.handle_session(at(0));
    run(&mut health, (0, 1_000), |_| Some(2));
    let (mut probes, mut changes) = (0, Vec::new());
    for millis in (1_000..12_000).step_by(10) {
        health.handle_data(at(millis), true, false);
        let (sent, changed) = run(&mut health, (millis, millis + 10), |_| None);
        if changes.is_empty() {
            probes += sent.len();
        }
        changes.extend(changed);
    }
    assert!((4..=8).contains(&probes), "data spares probes: {probes}");
    let [(when, ConnectionStatus::Error)] = changes[..] else { panic!("{changes:?}") };
    assert!((5_000..6_200).contains(&when), "one direction alone is no connection: {when}");
}

#[test]
fn a_slow_path_is_no_dead_path() {
    let mut health = health();
    health.handle_session(at(0));
    run(&mut health, (0, 10_000), |_| Some(700));
    health.handle_data(at(10_000), false, true);
    let (probes, changes) = run(&mut health, (10_000, 15_000), |_| Some(700));
    assert!(probes.len() > 100, "probed at the active interval");
    assert_eq!(changes, [], "and up all the time");
    assert_eq!(health.status(), ConnectionStatus::Connected);
}

#[test]
fn replies_to_probes_from_before_the_error_do_not_bring_it_up() {
    let mut health = health();
    health.handle_session(at(0));
    run(&mut health, (0, 1_000), |_| Some(1));
    let late = health.poll_probe(at(1_000)).expect("due").reply(1).expect("a request");
    assert!(health.handle_session_ended());
    assert_eq!(health.status(), ConnectionStatus::Error);
    health.handle_session(at(1_100));
    assert!(!health.handle_reply(at(1_100), &late));
    let fresh = health.poll_probe(at(1_100)).expect("a new session is probed at once").reply(1).expect("a request");
    assert!(health.handle_reply(at(1_101), &fresh));
    assert!(!health.handle_reply(at(1_101), &fresh), "once only");
}

#[test]
fn after_a_burst_an_unanswered_session_is_probed_slowly() {
    let mut health = health();
    health.handle_session(at(0));
    let (probes, changes) = run(&mut health, (0, 10_000), |_| None);
    assert_eq!(changes, []);
    assert!((18..=26).contains(&probes.len()), "{}", probes.len());
}

#[test]
fn intervals_keep_their_bounds() {
    let odd = Intervals { idle: Duration::from_secs(60), active: Duration::ZERO, active_for: Duration::ZERO, misses: 0 };
    let clamped = odd.clamped();
    assert_eq!((clamped.idle, clamped.active, clamped.misses), (Duration::from_secs(5), Duration::from_millis(5), 2));
}

#[derive(Clone, Debug)]
enum Step {
    Wait(u16),
    Session,
    SessionEnded,
    Data(bool, bool),
    Answer(u8),
    Forge(u64, u64),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u16..2_000).prop_map(Step::Wait),
        1 => Just(Step::Session),
        1 => Just(Step::SessionEnded),
        2 => any::<(bool, bool)>().prop_map(|(received, sent)| Step::Data(received, sent)),
        4 => any::<u8>().prop_map(Step::Answer),
        1 => (0u64..3, 0u64..300).prop_map(|(incarnation, sequence)| Step::Forge(INCARNATION + incarnation, sequence)),
    ]
}

proptest! {
    #[test]
    fn never_up_without_a_fresh_reply(steps in prop::collection::vec(any_step(), 1..120)) {
        let mut health = health();
        let mut millis = 0;
        let mut unanswered: Vec<Probe> = Vec::new();
        // The model: how many probes were ever sent, how many of them before it was last in error, when one was last answered.
        let (mut sent_ever, mut sent_before_error, mut answered) = (0, 0, None);
        for step in steps {
            let mut answers = None;
            let was = health.status();
            match step {
                Step::Wait(span) => millis += u64::from(span),
                Step::Session => health.handle_session(at(millis)),
                Step::SessionEnded => { health.handle_session_ended(); }
                Step::Data(received, sent) => health.handle_data(at(millis), received, sent),
                Step::Answer(which) => {
                    if !unanswered.is_empty() {
                        let probe = unanswered.remove(usize::from(which) % unanswered.len());
                        health.handle_reply(at(millis), &probe.reply(1).expect("a request"));
                        (answers, answered) = (Some(probe.sequence), Some(millis));
                    }
                }
                Step::Forge(incarnation, sequence) => {
                    if incarnation != INCARNATION || !unanswered.iter().any(|probe| probe.sequence == sequence) {
                        let forged = Probe { kind: ProbeKind::Reply, incarnation, sequence, sent: 0, responder: 0 };
                        prop_assert!(!health.handle_reply(at(millis), &forged));
                    }
                }
            }
            if was != ConnectionStatus::Connected && health.status() == ConnectionStatus::Connected {
                prop_assert!(answers.is_some_and(|sequence| sequence >= sent_before_error));
            }
            health.handle_timeout(at(millis));
            if was == ConnectionStatus::Connected && health.status() != ConnectionStatus::Connected {
                sent_before_error = sent_ever;
            }
            let probes: Vec<Probe> = std::iter::from_fn(|| health.poll_probe(at(millis))).collect();
            sent_ever += u64::try_from(probes.len()).expect("few");
            unanswered.extend(probes);
            prop_assert!(health.poll_timeout(at(millis)).is_none_or(|next| next > at(millis)), "would be called without end");
            if health.status() == ConnectionStatus::Connected {
                let answered = answered.expect("up without a reply");
                prop_assert!(millis - answered < 7_001, "up {} ms after the last reply", millis - answered);
            }
        }
    }
}
