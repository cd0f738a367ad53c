//! What keeps a server from starting or running.

use std::io;

use thiserror::Error;

/// Why a server does not open or serve.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// Another process has the same data directory.
    #[error("{path}: the database is in use by another process: end that one, or choose another data directory (--data)")]
    InUse {
        /// The database file.
        path: String,
    },
    /// The database file cannot be opened.
    #[error("{path}: the database cannot be opened: {source}")]
    Database {
        /// The database file.
        path: String,
        /// Why.
        source: Box<redb::DatabaseError>,
    },
    /// Reading or writing the database failed.
    #[error("the database failed: {0}")]
    Storage(Box<redb::Error>),
    /// The database was written by another version of this server.
    #[error("the database has layout {found}, this server knows {known}: use the version of daisy that wrote it")]
    Format {
        /// What the file says.
        found: u64,
        /// What this server writes.
        known: u64,
    },
    /// An object in the database is no JSON.
    #[error("the database holds {object}, which is no JSON ({source}): restore the data directory from a copy")]
    Corrupt {
        /// The object.
        object: String,
        /// Why.
        source: serde_json::Error,
    },
    /// A file of the data directory cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A key file does not hold what it should.
    #[error("{path}: {what}: restore the file from a copy, or remove the keys directory to begin anew (all tokens end)")]
    Key {
        /// The file.
        path: String,
        /// What is wrong.
        what: String,
    },
    /// A certificate cannot be made.
    #[error("a certificate for {names} cannot be made: {source}")]
    Certificate {
        /// The names and addresses it was to have.
        names: String,
        /// Why.
        source: rcgen::Error,
    },
    /// The clock is outside the validity of the certificate authority.
    #[error("the clock says {now}, the certificate authority in {path} is valid from {from} to {until}: set the clock right")]
    Clock {
        /// The certificate file.
        path: String,
        /// What the clock says.
        now: String,
        /// The beginning of its validity.
        from: String,
        /// The end of its validity.
        until: String,
    },
    /// TLS cannot be set up.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// An address cannot be listened on.
    #[error("{address}: cannot listen: {source}{}", in_use(.source))]
    Listen {
        /// The address.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// There is nothing to listen on.
    #[error("no listener: give at least one address")]
    NoListener,
    /// A thread cannot be started.
    #[error("a thread cannot be started: {source}")]
    Thread {
        /// Why.
        source: io::Error,
    },
    /// What a first start creates was refused.
    #[error("preparing the store: {0}")]
    Prepare(#[from] crate::Refusal),
}

fn in_use(source: &io::Error) -> &'static str {
    if source.kind() == io::ErrorKind::AddrInUse {
        ": another program has this port; end it or choose another port (--listen)"
    } else {
        ""
    }
}
