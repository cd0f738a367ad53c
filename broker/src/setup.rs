//! What an administrator makes and changes on a broker: any Kubernetes API server, or the embedded one.

use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use daisy_api::broker_info::{BrokerInfo, InvitationToken};
use daisy_api::labels::{BROKER_NAMESPACE, INVITED_GRANT};
use daisy_api::names::is_label;
use daisy_api::{ClusterId, Grant, Invitation, InvitationSpec, Member};
use k8s_openapi::api::admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding};
use k8s_openapi::api::core::v1::{Namespace, ResourceQuota, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::config::Kubeconfig;
use kube::runtime::wait::{await_condition, conditions};
use kube::{Api, Client, ResourceExt};
use rand_core::{OsRng, RngCore};
use serde_json::json;
use thiserror::Error;

use crate::registrar::perform::{Doing, PerformError, delete, ensure, is_code, token};
use crate::{policies, rights};

/// What keeps an administrator's wish from being done.
#[derive(Debug, Error)]
pub enum SetupError {
    /// The API server refused, or cannot be reached.
    #[error(transparent)]
    Api(#[from] PerformError),
    /// Nothing of a broker is there.
    #[error("this API server is no Daisy broker: it has no namespace daisy-broker; make it one with daisy deploy-broker")]
    NoBroker,
    /// No member of that ID.
    #[error("there is no member {id}; the members are: {known}")]
    NoMember {
        /// The ID.
        id: ClusterId,
        /// Those that there are.
        known: String,
    },
    /// An invitation's name that cannot be one.
    #[error("an invitation cannot be called {name:?}: use a DNS label of at most 52 characters")]
    InvitationName {
        /// The name.
        name: String,
    },
    /// An invitation of that name is there.
    #[error("there is an invitation {name:?} already; choose another name")]
    InvitationExists {
        /// The name.
        name: String,
    },
    /// A number of uses outside 1 to 100,000.
    #[error("an invitation cannot be for {uses} clusters: choose 1 to 100000")]
    InvitationUses {
        /// How many.
        uses: u32,
    },
    /// A CustomResourceDefinition that the API server does not take up.
    #[error("CustomResourceDefinition {name} was not established within {seconds} s: look at its conditions")]
    NotEstablished {
        /// Its name.
        name: String,
        /// How long was waited.
        seconds: u64,
    },
    /// A kubeconfig that cannot be used.
    #[error("{path}: {cause}")]
    Kubeconfig {
        /// The file.
        path: String,
        /// What is wrong, and what to do.
        cause: String,
    },
}

/// Where a broker is, and how to know that it is the one meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Its URL.
    pub server: String,
    /// Its certificate authority, PEM.
    pub ca: String,
}

/// What an invitation is to allow.
#[derive(Debug, Clone)]
pub struct Invite {
    /// Its name; a random one where there is none.
    pub name: Option<String>,
    /// What a cluster that joins by it may export.
    pub grant: Grant,
    /// How long it lasts.
    pub ttl: Duration,
    /// How many clusters may join by it.
    pub uses: u32,
}

impl Default for Invite {
    fn default() -> Self {
        Self { name: None, grant: Grant::all(), ttl: Duration::from_secs(24 * 3600), uses: 10 }
    }
}

const ESTABLISHED_WITHIN: Duration = Duration::from_secs(30);
/// `invitation-` and this are a label.
const INVITATION_NAME_MAX: usize = 52;
/// The shortest life that an API server gives a token.
const TOKEN_LEAST: Duration = Duration::from_secs(600);

/// Makes a broker of an API server, or brings one up to date: kinds, namespace, roles. Returns the broker's ID.
///
/// # Errors
/// What the API server refuses.
pub async fn install(client: &Client) -> Result<String, SetupError> {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    for definition in daisy_api::crds::broker() {
        ensure(&definitions, &definition).await?;
    }
    for definition in daisy_api::crds::broker() {
        let name = definition.name_any();
        let established = await_condition(definitions.clone(), &name, conditions::is_crd_established());
        let in_time = tokio::time::timeout(ESTABLISHED_WITHIN, established).await;
        if !matches!(in_time, Ok(Ok(_))) {
            return Err(SetupError::NotEstablished { name, seconds: ESTABLISHED_WITHIN.as_secs() });
        }
    }
    ensure(&Api::<Namespace>::all(client.clone()), &rights::namespace(BROKER_NAMESPACE)).await?;
    ensure(&Api::<ClusterRole>::all(client.clone()), &rights::reader_role()).await?;
    ensure(&Api::<Role>::namespaced(client.clone(), BROKER_NAMESPACE), &rights::invitation_role()).await?;
    if policies::served(client).await.doing(|| "looking for admission policies".to_owned())? {
        for policy in policies::policies() {
            ensure(&Api::<ValidatingAdmissionPolicy>::all(client.clone()), &policy).await?;
        }
        let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(client.clone());
        ensure(&bindings, &policies::join_requests_binding()).await?;
        let quotas: Api<ResourceQuota> = Api::namespaced(client.clone(), BROKER_NAMESPACE);
        ensure(&quotas, &policies::quota(BROKER_NAMESPACE)).await?;
    }
    broker_id(client).await
}

/// Makes the registrar's own rights, for a broker where it runs as a Deployment.
///
/// # Errors
/// What the API server refuses.
pub async fn install_registrar_rights(client: &Client) -> Result<(), SetupError> {
    let (account, role, binding) = rights::registrar();
    ensure(&Api::<ServiceAccount>::namespaced(client.clone(), BROKER_NAMESPACE), &account).await?;
    ensure(&Api::<ClusterRole>::all(client.clone()), &role).await?;
    ensure(&Api::<ClusterRoleBinding>::all(client.clone()), &binding).await?;
    Ok(())
}

/// The broker's ID: the UID of its namespace `daisy-broker`.
///
/// # Errors
/// An API server that is no broker, or that cannot be asked.
pub async fn broker_id(client: &Client) -> Result<String, SetupError> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace = namespaces.get_opt(BROKER_NAMESPACE).await.doing(|| format!("reading namespace {BROKER_NAMESPACE}"))?;
    namespace.and_then(|namespace| namespace.uid()).ok_or(SetupError::NoBroker)
}

