//! Kubeconfig files.

use base64::Engine;
use serde_json::{Value, json};

use super::pki::{Authority, Identity};

/// One context: how to reach one cluster as somebody.
pub(super) struct Context<'a> {
    pub(super) name: &'a str,
    pub(super) server: String,
    pub(super) authority: &'a Authority,
    pub(super) identity: &'a Identity,
}

/// A kubeconfig of these contexts, the first one current. JSON, which YAML readers read.
pub(super) fn text(contexts: &[Context<'_>]) -> String {
    let base64 = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let list = |f: &dyn Fn(&Context<'_>) -> Value| contexts.iter().map(f).collect::<Vec<_>>();
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": contexts.first().map(|c| c.name),
        "clusters": list(&|c| json!({
            "name": c.name,
            "cluster": {"server": c.server, "certificate-authority-data": base64(c.authority.certificate())},
        })),
        "users": list(&|c| json!({
            "name": c.name,
            "user": {
                "client-certificate-data": base64(&c.identity.certificate),
                "client-key-data": base64(&c.identity.key),
            },
        })),
        "contexts": list(&|c| json!({"name": c.name, "context": {"cluster": c.name, "user": c.name}})),
    });
    format!("{config:#}\n")
}
