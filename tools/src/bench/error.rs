//! Why a run came to nothing.

use std::io;

use mq_broker::wire::command::HeadError;
use mq_broker::wire::frame::FrameError;
use mq_store::codec::record::RecordError;

use mq_tools::caller;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot reach {addr}: {source}")]
    Connect { addr: String, source: io::Error },
    #[error("{what}: {source}")]
    Call { what: String, source: io::Error },
    #[error("{what}: the broker answered {code}: {remark}")]
    Refused { what: String, code: i32, remark: String },
    #[error("{0}")]
    Unusable(String),
    #[error("the broker closed a connection")]
    Closed,
    #[error("no answer for {seconds} s, with {waiting} requests under way")]
    Silent { seconds: u64, waiting: usize },
    #[error("a connection failed: {0}")]
    Io(#[from] io::Error),
    #[error("the broker sent {0}")]
    Frame(#[from] FrameError),
    #[error("the broker sent {0}")]
    Head(#[from] HeadError),
    #[error("a pull brought what is no record: {0}")]
    Record(#[from] RecordError),
    #[error("a pull brought {0} bytes that are no record")]
    Records(usize),
    #[error("an answer to a request that was not asked: opaque {0}")]
    Stray(i32),
}

impl From<nix::Error> for Error {
    fn from(e: nix::Error) -> Error {
        Error::Io(e.into())
    }
}

impl From<caller::Error> for Error {
    fn from(e: caller::Error) -> Error {
        match e {
            caller::Error::Connect { addr, source } => Error::Connect { addr, source },
            caller::Error::Call { what, source } => Error::Call { what, source },
            caller::Error::Refused { what, code, remark } => Error::Refused { what, code, remark },
        }
    }
}

pub type Result<T> = std::result::Result<T, Error>;
