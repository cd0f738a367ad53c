//! Services: defaults, what is refused, and the ClusterIPs, as the real API server has them (KEP-563 for two families).

use std::collections::BTreeSet;
use std::net::IpAddr;

use daisy_api::names::is_label;
use k8s_openapi::api::core::v1::{ClientIPConfig, Service, ServicePort, ServiceSpec, SessionAffinityConfig};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::field::{FieldError, Invalid};
use crate::control_plane::allocator::{Allocator, family_name};

/// `clusterIP` of a headless Service.
pub(crate) const HEADLESS: &str = "None";
const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const FAMILIES: [&str; 2] = ["IPv4", "IPv6"];
const POLICIES: [&str; 3] = ["PreferDualStack", "RequireDualStack", "SingleStack"];
/// How long ClientIP affinity lasts where nothing is said, in seconds.
const AFFINITY_SECONDS: i32 = 10_800;

/// Fills in what was left open and refuses what cannot be; addresses come afterwards, by [`allocate`].
pub(crate) fn admit(service: &mut Service, old: Option<&Service>) -> Result<(), Invalid> {
    let name = service.metadata.name.clone().unwrap_or_default();
    let mut errors = Vec::new();
    // A Service's name is an RFC 1035 label: it may not begin with a digit.
    if !name.is_empty() && (!is_label(&name) || name.starts_with(|c: char| c.is_ascii_digit())) {
        let why = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic \
                   character, and end with an alphanumeric character (e.g. 'my-name')";
        errors.push(FieldError::invalid("metadata.name", &name, why));
    }
    let Some(spec) = service.spec.as_mut() else {
        return Err(FieldError::required("spec", "a Service has a spec").into());
    };
    if let Some(old) = old.and_then(|o| o.spec.as_ref()) {
        carry_over(spec, old);
    }
    set_defaults(spec);
    errors.extend(check(spec));
    if let Some(old) = old.and_then(|o| o.spec.as_ref()) {
        errors.extend(check_change(spec, old));
    }
    if errors.is_empty() { Ok(()) } else { Err(Invalid(errors)) }
}

/// What Kubernetes calls patching allocated values: who replaces a Service from a manifest does not know its addresses.
fn carry_over(spec: &mut ServiceSpec, old: &ServiceSpec) {
    let external = |s: &ServiceSpec| s.type_.as_deref() == Some("ExternalName");
    if external(spec) || external(old) {
        return;
    }
    let given = |s: &Option<String>| s.as_deref().is_some_and(|s| !s.is_empty());
    if !given(&spec.cluster_ip) && spec.cluster_ips.as_ref().is_none_or(Vec::is_empty) {
        spec.cluster_ip.clone_from(&old.cluster_ip);
        spec.cluster_ips.clone_from(&old.cluster_ips);
    } else if spec.cluster_ips.as_ref().is_none_or(Vec::is_empty) && spec.cluster_ip == old.cluster_ip {
        spec.cluster_ips.clone_from(&old.cluster_ips);
    }
    if spec.ip_families.as_ref().is_none_or(Vec::is_empty) {
        spec.ip_families.clone_from(&old.ip_families);
    }
    if spec.ip_family_policy.is_none() {
        spec.ip_family_policy.clone_from(&old.ip_family_policy);
    }
    // Going back to one family needs no more than the policy to be changed.
    if spec.ip_family_policy.as_deref() == Some("SingleStack") && old.ip_family_policy.as_deref() != Some("SingleStack") {
        if spec.cluster_ips == old.cluster_ips
            && let Some(ips) = spec.cluster_ips.as_mut()
        {
            ips.truncate(1);
        }
        if spec.ip_families == old.ip_families
            && let Some(families) = spec.ip_families.as_mut()
        {
            families.truncate(1);
        }
    }
}

