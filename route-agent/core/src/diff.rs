//! From what is to what is to be: the changes, in an order in which no packet passes that neither allows.
//!
//! The filter is there before the first route and goes after the last one. A network's blackhole is there before what lies
//! above it, so that a route that goes never uncovers the host's default route.

use std::collections::BTreeSet;
use std::net::IpAddr;

use daisy_api::Cidr;

use crate::filter::{Filter, Group, Shape};
use crate::state::{Mac, RouteKey, Rule, State, Target, Vxlan};

/// One step for the filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FilterChange {
    /// Makes it, or makes it anew, as a whole.
    Set(Filter),
    /// Changes its rules, and leaves its sets.
    Shape(Shape),
    /// Changes a group of networks in it.
    Group {
        /// The group.
        group: Group,
        /// What comes into it.
        add: BTreeSet<Cidr>,
        /// What goes out of it; what comes in may overlap that.
        remove: BTreeSet<Cidr>,
    },
    /// Removes it.
    Remove,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Changes the filter.
    Filter(FilterChange),
    /// Makes the VXLAN device.
    AddDevice(Vxlan),
    /// Removes it, and with it its addresses, neighbours and routes.
    RemoveDevice,
    /// Sets its MTU.
    SetMtu(u32),
    /// Gives it an address.
    AddAddress(IpAddr),
    /// Takes one from it, and with it the IPv4 routes that name it as their source.
    RemoveAddress(IpAddr),
    /// Says which node an Ethernet address is behind.
    SetForwarding(Mac, IpAddr),
    /// Forgets that.
    RemoveForwarding(Mac),
    /// Says an address' Ethernet address.
    SetNeighbour(IpAddr, Mac),
    /// Forgets that.
    RemoveNeighbour(IpAddr),
    /// Adds a route, or puts it into the place of ours of the same key.
    SetRoute(RouteKey, Target),
    /// Removes one.
    RemoveRoute(RouteKey),
    /// Adds a rule.
    AddRule(Rule),
    /// Removes one.
    RemoveRule(Rule),
}

/// The changes that lead from `have` to `want`; none where they are equal.
#[must_use]
pub fn diff(have: &State, want: &State) -> Vec<Change> {
    let mut have = have.clone();
    let mut out = Vec::new();
    let mut step = |have: &mut State, change: Change| {
        apply(have, &change);
        out.push(change);
    };
    for change in filter_changes(have.filter.as_ref(), want.filter.as_ref()) {
        step(&mut have, Change::Filter(change));
    }
    // What catches packets whose way goes, before it goes.
    for (key, target) in want.routes.iter().filter(|(_, t)| !t.carries()) {
        if have.routes.get(key) != Some(target) {
            step(&mut have, Change::SetRoute(*key, *target));
        }
    }
    // Rules go before the routes that they lead to, and come after them.
    for rule in have.rules.clone().difference(&want.rules) {
        step(&mut have, Change::RemoveRule(*rule));
    }
    for (key, target) in have.routes.clone() {
        if target.carries() && !want.routes.contains_key(&key) {
            step(&mut have, Change::RemoveRoute(key));
        }
    }
    for change in device_changes(&have, want) {
        step(&mut have, change);
    }
    for change in entry_changes(&have, want) {
        step(&mut have, change);
    }
    for (key, target) in &want.routes {
        if have.routes.get(key) != Some(target) {
            step(&mut have, Change::SetRoute(*key, *target));
        }
    }
    for rule in want.rules.difference(&have.rules.clone()) {
        step(&mut have, Change::AddRule(*rule));
    }
    for key in have.routes.clone().into_keys().filter(|k| !want.routes.contains_key(k)) {
        step(&mut have, Change::RemoveRoute(key));
    }
    if want.filter.is_none() && have.filter.is_some() {
        step(&mut have, Change::Filter(FilterChange::Remove));
    }
    out
}

fn filter_changes(have: Option<&Filter>, want: Option<&Filter>) -> Vec<FilterChange> {
    let (have, want) = match (have, want) {
        (_, None) => return Vec::new(),
        (None, Some(want)) => return vec![FilterChange::Set(want.clone())],
        (Some(have), Some(want)) => (have, want),
    };
    let mut out = Vec::new();
    for group in Group::ALL {
        let networks = |filter: &Filter| -> BTreeSet<Cidr> { filter.networks(group).collect() };
        let (before, after) = (networks(have), networks(want));
        if before != after {
            let add = after.difference(&before).copied().collect();
            let remove = before.difference(&after).copied().collect();
            out.push(FilterChange::Group { group, add, remove });
        }
    }
    if have.shape != want.shape {
        out.push(FilterChange::Shape(want.shape));
    }
    out
}

