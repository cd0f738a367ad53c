//! Bearer tokens: JSON Web Tokens (RFC 7519) signed with HMAC-SHA-256, by a key that only this server has.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use ring::hmac;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::clock;

/// The issuer and, with it, the only header that is accepted: nothing in a token chooses how it is checked.
const HEADER: &str = r#"{"alg":"HS256","typ":"JWT"}"#;
const ISSUER: &str = "https://kubernetes.default.svc";
const ADMINISTRATOR: &str = "kubernetes-admin";
/// Longer than any token that this server makes: namespace and name are at most 63 and 253 characters.
const LONGEST: usize = 2048;

/// The key that signs tokens.
#[derive(Clone)]
pub(crate) struct TokenKey(hmac::Key);

/// Whom a token stands for, once its signature and its times are good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Claims {
    Administrator,
    ServiceAccount { namespace: String, name: String, uid: String, expires: u64 },
}

#[derive(Serialize, Deserialize)]
struct Payload {
    iss: String,
    sub: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exp: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    iat: Option<u64>,
    #[serde(rename = "kubernetes.io", default, skip_serializing_if = "Option::is_none")]
    bound: Option<Bound>,
}

#[derive(Serialize, Deserialize)]
struct Bound {
    namespace: String,
    serviceaccount: Reference,
}

#[derive(Serialize, Deserialize)]
struct Reference {
    name: String,
    uid: String,
}

impl TokenKey {
    /// Bytes of a key.
    pub(crate) const LENGTH: usize = 32;

    pub(crate) fn new(bytes: &[u8; Self::LENGTH]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }

    /// The administrator's token: the same for as long as the key is the same.
    pub(crate) fn administrator(&self) -> String {
        self.sign(&Payload { iss: ISSUER.to_owned(), sub: ADMINISTRATOR.to_owned(), exp: None, iat: None, bound: None })
    }

    /// A token of a ServiceAccount, valid until `expires` (Unix seconds).
    pub(crate) fn service_account(&self, (namespace, name, uid): (&str, &str, &str), now: Timestamp, expires: u64) -> String {
        self.sign(&Payload {
            iss: ISSUER.to_owned(),
            sub: format!("system:serviceaccount:{namespace}:{name}"),
            exp: Some(expires),
            iat: Some(clock::unix(now)),
            bound: Some(Bound {
                namespace: namespace.to_owned(),
                serviceaccount: Reference { name: name.to_owned(), uid: uid.to_owned() },
            }),
        })
    }

    fn sign(&self, payload: &Payload) -> String {
        // Texts and numbers always serialize.
        let payload = json!(payload).to_string();
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(HEADER), URL_SAFE_NO_PAD.encode(payload));
        let tag = hmac::sign(&self.0, signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag))
    }

    /// Whom a token stands for, or `None` if it is not ours, changed, or expired.
    pub(crate) fn verify(&self, token: &str, now: Timestamp) -> Option<Claims> {
        if token.len() > LONGEST {
            return None;
        }
        let (signed, tag) = token.rsplit_once('.')?;
        let tag = URL_SAFE_NO_PAD.decode(tag).ok()?;
        hmac::verify(&self.0, signed.as_bytes(), &tag).ok()?;
        let (header, payload) = signed.split_once('.')?;
        if URL_SAFE_NO_PAD.decode(header).ok()? != HEADER.as_bytes() {
            return None;
        }
        let payload: Payload = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
        match (payload.bound, payload.exp) {
            (None, None) if payload.sub == ADMINISTRATOR => Some(Claims::Administrator),
            (Some(bound), Some(expires)) if clock::unix(now) < expires => Some(Claims::ServiceAccount {
                namespace: bound.namespace,
                name: bound.serviceaccount.name,
                uid: bound.serviceaccount.uid,
                expires,
            }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    #[test]
    fn tokens_live_until_they_expire() {
        let key = TokenKey::new(&[7; 32]);
        let token = key.service_account(("ns", "sa", "uid"), at(1000), 1600);
        let claims =
            Claims::ServiceAccount { namespace: "ns".to_owned(), name: "sa".to_owned(), uid: "uid".to_owned(), expires: 1600 };
        assert_eq!(key.verify(&token, at(1599)), Some(claims));
        assert_eq!(key.verify(&token, at(1600)), None);
        assert_eq!(TokenKey::new(&[8; 32]).verify(&token, at(1000)), None);
        assert_eq!(key.verify(&key.administrator(), at(9_999_999_999)), Some(Claims::Administrator));
        assert_eq!(key.administrator(), TokenKey::new(&[7; 32]).administrator());
    }

    #[test]
    fn a_token_does_not_choose_its_algorithm() {
        let key = TokenKey::new(&[7; 32]);
        let payload = URL_SAFE_NO_PAD.encode(json!({"iss": ISSUER, "sub": ADMINISTRATOR}).to_string());
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
        assert_eq!(key.verify(&format!("{header}.{payload}."), at(0)), None);
    }

    proptest! {
        #[test]
        fn a_changed_token_is_no_token(at_byte in 0_usize..400, to in any::<char>()) {
            let key = TokenKey::new(&[7; 32]);
            let token = key.service_account(("ns", "sa", "uid"), at(1000), 1600);
            let mut chars: Vec<char> = token.chars().collect();
            let at_byte = at_byte % chars.len();
            prop_assume!(chars[at_byte] != to);
            chars[at_byte] = to;
            prop_assert_eq!(key.verify(&chars.into_iter().collect::<String>(), at(1000)), None);
        }

        #[test]
        fn nothing_panics(text in ".{0,80}") {
            prop_assert_eq!(TokenKey::new(&[7; 32]).verify(&text, at(0)), None);
        }
    }
}
