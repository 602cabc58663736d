//! 11, 361: messages for consumers, at once or when they come.

use std::sync::Arc;

use mq_store::broker::Broker;
use mq_store::broker::filter::{Filter, FilterError};
use mq_store::store::{Read, ReadLimits, ReadStatus};

use super::{BrokerService, Failure};
use crate::conn::{Conn, Reply, Request};
use crate::hold::{Pull, Suggest};
use crate::wire::codes::response;
use crate::wire::command::{Body, Command};
use crate::wire::fields::header;

/// Bits of a pull's sysFlag.
const COMMITS: i32 = 1;
const MAY_WAIT: i32 = 2;
const HAS_SUBSCRIPTION: i32 = 4;
/// No pull is held for longer, ms.
const MAX_HOLD_MS: i64 = 120_000;

header! {
    struct PullHeader<'a> {
        group: &'a str = "consumerGroup",
        topic: &'a str = "topic",
        queue_id: i32 = "queueId",
        queue_offset: i64 = "queueOffset",
        max_msg_nums: i32 = "maxMsgNums",
        sys_flag: i32 = "sysFlag",
        commit_offset: i64 = "commitOffset" else 0,
        suspend_timeout_ms: i64 = "suspendTimeoutMillis" else 0,
        subscription: &'a str = "subscription" else "",
        sub_version: i64 = "subVersion" else 0,
        expression_type: &'a str = "expressionType" else "",
        max_bytes: Option<i32> = "maxMsgBytes",
    }
}

/// Gives messages.
pub fn pull(
    service: &BrokerService,
    conn: &Arc<Conn>,
    request: &Request<'_>,
) -> Result<Reply, Failure> {
    let h = PullHeader::of(&request.head.fields)?;
    let broker = &service.broker;
    broker.check_pull(h.group, h.topic, h.queue_id)?;
    let filter = subscription(service, &h)?;
    if h.sys_flag & COMMITS != 0 {
        broker.offsets().commit(h.group, h.topic, h.queue_id, h.commit_offset);
    }
    let tuning = service.tuning();
    let most = tuning.pull_limits;
    let max_bytes = h.max_bytes.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
    let limits = ReadLimits {
        messages: usize::try_from(h.max_msg_nums).unwrap_or(1).clamp(1, most.messages),
        bytes: max_bytes.min(most.bytes),
        bytes_on_disk: max_bytes.min(most.bytes_on_disk),
        ..most
    };
    let group = tuning.slave_read.then(|| broker.groups().get(h.group)).flatten();
    let suggest = group.map_or_else(Suggest::default, |group| Suggest {
        keeps_up: group.broker_id,
        far_behind: group.which_broker_when_consume_slowly,
    });
    let counters = broker.stats().group(h.group, h.topic);
    counters.pulled_from(h.queue_id, h.queue_offset);
    let read = broker.pull(h.topic, h.queue_id, h.queue_offset, &limits, &filter, &counters);
    let may_wait = h.sys_flag & MAY_WAIT != 0 && h.suspend_timeout_ms > 0;
    if !may_wait
        || request.head.is_one_way()
        || code_of(&read, h.queue_offset) != response::PULL_NOT_FOUND
    {
        return Ok(answer(read, h.queue_offset, &suggest).into());
    }
    let wait = match tuning.long_polling {
        Ok(()) => h.suspend_timeout_ms.min(MAX_HOLD_MS),
        Err(short) => short,
    };
    let pull = Pull {
        topic: h.topic.into(),
        queue_id: h.queue_id,
        offset: h.queue_offset,
        limits,
        filter,
        counters,
        suggest,
    };
    let (ticket, until) = (request.ticket(conn), broker.now_ms() + wait);
    if !service.holds.hold(pull, ticket, until, tuning.pull_capacity) {
        return Err(Failure::overload());
    }
    // One that came while nobody held the pull would not wake it.
    if broker.store().max_offset(h.topic, h.queue_id) > read.max {
        service.holds.wake(h.topic, h.queue_id, |p| p.offset == h.queue_offset);
    }
    Ok(Reply::Later)
}

