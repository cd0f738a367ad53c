//! Kubeconfigs: an API server's administrator's, a pod's, and the host's with a context for each cluster.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde_json::{Value, json};
use thiserror::Error;

/// Why a kubeconfig cannot be used.
#[derive(Debug, Error)]
pub(crate) enum KubeconfigError {
    /// It is not YAML.
    #[error(transparent)]
    Malformed(#[from] daisy_api::yaml::YamlError),
    /// Something that it must hold is not there.
    #[error("the kubeconfig's {0} is missing")]
    Missing(&'static str),
    /// Its server cannot be reached through the lab.
    #[error("the kubeconfig's server {0:?} is not https://ADDRESS:PORT")]
    Server(String),
    /// It cannot be written.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A cluster, as the host's kubeconfig has it.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    name: String,
    cluster: Value,
    user: Value,
    /// The API server's address, inside the lab.
    pub(crate) server_inside: SocketAddr,
}

impl Context {
    /// The current context of a kubeconfig that is good inside the lab, made good on the host, where the API server is at a port
    /// of loopback and still bears a certificate for its own address.
    pub(crate) fn through_port(name: &str, text: &str, port: u16) -> Result<Self, KubeconfigError> {
        let config: Value = daisy_api::yaml::from_str(text)?;
        let current = config["current-context"].as_str().ok_or(KubeconfigError::Missing("current-context"))?;
        let context = named(&config, "contexts", current).ok_or(KubeconfigError::Missing("current context"))?;
        let of = |list: &str, field: &'static str| {
            let wanted = context["context"][field].as_str().ok_or(KubeconfigError::Missing(field))?;
            named(&config, list, wanted).map(|n| n[field].clone()).ok_or(KubeconfigError::Missing(field))
        };
        let (mut cluster, user) = (of("clusters", "cluster")?, of("users", "user")?);
        let server = cluster["server"].as_str().ok_or(KubeconfigError::Missing("server"))?.to_owned();
        let address = server.strip_prefix("https://").map(|s| s.trim_end_matches('/')).and_then(|s| s.parse().ok());
        let server_inside: SocketAddr = address.ok_or(KubeconfigError::Server(server))?;
        cluster["server"] = json!(format!("https://127.0.0.1:{port}"));
        cluster["tls-server-name"] = json!(server_inside.ip().to_string());
        Ok(Self { name: name.to_owned(), cluster, user, server_inside })
    }
}

fn named<'a>(config: &'a Value, list: &str, name: &str) -> Option<&'a Value> {
    config[list].as_array()?.iter().find(|entry| entry["name"] == name)
}

/// Writes the host's kubeconfig.
pub(crate) fn write<'a>(path: &Path, contexts: impl Iterator<Item = &'a Context>) -> Result<(), KubeconfigError> {
    let contexts: Vec<_> = contexts.collect();
    // The developer's own cluster, where there is one.
    let current = contexts.iter().find(|c| c.name == "local").or(contexts.first()).map(|c| c.name.clone());
    let value = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": contexts.iter().map(|c| json!({ "name": c.name, "cluster": c.cluster })).collect::<Vec<_>>(),
        "users": contexts.iter().map(|c| json!({ "name": c.name, "user": c.user })).collect::<Vec<_>>(),
        "contexts": contexts
            .iter()
            .map(|c| json!({ "name": c.name, "context": { "cluster": c.name, "user": c.name } }))
            .collect::<Vec<_>>(),
        "current-context": current,
    });
    replace(path, daisy_api::yaml::to_string(&value)?.as_bytes())?;
    Ok(())
}

/// A pod's kubeconfig: its ServiceAccount's token is in a file, which is renewed.
pub(crate) fn pod(cluster: &str, server: SocketAddr, ca_pem: &str, token_file: &Path) -> Result<String, KubeconfigError> {
    Ok(daisy_api::yaml::to_string(&single(cluster, server, ca_pem, &json!({ "tokenFile": token_file })))?)
}

fn single(cluster: &str, server: SocketAddr, ca_pem: &str, user: &Value) -> Value {
    use base64::Engine;
    let ca = base64::engine::general_purpose::STANDARD.encode(ca_pem);
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": cluster, "cluster": { "server": format!("https://{server}"), "certificate-authority-data": ca } }],
        "users": [{ "name": cluster, "user": user }],
        "contexts": [{ "name": cluster, "context": { "cluster": cluster, "user": cluster } }],
        "current-context": cluster,
    })
}

/// The CA certificates of a kubeconfig, as PEM.
pub(crate) fn certificate_authority(text: &str) -> Result<String, KubeconfigError> {
    use base64::Engine;
    let config: Value = daisy_api::yaml::from_str(text)?;
    let data = config["clusters"][0]["cluster"]["certificate-authority-data"].as_str();
    let decoded = data.and_then(|d| base64::engine::general_purpose::STANDARD.decode(d).ok());
    decoded.and_then(|d| String::from_utf8(d).ok()).ok_or(KubeconfigError::Missing("certificate-authority-data"))
}

/// Writes a file that holds secrets, whole or not at all, for its owner only.
pub(crate) fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = std::fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(contents)?;
    std::fs::rename(new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn administrator(cluster: &str, server: SocketAddr, ca_pem: &str, token: &str) -> Result<String, KubeconfigError> {
        Ok(daisy_api::yaml::to_string(&single(cluster, server, ca_pem, &json!({ "token": token })))?)
    }

    #[test]
    fn a_context_keeps_what_the_certificate_is_for() {
        let server: SocketAddr = "198.51.100.2:6443".parse().expect("address");
        let text = administrator("staging", server, "PEM", "secret").expect("YAML");
        assert_eq!(certificate_authority(&text).expect("CA"), "PEM");
        let context = Context::through_port("staging", &text, 4711).expect("a context");
        assert_eq!(context.server_inside, server);
        assert_eq!(context.cluster["server"], "https://127.0.0.1:4711");
        assert_eq!(context.cluster["tls-server-name"], "198.51.100.2");
        assert_eq!(context.user["token"], "secret");
    }

    #[test]
    fn what_is_missing_is_named() {
        assert!(matches!(Context::through_port("x", "{}", 1), Err(KubeconfigError::Missing("current-context"))));
        let named = administrator("x", "10.0.0.1:1".parse().expect("address"), "PEM", "t").expect("YAML");
        let text = named.replace("https://10.0.0.1:1", "https://x.example");
        assert!(matches!(Context::through_port("x", &text, 1), Err(KubeconfigError::Server(_))));
    }
}
