//! The images that clusters run on the bed: Daisy's own, what a cluster cannot do without, and what the tests use.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use ring::digest::{SHA256, digest};

use crate::image::Image;
use crate::{components, programs};

/// The image of the tests' clients: a shell, curl, dig, getent, nc.
pub const TOOLS: &str = "localhost/tools:1";
/// nginx, as Debian has it, with its configuration in /etc/nginx/nginx.conf.
pub const NGINX: &str = "localhost/nginx:1";

/// Redis with its own clients, as Debian has it.
pub const REDIS: &str = "localhost/redis:1";
/// PostgreSQL with its own clients, as Debian has it. Its server is the first of `/usr/lib/postgresql`.
pub const POSTGRES: &str = "localhost/postgres:1";

/// CoreDNS' image, as manifests name it.
///
/// # Errors
/// When go.mod does not say which version it is.
pub fn coredns_name() -> Result<String> {
    Ok(format!("registry.k8s.io/coredns/coredns:{}", components::version("coredns", "github.com/coredns/coredns")?))
}

/// The archive of CoreDNS' image, made beside the components if it is not there yet.
///
/// # Errors
/// When it cannot be written.
pub fn coredns(binaries: &Path) -> Result<PathBuf> {
    let archive = binaries.join("images/coredns.tar");
    if !archive.exists() {
        Image::new(&coredns_name()?, &["/coredns"]).file(&binaries.join("coredns"), "/coredns").write(&archive)?;
    }
    Ok(archive)
}

/// The archive of the image whose container holds a pod's namespaces, made beside the components if it is not there yet.
///
/// # Errors
/// When rustc fails.
pub fn pause(binaries: &Path) -> Result<PathBuf> {
    let source = include_str!("pause.rs");
    let folder = binaries.join("images");
    let name = format!("pause-{}", hex::encode(&digest(&SHA256, source.as_bytes()).as_ref()[..4]));
    let archive = folder.join(format!("{name}.tar"));
    if !archive.exists() {
        let program = pause_program(&folder.join(&name))?;
        Image::new(crate::bed::PAUSE_IMAGE, &["/pause"]).file(&program, "/pause").write(&archive)?;
    }
    Ok(archive)
}

/// Builds the program that does nothing in a pod's first container.
///
/// # Errors
/// When rustc fails.
pub fn pause_program(program: &Path) -> Result<PathBuf> {
    let source = include_str!("pause.rs");
    let folder = program.parent().context("the program's folder")?;
    fs::create_dir_all(folder)?;
    let file = program.with_extension("rs");
    fs::write(&file, source)?;
    let mut rustc = Command::new("rustc");
    rustc.args(["--edition=2024", "-Copt-level=z", "-Cpanic=abort", "-Cstrip=symbols", "-Ctarget-feature=+crt-static", "-o"]);
    let output = rustc.arg(program).arg(&file).output().context("starting rustc")?;
    if !output.status.success() {
        bail!("rustc {}: {}", file.display(), String::from_utf8_lossy(&output.stderr));
    }
    Ok(program.to_owned())
}

/// The applets of busybox that tests use.
const APPLETS: &[&str] = &[
    "sh", "sleep", "cat", "echo", "ip", "ls", "head", "wc", "seq", "hostname", "test", "true", "kill", "ps", "dd", "date",
    "grep", "mkdir", "rm", "tail",
];

/// The archive of [`TOOLS`].
///
/// # Errors
/// When a program is missing.
pub fn tools(folder: &Path) -> Result<PathBuf> {
    let archive = folder.join("tools.tar");
    let mut image = with_a_shell(Image::new(TOOLS, &["/bin/sleep", "infinity"]))?;
    for name in ["curl", "dig", "getent", "nc"] {
        image = image.program(&programs::file(name)?.canonicalize()?, &format!("/usr/bin/{name}"))?;
    }
    image.write(&archive)?;
    Ok(archive)
}

/// What nginx is told: to say who it is, and whom it sees.
const NGINX_CONF: &str = r#"daemon off;
worker_processes 1;
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
        listen [::]:80;
        listen 8080;
        location / { return 200 "$hostname $remote_addr $server_addr\n"; }
        location /body { client_max_body_size 16m; return 200 "$content_length\n"; }
    }
}
"#;

