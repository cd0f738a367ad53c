//! Where a Corefile sends which zone, as far as the lab's cluster DNS follows it.

use std::net::{IpAddr, SocketAddr};

use super::DNS_PORT;
use super::parse::{Block, Corefile};

/// What is to be done with a zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// Ask one of these: `forward . ADDRESS...`.
    Forward(Vec<SocketAddr>),
    /// Answer NXDOMAIN: `template ANY ANY` with `rcode NXDOMAIN`.
    NxDomain,
}

/// A zone and what is to be done with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The zone, in lower case without the root's dot.
    pub zone: String,
    /// What is to be done.
    pub route: Route,
}

/// The rules for plain DNS on port 53, in the order of the file. A block with neither a `forward` to addresses nor such a
/// `template` has none, and neither has one for the root, whose `forward` leads out of the cluster.
#[must_use]
pub fn rules(corefile: &Corefile) -> Vec<Rule> {
    let mut rules = Vec::new();
    for block in &corefile.blocks {
        let Some(route) = route(block) else { continue };
        let keys = block.keys.iter().filter(|key| key.plain && key.port == DNS_PORT && !key.is_snippet() && key.zone != ".");
        rules.extend(keys.map(|key| Rule { zone: key.zone.clone(), route: route.clone() }));
    }
    rules
}

/// The zones that the plugin `kubernetes` serves, without those of reverse lookups.
#[must_use]
pub fn kubernetes_zones(corefile: &Corefile) -> Vec<String> {
    let directives = corefile.blocks.iter().flat_map(|block| &block.directives).filter(|d| d.name == "kubernetes");
    directives
        .flat_map(|d| &d.arguments)
        .map(|zone| super::parse::normal(zone))
        .filter(|zone| !zone.ends_with(".arpa"))
        .collect()
}

/// CoreDNS asks `template` before `forward`.
fn route(block: &Block) -> Option<Route> {
    let nothing = block.directives.iter().any(|d| {
        d.name == "template"
            && d.arguments.iter().map(String::as_str).eq(["ANY", "ANY"])
            && d.lines.iter().any(|line| line.iter().map(String::as_str).eq(["rcode", "NXDOMAIN"]))
    });
    if nothing {
        return Some(Route::NxDomain);
    }
    let forward =
        block.directives.iter().find(|d| d.name == "forward" && d.arguments.first().is_some_and(|from| from == "."))?;
    let to: Vec<SocketAddr> = forward.arguments[1..].iter().filter_map(|to| address(to)).collect();
    (!to.is_empty()).then_some(Route::Forward(to))
}

fn address(text: &str) -> Option<SocketAddr> {
    let text = text.strip_prefix("dns://").unwrap_or(text);
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(|ip| (ip, DNS_PORT).into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_stub_zones() {
        let text = "\
.:53 {
    kubernetes Cluster.local in-addr.arpa ip6.arpa
    forward . 192.0.2.1
}
a.example:53 b.example {
    forward . 10.0.0.1 [fd00::1]:5353 fd00::2 /etc/resolv.conf dns://10.0.0.2
}
c.example {
    template ANY ANY {
        rcode NXDOMAIN
    }
    forward . 10.0.0.1
}
d.example {
    template ANY A {
        rcode NXDOMAIN
    }
}
e.example:5353 {
    forward . 10.0.0.1
}
f.example {
    forward g.f.example 10.0.0.1
}
";
        let corefile = Corefile::parse(text).expect("valid");
        let to = ["10.0.0.1:53", "[fd00::1]:5353", "[fd00::2]:53", "10.0.0.2:53"];
        let forward = Route::Forward(to.iter().map(|a| a.parse().expect("address")).collect());
        let rule = |zone: &str, route: &Route| Rule { zone: zone.into(), route: route.clone() };
        assert_eq!(
            rules(&corefile),
            [rule("a.example", &forward), rule("b.example", &forward), rule("c.example", &Route::NxDomain)]
        );
        assert_eq!(kubernetes_zones(&corefile), ["cluster.local"]);
    }
}
