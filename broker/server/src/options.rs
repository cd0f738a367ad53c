//! How a server is set up.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::builtin;
use crate::definition::ResourceDefinition;
use crate::hooks::{Hooks, NoHooks};

/// What a server needs to open.
#[derive(Clone)]
pub struct Options {
    /// Holds `keys/` and `db/`; made with mode 0700 if it is not there.
    pub data_dir: PathBuf,
    /// The built-in resources; [`builtin::broker`] and more.
    pub definitions: Vec<ResourceDefinition>,
    /// Names and addresses that clients reach the server by, for its certificate.
    pub sans: Vec<String>,
    /// Takes part in writes.
    pub hooks: Arc<dyn Hooks>,
    /// What one client may take.
    pub limits: Limits,
    /// Namespaces that are made at start if they are not there.
    pub namespaces: Vec<String>,
}

impl Options {
    /// The broker's resources, no hooks, the default limits, a certificate for `localhost`, 127.0.0.1 and ::1, and the namespaces
    /// `default` and `kube-system`.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            definitions: builtin::broker(),
            sans: ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into(),
            hooks: Arc::new(NoHooks),
            limits: Limits::default(),
            namespaces: ["default", "kube-system"].map(str::to_owned).into(),
        }
    }
}

/// What clients may take. Members of `system:masters` are held to none of the limits per user, nor to the object counts.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The largest body and the largest object, in bytes of JSON.
    pub body_bytes: usize,
    /// The longest time a body may take to arrive.
    pub body_time: Duration,
    /// The largest page of a list; a greater `limit` is lowered to it.
    pub page: usize,
    /// The most objects that a list without `limit` may have; more is refused, and pages must be asked for.
    pub unpaged: usize,
    /// Watches at a time, per user.
    pub watches_per_user: usize,
    /// Requests other than watches at a time, per user.
    pub in_flight_per_user: usize,
    /// Requests a second, per user, over time.
    pub requests_per_second: f64,
    /// Requests at once, per user, after a pause.
    pub burst: f64,
    /// Connections at a time, in all.
    pub connections: usize,
    /// Changes that each resource remembers, for watches and for lists over several pages.
    pub history_events: usize,
    /// Bytes of objects that each resource remembers with them.
    pub history_bytes: usize,
    /// The most objects of one resource in one namespace.
    pub objects_per_namespace: usize,
    /// The same for single resources, by `PLURAL.GROUP`.
    pub objects: BTreeMap<String, usize>,
    /// The time between two bookmarks of a watch. A watch whose user has lost the right to it ends with the next one.
    pub bookmark_interval: Duration,
    /// The longest time that a watch goes on.
    pub watch_time: Duration,
    /// The shortest time that a ServiceAccount's token may be asked for.
    pub token_least: Duration,
    /// The longest time that a ServiceAccount's token may be asked for.
    pub token_most: Duration,
    /// How often objects that are kept for a while only (`ResourceDefinition::kept_for`) are looked through.
    pub sweep_interval: Duration,
    /// The time that running requests are given when the server stops.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 3 << 19,
            body_time: Duration::from_secs(30),
            page: 5_000,
            unpaged: 100_000,
            watches_per_user: 200,
            in_flight_per_user: 64,
            requests_per_second: 50.0,
            burst: 200.0,
            connections: 8_192,
            history_events: 4_096,
            history_bytes: 8 << 20,
            objects_per_namespace: 20_000,
            objects: BTreeMap::new(),
            bookmark_interval: Duration::from_secs(60),
            watch_time: Duration::from_secs(3_600),
            token_least: Duration::from_secs(600),
            token_most: Duration::from_secs(365 * 86_400),
            sweep_interval: Duration::from_secs(30),
            grace: Duration::from_secs(5),
        }
    }
}
