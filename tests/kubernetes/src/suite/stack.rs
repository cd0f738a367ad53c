//! Real programs, as their users run them, spread over two clusters that use each other's by name.
//!
//! ```text
//! staging                              local
//!   app (nginx)   ◀── HTTP, by name ──── front (nginx) ◀── curl
//!   redis         ◀── redis-benchmark ── a client; later, a developer's copy of redis
//!   a client       ── pgbench ─────────▶ postgres
//! ```

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::availability::{kill_all, kill_one_by_one};
use super::stage::{SOON, Stage, same, until};
use super::supercluster::{daisy, start_broker};
use super::workloads::{POSTGRES, Pod, REDIS, Service, delete, ready};
use super::{Case, case};
use crate::images;

const SEARCHES: &[&str] = &["supercluster.local"];
/// The one that asks Redis, in local; and the one that asks PostgreSQL, in staging.
const ASKS_REDIS: &str = "stack/redis-client";
const ASKS_POSTGRES: &str = "stack/postgres-client";
/// The transactions a second that are asked for: enough that each second has some, and the machine does other things too.
const RATE: u64 = 100;

pub(super) fn cases() -> Vec<Case> {
    vec![
        case("stack: nginx, Redis and PostgreSQL in two clusters find each other by name", begin),
        case("stack: curl through nginx in front, redis-benchmark, pgbench", work),
        case("stack: a developer's copy of Redis starts and stops; connections that stand stay", |s| {
            stands(s, Duration::from_secs(25), copy)
        }),
        case("stack: pods of Daisy's, gateways and the broker die; connections that stand stay", |s| {
            stands(s, Duration::from_secs(100), everything_dies)
        }),
        case("stack: a program's own pod dies, and the name answers again", pod_dies),
    ]
}

fn begin(stage: &mut Stage) -> Result<()> {
    let folder = stage.bed.folder().join("images");
    for archive in [images::redis(&folder)?, images::postgres(&folder)?] {
        for cluster in ["staging", "local"] {
            stage.bed.load_image(&archive, Some(cluster))?;
        }
    }
    let pods = [
        Pod::server("staging", "stack/app"),
        Pod::client("staging", "stack/redis").of(images::REDIS),
        Pod::client("local", "stack/postgres").of(images::POSTGRES),
        Pod::client("local", ASKS_REDIS).of(images::REDIS).idle().searching(SEARCHES),
        Pod::client("staging", ASKS_POSTGRES).of(images::POSTGRES).idle().searching(SEARCHES),
    ];
    pods.iter().try_for_each(|pod| pod.make(stage))?;
    front(stage)?;
    pods.iter().try_for_each(|pod| ready(stage, pod.cluster, pod.name))?;
    ready(stage, "local", "stack/front")?;
    Service::new("local", "stack/front", "front").make(stage)?;
    for (cluster, name, port) in [("staging", "app", 80), ("staging", "redis", REDIS), ("local", "postgres", POSTGRES)] {
        Service { port, ..Service::new(cluster, &format!("stack/{name}"), name) }.make(stage)?;
        daisy(stage, cluster, &["export", "service", name, "-n", "stack", "--context", cluster])?;
    }
    until(SOON, "Redis to answer local", || redis(stage, &["SET", "who", "staging"]))?;
    same("whose Redis it is", &"staging".to_owned(), &redis(stage, &["GET", "who"])?)?;
    until(SOON, "PostgreSQL to answer staging", || postgres(stage, &["psql", "-tAc", "select 1"]))?;
    through_front(stage)
}

/// nginx in front: it hands every request on to the other nginx, whose name it looks up as they come.
fn front(stage: &Stage) -> Result<()> {
    let resolver = stage.cluster_ip("local", "kube-system/kube-dns")?;
    let config = format!(
        "daemon off; worker_processes 1; pid /tmp/nginx.pid; error_log stderr warn; events {{ worker_connections 256; }}\n\
         http {{ access_log off; client_body_temp_path /tmp/b; proxy_temp_path /tmp/p; fastcgi_temp_path /tmp/f; uwsgi_temp_path /tmp/u; \
         scgi_temp_path /tmp/s; resolver {resolver} valid=1s;\n\
         server {{ listen 80; location / {{ set $app app.stack.svc.supercluster.local; proxy_pass http://$app; }} }} }}\n"
    );
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "front", "namespace": "stack"}, "data": {"nginx.conf": config},
    });
    stage.bed.apply("local", &map.to_string())?;
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "front", "namespace": "stack", "labels": {"app": "front"}},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "front", "image": images::NGINX, "imagePullPolicy": "Never", "args": ["-c", "/front/nginx.conf"],
                "command": ["/usr/sbin/nginx"], "readinessProbe": {"tcpSocket": {"port": 80}, "periodSeconds": 1},
                "volumeMounts": [{"name": "front", "mountPath": "/front"}],
            }],
            "volumes": [{"name": "front", "configMap": {"name": "front"}}],
        },
    });
    stage.bed.apply("local", &pod.to_string()).map(drop)
}

