//! The embedded API server in a host's namespace, and the gateway's role against it.

use std::net::TcpListener;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use daisy_api::labels::{GATEWAY_KEYS_NAMESPACE, GATEWAY_NODE, SYSTEM_NAMESPACE};
use daisy_api_server::{Handle, Options, ResourceDefinition, ResourceKey, Server};
use daisy_gateway::GatewayOptions;
use k8s_openapi::api::core::v1::{Node, Secret};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::Host;
use super::site::Site;

/// A control plane with the kinds that a gateway knows.
pub(crate) struct ApiServer {
    pub(crate) handle: Handle,
    kubeconfig: String,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    _data: tempfile::TempDir,
}

impl ApiServer {
    pub(crate) fn start(host: &Host) -> Self {
        let data = tempfile::tempdir().unwrap();
        let mut options = Options::new(data.path());
        options.definitions.push(ResourceDefinition::of::<Node>().with_status());
        options.namespaces.extend([SYSTEM_NAMESPACE, GATEWAY_KEYS_NAMESPACE].map(str::to_owned));
        let server = Server::open(options).unwrap();
        let handle = server.handle();
        let listener = host.run(|_| TcpListener::bind("127.0.0.1:0").unwrap());
        let url = format!("https://{}", listener.local_addr().unwrap());
        let kubeconfig = server.admin_kubeconfig(&url, "test");
        let (stop, stopped) = oneshot::channel();
        let crds = handle.clone();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = host.spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            runtime.block_on(async move {
                for crd in daisy_api::crds::member() {
                    crds.apply(serde_json::to_value(crd).unwrap()).await.unwrap();
                }
                ready.send(()).unwrap();
                server.serve(vec![listener], async { drop(stopped.await) }).await.unwrap();
            });
        });
        is_ready.recv().unwrap();
        Self { handle, kubeconfig, stop: Some(stop), thread: Some(thread), _data: data }
    }

    pub(crate) fn stop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }

    /// Makes or replaces an object.
    pub(crate) fn apply(&self, object: impl serde::Serialize) {
        let object = serde_json::to_value(object).unwrap();
        block_on(self.handle.apply(object)).unwrap();
    }

    /// Makes the site's Node, with its internal addresses.
    pub(crate) fn add_node(&self, site: &Site, internal: &str) {
        let name = format!("{}-node", site.id);
        let key = ResourceKey::of::<Node>();
        let node =
            json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name, "labels": { GATEWAY_NODE: "true" } } });
        block_on(self.handle.create(&key, "", node)).unwrap();
        let status = json!({ "status": { "addresses": [{ "type": "InternalIP", "address": internal }] } });
        block_on(self.handle.patch_status(&key, "", &name, status)).unwrap();
    }

    /// Takes the gateway label from the site's Node.
    pub(crate) fn unlabel_node(&self, site: &Site) {
        let labels = json!({ "metadata": { "labels": { GATEWAY_NODE: null } } });
        block_on(self.handle.patch(&ResourceKey::of::<Node>(), "", &format!("{}-node", site.id), labels)).unwrap();
    }

    /// Gives the site's Node an address in the node range, as a syncer does.
    pub(crate) fn annotate_node(&self, site: &Site) {
        let annotations =
            json!({ "metadata": { "annotations": { daisy_api::labels::NODE_ADDRESS: site.address().to_string() } } });
        block_on(self.handle.patch(&ResourceKey::of::<Node>(), "", &format!("{}-node", site.id), annotations)).unwrap();
    }

    /// Writes Clusters into `daisy-system`.
    pub(crate) fn add_cluster(&self, cluster: &daisy_api::Cluster) {
        let mut cluster = cluster.clone();
        cluster.metadata.namespace = Some(SYSTEM_NAMESPACE.to_owned());
        self.apply(cluster);
    }

    /// Merges into an object.
    pub(crate) fn patch(&self, key: &ResourceKey, name: &str, patch: Value) {
        block_on(self.handle.patch(key, SYSTEM_NAMESPACE, name, patch)).unwrap();
    }

    /// Merges into the site's key Secret.
    pub(crate) fn patch_secret(&self, site: &Site, patch: Value) {
        let name = format!("daisy-gateway-key-{}-node", site.id);
        block_on(self.handle.patch(&ResourceKey::of::<Secret>(), GATEWAY_KEYS_NAMESPACE, &name, patch)).unwrap();
    }

    pub(crate) fn gateway(&self, site: &Site) -> Option<daisy_api::Gateway> {
        let found = self.handle.get(
            &ResourceKey::new(daisy_api::labels::GROUP, "gateways"),
            SYSTEM_NAMESPACE,
            &format!("{}-node", site.id),
        );
        found.map(|value| serde_json::from_value(value).unwrap())
    }

    pub(crate) fn secret(&self, site: &Site) -> Option<Value> {
        self.handle.get(&ResourceKey::of::<Secret>(), GATEWAY_KEYS_NAMESPACE, &format!("daisy-gateway-key-{}-node", site.id))
    }

    /// Waits until the site's Gateway is as it should be.
    pub(crate) fn wait_for(
        &self,
        site: &Site,
        what: &str,
        is: impl Fn(&daisy_api::GatewayStatus) -> bool,
    ) -> daisy_api::GatewayStatus {
        let started = Instant::now();
        loop {
            let gateway = self.gateway(site);
            if let Some(status) = gateway.as_ref().and_then(|gateway| gateway.status.clone())
                && is(&status)
            {
                return status;
            }
            assert!(started.elapsed() < Duration::from_secs(8), "{}: not {what}: {gateway:#?}", site.id);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Runs the gateway of the site's node.
    pub(crate) fn run(&self, site: &Site, options: GatewayOptions) -> Running {
        let kubeconfig = self.kubeconfig.clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = site.host.spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            runtime.block_on(async move {
                let kubeconfig = Kubeconfig::from_yaml(&kubeconfig).unwrap();
                let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
                let client = kube::Client::try_from(config).unwrap();
                daisy_gateway::run(client, options, async { drop(stopped.await) }).await
            })
        });
        Running { stop, thread }
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A gateway's role in a thread.
pub(crate) struct Running {
    stop: oneshot::Sender<()>,
    pub(crate) thread: JoinHandle<anyhow::Result<()>>,
}

impl Running {
    pub(crate) fn stop(self) -> anyhow::Result<()> {
        drop(self.stop);
        self.thread.join().unwrap()
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}
