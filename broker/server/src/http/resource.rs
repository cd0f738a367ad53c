//! The verbs on resources.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::negotiate;
use super::path::ResourcePath;
use super::request::Asked;
use super::respond::{self, Answer};
use super::review;
use crate::catalog::Served;
use crate::patch::Patch;
use crate::rbac::Attributes;
use crate::read::{self, Form, Include, ListQuery, Listed, Start, WatchQuery, WatchStream};
use crate::refusal::{Cause, Refusal};
use crate::selector::Selectors;
use crate::write::{Change, DeleteOptions, Deleted, FieldValidation, Writer, Writing, Written};

/// A request for a resource that is served.
struct Resource<'a> {
    asked: &'a Asked<'a>,
    path: ResourcePath,
    served: Arc<Served>,
    selectors: Selectors,
}

/// Answers a request for a resource.
pub(super) async fn answer(asked: &Asked<'_>, path: ResourcePath, body: &[u8]) -> Result<Answer, Refusal> {
    let verb = verb(asked, &path)?;
    let selectors = selectors(asked)?;
    let name = if path.name.is_empty() { selectors.fields.name().unwrap_or_default().to_owned() } else { path.name.clone() };
    let whole = if path.subresource.is_empty() { path.plural.clone() } else { format!("{}/{}", path.plural, path.subresource) };
    let wanted =
        Attributes::Resource { verb, group: &path.group, resource: &whole, namespace: rights_namespace(&path), name: &name };
    let served = {
        let state = asked.inner.store.read();
        state.rbac.authorize(&asked.user, &wanted)?;
        state.catalog.version(&path.group, &path.version, &path.plural).cloned().ok_or_else(Refusal::no_such_path)?
    };
    let definition = &served.definition;
    let misplaced =
        if definition.namespaced { path.namespace.is_empty() && !path.name.is_empty() } else { !path.namespace.is_empty() };
    if misplaced {
        return Err(Refusal::no_such_path());
    }
    let resource = Resource { asked, selectors, served: served.clone(), path };
    match (verb, resource.path.subresource.as_str()) {
        ("create", "token") if served.key.group.is_empty() && definition.plural == "serviceaccounts" => {
            let body = resource.json(body)?;
            review::token(asked, (&resource.path.namespace, &resource.path.name), &body).await
        }
        (_, "") if !served.has_verb(verb) => Err(Refusal::method_not_allowed(&definition.group, &definition.plural, verb)),
        ("create", "") if &*served.key.group == review::GROUP && definition.plural == review::PLURAL => {
            let body = resource.json(body)?;
            review::access(asked, body)
        }
        ("get", "") => resource.get(),
        ("get", "status") if definition.has_status => resource.get(),
        ("list", "") => resource.list(),
        ("watch", "") => resource.watch(),
        ("create", "") => resource.create(body).await,
        ("update", "") => resource.update(body, false).await,
        ("update", "status") if definition.has_status => resource.update(body, true).await,
        ("patch", "") => resource.patch(body, false).await,
        ("patch", "status") if definition.has_status => resource.patch(body, true).await,
        ("delete", "") => resource.delete(body).await,
        ("deletecollection", "") => resource.delete_collection(body).await,
        _ => Err(Refusal::no_such_path()),
    }
}

/// A Namespace's own rights may be given in itself, as in Kubernetes.
fn rights_namespace(path: &ResourcePath) -> &str {
    if path.group.is_empty() && path.plural == "namespaces" { &path.name } else { &path.namespace }
}

