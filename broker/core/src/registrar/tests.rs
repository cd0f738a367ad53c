mod half_done;
mod store;

use proptest::prelude::*;

use super::*;
use store::{Asker, BROKER, Broker, cidr, id};

fn broker() -> Broker {
    let mut broker = Broker::new();
    broker.invite("first", "all", 10);
    broker.settle();
    broker
}

fn staging() -> Asker {
    Asker::new("staging", "10.244.0.0/16", "10.96.0.0/16")
}

fn hours(hours: i64) -> SignedDuration {
    SignedDuration::from_hours(hours)
}

#[test]
fn the_first_to_ask_is_admitted() {
    let mut broker = broker();
    let status = broker.answer(&staging());
    assert_eq!((status.phase, status.reason.as_str()), (JoinPhase::Admitted, "Admitted"), "{}", status.message);
    let member = &broker.members[&id("staging")];
    assert_eq!(member.spec.node_cidr, cidr("100.80.0.0/20"));
    assert_eq!(member.spec.grant.to_string(), "all");
    assert_eq!(broker.invitations["first"].status.as_ref().map(|status| status.used), Some(1));
    assert!(broker.namespaces.contains_key(&id("staging")));
    // Told again, nothing more is to be done.
    let before = broker.actions.len();
    broker.relist();
    broker.settle();
    assert_eq!(broker.actions.len(), before);
    broker.restart();
    broker.settle();
    assert_eq!(broker.actions.len(), before);
}

#[test]
fn an_overlap_names_both_and_offers_what_is_free() {
    let mut broker = broker();
    broker.answer(&staging());
    let local = Asker { uid: "another", ..Asker::new("local", "10.244.0.0/16", "10.97.0.0/16") };
    let status = broker.answer(&local);
    assert_eq!((status.phase, status.reason.as_str()), (JoinPhase::Refused, "CidrOverlap"));
    for part in ["local", "staging", "10.244.0.0/16", "--clustercidr 10.2.0.0/16 --servicecidr 10.97.0.0/16", "kind-config"] {
        assert!(status.message.contains(part), "{part}: {}", status.message);
    }
    let offer = status.ranges.expect("an offer");
    assert_eq!((offer.cluster_cidrs, offer.service_cidrs), (vec![cidr("10.2.0.0/16")], vec![cidr("10.97.0.0/16")]));
    assert_eq!(broker.members.len(), 1);
    // What was offered is taken.
    let status = broker.answer(&Asker { pods: vec![cidr("10.2.0.0/16")], ..local });
    assert_eq!(status.phase, JoinPhase::Admitted, "{}", status.message);
}

#[test]
fn the_same_id_of_another_cluster_needs_replace_and_a_fresh_invitation() {
    let mut broker = broker();
    broker.answer(&staging());
    let other = Asker { uid: "made-anew", key: 5, ..staging() };
    let status = broker.answer(&other);
    assert_eq!(status.reason, "ClusterIdInUse", "{}", status.message);
    let status = broker.answer(&Asker { replace: true, ..other.clone() });
    assert_eq!(status.reason, "ReplaceNeedsFreshInvitation", "{}", status.message);
    broker.pass(hours(1));
    broker.invite("developers", "none", 10);
    let status = broker.answer(&Asker { replace: true, invitation: "developers", ..other.clone() });
    assert_eq!(status.reason, "ReplaceNeedsGrant", "{}", status.message);
    let before = broker.members[&id("staging")].uid();
    broker.invite("second", "all", 1);
    // Nothing is done to the present member for a request that is refused for something else.
    broker.answer(&Asker { invitation: "second", ..Asker::new("third", "10.3.0.0/16", "10.97.0.0/16") });
    let status = broker.answer(&Asker { replace: true, invitation: "second", ..other.clone() });
    assert_eq!(status.reason, "InvitationUsedUp");
    assert_eq!(broker.members[&id("staging")].uid(), before);

    broker.invite("fresh", "all", 1);
    broker.settle();
    broker.record("staging", false);
    let status = broker.answer(&Asker { replace: true, invitation: "fresh", ..other });
    assert_eq!(status.phase, JoinPhase::Admitted, "{}", status.message);
    let member = &broker.members[&id("staging")];
    assert_ne!(member.uid(), before, "the Member is another object");
    assert_eq!(member.spec.cluster_uid, "made-anew");
    assert!(broker.clusters.is_empty(), "the former cluster's records are gone");
}

