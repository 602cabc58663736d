//! Messages: where they go and where they are, and how they look.

pub mod find;
pub mod queue;
pub mod read;
pub mod send;
pub mod trace;

use clap::Args;
use mq_broker::namesrv::table::QueueData;
use mq_broker::wire::codes::{request, response};
use mq_broker::wire::command::Command;
use mq_store::codec::properties::{self, name};
use mq_store::codec::record::Record;
use mq_store::store::as_record;

use super::cluster::{Error, Queue, Result, Session};
use crate::caller::refused;
use crate::inspect::body::{self, Form};
use crate::inspect::line::Line;
use crate::inspect::output::printable;
use crate::inspect::time::{self, local};

/// Messages of one pull at most.
const PULL: i32 = 32;

/// The queues of a topic that have all of some permission bits, with their brokers' addresses.
fn queues(s: &mut Session, topic: &str, perm: i32) -> Result<Vec<(Queue, String)>> {
    let route = s.route(topic)?;
    let masters = route.masters();
    let mut all = Vec::new();
    for q in route.queue_datas.iter().filter(|q| q.perm & perm == perm) {
        let Some(master) = masters.iter().find(|m| m.name == q.broker_name) else { continue };
        let count = |q: &QueueData| if perm == 2 { q.write_queue_nums } else { q.read_queue_nums };
        all.extend((0..count(q)).map(|queue_id| {
            let broker_name = q.broker_name.clone();
            (Queue { topic: topic.to_owned(), broker_name, queue_id }, master.addr.clone())
        }));
    }
    all.sort();
    match all.is_empty() {
        true => Err(Error::Failed(format!("topic {topic} has no queue with permission {perm}"))),
        false => Ok(all),
    }
}

fn one_queue(s: &mut Session, topic: &str, broker: &str, id: i32) -> Result<(Queue, String)> {
    let found =
        queues(s, topic, 4)?.into_iter().find(|(q, _)| q.broker_name == broker && q.queue_id == id);
    found.ok_or_else(|| {
        Error::Failed(format!("topic {topic} has no queue {id} on {broker}; try topicStatus"))
    })
}

#[derive(Args)]
pub struct Span {
    /// Stored then or later: milliseconds, "10m ago", or an ISO time.
    #[arg(short = 'b', long = "beginTimestamp", value_name = "TIME", value_parser = time::parse)]
    begin: Option<i64>,
    /// Stored then or before.
    #[arg(short = 'e', long = "endTimestamp", value_name = "TIME", value_parser = time::parse)]
    end: Option<i64>,
}

fn records(mut bytes: &[u8]) -> Vec<Record<'_>> {
    let mut all = Vec::new();
    while let Some((len, _)) = bytes.split_first_chunk() {
        let Some((one, rest)) = bytes.split_at_checked(u32::from_be_bytes(*len) as usize) else {
            break;
        };
        let Some(record) = as_record(one) else { break };
        all.push(record);
        bytes = rest;
    }
    all
}

fn text(r: &Record<'_>) -> String {
    match body::plain(r) {
        Ok(plain) => body::show(&plain, Form::Auto).1,
        Err(e) => format!("({e})"),
    }
}

/// A message in full.
fn in_full(s: &mut Session, r: &Record<'_>) -> Result {
    let line = Line::of(r, s.out.json);
    if s.out.json {
        return Ok(s.out.object(&line)?);
    }
    let properties: Vec<_> =
        properties::pairs(r.properties()).map(|(k, v)| format!("{k}={v}")).collect();
    for (title, value) in [
        ("OffsetID:", line.offset_msg_id.clone()),
        ("Topic:", r.topic().to_owned()),
        ("Tags:", format!("[{}]", line.tags.unwrap_or("null"))),
        ("Keys:", format!("[{}]", line.keys.unwrap_or("null"))),
        ("Queue ID:", r.queue_id().to_string()),
        ("Queue Offset:", r.queue_offset().to_string()),
        ("CommitLog Offset:", r.physical_offset().to_string()),
        ("Reconsume Times:", r.reconsume_times().to_string()),
        ("Born Timestamp:", local(r.born_timestamp())),
        ("Store Timestamp:", local(r.store_timestamp())),
        ("Born Host:", r.born_host().to_string()),
        ("Store Host:", r.store_host().to_string()),
        ("System Flag:", r.sys_flag().to_string()),
        ("Properties:", format!("{{{}}}", properties.join(", "))),
        ("Message Body:", text(r)),
    ] {
        s.out.line(&format!("{title:<21}{}", printable(&value)))?;
    }
    Ok(())
}

/// A message on a line.
fn in_short(s: &mut Session, r: &Record<'_>, with_body: bool) -> Result {
    if s.out.json {
        return Ok(s.out.object(&Line::of(r, with_body))?);
    }
    let id = r.property(name::UNIQ_KEY).map_or_else(|| r.offset_msg_id(), str::to_owned);
    let body = if with_body { format!(" BODY: {}", text(r)) } else { String::new() };
    let line = format!(
        "MSGID: {id} QID: {} OFFSET: {} STORED: {} TAGS: {} KEYS: {}{body}",
        r.queue_id(),
        r.queue_offset(),
        local(r.store_timestamp()),
        r.property(name::TAGS).unwrap_or_default(),
        r.property(name::KEYS).unwrap_or_default(),
    );
    Ok(s.out.line(&printable(&line))?)
}

struct Pulled {
    next: i64,
    max: i64,
    body: bytes::Bytes,
}

fn pull(s: &mut Session, addr: &str, queue: &Queue, offset: i64, tags: &str) -> Result<Pulled> {
    let command = Command::new(request::PULL_MESSAGE)
        .field("consumerGroup", "TOOLS_CONSUMER")
        .field("topic", queue.topic.clone())
        .field("queueId", queue.queue_id)
        .field("queueOffset", offset)
        .field("maxMsgNums", PULL)
        .field("sysFlag", 4)
        .field("commitOffset", 0)
        .field("suspendTimeoutMillis", 0)
        .field("subscription", tags.to_owned())
        .field("subVersion", 0)
        .field("expressionType", "TAG");
    let answer = s.call(addr, &command)?;
    match answer.code {
        response::SUCCESS
        | response::PULL_NOT_FOUND
        | response::PULL_RETRY_IMMEDIATELY
        | response::PULL_OFFSET_MOVED => {
            let number = |name: &str| answer.fields.get(name).and_then(|v| v.parse().ok());
            Ok(Pulled {
                next: number("nextBeginOffset").unwrap_or(offset),
                max: number("maxOffset").unwrap_or(offset),
                body: answer.body,
            })
        }
        _ => Err(refused(&command, answer).into()),
    }
}
