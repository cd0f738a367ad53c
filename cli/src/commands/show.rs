//! `daisy show`: tables for people, objects for programs.

use anyhow::{Context, Result};
use daisy_api::{Cluster, ConnectionStatus, Gateway, HaStatus, ServiceExport, conditions, labels};
use daisy_kubernetes::Api;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;
use kube::{Client, ResourceExt};
use serde::Serialize;
use serde_json::{Value, json};

use crate::arguments::{OutputFormat, Show, ShowOptions};
use crate::{connect, output};

/// Shows.
pub(crate) async fn run(what: Show) -> Result<()> {
    match what {
        Show::Clusters(options) => clusters(&connect::cluster(&options.target).await?, options.format.output).await,
        Show::Gateways(options) => gateways(&connect::cluster(&options.target).await?, options.format.output).await,
        Show::Connections(options) => connections(&connect::cluster(&options.target).await?, options.format.output).await,
        Show::Nodes(options) => nodes(&connect::cluster(&options.target).await?, options.format.output).await,
        Show::Services(options) => services(&connect::cluster(&options.target).await?, options.format.output).await,
        Show::All(options) => all(options).await,
    }
}

async fn all(options: ShowOptions) -> Result<()> {
    let client = connect::cluster(&options.target).await?;
    let format = options.format.output;
    if format == OutputFormat::Table {
        println!("CLUSTERS");
        clusters(&client, format).await?;
        println!("\nGATEWAYS");
        gateways(&client, format).await?;
        println!("\nNODES");
        nodes(&client, format).await?;
        println!("\nCONNECTIONS");
        connections(&client, format).await?;
        println!("\nSERVICES");
        return services(&client, format).await;
    }
    let values = |rows: Vec<(Value, Vec<String>)>| rows.into_iter().map(|(v, _)| v).collect::<Vec<_>>();
    let everything = json!({
        "clusters": list::<Cluster>(&client).await?,
        "gateways": list::<Gateway>(&client).await?,
        "nodes": values(node_rows(&client).await?),
        "connections": values(connection_rows(&client).await?),
        "services": values(service_rows(&client).await?),
    });
    let text = match format {
        OutputFormat::Yaml => daisy_api::yaml::to_string(&everything)?,
        OutputFormat::Json | OutputFormat::Table => serde_json::to_string_pretty(&everything)? + "\n",
    };
    output::print(&text)
}

async fn list<K>(client: &Client) -> Result<Vec<K>>
where
    K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(client.clone(), labels::SYSTEM_NAMESPACE);
    let what = K::plural(&());
    let list = api.list(&ListParams::default()).await;
    Ok(list.with_context(|| format!("listing {what} in daisy-system: has this cluster joined (`daisy join`)?"))?.items)
}

fn joined<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let text = items.into_iter().map(|i| i.to_string()).collect::<Vec<_>>().join(",");
    if text.is_empty() { "-".to_owned() } else { text }
}

async fn clusters(client: &Client, format: OutputFormat) -> Result<()> {
    let rows: Vec<(Cluster, Vec<String>)> = list::<Cluster>(client)
        .await?
        .into_iter()
        .map(|cluster| {
            let local = cluster.labels().get(labels::CLUSTER_ROLE).is_some_and(|r| r == labels::CLUSTER_ROLE_LOCAL);
            let cells = vec![
                cluster.name_any() + if local { " (this one)" } else { "" },
                joined(&cluster.spec.cluster_cidrs),
                joined(&cluster.spec.service_cidrs),
                cluster.spec.node_cidr.to_string(),
                joined(cluster.spec.gateways.iter().map(|g| &g.node)),
                cluster.status.as_ref().map_or(0, |s| s.exports).to_string(),
                cluster.spec.version.clone(),
            ];
            (cluster, cells)
        })
        .collect();
    output::rows(format, &["cluster", "pods", "services", "nodes", "gateways", "imported", "version"], &rows)
}

async fn gateways(client: &Client, format: OutputFormat) -> Result<()> {
    let rows: Vec<(Gateway, Vec<String>)> = list::<Gateway>(client)
        .await?
        .into_iter()
        .map(|gateway| {
            let status = gateway.status.clone().unwrap_or_default();
            let ready = conditions::find(&status.conditions, conditions::READY);
            let up = status.connections.iter().filter(|c| c.status == ConnectionStatus::Connected).count();
            let cells = vec![
                gateway.spec.node.to_string(),
                match status.ha_status {
                    HaStatus::Active => "active".to_owned(),
                    HaStatus::Passive => "passive".to_owned(),
                },
                status
                    .local_endpoint
                    .as_ref()
                    .map_or_else(|| "-".to_owned(), |l| joined(l.endpoints.iter().map(|e| e.address))),
                format!("{up}/{}", status.connections.len()),
                ready.map_or_else(|| "-".to_owned(), |c| format!("{}: {}", c.reason, c.message)),
            ];
            (gateway, cells)
        })
        .collect();
    output::rows(format, &["node", "status", "endpoints", "connected", "state"], &rows)
}

