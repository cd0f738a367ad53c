//! What a resource is: names, scope, columns, and how its objects are checked.

use std::any::TypeId;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::{NamespaceResourceScope, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::jsonpath::{JsonPath, JsonPathError};
use crate::refusal::qualified;
use crate::typed::{self, TypeMismatch};
use crate::validation::NameRule;

/// A resource whatever its version: `PLURAL.GROUP`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResourceKey {
    /// The API group; empty for the core group.
    pub group: Arc<str>,
    /// The plural, as in URLs.
    pub plural: Arc<str>,
}

impl ResourceKey {
    /// `plural` of `group` (empty for the core group).
    #[must_use]
    pub fn new(group: &str, plural: &str) -> Self {
        Self { group: group.into(), plural: plural.into() }
    }

    /// The resource of a Kubernetes type.
    #[must_use]
    pub fn of<K: Resource>() -> Self {
        Self::new(K::GROUP, K::URL_PATH_SEGMENT)
    }
}

impl fmt::Display for ResourceKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&qualified(&self.group, &self.plural))
    }
}

/// Where a column's cell comes from.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    Path(JsonPath),
    Count(JsonPath),
    With(fn(&Value) -> Value),
}

/// One column of a table that kubectl shows.
#[derive(Clone, Debug)]
pub struct Column {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) format: String,
    pub(crate) description: String,
    pub(crate) priority: i64,
    pub(crate) source: Source,
}

impl Column {
    /// What is at `path`. `kind` is an OpenAPI type or `date`, which is shown as an age.
    ///
    /// # Errors
    /// A path outside the subset of [`JsonPath`].
    pub fn path(name: &str, kind: &str, path: &str) -> Result<Self, JsonPathError> {
        Ok(Self::new(name, kind, Source::Path(path.parse()?)))
    }

    /// The number of items or entries at `path`.
    ///
    /// # Errors
    /// A path outside the subset of [`JsonPath`].
    pub fn count(name: &str, path: &str) -> Result<Self, JsonPathError> {
        Ok(Self::new(name, "integer", Source::Count(path.parse()?)))
    }

    /// What `cell` makes of the object.
    #[must_use]
    pub fn with(name: &str, kind: &str, cell: fn(&Value) -> Value) -> Self {
        Self::new(name, kind, Source::With(cell))
    }

    pub(crate) fn new(name: &str, kind: &str, source: Source) -> Self {
        Self {
            name: name.to_owned(),
            kind: kind.to_owned(),
            format: String::new(),
            description: String::new(),
            priority: 0,
            source,
        }
    }

    /// Shown with `-o wide` only.
    #[must_use]
    pub fn wide(mut self) -> Self {
        self.priority = 1;
        self
    }
}

/// Parses an object as its Rust type and writes it back: fields that the type does not have are gone.
pub(crate) type Normalize = fn(&Value) -> Result<Value, TypeMismatch>;

fn normalize<K: DeserializeOwned + Serialize>(object: &Value) -> Result<Value, TypeMismatch> {
    serde_json::to_value(typed::read::<K>(object, "")?)
        .map_err(|error| TypeMismatch { field: String::new(), message: error.to_string() })
}

/// Every verb of an ordinary resource.
pub const ALL_VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// A resource that a server serves.
#[derive(Clone, Debug)]
pub struct ResourceDefinition {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) plural: String,
    pub(crate) singular: String,
    pub(crate) kind: String,
    pub(crate) list_kind: String,
    pub(crate) namespaced: bool,
    pub(crate) has_status: bool,
    pub(crate) short_names: Vec<String>,
    pub(crate) categories: Vec<String>,
    pub(crate) verbs: Vec<String>,
    pub(crate) columns: Vec<Column>,
    pub(crate) names: NameRule,
    pub(crate) kept_for: Option<Duration>,
    pub(crate) normalize: Option<Normalize>,
}

