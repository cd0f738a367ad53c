use super::*;
use std::collections::BTreeMap;

use daisy_api::labels::{DELIVERY_TABLE, ROUTE_PROTOCOL, ROUTE_TABLE, RULE_PREFERENCE};
use proptest::prelude::*;

use crate::state::{Found, FoundDevice, FoundRoute, FoundRule};

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (0u8..4).prop_map(|n| IpAddr::from([100, 80, 0, n])),
        (0u16..4).prop_map(|n| IpAddr::from([0xfd80, 0, 0, 0, 0, 0, 0, n])),
    ]
}

fn network() -> impl Strategy<Value = Cidr> {
    prop_oneof![
        (0u8..4, 16u8..=24).prop_map(|(n, p)| Cidr::containing(IpAddr::from([10, n, 0, 0]), p).expect("in range")),
        (0u16..4).prop_map(|n| Cidr::containing(IpAddr::from([0xfd00, n, 0, 0, 0, 0, 0, 0]), 48).expect("in range")),
    ]
}

fn vxlan() -> impl Strategy<Value = Vxlan> {
    (0u8..2, address(), 1400u32..1403).prop_map(|(n, mac, mtu)| Vxlan {
        vni: 4841,
        port: 4841,
        local: IpAddr::from([192, 168, 0, n]),
        mac: Mac::of_node(mac),
        mtu,
    })
}

fn target(vxlan: bool) -> impl Strategy<Value = Target> {
    let source = || prop::option::of(address());
    let beneath =
        prop_oneof![source().prop_map(|source| Target::Tunnel { source }), Just(Target::Blackhole), Just(Target::Unreachable),];
    let over = prop_oneof![
        (address(), source()).prop_map(|(via, source)| Target::Node { via, source }),
        source().prop_map(|source| Target::OnVxlan { source }),
    ];
    if vxlan { prop_oneof![beneath, over].boxed() } else { beneath.boxed() }
}

fn key() -> impl Strategy<Value = RouteKey> {
    let table = prop::sample::select(vec![ROUTE_TABLE, DELIVERY_TABLE]);
    let metric = prop::sample::select(vec![10u32, 20, 30]);
    (table, network(), metric).prop_map(|(table, destination, metric)| RouteKey { table, destination, metric })
}

fn rule() -> impl Strategy<Value = Rule> {
    let table = prop::sample::select(vec![ROUTE_TABLE, DELIVERY_TABLE]);
    (any::<bool>(), table, any::<bool>()).prop_map(|(ipv6, table, from_tunnel)| Rule { ipv6, table, from_tunnel })
}

fn filter() -> impl Strategy<Value = Filter> {
    let shape = (any::<bool>(), any::<bool>(), prop::option::of(address()))
        .prop_map(|(gateway, reach_all, node_address)| Shape { gateway, reach_all, node_address, vxlan_port: 4841 });
    let groups = prop::collection::vec(prop::collection::btree_set(network(), 0..3), 5)
        .prop_map(|sets| Group::ALL.into_iter().zip(sets).collect::<BTreeMap<_, _>>());
    (shape, groups).prop_map(|(shape, groups)| Filter { shape, groups })
}

/// Any state that can be: what is on the device is there with the device alone, and a route's source is an address on it.
fn state() -> impl Strategy<Value = State> {
    (prop::option::of(vxlan()), prop::option::of(filter())).prop_flat_map(|(device, filter)| {
        let there = device.is_some();
        let entries = if there { 0..4usize } else { 0..1usize };
        (
            prop::collection::btree_set(address(), entries.clone()),
            prop::collection::btree_map(address().prop_map(Mac::of_node), address(), entries.clone()),
            prop::collection::btree_map(address(), address().prop_map(Mac::of_node), entries),
            prop::collection::btree_map(key(), target(there), 0..6),
            prop::collection::btree_set(rule(), 0..4),
        )
            .prop_map(move |(addresses, forwarding, neighbours, mut routes, rules)| {
                let usable = |t: &Target| t.source().is_none_or(|s| addresses.contains(&s));
                routes.retain(|_, t| usable(t));
                State { device, addresses, forwarding, neighbours, routes, rules, filter: filter.clone() }
            })
    })
}

