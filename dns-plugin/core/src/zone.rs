//! The zones that are served, and how long answers may be kept.

use daisy_api::labels;

use crate::name::DomainName;

/// What a zone holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ZoneKind {
    /// `supercluster.local`: this cluster's Services first, then what is imported.
    Supercluster,
    /// `clusterset.local`: what the DNS specification of the MCS API has (KEP-1645, schema 1.0.0), and no more.
    Clusterset,
    /// `cluster.local`: this cluster's Services (Kubernetes DNS specification 1.1.0); the lab serves it.
    Cluster,
}

impl ZoneKind {
    /// The version of the schema, as `dns-version.ZONE` gives it.
    #[must_use]
    pub fn schema_version(self) -> &'static str {
        match self {
            Self::Supercluster | Self::Clusterset => "1.0.0",
            Self::Cluster => "1.1.0",
        }
    }
}

/// A zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    /// Its name.
    pub apex: DomainName,
    /// What it holds.
    pub kind: ZoneKind,
    /// The server named in its SOA and NS records.
    pub name_server: DomainName,
}

/// What the server is told once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The zones; where one lies in another, the longer name wins.
    pub zones: Vec<Zone>,
    /// How long an answer with records may be kept, in seconds.
    pub ttl: u32,
    /// How long an answer without may be kept, in seconds (RFC 2308 section 5).
    pub negative_ttl: u32,
}

impl Settings {
    /// Daisy's two zones, with Daisy's own DNS Service as their server.
    #[must_use]
    pub fn daisy(ttl: u32, negative_ttl: u32) -> Self {
        let server = format!("{}.{}.svc.{}", labels::DNS_SERVICE, labels::SYSTEM_NAMESPACE, labels::SUPERCLUSTER_ZONE);
        let zone =
            |apex, kind| Zone { apex: DomainName::from_constant(apex), kind, name_server: DomainName::from_constant(&server) };
        let zones =
            vec![zone(labels::SUPERCLUSTER_ZONE, ZoneKind::Supercluster), zone(labels::CLUSTERSET_ZONE, ZoneKind::Clusterset)];
        Self { zones, ttl, negative_ttl }
    }

    /// A cluster's own zone, for the lab.
    #[must_use]
    pub fn cluster(domain: DomainName, ttl: u32, negative_ttl: u32) -> Self {
        let name_server = DomainName::compose(&["kube-dns", "kube-system", "svc"], &domain).unwrap_or_else(|| domain.clone());
        Self { zones: vec![Zone { apex: domain, kind: ZoneKind::Cluster, name_server }], ttl, negative_ttl }
    }
}
