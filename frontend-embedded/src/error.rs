//! What can go wrong, and what to do about it.

use std::path::PathBuf;

use mq_store::broker::Refusal;
use mq_store::broker::filter::FilterError;

/// The result of this crate's operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why something is not done as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Somebody has the folder open: another process, or this one a second time.
    #[error(
        "the store {path} is in use by {holder}; clone the Mq that is open, stop the other program, or choose another folder"
    )]
    InUse {
        /// The folder.
        path: PathBuf,
        /// Who has it open, as far as can be told.
        holder: String,
    },
    /// [`Mq::close`](crate::Mq::close) was called.
    #[error("the store is closed; open it again")]
    Closed,
    /// The topic is not there, and is not made by sending to it.
    #[error(
        "there is no topic {0}; make it with Mq::create_topic, or open with auto_create_topics(true)"
    )]
    NoTopic(String),
    /// A message, name or number that cannot be.
    #[error("{0}")]
    Invalid(String),
    /// A member of a group wants other topics, filters or another mode than those that are there.
    #[error("a consumer of group {group} is open with other {what}; members of a group must agree")]
    Disagreement {
        /// The group.
        group: String,
        /// What differs: subscriptions, order or settings.
        what: &'static str,
    },
    /// An expression that is none.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// A message whose body is compressed in a way that this crate does not read.
    #[error(
        "the body is compressed with {0}, which this crate does not read; send it uncompressed or with zlib"
    )]
    Compression(&'static str),
    /// What is stored is not what it says it is.
    #[error("{0}")]
    Damaged(String),
    /// The store cannot be served to clients (feature `tcp`).
    #[error("the store cannot be served: {0}")]
    Serve(#[source] std::io::Error),
    /// What the rules of messaging refuse.
    #[error("{0}")]
    Refused(Refusal),
    /// Trouble with files: see [`mq_store::Error`]. A full disk passes when there is space.
    #[error("{0}")]
    Store(#[source] mq_store::Error),
}

/// Why something is not done, for those who decide by it. An [`Error`] says more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A topic, group or message that is not there.
    NotFound,
    /// A mistake of the caller's: a name, number, message or expression that cannot be.
    Invalid,
    /// A topic or group whose permissions say no.
    Denied,
    /// The store was closed.
    Closed,
    /// Somebody else has the store open.
    Locked,
    /// There is no disk space. It passes when there is.
    Full,
    /// The disk does not keep up. It passes.
    Busy,
    /// The disk took too long to confirm a message, which is stored.
    Timeout,
    /// The operating system refused, or a sync failed: then nothing is written any more before
    /// the store is opened anew.
    Io,
    /// Files or messages are not what they were.
    Damaged,
    /// A form of message that this crate does not read.
    Unsupported,
}

impl Error {
    /// The kind of error.
    pub fn kind(&self) -> ErrorKind {
        use mq_store::Error as Store;
        match self {
            Error::NoTopic(_) | Error::Refused(Refusal::NoTopic(_) | Refusal::NoGroup(_)) => {
                ErrorKind::NotFound
            }
            Error::Refused(Refusal::Failed(_)) => ErrorKind::NotFound,
            Error::Refused(Refusal::NoPermission(_)) => ErrorKind::Denied,
            Error::Invalid(_) | Error::Disagreement { .. } | Error::Filter(_) => ErrorKind::Invalid,
            Error::Refused(_) | Error::Store(Store::Limit(_)) => ErrorKind::Invalid,
            Error::Closed | Error::Store(Store::Closed) => ErrorKind::Closed,
            Error::InUse { .. } | Error::Store(Store::Locked { .. }) => ErrorKind::Locked,
            Error::Store(Store::DiskFull { .. } | Store::AboveWatermark { .. }) => ErrorKind::Full,
            Error::Store(Store::Busy(_)) => ErrorKind::Busy,
            Error::Store(Store::FlushTimeout) => ErrorKind::Timeout,
            Error::Damaged(_) | Error::Store(Store::Unusable { .. }) => ErrorKind::Damaged,
            Error::Compression(_) => ErrorKind::Unsupported,
            Error::Serve(_) | Error::Store(_) => ErrorKind::Io,
        }
    }
}

impl From<mq_store::Error> for Error {
    fn from(e: mq_store::Error) -> Error {
        match e {
            mq_store::Error::Locked { path, holder } => Error::InUse { path, holder },
            mq_store::Error::Closed => Error::Closed,
            mq_store::Error::Limit(limit) => Error::Invalid(limit.to_string()),
            other => Error::Store(other),
        }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Error {
        match refusal {
            Refusal::Store(e) => e.into(),
            Refusal::NoTopic(topic) => Error::NoTopic(topic),
            Refusal::Invalid(text) | Refusal::Illegal(text) => Error::Invalid(text),
            other => Error::Refused(other),
        }
    }
}
