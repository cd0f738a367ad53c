//! Judges one JoinRequest against what is known. Nothing is changed here.

use std::collections::{BTreeMap, BTreeSet};

use daisy_api::labels::INVITED_GRANT;
use daisy_api::{Cidr, ClusterId, Grant, Invitation, JoinRequestSpec, Member, MemberSpec, Ranges};
use k8s_openapi::jiff::Timestamp;

use super::denial::{Denial, Overlap};
use super::ranges::{self, Purpose, Taken};
use super::{Options, request};

/// Ranges that are kept for a cluster that has yet to be made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reservation<'a> {
    pub(super) id: &'a ClusterId,
    pub(super) invitation: &'a str,
    pub(super) ranges: &'a Ranges,
}

/// What a request is judged against.
pub(super) struct World<'a> {
    pub(super) options: &'a Options,
    /// The invitation that the request names, if there is one.
    pub(super) invitation: Option<&'a Invitation>,
    /// The clusters that have joined by it.
    pub(super) used: BTreeSet<ClusterId>,
    pub(super) members: &'a BTreeMap<ClusterId, Member>,
    /// Live ones of IDs that are no members, and what admissions that failed on the way may have written.
    pub(super) reservations: Vec<Reservation<'a>>,
    /// When the request was made.
    pub(super) made: Timestamp,
    pub(super) now: Timestamp,
}

/// What is to be done about a request.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Verdict {
    /// Nothing but to say so.
    Refuse(Denial),
    /// These ranges are the cluster's, for a while or because it is a member.
    Reserve { ranges: Ranges, until: Option<Timestamp>, message: String },
    /// The present member of this ID goes first; then it is judged again.
    Replace,
    /// It becomes, or stays, this member.
    Admit { member: Box<MemberSpec>, message: String },
}

/// Judges the request of this name.
pub(super) fn judge(world: &World<'_>, name: &str, spec: &JoinRequestSpec) -> Verdict {
    match attempt(world, name, spec) {
        Ok(verdict) => verdict,
        Err(denial) => Verdict::Refuse(denial),
    }
}

fn attempt(world: &World<'_>, name: &str, spec: &JoinRequestSpec) -> Result<Verdict, Denial> {
    let invitation = invited(world, name, spec)?;
    let version = spec.version.parse().map_err(|error| Denial::NoVersion { error })?;
    world.options.version.serves(version).map_err(|skew| Denial::VersionSkew { id: spec.cluster_id.clone(), skew })?;
    if spec.cluster_id.as_str().len() > super::denial::ID_MAX {
        return Err(Denial::IdTooLong { id: spec.cluster_id.clone() });
    }
    match (spec.cluster_cidrs.is_empty(), spec.service_cidrs.is_empty()) {
        (true, true) => return reserve(world, spec, invitation),
        (false, false) => {}
        (empty, _) => {
            let field = if empty { "spec.clusterCidrs (--clustercidr)" } else { "spec.serviceCidrs (--servicecidr)" };
            return Err(Denial::InvalidCidr {
                field,
                value: "is empty".to_owned(),
                why: "name both pod and service CIDRs, or neither to be given free ones".to_owned(),
            });
        }
    }
    usable(spec, world.options.public_cidrs || invitation.spec.public_cidrs)?;
    if !world.used.contains(&spec.cluster_id) && world.used.len() >= most_uses(invitation) {
        return Err(Denial::InvitationUsedUp { invitation: spec.invitation.clone(), max: invitation.spec.max_uses });
    }
    overlap(world, spec)?;
    match world.members.get(&spec.cluster_id) {
        None => join(world, spec, invitation),
        Some(had) if had.spec.cluster_uid == spec.cluster_uid && had.spec.signing_key == spec.signing_key => {
            Ok(rejoin(spec, invitation, had))
        }
        Some(had) => replace(world, spec, invitation, had),
    }
}