fn set_defaults(spec: &mut ServiceSpec) {
    let kind = spec.type_.get_or_insert_with(|| "ClusterIP".to_owned()).clone();
    spec.session_affinity.get_or_insert_with(|| "None".to_owned());
    if spec.session_affinity.as_deref() == Some("ClientIP") {
        let config = spec.session_affinity_config.get_or_insert_with(SessionAffinityConfig::default);
        config.client_ip.get_or_insert_with(ClientIPConfig::default).timeout_seconds.get_or_insert(AFFINITY_SECONDS);
    } else {
        spec.session_affinity_config = None;
    }
    for port in spec.ports.iter_mut().flatten() {
        port.protocol.get_or_insert_with(|| "TCP".to_owned());
        let open = match &port.target_port {
            None | Some(IntOrString::Int(0)) => true,
            Some(IntOrString::String(s)) => s.is_empty(),
            Some(IntOrString::Int(_)) => false,
        };
        if open {
            port.target_port = Some(IntOrString::Int(port.port));
        }
    }
    if kind != "ExternalName" {
        spec.internal_traffic_policy.get_or_insert_with(|| "Cluster".to_owned());
    }
    if kind == "NodePort" || kind == "LoadBalancer" {
        spec.external_traffic_policy.get_or_insert_with(|| "Cluster".to_owned());
    }
    // `clusterIP` and `clusterIPs[0]` are one field under two names.
    let first = spec.cluster_ips.as_ref().and_then(|ips| ips.first().cloned());
    match (spec.cluster_ip.as_deref().unwrap_or_default(), first) {
        ("", Some(first)) => spec.cluster_ip = Some(first),
        ("", None) | (_, Some(_)) => {}
        (given, None) => spec.cluster_ips = Some(vec![given.to_owned()]),
    }
}

fn check(spec: &ServiceSpec) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let kind = spec.type_.as_deref().unwrap_or_default();
    if !TYPES.contains(&kind) {
        errors.push(FieldError::unsupported("spec.type", kind, &TYPES));
    }
    let headless = spec.cluster_ip.as_deref() == Some(HEADLESS);
    let ports = spec.ports.as_deref().unwrap_or_default();
    if kind == "ExternalName" {
        if spec.external_name.as_deref().unwrap_or_default().is_empty() {
            errors.push(FieldError::required("spec.externalName", "a Service of type ExternalName says where it leads"));
        }
        if spec.cluster_ip.as_deref().is_some_and(|ip| !ip.is_empty()) {
            errors.push(FieldError::invalid("spec.clusterIP", &spec.cluster_ip, "may not be set for ExternalName services"));
        }
    } else if ports.is_empty() && !headless {
        errors.push(FieldError::required("spec.ports", "a Service with a ClusterIP has at least one port"));
    }
    if headless && (kind == "NodePort" || kind == "LoadBalancer") {
        errors.push(FieldError::invalid("spec.clusterIPs", HEADLESS, format!("may not be set to 'None' for {kind} services")));
    }
    errors.extend(check_ports(ports));
    errors.extend(check_affinity(spec));
    errors.extend(check_families(spec));
    errors
}

fn check_ports(ports: &[ServicePort]) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let (mut names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    for (index, port) in ports.iter().enumerate() {
        let path = |field: &str| format!("spec.ports[{index}].{field}");
        let name = port.name.as_deref().unwrap_or_default();
        if name.is_empty() {
            if ports.len() > 1 {
                errors.push(FieldError::required(path("name"), "each of several ports has a name"));
            }
        } else if !is_label(name) {
            errors.push(FieldError::invalid(path("name"), name, "a port's name is a DNS label"));
        } else if !names.insert(name) {
            errors.push(FieldError::duplicate(path("name"), name));
        }
        if !(1..=65_535).contains(&port.port) {
            errors.push(FieldError::invalid(path("port"), port.port, "must be between 1 and 65535, inclusive"));
        }
        let protocol = port.protocol.as_deref().unwrap_or_default();
        if !PROTOCOLS.contains(&protocol) {
            errors.push(FieldError::unsupported(path("protocol"), protocol, &PROTOCOLS));
        }
        match &port.target_port {
            Some(IntOrString::Int(n)) if !(1..=65_535).contains(n) => {
                errors.push(FieldError::invalid(path("targetPort"), n, "must be between 1 and 65535, inclusive"));
            }
            Some(IntOrString::String(s)) if !is_label(s) || s.len() > 15 || !s.contains(|c: char| c.is_ascii_lowercase()) => {
                errors.push(FieldError::invalid(
                    path("targetPort"),
                    s,
                    "a named port is a label of at most 15 bytes (RFC 6335)",
                ));
            }
            Some(_) | None => {}
        }
        if !numbers.insert((port.port, protocol)) {
            errors.push(FieldError::duplicate(format!("spec.ports[{index}]"), format!("{}/{protocol}", port.port)));
        }
    }
    errors
}

