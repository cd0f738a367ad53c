//! The program, run in a folder of its own against API servers of ours.
#![allow(clippy::unwrap_used, missing_docs, dead_code, unreachable_pub)]

use std::path::PathBuf;
use std::process::{Command, Output};

use daisy_api::broker_info::{BrokerInfo, InvitationToken};
use daisy_api_server::{Handle, Options, ResourceDefinition, Server};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::json;

/// A folder to run the program in, with nothing of this machine's user in it.
pub struct Folder(tempfile::TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn run(&self, words: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_daisy"));
        command.args(words).current_dir(self.0.path()).env_clear().env("HOME", self.0.path());
        command.output().unwrap()
    }

    /// Runs it, and returns what it says on its way out.
    pub fn refused(&self, code: i32, words: &[&str]) -> String {
        let output = self.run(words);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{words:?}: {said}");
        assert!(!said.contains("panicked"), "{words:?}: {said}");
        // clap folds its lines.
        said.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// Runs it, and returns what it prints.
    pub fn printed(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    pub fn file(&self, name: &str, server: &str, expires: Timestamp) {
        self.write(name, &info(server, "of-this-file", expires).to_text().unwrap());
    }
}

pub fn info(server: &str, broker: &str, expires: Timestamp) -> BrokerInfo {
    let ca = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n".to_owned();
    let token = InvitationToken { name: "one".into(), token: "not-for-others".into(), expires: Time(expires) };
    BrokerInfo::new(server.to_owned(), ca, broker.to_owned(), token)
}

pub fn tomorrow() -> Timestamp {
    Timestamp::now() + SignedDuration::from_hours(24)
}

pub fn assert_all(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
    assert!(!said.contains("not-for-others"), "a token is a secret: {said}");
}

/// An API server that serves for as long as this lives.
pub struct Cluster {
    _runtime: tokio::runtime::Runtime,
    pub handle: Handle,
    pub url: String,
}

/// An API server with a cluster's kinds, and its kubeconfig in the folder.
pub fn cluster(folder: &Folder, objects: Vec<serde_json::Value>) -> Cluster {
    let definitions = vec![
        ResourceDefinition::of::<Service>().with_status(),
        // Here these are applied with their status.
        ResourceDefinition::of::<Node>(),
        ResourceDefinition::of::<Pod>(),
        ResourceDefinition::of::<Deployment>().with_status(),
        ResourceDefinition::of::<DaemonSet>().with_status(),
        ResourceDefinition::of::<EndpointSlice>(),
    ];
    cluster_with(folder, definitions, objects)
}

/// An API server with these kinds beside those that every one has, and its kubeconfig in the folder.
pub fn cluster_with(folder: &Folder, definitions: Vec<ResourceDefinition>, objects: Vec<serde_json::Value>) -> Cluster {
    let mut options = Options::new(folder.path("cluster"));
    options.definitions.extend(definitions);
    options.namespaces.push("daisy-system".into());
    let server = Server::open(options).unwrap();
    let handle = server.handle();
    let listeners = Server::bind(&["127.0.0.1:0".to_owned()]).unwrap();
    let url = format!("https://{}", listeners[0].local_addr().unwrap());
    server.write_admin_kubeconfig(&folder.path("kubeconfig"), &url, "here").unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        for object in objects {
            handle.apply(object).await.unwrap();
        }
    });
    runtime.spawn(server.serve(listeners, std::future::pending::<()>()));
    Cluster { _runtime: runtime, handle, url }
}

pub fn node(name: &str, annotations: serde_json::Value) -> serde_json::Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "annotations": annotations}, "status": {
        "addresses": [{"type": "InternalIP", "address": "192.168.1.2"}], "conditions": [{"type": "Ready", "status": "True"}]}})
}
