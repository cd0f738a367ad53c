//! The Secret `daisy-broker-access`, and the client that is made of it.

use std::future::Future;
use std::time::Duration;

use anyhow::bail;
use daisy_api::ClusterId;
use daisy_api::labels::{BROKER_ACCESS_SECRET, SYSTEM_NAMESPACE};
use daisy_broker_core::object::Kind;
use daisy_broker_core::syncer::BrokerTrouble;
use daisy_kubernetes::Api;
use futures::StreamExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Secret;
use kube::config::{AuthInfo, Config};
use kube::runtime::watcher::{self, Event};
use kube::{Client, ResourceExt};
use thiserror::Error;
use tokio::sync::{mpsc, watch as channel};
use tracing::{info, warn};

use super::watch::Message;
use crate::enrol;

/// How long a connection to the broker may take to come up.
const CONNECT: Duration = Duration::from_secs(5);

/// What is wrong with the Secret.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum AccessError {
    /// A key is absent or no text.
    #[error("Secret daisy-system/daisy-broker-access has no usable {key}; join again: daisy join")]
    Absent {
        /// The key.
        key: &'static str,
    },
    /// A key does not hold what it is to hold.
    #[error("Secret daisy-system/daisy-broker-access, {key}: {cause}; join again: daisy join")]
    Malformed {
        /// The key.
        key: &'static str,
        /// What is wrong.
        cause: String,
    },
}

/// What the syncer needs at the broker.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Access {
    pub(super) server: String,
    pub(super) ca: String,
    pub(super) token: String,
    pub(super) cluster_id: ClusterId,
}

impl Access {
    fn read(secret: &Secret) -> Result<Self, AccessError> {
        let text = |key: &'static str| {
            let bytes = secret.data.as_ref().and_then(|data| data.get(key)).map(|bytes| bytes.0.clone());
            let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok()).map(|text| text.trim().to_owned());
            text.filter(|text| !text.is_empty()).ok_or(AccessError::Absent { key })
        };
        let cluster_id = ClusterId::new(text("clusterId")?)
            .map_err(|error| AccessError::Malformed { key: "clusterId", cause: error.to_string() })?;
        Ok(Self { server: text("server")?, ca: text("ca")?, token: text("token")?, cluster_id })
    }

    /// A client that trusts the pinned authority, and no other.
    pub(super) fn client(&self) -> Result<Client, AccessError> {
        let malformed = |key: &'static str, cause: String| AccessError::Malformed { key, cause };
        let url: http::Uri =
            self.server.parse().map_err(|error: http::uri::InvalidUri| malformed("server", error.to_string()))?;
        if url.scheme_str() != Some("https") {
            return Err(malformed("server", format!("{} does not begin with https://", self.server)));
        }
        let certificates = enrol::authorities(&self.ca).map_err(|error| malformed("ca", error.to_string()))?;
        let mut config = Config::new(url);
        config.root_cert = Some(certificates);
        config.connect_timeout = Some(CONNECT);
        // The machine waits and tries again by itself.
        config.default_retry = false;
        config.auth_info = AuthInfo { token: Some(self.token.clone().into()), ..AuthInfo::default() };
        daisy_kubernetes::far_client(config).map_err(|error| malformed("server", error.to_string()))
    }
}

/// The token that the Secret holds, as far as it is readable.
pub(super) fn token(secrets: &channel::Receiver<Sight>) -> Option<String> {
    Some(secrets.borrow().as_ref()?.as_ref().ok()?.token.clone())
}

pub(super) type Sight = Option<Result<Access, AccessError>>;

