//! Media types: JSON comes in and goes out, in the form that the client likes best.

use crate::read::{Form, Include};
use crate::refusal::Refusal;

/// One entry of an `Accept` header.
struct Media<'a> {
    name: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
}

impl<'a> Media<'a> {
    fn parse(text: &'a str) -> Self {
        let mut parts = text.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        Self {
            name,
            parameters: parts.filter_map(|part| part.split_once('=')).map(|(key, value)| (key.trim(), value.trim())).collect(),
        }
    }

    fn is_json(&self) -> bool {
        ["application/json", "application/*", "*/*", ""].contains(&self.name)
    }

    fn parameter(&self, key: &str) -> Option<&str> {
        self.parameters.iter().find(|(is, _)| *is == key).map(|(_, value)| *value)
    }
}

fn accepted(header: &str) -> impl Iterator<Item = Media<'_>> {
    header.split(',').map(|text| Media::parse(text.trim()))
}

/// The form in which objects are sent: the first that is accepted and that this server has.
pub(super) fn form(accept: &str, include: Include) -> Result<Form, Refusal> {
    accepted(accept)
        .filter(Media::is_json)
        .find_map(|media| match media.parameter("as") {
            None => Some(Form::Whole),
            Some(_) if media.parameter("g") != Some("meta.k8s.io") || media.parameter("v") != Some("v1") => None,
            Some("Table") => Some(Form::Table(include)),
            Some("PartialObjectMetadata" | "PartialObjectMetadataList") => Some(Form::Partial),
            Some(_) => None,
        })
        .ok_or_else(Refusal::not_acceptable)
}

/// Whether plain JSON is accepted.
pub(super) fn plain(accept: &str) -> Result<(), Refusal> {
    if accepted(accept).any(|media| media.is_json() && media.parameter("as").is_none()) {
        Ok(())
    } else {
        Err(Refusal::not_acceptable())
    }
}

/// The version of aggregated discovery that is accepted before plain discovery, if one is.
pub(super) fn aggregated(accept: &str) -> Option<&'static str> {
    accepted(accept).filter(Media::is_json).find_map(|media| match media.parameter("as") {
        None => Some(None),
        Some("APIGroupDiscoveryList") if media.parameter("g") == Some("apidiscovery.k8s.io") => match media.parameter("v") {
            Some("v2") => Some(Some("v2")),
            Some("v2beta1") => Some(Some("v2beta1")),
            Some(_) | None => None,
        },
        Some(_) => None,
    })?
}

/// The media type of a body, without its parameters, in lower case. None is JSON.
pub(super) fn media_type(content_type: &str) -> String {
    let name = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if name.is_empty() { "application/json".to_owned() } else { name }
}

/// Refuses a body that is not JSON.
pub(super) fn json_body(content_type: &str) -> Result<(), Refusal> {
    match media_type(content_type).as_str() {
        "application/json" => Ok(()),
        other => Err(Refusal::unsupported_media_type(other, "application/json")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_form_that_is_known_is_taken() {
        let table =
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(form(table, Include::Metadata), Ok(Form::Table(Include::Metadata)));
        assert_eq!(form("application/vnd.kubernetes.protobuf,application/json", Include::None), Ok(Form::Whole));
        assert_eq!(form("", Include::None), Ok(Form::Whole));
        assert_eq!(form("*/*", Include::None), Ok(Form::Whole));
        assert_eq!(form("application/json;stream=watch", Include::None), Ok(Form::Whole));
        assert_eq!(form("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", Include::None), Ok(Form::Partial));
        for refused in
            ["application/vnd.kubernetes.protobuf", "application/yaml", "application/json;as=Table;v=v9;g=meta.k8s.io"]
        {
            assert_eq!(form(refused, Include::None).expect_err("not served").code, 406, "{refused}");
        }
    }

    #[test]
    fn discovery_is_aggregated_when_that_comes_first() {
        let both = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
        assert_eq!(aggregated(both), Some("v2"));
        assert_eq!(aggregated("application/json"), None);
        assert_eq!(aggregated("*/*"), None);
    }

    #[test]
    fn bodies_are_json() {
        assert!(json_body("application/json; charset=utf-8").is_ok() && json_body("").is_ok());
        assert_eq!(json_body("application/yaml").expect_err("not read").code, 415);
    }
}
