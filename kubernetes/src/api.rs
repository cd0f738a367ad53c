//! Objects of one kind, as that kind.

use std::fmt::Debug;
use std::marker::PhantomData;

use either::Either;
use futures::stream::{BoxStream, StreamExt};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::core::{ApiResource, DeserializeGuard, NamespaceResourceScope, ObjectList, Status};
use kube::runtime::watcher::{self, Event};
use kube::{Client, Resource, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::objects::Objects;
use crate::raw::Raw;

/// The objects of one kind, in one namespace or everywhere: kube's `Api`, and its errors. What it reads from is JSON, so that
/// requests and watches are compiled once and not for each kind.
pub struct Api<K> {
    objects: Objects,
    kind: PhantomData<fn() -> K>,
}

impl<K> Clone for Api<K> {
    fn clone(&self) -> Self {
        Self { objects: self.objects.clone(), kind: PhantomData }
    }
}

impl<K> Debug for Api<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").finish_non_exhaustive()
    }
}

impl<K: Resource<DynamicType = ()>> Api<K> {
    /// Those of the whole cluster.
    #[must_use]
    pub fn all(client: Client) -> Self {
        Self { objects: Objects::all(client, &ApiResource::erase::<K>(&())), kind: PhantomData }
    }

    /// Those of a namespace.
    #[must_use]
    pub fn namespaced(client: Client, namespace: &str) -> Self
    where
        K: Resource<Scope = NamespaceResourceScope>,
    {
        Self { objects: Objects::namespaced(client, namespace, &ApiResource::erase::<K>(&())), kind: PhantomData }
    }
}

impl<K: DeserializeOwned> Api<K> {
    /// The object of this name.
    ///
    /// # Errors
    /// As kube's; not found is one.
    pub async fn get(&self, name: &str) -> Result<K> {
        self.objects.get(name).await?.read()
    }

    /// The object of this name, where there is one.
    ///
    /// # Errors
    /// As kube's.
    pub async fn get_opt(&self, name: &str) -> Result<Option<K>> {
        self.objects.get_opt(name).await?.map(Raw::read).transpose()
    }

    /// Whether there is one.
    ///
    /// # Errors
    /// As kube's.
    pub async fn any(&self) -> Result<bool> {
        self.objects.list(&ListParams::default().limit(1)).await.map(|list| !list.items.is_empty())
    }

    /// Those that the parameters select.
    ///
    /// # Errors
    /// As kube's; one object that does not parse is one. See [`Api::list_guarded`].
    pub async fn list(&self, parameters: &ListParams) -> Result<ObjectList<K>>
    where
        K: Clone,
    {
        let ObjectList { types, metadata, items } = self.objects.list(parameters).await?;
        Ok(ObjectList { types, metadata, items: items.into_iter().map(Raw::read).collect::<Result<_>>()? })
    }

    /// Those that the parameters select, each as itself or as what is wrong with it.
    ///
    /// # Errors
    /// As kube's.
    pub async fn list_guarded(&self, parameters: &ListParams) -> Result<ObjectList<DeserializeGuard<K>>>
    where
        K: Clone,
    {
        let ObjectList { types, metadata, items } = self.objects.list(parameters).await?;
        Ok(ObjectList { types, metadata, items: items.into_iter().map(Raw::guard).collect() })
    }

    /// Changes the object of this name.
    ///
    /// # Errors
    /// As kube's.
    pub async fn patch<P: Serialize + Debug>(&self, name: &str, parameters: &PatchParams, patch: &Patch<P>) -> Result<K> {
        let patch = value(patch)?;
        self.objects.patch(name, parameters, patch).await?.read()
    }

    /// Changes the status of the object of this name.
    ///
    /// # Errors
    /// As kube's.
    pub async fn patch_status<P: Serialize + Debug>(
        &self,
        name: &str,
        parameters: &PatchParams,
        patch: &Patch<P>,
    ) -> Result<K> {
        let patch = value(patch)?;
        self.objects.patch_status(name, parameters, patch).await?.read()
    }

