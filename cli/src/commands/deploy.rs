//! `daisy deploy-broker`: a broker on any Kubernetes cluster, or an embedded one in the foreground.

use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use daisy_api::broker_info::BrokerInfo;
use daisy_api::keys::{PublicKey, VerifyingKey};
use daisy_api::labels::BROKER_NAMESPACE;
use daisy_api::{ClusterId, JoinRequest, JoinRequestSpec, Version};
use daisy_broker::apply::{self, Applied, Applier};
use daisy_broker::enrol::{self, EnrolError};
use daisy_broker::setup::{self, Address, Invite as Invitation, manifests};
use daisy_kubernetes::Api;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DynamicObject, PostParams};
use kube::config::AuthInfo;
use kube::{Client, Config};

use super::unit;
use crate::arguments::{BrokerRole, BrokerTarget, DeployBroker};
use crate::preflight::{self, Need};
use crate::progress::Progress;
use crate::{connect, output, roles, rollout};

/// The first Kubernetes whose API servers judge by all that the policies say (CEL's `ip()` and `cidr()`).
const KUBERNETES_LEAST: u32 = 31;
const NOT_VOUCHED: &str = "clusters could not know this API server at this address by its certificate; nothing was changed. Add the address to the certificate (kubeadm: certSANs), or name another with --server, or another authority with --ca-file";
/// How long a cluster may take to count a quota of new kinds, whatever `--timeout` says.
const COUNTED_WITHIN: Duration = Duration::from_secs(90);
/// How long an API server may take until new policies are in force; it is a second or two.
const IN_FORCE_WITHIN: Duration = Duration::from_secs(30);

/// Deploys.
pub(crate) async fn run(options: DeployBroker) -> Result<()> {
    match options.unit {
        Some(unit) => unit::print(&options, unit),
        None if options.embedded => embedded(options).await,
        None => kubernetes(options).await,
    }
}

/// Serves an embedded broker in the foreground; once it serves, writes the first invitation.
async fn embedded(options: DeployBroker) -> Result<()> {
    let (ready, is_ready) = tokio::sync::oneshot::channel();
    let role = BrokerRole { data: options.data, listen: options.listen, advertise: options.advertise };
    let serving = tokio::spawn(roles::serve_broker(role, ready));
    let Ok(broker) = is_ready.await else { return serving.await? };
    let target = BrokerTarget { broker_kubeconfig: Some(broker.kubeconfig), broker_context: None };
    let client = Client::try_from(connect::broker(&target).await?)?;
    if invite_first(&client, &broker.address, &options.output).await?.is_some() {
        eprintln!("✓ the broker serves at {}; clusters join by {}", broker.address.server, options.output.display());
    }
    serving.await?
}

/// Writes the first invitation, unless there is a file of that name.
async fn invite_first(client: &Client, address: &Address, file: &Path) -> Result<Option<BrokerInfo>> {
    if file.exists() {
        eprintln!("✓ {} is there already and stays as it is; `daisy invite` makes another", file.display());
        return Ok(None);
    }
    let info = setup::create_invitation(client, address, &Invitation::default()).await?;
    let mut options = std::fs::OpenOptions::new();
    let opened = options.write(true).create_new(true).mode(0o600).open(file);
    opened
        .and_then(|mut out| out.write_all(info.to_text().unwrap_or_default().as_bytes()))
        .with_context(|| format!("writing {}", file.display()))?;
    Ok(Some(info))
}

/// The objects, in the order in which they are applied.
struct Objects {
    kinds: Vec<DynamicObject>,
    roles: Vec<DynamicObject>,
    admission: Vec<DynamicObject>,
    registrar: Vec<DynamicObject>,
}

impl Objects {
    fn new(options: &DeployBroker) -> Result<Self> {
        Ok(Self {
            kinds: manifests::kinds()?,
            roles: manifests::roles()?,
            admission: manifests::admission()?,
            registrar: manifests::registrar(&options.image)?,
        })
    }

    fn all(&self) -> Vec<DynamicObject> {
        [&self.kinds, &self.roles, &self.admission, &self.registrar].into_iter().flatten().cloned().collect()
    }
}

