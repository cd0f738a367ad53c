//! Step 6: local first, staging when there is none; grants; whole namespaces.

use std::time::{Duration, Instant};

use super::names::{answered_by, client_of};
use super::report::{Failed, human};
use super::stage::{Stage, same};
use super::workloads;

const LIMIT: Duration = Duration::from_secs(15);

/// nginx starts in local, is deleted, cannot be exported from there, and is unexported in staging.
pub(crate) async fn local_first(stage: &mut Stage<'_>) -> Result<(), Failed> {
    stage.report.begin("nginx starts in local: the same name is now the local one; deleted, it is staging's again");
    let place = client_of("local");
    let local = stage.client("local")?;
    let started = Instant::now();
    workloads::http(&local, "nginx", "nginx").await?;
    stage.report.command("local", "kubectl apply -f nginx.yaml", started.elapsed());
    let took = named(stage, &place, "nginx.nginx.svc", "nginx.nginx.svc.cluster.local").await?;
    answered_by(stage, &place, "nginx.nginx.svc", "local").await?;
    stage.report.saw(format!("nginx.nginx.svc.cluster.local, after {}; HTTP answered by local", human(took)));

    let output = stage.try_type("local", &["daisy", "export", "service", "nginx", "-n", "nginx"]).await?;
    if output.code == 0 || !output.stderr.contains("grant") {
        return Err(Failed::new(
            "local's export to be refused by its grant",
            format!("exit code {}: {}{}", output.code, output.stdout, output.stderr),
        ));
    }
    stage.report.saw(output.stderr.trim_end());

    let started = Instant::now();
    workloads::delete_namespace(&local, "nginx").await?;
    stage.report.command("local", "kubectl delete namespace nginx", started.elapsed());
    let took = named(stage, &place, "nginx.nginx.svc", "nginx.nginx.svc.supercluster.local").await?;
    answered_by(stage, &place, "nginx.nginx.svc", "staging").await?;
    stage.report.saw(format!("staging's again, after {}", human(took)));

    stage.type_("staging", &["daisy", "unexport", "service", "nginx", "-n", "nginx"]).await?;
    let gone = async || {
        let output = stage.look(&place, &["daisy", "lab-internal", "ask", "nginx.nginx.svc.supercluster.local"]).await?;
        Ok(if output.stdout.trim() == "NXDOMAIN" { Ok(()) } else { Err(output.stdout.trim().to_owned()) })
    };
    let (_, took) = stage.until(LIMIT, "nginx.nginx.svc.supercluster.local to be NXDOMAIN", gone).await?;
    if let Some((address, found)) = stage.getent(&place, "nginx.nginx.svc").await? {
        return Err(Failed::new("nginx.nginx.svc to have no address", format!("{address} {found}")));
    }
    stage.report.saw(format!("the name is gone (NXDOMAIN), after {}", human(took)));
    stage.report.end();
    Ok(())
}

/// Waits until the system's resolver finds this name for that one.
async fn named(stage: &Stage<'_>, place: &str, asked: &str, wanted: &str) -> Result<Duration, Failed> {
    let look = async || {
        Ok(match stage.getent(place, asked).await? {
            Some((_, found)) if found == wanted => Ok(()),
            Some((address, found)) => Err(format!("{address} {found}")),
            None => Err("no answer".to_owned()),
        })
    };
    Ok(stage.until(LIMIT, &format!("`getent hosts {asked}` to find {wanted} in {place}"), look).await?.1)
}

/// A namespace is exported as a whole: what is in it, and what comes later.
pub(crate) async fn whole_namespace(stage: &mut Stage<'_>) -> Result<(), Failed> {
    stage.report.begin("A whole namespace is exported: each of its Services, and one that is added a moment later");
    let staging = stage.client("staging")?;
    let place = client_of("local");
    for name in ["cart", "catalog"] {
        workloads::http(&staging, "shop", name).await?;
    }
    stage.type_("staging", &["daisy", "export", "namespace", "shop"]).await?;
    for name in ["cart", "catalog"] {
        answered_by(stage, &place, &format!("{name}.shop.svc"), "staging").await?;
        stage.report.saw(format!("{name}.shop.svc is answered by staging"));
    }
    let started = Instant::now();
    workloads::service(&staging, "shop", "late", "cart").await?;
    stage.report.command("staging", "kubectl apply -f late.yaml", started.elapsed());
    answered_by(stage, &place, "late.shop.svc", "staging").await?;
    stage.report.saw(format!("late.shop.svc is answered by staging, {} after it was made", human(started.elapsed())));
    let output = stage.type_("staging", &["daisy", "show", "services"]).await?;
    let rows = output.stdout.lines().filter(|l| l.starts_with("shop") && l.contains("export")).count();
    same("exports of namespace shop that `daisy show services` lists", "3", &rows.to_string())?;
    stage.report.end();
    Ok(())
}
