//! Offsets (14, 15, 29 to 32); messages by key and by position (12, 33).

use std::sync::Arc;

use mq_store::os::map::Slice;

use super::{BrokerService, Failure};
use crate::conn::{Conn, Reply, Request};
use crate::wire::codes::response;
use crate::wire::command::{Body, Command};
use crate::wire::fields::header;

header! {
    struct OfGroup<'a> {
        group: &'a str = "consumerGroup",
        topic: &'a str = "topic",
        queue_id: i32 = "queueId",
        set_zero: bool = "setZeroIfNotFound" else true,
    }
}

/// Where a group goes on in a queue.
pub fn query_consumer_offset(
    service: &BrokerService,
    _: &Arc<Conn>,
    request: &Request<'_>,
) -> Result<Reply, Failure> {
    let h = OfGroup::of(&request.head.fields)?;
    let broker = &service.broker;
    let offset = match h.set_zero {
        true => broker.consumer_offset(h.group, h.topic, h.queue_id),
        false => broker.offsets().get(h.group, h.topic, h.queue_id),
    };
    offset.map(|offset| Command::ok().field("offset", offset).into()).ok_or_else(|| {
        let text = "Not found, V3_0_6_SNAPSHOT maybe this group consumer boot first";
        Failure::Code(response::QUERY_NOT_FOUND, text.into())
    })
}

header! {
    struct CommitHeader<'a> {
        group: &'a str = "consumerGroup",
        topic: &'a str = "topic",
        queue_id: i32 = "queueId",
        offset: i64 = "commitOffset",
    }
}

/// Commits an offset.
pub fn update_consumer_offset(
    service: &BrokerService,
    _: &Arc<Conn>,
    request: &Request<'_>,
) -> Result<Reply, Failure> {
    let h = CommitHeader::of(&request.head.fields)?;
    service.broker.offsets().commit(h.group, h.topic, h.queue_id, h.offset);
    Ok(Command::ok().into())
}

header! {
    struct OfQueue<'a> {
        topic: &'a str = "topic",
        queue_id: i32 = "queueId",
    }
}

pub fn max_offset(
    service: &BrokerService,
    _: &Arc<Conn>,
    request: &Request<'_>,
) -> Result<Reply, Failure> {
    let h = OfQueue::of(&request.head.fields)?;
    let offset = service.broker.store().max_offset(h.topic, h.queue_id);
    Ok(Command::ok().field("offset", offset).into())
}

pub fn min_offset(
    service: &BrokerService,
    _: &Arc<Conn>,
    request: &Request<'_>,
) -> Result<Reply, Failure> {
    let h = OfQueue::of(&request.head.fields)?;
    let offset = service.broker.store().min_offset(h.topic, h.queue_id);
    Ok(Command::ok().field("offset", offset).into())
}

header! {
    struct TimeHeader<'a> {
        topic: &'a str = "topic",
        queue_id: i32 = "queueId",
        timestamp: i64 = "timestamp",
    }
}

pub fn offset_by_time(
    service: &BrokerService,
    _: &Arc<Conn>,
    request: &Request<'_>,
) -> Result<Reply, Failure> {
    let h = TimeHeader::of(&request.head.fields)?;
    let offset = service.broker.store().offset_by_time(h.topic, h.queue_id, h.timestamp);
    Ok(Command::ok().field("offset", offset).into())
}

pub fn earliest_time(
    service: &BrokerService,
    _: &Arc<Conn>,
    request: &Request<'_>,
) -> Result<Reply, Failure> {
    let h = OfQueue::of(&request.head.fields)?;
    let store = service.broker.store();
    let first = store.min_offset(h.topic, h.queue_id);
    let time = store.store_time(h.topic, h.queue_id, first).unwrap_or(-1);
    Ok(Command::ok().field("timestamp", time).into())
}

header! {
    struct KeyHeader<'a> {
        topic: &'a str = "topic",
        key: &'a str = "key",
        max: i32 = "maxNum",
        begin: i64 = "beginTimestamp",
        end: i64 = "endTimestamp",
        is_unique: bool = "_UNIQUE_KEY_QUERY" else false,
    }
}

/// Messages with a key, or with a unique key.
pub fn by_key(
    service: &BrokerService,
    _: &Arc<Conn>,
    request: &Request<'_>,
) -> Result<Reply, Failure> {
    let h = KeyHeader::of(&request.head.fields)?;
    let tuning = service.tuning();
    let asked = match h.is_unique {
        true => tuning.max_found_unique,
        false => usize::try_from(h.max).unwrap_or(0),
    };
    let max = asked.min(tuning.max_found);
    let result = service.broker.store().query(h.topic, h.key, max, h.begin, h.end);
    let command = match result.records.is_empty() {
        true => Command::refusal(
            response::QUERY_NOT_FOUND,
            "can not find message, maybe time range not correct",
        ),
        false => records(result.records),
    };
    Ok(command
        .field("indexLastUpdateTimestamp", result.found.last_time)
        .field("indexLastUpdatePhyoffset", result.found.last_offset)
        .into())
}

header! {
    struct PositionHeader<'a> {
        offset: i64 = "offset",
    }
}

/// The message at a physical offset.
pub fn by_position(
    service: &BrokerService,
    _: &Arc<Conn>,
    request: &Request<'_>,
) -> Result<Reply, Failure> {
    let h = PositionHeader::of(&request.head.fields)?;
    let at = u64::try_from(h.offset).ok();
    let record = at.and_then(|at| service.broker.store().record_at(at));
    record.map(|record| records(vec![record]).into()).ok_or_else(|| {
        let text = format!("can not find message by the offset, {}", h.offset);
        Failure::Code(response::SYSTEM_ERROR, text)
    })
}

fn records(records: Vec<Slice>) -> Command {
    Command { body: Body::Records(records), ..Command::ok() }
}
