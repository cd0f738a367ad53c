//! The configuration files of what runs on each host, and the command lines that read them. Pure.

use std::path::{Path, PathBuf};

use super::plan::{API_PORT, Cluster, INTERNET_ADDRESS, Role};

/// The address of containerd's socket on every node; /run is each node's own.
pub(super) const CONTAINERD: &str = "/run/containerd/containerd.sock";
/// The image of the container that holds a pod's namespaces.
pub(crate) const PAUSE_IMAGE: &str = "registry.k8s.io/pause:3.10.2";

/// Something that runs on a host, started again when it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) name: &'static str,
    pub(super) words: Vec<String>,
}

/// The folders of a bed that its configuration names.
pub(super) struct Folders {
    root: PathBuf,
}

impl Folders {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Keys and certificates of a cluster.
    pub(super) fn pki(&self, cluster: &Cluster) -> PathBuf {
        self.root.join("pki").join(&cluster.name)
    }

    /// The files of a host.
    pub(super) fn host(&self, host: &str) -> PathBuf {
        self.root.join("hosts").join(host)
    }

    /// What the processes of a host say.
    pub(super) fn logs(&self, host: &str) -> PathBuf {
        self.root.join("logs").join(host)
    }

    fn config(&self, host: &str, file: &str) -> String {
        self.host(host).join("config").join(file).display().to_string()
    }

    fn binaries(&self) -> String {
        self.root.join("bin").display().to_string()
    }
}

/// What is to run on a host.
pub(super) fn processes(folders: &Folders, host: &str, role: Role<'_>) -> Vec<Process> {
    let process = |name, arguments: Vec<String>| {
        let words = std::iter::once(name).map(str::to_owned).chain(arguments).collect();
        Process { name, words }
    };
    let config = |file: &str| folders.config(host, file);
    match role {
        Role::Broker | Role::Router(_) => Vec::new(),
        Role::Internet => vec![process("coredns", vec!["-conf".into(), config("Corefile")])],
        Role::ControlPlane(cluster) => vec![
            process("etcd", etcd()),
            process("kube-apiserver", api_server(folders, cluster)),
            process("kube-controller-manager", controller_manager(folders, host, cluster)),
            process(
                "kube-scheduler",
                vec![
                    format!("--kubeconfig={}", config("scheduler.conf")),
                    "--leader-elect=false".into(),
                    "--profiling=false".into(),
                ],
            ),
        ],
        Role::Node(cluster, number) => vec![
            process("containerd", vec!["-c".into(), config("containerd.toml")]),
            process(
                "kubelet",
                vec![
                    format!("--config={}", config("kubelet.yaml")),
                    format!("--kubeconfig={}", config("kubelet.conf")),
                    format!("--hostname-override={host}"),
                    format!("--node-ip={},{}", cluster.node_address(number), cluster.node_address6(number)),
                    "--root-dir=/var/lib/kubelet".into(),
                    "--cert-dir=/var/lib/kubelet/pki".into(),
                ],
            ),
            process(
                "kube-proxy",
                vec![format!("--config={}", config("kube-proxy.yaml")), format!("--hostname-override={host}")],
            ),
        ],
    }
}

fn etcd() -> Vec<String> {
    let words = [
        "--data-dir=/var/lib/etcd",
        "--listen-client-urls=http://127.0.0.1:2379",
        "--advertise-client-urls=http://127.0.0.1:2379",
        "--listen-peer-urls=http://127.0.0.1:2380",
        "--logger=zap",
        "--log-level=warn",
    ];
    words.map(str::to_owned).into()
}

fn api_server(folders: &Folders, cluster: &Cluster) -> Vec<String> {
    let pki = folders.pki(cluster);
    let pki = pki.display();
    vec![
        "--etcd-servers=http://127.0.0.1:2379".into(),
        format!("--advertise-address={}", cluster.control_plane_address()),
        format!("--secure-port={API_PORT}"),
        format!("--tls-cert-file={pki}/apiserver.crt"),
        format!("--tls-private-key-file={pki}/apiserver.key"),
        format!("--client-ca-file={pki}/ca.crt"),
        format!("--kubelet-client-certificate={pki}/apiserver-kubelet-client.crt"),
        format!("--kubelet-client-key={pki}/apiserver-kubelet-client.key"),
        "--kubelet-preferred-address-types=InternalIP".into(),
        format!("--service-account-key-file={pki}/sa.pub"),
        format!("--service-account-signing-key-file={pki}/sa.key"),
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local".into(),
        "--authorization-mode=Node,RBAC".into(),
        "--enable-admission-plugins=NodeRestriction".into(),
        format!("--service-cluster-ip-range={}", cluster.service_cidrs().join(",")),
        "--allow-privileged=true".into(),
        "--profiling=false".into(),
    ]
}

fn controller_manager(folders: &Folders, host: &str, cluster: &Cluster) -> Vec<String> {
    let pki = folders.pki(cluster);
    let pki = pki.display();
    vec![
        format!("--kubeconfig={}", folders.config(host, "controller-manager.conf")),
        format!("--root-ca-file={pki}/ca.crt"),
        format!("--service-account-private-key-file={pki}/sa.key"),
        format!("--cluster-signing-cert-file={pki}/ca.crt"),
        format!("--cluster-signing-key-file={pki}/ca.key"),
        "--use-service-account-credentials=true".into(),
        // Nodes are made with their podCIDR, so that routes to them can be there before they are.
        "--allocate-node-cidrs=false".into(),
        format!("--cluster-cidr={}", cluster.pod_cidrs().join(",")),
        format!("--service-cluster-ip-range={}", cluster.service_cidrs().join(",")),
        "--leader-elect=false".into(),
        "--profiling=false".into(),
    ]
}

