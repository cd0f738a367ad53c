//! The files that a pod sees in `/etc`. Pure.

use std::fmt::Write;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::PodSpec;

/// The most search domains and their bytes that resolvers and Kubernetes take.
const SEARCHES_MAX: usize = 32;
const NAME_SERVERS_MAX: usize = 3;

/// `/etc/resolv.conf`, as a kubelet writes it for `dnsPolicy` and `dnsConfig`. The lab's nodes have no name server, so `Default`
/// gives none either.
pub(super) fn resolv_conf(spec: &PodSpec, namespace: &str, cluster_dns: Option<IpAddr>, domain: &str) -> String {
    let host_network = spec.host_network.unwrap_or_default();
    let by_cluster = match spec.dns_policy.as_deref() {
        // As Kubernetes has it: who shares the node's network asks as the node does.
        None | Some("ClusterFirst") => !host_network,
        Some("ClusterFirstWithHostNet") => true,
        Some(_) => false,
    };
    let (mut servers, mut searches, mut options) = (Vec::new(), Vec::new(), Vec::new());
    if by_cluster {
        servers.extend(cluster_dns.map(|a| a.to_string()));
        searches = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()];
        options.push(("ndots".to_owned(), Some("5".to_owned())));
    }
    if let Some(config) = &spec.dns_config {
        servers.extend(config.nameservers.iter().flatten().cloned());
        searches.extend(config.searches.iter().flatten().map(|s| s.trim_end_matches('.').to_owned()));
        for option in config.options.iter().flatten() {
            let Some(name) = &option.name else { continue };
            options.retain(|(other, _)| other != name);
            options.push((name.clone(), option.value.clone()));
        }
    }
    dedup(&mut servers);
    dedup(&mut searches);
    let mut text = String::new();
    for server in servers.iter().take(NAME_SERVERS_MAX) {
        // Writing to a String does not fail.
        let _ = writeln!(text, "nameserver {server}");
    }
    if !searches.is_empty() {
        searches.truncate(SEARCHES_MAX);
        let _ = writeln!(text, "search {}", searches.join(" "));
    }
    if !options.is_empty() {
        let words = options.into_iter().map(|(name, value)| value.map_or(name.clone(), |v| format!("{name}:{v}")));
        let _ = writeln!(text, "options {}", words.collect::<Vec<_>>().join(" "));
    }
    text
}

fn dedup(list: &mut Vec<String>) {
    let mut seen = std::collections::BTreeSet::new();
    list.retain(|entry| seen.insert(entry.clone()));
}

/// `/etc/hosts`: the pod's own name, and its `hostAliases`.
pub(super) fn hosts(spec: &PodSpec, hostname: &str, address: IpAddr) -> String {
    let mut text = format!("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n{address} {hostname}\n");
    for alias in spec.host_aliases.iter().flatten() {
        let names = alias.hostnames.iter().flatten().cloned().collect::<Vec<_>>().join(" ");
        // A line without names, or of more than one line, is no line of this file.
        if !names.is_empty() && !names.contains('\n') && alias.ip.parse::<IpAddr>().is_ok() {
            let _ = writeln!(text, "{} {names}", alias.ip);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{PodDNSConfig, PodDNSConfigOption};

    fn dns() -> Option<IpAddr> {
        Some("10.110.0.10".parse().expect("address"))
    }

    #[test]
    fn cluster_first() {
        let text = resolv_conf(&PodSpec::default(), "shop", dns(), "cluster.local");
        let expected =
            "nameserver 10.110.0.10\nsearch shop.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn what_dns_config_adds_comes_last_and_overrides_options() {
        let config = PodDNSConfig {
            searches: Some(vec!["supercluster.local".to_owned(), "cluster.local.".to_owned()]),
            options: Some(vec![
                PodDNSConfigOption { name: Some("ndots".to_owned()), value: Some("2".to_owned()) },
                PodDNSConfigOption { name: Some("edns0".to_owned()), value: None },
            ]),
            nameservers: None,
        };
        let spec = PodSpec { dns_config: Some(config), ..PodSpec::default() };
        let text = resolv_conf(&spec, "shop", dns(), "cluster.local");
        assert!(text.contains("search shop.svc.cluster.local svc.cluster.local cluster.local supercluster.local\n"), "{text}");
        assert!(text.contains("options ndots:2 edns0\n"), "{text}");
    }

    #[test]
    fn the_nodes_own_way() {
        let host = PodSpec { host_network: Some(true), ..PodSpec::default() };
        assert_eq!(resolv_conf(&host, "shop", dns(), "cluster.local"), "");
        let with =
            PodSpec { host_network: Some(true), dns_policy: Some("ClusterFirstWithHostNet".to_owned()), ..PodSpec::default() };
        assert!(resolv_conf(&with, "shop", dns(), "cluster.local").contains("nameserver 10.110.0.10"));
        let none = PodSpec { dns_policy: Some("None".to_owned()), ..PodSpec::default() };
        assert_eq!(resolv_conf(&none, "shop", dns(), "cluster.local"), "");
    }

    #[test]
    fn hosts_has_the_pod_and_its_aliases() {
        use k8s_openapi::api::core::v1::HostAlias;
        let alias = |ip: &str, names: &[&str]| HostAlias {
            ip: ip.to_owned(),
            hostnames: Some(names.iter().map(|n| (*n).to_owned()).collect()),
        };
        let spec = PodSpec {
            host_aliases: Some(vec![alias("10.0.0.9", &["a", "b"]), alias("x", &["c"]), alias("10.0.0.8", &["d\n1.1.1.1 e"])]),
            ..PodSpec::default()
        };
        let text = hosts(&spec, "web-1", "10.10.0.5".parse().expect("address"));
        assert!(text.ends_with("10.10.0.5 web-1\n10.0.0.9 a b\n"), "{text}");
    }
}
