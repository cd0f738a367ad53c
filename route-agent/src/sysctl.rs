//! The kernel settings that forwarding needs.

use std::fs;
use std::io;

use tracing::{info, warn};

const FORWARDING: [(&str, &str); 2] =
    [("IPv4", "/proc/sys/net/ipv4/ip_forward"), ("IPv6", "/proc/sys/net/ipv6/conf/all/forwarding")];

/// Sees to it that packets pass through this node, or says that they do not. IPv6 matters where pods have it alone.
pub(crate) fn ensure_forwarding(ipv6: bool) {
    for (family, path) in FORWARDING.into_iter().take(if ipv6 { 2 } else { 1 }) {
        match ensure(path) {
            Ok(false) => {}
            Ok(true) => info!("{family} forwarding was off; it is on now ({path})"),
            Err(error) => {
                warn!(%error, "{family} forwarding is off and cannot be set: no packet passes through this node; set {path} to 1")
            }
        }
    }
}

/// Says whether it had to be changed.
fn ensure(path: &str) -> io::Result<bool> {
    match fs::read_to_string(path) {
        Ok(value) if value.trim() != "0" => Ok(false),
        Ok(_) => fs::write(path, "1").map(|()| true),
        // No such family in this kernel.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
