//! Labs, brought up for real: as root and without it, side by side, and killed.
//!
//! The program is its own front-end: a lab must be started from `main`, by a process of one thread, which a test under the usual
//! harness is not. `cargo test -p daisy-lab --test lab [NAME…]` runs the tests whose names contain one of the words.
#![allow(clippy::unwrap_used, missing_docs)]

mod pods;
mod support;

use std::ffi::OsString;
use std::process::{Command, ExitCode};
use std::time::Duration;

use daisy_lab::plan::Reach;
use daisy_lab::protocol::ServiceCommand;
use daisy_lab::{Lab, internal_main};

use support::{FrontEnd, command, eventually, fetch, leftovers, runtime};

type Test = (&'static str, fn());

const TESTS: &[Test] = &[
    ("network_is_as_planned", network_is_as_planned),
    ("commands_have_exit_codes_and_streams", commands_have_exit_codes_and_streams),
    ("killing_the_front_end_leaves_nothing", killing_the_front_end_leaves_nothing),
    ("killing_the_holder_leaves_nothing", killing_the_holder_leaves_nothing),
    ("two_labs_side_by_side", two_labs_side_by_side),
    ("a_kept_lab_outlives_its_front_end", a_kept_lab_outlives_its_front_end),
    ("without_root", without_root),
    ("pods", pods::pods),
    ("pods_come_and_go", pods::pods_come_and_go),
    ("what_is_killed_comes_back", pods::what_is_killed_comes_back),
    ("kubectl_reaches_the_clusters", pods::kubectl_reaches_the_clusters),
];

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let words: Vec<String> = arguments.iter().map(|a| a.to_string_lossy().into_owned()).collect();
    match words.first().map(String::as_str) {
        Some("lab-internal") => return internal_main(&arguments[1..]),
        Some("front-end") => return support::front_end(&words[1..]),
        _ => {}
    }
    let wanted: Vec<&String> = words.iter().filter(|w| !w.starts_with('-')).collect();
    if words.iter().any(|w| w == "--list") {
        TESTS.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    if std::env::var_os("XDG_RUNTIME_DIR").is_none_or(|d| !d.to_string_lossy().contains(support::MARK)) {
        return support::in_own_folder(&words);
    }
    if let Err(why) = support::possible() {
        if std::env::var("CI").is_ok_and(|ci| ci == "true") {
            eprintln!("the lab's tests cannot run here: {why}");
            return ExitCode::FAILURE;
        }
        TESTS.iter().for_each(|(name, _)| println!("test {name} ... skipped: {why}"));
        return ExitCode::SUCCESS;
    }
    let mut failed = Vec::new();
    for (name, test) in TESTS.iter().filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|w| name.contains(w.as_str()))) {
        let began = std::time::Instant::now();
        let well = std::panic::catch_unwind(test).is_ok();
        println!("test {name} ... {} ({} ms)", if well { "ok" } else { "FAILED" }, began.elapsed().as_millis());
        if !well {
            failed.push(*name);
        }
    }
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A web server on the broker's host: what it sees is what the internet sees.
async fn serve_on_broker(lab: &Lab) {
    let service = ServiceCommand {
        name: "web".to_owned(),
        command: command("broker", &["daisy", "lab-internal", "http"]),
        ready: Some("203.0.113.2:80".parse().unwrap()),
    };
    lab.start_service(&service).await.expect("the web server starts");
}

