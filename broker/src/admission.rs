//! What the embedded broker admits: each record held to its namespace's Member, each request to its invitation.
//!
//! ```text
//! write ──RBAC──▶ schema ──▶ admission (here; policy of daisy-broker-core) ──▶ quota ──▶ store
//! ```
//!
//! A Kubernetes broker has the same rules as admission policies; every reader has them again.

use daisy_api::labels::{BROKER_NAMESPACE, EXPORT_ID, GROUP};
use daisy_api::{ClusterId, ClusterSpec, ExportEndpointsSpec, ExportSpec, HeartbeatSpec, JoinRequestSpec, Member, MemberSpec};
use daisy_api_server::typed::{self, TypeMismatch};
use daisy_broker_core::policy;
use daisy_broker_core::registrar::request::{REQUEST_NAME_MIN, REQUEST_NAME_PREFIX, REQUESTS_PER_INVITATION, unguessable};
use serde::de::DeserializeOwned;
use serde_json::Value;
use thiserror::Error;

use crate::rights;

/// Why a write is not admitted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum Inadmissible {
    /// The object does not hold what its kind does.
    #[error("{field}: {cause}")]
    Malformed {
        /// The field that could not be read.
        field: String,
        /// Why.
        cause: String,
    },
    /// A record in a namespace that is no cluster's.
    #[error("{kind} records live in the namespace of their cluster (daisy-cluster-ID), not in {namespace:?}")]
    Namespace {
        /// The kind.
        kind: &'static str,
        /// The namespace.
        namespace: String,
    },
    /// A record of a cluster that is no member.
    #[error("cluster {0} is no member: it joins first (daisy join)")]
    NoMember(ClusterId),
    /// A record that its Member does not allow.
    #[error(transparent)]
    Policy(Box<policy::Refusal>),
    /// A name that belongs to no object of this kind.
    #[error("metadata.name: a {kind} is named after its cluster: {expected}")]
    Name {
        /// The kind.
        kind: &'static str,
        /// What it would have to be.
        expected: String,
    },
    /// The label by which consumers find endpoints is missing or another export's.
    #[error("metadata.labels[{EXPORT_ID}] must be {expected:?}, the ID of the export that the endpoints belong to")]
    Label {
        /// What it would have to be.
        expected: String,
    },
    /// Finalizers or owners that would keep the registrar from deleting it.
    #[error("metadata.{0} is not taken here; leave it out")]
    Metadata(&'static str),
    /// A JoinRequest whose name might be guessed.
    #[error(
        "metadata.name: a JoinRequest is named {REQUEST_NAME_PREFIX} and at least {} random characters, so that nobody guesses it",
        REQUEST_NAME_MIN - REQUEST_NAME_PREFIX.len()
    )]
    Guessable,
    /// A JoinRequest for another invitation than the token's.
    #[error("spec.invitation {asked:?} is not the invitation of this token ({own:?})")]
    OtherInvitation {
        /// What the request says.
        asked: String,
        /// What the token is for.
        own: String,
    },
    /// A JoinRequest by somebody who was not invited.
    #[error("JoinRequests are created with the token of an invitation")]
    NotInvited,
    /// Too many requests of one invitation.
    #[error("invitation {0} has {REQUESTS_PER_INVITATION} requests already; they are deleted an hour after their answer")]
    TooManyRequests(String),
    /// A status that only the registrar and the administrator write.
    #[error("the status is written by the registrar and the administrator alone")]
    Status,
    /// A Member with ranges that another has.
    #[error("{field} {asked} overlaps {had} of member {owner}; two members cannot have the same addresses")]
    Overlap {
        /// The field.
        field: &'static str,
        /// The range.
        asked: String,
        /// The other's range.
        had: String,
        /// The other member.
        owner: String,
    },
}

impl From<policy::Refusal> for Inadmissible {
    fn from(refusal: policy::Refusal) -> Self {
        Self::Policy(Box::new(refusal))
    }
}

/// Who writes, as far as admission asks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Writer<'a> {
    /// Whether it may do everything.
    pub(crate) administrator: bool,
    /// The namespace and the name of a ServiceAccount.
    pub(crate) account: Option<(&'a str, &'a str)>,
}

