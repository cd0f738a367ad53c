//! The router between the laptops and staging.

use anyhow::Result;

use super::Bed;

/// Who answers names on the bed; the only address of the world outside.
pub(super) const NAMES: &str = "203.0.113.1";
/// The tunnels' UDP port.
pub const TUNNEL_PORT: u16 = 41820;
/// The port of a kind cluster's API server inside of its network.
pub const BROKER_PORT: u16 = 6443;

/// Makes staging's network, and says what passes between it and a laptop's; the laptops' come with their clusters (`kind.sh`).
///
/// Docker itself masquerades what leaves a network, so that a laptop is behind NAT, and lets nothing pass from one network to another.
/// To that two things are added: staging's two ports can be reached, and replies pass. What tries to go from one laptop to another, or
/// with an address of a pod or a Service, is counted before it is dropped.
pub(super) fn make(bed: &Bed) -> Result<()> {
    let script = format!(
        "docker network create --subnet 198.51.100.0/24 --gateway 198.51.100.1 \
           --opt com.docker.network.bridge.name=staging staging > /dev/null
         iptables -F DOCKER-USER
         iptables -A DOCKER-USER -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
         iptables -A DOCKER-USER -i laptop-+ -o staging -p udp --dport {TUNNEL_PORT} -j ACCEPT
         iptables -A DOCKER-USER -i laptop-+ -o staging -p tcp --dport {BROKER_PORT} -j ACCEPT
         iptables -A DOCKER-USER -i laptop-+ -o staging -j REJECT
         iptables -A DOCKER-USER -i staging -o laptop-+ -j REJECT
         iptables -A DOCKER-USER -j RETURN
         # Frames between the nodes of one cluster are not the router's.
         [ ! -e /proc/sys/net/bridge/bridge-nf-call-iptables ] || sysctl -qw net.bridge.bridge-nf-call-iptables=0
         nft -f - << 'RULES'
table inet seen {{
  counter between_laptops {{ }}
  counter in_clear {{ }}
  counter through_tunnels {{ }}
  chain router {{
    type filter hook prerouting priority -300;
    iifname \"laptop-*\" ip saddr 192.168.0.0/16 ip daddr 192.168.0.0/16 fib daddr type != local counter name between_laptops
    iifname \"laptop-*\" ip saddr {{ 10.0.0.0/8, 100.64.0.0/10 }} counter name in_clear
    iifname \"laptop-*\" ip daddr {{ 10.0.0.0/8, 100.64.0.0/10 }} counter name in_clear
    iifname \"staging\" ip saddr {{ 10.0.0.0/8, 100.64.0.0/10 }} counter name in_clear
    iifname \"staging\" ip daddr {{ 10.0.0.0/8, 100.64.0.0/10 }} counter name in_clear
    iifname \"laptop-*\" ip daddr 198.51.100.0/24 udp dport {TUNNEL_PORT} counter name through_tunnels
  }}
}}
RULES"
    );
    bed.run(&["bash", "-euo", "pipefail", "-c", &script]).map(drop)
}
