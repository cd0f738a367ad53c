//! What the program itself says to bad input: the words, the exit code, and that nothing was changed.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::net::TcpListener;
use std::path::{Path, PathBuf};

use common::{Folder, assert_all, cluster, info, node, tomorrow};
use daisy_api::broker_info::BrokerInfo;
use daisy_api::labels;
use daisy_api_server::{Options, Server};
use daisy_broker_core::policy::Refusal;
use serde_json::json;

#[test]
fn words_that_cannot_be() {
    let folder = Folder::new();
    for (words, parts) in [
        (&["join", "f", "--clusterid", "Staging_1"][..], &["--clusterid", "\"Staging_1\" is not a DNS label", "a-z"][..]),
        (&["join", "f", "--clusterid", ""], &["--clusterid", "a cluster ID cannot be empty"]),
        (&["join", "f", "--clusterid", "a", "--clustercidr", "10.1.2.3/16"], &["--clustercidr", "did you mean 10.1.0.0/16?"]),
        (&["join", "f", "--clusterid", "a", "--servicecidr", "10.1.0.0"], &["--servicecidr", "is not a CIDR", "10.10.0.0/16"]),
        (&["join", "f", "--clusterid", "a", "--hold", "5"], &["--hold", "30s, 5m"]),
        (&["join", "f", "--clusterid", "a", "--vxlan-port", "0"], &["--vxlan-port", "1..=65535"]),
        (&["join", "f", "--clusterid", "a", "--tunnel-port", "65536"], &["--tunnel-port", "1..=65535"]),
        (&["invite", "--export", "Shop!"], &["--export", "is not a namespace pattern", "shop-*"]),
        (&["invite", "--uses", "0"], &["--uses", "1..=100000"]),
        (&["export", "service", "a.b"], &["is not a DNS label"]),
    ] {
        assert_all(&folder.refused(2, words), parts);
    }
}

#[test]
fn a_broker_info_file_that_is_none_or_cut_short_or_past() {
    let folder = Folder::new();
    folder.file("good.daisy", "https://127.0.0.1:1", tomorrow());
    folder.file("expired.daisy", "https://127.0.0.1:1", "2026-01-01T00:00:00Z".parse().unwrap());
    let text = std::fs::read_to_string(folder.path("good.daisy")).unwrap();
    folder.write("half.daisy", &text[..text.len() / 2]);
    folder.write("changed.daisy", &text.replace("127.0.0.1", "127.0.0.2"));
    folder.write("other.daisy", "kind: Pod\n");
    for command in [&["join", "--clusterid", "a"][..], &["kind-config"]] {
        for (file, parts) in [
            ("absent.daisy", &["absent.daisy", "No such file"][..]),
            ("half.daisy", &["half.daisy", "cut short", "daisy invite"]),
            ("changed.daisy", &["changed.daisy", "checksum", "daisy invite"]),
            ("other.daisy", &["other.daisy", "no broker-info file", "daisy invite"]),
            ("expired.daisy", &["expired.daisy", "expired at 2026-01-01", "daisy invite"]),
        ] {
            let words: Vec<&str> = command.iter().copied().chain([file]).collect();
            assert_all(&folder.refused(1, &words), parts);
        }
    }
}

#[test]
fn a_broker_that_cannot_be_talked_to() {
    let folder = Folder::new();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let server = format!("https://{free}");
    // What is between these lines is no certificate.
    folder.file("f.daisy", &server, tomorrow());
    assert_all(&folder.refused(1, &["kind-config", "f.daisy"]), &["ca in the broker-info file", "daisy invite"]);
    let with_ca = BrokerInfo {
        ca: Server::open(Options::new(folder.path("other"))).unwrap().ca_pem().to_owned(),
        ..info(&server, "of-this-file", tomorrow())
    };
    let with_ca = BrokerInfo::new(with_ca.server, with_ca.ca, with_ca.broker_id, with_ca.invitation);
    folder.write("g.daisy", &with_ca.to_text().unwrap());
    let said = folder.refused(1, &["kind-config", "g.daisy"]);
    assert_all(&said, &["the broker at", &server, "cannot be reached", "refused", "may this machine connect"]);
    for words in [&["members"][..], &["invite"], &["grant", "a", "all"], &["evict", "a"]] {
        let said = folder.refused(1, words);
        assert!(said.contains("--broker-kubeconfig") && said.contains("--broker-context"), "{words:?}: {said}");
    }
}