/// A write to be admitted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Write<'a> {
    pub(crate) writer: Writer<'a>,
    /// Group and plural.
    pub(crate) resource: (&'a str, &'a str),
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    pub(crate) subresource: Option<&'a str>,
    pub(crate) creates: bool,
    /// The object as it will be; `None` for a deletion.
    pub(crate) object: Option<&'a Value>,
}

/// What admission looks up.
pub(crate) trait Records {
    /// The Member of this ID.
    fn member(&self, id: &ClusterId) -> Option<MemberSpec>;
    /// All Members, with their IDs.
    fn members(&self) -> Vec<(String, MemberSpec)>;
    /// How many JoinRequests name this invitation.
    fn requests_of(&self, invitation: &str) -> usize;
}

/// Admits a write, or says why not. What is not Daisy's is admitted: rights decide there.
pub(crate) fn admit(write: &Write<'_>, records: &impl Records) -> Result<(), Inadmissible> {
    let (group, plural) = write.resource;
    let Some(object) = write.object.filter(|_| group == GROUP) else { return Ok(()) };
    if !write.writer.administrator {
        if write.subresource.is_some() {
            return Err(Inadmissible::Status);
        }
        metadata(object)?;
    }
    if write.subresource.is_some() {
        return Ok(());
    }
    match plural {
        "exports" => {
            let (id, member) = member_of(write, "Export", records)?;
            policy::export(&id, &member, write.name, &spec::<ExportSpec>(object)?)?;
        }
        "exportendpoints" => {
            let (id, member) = member_of(write, "ExportEndpoints", records)?;
            let spec: ExportEndpointsSpec = spec(object)?;
            policy::endpoints(&id, &member, write.name, &spec)?;
            let expected = spec.key().id();
            if object["metadata"]["labels"][EXPORT_ID] != expected.as_str() {
                return Err(Inadmissible::Label { expected });
            }
        }
        "clusters" => {
            let (id, member) = member_of(write, "Cluster", records)?;
            policy::cluster(&id, &member, write.name, &spec::<ClusterSpec>(object)?)?;
        }
        "heartbeats" => {
            let (id, _) = member_of(write, "Heartbeat", records)?;
            spec::<HeartbeatSpec>(object)?;
            if write.name != id.as_str() {
                return Err(Inadmissible::Name { kind: "Heartbeat", expected: id.to_string() });
            }
        }
        "joinrequests" => join_request(write, &spec(object)?, records)?,
        "members" => member(write, &spec(object)?, records)?,
        _ => {}
    }
    Ok(())
}

fn spec<T: DeserializeOwned>(object: &Value) -> Result<T, Inadmissible> {
    // The schema has been checked; what it cannot say, as that a CIDR has no bits beyond its prefix, the type does.
    typed::read(&object["spec"], "spec")
        .map_err(|TypeMismatch { field, message }| Inadmissible::Malformed { field, cause: message })
}

fn metadata(object: &Value) -> Result<(), Inadmissible> {
    for field in ["finalizers", "ownerReferences"] {
        if object["metadata"][field].as_array().is_some_and(|list| !list.is_empty()) {
            return Err(Inadmissible::Metadata(field));
        }
    }
    Ok(())
}

fn member_of(write: &Write<'_>, kind: &'static str, records: &impl Records) -> Result<(ClusterId, MemberSpec), Inadmissible> {
    let id = ClusterId::from_broker_namespace(write.namespace)
        .ok_or_else(|| Inadmissible::Namespace { kind, namespace: write.namespace.to_owned() })?;
    let member = records.member(&id).ok_or_else(|| Inadmissible::NoMember(id.clone()))?;
    Ok((id, member))
}

fn join_request(write: &Write<'_>, spec: &JoinRequestSpec, records: &impl Records) -> Result<(), Inadmissible> {
    if !write.creates || write.writer.administrator {
        return Ok(());
    }
    let own = write
        .writer
        .account
        .filter(|(namespace, _)| *namespace == BROKER_NAMESPACE)
        .and_then(|(_, name)| rights::invitation_of_account(name))
        .ok_or(Inadmissible::NotInvited)?;
    if spec.invitation != own {
        return Err(Inadmissible::OtherInvitation { asked: spec.invitation.clone(), own: own.to_owned() });
    }
    if !unguessable(write.name) {
        return Err(Inadmissible::Guessable);
    }
    if records.requests_of(own) >= REQUESTS_PER_INVITATION {
        return Err(Inadmissible::TooManyRequests(own.to_owned()));
    }
    Ok(())
}

