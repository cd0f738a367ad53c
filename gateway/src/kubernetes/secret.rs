//! The gateway's private key, in a Secret of its own: a gateway is the same one after a restart.
//!
//! The Secrets are in a namespace that holds nothing else, so that a gateway need not read any in `daisy-system`.

use std::collections::BTreeMap;

use daisy_api::NodeName;
use daisy_api::labels::{COMPONENT, GATEWAY_KEY_SECRET_PREFIX, GATEWAY_KEYS_NAMESPACE, MANAGED_BY, MANAGED_BY_DAISY};
use daisy_kubernetes::Api;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ObjectMeta, PostParams};
use thiserror::Error;
use tracing::info;

use super::is_conflict;
use crate::wireguard::PrivateKey;

/// The Secret's key that holds the private key, in base64.
const PRIVATE_KEY: &str = "privateKey";

/// The Secret is there, and holds no key.
#[derive(Debug, Error)]
#[error(
    "Secret {GATEWAY_KEYS_NAMESPACE}/{name}, key {PRIVATE_KEY}: a WireGuard private key is the standard base64 of 32 bytes; put the right \
     one back, or delete the Secret, and the gateway makes itself a new key"
)]
pub(super) struct BadKey {
    name: String,
}

/// The name of a node's Secret.
pub(super) fn name(node: &NodeName) -> String {
    format!("{GATEWAY_KEY_SECRET_PREFIX}{node}")
}

/// The node's key: the one in its Secret, or a new one that is put there.
pub(super) async fn key(secrets: &Api<Secret>, node: &NodeName) -> Result<Result<PrivateKey, BadKey>, kube::Error> {
    let name = name(node);
    if let Some(secret) = secrets.get_opt(&name).await? {
        return Ok(read(&secret).ok_or(BadKey { name }));
    }
    let key = PrivateKey::generate();
    match secrets.create(&PostParams::default(), &secret(&name, &key)).await {
        Ok(_) => {
            info!(public_key = %key.public_key(), "made a new key, kept in Secret {GATEWAY_KEYS_NAMESPACE}/{name}");
            Ok(Ok(key))
        }
        // Another start of this gateway was faster: its key is the one.
        Err(error) if is_conflict(&error) => Ok(read(&secrets.get(&name).await?).ok_or(BadKey { name })),
        Err(error) => Err(error),
    }
}

fn secret(name: &str, key: &PrivateKey) -> Secret {
    let labels = [(MANAGED_BY, MANAGED_BY_DAISY), (COMPONENT, "gateway")];
    let labels: BTreeMap<String, String> = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    Secret {
        metadata: ObjectMeta { name: Some(name.to_owned()), labels: Some(labels), ..ObjectMeta::default() },
        data: Some(BTreeMap::from([(PRIVATE_KEY.to_owned(), ByteString(key.to_base64().into_bytes()))])),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    }
}

fn read(secret: &Secret) -> Option<PrivateKey> {
    let text = secret.data.as_ref()?.get(PRIVATE_KEY)?;
    PrivateKey::from_base64(std::str::from_utf8(&text.0).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_as_it_was_put_there() {
        let key = PrivateKey::generate();
        let mut made = secret("daisy-gateway-key-one", &key);
        assert_eq!(read(&made).map(|key| key.public_key()), Some(key.public_key()));
        made.data = Some(BTreeMap::from([(PRIVATE_KEY.to_owned(), ByteString(vec![0xff; 44]))]));
        assert!(read(&made).is_none());
        made.data = None;
        assert!(read(&made).is_none());
    }
}
