//! What must hold of Members, whatever is asked in whatever order: at every write of the registrar's, and when all is quiet.

use std::time::Duration;

use daisy_api::{Cidr, ClusterId, JoinPhase, JoinRequestSpec, JoinRequestStatus, Member, labels};
use daisy_broker_core::registrar::{Action, Admission, Ending};
use k8s_openapi::jiff::SignedDuration;
use kube::ResourceExt;

use crate::cluster::{SimCluster, Standing};
use crate::enrol::Wish;
use crate::objects;
use crate::registrar::perform::takes;
use crate::registrar::{Doing, INVITATION_KEPT, REQUEST_KEPT};
use crate::world::{Violation, World};

/// Who has written a heartbeat within this time lives: half of what a membership lasts, since watches may lag.
const BEATS: Duration = Duration::from_secs(300);
/// An admission's write of its Member, and of its namespace.
const MEMBER: usize = 1;

/// Before the registrar's next write.
pub(crate) fn before(world: &World, doing: &Doing) -> Result<(), Violation> {
    match &doing.action {
        Action::Admit(admission) if doing.step == MEMBER => admits(world, admission),
        Action::EndMember { id, uid, why } => ends(world, id, (uid, *why)),
        Action::RemoveCluster { id } if world.broker.member(id).is_some() => {
            Err(world.violation(format!("the registrar removes what {id} has, which is a member")))
        }
        Action::Answer { request, status, .. } => answers(world, request, status),
        _ => Ok(()),
    }
}

/// Would this write of a Member be one that the request, its invitation and the administrator allow?
fn admits(world: &World, admission: &Admission) -> Result<(), Violation> {
    let (member, name) = (&admission.member, admission.member.name_any());
    let wrong = |what: String| Err(world.violation(format!("the registrar admits {name} for {}: {what}", admission.request)));
    let Some((asked, wish)) = world.asked.get(&admission.request) else { return wrong("nobody asked".to_owned()) };
    if matches!(wish, Wish::Forge | Wish::Reserve) || !matches(asked, member) {
        return wrong(format!("that was asked for: {asked:?} ({wish:?})"));
    }
    let id = &asked.cluster_id;
    if !takes(&world.broker, member, id) {
        return Ok(());
    }
    let Some(invitation) = world.broker.invitations.get(&asked.invitation) else {
        // What is decided when the broker comes back on an old copy is done there, as if it had been done before.
        return if world.broker_forgot { Ok(()) } else { wrong(format!("there is no {}", asked.invitation)) };
    };
    let made = world.broker.requests.get(&admission.request).and_then(|request| request.creation_timestamp());
    if made.is_some_and(|made| made.0 >= invitation.spec.expires.0) {
        return wrong(format!("{} had expired when it was asked", asked.invitation));
    }
    let mut uses = world.broker.book.uses.get(&asked.invitation).cloned().unwrap_or_default();
    uses.insert(id.clone());
    if uses.len() > usize::try_from(invitation.spec.max_uses).unwrap_or(usize::MAX) {
        return wrong(format!("{} is used by {uses:?}", asked.invitation));
    }
    let had = world.broker.member(id);
    let kept = had.filter(|_| world.broker.book.by_hand.contains(id)).map(|had| &had.spec.grant);
    let granted = kept.unwrap_or(&invitation.spec.grant);
    if *granted != member.spec.grant {
        return wrong(format!("with {}, where it may have {granted}", member.spec.grant));
    }
    if had.is_some_and(|had| had.spec.cluster_uid != member.spec.cluster_uid) {
        return wrong("as another cluster in the same Member".to_owned());
    }
    Ok(())
}

fn matches(asked: &JoinRequestSpec, member: &Member) -> bool {
    let spec = &member.spec;
    member.name_any() == asked.cluster_id.as_str()
        && spec.cluster_uid == asked.cluster_uid
        && spec.signing_key == asked.signing_key
        && spec.cluster_cidrs == asked.cluster_cidrs
        && spec.service_cidrs == asked.service_cidrs
        && spec.invitation == asked.invitation
}

/// Is there a reason for this end?
fn ends(world: &World, id: &ClusterId, (uid, why): (&str, Ending)) -> Result<(), Violation> {
    let Some(member) = world.broker.member(id).filter(|member| member.uid().as_deref() == Some(uid)) else { return Ok(()) };
    let cluster = world.clusters.values().find(|cluster| cluster.identity.is_of(member));
    let reason = match why {
        // One that has left tells a broker, too, that came back on a copy from before.
        Ending::Left => {
            let left = |cluster: &SimCluster| matches!(cluster.standing, Standing::Leaving | Standing::Left);
            world.broker.book.leaving.contains(uid) || cluster.is_some_and(left)
        }
        Ending::Lapsed => cluster.is_none_or(|cluster| world.clock.saturating_sub(cluster.beat) >= BEATS),
        Ending::Replaced => world.broker.requests.iter().any(|request| {
            request.spec.replace && request.spec.cluster_id == *id && request.spec.cluster_uid != member.spec.cluster_uid
        }),
    };
    if reason { Ok(()) } else { Err(world.violation(format!("the registrar ends {id} ({uid}), which lives: {why:?}"))) }
}

fn answers(world: &World, request: &str, status: &JoinRequestStatus) -> Result<(), Violation> {
    // What was written for it may have been ended since.
    let stands = |(asked, _): &(JoinRequestSpec, Wish)| {
        world.broker.member(&asked.cluster_id).is_some_and(|member| member.spec.cluster_uid == asked.cluster_uid)
    };
    let made = world.broker.book.made.contains(request) && world.asked.get(request).is_some_and(stands);
    // An invitation is kept for far longer than a registrar is away.
    if status.phase == JoinPhase::Refused && status.reason != "InvitationUnknown" && made {
        let what = format!("{request} is refused ({}), but a Member was written for it", status.reason);
        return Err(world.violation(what));
    }
    Ok(())
}

