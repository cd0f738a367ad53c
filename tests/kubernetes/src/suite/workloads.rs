//! What the cases run in clusters.

use anyhow::Result;
use serde_json::{Value, json};

use super::stage::{SOON, Stage, until};
use crate::images;

/// Where Redis listens.
pub(super) const REDIS: u16 = 6379;
/// Where PostgreSQL listens.
pub(super) const POSTGRES: u16 = 5432;

/// A namespace.
pub(super) fn namespace(stage: &Stage, cluster: &str, name: &str) -> Result<()> {
    stage
        .bed
        .apply(cluster, &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}).to_string())
        .map(drop)
}

/// A pod to be made.
#[derive(Clone)]
pub(super) struct Pod<'a> {
    pub(super) cluster: &'a str,
    /// As `NAMESPACE/POD`.
    pub(super) name: &'a str,
    pub(super) node: Option<String>,
    pub(super) image: &'static str,
    pub(super) host_network: bool,
    pub(super) searches: &'a [&'a str],
    echo: Option<u16>,
    idle: bool,
}

impl<'a> Pod<'a> {
    /// A client with a shell.
    pub(super) fn client(cluster: &'a str, name: &'a str) -> Self {
        Self { cluster, name, node: None, image: images::TOOLS, host_network: false, searches: &[], echo: None, idle: false }
    }

    /// A web server.
    pub(super) fn server(cluster: &'a str, name: &'a str) -> Self {
        Self { image: images::NGINX, ..Self::client(cluster, name) }
    }

    pub(super) fn on(mut self, node: &str) -> Self {
        self.node = Some(node.to_owned());
        self
    }

    pub(super) fn on_the_host(mut self) -> Self {
        self.host_network = true;
        self
    }

    /// With `dnsConfig.searches`, as the published pattern has it.
    pub(super) fn searching(mut self, searches: &'a [&'a str]) -> Self {
        self.searches = searches;
        self
    }

    /// With a second container, which sends back whatever it is sent at this port.
    pub(super) fn echoing(mut self, port: u16) -> Self {
        self.echo = Some(port);
        self
    }

    /// Of another image.
    pub(super) fn of(mut self, image: &'static str) -> Self {
        self.image = image;
        self
    }

    /// Not the image's server, only its other programs, for `kubectl exec`.
    pub(super) fn idle(mut self) -> Self {
        self.idle = true;
        self
    }

    /// Where its server listens, if it is one.
    fn port(&self) -> Option<u16> {
        let servers = [(images::NGINX, 80), (images::REDIS, REDIS), (images::POSTGRES, POSTGRES)];
        servers.into_iter().find(|(image, _)| *image == self.image && !self.idle).map(|(_, port)| port)
    }

    /// Makes it, with its namespace, and does not wait.
    pub(super) fn make(&self, stage: &Stage) -> Result<()> {
        let (space, name) = self.name.split_once('/').unwrap_or(("default", self.name));
        namespace(stage, self.cluster, space)?;
        let object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": space, "labels": {"app": name}},
            "spec": self.spec(name),
        });
        stage.bed.apply(self.cluster, &object.to_string()).map(drop)
    }

    fn spec(&self, name: &str) -> Value {
        let mut spec = json!({
            "terminationGracePeriodSeconds": 0,
            "enableServiceLinks": false,
            "containers": [{"name": name, "image": self.image, "imagePullPolicy": "Never"}],
        });
        if let Some(port) = self.port() {
            spec["containers"][0]["readinessProbe"] = json!({"tcpSocket": {"port": port}, "periodSeconds": 1});
        }
        if self.idle {
            spec["containers"][0]["command"] = json!(["/bin/sleep", "infinity"]);
        }
        if let (Some(port), Some(containers)) = (self.echo, spec["containers"].as_array_mut()) {
            let command = ["/bin/busybox", "nc", "-ll", "-p", &port.to_string(), "-e", "/bin/cat"];
            containers.push(json!({"name": "echo", "image": images::TOOLS, "imagePullPolicy": "Never", "command": command}));
        }
        if let Some(node) = &self.node {
            spec["nodeSelector"] = json!({"kubernetes.io/hostname": node});
        }
        if self.host_network {
            spec["hostNetwork"] = true.into();
            spec["dnsPolicy"] = "ClusterFirstWithHostNet".into();
        }
        if !self.searches.is_empty() {
            spec["dnsConfig"] = json!({"searches": self.searches});
        }
        spec
    }

    /// Makes it, and waits until it is ready.
    pub(super) fn run(&self, stage: &Stage) -> Result<()> {
        self.make(stage)?;
        ready(stage, self.cluster, self.name)
    }
}

