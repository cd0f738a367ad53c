//! What was begun, and may be half done: ranges that may be a Member's, or promised, though nothing was heard of that yet.

use std::collections::BTreeMap;

use daisy_api::{ClusterId, JoinPhase, JoinRequestSpec, Ranges};

use super::Action;
use super::judge::{self, Reservation};

#[derive(Debug, Clone)]
struct Attempt {
    id: ClusterId,
    invitation: String,
    ranges: Ranges,
    /// Whether it is an admission, or is to become one.
    admits: bool,
    /// Whether it may have written a Member of whose end nothing is known.
    stands: bool,
}

/// By JoinRequest: admissions and reservations that failed on the way, and replacements whose present member goes first.
#[derive(Debug, Default)]
pub(super) struct Attempts(BTreeMap<String, Attempt>);

impl Attempts {
    /// The action failed, and may have been done as far as it matters to others. `asker` knows who made a request.
    pub(super) fn failed(&mut self, action: Action, asker: impl FnOnce(&str) -> Option<ClusterId>) {
        let (request, attempt) = match action {
            Action::Admit(admission) => {
                let Some(id) = admission.id() else { return };
                let ranges = judge::ranges_of(&admission.member.spec);
                (admission.request, Attempt { id, invitation: admission.invitation, ranges, admits: true, stands: true })
            }
            Action::Answer { request, invitation, status } if status.phase == JoinPhase::Reserved => {
                let (Some(id), Some(ranges)) = (asker(&request), status.ranges) else { return };
                (request, Attempt { id, invitation, ranges, admits: false, stands: false })
            }
            Action::Answer { .. }
            | Action::EndMember { .. }
            | Action::RemoveCluster { .. }
            | Action::DeleteRequest { .. }
            | Action::DeleteInvitation { .. } => return,
        };
        self.0.insert(request, attempt);
    }

    /// The present member of its ID is about to be ended for it: what becomes free by that is nobody else's.
    pub(super) fn replaces(&mut self, request: String, spec: &JoinRequestSpec) {
        let ranges =
            Ranges { cluster_cidrs: spec.cluster_cidrs.clone(), service_cidrs: spec.service_cidrs.clone(), node_cidr: None };
        let (id, invitation) = (spec.cluster_id.clone(), spec.invitation.clone());
        self.0.insert(request, Attempt { id, invitation, ranges, admits: true, stands: false });
    }

    /// The request has its answer, or is gone. Returns whose it was.
    pub(super) fn over(&mut self, request: &str) -> Option<ClusterId> {
        self.0.remove(request).map(|attempt| attempt.id)
    }

    /// Forgets those of requests that are not there. Returns whose they were.
    pub(super) fn forget(&mut self, there: impl Fn(&str) -> bool) -> Vec<ClusterId> {
        let gone: Vec<String> = self.0.keys().filter(|request| !there(request)).cloned().collect();
        gone.iter().filter_map(|request| self.over(request)).collect()
    }

    /// A Member that was known here is gone, whoever wrote it.
    pub(super) fn ended(&mut self, id: &ClusterId) {
        self.0.values_mut().filter(|attempt| attempt.id == *id).for_each(|attempt| attempt.stands = false);
    }

    /// Whether a Member of this ID may be there that no watch has told of.
    pub(super) fn may_stand(&self, id: &ClusterId) -> bool {
        self.0.values().any(|attempt| attempt.stands && attempt.id == *id)
    }

    /// Who may have joined by the invitation.
    pub(super) fn uses<'a>(&'a self, invitation: &'a str) -> impl Iterator<Item = &'a ClusterId> {
        self.0.values().filter(move |attempt| attempt.admits && attempt.invitation == invitation).map(|attempt| &attempt.id)
    }

    /// What they may have taken.
    pub(super) fn reservations(&self) -> impl Iterator<Item = Reservation<'_>> {
        let values = self.0.values();
        values.map(|one| Reservation { id: &one.id, invitation: &one.invitation, ranges: &one.ranges })
    }
}
