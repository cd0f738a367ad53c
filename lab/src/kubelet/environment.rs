//! A container's environment: what its spec asks for, and what the lab's programs want to know.

use std::collections::BTreeMap;
use std::net::IpAddr;

use daisy_kubernetes::Api;
use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVarSource, Pod, Secret};
use kube::{Client, ResourceExt};
use thiserror::Error;

use super::brief;
use crate::holder::{ENVIRONMENT_MARK, PATH_INSIDE};

/// What a variable may refer to.
pub(super) struct Facts<'a> {
    pub(super) client: &'a Client,
    pub(super) cluster: &'a str,
    pub(super) pod: &'a Pod,
    pub(super) node: &'a str,
    pub(super) pod_address: IpAddr,
    pub(super) node_address: IpAddr,
    /// The ClusterIP of the API server.
    pub(super) api_service: Option<IpAddr>,
    pub(super) hostname: &'a str,
    /// Whether the pod has a kubeconfig.
    pub(super) kubeconfig: Option<&'a str>,
}

/// Why a container's environment cannot be made: `CreateContainerConfigError`.
#[derive(Debug, Error)]
pub(super) enum EnvironmentError {
    /// A field that no pod has, or that the lab does not know.
    #[error("variable {variable}: the lab has no field {field:?} for it")]
    Field {
        /// The variable.
        variable: String,
        /// The field.
        field: String,
    },
    /// A ConfigMap or Secret, or a key in it, is not there.
    #[error("variable {variable}: {kind} {name:?} has no key {key:?}")]
    Key {
        /// The variable.
        variable: String,
        /// `ConfigMap` or `Secret`.
        kind: &'static str,
        /// Its name.
        name: String,
        /// The key.
        key: String,
    },
    /// It cannot be asked for.
    #[error("variable {variable}: {}", brief(cause))]
    Api {
        /// The variable.
        variable: String,
        /// Why.
        cause: Box<kube::Error>,
    },
    /// A source that the lab does not know.
    #[error("variable {variable}: the lab knows fieldRef, configMapKeyRef and secretKeyRef only")]
    Source {
        /// The variable.
        variable: String,
    },
}

/// The whole environment of a container.
pub(super) async fn of(container: &Container, facts: &Facts<'_>) -> Result<BTreeMap<String, String>, EnvironmentError> {
    let namespace = facts.pod.namespace().unwrap_or_default();
    let mut variables = BTreeMap::new();
    let mut set = |name: &str, value: &str| variables.insert(name.to_owned(), value.to_owned());
    set("PATH", PATH_INSIDE);
    set("HOME", "/tmp");
    set("HOSTNAME", facts.hostname);
    set("DAISY_LAB_CLUSTER", facts.cluster);
    set("DAISY_LAB_NODE", facts.node);
    set("DAISY_LAB_NAMESPACE", &namespace);
    set("DAISY_LAB_POD", &facts.pod.name_any());
    for passed in [ENVIRONMENT_MARK, "RUST_LOG", "RUST_BACKTRACE"] {
        if let Ok(value) = std::env::var(passed) {
            set(passed, &value);
        }
    }
    if let Some(address) = facts.api_service {
        set("KUBERNETES_SERVICE_HOST", &address.to_string());
        set("KUBERNETES_SERVICE_PORT", "443");
    }
    if let Some(kubeconfig) = facts.kubeconfig {
        set("KUBECONFIG", kubeconfig);
    }
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (Some(value), _) => Some(expand(value, &variables)),
            (None, Some(source)) => from(&variable.name, source, facts, &namespace).await?,
            (None, None) => Some(String::new()),
        };
        if let Some(value) = value {
            variables.insert(variable.name.clone(), value);
        }
    }
    Ok(variables)
}

/// `None` for something optional that is not there.
async fn from(
    name: &str,
    source: &EnvVarSource,
    facts: &Facts<'_>,
    namespace: &str,
) -> Result<Option<String>, EnvironmentError> {
    let api = |e| EnvironmentError::Api { variable: name.to_owned(), cause: Box::new(e) };
    let (kind, object, key, optional, found) = if let Some(field) = &source.field_ref {
        return match field_of(&field.field_path, facts) {
            Some(value) => Ok(Some(value)),
            None => Err(EnvironmentError::Field { variable: name.to_owned(), field: field.field_path.clone() }),
        };
    } else if let Some(r) = &source.config_map_key_ref {
        let map = Api::<ConfigMap>::namespaced(facts.client.clone(), namespace).get_opt(&r.name).await.map_err(api)?;
        ("ConfigMap", &r.name, &r.key, r.optional, map.and_then(|m| m.data?.remove(&r.key)))
    } else if let Some(r) = &source.secret_key_ref {
        let secret = Api::<Secret>::namespaced(facts.client.clone(), namespace).get_opt(&r.name).await.map_err(api)?;
        let value = secret.and_then(|s| s.data?.remove(&r.key)).and_then(|b| String::from_utf8(b.0).ok());
        ("Secret", &r.name, &r.key, r.optional, value)
    } else {
        return Err(EnvironmentError::Source { variable: name.to_owned() });
    };
    match found {
        Some(value) => Ok(Some(value)),
        None if optional.unwrap_or_default() => Ok(None),
        None => Err(EnvironmentError::Key { variable: name.to_owned(), kind, name: object.clone(), key: key.clone() }),
    }
}

fn field_of(path: &str, facts: &Facts<'_>) -> Option<String> {
    let keyed = |prefix: &str| path.strip_prefix(prefix)?.strip_prefix("['")?.strip_suffix("']");
    if let Some(key) = keyed("metadata.labels") {
        return Some(facts.pod.labels().get(key).cloned().unwrap_or_default());
    }
    if let Some(key) = keyed("metadata.annotations") {
        return Some(facts.pod.annotations().get(key).cloned().unwrap_or_default());
    }
    let account = || facts.pod.spec.as_ref().and_then(|s| s.service_account_name.clone()).unwrap_or_default();
    match path {
        "metadata.name" => Some(facts.pod.name_any()),
        "metadata.namespace" => facts.pod.namespace(),
        "metadata.uid" => facts.pod.uid(),
        "spec.nodeName" => Some(facts.node.to_owned()),
        "spec.serviceAccountName" => Some(account()),
        "status.podIP" | "status.podIPs" => Some(facts.pod_address.to_string()),
        "status.hostIP" | "status.hostIPs" => Some(facts.node_address.to_string()),
        _ => None,
    }
}

/// Puts the values of variables in the place of `$(NAME)`. `$$` stands for `$`; what names no variable stays as it is.
pub(super) fn expand(text: &str, variables: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let reference = rest.strip_prefix('(').and_then(|r| r.split_once(')'));
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((value, after)) = reference.and_then(|(name, after)| Some((variables.get(name)?, after))) {
            out.push_str(value);
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn references_are_expanded() {
        let variables = BTreeMap::from([("A".to_owned(), "1".to_owned()), ("B".to_owned(), "$(A)".to_owned())]);
        assert_eq!(expand("--a=$(A) $(B) $(C) $$(A) $A $", &variables), "--a=1 $(A) $(C) $(A) $A $");
        assert_eq!(expand("$(A", &variables), "$(A");
    }

    proptest! {
        #[test]
        fn text_without_references_stays(text in "[^$]{0,40}") {
            prop_assert_eq!(expand(&text, &BTreeMap::new()), text);
        }

        #[test]
        fn never_panics(text in "\\PC{0,40}") {
            let _ = expand(&text, &BTreeMap::from([("A".to_owned(), "é$(A)".to_owned())]));
        }
    }
}