#[test]
fn reading_a_member_is_not_enough_to_be_it() {
    let mut broker = broker();
    broker.answer(&staging());
    // Same ID, same UID, the thief's own key.
    let status = broker.answer(&Asker { key: 9, ..staging() });
    assert_eq!(status.reason, "ClusterIdInUse", "{}", status.message);
    // The Member's public key, but not its private half.
    let mut spec = Asker { key: 9, ..staging() }.spec("join-x");
    spec.signing_key = broker.members[&id("staging")].spec.signing_key;
    broker.ask_as("join-x", spec);
    broker.settle();
    assert_eq!(broker.requests["join-x"].status.clone().expect("answered").reason, "BadSignature");
}

#[test]
fn a_rejoin_follows_its_invitation_and_keeps_what_an_administrator_set() {
    let mut broker = broker();
    broker.answer(&staging());
    broker.invite("narrow", "shop-*", 10);
    let status = broker.answer(&Asker { invitation: "narrow", ..staging() });
    assert_eq!(status.phase, JoinPhase::Admitted, "{}", status.message);
    assert!(status.message.contains("shop-* (until now: all)"), "{}", status.message);
    let uid = broker.members[&id("staging")].uid();
    for by_hand in [false, true] {
        broker.grant("staging", "web", by_hand);
        let status = broker.answer(&staging());
        assert_eq!(status.phase, JoinPhase::Admitted);
        assert!(status.message.contains("web (set by an administrator"), "{}", status.message);
        assert_eq!(broker.members[&id("staging")].spec.grant.to_string(), "web");
    }
    assert_eq!(broker.members[&id("staging")].uid(), uid);
    // Other CIDRs of its own are its new ones; the node range stays.
    let moved = Asker { pods: vec![cidr("10.7.0.0/16")], ..staging() };
    assert_eq!(broker.answer(&moved).phase, JoinPhase::Admitted);
    assert_eq!(broker.members[&id("staging")].spec.cluster_cidrs, [cidr("10.7.0.0/16")]);
}

#[test]
fn an_invitation_ends() {
    let mut broker = broker();
    broker.invite("single", "all", 1);
    let one = Asker { invitation: "single", ..staging() };
    assert_eq!(broker.answer(&one).phase, JoinPhase::Admitted);
    let two = Asker { invitation: "single", ..Asker::new("two", "10.2.0.0/16", "10.3.0.0/16") };
    let status = broker.answer(&two);
    assert_eq!(status.reason, "InvitationUsedUp", "{}", status.message);
    // Who joined by it may ask again.
    assert_eq!(broker.answer(&one).phase, JoinPhase::Admitted);
    assert_eq!(broker.answer(&Asker { invitation: "nobodys", ..two.clone() }).reason, "InvitationUnknown");
    broker.pass(hours(24));
    assert_eq!(broker.answer(&one).reason, "InvitationExpired");
    broker.pass(hours(24));
    assert!(broker.invitations.is_empty(), "a day later nothing is left of it");
    assert_eq!(broker.answer(&one).reason, "InvitationUnknown");
}