impl ResourceDefinition {
    /// The resource of a Kubernetes type. Its objects are held to the type: a field of a wrong type is refused (400), a field that
    /// the type does not have is dropped, as a Kubernetes API server does.
    #[must_use]
    pub fn of<K>() -> Self
    where
        K: Resource + DeserializeOwned + Serialize,
        K::Scope: 'static,
    {
        let namespaced = TypeId::of::<K::Scope>() == TypeId::of::<NamespaceResourceScope>();
        let mut definition = Self::untyped((K::GROUP, K::VERSION), K::URL_PATH_SEGMENT, K::KIND, namespaced);
        definition.normalize = Some(normalize::<K>);
        definition
    }

    /// A resource whose objects may hold anything beside their metadata. `group_version` as `("apps", "v1")`.
    #[must_use]
    pub fn untyped(group_version: (&str, &str), plural: &str, kind: &str, namespaced: bool) -> Self {
        Self {
            group: group_version.0.to_owned(),
            version: group_version.1.to_owned(),
            plural: plural.to_owned(),
            singular: kind.to_lowercase(),
            kind: kind.to_owned(),
            list_kind: format!("{kind}List"),
            namespaced,
            has_status: false,
            short_names: Vec::new(),
            categories: Vec::new(),
            verbs: ALL_VERBS.iter().map(|verb| (*verb).to_owned()).collect(),
            columns: Vec::new(),
            names: NameRule::Subdomain,
            kept_for: None,
            normalize: None,
        }
    }

    /// With a status subresource: the main endpoint leaves the status alone, and `/status` everything else.
    #[must_use]
    pub fn with_status(mut self) -> Self {
        self.has_status = true;
        self
    }

    /// Short names for kubectl, as `po`.
    #[must_use]
    pub fn short_names(mut self, names: &[&str]) -> Self {
        self.short_names = names.iter().map(|name| (*name).to_owned()).collect();
        self
    }

    /// Categories for kubectl, as `all`.
    #[must_use]
    pub fn categories(mut self, categories: &[&str]) -> Self {
        self.categories = categories.iter().map(|category| (*category).to_owned()).collect();
        self
    }

    /// Only these verbs; any other is refused with 405.
    #[must_use]
    pub fn verbs(mut self, verbs: &[&str]) -> Self {
        self.verbs = verbs.iter().map(|verb| (*verb).to_owned()).collect();
        self
    }

    /// One more column between NAME and AGE.
    #[must_use]
    pub fn column(mut self, column: Column) -> Self {
        self.columns.push(column);
        self
    }

    /// Which names its objects may have.
    #[must_use]
    pub fn names(mut self, rule: NameRule) -> Self {
        self.names = rule;
        self
    }

    /// Objects are deleted by themselves once they have not been written for this long (Events).
    #[must_use]
    pub fn kept_for(mut self, time: Duration) -> Self {
        self.kept_for = Some(time);
        self
    }

    /// The resource, whatever its version.
    #[must_use]
    pub fn key(&self) -> ResourceKey {
        ResourceKey::new(&self.group, &self.plural)
    }

    /// The API group; empty for the core group.
    #[must_use]
    pub fn group(&self) -> &str {
        &self.group
    }

    /// The version, as `v1`.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The plural, as in URLs.
    #[must_use]
    pub fn plural(&self) -> &str {
        &self.plural
    }

    /// The kind.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// Whether its objects live in namespaces.
    #[must_use]
    pub fn namespaced(&self) -> bool {
        self.namespaced
    }

    /// `GROUP/VERSION`, or `VERSION` in the core group.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
    use serde_json::json;

    use super::*;

    #[test]
    fn a_type_defines_its_resource() {
        let definition = ResourceDefinition::of::<ConfigMap>();
        assert_eq!(
            (definition.plural(), definition.api_version().as_str(), definition.namespaced()),
            ("configmaps", "v1", true)
        );
        assert!(!ResourceDefinition::of::<Namespace>().namespaced());
        let check = definition.normalize.expect("typed");
        let error =
            check(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {}, "data": {"a": 1}})).expect_err("a number");
        assert_eq!(error.field, "data.a");
        let kept = check(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {}, "other": 1})).expect("a ConfigMap");
        assert!(kept.get("other").is_none());
    }
}
