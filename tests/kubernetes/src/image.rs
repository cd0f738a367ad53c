//! Image archives, made without Docker: what `docker load`, `ctr images import` and `kind load image-archive` read.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use flate2::{Compression, write::GzEncoder};
use ring::digest::{SHA256, digest};
use serde_json::json;

use crate::programs;

/// An image to be made.
#[derive(Debug, Clone, Default)]
pub struct Image {
    name: String,
    entrypoint: Vec<String>,
    user: String,
    plain: bool,
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone)]
enum Entry {
    File { from: PathBuf, mode: u32 },
    Text { text: String, mode: u32 },
    Link { to: String },
    Folder { mode: u32 },
}

impl Image {
    /// An empty image of this name and tag.
    #[must_use]
    pub fn new(name: &str, entrypoint: &[&str]) -> Self {
        let entrypoint = entrypoint.iter().map(|word| (*word).to_owned()).collect();
        Self { name: name.to_owned(), entrypoint, ..Self::default() }
    }

    /// As whom it runs unless the pod says otherwise.
    #[must_use]
    pub fn user(mut self, user: &str) -> Self {
        user.clone_into(&mut self.user);
        self
    }

    /// With its layer as it is, not compressed: quicker to write, and to unpack on every node.
    #[must_use]
    pub fn uncompressed(mut self) -> Self {
        self.plain = true;
        self
    }

    /// With a file of this machine.
    #[must_use]
    pub fn file(mut self, from: &Path, to: &str) -> Self {
        self.add(to, Entry::File { from: from.to_owned(), mode: 0o755 });
        self
    }

    /// With a file of this text.
    #[must_use]
    pub fn text(mut self, to: &str, text: &str) -> Self {
        self.add(to, Entry::Text { text: text.to_owned(), mode: 0o644 });
        self
    }

    /// With a symbolic link.
    #[must_use]
    pub fn link(mut self, at: &str, to: &str) -> Self {
        self.add(at, Entry::Link { to: to.to_owned() });
        self
    }

    /// With an empty folder.
    #[must_use]
    pub fn folder(mut self, at: &str, mode: u32) -> Self {
        self.add(at, Entry::Folder { mode });
        self
    }

    /// With a program of this machine and the shared libraries that it needs.
    ///
    /// # Errors
    /// When it is not there, or a library is not.
    pub fn program(mut self, from: &Path, to: &str) -> Result<Self> {
        for library in libraries(from)? {
            let at = library.display().to_string();
            self.add(&at, Entry::File { from: library, mode: 0o755 });
        }
        Ok(self.file(from, to))
    }

    /// With a folder of this machine and all that is in it, its links followed.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn tree(mut self, from: &Path, to: &str) -> Result<Self> {
        for entry in fs::read_dir(from).with_context(|| format!("reading {}", from.display()))? {
            let (file, name) = {
                let entry = entry?;
                (entry.path(), entry.file_name())
            };
            let at = format!("{to}/{}", name.to_string_lossy());
            self = if file.is_dir() { self.tree(&file, &at)? } else { self.file(&file, &at) };
        }
        Ok(self)
    }

    fn add(&mut self, at: &str, entry: Entry) {
        // Whoever unpacks it wants each folder before what is in it, which is the order of names.
        let path = at.trim_start_matches('/');
        for (index, _) in path.match_indices('/') {
            self.entries.entry(path[..index].to_owned()).or_insert(Entry::Folder { mode: 0o755 });
        }
        self.entries.insert(path.to_owned(), entry);
    }

    /// Writes the archive. The same contents make the same bytes.
    ///
    /// # Errors
    /// When a file cannot be read or the archive not be written.
    pub fn write(&self, to: &Path) -> Result<()> {
        let layer = self.layer()?;
        let digest = |bytes: &[u8]| hex::encode(digest(&SHA256, bytes));
        let diff_id = digest(&layer);
        let (packed, extension) = if self.plain { (layer, "tar") } else { (compressed(&layer)?, "tar.gz") };
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": {"Entrypoint": self.entrypoint, "User": self.user, "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{diff_id}")]},
            "history": [{"created_by": "cargo xtask image"}],
        })
        .to_string();
        let (config_name, layer_name) =
            (format!("{}.json", digest(config.as_bytes())), format!("{}.{extension}", digest(&packed)));
        let manifest = json!([{"Config": config_name, "RepoTags": [self.name], "Layers": [layer_name]}]).to_string();
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder)?;
        }
        // Whoever reads it meanwhile reads the old one to its end.
        let unfinished = to.with_extension(format!("unfinished-{}", std::process::id()));
        let file = File::create(&unfinished).with_context(|| format!("creating {}", unfinished.display()))?;
        let mut archive = tar::Builder::new(file);
        for (name, bytes) in
            [(config_name.as_str(), config.as_bytes()), (layer_name.as_str(), &packed), ("manifest.json", manifest.as_bytes())]
        {
            archive.append_data(&mut header(tar::EntryType::Regular, bytes.len() as u64, 0o644), name, bytes)?;
        }
        archive.into_inner()?.sync_all()?;
        fs::rename(&unfinished, to).with_context(|| format!("writing {}", to.display()))
    }

    fn layer(&self) -> Result<Vec<u8>> {
        let mut layer = tar::Builder::new(Vec::new());
        for (path, entry) in &self.entries {
            match entry {
                Entry::File { from, mode } => {
                    let bytes = fs::read(from).with_context(|| format!("image {}: reading {}", self.name, from.display()))?;
                    layer.append_data(&mut header(tar::EntryType::Regular, bytes.len() as u64, *mode), path, &*bytes)?;
                }
                Entry::Text { text, mode } => {
                    layer.append_data(&mut header(tar::EntryType::Regular, text.len() as u64, *mode), path, text.as_bytes())?;
                }
                Entry::Link { to } => layer.append_link(&mut header(tar::EntryType::Symlink, 0, 0o777), path, to)?,
                Entry::Folder { mode } => {
                    layer.append_data(
                        &mut header(tar::EntryType::Directory, 0, *mode),
                        format!("{path}/"),
                        std::io::empty(),
                    )?;
                }
            }
        }
        Ok(layer.into_inner()?)
    }
}

