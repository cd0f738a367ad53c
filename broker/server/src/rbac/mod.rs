//! Role-based access control, by the objects of `rbac.authorization.k8s.io/v1`.
//!
//! ```text
//! Role, ClusterRole, RoleBinding, ClusterRoleBinding ──set──▶ RbacIndex ──allows──▶ yes or no
//!                                                                        └─rules_of─▶ escalation: what may be handed on
//! ```
//!
//! The index follows each write of the four kinds. A question costs the bindings of the user and of its groups, nothing else.

pub(crate) mod escalation;
mod rule;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use serde_json::Value;

use crate::auth::{AUTHENTICATED, User};
use crate::definition::ResourceKey;
use crate::object::Stored;
use crate::refusal::Refusal;

pub(crate) use rule::{Attributes, Rule};

/// The API group of roles and bindings.
pub(crate) const GROUP: &str = "rbac.authorization.k8s.io";

/// Namespace (empty: the whole cluster) and name.
type Place = (String, String);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Subject {
    User(String),
    Group(String),
}

#[derive(Clone, Debug)]
struct Binding {
    subjects: Vec<Subject>,
    /// The role's place.
    role: Place,
}

/// Every role and binding, parsed, found by subject.
#[derive(Debug, Default)]
pub(crate) struct RbacIndex {
    roles: HashMap<Place, Arc<Vec<Rule>>>,
    bindings: HashMap<Place, Binding>,
    by_subject: HashMap<Subject, BTreeSet<Place>>,
}

impl RbacIndex {
    /// Takes in what a write made of an object of any kind.
    pub(crate) fn set(&mut self, resource: &ResourceKey, namespace: &str, name: &str, object: Option<&Arc<Stored>>) {
        if &*resource.group != GROUP {
            return;
        }
        let place = (namespace.to_owned(), name.to_owned());
        match &*resource.plural {
            "roles" | "clusterroles" => {
                match object {
                    Some(role) => self.roles.insert(place, Arc::new(Rule::parse_all(&role.value()))),
                    None => self.roles.remove(&place),
                };
            }
            "rolebindings" | "clusterrolebindings" => {
                if let Some(old) = self.bindings.remove(&place) {
                    for subject in old.subjects {
                        if let Some(places) = self.by_subject.get_mut(&subject) {
                            places.remove(&place);
                            if places.is_empty() {
                                self.by_subject.remove(&subject);
                            }
                        }
                    }
                }
                if let Some(object) = object {
                    let binding = parse_binding(&object.value(), namespace);
                    for subject in &binding.subjects {
                        self.by_subject.entry(subject.clone()).or_default().insert(place.clone());
                    }
                    self.bindings.insert(place, binding);
                }
            }
            _ => {}
        }
    }

    /// Whether the user may.
    pub(crate) fn allows(&self, user: &User, wanted: &Attributes<'_>) -> bool {
        if user.is_master() || is_everyones(user, wanted) {
            return true;
        }
        let namespace = match *wanted {
            Attributes::Resource { namespace, .. } => namespace,
            Attributes::Path { .. } => "",
        };
        self.rules_of(user, namespace).any(|rules| rules.iter().any(|rule| rule.allows(wanted)))
    }

    /// The rules that hold for a user in a namespace (empty: in the whole cluster).
    fn rules_of<'a>(&'a self, user: &User, namespace: &'a str) -> impl Iterator<Item = &'a Arc<Vec<Rule>>> {
        let subjects = std::iter::once(Subject::User(user.name.clone())).chain(user.groups.iter().cloned().map(Subject::Group));
        subjects
            .filter_map(|subject| self.by_subject.get(&subject))
            .flatten()
            .filter(move |(at, _)| at.is_empty() || at == namespace)
            .filter_map(|place| self.roles.get(&self.bindings.get(place)?.role))
    }

    /// The rules of one role.
    fn role(&self, place: &Place) -> Option<&Arc<Vec<Rule>>> {
        self.roles.get(place)
    }

    /// Refuses what the user may not, in Kubernetes' words.
    pub(crate) fn authorize(&self, user: &User, wanted: &Attributes<'_>) -> Result<(), Refusal> {
        if self.allows(user, wanted) {
            return Ok(());
        }
        Err(match *wanted {
            Attributes::Resource { verb, group, resource, namespace, name } => {
                let scope = if namespace.is_empty() {
                    "at the cluster scope".to_owned()
                } else {
                    format!("in the namespace {namespace:?}")
                };
                let plural = resource.split('/').next().unwrap_or_default();
                let why = format!("User {:?} cannot {verb} resource {resource:?} in API group {group:?} {scope}", user.name);
                Refusal::forbidden(group, plural, name, why)
            }
            Attributes::Path { verb, path } => {
                Refusal::new(403, "Forbidden", format!("forbidden: User {:?} cannot {verb} path {path:?}", user.name))
            }
        })
    }
}