fn check_affinity(spec: &ServiceSpec) -> Option<FieldError> {
    let affinity = spec.session_affinity.as_deref().unwrap_or_default();
    if affinity != "None" && affinity != "ClientIP" {
        return Some(FieldError::unsupported("spec.sessionAffinity", affinity, &["ClientIP", "None"]));
    }
    let config = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref());
    let seconds = config.and_then(|c| c.timeout_seconds)?;
    (!(1..=86_400).contains(&seconds)).then(|| {
        let path = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
        FieldError::invalid(path, seconds, "must be greater than 0 and at most 86400")
    })
}

fn check_families(spec: &ServiceSpec) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let families = spec.ip_families.as_deref().unwrap_or_default();
    for (index, family) in families.iter().enumerate() {
        if !FAMILIES.contains(&family.as_str()) {
            errors.push(FieldError::unsupported(format!("spec.ipFamilies[{index}]"), family, &FAMILIES));
        } else if families[..index].contains(family) {
            errors.push(FieldError::duplicate(format!("spec.ipFamilies[{index}]"), family));
        }
    }
    if let Some(policy) = spec.ip_family_policy.as_deref() {
        if !POLICIES.contains(&policy) {
            errors.push(FieldError::unsupported("spec.ipFamilyPolicy", policy, &POLICIES));
        } else if policy == "SingleStack" && families.len() > 1 {
            errors.push(FieldError::invalid(
                "spec.ipFamilyPolicy",
                policy,
                "must be RequireDualStack or PreferDualStack with two families",
            ));
        }
    }
    let ips = spec.cluster_ips.as_deref().unwrap_or_default();
    if ips.first().map(String::as_str) != spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty()) {
        errors.push(FieldError::invalid("spec.clusterIPs", ips, "first value must match `clusterIP`"));
    }
    if ips.iter().any(|ip| ip == HEADLESS) {
        if ips.len() > 1 {
            errors.push(FieldError::invalid("spec.clusterIPs", ips, "'None' must be the first and only value"));
        }
        return errors;
    }
    let mut seen = Vec::new();
    for (index, ip) in ips.iter().enumerate() {
        let path = format!("spec.clusterIPs[{index}]");
        match ip.parse::<IpAddr>() {
            Err(_) => errors.push(FieldError::invalid(path, ip, "must be a valid IP address")),
            Ok(ip) if seen.contains(&ip.is_ipv6()) => {
                errors.push(FieldError::invalid(path, ip, "two addresses must be of different families"));
            }
            Ok(ip) => {
                if families.get(index).is_some_and(|f| f != family_name(ip.is_ipv6())) {
                    errors.push(FieldError::invalid(
                        path,
                        ip,
                        format!("expected an {} value as indicated by `ipFamilies[{index}]`", families[index]),
                    ));
                }
                seen.push(ip.is_ipv6());
            }
        }
    }
    errors
}

fn check_change(spec: &ServiceSpec, old: &ServiceSpec) -> Vec<FieldError> {
    let external = |s: &ServiceSpec| s.type_.as_deref() == Some("ExternalName");
    if external(spec) || external(old) {
        return Vec::new();
    }
    let (new_ips, old_ips) = (spec.cluster_ips.as_deref().unwrap_or_default(), old.cluster_ips.as_deref().unwrap_or_default());
    let mut errors = Vec::new();
    if !old_ips.is_empty() && new_ips.first() != old_ips.first() {
        errors.push(FieldError::invalid("spec.clusterIPs[0]", new_ips, "may not change once set"));
    } else if let (Some(new), Some(old)) = (new_ips.get(1), old_ips.get(1))
        && new != old
    {
        errors.push(FieldError::invalid("spec.clusterIPs[1]", new, "may not change once set"));
    }
    let first = |s: &ServiceSpec| s.ip_families.as_ref().and_then(|f| f.first().cloned());
    if first(old).is_some() && first(spec) != first(old) {
        errors.push(FieldError::invalid("spec.ipFamilies[0]", first(spec), "may not change once set"));
    }
    errors
}