fn invited<'a>(world: &World<'a>, name: &str, spec: &JoinRequestSpec) -> Result<&'a Invitation, Denial> {
    let unknown = || Denial::InvitationUnknown { invitation: spec.invitation.clone() };
    let invitation = world.invitation.ok_or_else(unknown)?;
    let expired = invitation.spec.expires.0;
    // Of the time when it was asked: an admission that failed on the way is not refused for the time that this took.
    if expired <= world.made {
        return Err(Denial::InvitationExpired { invitation: spec.invitation.clone(), expired });
    }
    if !request::verify(&world.options.broker_id, name, spec) {
        return Err(Denial::BadSignature);
    }
    Ok(invitation)
}

fn most_uses(invitation: &Invitation) -> usize {
    usize::try_from(invitation.spec.max_uses).unwrap_or(usize::MAX)
}

const FIELDS: [(&str, Purpose); 2] =
    [("spec.clusterCidrs (--clustercidr)", Purpose::Pods), ("spec.serviceCidrs (--servicecidr)", Purpose::Services)];

/// The CIDRs of a request with the field and the purpose of each.
fn asked(spec: &JoinRequestSpec) -> impl Iterator<Item = (&'static str, Purpose, Cidr)> + '_ {
    let [pods, services] = FIELDS;
    let pods = spec.cluster_cidrs.iter().map(move |range| (pods.0, pods.1, *range));
    pods.chain(spec.service_cidrs.iter().map(move |range| (services.0, services.1, *range)))
}

/// The most CIDRs of a purpose that a Member can hold.
const CIDRS_MAX: usize = 16;

fn usable(spec: &JoinRequestSpec, public: bool) -> Result<(), Denial> {
    for (list, (field, _)) in [&spec.cluster_cidrs, &spec.service_cidrs].into_iter().zip(FIELDS) {
        if list.len() > CIDRS_MAX {
            let why = format!("at most {CIDRS_MAX} are taken");
            return Err(Denial::InvalidCidr { field, value: format!("has {} entries", list.len()), why });
        }
    }
    let all: Vec<_> = asked(spec).collect();
    for (index, (field, _, range)) in all.iter().enumerate() {
        if let Some(why) = ranges::unusable(range, public) {
            return Err(Denial::InvalidCidr { field, value: range.to_string(), why: format!("no cluster can have it: {why}") });
        }
        if let Some((_, purpose, other)) = all[..index].iter().find(|(_, _, other)| other.overlaps(range)) {
            let why = format!("overlaps {other} ({}) of the same cluster; name ranges that are apart", purpose.as_str());
            return Err(Denial::InvalidCidr { field, value: range.to_string(), why });
        }
    }
    Ok(())
}

/// All that others have, so that it is not given out again.
fn taken(world: &World<'_>, id: &ClusterId) -> Taken {
    let members = world.members.iter().filter(|(owner, _)| *owner != id).flat_map(|(_, member)| member.spec.cidrs());
    let reserved = world.reservations.iter().filter(|reservation| reservation.id != id).flat_map(|one| all_of(one.ranges));
    members.chain(reserved).collect()
}

fn all_of(ranges: &Ranges) -> impl Iterator<Item = Cidr> + '_ {
    ranges.cluster_cidrs.iter().chain(&ranges.service_cidrs).copied().chain(ranges.node_cidr)
}

