//! One address of the cluster's node range for each node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use daisy_api::Cidr;
use k8s_openapi::jiff::Timestamp;

use super::Syncer;
use super::action::Verb;
use super::agenda::Work;
use super::note::Note;
use crate::object::{Kind, Place, Reference};
use crate::time::Now;

/// A node that is to have an address.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claim<'a> {
    /// Its name.
    pub(super) node: &'a str,
    /// When it was made: of two nodes that claim one address the older keeps it.
    pub(super) created: Option<Timestamp>,
    /// The address that it has.
    pub(super) address: Option<IpAddr>,
}

/// Gives each node an address of the range: what it has, where that is valid and its alone, else the lowest that is free. Never
/// the network's first address, nor the last of an IPv4 network. A node for which none is left is not in the result.
#[must_use]
pub(super) fn assign(range: Cidr, claims: &[Claim<'_>]) -> BTreeMap<String, IpAddr> {
    let usable = |address: IpAddr| {
        let last = !range.is_ipv6() && range.prefix() < 31 && !range.contains(next(address));
        range.contains(address) && address != range.address() && !last
    };
    let mut ordered: Vec<&Claim<'_>> = claims.iter().collect();
    ordered.sort_by_key(|claim| (claim.created.is_none(), claim.created, claim.node));
    let mut taken: BTreeSet<IpAddr> = BTreeSet::new();
    let mut given = BTreeMap::new();
    for claim in &ordered {
        if let Some(address) = claim.address.filter(|address| usable(*address))
            && taken.insert(address)
        {
            given.insert(claim.node.to_owned(), address);
        }
    }
    let mut n = 0;
    for claim in ordered {
        if given.contains_key(claim.node) {
            continue;
        }
        let free = loop {
            n += 1;
            match range.nth(n) {
                Some(address) if !usable(address) => break None,
                Some(address) if taken.contains(&address) => {}
                other => break other,
            }
        };
        let Some(address) = free else { break };
        taken.insert(address);
        given.insert(claim.node.to_owned(), address);
    }
    given
}

fn next(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) => IpAddr::V4(u32::from(v4).wrapping_add(1).into()),
        IpAddr::V6(v6) => IpAddr::V6(u128::from(v6).wrapping_add(1).into()),
    }
}

impl Syncer {
    /// The node range: of the Member, or while the broker has not been reached yet, of what a former run wrote.
    fn node_range(&self) -> Option<Cidr> {
        let local = || self.here.clusters.get(&self.id.to_string()).map(|cluster| cluster.spec.node_cidr);
        self.own.member().map(|member| member.node_cidr).or_else(local)
    }

    pub(super) fn decide_nodes(&mut self, since: Duration, now: Now) {
        let mut verbs: Vec<(String, Option<IpAddr>)> = Vec::new();
        if self.leaving.is_some() {
            // The data path holds on to its addresses until it is gone from the node.
            let done = self.here.nodes.iter().filter(|(_, node)| node.clean && node.annotation.is_some());
            verbs.extend(done.map(|(name, _)| (name.clone(), None)));
        } else if let Some(range) = self.node_range() {
            let claims: Vec<Claim<'_>> = self
                .here
                .nodes
                .iter()
                .map(|(name, node)| Claim { node: name, created: node.created, address: node.address() })
                .collect();
            let given = assign(range, &claims);
            let mut without = Vec::new();
            for claim in &claims {
                match given.get(claim.node) {
                    Some(address) if claim.address == Some(*address) => {}
                    Some(address) => verbs.push((claim.node.to_owned(), Some(*address))),
                    None => {
                        without.push(claim.node.to_owned());
                        if claim.address.is_some() {
                            verbs.push((claim.node.to_owned(), None));
                        }
                    }
                }
            }
            for node in without {
                self.note(Note::NodeRangeFull { node, range: range.to_string() });
            }
        }
        for (name, address) in verbs {
            let reference = Reference { place: Place::Here, kind: Kind::Node, namespace: String::new(), name: name.clone() };
            if self.agenda.submit(reference, Verb::Annotate { address }, (&Work::Nodes, since), now)
                && let Some(address) = address
            {
                self.note(Note::NodeAddress { node: name, address });
            }
        }
    }
}
