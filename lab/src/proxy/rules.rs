//! What the index says, as nftables transactions.
//!
//! ```text
//! prerouting, output (nat, dstnat)  ─▶ services ─▶ map services4/6: ClusterIP . protocol . port ─▶ chain of that frontend
//!                                                                  └─ mark what has to be masqueraded, dnat to one backend
//! postrouting (nat, srcnat)         ─▶ masquerade what is marked, and what came back to its own sender
//! input, forward, output (filter)   ─▶ set closed4/6: ClusterIP . protocol . port without backends ─▶ refused
//! forward, output (filter)          ─▶ set ranges4/6: what is for a ClusterIP still, and nothing has translated ─▶ refused
//! ```

use std::collections::BTreeMap;
use std::net::IpAddr;

use daisy_api::Cidr;
use daisy_nftables::{
    Batch, Chain, ChainType, Element, Hook, IpFamily, KeyType, Reject, Rule, Selector, Set, Spread, Table, Verdict, ct_state,
    ct_status, priority,
};

use super::index::{Backends, Frontend};

/// The table that is all the proxy's.
pub const TABLE: &str = "daisy-lab-proxy";
/// The packet mark's bit of what is to be masqueraded, kube-proxy's own.
const MASQUERADE: u32 = 0x4000;
const SERVICES: &str = "services";
const REFUSE: &str = "refuse";

/// One family's sets.
struct Sets {
    services: Set,
    closed: Set,
    hairpin: Set,
    pods: Set,
    ranges: Set,
}

impl Sets {
    fn of(family: IpFamily) -> Self {
        let (number, address) = match family {
            IpFamily::V4 => (4, KeyType::Ipv4Addr),
            IpFamily::V6 => (6, KeyType::Ipv6Addr),
        };
        let frontend = [address, KeyType::InetProto, KeyType::InetService];
        Self {
            services: Set::new(format!("services{number}"), frontend).verdicts(),
            closed: Set::new(format!("closed{number}"), frontend),
            hairpin: Set::new(format!("hairpin{number}"), [address, address]),
            pods: Set::new(format!("pods{number}"), [address]).interval(),
            ranges: Set::new(format!("ranges{number}"), [address]).interval(),
        }
    }

    fn all(&self) -> [&Set; 5] {
        [&self.services, &self.closed, &self.hairpin, &self.pods, &self.ranges]
    }
}

/// What is in the kernel, and how it is changed.
pub(crate) struct Rules {
    table: Table,
    cluster_cidrs: Vec<Cidr>,
    service_cidrs: Vec<Cidr>,
    programmed: BTreeMap<Frontend, Backends>,
    /// Addresses of backends, and how many frontends each stands behind.
    hairpins: BTreeMap<IpAddr, usize>,
    four: Sets,
    six: Sets,
}

impl Rules {
    /// Nothing programmed. What comes from outside of `cluster_cidrs` to a ClusterIP will be masqueraded, as by kube-proxy with
    /// `--cluster-cidr`. What is for one of `service_cidrs`, and is no Service yet or no longer, stays on the node: kube-proxy in nftables
    /// mode drops it, here it is refused, so that nobody waits a second for his next try.
    pub(crate) fn new(cluster_cidrs: Vec<Cidr>, service_cidrs: Vec<Cidr>) -> Self {
        let (four, six) = (Sets::of(IpFamily::V4), Sets::of(IpFamily::V6));
        let (programmed, hairpins) = (BTreeMap::new(), BTreeMap::new());
        Self { table: Table::inet(TABLE), cluster_cidrs, service_cidrs, programmed, hairpins, four, six }
    }

    /// The transaction that makes the table anew, with everything that is programmed.
    pub(crate) fn rebuild(&mut self) -> Batch {
        let mut batch = Batch::new();
        self.skeleton(&mut batch);
        let programmed = std::mem::take(&mut self.programmed);
        self.hairpins.clear();
        for (frontend, backends) in programmed {
            self.change(&mut batch, frontend, Some(backends));
        }
        batch
    }

    /// The transaction that makes these changes.
    pub(crate) fn apply(&mut self, changes: Vec<(Frontend, Option<Backends>)>) -> Batch {
        let mut batch = Batch::new();
        for (frontend, backends) in changes {
            self.change(&mut batch, frontend, backends);
        }
        batch
    }

    /// How many frontends are programmed.
    pub(crate) fn len(&self) -> usize {
        self.programmed.len()
    }

    fn sets(&self, family: IpFamily) -> &Sets {
        match family {
            IpFamily::V4 => &self.four,
            IpFamily::V6 => &self.six,
        }
    }

