//! Clients for a context of a kubeconfig.

use std::path::Path;

use anyhow::{Context, Result, bail};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::arguments::{BrokerTarget, Target};

/// A client for the cluster that the command names.
pub(crate) async fn cluster(target: &Target) -> Result<Client> {
    let config = match (&target.kubeconfig, &target.context) {
        (None, None) => Config::infer().await.context("no cluster to talk to: give --kubeconfig and --context")?,
        (file, context) => from_file(file.as_deref(), context.as_deref()).await?,
    };
    Ok(Client::try_from(config)?)
}

/// A client for the broker, as its administrator.
pub(crate) async fn broker(target: &BrokerTarget) -> Result<Client> {
    if !target.broker_kubeconfig.exists() {
        bail!(
            "{}: there is no such file; --broker-kubeconfig names the broker's kubeconfig (an embedded broker writes it into its data folder as admin.kubeconfig)",
            target.broker_kubeconfig.display()
        );
    }
    let config = from_file(Some(&target.broker_kubeconfig), target.broker_context.as_deref()).await?;
    Ok(Client::try_from(config)?)
}

async fn from_file(file: Option<&Path>, context: Option<&str>) -> Result<Config> {
    let kubeconfig = match file {
        Some(path) => Kubeconfig::read_from(path).with_context(|| format!("reading kubeconfig {}", path.display()))?,
        None => Kubeconfig::read().context("reading the kubeconfig")?,
    };
    if let Some(context) = context
        && !kubeconfig.contexts.iter().any(|c| c.name == context)
    {
        let known: Vec<&str> = kubeconfig.contexts.iter().map(|c| c.name.as_str()).collect();
        bail!("context {context:?} does not exist in the kubeconfig; it has: {}", known.join(", "));
    }
    let options = KubeConfigOptions { context: context.map(str::to_owned), ..KubeConfigOptions::default() };
    Ok(Config::from_custom_kubeconfig(kubeconfig, &options).await?)
}
