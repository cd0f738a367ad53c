//! A broker, and clusters that join it: an embedded one in this process, or a Kubernetes cluster.
//!
//! The cluster is the one that the kubeconfig in `DAISY_TEST_BROKER_KUBECONFIG` leads to, as a user who may do everything. It needs
//! an API server and a controller manager, no nodes: the registrar runs in this process unless one is deployed there.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use daisy_api::broker_info::BrokerInfo;
use daisy_api::{Cidr, ClusterId, Export, Grant, Invitation, JoinRequest, Member};
use daisy_api_server::{Handle, Options, ResourceDefinition, Server};
use daisy_broker::apply::Applier;
use daisy_broker::enrol::{self, Answer, Ask, Credential, EnrolError};
use daisy_broker::registrar::{self, RegistrarOptions};
use daisy_broker::rights;
use daisy_broker::server::{self, BrokerOptions, BrokerReady};
use daisy_broker::setup::{self, Address, Invite, manifests};
use ed25519_dalek::SigningKey;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{Namespace, Node, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, ResourceExt};
use serde_json::Value;
use tokio::sync::{Mutex, OwnedMutexGuard, oneshot};
use tokio::task::JoinHandle;

/// Names the kubeconfig of a cluster that is to be the broker.
const KUBECONFIG: &str = "DAISY_TEST_BROKER_KUBECONFIG";
const BROKER: &str = "daisy-broker";

/// One test at a time has the cluster.
static CLUSTER: LazyLock<Arc<Mutex<()>>> = LazyLock::new(Arc::default);

/// A broker that serves until it is stopped.
pub struct Broker {
    pub ready: BrokerReady,
    pub admin: Client,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<anyhow::Result<()>>,
    on_kubernetes: Option<OwnedMutexGuard<()>>,
}

impl Broker {
    pub async fn start(data: &Path) -> Self {
        let (ready, is_ready) = oneshot::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let options = BrokerOptions {
            data_dir: data.to_owned(),
            listen: vec!["127.0.0.1:0".parse().unwrap()],
            ..BrokerOptions::default()
        };
        let serving = tokio::spawn(server::run(options, ready, async {
            let _ = stopped.await;
        }));
        let Ok(ready) = is_ready.await else { panic!("the broker does not start: {:?}", serving.await) };
        let config = Kubeconfig::read_from(&ready.kubeconfig).unwrap();
        let config = Config::from_custom_kubeconfig(config, &Default::default()).await.unwrap();
        let admin = Client::try_from(config).unwrap();
        Self { ready, admin, stop, serving, on_kubernetes: None }
    }

    /// The cluster of `DAISY_TEST_BROKER_KUBECONFIG`; `None`, and a word of it, where that is not set.
    pub async fn kubernetes() -> Option<Self> {
        let Some(kubeconfig) = std::env::var_os(KUBECONFIG).map(PathBuf::from) else {
            eprintln!("SKIPPED: {KUBECONFIG} names no cluster to be the broker");
            return None;
        };
        let guard = CLUSTER.clone().lock_owned().await;
        let config = Kubeconfig::read_from(&kubeconfig).unwrap();
        let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await.unwrap();
        let address = address(&config);
        let admin = Client::try_from(config).unwrap();
        let broker_id = setup::install(&admin).await.unwrap();
        setup::count_quota(&admin, Duration::from_secs(120)).await.unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(register(admin.clone(), address.clone(), stopped));
        let ready = BrokerReady { address, kubeconfig, broker_id, listening: Vec::new() };
        let broker = Self { ready, admin, stop, serving, on_kubernetes: Some(guard) };
        // Whatever a test before this one left when it failed.
        broker.clear().await;
        Some(broker)
    }

    pub fn is_kubernetes(&self) -> bool {
        self.on_kubernetes.is_some()
    }

    pub async fn stop(self) {
        if self.is_kubernetes() {
            self.clear().await;
        }
        drop(self.stop);
        self.serving.await.unwrap().unwrap();
    }