/// What Redis answers a new connection of local's client, by its name.
fn redis(stage: &Stage, words: &[&str]) -> Result<String> {
    let mut line = vec!["redis-cli", "-h", "redis.stack.svc"];
    line.extend(words);
    let text = stage.printed("local", ASKS_REDIS, &line)?;
    if text.contains("Could not connect") || text.starts_with("ERR") { bail!("{}: {text}", line.join(" ")) } else { Ok(text) }
}

/// One of PostgreSQL's programs in staging's client, by the server's name.
fn postgres(stage: &Stage, words: &[&str]) -> Result<String> {
    let (program, rest) = words.split_first().context("a program")?;
    let mut line = vec![*program, "-h", "postgres.stack.svc", "-U", "postgres"];
    line.extend(rest);
    // Which database: pgbench would take one of the user's name.
    line.push("postgres");
    stage.printed("staging", ASKS_POSTGRES, &line)
}

fn through_front(stage: &Stage) -> Result<()> {
    until(SOON, "staging's nginx to answer through local's", || {
        same("who answers", &"app".to_owned(), &stage.fetch("local", super::walk::CLIENT, "front.stack")?.server)
    })
}

fn work(stage: &mut Stage) -> Result<()> {
    let started = Instant::now();
    let script = "n=0; while [ $n -lt 200 ]; do curl -sS --fail --max-time 3 -o /dev/null http://front.stack/ || exit 1; n=$((n+1)); done";
    stage.printed("local", super::walk::CLIENT, &["sh", "-c", script])?;
    println!(
        "                  curl: 200 requests through two nginx, one after the other, in {:.1} s",
        started.elapsed().as_secs_f64()
    );

    let text = redis(stage, &["--version"]).and(stage.printed(
        "local",
        ASKS_REDIS,
        &["redis-benchmark", "-h", "redis.stack.svc.supercluster.local", "-n", "20000", "-c", "20", "-t", "set,get", "--csv"],
    ))?;
    for line in text.lines().filter(|line| line.starts_with("\"SET\"") || line.starts_with("\"GET\"")) {
        let words: Vec<_> = line.split(',').map(|word| word.trim_matches('"')).collect();
        let [test, rate, ..] = words[..] else { bail!("redis-benchmark printed {line:?}") };
        println!("                  redis-benchmark: {test}, 20 connections: {rate} a second");
    }
    same(
        "tests of redis-benchmark",
        &2,
        &text.lines().filter(|l| l.starts_with("\"SET\"") || l.starts_with("\"GET\"")).count(),
    )?;

    postgres(
        stage,
        &["psql", "-qc", "drop table if exists pgbench_accounts, pgbench_branches, pgbench_history, pgbench_tellers"],
    )?;
    postgres(stage, &["pgbench", "-i", "-q"])?;
    let text = postgres(stage, &["pgbench", "-n", "-c", "4", "-T", "5"])?;
    failures(&text)?;
    let line = |start: &str| text.lines().find(|line| line.starts_with(start)).unwrap_or_default().to_owned();
    println!("                  pgbench, 4 connections: {}; {}", line("tps"), line("latency average"));
    Ok(())
}

/// How many transactions pgbench did, all of them well.
fn failures(text: &str) -> Result<u64> {
    let number = |start: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(start));
        let word = line.and_then(|rest| rest.trim().split([' ', '/']).next());
        word.and_then(|word| word.parse::<u64>().ok()).with_context(|| format!("pgbench printed no {start:?}: {text}"))
    };
    same("transactions of pgbench that failed", &0, &number("number of failed transactions:")?)?;
    number("number of transactions actually processed:")
}