/// The addresses that a Service holds.
pub(crate) fn addresses(service: &Service) -> Vec<IpAddr> {
    let spec = service.spec.as_ref();
    let ips = spec.and_then(|s| s.cluster_ips.as_ref()).into_iter().flatten();
    ips.filter_map(|ip| ip.parse().ok()).collect()
}

/// Settles families and addresses.
pub(crate) fn allocate(service: &mut Service, owner: &str, allocator: &mut Allocator<'_>) -> Result<(), Invalid> {
    let Some(spec) = service.spec.as_mut() else { return Ok(()) };
    if spec.type_.as_deref() == Some("ExternalName") {
        spec.cluster_ip = None;
        spec.cluster_ips = None;
        spec.ip_families = None;
        spec.ip_family_policy = None;
        return Ok(());
    }
    let headless = spec.cluster_ip.as_deref() == Some(HEADLESS);
    let families = settle_families(spec, headless, allocator)?;
    spec.ip_families = Some(families.iter().map(|v6| family_name(*v6).to_owned()).collect());
    if headless {
        return Ok(());
    }
    let given: Vec<IpAddr> = spec.cluster_ips.iter().flatten().filter_map(|ip| ip.parse().ok()).collect();
    let take = |(index, ipv6): (usize, &bool)| match given.get(index) {
        Some(address) => allocator.take(*address, owner).map(|()| *address),
        None => allocator.take_any(*ipv6, owner),
    };
    let taken: Vec<IpAddr> = families
        .iter()
        .enumerate()
        .map(take)
        .collect::<Result<_, _>>()
        .map_err(|e| FieldError::invalid("spec.clusterIPs", &given, e))?;
    spec.cluster_ip = taken.first().map(ToString::to_string);
    spec.cluster_ips = Some(taken.iter().map(ToString::to_string).collect());
    Ok(())
}

/// The families in order (true is IPv6): those asked for by address or by name, then what the policy adds.
fn settle_families(spec: &mut ServiceSpec, headless: bool, allocator: &Allocator<'_>) -> Result<Vec<bool>, Invalid> {
    let ips = spec.cluster_ips.iter().flatten();
    let mut families: Vec<bool> = ips.filter_map(|ip| ip.parse::<IpAddr>().ok()).map(|ip| ip.is_ipv6()).collect();
    for family in spec.ip_families.iter().flatten() {
        let ipv6 = family == family_name(true);
        if !families.contains(&ipv6) {
            families.push(ipv6);
        }
    }
    // Nobody but its user knows the families of a headless Service without a selector: it gets both.
    let anyones = headless && spec.selector.as_ref().is_none_or(std::collections::BTreeMap::is_empty);
    let policy = match spec.ip_family_policy.as_deref() {
        Some(policy) => policy.to_owned(),
        None if anyones || families.len() > 1 => "RequireDualStack".to_owned(),
        None => "SingleStack".to_owned(),
    };
    let defaults = allocator.default_families();
    if families.is_empty() {
        families.push(defaults.first().copied().unwrap_or(false));
    }
    let other = !families[0];
    if families.len() == 1 && policy != "SingleStack" {
        if anyones || defaults.contains(&other) {
            families.push(other);
        } else if policy == "RequireDualStack" {
            let why = format!("this cluster is not configured for dual-stack services: it has no {} range", family_name(other));
            return Err(FieldError::invalid("spec.ipFamilyPolicy", policy, why).into());
        }
    }
    if !anyones && let Some(absent) = families.iter().find(|v6| !allocator.has_family(**v6)) {
        let why = format!("not configured on this cluster: no ServiceCIDR is of {}", family_name(*absent));
        return Err(FieldError::invalid("spec.ipFamilies", family_name(*absent), why).into());
    }
    spec.ip_family_policy = Some(policy);
    Ok(families)
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;
