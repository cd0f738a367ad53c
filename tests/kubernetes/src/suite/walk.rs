//! The walk: what Daisy promises, with the published pattern's own `dnsConfig`.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::stage::{SOON, Stage, same, until};
use super::supercluster::{BROKER_KUBECONFIG, daisy, is_connected, start_broker};
use super::workloads::{Pod, Service, delete, namespace};
use super::{Case, case, needed};

/// The client of each cluster: a pod as the pattern has it.
pub(super) const CLIENT: &str = "client/client";
/// A client without the pattern.
const PLAIN: &str = "client/plain";
const SEARCHES: &[&str] = &["supercluster.local"];
/// How long nothing may come before it counts as nothing.
const NAME: &str = "nginx.nginx.svc";
const FULL: &str = "nginx.nginx.svc.supercluster.local";

pub(super) fn cases() -> Vec<Case> {
    vec![
        needed("walk: clients run with dnsConfig.searches: [supercluster.local]", clients),
        needed("walk: an export in staging answers in local, where not even its namespace exists", export),
        case("walk: the name, from outside of the pattern too; other names are as before", names),
        case("walk: each cluster says who it is, and the MCS API is served in both versions", says_who_it_is),
        case("walk: the source address is kept", source),
        case("walk: the exported Service's own ClusterIP answers", own_cluster_ip),
        case("walk: what is not exported is not reachable: not by name, ClusterIP or pod address", unexported),
        case("walk: nginx starts in local: the same name is local; it goes: staging's again", local_first),
        case("walk: an export against the grant is refused, and says so", grant),
        case("walk: a whole namespace, and what is added to it later", whole_namespace),
        case("walk: unexported, the name is NXDOMAIN", unexport),
        case("walk: the broker dies: what answers keeps answering; it comes back, and exports go on", broker_dies),
        case("walk: local's public address changes: the tunnel comes back", public_address),
    ]
}

fn clients(stage: &mut Stage) -> Result<()> {
    let clusters = stage.bed.plan.clusters.clone();
    for cluster in &clusters {
        // On the last node: not the gateway, where there are two.
        let node = cluster.node(cluster.nodes);
        Pod::client(&cluster.name, CLIENT).on(&node).searching(SEARCHES).make(stage)?;
        Pod::client(&cluster.name, PLAIN).on(&node).make(stage)?;
    }
    for cluster in &clusters {
        for pod in [CLIENT, PLAIN] {
            super::workloads::ready(stage, &cluster.name, pod)?;
        }
    }
    Ok(())
}

/// Waits until a pod of `cluster` finds `asked` under the name `wanted`; returns its address.
fn found_as(stage: &Stage, cluster: &str, asked: &str, wanted: &str) -> Result<String> {
    until(SOON, &format!("getent hosts {asked} in {cluster} to find {wanted}"), || {
        match stage.getent(cluster, CLIENT, asked)? {
            Some((address, name)) if name == wanted => Ok(address),
            other => bail!("saw {other:?}"),
        }
    })
}

/// Waits until `server` answers a pod of `cluster` by a name.
pub(super) fn answered_by(stage: &Stage, cluster: &str, host: &str, server: &str) -> Result<()> {
    until(SOON, &format!("{host} to be answered by {server} in {cluster}"), || {
        same("who answers", &server.to_owned(), &stage.fetch(cluster, CLIENT, host)?.server)
    })
}

fn export(stage: &mut Stage) -> Result<()> {
    Pod::server("staging", "nginx/staging-nginx").on("staging-node2").run(stage)?;
    Service::new("staging", "nginx/nginx", "staging-nginx").make(stage)?;
    let started = Instant::now();
    daisy(stage, "staging", &["export", "service", "nginx", "-n", "nginx", "--context", "staging"])?;
    found_as(stage, "local", NAME, FULL)?;
    answered_by(stage, "local", NAME, "staging-nginx")?;
    println!("                  export to the first remote answer: {:.1} s", started.elapsed().as_secs_f64());
    answered_by(stage, "c3", NAME, "staging-nginx")
}