async fn connection_rows(client: &Client) -> Result<Vec<(Value, Vec<String>)>> {
    let mut rows = Vec::new();
    for gateway in list::<Gateway>(client).await? {
        for connection in gateway.status.clone().unwrap_or_default().connections {
            let round_trip = connection.latency.map_or_else(|| "-".to_owned(), |l| millis(l.last_micros));
            let average = connection.latency.map_or_else(|| "-".to_owned(), |l| millis(l.average_micros));
            let cells = vec![
                connection.cluster_id.to_string(),
                connection.node.to_string(),
                gateway.spec.node.to_string(),
                connection.endpoint.map_or_else(|| "-".to_owned(), |e| e.to_string()),
                if connection.using_nat { "yes" } else { "no" }.to_owned(),
                match connection.status {
                    ConnectionStatus::Connecting => "connecting".to_owned(),
                    ConnectionStatus::Connected => "connected".to_owned(),
                    ConnectionStatus::Error => format!("error: {}", connection.status_message),
                },
                round_trip,
                average,
            ];
            let mut value = serde_json::to_value(&connection)?;
            value["gateway"] = json!(gateway.spec.node);
            rows.push((value, cells));
        }
    }
    Ok(rows)
}

/// The nodes, as far as Daisy has to do with them.
async fn node_rows(client: &Client) -> Result<Vec<(Value, Vec<String>)>> {
    let all = Api::<Node>::all(client.clone()).list(&ListParams::default()).await.context("listing nodes")?.items;
    let rows = all.into_iter().map(|node| {
        let annotation = |key: &str| node.annotations().get(key).cloned();
        let gateway = node.labels().get(labels::GATEWAY_NODE).is_some_and(|value| value == "true");
        let (address, public) = (annotation(labels::NODE_ADDRESS), annotation(labels::PUBLIC_ADDRESS));
        let problem = annotation(labels::NODE_PROBLEM);
        let cells = vec![
            node.name_any(),
            if gateway { "yes" } else { "no" }.to_owned(),
            address.clone().unwrap_or_else(|| "-".to_owned()),
            public.clone().unwrap_or_else(|| "-".to_owned()),
            problem.clone().unwrap_or_else(|| "ok".to_owned()),
        ];
        let value = json!({
            "name": node.name_any(), "gateway": gateway, "nodeAddress": address, "publicAddress": public, "problem": problem,
        });
        (value, cells)
    });
    Ok(rows.collect())
}

async fn nodes(client: &Client, format: OutputFormat) -> Result<()> {
    output::rows(format, &["node", "gateway", "node address", "public address", "state"], &node_rows(client).await?)
}

fn millis(micros: u64) -> String {
    format!("{}.{:03} ms", micros / 1_000, micros % 1_000)
}

async fn connections(client: &Client, format: OutputFormat) -> Result<()> {
    let headings = ["cluster", "its gateway", "our gateway", "endpoint", "nat", "status", "rtt", "average"];
    output::rows(format, &headings, &connection_rows(client).await?)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ServiceRow {
    namespace: String,
    name: String,
    direction: &'static str,
    ips: Vec<String>,
    clusters: Vec<String>,
    state: String,
}

async fn service_rows(client: &Client) -> Result<Vec<(Value, Vec<String>)>> {
    let mut found = Vec::new();
    let exports: Api<ServiceExport> = Api::all(client.clone());
    for export in exports.list(&ListParams::default()).await.context("listing ServiceExports")?.items {
        let list = export.status.clone().unwrap_or_default().conditions;
        let bad = [conditions::VALID, conditions::READY]
            .iter()
            .find_map(|t| conditions::find(&list, t).filter(|c| c.status != "True"));
        let state = match bad {
            Some(c) => format!("{}: {}", c.reason, c.message),
            None if list.is_empty() => "not yet judged".to_owned(),
            None => "exported".to_owned(),
        };
        let (namespace, name) = (export.namespace().unwrap_or_default(), export.name_any());
        found.push(ServiceRow { namespace, name, direction: "export", ips: Vec::new(), clusters: Vec::new(), state });
    }
    let ours =
        ListParams::default().labels(&format!("{}={},{}", labels::MANAGED_BY, labels::MANAGED_BY_DAISY, labels::IMPORT_NAME));
    let services: Api<Service> = Api::namespaced(client.clone(), labels::SYSTEM_NAMESPACE);
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), labels::SYSTEM_NAMESPACE);
    let slices =
        slices.list(&ListParams::default().labels(labels::IMPORT_NAME)).await.context("listing imports' EndpointSlices")?.items;
    for service in services.list(&ours).await.context("listing imports' Services")?.items {
        let label = |key: &str| service.labels().get(key).cloned().unwrap_or_default();
        let own = slices.iter().filter(|s| s.labels().get(labels::SLICE_SERVICE_NAME) == Some(&service.name_any()));
        let mut clusters: Vec<String> =
            own.clone().filter_map(|s| s.labels().get(labels::MCS_SOURCE_CLUSTER).cloned()).collect();
        clusters.sort();
        clusters.dedup();
        let endpoints: usize = own.map(|s| s.endpoints.len()).sum();
        found.push(ServiceRow {
            namespace: label(labels::IMPORT_NAMESPACE),
            name: label(labels::IMPORT_NAME),
            direction: "import",
            ips: service.spec.as_ref().and_then(|s| s.cluster_ips.clone()).unwrap_or_default(),
            clusters,
            state: format!("{endpoints} endpoints"),
        });
    }
    found.sort_by(|a, b| (&a.namespace, &a.name, a.direction).cmp(&(&b.namespace, &b.name, b.direction)));
    found
        .into_iter()
        .map(|row| {
            let cells = vec![
                row.namespace.clone(),
                row.name.clone(),
                row.direction.to_owned(),
                joined(&row.ips),
                joined(&row.clusters),
                row.state.clone(),
            ];
            Ok((serde_json::to_value(&row)?, cells))
        })
        .collect()
}

async fn services(client: &Client, format: OutputFormat) -> Result<()> {
    let headings = ["namespace", "service", "direction", "ip", "clusters", "state"];
    output::rows(format, &headings, &service_rows(client).await?)
}
