//! The control socket: one request, one answer.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use nix::sys::signal::Signal;
use serde::Serialize;
use tokio::net::UnixStream;

use super::{Progress, Shared, exec, place, processes};
use crate::protocol::{Answer, Request, Up, receive, send};

/// Answers one connection.
pub(super) async fn serve(shared: Arc<Shared>, mut stream: UnixStream) {
    if let Err(e) = answer(&shared, &mut stream).await {
        tracing::debug!("a client of the control socket went away: {e}");
    }
}

async fn answer(shared: &Arc<Shared>, stream: &mut UnixStream) -> io::Result<()> {
    let Some((request, fds)) = receive::<Request>(stream).await? else { return Ok(()) };
    tracing::debug!(?request, "asked");
    match request {
        Request::WaitUp => say(stream, wait_up(shared).await).await,
        Request::Exec { command } => match stdio(fds) {
            Some(stdio) => exec::serve(shared, stream, &command, stdio).await,
            None => say::<()>(stream, Err("a command needs three descriptors with it".to_owned())).await,
        },
        Request::StartService { service } => {
            let started = start_service(shared, service).await;
            say(stream, started).await
        }
        Request::KillService { name, signal } => {
            let killed = match Signal::try_from(signal) {
                Ok(signal) => shared.services.kill(&name, signal).await,
                Err(_) => Err(format!("{signal} is no signal")),
            };
            say(stream, killed).await
        }
        Request::SetPublicAddress { cluster, address } => {
            let done = match shared.networks() {
                Ok(networks) => networks.set_public_address(&cluster, address).await.map_err(|e| e.to_string()),
                Err(e) => Err(e),
            };
            say(stream, done).await
        }
        Request::Processes => say(stream, processes::list(shared)).await,
        Request::Inspect { namespace } => {
            let found = match shared.networks() {
                Ok(networks) => networks.inspect(&namespace).await.map_err(|e| e.to_string()),
                Err(e) => Err(e),
            };
            say(stream, found).await
        }
        Request::Dropped => {
            let dropped = shared.networks().and_then(|n| n.dropped().map_err(|e| e.to_string()));
            say(stream, dropped).await
        }
        Request::AddContext { name, kubeconfig, port } => {
            let added = shared.add_context(&name, &kubeconfig, port).await;
            say(stream, added).await
        }
        Request::Down => {
            say(stream, Ok(())).await?;
            shared.down.notify_one();
            Ok(())
        }
    }
}

async fn say<T: Serialize>(stream: &mut UnixStream, said: Result<T, String>) -> io::Result<()> {
    let answer = match said {
        Ok(value) => Answer::Ok(value),
        Err(message) => Answer::Error(message),
    };
    send(stream, &answer, &[]).await
}

fn stdio(fds: Vec<OwnedFd>) -> Option<[OwnedFd; 3]> {
    fds.try_into().ok()
}

async fn wait_up(shared: &Shared) -> Result<Up, String> {
    let mut progress = shared.progress.subscribe();
    let settled = progress.wait_for(|p| !matches!(p, Progress::Starting(_))).await;
    match settled.map(|p| p.clone()) {
        Ok(Progress::Up(up)) => Ok(up),
        Ok(Progress::Failed(why)) => Err(why),
        Ok(Progress::Starting(_)) | Err(_) => Err("the lab ended while it was starting".to_owned()),
    }
}

async fn start_service(shared: &Arc<Shared>, service: crate::protocol::ServiceCommand) -> Result<(), String> {
    let site = place::resolve(shared, &service.command.place)?;
    let netns = site.entrance.net.clone();
    shared.services.start(&service, site)?;
    match (service.ready, netns) {
        (Some(address), Some(netns)) => shared.services.accepts(&service.name, &netns, address).await,
        (Some(_), None) | (None, _) => Ok(()),
    }
}
