//! The folder of a lab on the host, and which of them are alive.
//!
//! It holds `lock`, `control.sock`, `lab.json`, `kubeconfig`, `work/` and `logs/`. The lab's holder keeps a lock on `lock` for as
//! long as it lives, however it dies, so that a folder whose lock can be had belongs to a dead lab; no process ID is trusted.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::plan::{Plan, PlanError, check_name};

/// A failed run's folder stays, for its logs, when this file is in it.
const KEPT_FOR_LOGS: &str = "failed";
/// How many names are tried for a lab that was given none.
const NAMES_TRIED: usize = 100;

/// Why a lab's folder cannot be used.
#[derive(Debug, Error)]
pub enum StateError {
    /// The name cannot be a folder's.
    #[error(transparent)]
    Name(#[from] PlanError),
    /// The folder that holds all labs is not safe to use.
    #[error("{}: {cause}; remove it, or set XDG_RUNTIME_DIR to a directory of your own", path.display())]
    Unsafe {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        cause: &'static str,
    },
    /// A lab of this name runs.
    #[error("a lab named {name} is already up; use another name, or end it with `daisy lab down --lab {name}`")]
    InUse {
        /// Its name.
        name: String,
    },
    /// No lab of this name runs.
    #[error("no lab named {name} is up; `daisy lab status` lists those that are")]
    NotUp {
        /// The name asked for.
        name: String,
    },
    /// None runs at all.
    #[error("no lab is up; `daisy lab --keep` leaves one up")]
    NoneUp,
    /// More than one runs, and none was named.
    #[error("more than one lab is up: {}; name one with --lab", names.join(", "))]
    Ambiguous {
        /// Those that run.
        names: Vec<String>,
    },
    /// The file system refused.
    #[error("{}: {cause}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> StateError + '_ {
    move |cause| StateError::Io { path: path.to_owned(), cause }
}

/// What a lab's folder says about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Description {
    /// The lab's name.
    pub name: String,
    /// Its plan.
    pub plan: Plan,
    /// The host's loopback ports: one a cluster, in the plan's order, then the broker's.
    pub ports: Vec<u16>,
    /// Whether it outlives the command that started it.
    pub keep: bool,
}

/// A lab's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateDir {
    name: String,
    path: PathBuf,
}

/// A folder that is found, and how its lab is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Its lab is up.
    Up(StateDir),
    /// A failed run left it for its logs.
    Failed(StateDir),
    /// Its lab was killed; the folder was removed just now.
    Removed(String),
}

/// The folder of all labs of this user: `$XDG_RUNTIME_DIR/daisy-lab`, or `/tmp/daisy-lab-UID`.
///
/// # Errors
/// When it cannot be made, or belongs to somebody else.
pub fn root() -> Result<PathBuf, StateError> {
    let uid = nix::unistd::geteuid();
    let own = |p: &PathBuf| fs::metadata(p).is_ok_and(|m| m.is_dir() && m.uid() == uid.as_raw());
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|p| p.is_absolute() && own(p));
    let path = runtime.map_or_else(|| PathBuf::from(format!("/tmp/daisy-lab-{uid}")), |p| p.join("daisy-lab"));
    match DirBuilder::new().mode(0o700).create(&path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(at(&path)(e)),
        Ok(()) | Err(_) => {}
    }
    // In /tmp anyone may have made it before us, or made it a link.
    let meta = fs::symlink_metadata(&path).map_err(at(&path))?;
    let cause = if !meta.is_dir() {
        Some("it is not a directory")
    } else if meta.uid() != uid.as_raw() {
        Some("it belongs to another user")
    } else if meta.mode() & 0o077 != 0 {
        Some("others may enter it (its mode must be 0700)")
    } else {
        None
    };
    cause.map_or(Ok(path.clone()), |cause| Err(StateError::Unsafe { path, cause }))
}

/// Every lab of this user. Folders of labs that were killed are removed on the way.
///
/// # Errors
/// When the folder of all labs cannot be read.
pub fn list() -> Result<Vec<Found>, StateError> {
    let root = root()?;
    let mut found = Vec::new();
    for entry in fs::read_dir(&root).map_err(at(&root))? {
        let path = entry.map_err(at(&root))?.path();
        let Some(name) = path.file_name().and_then(|n| n.to_str()).filter(|n| check_name(n).is_ok()) else { continue };
        let dir = StateDir { name: name.to_owned(), path: path.clone() };
        found.extend(dir.judge()?);
    }
    found.sort_by(|a, b| a.name().cmp(b.name()));
    Ok(found)
}

impl Found {
    /// The lab's name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Up(dir) | Self::Failed(dir) => &dir.name,
            Self::Removed(name) => name,
        }
    }
}

impl StateDir {
    /// Makes the folder of a new lab and locks it. Without a name it takes the first free of `lab`, `lab-2`, `lab-3` and so on.
    ///
    /// # Errors
    /// When a lab of that name is up, or the file system refuses.
    pub fn create(name: Option<&str>) -> Result<(Self, File), StateError> {
        let root = root()?;
        if let Some(name) = name {
            check_name(name)?;
            return Self::create_named(&root, name)?.ok_or_else(|| StateError::InUse { name: name.to_owned() });
        }
        for n in 1..=NAMES_TRIED {
            let name = if n == 1 { "lab".to_owned() } else { format!("lab-{n}") };
            if let Some(made) = Self::create_named(&root, &name)? {
                return Ok(made);
            }
        }
        Err(StateError::InUse { name: format!("lab-{NAMES_TRIED}") })
    }

