//! `daisy deploy-broker --embedded --unit KIND`: the same broker as a service of its host, written out for whoever installs it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use anyhow::{Result, bail};

use crate::arguments::{DATA, DeployBroker, INVITATION, Unit};
use crate::output;

/// Where the broker keeps its data unless it is told otherwise, below `/var/lib`; and a volume's name.
const STATE: &str = "daisy-broker";

/// Prints it.
pub(crate) fn print(options: &DeployBroker, unit: Unit) -> Result<()> {
    output::print(&text(options, unit)?)
}

fn text(options: &DeployBroker, unit: Unit) -> Result<String> {
    // Both formats split and expand what is in a line; no address or name needs more than this.
    let plain = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || ".:-[]_/".contains(c));
    let data = options.data.display().to_string();
    if let Some(odd) = options.advertise.iter().chain([&data]).find(|text| !plain(text)) {
        bail!("{odd:?}: a unit takes letters, digits and . : - _ / [ ] there");
    }
    match unit {
        Unit::Systemd => systemd(options),
        Unit::Podman => podman(options),
    }
}

/// The words after `daisy`.
fn words(options: &DeployBroker, listen: &[SocketAddr], data: &str) -> String {
    let listen = listen.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let advertise = options.advertise.join(",");
    format!("deploy-broker --embedded --data {data} --listen {listen} --advertise {advertise} --output {data}/{INVITATION}")
}

fn systemd(options: &DeployBroker) -> Result<String> {
    let state = match options.data.strip_prefix("/var/lib") {
        Ok(below) if below.components().next().is_some() => below.display().to_string(),
        Err(_) if options.data == Path::new(DATA) => STATE.to_owned(),
        Ok(_) | Err(_) => bail!(
            "--data {}: a systemd unit keeps its data below /var/lib, in a folder of its own: --data /var/lib/{STATE}",
            options.data.display()
        ),
    };
    let words = words(options, &options.listen, &format!("/var/lib/{state}"));
    let low = options.listen.iter().any(|address| (1..1024).contains(&address.port()));
    let capability = if low { "CAP_NET_BIND_SERVICE" } else { "" };
    Ok(format!(
        "# /etc/systemd/system/daisy-broker.service; then: systemctl enable --now daisy-broker
# Clusters join by /var/lib/{state}/{INVITATION}; commands for the broker take
# --broker-kubeconfig /var/lib/{state}/admin.kubeconfig.
[Unit]
Description=Daisy's broker
Wants=network-online.target
After=network-online.target

[Service]
ExecStart=/usr/local/bin/daisy {words}
Restart=always
RestartSec=1
DynamicUser=yes
StateDirectory={state}
StateDirectoryMode=0700
AmbientCapabilities={capability}
CapabilityBoundingSet={capability}
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
PrivateDevices=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
LimitNOFILE=1048576

[Install]
WantedBy=multi-user.target
"
    ))
}

fn podman(options: &DeployBroker) -> Result<String> {
    let volume = match options.data.to_str() {
        // Beside whoever types it, which a service has not.
        Some(DATA) => STATE.to_owned(),
        Some(path) if path.starts_with('/') => path.to_owned(),
        Some(_) | None => {
            bail!("--data {}: a container takes a whole path, from / on; or leave it out", options.data.display())
        }
    };
    let ports: String = options
        .listen
        .iter()
        .map(|address| {
            let port = address.port();
            let host = if address.ip().is_unspecified() { port.to_string() } else { address.to_string() };
            format!("PublishPort={host}:{port}\n")
        })
        .collect();
    // In the container it listens on all addresses; which of the host's lead there, the published ports say.
    let mut inside = options.listen.clone();
    for address in &mut inside {
        address.set_ip(Ipv4Addr::UNSPECIFIED.into());
    }
    inside.sort_unstable();
    inside.dedup();
    let words = words(options, &inside, "/data");
    Ok(format!(
        "# /etc/containers/systemd/daisy-broker.container; then: systemctl daemon-reload && systemctl start daisy-broker
# Clusters join by /data/{INVITATION} in it: podman cp daisy-broker:/data/{INVITATION} .
[Unit]
Description=Daisy's broker

[Container]
ContainerName=daisy-broker
Image={image}
Exec={words}
Volume={volume}:/data
{ports}DropCapability=all
NoNewPrivileges=true
ReadOnly=true

[Service]
Restart=always

[Install]
WantedBy=multi-user.target
",
        image = options.image,
    ))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::arguments::{Arguments, Command};

    fn options(words: &[&str]) -> DeployBroker {
        let line = ["daisy", "deploy-broker", "--embedded"].iter().chain(words);
        let Command::DeployBroker(options) = Arguments::try_parse_from(line).expect("it parses").command else {
            panic!("another command");
        };
        options
    }

    fn unit(words: &[&str]) -> Result<String> {
        let options = options(words);
        text(&options, options.unit.expect("a unit is asked for"))
    }

    #[test]
    fn what_a_unit_runs_is_what_was_asked_for() {
        for kind in ["systemd", "podman"] {
            let text = unit(&["--advertise", "203.0.113.5,broker.example", "--listen", "0.0.0.0:7443", "--unit", kind])
                .expect("a unit");
            let line = text
                .lines()
                .find_map(|l| l.strip_prefix("ExecStart=/usr/local/bin/daisy ").or_else(|| l.strip_prefix("Exec=")));
            let words: Vec<&str> = line.expect("what it runs").split(' ').skip(2).collect();
            let run = options(&words);
            assert_eq!(run.advertise, ["203.0.113.5", "broker.example"]);
            assert_eq!(run.listen, ["0.0.0.0:7443".parse().expect("an address")]);
            assert!(run.data.is_absolute() && run.output.starts_with(&run.data) && run.unit.is_none());
        }
    }

    #[test]
    fn a_unit_has_no_more_rights_than_its_port_takes() {
        let high = unit(&["--advertise", "203.0.113.5", "--unit", "systemd"]).expect("a unit");
        assert!(high.contains("\nCapabilityBoundingSet=\n") && high.contains("\nStateDirectory=daisy-broker\n"));
        let low = unit(&["--advertise", "203.0.113.5", "--listen", "0.0.0.0:443", "--unit", "systemd"]).expect("a unit");
        assert!(low.contains("\nAmbientCapabilities=CAP_NET_BIND_SERVICE\n"));
        let one = unit(&["--advertise", "a.example", "--listen", "192.0.2.1:443,[2001:db8::1]:443", "--unit", "podman"])
            .expect("a unit");
        assert!(one.contains("PublishPort=192.0.2.1:443:443\nPublishPort=[2001:db8::1]:443:443\n"), "{one}");
    }

    #[test]
    fn a_place_for_the_invitation_is_not_ignored() {
        let words = ["daisy", "deploy-broker", "--embedded", "--advertise", "a.example", "--unit", "podman", "--output", "x"];
        let refused = Arguments::try_parse_from(words).err().expect("it is refused").to_string();
        assert!(refused.contains("--output"), "{refused}");
    }

    #[test]
    fn what_no_unit_can_hold_is_refused() {
        for (kind, data, what) in
            [("systemd", "here", "/var/lib"), ("systemd", "/var/lib", "/var/lib"), ("podman", "here", "whole path")]
        {
            let error = unit(&["--advertise", "a.example", "--data", data, "--unit", kind]).expect_err("it is refused");
            assert!(error.to_string().contains(what), "{error}");
        }
        let error = unit(&["--advertise", "a.example%n", "--unit", "systemd"]).expect_err("it is refused");
        assert!(error.to_string().contains("a.example%n"), "{error}");
    }
}
