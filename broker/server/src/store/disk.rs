//! The database file: objects, the one resourceVersion, and each resource's last one.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use bytes::Bytes;
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};

use super::event::Event;
use crate::definition::ResourceKey;
use crate::error::Error;

/// `PLURAL.GROUP`, namespace, name → JSON.
const OBJECTS: TableDefinition<'_, (&str, &str, &str), &[u8]> = TableDefinition::new("objects");
/// `PLURAL.GROUP` → the resourceVersion of its last change, so that watches of resources at rest go on after a restart.
const VERSIONS: TableDefinition<'_, &str, u64> = TableDefinition::new("versions");
/// What is one for the whole server.
const SERVER: TableDefinition<'_, &str, u64> = TableDefinition::new("server");
const RESOURCE_VERSION: &str = "resourceVersion";
const FORMAT: &str = "format";
/// The layout of the tables above.
const FORMAT_NOW: u64 = 1;
/// Objects are read once, at start, and then kept in memory: the database's own cache only serves writes.
const CACHE_BYTES: usize = 4 << 20;

/// An object as it was read.
pub(super) struct Row {
    pub(super) resource: ResourceKey,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) json: Bytes,
}

/// Everything as it was read.
#[derive(Default)]
pub(super) struct Contents {
    pub(super) version: u64,
    pub(super) rows: Vec<Row>,
    pub(super) versions: Vec<(ResourceKey, u64)>,
}

/// The open file. Only one process has it at a time (redb locks it).
pub(super) struct Disk(Database);

fn storage(error: impl Into<redb::Error>) -> Error {
    Error::Storage(Box::new(error.into()))
}

fn key_of(text: &str) -> ResourceKey {
    let (plural, group) = text.split_once('.').unwrap_or((text, ""));
    ResourceKey::new(group, plural)
}

/// Makes the file, empty, for its owner alone; its name is on the disk before anything in it is.
fn create_private(path: &Path) -> io::Result<()> {
    if path.exists() {
        return Ok(());
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.sync_all()?;
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

impl Disk {
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        create_private(path).map_err(|source| Error::File { path: path.display().to_string(), source })?;
        let database = Database::builder().set_cache_size(CACHE_BYTES).create(path).map_err(|error| {
            let path = path.display().to_string();
            if matches!(error, redb::DatabaseError::DatabaseAlreadyOpen) {
                Error::InUse { path }
            } else {
                Error::Database { path, source: Box::new(error) }
            }
        })?;
        let disk = Self(database);
        disk.prepare()?;
        Ok(disk)
    }

    fn prepare(&self) -> Result<(), Error> {
        let transaction = self.0.begin_write().map_err(storage)?;
        {
            transaction.open_table(OBJECTS).map_err(storage)?;
            transaction.open_table(VERSIONS).map_err(storage)?;
            let mut server = transaction.open_table(SERVER).map_err(storage)?;
            let format = server.get(FORMAT).map_err(storage)?.map(|format| format.value());
            match format {
                None => {
                    server.insert(FORMAT, FORMAT_NOW).map_err(storage)?;
                    // Version 0 means "any" to clients; the first write is 2.
                    server.insert(RESOURCE_VERSION, 1).map_err(storage)?;
                }
                Some(FORMAT_NOW) => {}
                Some(found) => return Err(Error::Format { found, known: FORMAT_NOW }),
            }
        }
        transaction.commit().map_err(storage)
    }

    pub(super) fn read(&self) -> Result<Contents, Error> {
        let transaction = self.0.begin_read().map_err(storage)?;
        let mut contents = Contents::default();
        if let Some(version) = transaction.open_table(SERVER).map_err(storage)?.get(RESOURCE_VERSION).map_err(storage)? {
            contents.version = version.value();
        }
        for row in transaction.open_table(OBJECTS).map_err(storage)?.iter().map_err(storage)? {
            let (key, json) = row.map_err(storage)?;
            let (resource, namespace, name) = key.value();
            contents.rows.push(Row {
                resource: key_of(resource),
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                json: Bytes::copy_from_slice(json.value()),
            });
        }
        for row in transaction.open_table(VERSIONS).map_err(storage)?.iter().map_err(storage)? {
            let (key, version) = row.map_err(storage)?;
            contents.versions.push((key_of(key.value()), version.value()));
        }
        Ok(contents)
    }

    /// Makes a batch of changes durable: when this returns, they are on the disk.
    pub(super) fn commit(&self, events: &[Event], version: u64) -> Result<(), Error> {
        let mut transaction = self.0.begin_write().map_err(storage)?;
        transaction.set_durability(Durability::Immediate).map_err(storage)?;
        {
            let mut objects = transaction.open_table(OBJECTS).map_err(storage)?;
            let mut versions = transaction.open_table(VERSIONS).map_err(storage)?;
            for event in events {
                let resource = event.resource.to_string();
                let key = (resource.as_str(), event.namespace.as_str(), event.name.as_str());
                if let Some(object) = event.after() {
                    objects.insert(key, &*object.json).map_err(storage)?;
                } else {
                    objects.remove(key).map_err(storage)?;
                }
                versions.insert(resource.as_str(), event.version).map_err(storage)?;
            }
            transaction.open_table(SERVER).map_err(storage)?.insert(RESOURCE_VERSION, version).map_err(storage)?;
        }
        transaction.commit().map_err(storage)
    }
}
