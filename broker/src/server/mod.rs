//! The embedded broker: an API server of our own with Daisy's kinds and admission, and the registrar, in one durable process.
//!
//! ```text
//! clusters, administrators ──HTTPS──▶ daisy-api-server ──Admission──▶ DATA/db
//!                                          ▲ loopback
//!                                      registrar
//! ```
//!
//! A data folder holds the keys (`keys/`) apart from the database (`db/`). With both, a broker that comes back serves what it
//! served. With the keys alone it is another broker behind the same certificate: its ID is new, and no token of old is good.

mod hooks;

use std::collections::BTreeMap;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use daisy_api::Version;
use daisy_api::labels::{BROKER_NAMESPACE, GROUP};
use daisy_api_server::{Handle, Limits, Options, Server};
use kube::ResourceExt;
use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};
use tracing::{info, warn};

use crate::lease::Turn;
use crate::registrar::RegistrarOptions;
use crate::registrar::metrics::Metrics;
use crate::setup::Address;
use crate::{enrol, registrar, setup};

/// The file in the data folder by which the administrator reaches the broker.
pub const KUBECONFIG: &str = "admin.kubeconfig";
/// The context in it.
const CONTEXT: &str = "daisy-broker";

/// How a broker is run.
pub struct BrokerOptions {
    /// Where its keys and its database are kept; made if it is not there.
    pub data_dir: PathBuf,
    /// The addresses to listen on; a port 0 takes a free one.
    pub listen: Vec<SocketAddr>,
    /// Names and addresses that clusters reach it at, each with `:PORT` where that is not the one listened on. The first stands in
    /// broker-info files; all of them are in the certificate. Empty: the addresses of `listen`.
    pub advertise: Vec<String>,
    /// Listeners that are there already, beside those of `listen`.
    pub listeners: Vec<TcpListener>,
    /// What one client may take.
    pub limits: Limits,
    /// The registrar's own options.
    pub registrar: RegistrarOptions,
}

impl Default for BrokerOptions {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("daisy-broker-data"),
            listen: Vec::new(),
            advertise: Vec::new(),
            listeners: Vec::new(),
            limits: limits(),
            registrar: RegistrarOptions::default(),
        }
    }
}

/// What a cluster or an invitation may take of an embedded broker.
#[must_use]
pub fn limits() -> Limits {
    let each = [
        ("exports", 5_000),
        ("exportendpoints", 20_000),
        ("clusters", 1),
        ("heartbeats", 1),
        ("joinrequests", 2_000),
        ("invitations", 2_000),
        ("members", 4_096),
    ];
    Limits {
        objects: each.map(|(plural, most)| (format!("{plural}.{GROUP}"), most)).into_iter().collect::<BTreeMap<_, _>>(),
        // A namespace exported whole is many writes at once.
        requests_per_second: 200.0,
        burst: 1_000.0,
        token_most: Duration::from_secs(30 * 86_400),
        ..Limits::default()
    }
}

/// A broker that serves.
#[derive(Debug, Clone)]
pub struct BrokerReady {
    /// Where clusters reach it, and what they pin.
    pub address: Address,
    /// The administrator's kubeconfig.
    pub kubeconfig: PathBuf,
    /// Its ID.
    pub broker_id: String,
    /// Where it listens.
    pub listening: Vec<SocketAddr>,
}

/// Serves a broker until `shutdown` ends. `ready` is told once it serves; dropping its other end changes nothing.
///
/// # Errors
/// A data folder that is in use or damaged, an address that cannot be listened on, a clock outside the certificate's validity.
pub async fn run(
    options: BrokerOptions,
    ready: oneshot::Sender<BrokerReady>,
    shutdown: impl Future<Output = ()> + Send,
) -> anyhow::Result<()> {
    enrol::use_ring();
    let mut listeners = options.listeners;
    let listen: Vec<String> = options.listen.iter().map(ToString::to_string).collect();
    listeners.extend(Server::bind(&listen)?);
    let listening: Vec<SocketAddr> =
        listeners.iter().map(TcpListener::local_addr).collect::<Result<_, _>>().context("reading where it listens")?;
    let Some(own) = listening.first().map(|address| loopback(*address)) else {
        bail!("nothing to listen on: give at least one address");
    };
    let advertised = advertised(&options.advertise, &listening)?;
    let url = format!("https://{}", advertised[0]);

    let mut settings = Options::new(&options.data_dir);
    settings.sans.extend(listening.iter().map(|address| loopback(*address).ip().to_string()));
    settings.sans.extend(advertised.iter().map(|authority| host(authority).to_owned()));
    settings.sans.sort();
    settings.sans.dedup();
    settings.hooks = Arc::new(hooks::Admission::new());
    settings.limits = options.limits;
    let server = tokio::task::spawn_blocking(move || Server::open(settings)).await.context("opening the data folder")??;
    let broker_id = furnish(&server.handle()).await.context("preparing the broker's own objects")?;
    let kubeconfig = options.data_dir.join(KUBECONFIG);
    server.write_admin_kubeconfig(&kubeconfig, &url, CONTEXT)?;

    let address = Address { server: url, ca: server.ca_pem().to_owned() };
    let client = enrol::client(&format!("https://{own}"), &address.ca, &server.admin_token())?;
    let stopping = watch::Sender::new(false);
    let metrics = Metrics::new(&options.registrar.registry).context("registering the registrar's metrics")?;
    let registrar = tokio::spawn(register(client, options.registrar, metrics, stopping.subscribe()));
    info!(server = %address.server, broker = %broker_id, "the broker serves");
    // Connections are taken from here on: the listeners are bound.
    let _ = ready.send(BrokerReady { address, kubeconfig, broker_id, listening });
    let served = server.serve(listeners, async {
        shutdown.await;
        stopping.send_replace(true);
    });
    let result = served.await;
    stopping.send_replace(true);
    let _ = registrar.await;
    Ok(result?)
}

