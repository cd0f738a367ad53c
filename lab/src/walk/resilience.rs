//! Step 7: the broker dies and comes back; the router's address changes. And what it all takes in memory.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use daisy_api::labels;
use daisy_kubernetes::Api;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;
use kube::{Client, ResourceExt};

use super::begin::{BROKER, start_broker};
use super::names::{answered_by, client_of};
use super::report::{Failed, human};
use super::stage::{Stage, same};
use super::workloads;

const KILL: i32 = 9;

/// The imports of a cluster and their slices, by UID: what was withdrawn and came back has another.
async fn imports(client: &Client) -> Result<String, Failed> {
    let ours = ListParams::default().labels(labels::IMPORT_NAME);
    let services: Api<Service> = Api::namespaced(client.clone(), labels::SYSTEM_NAMESPACE);
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), labels::SYSTEM_NAMESPACE);
    let mut list: Vec<String> = Vec::new();
    list.extend(services.list(&ours).await?.items.iter().map(|o| format!("{}={}", o.name_any(), o.uid().unwrap_or_default())));
    list.extend(slices.list(&ours).await?.items.iter().map(|o| format!("{}={}", o.name_any(), o.uid().unwrap_or_default())));
    list.sort();
    Ok(list.join("\n"))
}

/// The broker is killed; everything keeps answering; it comes back on the same data.
pub(crate) async fn broker_dies(stage: &mut Stage<'_>) -> Result<(), Failed> {
    stage.report.begin("The broker is killed: everything keeps answering; it comes back, and goes on");
    let place = client_of("local");
    let local = stage.client("local")?;
    let before = imports(&local).await?;
    let started = Instant::now();
    stage.lab.kill_service(BROKER, KILL).await?;
    stage.report.command("broker", "kill -9 $(pidof daisy)", started.elapsed());
    for _ in 0..20 {
        answered_by(stage, &place, "cart.shop.svc", "staging").await?;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    stage.report.saw("for a second without a broker, each of 20 requests was answered");
    let staging = stage.client("staging")?;
    workloads::service(&staging, "shop", "meanwhile", "cart").await?;
    let started = Instant::now();
    start_broker(stage).await?;
    stage.report.command("broker", "daisy deploy-broker --embedded --advertise 203.0.113.2", started.elapsed());
    answered_by(stage, &place, "meanwhile.shop.svc", "staging").await?;
    stage.report.saw(format!("what was exported meanwhile answers, {} after the broker was started", human(started.elapsed())));
    let after = imports(&local).await?;
    let lost: Vec<&str> = before.lines().filter(|line| !after.lines().any(|l| l == *line)).collect();
    same("imports that were withdrawn meanwhile", "", &lost.join(", "))?;
    stage.report.saw("nothing was withdrawn meanwhile: every import and endpoint slice is the same object as before");
    stage.report.end();
    Ok(())
}

/// The router in front of local gets another public address.
pub(crate) async fn address_changes(stage: &mut Stage<'_>) -> Result<(), Failed> {
    stage.report.begin("local's public address changes: the tunnel comes back by itself");
    let place = client_of("local");
    let Some(other) = stage.lab.plan().cluster("local").map(crate::plan::ClusterPlan::other_public_address) else {
        return Err(Failed::new("a cluster local", "none"));
    };
    answered_by(stage, &place, "cart.shop.svc", "staging").await?;
    let started = Instant::now();
    stage.lab.set_public_address("local", other).await?;
    stage.report.command("local/router", &format!("ip address replace {other} dev internet"), started.elapsed());
    answered_by(stage, &place, "cart.shop.svc", "staging").await?;
    let took = started.elapsed();
    stage.report.saw(format!("cart.shop.svc is answered again {} later", human(took)));
    stage.report.number("answer after the NAT's public address changed", "daisy gateway", took.as_secs_f64() * 1_000.0, "ms");
    let seen = async || {
        let output = stage.look("staging", &["daisy", "show", "connections"]).await?;
        Ok(if output.stdout.contains(&other.to_string()) { Ok(()) } else { Err(output.stdout) })
    };
    stage.until(Duration::from_secs(15), &format!("staging to have local at {other}"), seen).await?;
    stage.report.end();
    Ok(())
}

/// What each role takes in memory, the most of its processes. What is judged is the proportional size: since Linux 6.18 a fault
/// maps the whole large folio of the page cache that it falls into, so that the resident size counts most of the binary for each
/// process, though its pages are there once and can be dropped at any time.
pub(crate) async fn memory(stage: &mut Stage<'_>) -> Result<(), Failed> {
    const LIMIT_KIB: u64 = 30 * 1024;
    stage.report.begin("Each role's memory");
    let mut most: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for process in stage.lab.processes().await? {
        let Some(role) = process.arguments.get(1) else { continue };
        if ["syncer", "gateway", "route-agent", "dns", "deploy-broker"].contains(&role.as_str()) {
            let entry = most.entry(role.replace("deploy-", "")).or_default();
            *entry = (*entry).max((process.proportional_kib, process.resident_kib));
        }
    }
    if most.len() != 5 {
        return Err(Failed::new("five roles to run", format!("{most:?}")));
    }
    #[expect(clippy::cast_precision_loss, reason = "KiB of one process")]
    let mebibytes = |kib: u64| kib as f64 / 1024.0;
    for (role, (proportional, resident)) in &most {
        stage.report.number("memory, shared pages divided", role, mebibytes(*proportional), "MiB");
        stage.report.number("resident memory, shared pages included", role, mebibytes(*resident), "MiB");
        // An unoptimised build is several times as large.
        if *proportional > LIMIT_KIB && !cfg!(debug_assertions) {
            return Err(Failed::new(format!("{role} to stay under 30 MiB"), format!("{proportional} KiB")));
        }
    }
    let list: Vec<String> = most.iter().map(|(role, (kib, _))| format!("{role} {:.1} MiB", mebibytes(*kib))).collect();
    stage.report.saw(list.join(", "));
    stage.report.end();
    Ok(())
}
