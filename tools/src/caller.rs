//! A connection for questions, one at a time.

use std::io;
use std::time::Duration;

use mq_broker::conn::Response;
use mq_broker::wire::client::{Client, Security};
use mq_broker::wire::codes::{request, response};
use mq_broker::wire::command::Command;

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot reach {addr}: {source}")]
    Connect { addr: String, source: io::Error },
    #[error("{what}: {source}")]
    Call { what: String, source: io::Error },
    #[error("{what}: refused with code {code}: {remark}")]
    Refused { what: String, code: i32, remark: String },
}

impl Error {
    /// The code of a refusal.
    pub fn code(&self) -> Option<i32> {
        match self {
            Error::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }
}

#[derive(Debug)]
pub struct Caller {
    runtime: tokio::runtime::Runtime,
    client: Client,
    timeout: Duration,
    pub addr: String,
}

impl Caller {
    /// Connects to "host:port".
    pub fn connect(addr: &str, timeout: Duration, security: &Security) -> Result<Caller, Error> {
        let failed = |source| Error::Connect { addr: addr.to_owned(), source };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(failed)?;
        let client =
            runtime.block_on(Client::connect_with(addr, timeout, security)).map_err(failed)?;
        Ok(Caller { runtime, client, timeout, addr: addr.to_owned() })
    }

    /// Asks; the answer may be a refusal. After an error the connection is of no more use.
    pub fn call(&mut self, command: &Command) -> Result<Response, Error> {
        let called = self.runtime.block_on(self.client.call(command, self.timeout));
        called.map_err(|source| {
            let what = format!("{} to {}", request::name(command.code), self.addr);
            Error::Call { what, source }
        })
    }

    /// Asks for what has to succeed.
    pub fn ask(&mut self, command: &Command) -> Result<Response, Error> {
        let answer = self.call(command)?;
        if answer.code == response::SUCCESS { Ok(answer) } else { Err(refused(command, answer)) }
    }
}

/// The error that an answer stands for.
pub fn refused(command: &Command, answer: Response) -> Error {
    let code = answer.code;
    let remark = answer.remark.unwrap_or_else(|| response::name(code).to_owned());
    Error::Refused { what: request::name(command.code).to_owned(), code, remark }
}