/// After a write that the broker took.
pub(crate) fn after(world: &mut World, doing: &Doing) -> Result<(), Violation> {
    match &doing.action {
        Action::Admit(admission) if doing.step == MEMBER => {
            let Some(id) = admission.id() else { return Ok(()) };
            let book = &mut world.broker.book;
            book.uses.entry(admission.invitation.clone()).or_default().insert(id.clone());
            book.made.insert(admission.request.clone());
            if admission.member.resource_version().is_none() {
                book.by_hand.remove(&id);
            }
            if let Some(number) = objects::number(id.as_str()) {
                world.granted(number, &admission.member.spec.grant);
            }
            nothing_twice(world)
        }
        Action::EndMember { id, .. } => {
            if let Some(number) = objects::number(id.as_str()) {
                world.changed_whole(number);
            }
            Ok(())
        }
        Action::Answer { status, .. } if status.phase == JoinPhase::Reserved => nothing_twice(world),
        _ => Ok(()),
    }
}

/// No range is two members', or one's and reserved for another.
fn nothing_twice(world: &World) -> Result<(), Violation> {
    let now = world.now().wall;
    let of_members = world.broker.members().flat_map(|member| member.spec.cidrs().map(|range| (member.name_any(), range)));
    let mut all: Vec<(String, Cidr)> = of_members.collect();
    let is_member = |id: &ClusterId| world.broker.member(id).is_some();
    for request in world.broker.requests.iter().filter(|request| !is_member(&request.spec.cluster_id)) {
        let Some(status) = request.status.as_ref().filter(|status| status.phase == JoinPhase::Reserved) else { continue };
        let Some(ranges) = status.ranges.as_ref().filter(|_| status.reserved_until.as_ref().is_some_and(|at| at.0 > now))
        else {
            continue;
        };
        let cidrs = ranges.cluster_cidrs.iter().chain(&ranges.service_cidrs).copied().chain(ranges.node_cidr);
        all.extend(cidrs.map(|range| (request.spec.cluster_id.to_string(), range)));
    }
    for (index, (owner, range)) in all.iter().enumerate() {
        if let Some((other, had)) = all[..index].iter().find(|(other, had)| other != owner && had.overlaps(range)) {
            return Err(world.violation(format!("{owner} has {range}, and {other} has {had}")));
        }
    }
    Ok(())
}

/// When all is quiet: the members are those who were told so, and nothing remains of anybody else.
pub(crate) fn quiet(world: &World) -> Result<(), Violation> {
    let wrong = |what: String| Err(world.violation(what));
    if let Some(joiner) = world.joiners.first() {
        return wrong(format!("all is quiet, but {joiner}"));
    }
    for member in world.broker.members() {
        let name = member.name_any();
        let of = world.clusters.values().find(|cluster| cluster.identity.is_of(member));
        if !of.is_some_and(|cluster| matches!(cluster.standing, Standing::Member | Standing::Leaving)) {
            return wrong(format!("{name} is a member on the broker, and no such cluster is one"));
        }
    }
    for cluster in world.clusters.values().filter(|cluster| cluster.standing == Standing::Member) {
        if !world.broker.member(&cluster.id).is_some_and(|member| cluster.identity.is_of(member)) {
            return wrong(format!("{} was told that it is a member, and the broker does not know it", cluster.id));
        }
        if !cluster.known(&world.broker) {
            return wrong(format!("the broker does not take the token of {}", cluster.id));
        }
    }
    let of_members = |id: Option<ClusterId>| id.is_some_and(|id| world.broker.member(&id).is_some());
    for namespace in world.broker.namespaces() {
        if !of_members(ClusterId::from_broker_namespace(&namespace.name_any())) {
            return wrong(format!("namespace {} has no Member", namespace.name_any()));
        }
    }
    let stray = world.broker.records.objects().find(|object| {
        !matches!(object.namespace(), "" | labels::BROKER_NAMESPACE)
            && !of_members(ClusterId::from_broker_namespace(object.namespace()))
    });
    if let Some(object) = stray {
        return wrong(format!("{:?} {}/{} is nobody's", object.kind(), object.namespace(), object.name()));
    }
    nothing_twice(world)?;
    kept(world)
}

/// Requests have an answer, and neither they nor invitations are kept for longer than they are to be.
fn kept(world: &World) -> Result<(), Violation> {
    let now = world.now().wall;
    let margin = SignedDuration::from_mins(2);
    for request in world.broker.requests.iter() {
        let phase = request.status.as_ref().map_or(JoinPhase::Pending, |status| status.phase);
        let age = request.creation_timestamp().map_or(SignedDuration::ZERO, |made| now.duration_since(made.0));
        if phase == JoinPhase::Pending || age > REQUEST_KEPT * 2 + margin {
            return Err(world.violation(format!("{} is {phase:?}, {} s old", request.name_any(), age.as_secs())));
        }
    }
    let old = |expires: k8s_openapi::jiff::Timestamp| now.duration_since(expires) > INVITATION_KEPT + margin;
    match world.broker.invitations.iter().find(|invitation| old(invitation.spec.expires.0)) {
        Some(invitation) => Err(world.violation(format!("{} expired long ago, and is still there", invitation.name_any()))),
        None => Ok(()),
    }
}