fn overlap(world: &World<'_>, spec: &JoinRequestSpec) -> Result<(), Denial> {
    let id = &spec.cluster_id;
    // One pass over what others have, with each of the few ranges asked for.
    let collides = |had: &Cidr| asked(spec).find(|(_, _, range)| range.overlaps(had));
    let with_member = world.members.iter().filter(|(owner, _)| *owner != id).find_map(|(owner, member)| {
        member.spec.cidrs().find_map(|had| collides(&had).map(|(_, purpose, range)| (owner, had, purpose, range)))
    });
    let found = with_member.map(|found| (found, false)).or_else(|| {
        world.reservations.iter().filter(|one| one.id != id).find_map(|one| {
            all_of(one.ranges).find_map(|had| collides(&had).map(|(_, purpose, range)| ((one.id, had, purpose, range), true)))
        })
    });
    let Some(((owner, had, purpose, asked), reserved)) = found else { return Ok(()) };
    if !reserved && world.members.get(owner).is_some_and(|member| member.spec.cluster_uid == spec.cluster_uid) {
        return Err(Denial::AlreadyMember { uid: spec.cluster_uid.clone(), id: owner.clone() });
    }
    let wished =
        Ranges { cluster_cidrs: spec.cluster_cidrs.clone(), service_cidrs: spec.service_cidrs.clone(), node_cidr: None };
    let offer = ranges::offer(&wished, &taken(world, id));
    Err(Denial::CidrOverlap(Box::new(Overlap { id: id.clone(), purpose, asked, owner: owner.clone(), had, reserved, offer })))
}

fn reserve(world: &World<'_>, spec: &JoinRequestSpec, invitation: &Invitation) -> Result<Verdict, Denial> {
    let id = &spec.cluster_id;
    if let Some(member) = world.members.get(id) {
        let ranges = ranges_of(&member.spec);
        let message = format!(
            "{id} is a member and has these ranges: a cluster made anew with them joins with --replace {}",
            super::denial::flags(&ranges)
        );
        return Ok(Verdict::Reserve { ranges, until: None, message });
    }
    let by_it = world.reservations.iter().filter(|one| one.invitation == spec.invitation).map(|one| one.id);
    let others: BTreeSet<&ClusterId> = world.used.iter().chain(by_it).filter(|other| *other != id).collect();
    if !world.used.contains(id) && others.len() >= most_uses(invitation) {
        return Err(Denial::InvitationUsedUp { invitation: spec.invitation.clone(), max: invitation.spec.max_uses });
    }
    let had = world.reservations.iter().find(|one| one.id == id).map(|one| one.ranges.clone());
    let ranges = match had {
        Some(ranges) => ranges,
        None => ranges::reserve(taken(world, id)).map_err(Denial::RangesExhausted)?,
    };
    let until = world.now.saturating_add(world.options.reservation).unwrap_or(Timestamp::MAX);
    let message = format!("reserved for {id} until {until}: join with {}", super::denial::flags(&ranges));
    Ok(Verdict::Reserve { ranges, until: Some(until), message })
}

/// The ranges of a member.
pub(super) fn ranges_of(member: &MemberSpec) -> Ranges {
    Ranges {
        cluster_cidrs: member.cluster_cidrs.clone(),
        service_cidrs: member.service_cidrs.clone(),
        node_cidr: Some(member.node_cidr),
    }
}

fn join(world: &World<'_>, spec: &JoinRequestSpec, invitation: &Invitation) -> Result<Verdict, Denial> {
    if let Some((id, _)) = world.members.iter().find(|(_, member)| member.spec.cluster_uid == spec.cluster_uid) {
        return Err(Denial::AlreadyMember { uid: spec.cluster_uid.clone(), id: id.clone() });
    }
    let taken = taken(world, &spec.cluster_id);
    let reserved = world.reservations.iter().find(|one| one.id == &spec.cluster_id).and_then(|one| one.ranges.node_cidr);
    let node_cidr = reserved
        .filter(|range| !taken.overlaps(range))
        .or_else(|| ranges::free(Purpose::Nodes, false, &taken))
        .ok_or(Denial::RangesExhausted(Purpose::Nodes))?;
    let member = MemberSpec {
        cluster_uid: spec.cluster_uid.clone(),
        cluster_cidrs: spec.cluster_cidrs.clone(),
        service_cidrs: spec.service_cidrs.clone(),
        node_cidr,
        grant: invitation.spec.grant.clone(),
        signing_key: spec.signing_key,
        invitation: spec.invitation.clone(),
    };
    let message = format!("{} is a member; it may export: {}", spec.cluster_id, member.grant);
    Ok(Verdict::Admit { member: Box::new(member), message })
}