fn compressed(layer: &[u8]) -> Result<Vec<u8>> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::default());
    packed.write_all(layer)?;
    Ok(packed.finish()?)
}

fn header(kind: tar::EntryType, size: u64, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// This machine's architecture, as images name it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The shared libraries of a program, its loader among them; none for a static one.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).env("PATH", programs::path()).output().context("starting ldd")?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if out.contains("not found") {
        bail!("{}: {}", program.display(), out.trim());
    }
    if !output.status.success() && !err.contains("not a dynamic executable") {
        bail!("ldd {}: {}", program.display(), err.trim());
    }
    Ok(named_libraries(&out))
}

fn named_libraries(text: &str) -> Vec<PathBuf> {
    let lines = text.lines().filter_map(|line| {
        let file = line.rsplit_once("=> ").map_or(line, |(_, file)| file).trim();
        file.split(" (").next().filter(|path| path.starts_with('/')).map(PathBuf::from)
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn libraries_are_read_from_ldd() {
        let text = "\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x2)\n\t/lib64/ld-linux-x86-64.so.2 (0x3)\n";
        let paths = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(named_libraries(text), paths);
        assert_eq!(named_libraries("\tstatically linked\n"), Vec::<PathBuf>::new());
    }

    #[test]
    fn an_archive_names_what_is_in_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let image = Image::new("example:1", &["/bin/x"]).text("/bin/x", "hello").link("/x", "bin/x").folder("/tmp", 0o1777);
        let (one, two) = (folder.path().join("1.tar"), folder.path().join("2.tar"));
        image.write(&one).expect("written");
        image.write(&two).expect("written");
        assert_eq!(fs::read(&one).expect("read"), fs::read(&two).expect("read"), "the same bytes each time");

        let mut archive = tar::Archive::new(File::open(&one).expect("opened"));
        let mut files = BTreeMap::new();
        for entry in archive.entries().expect("entries") {
            let mut entry = entry.expect("an entry");
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).expect("read");
            files.insert(entry.path().expect("a path").display().to_string(), bytes);
        }
        let manifest: serde_json::Value = serde_json::from_slice(&files["manifest.json"]).expect("JSON");
        assert_eq!(manifest[0]["RepoTags"][0], "example:1");
        let config: serde_json::Value =
            serde_json::from_slice(&files[manifest[0]["Config"].as_str().expect("a name")]).expect("JSON");
        let packed = &files[manifest[0]["Layers"][0].as_str().expect("a name")];
        let mut layer = Vec::new();
        flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut layer).expect("unpacked");
        assert_eq!(config["rootfs"]["diff_ids"][0], format!("sha256:{}", hex::encode(digest(&SHA256, &layer))));
        let names: Vec<_> = tar::Archive::new(&layer[..])
            .entries()
            .expect("entries")
            .map(|e| e.expect("an entry").path().expect("a path").display().to_string())
            .collect();
        assert_eq!(names, ["bin/", "bin/x", "tmp/", "x"]);
    }
}