fn subscription(service: &BrokerService, h: &PullHeader<'_>) -> Result<Arc<Filter>, Failure> {
    let unparsable = |e: &FilterError| {
        let text = format!("parse the consumer's subscription failed: {e}");
        Failure::Code(response::SUBSCRIPTION_PARSE_FAILED, text)
    };
    if h.sys_flag & HAS_SUBSCRIPTION != 0 {
        service.check_expression_type(h.expression_type)?;
        return match Filter::parse(h.expression_type, h.subscription) {
            Ok(filter) => Ok(Arc::new(filter)),
            Err(e) => Err(unparsable(&e)),
        };
    }
    let not = |code, text: &str| Failure::Code(code, text.to_string());
    let found = service.sessions.with_group(h.group, |group| {
        if group.is_broadcasting()
            && service.broker.groups().get(h.group).is_some_and(|g| !g.consume_broadcast_enable)
        {
            let text = format!("the consumer group[{}] can not consume by broadcast way", h.group);
            return Err(Failure::Code(response::NO_PERMISSION, text));
        }
        group.subscriptions.get(h.topic).cloned().ok_or_else(|| {
            not(response::SUBSCRIPTION_NOT_EXIST, "the consumer's subscription not exist")
        })
    });
    let subscription = found.unwrap_or_else(|| {
        Err(not(response::SUBSCRIPTION_NOT_EXIST, "the consumer's group info not exist"))
    })?;
    if subscription.data.sub_version < h.sub_version {
        return Err(not(
            response::SUBSCRIPTION_NOT_LATEST,
            "the consumer's subscription not latest",
        ));
    }
    let filter = subscription.filter.clone().map_err(|e| match subscription.data.is_tag() {
        true => unparsable(&e),
        false => {
            let text =
                "The broker's consumer filter data is not exist!Your expression may be wrong!";
            Failure::Code(response::FILTER_DATA_NOT_EXIST, format!("{text} {e}"))
        }
    })?;
    service.check_expression_type(&subscription.data.expression_type)?;
    Ok(filter)
}

/// Reads once more for a pull that waited.
pub fn pull_again(broker: &Broker, pull: &Pull) -> Reply {
    let Pull { topic, queue_id, offset, limits, filter, counters, suggest } = pull;
    if broker.topics().get(topic).is_none() {
        let text = format!("topic[{topic}] not exist, apply first please!");
        return Command::refusal(response::TOPIC_NOT_EXIST, text).into();
    }
    let read = broker.pull(topic, *queue_id, *offset, limits, filter, counters);
    answer(read, *offset, suggest).into()
}

fn code_of(read: &Read, asked: i64) -> i32 {
    match read.status {
        ReadStatus::Found => response::SUCCESS,
        ReadStatus::NoMatchedMessage | ReadStatus::MessageWasRemoving => {
            response::PULL_RETRY_IMMEDIATELY
        }
        ReadStatus::OffsetOverflowOne => response::PULL_NOT_FOUND,
        ReadStatus::NoMessageInQueue if asked == 0 => response::PULL_NOT_FOUND,
        ReadStatus::NoMessageInQueue
        | ReadStatus::OffsetTooSmall
        | ReadStatus::OffsetOverflowBadly => response::PULL_OFFSET_MOVED,
    }
}

fn answer(read: Read, asked: i64, suggest: &Suggest) -> Command {
    let from = if read.far_behind { suggest.far_behind } else { suggest.keeps_up };
    let mut command = Command::new(code_of(&read, asked))
        .remark(read.status.name())
        .field("suggestWhichBrokerId", from)
        .field("nextBeginOffset", read.next)
        .field("minOffset", read.min)
        .field("maxOffset", read.max);
    if !read.records.is_empty() {
        command.body = Body::Records(read.records);
    }
    command
}
