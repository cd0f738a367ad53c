//! What a cluster may export: the namespaces its grant names.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::names::{LABEL_MAX, NamespaceName, is_label};

/// Why a text is not a grant.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "{value:?} is not a namespace pattern: use a namespace (shop), a beginning (shop-*), or one of the words all and none alone"
)]
pub struct GrantError {
    /// The part that does not parse.
    pub value: String,
}

/// One namespace (`shop`), all that begin alike (`shop-*`), or all (`*`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NamespacePattern(String);

impl NamespacePattern {
    /// Whether the namespace is one of them.
    #[must_use]
    pub fn matches(&self, namespace: &NamespaceName) -> bool {
        match self.0.strip_suffix('*') {
            Some(beginning) => namespace.as_str().starts_with(beginning),
            None => namespace.as_str() == self.0,
        }
    }

    /// The pattern as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NamespacePattern {
    type Err = GrantError;
    fn from_str(text: &str) -> Result<Self, GrantError> {
        let valid = match text.strip_suffix('*') {
            // A beginning may end with '-', which a whole label may not: "shop-" is judged as "shop-x".
            Some(beginning) => beginning.len() < LABEL_MAX && is_label(&format!("{beginning}x")),
            None => is_label(text),
        };
        if valid { Ok(Self(text.to_owned())) } else { Err(GrantError { value: text.to_owned() }) }
    }
}

impl TryFrom<String> for NamespacePattern {
    type Error = GrantError;
    fn try_from(text: String) -> Result<Self, GrantError> {
        text.parse()
    }
}

impl From<NamespacePattern> for String {
    fn from(pattern: NamespacePattern) -> Self {
        pattern.0
    }
}

impl JsonSchema for NamespacePattern {
    fn schema_name() -> Cow<'static, str> {
        "NamespacePattern".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "minLength": 1, "maxLength": LABEL_MAX, "pattern": r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?|([a-z0-9][-a-z0-9]*)?\*)$" })
    }
}

/// The namespaces that a cluster may export from; empty for a cluster that only consumes.
///
/// In YAML a list of patterns: `["*"]` is all, `[]` none. On a command line `all`, `none`, or patterns with commas between.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Grant(#[schemars(length(max = 64))] Vec<NamespacePattern>);

impl Grant {
    /// Every namespace.
    #[must_use]
    pub fn all() -> Self {
        Self(vec![NamespacePattern("*".to_owned())])
    }

    /// No namespace.
    #[must_use]
    pub fn none() -> Self {
        Self(Vec::new())
    }

    /// Whether nothing may be exported.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether exports from this namespace are allowed.
    #[must_use]
    pub fn allows(&self, namespace: &NamespaceName) -> bool {
        self.0.iter().any(|pattern| pattern.matches(namespace))
    }

    /// The patterns.
    #[must_use]
    pub fn patterns(&self) -> &[NamespacePattern] {
        &self.0
    }
}

impl FromStr for Grant {
    type Err = GrantError;
    fn from_str(text: &str) -> Result<Self, GrantError> {
        match text.trim() {
            "all" => Ok(Self::all()),
            "none" => Ok(Self::none()),
            list => list.split(',').map(|part| part.trim().parse()).collect::<Result<_, _>>().map(Self),
        }
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_none() {
            return f.write_str("none");
        }
        if self.0.iter().any(|pattern| pattern.0 == "*") {
            return f.write_str("all");
        }
        let patterns: Vec<&str> = self.0.iter().map(NamespacePattern::as_str).collect();
        f.write_str(&patterns.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ns(text: &str) -> NamespaceName {
        NamespaceName::new(text).expect("a namespace")
    }

    #[test]
    fn allows_what_it_names() {
        let grant: Grant = "shop-*,web".parse().expect("a grant");
        assert!(grant.allows(&ns("shop-eu")) && grant.allows(&ns("web")));
        assert!(!grant.allows(&ns("shop")) && !grant.allows(&ns("web2")));
        assert!(Grant::all().allows(&ns("anything")));
        assert!(!Grant::none().allows(&ns("anything")));
    }

    #[test]
    fn refuses_what_is_no_pattern() {
        for bad in ["", "Shop", "a*b", "**", "shop_", "a,,b", "-*"] {
            assert!(bad.parse::<Grant>().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn prints_what_it_parses(list in proptest::collection::vec("[a-z]([-a-z0-9]{0,8}[a-z0-9])?(-?\\*)?", 1..5)) {
            let text = list.join(",");
            prop_assume!(text != "all" && text != "none");
            let grant: Grant = text.parse().expect("patterns");
            prop_assert_eq!(grant.to_string(), text);
        }
    }
}
