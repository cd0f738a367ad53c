//! `daisy join`: look, ask, apply, wait. Nothing is changed in the cluster before the broker has said yes.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use daisy_api::broker_info::BrokerInfo;
use daisy_api::{Cidr, Cluster, Gateway, Member, conditions, labels};
use daisy_broker::enrol::{self, Answer, Ask};
use daisy_dns_core::corefile;
use ed25519_dalek::SigningKey;
use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Secret, Service};
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use rand_core::OsRng;

use super::detect;
use crate::arguments::{Join, Reach};
use crate::manifests::{self, Settings};
use crate::progress::Progress;
use crate::{connect, output};

/// What was found out about the cluster before anything was changed.
struct Plan {
    uid: String,
    pods: detect::Found,
    services: detect::Found,
    gateway: Option<Node>,
    corefile: Option<ConfigMap>,
    joined: Option<Secret>,
}

impl Plan {
    /// A key of the Secret that an earlier join left.
    fn access(&self, key: &str) -> Option<&[u8]> {
        self.joined.as_ref()?.data.as_ref()?.get(key).map(|value| value.0.as_slice())
    }
}

/// Joins.
pub(crate) async fn run(options: Join) -> Result<()> {
    let file = options.broker_info.display().to_string();
    let text = std::fs::read_to_string(&options.broker_info).with_context(|| format!("reading {file}"))?;
    let info = BrokerInfo::parse(&file, &text, jiff::Timestamp::now())?;
    let client = connect::cluster(&options.target).await?;
    let mut progress = Progress::new();

    progress.waiting("looking at the cluster");
    let plan = look(&client, &options, &info).await?;
    progress.done(&format!(
        "pods {} ({}), Services {} ({})",
        plan.pods.list(),
        plan.pods.source,
        plan.services.list(),
        plan.services.source
    ));
    let settings = settings(&options);
    if options.dry_run {
        return dry_run(&plan, &settings);
    }

    let access = if !options.replace && credential_works(&plan, &options).await {
        None
    } else {
        Some(ask(&info, &options, &plan, &mut progress).await?)
    };
    apply(&client, &options, &plan, access, &settings, &mut progress).await?;
    ready(&client, &options, &mut progress).await?;
    progress.done(&format!("cluster {} has joined", options.clusterid));
    Ok(())
}

async fn look(client: &Client, options: &Join, info: &BrokerInfo) -> Result<Plan> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let system =
        namespaces.get("kube-system").await.context("reading namespace kube-system: can this user reach the cluster?")?;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), labels::SYSTEM_NAMESPACE);
    let joined = secrets.get_opt(labels::BROKER_ACCESS_SECRET).await.context("reading Secrets in daisy-system")?;
    if let Some(secret) = &joined {
        let had = |key: &str| {
            secret
                .data
                .as_ref()
                .and_then(|d| d.get(key))
                .map(|v| String::from_utf8_lossy(&v.0).into_owned())
                .unwrap_or_default()
        };
        if had("clusterId") != options.clusterid.as_str() {
            bail!(
                "this cluster has joined as {:?} already; `daisy leave` first, or join with --clusterid {}",
                had("clusterId"),
                had("clusterId")
            );
        }
        if had("brokerId") != info.broker_id {
            bail!(
                "this cluster has joined another broker ({}) already, and {} is for the one at {}; `daisy leave` first",
                had("server"),
                options.broker_info.display(),
                info.server
            );
        }
    }
    let given = |cidrs: &[Cidr], flag: &str| detect::Found { cidrs: cidrs.to_vec(), source: format!("as given by {flag}") };
    let pods =
        if options.clustercidr.is_empty() { detect::pods(client).await? } else { given(&options.clustercidr, "--clustercidr") };
    let services = if options.servicecidr.is_empty() {
        detect::services(client).await?
    } else {
        given(&options.servicecidr, "--servicecidr")
    };
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "kube-system");
    let corefile = maps.get_opt("coredns").await.context("reading ConfigMap kube-system/coredns")?;
    if let Some(text) = corefile.as_ref().and_then(|map| map.data.as_ref()?.get("Corefile")) {
        // What cannot be edited is found out before anything is changed.
        corefile::insert(text, IpAddr::from([192, 0, 2, 1])).context("ConfigMap kube-system/coredns, Corefile")?;
    }
    Ok(Plan {
        uid: system.uid().unwrap_or_default(),
        pods,
        services,
        gateway: choose_gateway(client, options).await?,
        corefile,
        joined,
    })
}

