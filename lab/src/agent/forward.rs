//! From the host's loopback into the lab: one port a control plane, and one for the broker.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};

use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::network::connect;
use crate::sys::Netns;
use crate::task;

/// Where a port leads, once that is known.
type Destination = watch::Sender<Option<(Netns, SocketAddr)>>;

/// The ports of the host's loopback, each with where it leads.
pub(super) struct Forwards(BTreeMap<u16, Destination>);

impl Forwards {
    /// Takes the listening sockets. Connections are held until a port leads somewhere.
    pub(super) fn start(listeners: Vec<TcpListener>, ports: &[u16]) -> io::Result<Self> {
        let mut destinations = BTreeMap::new();
        for (listener, port) in listeners.into_iter().zip(ports) {
            listener.set_nonblocking(true)?;
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let destination: Destination = watch::Sender::new(None);
            task::spawn(accept(listener, destination.subscribe()));
            destinations.insert(*port, destination);
        }
        Ok(Self(destinations))
    }

    /// From here on `port` leads to `address`, as seen from within `netns`.
    pub(super) fn lead(&self, port: u16, netns: &Netns, address: SocketAddr) -> Result<(), String> {
        let destination = self.0.get(&port).ok_or_else(|| format!("port {port} is none of this lab's"))?;
        destination.send_replace(Some((netns.clone(), address)));
        Ok(())
    }
}

async fn accept(listener: tokio::net::TcpListener, destination: watch::Receiver<Option<(Netns, SocketAddr)>>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                task::spawn(pass(stream, destination.clone()));
            }
            Err(e) => {
                // Out of descriptors, most likely: they come back when connections end.
                tracing::warn!("accepting on the host's loopback: {e}");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

async fn pass(mut from: TcpStream, mut destination: watch::Receiver<Option<(Netns, SocketAddr)>>) {
    let found = destination.wait_for(Option::is_some).await.map(|d| d.clone());
    let Ok(Some((netns, address))) = found else { return };
    let passed = async {
        let mut to = connect(&netns, address).await?;
        // Requests are small, and answered one by one.
        from.set_nodelay(true)?;
        to.set_nodelay(true)?;
        tokio::io::copy_bidirectional(&mut from, &mut to).await
    };
    if let Err(e) = passed.await {
        tracing::debug!(%address, "a connection from the host: {e}");
    }
}
