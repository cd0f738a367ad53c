//! Steps 1 to 3: clusters, broker, joins.

use std::time::{Duration, Instant};

use super::report::{Failed, human};
use super::stage::{CLIENT, Stage, succeeded};
use super::workloads;
use crate::plan::Reach;
use crate::protocol::{Command, ServiceCommand};

/// The broker's service in the lab.
pub(crate) const BROKER: &str = "broker";
/// Where the broker keeps its data, inside the lab.
const BROKER_DATA: &str = "/run/daisy-data/broker";

/// How a user reaches the broker as its administrator.
pub(crate) const BROKER_KUBECONFIG: &str = "/run/daisy-data/broker/admin.kubeconfig";

/// 1: the clusters come up.
pub(crate) async fn up(stage: &mut Stage<'_>) -> Result<(), Failed> {
    let plan = stage.lab.plan().clone();
    stage.report.begin("Clusters come up, each a network of its own");
    stage.lab.wait_up().await?;
    for cluster in &plan.clusters {
        stage.clients.insert(cluster.name.to_string(), stage.lab.client(cluster.name.as_str()).await?);
        let reach = match cluster.reach {
            Reach::Reachable => "reachable".to_owned(),
            Reach::Nat => format!("behind a NAT router ({})", cluster.public_address()),
        };
        let cidrs = |list: &[daisy_api::Cidr]| list.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let text = format!(
            "{}: {} nodes on {}, {reach}; pods {}, Services {}",
            cluster.name,
            cluster.nodes,
            cluster.node_network(),
            cidrs(&cluster.pod_cidrs),
            cidrs(&cluster.service_cidrs)
        );
        stage.report.saw(text);
    }
    for cluster in &plan.clusters {
        let client = stage.client(cluster.name.as_str())?;
        // On the last node, which is not the gateway where there are two.
        workloads::client_pod(&client, CLIENT, &cluster.node_name(cluster.nodes - 1)).await?;
    }
    for cluster in stage.clusters() {
        let client = stage.client(&cluster)?;
        let ready = async || Ok(workloads::pod_address(&client, CLIENT).await?.ok_or_else(|| "it is not ready".to_owned()));
        stage.until(Duration::from_secs(20), "a pod to run in each cluster", ready).await?;
    }
    stage.report.saw("the network between them drops every packet with a pod's or Service's address");
    stage.report.end();
    Ok(())
}

/// 2: a broker on a host of its own, and an invitation for those who only consume.
pub(crate) async fn broker(stage: &mut Stage<'_>) -> Result<(), Failed> {
    stage.report.begin("A broker on a host of its own");
    let started = Instant::now();
    start_broker(stage).await?;
    stage.report.command("broker", "daisy deploy-broker --embedded --advertise 203.0.113.2", started.elapsed());
    let file = stage.lab.work().join("broker-info.daisy");
    let written = async || Ok(if file.exists() { Ok(()) } else { Err("it is not there".to_owned()) });
    stage.until(Duration::from_secs(10), "broker-info.daisy to be written", written).await?;
    stage.report.saw("it wrote broker-info.daisy");
    let words = ["daisy", "invite", "--export", "none", "--broker-kubeconfig", BROKER_KUBECONFIG];
    let started = Instant::now();
    let output = stage.look("broker", &words).await?;
    succeeded(&words, &output)?;
    stage.report.command("broker", "daisy invite --export none > developers.daisy", started.elapsed());
    let path = stage.lab.work().join("developers.daisy");
    std::fs::write(&path, output.stdout).map_err(|e| Failed::new("developers.daisy to be written", e.to_string()))?;
    stage.report.end();
    Ok(())
}

/// Starts the broker; ready once it answers.
pub(crate) async fn start_broker(stage: &Stage<'_>) -> Result<(), Failed> {
    let address = stage.lab.plan().broker_address();
    let advertise = address.to_string();
    let words = ["daisy", "deploy-broker", "--embedded", "--data", BROKER_DATA, "--advertise", &advertise];
    let command = Command { place: "broker".to_owned(), arguments: words.map(str::to_owned).into(), ..Command::default() };
    let service = ServiceCommand { name: BROKER.to_owned(), command, ready: Some((address, 6443).into()) };
    Ok(stage.lab.start_service(&service).await?)
}

/// 3: every cluster joins.
pub(crate) async fn join(stage: &mut Stage<'_>) -> Result<(), Failed> {
    stage.report.begin("Every cluster joins; those behind NAT only consume");
    let clusters = stage.clusters();
    let lab = &*stage;
    let joins = clusters.iter().enumerate().map(|(index, cluster)| async move {
        let file = if index == 0 { "broker-info.daisy" } else { "developers.daisy" };
        let words = ["daisy", "join", file, "--clusterid", cluster, "--hold", "2s"];
        let started = Instant::now();
        let output = lab.look(cluster, &words).await?;
        succeeded(&words, &output)?;
        Ok::<_, Failed>((cluster.clone(), words.join(" "), started.elapsed(), output.stderr))
    });
    let mut joined = Vec::new();
    for result in futures::future::join_all(joins).await {
        joined.push(result?);
    }
    for (cluster, words, took, said) in joined {
        stage.report.command(&cluster, &words, took);
        for line in said.lines().filter_map(|line| line.strip_prefix("✓ ")) {
            stage.report.saw(line);
        }
    }
    let started = Instant::now();
    for cluster in clusters.iter().skip(1) {
        let connected = async || {
            let output = stage.look(cluster, &["daisy", "show", "connections", "-o", "json"]).await?;
            let list: serde_json::Value = serde_json::from_str(&output.stdout).unwrap_or_default();
            let up =
                list.as_array().is_some_and(|l| l.iter().any(|c| c["clusterId"] == clusters[0] && c["status"] == "connected"));
            Ok(if up { Ok(()) } else { Err(format!("{}{}", output.stdout.trim(), output.stderr.trim())) })
        };
        stage.until(Duration::from_secs(20), &format!("{cluster} to be connected to {}", clusters[0]), connected).await?;
    }
    stage.report.saw(format!("tunnels are up, {} after the last join", human(started.elapsed())));
    let output = stage.type_(&clusters[1], &["daisy", "show", "connections"]).await?;
    stage.report.saw(output.stdout.trim_end());
    stage.report.end();
    Ok(())
}
