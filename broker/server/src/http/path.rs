//! What a request's path means.

use super::query::decode;

/// A path below `/api/v1` or `/apis/GROUP/VERSION` that names a resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ResourcePath {
    pub(super) group: String,
    pub(super) version: String,
    /// Empty for none, or for all.
    pub(super) namespace: String,
    pub(super) plural: String,
    /// Empty for the collection.
    pub(super) name: String,
    /// Empty for the object itself.
    pub(super) subresource: String,
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// `/healthz`, `/livez`, `/readyz`.
    Health,
    Version,
    /// `/api`
    CoreVersions,
    /// `/apis`
    Groups,
    /// `/apis/GROUP`
    Group(String),
    /// `/api/v1`, `/apis/GROUP/VERSION`
    Resources {
        group: String,
        version: String,
    },
    Resource(ResourcePath),
    OpenApiV2,
    /// `/openapi/v3`
    OpenApiV3,
    /// `/openapi/v3/api/v1`, `/openapi/v3/apis/GROUP/VERSION`
    OpenApiV3Of {
        group: String,
        version: String,
    },
    Unknown,
}

impl Target {
    pub(super) fn parse(path: &str) -> Self {
        let parts: Vec<String> = path.split('/').filter(|part| !part.is_empty()).map(|part| decode(part, false)).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        match parts[..] {
            ["healthz" | "livez" | "readyz", ..] => Self::Health,
            ["version"] => Self::Version,
            ["api"] => Self::CoreVersions,
            ["apis"] => Self::Groups,
            ["apis", group] => Self::Group(group.to_owned()),
            ["api", version] => Self::Resources { group: String::new(), version: version.to_owned() },
            ["apis", group, version] => Self::Resources { group: group.to_owned(), version: version.to_owned() },
            ["api", version, ref rest @ ..] => resource("", version, rest),
            ["apis", group, version, ref rest @ ..] => resource(group, version, rest),
            ["openapi", "v2"] => Self::OpenApiV2,
            ["openapi", "v3"] => Self::OpenApiV3,
            ["openapi", "v3", "api", version] => Self::OpenApiV3Of { group: String::new(), version: version.to_owned() },
            ["openapi", "v3", "apis", group, version] => {
                Self::OpenApiV3Of { group: group.to_owned(), version: version.to_owned() }
            }
            _ => Self::Unknown,
        }
    }
}

fn resource(group: &str, version: &str, rest: &[&str]) -> Target {
    let of = |namespace: &str, rest: &[&str]| {
        let (plural, name, subresource) = match *rest {
            [plural] => (plural, "", ""),
            [plural, name] => (plural, name, ""),
            [plural, name, subresource] => (plural, name, subresource),
            _ => return Target::Unknown,
        };
        Target::Resource(ResourcePath {
            group: group.to_owned(),
            version: version.to_owned(),
            namespace: namespace.to_owned(),
            plural: plural.to_owned(),
            name: name.to_owned(),
            subresource: subresource.to_owned(),
        })
    };
    match *rest {
        // `namespaces/NAME/status` is of the Namespace itself.
        ["namespaces", _, "status" | "finalize"] => of("", rest),
        ["namespaces", namespace, ref rest @ ..] if !rest.is_empty() => of(namespace, rest),
        _ => of("", rest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(path: &str) -> [String; 6] {
        let Target::Resource(path) = Target::parse(path) else { panic!("{path}: no resource") };
        [path.group, path.version, path.namespace, path.plural, path.name, path.subresource]
    }

    #[test]
    fn paths_name_their_resources() {
        assert_eq!(at("/api/v1/secrets"), ["", "v1", "", "secrets", "", ""]);
        assert_eq!(at("/api/v1/namespaces/a/secrets/b"), ["", "v1", "a", "secrets", "b", ""]);
        assert_eq!(at("/api/v1/namespaces/a"), ["", "v1", "", "namespaces", "a", ""]);
        assert_eq!(at("/api/v1/namespaces/a/status"), ["", "v1", "", "namespaces", "a", "status"]);
        assert_eq!(at("/apis/g.io/v2/namespaces/a/things/b/status"), ["g.io", "v2", "a", "things", "b", "status"]);
        assert_eq!(
            at("/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode")[4],
            "system:node",
            "segments are decoded one by one"
        );
        assert_eq!(at("/apis/g.io/v2/things/a%2Fb")[4], "a/b");
        assert_eq!(Target::parse("/apis/g.io"), Target::Group("g.io".to_owned()));
        assert_eq!(Target::parse("/readyz/ping"), Target::Health);
        for unknown in ["/", "/metrics", "/api/v1/namespaces/a/b/c/d/e", "/openapi/v3/x"] {
            assert_eq!(Target::parse(unknown), Target::Unknown, "{unknown}");
        }
    }
}