/// Lets something happen while pgbench runs for so long on four connections, and a connection to Redis stands: neither may break.
fn stands(stage: &mut Stage, time: Duration, what: impl FnOnce(&Stage) -> Result<()>) -> Result<()> {
    let seconds = time.as_secs();
    let bench = format!(
        "rm -f /tmp/code; (pgbench -h postgres.stack.svc -U postgres -n -c 4 -T {seconds} -R {RATE} postgres > /tmp/out 2>&1; echo $? > /tmp/code) \
         > /dev/null 2>&1 &"
    );
    stage.printed("staging", ASKS_POSTGRES, &["sh", "-c", &bench])?;
    // Which connection it is that the server sees: another one if it had to be made again.
    let held = "rm -f /tmp/stop /tmp/ended; (while [ ! -e /tmp/stop ]; do echo CLIENT ID; sleep 0.2; done \
                | redis-cli -h redis.stack.svc.supercluster.local > /tmp/held 2>&1; echo > /tmp/ended) > /dev/null 2>&1 &";
    stage.printed("local", ASKS_REDIS, &["sh", "-c", held])?;
    let outcome = what(stage);
    let code = until(time + SOON, "pgbench to end", || stage.printed("staging", ASKS_POSTGRES, &["cat", "/tmp/code"]));
    let text = stage.printed("staging", ASKS_POSTGRES, &["cat", "/tmp/out"])?;
    stage.printed("local", ASKS_REDIS, &["sh", "-c", ": > /tmp/stop"])?;
    outcome?;
    same("pgbench's exit code", &"0".to_owned(), &code.with_context(|| text.clone())?).with_context(|| text.clone())?;
    let done = failures(&text)?;
    if done < RATE * seconds / 2 {
        bail!("pgbench did {done} transactions in {seconds} s, of {RATE} a second: {text}");
    }
    let lag = text.lines().find(|line| line.starts_with("rate limit schedule lag")).unwrap_or_default();
    println!("                  pgbench: {done} transactions in {seconds} s, none failed; {lag}");
    until(SOON, "the connection to Redis to end by itself", || {
        stage.printed("local", ASKS_REDIS, &["sh", "-c", "[ -e /tmp/ended ]"])
    })?;
    let held = stage.printed("local", ASKS_REDIS, &["cat", "/tmp/held"])?;
    let mut connections: Vec<&str> = held.lines().collect();
    let asked = connections.len();
    connections.dedup();
    same("connections to Redis, by its own numbers", &1, &connections.len()).with_context(|| format!("{connections:?}"))?;
    if asked < 10 { bail!("Redis answered {asked} times only") } else { Ok(()) }
}

/// Waits until new connections by the short name come to this one's Redis.
fn whose(stage: &Stage, who: &str) -> Result<()> {
    until(SOON, &format!("new connections to come to the Redis of {who}"), || {
        same("whose Redis it is", &who.to_owned(), &redis(stage, &["GET", "who"])?)
    })
}

fn copy(stage: &Stage) -> Result<()> {
    whose(stage, "staging")?;
    Pod::client("local", "stack/copy").of(images::REDIS).run(stage)?;
    let address = stage.pod_address("local", "stack/copy")?;
    stage.printed("local", ASKS_REDIS, &["redis-cli", "-h", &address, "SET", "who", "developer"])?;
    Service { port: REDIS, ..Service::new("local", "stack/redis", "copy") }.make(stage)?;
    let here = whose(stage, "developer");
    delete(stage, "local", "service", "stack/redis")?;
    delete(stage, "local", "pod", "stack/copy")?;
    here?;
    whose(stage, "staging")
}

fn everything_dies(stage: &Stage) -> Result<()> {
    for component in ["syncer", "route-agent"] {
        kill_all(stage, component)?;
    }
    kill_one_by_one(stage, "gateway")?;
    stage.bed.run("broker", &["busybox", "killall", "-9", "daisy"])?;
    thread::sleep(Duration::from_secs(5));
    start_broker(stage)?;
    whose(stage, "staging")?;
    through_front(stage)
}

fn pod_dies(stage: &mut Stage) -> Result<()> {
    delete(stage, "staging", "pod", "stack/redis")?;
    Pod::client("staging", "stack/redis").of(images::REDIS).run(stage)?;
    let started = Instant::now();
    until(SOON, "the new Redis to answer local", || redis(stage, &["SET", "who", "the new one"]))?;
    println!(
        "                  {:.1} s after the new pod was ready, its Redis answered local",
        started.elapsed().as_secs_f64()
    );
    whose(stage, "the new one")?;
    for (cluster, name) in [("staging", "app"), ("staging", "redis"), ("local", "postgres")] {
        daisy(stage, cluster, &["unexport", "service", name, "-n", "stack", "--context", cluster])?;
    }
    ["staging", "local"].iter().try_for_each(|cluster| delete(stage, cluster, "namespace", "stack"))
}
