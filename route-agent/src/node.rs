//! The node: brings it from what is found to what is to be.

use std::net::IpAddr;

use daisy_api::labels::{NFTABLES_TABLE, TUNNEL_DEVICE, VXLAN_DEVICE};
use daisy_route_agent_core::{
    Change, Filter, FilterChange, Found, FoundDevice, Links, Opening, OpeningChanges, State, apply, diff,
};
use tracing::{debug, error, info, warn};

use crate::error::{NodeError, describe, describe_filter, kind};
use crate::filter::FilterTable;
use crate::metrics::Metrics;
use crate::netlink::Network;

/// What is known of the filter.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Known {
    /// Nothing: an earlier life of the agent may have left one, or a change failed half known.
    Nothing,
    /// That there is none.
    Absent,
    /// That it is this one.
    Is(Filter),
}

/// This node's network, and what of ours is known to be in it.
pub(crate) struct Node {
    network: Network,
    filter: FilterTable,
    metrics: Metrics,
    /// What is there beside the filter; `None` when it must be looked at anew.
    have: Option<State>,
    known: Known,
    /// What failed at the last [`Self::bring`], first of all.
    problem: Option<String>,
}

impl Node {
    /// Takes a node over.
    pub(crate) fn new(network: Network, filter: FilterTable, metrics: Metrics) -> Self {
        Self { network, filter, metrics, have: None, known: Known::Nothing, problem: None }
    }

    /// What is found, and whether any of it, or a filter, is ours.
    pub(crate) async fn leftovers(&mut self) -> Result<(Found, bool), NodeError> {
        let found = self.network.observe().await?;
        let ours = self.filter_exists()? || !found.ours().is_empty();
        Ok((found, ours))
    }

    fn filter_exists(&mut self) -> Result<bool, NodeError> {
        self.filter.exists().map_err(|cause| NodeError::Filter { change: "look for the filter".to_owned(), cause })
    }

    /// What the kernel says of devices that others make.
    pub(crate) async fn links(&self, internal: &[IpAddr]) -> Result<Links, NodeError> {
        self.network.links(internal).await
    }

    /// Lets the tunnel device take packets whose sources' routes lead elsewhere.
    pub(crate) async fn tune_tunnel(&self) {
        if let Err(error) = self.network.tune(TUNNEL_DEVICE).await {
            error!(%error, "packets from other clusters may be dropped as if their sources were forged");
        }
    }

    /// Removes the tunnel device, if a gateway left it.
    pub(crate) async fn remove_tunnel(&self) -> Result<(), NodeError> {
        if self.network.remove_tunnel().await? {
            info!("removed device {TUNNEL_DEVICE}, which a gateway left");
        }
        Ok(())
    }

    /// Somebody else changed something of ours, or may have: it is looked at anew before the next change.
    pub(crate) fn look_again(&mut self) {
        self.have = None;
    }

    /// Why the node is not as it is to be; what failed first, if several things did.
    pub(crate) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// Brings the node into this state. `openings` gives all that is open, `changes` is what of it changed since the last
    /// call. Says whether all of it went well; what did not is logged, and tried again by the next call.
    pub(crate) async fn bring(&mut self, want: &State, openings: impl Fn() -> Vec<Opening>, changes: &OpeningChanges) -> bool {
        self.problem = None;
        match self.try_bring(want, openings, changes).await {
            Ok(failures) => failures == 0,
            Err(error) => {
                self.problem.get_or_insert_with(|| error.to_string());
                error!(%error, "the node is not as it is to be; trying again");
                self.have = None;
                // What was to be opened or closed has not been: all of it is put there the next time.
                self.known = Known::Nothing;
                false
            }
        }
    }

    async fn try_bring(
        &mut self,
        want: &State,
        openings: impl Fn() -> Vec<Opening>,
        changes: &OpeningChanges,
    ) -> Result<usize, NodeError> {
        let mut have = match self.have.take() {
            Some(have) => have,
            None => self.observe(want).await?,
        };
        have.filter = match &self.known {
            Known::Is(filter) => Some(filter.clone()),
            Known::Absent | Known::Nothing => None,
        };
        let (mut failures, mut filter_is_new) = (0, false);
        for change in diff(&have, want) {
            if let Change::Filter(change) = &change {
                // Without the filter, nothing else may come.
                self.change_filter(change, &openings)?;
                filter_is_new |= matches!(change, FilterChange::Set(_));
            } else if let Err(error) = self.network.perform(&change).await {
                self.metrics.errors.with_label_values(&[kind(&change)]).inc();
                error!(%error, "a change failed; trying again");
                self.problem.get_or_insert_with(|| error.to_string());
                failures += 1;
                continue;
            }
            debug!("{}", describe(&change));
            self.metrics.changes.with_label_values(&[kind(&change)]).inc();
            apply(&mut have, &change);
        }
        if want.filter.is_none() && self.known == Known::Nothing {
            self.change_filter(&FilterChange::Remove, &openings)?;
        }
        if !filter_is_new && have.filter.is_some() && !changes.is_empty() {
            self.change_openings(changes)?;
        }
        self.known = have.filter.take().map_or(Known::Absent, Known::Is);
        self.metrics.routes.set(i64::try_from(have.routes.len()).unwrap_or(i64::MAX));
        // After a failure, what is there is not what was reckoned.
        self.have = (failures == 0).then_some(have);
        Ok(failures)
    }

    async fn observe(&mut self, want: &State) -> Result<State, NodeError> {
        let found = self.network.observe().await?;
        if found.device == FoundDevice::Foreign && want.device.is_some() {
            return Err(NodeError::ForeignDevice(VXLAN_DEVICE));
        }
        if matches!(self.known, Known::Is(_)) && !self.filter_exists()? {
            warn!("somebody removed the filter (nftables table inet {NFTABLES_TABLE}); it is made anew");
            self.known = Known::Absent;
        }
        Ok(found.ours())
    }

    fn change_filter(&mut self, change: &FilterChange, openings: &impl Fn() -> Vec<Opening>) -> Result<(), NodeError> {
        let result = match change {
            FilterChange::Set(filter) => self.filter.set(filter, &openings()),
            FilterChange::Shape(shape) => self.filter.shape(*shape),
            FilterChange::Group { group, add, remove } => self.filter.change_group(*group, add, remove),
            FilterChange::Remove => self.filter.remove(),
        };
        result.map_err(|cause| {
            self.metrics.errors.with_label_values(&["filter"]).inc();
            NodeError::Filter { change: describe_filter(change), cause }
        })
    }

    fn change_openings(&mut self, changes: &OpeningChanges) -> Result<(), NodeError> {
        info!(opened = changes.add.len(), closed = changes.remove.len(), "what other clusters may reach here changed");
        self.filter.change_openings(changes).map_err(|cause| {
            self.metrics.errors.with_label_values(&["filter"]).inc();
            NodeError::Filter { change: "change what is open".to_owned(), cause }
        })
    }
}
