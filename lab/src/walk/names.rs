//! Steps 4 and 5: an export, and the answers to it.

use std::time::Duration;

use super::report::Failed;
use super::stage::{CLIENT, Stage, same};
use super::{tools, workloads};

/// A request that will be answered, if at all, long before this.
pub(crate) const SOON: Duration = Duration::from_secs(1);
/// How long nothing may come before it counts as nothing. A local cluster answers in single milliseconds.
const NOTHING: Duration = Duration::from_millis(700);

/// The pod of the walk's user in a cluster, as a place.
pub(crate) fn client_of(cluster: &str) -> String {
    format!("{cluster}/{CLIENT}")
}

/// 4: nginx runs in staging and is exported; beside it something that is not.
pub(crate) async fn export(stage: &mut Stage<'_>) -> Result<(), Failed> {
    stage.report.begin("nginx runs in staging, and is exported");
    let staging = stage.client("staging")?;
    let started = std::time::Instant::now();
    workloads::http(&staging, "nginx", "nginx").await?;
    workloads::http(&staging, "private", "vault").await?;
    for (space, name) in [("nginx", "nginx"), ("private", "vault")] {
        let there = async || {
            let endpoints = workloads::endpoints(&staging, space, name).await?;
            Ok(if endpoints.is_empty() { Err("no endpoint is ready".to_owned()) } else { Ok(endpoints) })
        };
        stage.until(Duration::from_secs(20), &format!("{space}/{name} to run in staging"), there).await?;
    }
    stage.report.command("staging", "kubectl apply -f nginx.yaml -f vault.yaml", started.elapsed());
    // Somebody in local asks all the while, so that the time from export to answer is what a user would see.
    let waiting_place = client_of("local");
    let exported_at = tools::clock_micros();
    let (answered, typed) = {
        let lab = &*stage;
        let words = ["daisy", "export", "service", "nginx", "-n", "nginx"];
        let started = std::time::Instant::now();
        let ask = lab.fetch_within(&waiting_place, "nginx.nginx.svc", SOON, Duration::from_secs(20));
        let export = async {
            let output = lab.look("staging", &words).await?;
            super::stage::succeeded(&words, &output)?;
            Ok::<_, Failed>((words.join(" "), started.elapsed(), output.stdout))
        };
        let (answered, typed) = tokio::join!(ask, export);
        (answered?, typed?)
    };
    stage.report.command("staging", &typed.0, typed.1);
    stage.report.saw(typed.2.trim_end());
    let answer = answered.map_err(|saw| Failed::new("nginx.nginx.svc to answer in local within 20 s of its export", saw))?;
    let took = Duration::from_micros(answer.at_micros.saturating_sub(exported_at));
    stage.report.number("export to remote answer", "daisy export, then HTTP in local", millis(took), "ms");
    stage.report.number("lab from nothing to the first remote answer", "daisy lab", stage.report.elapsed().as_secs_f64(), "s");
    stage.report.saw(format!(
        "a pod in local that asked all the while had its answer {:.0} ms after the command was typed",
        millis(took)
    ));
    stage.report.end();
    Ok(())
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

/// 5: what answers in local, and what does not.
pub(crate) async fn answer(stage: &mut Stage<'_>) -> Result<(), Failed> {
    stage.report.begin("In local, where the namespace does not exist, nginx.nginx.svc is answered by staging");
    let (local, staging) = (stage.client("local")?, stage.client("staging")?);
    let place = client_of("local");
    let spaces: daisy_kubernetes::Api<k8s_openapi::api::core::v1::Namespace> = daisy_kubernetes::Api::all(local.clone());
    if spaces.get_opt("nginx").await?.is_some() {
        return Err(Failed::new("no namespace nginx in local", "there is one"));
    }
    let output = stage.type_(&place, &["getent", "hosts", "nginx.nginx.svc"]).await?;
    let found = output.stdout.split_whitespace().nth(1).unwrap_or("nothing");
    same("the name that was found", "nginx.nginx.svc.supercluster.local", found)?;
    stage.report.saw(output.stdout.trim_end());

    let Some(own) = workloads::pod_address(&local, CLIENT).await? else {
        return Err(Failed::new("the client to have an address", "none"));
    };
    let answer = answered_by(stage, &place, "nginx.nginx.svc", "staging").await?;
    same("the source address that staging's nginx saw", &own, &answer.client)?;
    stage
        .report
        .saw(format!("HTTP answered by pod {} of staging, which saw the client's own address {}", answer.pod, answer.client));

    nat(stage).await?;

    let address = workloads::cluster_ip(&staging, "nginx", "nginx").await?;
    answered_by(stage, &place, &address, "staging").await?;
    stage.report.saw(format!("the exported Service's own ClusterIP {address} answers from local too"));

    not_exported(stage, &place).await?;
    // What is for an inner address is what one cluster has for another. A packet that merely comes from one is a pod's last word
    // on a connection that its node has forgotten, which no masquerade translates any more; it is dropped all the same.
    let crossing = stage.lab.crossing().await?;
    let clear = crossing.iter().filter(|d| !d.is_tunnels() && d.direction == "to" && d.packets > 0);
    let clear: Vec<String> = clear.map(|d| format!("{} to {}", d.packets, d.what)).collect();
    same("packets for inner addresses that crossed in clear", "", &clear.join(", "))?;
    stage.report.saw("no packet for a pod's or Service's address crossed outside the tunnel");
    stage.report.end();
    Ok(())
}

/// What the walk's HTTP server says of itself and of who asked.
pub(crate) struct Answer {
    pub(crate) pod: String,
    pub(crate) client: String,
}

/// Asks over HTTP until the cluster answers.
pub(crate) async fn answered_by(stage: &Stage<'_>, place: &str, host: &str, cluster: &str) -> Result<Answer, Failed> {
    let ask = async || {
        let fetched = match stage.fetch(place, host, SOON).await? {
            Ok(fetched) => fetched,
            Err(saw) => return Ok(Err(saw)),
        };
        let said: serde_json::Value = serde_json::from_str(&fetched.body).unwrap_or_default();
        let word = |key: &str| said[key].as_str().unwrap_or_default().to_owned();
        if word("cluster") != cluster {
            return Ok(Err(format!("answered by {:?}", fetched.body)));
        }
        Ok(Ok(Answer { pod: word("pod"), client: word("client") }))
    };
    let expected = format!("{host} to be answered in {place} by {cluster}");
    Ok(stage.until(Duration::from_secs(10), &expected, ask).await?.0)
}

/// The tunnel came up from behind the NAT: staging sees the router's public address.
async fn nat(stage: &mut Stage<'_>) -> Result<(), Failed> {
    let public = stage.lab.plan().cluster("local").map(|c| c.public_address().to_string()).unwrap_or_default();
    let seen = async || {
        let output = stage.look("staging", &["daisy", "show", "connections", "-o", "json"]).await?;
        let list: serde_json::Value = serde_json::from_str(&output.stdout).unwrap_or_default();
        let found = list.as_array().into_iter().flatten().find(|c| c["clusterId"] == "local").cloned().unwrap_or_default();
        let endpoint = found["endpoint"].as_str().unwrap_or_default().to_owned();
        let round_trip = found["latencyRTT"]["lastMicros"].as_u64();
        Ok(match round_trip {
            Some(micros) if found["usingNAT"] == true && endpoint.starts_with(&public) => Ok((endpoint, micros)),
            _ => Err(found.to_string()),
        })
    };
    let expected = format!("staging to have local's connection from {public}, with its round-trip time");
    let ((endpoint, micros), _) = stage.until(Duration::from_secs(10), &expected, seen).await?;
    stage.report.saw(format!("the tunnel came up from behind the NAT: staging has it from {endpoint}, round trip {micros} µs"));
    Ok(())
}

/// What staging did not export answers by no name and at no address.
async fn not_exported(stage: &mut Stage<'_>, place: &str) -> Result<(), Failed> {
    let staging = stage.client("staging")?;
    let address = workloads::cluster_ip(&staging, "private", "vault").await?;
    let pods = workloads::endpoints(&staging, "private", "vault").await?;
    let Some(pod) = pods.first() else { return Err(Failed::new("private/vault to have a pod", "none")) };
    // That it does not answer must be the filter's doing: in staging it does.
    answered_by(stage, &client_of("staging"), "vault.private.svc", "staging").await?;
    let rcode = stage.look(place, &["daisy", "lab-internal", "ask", "vault.private.svc.supercluster.local"]).await?;
    same("the return code for vault.private.svc.supercluster.local", "NXDOMAIN", rcode.stdout.trim())?;
    let (by_service, by_pod) = tokio::join!(stage.fetch(place, &address, NOTHING), stage.fetch(place, pod, NOTHING));
    for (what, result) in [(&address, by_service?), (pod, by_pod?)] {
        if let Ok(fetched) = result {
            return Err(Failed::new(format!("{what}, which is not exported, not to answer"), fetched.body));
        }
    }
    stage.report.saw(format!("private/vault, which is not exported, does not: not by name (NXDOMAIN), not by ClusterIP {address}, not by pod address {pod}"));
    Ok(())
}
