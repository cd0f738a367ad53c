//! One action of the machine, as one request.

use std::fmt::Debug;
use std::time::Duration;

use daisy_api::labels::NODE_ADDRESS;
use daisy_api::{Cluster, Export, ExportEndpoints, Heartbeat, ServiceExport, ServiceImport};
use daisy_broker_core::object::{Kind, Object, Reference};
use daisy_broker_core::syncer::{Action, Failure, FailureKind, Verb};
use daisy_kubernetes::Api;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::NamespaceResourceScope;
use kube::{Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// How long a request may take.
const ANSWER: Duration = Duration::from_secs(10);

/// What an action does, in a word.
pub(super) fn verb(action: &Action) -> &'static str {
    match action.verb {
        Verb::Create(_) => "create",
        Verb::Replace(_) => "replace",
        Verb::Status(_) => "status",
        Verb::Delete { .. } => "delete",
        Verb::Annotate { .. } => "annotate",
    }
}

/// Performs the action, and gives back the object as the server has it then.
pub(super) async fn perform(client: Option<Client>, action: &Action) -> Result<Option<Object>, Failure> {
    let unreachable = |message: &str| Failure { kind: FailureKind::Unreachable, message: message.to_owned() };
    let Some(client) = client else { return Err(unreachable("there is no client of the broker")) };
    match tokio::time::timeout(ANSWER, request(client, action)).await {
        Ok(outcome) => outcome.map_err(|error| failure(&error)),
        Err(_) => Err(unreachable("the API server did not answer in 10 s")),
    }
}

fn failure(error: &kube::Error) -> Failure {
    let kube::Error::Api(status) = error else {
        return Failure { kind: FailureKind::Unreachable, message: error.to_string() };
    };
    let kind = match (status.code, status.reason.as_str()) {
        (409, "AlreadyExists") => FailureKind::AlreadyExists,
        (409, _) => FailureKind::Conflict,
        (404, _) => FailureKind::NotFound,
        (401 | 429, _) | (500.., _) => FailureKind::Unreachable,
        _ => FailureKind::Refused,
    };
    Failure { kind, message: status.message.clone() }
}

async fn request(client: Client, action: &Action) -> kube::Result<Option<Object>> {
    let reference = &action.reference;
    match &action.verb {
        Verb::Create(object) | Verb::Replace(object) | Verb::Status(object) => {
            let write = Write { client, reference, verb: &action.verb };
            match object {
                Object::Cluster(object) => write.send::<Cluster>(object).await,
                Object::Heartbeat(object) => write.send::<Heartbeat>(object).await,
                Object::Export(object) => write.send::<Export>(object).await,
                Object::ExportEndpoints(object) => write.send::<ExportEndpoints>(object).await,
                Object::ServiceExport(object) => write.send::<ServiceExport>(object).await,
                Object::ServiceImport(object) => write.send::<ServiceImport>(object).await,
                Object::Service(object) => write.send::<Service>(object).await,
                Object::EndpointSlice(object) => write.send::<EndpointSlice>(object).await,
                Object::Member(_) | Object::Namespace(_) | Object::Node(_) | Object::Gateway(_) => {
                    Err(never_written(reference))
                }
            }
        }
        Verb::Delete { uid } => {
            let uid = uid.as_deref();
            match reference.kind {
                Kind::Cluster => delete::<Cluster>(client, reference, uid).await,
                Kind::Heartbeat => delete::<Heartbeat>(client, reference, uid).await,
                Kind::Export => delete::<Export>(client, reference, uid).await,
                Kind::ExportEndpoints => delete::<ExportEndpoints>(client, reference, uid).await,
                Kind::ServiceExport => delete::<ServiceExport>(client, reference, uid).await,
                Kind::ServiceImport => delete::<ServiceImport>(client, reference, uid).await,
                Kind::Service => delete::<Service>(client, reference, uid).await,
                Kind::EndpointSlice => delete::<EndpointSlice>(client, reference, uid).await,
                Kind::Member | Kind::Namespace | Kind::Node | Kind::Gateway => Err(never_written(reference)),
            }
        }
        Verb::Annotate { address } => {
            let value = address.map_or(Value::Null, |address| address.to_string().into());
            let patch = json!({ "metadata": { "annotations": { NODE_ADDRESS: value } } });
            let api: Api<Node> = Api::all(client);
            let node = api.patch(&reference.name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
            Ok(Some(node.into()))
        }
    }
}

fn never_written(reference: &Reference) -> kube::Error {
    let message = format!("{reference} is of a kind that the syncer never writes");
    kube::Error::Api(kube::core::Status::failure(&message, "Forbidden").with_code(403).boxed())
}

struct Write<'a> {
    client: Client,
    reference: &'a Reference,
    verb: &'a Verb,
}

impl Write<'_> {
    async fn send<K>(self, object: &K) -> kube::Result<Option<Object>>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Serialize
            + DeserializeOwned
            + Clone
            + Debug
            + Into<Object>,
    {
        let Write { client, reference, verb } = self;
        let api: Api<K> = Api::namespaced(client, &reference.namespace);
        let name = &reference.name;
        let written = match verb {
            Verb::Status(_) => {
                let value = serde_json::to_value(object).map_err(kube::Error::SerdeError)?;
                let mut patch = json!({ "status": value.get("status") });
                if let Some(version) = &object.meta().resource_version {
                    patch["metadata"]["resourceVersion"] = version.clone().into();
                }
                api.patch_status(name, &PatchParams::default(), &Patch::Merge(&patch)).await?
            }
            Verb::Replace(_) => api.replace(name, &PostParams::default(), object).await?,
            Verb::Create(_) | Verb::Delete { .. } | Verb::Annotate { .. } => api.create(&PostParams::default(), object).await?,
        };
        Ok(Some(written.into()))
    }
}

async fn delete<K>(client: Client, reference: &Reference, uid: Option<&str>) -> kube::Result<Option<Object>>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + DeserializeOwned + Clone + Debug,
{
    let api: Api<K> = Api::namespaced(client, &reference.namespace);
    let preconditions = uid.map(|uid| Preconditions { uid: Some(uid.to_owned()), resource_version: None });
    let parameters = DeleteParams { preconditions, ..DeleteParams::default() };
    api.delete(&reference.name, &parameters).await?;
    Ok(None)
}
