//! The lab's own small web server: what a container of image `nginx` runs.
//!
//! It is a real HTTP/1.1 server that answers every request with who answers and whom it sees, as JSON. It is not nginx, and says
//! so in its `Server` header.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use anyhow::Context;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue, SERVER};
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::json;
use thiserror::Error;
use tokio::net::TcpListener;

use crate::task;

/// How the server is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Options {
    port: u16,
}

/// An argument that it does not take.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("argument {0:?}: the lab's web server takes --port PORT only")]
pub(crate) struct ArgumentError(String);

impl Options {
    /// Reads `--port PORT`; 80 by default.
    pub(crate) fn parse(arguments: &[&str]) -> Result<Self, ArgumentError> {
        let mut options = Self { port: 80 };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let value = argument.strip_prefix("--port=").or_else(|| (*argument == "--port").then(|| rest.next().copied())?);
            options.port = value.and_then(|v| v.parse().ok()).ok_or_else(|| ArgumentError((*argument).to_owned()))?;
        }
        Ok(options)
    }
}

/// Serves until `shutdown`.
pub(crate) async fn run(options: Options, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
    // Both families where there are both.
    let any = [SocketAddr::from((Ipv6Addr::UNSPECIFIED, options.port)), SocketAddr::from(([0, 0, 0, 0], options.port))];
    let listener = TcpListener::bind(&any[..]).await.with_context(|| format!("listening on port {}", options.port))?;
    tracing::info!(port = options.port, "serving");
    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => return Ok(()),
            accepted = listener.accept() => {
                let (stream, client) = match accepted {
                    Ok(accepted) => accepted,
                    Err(e) => {
                        // Out of descriptors, most likely: they come back when connections end.
                        tracing::warn!("accepting: {e}");
                        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                        continue;
                    }
                };
                let service = service_fn(move |request| async move { Ok::<_, Infallible>(answer(&request, client)) });
                task::spawn(async move {
                    if let Err(e) = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await {
                        tracing::debug!(%client, "a connection ended: {e}");
                    }
                });
            }
        }
    }
}

/// The address as the network has it, not as a socket for both families shows it.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn answer(request: &Request<Incoming>, client: SocketAddr) -> Response<Full<Bytes>> {
    let of = |name: &str| std::env::var(name).unwrap_or_default();
    let header = |name| request.headers().get(name).and_then(|v: &HeaderValue| v.to_str().ok()).unwrap_or_default().to_owned();
    let client: SocketAddr = plain(client);
    let ip: IpAddr = client.ip();
    tracing::info!(%client, method = %request.method(), path = request.uri().path(), "request");
    let about = json!({
        "cluster": of("DAISY_LAB_CLUSTER"),
        "node": of("DAISY_LAB_NODE"),
        "namespace": of("DAISY_LAB_NAMESPACE"),
        "pod": of("DAISY_LAB_POD"),
        "client": ip,
        "clientPort": client.port(),
        "host": header(HOST),
        "method": request.method().as_str(),
        "path": request.uri().path(),
    });
    let mut body = format!("{about}\n");
    if request.method() == Method::HEAD {
        body.clear();
    }
    let mut response = Response::new(Full::new(Bytes::from(body)));
    response.headers_mut().insert(SERVER, HeaderValue::from_static("daisy-lab"));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments() {
        assert_eq!(Options::parse(&[]), Ok(Options { port: 80 }));
        assert_eq!(Options::parse(&["--port", "8080"]), Ok(Options { port: 8080 }));
        assert_eq!(Options::parse(&["--port=81"]), Ok(Options { port: 81 }));
        assert!(Options::parse(&["--port"]).is_err());
        assert!(Options::parse(&["--port", "x"]).is_err());
        assert!(Options::parse(&["daemon off;"]).is_err());
    }

    #[test]
    fn a_client_is_shown_as_the_network_has_it() {
        let mapped: SocketAddr = "[::ffff:10.20.0.5]:1".parse().expect("address");
        assert_eq!(plain(mapped).to_string(), "10.20.0.5:1");
    }
}