#[test]
fn ranges_are_reserved_for_an_hour() {
    let mut broker = broker();
    let status = broker.answer(&Asker::reserving("local"));
    assert_eq!(status.phase, JoinPhase::Reserved, "{}", status.message);
    let ranges = status.ranges.expect("ranges");
    assert!(broker.members.is_empty());
    // Asked again it is the same; another gets others; and nobody else gets these.
    assert_eq!(broker.answer(&Asker::reserving("local")).ranges, Some(ranges.clone()));
    let others = broker.answer(&Asker::reserving("other")).ranges.expect("ranges");
    assert!(!others.cluster_cidrs[0].overlaps(&ranges.cluster_cidrs[0]));
    let mut thief = Asker::new("thief", "10.50.0.0/16", "10.51.0.0/16");
    thief.pods = ranges.cluster_cidrs.clone();
    let status = broker.answer(&thief);
    assert_eq!(status.reason, "CidrOverlap");
    assert!(status.message.contains("reserved for cluster local"), "{}", status.message);
    let mut local = Asker { uid: "kind", ..thief.clone() };
    (local.id, local.services) = ("local", ranges.service_cidrs.clone());
    broker.restart();
    let status = broker.answer(&local);
    assert_eq!(status.phase, JoinPhase::Admitted, "{}", status.message);
    assert_eq!(broker.members[&id("local")].spec.node_cidr, ranges.node_cidr.expect("a node range"));
    // A member that asks hears what it has.
    assert_eq!(broker.answer(&Asker::reserving("local")).ranges, Some(ranges));
    // What nobody came for is free again.
    broker.pass(hours(2));
    thief.pods = others.cluster_cidrs;
    assert_eq!(broker.answer(&thief).phase, JoinPhase::Admitted);
    broker.pass(hours(2));
    assert!(broker.requests.is_empty(), "answered requests are kept for an hour");
}

#[test]
fn what_was_reserved_for_a_cluster_does_not_outlive_its_membership() {
    let mut broker = broker();
    let ranges = broker.answer(&Asker::reserving("local")).ranges.expect("ranges");
    let mut local = Asker::new("local", "10.50.0.0/16", "10.51.0.0/16");
    (local.pods, local.services) = (ranges.cluster_cidrs, ranges.service_cidrs);
    broker.pass(SignedDuration::from_secs(1));
    assert_eq!(broker.answer(&local).phase, JoinPhase::Admitted);
    let reserving = |request: &&JoinRequest| request.status.as_ref().is_some_and(|status| status.phase == JoinPhase::Reserved);
    assert_eq!(broker.requests.values().find(reserving), None);
    broker.evict("local");
    broker.settle();
    let other = Asker { id: "other", uid: "other", ..local };
    let status = broker.answer(&other);
    assert_eq!(status.phase, JoinPhase::Admitted, "{}", status.message);
}

#[test]
fn reservations_are_bounded_by_the_invitation() {
    let mut broker = broker();
    broker.invite("single", "none", 1);
    let reserving = |id| Asker { invitation: "single", ..Asker::reserving(id) };
    assert_eq!(broker.answer(&reserving("one")).phase, JoinPhase::Reserved);
    assert_eq!(broker.answer(&reserving("two")).reason, "InvitationUsedUp");
    assert_eq!(broker.answer(&reserving("one")).phase, JoinPhase::Reserved);
}

#[test]
fn bad_ranges_are_refused() {
    let mut broker = broker();
    for (pods, services) in [
        ("10.0.0.0/8", "10.96.0.0/16"),
        ("127.0.0.0/16", "10.96.0.0/16"),
        ("10.1.0.0/16", "224.0.0.0/16"),
        ("10.1.0.0/16", "169.254.0.0/24"),
        ("100.80.16.0/20", "10.96.0.0/16"),
        ("10.1.0.0/16", "100.96.0.0/16"),
        ("0.0.0.0/0", "10.96.0.0/16"),
        ("10.1.0.0/32", "10.96.0.0/16"),
        ("8.8.0.0/16", "10.96.0.0/16"),
    ] {
        let status = broker.answer(&Asker::new("bad", pods, services));
        assert_eq!(status.reason, "InvalidCidr", "{pods} {services}: {}", status.message);
    }
    // Public addresses are a question of the invitation.
    let public = Asker::new("public", "8.8.0.0/16", "10.96.0.0/16");
    let status = broker.answer(&public);
    assert!(status.message.contains("daisy invite --allow-public-cidrs"), "{}", status.message);
    broker.invite("public-too", "all", 1);
    assert_eq!(broker.answer(&Asker { invitation: "public-too", ..public.clone() }).phase, JoinPhase::Admitted);
    assert_eq!(broker.answer(&public).reason, "InvalidCidr", "asked again by another invitation, it is that one's question");
    let status = broker.answer(&Asker { services: Vec::new(), ..staging() });
    assert_eq!(status.reason, "InvalidCidr");
    assert!(status.message.contains("--servicecidr"), "{}", status.message);
    let status = broker.answer(&Asker { pods: vec![cidr("10.1.0.0/16"); 2], ..staging() });
    assert_eq!(status.reason, "InvalidCidr");
    let dual = Asker {
        pods: vec![cidr("10.244.0.0/16"), cidr("fd00:10:244::/56")],
        services: vec![cidr("10.112.0.0/16"), cidr("fd00:10:96::/112")],
        ..staging()
    };
    assert_eq!(broker.answer(&dual).phase, JoinPhase::Admitted);
}