/// Whoever writes a Member: overlaps are refused once more where they would become real.
fn member(write: &Write<'_>, spec: &MemberSpec, records: &impl Records) -> Result<(), Inadmissible> {
    let fields = spec
        .cluster_cidrs
        .iter()
        .map(|range| ("spec.clusterCidrs", range))
        .chain(spec.service_cidrs.iter().map(|range| ("spec.serviceCidrs", range)))
        .chain(std::iter::once(("spec.nodeCidr", &spec.node_cidr)));
    let fields: Vec<_> = fields.collect();
    for (owner, other) in records.members().into_iter().filter(|(owner, _)| owner != write.name) {
        for had in other.cidrs() {
            if let Some((field, asked)) = fields.iter().find(|(_, range)| range.overlaps(&had)) {
                return Err(Inadmissible::Overlap { field, asked: asked.to_string(), had: had.to_string(), owner });
            }
        }
    }
    Ok(())
}

/// The spec of a Member object; `None` for one that does not parse.
pub(crate) fn member_spec(object: Value) -> Option<(String, MemberSpec)> {
    let member: Member = serde_json::from_value(object).ok()?;
    Some((member.metadata.name?, member.spec))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    struct One(MemberSpec, usize);

    impl Records for One {
        fn member(&self, id: &ClusterId) -> Option<MemberSpec> {
            (id.as_str() == "local").then(|| self.0.clone())
        }
        fn members(&self) -> Vec<(String, MemberSpec)> {
            vec![("local".to_owned(), self.0.clone())]
        }
        fn requests_of(&self, _: &str) -> usize {
            self.1
        }
    }

    fn records() -> One {
        let member = json!({
            "clusterUid": "u", "clusterCidrs": ["10.1.0.0/16"], "serviceCidrs": ["10.2.0.0/16"], "nodeCidr": "100.80.0.0/20",
            "grant": ["shop"], "signingKey": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        });
        One(serde_json::from_value(member).expect("a Member"), 0)
    }

    const SYNCER: Writer<'_> = Writer { administrator: false, account: Some(("daisy-cluster-local", "syncer")) };
    const INVITED: Writer<'_> = Writer { administrator: false, account: Some((BROKER_NAMESPACE, "invitation-first")) };
    const ADMINISTRATOR: Writer<'_> = Writer { administrator: true, account: None };

    fn try_write(writer: Writer<'_>, plural: &str, place: (&str, &str), object: &Value) -> Result<(), Inadmissible> {
        let (namespace, name) = place;
        let resource = (GROUP, plural);
        let write = Write { writer, resource, namespace, name, subresource: None, creates: true, object: Some(object) };
        admit(&write, &records())
    }

    fn export(namespace: &str) -> Value {
        json!({"metadata": {}, "spec": {"envelope": {"sequence": 1}, "namespace": namespace, "name": "web", "type": "ClusterSetIP",
               "exportedAt": "2026-01-01T00:00:00Z", "ports": [{"port": 80}], "clusterIPs": ["10.2.0.5"]}})
    }

    #[test]
    fn records_stay_in_their_place() {
        let own = ("daisy-cluster-local", "web.shop");
        assert_eq!(try_write(SYNCER, "exports", own, &export("shop")), Ok(()));
        assert!(matches!(
            try_write(SYNCER, "exports", ("daisy-cluster-local", "web.bank"), &export("bank")),
            Err(Inadmissible::Policy(refusal)) if matches!(*refusal, policy::Refusal::OutsideGrant { .. })
        ));
        assert!(matches!(
            try_write(SYNCER, "exports", ("default", "web.shop"), &export("shop")),
            Err(Inadmissible::Namespace { .. })
        ));
        // Not even the administrator writes what no reader takes.
        assert!(matches!(
            try_write(ADMINISTRATOR, "exports", ("daisy-cluster-other", "web.shop"), &export("shop")),
            Err(Inadmissible::NoMember(_))
        ));
        let mut kept = export("shop");
        kept["metadata"]["finalizers"] = json!(["a/b"]);
        assert_eq!(try_write(SYNCER, "exports", own, &kept), Err(Inadmissible::Metadata("finalizers")));
    }

    #[test]
    fn endpoints_carry_the_label_of_their_own_export() {
        let mut object = json!({"metadata": {"labels": {EXPORT_ID: "another"}}, "spec": {"envelope": {"sequence": 1},
            "namespace": "shop", "name": "web", "addressType": "IPv4", "endpoints": [{"addresses": ["10.1.0.7"]}], "ports": []}});
        let place = ("daisy-cluster-local", "web.shop.0a");
        let refused = try_write(SYNCER, "exportendpoints", place, &object);
        let Err(Inadmissible::Label { expected }) = refused else { panic!("{refused:?}") };
        object["metadata"]["labels"][EXPORT_ID] = json!(expected);
        assert_eq!(try_write(SYNCER, "exportendpoints", place, &object), Ok(()));
        object["spec"]["endpoints"][0]["addresses"] = json!(["10.9.0.7"]);
        assert!(matches!(try_write(SYNCER, "exportendpoints", place, &object), Err(Inadmissible::Policy(_))));
    }

    #[test]
    fn requests_are_their_invitations() {
        let request = |invitation: &str| {
            json!({"metadata": {}, "spec": {"invitation": invitation, "clusterId": "a", "clusterUid": "u",
                   "sealingKey": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "signingKey": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}})
        };
        let place = (BROKER_NAMESPACE, "join-abcdefghijklmnopqrstuvwxyz");
        assert_eq!(try_write(INVITED, "joinrequests", place, &request("first")), Ok(()));
        assert!(matches!(
            try_write(INVITED, "joinrequests", place, &request("second")),
            Err(Inadmissible::OtherInvitation { .. })
        ));
        assert_eq!(
            try_write(INVITED, "joinrequests", (BROKER_NAMESPACE, "join-a"), &request("first")),
            Err(Inadmissible::Guessable)
        );
        assert_eq!(try_write(SYNCER, "joinrequests", place, &request("first")), Err(Inadmissible::NotInvited));
        let object = request("first");
        let write = Write {
            writer: INVITED,
            resource: (GROUP, "joinrequests"),
            namespace: BROKER_NAMESPACE,
            name: place.1,
            subresource: None,
            creates: true,
            object: Some(&object),
        };
        let full = One(records().0, REQUESTS_PER_INVITATION);
        assert_eq!(admit(&write, &full), Err(Inadmissible::TooManyRequests("first".to_owned())));
        let status = Write { subresource: Some("status"), creates: false, ..write };
        assert_eq!(admit(&status, &records()), Err(Inadmissible::Status));
        assert_eq!(admit(&Write { writer: ADMINISTRATOR, ..status }, &records()), Ok(()));
        let bits = json!({"metadata": {}, "spec": {"invitation": "first", "clusterId": "a", "clusterUid": "u",
            "clusterCidrs": ["10.0.0.1/8"],
            "sealingKey": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "signingKey": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}});
        let refused = try_write(INVITED, "joinrequests", place, &bits).expect_err("host bits");
        assert!(refused.to_string().contains("did you mean 10.0.0.0/8"), "{refused}");
    }

    #[test]
    fn no_member_overlaps_another() {
        let mut object = json!({"metadata": {}, "spec": serde_json::to_value(records().0).expect("JSON")});
        assert_eq!(try_write(ADMINISTRATOR, "members", (BROKER_NAMESPACE, "local"), &object), Ok(()));
        assert!(matches!(
            try_write(ADMINISTRATOR, "members", (BROKER_NAMESPACE, "other"), &object),
            Err(Inadmissible::Overlap { .. })
        ));
        object["spec"]["clusterCidrs"] = json!(["10.3.0.0/16"]);
        object["spec"]["serviceCidrs"] = json!(["10.4.0.0/16"]);
        object["spec"]["nodeCidr"] = json!("100.80.16.0/20");
        assert_eq!(try_write(ADMINISTRATOR, "members", (BROKER_NAMESPACE, "other"), &object), Ok(()));
    }
}
