//! Clients for a context of a kubeconfig.

use std::path::Path;

use anyhow::{Context, Result, bail};
use base64::Engine;
use daisy_broker::setup::Address;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::arguments::{BrokerTarget, Target};

/// A client for the cluster that the command names.
pub(crate) async fn cluster(target: &Target) -> Result<Client> {
    Ok(Client::try_from(config(target).await?)?)
}

/// How to reach the cluster that the command names.
pub(crate) async fn config(target: &Target) -> Result<Config> {
    match (&target.kubeconfig, &target.context) {
        (None, None) => Config::infer().await.context("no cluster to talk to: give --kubeconfig and --context"),
        (file, context) => from_file(file.as_deref(), context.as_deref()).await,
    }
}

/// What the context is called that the command names; none inside of a pod.
pub(crate) fn context(target: &Target) -> Option<String> {
    let file = || target.kubeconfig.as_ref().map_or_else(Kubeconfig::read, Kubeconfig::read_from).ok();
    target.context.clone().or_else(|| file()?.current_context)
}

/// How to reach the broker as its administrator: by the file that is named, by a context of the user's own kubeconfig, or by the
/// file that an embedded broker wrote here.
pub(crate) async fn broker(target: &BrokerTarget) -> Result<Config> {
    let file = match (&target.broker_kubeconfig, &target.broker_context) {
        (Some(file), _) => Some(file.as_path()),
        (None, Some(_)) => None,
        (None, None) => Some(Path::new(BrokerTarget::EMBEDDED)),
    };
    if let Some(file) = file
        && !file.exists()
    {
        bail!(
            "{}: there is no such file; --broker-context names the broker's context in your kubeconfig, --broker-kubeconfig its own kubeconfig (an embedded broker writes one into its data folder as admin.kubeconfig)",
            file.display()
        );
    }
    from_file(file, target.broker_context.as_deref()).await
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

/// The API server's URL and the authority to pin, as this configuration has them; no authority where it pins none.
pub(crate) fn address(config: &Config) -> Result<Address> {
    let server = config.cluster_url.to_string().trim_end_matches('/').to_owned();
    let ca = match (&config.root_cert_file, &config.root_cert) {
        (Some(file), _) => {
            std::fs::read_to_string(file).with_context(|| format!("reading certificate authority {}", file.display()))?
        }
        (None, Some(certificates)) => certificates.iter().map(|der| pem(der)).collect(),
        (None, None) => String::new(),
    };
    Ok(Address { server, ca })
}

fn pem(der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    // Base64 is ASCII.
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap_or_default()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_written_as_pem() {
        let text = pem(&[7; 100]);
        assert!(text.lines().all(|line| line.len() <= 64), "{text}");
        let back: Vec<_> = rustls::pki_types::CertificateDer::pem_slice_iter(text.as_bytes()).collect();
        assert!(matches!(&back[..], [Ok(der)] if der.as_ref() == [7; 100]), "{back:?}");
    }

    use rustls::pki_types::pem::PemObject;
}
