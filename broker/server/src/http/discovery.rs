//! Discovery: which groups, versions and resources there are, in the old form and in the aggregated one (KEP-3352).

use serde_json::{Value, json};

use crate::catalog::{Catalog, Served};

/// The subresources of a resource: name, its kind's group, version and kind, verbs.
fn subresources(served: &Served) -> Vec<(&'static str, [String; 3], Vec<&'static str>)> {
    let definition = &served.definition;
    let mut all = Vec::new();
    if definition.has_status {
        let own = [definition.group.clone(), definition.version.clone(), definition.kind.clone()];
        all.push(("status", own, vec!["get", "patch", "update"]));
    }
    if definition.group.is_empty() && definition.plural == "serviceaccounts" {
        let own = ["authentication.k8s.io", "v1", "TokenRequest"].map(str::to_owned);
        all.push(("token", own, vec!["create"]));
    }
    all
}

/// `/api`
pub(super) fn core_versions(catalog: &Catalog) -> Value {
    let versions = catalog.groups().remove("").unwrap_or_default();
    json!({"kind": "APIVersions", "versions": versions, "serverAddressByClientCIDRs": []})
}

fn group_of(name: &str, versions: &[&str]) -> Value {
    let all: Vec<_> =
        versions.iter().map(|version| json!({"groupVersion": format!("{name}/{version}"), "version": version})).collect();
    json!({"name": name, "preferredVersion": all.first(), "versions": all})
}

/// `/apis`
pub(super) fn groups(catalog: &Catalog) -> Value {
    let groups: Vec<_> = catalog
        .groups()
        .into_iter()
        .filter(|(name, _)| !name.is_empty())
        .map(|(name, versions)| group_of(name, &versions))
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/GROUP`
pub(super) fn group(catalog: &Catalog, name: &str) -> Option<Value> {
    let versions = catalog.groups().remove(name)?;
    let mut group = group_of(name, &versions);
    group["kind"] = json!("APIGroup");
    group["apiVersion"] = json!("v1");
    Some(group)
}

/// `/api/v1`, `/apis/GROUP/VERSION`
pub(super) fn resources(catalog: &Catalog, group: &str, version: &str) -> Option<Value> {
    let mut resources = Vec::new();
    for served in catalog.resources(group, version) {
        let definition = &served.definition;
        let mut resource = json!({
            "name": definition.plural, "singularName": definition.singular, "namespaced": definition.namespaced,
            "kind": definition.kind, "verbs": definition.verbs,
        });
        if !definition.short_names.is_empty() {
            resource["shortNames"] = json!(definition.short_names);
        }
        if !definition.categories.is_empty() {
            resource["categories"] = json!(definition.categories);
        }
        resources.push(resource);
        for (name, [group, version, kind], verbs) in subresources(served) {
            resources.push(json!({
                "name": format!("{}/{name}", definition.plural), "singularName": "", "namespaced": definition.namespaced,
                "group": group, "version": version, "kind": kind, "verbs": verbs,
            }));
        }
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    (!resources.is_empty())
        .then(|| json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources}))
}

/// `/api` (`core`) or `/apis` in the aggregated form.
pub(super) fn aggregated(catalog: &Catalog, core: bool, version: &str) -> Value {
    let items: Vec<_> = catalog
        .groups()
        .into_iter()
        .filter(|(name, _)| name.is_empty() == core)
        .map(|(name, versions)| {
            let versions: Vec<_> = versions
                .iter()
                .map(|version| {
                    let resources: Vec<_> =
                        catalog.resources(name, version).map(|served| aggregated_resource(served)).collect();
                    json!({"version": version, "resources": resources, "freshness": "Current"})
                })
                .collect();
            json!({"metadata": {"name": name, "creationTimestamp": null}, "versions": versions})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{version}"), "metadata": {}, "items": items})
}

fn aggregated_resource(served: &Served) -> Value {
    let definition = &served.definition;
    let mut resource = json!({
        "resource": definition.plural,
        "responseKind": {"group": definition.group, "version": definition.version, "kind": definition.kind},
        "scope": if definition.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": definition.singular,
        "verbs": definition.verbs,
    });
    if !definition.short_names.is_empty() {
        resource["shortNames"] = json!(definition.short_names);
    }
    if !definition.categories.is_empty() {
        resource["categories"] = json!(definition.categories);
    }
    let below: Vec<_> = subresources(served)
        .into_iter()
        .map(|(name, [group, version, kind], verbs)| {
            json!({"subresource": name, "responseKind": {"group": group, "version": version, "kind": kind}, "verbs": verbs})
        })
        .collect();
    if !below.is_empty() {
        resource["subresources"] = json!(below);
    }
    resource
}
