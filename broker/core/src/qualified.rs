//! Keys and values of labels and annotations, as Kubernetes takes them: one bad pair from another cluster must not make an
//! object of ours invalid as a whole.

use std::collections::BTreeMap;

use daisy_api::names::{LABEL_MAX, SUBDOMAIN_MAX, is_label};

/// The most bytes that annotations carried over from other clusters may have together; the API allows 256 KiB in all.
const ANNOTATIONS_MAX: usize = 128 * 1024;
/// Whose keys mean something to Kubernetes or to Daisy, and so are never taken from another cluster.
const RESERVED: [&str; 3] = ["kubernetes.io", "k8s.io", "supercluster.local"];

/// Whether the text is `NAME` or `PREFIX/NAME`, as keys of labels and annotations and application protocols are.
pub(crate) fn is_name(text: &str) -> bool {
    match text.split_once('/') {
        Some((prefix, name)) => {
            prefix.len() <= SUBDOMAIN_MAX && prefix.split('.').all(is_label) && is_value(name) && !name.is_empty()
        }
        None => !text.is_empty() && is_value(text),
    }
}

/// Whether the text can be a label's value: empty, or 1 to 63 of letters, digits, `-`, `_` and `.`, letters or digits at both ends.
pub(crate) fn is_value(text: &str) -> bool {
    let bytes = text.as_bytes();
    let edge = |b: Option<&u8>| b.is_none_or(u8::is_ascii_alphanumeric);
    bytes.len() <= LABEL_MAX
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

fn reserved(key: &str) -> bool {
    key.split_once('/').is_some_and(|(prefix, _)| {
        RESERVED.iter().any(|one| prefix == *one || prefix.strip_suffix(one).is_some_and(|rest| rest.ends_with('.')))
    })
}

/// The labels that can be carried over.
pub(crate) fn labels(map: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let fit = map.iter().filter(|(key, value)| is_name(key) && is_value(value) && !reserved(key));
    fit.map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// The annotations that can be carried over.
pub(crate) fn annotations(map: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut left = ANNOTATIONS_MAX;
    let mut out = BTreeMap::new();
    for (key, value) in map.iter().filter(|(key, _)| is_name(key) && !reserved(key)) {
        let Some(rest) = left.checked_sub(key.len() + value.len()) else { break };
        left = rest;
        out.insert(key.clone(), value.clone());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_what_kubernetes_takes() {
        for good in ["app", "example.com/app", "a_b.c-d"] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "/a", "a/", "Ex.com/a", "a b", "-a", "a/b/c"] {
            assert!(!is_name(bad), "{bad}");
        }
        assert!(is_value("") && is_value("a") && !is_value("a-") && !is_value(&"a".repeat(64)));
    }

    #[test]
    fn what_means_something_here_is_not_carried_over() {
        let keys =
            ["app.kubernetes.io/managed-by", "kubernetes.io/x", "daisy.supercluster.local/x", "notkubernetes.io/x", "team"];
        let map = keys.map(|key| (key.to_owned(), "v".to_owned())).into();
        let kept: Vec<String> = labels(&map).into_keys().collect();
        assert_eq!(kept, ["notkubernetes.io/x", "team"]);
        assert_eq!(annotations(&map).len(), 2);
    }
}
