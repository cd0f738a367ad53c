//! How large a packet may be inside a tunnel.

use daisy_api::labels::{MTU_MIN, WIREGUARD_OVERHEAD};

/// The MTU of the tunnel device over an uplink of this MTU: 60 bytes less where every outer datagram is IPv4, else 80; never under
/// 1280, for IPv6 would go from the device. Under that, outer datagrams are fragmented.
#[must_use]
pub fn tunnel_mtu(uplink: u32, only_ipv4: bool) -> u32 {
    let overhead = if only_ipv4 { WIREGUARD_OVERHEAD.0 } else { WIREGUARD_OVERHEAD.1 };
    uplink.saturating_sub(overhead).clamp(MTU_MIN, 65_535 - WIREGUARD_OVERHEAD.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_room_for_the_outer_headers() {
        assert_eq!(tunnel_mtu(1500, false), 1420);
        assert_eq!(tunnel_mtu(1500, true), 1440);
        assert_eq!(tunnel_mtu(9000, false), 8920);
        assert_eq!(tunnel_mtu(1300, false), 1280);
        assert_eq!(tunnel_mtu(0, true), 1280);
        assert_eq!(tunnel_mtu(u32::MAX, true), 65_455);
    }
}
