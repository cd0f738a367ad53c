//! Who asks.

use std::fmt;

/// The group that may do everything.
pub const MASTERS: &str = "system:masters";
/// The group of everyone who has shown a valid token.
pub const AUTHENTICATED: &str = "system:authenticated";

/// An authenticated user, as RBAC and admission see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The name, as `system:serviceaccount:NAMESPACE:NAME`.
    pub name: String,
    /// The UID of a ServiceAccount; empty for others.
    pub uid: String,
    /// The groups.
    pub groups: Vec<String>,
}

impl User {
    /// The administrator, member of `system:masters`.
    #[must_use]
    pub fn administrator() -> Self {
        Self {
            name: "kubernetes-admin".to_owned(),
            uid: String::new(),
            groups: vec![MASTERS.to_owned(), AUTHENTICATED.to_owned()],
        }
    }

    /// The embedding program itself, member of `system:masters`.
    #[must_use]
    pub fn embedder() -> Self {
        Self {
            name: "system:apiserver".to_owned(),
            uid: String::new(),
            groups: vec![MASTERS.to_owned(), AUTHENTICATED.to_owned()],
        }
    }

    /// A ServiceAccount, with the groups that Kubernetes gives it.
    #[must_use]
    pub fn service_account(namespace: &str, name: &str, uid: &str) -> Self {
        Self {
            name: format!("system:serviceaccount:{namespace}:{name}"),
            uid: uid.to_owned(),
            groups: vec![
                "system:serviceaccounts".to_owned(),
                format!("system:serviceaccounts:{namespace}"),
                AUTHENTICATED.to_owned(),
            ],
        }
    }

    /// Whether it may do everything.
    #[must_use]
    pub fn is_master(&self) -> bool {
        self.groups.iter().any(|group| group == MASTERS)
    }

    /// Namespace and name, if it is a ServiceAccount.
    #[must_use]
    pub fn as_service_account(&self) -> Option<(&str, &str)> {
        self.name.strip_prefix("system:serviceaccount:")?.split_once(':')
    }
}

impl fmt::Display for User {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.name)
    }
}
