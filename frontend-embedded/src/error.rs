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
    InUse { path: PathBuf, holder: String },
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
    Disagreement { group: String, what: &'static str },
    /// An expression that is none.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// A message whose body is compressed in a way that this crate does not read.
    #[error(
        "the body is compressed with {0}, which this crate does not read; send it uncompressed or with zlib"
    )]
    Compression(&'static str),
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

impl From<mq_store::Error> for Error {
    fn from(e: mq_store::Error) -> Error {
        match e {
            mq_store::Error::Locked { path, holder } => Error::InUse { path, holder },
            mq_store::Error::Closed => Error::Closed,
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
