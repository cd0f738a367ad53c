//! Public keys and signatures, as base64 text of a fixed length.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why a text is not a key or signature of the length asked for.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("a {what} is the standard base64 of {length} bytes")]
pub struct KeyError {
    /// What was asked for.
    pub what: &'static str,
    /// Its length in bytes.
    pub length: usize,
}

macro_rules! bytes_type {
    ($(#[$doc:meta])* $name:ident, $what:literal, $length:literal, $text:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name([u8; $length]);

        impl $name {
            /// From its bytes.
            #[must_use]
            pub fn from_bytes(bytes: [u8; $length]) -> Self {
                Self(bytes)
            }

            /// Its bytes.
            #[must_use]
            pub fn as_bytes(&self) -> &[u8; $length] {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = KeyError;
            fn from_str(text: &str) -> Result<Self, KeyError> {
                let error = KeyError { what: $what, length: $length };
                let bytes = STANDARD.decode(text).map_err(|_| error.clone())?;
                bytes.try_into().map(Self).map_err(|_| error)
            }
        }

        impl TryFrom<String> for $name {
            type Error = KeyError;
            fn try_from(text: String) -> Result<Self, KeyError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(key: $name) -> Self {
                key.to_string()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&STANDARD.encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }
            fn inline_schema() -> bool {
                true
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "minLength": $text, "maxLength": $text, "pattern": "^[A-Za-z0-9+/]+={0,2}$" })
            }
        }
    };
}

bytes_type!(
    /// A Curve25519 public key: a gateway's (WireGuard) or the one that a join's credential is sealed to.
    PublicKey, "Curve25519 public key", 32, 44
);
bytes_type!(
    /// An Ed25519 public key (RFC 8032): what a cluster's records are verified with.
    VerifyingKey, "Ed25519 public key", 32, 44
);
bytes_type!(
    /// An Ed25519 signature (RFC 8032).
    Signature, "Ed25519 signature", 64, 88
);
