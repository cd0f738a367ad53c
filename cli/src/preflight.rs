//! What is looked at before anything is changed: the API server's version, the APIs that it has, the user's rights.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use daisy_broker::apply::{self, Applier};
use daisy_kubernetes::Api;
use futures::StreamExt;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use k8s_openapi::api::rbac::v1::Role;
use kube::Client;
use kube::api::{DynamicObject, PostParams};

/// How many questions are asked at a time.
const AT_A_TIME: usize = 8;

/// Something that the user must be allowed to do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Need {
    verb: Cow<'static, str>,
    group: String,
    resource: String,
    namespace: Option<String>,
}

impl Need {
    /// A verb on a resource; in all namespaces, or cluster-wide, where none is given.
    pub(crate) fn new(verb: &'static str, (group, resource): (&str, &str), namespace: Option<&str>) -> Self {
        Self {
            verb: verb.into(),
            group: group.to_owned(),
            resource: resource.to_owned(),
            namespace: namespace.map(str::to_owned),
        }
    }

    /// What the verb is on: `deployments.apps in daisy-system`.
    fn on(&self) -> String {
        let group = if self.group.is_empty() { String::new() } else { format!(".{}", self.group) };
        let place = self.namespace.as_ref().map(|namespace| format!(" in {namespace}")).unwrap_or_default();
        format!("{}{group}{place}", self.resource)
    }
}

/// What applying these objects takes.
fn needs_of(objects: &[DynamicObject]) -> Result<Vec<Need>> {
    let mut needs = BTreeSet::new();
    for object in objects {
        let (resource, namespaced) = apply::resource(object)?;
        let namespace = object.metadata.namespace.as_deref().filter(|_| namespaced);
        for verb in ["get", "create", "patch"] {
            needs.insert(Need::new(verb, (&resource.group, &resource.plural), namespace));
        }
    }
    Ok(needs.into_iter().collect())
}

/// What handing on the rights of these Roles takes: whoever makes a Role has to have what it gives, unless he may escalate. ClusterRoles
/// can be [rehearsed](rehearse), Roles in a namespace that is not there yet cannot.
async fn handed_on(client: &Client, objects: &[DynamicObject]) -> Result<Vec<Need>> {
    let mut needs = BTreeSet::new();
    let mut may_escalate: BTreeMap<Option<String>, bool> = BTreeMap::new();
    for object in objects.iter().filter(|object| object.types.as_ref().is_some_and(|types| types.kind == "Role")) {
        let role: Role = object.clone().try_parse().with_context(|| format!("reading {}", apply::describe(object)))?;
        let namespace = role.metadata.namespace.as_deref();
        if !may_escalate.contains_key(&role.metadata.namespace) {
            let need = Need::new("escalate", ("rbac.authorization.k8s.io", "roles"), namespace);
            may_escalate.insert(role.metadata.namespace.clone(), may(client, &need).await?);
        }
        if may_escalate[&role.metadata.namespace] {
            continue;
        }
        for rule in role.rules.iter().flatten() {
            for group in rule.api_groups.iter().flatten() {
                for resource in rule.resources.iter().flatten() {
                    let all = rule
                        .verbs
                        .iter()
                        .map(|verb| Need { verb: verb.clone().into(), ..Need::new("", (group, resource), namespace) });
                    needs.extend(all);
                }
            }
        }
    }
    Ok(needs.into_iter().collect())
}

/// Refuses an API server that is older than Kubernetes 1.`least`.
pub(crate) async fn version(client: &Client, least: u32, why: &str) -> Result<()> {
    let info = client.apiserver_version().await.context("asking the API server for its version: can this machine reach it?")?;
    let digits: String = info.minor.chars().take_while(char::is_ascii_digit).collect();
    let minor: u32 = digits.parse().unwrap_or(0);
    if info.major == "1" && minor < least {
        bail!(
            "the cluster runs Kubernetes {}, and Daisy needs 1.{least} or newer there ({why}): upgrade the cluster",
            info.git_version
        );
    }
    Ok(())
}

/// Refuses an API server that lacks one of these: `GROUP/VERSION`, resource.
pub(crate) async fn apis(client: &Client, wanted: &[(&str, &str)]) -> Result<()> {
    let mut missing = Vec::new();
    for (group_version, resource) in wanted {
        let has = match client.list_api_group_resources(group_version).await {
            Ok(list) => list.resources.iter().any(|r| r.name == *resource),
            Err(kube::Error::Api(status)) if status.code == 404 => false,
            Err(error) => return Err(error).with_context(|| format!("asking which resources {group_version} has")),
        };
        if !has {
            missing.push(format!("{resource} of {group_version}"));
        }
    }
    if !missing.is_empty() {
        bail!(
            "the cluster's API server does not serve {}, which Daisy needs: is the API switched off (--runtime-config)?",
            missing.join(", ")
        );
    }
    Ok(())
}