/// The archive of [`NGINX`].
///
/// # Errors
/// When nginx is missing.
pub fn nginx(folder: &Path) -> Result<PathBuf> {
    let archive = folder.join("nginx.tar");
    let image = Image::new(NGINX, &["/usr/sbin/nginx", "-c", "/etc/nginx/nginx.conf"])
        .program(&programs::file("nginx")?.canonicalize()?, "/usr/sbin/nginx")?
        .text("/etc/nginx/nginx.conf", NGINX_CONF)
        .text("/etc/passwd", "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\nwww-data:x:33:33::/:/bin/sh\n")
        .text("/etc/group", "root:x:0:\nnogroup:x:65534:\nwww-data:x:33:\n")
        .folder("/tmp", 0o1777)
        .folder("/var/lib/nginx", 0o755)
        .folder("/var/log/nginx", 0o755);
    image.write(&archive)?;
    Ok(archive)
}

/// The shell and its applets, and as whom servers run.
fn with_a_shell(image: Image) -> Result<Image> {
    let image = image
        .file(&programs::file("busybox")?, "/bin/busybox")
        .folder("/tmp", 0o1777)
        .text("/etc/nsswitch.conf", "hosts: files dns\n")
        .text("/etc/passwd", "root:x:0:0:root:/:/bin/sh\nserver:x:999:999:server:/data:/bin/sh\n")
        .text("/etc/group", "root:x:0:\nserver:x:999:\n");
    Ok(APPLETS.iter().fold(image, |image, applet| image.link(&format!("/bin/{applet}"), "busybox")))
}

/// The archive of [`REDIS`].
///
/// # Errors
/// When a program is missing.
pub fn redis(folder: &Path) -> Result<PathBuf> {
    let archive = folder.join("redis.tar");
    // It keeps nothing: a pod that starts anew is empty.
    let server = ["/usr/bin/redis-server", "--save", "", "--protected-mode", "no", "--dir", "/tmp"];
    let mut image = with_a_shell(Image::new(REDIS, &server).user("999"))?;
    for (name, at) in [("redis-check-rdb", "redis-server"), ("redis-cli", "redis-cli"), ("redis-benchmark", "redis-benchmark")]
    {
        // The server is the program that checks its files, by another name; and that comes without a service for this machine.
        image = image.program(&programs::file(name)?.canonicalize()?, &format!("/usr/bin/{at}"))?;
    }
    image.write(&archive)?;
    Ok(archive)
}

/// The archive of [`POSTGRES`].
///
/// # Errors
/// When a program is missing.
pub fn postgres(folder: &Path) -> Result<PathBuf> {
    let archive = folder.join("postgres.tar");
    let programs = programs::postgres()?;
    let version = programs.parent().and_then(Path::file_name).context("PostgreSQL's version")?.to_string_lossy().into_owned();
    let start = "mkdir -p /tmp/db && initdb -D /tmp/db -U postgres --auth=trust --no-locale -E UTF8 --no-sync > /tmp/initdb.log && \
                 echo 'host all all all trust' >> /tmp/db/pg_hba.conf && \
                 exec postgres -D /tmp/db -c listen_addresses='*' -c unix_socket_directories=/tmp -c fsync=off -c jit=off";
    // Where Debian's packages have everything: the server finds its other files from where it is.
    let (bin, library, share) = (
        format!("/usr/lib/postgresql/{version}/bin"),
        format!("/usr/lib/postgresql/{version}/lib"),
        format!("/usr/share/postgresql/{version}"),
    );
    let mut image =
        with_a_shell(Image::new(POSTGRES, &["/bin/sh", "-c", start]).user("999"))?.tree(Path::new(&share), &share)?;
    for name in ["postgres", "initdb", "psql", "pgbench", "pg_isready"] {
        image = image
            .program(&programs.join(name), &format!("{bin}/{name}"))?
            .link(&format!("/usr/bin/{name}"), &format!("{bin}/{name}"));
    }
    for name in ["plpgsql.so", "dict_snowball.so"] {
        let file = format!("{library}/{name}");
        image = image.program(Path::new(&file), &file)?;
    }
    image.write(&archive)?;
    Ok(archive)
}

/// Packs Daisy's own image from a built binary, which is stripped first into `stripped`.
///
/// # Errors
/// When the binary is not there, or a program that this needs.
pub fn daisy(built: &Path, stripped: &Path, name: &str, archive: &Path) -> Result<()> {
    if let Some(folder) = stripped.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut strip = Command::new("strip");
    let output = strip.arg("-o").arg(stripped).arg(built).output().context("starting strip: install binutils")?;
    if !output.status.success() {
        bail!("strip {}: {}", built.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    let users = "root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n";
    Image::new(name, &["/daisy"])
        .program(stripped, "/daisy")?
        .text("/etc/passwd", users)
        .text("/etc/nsswitch.conf", "hosts: files dns\n")
        .write(archive)
}
