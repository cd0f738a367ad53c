//! What names, labels and annotations may look like (RFC 1123, RFC 1035, and Kubernetes' own rules).

use serde_json::Value;

use crate::refusal::Cause;

/// Which names a resource allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NameRule {
    /// A DNS subdomain (RFC 1123), at most 253 characters.
    #[default]
    Subdomain,
    /// A DNS label (RFC 1123), at most 63 characters.
    Label,
    /// A DNS label that starts with a letter (RFC 1035), at most 63 characters.
    LetterLabel,
    /// Anything that is one segment of a URL's path, as RBAC objects have it (`system:node`).
    PathSegment,
}

impl NameRule {
    /// Says what is wrong with `name`, if anything.
    ///
    /// # Errors
    /// The rule that it breaks, in words.
    pub fn check(self, name: &str) -> Result<(), String> {
        match self {
            Self::Subdomain => {
                if name.len() > 253 {
                    return Err("must be no more than 253 characters".to_owned());
                }
                if name.split('.').all(|label| is_label(label, 253)) {
                    return Ok(());
                }
                Err("a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and \
                     end with an alphanumeric character (e.g. 'example.com')"
                    .to_owned())
            }
            Self::Label | Self::LetterLabel => {
                if name.len() > 63 {
                    return Err("must be no more than 63 characters".to_owned());
                }
                let first = name.as_bytes().first().is_some_and(u8::is_ascii_lowercase);
                if is_label(name, 63) && (self == Self::Label || first) {
                    return Ok(());
                }
                Err(if self == Self::Label {
                    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with \
                     an alphanumeric character (e.g. 'my-name', or '123-abc')"
                } else {
                    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and \
                     end with an alphanumeric character (e.g. 'my-name', or 'abc-123')"
                }
                .to_owned())
            }
            Self::PathSegment => {
                if name.is_empty() || name.len() > 253 || name == "." || name == ".." || name.contains(['/', '%']) {
                    return Err("must be 1 to 253 characters, not '.' or '..', without '/' and '%'".to_owned());
                }
                Ok(())
            }
        }
    }
}

fn is_label(text: &str, longest: usize) -> bool {
    let bytes = text.as_bytes();
    let plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    bytes.len() <= longest
        && bytes.first().is_some_and(plain)
        && bytes.last().is_some_and(plain)
        && bytes.iter().all(|byte| plain(byte) || *byte == b'-')
}

fn is_qualified(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

/// A label's or annotation's key: `[PREFIX/]NAME`.
pub(crate) fn label_key(key: &str) -> Result<(), &'static str> {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    if prefix.is_some_and(|prefix| NameRule::Subdomain.check(prefix).is_err()) {
        return Err("prefix part must be a lowercase RFC 1123 subdomain");
    }
    if is_qualified(name) {
        Ok(())
    } else {
        Err("name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric \
             character, at most 63 characters")
    }
}

/// A label's value.
pub(crate) fn label_value(value: &str) -> Result<(), &'static str> {
    if value.is_empty() || is_qualified(value) {
        Ok(())
    } else {
        Err(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with \
             an alphanumeric character, at most 63 characters",
        )
    }
}

/// What is wrong with the labels, annotations and finalizers of an object whose metadata has the right types.
pub(crate) fn metadata(object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let map = |key: &str| object["metadata"][key].as_object().into_iter().flatten();
    for (key, value) in map("labels") {
        if let Err(why) = label_key(key) {
            causes.push(Cause::invalid("metadata.labels", format!("Invalid value: {key:?}: {why}")));
        }
        if let Err(why) = label_value(value.as_str().unwrap_or_default()) {
            causes.push(Cause::invalid("metadata.labels", format!("Invalid value: {value}: {why}")));
        }
    }
    let mut size = 0;
    for (key, value) in map("annotations") {
        if let Err(why) = label_key(&key.to_lowercase()) {
            causes.push(Cause::invalid("metadata.annotations", format!("Invalid value: {key:?}: {why}")));
        }
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > 256 * 1024 {
        causes.push(Cause::new("FieldValueTooLong", "metadata.annotations", "Too long: may not be more than 262144 bytes"));
    }
    for finalizer in object["metadata"]["finalizers"].as_array().into_iter().flatten() {
        let text = finalizer.as_str().unwrap_or_default();
        if label_key(text).is_err() || !text.contains('/') {
            causes.push(Cause::invalid("metadata.finalizers", format!("Invalid value: {finalizer}: must be DOMAIN/NAME")));
        }
    }
    causes
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_follow_their_rule() {
        for (rule, good, bad) in [
            (NameRule::Subdomain, "a.b-c.1", "a..b"),
            (NameRule::Subdomain, "nginx.nginx", "-a"),
            (NameRule::Label, "1a", "a.b"),
            (NameRule::LetterLabel, "a1", "1a"),
            (NameRule::PathSegment, "system:node:A", "a/b"),
        ] {
            assert!(rule.check(good).is_ok(), "{good}");
            assert!(rule.check(bad).is_err(), "{bad}");
            assert!(rule.check("").is_err());
            assert!(rule.check(&"a".repeat(300)).is_err());
        }
    }

    #[test]
    fn metadata_is_held_to_kubernetes_rules() {
        let good = json!({"metadata": {"labels": {"x.io/y": "Z_1", "empty": ""}, "annotations": {"X/y": "any thing"}, "finalizers": ["a.b/c"]}});
        assert!(metadata(&good).is_empty());
        let bad = json!({"metadata": {"labels": {"a b": "c", "d": "e f"}, "annotations": {"/": ""}, "finalizers": ["x"]}});
        assert_eq!(metadata(&bad).len(), 4);
    }
}
