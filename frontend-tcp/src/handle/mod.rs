//! What a broker does with each request: one row a code in one table.

pub mod acl;
pub mod admin;
pub mod client;
pub mod newer;
pub mod pull;
pub mod query;
pub mod relay;
pub mod reply;
pub mod runtime;
pub mod send;
pub mod stats;
pub mod transaction;

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use mq_store::Error;
use mq_store::broker::groups::GroupConfig;
use mq_store::broker::{Broker, Refusal};
use mq_store::store::ReadLimits;
use tokio::runtime::{Handle, RuntimeFlavor};

use crate::acl::Acl;
use crate::conn::{Conn, Reply, Request};
use crate::hold::Holds;
use crate::metrics::Metrics;
use crate::metrics::rpc::RpcLatencies;
use crate::namesrv::register::{MoveTo, Told};
use crate::server::{Service, not_supported};
use crate::sessions::Sessions;
use crate::tls;
use crate::wire::codes::{request, response};
use crate::wire::command::Command;
use crate::wire::fields::FieldError;

/// How pulls are answered.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// Pulls wait for messages (`longPollingEnable`), or only for so many ms.
    pub long_polling: Result<(), i64>,
    pub pull_limits: ReadLimits,
    /// Groups are told which broker to read from, by their settings (`slaveReadEnable`).
    pub slave_read: bool,
    /// Messages that waited for longer to be handled are refused (`waitTimeMillsInSendQueue`),
    /// ms; none if there is no such limit (`brokerFastFailureEnable`).
    pub send_wait_ms: Option<u64>,
    /// Sends that wait for the disk, at most (`sendThreadPoolQueueCapacity`).
    pub send_capacity: usize,
    /// Pulls that wait for messages, at most (`pullThreadPoolQueueCapacity`).
    pub pull_capacity: usize,
    /// Messages that a query gives at most (`maxMsgsNumBatch`), and one by unique key
    /// (`defaultQueryMaxNum`).
    pub max_found: usize,
    pub max_found_unique: usize,
    /// Members hear when others come and go (`notifyConsumerIdsChangedEnable`).
    pub notify_changes: bool,
    /// Expressions over properties are served (`enablePropertyFilter`).
    pub property_filter: bool,
    /// A group whose members read from further behind the log's end, in bytes, may no longer
    /// consume (`consumerFallbehindThreshold`, if `disableConsumeIfConsumerReadSlowly`).
    pub fall_behind: Option<u64>,
    /// Replies are stored before they are pushed (`storeReplyMessageEnable`).
    pub store_replies: bool,
}

impl Default for Tuning {
    fn default() -> Tuning {
        Tuning {
            long_polling: Ok(()),
            pull_limits: ReadLimits::default(),
            slave_read: false,
            send_wait_ms: Some(200),
            send_capacity: 10_000,
            pull_capacity: 100_000,
            max_found: 64,
            max_found_unique: 32,
            notify_changes: true,
            property_filter: false,
            fall_behind: None,
            store_replies: true,
        }
    }
}

/// Everything a handler works with.
pub struct BrokerService {
    pub broker: Arc<Broker>,
    pub sessions: Sessions,
    pub holds: Arc<Holds>,
    /// Where clients reach the broker.
    pub advertised: SocketAddr,
    /// Addresses besides loopback that may change configuration and delete.
    pub admins: Box<dyn Fn(IpAddr) -> bool + Send + Sync>,
    pub tuning: RwLock<Tuning>,
    pub region: String,
    /// Producers are told to trace what they send.
    pub trace: bool,
    pub config: admin::ConfigAccess,
    pub metrics: Metrics,
    /// Waits until name servers know the topics, if there are any.
    pub registered: OnceLock<Told>,
    /// Registers at these name servers from now on, if it registers anywhere.
    pub move_to: OnceLock<MoveTo>,
    pub acl: Option<Acl>,
    pub tls: Arc<tls::Server>,
}

/// Who may ask for something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Anyone,
    /// It changes configuration or deletes.
    Admin,
}
use Access::{Admin, Anyone};