fn names(stage: &mut Stage) -> Result<()> {
    same("getent hosts of a client without the pattern", &None, &stage.getent("local", PLAIN, NAME)?)?;
    let seen = stage.dig("local", PLAIN, FULL, "A")?;
    same("dig of the full name", &("NOERROR", 1), &(seen.0.as_str(), seen.1.len()))?;
    let clusterset = "nginx.nginx.svc.clusterset.local";
    same(
        "clusterset.local, where the namespace does not exist",
        &"NXDOMAIN".to_owned(),
        &stage.dig("local", PLAIN, clusterset, "A")?.0,
    )?;
    same("clusterset.local in staging", &"NOERROR".to_owned(), &stage.dig("staging", PLAIN, clusterset, "A")?.0)?;
    for absent in ["absent.nginx.svc.supercluster.local", "www.example.com.supercluster.local"] {
        same(absent, &"NXDOMAIN".to_owned(), &stage.dig("local", PLAIN, absent, "A")?.0)?;
    }
    let outside = stage.getent("local", CLIENT, "www.example.com")?.context("getent hosts www.example.com found nothing")?;
    same("www.example.com, through the search list", &"www.example.com".to_owned(), &outside.1)
}

fn says_who_it_is(stage: &mut Stage) -> Result<()> {
    let mut sets = BTreeSet::new();
    for cluster in stage.bed.plan.clusters.clone() {
        let value = |name: &str| {
            let object = stage.get(&cluster.name, &["clusterproperties.about.k8s.io", name])?;
            Ok::<_, anyhow::Error>(object["spec"]["value"].as_str().unwrap_or_default().to_owned())
        };
        same("cluster.clusterset.k8s.io", &cluster.name, &value("cluster.clusterset.k8s.io")?)?;
        sets.insert(value("clusterset.k8s.io")?);
    }
    if sets.len() != 1 || sets.iter().any(String::is_empty) {
        bail!("expected the same clusterset.k8s.io everywhere, saw {sets:?}");
    }
    for version in ["v1alpha1", "v1beta1"] {
        let export =
            stage.get("staging", &["-n", "nginx", &format!("serviceexports.{version}.multicluster.x-k8s.io"), "nginx"])?;
        same(
            "apiVersion",
            &format!("multicluster.x-k8s.io/{version}"),
            &export["apiVersion"].as_str().unwrap_or_default().to_owned(),
        )?;
    }
    Ok(())
}

fn source(stage: &mut Stage) -> Result<()> {
    for cluster in ["local", "c3"] {
        let answer = stage.fetch(cluster, CLIENT, NAME)?;
        same("the address that staging's nginx sees", &stage.pod_address(cluster, CLIENT)?, &answer.client)?;
    }
    Ok(())
}

fn own_cluster_ip(stage: &mut Stage) -> Result<()> {
    let address = stage.cluster_ip("staging", "nginx/nginx")?;
    answered_by(stage, "local", &address, "staging-nginx")
}

fn unexported(stage: &mut Stage) -> Result<()> {
    Pod::server("staging", "private/vault").run(stage)?;
    Service::new("staging", "private/vault", "vault").make(stage)?;
    let (service, pod) = (stage.cluster_ip("staging", "private/vault")?, stage.pod_address("staging", "private/vault")?);
    until(SOON, "vault to answer in its own cluster", || stage.fetch("staging", CLIENT, &service))?;
    same("getent hosts vault.private.svc", &None, &stage.getent("local", CLIENT, "vault.private.svc")?)?;
    for address in [service, pod] {
        let seen = stage.fetch("local", CLIENT, &address);
        same(&format!("whether {address} answers local"), &false, &seen.is_ok())?;
    }
    Ok(())
}

fn local_first(stage: &mut Stage) -> Result<()> {
    Pod::server("local", "nginx/local-nginx").run(stage)?;
    Service::new("local", "nginx/nginx", "local-nginx").make(stage)?;
    found_as(stage, "local", NAME, "nginx.nginx.svc.cluster.local")?;
    answered_by(stage, "local", NAME, "local-nginx")?;
    answered_by(stage, "local", FULL, "local-nginx")?;
    delete(stage, "local", "namespace", "nginx")?;
    found_as(stage, "local", NAME, FULL)?;
    answered_by(stage, "local", NAME, "staging-nginx")
}

fn grant(stage: &mut Stage) -> Result<()> {
    let set =
        |stage: &Stage, to: &str| daisy(stage, "broker", &["grant", "local", to, "--broker-kubeconfig", BROKER_KUBECONFIG]);
    set(stage, "none")?;
    Pod::server("local", "refused/refused").run(stage)?;
    Service::new("local", "refused/refused", "refused").make(stage)?;
    let outcome = until(SOON, "the export to be refused", || {
        match daisy(stage, "local", &["export", "service", "refused", "-n", "refused", "--context", "local"]) {
            Ok(said) => bail!("it was not: {said}"),
            Err(error) => Ok(format!("{error:#}")),
        }
    });
    let found = stage.getent("staging", CLIENT, "refused.refused.svc");
    set(stage, "all")?;
    let outcome = outcome?;
    if !outcome.contains("grant") {
        bail!("expected the refusal to name the grant, saw {outcome}");
    }
    same("getent hosts refused.refused.svc in staging", &None, &found?)?;
    // The grant is given back, and what it held up goes on by itself.
    answered_by(stage, "staging", "refused.refused.svc", "refused")?;
    delete(stage, "local", "namespace", "refused")
}

