//! A client of a server far away, on a path that can change without a word.

use std::time::Duration;

use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::ConfigExt as _;
use kube::{Client, Config};
use tower::{BoxError, ServiceBuilder};

/// How long a connection is quiet before the other side is asked whether it is there.
const QUIET: Duration = Duration::from_secs(10);
/// How long it is asked again and again, and how long what was sent may stay unacknowledged, before the connection is given up.
const GIVEN_UP: Duration = Duration::from_secs(10);
/// The time between two such questions.
const BETWEEN: Duration = Duration::from_secs(3);

/// A client whose connections end within 20 s when the path to the server has gone: a watch without events is otherwise taken for a quiet
/// one until kube's own limit of 295 s, and whoever's public address has changed hears of nothing meanwhile (the old connection is no
/// longer translated, and nobody says so).
///
/// # Errors
/// As `kube::Client::try_from`: certificates or credentials that cannot be used.
pub fn far_client(config: Config) -> Result<Client, kube::Error> {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_connect_timeout(config.connect_timeout);
    connector.set_keepalive(Some(QUIET));
    connector.set_keepalive_interval(Some(BETWEEN));
    connector.set_tcp_user_timeout(Some(GIVEN_UP));
    let connector = config.rustls_https_connector_with_connector(connector)?;
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .map_err(BoxError::from)
        .service(legacy::Client::builder(TokioExecutor::new()).build(connector));
    Ok(Client::new(service, config.default_namespace))
}