fn verb(asked: &Asked<'_>, path: &ResourcePath) -> Result<&'static str, Refusal> {
    let one = !path.name.is_empty();
    let method = &asked.parts.method;
    if *method == Method::GET || *method == Method::HEAD {
        return Ok(match (one, asked.query.flag("watch")) {
            (true, _) => "get",
            (false, true) => "watch",
            (false, false) => "list",
        });
    }
    match (method, one, path.subresource.is_empty()) {
        (&Method::POST, false, _) | (&Method::POST, true, false) => Ok("create"),
        (&Method::PUT, true, _) => Ok("update"),
        (&Method::PATCH, true, _) => Ok("patch"),
        (&Method::DELETE, true, _) => Ok("delete"),
        (&Method::DELETE, false, _) => Ok("deletecollection"),
        _ => Err(Refusal::method_not_allowed(&path.group, &path.plural, method.as_str())),
    }
}

fn selectors(asked: &Asked<'_>) -> Result<Selectors, Refusal> {
    let bad = |error: crate::selector::SelectorError| Refusal::bad_request(error.to_string());
    Ok(Selectors {
        labels: asked.query.get("labelSelector").unwrap_or_default().parse().map_err(bad)?,
        fields: asked.query.get("fieldSelector").unwrap_or_default().parse().map_err(bad)?,
    })
}

fn number<T: std::str::FromStr>(asked: &Asked<'_>, key: &str) -> Result<Option<T>, Refusal> {
    let parse = |text: &str| {
        text.parse().map_err(|_| Refusal::bad_request(format!("{key}: Invalid value: {text:?}: a number expected")))
    };
    asked.query.get(key).map(parse).transpose()
}

impl Resource<'_> {
    fn form(&self) -> Result<Form, Refusal> {
        let include = match self.asked.query.get("includeObject") {
            None | Some("Metadata") => Include::Metadata,
            Some("None") => Include::None,
            Some("Object") => Include::Object,
            Some(other) => {
                return Err(Refusal::bad_request(format!("includeObject: {other:?} is none of None, Metadata, Object")));
            }
        };
        negotiate::form(&self.asked.accept(), include)
    }

    /// `None` for all namespaces.
    fn namespace(&self) -> Option<String> {
        (self.served.definition.namespaced && !self.path.namespace.is_empty()).then(|| self.path.namespace.clone())
    }

    fn get(&self) -> Result<Answer, Refusal> {
        let form = self.form()?;
        let found = self.asked.inner.store.read().get(&self.served.key, &self.path.namespace, &self.path.name).cloned();
        let definition = &self.served.definition;
        let object = found.ok_or_else(|| Refusal::not_found(&definition.group, &definition.plural, &self.path.name))?;
        Ok(respond::bytes(200, form.media_type(), read::render_one(&self.served, &object, form)))
    }

    fn list(&self) -> Result<Answer, Refusal> {
        let form = self.form()?;
        let query = ListQuery {
            namespace: self.namespace(),
            selectors: self.selectors.clone(),
            limit: number(self.asked, "limit")?,
            next: self.asked.query.get("continue").map(str::to_owned),
            version: number(self.asked, "resourceVersion")?.unwrap_or(0),
            exact: self.asked.query.get("resourceVersionMatch") == Some("Exact"),
        };
        let listed = read::list(&self.asked.inner.store, &self.served, &query, &self.asked.inner.limits)?;
        Ok(self.listed(&listed, form))
    }

    fn listed(&self, listed: &Listed, form: Form) -> Answer {
        respond::bytes(200, form.media_type(), read::render_list(&self.served, listed, form))
    }

    fn watch(&self) -> Result<Answer, Refusal> {
        let form = self.form()?;
        let inner = self.asked.inner;
        let bookmarks = self.asked.query.flag("allowWatchBookmarks");
        let initial = self.asked.query.get("sendInitialEvents");
        if initial.is_some() && self.asked.query.get("resourceVersionMatch") != Some("NotOlderThan") {
            let cause = Cause::new(
                "FieldValueForbidden",
                "resourceVersionMatch",
                "Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            );
            return Err(Refusal::invalid("meta.k8s.io", "ListOptions", "", vec![cause]));
        }
        let start = match (initial, number::<u64>(self.asked, "resourceVersion")?.unwrap_or(0)) {
            (Some("true"), _) if bookmarks => Start::Streamed,
            (Some("true"), _) | (None, 0) => Start::Everything,
            (Some(_), 0) => Start::Now,
            (Some(_) | None, version) => Start::After(version),
        };
        let query = WatchQuery {
            namespace: self.namespace(),
            selectors: self.selectors.clone(),
            start,
            bookmarks,
            timeout: number(self.asked, "timeoutSeconds")?.filter(|seconds| *seconds > 0).map(Duration::from_secs),
            form,
        };
        let ticket = inner.flow.watch(&self.asked.user, Instant::now())?;
        let (store, served) = (inner.store.clone(), self.served.clone());
        let stopping = inner.stopping.subscribe();
        let stream = WatchStream::new(store, served, query, &inner.limits, (stopping, self.still_allowed()))
            .ok_or_else(Refusal::no_such_path)?;
        Ok(respond::watch(stream, ticket, form))
    }

    /// Asks again, while a watch goes on, what was asked at its beginning.
    fn still_allowed(&self) -> Box<dyn Fn() -> bool + Send + Sync> {
        let (inner, claims, path) = (self.asked.inner.clone(), self.asked.claims.clone(), self.path.clone());
        let name = self.selectors.fields.name().unwrap_or_default().to_owned();
        Box::new(move || {
            let Some(user) = inner.user_of(&claims) else { return false };
            let (group, resource, namespace) = (&path.group, &path.plural, &path.namespace);
            let wanted = Attributes::Resource { verb: "watch", group, resource, namespace, name: &name };
            inner.store.read().rbac.allows(&user, &wanted)
        })
    }

    fn json(&self, body: &[u8]) -> Result<Value, Refusal> {
        negotiate::json_body(self.asked.content_type())?;
        serde_json::from_slice(body).map_err(|error| Refusal::bad_request(format!("error decoding the body: {error}")))
    }

    fn writing(&self, status: bool) -> Result<Writing, Refusal> {
        let validation = match self.asked.query.get("fieldValidation") {
            None | Some("Warn") => FieldValidation::Warn,
            Some("Ignore") => FieldValidation::Ignore,
            Some("Strict") => FieldValidation::Strict,
            Some(other) => {
                return Err(Refusal::bad_request(format!("fieldValidation: {other:?} is none of Ignore, Warn, Strict")));
            }
        };
        let mut dry_run = false;
        for value in self.asked.query.all("dryRun").filter(|value| !value.is_empty()) {
            if value != "All" {
                return Err(Refusal::bad_request(format!("dryRun: {value:?} is not All")));
            }
            dry_run = true;
        }
        let writing = self.asked.inner.writing(self.served.clone(), &self.path.namespace, &self.asked.user);
        Ok(Writing { status, dry_run, validation, ..writing })
    }

    async fn write<T: Send + 'static>(
        &self,
        writing: Writing,
        work: impl FnOnce(&mut Writer<'_, '_>) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        self.asked.inner.store.write(move |transaction| writing.run(transaction, work)).await
    }

    fn written(&self, code: u16, written: &Written, form: Form) -> Answer {
        let mut answer = respond::bytes(code, form.media_type(), read::render_one(&self.served, &written.object, form));
        respond::warn(&mut answer, &written.warnings);
        answer
    }

    async fn create(&self, body: &[u8]) -> Result<Answer, Refusal> {
        let definition = &self.served.definition;
        if definition.namespaced && self.path.namespace.is_empty() {
            return Err(Refusal::method_not_allowed(&definition.group, &definition.plural, "create without a namespace"));
        }
        let (form, writing) = (self.form()?, self.writing(false)?);
        let body = self.json(body)?;
        let written = self.write(writing, move |writer| writer.create(body)).await?;
        Ok(self.written(201, &written, form))
    }

    async fn update(&self, body: &[u8], status: bool) -> Result<Answer, Refusal> {
        let (form, writing) = (self.form()?, self.writing(status)?);
        let body = self.json(body)?;
        self.changed(writing, Change::Replace(body), form).await
    }

    async fn patch(&self, body: &[u8], status: bool) -> Result<Answer, Refusal> {
        let (form, writing) = (self.form()?, self.writing(status)?);
        let media_type = negotiate::media_type(self.asked.content_type());
        let patch = Patch::parse(&media_type, body, self.served.is_custom())?;
        self.changed(writing, Change::Patch(patch), form).await
    }

    async fn changed(&self, writing: Writing, change: Change, form: Form) -> Result<Answer, Refusal> {
        let name = self.path.name.clone();
        let written = self.write(writing, move |writer| writer.update(&name, change)).await?;
        Ok(self.written(200, &written, form))
    }

    fn delete_options(&self, body: &[u8]) -> Result<(DeleteOptions, Writing), Refusal> {
        if !body.is_empty() {
            negotiate::json_body(self.asked.content_type())?;
        }
        let options = DeleteOptions::parse(body)?;
        let mut writing = self.writing(false)?;
        writing.dry_run |= options.dry_run;
        Ok((options, writing))
    }

    async fn delete(&self, body: &[u8]) -> Result<Answer, Refusal> {
        let form = self.form()?;
        let (options, writing) = self.delete_options(body)?;
        let name = self.path.name.clone();
        let deleted = self.write(writing, move |writer| writer.delete(&name, &options)).await?;
        Ok(match deleted {
            Deleted::Terminating(object) => {
                respond::bytes(200, form.media_type(), read::render_one(&self.served, &object, form))
            }
            Deleted::Gone(object) => {
                let definition = &self.served.definition;
                let details =
                    json!({"name": self.path.name, "group": definition.group, "kind": definition.plural, "uid": object.uid});
                let status =
                    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details});
                respond::json(200, &status)
            }
        })
    }

    async fn delete_collection(&self, body: &[u8]) -> Result<Answer, Refusal> {
        let definition = &self.served.definition;
        if definition.namespaced && self.path.namespace.is_empty() {
            return Err(Refusal::method_not_allowed(
                &definition.group,
                &definition.plural,
                "deletecollection without a namespace",
            ));
        }
        let form = self.form()?;
        let (options, writing) = self.delete_options(body)?;
        let selectors = self.selectors.clone();
        let gone = self.write(writing, move |writer| writer.delete_collection(&selectors, &options)).await?;
        let version = self.asked.inner.store.read().version;
        let items = gone.into_iter().map(|object| ((String::new(), String::new()), object)).collect();
        Ok(self.listed(&Listed { version, items, next: None }, form))
    }
}