fn device_changes(have: &State, want: &State) -> Vec<Change> {
    match (have.device, want.device) {
        (None, None) => Vec::new(),
        (None, Some(want)) => vec![Change::AddDevice(want)],
        (Some(_), None) => vec![Change::RemoveDevice],
        (Some(have), Some(want)) if have == want => Vec::new(),
        (Some(have), Some(want)) if have.differs_in_mtu_alone(&want) => vec![Change::SetMtu(want.mtu)],
        (Some(_), Some(want)) => vec![Change::RemoveDevice, Change::AddDevice(want)],
    }
}

/// Addresses and neighbours on the device, which is there by now if it is to be.
fn entry_changes(have: &State, want: &State) -> Vec<Change> {
    let mut out = Vec::new();
    if have.device.is_none() {
        return out;
    }
    out.extend(want.addresses.difference(&have.addresses).map(|a| Change::AddAddress(*a)));
    out.extend(have.addresses.difference(&want.addresses).map(|a| Change::RemoveAddress(*a)));
    let stale = have.forwarding.keys().filter(|mac| !want.forwarding.contains_key(mac));
    out.extend(stale.map(|mac| Change::RemoveForwarding(*mac)));
    let set = want.forwarding.iter().filter(|(mac, at)| have.forwarding.get(mac) != Some(at));
    out.extend(set.map(|(mac, at)| Change::SetForwarding(*mac, *at)));
    let stale = have.neighbours.keys().filter(|a| !want.neighbours.contains_key(a));
    out.extend(stale.map(|a| Change::RemoveNeighbour(*a)));
    let set = want.neighbours.iter().filter(|(a, mac)| have.neighbours.get(a) != Some(mac));
    out.extend(set.map(|(a, mac)| Change::SetNeighbour(*a, *mac)));
    out
}

fn apply_to_filter(filter: &mut Option<Filter>, change: &FilterChange) {
    match (change, filter) {
        (FilterChange::Set(new), filter) => *filter = Some(new.clone()),
        (FilterChange::Remove, filter) => *filter = None,
        (FilterChange::Shape(shape), Some(filter)) => filter.shape = *shape,
        (FilterChange::Group { group, add, remove }, Some(filter)) => {
            let networks = filter.groups.entry(*group).or_default();
            networks.retain(|n| !remove.contains(n));
            networks.extend(add);
        }
        (FilterChange::Shape(_) | FilterChange::Group { .. }, None) => {}
    }
}

/// What becomes of a state by a change, as the kernel has it.
pub fn apply(state: &mut State, change: &Change) {
    match change {
        Change::Filter(change) => apply_to_filter(&mut state.filter, change),
        Change::AddDevice(device) => state.device = Some(*device),
        Change::RemoveDevice => {
            state.device = None;
            state.addresses.clear();
            state.forwarding.clear();
            state.neighbours.clear();
            state.routes.retain(|_, target| !target.needs_vxlan());
        }
        Change::SetMtu(mtu) => {
            if let Some(device) = &mut state.device {
                device.mtu = *mtu;
            }
        }
        Change::AddAddress(address) => {
            state.addresses.insert(*address);
        }
        Change::RemoveAddress(address) => {
            state.addresses.remove(address);
            let names_it = |target: &Target| target.source() == Some(*address) && address.is_ipv4();
            state.routes.retain(|_, target| !names_it(target));
        }
        Change::SetForwarding(mac, at) => {
            state.forwarding.insert(*mac, *at);
        }
        Change::RemoveForwarding(mac) => {
            state.forwarding.remove(mac);
        }
        Change::SetNeighbour(address, mac) => {
            state.neighbours.insert(*address, *mac);
        }
        Change::RemoveNeighbour(address) => {
            state.neighbours.remove(address);
        }
        Change::SetRoute(key, target) => {
            state.routes.insert(*key, *target);
        }
        Change::RemoveRoute(key) => {
            state.routes.remove(key);
        }
        Change::AddRule(rule) => {
            state.rules.insert(*rule);
        }
        Change::RemoveRule(rule) => {
            state.rules.remove(rule);
        }
    }
}

#[cfg(test)]
#[path = "diff_tests.rs"]
mod tests;
