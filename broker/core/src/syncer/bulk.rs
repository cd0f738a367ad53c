//! The bulk export: a ServiceExport for each Service of a namespace that asks for it.

use std::time::Duration;

use daisy_api::labels::{EXPORTED_BY_NAMESPACE, MANAGED_BY, MANAGED_BY_DAISY};
use daisy_api::{ServiceExport, ServiceExportSpec, ServiceKey};

use super::Syncer;
use super::agenda::{Work, decide};
use super::watch::is_ours;
use crate::object::{Kind, Place, Reference};
use crate::service::{LocalService, ServiceKind};
use crate::time::Now;

/// Whether a bulk export takes this Service: none of Kubernetes' own, none of Daisy's, none that an annotation keeps out.
fn eligible(key: &ServiceKey, service: &LocalService) -> bool {
    let kubernetes = key.namespace.as_str() == "default" && key.name.as_str() == "kubernetes";
    key.namespace.as_str() != "kube-system"
        && !kubernetes
        && !service.ours
        && !service.excluded
        && service.kind != ServiceKind::ExternalName
}

fn made_by_bulk(export: &ServiceExport) -> bool {
    let labels = export.metadata.labels.as_ref();
    is_ours(&export.metadata) && labels.is_some_and(|labels| labels.contains_key(EXPORTED_BY_NAMESPACE))
}

impl Syncer {
    pub(super) fn decide_bulk(&mut self, key: &ServiceKey, since: Duration, now: Now) {
        let namespace = self.here.namespaces.get(&key.namespace.to_string());
        let asked = namespace.is_some_and(|namespace| namespace.export_all && !namespace.terminating) && self.leaving.is_none();
        let wanted = asked && self.here.services.get(key).is_some_and(|service| eligible(key, service));
        let observed = self.here.service_exports.get(key);
        // What the user made is the user's, whatever the label says.
        if observed.is_some_and(|export| !made_by_bulk(export)) || (observed.is_none() && !wanted) {
            return;
        }
        let desired = wanted.then(|| {
            let mut export = ServiceExport::new(key.name.as_str(), ServiceExportSpec::default());
            export.metadata.namespace = Some(key.namespace.to_string());
            let labels = [(MANAGED_BY, MANAGED_BY_DAISY), (EXPORTED_BY_NAMESPACE, "true")];
            export.metadata.labels = Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
            export
        });
        let reference = Reference {
            place: Place::Here,
            kind: Kind::ServiceExport,
            namespace: key.namespace.to_string(),
            name: key.name.to_string(),
        };
        if let Some(verb) = decide(observed, desired) {
            self.agenda.submit(reference, verb, (&Work::Bulk(key.clone()), since), now);
        }
    }
}