/// Whether the member's grant is the one that its invitation gave it, and no administrator's.
pub(super) fn grant_is_the_invitations(member: &Member) -> bool {
    let invited = member.metadata.annotations.as_ref().and_then(|annotations| annotations.get(INVITED_GRANT));
    invited.is_some_and(|text| *text == member.spec.grant.to_string())
}

fn rejoin(spec: &JoinRequestSpec, invitation: &Invitation, had: &Member) -> Verdict {
    let keeps = !grant_is_the_invitations(had);
    let grant = if keeps { had.spec.grant.clone() } else { invitation.spec.grant.clone() };
    let changed = if grant != had.spec.grant {
        format!(" (until now: {})", had.spec.grant)
    } else if keeps && grant != invitation.spec.grant {
        format!(" (set by an administrator, and so not changed to the invitation's: {})", invitation.spec.grant)
    } else {
        String::new()
    };
    let message = format!("{} is a member still, with a new credential; it may export: {grant}{changed}", spec.cluster_id);
    let member = MemberSpec {
        cluster_cidrs: spec.cluster_cidrs.clone(),
        service_cidrs: spec.service_cidrs.clone(),
        grant,
        invitation: spec.invitation.clone(),
        ..had.spec.clone()
    };
    Verdict::Admit { member: Box::new(member), message }
}

fn replace(world: &World<'_>, spec: &JoinRequestSpec, invitation: &Invitation, had: &Member) -> Result<Verdict, Denial> {
    let id = spec.cluster_id.clone();
    if !spec.replace {
        let difference = if had.spec.cluster_uid == spec.cluster_uid {
            "the same kube-system UID, but another signing key: that of the member was lost, or this is not the member"
                .to_owned()
        } else {
            format!("its kube-system UID is {}, this cluster's is {}", had.spec.cluster_uid, spec.cluster_uid)
        };
        return Err(Denial::ClusterIdInUse { id, difference });
    }
    let made = |time: &Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>| time.as_ref().map(|time| time.0);
    let (invited_at, joined_at) = (made(&invitation.metadata.creation_timestamp), made(&had.metadata.creation_timestamp));
    // Both times are of the API server's clock, in whole seconds: those of one second are told apart by the name.
    if world.used.contains(&id) || had.spec.invitation == spec.invitation || invited_at < joined_at {
        return Err(Denial::ReplaceNeedsFreshInvitation { id, invitation: spec.invitation.clone() });
    }
    if !covers(&invitation.spec.grant, &had.spec.grant) {
        return Err(Denial::ReplaceNeedsGrant {
            id,
            invitation: spec.invitation.clone(),
            grant: invitation.spec.grant.to_string(),
            had: had.spec.grant.to_string(),
        });
    }
    Ok(Verdict::Replace)
}

/// Whether all that `inner` allows, `outer` allows too.
///
/// Pattern by pattern: a union of patterns that together cover one of `inner` cannot occur, as each names a label or a beginning.
fn covers(outer: &Grant, inner: &Grant) -> bool {
    inner.patterns().iter().all(|narrow| {
        let narrow = narrow.as_str();
        outer.patterns().iter().any(|wide| match wide.as_str().strip_suffix('*') {
            Some(beginning) => narrow.strip_suffix('*').unwrap_or(narrow).starts_with(beginning),
            None => wide.as_str() == narrow,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_covers_what_it_allows() {
        let grant = |text: &str| text.parse::<Grant>().expect("a grant");
        for (outer, inner, expected) in [
            ("all", "none", true),
            ("none", "none", true),
            ("none", "web", false),
            ("all", "shop-*,web", true),
            ("shop-*", "shop-eu", true),
            ("shop-*", "shop-e*", true),
            ("shop-*", "shop*", false),
            ("shop-*", "all", false),
            ("shop-eu", "shop-eu", true),
            ("shop-eu", "shop-e*", false),
        ] {
            assert_eq!(covers(&grant(outer), &grant(inner)), expected, "{outer} over {inner}");
        }
    }
}
