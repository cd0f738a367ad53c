//! What a broker's administrator types: deploy, invite, members, grant, evict.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use anyhow::{Context, Result};
use daisy_api::Cidr;
use daisy_broker::setup::{self, Invite as Invitation};
use kube::ResourceExt;

use crate::arguments::{BrokerTarget, DeployBroker, Evict, Invite, Members, SetGrant};
use crate::{connect, output, roles};

/// Serves an embedded broker in the foreground; once it serves, writes the first invitation.
pub(crate) async fn deploy(options: DeployBroker) -> Result<()> {
    let (ready, is_ready) = tokio::sync::oneshot::channel();
    let serving = tokio::spawn(roles::serve_broker(options.role, ready));
    let Ok(broker) = is_ready.await else { return serving.await? };
    if options.output.exists() {
        eprintln!("✓ {} is there already and stays as it is; `daisy invite` makes another", options.output.display());
    } else {
        let target = BrokerTarget { broker_kubeconfig: broker.kubeconfig, broker_context: None };
        let client = connect::broker(&target).await?;
        let info = setup::create_invitation(&client, &broker.address, &Invitation::default()).await?;
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&options.output)
            .with_context(|| format!("writing {}", options.output.display()))?;
        file.write_all(info.to_text()?.as_bytes())?;
        eprintln!("✓ the broker serves at {}; clusters join by {}", broker.address.server, options.output.display());
    }
    serving.await?
}

/// Prints a file to join by.
pub(crate) async fn invite(options: Invite) -> Result<()> {
    let client = connect::broker(&options.broker).await?;
    let mut address = setup::address_of(&options.broker.broker_kubeconfig)?;
    if let Some(server) = options.server {
        address.server = server;
    }
    let invitation = Invitation { grant: options.export, ttl: options.ttl, uses: options.uses, ..Invitation::default() };
    let info = setup::create_invitation(&client, &address, &invitation).await?;
    output::print(&info.to_text()?)
}

/// Lists the members.
pub(crate) async fn members(options: Members) -> Result<()> {
    let client = connect::broker(&options.broker).await?;
    let list = |cidrs: &[Cidr]| cidrs.iter().map(Cidr::to_string).collect::<Vec<_>>().join(",");
    let rows: Vec<_> = setup::members(&client)
        .await?
        .into_iter()
        .map(|member| {
            let spec = &member.spec;
            let cells = vec![
                member.name_any(),
                spec.grant.to_string(),
                list(&spec.cluster_cidrs),
                list(&spec.service_cidrs),
                spec.node_cidr.to_string(),
                member.creation_timestamp().map(|t| t.0.to_string()).unwrap_or_default(),
            ];
            (member, cells)
        })
        .collect();
    output::rows(options.format.output, &["cluster", "may export", "pods", "services", "nodes", "joined"], &rows)
}

/// Changes a grant.
pub(crate) async fn grant(options: SetGrant) -> Result<()> {
    let client = connect::broker(&options.broker).await?;
    setup::grant(&client, &options.clusterid, &options.export).await?;
    println!("{}: may export {}", options.clusterid, options.export);
    Ok(())
}

/// Ends a membership.
pub(crate) async fn evict(options: Evict) -> Result<()> {
    let client = connect::broker(&options.broker).await?;
    setup::evict(&client, &options.clusterid).await?;
    println!("{}: is no member any more", options.clusterid);
    Ok(())
}
