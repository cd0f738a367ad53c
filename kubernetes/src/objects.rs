//! kube's requests for objects as JSON. Nothing here is generic: it is compiled in this crate, once.

use either::Either;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::{BoxStream, StreamExt};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::core::{ApiResource, ObjectList, Status};
use kube::runtime::watcher::{self, Event};
use kube::{Client, Result};
use serde_json::Value;

use crate::raw::Raw;

/// Objects of one kind.
#[derive(Clone)]
pub(crate) struct Objects(kube::Api<Raw>);

/// A request under way.
type Answer<'a, T> = BoxFuture<'a, Result<T>>;

impl Objects {
    pub(crate) fn all(client: Client, kind: &ApiResource) -> Self {
        Self(kube::Api::all_with(client, kind))
    }

    pub(crate) fn namespaced(client: Client, namespace: &str, kind: &ApiResource) -> Self {
        Self(kube::Api::namespaced_with(client, namespace, kind))
    }

    pub(crate) fn get<'a>(&'a self, name: &'a str) -> Answer<'a, Raw> {
        self.0.get(name).boxed()
    }

    pub(crate) fn get_opt<'a>(&'a self, name: &'a str) -> Answer<'a, Option<Raw>> {
        self.0.get_opt(name).boxed()
    }

    pub(crate) fn list<'a>(&'a self, parameters: &'a ListParams) -> Answer<'a, ObjectList<Raw>> {
        self.0.list(parameters).boxed()
    }

    pub(crate) fn create<'a>(&'a self, parameters: &'a PostParams, object: Raw) -> Answer<'a, Raw> {
        async move { self.0.create(parameters, &object).await }.boxed()
    }

    pub(crate) fn replace<'a>(&'a self, name: &'a str, parameters: &'a PostParams, object: Raw) -> Answer<'a, Raw> {
        async move { self.0.replace(name, parameters, &object).await }.boxed()
    }

    pub(crate) fn replace_status<'a>(&'a self, name: &'a str, parameters: &'a PostParams, object: Raw) -> Answer<'a, Raw> {
        async move { self.0.replace_status(name, parameters, &object).await }.boxed()
    }

    pub(crate) fn patch<'a>(&'a self, name: &'a str, parameters: &'a PatchParams, patch: Patch<Value>) -> Answer<'a, Raw> {
        async move { self.0.patch(name, parameters, &patch).await }.boxed()
    }

    pub(crate) fn patch_status<'a>(
        &'a self,
        name: &'a str,
        parameters: &'a PatchParams,
        patch: Patch<Value>,
    ) -> Answer<'a, Raw> {
        async move { self.0.patch_status(name, parameters, &patch).await }.boxed()
    }

    pub(crate) fn delete<'a>(&'a self, name: &'a str, parameters: &'a DeleteParams) -> Answer<'a, Either<Raw, Status>> {
        self.0.delete(name, parameters).boxed()
    }

    pub(crate) fn delete_collection<'a>(
        &'a self,
        parameters: &'a DeleteParams,
        which: &'a ListParams,
    ) -> Answer<'a, Either<ObjectList<Raw>, Status>> {
        self.0.delete_collection(parameters, which).boxed()
    }

    pub(crate) fn watch<'a>(
        &'a self,
        parameters: &'a WatchParams,
        version: &'a str,
    ) -> Answer<'a, BoxStream<'static, Result<WatchEvent<Raw>>>> {
        async move { Ok(self.0.watch(parameters, version).await?.boxed()) }.boxed()
    }

    pub(crate) fn watcher(self, config: watcher::Config) -> BoxStream<'static, watcher::Result<Event<Raw>>> {
        watcher::watcher(self.0, config).boxed()
    }
}