/// Runs the registrar for as long as the broker serves, whatever becomes of it.
async fn register(client: kube::Client, options: RegistrarOptions, metrics: Metrics, mut stopping: watch::Receiver<bool>) {
    loop {
        let mut stop = stopping.clone();
        let stopped = std::pin::pin!(async move {
            // The sender is gone only when the broker is.
            let _ = stop.wait_for(|stop| *stop).await;
        });
        // It is the only one on this broker by nature.
        match registrar::serve(&client, &options, &metrics, stopped, Turn::always()).await {
            Ok(_) => return,
            Err(error) => warn!("the registrar begins anew: {error:#}"),
        }
        let pause = tokio::time::sleep(Duration::from_secs(1));
        tokio::select! {
            _ = stopping.wait_for(|stop| *stop) => return,
            () = pause => {}
        }
    }
}

/// Makes sure that kinds, namespace and roles are there, and that every member is served. Returns the broker's ID.
async fn furnish(handle: &Handle) -> anyhow::Result<String> {
    let (clusters, _) = handle.list(&daisy_api_server::ResourceKey::new(GROUP, "clusters"), None);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let records = clusters.iter();
    let records = records.map(|one| (text(&one["metadata"]["name"]), one["spec"]["version"].as_str().unwrap_or_default()));
    setup::serves(Version::own(), records)?;
    for definition in daisy_api::crds::broker() {
        handle.apply(serde_json::to_value(definition)?).await?;
    }
    let namespaces = daisy_api_server::ResourceKey::of::<k8s_openapi::api::core::v1::Namespace>();
    let there = handle.get(&namespaces, "", BROKER_NAMESPACE).is_some();
    for object in setup::manifests::roles()? {
        if there && object.types.as_ref().is_some_and(|types| types.kind == "Namespace") {
            // What an administrator wrote on a namespace that is there stays.
            let labels = json!({ "metadata": { "labels": object.labels() } });
            handle.patch(&namespaces, "", BROKER_NAMESPACE, labels).await?;
        } else {
            handle.apply(serde_json::to_value(object)?).await?;
        }
    }
    let namespace = handle.get(&namespaces, "", BROKER_NAMESPACE).unwrap_or_default();
    namespace["metadata"]["uid"]
        .as_str()
        .map(str::to_owned)
        .filter(|uid| !uid.is_empty())
        .context("namespace daisy-broker has no UID")
}

/// Where this process reaches a listener.
fn loopback(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        IpAddr::V4(_) | IpAddr::V6(_) => address.ip(),
    };
    SocketAddr::new(ip, address.port())
}

/// `HOST:PORT` for each name or address that the broker is reached at; at least one.
fn advertised(advertise: &[String], listening: &[SocketAddr]) -> anyhow::Result<Vec<String>> {
    if advertise.is_empty() {
        return Ok(listening.iter().map(|address| loopback(*address).to_string()).collect());
    }
    let port = listening.first().map_or(0, SocketAddr::port);
    advertise.iter().map(|text| authority(text, port)).collect()
}

fn authority(text: &str, port: u16) -> anyhow::Result<String> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(address.to_string());
    }
    if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, port).to_string());
    }
    let (name, port) = match text.rsplit_once(':') {
        Some((name, given)) => (name, given.parse().ok().filter(|port| *port != 0)),
        None => (text, Some(port)),
    };
    let is_name =
        name.len() <= daisy_api::names::SUBDOMAIN_MAX && name.to_ascii_lowercase().split('.').all(daisy_api::names::is_label);
    match port {
        Some(port) if is_name => Ok(format!("{name}:{port}")),
        _ => bail!(
            "--advertise {text:?} is no address and no name: write 203.0.113.5, [2001:db8::5] or broker.example, with :PORT where it differs"
        ),
    }
}

fn host(authority: &str) -> &str {
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    host.trim_matches(['[', ']'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_urls_want_them() {
        for (text, expected) in [
            ("203.0.113.5", "203.0.113.5:6443"),
            ("203.0.113.5:443", "203.0.113.5:443"),
            ("2001:db8::5", "[2001:db8::5]:6443"),
            ("[2001:db8::5]", "[2001:db8::5]:6443"),
            ("[2001:db8::5]:443", "[2001:db8::5]:443"),
            ("broker.example", "broker.example:6443"),
            ("broker.example:443", "broker.example:443"),
        ] {
            let written = authority(text, 6443).expect("an address or a name");
            assert_eq!(written, expected);
        }
        assert_eq!(host("[2001:db8::5]:443"), "2001:db8::5");
        assert_eq!(host("broker.example:443"), "broker.example");
        for bad in ["", "https://broker", "a b", "broker:x", "broker:0", "-a"] {
            assert!(authority(bad, 6443).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn without_advertise_it_is_where_it_listens() {
        let listening = ["0.0.0.0:6443".parse().expect("an address"), "[::]:1".parse().expect("an address")];
        assert_eq!(advertised(&[], &listening).expect("addresses"), ["127.0.0.1:6443", "[::1]:1"]);
    }
}