/// The node to label as gateway; none where one is labelled already.
async fn choose_gateway(client: &Client, options: &Join) -> Result<Option<Node>> {
    let api: Api<Node> = Api::all(client.clone());
    let nodes = api.list(&ListParams::default()).await.context("listing nodes")?.items;
    if let Some(name) = &options.gateway {
        let found = nodes.into_iter().find(|n| n.name_any() == name.as_str());
        return found.map(Some).with_context(|| format!("--gateway {name}: the cluster has no such node"));
    }
    if nodes.iter().any(|n| n.labels().get(labels::GATEWAY_NODE).is_some_and(|v| v == "true")) {
        return Ok(None);
    }
    let address = |node: &Node, kind: &str| {
        let addresses = node.status.as_ref().and_then(|s| s.addresses.as_ref());
        addresses.is_some_and(|list| list.iter().any(|a| a.type_ == kind))
    };
    let control_plane = |node: &Node| node.labels().contains_key("node-role.kubernetes.io/control-plane");
    let fit = nodes.into_iter().filter(|n| address(n, "InternalIP"));
    // Workers first, and of them those that other clusters can reach.
    let best = fit.min_by_key(|n| {
        (control_plane(n), !address(n, "ExternalIP") && !n.annotations().contains_key(labels::PUBLIC_ADDRESS), n.name_any())
    });
    best.map(Some).context("no node is fit to be the gateway: none has an InternalIP")
}

fn settings(options: &Join) -> Settings {
    let millis = |d: Duration| format!("{}ms", d.as_millis());
    let mut agent = vec!["--hold".to_owned(), millis(options.hold)];
    if options.reach == Reach::All {
        agent.extend(["--reach".to_owned(), "all".to_owned()]);
    }
    let syncer = vec!["--heartbeat".to_owned(), millis(options.heartbeat)];
    Settings { image: options.image.clone(), arguments: vec![("route-agent", agent), ("syncer", syncer)] }
}

fn dry_run(plan: &Plan, settings: &Settings) -> Result<()> {
    let mut text = String::new();
    for object in manifests::foundations()?.into_iter().chain(manifests::workloads(settings)?) {
        text.push_str("---\n");
        text.push_str(&daisy_api::yaml::to_string(&object)?);
    }
    if let Some(node) = &plan.gateway {
        text.push_str(&format!("# and: node {} labelled {}=true\n", node.name_any(), labels::GATEWAY_NODE));
    }
    text.push_str("# and: Secret daisy-system/daisy-broker-access, and a marked block in ConfigMap kube-system/coredns\n");
    output::print(&text)
}

/// Whether the credential that an earlier join left is still good, so that this one need not ask again.
async fn credential_works(plan: &Plan, options: &Join) -> bool {
    let had = |key: &str| plan.access(key).map(|bytes| String::from_utf8_lossy(bytes).into_owned()).unwrap_or_default();
    let Ok(client) = enrol::client(&had("server"), &had("ca"), &had("token")) else { return false };
    let members: Api<Member> = Api::namespaced(client, labels::BROKER_NAMESPACE);
    members.get(options.clusterid.as_str()).await.is_ok()
}