    /// Removes the members, requests and invitations of tests, and waits until their namespaces are gone.
    async fn clear(&self) {
        let of_tests = |name: &str| name == "victim" || name == "guest";
        let (all, params) = (ListParams::default(), DeleteParams::default());
        let members: Api<Member> = Api::namespaced(self.admin.clone(), BROKER);
        for member in members.list(&all).await.unwrap().items.iter().filter(|m| of_tests(&m.name_any())) {
            members.delete(&member.name_any(), &params).await.unwrap();
        }
        let requests: Api<JoinRequest> = Api::namespaced(self.admin.clone(), BROKER);
        requests.delete_collection(&params, &all).await.unwrap();
        for invitation in Api::<Invitation>::namespaced(self.admin.clone(), BROKER).list(&all).await.unwrap() {
            setup::revoke_invitation(&self.admin, &invitation.name_any()).await.unwrap();
        }
        let namespaces: Api<Namespace> = Api::all(self.admin.clone());
        for id in ["victim", "guest"].map(id) {
            let started = Instant::now();
            while namespaces.get_opt(&id.broker_namespace()).await.unwrap().is_some() {
                assert!(started.elapsed() < Duration::from_secs(60), "namespace {} does not go", id.broker_namespace());
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }

    /// Waits until what bounds this member's writes is in force: a Kubernetes API server takes a new policy up in a second or so.
    pub async fn in_force(&self, credential: &Credential, refused: &Export) {
        let exports: Api<Export> = Api::namespaced(self.member(credential), &credential.namespace);
        let try_only = PostParams { dry_run: true, field_manager: None };
        let started = Instant::now();
        while exports.create(&try_only, refused).await.is_ok() {
            assert!(started.elapsed() < Duration::from_secs(20), "the policies do not come into force");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub fn address(&self) -> &Address {
        &self.ready.address
    }

    pub async fn invite(&self, grant: &str, uses: u32) -> BrokerInfo {
        let grant: Grant = grant.parse().unwrap();
        setup::create_invitation(&self.admin, self.address(), &Invite { grant, uses, ..Invite::default() }).await.unwrap()
    }

    /// A client with the token of a file's invitation.
    pub fn invited(&self, info: &BrokerInfo) -> Client {
        enrol::client(&info.server, &info.ca, &info.invitation.token).unwrap()
    }

    /// A client with a member's credential.
    pub fn member(&self, credential: &Credential) -> Client {
        enrol::client(&self.address().server, &self.address().ca, &credential.token).unwrap()
    }
}

fn address(config: &Config) -> Address {
    use base64::Engine;
    let pem = |der: &Vec<u8>| {
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
    };
    let ca = config.root_cert.as_ref().expect("the kubeconfig pins an authority").iter().map(pem).collect();
    Address { server: config.cluster_url.to_string().trim_end_matches('/').to_owned(), ca }
}

/// Runs the registrar with its own rights and no others, unless one is deployed there.
async fn register(admin: Client, address: Address, stopped: oneshot::Receiver<()>) -> anyhow::Result<()> {
    let stopped = async {
        let _ = stopped.await;
    };
    let deployments: Api<Deployment> = Api::namespaced(admin.clone(), BROKER);
    let deployed = deployments.get_opt(rights::REGISTRAR).await?.and_then(|d| d.status?.ready_replicas).unwrap_or(0);
    if deployed > 0 {
        stopped.await;
        return Ok(());
    }
    let applier = Applier::new(admin.clone());
    for object in manifests::registrar("daisy")?.iter().filter(|o| o.types.as_ref().is_some_and(|t| t.kind != "Deployment")) {
        applier.apply(object).await?;
    }
    let accounts: Api<ServiceAccount> = Api::namespaced(admin, BROKER);
    let answer = accounts.create_token_request(rights::REGISTRAR, &PostParams::default(), &TokenRequest::default()).await?;
    let client = enrol::client(&address.server, &address.ca, &answer.status.unwrap().token)?;
    registrar::run(client, RegistrarOptions::default(), stopped).await
}

pub fn cidr(text: &str) -> Cidr {
    text.parse().unwrap()
}

pub fn id(text: &str) -> ClusterId {
    ClusterId::new(text).unwrap()
}

/// What a cluster asks; pods are `10.N.0.0/16`, Services `10.N+100.0.0/16`.
pub fn cluster(name: &str, n: u8) -> Ask {
    Ask {
        cluster_id: id(name),
        cluster_uid: format!("uid-of-{name}"),
        cluster_cidrs: vec![cidr(&format!("10.{n}.0.0/16"))],
        service_cidrs: vec![cidr(&format!("10.{}.0.0/16", n + 100))],
        replace: false,
        version: env!("CARGO_PKG_VERSION").into(),
    }
}

pub fn key(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32])
}

pub async fn ask(info: &BrokerInfo, ask: &Ask, key: &SigningKey) -> Result<Answer, EnrolError> {
    enrol::ask(info, ask, key, Duration::from_secs(20)).await
}

pub async fn join(info: &BrokerInfo, wish: &Ask, key: &SigningKey) -> Credential {
    match ask(info, wish, key).await {
        Ok(Answer::Admitted(admitted)) => admitted.credential,
        other => panic!("{} was not admitted: {other:?}", wish.cluster_id),
    }
}

/// The reason of a refusal, and its message.
pub async fn refused(info: &BrokerInfo, wish: &Ask, key: &SigningKey) -> (String, String) {
    match ask(info, wish, key).await {
        Err(EnrolError::Refused { reason, message, .. }) => (reason, message),
        other => panic!("{} was not refused: {other:?}", wish.cluster_id),
    }
}

/// The code of what the API server refused.
pub fn code<T: std::fmt::Debug>(result: Result<T, kube::Error>) -> u16 {
    match result {
        Err(kube::Error::Api(status)) => status.code,
        other => panic!("this was not refused: {other:?}"),
    }
}

/// An API server with what a cluster has, and these kinds.
pub struct Here {
    pub handle: Handle,
    pub client: Client,
    pub address: Address,
    _stop: oneshot::Sender<()>,
}

impl Here {
    pub async fn start(data: &Path, kinds: Vec<CustomResourceDefinition>) -> Self {
        let mut options = Options::new(data);
        options.definitions.extend([
            ResourceDefinition::of::<Service>().with_status(),
            ResourceDefinition::of::<Node>().with_status(),
            ResourceDefinition::of::<EndpointSlice>(),
        ]);
        options.namespaces.push("daisy-system".into());
        let server = tokio::task::spawn_blocking(move || Server::open(options)).await.unwrap().unwrap();
        let handle = server.handle();
        for kind in kinds {
            handle.apply(serde_json::to_value(kind).unwrap()).await.unwrap();
        }
        let listeners = Server::bind(&["127.0.0.1:0".to_owned()]).unwrap();
        let url = format!("https://{}", listeners[0].local_addr().unwrap());
        let client = daisy_broker::enrol::client(&url, server.ca_pem(), &server.admin_token()).unwrap();
        let address = Address { server: url, ca: server.ca_pem().to_owned() };
        let (stop, stopped) = oneshot::channel::<()>();
        tokio::spawn(server.serve(listeners, async {
            let _ = stopped.await;
        }));
        Self { handle, client, address, _stop: stop }
    }

    pub async fn apply(&self, object: Value) {
        self.handle.apply(object).await.unwrap();
    }
}
