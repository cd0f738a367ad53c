//! Rules of roles (`rbac.authorization.k8s.io/v1` PolicyRule) and what they allow.

use serde_json::Value;

/// What someone wants to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Attributes<'a> {
    /// A verb on a resource; `resource` has its subresource behind a slash; empty namespace and name for all.
    Resource { verb: &'a str, group: &'a str, resource: &'a str, namespace: &'a str, name: &'a str },
    /// A verb (an HTTP method in lower case) on another path.
    Path { verb: &'a str, path: &'a str },
}

/// One rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(super) verbs: Vec<String>,
    pub(super) groups: Vec<String>,
    pub(super) resources: Vec<String>,
    pub(super) names: Vec<String>,
    pub(super) paths: Vec<String>,
}

impl Rule {
    pub(super) fn parse_all(role: &Value) -> Vec<Self> {
        role["rules"].as_array().into_iter().flatten().map(Self::parse).collect()
    }

    fn parse(rule: &Value) -> Self {
        let texts =
            |key: &str| rule[key].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
        Self {
            verbs: texts("verbs"),
            groups: texts("apiGroups"),
            resources: texts("resources"),
            names: texts("resourceNames"),
            paths: texts("nonResourceURLs"),
        }
    }

    pub(super) fn allows(&self, wanted: &Attributes<'_>) -> bool {
        match *wanted {
            Attributes::Resource { verb, group, resource, name, .. } => {
                has(&self.verbs, verb)
                    && has(&self.groups, group)
                    && self.resources.iter().any(|have| resource_matches(have, resource))
                    && (self.names.is_empty() || self.names.iter().any(|have| have == name))
            }
            Attributes::Path { verb, path } => has(&self.verbs, verb) && self.paths.iter().any(|have| path_matches(have, path)),
        }
    }

    /// The rule in its smallest parts: each one verb, one group, one resource, one name, or one verb and one path.
    pub(super) fn parts(&self) -> Vec<Self> {
        let mut parts = Vec::new();
        for verb in &self.verbs {
            for path in &self.paths {
                parts.push(Self { verbs: vec![verb.clone()], paths: vec![path.clone()], ..Self::default() });
            }
            for group in &self.groups {
                for resource in &self.resources {
                    let part = Self {
                        verbs: vec![verb.clone()],
                        groups: vec![group.clone()],
                        resources: vec![resource.clone()],
                        ..Self::default()
                    };
                    if self.names.is_empty() {
                        parts.push(part);
                    } else {
                        parts.extend(self.names.iter().map(|name| Self { names: vec![name.clone()], ..part.clone() }));
                    }
                }
            }
        }
        parts
    }

    /// Whether everything that `part` (one of [`Rule::parts`]) allows is allowed by this rule too.
    pub(super) fn covers(&self, part: &Self) -> bool {
        let all = |have: &[String], want: &[String]| want.iter().all(|want| has(have, want));
        all(&self.verbs, &part.verbs)
            && all(&self.groups, &part.groups)
            && part.resources.iter().all(|want| self.resources.iter().any(|have| resource_covers(have, want)))
            && (self.names.is_empty()
                || part.resources.is_empty()
                || !part.names.is_empty() && part.names.iter().all(|want| self.names.contains(want)))
            && part.paths.iter().all(|want| self.paths.iter().any(|have| path_matches(have, want)))
    }
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|have| have == "*" || have == wanted)
}

fn resource_matches(have: &str, wanted: &str) -> bool {
    have == "*"
        || have == wanted
        || have.strip_prefix("*/").is_some_and(|sub| wanted.split_once('/').is_some_and(|(_, is)| is == sub))
}

fn resource_covers(have: &str, wanted: &str) -> bool {
    // `*` is every resource and subresource; only itself covers it.
    if wanted == "*" { have == "*" } else { resource_matches(have, wanted) }
}

fn path_matches(have: &str, wanted: &str) -> bool {
    have == "*" || have == wanted || have.strip_suffix('*').is_some_and(|prefix| wanted.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn rule(value: Value) -> Rule {
        Rule::parse(&value)
    }

    fn on<'a>(verb: &'a str, group: &'a str, resource: &'a str, name: &'a str) -> Attributes<'a> {
        Attributes::Resource { verb, group, resource, namespace: "ns", name }
    }

    #[test]
    fn rules_allow_what_they_name() {
        let exports =
            rule(json!({"verbs": ["get", "list"], "apiGroups": ["g.io"], "resources": ["exports", "imports/status"]}));
        assert!(exports.allows(&on("get", "g.io", "exports", "a")));
        assert!(exports.allows(&on("list", "g.io", "imports/status", "")));
        assert!(!exports.allows(&on("get", "g.io", "exports/status", "a")));
        assert!(!exports.allows(&on("delete", "g.io", "exports", "a")));
        assert!(!exports.allows(&on("get", "", "exports", "a")));
        let named = rule(json!({"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["one"]}));
        assert!(named.allows(&on("get", "", "secrets", "one")));
        assert!(!named.allows(&on("get", "", "secrets", "two")));
        assert!(!named.allows(&on("get", "", "secrets", "")));
        let status = rule(json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*/status"]}));
        assert!(status.allows(&on("patch", "x", "things/status", "a")));
        assert!(!status.allows(&on("patch", "x", "things", "a")));
        let path = rule(json!({"verbs": ["get"], "nonResourceURLs": ["/metrics", "/debug/*"]}));
        assert!(path.allows(&Attributes::Path { verb: "get", path: "/debug/x" }));
        assert!(!path.allows(&Attributes::Path { verb: "get", path: "/other" }));
    }

    fn words(all: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
        prop::collection::vec(prop::sample::select(all).prop_map(str::to_owned), 0..3)
    }

    prop_compose! {
        fn any_rule()(
            verbs in words(&["get", "list", "*"]),
            groups in words(&["", "g", "*"]),
            resources in words(&["a", "a/status", "*", "*/status"]),
            names in words(&["x", "y"]),
            paths in words(&["/p", "/p/*", "*"]),
        ) -> Rule {
            Rule { verbs, groups, resources, names, paths }
        }
    }

    proptest! {
        #[test]
        fn what_is_covered_allows_nothing_more(wide in any_rule(), narrow in any_rule()) {
            for part in narrow.parts().iter().filter(|part| wide.covers(part)) {
                for verb in ["get", "list", "put"] {
                    for path in ["/p", "/p/q", "/r"] {
                        let wanted = Attributes::Path { verb, path };
                        prop_assert!(!part.allows(&wanted) || wide.allows(&wanted), "{:?} {:?} {:?}", wide, part, wanted);
                    }
                    for (group, resource) in [("", "a"), ("g", "a/status"), ("h", "b"), ("h", "b/status")] {
                        for name in ["x", "y", "z", ""] {
                            let wanted = on(verb, group, resource, name);
                            prop_assert!(!part.allows(&wanted) || wide.allows(&wanted), "{:?} {:?} {:?}", wide, part, wanted);
                        }
                    }
                }
            }
        }

        #[test]
        fn a_rule_covers_its_own_parts(rule in any_rule()) {
            prop_assert!(rule.parts().iter().all(|part| rule.covers(part)));
        }
    }
}
