//! What a broker does with each request: one row a code in one table.

pub mod client;
pub mod pull;
pub mod query;
pub mod send;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mq_store::Error;
use mq_store::broker::{Broker, Refusal};

use crate::conn::{Conn, Reply, Request};
use crate::hold::Holds;
use crate::server::{Service, not_supported};
use crate::sessions::Sessions;
use crate::wire::codes::{request, response};
use crate::wire::command::Command;
use crate::wire::fields::FieldError;

/// Everything a handler works with.
pub struct BrokerService {
    pub broker: Arc<Broker>,
    pub sessions: Sessions,
    pub holds: Arc<Holds>,
    /// Where clients reach the broker.
    pub advertised: SocketAddr,
    /// Addresses besides loopback that may change configuration and delete.
    pub admins: Box<dyn Fn(IpAddr) -> bool + Send + Sync>,
    /// Pulls wait for messages (`longPollingEnable`), or only for so many ms.
    pub long_polling: Result<(), i64>,
    pub pull_limits: mq_store::store::ReadLimits,
    pub region: String,
}

/// Who may ask for something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Anyone,
    /// It changes configuration or deletes.
    Admin,
}
use Access::{Admin, Anyone};

type Handler = fn(&BrokerService, &Arc<Conn>, &Request<'_>) -> Result<Reply, Failure>;

/// The most frequent ones first.
static TABLE: &[(i32, Access, Handler)] = &[
    (request::SEND_MESSAGE_V2, Anyone, send::send),
    (request::PULL_MESSAGE, Anyone, pull::pull),
    (request::SEND_BATCH_MESSAGE, Anyone, send::send),
    (request::UPDATE_CONSUMER_OFFSET, Anyone, query::update_consumer_offset),
    (request::SEND_MESSAGE, Anyone, send::send),
    (request::LITE_PULL_MESSAGE, Anyone, pull::pull),
    (request::HEART_BEAT, Anyone, client::heartbeat),
    (request::CONSUMER_SEND_MSG_BACK, Anyone, send::send_back),
    (request::QUERY_CONSUMER_OFFSET, Anyone, query::query_consumer_offset),
    (request::GET_CONSUMER_LIST_BY_GROUP, Anyone, client::consumer_list),
    (request::LOCK_BATCH_MQ, Anyone, client::lock),
    (request::UNLOCK_BATCH_MQ, Anyone, client::unlock),
    (request::UNREGISTER_CLIENT, Anyone, client::unregister),
    (request::CHECK_CLIENT_CONFIG, Anyone, client::check_client_config),
    (request::GET_MAX_OFFSET, Anyone, query::max_offset),
    (request::GET_MIN_OFFSET, Anyone, query::min_offset),
    (request::SEARCH_OFFSET_BY_TIMESTAMP, Anyone, query::offset_by_time),
    (request::GET_EARLIEST_MSG_STORETIME, Anyone, query::earliest_time),
    (request::QUERY_MESSAGE, Anyone, query::by_key),
    (request::VIEW_MESSAGE_BY_ID, Anyone, query::by_position),
];

/// Why a request is not answered as asked. Here every reason gets its code.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error(transparent)]
    Field(#[from] FieldError),
    #[error(transparent)]
    Refusal(#[from] Refusal),
    #[error("the body is not what this request has: {0}")]
    Body(#[from] serde_json::Error),
    #[error("{1}")]
    Code(i32, String),
}

impl Failure {
    pub fn code(&self) -> i32 {
        match self {
            Failure::Field(_) | Failure::Body(_) => response::SYSTEM_ERROR,
            Failure::Code(code, _) => *code,
            Failure::Refusal(refusal) => match refusal {
                Refusal::NoTopic(_) => response::TOPIC_NOT_EXIST,
                Refusal::NoGroup(_) => response::SUBSCRIPTION_GROUP_NOT_EXIST,
                Refusal::NoPermission(_) => response::NO_PERMISSION,
                Refusal::Invalid(_) => response::INVALID_PARAMETER,
                Refusal::Illegal(_) | Refusal::Store(Error::Limit(_)) => response::MESSAGE_ILLEGAL,
                Refusal::Store(
                    Error::DiskFull { .. }
                    | Error::AboveWatermark { .. }
                    | Error::Closed
                    | Error::Poisoned(_),
                ) => response::SERVICE_NOT_AVAILABLE,
                _ => response::SYSTEM_ERROR,
            },
        }
    }

    fn command(&self) -> Command {
        Command::refusal(self.code(), self.to_string())
    }
}

impl From<Error> for Failure {
    fn from(e: Error) -> Failure {
        Failure::Refusal(e.into())
    }
}

impl Service for BrokerService {
    fn handle(&self, conn: &Arc<Conn>, request: &Request<'_>) -> Reply {
        let code = request.head.code;
        let Some((_, access, handler)) = TABLE.iter().find(|row| row.0 == code) else {
            return not_supported(code);
        };
        if *access == Admin && !self.is_admin(conn.peer().ip()) {
            let remark = format!(
                "{} changes the broker: it is served to this machine, and to addresses that adminAllowedAddresses names; {} is none",
                request::name(code),
                conn.peer().ip()
            );
            return Command::refusal(response::NO_PERMISSION, remark).into();
        }
        handler(self, conn, request).unwrap_or_else(|failure| {
            tracing::debug!("{} of {}: {failure}", request::name(code), conn.peer());
            failure.command().into()
        })
    }

    fn closed(&self, conn: &Arc<Conn>) {
        for (group, left) in self.sessions.closed(conn.id()) {
            self.tell_group_changed(&group, &left);
        }
    }
}

impl BrokerService {
    fn is_admin(&self, ip: IpAddr) -> bool {
        ip.to_canonical().is_loopback() || (self.admins)(ip)
    }

    /// Background step: forgets clients that are silent.
    pub fn expire_step(&self) {
        let now = self.broker.now_ms();
        self.sessions.expire_step(now);
    }
}
