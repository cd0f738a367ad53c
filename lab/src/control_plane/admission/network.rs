//! EndpointSlices and ServiceCIDRs: defaults, and what is refused.

use std::net::IpAddr;

use daisy_api::Cidr;
use daisy_api::names::is_label;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;

use super::field::{FieldError, Invalid};

/// The most endpoints and ports of a slice (the EndpointSlice API says so).
const ENDPOINTS_MAX: usize = 1000;
const PORTS_MAX: usize = 100;
const ADDRESS_TYPES: [&str; 3] = ["FQDN", "IPv4", "IPv6"];

/// Fills in what was left open of an EndpointSlice, and refuses what cannot be.
pub(crate) fn admit_slice(slice: &mut EndpointSlice, old: Option<&EndpointSlice>) -> Result<(), Invalid> {
    let mut errors = Vec::new();
    let kind = slice.address_type.as_str();
    if !ADDRESS_TYPES.contains(&kind) {
        errors.push(FieldError::unsupported("addressType", kind, &ADDRESS_TYPES));
    }
    if old.is_some_and(|o| o.address_type != kind) {
        errors.push(FieldError::invalid("addressType", kind, "field is immutable"));
    }
    for (what, length, most) in
        [("endpoints", slice.endpoints.len(), ENDPOINTS_MAX), ("ports", slice.ports.as_ref().map_or(0, Vec::len), PORTS_MAX)]
    {
        if length > most {
            let message = format!("Too many: {length}: must have at most {most} items");
            errors.push(FieldError { field: what.to_owned(), reason: "FieldValueTooMany", message });
        }
    }
    for (index, port) in slice.ports.iter_mut().flatten().enumerate() {
        port.name.get_or_insert_default();
        let protocol = port.protocol.get_or_insert_with(|| "TCP".to_owned());
        if !["SCTP", "TCP", "UDP"].contains(&protocol.as_str()) {
            errors.push(FieldError::unsupported(format!("ports[{index}].protocol"), protocol, &["SCTP", "TCP", "UDP"]));
        }
        if port.port.is_some_and(|n| !(1..=65_535).contains(&n)) {
            errors.push(FieldError::invalid(
                format!("ports[{index}].port"),
                port.port,
                "must be between 1 and 65535, inclusive",
            ));
        }
    }
    for (index, endpoint) in slice.endpoints.iter().enumerate() {
        if endpoint.addresses.is_empty() {
            errors.push(FieldError::required(format!("endpoints[{index}].addresses"), "must contain at least 1 address"));
        }
        for (n, address) in endpoint.addresses.iter().enumerate() {
            let parsed = address.parse::<IpAddr>().ok();
            let right = kind == "FQDN" || parsed.is_some_and(|a| a.is_ipv6() == (kind == "IPv6"));
            let special = parsed.is_some_and(|a| a.is_loopback() || a.is_unspecified() || a.is_multicast());
            if !right || special {
                let why = format!("must be an {kind} address that others can reach");
                errors.push(FieldError::invalid(format!("endpoints[{index}].addresses[{n}]"), address, why));
            }
        }
        if endpoint.hostname.as_ref().is_some_and(|h| !is_label(h)) {
            errors.push(FieldError::invalid(format!("endpoints[{index}].hostname"), &endpoint.hostname, "must be a DNS label"));
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(Invalid(errors)) }
}

/// Refuses a ServiceCIDR without one or two ranges of different families, and a change of its ranges.
pub(crate) fn admit_service_cidr(object: &ServiceCIDR, old: Option<&ServiceCIDR>) -> Result<(), Invalid> {
    let texts = |o: &ServiceCIDR| o.spec.as_ref().and_then(|s| s.cidrs.clone()).unwrap_or_default();
    let cidrs = texts(object);
    if cidrs.is_empty() || cidrs.len() > 2 {
        return Err(FieldError::invalid("spec.cidrs", &cidrs, "one range, or one of each family").into());
    }
    let mut families = Vec::new();
    for (index, text) in cidrs.iter().enumerate() {
        match text.parse::<Cidr>() {
            Err(error) => return Err(FieldError::invalid(format!("spec.cidrs[{index}]"), text, error).into()),
            Ok(cidr) if families.contains(&cidr.is_ipv6()) => {
                return Err(
                    FieldError::invalid("spec.cidrs", &cidrs, "may specify no more than one range of each family").into()
                );
            }
            Ok(cidr) => families.push(cidr.is_ipv6()),
        }
    }
    if old.is_some_and(|o| !cidrs.starts_with(&texts(o))) {
        return Err(
            FieldError::invalid("spec.cidrs", &cidrs, "field is immutable, but that a second family may be added").into()
        );
    }
    Ok(())
}

/// The ranges of a stored ServiceCIDR; those that do not parse are left out.
pub(crate) fn ranges(object: &ServiceCIDR) -> Vec<Cidr> {
    let texts = object.spec.as_ref().and_then(|s| s.cidrs.as_ref());
    texts.into_iter().flatten().filter_map(|c| c.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn slice(value: serde_json::Value) -> EndpointSlice {
        serde_json::from_value(value).expect("an EndpointSlice")
    }

    #[test]
    fn a_slices_addresses_are_of_its_type() {
        let mut good = slice(
            json!({ "metadata": {}, "addressType": "IPv4", "endpoints": [{ "addresses": ["10.0.0.1"] }], "ports": [{ "port": 80 }] }),
        );
        admit_slice(&mut good, None).expect("admitted");
        let port = &good.ports.as_ref().expect("ports")[0];
        assert_eq!((port.name.as_deref(), port.protocol.as_deref()), (Some(""), Some("TCP")));
        for (kind, address) in
            [("IPv4", "fd00::1"), ("IPv6", "10.0.0.1"), ("IPv4", "127.0.0.1"), ("IPv4", "x"), ("IP", "10.0.0.1")]
        {
            let mut bad = slice(json!({ "metadata": {}, "addressType": kind, "endpoints": [{ "addresses": [address] }] }));
            assert!(admit_slice(&mut bad, None).is_err(), "{kind} {address}");
        }
        let mut other = slice(json!({ "metadata": {}, "addressType": "IPv6", "endpoints": [] }));
        assert!(admit_slice(&mut other, Some(&good)).is_err());
    }

    #[test]
    fn a_servicecidr_has_a_range_of_each_family_at_most() {
        let cidr = |cidrs: &[&str]| -> ServiceCIDR {
            serde_json::from_value(json!({ "metadata": {}, "spec": { "cidrs": cidrs } })).expect("a ServiceCIDR")
        };
        let one = cidr(&["10.96.0.0/16"]);
        admit_service_cidr(&one, None).expect("one");
        admit_service_cidr(&cidr(&["10.96.0.0/16", "fd00::/112"]), Some(&one)).expect("one more family");
        for bad in [&[][..], &["10.96.0.1/16"], &["x"], &["10.0.0.0/16", "10.1.0.0/16"], &["10.97.0.0/16"]] {
            assert!(admit_service_cidr(&cidr(bad), Some(&one)).is_err(), "{bad:?}");
        }
    }
}