fn network_is_as_planned() {
    let front_end = FrontEnd::start("network", &[]);
    let lab = front_end.lab();
    runtime().block_on(async {
        serve_on_broker(&lab).await;
        let client = |body: &serde_json::Value| body["client"].as_str().unwrap().to_owned();
        let seen = fetch(&lab, "staging/staging-node2", "203.0.113.2").await.expect("staging reaches the internet");
        assert_eq!(client(&seen), "198.51.100.4", "a reachable cluster's nodes have their own addresses");
        let seen = fetch(&lab, "local/local-node1", "203.0.113.2").await.expect("local reaches the internet");
        assert_eq!(client(&seen), "203.0.113.11", "behind NAT they have their router's");

        // From outside, staging's nodes are reachable and local's are not.
        let web = ServiceCommand {
            name: "web-staging".to_owned(),
            command: command("staging/staging-node1", &["daisy", "lab-internal", "http", "--port", "8080"]),
            ready: Some("198.51.100.3:8080".parse().unwrap()),
        };
        lab.start_service(&web).await.expect("it starts");
        let seen = fetch(&lab, "local/local-node2", "198.51.100.3:8080").await.expect("local reaches staging's nodes");
        assert_eq!(client(&seen), "203.0.113.11");
        assert!(fetch(&lab, "broker", "192.168.51.3:8080").await.is_err(), "nobody reaches local's nodes");

        // The router's address changes, and what comes from behind it has the new one.
        let plan = lab.plan().clone();
        let local = plan.cluster("local").unwrap();
        assert_eq!(local.reach, Reach::Nat);
        lab.set_public_address("local", local.other_public_address()).await.expect("another address");
        let seen = fetch(&lab, "local/local-node1", "203.0.113.2").await.expect("local reaches the internet still");
        assert_eq!(client(&seen), local.other_public_address().to_string());
        let staging = plan.cluster("staging").unwrap();
        lab.set_public_address("staging", staging.other_public_address()).await.expect("another address");
        fetch(&lab, "local/local-node1", "198.51.100.3:8080").await.expect("staging's nodes are routed by the new one");

        // What bears an inner address is dropped in the middle, and counted.
        assert_eq!(lab.dropped().await.unwrap(), 0);
        assert!(fetch(&lab, "staging/staging-node1", "10.20.0.7").await.is_err());
        assert!(fetch(&lab, "local/local-node1", "100.80.1.1").await.is_err());
        let counted = lab.crossing().await.unwrap();
        let to = |what: &str| counted.iter().find(|d| d.what == what && d.direction == "to").unwrap().packets;
        assert!(to("10.20.0.0/16") > 0 && to("100.80.0.0/12") > 0, "{counted:?}");
        assert_eq!(to("10.110.0.0/16"), 0);

        for namespace in plan.namespaces() {
            let traces = lab.inspect(&namespace).await.expect("every namespace can be looked at");
            assert!(traces.daisys().is_empty(), "{traces:?}");
            let beneath = traces.routes.iter().filter(|r| r.kind == "unreachable" && r.destination == "default");
            assert!(beneath.count() >= 1, "{namespace} has nothing beneath its routes: {:?}", traces.routes);
        }
        assert!(lab.inspect("mars").await.is_err());
    });
}

fn commands_have_exit_codes_and_streams() {
    let front_end = FrontEnd::start("commands", &[]);
    let lab = front_end.lab();
    runtime().block_on(async {
        let run = |place: &'static str, words: &'static [&'static str]| {
            let lab = &lab;
            async move { lab.run(&command(place, words)).await }
        };
        let output = run("staging", &["sh", "-c", "echo out; echo err >&2; exit 7"]).await.unwrap();
        assert_eq!((output.code, output.stdout.as_str(), output.stderr.as_str()), (7, "out\n", "err\n"));
        let output = run("internet", &["sh", "-c", "kill -TERM $$"]).await.unwrap();
        assert_eq!(output.code, 143);
        assert!(run("staging", &["no-such-program"]).await.unwrap_err().to_string().contains("no-such-program"));
        assert!(run("mars", &["true"]).await.unwrap_err().to_string().contains("mars"));
        assert!(run("staging/no-pod", &["true"]).await.unwrap_err().to_string().contains("runs no pod"));
        let output = run("local/router", &["sh", "-c", "echo $PATH; pwd; echo x > file && cat file"]).await.unwrap();
        assert!(output.stdout.starts_with("/run/daisy-bin:") && output.stdout.ends_with("/work\nx\n"), "{output:?}");
        assert!(lab.work().join("file").exists(), "the folder is the host's");

        // The host's files cannot be written, its sockets and names not reached.
        let output = run("broker", &["sh", "-c", "touch /etc/daisy-lab-was-here"]).await.unwrap();
        assert_ne!(output.code, 0);
        let output = run("broker", &["ls", "/run"]).await.unwrap();
        assert_eq!(output.stdout, "daisy-bin\ndaisy-data\ndaisy-lab\nnetns\n");
        let output = run("broker", &["cat", "/etc/resolv.conf"]).await.unwrap();
        assert!(!output.stdout.contains("nameserver"), "{output:?}");

        // A command ends with the one who asked for it.
        let long = command("local", &["sleep", "1000.5"]);
        assert!(tokio::time::timeout(Duration::from_millis(200), lab.run(&long)).await.is_err());
        let sleeps = || async {
            let processes = lab.processes().await.unwrap();
            processes.iter().filter(|p| p.arguments.iter().any(|a| a == "1000.5")).count()
        };
        eventually("the command is killed", || async { sleeps().await == 0 }).await;

        // Services run until they are killed, once of a name.
        let service = ServiceCommand { name: "s".to_owned(), command: command("broker", &["sleep", "1000.5"]), ready: None };
        lab.start_service(&service).await.unwrap();
        assert!(lab.start_service(&service).await.is_err());
        let found = lab.processes().await.unwrap().into_iter().find(|p| p.name == "s").expect("it is listed");
        assert_eq!(found.place, "broker");
        lab.kill_service("s", 9).await.unwrap();
        assert_eq!(sleeps().await, 0);
        assert!(lab.kill_service("s2", 9).await.is_err());
        lab.start_service(&service).await.unwrap();
    });
}