/// How a request ended.
pub type Handled = Result<Reply, Failure>;
type Handler = fn(&BrokerService, &Arc<Conn>, &Request<'_>) -> Handled;

/// The most frequent ones first.
static TABLE: &[(i32, Access, Handler)] = &[
    (request::SEND_MESSAGE_V2, Anyone, send::send),
    (request::PULL_MESSAGE, Anyone, pull::pull),
    (request::SEND_BATCH_MESSAGE, Anyone, send::send),
    (request::UPDATE_CONSUMER_OFFSET, Anyone, query::update_consumer_offset),
    (request::SEND_MESSAGE, Anyone, send::send),
    (request::LITE_PULL_MESSAGE, Anyone, pull::pull),
    (request::SEND_REPLY_MESSAGE, Anyone, reply::reply),
    (request::SEND_REPLY_MESSAGE_V2, Anyone, reply::reply),
    (request::END_TRANSACTION, Anyone, transaction::end),
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
    (request::UPDATE_AND_CREATE_TOPIC, Admin, admin::update_topic),
    (request::UPDATE_AND_CREATE_TOPIC_LIST, Admin, admin::update_topics),
    (request::DELETE_TOPIC_IN_BROKER, Admin, admin::delete_topic),
    (request::GET_TOPIC_CONFIG, Anyone, admin::topic_config),
    (request::GET_ALL_TOPIC_CONFIG, Anyone, admin::all_topics),
    (request::GET_SYSTEM_TOPIC_LIST_FROM_BROKER, Anyone, admin::system_topics),
    (request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, Admin, admin::update_group),
    (request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP_LIST, Admin, admin::update_groups),
    (request::DELETE_SUBSCRIPTIONGROUP, Admin, admin::delete_group),
    (request::GET_SUBSCRIPTIONGROUP_CONFIG, Anyone, admin::group_config),
    (request::GET_ALL_SUBSCRIPTIONGROUP_CONFIG, Anyone, admin::all_groups),
    (request::UPDATE_BROKER_CONFIG, Admin, admin::update_config),
    (request::GET_BROKER_CONFIG, Anyone, admin::config),
    (request::GET_ALL_CONSUMER_OFFSET, Anyone, admin::all_offsets),
    (request::GET_ALL_DELAY_OFFSET, Anyone, admin::delay_offsets),
    (request::UPDATE_AND_CREATE_ACL_CONFIG, Admin, acl::update_account),
    (request::DELETE_ACL_CONFIG, Admin, acl::delete_account),
    (request::UPDATE_GLOBAL_WHITE_ADDRS_CONFIG, Admin, acl::update_white_list),
    (request::GET_BROKER_CLUSTER_ACL_INFO, Anyone, acl::versions),
    (request::GET_BROKER_CLUSTER_ACL_CONFIG, Admin, acl::accounts),
    (request::CLONE_GROUP_OFFSET, Admin, admin::clone_offsets),
    (request::CLEAN_EXPIRED_CONSUMEQUEUE, Admin, admin::clean_queues),
    (request::CLEAN_UNUSED_TOPIC, Admin, admin::clean_topics),
    (request::DELETE_EXPIRED_COMMITLOG, Admin, admin::delete_expired),
    (request::GET_BROKER_RUNTIME_INFO, Anyone, runtime::runtime_info),
    (request::VIEW_BROKER_STATS_DATA, Anyone, runtime::stats_data),
    (request::GET_TOPIC_STATS_INFO, Anyone, stats::topic_stats),
    (request::GET_CONSUME_STATS, Anyone, stats::consume_stats),
    (request::GET_BROKER_CONSUME_STATS, Anyone, stats::broker_consume_stats),
    (request::GET_CONSUMER_CONNECTION_LIST, Anyone, stats::consumers),
    (request::GET_PRODUCER_CONNECTION_LIST, Anyone, stats::producers),
    (request::GET_ALL_PRODUCER_INFO, Anyone, stats::all_producers),
    (request::QUERY_TOPIC_CONSUME_BY_WHO, Anyone, stats::groups_of_topic),
    (request::QUERY_TOPICS_BY_CONSUMER, Anyone, stats::topics_of_group),
    (request::QUERY_SUBSCRIPTION_BY_CONSUMER, Anyone, stats::subscription),
    (request::QUERY_CONSUME_TIME_SPAN, Anyone, stats::time_spans),
    (request::QUERY_CORRECTION_OFFSET, Anyone, stats::correction_offsets),
    (request::QUERY_CONSUME_QUEUE, Anyone, stats::queue_units),
    (request::RESUME_CHECK_HALF_MESSAGE, Admin, transaction::resume_check),
    (request::INVOKE_BROKER_TO_RESET_OFFSET, Admin, relay::reset_offsets),
    (request::INVOKE_BROKER_TO_GET_CONSUMER_STATUS, Anyone, relay::consumer_status),
    (request::GET_CONSUMER_RUNNING_INFO, Anyone, relay::running_info),
    (request::CONSUME_MESSAGE_DIRECTLY, Anyone, relay::consume_directly),
    (request::UPDATE_AND_GET_GROUP_FORBIDDEN, Admin, newer::forbid),
    (request::SET_MESSAGE_REQUEST_MODE, Admin, newer::set_mode),
    (request::GET_ALL_MESSAGE_REQUEST_MODE, Anyone, newer::all_modes),
    (request::GET_BROKER_HA_STATUS, Anyone, newer::ha_status),
    (request::RESET_MASTER_FLUSH_OFFSET, Admin, |_, _, _| newer::nothing_to_do()),
    (request::POP_ROLLBACK, Admin, |_, _, _| newer::nothing_to_do()),
    (request::GET_BROKER_EPOCH_CACHE, Anyone, |_, _, _| newer::no_controller()),
    (request::GET_TIMER_CHECK_POINT, Anyone, |_, _, _| newer::no_timer("checkpoint")),
    (request::GET_TIMER_METRICS, Anyone, |_, _, _| newer::no_timer("timer message store")),
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
                Refusal::Store(Error::Busy(_)) => response::SYSTEM_BUSY,
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

    /// More waits than is put up with. In RocketMQ's words.
    pub fn overload() -> Failure {
        let text = "[OVERLOAD]system busy, start flow control for a while";
        Failure::Code(response::SYSTEM_BUSY, text.into())
    }

    pub fn command(&self) -> Command {
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
        if let Err(refusal) = self.allow(conn, request, *access == Admin) {
            return refusal.into();
        }
        // What an administrator asks for waits for the disk.
        let blocks = *access == Admin
            && Handle::try_current()
                .is_ok_and(|h| h.runtime_flavor() == RuntimeFlavor::MultiThread);
        let reply = match blocks {
            true => tokio::task::block_in_place(|| handler(self, conn, request)),
            false => handler(self, conn, request),
        };
        reply.unwrap_or_else(|failure| {
            tracing::debug!("{} of {}: {failure}", request::name(code), conn.peer());
            failure.command().into()
        })
    }

    fn latencies(&self) -> Option<&Arc<RpcLatencies>> {
        self.metrics.rpc.as_ref()
    }

    fn closed(&self, conn: &Arc<Conn>) {
        let ended = self.sessions.closed(conn.id());
        // When it is the broker that goes, its clients have not left each other.
        if self.metrics.is_stopping() {
            return;
        }
        for (group, left) in ended {
            self.left(&group, &left);
        }
    }
}

impl BrokerService {
    /// With access control accounts decide who may ask for what; without, addresses decide who
    /// is an administrator.
    fn allow(&self, conn: &Conn, request: &Request<'_>, admin: bool) -> Result<(), Command> {
        let (code, ip) = (request.head.code, conn.peer().ip());
        if let Some(acl) = &self.acl {
            return acl.check(request, ip, admin).map_err(|denied| {
                tracing::debug!("{} of {}: {denied}", request::name(code), conn.peer());
                // RocketMQ's form, up to the line of its source.
                let remark = format!("org.apache.rocketmq.acl.common.AclException: {denied}");
                Command::refusal(response::SYSTEM_ERROR, remark)
            });
        }
        if !admin || conn.is_from_here() || (self.admins)(ip) {
            return Ok(());
        }
        let remark = format!(
            "{} changes the broker: it is served to this machine, and to addresses that adminAllowedAddresses names; {ip} is none",
            request::name(code),
        );
        Err(Command::refusal(response::NO_PERMISSION, remark))
    }

    pub fn tuning(&self) -> Tuning {
        *self.tuning.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Background step: groups that read too slowly may no longer consume, until an
    /// administrator says that they may.
    pub fn protect_step(&self) {
        let Some(most) = self.tuning().fall_behind else { return };
        let (broker, store) = (&self.broker, self.broker.store());
        for (topic, group, counters) in broker.stats().groups() {
            // Who left reads nothing, slowly or not.
            let is_here = self.sessions.with_group(&group, |g| !g.members.is_empty());
            let config = broker.groups().get(&group).filter(|g| g.consume_enable);
            let (Some(true), Some(config)) = (is_here, config) else { continue };
            let queues = broker.topics().get(&topic).map_or(0, |t| t.read_queue_nums);
            let behind = |queue: i32| {
                let offset = u64::try_from(counters.pull_offset(queue)?).ok()?;
                Some(store.log().end().saturating_sub(store.position(&topic, queue, offset)?))
            };
            let behind = (0..queues).filter_map(behind).max().unwrap_or(0);
            if behind <= most {
                continue;
            }
            tracing::warn!(
                "group {group} reads {topic} {behind} bytes behind the end: it may not consume any more; mqadmin updateSubGroup -s true lets it"
            );
            let disabled = GroupConfig { consume_enable: false, ..(*config).clone() };
            if let Err(e) = broker.update_group(disabled) {
                tracing::error!("group {group} cannot be changed: {e}");
            }
        }
    }

    /// Background step: forgets clients that are silent.
    pub fn expire_step(&self) {
        let now = self.broker.now_ms();
        self.sessions.expire_step(now);
    }
}
