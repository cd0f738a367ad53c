//! The query of a request's URL.

/// Its parameters, in order, decoded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(query: &str) -> Self {
        let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key, true), decode(value, true))
        });
        Self(pairs.collect())
    }

    /// The first value of a parameter, unless it is empty.
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(is, _)| is == key).map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// Whether a parameter is set to true (`1`, `true`, or without a value).
    pub(super) fn flag(&self, key: &str) -> bool {
        self.0.iter().any(|(is, value)| is == key && matches!(value.as_str(), "" | "1" | "true" | "True" | "TRUE"))
    }

    /// All values of a parameter.
    pub(super) fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(is, _)| is == key).map(|(_, value)| value.as_str())
    }
}

/// Percent-decodes (RFC 3986); what is not UTF-8 afterwards is replaced. In a query a plus sign is a space.
pub(super) fn decode(text: &str, plus: bool) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let pair = bytes.get(at + 1..at + 3).and_then(|pair| std::str::from_utf8(pair).ok());
        let decoded = (byte == b'%').then_some(pair).flatten().and_then(|pair| u8::from_str_radix(pair, 16).ok());
        match decoded {
            Some(decoded) => {
                out.push(decoded);
                at += 3;
            }
            None => {
                out.push(if plus && byte == b'+' { b' ' } else { byte });
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parameters_are_decoded() {
        let query = Query::parse("labelSelector=a%3Db%2Cc+in+%28d%29&watch&limit=&dryRun=All&x=%zz%");
        assert_eq!(query.get("labelSelector"), Some("a=b,c in (d)"));
        assert!(query.flag("watch") && !query.flag("follow"));
        assert_eq!((query.get("limit"), query.get("x")), (None, Some("%zz%")));
        assert_eq!(query.all("dryRun").collect::<Vec<_>>(), ["All"]);
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(text in ".{0,20}") {
            let encoded: String = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
            prop_assert_eq!(decode(&encoded, true), text.clone());
            decode(&text, false);
        }
    }
}
