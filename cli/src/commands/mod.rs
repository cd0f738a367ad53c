//! The user's commands, one file each.

mod broker;
mod coredns;
mod deploy;
mod detect;
mod export;
mod join;
pub(crate) mod kind;
mod kind_config;
pub(crate) mod lab;
mod leave;
mod look;
mod nodes;
mod reload;
mod remains;
mod show;
mod uninstall;
mod unit;

use anyhow::Result;
use clap::CommandFactory;

use crate::arguments::{Arguments, Command};
use crate::roles;

/// Runs any command but the lab.
pub(crate) async fn run(command: Command) -> Result<()> {
    match command {
        Command::DeployBroker(options) => deploy::run(options).await,
        Command::Invite(options) => broker::invite(options).await,
        Command::Members(options) => broker::members(options).await,
        Command::Grant(options) => broker::grant(options).await,
        Command::Evict(options) => broker::evict(options).await,
        Command::Join(options) => join::run(options).await,
        Command::Leave(options) => leave::run(options).await,
        Command::Uninstall(options) => uninstall::run(options).await,
        Command::Export(what) => export::export(what).await,
        Command::Unexport(what) => export::unexport(what).await,
        Command::KindConfig(options) => kind_config::run(options).await,
        Command::Show(what) => show::run(what).await,
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "daisy", &mut text);
            crate::output::print(&String::from_utf8(text)?)
        }
        Command::Broker(options) => roles::broker(options).await,
        Command::Registrar(options) => roles::registrar(options).await,
        Command::Syncer(options) => roles::syncer(options).await,
        Command::Gateway(options) => roles::gateway(options).await,
        Command::RouteAgent(options) => roles::route_agent(options).await,
        Command::Dns(options) => roles::dns(options).await,
        // main() takes this one before there is a runtime.
        Command::Lab(_) => Ok(()),
    }
}
