//! A server on a free port of the loopback, for one test.

#![allow(dead_code, clippy::unwrap_used, missing_docs, unreachable_pub)]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use daisy_api_server::{Handle, Options, Server};
use http::{Method, Request};
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub struct TestServer {
    pub address: SocketAddr,
    pub kubeconfig: String,
    pub ca: String,
    pub handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<()>,
}

impl TestServer {
    pub fn start(options: Options) -> Self {
        let server = Server::open(options).expect("the server opens");
        let listeners = Server::bind(&["127.0.0.1:0".to_owned()]).expect("a free port");
        let address = listeners[0].local_addr().expect("an address");
        let (stop, stopped) = oneshot::channel::<()>();
        let kubeconfig = server.admin_kubeconfig(&format!("https://{address}"), "test");
        let (ca, handle) = (server.ca_pem().to_owned(), server.handle());
        let running = tokio::spawn(async move {
            let shutdown = async {
                let _ = stopped.await;
            };
            server.serve(listeners, shutdown).await.expect("serves");
        });
        Self { address, kubeconfig, ca, handle, stop: Some(stop), running }
    }

    /// Ends the server; its data directory can be opened again afterwards.
    pub async fn stop(mut self) {
        drop(self.stop.take());
        self.running.await.expect("ended");
    }

    pub async fn client(&self) -> Client {
        client(&self.kubeconfig, None).await
    }

    pub async fn client_of(&self, token: &str) -> Client {
        client(&self.kubeconfig, Some(token)).await
    }

    pub async fn namespace(&self, name: &str) {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        self.handle.apply(namespace).await.expect("a namespace");
    }
}

pub async fn client(kubeconfig: &str, token: Option<&str>) -> Client {
    let mut kubeconfig = Kubeconfig::from_yaml(kubeconfig).expect("a kubeconfig");
    if let (Some(token), Some(info)) = (token, kubeconfig.auth_infos[0].auth_info.as_mut()) {
        info.token = Some(token.to_owned().into());
    }
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.expect("a configuration");
    // What is refused for now is to be seen, not asked for again.
    config.default_retry = false;
    Client::try_from(config).expect("a client")
}

/// Options for a test: everything in a temporary folder, short times.
pub fn options(folder: &TempDir) -> Options {
    Options::new(folder.path().join("data"))
}

/// One request, as it is; gives code and JSON (or text).
pub async fn ask(client: &Client, method: Method, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> (u16, Value) {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = client.send(request.body(Body::from(body)).expect("a request")).await.expect("an answer");
    let code = response.status().as_u16();
    let body = response.into_body().collect_bytes().await.expect("a body");
    let value = serde_json::from_slice(&body).unwrap_or_else(|_| json!(String::from_utf8_lossy(&body)));
    (code, value)
}

/// One request with a JSON body; `None` when the connection breaks.
pub async fn try_ask(
    client: &Client,
    method: Method,
    path: &str,
    media_type: &str,
    body: Option<Value>,
) -> Option<(u16, Value)> {
    let body = body.map_or_else(Vec::new, |body| body.to_string().into_bytes());
    let request = Request::builder().method(method).uri(path).header("content-type", media_type).body(Body::from(body)).ok()?;
    let response = client.send(request).await.ok()?;
    let code = response.status().as_u16();
    let body = response.into_body().collect_bytes().await.ok()?;
    Some((code, serde_json::from_slice(&body).ok()?))
}

pub async fn get(client: &Client, path: &str) -> (u16, Value) {
    ask(client, Method::GET, path, &[], Vec::new()).await
}

pub async fn post(client: &Client, path: &str, body: Value) -> (u16, Value) {
    ask(client, Method::POST, path, &[("content-type", "application/json")], body.to_string().into_bytes()).await
}

pub async fn put(client: &Client, path: &str, body: Value) -> (u16, Value) {
    ask(client, Method::PUT, path, &[("content-type", "application/json")], body.to_string().into_bytes()).await
}

pub async fn patch(client: &Client, path: &str, media_type: &str, body: Value) -> (u16, Value) {
    ask(client, Method::PATCH, path, &[("content-type", media_type)], body.to_string().into_bytes()).await
}

pub async fn delete(client: &Client, path: &str) -> (u16, Value) {
    ask(client, Method::DELETE, path, &[], Vec::new()).await
}

pub fn config_map(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

trait CollectBytes {
    async fn collect_bytes(self) -> Result<Vec<u8>, kube::Error>;
}

impl CollectBytes for Body {
    async fn collect_bytes(self) -> Result<Vec<u8>, kube::Error> {
        use http_body_util::BodyExt as _;
        Ok(self.collect().await?.to_bytes().to_vec())
    }
}

/// The lines of a watch, as they come.
pub struct Lines {
    body: Body,
    rest: Vec<u8>,
    /// So much of `rest` has no newline.
    seen: usize,
}

impl Lines {
    pub async fn open(client: &Client, path: &str) -> Self {
        let request = Request::get(path).body(Body::empty()).expect("a request");
        let response = client.send(request).await.expect("an answer");
        assert_eq!(response.status().as_u16(), 200, "{path}");
        Self { body: response.into_body(), rest: Vec::new(), seen: 0 }
    }

    /// The next event: its type and object; `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<(String, Value)> {
        use http_body_util::BodyExt as _;
        loop {
            let end = self.rest[self.seen..].iter().position(|byte| *byte == b'\n').map(|end| self.seen + end);
            self.seen = self.rest.len();
            if let Some(end) = end {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                self.seen = 0;
                let event: Value = serde_json::from_slice(&line).expect("a JSON line");
                return Some((event["type"].as_str().expect("a type").to_owned(), event["object"].clone()));
            }
            let frame = tokio::time::timeout(std::time::Duration::from_secs(20), self.body.frame())
                .await
                .expect("an event within 20 seconds")?;
            if let Ok(data) = frame.expect("a frame").into_data() {
                self.rest.extend_from_slice(&data);
            }
        }
    }

    /// The next event as `TYPE NAME`.
    pub async fn brief(&mut self) -> String {
        match self.next().await {
            Some((kind, object)) => format!("{kind} {}", object["metadata"]["name"].as_str().unwrap_or_default()),
            None => "END".to_owned(),
        }
    }
}

pub fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().expect("a version").parse().expect("a number")
}

/// The path of the installed kubectl. Without one the test is skipped by name, except in CI, where it fails.
pub fn kubectl(test: &str) -> Option<PathBuf> {
    let found = std::env::var_os("PATH")
        .into_iter()
        .flat_map(|path| std::env::split_paths(&path).collect::<Vec<_>>())
        .map(|folder| folder.join("kubectl"))
        .find(|file| is_file(file));
    if found.is_none() {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{test}: kubectl is not installed");
        println!("skipped: {test}: kubectl is not installed");
    }
    found
}

fn is_file(file: &Path) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.is_file())
}
