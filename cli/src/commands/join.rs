//! `daisy join`: look, ask, apply, wait. Nothing is changed in the cluster before the broker has said yes.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use daisy_api::broker_info::BrokerInfo;
use daisy_api::{Cluster, Gateway, Member, Version, conditions, labels};
use daisy_broker::apply::{self, Applied, Applier};
use daisy_broker::enrol::{self, Answer, Ask};
use daisy_broker::setup;
use daisy_kubernetes::Api;
use ed25519_dalek::SigningKey;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Event, Namespace, Node, Secret, Service};
use kube::api::{DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use rand_core::OsRng;
use tokio::task::JoinSet;

use super::look::{Plan, look};
use super::reload::{RELOADED_WITHIN, Reload, Way};
use super::{coredns, kind, nodes};
use crate::arguments::{Join, Reach};
use crate::manifests::{self, Settings};
use crate::progress::{Progress, Waiting};
use crate::{connect, output, rollout};

/// How long an API server may take to serve a kind that it was just told of.
const SERVED_WITHIN: Duration = Duration::from_secs(20);

/// Keys and values for the Secret `daisy-broker-access`.
type Access = Vec<(&'static str, String)>;

/// Joins.
pub(crate) async fn run(options: Join) -> Result<()> {
    ports(&options)?;
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
    let settings = settings(&options, plan.workers);
    if options.dry_run {
        return dry_run(&options, &info, &plan, &settings);
    }

    let kept = if options.replace { None } else { kept_access(&info, &plan, &options).await? };
    let access = match kept {
        Some(kept) => kept,
        None => match ask(&info, &options, &plan, &mut progress).await {
            Ok(access) => access,
            Err(error) => return Err(with_advice(error, &options, &plan)),
        },
    };
    let reload = apply(&client, &options, &plan, (&info, access), &settings, &mut progress).await?;
    // Beside the rest, since nothing takes longer. A set ends its tasks when this ends.
    let dns = reload.map(|reload| {
        let (way, namespace) = (reload.way(), reload.namespace().to_owned());
        let mut task = JoinSet::new();
        task.spawn(reload.in_force(client.clone()));
        (way, namespace, task)
    });
    ready(&client, &options, &settings, &info.server, &mut progress).await?;
    if let Some(hint) = coredns::node_local_hint(&client).await? {
        progress.done(&hint);
    }
    progress.done(&format!("cluster {} has joined", options.clusterid));
    if let Some((way, namespace, task)) = dns {
        answered(task, way, &namespace, &mut progress).await;
    }
    Ok(())
}

/// A developer does not wait for CoreDNS's clock, and his cluster is his own; elsewhere CoreDNS's pods are not Daisy's to replace.
fn way(plan: &Plan) -> Way {
    if plan.kind.is_some() { Way::Replaced } else { Way::Awaited }
}

/// Refuses ports that cannot all be Daisy's on one node.
fn ports(options: &Join) -> Result<()> {
    let Join { tunnel_port, vxlan_port, .. } = *options;
    if tunnel_port == vxlan_port {
        bail!(
            "--tunnel-port {tunnel_port} is the --vxlan-port too, and a gateway's node has both: choose another for one of them"
        );
    }
    for (flag, port) in [("--tunnel-port", tunnel_port), ("--vxlan-port", vxlan_port)] {
        if port == labels::PROBE_PORT {
            bail!("{flag} {port} is the port of the gateways' probes: choose another");
        }
    }
    Ok(())
}

fn settings(options: &Join, workers: usize) -> Settings {
    let millis = |d: Duration| format!("{}ms", d.as_millis());
    let mut agent = vec!["--hold".to_owned(), millis(options.hold)];
    if options.reach == Reach::All {
        agent.extend(["--reach".to_owned(), "all".to_owned()]);
    }
    let syncer = vec!["--heartbeat".to_owned(), millis(options.heartbeat)];
    let mut gateway = Vec::new();
    for (port, usual, flag, arguments) in [
        (options.vxlan_port, labels::VXLAN_PORT, "--vxlan-port", &mut agent),
        (options.tunnel_port, labels::TUNNEL_PORT, "--port", &mut gateway),
    ] {
        if port != usual {
            arguments.extend([flag.to_owned(), port.to_string()]);
        }
    }
    let arguments = vec![("route-agent", agent), ("syncer", syncer), ("gateway", gateway)];
    Settings { image: options.image.clone(), workers, arguments }
}

fn dry_run(options: &Join, info: &BrokerInfo, plan: &Plan, settings: &Settings) -> Result<()> {
    let mut text = String::new();
    for object in manifests::foundations()?.into_iter().chain(manifests::workloads(settings)?) {
        text.push_str("---\n");
        text.push_str(&daisy_api::yaml::to_string(&object)?);
    }
    for property in manifests::properties(options.clusterid.as_str(), &info.broker_id)? {
        text.push_str("---\n");
        text.push_str(&daisy_api::yaml::to_string(&property)?);
    }
    for (nodes, value) in [(&plan.gateways.set, "=true"), (&plan.gateways.unset, "-")] {
        for node in nodes {
            text.push_str(&format!("# and: node {node} labelled {}{value}\n", labels::GATEWAY_NODE));
        }
    }
    text.push_str("# and: Secret daisy-system/daisy-broker-access");
    match &plan.dns {
        coredns::Place::Corefile(name, _) => text.push_str(&format!(", and a marked block in ConfigMap {name}\n")),
        coredns::Place::Custom(name, _) => text.push_str(&format!(", and a key daisy.server in ConfigMap {name}\n")),
        coredns::Place::ByHand => text.push('\n'),
    }
    if way(plan) == Way::Replaced && !matches!(plan.dns, coredns::Place::ByHand) {
        text.push_str("# and: CoreDNS's pods that have not read it yet replaced, one after another, while the others answer\n");
    }
    output::print(&text)
}

/// What an earlier join left, with the broker's address as it is now, where its credential is still good: then there is nothing to
/// ask for.
async fn kept_access(info: &BrokerInfo, plan: &Plan, options: &Join) -> Result<Option<Access>> {
    let Some(token) = plan.access("token").map(|bytes| String::from_utf8_lossy(bytes).into_owned()) else { return Ok(None) };
    let Ok(client) = enrol::client(&info.server, &info.ca, &token) else { return Ok(None) };
    let members: Api<Member> = Api::namespaced(client.clone(), labels::BROKER_NAMESPACE);
    if members.get(options.clusterid.as_str()).await.is_err() {
        return Ok(None);
    }
    // Nobody is asked, and so nobody but this looks at the versions. One that does not say its own is older than the rule.
    if let Ok(Some(broker)) = setup::version(&client).await {
        broker.serves(Version::own()).with_context(|| format!("cluster {} stays as it is", options.clusterid))?;
    }
    // The token is not written again: the syncer may have renewed it meanwhile.
    Ok(Some(vec![("server", info.server.clone()), ("ca", info.ca.clone())]))
}

/// Asks the registrar, and returns what goes into the Secret.
async fn ask(info: &BrokerInfo, options: &Join, plan: &Plan, progress: &mut Progress) -> Result<Access> {
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

/// What kind's user types when his cluster has addresses that are another's.
fn with_advice(error: anyhow::Error, options: &Join, plan: &Plan) -> anyhow::Error {
    let overlaps = matches!(error.downcast_ref(), Some(enrol::EnrolError::Refused { reason, .. }) if reason == "CidrOverlap");
    match &plan.kind {
        Some(cluster) if overlaps => {
            anyhow!("{error}\n{}", kind::anew(cluster, &options.broker_info.display().to_string(), &options.clusterid))
        }
        _ => error,
    }
}

async fn apply(
    client: &Client,
    options: &Join,
    plan: &Plan,
    (info, access): (&BrokerInfo, Access),
    settings: &Settings,
    progress: &mut Progress,
) -> Result<Option<Reload>> {
    progress.waiting("applying");
    let applier = Applier::new(client.clone());
    for object in manifests::foundations()? {
        applier.apply(&object).await?;
    }
    let is_service = |object: &DynamicObject| object.types.as_ref().is_some_and(|types| types.kind == "Service");
    let (services, workloads): (Vec<_>, Vec<_>) = manifests::workloads(settings)?.into_iter().partition(is_service);
    for object in services {
        applier.apply(&object).await?;
    }
    // Before the workloads, since nothing takes as long as CoreDNS's looking at its configuration.
    let reload = add_stub(client, plan, settings.dns_servers(), progress).await?;
    write_access(client, access).await?;
    nodes::label(client, &plan.gateways, options.public_address).await?;
    progress.done(&format!("gateways: {}{}", plan.gateways.all.join(", "), plan.gateways_are));
    // What an earlier leave wrote on the nodes is no longer so.
    let nodes: Api<Node> = Api::all(client.clone());
    for node in
        nodes.list(&ListParams::default()).await?.items.iter().filter(|n| n.annotations().contains_key(labels::NODE_STATE))
    {
        let patch = serde_json::json!({ "metadata": { "annotations": { labels::NODE_STATE: null } } });
        nodes.patch(&node.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await?;
    }
    for object in workloads {
        applier.apply(&object).await?;
    }
    // An earlier join may have found more nodes.
    for name in labels::DNS_SERVERS.iter().filter(|name| !settings.dns_servers().contains(name)) {
        for object in manifests::dns_server(name)? {
            applier.delete(&object).await?;
        }
    }
    for property in manifests::properties(options.clusterid.as_str(), &info.broker_id)? {
        say(&applier, &property, progress).await?;
    }
    Ok(reload)
}

/// Writes what the cluster says of itself, once its kind is served.
async fn say(applier: &Applier, property: &DynamicObject, progress: &mut Progress) -> Result<()> {
    let started = Instant::now();
    let applied = loop {
        match applier.apply(property).await {
            Err(error) if error.is_not_found() && started.elapsed() < SERVED_WITHIN => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            other => break other?,
        }
    };
    if applied == Applied::Theirs {
        let value = property.data.pointer("/spec/value").and_then(serde_json::Value::as_str).unwrap_or_default();
        progress.done(&format!("{} is not Daisy's and stays as it is; Daisy's would be {value:?}", apply::describe(property)));
    }
    Ok(())
}

async fn write_access(client: &Client, access: Access) -> Result<()> {
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

/// Adds the zones to the cluster's DNS, or says what to do by hand.
async fn add_stub(client: &Client, plan: &Plan, servers: &[&str], progress: &mut Progress) -> Result<Option<Reload>> {
    let services: Api<Service> = Api::namespaced(client.clone(), labels::SYSTEM_NAMESPACE);
    let mut addresses = Vec::new();
    for name in servers {
        let service = services.get(name).await.with_context(|| format!("reading Service daisy-system/{name}"))?;
        let address = service.spec.and_then(|s| s.cluster_ip);
        let address = address.with_context(|| format!("Service daisy-system/{name} has no ClusterIP"))?;
        addresses.push(address.parse::<IpAddr>().with_context(|| format!("Service daisy-system/{name}, clusterIP"))?);
    }
    if let coredns::Place::Corefile(name, _) | coredns::Place::Custom(name, _) = &plan.dns {
        // For `daisy leave`, which is told no such name.
        let patch = serde_json::json!({ "metadata": { "annotations": { coredns::WHERE: name.namespace } } });
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let patched = namespaces.patch(labels::SYSTEM_NAMESPACE, &PatchParams::default(), &Patch::Merge(&patch)).await;
        patched.context("annotating namespace daisy-system")?;
    }
    let Some(added) = coredns::add(client, &plan.dns, &addresses, way(plan)).await? else { return Ok(None) };
    progress.done(&added.said);
    Ok(added.reload)
}

/// Waits until CoreDNS has what was written: before that, a pod that asks for a name is told that there is none.
async fn answered(mut task: JoinSet<Result<(), String>>, way: Way, namespace: &str, progress: &mut Progress) {
    progress.waiting(match way {
        Way::Awaited => "CoreDNS to read its changed configuration, as it does every half minute",
        Way::Replaced => "CoreDNS's pods, which are replaced one after another to read its changed configuration",
    });
    match task.join_next().await {
        Some(Ok(Ok(()))) => progress.done("pods are answered Daisy's names"),
        Some(Ok(Err(pod))) => progress.done(&format!(
            "CoreDNS (pod {pod}) has not read its changed configuration after {} s; has its Corefile the plugin `reload`? If not: kubectl -n {namespace} rollout restart deployment/coredns",
            RELOADED_WITHIN.as_secs(),
        )),
        // The runtime ends.
        Some(Err(_)) | None => {}
    }
}

/// Waits until every part is ready: watched through the objects that the parts themselves write.
async fn ready(client: &Client, options: &Join, settings: &Settings, server: &str, progress: &mut Progress) -> Result<()> {
    let started = Instant::now();
    let mut pause = Duration::from_millis(20);
    loop {
        let Some(waiting) = unready(client, options, settings, server).await? else { return Ok(()) };
        if started.elapsed() > options.timeout {
            bail!(
                "after {} s this cluster still waits for: {waiting}; what was applied stays, and `daisy join` can be run again",
                options.timeout.as_secs()
            );
        }
        progress.waiting(&waiting.to_string());
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(500));
    }
}

/// The first part that is not ready, if any.
async fn unready(client: &Client, options: &Join, settings: &Settings, server: &str) -> Result<Option<Waiting>> {
    let namespace = labels::SYSTEM_NAMESPACE;
    for name in [&["daisy-syncer"], settings.dns_servers()].concat() {
        if let Some(waiting) = rollout::deployment(client, namespace, name).await? {
            return Ok(Some(waiting));
        }
    }
    let all = Api::<Node>::all(client.clone()).list(&ListParams::default()).await?.items;
    let silent = all.iter().filter(|node| !nodes::is_ready(node)).count();
    for name in ["daisy-gateway", "daisy-route-agent"] {
        if let Some(waiting) = rollout::daemon_set(client, namespace, name, silent).await? {
            return Ok(Some(waiting));
        }
    }
    // What a node that is away said last may long be over.
    let mut ready = all.iter().filter(|node| nodes::is_ready(node));
    if let Some((node, problem)) = ready.find_map(|node| Some((node, node.annotations().get(labels::NODE_PROBLEM)?))) {
        return Ok(Some(Waiting::on(format!("node {} ({problem})", node.name_any()))));
    }
    let clusters: Api<Cluster> = Api::namespaced(client.clone(), namespace);
    let Some(cluster) = clusters.get_opt(options.clusterid.as_str()).await? else {
        let hint = "its pods have to reach the address in the broker-info file, from inside this cluster; `kubectl -n daisy-system logs deployment/daisy-syncer` says what they get";
        let said = last_warning(client, "daisy-syncer").await.unwrap_or_else(|| hint.to_owned());
        return Ok(Some(Waiting { what: format!("the syncer to reach the broker at {server}"), trouble: format!(": {said}") }));
    };
    let list = cluster.status.unwrap_or_default().conditions;
    if let Some(condition) = conditions::find(&list, "BrokerConnected").filter(|c| c.status == "False") {
        let trouble = format!("the syncer to reach the broker at {server} ({}: {})", condition.reason, condition.message);
        return Ok(Some(Waiting::on(trouble)));
    }
    let gateways: Api<Gateway> = Api::namespaced(client.clone(), namespace);
    let gateways = gateways.list(&ListParams::default()).await?.items;
    let states = gateways.iter().filter_map(|g| g.status.as_ref()).map(|s| &s.conditions);
    let unfit = states.clone().find_map(|list| conditions::find(list, conditions::READY).filter(|c| c.status == "False"));
    if let Some(condition) = unfit {
        return Ok(Some(Waiting::on(format!("the gateway ({}: {})", condition.reason, condition.message))));
    }
    if !states.clone().any(|list| conditions::is_true(list, conditions::READY)) {
        return Ok(Some(Waiting::on("a gateway to be ready")));
    }
    if cluster.spec.gateways.is_empty() {
        return Ok(Some(Waiting::on("the broker to have this cluster's gateway")));
    }
    Ok(None)
}

/// The newest warning of a role, as `kubectl get events -n daisy-system` has it: what it says before there is an object to say it on.
async fn last_warning(client: &Client, component: &str) -> Option<String> {
    let api: Api<Event> = Api::namespaced(client.clone(), labels::SYSTEM_NAMESPACE);
    let all = api.list(&ListParams::default()).await.ok()?.items;
    let of_role = |event: &Event| event.source.as_ref().and_then(|source| source.component.as_deref()) == Some(component);
    let newest = all.into_iter().filter(of_role).max_by_key(|event| event.last_timestamp.as_ref().map(|time| time.0))?;
    Some(format!("{}: {}", newest.reason.unwrap_or_default(), newest.message.unwrap_or_default()))
}