#[test]
fn an_id_leaves_room_for_its_namespace() {
    let mut broker = broker();
    let status = broker.answer(&Asker::new("a23456789-b23456789-c23456789-d23456789-e23456789", "10.1.0.0/16", "10.2.0.0/16"));
    assert_eq!(status.phase, JoinPhase::Admitted, "{}", status.message);
    let status = broker.answer(&Asker::new("a23456789-b23456789-c23456789-d23456789-e234567890", "10.3.0.0/16", "10.4.0.0/16"));
    assert_eq!(status.reason, "IdTooLong");
}

#[test]
fn a_version_that_the_broker_does_not_serve_is_refused_and_named() {
    let options = Options { version: Version::new(1, 4, 2), ..Options::new(BROKER) };
    let mut broker = Broker::with(options);
    broker.invite("first", "all", 5);
    for (version, reason) in
        [("1.2.0", "VersionSkew"), ("1.5.0", "VersionSkew"), ("2.0.0", "VersionSkew"), ("", "NoVersion"), ("new", "NoVersion")]
    {
        for asker in [staging(), Asker::reserving("staging")] {
            let status = broker.answer(&Asker { version, ..asker });
            assert_eq!(status.reason, reason, "{version}: {}", status.message);
            let both = status.message.contains("1.4.2") && status.message.contains(version);
            assert!(reason == "NoVersion" || both, "{}", status.message);
        }
    }
    for version in ["1.3.9", "1.4.0"] {
        assert_eq!(broker.answer(&Asker { version, ..staging() }).phase, JoinPhase::Admitted);
    }
    // A member that was upgraded before its broker is told so, and stays the member that it is.
    assert_eq!(broker.answer(&Asker { version: "1.5.0", ..staging() }).reason, "VersionSkew");
    assert!(broker.members.contains_key(&id("staging")));
}

#[test]
fn what_one_invitation_asks_too_often_is_deleted_and_others_are_served() {
    let mut broker = broker();
    broker.invite("second", "all", 10);
    for _ in 0..request::REQUESTS_PER_INVITATION {
        broker.ask(&Asker { pods: vec![cidr("127.0.0.0/16")], ..staging() });
    }
    let beyond: Vec<String> = (0..50).map(|_| broker.ask(&staging())).collect();
    broker.settle();
    assert!(beyond.iter().all(|name| !broker.requests.contains_key(name)), "those beyond are gone");
    assert_eq!(broker.requests.len(), request::REQUESTS_PER_INVITATION, "the others were answered and are kept");
    assert_eq!(broker.answer(&Asker { invitation: "second", ..staging() }).phase, JoinPhase::Admitted);
    // Once the answered ones have gone, it is served again.
    broker.pass(hours(2));
    assert_eq!(broker.answer(&staging()).phase, JoinPhase::Admitted);
}

#[test]
fn a_cluster_has_one_id() {
    let mut broker = broker();
    broker.answer(&staging());
    for pods in ["10.244.0.0/16", "10.1.0.0/16"] {
        let status = broker.answer(&Asker { uid: "staging", ..Asker::new("twice", pods, "10.2.0.0/16") });
        assert_eq!(status.reason, "AlreadyMember", "{}", status.message);
    }
}

#[test]
fn a_leave_removes_everything_and_a_join_may_follow() {
    let mut broker = broker();
    broker.answer(&staging());
    broker.record("staging", false);
    broker.settle();
    assert!(broker.members.contains_key(&id("staging")));
    broker.record("staging", true);
    // At once, with nothing told in between.
    let name = broker.ask(&staging());
    broker.settle();
    assert_eq!(broker.requests[&name].status.as_ref().map(|status| status.phase), Some(JoinPhase::Admitted));
    assert!(broker.members.contains_key(&id("staging")), "the new membership outlives the old one's leave");
    assert!(broker.clusters.is_empty());
}

