//! What an administrator makes and changes on a broker: any Kubernetes API server, or the embedded one.

pub mod manifests;

use std::time::Duration;

use daisy_api::broker_info::{BrokerInfo, InvitationToken};
use daisy_api::labels::{
    APP_VERSION, BROKER_CLUSTER_NAMESPACE_PREFIX, BROKER_NAMESPACE, INVITED_GRANT, MANAGED_BY, MANAGED_BY_DAISY,
};
use daisy_api::names::is_label;
use daisy_api::{Cluster, ClusterId, Grant, Invitation, InvitationSpec, Member, Version};
use daisy_kubernetes::Api;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ResourceQuota, ServiceAccount};
use k8s_openapi::api::rbac::v1::RoleBinding;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{DeleteParams, DynamicObject, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Client, ResourceExt};
use rand_core::{OsRng, RngCore};
use serde_json::json;
use thiserror::Error;

use crate::apply::{self, Applier, ApplyError};
use crate::registrar::perform::{Doing, PerformError, delete, ensure, is_code, token};
use crate::{policies, rights};

/// What keeps an administrator's wish from being done.
#[derive(Debug, Error)]
pub enum SetupError {
    /// The API server refused, or cannot be reached.
    #[error(transparent)]
    Api(#[from] PerformError),
    /// One of Daisy's objects cannot be put there.
    #[error(transparent)]
    Apply(#[from] ApplyError),
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
    /// Members that a broker of this version would not serve.
    #[error("a broker of this version would not serve every member; nothing was changed. {}", .0.join("; "))]
    Unserved(Vec<String>),
    /// A ResourceQuota that nobody counts.
    #[error(
        "ResourceQuota daisy-broker/daisy was not counted within {seconds} s, so that the API server takes no object of Daisy's there: does the cluster's kube-controller-manager run?"
    )]
    NotCounted {
        /// How long was waited.
        seconds: u64,
    },
    /// A CustomResourceDefinition that the API server does not take up.
    #[error("CustomResourceDefinition {name} was not established within {seconds} s: look at its conditions")]
    NotEstablished {
        /// Its name.
        name: String,
        /// How long was waited.
        seconds: u64,
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
    /// Whether they may have CIDRs of public addresses.
    pub public_cidrs: bool,
}

impl Default for Invite {
    fn default() -> Self {
        Self { name: None, grant: Grant::all(), ttl: Duration::from_secs(24 * 3600), uses: 10, public_cidrs: false }
    }
}

/// The ConfigMap in `daisy-broker` that says how others reach the broker.
const ADDRESS: &str = "daisy-broker-address";
const ESTABLISHED_WITHIN: Duration = Duration::from_secs(30);
/// `invitation-` and this are a label.
const INVITATION_NAME_MAX: usize = 52;
/// Between looks at a quota that is to be counted.
const COUNT_PAUSE: Duration = Duration::from_millis(250);
/// After so many looks it is made anew.
const RECOUNT: u32 = 12;
/// The shortest life that an API server gives a token.
const TOKEN_LEAST: Duration = Duration::from_secs(600);

/// Makes a broker of an API server, or brings one up to date: kinds, namespace, roles, and, where the API server has them,
/// admission policies and quota; all but the registrar. Returns the broker's ID.
///
/// # Errors
/// What the API server refuses.
pub async fn install(client: &Client) -> Result<String, SetupError> {
    let applier = Applier::new(client.clone());
    for object in manifests::kinds()? {
        applier.apply(&object).await?;
    }
    established(client).await?;
    for object in manifests::roles()? {
        applier.apply(&object).await?;
    }
    if policies::served(client).await.doing(|| "looking for admission policies".to_owned())? {
        for object in manifests::admission()? {
            applier.apply(&object).await?;
        }
    }
    broker_id(client).await
}

/// Waits until the quota of `daisy-broker` is counted: until then a Kubernetes API server takes no object of our kinds.
///
/// Its controller looks for new kinds twice a minute, and counts a quota that has them already only when that is new or changed
/// (or after five minutes): so it is made anew until it is counted. An API server without quotas has nothing to wait for.
///
/// # Errors
/// What the API server refuses, or a quota that is not counted in time.
pub async fn count_quota(client: &Client, within: Duration) -> Result<(), SetupError> {
    let applier = Applier::new(client.clone());
    let quotas: Api<ResourceQuota> = Api::namespaced(client.clone(), BROKER_NAMESPACE);
    let (mut waited, mut pauses) = (Duration::ZERO, 0_u32);
    loop {
        let had = match quotas.get_opt(policies::QUOTA).await {
            Err(error) if is_code(&error, 404) => return Ok(()),
            other => other.doing(|| format!("reading ResourceQuota {BROKER_NAMESPACE}/{}", policies::QUOTA))?,
        };
        if had.as_ref().is_some_and(is_counted) {
            return Ok(());
        }
        if waited >= within {
            return Err(SetupError::NotCounted { seconds: within.as_secs() });
        }
        if had.is_none() || pauses == RECOUNT {
            pauses = 0;
            for object in manifests::quota()? {
                applier.delete(&object).await?;
                applier.apply(&object).await?;
            }
        }
        tokio::time::sleep(COUNT_PAUSE).await;
        (waited, pauses) = (waited + COUNT_PAUSE, pauses + 1);
    }
}

fn is_counted(quota: &ResourceQuota) -> bool {
    let status = quota.status.clone().unwrap_or_default();
    let (hard, used) = (status.hard.unwrap_or_default(), status.used.unwrap_or_default());
    !hard.is_empty() && hard.keys().all(|key| used.contains_key(key))
}

/// Waits until the API server serves the kinds that a broker keeps.
///
/// # Errors
/// One that it does not take up.
pub async fn established(client: &Client) -> Result<(), SetupError> {
    for definition in daisy_api::crds::broker() {
        let name = definition.name_any();
        let established = await_condition(kube::Api::all(client.clone()), &name, conditions::is_crd_established());
        let in_time = tokio::time::timeout(ESTABLISHED_WITHIN, established).await;
        if !matches!(in_time, Ok(Ok(_))) {
            return Err(SetupError::NotEstablished { name, seconds: ESTABLISHED_WITHIN.as_secs() });
        }
    }
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

/// The broker's version, as its namespace has it; none where that does not say.
///
/// # Errors
/// An API server that cannot be asked, or that does not let this user read the namespace.
pub async fn version(client: &Client) -> Result<Option<Version>, SetupError> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace = namespaces.get_opt(BROKER_NAMESPACE).await.doing(|| format!("reading namespace {BROKER_NAMESPACE}"))?;
    Ok(namespace.and_then(|namespace| namespace.labels().get(APP_VERSION)?.parse().ok()))
}

/// Refuses to make a broker of this version of an API server whose members it would not serve.
///
/// # Errors
/// Which members these are, or what the API server refuses.
pub async fn serves_members(client: &Client, own: Version) -> Result<(), SetupError> {
    let clusters: Api<Cluster> = Api::all(client.clone());
    let all = match clusters.list(&ListParams::default()).await {
        // No such kind: no broker yet.
        Err(error) if is_code(&error, 404) => return Ok(()),
        other => other.doing(|| "listing Clusters".to_owned())?.items,
    };
    let records = all.iter().filter(|cluster| cluster.namespace().is_some_and(|own| is_members(&own)));
    serves(own, records.map(|cluster| (cluster.name_any(), cluster.spec.version.as_str())))
}

/// Whether a namespace is a member's, here on its broker; a cluster that is a broker too has records of its own elsewhere.
fn is_members(namespace: &str) -> bool {
    namespace.starts_with(BROKER_CLUSTER_NAMESPACE_PREFIX)
}

/// Refuses clusters that a broker of version `own` does not serve. One that does not say its version is not judged.
pub(crate) fn serves<'a>(own: Version, clusters: impl Iterator<Item = (String, &'a str)>) -> Result<(), SetupError> {
    let unserved: Vec<String> = clusters
        .filter_map(|(id, version)| Some(format!("Cluster {id}: {}", own.serves(version.parse().ok()?).err()?)))
        .collect();
    if unserved.is_empty() { Ok(()) } else { Err(SetupError::Unserved(unserved)) }
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
    let spec = InvitationSpec {
        grant: invite.grant.clone(),
        expires: Time(expires),
        max_uses: invite.uses,
        public_cidrs: invite.public_cidrs,
    };
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

/// The object that says how others reach a broker on Kubernetes, for the invitations to come.
///
/// # Errors
/// Never: it is a ConfigMap.
pub fn address_object(address: &Address) -> Result<DynamicObject, ApplyError> {
    let metadata = ObjectMeta {
        name: Some(ADDRESS.to_owned()),
        namespace: Some(BROKER_NAMESPACE.to_owned()),
        labels: Some([(MANAGED_BY.to_owned(), MANAGED_BY_DAISY.to_owned())].into()),
        ..ObjectMeta::default()
    };
    let data = [("server", &address.server), ("ca", &address.ca)].map(|(key, value)| (key.to_owned(), value.clone()));
    apply::object(&ConfigMap { metadata, data: Some(data.into()), ..ConfigMap::default() })
}

/// How others reach the broker, as it was deployed. An embedded one does not say.
///
/// # Errors
/// What the API server refuses.
pub async fn published_address(client: &Client) -> Result<Option<Address>, SetupError> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), BROKER_NAMESPACE);
    let map = maps.get_opt(ADDRESS).await.doing(|| format!("reading ConfigMap {BROKER_NAMESPACE}/{ADDRESS}"))?;
    Ok(map
        .and_then(|map| map.data)
        .and_then(|mut data| Some(Address { server: data.remove("server")?, ca: data.remove("ca")? })))
}
