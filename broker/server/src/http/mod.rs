//! HTTP/1.1 and HTTP/2 over TLS.
//!
//! ```text
//! listener ─▶ TLS ─▶ path ─▶ token ─▶ flow control ─▶ rights ─▶ verb ─▶ read or write ─▶ answer
//! ```

mod discovery;
mod negotiate;
mod openapi;
mod path;
mod query;
mod request;
mod resource;
mod respond;
mod review;

use std::convert::Infallible;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::error::Error;
use crate::server::Inner;

/// The time that a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// The time that a request's head may take, and that an HTTP/1.1 connection may rest.
const HEAD: Duration = Duration::from_secs(120);
/// HTTP/2: a connection that does not answer pings is closed.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_ANSWER: Duration = Duration::from_secs(20);
/// HTTP/2: requests at a time on one connection; watches count.
const STREAMS: u32 = 1_000;
/// After a failed accept (no file descriptors left), before the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `shutdown` is ready. Boxed, so that HTTP is compiled in this crate and not in each that serves.
pub(crate) fn serve<'a>(
    inner: Arc<Inner>,
    tls: Arc<rustls::ServerConfig>,
    listeners: Vec<TcpListener>,
    shutdown: BoxFuture<'a, ()>,
) -> BoxFuture<'a, Result<(), Error>> {
    Box::pin(async move {
        let places = Arc::new(Semaphore::new(inner.limits.connections));
        let mut accepting = JoinSet::new();
        for listener in listeners {
            let address = listener.local_addr().map_or_else(|_| "a listener".to_owned(), |address| address.to_string());
            let listen_error = |source| Error::Listen { address: address.clone(), source };
            listener.set_nonblocking(true).map_err(listen_error)?;
            let listener = tokio::net::TcpListener::from_std(listener).map_err(listen_error)?;
            tracing::info!(%address, "serving");
            let server = Connections { inner: inner.clone(), tls: TlsAcceptor::from(tls.clone()), places: places.clone() };
            accepting.spawn(server.accept(listener));
        }
        shutdown.await;
        inner.stopping.send_replace(true);
        let _ = tokio::time::timeout(inner.limits.grace, async { while accepting.join_next().await.is_some() {} }).await;
        Ok(())
    })
}

async fn stopped(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

struct Connections {
    inner: Arc<Inner>,
    tls: TlsAcceptor,
    places: Arc<Semaphore>,
}

impl Connections {
    async fn accept(self, listener: tokio::net::TcpListener) {
        let mut stopping = self.inner.stopping.subscribe();
        let mut connections = JoinSet::new();
        loop {
            let Ok(place) = self.places.clone().acquire_owned().await else { break };
            tokio::select! {
                () = stopped(&mut stopping) => break,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let connection = connection(self.inner.clone(), self.tls.clone(), stream, place);
                        connections.spawn(connection);
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a connection was not accepted");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
            while connections.try_join_next().is_some() {}
        }
        drop(listener);
        while connections.join_next().await.is_some() {}
    }
}

async fn connection(inner: Arc<Inner>, tls: TlsAcceptor, stream: TcpStream, place: OwnedSemaphorePermit) {
    let stopping = inner.stopping.subscribe();
    let _ = stream.set_nodelay(true);
    // A client that sleeps on with its watch open is noticed by the kernel.
    let keepalive = socket2::TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(15));
    let _ = socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive);
    let stream = match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "no TLS"),
        Err(_) => return tracing::debug!("the TLS handshake took too long"),
    };
    let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_ANSWER);
    // What ALPN has settled needs no looking at the first bytes.
    let builder = if h2 { builder.http2_only() } else { builder.http1_only() };
    let service = service_fn(move |request| {
        let inner = inner.clone();
        async move { Ok::<_, Infallible>(request::answer(&inner, request).await) }
    });
    run(builder, TokioIo::new(stream), service, stopping).await;
    drop(place);
}

async fn run<I, S>(builder: auto::Builder<TokioExecutor>, io: I, service: S, mut stopping: watch::Receiver<bool>)
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    S: hyper::service::Service<
            http::Request<hyper::body::Incoming>,
            Response = respond::Answer,
            Error = Infallible,
            Future: Send + 'static,
        >,
{
    let mut connection = std::pin::pin!(builder.serve_connection(io, service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopped(&mut stopping) => {
            connection.as_mut().graceful_shutdown();
            connection.as_mut().await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended");
    }
}
