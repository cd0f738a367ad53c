//! Names that hold only valid values.
//!
//! A DNS label is that of RFC 1123 section 2.1 as Kubernetes takes it: 1 to 63 of `a-z`, `0-9` and `-`, beginning and ending
//! with a letter or digit. Upper case is refused rather than folded: two spellings of one name must not exist in the API.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The longest DNS label, in bytes (RFC 1035 section 2.3.4).
pub const LABEL_MAX: usize = 63;
/// The longest DNS name in presentation form without the trailing dot, in bytes.
pub const SUBDOMAIN_MAX: usize = 253;
const LABEL_PATTERN: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
const SUBDOMAIN_PATTERN: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";

/// Why a text is not a name of the kind asked for.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NameError {
    /// Nothing was given.
    #[error("a {what} cannot be empty")]
    Empty {
        /// What was asked for, as in "cluster ID".
        what: &'static str,
    },
    /// More bytes than the kind of name may have.
    #[error("{what} {value:?} has {length} bytes; at most {max} are allowed")]
    TooLong {
        /// What was asked for.
        what: &'static str,
        /// The text, cut short.
        value: String,
        /// Its length in bytes.
        length: usize,
        /// How many there may be.
        max: usize,
    },
    /// A character that the kind of name cannot hold.
    #[error(
        "{what} {value:?} is not a DNS label: use 1 to 63 of a-z, 0-9 and '-', beginning and ending with a letter or digit{suggestion}"
    )]
    NotALabel {
        /// What was asked for.
        what: &'static str,
        /// The text.
        value: String,
        /// `; for example "x"` where a near valid name is found, else empty.
        suggestion: String,
    },
}

/// Whether `text` is one DNS label.
#[must_use]
pub fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
    !bytes.is_empty()
        && bytes.len() <= LABEL_MAX
        && bytes.iter().all(inner)
        && bytes.first() != Some(&b'-')
        && bytes.last() != Some(&b'-')
}

/// Whether `text` can be a zone (`topology.kubernetes.io/zone`): what both a label's value and an EndpointSlice's hint may be.
#[must_use]
pub fn is_zone(text: &str) -> bool {
    let bytes = text.as_bytes();
    let ends = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let inner = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    bytes.len() <= LABEL_MAX && bytes.iter().all(inner) && ends(bytes.first()) && ends(bytes.last())
}

fn suggest(text: &str) -> String {
    let folded: String =
        text.to_ascii_lowercase().chars().map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' }).collect();
    let trimmed: String = folded.trim_matches('-').chars().take(LABEL_MAX).collect();
    let trimmed = trimmed.trim_matches('-');
    if is_label(trimmed) { format!("; for example {trimmed:?}") } else { String::new() }
}

fn check_label(what: &'static str, text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty { what });
    }
    if text.len() > LABEL_MAX {
        let value = text.chars().take(LABEL_MAX).collect();
        return Err(NameError::TooLong { what, value, length: text.len(), max: LABEL_MAX });
    }
    if !is_label(text) {
        return Err(NameError::NotALabel { what, value: text.to_owned(), suggestion: suggest(text) });
    }
    Ok(())
}

fn check_subdomain(what: &'static str, text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty { what });
    }
    if text.len() > SUBDOMAIN_MAX {
        let value = text.chars().take(LABEL_MAX).collect();
        return Err(NameError::TooLong { what, value, length: text.len(), max: SUBDOMAIN_MAX });
    }
    text.split('.').try_for_each(|label| {
        if is_label(label) {
            Ok(())
        } else {
            Err(NameError::NotALabel { what, value: text.to_owned(), suggestion: String::new() })
        }
    })
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:ident, $pattern:ident, $max:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Parses the name.
            ///
            /// # Errors
            /// [`NameError`] names what was asked for, the value and the rule that it breaks.
            pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
                let text = text.into();
                $check($what, &text)?;
                Ok(Self(text))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
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
                json_schema!({ "type": "string", "minLength": 1, "maxLength": $max, "pattern": $pattern })
            }
        }
    };
}

name_type!(
    /// The ID of a cluster in its supercluster: one DNS label, unique among the members, fixed while it is one (KEP-2149).
    ClusterId, "cluster ID", check_label, LABEL_PATTERN, LABEL_MAX
);
name_type!(
    /// The name of a namespace.
    NamespaceName, "namespace", check_label, LABEL_PATTERN, LABEL_MAX
);
name_type!(
    /// The name of a Service.
    ServiceName, "service name", check_label, LABEL_PATTERN, LABEL_MAX
);
name_type!(
    /// The name of a Node: a DNS subdomain.
    NodeName, "node name", check_subdomain, SUBDOMAIN_PATTERN, SUBDOMAIN_MAX
);