/// Waits until a pod is ready.
pub(super) fn ready(stage: &Stage, cluster: &str, pod: &str) -> Result<()> {
    let (space, name) = pod.split_once('/').unwrap_or(("default", pod));
    until(SOON, &format!("pod {pod} of {cluster} to be ready"), || {
        let object = stage.get(cluster, &["-n", space, "pod", name])?;
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        if conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True") {
            return Ok(());
        }
        anyhow::bail!("its status is {}", object["status"])
    })
}

/// A Service to be made; what is not said is as it mostly is.
#[derive(Clone)]
pub(super) struct Service<'a> {
    pub(super) cluster: &'a str,
    /// As `NAMESPACE/SERVICE`.
    pub(super) name: &'a str,
    /// The label `app` of its pods; none for a Service without a selector.
    pub(super) app: Option<&'a str>,
    pub(super) headless: bool,
    /// Its port, and its pods'.
    pub(super) port: u16,
    pub(super) echo: Option<u16>,
}

impl<'a> Service<'a> {
    pub(super) fn new(cluster: &'a str, name: &'a str, app: &'a str) -> Self {
        Self { cluster, name, app: Some(app), headless: false, port: 80, echo: None }
    }

    /// With its pods' port for echoes, too.
    pub(super) fn echoing(mut self, port: u16) -> Self {
        self.echo = Some(port);
        self
    }

    /// Makes it, with its namespace.
    pub(super) fn make(&self, stage: &Stage) -> Result<()> {
        let (space, name) = self.name.split_once('/').unwrap_or(("default", self.name));
        namespace(stage, self.cluster, space)?;
        let port = if self.port == 80 { "http" } else { "server" };
        let mut spec = json!({"ports": [{"name": port, "port": self.port, "protocol": "TCP", "targetPort": self.port}]});
        if let (Some(port), Some(ports)) = (self.echo, spec["ports"].as_array_mut()) {
            ports.push(json!({"name": "echo", "port": port, "protocol": "TCP", "targetPort": port}));
        }
        if let Some(app) = self.app {
            spec["selector"] = json!({"app": app});
        }
        if self.headless {
            spec["clusterIP"] = "None".into();
        }
        let object =
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": space}, "spec": spec});
        stage.bed.apply(self.cluster, &object.to_string()).map(drop)
    }
}

/// Deletes an object, given as `NAMESPACE/NAME` or a name, and waits until it is gone.
pub(super) fn delete(stage: &Stage, cluster: &str, kind: &str, name: &str) -> Result<()> {
    let (space, name) = name.split_once('/').unwrap_or(("default", name));
    let words = ["-n", space, "delete", kind, name, "--ignore-not-found", "--wait=true", "--timeout=60s"];
    stage.kubectl(cluster, &words).map(drop)
}

/// A StatefulSet of web servers with a headless Service of the same name.
pub(super) struct StatefulSet<'a> {
    pub(super) cluster: &'a str,
    /// As `NAMESPACE/NAME`.
    pub(super) name: &'a str,
    pub(super) replicas: u32,
}

impl StatefulSet<'_> {
    /// Makes or scales it, and waits until exactly so many pods are ready.
    pub(super) fn run(&self, stage: &Stage) -> Result<()> {
        let (space, name) = self.name.split_once('/').unwrap_or(("default", self.name));
        Service { headless: true, ..Service::new(self.cluster, self.name, name) }.make(stage)?;
        let labels = json!({"app": name});
        let object = json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": name, "namespace": space},
            "spec": {
                "replicas": self.replicas, "serviceName": name, "podManagementPolicy": "Parallel",
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": Pod::server(self.cluster, self.name).spec(name)},
            },
        });
        stage.bed.apply(self.cluster, &object.to_string())?;
        until(SOON, &format!("{} pods of StatefulSet {} in {}", self.replicas, self.name, self.cluster), || {
            let set = stage.get(self.cluster, &["-n", space, "statefulset", name])?;
            let count = |field: &str| set["status"][field].as_u64().unwrap_or(0);
            if count("readyReplicas") == u64::from(self.replicas) && count("replicas") == u64::from(self.replicas) {
                return Ok(());
            }
            anyhow::bail!("its status is {}", set["status"])
        })
    }
}
