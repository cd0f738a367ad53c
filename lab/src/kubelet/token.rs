//! The token of a pod's ServiceAccount: asked for, written to the pod's folder, and renewed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt};
use thiserror::Error;

use super::brief;
use crate::kubeconfig;

/// How long a token is good for, in seconds: what kubelets ask for.
const LIFETIME: i64 = 3607;
/// The shortest pause between two attempts to renew.
const RENEW_AGAIN: Duration = Duration::from_secs(10);

/// Why a pod has no token.
#[derive(Debug, Error)]
pub(super) enum TokenError {
    /// The API server gave none.
    #[error("a token for ServiceAccount {account:?}: {}", brief(cause))]
    Api {
        /// The ServiceAccount.
        account: String,
        /// Why.
        cause: Box<kube::Error>,
    },
    /// It could not be written.
    #[error("the token's file: {0}")]
    Io(#[from] std::io::Error),
    /// An answer without a token in it.
    #[error("the API server answered without a token for ServiceAccount {0:?}")]
    Empty(String),
}

/// A pod's token.
pub(super) struct Token {
    client: Client,
    namespace: String,
    account: String,
    pod: String,
    file: PathBuf,
}

impl Token {
    /// The token of this pod, to be kept in `folder`; `None` where the pod wants none.
    pub(super) fn of(client: &Client, pod: &Pod, folder: &Path) -> Option<Self> {
        let spec = pod.spec.as_ref()?;
        if spec.automount_service_account_token == Some(false) {
            return None;
        }
        Some(Self {
            client: client.clone(),
            namespace: pod.namespace()?,
            account: spec.service_account_name.clone().filter(|a| !a.is_empty()).unwrap_or_else(|| "default".to_owned()),
            pod: pod.name_any(),
            file: folder.join("token"),
        })
    }

    /// Asks for a token and writes it; returns how long until it should be renewed: four fifths of its life.
    pub(super) async fn write(&self) -> Result<Duration, TokenError> {
        let request = TokenRequest {
            spec: TokenRequestSpec {
                audiences: Vec::new(),
                // The lab's control plane gives tokens that are bound to their ServiceAccount alone.
                bound_object_ref: None,
                expiration_seconds: Some(LIFETIME),
            },
            ..TokenRequest::default()
        };
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &self.namespace);
        let answer = accounts.create_token_request(&self.account, &PostParams::default(), &request).await;
        let api = |e| TokenError::Api { account: self.account.clone(), cause: Box::new(e) };
        let status = answer.map_err(api)?.status.ok_or_else(|| TokenError::Empty(self.account.clone()))?;
        kubeconfig::replace(&self.file, status.token.as_bytes())?;
        let left = status.expiration_timestamp.0.duration_since(Timestamp::now()).as_secs().max(0);
        Ok(Duration::from_secs(u64::try_from(left).unwrap_or_default() * 4 / 5).max(RENEW_AGAIN))
    }

    /// Renews for as long as it is polled.
    pub(super) async fn renew(&self, mut pause: Duration) {
        loop {
            tokio::time::sleep(pause).await;
            pause = match self.write().await {
                Ok(pause) => pause,
                Err(e) => {
                    tracing::warn!(pod = self.pod, "{e}; it is asked for again");
                    RENEW_AGAIN
                }
            };
        }
    }
}