/// Asks the registrar, and returns what goes into the Secret.
async fn ask(info: &BrokerInfo, options: &Join, plan: &Plan, progress: &mut Progress) -> Result<Vec<(&'static str, String)>> {
    use base64::Engine;
    let base64 = base64::engine::general_purpose::STANDARD;
    progress.waiting(&format!("asking the broker at {}", info.server));
    // Whoever has joined before proves that it is the same cluster by the key that its Member has.
    let had = plan.access("signingKey").filter(|_| !options.replace).and_then(|text| base64.decode(text).ok());
    let had: Option<[u8; 32]> = had.and_then(|bytes| bytes.try_into().ok());
    let signing = had.map_or_else(|| SigningKey::generate(&mut OsRng), |bytes| SigningKey::from_bytes(&bytes));
    let ask = Ask {
        cluster_id: options.clusterid.clone(),
        cluster_uid: plan.uid.clone(),
        cluster_cidrs: plan.pods.cidrs.clone(),
        service_cidrs: plan.services.cidrs.clone(),
        replace: options.replace,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let Answer::Admitted(admitted) = enrol::ask(info, &ask, &signing, Duration::from_secs(30)).await? else {
        bail!("the broker was asked to admit {}, and reserved ranges instead: is its version this one's?", options.clusterid);
    };
    progress.done(&format!("the broker at {} admitted {}", info.server, options.clusterid));
    Ok(vec![
        ("server", info.server.clone()),
        ("ca", info.ca.clone()),
        ("token", admitted.credential.token),
        ("brokerId", info.broker_id.clone()),
        ("clusterId", options.clusterid.to_string()),
        ("signingKey", base64.encode(signing.to_bytes())),
    ])
}

async fn apply(
    client: &Client,
    options: &Join,
    plan: &Plan,
    access: Option<Vec<(&'static str, String)>>,
    settings: &Settings,
    progress: &mut Progress,
) -> Result<()> {
    progress.waiting("applying");
    for object in manifests::foundations()? {
        manifests::apply(client, &object).await?;
    }
    if let Some(access) = access {
        write_access(client, access).await?;
    }
    let nodes: Api<Node> = Api::all(client.clone());
    if let Some(node) = &plan.gateway {
        let address = options.public_address.map(|a| a.to_string());
        let mut patch = serde_json::json!({ "metadata": { "labels": { labels::GATEWAY_NODE: "true" } } });
        if let Some(address) = address {
            patch["metadata"]["annotations"][labels::PUBLIC_ADDRESS] = address.into();
        }
        nodes
            .patch(&node.name_any(), &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .context("labelling the gateway node")?;
        progress.done(&format!("node {} is the gateway", node.name_any()));
    }
    // What an earlier leave wrote on the nodes is no longer so.
    for node in
        nodes.list(&ListParams::default()).await?.items.iter().filter(|n| n.annotations().contains_key(labels::NODE_STATE))
    {
        let patch = serde_json::json!({ "metadata": { "annotations": { labels::NODE_STATE: null } } });
        nodes.patch(&node.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await?;
    }
    for object in manifests::workloads(settings)? {
        manifests::apply(client, &object).await?;
    }
    add_stub(client, plan, progress).await
}

async fn write_access(client: &Client, access: Vec<(&'static str, String)>) -> Result<()> {
    let api: Api<Secret> = Api::namespaced(client.clone(), labels::SYSTEM_NAMESPACE);
    let mut secret = Secret::default();
    secret.metadata.name = Some(labels::BROKER_ACCESS_SECRET.to_owned());
    secret.metadata.labels = Some([(labels::MANAGED_BY.to_owned(), labels::MANAGED_BY_DAISY.to_owned())].into());
    secret.data = Some(access.into_iter().map(|(key, value)| (key.to_owned(), ByteString(value.into_bytes()))).collect());
    match api.create(&PostParams::default(), &secret).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {
            api.patch(labels::BROKER_ACCESS_SECRET, &PatchParams::default(), &Patch::Merge(&secret)).await?;
            Ok(())
        }
        Err(error) => Err(error).context("creating Secret daisy-system/daisy-broker-access"),
    }
}

/// Adds the zones to the cluster's CoreDNS, and says what to do where there is none.
async fn add_stub(client: &Client, plan: &Plan, progress: &mut Progress) -> Result<()> {
    let services: Api<Service> = Api::namespaced(client.clone(), labels::SYSTEM_NAMESPACE);
    let service = services.get(labels::DNS_SERVICE).await.context("reading Service daisy-system/daisy-dns")?;
    let address = service.spec.and_then(|s| s.cluster_ip).context("Service daisy-system/daisy-dns has no ClusterIP")?;
    let address: IpAddr = address.parse().context("Service daisy-system/daisy-dns, clusterIP")?;
    let text = plan.corefile.as_ref().and_then(|map| map.data.as_ref()?.get("Corefile"));
    let Some(text) = text else {
        progress.done(&format!(
            "there is no ConfigMap kube-system/coredns: forward svc.supercluster.local and svc.clusterset.local to {address} in the cluster's DNS by hand"
        ));
        return Ok(());
    };
    let edited = corefile::insert(text, address)?;
    if edited == *text {
        return Ok(());
    }
    let patch = serde_json::json!({ "data": { "Corefile": edited } });
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "kube-system");
    maps.patch("coredns", &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .context("updating ConfigMap kube-system/coredns")?;
    progress.done("CoreDNS forwards svc.supercluster.local and svc.clusterset.local to Daisy");
    Ok(())
}

/// Waits until every part is ready: watched through the objects that the parts themselves write.
async fn ready(client: &Client, options: &Join, progress: &mut Progress) -> Result<()> {
    let started = Instant::now();
    let mut pause = Duration::from_millis(20);
    loop {
        let Some(waiting) = unready(client, options).await? else { return Ok(()) };
        if started.elapsed() > options.timeout {
            bail!(
                "after {} s this cluster still waits for: {waiting}; what was applied stays, and `daisy join` can be run again",
                options.timeout.as_secs()
            );
        }
        progress.waiting(&waiting);
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(500));
    }
}

/// The first part that is not ready, if any.
async fn unready(client: &Client, options: &Join) -> Result<Option<String>> {
    let namespace = labels::SYSTEM_NAMESPACE;
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    for name in ["daisy-syncer", "daisy-dns"] {
        let object = deployments.get(name).await?;
        let status = object.status.clone().unwrap_or_default();
        if status.observed_generation < object.metadata.generation || status.ready_replicas.unwrap_or(0) < 1 {
            return Ok(Some(format!("Deployment {namespace}/{name} to be ready")));
        }
    }
    let sets: Api<DaemonSet> = Api::namespaced(client.clone(), namespace);
    for name in ["daisy-gateway", "daisy-route-agent"] {
        let object = sets.get(name).await?;
        let status = object.status.unwrap_or_default();
        if status.observed_generation < object.metadata.generation
            || status.desired_number_scheduled < 1
            || status.number_ready < status.desired_number_scheduled
        {
            return Ok(Some(format!("DaemonSet {namespace}/{name} to be ready")));
        }
    }
    let clusters: Api<Cluster> = Api::namespaced(client.clone(), namespace);
    let Some(cluster) = clusters.get_opt(options.clusterid.as_str()).await? else {
        return Ok(Some("the syncer to reach the broker".to_owned()));
    };
    let list = cluster.status.unwrap_or_default().conditions;
    if let Some(condition) = conditions::find(&list, "BrokerConnected").filter(|c| c.status == "False") {
        return Ok(Some(format!("the syncer to reach the broker ({}: {})", condition.reason, condition.message)));
    }
    let gateways: Api<Gateway> = Api::namespaced(client.clone(), namespace);
    let gateways = gateways.list(&ListParams::default()).await?.items;
    let states = gateways.iter().filter_map(|g| g.status.as_ref()).map(|s| &s.conditions);
    let unfit = states.clone().find_map(|list| conditions::find(list, conditions::READY).filter(|c| c.status == "False"));
    if let Some(condition) = unfit {
        return Ok(Some(format!("the gateway ({}: {})", condition.reason, condition.message)));
    }
    if !states.clone().any(|list| conditions::is_true(list, conditions::READY)) {
        return Ok(Some("a gateway to be ready".to_owned()));
    }
    if cluster.spec.gateways.is_empty() {
        return Ok(Some("the broker to have this cluster's gateway".to_owned()));
    }
    Ok(None)
}