/// `length` characters of a-z and 2-7, of 5 random bits each.
pub(crate) fn random_name(length: usize) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut bytes = vec![0u8; length];
    OsRng.fill_bytes(&mut bytes);
    bytes.into_iter().map(|byte| char::from(ALPHABET[usize::from(byte & 31)])).collect()
}

/// Makes an invitation, and the file to join by.
///
/// # Errors
/// A name or number that cannot be, a name that is taken, or what the API server refuses. Nothing is left behind then.
pub async fn create_invitation(client: &Client, address: &Address, invite: &Invite) -> Result<BrokerInfo, SetupError> {
    let name = invite.name.clone().unwrap_or_else(|| random_name(10));
    if !is_label(&name) || name.len() > INVITATION_NAME_MAX {
        return Err(SetupError::InvitationName { name });
    }
    if invite.uses == 0 || invite.uses > 100_000 {
        return Err(SetupError::InvitationUses { uses: invite.uses });
    }
    let broker_id = broker_id(client).await?;
    let invitations: Api<Invitation> = Api::namespaced(client.clone(), BROKER_NAMESPACE);
    if invitations.get_opt(&name).await.doing(|| format!("looking for Invitation {name}"))?.is_some() {
        return Err(SetupError::InvitationExists { name });
    }
    match make_invitation(client, &invitations, &name, invite).await {
        Ok(token) => Ok(BrokerInfo::new(address.server.clone(), address.ca.clone(), broker_id, token)),
        Err(error) => {
            // As far as it is possible: what kept it from being made may keep it from being unmade.
            let _ = revoke_invitation(client, &name).await;
            Err(error)
        }
    }
}

async fn make_invitation(
    client: &Client,
    invitations: &Api<Invitation>,
    name: &str,
    invite: &Invite,
) -> Result<InvitationToken, SetupError> {
    let (account, binding) = rights::invitation(name);
    ensure(&Api::<ServiceAccount>::namespaced(client.clone(), BROKER_NAMESPACE), &account).await?;
    ensure(&Api::<RoleBinding>::namespaced(client.clone(), BROKER_NAMESPACE), &binding).await?;
    let seconds = i64::try_from(invite.ttl.max(TOKEN_LEAST).as_secs()).unwrap_or(i64::MAX);
    let (token, token_ends) = token(client, BROKER_NAMESPACE, &account.name_any(), seconds).await?;
    // The API server may give less than was asked for; and what is asked for may be less than it gives.
    let wished = SignedDuration::try_from(invite.ttl).ok().and_then(|ttl| Timestamp::now().checked_add(ttl).ok());
    let expires =
        if invite.ttl < TOKEN_LEAST { wished.map_or(token_ends, |wished| wished.min(token_ends)) } else { token_ends };
    let spec = InvitationSpec { grant: invite.grant.clone(), expires: Time(expires), max_uses: invite.uses };
    let mut invitation = Invitation::new(name, spec);
    invitation.metadata =
        ObjectMeta { namespace: Some(BROKER_NAMESPACE.to_owned()), labels: binding.metadata.labels, ..invitation.metadata };
    let made = invitations.create(&PostParams::default(), &invitation).await;
    made.doing(|| format!("creating Invitation {name}"))?;
    Ok(InvitationToken { name: name.to_owned(), token, expires: Time(expires) })
}