impl ClusterId {
    /// The cluster's own namespace on the broker, the only one that it can write: `daisy-cluster-ID`.
    #[must_use]
    pub fn broker_namespace(&self) -> String {
        format!("{}{}", crate::labels::BROKER_CLUSTER_NAMESPACE_PREFIX, self.0)
    }

    /// The cluster whose broker namespace this is, if it is one.
    #[must_use]
    pub fn from_broker_namespace(namespace: &str) -> Option<Self> {
        namespace.strip_prefix(crate::labels::BROKER_CLUSTER_NAMESPACE_PREFIX).and_then(|id| Self::new(id).ok())
    }
}

/// What an export offers and an import merges: a namespace and a Service name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    /// The namespace, the same in every cluster (namespace sameness, KEP-1645).
    pub namespace: NamespaceName,
    /// The Service's name.
    pub name: ServiceName,
}

impl ServiceKey {
    /// Parses both parts.
    ///
    /// # Errors
    /// The part that is not a DNS label.
    pub fn parse(namespace: &str, name: &str) -> Result<Self, NameError> {
        Ok(Self { namespace: NamespaceName::new(namespace)?, name: ServiceName::new(name)? })
    }

    /// The name of the Export record: `NAME.NAMESPACE`, at most 127 bytes, and so a valid object name.
    #[must_use]
    pub fn record_name(&self) -> String {
        format!("{}.{}", self.name, self.namespace)
    }

    /// 16 hexadecimal digits that stand for the pair where a label value (63 bytes) is too short to hold both.
    #[must_use]
    pub fn id(&self) -> String {
        short_hash(&format!("{}/{}", self.namespace, self.name), 16)
    }

    /// The name of the import's own Service in `daisy-system`: readable, at most 63 bytes, beginning with a letter
    /// (RFC 1035), and different for different keys.
    #[must_use]
    pub fn import_service_name(&self) -> String {
        let cut = |s: &str, n: usize| s.chars().take(n).collect::<String>().trim_matches('-').to_owned();
        format!("i-{}-{}-{}", cut(self.name.as_str(), 24), cut(self.namespace.as_str(), 24), &self.id()[..8])
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The first `digits` hexadecimal digits (at most 64) of the SHA-256 of `text`: for names, not for secrets.
#[must_use]
pub fn short_hash(text: &str, digits: usize) -> String {
    use sha2::{Digest, Sha256};
    let mut full = hex::encode(Sha256::digest(text.as_bytes()));
    full.truncate(digits);
    full
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn says_what_is_wrong_and_offers_a_name() {
        let error = ClusterId::new("My_Laptop").expect_err("upper case and underscore");
        assert!(error.to_string().contains(r#"for example "my-laptop""#), "{error}");
        assert_eq!(ClusterId::new(""), Err(NameError::Empty { what: "cluster ID" }));
        assert!(ClusterId::new("a".repeat(64)).is_err());
        assert!(NodeName::new("ip-10-0-0-1.eu.internal").is_ok());
        assert!(ServiceName::new("a.b").is_err());
    }

    #[test]
    fn import_names_differ_where_the_parts_run_together() {
        let one = ServiceKey::parse("b-c", "a").expect("valid");
        let two = ServiceKey::parse("c", "a-b").expect("valid");
        assert_ne!(one.import_service_name(), two.import_service_name());
    }

    proptest! {
        #[test]
        fn never_panics_and_prints_what_it_parsed(text in "\\PC{0,80}") {
            if let Ok(name) = ServiceName::new(text.as_str()) {
                prop_assert_eq!(name.to_string(), text);
            }
        }

        #[test]
        fn a_key_gives_valid_object_names(ns in "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", name in "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?") {
            let key = ServiceKey::parse(&ns, &name).expect("valid labels");
            prop_assert!(is_label(&key.import_service_name()), "{}", key.import_service_name());
            prop_assert!(check_subdomain("record", &key.record_name()).is_ok());
        }

        #[test]
        fn broker_namespaces_go_there_and_back(id in "[a-z0-9]([-a-z0-9]{0,40}[a-z0-9])?") {
            let id = ClusterId::new(id).expect("valid");
            prop_assert_eq!(ClusterId::from_broker_namespace(&id.broker_namespace()), Some(id));
        }
    }
}
