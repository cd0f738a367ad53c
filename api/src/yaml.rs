//! The one place that knows the YAML library (it is deprecated: replacing it must touch this file alone).

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

/// What is wrong with a YAML text, with its line and column where known.
#[derive(Debug, Error)]
#[error(transparent)]
pub struct YamlError(#[from] serde_yaml::Error);

/// Writes one document.
///
/// # Errors
/// A value that YAML cannot hold, as a map whose keys are maps.
pub fn to_string<T: Serialize>(value: &T) -> Result<String, YamlError> {
    Ok(serde_yaml::to_string(value)?)
}

/// Reads one document.
///
/// # Errors
/// What does not parse, and where.
pub fn from_str<T: DeserializeOwned>(text: &str) -> Result<T, YamlError> {
    Ok(serde_yaml::from_str(text)?)
}

/// Reads all documents of a text, leaving out empty ones.
///
/// # Errors
/// The first document that does not parse.
pub fn documents(text: &str) -> Result<Vec<serde_json::Value>, YamlError> {
    use serde::Deserialize;
    let mut out = Vec::new();
    for document in serde_yaml::Deserializer::from_str(text) {
        let value = serde_json::Value::deserialize(document)?;
        if !value.is_null() {
            out.push(value);
        }
    }
    Ok(out)
}