async fn kubernetes(options: DeployBroker) -> Result<()> {
    let config = connect::config(&options.target).await?;
    let client = Client::try_from(config.clone())?;
    let mut progress = Progress::new();
    progress.waiting("looking at the cluster");
    let objects = Objects::new(&options)?;
    let address = look(&config, &client, &options, &objects, &mut progress).await?;
    if options.dry_run {
        return print(&objects, &address);
    }
    let applier = Applier::new(client.clone());
    progress.waiting("applying");
    for object in &objects.kinds {
        if applier.apply(object).await? == Applied::Theirs {
            bail!(
                "{} is there, and is not labelled as Daisy's: remove it, or label it app.kubernetes.io/managed-by=daisy if it is",
                apply::describe(object)
            );
        }
    }
    setup::established(&client).await?;
    for object in objects.roles.iter().chain(&objects.admission).chain(&objects.registrar) {
        applier.apply(object).await?;
    }
    applier.apply(&setup::address_object(&address)?).await?;
    progress.done("kinds, rights, admission policies and quota are there");
    ready(&client, &options, &mut progress).await?;
    progress.done("the registrar is ready");
    progress.waiting("the quota to be counted (the cluster looks for new kinds twice a minute)");
    setup::count_quota(&client, options.timeout.max(COUNTED_WITHIN)).await?;
    progress.done("the quota is counted");
    if let Some(info) = invite_first(&client, &address, &options.output).await? {
        in_force(&config, &info, &mut progress).await?;
        progress.done(&format!("the broker is {}; clusters join by {}", address.server, options.output.display()));
    }
    Ok(())
}

/// Finds out what can be found out before anything is changed. Returns the address that others will use.
async fn look(
    config: &Config,
    client: &Client,
    options: &DeployBroker,
    objects: &Objects,
    progress: &mut Progress,
) -> Result<Address> {
    preflight::version(client, KUBERNETES_LEAST, "its admission policies").await?;
    preflight::apis(
        client,
        &[
            ("admissionregistration.k8s.io/v1", "validatingadmissionpolicies"),
            ("apiextensions.k8s.io/v1", "customresourcedefinitions"),
            ("apps/v1", "deployments"),
            ("rbac.authorization.k8s.io/v1", "clusterroles"),
        ],
    )
    .await?;
    let needs = vec![
        Need::new("create", ("", "serviceaccounts/token"), Some(BROKER_NAMESPACE)),
        Need::new("create", ("daisy.supercluster.local", "invitations"), Some(BROKER_NAMESPACE)),
        Need::new("create", ("", "configmaps"), Some(BROKER_NAMESPACE)),
        Need::new("list", ("daisy.supercluster.local", "clusters"), None),
    ];
    preflight::rights(client, &objects.all(), needs, "deploy a broker").await?;
    setup::serves_members(client, Version::own()).await?;
    preflight::rehearse(client, &objects.all()).await?;
    let address = address(config, client, options).await?;
    vouched(config, &address, progress).await?;
    Ok(address)
}

/// Sees that whoever pins this authority takes the API server for the one meant, at the address that others use; that address may
/// lead elsewhere from here, or nowhere.
async fn vouched(config: &Config, address: &Address, progress: &mut Progress) -> Result<()> {
    let here = connect::address(config)?.server;
    let by_certificate = enrol::verify(&here, &address.server, &address.ca).await;
    match enrol::verify(&address.server, &address.server, &address.ca).await {
        Ok(()) => progress.done(&format!("clusters reach the broker at {} and pin its certificate authority", address.server)),
        Err(error) if by_certificate.is_ok() => progress.done(&format!(
            "clusters will take this API server for the broker at {}; whether they reach it there cannot be seen from here ({error})",
            address.server
        )),
        Err(EnrolError::Unreachable { .. }) => by_certificate.context(NOT_VOUCHED)?,
        Err(error) => return Err(error).context(NOT_VOUCHED),
    }
    Ok(())
}

