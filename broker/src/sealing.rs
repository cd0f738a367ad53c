//! A credential on its way to a cluster: readable for who made the request alone.
//!
//! A JoinRequest can be read by whoever knows its name, and by the broker's administrators for as long as it is kept. So the token
//! in it is in a sealed box (X25519, XSalsa20-Poly1305; libsodium's `crypto_box_seal`) to a key that the request brought along.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use daisy_api::ClusterId;
use daisy_api::keys::PublicKey;
use k8s_openapi::jiff::Timestamp;
use rand_core::OsRng;
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use crypto_box::SecretKey;

/// Why something cannot be sealed or opened.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SealError {
    /// The key that it was to be sealed to cannot be used.
    #[error("spec.sealingKey cannot be sealed to")]
    Seal,
    /// Not base64.
    #[error("status.sealedCredential is not base64")]
    Encoding,
    /// Cut short, changed, or sealed to another key.
    #[error("status.sealedCredential does not open with the key of this request: it was changed on its way")]
    Open,
    /// It opened, and holds no credential.
    #[error("status.sealedCredential holds no credential: {0}")]
    Contents(String),
}

/// What a member writes and reads the broker with.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Credential {
    /// A bearer token of the ServiceAccount. Never logged.
    pub token: String,
    /// When it ends.
    pub expires: Timestamp,
    /// The cluster's namespace on the broker.
    pub namespace: String,
    /// The ServiceAccount in it.
    pub service_account: String,
    /// The broker's ID: the UID of its namespace `daisy-broker`.
    pub broker_id: String,
    /// The cluster's ID.
    pub cluster_id: ClusterId,
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credential")
            .field("namespace", &self.namespace)
            .field("expires", &self.expires)
            .field("broker_id", &self.broker_id)
            .finish_non_exhaustive()
    }
}

impl Credential {
    /// The credential as `status.sealedCredential` has it.
    ///
    /// # Errors
    /// A key that cannot be sealed to.
    pub fn seal(&self, to: &PublicKey) -> Result<String, SealError> {
        let text = serde_json::to_vec(self).map_err(|error| SealError::Contents(error.to_string()))?;
        seal(to, &text)
    }

    /// Opens `status.sealedCredential`.
    ///
    /// # Errors
    /// What was changed, cut short, sealed to another, or is no credential.
    pub fn open(secret: &SecretKey, sealed: &str) -> Result<Self, SealError> {
        let text = open(secret, sealed)?;
        // What serde says could quote the token.
        serde_json::from_slice(&text).map_err(|error| SealError::Contents(format!("{:?}", error.classify())))
    }
}

/// A new key to be sealed to: its private and its public half.
#[must_use]
pub fn key() -> (SecretKey, PublicKey) {
    let secret = SecretKey::generate(&mut OsRng);
    let public = PublicKey::from_bytes(*secret.public_key().as_bytes());
    (secret, public)
}

/// Seals to a public key; base64.
///
/// # Errors
/// A key that cannot be sealed to.
pub fn seal(to: &PublicKey, contents: &[u8]) -> Result<String, SealError> {
    let public = crypto_box::PublicKey::from(*to.as_bytes());
    public.seal(&mut OsRng, contents).map(|sealed| STANDARD.encode(sealed)).map_err(|_| SealError::Seal)
}

/// Opens what was sealed to this key.
///
/// # Errors
/// What is no base64, was changed, or was sealed to another key.
pub fn open(secret: &SecretKey, sealed: &str) -> Result<Vec<u8>, SealError> {
    let bytes = STANDARD.decode(sealed).map_err(|_| SealError::Encoding)?;
    secret.unseal(&bytes).map_err(|_| SealError::Open)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_key_opens_it() {
        let (secret, public) = key();
        let credential = Credential {
            token: "secret-token".into(),
            expires: Timestamp::UNIX_EPOCH,
            namespace: "daisy-cluster-local".into(),
            service_account: "syncer".into(),
            broker_id: "broker".into(),
            cluster_id: ClusterId::new("local").expect("an ID"),
        };
        let sealed = credential.seal(&public).expect("seals");
        assert!(!sealed.contains("secret-token"));
        assert_eq!(Credential::open(&secret, &sealed), Ok(credential.clone()));
        assert_eq!(Credential::open(&key().0, &sealed), Err(SealError::Open));
        for cut in [0, 4, 40, 48, sealed.len() - 4] {
            assert!(Credential::open(&secret, &sealed[..cut]).is_err(), "{cut}");
        }
        assert_eq!(open(&secret, "not base64!"), Err(SealError::Encoding));
        let other = seal(&public, b"{\"token\": \"secret-token\"}").expect("seals");
        let error = Credential::open(&secret, &other).expect_err("fields are missing");
        assert!(!error.to_string().contains("secret-token"), "{error}");
        assert!(!format!("{credential:?}").contains("secret-token"));
    }
}
