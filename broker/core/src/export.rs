//! From a ServiceExport with its Service and EndpointSlices to the records that offer it, and the conditions that say how it stands.
//!
//! ```text
//! ServiceExport ─┐
//! Service ───────┼▶ judge ──▶ ExportSpec, or why not ──▶ Export record
//! EndpointSlices ┴▶ endpoints ─────────────────────────▶ ExportEndpoints records, one a slice
//! what became of them ──▶ conditions ──▶ Valid · Ready · Conflict
//! ```

use daisy_api::conditions::{CONFLICT, READY, VALID, Wanted};
use daisy_api::names::short_hash;
use daisy_api::{ClusterId, Envelope, ExportSpec, ExportType, MemberSpec, ServiceExport, ServiceKey};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use thiserror::Error;

use crate::merge::Conflict;
use crate::policy::{self, Refusal};
use crate::service::{LocalService, ServiceKind};

/// Why a ServiceExport cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Invalid {
    /// There is no Service.
    #[error("there is no Service {key} to export; create it, or delete this ServiceExport")]
    NoService {
        /// The namespace and name.
        key: ServiceKey,
    },
    /// The Service is only a name for something elsewhere.
    #[error(
        "Service {key} has spec.type ExternalName, which has no endpoints to export; \
         export the Service it stands for, or make it one with a selector"
    )]
    ExternalName {
        /// The namespace and name.
        key: ServiceKey,
    },
    /// The Service is an import or another thing of Daisy's own.
    #[error("Service {key} was made by Daisy (label app.kubernetes.io/managed-by=daisy), and is not exported again")]
    MadeByDaisy {
        /// The namespace and name.
        key: ServiceKey,
    },
    /// The cluster's grant does not allow it.
    #[error("{0}")]
    Refused(#[from] Refusal),
}

impl Invalid {
    /// The reason of the condition: KEP-1645's where it has one, else Daisy's own.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoService { .. } => "NoService",
            Self::ExternalName { .. } | Self::MadeByDaisy { .. } => "InvalidServiceType",
            Self::Refused(Refusal::OutsideGrant { .. }) => "NamespaceNotGranted",
            Self::Refused(_) => "Refused",
        }
    }
}

/// What the record of an export says, its envelope left open.
#[must_use]
pub fn spec(key: &ServiceKey, export: &ServiceExport, service: &LocalService) -> ExportSpec {
    ExportSpec {
        envelope: Envelope::default(),
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        // The wire has whole seconds: what is compared must have been cut alike.
        exported_at: Time(whole_seconds(export.metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0))),
        type_: if service.kind == ServiceKind::Headless { ExportType::Headless } else { ExportType::ClusterSetIp },
        ports: service.ports.clone(),
        cluster_ips: service.cluster_ips.clone(),
        session_affinity: service.session_affinity,
        session_affinity_seconds: service.session_affinity_seconds,
        ip_families: service.ip_families.clone(),
        internal_traffic_policy: service.internal_traffic_policy.clone(),
        traffic_distribution: service.traffic_distribution.clone(),
        exported_labels: export.spec.exported_labels.clone(),
        exported_annotations: export.spec.exported_annotations.clone(),
    }
}

pub(crate) fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// Judges a ServiceExport: what its record is to say.
///
/// # Errors
/// Why it cannot be exported, for the condition `Valid`. Without a `member` (the broker has not been reached yet) the grant is
/// not judged.
pub fn judge(
    id: &ClusterId,
    member: Option<&MemberSpec>,
    key: &ServiceKey,
    export: &ServiceExport,
    service: Option<&LocalService>,
) -> Result<ExportSpec, Invalid> {
    let service = service.ok_or_else(|| Invalid::NoService { key: key.clone() })?;
    if service.ours {
        return Err(Invalid::MadeByDaisy { key: key.clone() });
    }
    if service.kind == ServiceKind::ExternalName {
        return Err(Invalid::ExternalName { key: key.clone() });
    }
    let spec = spec(key, export, service);
    if let Some(member) = member {
        policy::granted(id, member, &format!("ServiceExport {key}"), key)?;
        policy::export(id, member, &key.record_name(), &spec)?;
    }
    Ok(spec)
}

/// The name of the ExportEndpoints record of an EndpointSlice of `key`.
#[must_use]
pub fn endpoints_name(key: &ServiceKey, slice: &str) -> String {
    format!("{}.{}", key.record_name(), short_hash(slice, 10))
}

/// How far an export has come, for the condition `Ready`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The broker has it as it is.
    Exported,
    /// It is on its way, or waits: for what.
    Pending(String),
    /// It was refused: by whom and why.
    Failed(String),
}

/// Whether all endpoints of an export are offered to the other clusters: a condition of Daisy's own, there only while some are not.
pub const ENDPOINTS_OFFERED: &str = "EndpointsOffered";

/// Endpoints that other clusters cannot be sent to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotOffered {
    /// How many.
    pub count: usize,
    /// Why the first of them is not offered.
    pub why: String,
}

/// The conditions of a ServiceExport: always `Valid` and `Ready`; `Conflict` while it is valid; [`ENDPOINTS_OFFERED`] while some are not.
#[must_use]
pub fn conditions(
    judged: Result<(), &Invalid>,
    progress: &Progress,
    conflicts: &[Conflict],
    left_out: Option<&NotOffered>,
) -> Vec<Wanted> {
    if let Err(invalid) = judged {
        let ready = Wanted::new(READY, false, "Failed", "not exported: see the condition Valid");
        return vec![Wanted::new(VALID, false, invalid.reason(), invalid.to_string()), ready];
    }
    let ready = match progress {
        Progress::Exported => Wanted::new(READY, true, "Exported", "the broker has this export"),
        Progress::Pending(why) => Wanted::new(READY, false, "Pending", why.as_str()),
        Progress::Failed(why) => Wanted::new(READY, false, "Failed", why.as_str()),
    };
    let conflict = if conflicts.is_empty() {
        Wanted::new(CONFLICT, false, "NoConflicts", "no other cluster's export of this name differs")
    } else {
        let reasons: Vec<&str> = conflicts.iter().map(|conflict| conflict.kind.reason()).collect();
        let messages: Vec<&str> = conflicts.iter().map(|conflict| conflict.message.as_str()).collect();
        Wanted::new(CONFLICT, true, reasons.join(","), messages.join("; "))
    };
    let mut all = vec![Wanted::new(VALID, true, "Valid", "the Service can be exported"), ready, conflict];
    all.extend(left_out.map(|NotOffered { count, why }| {
        let message = format!(
            "{count} endpoints are not offered to other clusters, which could not reach them \
             (a pod with hostNetwork has its node's address): {why}"
        );
        Wanted::new(ENDPOINTS_OFFERED, false, "OutsideClusterCIDRs", message)
    }));
    all
}
