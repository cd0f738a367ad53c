//! An embedded broker in this process, and clusters that join it.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::path::Path;
use std::time::Duration;

use daisy_api::broker_info::BrokerInfo;
use daisy_api::{Cidr, ClusterId, Grant};
use daisy_broker::enrol::{self, Answer, Ask, Credential, EnrolError};
use daisy_broker::server::{self, BrokerOptions, BrokerReady};
use daisy_broker::setup::{self, Address, Invite};
use ed25519_dalek::SigningKey;
use kube::Client;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A broker that serves until it is stopped.
pub struct Broker {
    pub ready: BrokerReady,
    pub admin: Client,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<anyhow::Result<()>>,
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
        let config = kube::config::Kubeconfig::read_from(&ready.kubeconfig).unwrap();
        let config = kube::Config::from_custom_kubeconfig(config, &Default::default()).await.unwrap();
        let admin = Client::try_from(config).unwrap();
        Self { ready, admin, stop, serving }
    }

    pub async fn stop(self) {
        drop(self.stop);
        self.serving.await.unwrap().unwrap();
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
        version: "test".into(),
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