    fn skeleton(&self, batch: &mut Batch) {
        let table = &self.table;
        batch.replace_table(table);
        let families = [IpFamily::V4, IpFamily::V6];
        for family in families {
            for set in self.sets(family).all() {
                batch.add_set(table, set);
            }
            let of_family = |cidrs: &[Cidr]| -> Vec<Element> {
                let cidrs = cidrs.iter().filter(|c| IpFamily::of(c.address()) == family);
                cidrs.map(|c| Element::new(c.network())).collect()
            };
            batch.add_elements(table, &self.sets(family).pods, of_family(&self.cluster_cidrs));
            batch.add_elements(table, &self.sets(family).ranges, of_family(&self.service_cidrs));
        }
        batch.add_chain(table, &Chain::new(SERVICES)).add_chain(table, &Chain::new(REFUSE));
        let key = |family| [Selector::daddr(family), Selector::L4Proto, Selector::Dport];
        for family in families {
            batch.add_rule(table, SERVICES, &Rule::new().verdict_map(&key(family), &self.sets(family).services.name));
        }
        batch.add_rule(table, REFUSE, &Rule::new().reject(Reject::TcpReset)).add_rule(
            table,
            REFUSE,
            &Rule::new().reject(Reject::PortUnreachable),
        );
        for (name, hook) in [("prerouting", Hook::Prerouting), ("output", Hook::Output)] {
            batch.add_chain(table, &Chain::base(name, ChainType::Nat, hook, priority::DSTNAT));
            batch.add_rule(table, name, &Rule::new().jump(SERVICES));
        }
        batch.add_chain(table, &Chain::base("postrouting", ChainType::Nat, Hook::Postrouting, priority::SRCNAT));
        let marked = Rule::new().mark_masked(MASQUERADE, MASQUERADE).set_mark_masked(MASQUERADE, 0).masquerade();
        batch.add_rule(table, "postrouting", &marked.comment("from outside of the cluster"));
        for family in families {
            let pair = [Selector::saddr(family), Selector::daddr(family)];
            let back = Rule::new().ct_status(ct_status::DNAT).in_set(&pair, &self.sets(family).hairpin.name).masquerade();
            batch.add_rule(table, "postrouting", &back.comment("back to its own sender"));
        }
        for (name, hook) in [("filter-input", Hook::Input), ("filter-forward", Hook::Forward), ("filter-output", Hook::Output)]
        {
            batch.add_chain(table, &Chain::base(name, ChainType::Filter, hook, priority::FILTER));
            for family in families {
                let closed = Rule::new().ct_state(ct_state::NEW).in_set(&key(family), &self.sets(family).closed.name);
                batch.add_rule(table, name, &closed.jump(REFUSE));
                if hook != Hook::Input {
                    let untranslated = Rule::new().ct_state(ct_state::NEW);
                    let untranslated = untranslated.in_set(&[Selector::daddr(family)], &self.sets(family).ranges.name);
                    batch.add_rule(table, name, &untranslated.jump(REFUSE));
                }
            }
        }
    }

    fn change(&mut self, batch: &mut Batch, frontend: Frontend, new: Option<Backends>) {
        let family = IpFamily::of(frontend.address);
        let old = match &new {
            Some(backends) => self.programmed.insert(frontend, backends.clone()),
            None => self.programmed.remove(&frontend),
        };
        self.change_hairpins(batch, old.as_ref(), new.as_ref());
        let state = |backends: Option<&Backends>| backends.map(|b| !b.targets.is_empty());
        let (was, is) = (state(old.as_ref()), state(new.as_ref()));
        let (table, sets, chain) = (&self.table, self.sets(family), chain_name(&frontend));
        let element = || Element::new((frontend.address, frontend.protocol, frontend.port));
        if was == Some(true) && is != Some(true) {
            batch.delete_elements(table, &sets.services, [element()]).flush_chain(table, &chain).delete_chain(table, &chain);
        }
        if was == Some(false) && is != Some(false) {
            batch.delete_elements(table, &sets.closed, [element()]);
        }
        if is == Some(false) && was != Some(false) {
            batch.add_elements(table, &sets.closed, [element()]);
        }
        let Some(backends) = new.filter(|_| is == Some(true)) else { return };
        if was == Some(true) {
            batch.flush_chain(table, &chain);
        } else {
            batch.add_chain(table, &Chain::new(&chain));
        }
        if self.cluster_cidrs.iter().any(|c| IpFamily::of(c.address()) == family) {
            let outside = Rule::new().saddr_not_in_set(family, &sets.pods.name).set_mark_masked(MASQUERADE, MASQUERADE);
            batch.add_rule(table, &chain, &outside);
        }
        let spread = match (backends.affinity, family) {
            (false, _) => Spread::Random,
            (true, IpFamily::V4) => Spread::IpSource,
            (true, IpFamily::V6) => Spread::Ip6Source,
        };
        // A comment has at most 253 bytes; a namespace, a name and a port's name have 191 together.
        batch.add_rule(table, &chain, &Rule::new().spread_dnat(spread, &backends.targets).comment(&backends.name));
        if was != Some(true) {
            batch.add_elements(table, &sets.services, [element().verdict(Verdict::Goto(chain))]);
        }
    }

    fn change_hairpins(&mut self, batch: &mut Batch, old: Option<&Backends>, new: Option<&Backends>) {
        let addresses =
            |b: Option<&Backends>| b.map(|b| b.targets.iter().map(|(a, _)| *a).collect::<Vec<_>>()).unwrap_or_default();
        // First those that come, so that one who stays does not leave in between.
        for address in addresses(new) {
            let count = self.hairpins.entry(address).or_default();
            *count += 1;
            if *count == 1 {
                batch.add_elements(&self.table, &self.sets(IpFamily::of(address)).hairpin, [Element::new((address, address))]);
            }
        }
        for address in addresses(old) {
            let Some(count) = self.hairpins.get_mut(&address) else { continue };
            *count -= 1;
            if *count == 0 {
                self.hairpins.remove(&address);
                batch.delete_elements(
                    &self.table,
                    &self.sets(IpFamily::of(address)).hairpin,
                    [Element::new((address, address))],
                );
            }
        }
    }
}

/// A chain's name: what `nft` takes for a name cannot hold colons.
fn chain_name(frontend: &Frontend) -> String {
    let address = frontend.address.to_string().replace(':', "_");
    format!("svc-{address}-{}-{}", frontend.protocol, frontend.port)
}