/// Follows the Secret. `None` is given while nothing is known.
pub(super) fn watch(client: Client) -> (channel::Receiver<Sight>, impl Future<Output = anyhow::Result<()>> + Send + 'static) {
    let (sender, receiver) = channel::channel(None);
    let api: Api<Secret> = Api::namespaced(client, SYSTEM_NAMESPACE);
    let config = watcher::Config::default().fields(&format!("metadata.name={BROKER_ACCESS_SECRET}"));
    let following = async move {
        let mut events = std::pin::pin!(daisy_kubernetes::watcher(api, config));
        let (mut seen, mut pause) = (false, Duration::from_millis(100));
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Init) => seen = false,
                Ok(Event::Apply(guard) | Event::InitApply(guard)) => {
                    (seen, pause) = (true, Duration::from_millis(100));
                    match guard.0 {
                        Ok(secret) => drop(sender.send_replace(Some(Access::read(&secret)))),
                        Err(error) => warn!("Secret daisy-system/{BROKER_ACCESS_SECRET} cannot be read: {error}"),
                    }
                }
                Ok(Event::Delete(_)) => {
                    warn!("Secret daisy-system/{BROKER_ACCESS_SECRET} was deleted; going on with what it held")
                }
                Ok(Event::InitDone) => {
                    if !seen {
                        info!("waiting for Secret daisy-system/{BROKER_ACCESS_SECRET}: daisy join makes it");
                    }
                }
                Err(error) => {
                    warn!("watching Secret daisy-system/{BROKER_ACCESS_SECRET}: {error}");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(10));
                }
            }
        }
        bail!("the watch of Secret daisy-system/{BROKER_ACCESS_SECRET} ended")
    };
    (receiver, following)
}

/// Waits for the first usable Secret.
pub(super) async fn first(secrets: &mut channel::Receiver<Sight>) -> anyhow::Result<Access> {
    loop {
        match &*secrets.borrow_and_update() {
            Some(Ok(access)) => return Ok(access.clone()),
            Some(Err(error)) => warn!("{error}"),
            None => {}
        }
        secrets.changed().await?;
    }
}

/// Makes a client of each new state of the Secret. A Secret of another cluster ends the syncer: it starts anew as that one.
pub(super) fn follow(
    mut secrets: channel::Receiver<Sight>,
    id: ClusterId,
    clients: channel::Sender<Option<Client>>,
    messages: mpsc::Sender<Message>,
    mut kicked: channel::Receiver<u64>,
) -> BoxFuture<'static, anyhow::Result<()>> {
    Box::pin(async move {
        let mut had: Option<Access> = None;
        loop {
            let sight = secrets.borrow_and_update().clone();
            let made = sight.map(|sight| sight.and_then(|access| Ok((access.client()?, access))));
            match made {
                Some(Ok((client, access))) => {
                    if access.cluster_id != id {
                        bail!("this cluster was {id} and is now {}: starting anew", access.cluster_id);
                    }
                    if had.as_ref() != Some(&access) {
                        clients.send_replace(Some(client));
                        had = Some(access);
                    }
                }
                Some(Err(error)) => {
                    warn!("{error}");
                    let trouble = BrokerTrouble { reason: "NoCredential".to_owned(), message: error.to_string() };
                    if had.is_none() {
                        for kind in Kind::BROKER {
                            messages.send(Message::Trouble(kind, trouble.clone())).await?;
                        }
                    }
                }
                None => {}
            }
            tokio::select! {
                changed = secrets.changed() => changed?,
                // A connection pool may hold on to a dead connection: a fresh client does not.
                kick = kicked.changed() => {
                    kick?;
                    if let Some(Ok(client)) = had.as_ref().map(Access::client) {
                        clients.send_replace(Some(client));
                    }
                }
            }
        }
    })
}

/// The name of the Secret's object, for its update.
pub(super) async fn store_token(client: &Client, token: &str) -> kube::Result<()> {
    use kube::api::{Patch, PatchParams};
    let api: Api<Secret> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    let patch =
        serde_json::json!({ "stringData": null, "data": { "token": k8s_openapi::ByteString(token.as_bytes().to_vec()) } });
    let stored = api.patch(BROKER_ACCESS_SECRET, &PatchParams::default(), &Patch::Merge(&patch)).await?;
    tracing::debug!(version = ?stored.resource_version(), "the token is stored");
    Ok(())
}