fn whole_namespace(stage: &mut Stage) -> Result<()> {
    for name in ["cart", "catalog"] {
        Pod::server("staging", &format!("shop/{name}")).run(stage)?;
        Service::new("staging", &format!("shop/{name}"), name).make(stage)?;
    }
    daisy(stage, "staging", &["export", "namespace", "shop", "--context", "staging"])?;
    answered_by(stage, "local", "cart.shop.svc", "cart")?;
    answered_by(stage, "local", "catalog.shop.svc", "catalog")?;
    Service::new("staging", "shop/late", "cart").make(stage)?;
    answered_by(stage, "local", "late.shop.svc", "cart")?;
    daisy(stage, "staging", &["unexport", "namespace", "shop", "--context", "staging"])?;
    gone(stage, "local", "late.shop.svc.supercluster.local")
}

/// Waits until a name is NXDOMAIN in a cluster.
pub(super) fn gone(stage: &Stage, cluster: &str, name: &str) -> Result<()> {
    until(SOON, &format!("{name} to be NXDOMAIN in {cluster}"), || {
        same(name, &"NXDOMAIN".to_owned(), &stage.dig(cluster, CLIENT, name, "A")?.0)
    })
}

fn unexport(stage: &mut Stage) -> Result<()> {
    daisy(stage, "staging", &["unexport", "service", "nginx", "-n", "nginx", "--context", "staging"])?;
    gone(stage, "local", FULL)?;
    same("getent hosts nginx.nginx.svc", &None, &stage.getent("local", CLIENT, NAME)?)?;
    let seen = stage.fetch("local", CLIENT, &stage.pod_address("staging", "nginx/staging-nginx")?);
    same("whether the pod still answers local", &false, &seen.is_ok())?;
    daisy(stage, "staging", &["export", "service", "nginx", "-n", "nginx", "--context", "staging"])?;
    answered_by(stage, "local", NAME, "staging-nginx")
}

fn broker_dies(stage: &mut Stage) -> Result<()> {
    stage.bed.run("broker", &["busybox", "killall", "-9", "daisy"])?;
    let until_then = Instant::now() + Duration::from_secs(10);
    while Instant::now() < until_then {
        same("who answers without the broker", &"staging-nginx".to_owned(), &stage.fetch("local", CLIENT, NAME)?.server)?;
        std::thread::sleep(Duration::from_millis(500));
    }
    start_broker(stage)?;
    namespace(stage, "staging", "nginx")?;
    Service::new("staging", "nginx/second", "staging-nginx").make(stage)?;
    daisy(stage, "staging", &["export", "service", "second", "-n", "nginx", "--context", "staging"])?;
    answered_by(stage, "local", "second.nginx.svc", "staging-nginx")?;
    same("who answers by the name of before", &"staging-nginx".to_owned(), &stage.fetch("local", CLIENT, NAME)?.server)?;
    delete(stage, "staging", "service", "nginx/second")?;
    gone(stage, "local", "second.nginx.svc.supercluster.local")
}

fn public_address(stage: &mut Stage) -> Result<()> {
    let local = stage.bed.plan.cluster("local")?.clone();
    let (old, new) = (local.public_address(), std::net::Ipv4Addr::new(203, 0, 113, 200));
    stage.bed.readdress(&local, old, new)?;
    let back =
        until(SOON, "local to reach staging from its new address", || stage.fetch("local", CLIENT, NAME)).and_then(|_| {
            // The connections to the broker are as dead, and nobody says so.
            Service::new("staging", "nginx/moved", "staging-nginx").make(stage)?;
            daisy(stage, "staging", &["export", "service", "moved", "-n", "nginx", "--context", "staging"])?;
            let started = Instant::now();
            answered_by(stage, "local", "moved.nginx.svc", "staging-nginx")?;
            println!("                  what is exported then answers after {:.1} s", started.elapsed().as_secs_f64());
            delete(stage, "staging", "service", "nginx/moved")
        });
    stage.bed.readdress(&local, new, old)?;
    back?;
    until(SOON, "and from its old one", || stage.fetch("local", CLIENT, NAME))?;
    until(SOON, "local to be connected", || is_connected(stage, "local", "staging"))
}
