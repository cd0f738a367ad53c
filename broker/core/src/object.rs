//! The objects that the syncer sees and writes, of every kind, on either side.

use daisy_api::{Cluster, Export, ExportEndpoints, Gateway, Heartbeat, Member, ServiceExport, ServiceImport};
use k8s_openapi::api::core::v1::{Namespace, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// Whose API server an object is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// The broker's.
    Broker,
    /// This cluster's.
    Here,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident),* $(,)?) => {
        /// The kinds of objects that the syncer sees.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind {
            $($(#[$doc])* $kind),*
        }

        impl Kind {
            /// The kind's name, as in the API.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$kind => stringify!($kind)),*
                }
            }
        }

        /// An object of any of these kinds, whole.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Object {
            $($(#[$doc])* $kind(Box<$kind>)),*
        }

        impl Object {
            /// The kind.
            #[must_use]
            pub fn kind(&self) -> Kind {
                match self {
                    $(Self::$kind(_) => Kind::$kind),*
                }
            }

            /// The metadata.
            #[must_use]
            pub fn metadata(&self) -> &ObjectMeta {
                match self {
                    $(Self::$kind(object) => &object.metadata),*
                }
            }

            /// The metadata, to change.
            pub fn metadata_mut(&mut self) -> &mut ObjectMeta {
                match self {
                    $(Self::$kind(object) => &mut object.metadata),*
                }
            }
        }

        $(impl From<$kind> for Object {
            fn from(object: $kind) -> Self {
                Self::$kind(Box::new(object))
            }
        })*
    };
}

kinds! {
    /// What the registrar vouches for about a cluster.
    Member,
    /// What a cluster says of itself.
    Cluster,
    /// A cluster's sign of life.
    Heartbeat,
    /// What a cluster offers.
    Export,
    /// Where an export's pods are.
    ExportEndpoints,
    /// A user's wish to export.
    ServiceExport,
    /// What is imported, of the MCS API.
    ServiceImport,
    /// A Service.
    Service,
    /// A Service's endpoints.
    EndpointSlice,
    /// A namespace.
    Namespace,
    /// A node.
    Node,
    /// A gateway's status.
    Gateway,
}

impl Kind {
    /// What the syncer watches on the broker, in all namespaces.
    pub const BROKER: [Self; 5] = [Self::Member, Self::Cluster, Self::Heartbeat, Self::Export, Self::ExportEndpoints];
    /// What the syncer watches in its own cluster: `Gateway` and `Cluster` in `daisy-system`, the others everywhere.
    pub const HERE: [Self; 8] = [
        Self::ServiceExport,
        Self::ServiceImport,
        Self::Service,
        Self::EndpointSlice,
        Self::Namespace,
        Self::Node,
        Self::Gateway,
        Self::Cluster,
    ];
}

impl Object {
    /// The namespace; empty for what has none.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.metadata().namespace.as_deref().unwrap_or_default()
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.metadata().name.as_deref().unwrap_or_default()
    }

    /// Where it is, in short.
    #[must_use]
    pub fn reference(&self, place: Place) -> Reference {
        Reference { place, kind: self.kind(), namespace: self.namespace().to_owned(), name: self.name().to_owned() }
    }
}

/// One object: where it is, of what kind, its namespace and its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// On whose API server.
    pub place: Place,
    /// Of what kind.
    pub kind: Kind,
    /// Its namespace; empty for what has none.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl std::fmt::Display for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let place = match self.place {
            Place::Broker => " on the broker",
            Place::Here => "",
        };
        if self.namespace.is_empty() {
            write!(f, "{} {}{place}", self.kind.as_str(), self.name)
        } else {
            write!(f, "{} {}/{}{place}", self.kind.as_str(), self.namespace, self.name)
        }
    }
}

/// What a watch says. A (re)list is `Started`, any number of `Listed`, `Finished`.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// A list begins: everything is going to be named once more.
    Started,
    /// An object of the list.
    Listed(Object),
    /// The list is complete: what it did not name is absent.
    Finished,
    /// An object was made or changed.
    Applied(Object),
    /// An object was deleted: the only word that it is gone.
    Deleted(Object),
    /// An object is there, but cannot be read. What was known of it stands.
    Unreadable {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// What the parser says.
        why: String,
    },
}
