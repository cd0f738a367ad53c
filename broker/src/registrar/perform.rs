//! Performs what the registrar's machine decides, with plain Kubernetes requests. Every step may have been done before.

use std::fmt::Debug;
use std::time::Duration;

use daisy_api::labels::BROKER_NAMESPACE;
use daisy_api::{Cluster, ClusterId, Export, ExportEndpoints, Heartbeat, Invitation, JoinRequest, JoinRequestStatus, Member};
use daisy_broker_core::registrar::{Action, Admission, Outcome};
use daisy_kubernetes::Api;
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicyBinding;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, ResourceQuota, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use thiserror::Error;

use crate::apply::said;
use crate::sealing::{Credential, SealError};
use crate::{policies, rights};

/// The reason of a refusal for an invitation that is not there.
const INVITATION_UNKNOWN: &str = "InvitationUnknown";
/// How long to wait, again and again, for an API server to see a role that it has taken.
const ROLE_UNSEEN: [Duration; 6] = [
    Duration::from_millis(20),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_millis(1000),
];

/// Why an action was not done.
#[derive(Debug, Error)]
pub enum PerformError {
    /// The broker refused, or cannot be reached.
    #[error("{what}: {}", said(cause))]
    Api {
        /// What was being done, as "creating Member daisy-broker/local".
        what: String,
        /// What the broker said.
        cause: Box<kube::Error>,
    },
    /// A token came without an expiry or not at all.
    #[error("the token of ServiceAccount {namespace}/{name} came without contents")]
    NoToken {
        /// The ServiceAccount's namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// The credential cannot be sealed.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// An invitation that is there, and that the registrar has yet to see.
    #[error("Invitation {invitation} is there, and its watch has yet to bring it")]
    Unseen {
        /// Its name.
        invitation: String,
    },
    /// An admission of something that cannot be a member.
    #[error("the Member has no valid cluster ID for a name")]
    Name,
}

/// Says what was being done, in front of what the API server says.
pub(crate) trait Doing<T> {
    /// `what` as "creating Member daisy-broker/local".
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, PerformError>;
}

impl<T> Doing<T> for Result<T, kube::Error> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, PerformError> {
        self.map_err(|cause| PerformError::Api { what: what(), cause: Box::new(cause) })
    }
}

/// Whether the API server answered with this code.
pub(crate) fn is_code(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

fn object_name<K: Resource<DynamicType = ()>>(object: &K) -> String {
    let meta = object.meta();
    let name = meta.name.as_deref().unwrap_or_default();
    match &meta.namespace {
        Some(namespace) => format!("{} {namespace}/{name}", K::kind(&())),
        None => format!("{} {name}", K::kind(&())),
    }
}

/// Creates the object; one that is there gets what this one says.
pub(crate) async fn ensure<K>(api: &Api<K>, object: &K) -> Result<K, PerformError>
where
    K: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned,
{
    match api.create(&PostParams::default(), object).await {
        Err(error) if is_code(&error, 409) => {
            let name = object.name_any();
            let patched = api.patch(&name, &PatchParams::default(), &Patch::Merge(object)).await;
            patched.doing(|| format!("changing {}", object_name(object)))
        }
        other => other.doing(|| format!("creating {}", object_name(object))),
    }
}

/// The same for a binding, whose role may be so new that the API server's own cache of roles has yet to see it.
pub(crate) async fn ensure_binding<K>(api: &Api<K>, binding: &K) -> Result<K, PerformError>
where
    K: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned,
{
    for pause in ROLE_UNSEEN {
        match ensure(api, binding).await {
            Err(PerformError::Api { cause, .. }) if is_code(&cause, 404) => tokio::time::sleep(pause).await,
            other => return other,
        }
    }
    ensure(api, binding).await
}

/// Deletes the object; one that is not there is as good.
pub(crate) async fn delete<K>(api: &Api<K>, name: &str, params: &DeleteParams) -> Result<(), PerformError>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    match api.delete(name, params).await {
        Err(error) if is_code(&error, 404) => Ok(()),
        other => other.map(|_| ()).doing(|| format!("deleting {} {name}", K::kind(&()))),
    }
}

/// Has a token made for a ServiceAccount, of this life in seconds. Returns it with its end.
pub(crate) async fn token(
    client: &Client,
    namespace: &str,
    name: &str,
    seconds: i64,
) -> Result<(String, k8s_openapi::jiff::Timestamp), PerformError> {
    let accounts: kube::Api<ServiceAccount> = kube::Api::namespaced(client.clone(), namespace);
    // No audience: that of the API server itself is meant.
    let spec = TokenRequestSpec { expiration_seconds: Some(seconds), ..TokenRequestSpec::default() };
    let request = TokenRequest { spec, ..TokenRequest::default() };
    let answer = accounts
        .create_token_request(name, &PostParams::default(), &request)
        .await
        .doing(|| format!("asking for a token of ServiceAccount {namespace}/{name}"))?;
    let status = answer.status.filter(|status| !status.token.is_empty());
    let status = status.ok_or_else(|| PerformError::NoToken { namespace: namespace.to_owned(), name: name.to_owned() })?;
    Ok((status.token, status.expiration_timestamp.0))
}