#[test]
fn a_port_and_a_data_folder_in_use() {
    let folder = Folder::new();
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = holder.local_addr().unwrap().to_string();
    let words = ["deploy-broker", "--embedded", "--advertise", "127.0.0.1", "--listen", &address, "--data", "data"];
    assert_all(&folder.refused(1, &words), &[&address, "another program has this port", "--listen"]);
    assert!(!folder.path("data").exists() && !folder.path("broker-info.daisy").exists(), "nothing half-done");
    let server = Server::open(Options::new(folder.path("data"))).unwrap();
    let words = ["deploy-broker", "--embedded", "--advertise", "127.0.0.1", "--listen", "127.0.0.1:0", "--data", "data"];
    assert_all(&folder.refused(1, &words), &["in use by another process", "--data"]);
    assert!(!folder.path("broker-info.daisy").exists());
    drop(server);
}

#[test]
fn the_way_to_widen_a_grant_is_a_command() {
    let refusal = Refusal::OutsideGrant {
        object: "ServiceExport shop/cart".into(),
        cluster: "local".parse().unwrap(),
        namespace: "shop".parse().unwrap(),
        grant: "web-*".into(),
        suggestion: "'web-*,shop'".into(),
    };
    let text = refusal.to_string();
    let command = text.split_once("daisy ").unwrap().1.replace('\'', "");
    let words: Vec<&str> = command.split(' ').collect();
    assert_eq!(words[0], "grant");
    // What it lacks is a broker.
    assert_all(&Folder::new().refused(1, &words), &["--broker-context"]);
}

#[test]
fn a_cluster_that_is_anothers_already() {
    let folder = Folder::new();
    folder.file("f.daisy", "https://203.0.113.5:6443", tomorrow());
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "daisy-broker-access", "namespace": "daisy-system"},
        "stringData": {"server": "https://198.51.100.7:6443", "clusterId": "staging", "brokerId": "of-another-file", "token": "t"}});
    let _cluster = cluster(&folder, vec![secret]);
    let with = |more: &[&'static str]| {
        let words = ["join", "f.daisy", "--kubeconfig", "kubeconfig"].into_iter().chain(more.iter().copied());
        folder.refused(1, &words.collect::<Vec<_>>())
    };
    let said = with(&["--clusterid", "local"]);
    assert_all(&said, &["this cluster has joined as \"staging\" already", "daisy leave", "--clusterid staging"]);
    let said = with(&["--clusterid", "staging"]);
    assert_all(&said, &["has joined another broker (https://198.51.100.7:6443)", "f.daisy is for the one at", "daisy leave"]);
    let said = with(&["--clusterid", "staging", "--context", "there"]);
    assert_all(&said, &["context \"there\" does not exist", "here"]);
    // What needs Daisy in the cluster says so where it is not.
    for words in [&["show", "clusters"][..], &["show", "all"], &["export", "service", "web"]] {
        let words: Vec<&str> = words.iter().copied().chain(["--kubeconfig", "kubeconfig"]).collect();
        assert_all(&folder.refused(1, &words), &["daisy join"]);
    }
}

#[test]
fn what_is_wrong_on_a_node_is_shown() {
    let folder = Folder::new();
    let problem = "UDP port 4841 on this node is another program's";
    let bad = json!({labels::NODE_PROBLEM: problem, labels::NODE_ADDRESS: "100.80.0.2"});
    let _cluster = cluster(&folder, vec![node("one", json!({})), node("two", bad)]);
    let table = folder.printed(&["show", "nodes", "--kubeconfig", "kubeconfig"]);
    let line = |name: &str| table.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    assert!(line("one").ends_with("ok"), "{table}");
    assert!(line("two").contains("100.80.0.2") && line("two").ends_with(problem), "{table}");
    let json = folder.printed(&["show", "nodes", "--kubeconfig", "kubeconfig", "-o", "json"]);
    let rows: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&rows[0]["problem"], &rows[1]["problem"]), (&json!(null), &json!(problem)), "{json}");
}

