//! Which resources are served at this moment: the built-in ones and those of the stored CustomResourceDefinitions.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::definition::{ResourceDefinition, ResourceKey};
use crate::schema::Schema;

/// One version of one resource, as it is served.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) definition: ResourceDefinition,
    pub(crate) key: ResourceKey,
    /// The `apiVersion` that its objects are stored in.
    pub(crate) stored_as: String,
    /// Of a custom resource.
    pub(crate) schema: Option<Schema>,
}

impl Served {
    pub(crate) fn builtin(definition: ResourceDefinition) -> Self {
        Self { key: definition.key(), stored_as: definition.api_version(), schema: None, definition }
    }

    pub(crate) fn is_custom(&self) -> bool {
        self.schema.is_some()
    }

    pub(crate) fn has_verb(&self, verb: &str) -> bool {
        self.definition.verbs.iter().any(|has| has == verb)
    }
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Catalog {
    builtin: Vec<Arc<Served>>,
    /// By the name of their CustomResourceDefinition, the version to store first.
    custom: BTreeMap<String, Vec<Arc<Served>>>,
    by_key: HashMap<ResourceKey, Vec<Arc<Served>>>,
}

impl Catalog {
    pub(crate) fn new(definitions: Vec<ResourceDefinition>) -> Self {
        let builtin = definitions.into_iter().map(|definition| Arc::new(Served::builtin(definition))).collect();
        let mut catalog = Self { builtin, ..Self::default() };
        catalog.index();
        catalog
    }

    fn index(&mut self) {
        self.by_key.clear();
        for served in self.builtin.iter().chain(self.custom.values().flatten()) {
            self.by_key.entry(served.key.clone()).or_default().push(served.clone());
        }
    }

    /// The same, with what the CustomResourceDefinition `name` defines.
    pub(crate) fn with(&self, name: &str, versions: Vec<Arc<Served>>) -> Self {
        let mut catalog = self.clone();
        catalog.custom.insert(name.to_owned(), versions);
        catalog.index();
        catalog
    }

    /// The same, without what the CustomResourceDefinition `name` defines.
    pub(crate) fn without(&self, name: &str) -> Self {
        let mut catalog = self.clone();
        catalog.custom.remove(name);
        catalog.index();
        catalog
    }

    /// One version of a resource.
    pub(crate) fn version(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Served>> {
        self.by_key.get(&ResourceKey::new(group, plural))?.iter().find(|served| served.definition.version == version)
    }

    /// A resource in the version that is stored.
    pub(crate) fn get(&self, key: &ResourceKey) -> Option<&Arc<Served>> {
        self.by_key.get(key)?.first()
    }

    /// What the CustomResourceDefinition `name` defines.
    pub(crate) fn custom(&self, name: &str) -> Option<&[Arc<Served>]> {
        self.custom.get(name).map(Vec::as_slice)
    }

    /// Whether another definition has this resource or this kind.
    pub(crate) fn clashes(&self, name: &str, definition: &ResourceDefinition) -> bool {
        let same = |served: &Arc<Served>| {
            served.definition.group == definition.group
                && (served.definition.plural == definition.plural || served.definition.kind == definition.kind)
        };
        self.builtin.iter().any(same) || self.custom.iter().any(|(other, versions)| other != name && versions.iter().any(same))
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Served>> {
        self.builtin.iter().chain(self.custom.values().flatten())
    }

    /// The versions of each group that are served, each group's first one preferred.
    pub(crate) fn groups(&self) -> BTreeMap<&str, Vec<&str>> {
        let mut groups: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for served in self.all() {
            let versions = groups.entry(&served.definition.group).or_default();
            if !versions.contains(&served.definition.version.as_str()) {
                versions.push(&served.definition.version);
            }
        }
        groups
    }

    /// The resources of one group and version.
    pub(crate) fn resources<'a>(&'a self, group: &'a str, version: &'a str) -> impl Iterator<Item = &'a Arc<Served>> {
        self.all().filter(move |served| served.definition.group == group && served.definition.version == version)
    }
}
