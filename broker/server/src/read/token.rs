//! Continue tokens: where the next page of a list begins, and at which resourceVersion.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::refusal::Refusal;

/// A place in a list. It grants nothing: each page is authorized anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ContinueToken {
    #[serde(rename = "v")]
    pub(super) version: u64,
    #[serde(rename = "ns")]
    pub(super) namespace: String,
    #[serde(rename = "n")]
    pub(super) name: String,
}

impl ContinueToken {
    pub(super) fn encode(&self) -> String {
        // Texts and numbers always serialize.
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    pub(super) fn decode(text: &str) -> Result<Self, Refusal> {
        URL_SAFE_NO_PAD
            .decode(text)
            .ok()
            .and_then(|json| serde_json::from_slice(&json).ok())
            .ok_or_else(|| Refusal::bad_request("continue key is not valid: begin the list anew"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_token_is_what_it_was(version: u64, namespace in ".{0,20}", name in ".{0,20}") {
            let token = ContinueToken { version, namespace, name };
            prop_assert_eq!(ContinueToken::decode(&token.encode()).expect("our own"), token);
        }

        #[test]
        fn another_text_is_refused(text in "[ -~]{0,40}") {
            if let Ok(token) = ContinueToken::decode(&text) {
                prop_assert_eq!(token.encode(), text);
            }
        }
    }
}
