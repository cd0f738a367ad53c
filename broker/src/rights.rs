//! The rights on a broker (docs/architecture.md, "Rights on the broker"): what one member or one invitation has, as Kubernetes
//! objects. What all have alike, and the registrar's own, are in `manifests/broker`.
//!
//! | who | what |
//! |---|---|
//! | ServiceAccount `invitation-NAME` in `daisy-broker` | create and get JoinRequests there |
//! | ServiceAccount `syncer` in `daisy-cluster-ID` | everything on its own records; reads records and Members everywhere; its own tokens |
//! | ServiceAccount `daisy-registrar` in `daisy-broker` | what the two above can, and what making them needs |

use std::collections::BTreeMap;

use daisy_api::ClusterId;
use daisy_api::labels::{BROKER_NAMESPACE, COMPONENT, GROUP, MANAGED_BY, MANAGED_BY_DAISY};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// The ServiceAccount of a cluster, in its namespace; its Role has the same name.
pub const SYNCER: &str = "syncer";
/// The ClusterRole of who reads records and Members.
pub const READER_ROLE: &str = "daisy-broker-reader";
/// The Role, in `daisy-broker`, of who was invited.
pub const INVITATION_ROLE: &str = "daisy-invitation";
/// The registrar's ServiceAccount in `daisy-broker`, its roles, their bindings and its Deployment, on a Kubernetes broker.
pub const REGISTRAR: &str = "daisy-registrar";

const RBAC: &str = "rbac.authorization.k8s.io";
const RECORDS: [&str; 4] = ["clusters", "exportendpoints", "exports", "heartbeats"];
const ALL: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

fn labels(component: &str) -> BTreeMap<String, String> {
    [(MANAGED_BY, MANAGED_BY_DAISY), (COMPONENT, component)].map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

fn meta(name: &str, namespace: Option<&str>, component: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: namespace.map(str::to_owned),
        labels: Some(labels(component)),
        ..ObjectMeta::default()
    }
}

fn rule(group: &str, resources: &[&str], verbs: &[&str]) -> PolicyRule {
    let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    PolicyRule {
        api_groups: Some(vec![group.to_owned()]),
        resources: Some(owned(resources)),
        verbs: owned(verbs),
        ..PolicyRule::default()
    }
}

fn account(name: &str, namespace: &str) -> Subject {
    Subject {
        kind: "ServiceAccount".to_owned(),
        name: name.to_owned(),
        namespace: Some(namespace.to_owned()),
        ..Subject::default()
    }
}

fn role_ref(kind: &str, name: &str) -> RoleRef {
    RoleRef { api_group: RBAC.to_owned(), kind: kind.to_owned(), name: name.to_owned() }
}

/// The ServiceAccount whose token an invitation holds.
#[must_use]
pub fn invitation_account_name(invitation: &str) -> String {
    format!("invitation-{invitation}")
}

/// The invitation of a ServiceAccount of `daisy-broker`, if it is an invitation's.
#[must_use]
pub fn invitation_of_account(account: &str) -> Option<&str> {
    account.strip_prefix("invitation-").filter(|name| !name.is_empty())
}

/// An invitation's ServiceAccount and its binding.
#[must_use]
pub fn invitation(name: &str) -> (ServiceAccount, RoleBinding) {
    let account_name = invitation_account_name(name);
    let metadata = || meta(&account_name, Some(BROKER_NAMESPACE), "invitation");
    let binding = RoleBinding {
        metadata: metadata(),
        role_ref: role_ref("Role", INVITATION_ROLE),
        subjects: Some(vec![account(&account_name, BROKER_NAMESPACE)]),
    };
    (ServiceAccount { metadata: metadata(), ..ServiceAccount::default() }, binding)
}

/// What a member has on the broker.
#[derive(Debug, Clone)]
pub struct MemberRights {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its ServiceAccount.
    pub account: ServiceAccount,
    /// Its rights in its namespace.
    pub role: Role,
    /// Their binding.
    pub binding: RoleBinding,
    /// The binding that lets it read what others offer, named as its namespace.
    pub reader: ClusterRoleBinding,
}

/// What the member of this ID has.
#[must_use]
pub fn member(id: &ClusterId) -> MemberRights {
    let own = id.broker_namespace();
    let metadata = || meta(SYNCER, Some(&own), "cluster");
    let mut token = rule("", &["serviceaccounts/token"], &["create"]);
    token.resource_names = Some(vec![SYNCER.to_owned()]);
    MemberRights {
        namespace: Namespace { metadata: meta(&own, None, "cluster"), ..Namespace::default() },
        account: ServiceAccount { metadata: metadata(), ..ServiceAccount::default() },
        role: Role { metadata: metadata(), rules: Some(vec![rule(GROUP, &RECORDS, &ALL), token]) },
        binding: RoleBinding {
            metadata: metadata(),
            role_ref: role_ref("Role", SYNCER),
            subjects: Some(vec![account(SYNCER, &own)]),
        },
        reader: ClusterRoleBinding {
            metadata: meta(&own, None, "cluster"),
            role_ref: role_ref("ClusterRole", READER_ROLE),
            subjects: Some(vec![account(SYNCER, &own)]),
        },
    }
}
