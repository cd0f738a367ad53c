//! The Gateway object's status: composed by the role, written by a task of its own, so that nothing waits for the API server.

use std::collections::BTreeMap;
use std::time::Duration;

use daisy_api::labels::{COMPONENT, MANAGED_BY, MANAGED_BY_DAISY};
use daisy_api::{Connection, Gateway, GatewaySpec, GatewayStatus, NodeName};
use daisy_kubernetes::Api;
use k8s_openapi::api::core::v1::Node;
use kube::Resource as _;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{debug, warn};

use super::{RETRY, is_conflict, is_not_found};

/// Between two writes: changes that come together are written together.
const GATHER: Duration = Duration::from_millis(50);
/// How long the last status may take to be written when the gateway ends.
const LAST: Duration = Duration::from_secs(3);

/// Writes the newest status it was given.
pub(super) struct StatusWriter {
    wanted: watch::Sender<Option<GatewayStatus>>,
    task: JoinHandle<()>,
}

impl StatusWriter {
    pub(super) fn new(gateways: Api<Gateway>, nodes: Api<Node>, node: NodeName) -> Self {
        let (wanted, receiver) = watch::channel(None);
        Self { wanted, task: tokio::spawn(write_newest(gateways, nodes, node, receiver)) }
    }

    /// This is the status now.
    pub(super) fn set(&self, status: GatewayStatus) {
        self.wanted.send_if_modified(|wanted| {
            let changed = wanted.as_ref() != Some(&status);
            *wanted = Some(status);
            changed
        });
    }

    /// Writes what is still to be written, for a few seconds at most, and ends.
    pub(super) async fn finish(mut self) {
        // Once there is no more sender, the task writes the newest and ends.
        let (closed, _) = watch::channel(None);
        self.wanted = closed;
        if tokio::time::timeout(LAST, &mut self.task).await.is_err() {
            warn!("the last status could not be written");
        }
    }
}

impl Drop for StatusWriter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn write_newest(
    gateways: Api<Gateway>,
    nodes: Api<Node>,
    node: NodeName,
    mut wanted: watch::Receiver<Option<GatewayStatus>>,
) {
    let mut pause = RETRY.0;
    let mut pending = false;
    loop {
        if !pending && wanted.changed().await.is_err() {
            return;
        }
        let Some(status) = wanted.borrow_and_update().clone() else { continue };
        match write(&gateways, &nodes, &node, &status).await {
            Ok(()) => {
                (pending, pause) = (false, RETRY.0);
                tokio::time::sleep(GATHER).await;
            }
            Err(error) => {
                warn!(%error, "writing the status of Gateway {node} failed; tried again in {pause:?}");
                pending = true;
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY.1);
            }
        }
    }
}

async fn write(gateways: &Api<Gateway>, nodes: &Api<Node>, node: &NodeName, status: &GatewayStatus) -> Result<(), kube::Error> {
    let patch = Patch::Merge(json!({ "status": status }));
    let parameters = PatchParams::default();
    match gateways.patch_status(node.as_str(), &parameters, &patch).await {
        Err(error) if is_not_found(&error) => {}
        other => return other.map(drop),
    }
    let Some(owner) = nodes.get_opt(node.as_str()).await? else {
        warn!("there is no Node {node} any more: its Gateway is not made again");
        return Ok(());
    };
    debug!("making Gateway {node}");
    match gateways.create(&PostParams::default(), &object(node, &owner)).await {
        Err(error) if !is_conflict(&error) => return Err(error),
        _ => {}
    }
    gateways.patch_status(node.as_str(), &parameters, &patch).await.map(drop)
}

/// A Gateway goes with its node: Kubernetes deletes what belongs to an object that is gone.
fn object(node: &NodeName, owner: &Node) -> Gateway {
    let mut gateway = Gateway::new(node.as_str(), GatewaySpec { node: node.clone() });
    let labels = [(MANAGED_BY, MANAGED_BY_DAISY), (COMPONENT, "gateway")];
    gateway.metadata.labels =
        Some(labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect::<BTreeMap<_, _>>());
    gateway.metadata.owner_references = owner.owner_ref(&()).map(|reference| vec![reference]);
    gateway
}

/// Whether there is more between two lists of connections than round-trip times that moved a little.
pub(super) fn differs(a: &[Connection], b: &[Connection]) -> bool {
    let plain = |connection: &Connection| Connection { latency: None, status_message: String::new(), ..connection.clone() };
    let far = |a: &Connection, b: &Connection| match (a.latency, b.latency) {
        (Some(a), Some(b)) => a.average_micros.abs_diff(b.average_micros) * 5 > a.average_micros.max(500),
        (a, b) => a.is_some() != b.is_some(),
    };
    a.len() != b.len() || a.iter().zip(b).any(|(a, b)| plain(a) != plain(b) || far(a, b))
}

#[cfg(test)]
mod tests {
    use daisy_api::{ClusterId, ConnectionStatus, RoundTrip};

    use super::*;

    fn connection(average_micros: u64) -> Connection {
        Connection {
            cluster_id: ClusterId::new("staging").expect("an ID"),
            node: NodeName::new("one").expect("a name"),
            status: ConnectionStatus::Connected,
            status_message: String::new(),
            endpoint: None,
            using_nat: false,
            latency: Some(RoundTrip { average_micros, ..RoundTrip::default() }),
            since: None,
        }
    }

    #[test]
    fn times_that_move_a_little_are_no_news() {
        assert!(!differs(&[connection(1_000)], &[connection(1_150)]));
        assert!(differs(&[connection(1_000)], &[connection(1_300)]));
        assert!(!differs(&[connection(100)], &[connection(190)]));
        assert!(differs(&[connection(100)], &[]));
        let error = Connection { status: ConnectionStatus::Error, ..connection(100) };
        assert!(differs(&[connection(100)], &[error]));
    }
}