    /// Deletes the object of this name. Returns it where its deletion takes time.
    ///
    /// # Errors
    /// As kube's; not found is one.
    pub async fn delete(&self, name: &str, parameters: &DeleteParams) -> Result<Either<K, Status>> {
        match self.objects.delete(name, parameters).await? {
            Either::Left(object) => object.read().map(Either::Left),
            Either::Right(status) => Ok(Either::Right(status)),
        }
    }

    /// Deletes those that `which` selects.
    ///
    /// # Errors
    /// As kube's.
    pub async fn delete_collection(&self, parameters: &DeleteParams, which: &ListParams) -> Result<()> {
        self.objects.delete_collection(parameters, which).await.map(|_| ())
    }

    /// What changes from a version on; an object that does not parse comes as what is wrong with it.
    ///
    /// # Errors
    /// As kube's.
    pub async fn watch(
        &self,
        parameters: &WatchParams,
        version: &str,
    ) -> Result<BoxStream<'static, Result<WatchEvent<DeserializeGuard<K>>>>>
    where
        K: 'static,
    {
        let events = self.objects.watch(parameters, version).await?;
        Ok(events.map(|event| event.map(guarded)).boxed())
    }
}

impl<K: Serialize + DeserializeOwned> Api<K> {
    /// Creates an object.
    ///
    /// # Errors
    /// As kube's.
    pub async fn create(&self, parameters: &PostParams, object: &K) -> Result<K> {
        let object = Raw::of(object)?;
        self.objects.create(parameters, object).await?.read()
    }

    /// Puts an object in the place of the one of this name.
    ///
    /// # Errors
    /// As kube's; a conflict, where the version of `object` is not the one there, is one.
    pub async fn replace(&self, name: &str, parameters: &PostParams, object: &K) -> Result<K> {
        let object = Raw::of(object)?;
        self.objects.replace(name, parameters, object).await?.read()
    }

    /// Puts the status of `object` in the place of that of the object of this name.
    ///
    /// # Errors
    /// As [`Api::replace`].
    pub async fn replace_status(&self, name: &str, parameters: &PostParams, object: &K) -> Result<K> {
        let object = Raw::of(object)?;
        self.objects.replace_status(name, parameters, object).await?.read()
    }
}

/// Follows the objects of one kind: kube's `watcher`. An object that does not parse is an event too, with its metadata and the
/// error, and never stops the others.
pub fn watcher<K: DeserializeOwned + 'static>(
    api: Api<K>,
    config: watcher::Config,
) -> BoxStream<'static, watcher::Result<Event<DeserializeGuard<K>>>> {
    let events = api.objects.watcher(config);
    let read = |event| match event {
        Event::Apply(object) => Event::Apply(Raw::guard(object)),
        Event::Delete(object) => Event::Delete(Raw::guard(object)),
        Event::Init => Event::Init,
        Event::InitApply(object) => Event::InitApply(Raw::guard(object)),
        Event::InitDone => Event::InitDone,
    };
    events.map(move |event| event.map(read)).boxed()
}

fn guarded<K: DeserializeOwned>(event: WatchEvent<Raw>) -> WatchEvent<DeserializeGuard<K>> {
    match event {
        WatchEvent::Added(object) => WatchEvent::Added(object.guard()),
        WatchEvent::Modified(object) => WatchEvent::Modified(object.guard()),
        WatchEvent::Deleted(object) => WatchEvent::Deleted(object.guard()),
        WatchEvent::Bookmark(bookmark) => WatchEvent::Bookmark(bookmark),
        WatchEvent::Error(status) => WatchEvent::Error(status),
    }
}

fn value<P: Serialize + Debug>(patch: &Patch<P>) -> Result<Patch<Value>> {
    let json = |patch: &P| serde_json::to_value(patch).map_err(kube::Error::SerdeError);
    Ok(match patch {
        Patch::Apply(patch) => Patch::Apply(json(patch)?),
        Patch::Json(patch) => Patch::Json(patch.clone()),
        Patch::Merge(patch) => Patch::Merge(json(patch)?),
        Patch::Strategic(patch) => Patch::Strategic(json(patch)?),
        other => return Err(kube::Error::Service(format!("{other:?} is no patch that is known here").into())),
    })
}
