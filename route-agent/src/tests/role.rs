//! The role itself, against an API server: what it says on its Node.

use std::net::{TcpListener, UdpSocket};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use daisy_api::labels::{NODE_PROBLEM, SYSTEM_NAMESPACE, VXLAN_PORT};
use daisy_api_server::{Handle, Options, ResourceDefinition, ResourceKey, Server};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::json;
use tokio::sync::oneshot;

use super::common::Namespace;
use super::objects;
use super::site::{self, INTERNAL, NODE_ADDRESS, Site};
use crate::RouteAgentOptions;

const PATIENCE: Duration = Duration::from_secs(20);

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// An API server on the loopback of node-2, with what its route-agent follows.
struct ApiServer {
    handle: Handle,
    kubeconfig: String,
    runtime: tokio::runtime::Runtime,
    _data: tempfile::TempDir,
}

impl ApiServer {
    fn start(host: &Namespace) -> Self {
        let data = tempfile::tempdir().unwrap();
        let mut options = Options::new(data.path());
        // A Node is applied with its status here.
        options.definitions.extend([
            ResourceDefinition::of::<Node>(),
            ResourceDefinition::of::<Service>(),
            ResourceDefinition::of::<EndpointSlice>(),
        ]);
        options.namespaces.push(SYSTEM_NAMESPACE.to_owned());
        let server = Server::open(options).unwrap();
        let handle = server.handle();
        let listener = host.run(|| TcpListener::bind("127.0.0.1:0").unwrap());
        let kubeconfig = server.admin_kubeconfig(&format!("https://{}", listener.local_addr().unwrap()), "test");
        let runtime = runtime();
        let nodes = ["node-1", "node-2"].map(str::to_owned).into_iter().zip(INTERNAL).zip(NODE_ADDRESS);
        runtime.block_on(async {
            for crd in daisy_api::crds::member() {
                handle.apply(serde_json::to_value(crd).unwrap()).await.unwrap();
            }
            for ((name, internal), address) in nodes {
                let node = objects::node(&name, internal, address, &["10.10.0.0/24"], name == "node-1");
                handle.apply(serde_json::to_value(node).unwrap()).await.unwrap();
            }
            for object in [json!(objects::gateway("node-1")), json!(site::local(false)), json!(site::remote())] {
                handle.apply(object).await.unwrap();
            }
        });
        runtime.spawn(server.serve(vec![listener], std::future::pending::<()>()));
        Self { handle, kubeconfig, runtime, _data: data }
    }

    /// What node-2 says is wrong on it.
    fn problem(&self) -> Option<String> {
        let node = self.handle.get(&ResourceKey::of::<Node>(), "", "node-2").unwrap();
        node["metadata"]["annotations"].get(NODE_PROBLEM).map(|problem| problem.as_str().unwrap().to_owned())
    }

    fn until(&self, what: &str, is: impl Fn(Option<&str>) -> bool) -> Option<String> {
        let began = Instant::now();
        loop {
            let problem = self.problem();
            if is(problem.as_deref()) {
                return problem;
            }
            assert!(began.elapsed() < PATIENCE, "not {what}: {problem:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Runs the route-agent of node-2.
    fn run(&self, host: &Namespace) -> Running {
        let kubeconfig = self.kubeconfig.clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let (ended, end) = mpsc::channel();
        let thread = host.run(move || {
            std::thread::spawn(move || {
                let result = runtime().block_on(async move {
                    let kubeconfig = Kubeconfig::from_yaml(&kubeconfig).unwrap();
                    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
                    let client = kube::Client::try_from(config).unwrap();
                    let options = RouteAgentOptions::new("node-2".parse().unwrap());
                    crate::run(client, options, async { drop(stopped.await) }).await
                });
                ended.send(()).unwrap();
                result
            })
        });
        Running { stop, thread, end }
    }
}

struct Running {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<anyhow::Result<()>>,
    end: mpsc::Receiver<()>,
}

impl Running {
    fn stop(self) {
        assert!(self.end.try_recv().is_err(), "it ended by itself");
        drop(self.stop);
        self.thread.join().unwrap().unwrap();
    }
}

#[test]
fn what_is_wrong_is_said_on_the_node_until_it_is_over() {
    let Some(site) = Site::new("what_is_wrong_is_said") else { return };
    let host = &site.nodes[1].namespace;
    let api = ApiServer::start(host);
    let holder = host.run(|| UdpSocket::bind(("0.0.0.0", VXLAN_PORT)).unwrap());
    let agent = api.run(host);
    let problem = api.until("said", |problem| problem.is_some()).unwrap();
    assert!(problem.contains("UDP port 4841") && problem.contains("daisy join --vxlan-port"), "{problem}");
    drop(holder);
    api.until("over", |problem| problem.is_none());
    assert!(site.nodes[1].dump().iter().any(|line| line.contains("daisy-vx")));
    agent.stop();

    // What one before it said is no longer so.
    let patch = json!({ "metadata": { "annotations": { NODE_PROBLEM: "of an earlier life" } } });
    api.runtime.block_on(api.handle.patch(&ResourceKey::of::<Node>(), "", "node-2", patch)).unwrap();
    let agent = api.run(host);
    api.until("over", |problem| problem.is_none());
    agent.stop();
}