#[test]
fn ports_that_are_chosen_reach_the_roles_and_those_that_collide_are_refused() {
    let folder = Folder::new();
    folder.file("f.daisy", "https://203.0.113.5:6443", tomorrow());
    let _cluster = cluster(&folder, vec![node("one", json!({}))]);
    let words = |more: &[&'static str]| -> Vec<&'static str> {
        let words = ["join", "f.daisy", "--clusterid", "a", "--kubeconfig", "kubeconfig", "--dry-run", "--skip-dns"];
        let cidrs = ["--clustercidr", "10.244.0.0/16", "--servicecidr", "10.96.0.0/16"];
        words.into_iter().chain(cidrs).chain(more.iter().copied()).collect()
    };
    let said = folder.refused(1, &words(&["--tunnel-port", "4841"]));
    assert_all(&said, &["--tunnel-port 4841", "--vxlan-port", "choose another"]);
    let said = folder.refused(1, &words(&["--vxlan-port", "4842"]));
    assert_all(&said, &["--vxlan-port 4842", "probes", "choose another"]);
    let arguments = |more: &[&'static str], name: &str| -> String {
        let all = folder.printed(&words(more));
        let document =
            all.split("---\n").find(|d| d.contains("kind: DaemonSet") && d.contains(&format!("name: daisy-{name}\n")));
        let object: serde_json::Value = serde_yaml::from_str(document.unwrap()).unwrap();
        let list = object["spec"]["template"]["spec"]["containers"][0]["args"].as_array().unwrap().clone();
        list.iter().map(|word| word.as_str().unwrap()).collect::<Vec<_>>().join(" ")
    };
    let chosen = ["--tunnel-port", "5000", "--vxlan-port", "5001"];
    for (name, flag) in [("gateway", "--port 5000"), ("route-agent", "--vxlan-port 5001")] {
        let with = arguments(&chosen, name);
        assert!(with.contains(flag), "{with}");
        // The role itself takes the words: what it lacks is a cluster.
        let role: Vec<&str> = with.split(' ').filter(|word| !word.starts_with("127.") && *word != "--health").collect();
        let said = folder.refused(1, &[&role[..], &["--node-name", "one"]].concat());
        assert!(said.contains("kubeconfig"), "{said}");
        assert!(!arguments(&[], name).contains("port"), "the usual one needs no words");
    }
}

#[test]
fn a_context_of_another_kind_cluster_than_its_name_says() {
    let folder = Folder::new();
    folder.file("f.daisy", "https://203.0.113.5:6443", tomorrow());
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "staging-worker"},
        "spec": {"providerID": "kind://docker/staging/staging-worker"}});
    let _cluster = cluster(&folder, vec![node]);
    let text = std::fs::read_to_string(folder.path("kubeconfig")).unwrap().replace("here", "kind-local");
    folder.write("kubeconfig", &text);
    let words = ["join", "f.daisy", "--kubeconfig", "kubeconfig", "--clusterid", "local"];
    // Named or not, it is the context that is used.
    for more in [&[][..], &["--context", "kind-local"]] {
        let said = folder.refused(1, &[&words, more].concat());
        assert_all(&said, &["context kind-local", "node staging-worker", "--context kind-staging", "nothing was changed"]);
    }
}

/// The text of each source file beneath a folder of the repository.
fn sources(folder: &Path, found: &mut Vec<(PathBuf, String)>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            sources(&path, found);
        } else if name.ends_with(".rs") {
            found.push((path.clone(), std::fs::read_to_string(&path).unwrap()));
        }
    }
}

#[test]
fn each_test_that_the_page_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let page = std::fs::read_to_string(root.join("docs/bad-input.md")).unwrap();
    let mut files = Vec::new();
    sources(root, &mut files);
    let mut named = 0;
    let rows = page.lines().filter(|line| line.starts_with('|'));
    for held in rows.filter_map(|line| line.rsplit('|').nth(1)) {
        let mut file = "";
        for word in held.split('`') {
            let is_there = if word.ends_with(".rs") {
                file = word;
                files.iter().any(|(path, _)| path.ends_with(word))
            } else if word.contains('_') {
                let begins = format!("fn {word}(");
                files.iter().any(|(path, text)| (file.is_empty() || path.ends_with(file)) && text.contains(&begins))
            } else {
                continue;
            };
            assert!(is_there, "docs/bad-input.md names {word} ({file}), which is not there");
            named += 1;
        }
    }
    assert!(named > 60, "only {named} found: has the page's shape changed?");
}
