//! Probes of a container: whether it is ready.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::process::Stdio;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::network::connect;
use crate::sys::{Entrance, Netns};

/// Between attempts until the first success: the lab is quick, and people wait for it.
const FIRST_EVERY: Duration = Duration::from_millis(20);
/// The longest of these pauses.
const FIRST_EVERY_MAX: Duration = Duration::from_secs(1);

/// A container's readiness probe, ready to be made.
pub(super) struct Prober {
    action: Action,
    period: Duration,
    timeout: Duration,
    failures: i32,
}

enum Action {
    Connect(SocketAddr),
    Get { to: SocketAddr, path: String, host: String },
    Run(Vec<String>),
}

/// Where probes are made from.
pub(super) struct Site<'a> {
    pub(super) net: &'a Netns,
    pub(super) entrance: Entrance,
    pub(super) environment: &'a [(String, String)],
}

impl Prober {
    /// The prober of a container; `None` where it has no readiness probe, or one of a kind that the lab does not know.
    pub(super) fn of(container: &Container, address: IpAddr) -> Option<Self> {
        let probe = container.readiness_probe.as_ref()?;
        let action = action(probe, container, address);
        if action.is_none() {
            tracing::warn!(
                container = container.name,
                "its readiness probe is of no kind that the lab knows, or names no port"
            );
        }
        let seconds =
            |n: Option<i32>, default: u64| Duration::from_secs(n.and_then(|n| n.try_into().ok()).unwrap_or(default).max(1));
        Some(Self {
            action: action?,
            period: seconds(probe.period_seconds, 10),
            timeout: seconds(probe.timeout_seconds, 1),
            failures: probe.failure_threshold.unwrap_or(3).max(1),
        })
    }

    /// Probes for as long as it is polled, and says each change.
    pub(super) async fn run(&self, site: &Site<'_>, mut ready: impl FnMut(bool)) {
        let (mut failures, mut is_ready, mut pause) = (0, false, FIRST_EVERY);
        loop {
            let passed = tokio::time::timeout(self.timeout, self.once(site)).await;
            let passed = matches!(passed, Ok(Ok(true)));
            failures = if passed { 0 } else { failures + 1 };
            let now = passed || (is_ready && failures < self.failures);
            if now != is_ready {
                is_ready = now;
                ready(now);
            }
            pause = if is_ready { self.period } else { (pause * 2).min(FIRST_EVERY_MAX).min(self.period) };
            tokio::time::sleep(pause).await;
        }
    }

    async fn once(&self, site: &Site<'_>) -> io::Result<bool> {
        match &self.action {
            Action::Connect(to) => connect(site.net, *to).await.map(|_| true),
            Action::Get { to, path, host } => {
                let mut stream = connect(site.net, *to).await?;
                let request = format!(
                    "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: kube-probe/daisy-lab\r\nConnection: close\r\n\r\n"
                );
                stream.write_all(request.as_bytes()).await?;
                // As much as holds a status line: `HTTP/1.1 200`.
                let mut start = [0u8; 12];
                stream.read_exact(&mut start).await?;
                let status = std::str::from_utf8(&start[9..]).ok().and_then(|s| s.parse::<u16>().ok());
                Ok(start.starts_with(b"HTTP/1.") && status.is_some_and(|s| (200..400).contains(&s)))
            }
            Action::Run(command) => {
                let Some((program, arguments)) = command.split_first() else { return Ok(false) };
                let mut process = tokio::process::Command::new(program);
                process.args(arguments).env_clear().envs(site.environment.iter().cloned()).kill_on_drop(true);
                process.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
                site.entrance.clone().prepare(&mut process);
                Ok(process.status().await?.success())
            }
        }
    }
}

fn action(probe: &Probe, container: &Container, address: IpAddr) -> Option<Action> {
    if let Some(tcp) = &probe.tcp_socket {
        return Some(Action::Connect(SocketAddr::new(address, port(&tcp.port, container)?)));
    }
    if let Some(get) = &probe.http_get {
        let host = match &get.host {
            Some(host) => host.parse().ok()?,
            None => address,
        };
        let to = SocketAddr::new(host, port(&get.port, container)?);
        let path =
            get.path.clone().filter(|p| p.starts_with('/') && !p.contains(['\r', '\n'])).unwrap_or_else(|| "/".to_owned());
        return Some(Action::Get { to, path, host: to.to_string() });
    }
    Some(Action::Run(probe.exec.as_ref()?.command.clone().unwrap_or_default()))
}

/// A port by number, or by the name that the container gives it.
fn port(port: &IntOrString, container: &Container) -> Option<u16> {
    match port {
        IntOrString::Int(number) => u16::try_from(*number).ok(),
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|p| p.name.as_deref() == Some(name));
            named.and_then(|p| u16::try_from(p.container_port).ok())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{ContainerPort, TCPSocketAction};

    fn container(port: IntOrString) -> Container {
        Container {
            ports: Some(vec![ContainerPort { name: Some("dns".to_owned()), container_port: 53, ..ContainerPort::default() }]),
            readiness_probe: Some(Probe { tcp_socket: Some(TCPSocketAction { port, host: None }), ..Probe::default() }),
            ..Container::default()
        }
    }

    #[test]
    fn a_probe_may_name_its_host() {
        let get = |host: &str| {
            let probe = serde_json::json!({ "httpGet": { "host": host, "path": "/readyz", "port": 4843 } });
            action(
                &serde_json::from_value(probe).expect("a probe"),
                &Container::default(),
                "10.10.0.2".parse().expect("address"),
            )
        };
        assert!(matches!(get("127.0.0.1"), Some(Action::Get { to, .. }) if to.to_string() == "127.0.0.1:4843"));
        assert!(get("a.name").is_none());
    }

    #[test]
    fn ports_by_number_and_name() {
        let address = "10.10.0.2".parse().expect("address");
        let of = |p| Prober::of(&container(p), address).map(|p| p.action);
        assert!(matches!(of(IntOrString::Int(80)), Some(Action::Connect(to)) if to.to_string() == "10.10.0.2:80"));
        let named = of(IntOrString::String("dns".to_owned()));
        assert!(matches!(named, Some(Action::Connect(to)) if to.to_string() == "10.10.0.2:53"));
        assert!(of(IntOrString::String("web".to_owned())).is_none());
        assert!(of(IntOrString::Int(70_000)).is_none());
    }
}
