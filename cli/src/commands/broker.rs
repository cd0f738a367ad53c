//! What a broker's administrator types once it is there: invite, members, grant, evict.

use anyhow::{Result, bail};
use daisy_api::Cidr;
use daisy_broker::setup::{self, Invite as Invitation};
use kube::{Client, ResourceExt};

use crate::arguments::{BrokerTarget, Evict, Invite, Members, SetGrant};
use crate::{connect, output};

async fn client(target: &BrokerTarget) -> Result<Client> {
    Ok(Client::try_from(connect::broker(target).await?)?)
}

/// Prints a file to join by.
pub(crate) async fn invite(options: Invite) -> Result<()> {
    let config = connect::broker(&options.broker).await?;
    let client = Client::try_from(config.clone())?;
    // A broker on Kubernetes knows how it was told that others reach it; an embedded one has it in its kubeconfig.
    let mut address = match setup::published_address(&client).await? {
        Some(address) => address,
        None => connect::address(&config)?,
    };
    if let Some(server) = options.server {
        address.server = server;
    }
    if address.ca.is_empty() {
        bail!("the broker's kubeconfig names no certificate authority, and without one nobody could pin the broker");
    }
    let invitation = Invitation {
        grant: options.export,
        ttl: options.ttl,
        uses: options.uses,
        public_cidrs: options.allow_public_cidrs,
        ..Invitation::default()
    };
    let info = setup::create_invitation(&client, &address, &invitation).await?;
    output::print(&info.to_text()?)
}

/// Lists the members.
pub(crate) async fn members(options: Members) -> Result<()> {
    let client = client(&options.broker).await?;
    let list = |cidrs: &[Cidr]| cidrs.iter().map(Cidr::to_string).collect::<Vec<_>>().join(",");
    let rows: Vec<_> = setup::members(&client)
        .await?
        .into_iter()
        .map(|mut member| {
            // Who wrote which field is as long as all the rest, and kubectl has it.
            member.metadata.managed_fields = None;
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
    let client = client(&options.broker).await?;
    setup::grant(&client, &options.clusterid, &options.export).await?;
    println!("{}: may export {}", options.clusterid, options.export);
    Ok(())
}

/// Ends a membership.
pub(crate) async fn evict(options: Evict) -> Result<()> {
    let client = client(&options.broker).await?;
    setup::evict(&client, &options.clusterid).await?;
    println!("{}: is no member any more", options.clusterid);
    Ok(())
}