/// Performs actions on one broker.
#[derive(Clone)]
pub(super) struct Hands {
    pub(super) client: Client,
    pub(super) broker_id: String,
    pub(super) token_seconds: i64,
    /// Whether the broker has admission policies and quotas.
    pub(super) policies: bool,
}

impl Hands {
    fn daisys<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), BROKER_NAMESPACE)
    }

    fn whole<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = ClusterResourceScope>,
    {
        Api::all(self.client.clone())
    }

    pub(super) async fn perform(&self, action: &Action) -> Result<Outcome, PerformError> {
        match action {
            Action::Answer { request, status, invitation } => {
                self.seen(status, invitation).await?;
                self.answer(request, &json!({ "status": status })).await?;
            }
            Action::Admit(admission) => return self.admit(admission).await,
            Action::EndMember { id, uid, .. } => self.end(id, uid).await?,
            Action::RemoveCluster { id } => self.remove(id).await?,
            Action::DeleteRequest { name } => delete(&self.daisys::<JoinRequest>(), name, &DeleteParams::default()).await?,
            Action::DeleteInvitation { name } => self.delete_invitation(name).await?,
        }
        Ok(Outcome::Done)
    }

    /// Watches of two kinds are not in one order: a request may be seen before the invitation that was there before it. So nobody is
    /// told that there is no such invitation while there is.
    async fn seen(&self, status: &JoinRequestStatus, invitation: &str) -> Result<(), PerformError> {
        if status.reason != INVITATION_UNKNOWN {
            return Ok(());
        }
        let there = self.daisys::<Invitation>().get_opt(invitation).await;
        match there.doing(|| format!("looking for Invitation {invitation}"))? {
            Some(_) => Err(PerformError::Unseen { invitation: invitation.to_owned() }),
            None => Ok(()),
        }
    }

    async fn answer(&self, request: &str, patch: &serde_json::Value) -> Result<(), PerformError> {
        let requests: Api<JoinRequest> = self.daisys();
        match requests.patch_status(request, &PatchParams::default(), &Patch::Merge(patch)).await {
            // Nobody waits for the answer any more.
            Err(error) if is_code(&error, 404) => Ok(()),
            other => other.map(|_| ()).doing(|| format!("answering JoinRequest {request}")),
        }
    }

    async fn admit(&self, admission: &Admission) -> Result<Outcome, PerformError> {
        let id = admission.id().ok_or(PerformError::Name)?;
        if let Some(status) = &admission.invitation_status {
            let invitations: Api<Invitation> = self.daisys();
            let (name, patch) = (&admission.invitation, Patch::Merge(json!({ "status": status })));
            let patched = invitations.patch_status(name, &PatchParams::default(), &patch).await;
            patched.doing(|| format!("counting a use of Invitation {name}"))?;
        }
        let member = self.write_member(&admission.member).await?;
        let credential = self.credential(&id).await?;
        let mut status = admission.status.clone();
        status.sealed_credential = Some(credential.seal(&admission.sealing_key)?);
        self.answer(&admission.request, &json!({ "status": status })).await?;
        Ok(Outcome::Admitted(Box::new(member)))
    }

    async fn write_member(&self, member: &Member) -> Result<Member, PerformError> {
        let members: Api<Member> = self.daisys();
        let (name, params) = (member.name_any(), PostParams::default());
        if member.resource_version().is_some() {
            // Held to the version that was judged: what an administrator changed meanwhile is judged anew.
            members.replace(&name, &params, member).await.doing(|| format!("changing Member {name}"))
        } else {
            members.create(&params, member).await.doing(|| format!("creating Member {name}"))
        }
    }

    /// The cluster's namespace, rights and token.
    async fn credential(&self, id: &ClusterId) -> Result<Credential, PerformError> {
        let own = id.broker_namespace();
        let rights = rights::member(id);
        // What bounds a member is there before its rights are: an API server needs a moment to take it up.
        if self.policies {
            ensure(&self.whole::<ValidatingAdmissionPolicyBinding>(), &policies::member_binding(id)).await?;
        }
        ensure(&self.whole::<Namespace>(), &rights.namespace).await?;
        if self.policies {
            ensure(&Api::<ResourceQuota>::namespaced(self.client.clone(), &own), &policies::quota(&own)).await?;
        }
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &own);
        let roles: Api<Role> = Api::namespaced(self.client.clone(), &own);
        let bindings: Api<RoleBinding> = Api::namespaced(self.client.clone(), &own);
        let readers: Api<ClusterRoleBinding> = self.whole();
        tokio::try_join!(ensure(&accounts, &rights.account), ensure(&roles, &rights.role))?;
        tokio::try_join!(ensure_binding(&bindings, &rights.binding), ensure_binding(&readers, &rights.reader))?;
        let (token, expires) = token(&self.client, &own, rights::SYNCER, self.token_seconds).await?;
        Ok(Credential {
            token,
            expires,
            namespace: own,
            service_account: rights::SYNCER.to_owned(),
            broker_id: self.broker_id.clone(),
            cluster_id: id.clone(),
        })
    }

    async fn end(&self, id: &ClusterId, uid: &str) -> Result<(), PerformError> {
        let members: Api<Member> = self.daisys();
        let preconditions = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match members.delete(id.as_str(), &params).await {
            // Gone, or another has its name.
            Err(error) if is_code(&error, 404) || is_code(&error, 409) => Ok(()),
            other => other.map(|_| ()).doing(|| format!("deleting Member {id}")),
        }
    }

    /// Rights first, so that nothing is written any more; then what was written, exports before all.
    async fn remove(&self, id: &ClusterId) -> Result<(), PerformError> {
        let own = id.broker_namespace();
        let params = DeleteParams::default();
        delete(&self.whole::<ClusterRoleBinding>(), &own, &params).await?;
        delete(&Api::<RoleBinding>::namespaced(self.client.clone(), &own), rights::SYNCER, &params).await?;
        delete(&Api::<ServiceAccount>::namespaced(self.client.clone(), &own), rights::SYNCER, &params).await?;
        delete(&Api::<Role>::namespaced(self.client.clone(), &own), rights::SYNCER, &params).await?;
        self.clear::<Export>(&own).await?;
        self.clear::<ExportEndpoints>(&own).await?;
        self.clear::<Heartbeat>(&own).await?;
        self.clear::<Cluster>(&own).await?;
        if self.policies {
            delete(&self.whole::<ValidatingAdmissionPolicyBinding>(), &own, &params).await?;
        }
        delete(&self.whole::<Namespace>(), &own, &params).await
    }

    async fn clear<K>(&self, namespace: &str) -> Result<(), PerformError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        match api.delete_collection(&DeleteParams::default(), &ListParams::default()).await {
            Err(error) if is_code(&error, 404) => Ok(()),
            other => other.map(|_| ()).doing(|| format!("deleting all {} of {namespace}", K::plural(&()))),
        }
    }

    async fn delete_invitation(&self, name: &str) -> Result<(), PerformError> {
        let (account, params) = (rights::invitation_account_name(name), DeleteParams::default());
        delete(&self.daisys::<RoleBinding>(), &account, &params).await?;
        delete(&self.daisys::<ServiceAccount>(), &account, &params).await?;
        delete(&self.daisys::<Invitation>(), name, &params).await
    }
}