fn killing_the_front_end_leaves_nothing() {
    let mut front_end = FrontEnd::start("killed-front-end", &[]);
    assert!(leftovers("killed-front-end").len() > 5, "{:?}", leftovers("killed-front-end"));
    front_end.kill();
    support::gone("killed-front-end");
    // Its folder is recognised, and removed.
    assert!(Lab::open(Some("killed-front-end")).is_err());
    let left = std::fs::read_dir(daisy_lab::state::root().unwrap()).unwrap().flatten().map(|e| e.file_name());
    assert!(!left.collect::<Vec<_>>().contains(&OsString::from("killed-front-end")));
}

fn killing_the_holder_leaves_nothing() {
    for agent_too in [false, true] {
        let front_end = FrontEnd::start("killed-holder", &[]);
        let found = leftovers("killed-holder");
        let of_init = |p: &&support::Found| p.arguments.iter().any(|a| a == "init");
        let mut pids: Vec<i32> = found.iter().filter(of_init).map(|p| p.pid).collect();
        pids.sort_unstable();
        assert_eq!(pids.len(), 2, "{found:?}");
        support::kill(if agent_too { pids[1] } else { pids[0] });
        support::gone("killed-holder");
        drop(front_end);
    }
}

fn two_labs_side_by_side() {
    let (one, two) = (FrontEnd::start("one", &[]), FrontEnd::start("two", &[]));
    let (lab_one, lab_two) = (one.lab(), two.lab());
    assert!(Lab::open(None).is_err(), "it is not clear which is meant");
    runtime().block_on(async {
        serve_on_broker(&lab_one).await;
        fetch(&lab_one, "local/local-node1", "203.0.113.2").await.expect("the same addresses, in a network of its own");
        assert!(fetch(&lab_two, "local/local-node1", "203.0.113.2").await.is_err());
    });
    let refused = FrontEnd::try_start("one", &[]).expect_err("the name is in use");
    assert!(refused.contains("already up"), "{refused}");
    drop(one);
    support::gone("one");
    runtime().block_on(async {
        assert_eq!(lab_two.run(&command("staging", &["true"])).await.expect("the other is untouched").code, 0);
    });
}

fn a_kept_lab_outlives_its_front_end() {
    let mut front_end = FrontEnd::start("kept", &["--keep"]);
    front_end.kill();
    let lab = Lab::open(Some("kept")).expect("it is up still");
    runtime().block_on(async {
        assert_eq!(lab.run(&command("staging", &["true"])).await.expect("it does as asked").code, 0);
        lab.down().await.expect("it ends");
    });
    support::gone("kept");
    assert!(Lab::open(Some("kept")).is_err());
}

fn without_root() {
    if !nix::unistd::geteuid().is_root() {
        println!("all of these tests run without root");
        return;
    }
    // Another user's processes see neither our folder nor, perhaps, the target directory.
    let folder = tempfile::Builder::new().prefix(support::MARK).tempdir().unwrap();
    let (program, runtime_dir) = (folder.path().join("lab"), folder.path().join("run"));
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    std::fs::create_dir(&runtime_dir).unwrap();
    let nobody = 65534;
    std::os::unix::fs::chown(&runtime_dir, Some(nobody), Some(nobody)).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder.path(), mode).unwrap();
    let mut tests = Command::new(&program);
    tests.args(["network", "commands", "killing"]).env("XDG_RUNTIME_DIR", &runtime_dir).current_dir("/");
    std::os::unix::process::CommandExt::uid(&mut tests, nobody);
    std::os::unix::process::CommandExt::gid(&mut tests, nobody);
    let output = tests.output().unwrap();
    print!("{}", String::from_utf8_lossy(&output.stdout).replace("test ", "  without root: "));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