/// Ends an invitation: its token works no more. Those who joined by it stay members.
///
/// # Errors
/// What the API server refuses.
pub async fn revoke_invitation(client: &Client, name: &str) -> Result<(), SetupError> {
    let (account, params) = (rights::invitation_account_name(name), DeleteParams::default());
    delete(&Api::<RoleBinding>::namespaced(client.clone(), BROKER_NAMESPACE), &account, &params).await?;
    delete(&Api::<ServiceAccount>::namespaced(client.clone(), BROKER_NAMESPACE), &account, &params).await?;
    delete(&Api::<Invitation>::namespaced(client.clone(), BROKER_NAMESPACE), name, &params).await?;
    Ok(())
}

/// The members, in the order of their IDs.
///
/// # Errors
/// What the API server refuses.
pub async fn members(client: &Client) -> Result<Vec<Member>, SetupError> {
    let api: Api<Member> = Api::namespaced(client.clone(), BROKER_NAMESPACE);
    let mut all = api.list(&ListParams::default()).await.doing(|| "listing Members".to_owned())?.items;
    all.sort_by_key(ResourceExt::name_any);
    Ok(all)
}

async fn no_member(client: &Client, id: &ClusterId) -> SetupError {
    let known = members(client).await.unwrap_or_default();
    let known = known.iter().map(ResourceExt::name_any).collect::<Vec<_>>().join(", ");
    SetupError::NoMember { id: id.clone(), known: if known.is_empty() { "none".to_owned() } else { known } }
}

/// Sets what a member may export. It stays when the member joins again.
///
/// # Errors
/// No such member, or what the API server refuses.
pub async fn grant(client: &Client, id: &ClusterId, grant: &Grant) -> Result<Member, SetupError> {
    let api: Api<Member> = Api::namespaced(client.clone(), BROKER_NAMESPACE);
    let patch = json!({ "metadata": { "annotations": { INVITED_GRANT: null } }, "spec": { "grant": grant } });
    match api.patch(id.as_str(), &PatchParams::default(), &Patch::Merge(&patch)).await {
        Err(error) if is_code(&error, 404) => Err(no_member(client, id).await),
        other => Ok(other.doing(|| format!("changing Member {id}"))?),
    }
}

/// Ends a membership: the Member goes, and the registrar removes what hangs on it.
///
/// # Errors
/// No such member, or what the API server refuses.
pub async fn evict(client: &Client, id: &ClusterId) -> Result<(), SetupError> {
    let api: Api<Member> = Api::namespaced(client.clone(), BROKER_NAMESPACE);
    match api.delete(id.as_str(), &DeleteParams::default()).await {
        Err(error) if is_code(&error, 404) => Err(no_member(client, id).await),
        other => Ok(other.map(|_| ()).doing(|| format!("deleting Member {id}"))?),
    }
}

/// The address of the broker that a kubeconfig's current context leads to.
///
/// # Errors
/// A file that cannot be read, or that names no server or no certificate authority.
pub fn address_of(kubeconfig: &Path) -> Result<Address, SetupError> {
    let failed = |cause: &str| SetupError::Kubeconfig { path: kubeconfig.display().to_string(), cause: cause.to_owned() };
    let config = Kubeconfig::read_from(kubeconfig).map_err(|error| failed(&error.to_string()))?;
    let current =
        config.current_context.ok_or_else(|| failed("it has no current-context: set one (kubectl config use-context)"))?;
    let context = config.contexts.into_iter().find(|one| one.name == current).and_then(|one| one.context);
    let context = context.ok_or_else(|| failed("its current-context is not among its contexts"))?;
    let cluster = config.clusters.into_iter().find(|one| one.name == context.cluster).and_then(|one| one.cluster);
    let cluster = cluster.ok_or_else(|| failed("the cluster of its current-context is not among its clusters"))?;
    let server = cluster.server.ok_or_else(|| failed("its cluster has no server"))?;
    let ca = match (cluster.certificate_authority_data, cluster.certificate_authority) {
        (Some(data), _) => {
            let bytes = STANDARD.decode(data).map_err(|_| failed("certificate-authority-data is not base64"))?;
            String::from_utf8(bytes).map_err(|_| failed("certificate-authority-data is not PEM"))?
        }
        (None, Some(path)) => {
            std::fs::read_to_string(&path).map_err(|error| failed(&format!("certificate-authority {path}: {error}")))?
        }
        (None, None) => {
            return Err(failed("its cluster has no certificate authority, and without one nobody could pin the broker"));
        }
    };
    Ok(Address { server, ca })
}