#[cfg(test)]
mod tests {
    use daisy_api::JoinPhase;
    use daisy_broker_core::registrar::denial::Denial;

    use super::*;
    use crate::server::{self, BrokerOptions};
    use crate::setup::{self, Invite};

    #[tokio::test]
    async fn nobody_is_told_that_an_invitation_is_not_there_while_it_is() {
        let data = tempfile::tempdir().expect("a folder");
        let (ready, is_ready) = tokio::sync::oneshot::channel();
        let listen = vec!["127.0.0.1:0".parse().expect("an address")];
        let options = BrokerOptions { data_dir: data.path().to_owned(), listen, ..BrokerOptions::default() };
        let serving = tokio::spawn(server::run(options, ready, std::future::pending()));
        let broker = is_ready.await.expect("it serves");
        let config = kube::config::Kubeconfig::read_from(&broker.kubeconfig).expect("a kubeconfig");
        let config = kube::Config::from_custom_kubeconfig(config, &Default::default()).await.expect("a configuration");
        let client = Client::try_from(config).expect("a client");
        let info = setup::create_invitation(&client, &broker.address, &Invite::default()).await.expect("an invitation");
        let hands = Hands { client, broker_id: broker.broker_id, token_seconds: 600, policies: false };
        let answer = |invitation: &str| Action::Answer {
            request: "join-nobody-waits-for-this-one-any-more".to_owned(),
            invitation: invitation.to_owned(),
            status: JoinRequestStatus {
                phase: JoinPhase::Refused,
                reason: Denial::InvitationUnknown { invitation: invitation.to_owned() }.reason().to_owned(),
                ..JoinRequestStatus::default()
            },
        };
        let refused = hands.perform(&answer(&info.invitation.name)).await;
        assert!(matches!(refused, Err(PerformError::Unseen { .. })), "{refused:?}");
        assert_eq!(hands.perform(&answer("nobodys")).await.expect("said"), Outcome::Done);
        serving.abort();
    }
}
