//! Nobody hands on rights that they do not have (Kubernetes' rule for writing roles and bindings).
//!
//! Who writes a role must hold every right in it, or `escalate` on that role; who writes a binding must hold every right of the
//! role that it refers to, or `bind` on that role. A binding to a role that is not there needs `bind`. `system:masters` holds
//! every right.

use serde_json::Value;

use super::{Attributes, GROUP, RbacIndex, Rule, role_of};
use crate::auth::User;
use crate::refusal::Refusal;

impl RbacIndex {
    /// Refuses the write of `object`, of `plural` in `namespace`, if it would give anyone more than `user` has.
    pub(crate) fn check_escalation(&self, user: &User, plural: &str, namespace: &str, object: &Value) -> Result<(), Refusal> {
        if user.is_master() {
            return Ok(());
        }
        let name = crate::object::text(object, "name");
        match plural {
            "roles" | "clusterroles" => {
                let escalate = Attributes::Resource { verb: "escalate", group: GROUP, resource: plural, namespace, name };
                if self.allows(user, &escalate) {
                    return Ok(());
                }
                if plural == "clusterroles" && !object["aggregationRule"].is_null() {
                    return Err(Refusal::forbidden(GROUP, plural, name, "aggregationRule needs the verb escalate"));
                }
                self.covers(user, namespace, &Rule::parse_all(object), (plural, name))
            }
            "rolebindings" | "clusterrolebindings" => {
                let role = role_of(object, namespace);
                let resource = if role.0.is_empty() { "clusterroles" } else { "roles" };
                let bind = Attributes::Resource { verb: "bind", group: GROUP, resource, namespace, name: &role.1 };
                if self.allows(user, &bind) {
                    return Ok(());
                }
                match self.role(&role) {
                    Some(rules) => self.covers(user, namespace, rules, (plural, name)),
                    None => Err(Refusal::forbidden(GROUP, plural, name, format!("{resource} {:?} not found", role.1))),
                }
            }
            _ => Ok(()),
        }
    }

    fn covers(&self, user: &User, namespace: &str, rules: &[Rule], (plural, name): (&str, &str)) -> Result<(), Refusal> {
        let held: Vec<_> = self.rules_of(user, namespace).flat_map(|rules| rules.iter()).collect();
        for part in rules.iter().flat_map(Rule::parts) {
            if !held.iter().any(|rule| rule.covers(&part)) {
                let why = format!(
                    "user {:?} (groups={:?}) is attempting to grant RBAC permissions not currently held: {}",
                    user.name,
                    user.groups,
                    describe(&part)
                );
                return Err(Refusal::forbidden(GROUP, plural, name, why));
            }
        }
        Ok(())
    }
}

fn describe(part: &Rule) -> String {
    if part.paths.is_empty() {
        format!(
            "{{APIGroups:{:?}, Resources:{:?}, ResourceNames:{:?}, Verbs:{:?}}}",
            part.groups, part.resources, part.names, part.verbs
        )
    } else {
        format!("{{NonResourceURLs:{:?}, Verbs:{:?}}}", part.paths, part.verbs)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::definition::ResourceKey;
    use crate::object::Stored;

    #[test]
    fn rights_are_handed_on_only_by_those_who_have_them() {
        let mut index = RbacIndex::default();
        let mut set = |plural: &str, namespace: &str, name: &str, object: Value| {
            index.set(&ResourceKey::new(GROUP, plural), namespace, name, Some(&Arc::new(Stored::new(&object))));
        };
        let user = User::service_account("a", "sa", "u");
        let secrets = json!({"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"]});
        set("roles", "a", "held", json!({"rules": [secrets]}));
        set("clusterroles", "", "all", json!({"rules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]}));
        let subject = json!({"kind": "ServiceAccount", "name": "sa"});
        set("rolebindings", "a", "b", json!({"roleRef": {"kind": "Role", "name": "held"}, "subjects": [subject]}));

        let role = |rules: Value| json!({"metadata": {"name": "new"}, "rules": rules});
        assert!(index.check_escalation(&user, "roles", "a", &role(json!([secrets]))).is_ok());
        let more = json!([{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["secrets"]}]);
        let refusal = index.check_escalation(&user, "roles", "a", &role(more.clone())).expect_err("list is not held");
        assert!(refusal.message.contains("not currently held: {APIGroups:[\"\"], Resources:[\"secrets\"]"), "{refusal}");
        assert!(index.check_escalation(&user, "roles", "b", &role(json!([secrets]))).is_err(), "held in namespace a only");
        assert!(index.check_escalation(&User::administrator(), "roles", "a", &role(more)).is_ok());

        let binding = |kind: &str, name: &str| json!({"metadata": {"name": "x"}, "roleRef": {"kind": kind, "name": name}});
        assert!(index.check_escalation(&user, "rolebindings", "a", &binding("Role", "held")).is_ok());
        assert!(index.check_escalation(&user, "rolebindings", "a", &binding("ClusterRole", "all")).is_err());
        assert!(index.check_escalation(&user, "rolebindings", "a", &binding("Role", "absent")).is_err());

        index.set(
            &ResourceKey::new(GROUP, "roles"),
            "a",
            "held",
            Some(&Arc::new(Stored::new(&json!({"rules": [{"verbs": ["bind"], "apiGroups": [GROUP], "resources": ["clusterroles"], "resourceNames": ["all"]}]})))),
        );
        assert!(index.check_escalation(&user, "rolebindings", "a", &binding("ClusterRole", "all")).is_ok());
        assert!(index.check_escalation(&user, "clusterrolebindings", "", &binding("ClusterRole", "all")).is_err());
    }
}
