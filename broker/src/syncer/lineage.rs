//! Whether the broker still has what it has acknowledged.
//!
//! A watch is resumed from the version at which it broke off. A broker that was restored from an old copy may have counted past
//! that version since, and the resumed watch would show changes of another history. The last write that the broker acknowledged
//! to us tells: if it is not there, everything is listed anew.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use daisy_api::{Cluster, Export, ExportEndpoints, Heartbeat};
use daisy_broker_core::object::{Kind, Object, Reference};
use daisy_broker_core::syncer::{Action, Verb};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tracing::warn;

/// What the broker acknowledged last.
#[derive(Clone, Debug)]
struct Write {
    reference: Reference,
    /// UID and version; `None` after a deletion.
    left: Option<(Option<String>, Option<u64>)>,
}

#[derive(Debug, Default)]
pub(super) struct Lineage {
    generation: AtomicU64,
    last: Mutex<Option<Write>>,
}

fn version(metadata: &ObjectMeta) -> Option<u64> {
    metadata.resource_version.as_deref()?.parse().ok()
}

async fn metadata<K>(client: &Client, reference: &Reference) -> kube::Result<Option<ObjectMeta>>
where
    K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let api: Api<K> = Api::namespaced(client.clone(), &reference.namespace);
    match api.get_metadata(&reference.name).await {
        Ok(object) => Ok(Some(object.metadata)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(error),
    }
}

impl Lineage {
    /// The count of histories seen so far.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// A write was acknowledged.
    pub(super) fn wrote(&self, action: &Action, object: Option<&Object>) {
        let left = match (&action.verb, object) {
            (Verb::Delete { .. }, _) => None,
            (_, Some(object)) => Some((object.metadata().uid.clone(), version(object.metadata()))),
            (_, None) => return,
        };
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        // Writes are acknowledged in any order: the newest counts.
        let newest = |write: &Write| write.left.as_ref().and_then(|(_, version)| *version);
        let older =
            matches!((last.as_ref().and_then(newest), left.as_ref().and_then(|l| l.1)), (Some(had), Some(new)) if new < had);
        if !older {
            *last = Some(Write { reference: action.reference.clone(), left });
        }
    }

    /// Looks whether the broker has our last write; if not, its history is another.
    pub(super) async fn check(&self, client: &Client) -> kube::Result<()> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(write) = last else { return Ok(()) };
        let found = match write.reference.kind {
            Kind::Export => metadata::<Export>(client, &write.reference).await?,
            Kind::ExportEndpoints => metadata::<ExportEndpoints>(client, &write.reference).await?,
            Kind::Cluster => metadata::<Cluster>(client, &write.reference).await?,
            Kind::Heartbeat => metadata::<Heartbeat>(client, &write.reference).await?,
            _ => return Ok(()),
        };
        let same = match (&write.left, &found) {
            (None, None) => true,
            (Some((uid, had)), Some(found)) => found.uid == *uid && version(found) >= *had,
            (None, Some(_)) | (Some(_), None) => false,
        };
        if !same {
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            // Whoever comes next compares with what is written from now on.
            if last.as_ref().is_some_and(|now| now.reference == write.reference) {
                *last = None;
                self.generation.fetch_add(1, Ordering::SeqCst);
                warn!(
                    "{} is not as the broker acknowledged it: the broker was restored or wiped; listing everything anew",
                    write.reference
                );
            }
        }
        Ok(())
    }
}
