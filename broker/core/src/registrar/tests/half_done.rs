//! Admissions that failed on the way, and what is heard of them in another order, late, or from an old copy.

use super::*;

/// Its Member and its namespace were written, and the watch of Members is late.
#[test]
fn what_a_failed_admission_made_is_not_removed() {
    let mut broker = broker();
    broker.failures.push_back(3);
    let name = broker.ask(&staging());
    broker.tell(usize::MAX);
    assert!(broker.step());
    broker.tell_namespaces();
    for _ in 0..240 {
        broker.now += SignedDuration::from_secs(1);
        broker.step();
    }
    assert!(broker.namespaces.contains_key(&id("staging")), "{:?}", broker.actions);
    broker.pass(hours(0) + SignedDuration::from_mins(2));
    assert_eq!(broker.requests[&name].status.as_ref().map(|status| status.phase), Some(JoinPhase::Admitted));
    assert!(!broker.actions.iter().any(|action| matches!(action, Action::RemoveCluster { .. })));
}

/// And what is left of one that is refused in the end has no Member, and goes.
#[test]
fn what_a_former_member_left_goes_after_an_attempt() {
    let mut broker = broker();
    broker.answer(&staging());
    broker.failures.push_back(1);
    broker.ask(&Asker { pods: vec![cidr("10.7.0.0/16")], ..staging() });
    broker.tell(usize::MAX);
    assert!(broker.step());
    broker.evict("staging");
    broker.invitations.clear();
    broker.relist();
    broker.pass(SignedDuration::from_mins(2));
    broker.pass(SignedDuration::from_mins(2));
    assert!(broker.members.is_empty() && broker.namespaces.is_empty(), "{:?}", broker.actions);
}

#[test]
fn an_invitation_that_expires_on_the_way_is_good() {
    let mut broker = broker();
    broker.failures.push_back(3);
    broker.now += hours(24) - SignedDuration::from_secs(1);
    let name = broker.ask(&staging());
    broker.tell(usize::MAX);
    assert!(broker.step());
    for restart in [false, true] {
        if restart {
            broker.restart();
        }
        broker.pass(SignedDuration::from_secs(2));
        let status = broker.requests[&name].status.clone().unwrap_or_default();
        assert_eq!(status.phase, JoinPhase::Admitted, "{}", status.message);
    }
    assert_eq!(broker.answer(&staging()).reason, "InvitationExpired", "that is asked too late");
}

/// The broker comes back on an old copy beneath a registrar that has just written a later one.
#[test]
fn a_list_asked_for_later_is_believed() {
    let mut broker = broker();
    broker.answer(&staging());
    let old = broker.members.clone();
    let moved = Asker { pods: vec![cidr("10.7.0.0/16")], ..staging() };
    broker.ask(&moved);
    broker.tell(usize::MAX);
    assert!(broker.step(), "admitted, and no watch tells of it");
    broker.members = old;
    broker.relist();
    assert_eq!(broker.answer(&moved).phase, JoinPhase::Admitted);
    assert_eq!(broker.members[&id("staging")].spec.cluster_cidrs, [cidr("10.7.0.0/16")]);

    let old = broker.members.clone();
    broker.record("staging", true);
    broker.tell(usize::MAX);
    assert!(broker.step(), "ended, and no watch tells of it");
    broker.members = old;
    broker.clusters.clear();
    broker.relist();
    broker.settle();
    let status = broker.answer(&Asker { uid: "another", ..Asker::new("local", "10.7.0.0/16", "10.3.0.0/16") });
    assert_eq!(status.reason, "CidrOverlap", "{}", status.message);
}

#[test]
fn a_list_with_another_member_of_the_same_name_leaves_no_orphan() {
    let mut broker = broker();
    broker.answer(&staging());
    broker.members.get_mut(&id("staging")).expect("a member").metadata.uid = Some("another".to_owned());
    broker.relist();
    broker.pass(SignedDuration::from_mins(2));
    assert!(broker.namespaces.contains_key(&id("staging")), "{:?}", broker.actions);
}

/// A reservation was written, its asker has read it, and the registrar was not told that it was.
#[test]
fn what_may_have_been_promised_is_nobody_elses() {
    let mut broker = broker();
    broker.failures.push_back(1);
    let name = broker.ask(&Asker::reserving("local"));
    broker.tell(usize::MAX);
    assert!(broker.step());
    let promised = broker.requests[&name].status.clone().and_then(|status| status.ranges).expect("it was written");
    broker.ask(&Asker { pods: promised.cluster_cidrs.clone(), ..staging() });
    broker.ask(&Asker::new("third", "10.3.0.0/16", "10.4.0.0/16"));
    broker.withhold(&name);
    broker.settle();
    assert!(!broker.members.contains_key(&id("staging")), "its pods are promised");
    assert_ne!(Some(broker.members[&id("third")].spec.node_cidr), promised.node_cidr);
    broker.pass(SignedDuration::from_mins(1));
    assert_eq!(broker.requests[&name].status.clone().and_then(|status| status.ranges), Some(promised));
}

/// The registrar starts anew between the end of a member and the admission of the one that replaces it.
#[test]
fn what_a_replaced_member_had_goes_to_who_replaces_it() {
    let mut broker = broker();
    broker.answer(&staging());
    broker.pass(SignedDuration::from_secs(1));
    broker.invite("fresh", "all", 1);
    let anew = Asker { uid: "made-anew", key: 5, invitation: "fresh", replace: true, ..staging() };
    let name = broker.ask(&anew);
    broker.tell(usize::MAX);
    assert!(broker.step());
    assert!(broker.members.is_empty(), "{:?}", broker.actions);
    // Its name comes first, as names of requests are random.
    broker.now += SignedDuration::from_secs(1);
    let rival = Asker { id: "local", uid: "local", ..staging() };
    broker.ask_as("0", rival.spec("0"));
    broker.restart();
    broker.settle();
    let status = |name: &str| broker.requests[name].status.clone().unwrap_or_default();
    assert_eq!(status(&name).phase, JoinPhase::Admitted, "{}", status(&name).message);
    assert_eq!(status("0").reason, "CidrOverlap");
}

/// The registrar starts anew between an admission and the end of what was reserved for it.
#[test]
fn what_was_reserved_ends_after_a_new_start_too() {
    let mut broker = broker();
    let ranges = broker.answer(&Asker::reserving("local")).ranges.expect("ranges");
    let mut local = Asker::new("local", "10.50.0.0/16", "10.51.0.0/16");
    (local.pods, local.services) = (ranges.cluster_cidrs, ranges.service_cidrs);
    broker.pass(SignedDuration::from_secs(1));
    broker.ask(&local);
    broker.tell(usize::MAX);
    assert!(broker.step());
    let reserved = |broker: &Broker| {
        let phases = broker.requests.values().filter_map(|request| Some(request.status.as_ref()?.phase));
        phases.filter(|phase| *phase == JoinPhase::Reserved).count()
    };
    assert_eq!((broker.members.len(), reserved(&broker)), (1, 1));
    broker.restart();
    broker.settle();
    assert_eq!((broker.members.len(), reserved(&broker)), (1, 0));
}