fn applied(have: &State, changes: &[Change]) -> State {
    let mut out = have.clone();
    changes.iter().for_each(|c| apply(&mut out, c));
    out
}

proptest! {
    #[test]
    fn changes_lead_there(have in state(), want in state()) {
        prop_assert_eq!(applied(&have, &diff(&have, &want)), want);
    }

    #[test]
    fn nothing_leads_to_where_one_is(state in state()) {
        prop_assert_eq!(diff(&state, &state), vec![]);
    }

    /// No route leads anywhere while there is no filter, unless there was none before.
    #[test]
    fn no_new_way_without_the_filter(have in state(), want in state()) {
        let (mut now, start) = (have.clone(), have);
        for change in diff(&start, &want) {
            apply(&mut now, &change);
            if want.filter.is_some() {
                prop_assert!(now.filter.is_some(), "the filter is the first of all: {:?}", change);
            } else if start.filter.is_some() && now.filter.is_none() {
                prop_assert!(now.routes.keys().all(|k| want.routes.contains_key(k)), "and the last");
            }
        }
    }

    /// A network that has something beneath its way, before and after, has it at every moment between.
    #[test]
    fn nothing_is_uncovered_meanwhile(have in state(), want in state()) {
        let covered = |s: &State| -> BTreeSet<(u32, Cidr)> {
            s.routes.iter().filter(|(_, t)| !t.carries()).map(|(k, _)| (k.table, k.destination)).collect()
        };
        let always: BTreeSet<_> = covered(&have).intersection(&covered(&want)).copied().collect();
        let mut now = have.clone();
        for change in diff(&have, &want) {
            apply(&mut now, &change);
            let still = covered(&now);
            prop_assert!(always.iter().all(|n| still.contains(n)), "{:?}", change);
        }
    }

    /// What others made does not come into the state, and so is in no change.
    #[test]
    fn others_things_are_no_part_of_it(
        ours in state(),
        foreign_routes in prop::collection::vec((key(), target(true), 0u8..=255), 0..6),
        foreign_rules in prop::collection::vec((rule(), any::<u32>(), 0u8..=255, any::<bool>()), 0..6),
    ) {
        let is_ours = |protocol: u8| protocol == ROUTE_PROTOCOL;
        let mut found = Found {
            device: ours.device.map_or(FoundDevice::Foreign, FoundDevice::Vxlan),
            addresses: ours.addresses.clone(),
            forwarding: ours.forwarding.clone(),
            neighbours: ours.neighbours.clone(),
            routes: ours.routes.iter().map(|(k, t)| FoundRoute { key: *k, target: *t, protocol: ROUTE_PROTOCOL }).collect(),
            rules: ours.rules.iter().map(|r| FoundRule {
                rule: *r, preference: RULE_PREFERENCE, protocol: ROUTE_PROTOCOL, special: false,
            }).collect(),
        };
        for (key, target, protocol) in foreign_routes.into_iter().filter(|(_, _, p)| !is_ours(*p)) {
            found.routes.push(FoundRoute { key, target, protocol });
        }
        // Of another table, of ours by our protocol.
        found.routes.push(FoundRoute {
            key: RouteKey { table: 254, destination: Cidr::host(IpAddr::from([10, 0, 0, 1])), metric: 10 },
            target: Target::Other,
            protocol: ROUTE_PROTOCOL,
        });
        for (rule, preference, protocol, special) in foreign_rules {
            if !is_ours(protocol) || preference != RULE_PREFERENCE || special {
                found.rules.push(FoundRule { rule, preference, protocol, special });
            }
        }
        prop_assert_eq!(found.ours(), State { filter: None, ..ours });
    }
}
