//! What can go wrong, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

/// The result of a store's operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a store's operations fail with. Outcomes that a caller must expect (nothing at an
/// offset, say) are not errors.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file-system call failed.
    #[error("cannot {op} {path}: {source}{}", hint(source))]
    Io { op: &'static str, path: PathBuf, source: io::Error },
    /// No space left. Appends work again when there is.
    #[error("the disk is full: cannot {op} {path}; free space there, or add a disk")]
    DiskFull { op: &'static str, path: PathBuf },
    /// Another process has the store open.
    #[error("the store {path} is in use by {holder}; stop it first, or choose another folder")]
    Locked { path: PathBuf, holder: String },
    /// A sync failed earlier: what the disk holds is not known, so nothing is written any more.
    /// Reads go on. Opening the store again finds out what is there.
    #[error("the store takes no more messages since a sync failed ({0}); restart it")]
    Poisoned(String),
    /// A message is in the store and was not on the disk in time (`syncFlushTimeout`).
    #[error("the message is stored, but the disk took too long to confirm it")]
    FlushTimeout,
    /// Appends take too long (`osPageCacheBusyTimeOutMills`): the disk does not keep up.
    #[error(
        "[PCBUSY_CLEAN_QUEUE]broker busy, start flow control for a while, period in queue: {0}ms"
    )]
    Busy(u64),
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// The store refuses writes until there is disk space again.
    #[error(
        "the disk is {used:.0}% full, above the limit of {limit:.0}%: no messages are taken until space is free"
    )]
    AboveWatermark { used: f64, limit: f64 },
    /// The message breaks a limit.
    #[error(transparent)]
    Limit(#[from] Limit),
    /// A file has a form that nothing can be done with.
    #[error("{path}: {what}")]
    Unusable { path: PathBuf, what: String },
}

/// A limit that a message breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Limit {
    #[error("the topic is empty")]
    NoTopic,
    #[error("a topic of {len} bytes, where {max} are allowed")]
    Topic { len: usize, max: usize },
    #[error("properties of {len} bytes, where {max} are allowed")]
    Properties { len: usize, max: usize },
    #[error("a body of {len} bytes, where maxMessageSize allows {max}")]
    Body { len: usize, max: usize },
    #[error(
        "a record of {len} bytes, where a file of the log (mappedFileSizeCommitLog) has room for {max}"
    )]
    Record { len: usize, max: usize },
    #[error("a batch of no messages, or one that is malformed")]
    Batch,
    #[error("queue id {0} is below 0")]
    Queue(i32),
}

/// What to do about it, where that can be said.
fn hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => {
            "; give this user the right to write there, or choose another folder"
        }
        io::ErrorKind::ReadOnlyFilesystem => "; choose a folder that can be written",
        _ => "",
    }
}

impl Error {
    /// Names the call and the file of an I/O error; a full disk becomes [`Error::DiskFull`].
    pub(crate) fn io(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_owned();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Error::DiskFull { op, path }
            }
            _ => Error::Io { op, path, source },
        }
    }
}
