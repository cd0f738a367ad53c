//! What a JoinRequest is signed over: whoever asks holds the key that the cluster's records will be verified with.

use daisy_api::keys::Signature;
use daisy_api::{Cidr, JoinRequestSpec};
use ed25519_dalek::{Signer, VerifyingKey};
use serde::Serialize;

/// The private half of a cluster's `signingKey`.
pub use ed25519_dalek::SigningKey;

/// The shortest name of a JoinRequest: `join-` and 26 characters, which at 5 bits each are more than anybody guesses.
pub const REQUEST_NAME_MIN: usize = 31;
/// What the name of every JoinRequest begins with.
pub const REQUEST_NAME_PREFIX: &str = "join-";

/// The most JoinRequests that one invitation may have waiting or answered at a time. They are deleted an hour after the answer.
pub const REQUESTS_PER_INVITATION: usize = 100;

/// Whether a JoinRequest's name is too long to be guessed, as far as a name shows it.
#[must_use]
pub fn unguessable(name: &str) -> bool {
    name.len() >= REQUEST_NAME_MIN && name.starts_with(REQUEST_NAME_PREFIX)
}

/// The bytes that a request of this name is signed over, for the broker of this ID.
///
/// A JSON array: no two different requests give the same bytes, whatever their texts hold. The broker's ID keeps one broker from
/// handing the request on to another.
fn signed_bytes(broker_id: &str, name: &str, spec: &JoinRequestSpec) -> Vec<u8> {
    #[derive(Serialize)]
    struct Signed<'a>(
        &'a str,
        &'a str,
        &'a str,
        &'a str,
        &'a str,
        &'a str,
        &'a [Cidr],
        &'a [Cidr],
        &'a daisy_api::keys::PublicKey,
        &'a daisy_api::keys::VerifyingKey,
        bool,
    );
    let signed = Signed(
        "daisy join 1",
        broker_id,
        name,
        &spec.invitation,
        spec.cluster_id.as_str(),
        &spec.cluster_uid,
        &spec.cluster_cidrs,
        &spec.service_cidrs,
        &spec.sealing_key,
        &spec.signing_key,
        spec.replace,
    );
    // Texts, lists of texts and a boolean: JSON holds them all.
    serde_json::to_vec(&signed).unwrap_or_default()
}

/// Signs a request: `signingKey` becomes the key's public half.
pub fn sign(key: &SigningKey, broker_id: &str, name: &str, spec: &mut JoinRequestSpec) {
    spec.signing_key = daisy_api::keys::VerifyingKey::from_bytes(key.verifying_key().to_bytes());
    let signature = key.sign(&signed_bytes(broker_id, name, spec));
    spec.signature = Some(Signature::from_bytes(signature.to_bytes()));
}

/// Whether whoever made the request holds its signing key.
#[must_use]
pub fn verify(broker_id: &str, name: &str, spec: &JoinRequestSpec) -> bool {
    let (Some(signature), Ok(key)) = (spec.signature, VerifyingKey::from_bytes(spec.signing_key.as_bytes())) else {
        return false;
    };
    let signature = ed25519_dalek::Signature::from_bytes(signature.as_bytes());
    key.verify_strict(&signed_bytes(broker_id, name, spec), &signature).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use daisy_api::ClusterId;
    use daisy_api::keys::PublicKey;

    #[test]
    fn any_change_breaks_the_signature() {
        let key = SigningKey::from_bytes(&[7; 32]);
        let mut spec = JoinRequestSpec {
            invitation: "first".into(),
            cluster_id: ClusterId::new("local").expect("an ID"),
            cluster_uid: "uid".into(),
            cluster_cidrs: vec!["10.1.0.0/16".parse().expect("a CIDR")],
            service_cidrs: vec!["10.2.0.0/16".parse().expect("a CIDR")],
            sealing_key: PublicKey::from_bytes([3; 32]),
            signing_key: daisy_api::keys::VerifyingKey::from_bytes([0; 32]),
            signature: None,
            replace: false,
            version: String::new(),
        };
        assert!(!verify("broker", "join-x", &spec));
        sign(&key, "broker", "join-x", &mut spec);
        assert!(verify("broker", "join-x", &spec));
        assert!(!verify("other", "join-x", &spec) && !verify("broker", "join-y", &spec));
        let changes: [fn(&mut JoinRequestSpec); 6] = [
            |s| s.replace = true,
            |s| s.cluster_uid = "other".into(),
            |s| s.sealing_key = PublicKey::from_bytes([4; 32]),
            |s| std::mem::swap(&mut s.cluster_cidrs, &mut s.service_cidrs),
            |s| s.signing_key = daisy_api::keys::VerifyingKey::from_bytes([9; 32]),
            |s| s.signature = None,
        ];
        for change in changes {
            let mut changed = spec.clone();
            change(&mut changed);
            assert!(!verify("broker", "join-x", &changed));
        }
    }

    #[test]
    fn names_are_long_enough() {
        assert!(unguessable("join-abcdefghijklmnopqrstuvwxyz"));
        assert!(!unguessable("join-local") && !unguessable("abcdefghijklmnopqrstuvwxyzabcdefghijkl"));
    }
}