#[test]
fn an_evicted_cluster_leaves_nothing() {
    let mut broker = broker();
    broker.answer(&staging());
    broker.record("staging", false);
    broker.evict("staging");
    broker.settle();
    assert!(broker.namespaces.is_empty() && broker.clusters.is_empty());
}

#[test]
fn a_namespace_whose_member_nobody_saw_go_is_left_alone_for_a_minute() {
    let mut broker = broker();
    broker.answer(&staging());
    let member = broker.members.remove(&id("staging")).expect("a member");
    broker.restart();
    broker.settle();
    assert!(broker.namespaces.contains_key(&id("staging")));
    broker.members.insert(id("staging"), member.clone());
    broker.relist();
    broker.pass(hours(1));
    assert!(broker.namespaces.contains_key(&id("staging")), "the Member was there again");
    broker.members.remove(&id("staging"));
    broker.restart();
    broker.pass(SignedDuration::from_secs(61));
    assert!(broker.namespaces.is_empty());
}

#[test]
fn a_membership_lapses_without_heartbeats() {
    let mut broker = broker();
    broker.answer(&staging());
    broker.answer(&Asker::new("local", "10.1.0.0/16", "10.2.0.0/16"));
    let mut sequence = 0;
    // Six days and 23 hours, in the steps that count as observed.
    for step in 0..(167 * 6) {
        if step % 6 == 0 {
            sequence += 1;
            broker.heartbeat("local", sequence);
        }
        broker.pass(SignedDuration::from_mins(10));
    }
    assert_eq!(broker.members.len(), 2);
    for _ in 0..7 {
        broker.pass(SignedDuration::from_mins(10));
    }
    assert_eq!(broker.members.keys().collect::<Vec<_>>(), [&id("local")]);
    assert!(broker.actions.iter().any(|action| matches!(action, Action::EndMember { why: Ending::Lapsed, .. })));
    // The same heartbeat again is no sign of life; a jump of the clock, or a time without the broker, is no silence.
    broker.heartbeat("local", sequence);
    broker.pass(hours(24 * 30));
    assert_eq!(broker.members.len(), 1);
    broker.registrar.handle_blind(broker.now);
    for _ in 0..(24 * 6 * 8) {
        broker.pass(SignedDuration::from_mins(10));
    }
    assert_eq!(broker.members.len(), 1);
}

#[test]
fn what_fails_is_tried_again() {
    for steps in 0..=3 {
        let mut broker = broker();
        broker.failures.extend([steps, steps]);
        let name = broker.ask(&staging());
        for _ in 0..40 {
            broker.pass(SignedDuration::from_millis(100));
            broker.check();
        }
        let status = broker.requests[&name].status.clone().unwrap_or_default();
        assert_eq!(status.phase, JoinPhase::Admitted, "failed after step {steps}: {}", status.message);
        assert_eq!(broker.invitations["first"].status.as_ref().map(|status| status.used), Some(1));
    }
}

/// A member's move to other ranges fails after its Member was written, and no watch has told of that yet.
#[test]
fn what_a_failed_move_may_have_taken_is_nobodys() {
    let mut broker = broker();
    broker.answer(&staging());
    broker.failures.push_back(2);
    broker.ask(&Asker { pods: vec![cidr("10.2.0.0/15")], ..staging() });
    broker.ask(&Asker::new("local", "10.2.0.0/16", "10.4.0.0/16"));
    broker.tell(usize::MAX);
    while broker.step() {
        broker.check();
    }
    broker.pass(SignedDuration::from_secs(1));
    broker.check();
    assert!(!broker.members.contains_key(&id("local")));
}

#[test]
fn one_that_does_not_parse_is_told_so() {
    let mut broker = broker();
    broker.registrar.handle_unreadable_request("join-x", "spec.clusterCidrs[0]: 10.0.0.1/8 has bits set", broker.now);
    let action = broker.registrar.poll_action(broker.now).expect("an answer");
    let Action::Answer { request, status, .. } = action else { panic!("{action:?}") };
    assert_eq!((request.as_str(), status.reason.as_str()), ("join-x", "Malformed"));
}

