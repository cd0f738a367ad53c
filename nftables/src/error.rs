//! What can go wrong, one variant per cause that an operator would act on.

use std::fmt;
use std::io;

use thiserror::Error;

/// The kernel sent something that this crate cannot read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the kernel's answer holds a {what} that is cut short, or lacks it")]
pub struct Malformed {
    what: &'static str,
}

impl Malformed {
    pub(crate) fn new(what: &'static str) -> Self {
        Self { what }
    }
}

/// Why an object cannot be put into a message. Found before anything is sent.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Invalid {
    /// A name is empty, too long, or holds a zero byte.
    #[error("{what} {name:?} is no name: use 1 to {max} bytes without a zero byte")]
    Name {
        /// What is named.
        what: &'static str,
        /// The name.
        name: String,
        /// The most bytes it may have.
        max: usize,
    },
    /// A value of another type than the set or selector has.
    #[error("{value} does not fit: {expected} is expected")]
    Type {
        /// The value.
        value: String,
        /// The type expected, as nft names it.
        expected: &'static str,
    },
    /// An element has more or fewer fields than its set's key.
    #[error("an element of {got} fields does not fit a key of {expected}")]
    Fields {
        /// Its number of fields.
        got: usize,
        /// The number that the key has.
        expected: usize,
    },
    /// A range or network in a set that has no intervals, or one that ends before it begins, or of a type without order.
    #[error("the range {0} is not possible here")]
    Range(String),
    /// An element's data do not fit its set: data in a plain set, none in a map, or of another type.
    #[error("the element's data do not fit set {0:?}")]
    Data(String),
    /// One rule asks for two protocols or two address families at once.
    #[error("the rule can match nothing: it asks for {asked} where {known} is already asked for")]
    Contradiction {
        /// What is asked for.
        asked: String,
        /// What was asked for before, or what the table's family is.
        known: String,
    },
    /// More data than a register, an attribute, or the kernel's limit can hold.
    #[error("{0} is too long")]
    TooLong(&'static str),
}

/// One message of a batch that the kernel refused.
#[derive(Debug)]
pub struct Rejection {
    /// Which operation of the batch, counted from 0 in the order in which they were added; `None` for the batch as a whole.
    pub index: Option<usize>,
    /// The operation and its object, as `add chain inet daisy input`.
    pub operation: String,
    /// The error number.
    pub errno: nix::errno::Errno,
    /// What the kernel says beside it (its extended acknowledgement).
    pub message: Option<String>,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.operation, self.errno)?;
        if let Some(message) = &self.message {
            write!(f, " ({message})")?;
        }
        if let Some(index) = self.index {
            write!(f, " [operation {index} of the batch]")?;
        }
        Ok(())
    }
}

/// Why a transaction or a listing failed. A transaction that failed changed nothing.
#[derive(Debug, Error)]
pub enum Error {
    /// A system call on the netlink socket failed.
    #[error("nftables: cannot {what}: {source}")]
    Socket {
        /// What was tried.
        what: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// An object cannot be put into a message; nothing was sent.
    #[error("nftables: {operation}: {cause}; nothing was sent")]
    Invalid {
        /// The operation and its object.
        operation: String,
        /// The cause.
        cause: Invalid,
    },
    /// The kernel refused the transaction; the first refusal is the cause.
    #[error("nftables: {}; the transaction changed nothing", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Rejected(Vec<Rejection>),
    /// The kernel refused a listing.
    #[error("nftables: cannot list {what}: {errno}")]
    List {
        /// What was listed.
        what: &'static str,
        /// The error number.
        errno: nix::errno::Errno,
    },
    /// The rules changed under a listing, over and over.
    #[error("nftables: {what} changed while they were listed, {tries} times in a row")]
    Interrupted {
        /// What was listed.
        what: &'static str,
        /// How often it was tried.
        tries: u32,
    },
    /// The kernel did not answer.
    #[error("nftables: the kernel did not acknowledge the transaction")]
    NoAnswer,
    /// The answer cannot be read.
    #[error("nftables: {0}")]
    Malformed(#[from] Malformed),
}

impl Error {
    /// The first error number that the kernel gave, if it refused.
    #[must_use]
    pub fn errno(&self) -> Option<nix::errno::Errno> {
        match self {
            Self::Rejected(rejections) => rejections.first().map(|r| r.errno),
            Self::List { errno, .. } => Some(*errno),
            Self::Socket { .. } | Self::Invalid { .. } | Self::Interrupted { .. } | Self::NoAnswer | Self::Malformed(_) => None,
        }
    }

    /// Whether the kernel said that an object is not there (`ENOENT`).
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.errno() == Some(nix::errno::Errno::ENOENT)
    }
}
