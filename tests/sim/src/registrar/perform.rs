//! The registrar's writes, in the order of its real shell, one at a time.

use daisy_api::{ClusterId, JoinRequestStatus, Member, labels};
use daisy_broker_core::object::Kind;
use daisy_broker_core::registrar::{Action, Admission, Outcome};
use kube::ResourceExt;

use super::Doing;
use crate::broker::Broker;
use crate::objects;
use crate::world::World;

/// Does the next write. `None` while there are more to come; an error where the broker refuses.
pub(super) fn write(world: &mut World, doing: &mut Doing) -> Result<Option<Outcome>, ()> {
    let broker = &mut world.broker;
    let done = Ok(Some(Outcome::Done));
    match &doing.action {
        Action::Answer { request, status, invitation } => {
            // Nobody is told that there is no such invitation while there is.
            if status.reason == "InvitationUnknown" && broker.invitations.get(invitation).is_some() {
                return Err(());
            }
            answer(world, request, status.clone());
            done
        }
        Action::Admit(admission) => admit(world, admission, (doing.step, &mut doing.wrote)),
        Action::EndMember { id, uid, .. } => {
            if broker.member(id).and_then(ResourceExt::uid).as_deref() == Some(uid) {
                broker.records.remove(Kind::Member, labels::BROKER_NAMESPACE, id.as_str());
            }
            done
        }
        Action::RemoveCluster { id } => Ok(remove(broker, id, doing.step)),
        Action::DeleteRequest { name } => {
            broker.requests.remove(name);
            done
        }
        Action::DeleteInvitation { name } => {
            broker.invitations.remove(name);
            done
        }
    }
}

fn answer(world: &mut World, request: &str, status: JoinRequestStatus) {
    let wall = world.now().wall;
    if let Some(mut object) = world.broker.requests.get(request).cloned() {
        object.status = Some(status);
        world.broker.requests.put(object, String::new(), wall);
    }
}

fn admit(world: &mut World, admission: &Admission, (step, wrote): (usize, &mut Option<Member>)) -> Result<Option<Outcome>, ()> {
    let (wall, id) = (world.now().wall, admission.id().ok_or(())?);
    match step {
        0 => {
            if let Some(status) = &admission.invitation_status {
                let mut invitation = world.broker.invitations.get(&admission.invitation).cloned().ok_or(())?;
                invitation.status = Some(status.clone());
                world.broker.invitations.put(invitation, String::new(), wall);
            }
        }
        1 => *wrote = Some(write_member(world, &admission.member, &id)?),
        2 => {
            let name = id.broker_namespace();
            if world.broker.records.get(Kind::Namespace, "", &name).is_none() {
                world.broker.records.put(objects::namespace(&name, false).into(), wall);
            }
        }
        3 => {
            if !world.broker.accounts.contains_key(&id) {
                let number = world.broker.number();
                world.broker.accounts.insert(id, number);
            }
        }
        _ => {
            let mut status = admission.status.clone();
            status.sealed_credential = world.broker.accounts.get(&id).map(u64::to_string);
            answer(world, &admission.request, status);
            // The shell returns the Member that it wrote, though another may have changed it since.
            return Ok(wrote.take().map(|written| Outcome::Admitted(Box::new(written))));
        }
    }
    Ok(None)
}

/// Whether the broker takes this Member: held to the version that was judged.
pub(crate) fn takes(broker: &Broker, member: &Member, id: &ClusterId) -> bool {
    let had = broker.member(id);
    had.and_then(ResourceExt::resource_version) == member.resource_version() && had.and_then(ResourceExt::uid) == member.uid()
}

fn write_member(world: &mut World, member: &Member, id: &ClusterId) -> Result<Member, ()> {
    if !takes(&world.broker, member, id) {
        return Err(());
    }
    let wall = world.now().wall;
    world.broker.records.put(member.clone().into(), wall);
    world.broker.member(id).cloned().ok_or(())
}

/// Rights first, then records, then the namespace.
fn remove(broker: &mut Broker, id: &ClusterId, step: usize) -> Option<Outcome> {
    const RECORDS: [Kind; 4] = [Kind::Export, Kind::ExportEndpoints, Kind::Heartbeat, Kind::Cluster];
    let namespace = id.broker_namespace();
    match step {
        0 => {
            broker.accounts.remove(id);
        }
        1..=4 => {
            let kind = RECORDS[step - 1];
            let of = |o: &&daisy_broker_core::object::Object| o.namespace() == namespace;
            let names: Vec<String> = broker.records.list(kind).filter(of).map(|o| o.name().to_owned()).collect();
            for name in names {
                broker.records.remove(kind, &namespace, &name);
            }
        }
        _ => {
            broker.records.remove(Kind::Namespace, "", &namespace);
            return Some(Outcome::Done);
        }
    }
    None
}
