//! Admission as the embedded API server asks for it.

use daisy_api::labels::{BROKER_NAMESPACE, GROUP};
use daisy_api::{ClusterId, MemberSpec};
use daisy_api_server::{AdmissionRequest, Cause, Hooks, Operation, Refusal, ResourceKey, View};

use crate::admission::{self, Inadmissible, Records, Write, Writer};

/// Holds every write to what [`crate::admission`] says.
pub(super) struct Admission {
    members: ResourceKey,
    requests: ResourceKey,
}

impl Admission {
    pub(super) fn new() -> Self {
        Self { members: ResourceKey::new(GROUP, "members"), requests: ResourceKey::new(GROUP, "joinrequests") }
    }
}

struct Stored<'a> {
    keys: &'a Admission,
    view: View<'a>,
}

impl Records for Stored<'_> {
    fn member(&self, id: &ClusterId) -> Option<MemberSpec> {
        let object = self.view.get(&self.keys.members, BROKER_NAMESPACE, id.as_str())?;
        admission::member_spec(object).map(|(_, spec)| spec)
    }

    fn members(&self) -> Vec<(String, MemberSpec)> {
        self.view.list(&self.keys.members, Some(BROKER_NAMESPACE)).into_iter().filter_map(admission::member_spec).collect()
    }

    fn requests_of(&self, invitation: &str) -> usize {
        let all = self.view.list(&self.keys.requests, Some(BROKER_NAMESPACE));
        all.iter().filter(|request| request["spec"]["invitation"] == invitation).count()
    }
}

impl Hooks for Admission {
    fn admit(&self, request: &AdmissionRequest<'_>, view: View<'_>) -> Result<(), Refusal> {
        let writer = Writer { administrator: request.user.is_master(), account: request.user.as_service_account() };
        let (group, plural) = (&*request.resource.group, &*request.resource.plural);
        let write = Write {
            writer,
            resource: (group, plural),
            namespace: request.namespace.unwrap_or_default(),
            name: request.name,
            subresource: request.subresource,
            creates: request.operation == Operation::Create,
            object: request.object,
        };
        let Err(why) = admission::admit(&write, &Stored { keys: self, view }) else { return Ok(()) };
        if let Inadmissible::Malformed { field, cause } = why {
            return Err(Refusal::invalid(group, plural, request.name, vec![Cause::invalid(field, cause)]));
        }
        // As Kubernetes refuses what exceeds a quota, too. (Clients take 429 for a pause, and wait.)
        Err(Refusal::forbidden(group, plural, request.name, why))
    }
}