#[derive(Debug, Clone)]
enum Step {
    Ask { who: usize, pods: usize, services: usize, fresh: bool, replace: bool },
    Reserve { who: usize },
    Leave { who: usize },
    Evict { who: usize },
    Tell { count: usize },
    Act,
    Fail { steps: u8 },
    Relist,
    Restart,
    Pass { minutes: i64 },
    Invite,
}

const WHO: [&str; 4] = ["a", "b", "c", "d"];
const RANGES: [&str; 8] =
    ["10.0.0.0/14", "10.1.0.0/16", "10.2.0.0/15", "10.2.0.0/16", "10.3.0.0/17", "10.192.0.0/20", "10.4.0.0/16", "fd00::/48"];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let ask = (0..4usize, 0..8usize, 0..8usize, any::<bool>(), any::<bool>())
        .prop_map(|(who, pods, services, fresh, replace)| Step::Ask { who, pods, services, fresh, replace });
    let step = prop_oneof![
        6 => ask,
        2 => (0..4usize).prop_map(|who| Step::Reserve { who }),
        1 => (0..4usize).prop_map(|who| Step::Leave { who }),
        1 => (0..4usize).prop_map(|who| Step::Evict { who }),
        6 => (1..5usize).prop_map(|count| Step::Tell { count }),
        8 => Just(Step::Act),
        1 => (0..4u8).prop_map(|steps| Step::Fail { steps }),
        1 => Just(Step::Relist),
        1 => Just(Step::Restart),
        1 => (1..90i64).prop_map(|minutes| Step::Pass { minutes }),
        1 => Just(Step::Invite),
    ];
    proptest::collection::vec(step, 1..80)
}

fn apply(broker: &mut Broker, step: Step) {
    match step {
        Step::Ask { who, pods, services, fresh, replace } => {
            let mut asker = Asker::new(WHO[who], RANGES[pods], RANGES[services]);
            asker.replace = replace;
            asker.uid = if fresh { "other" } else { WHO[who] };
            asker.invitation = if fresh { "second" } else { "first" };
            broker.ask(&asker);
        }
        Step::Reserve { who } => {
            broker.ask(&Asker::reserving(WHO[who]));
        }
        Step::Leave { who } => {
            if broker.members.contains_key(&id(WHO[who])) && broker.namespaces.contains_key(&id(WHO[who])) {
                broker.record(WHO[who], true);
            }
        }
        Step::Evict { who } => broker.evict(WHO[who]),
        Step::Tell { count } => broker.tell(count),
        Step::Act => {
            broker.step();
        }
        Step::Fail { steps } => broker.failures.push_back(steps),
        Step::Relist => broker.relist(),
        Step::Restart => broker.restart(),
        Step::Pass { minutes } => broker.now += SignedDuration::from_mins(minutes),
        Step::Invite => broker.invite("second", "all", 2),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// Whatever is asked in whatever order, with watches late, lists taken anew, actions that fail half-way and restarts: no two
    /// members overlap, no invitation is used more often than it says, and in the end everybody has an answer.
    #[test]
    fn no_two_members_ever_overlap(steps in steps()) {
        let mut broker = broker();
        for step in steps {
            apply(&mut broker, step);
            broker.check();
        }
        broker.failures.clear();
        for _ in 0..8 {
            broker.pass(SignedDuration::from_mins(1));
            broker.check();
        }
        for (name, request) in &broker.requests {
            let phase = request.status.clone().unwrap_or_default().phase;
            prop_assert!(phase != JoinPhase::Pending, "{} has no answer: {:?}", name, broker.actions);
        }
        for id in broker.namespaces.keys() {
            prop_assert!(broker.members.contains_key(id), "the namespace of {} has no Member", id);
        }
        // At rest it stays at rest, told again or begun anew.
        let before = broker.actions.len();
        broker.relist();
        broker.settle();
        broker.restart();
        broker.settle();
        prop_assert_eq!(broker.actions.len(), before, "{:?}", &broker.actions[before..]);
    }
}
