//! The images that a node has from the start: what kubeadm asks for, and what the quickstart's pods run.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use daisy_kubernetes_tests::bed::succeeded;
use daisy_kubernetes_tests::image::Image;
use daisy_kubernetes_tests::{components, images, programs};

use super::Built;

/// Changed when what is packed changes and nothing else says so.
pub(super) const REVISION: &str = "1";
/// The image of the quickstart's pods, as its manifests name it.
const NGINX: &str = "docker.io/library/nginx:1.29";

/// What nginx's own image has: a page in /usr/share/nginx/html, and everything in memory or at hand.
const NGINX_CONF: &str = "worker_processes 1;
pid /tmp/nginx.pid;
error_log stderr warn;
events { worker_connections 256; }
http {
    access_log off;
    client_body_temp_path /tmp/body;
    proxy_temp_path /tmp/proxy;
    fastcgi_temp_path /tmp/fastcgi;
    uwsgi_temp_path /tmp/uwsgi;
    scgi_temp_path /tmp/scgi;
    default_type text/plain;
    server {
        listen 80;
        root /usr/share/nginx/html;
        index index.html;
    }
}
";

/// The names of the images that this kubeadm wants.
fn wanted(built: &Built) -> Result<Vec<String>> {
    let version = components::kubernetes_version()?;
    let output = Command::new(built.file("kubeadm"))
        .args(["config", "images", "list", "--kubernetes-version", &version])
        .output()
        .context("starting kubeadm")?;
    Ok(succeeded("kubeadm config images list", &output)?.lines().map(str::to_owned).collect())
}

fn named(all: &[String], part: &str) -> Result<String> {
    let mut found = all.iter().filter(|name| name.contains(&format!("/{part}:")));
    found.next().cloned().with_context(|| format!("kubeadm names no image of {part}: {all:?}"))
}

/// What kubeadm calls the image of a pod's first container.
pub(super) fn pause_name(built: &Built) -> Result<String> {
    named(&wanted(built)?, "pause")
}

/// Makes them all; their archives.
pub(super) fn make(built: &Built, folder: &Path) -> Result<Vec<PathBuf>> {
    let all = wanted(built)?;
    let mut made = Vec::new();
    for (part, at) in [
        ("kube-apiserver", "/usr/local/bin/kube-apiserver"),
        ("kube-controller-manager", "/usr/local/bin/kube-controller-manager"),
        ("kube-scheduler", "/usr/local/bin/kube-scheduler"),
        ("etcd", "/usr/local/bin/etcd"),
        ("coredns", "/coredns"),
    ] {
        made.push((part, Image::new(&named(&all, part)?, &[at]).file(&built.file(part), at)));
    }
    let pause = images::pause_program(&folder.join("pause"))?;
    made.push(("pause", Image::new(&named(&all, "pause")?, &["/pause"]).file(&pause, "/pause")));
    made.push(("kube-proxy", kube_proxy(built, &named(&all, "kube-proxy")?)?));
    made.push(("node-programs", node_programs()));
    made.push(("nginx", nginx()?));
    made.into_iter()
        .map(|(name, image)| {
            let archive = folder.join(format!("{name}.tar"));
            image.uncompressed().write(&archive)?;
            Ok(archive)
        })
        .collect()
}

/// kube-proxy with what it calls: nft, and iptables with all that it loads.
fn kube_proxy(built: &Built, name: &str) -> Result<Image> {
    let at = "/usr/local/bin/kube-proxy";
    let mut image = Image::new(name, &[at]).file(&built.file("kube-proxy"), at).folder("/run", 0o755).folder("/tmp", 0o1777);
    image = image.program(&programs::file("nft")?.canonicalize()?, "/usr/sbin/nft")?;
    image = image.program(&programs::file("xtables-nft-multi")?.canonicalize()?, "/usr/sbin/xtables-nft-multi")?;
    for family in ["iptables", "ip6tables"] {
        for does in ["", "-save", "-restore"] {
            image = image.link(&format!("/usr/sbin/{family}{does}"), "xtables-nft-multi");
        }
    }
    // Where Debian keeps what iptables loads.
    let extensions = format!("/usr/lib/{}-linux-gnu/xtables", std::env::consts::ARCH);
    for extension in std::fs::read_dir(&extensions).with_context(|| format!("reading {extensions}: install iptables"))? {
        let file = extension?.path();
        image = image.program(&file, &file.display().to_string())?;
    }
    Ok(image)
}

/// Nothing but the way to the node's own programs, which its pod has mounted.
fn node_programs() -> Image {
    let image = Image::new("localhost/node-programs:1", &["/bin/bash"]);
    ["bin", "sbin", "lib", "lib64"].iter().fold(image, |image, name| image.link(&format!("/{name}"), &format!("usr/{name}")))
}

/// nginx, of Debian's packages, with what the quickstart uses of the image of that name: a shell, curl, getent.
fn nginx() -> Result<Image> {
    let program = |name: &str| Ok::<_, anyhow::Error>(programs::file(name)?.canonicalize()?);
    let mut image = Image::new(NGINX, &["/usr/sbin/nginx", "-g", "daemon off;"])
        .program(&program("nginx")?, "/usr/sbin/nginx")?
        .file(&programs::file("busybox")?, "/bin/busybox")
        .text("/etc/nginx/nginx.conf", NGINX_CONF)
        .text("/etc/nsswitch.conf", "hosts: files dns\n")
        .text("/etc/passwd", "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\nwww-data:x:33:33::/:/bin/sh\n")
        .text("/etc/group", "root:x:0:\nnogroup:x:65534:\nwww-data:x:33:\n")
        .text("/usr/share/nginx/html/index.html", "nginx\n")
        .folder("/tmp", 0o1777)
        .folder("/var/lib/nginx", 0o755)
        .folder("/var/log/nginx", 0o755);
    for name in ["curl", "getent"] {
        image = image.program(&program(name)?, &format!("/usr/bin/{name}"))?;
    }
    for applet in ["sh", "sleep", "echo", "cat", "hostname", "seq", "date", "test", "true"] {
        image = image.link(&format!("/bin/{applet}"), "busybox");
    }
    Ok(image)
}