/// Refuses a user who may not apply all of these objects and do the rest, and names what he may not.
pub(crate) async fn rights(client: &Client, objects: &[DynamicObject], rest: Vec<Need>, what: &str) -> Result<()> {
    let everything = Need::new("*", ("*", "*"), None);
    if may(client, &everything).await? {
        return Ok(());
    }
    let mut needs = needs_of(objects)?;
    needs.extend(handed_on(client, objects).await?);
    needs.extend(rest);
    let asked = futures::stream::iter(needs).map(|need| async move { may(client, &need).await.map(|yes| (need, yes)) });
    let answers: Vec<Result<(Need, bool)>> = asked.buffered(AT_A_TIME).collect().await;
    let answers: Vec<(Need, bool)> = answers.into_iter().collect::<Result<_>>()?;
    let missing: Vec<Need> = answers.into_iter().filter(|(_, yes)| !yes).map(|(need, _)| need).collect();
    if !missing.is_empty() {
        bail!(
            "this user may not {what}: it lacks the rights to {}; nothing was changed. Have the cluster's administrator do it, or use a context of one who may",
            list(missing)
        );
    }
    Ok(())
}

/// Each resource once, with all its verbs: `create, patch nodes; get secrets in daisy-system`.
fn list(needs: Vec<Need>) -> String {
    let mut verbs: BTreeMap<String, BTreeSet<Cow<'static, str>>> = BTreeMap::new();
    for need in needs {
        verbs.entry(need.on()).or_default().insert(need.verb);
    }
    let parts = verbs.into_iter().map(|(on, verbs)| format!("{} {on}", verbs.into_iter().collect::<Vec<_>>().join(", ")));
    parts.collect::<Vec<_>>().join("; ")
}

async fn may(client: &Client, need: &Need) -> Result<bool> {
    let attributes = ResourceAttributes {
        verb: Some(need.verb.to_string()),
        group: Some(need.group.clone()),
        resource: Some(need.resource.clone()),
        namespace: need.namespace.clone(),
        ..ResourceAttributes::default()
    };
    let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..SelfSubjectAccessReviewSpec::default() };
    let review = SelfSubjectAccessReview { spec, ..SelfSubjectAccessReview::default() };
    let api: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let answer = api.create(&PostParams::default(), &review).await.context("asking what this user may do")?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}

/// Has the API server try what can be tried without a change: roles that would hand on rights which this user has not, objects
/// that its admission would refuse.
pub(crate) async fn rehearse(client: &Client, objects: &[DynamicObject]) -> Result<()> {
    let applier = Applier::new(client.clone());
    let tried = |object: &&DynamicObject| {
        // The others need what does not exist yet: their namespace, or the role that they bind.
        matches!(
            object.types.as_ref().map(|types| types.kind.as_str()),
            Some("ClusterRole" | "CustomResourceDefinition" | "Namespace")
        )
    };
    for object in objects.iter().filter(tried) {
        applier.rehearse(object).await.context("the API server would refuse a part of Daisy; nothing was changed")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_old_kubernetes_is_named() {
        let serving = |minor: &'static str| {
            let version = serde_json::json!({
                "major": "1", "minor": minor, "gitVersion": format!("v1.{minor}.9"), "gitCommit": "", "gitTreeState": "",
                "buildDate": "", "goVersion": "", "compiler": "", "platform": "",
            });
            let service = tower::service_fn(move |_: http::Request<kube::client::Body>| {
                let body = kube::client::Body::from(version.to_string().into_bytes());
                async move { Ok::<_, std::convert::Infallible>(http::Response::new(body)) }
            });
            Client::new(service, "default")
        };
        for minor in ["27", "27+", "31"] {
            version(&serving(minor), 27, "why").await.expect("new enough");
        }
        let said = version(&serving("24"), 27, "why").await.expect_err("too old").to_string();
        assert!(said.contains("v1.24.9") && said.contains("1.27 or newer") && said.contains("upgrade"), "{said}");
    }

    #[test]
    fn what_is_missing_is_said_once_a_resource() {
        let nodes = |verb| Need::new(verb, ("", "nodes"), None);
        let needs = vec![nodes("patch"), nodes("list"), Need::new("create", ("apps", "deployments"), Some("daisy-system"))];
        assert_eq!(list(needs), "create deployments.apps in daisy-system; list, patch nodes");
    }
}
