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

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// Which timer of the socket from here to `port` runs, and in how many hundredths of a second it ends (proc_net_tcp in the
    /// kernel's documentation; 2 is keepalive).
    fn timer(port: u16) -> Option<(String, u64)> {
        let table = std::fs::read_to_string("/proc/self/net/tcp").expect("our sockets");
        let words = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let socket = words.into_iter().find(|words| words.get(2).is_some_and(|to| to.ends_with(&format!(":{port:04X}"))))?;
        let (which, left) = socket.get(5)?.split_once(':')?;
        Some((which.to_owned(), u64::from_str_radix(left, 16).ok()?))
    }

    #[tokio::test]
    async fn a_quiet_connection_is_asked_whether_it_is_there() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let url = format!("http://{address}").parse().expect("a URL");
        let client = far_client(Config::new(url)).expect("a client");
        let asking = tokio::spawn(async move { client.apiserver_version().await });
        // It is never answered, as a watch without events is not.
        let (_quiet, _) = listener.accept().await.expect("it connects");
        let mut seen = None;
        for _ in 0..200 {
            seen = timer(address.port());
            if seen.as_ref().is_some_and(|(which, _)| which == "02") {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        asking.abort();
        let (which, left) = seen.expect("the socket");
        assert_eq!(which, "02", "the keepalive timer runs");
        assert!(left <= QUIET.as_secs() * 100, "{left} hundredths of a second");
    }
}