/// What Kubernetes grants to all authenticated users by its `system:discovery` and `system:basic-user`.
fn is_everyones(user: &User, wanted: &Attributes<'_>) -> bool {
    if !user.groups.iter().any(|group| group == AUTHENTICATED) {
        return false;
    }
    match *wanted {
        Attributes::Resource { verb, group, resource, .. } => {
            verb == "create" && group == "authorization.k8s.io" && resource == "selfsubjectaccessreviews"
        }
        Attributes::Path { verb, path } => {
            let open = |root: &str| path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
            verb == "get" && ["/api", "/apis", "/openapi", "/version", "/healthz", "/livez", "/readyz"].into_iter().any(open)
        }
    }
}

fn role_of(binding: &Value, namespace: &str) -> Place {
    let name = binding["roleRef"]["name"].as_str().unwrap_or_default().to_owned();
    let at = if binding["roleRef"]["kind"] == "ClusterRole" { "" } else { namespace };
    (at.to_owned(), name)
}

fn parse_binding(binding: &Value, namespace: &str) -> Binding {
    let subjects = binding["subjects"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|subject| {
            let name = subject["name"].as_str()?;
            match subject["kind"].as_str()? {
                "User" => Some(Subject::User(name.to_owned())),
                "Group" => Some(Subject::Group(name.to_owned())),
                "ServiceAccount" => {
                    let at = subject["namespace"].as_str().filter(|at| !at.is_empty()).unwrap_or(namespace);
                    Some(Subject::User(format!("system:serviceaccount:{at}:{name}")))
                }
                _ => None,
            }
        })
        .collect();
    Binding { subjects, role: role_of(binding, namespace) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(index: &mut RbacIndex, plural: &str, namespace: &str, name: &str, object: Option<Value>) {
        let stored = object.map(|object| Arc::new(Stored::new(&object)));
        index.set(&ResourceKey::new(GROUP, plural), namespace, name, stored.as_ref());
    }

    fn secrets<'a>(verb: &'a str, namespace: &'a str) -> Attributes<'a> {
        Attributes::Resource { verb, group: "", resource: "secrets", namespace, name: "" }
    }

    fn rules() -> Value {
        json!({"rules": [{"verbs": ["list"], "apiGroups": [""], "resources": ["secrets"]}]})
    }

    #[test]
    fn bindings_reach_as_far_as_they_say() {
        let mut index = RbacIndex::default();
        let user = User::service_account("a", "sa", "u");
        set(&mut index, "clusterroles", "", "reader", Some(rules()));
        let binding = |kind: &str, subject: Value| json!({"roleRef": {"kind": kind, "name": "reader"}, "subjects": [subject]});
        assert!(!index.allows(&user, &secrets("list", "a")));

        let subject = json!({"kind": "ServiceAccount", "name": "sa", "namespace": "a"});
        set(&mut index, "rolebindings", "a", "b", Some(binding("ClusterRole", subject.clone())));
        assert!(index.allows(&user, &secrets("list", "a")));
        assert!(!index.allows(&user, &secrets("list", "b")));
        assert!(!index.allows(&user, &secrets("list", "")));
        assert!(!index.allows(&User::service_account("b", "sa", "u"), &secrets("list", "a")));

        set(&mut index, "clusterrolebindings", "", "b", Some(binding("ClusterRole", subject)));
        assert!(index.allows(&user, &secrets("list", "")));
        set(&mut index, "clusterrolebindings", "", "b", None);
        set(&mut index, "rolebindings", "a", "b", None);
        assert!(!index.allows(&user, &secrets("list", "a")));

        let group = json!({"kind": "Group", "name": "system:serviceaccounts:a"});
        set(&mut index, "roles", "a", "reader", Some(rules()));
        set(&mut index, "rolebindings", "a", "g", Some(binding("Role", group)));
        assert!(index.allows(&user, &secrets("list", "a")));
        set(&mut index, "roles", "a", "reader", None);
        assert!(!index.allows(&user, &secrets("list", "a")), "the role is gone");
        assert!(index.by_subject.len() == 1 && index.bindings.len() == 1);
    }

    #[test]
    fn refusals_have_kubernetes_words() {
        let user = User::service_account("a", "sa", "u");
        let refusal = RbacIndex::default().authorize(&user, &secrets("list", "x")).expect_err("no rights");
        assert_eq!(
            refusal.message,
            "secrets is forbidden: User \"system:serviceaccount:a:sa\" cannot list resource \"secrets\" in API group \"\" in the \
             namespace \"x\""
        );
        let path =
            RbacIndex::default().authorize(&user, &Attributes::Path { verb: "get", path: "/metrics" }).expect_err("no rights");
        assert_eq!(path.message, "forbidden: User \"system:serviceaccount:a:sa\" cannot get path \"/metrics\"");
        assert!(RbacIndex::default().allows(&user, &Attributes::Path { verb: "get", path: "/apis/x" }));
        assert!(!RbacIndex::default().allows(&user, &Attributes::Path { verb: "get", path: "/apisx" }));
    }
}
