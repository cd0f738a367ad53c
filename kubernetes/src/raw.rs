//! An object of any kind, as JSON.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::core::error_boundary::InvalidObject;
use kube::core::{ApiResource, DeserializeGuard, DynamicResourceScope};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

/// An object as it came. What is common to all kinds is read.
#[derive(Clone, Debug)]
pub(crate) struct Raw {
    metadata: ObjectMeta,
    value: Value,
}

impl Raw {
    /// An object to be sent.
    pub(crate) fn of<K: Serialize>(object: &K) -> kube::Result<Self> {
        let value = serde_json::to_value(object).map_err(kube::Error::SerdeError)?;
        Ok(Self { metadata: ObjectMeta::default(), value })
    }

    /// The object as one of its kind.
    pub(crate) fn read<K: DeserializeOwned>(self) -> kube::Result<K> {
        serde_json::from_value(self.value).map_err(kube::Error::SerdeError)
    }

    /// The object as one of its kind, or what is wrong with it.
    pub(crate) fn guard<K: DeserializeOwned>(self) -> DeserializeGuard<K> {
        let metadata = self.metadata;
        DeserializeGuard(
            serde_json::from_value(self.value).map_err(|error| InvalidObject { error: error.to_string(), metadata }),
        )
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let metadata = match value.get("metadata") {
            Some(metadata) => ObjectMeta::deserialize(metadata).map_err(D::Error::custom)?,
            None => ObjectMeta::default(),
        };
        Ok(Self { metadata, value })
    }
}

impl Serialize for Raw {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(serializer)
    }
}

impl Resource for Raw {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(kind: &ApiResource) -> Cow<'_, str> {
        kind.kind.as_str().into()
    }

    fn group(kind: &ApiResource) -> Cow<'_, str> {
        kind.group.as_str().into()
    }

    fn version(kind: &ApiResource) -> Cow<'_, str> {
        kind.version.as_str().into()
    }

    fn api_version(kind: &ApiResource) -> Cow<'_, str> {
        kind.api_version.as_str().into()
    }

    fn plural(kind: &ApiResource) -> Cow<'_, str> {
        kind.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
