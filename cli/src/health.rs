//! What a kubelet and a metrics collector ask a role: `/healthz`, `/readyz`, `/metrics`, over plain HTTP.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use prometheus::{Registry, TextEncoder};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tracing::{info, warn};

/// How long a request may take to come, and an answer to go.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest request that is read.
const REQUEST_MAX: usize = 4096;
/// How many are answered at a time; further ones wait.
const AT_A_TIME: usize = 16;

/// What there is to say of a role.
#[derive(Clone, Default)]
pub(crate) struct Health {
    /// Its metrics.
    pub(crate) registry: Registry,
    /// The gauge that is 1 once the role can do its work; without one it can as soon as it runs.
    pub(crate) ready: Option<&'static str>,
}

impl Health {
    fn answer(&self, path: &str) -> (&'static str, String) {
        match path {
            "/healthz" => ("200 OK", "ok\n".to_owned()),
            "/readyz" => match self.waits_for() {
                None => ("200 OK", "ok\n".to_owned()),
                Some(gauge) => ("503 Service Unavailable", format!("{gauge} is not yet 1\n")),
            },
            "/metrics" => match TextEncoder::new().encode_to_string(&self.registry.gather()) {
                Ok(text) => ("200 OK", text),
                Err(error) => ("500 Internal Server Error", format!("{error}\n")),
            },
            _ => ("404 Not Found", "there is /healthz, /readyz and /metrics\n".to_owned()),
        }
    }

    fn waits_for(&self) -> Option<&'static str> {
        let gauge = self.ready?;
        let families = self.registry.gather();
        let metrics = families.iter().find(|family| family.name() == gauge).map(|family| family.get_metric());
        let up = metrics.is_some_and(|all| all.iter().any(|metric| metric.get_gauge().get_value() >= 1.0));
        (!up).then_some(gauge)
    }
}

/// Answers for as long as it is polled; does nothing where no address is given.
pub(crate) async fn serve(listen: Option<SocketAddr>, health: Health) -> Result<()> {
    let Some(listen) = listen else { return std::future::pending().await };
    let listener = TcpListener::bind(listen).await.with_context(|| format!("--health {listen}: listening"))?;
    info!("health and metrics at http://{}", listener.local_addr().unwrap_or(listen));
    let places = Arc::new(Semaphore::new(AT_A_TIME));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return Ok(()) };
        match listener.accept().await {
            Ok((stream, _)) => {
                let health = health.clone();
                tokio::spawn(async move {
                    // Whoever asks and goes away has no answer, and that is all.
                    let _ = tokio::time::timeout(PATIENCE, converse(stream, &health)).await;
                    drop(place);
                });
            }
            Err(error) => {
                warn!(%error, "taking a connection for health or metrics");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(mut stream: TcpStream, health: &Health) -> std::io::Result<()> {
    let mut request = Vec::with_capacity(512);
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        if request.len() >= REQUEST_MAX || stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let text = String::from_utf8_lossy(&request);
    let mut words = text.split(' ');
    let (status, body) = match (words.next(), words.next()) {
        (Some("GET"), Some(target)) => health.answer(target.split('?').next().unwrap_or_default()),
        _ => ("405 Method Not Allowed", "GET only\n".to_owned()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use prometheus::IntGauge;

    use super::*;

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).await.expect("writes");
        let mut text = String::new();
        stream.read_to_string(&mut text).await.expect("reads");
        text
    }

    #[tokio::test]
    async fn a_role_is_ready_once_its_gauge_says_so() {
        let health = Health { registry: Registry::new(), ready: Some("test_synced") };
        let gauge = IntGauge::new("test_synced", "for this test").expect("a gauge");
        health.registry.register(Box::new(gauge.clone())).expect("registers");
        let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port");
        let serving = tokio::spawn(serve(Some(free), health));
        while TcpStream::connect(free).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(get(free, "/readyz").await.starts_with("HTTP/1.1 503"));
        assert!(get(free, "/healthz").await.starts_with("HTTP/1.1 200"));
        gauge.set(1);
        assert!(get(free, "/readyz?verbose").await.starts_with("HTTP/1.1 200"));
        assert!(get(free, "/metrics").await.contains("\ntest_synced 1\n"));
        assert!(get(free, "/other").await.starts_with("HTTP/1.1 404"));
        serving.abort();
    }
}