/// The files of a host's `config` folder, but for those that hold keys.
pub(super) fn files(bed: &str, folders: &Folders, host: &str, role: Role<'_>) -> Vec<(String, String)> {
    match role {
        Role::Internet => vec![("Corefile".into(), internet_corefile())],
        Role::Broker | Role::Router(_) | Role::ControlPlane(_) => Vec::new(),
        Role::Node(cluster, number) => vec![
            ("containerd.toml".into(), containerd(folders, host)),
            ("cni/10-bed.conflist".into(), cni(cluster, number)),
            ("kubelet.yaml".into(), kubelet(bed, folders, host, cluster)),
            ("kube-proxy.yaml".into(), kube_proxy(&folders.config(host, "kube-proxy.conf"), cluster)),
        ],
    }
}

/// What a host's resolver asks.
pub(super) fn resolv_conf() -> String {
    format!("nameserver {INTERNET_ADDRESS}\n")
}

/// The internet's DNS: one name that exists, so that a lookup of what is in no cluster can be tested.
fn internet_corefile() -> String {
    format!(
        "example.com:53 {{
    bind {INTERNET_ADDRESS}
    errors
    hosts {{
        203.0.113.2 example.com www.example.com
        ttl 60
    }}
}}
.:53 {{
    bind {INTERNET_ADDRESS}
    errors
    template ANY ANY {{
        rcode NXDOMAIN
        authority \". 60 IN SOA a.root-servers.net. nstld.verisign-grs.com. 1 1800 900 604800 60\"
    }}
}}
"
    )
}

fn containerd(folders: &Folders, host: &str) -> String {
    format!(
        r#"version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
[debug]
  level = "warn"
[grpc]
  address = "{CONTAINERD}"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "{PAUSE_IMAGE}"
[plugins.'io.containerd.cri.v1.runtime']
  disable_apparmor = true
  restrict_oom_score_adj = true
  tolerate_missing_hugetlb_controller = true
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ["{}"]
    conf_dir = "{}"
"#,
        folders.binaries(),
        folders.config(host, "cni"),
    )
}

fn cni(cluster: &Cluster, number: u8) -> String {
    let [four, six] = cluster.node_pod_cidrs(number);
    format!(
        r#"{{
  "cniVersion": "1.0.0",
  "name": "bed",
  "plugins": [{{
    "type": "bridge",
    "bridge": "cni0",
    "isDefaultGateway": true,
    "hairpinMode": true,
    "mtu": 1500,
    "ipam": {{"type": "host-local", "dataDir": "/run/cni", "ranges": [[{{"subnet": "{four}"}}], [{{"subnet": "{six}"}}]]}}
  }}]
}}
"#
    )
}

fn kubelet(bed: &str, folders: &Folders, host: &str, cluster: &Cluster) -> String {
    format!(
        r#"apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {{enabled: false}}
  webhook: {{enabled: true}}
  x509: {{clientCAFile: "{}/ca.crt"}}
authorization: {{mode: Webhook}}
cgroupDriver: cgroupfs
# Cgroups of its own for each node of each bed, without the hierarchy that a machine of its own would have.
cgroupRoot: /{}
cgroupsPerQOS: false
enforceNodeAllocatable: []
failCgroupV1: false
clusterDNS: ["{}"]
clusterDomain: cluster.local
containerRuntimeEndpoint: unix://{CONTAINERD}
# The machine's disk and memory are shared by all nodes: what is full there is no node's own business.
evictionHard: {{memory.available: "0%", nodefs.available: "0%", imagefs.available: "0%", nodefs.inodesFree: "0%"}}
failSwapOn: false
imageGCHighThresholdPercent: 100
localStorageCapacityIsolation: false
podLogsDir: /var/log/pods
resolvConf: /etc/resolv.conf
volumePluginDir: /var/lib/kubelet/volume-plugins
"#,
        folders.pki(cluster).display(),
        cgroup(bed, host),
        cluster.dns_service(),
    )
}

/// The cgroup of a node's pods, in every hierarchy.
pub(super) fn cgroup(bed: &str, host: &str) -> String {
    format!("{}{host}", cgroup_prefix(bed))
}

/// What the names of a bed's cgroups begin with.
pub(super) fn cgroup_prefix(bed: &str) -> String {
    format!("daisy-bed.{bed}.")
}

/// kube-proxy's settings, as in the ConfigMap that kubeadm writes.
pub(super) fn kube_proxy(kubeconfig: &str, cluster: &Cluster) -> String {
    format!(
        r#"apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {{kubeconfig: "{kubeconfig}"}}
clusterCIDR: {}
# In a network namespace these are the machine's to set.
conntrack: {{maxPerCore: 0, min: 0}}
detectLocalMode: ClusterCIDR
mode: nftables
"#,
        cluster.pod_cidrs().join(",")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bed::plan::Plan;

    #[test]
    fn every_node_has_its_own_pods_and_cgroup() {
        let plan = Plan::new("a", 0, 2, 2, 1).expect("a plan");
        let folders = Folders::new(Path::new("/bed"));
        let mut texts: Vec<String> = Vec::new();
        for (host, role) in plan.hosts() {
            for (name, text) in files("a", &folders, &host, role) {
                if name.contains("cni") || name == "kubelet.yaml" {
                    assert!(!texts.contains(&text), "{host}: {name} is another's");
                    texts.push(text);
                }
            }
        }
        assert_eq!(texts.len(), 8);
    }
}