async fn address(config: &Config, client: &Client, options: &DeployBroker) -> Result<Address> {
    let mut address = connect::address(config)?;
    if let Some(server) = &options.server {
        server.trim_end_matches('/').clone_into(&mut address.server);
    } else if is_loopback(config) {
        bail!(
            "the kubeconfig reaches this API server at {}, which means another machine everywhere else: give the URL that the other clusters reach it at with --server (kind: https://ADDRESS-OF-THE-CONTROL-PLANE-CONTAINER:6443)",
            address.server
        );
    }
    if let Some(file) = &options.ca_file {
        address.ca = std::fs::read_to_string(file).with_context(|| format!("reading --ca-file {}", file.display()))?;
    }
    if address.ca.is_empty() {
        address.ca = own_authority(client).await?;
    }
    if !address.server.starts_with("https://") {
        bail!(
            "{} is no https:// URL: clusters could not know the broker by its certificate; give one with --server",
            address.server
        );
    }
    Ok(address)
}

fn is_loopback(config: &Config) -> bool {
    let host = config.cluster_url.host().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback() || ip.is_unspecified())
}

/// What the cluster itself tells its pods of its API server's authority.
async fn own_authority(client: &Client) -> Result<String> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "kube-system");
    let map = maps.get_opt("kube-root-ca.crt").await.context("reading ConfigMap kube-system/kube-root-ca.crt")?;
    map.and_then(|map| map.data?.remove("ca.crt")).context(
        "neither the kubeconfig nor ConfigMap kube-system/kube-root-ca.crt names the API server's certificate authority, which clusters are to pin: give it with --ca-file",
    )
}

fn print(objects: &Objects, address: &Address) -> Result<()> {
    let mut text = String::new();
    for object in objects.all().iter().chain([&setup::address_object(address)?]) {
        text.push_str("---\n");
        text.push_str(&daisy_api::yaml::to_string(object)?);
    }
    output::print(&text)
}

async fn ready(client: &Client, options: &DeployBroker, progress: &mut Progress) -> Result<()> {
    let started = Instant::now();
    while let Some(waiting) = rollout::deployment(client, BROKER_NAMESPACE, "daisy-registrar").await? {
        if started.elapsed() > options.timeout {
            bail!(
                "after {} s still waiting for {waiting}; what was applied stays, and `daisy deploy-broker` can be run again",
                options.timeout.as_secs()
            );
        }
        progress.waiting(&waiting.to_string());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

/// Sees that the policies judge: a request that they must refuse is tried (and would not be kept) until it is refused.
async fn in_force(config: &Config, info: &BrokerInfo, progress: &mut Progress) -> Result<()> {
    let mut config = config.clone();
    config.auth_info = AuthInfo { token: Some(info.invitation.token.clone().into()), ..AuthInfo::default() };
    let requests: Api<JoinRequest> = Api::namespaced(Client::try_from(config)?, BROKER_NAMESPACE);
    let spec = JoinRequestSpec {
        // Another than the token's: that is what is wrong with it.
        invitation: "nobodys".to_owned(),
        cluster_id: ClusterId::new("nobody")?,
        cluster_uid: "nobody".to_owned(),
        cluster_cidrs: Vec::new(),
        service_cidrs: Vec::new(),
        sealing_key: PublicKey::from_bytes([1; 32]),
        signing_key: VerifyingKey::from_bytes([1; 32]),
        signature: None,
        replace: false,
        version: String::new(),
    };
    let request = JoinRequest::new("join-abcdefghijklmnopqrstuvwxyz", spec);
    let params = PostParams { dry_run: true, field_manager: None };
    let started = Instant::now();
    while started.elapsed() < IN_FORCE_WITHIN {
        match requests.create(&params, &request).await {
            Ok(_) => progress.waiting("waiting for the admission policies to be in force"),
            Err(kube::Error::Api(status)) if status.code == 403 && status.message.contains("daisy-joinrequests") => {
                return Ok(());
            }
            // New rights take a moment, too.
            Err(kube::Error::Api(status)) if status.code == 403 => {
                progress.waiting("waiting for the invitation's rights to be in force")
            }
            Err(error) => return Err(error).context("trying the new invitation"),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    bail!(
        "the API server does not hold JoinRequests to ValidatingAdmissionPolicy daisy-joinrequests: is the admission plugin ValidatingAdmissionPolicy switched off? Do not hand out {}",
        info.invitation.name
    )
}