    /// `None` where a lab of that name is up.
    fn create_named(root: &Path, name: &str) -> Result<Option<(Self, File)>, StateError> {
        let dir = Self { name: name.to_owned(), path: root.join(name) };
        // Twice, since another command may remove the dead folder between our opening its lock and having it.
        for _ in 0..8 {
            match DirBuilder::new().mode(0o700).create(&dir.path) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(at(&dir.path)(e)),
                Ok(()) | Err(_) => {}
            }
            let path = dir.path.join("lock");
            let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
            let file = match open {
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                other => other.map_err(at(&path))?,
            };
            if file.try_lock().is_err() {
                return Ok(None);
            }
            let held = file.metadata().map_err(at(&path))?.ino();
            if fs::metadata(&path).map(|m| m.ino()).ok() != Some(held) {
                continue;
            }
            dir.clear()?;
            for folder in ["logs", "work"] {
                let path = dir.path.join(folder);
                DirBuilder::new().mode(0o700).create(&path).map_err(at(&path))?;
            }
            return Ok(Some((dir, file)));
        }
        Ok(None)
    }

    /// The folder of a lab that is up: the one named, or the only one.
    ///
    /// # Errors
    /// When there is none, or more than one and none was named.
    pub fn find(name: Option<&str>) -> Result<Self, StateError> {
        let up: Vec<Self> = list()?.into_iter().filter_map(|f| if let Found::Up(dir) = f { Some(dir) } else { None }).collect();
        if let Some(name) = name {
            return up.into_iter().find(|d| d.name == name).ok_or_else(|| StateError::NotUp { name: name.to_owned() });
        }
        match up.len() {
            0 => Err(StateError::NoneUp),
            1 => up.into_iter().next().ok_or(StateError::NoneUp),
            _ => Err(StateError::Ambiguous { names: up.into_iter().map(|d| d.name).collect() }),
        }
    }

    /// A folder by its path, as the lab's own processes see it.
    pub(crate) fn at(name: &str, path: &Path) -> Self {
        Self { name: name.to_owned(), path: path.to_owned() }
    }

    /// The lab's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is on the host.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The socket that the lab listens on.
    #[must_use]
    pub fn control_socket(&self) -> PathBuf {
        self.path.join("control.sock")
    }

    /// The kubeconfig for the host, with a context for each cluster.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.path.join("kubeconfig")
    }

    /// The folder of all logs: `CLUSTER/POD-CONTAINER.log` and `CLUSTER/PROCESS.log`.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.path.join("logs")
    }

    /// The folder that administrators' commands run in: `/run/daisy-lab/work` inside the lab.
    #[must_use]
    pub fn work(&self) -> PathBuf {
        self.path.join("work")
    }

    /// Writes what the lab is.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn describe(&self, description: &Description) -> Result<(), StateError> {
        let path = self.path.join("lab.json");
        let text = serde_json::to_vec_pretty(description).map_err(io::Error::other).map_err(at(&path))?;
        fs::write(&path, text).map_err(at(&path))
    }

    /// Reads what the lab is.
    ///
    /// # Errors
    /// When it is not there or not whole.
    pub fn description(&self) -> Result<Description, StateError> {
        let path = self.path.join("lab.json");
        let text = fs::read(&path).map_err(at(&path))?;
        serde_json::from_slice(&text).map_err(io::Error::other).map_err(at(&path))
    }

    /// Says that the folder is to stay, for its logs, when the lab is gone.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn keep_for_logs(&self) -> Result<(), StateError> {
        let path = self.path.join(KEPT_FOR_LOGS);
        fs::write(&path, b"").map_err(at(&path))
    }

    /// Removes the folder and all in it, unless it is kept for its logs.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn remove(&self) -> Result<(), StateError> {
        if self.path.join(KEPT_FOR_LOGS).exists() { Ok(()) } else { self.remove_with_logs() }
    }

    /// Removes the folder and all in it.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn remove_with_logs(&self) -> Result<(), StateError> {
        match fs::remove_dir_all(&self.path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(at(&self.path)(e)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Empties the folder but for the lock.
    fn clear(&self) -> Result<(), StateError> {
        for entry in fs::read_dir(&self.path).map_err(at(&self.path))? {
            let path = entry.map_err(at(&self.path))?.path();
            if path.file_name().is_some_and(|n| n == "lock") {
                continue;
            }
            let is_dir = fs::symlink_metadata(&path).is_ok_and(|m| m.is_dir());
            let removed = if is_dir { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(at(&path))?;
        }
        Ok(())
    }

    /// How its lab is; `None` while the folder is being made.
    fn judge(self) -> Result<Option<Found>, StateError> {
        let path = self.path.join("lock");
        let file = match OpenOptions::new().read(true).open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(at(&path))?,
        };
        if file.try_lock().is_err() {
            return Ok(Some(Found::Up(self)));
        }
        if self.path.join(KEPT_FOR_LOGS).exists() {
            return Ok(Some(Found::Failed(self)));
        }
        self.remove_with_logs()?;
        Ok(Some(Found::Removed(self.name)))
    }
}
