//! `broker-info.daisy`: what a cluster needs to ask to join. It gives nobody anyone else's rights.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::names::short_hash;

/// The `apiVersion` of the file.
pub const API_VERSION: &str = "daisy.supercluster.local/v1alpha1";
/// The `kind` of the file.
pub const KIND: &str = "BrokerInfo";

/// Why a broker-info file cannot be used.
#[derive(Debug, Error)]
pub enum BrokerInfoError {
    /// Not YAML, or fields are missing.
    #[error("{file}: this is no broker-info file, or it was cut short: {cause}; ask for it again (`daisy invite`)")]
    Malformed {
        /// The file.
        file: String,
        /// What the parser says.
        cause: String,
    },
    /// The checksum over its fields differs.
    #[error("{file}: the checksum does not match, so the file was cut short or changed; ask for it again (`daisy invite`)")]
    Checksum {
        /// The file.
        file: String,
    },
    /// Its invitation is past its time.
    #[error("{file}: its invitation expired at {expired} (it is {now} here); ask for a new one (`daisy invite`)")]
    Expired {
        /// The file.
        file: String,
        /// When it expired.
        expired: Timestamp,
        /// The time here.
        now: Timestamp,
    },
}

/// The invitation inside the file: a name and a token that can ask to join, and nothing else.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvitationToken {
    /// The Invitation object's name.
    pub name: String,
    /// A bearer token. Never logged.
    pub token: String,
    /// When the token and the invitation end.
    pub expires: Time,
}

impl std::fmt::Debug for InvitationToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InvitationToken").field("name", &self.name).field("expires", &self.expires).finish_non_exhaustive()
    }
}

/// The file's contents: where the broker is, how to know that it is the one meant, and an invitation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BrokerInfo {
    /// [`API_VERSION`].
    pub api_version: String,
    /// [`KIND`].
    pub kind: String,
    /// The broker's URL, as `https://203.0.113.5:6443`.
    pub server: String,
    /// The pinned certificate authority, PEM. Nothing else is trusted.
    pub ca: String,
    /// The UID of the broker's `daisy-broker` namespace: tells one broker from another at the same address.
    pub broker_id: String,
    /// The invitation.
    pub invitation: InvitationToken,
    /// The first 16 hexadecimal digits of the SHA-256 over the fields above.
    pub checksum: String,
}

impl BrokerInfo {
    /// A file for this broker and invitation, which expires at a whole second: its text knows no fractions, and the checksum is of
    /// what the text says.
    #[must_use]
    pub fn new(server: String, ca: String, broker_id: String, mut invitation: InvitationToken) -> Self {
        if let Ok(second) = Timestamp::from_second(invitation.expires.0.as_second()) {
            invitation.expires = Time(second);
        }
        let mut info = Self {
            api_version: API_VERSION.to_owned(),
            kind: KIND.to_owned(),
            server,
            ca,
            broker_id,
            invitation,
            checksum: String::new(),
        };
        info.checksum = info.compute_checksum();
        info
    }

    fn compute_checksum(&self) -> String {
        let i = &self.invitation;
        let fields = [&self.api_version, &self.kind, &self.server, &self.ca, &self.broker_id, &i.name, &i.token];
        let mut text = fields.map(String::as_str).join("\n");
        text.push_str(&i.expires.0.to_string());
        short_hash(&text, 16)
    }

    /// Reads the contents of `file` (its name is for messages only).
    ///
    /// # Errors
    /// A text that is cut short, changed, or expired at `now`.
    pub fn parse(file: &str, text: &str, now: Timestamp) -> Result<Self, BrokerInfoError> {
        let malformed = |cause: String| BrokerInfoError::Malformed { file: file.to_owned(), cause };
        let info: Self = crate::yaml::from_str(text).map_err(|e| malformed(e.to_string()))?;
        if info.api_version != API_VERSION || info.kind != KIND {
            return Err(malformed(format!("apiVersion {} and kind {} are not known here", info.api_version, info.kind)));
        }
        if info.checksum != info.compute_checksum() {
            return Err(BrokerInfoError::Checksum { file: file.to_owned() });
        }
        let expired = info.invitation.expires.0;
        if expired <= now {
            return Err(BrokerInfoError::Expired { file: file.to_owned(), expired, now });
        }
        Ok(info)
    }

    /// The file's text.
    ///
    /// # Errors
    /// Never for a value that [`Self::new`] made.
    pub fn to_text(&self) -> Result<String, crate::yaml::YamlError> {
        Ok(format!(
            "# How to ask this Daisy broker to let a cluster join. Keep it private until it has expired.\n{}",
            crate::yaml::to_string(self)?
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> BrokerInfo {
        let expires = Time(Timestamp::from_second(1_000).expect("in range"));
        BrokerInfo::new(
            "https://203.0.113.5:6443".into(),
            "-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----\n".into(),
            "uid".into(),
            InvitationToken { name: "first".into(), token: "secret-token".into(), expires },
        )
    }

    #[test]
    fn reads_what_it_writes_and_refuses_the_rest() {
        let text = sample().to_text().expect("writes");
        let now = Timestamp::from_second(999).expect("in range");
        assert_eq!(BrokerInfo::parse("f", &text, now).expect("reads"), sample());
        let later = Timestamp::from_second(1_000).expect("in range");
        assert!(matches!(BrokerInfo::parse("f", &text, later), Err(BrokerInfoError::Expired { .. })));
        // However it is cut short, it is never taken for whole.
        for end in 0..text.trim_end().len() {
            assert!(BrokerInfo::parse("f", &text[..end], now).is_err(), "cut at {end}");
        }
        let changed = text.replace("203.0.113.5", "203.0.113.6");
        assert!(matches!(BrokerInfo::parse("f", &changed, now), Err(BrokerInfoError::Checksum { .. })));
    }

    #[test]
    fn a_fraction_of_a_second_is_no_change() {
        let mut token = sample().invitation;
        token.expires = Time(Timestamp::from_millisecond(1_000_750).expect("in range"));
        let text = BrokerInfo::new("https://203.0.113.5".into(), "ca".into(), "uid".into(), token).to_text().expect("writes");
        let now = Timestamp::from_second(999).expect("in range");
        assert_eq!(BrokerInfo::parse("f", &text, now).expect("reads").invitation.expires, sample().invitation.expires);
    }

    #[test]
    fn the_token_is_not_in_debug_output() {
        assert!(!format!("{:?}", sample()).contains("secret-token"));
    }
}
