//! Messages: sending, reading, finding.

use std::fmt;
use std::time::{Duration, Instant};

use clap::Args;
use mq_broker::namesrv::table::QueueData;
use mq_broker::wire::codes::{request, response};
use mq_broker::wire::command::Command;
use mq_store::codec::ids::parse_offset_msg_id;
use mq_store::codec::properties::{self, name};
use mq_store::codec::record::Record;
use mq_store::store::as_record;
use serde::Deserialize;
use serde_json::{Value, json};

use super::cluster::{Error, Queue, Result, Session};
use super::topic::OneTopic;
use crate::caller::refused;
use crate::inspect::body::{self, Form};
use crate::inspect::line::Line;
use crate::inspect::output::{Cell, printable};
use crate::inspect::time::{self, local};

/// Messages of one pull at most.
const PULL: i32 = 32;

// ---- sending ----

/// A message to be sent.
#[derive(Clone, Copy, Default)]
pub struct Outgoing<'a> {
    pub topic: &'a str,
    pub body: &'a [u8],
    pub keys: Option<&'a str>,
    pub tags: Option<&'a str>,
}

/// Where a message came to stand.
pub struct Sent {
    status: &'static str,
    msg_id: String,
    offset_msg_id: String,
    queue_id: String,
    queue_offset: String,
}

impl fmt::Display for Sent {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(
            f,
            "SendResult [sendStatus={}, msgId={}, offsetMsgId={}, queueId={}, queueOffset={}]",
            self.status, self.msg_id, self.offset_msg_id, self.queue_id, self.queue_offset
        )
    }
}

/// An id that no other message has: process, time, and a count.
fn unique_key() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let now = jiff::Timestamp::now().as_nanosecond() as u64;
    let n = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("7F000001{:08X}{now:016X}", std::process::id().rotate_left(16) ^ n)
}

/// Sends to a queue; what the broker keeps but is not sure of is told by the status.
pub fn send(s: &mut Session, addr: &str, queue: i32, message: &Outgoing<'_>) -> Result<Sent> {
    let msg_id = unique_key();
    let mut text = format!("{}\x01{msg_id}\x02{}\x01true\x02", name::UNIQ_KEY, "WAIT");
    for (name, value) in [(name::KEYS, message.keys), (name::TAGS, message.tags)] {
        if let Some(value) = value {
            text += &format!("{name}\x01{value}\x02");
        }
    }
    let command = Command::new(request::SEND_MESSAGE_V2)
        .field("a", "mqadmin")
        .field("b", message.topic.to_owned())
        .field("c", "TBW102")
        .field("d", 4)
        .field("e", queue)
        .field("f", 0)
        .field("g", jiff::Timestamp::now().as_millisecond())
        .field("h", 0)
        .field("i", text)
        .field("j", 0)
        .field("k", false)
        .field("m", false)
        .body(message.body.to_vec());
    let answer = s.call(addr, &command)?;
    let status = match answer.code {
        response::SUCCESS => "SEND_OK",
        response::FLUSH_DISK_TIMEOUT => "FLUSH_DISK_TIMEOUT",
        response::SLAVE_NOT_AVAILABLE => "SLAVE_NOT_AVAILABLE",
        _ => return Err(refused(&command, answer).into()),
    };
    let field = |name: &str| answer.fields.get(name).cloned().unwrap_or_default();
    Ok(Sent {
        status,
        msg_id,
        offset_msg_id: field("msgId"),
        queue_id: field("queueId"),
        queue_offset: field("queueOffset"),
    })
}

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

#[derive(Args)]
pub struct Send {
    #[command(flatten)]
    of: OneTopic,
    /// The text to send.
    #[arg(short = 'p', long, value_name = "TEXT", allow_hyphen_values = true)]
    body: String,
    /// Keys, parted by blanks.
    #[arg(short, long = "key", value_name = "TEXT")]
    key: Option<String>,
    #[arg(short = 'c', long, value_name = "TAG")]
    tags: Option<String>,
    /// To this broker.
    #[arg(short, long = "broker", value_name = "NAME")]
    broker: Option<String>,
    /// To this queue of the broker.
    #[arg(short = 'i', long = "qid", value_name = "ID", requires = "broker")]
    queue: Option<i32>,
}

impl Send {
    pub fn run(self, s: &mut Session) -> Result {
        let wanted = |q: &Queue| {
            self.broker.as_ref().is_none_or(|b| *b == q.broker_name)
                && self.queue.is_none_or(|id| id == q.queue_id)
        };
        let mut all = queues(s, &self.of.topic, 2)?;
        all.retain(|(queue, _)| wanted(queue));
        let none = || Error::Failed("the topic has no such queue; try topicStatus".into());
        let any = jiff::Timestamp::now().subsec_nanosecond() as usize;
        let (queue, addr) = all.get(any % all.len().max(1)).ok_or_else(none)?;
        let message = Outgoing {
            topic: &self.of.topic,
            body: self.body.as_bytes(),
            keys: self.key.as_deref(),
            tags: self.tags.as_deref(),
        };
        let sent = send(s, addr, queue.queue_id, &message)?;
        s.out.table(&[
            ("brokerName", "#Broker Name"),
            ("queueId", ">#QID"),
            ("sendStatus", "#Send Result"),
            ("msgId", "#MsgId"),
        ])?;
        Ok(s.out.item([
            Cell::Text(queue.broker_name.clone()),
            Cell::Number(queue.queue_id.into()),
            Cell::Text(sent.status.into()),
            Cell::Text(sent.msg_id),
        ])?)
    }
}

#[derive(Args)]
pub struct CheckRt {
    #[command(flatten)]
    of: OneTopic,
    #[arg(short, long, default_value_t = 100, value_name = "N")]
    amount: usize,
    #[arg(short, long, default_value_t = 128, value_name = "BYTES")]
    size: usize,
}

impl CheckRt {
    /// How long sends take.
    pub fn run(self, s: &mut Session) -> Result {
        let queues = queues(s, &self.of.topic, 2)?;
        let body = vec![b'a'; self.size];
        s.out.table(&[
            ("brokerName", "#Broker Name"),
            ("queueId", ">#QID"),
            ("sendResult", "#Send Result"),
            ("rt", ">#RT"),
        ])?;
        let mut total = Duration::ZERO;
        for (n, (queue, addr)) in queues.iter().cycle().take(self.amount).enumerate() {
            let start = Instant::now();
            let message = Outgoing { topic: &self.of.topic, body: &body, ..Outgoing::default() };
            let good = send(s, addr, queue.queue_id, &message).is_ok();
            let took = start.elapsed();
            if n > 0 {
                total += took;
            }
            s.out.item([
                Cell::Text(queue.broker_name.clone()),
                Cell::Number(queue.queue_id.into()),
                Cell::Text(good.to_string()),
                Cell::number(took.as_millis()),
            ])?;
        }
        let counted = self.amount.saturating_sub(1).max(1) as f64;
        s.say(&format!("Avg RT: {:.2}", total.as_secs_f64() * 1000.0 / counted))
    }
}

// ---- showing ----

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

// ---- reading ----

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

/// Passes the messages of a queue to `each` until that says it has enough.
fn walk(
    s: &mut Session,
    (queue, addr): &(Queue, String),
    from: i64,
    tags: &str,
    mut each: impl FnMut(&mut Session, &Record<'_>) -> Result<bool>,
) -> Result {
    let mut at = from;
    loop {
        let pulled = pull(s, addr, queue, at, tags)?;
        for record in records(&pulled.body) {
            if !each(s, &record)? {
                return Ok(());
            }
        }
        if pulled.next <= at && pulled.body.is_empty() || pulled.next >= pulled.max {
            return Ok(());
        }
        at = pulled.next;
    }
}

fn offset_at(s: &mut Session, (queue, addr): &(Queue, String), time: Option<i64>) -> Result<i64> {
    let code =
        if time.is_some() { request::SEARCH_OFFSET_BY_TIMESTAMP } else { request::GET_MIN_OFFSET };
    let mut ask =
        Command::new(code).field("topic", queue.topic.clone()).field("queueId", queue.queue_id);
    if let Some(time) = time {
        ask = ask.field("timestamp", time);
    }
    let answer = s.ask(addr, &ask)?;
    let offset = answer.fields.get("offset").and_then(|o| o.parse().ok());
    offset.ok_or_else(|| Error::Failed(format!("{} brought no offset", request::name(code))))
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

#[derive(Args)]
pub struct Print {
    #[command(flatten)]
    of: OneTopic,
    /// Tags, as "a || b".
    #[arg(short = 's', long = "subExpression", default_value = "*", value_name = "TAGS")]
    tags: String,
    #[arg(short = 'd', long = "printBody", default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    body: bool,
    /// Taken for RocketMQ's sake; bodies that are no UTF-8 are shown in hex.
    #[arg(short = 'c', long = "charsetName", value_name = "NAME")]
    charset: Option<String>,
    #[command(flatten)]
    span: Span,
}

impl Print {
    pub fn run(self, s: &mut Session) -> Result {
        let _ = self.charset;
        for queue in queues(s, &self.of.topic, 4)? {
            self.queue(s, &queue)?;
        }
        Ok(())
    }

    fn queue(&self, s: &mut Session, queue: &(Queue, String)) -> Result {
        let from = offset_at(s, queue, self.span.begin)?;
        walk(s, queue, from, &self.tags, |s, r| {
            let is_in = self.span.end.is_none_or(|end| r.store_timestamp() <= end);
            if is_in {
                in_short(s, r, self.body)?;
            }
            Ok(is_in)
        })
    }
}

#[derive(Args)]
pub struct PrintQueue {
    #[command(flatten)]
    print: Print,
    #[arg(short = 'a', long = "brokerName", value_name = "NAME")]
    broker: String,
    #[arg(short = 'i', long = "queueId", value_name = "ID")]
    queue: i32,
    /// Show the messages.
    #[arg(short = 'p', long = "print", default_value_t = false, action = clap::ArgAction::Set, value_name = "BOOL")]
    show: bool,
    /// Count the tags.
    #[arg(short = 'f', long, default_value_t = false, action = clap::ArgAction::Set, value_name = "BOOL")]
    calculate: bool,
}

impl PrintQueue {
    pub fn run(self, s: &mut Session) -> Result {
        let queue = one_queue(s, &self.print.of.topic, &self.broker, self.queue)?;
        if self.show {
            self.print.queue(s, &queue)?;
        }
        if !self.calculate {
            return Ok(());
        }
        let mut counts = std::collections::BTreeMap::<String, i64>::new();
        let from = offset_at(s, &queue, self.print.span.begin)?;
        let end = self.print.span.end;
        walk(s, &queue, from, &self.print.tags, |_, r| {
            *counts.entry(r.property(name::TAGS).unwrap_or("NULL").to_owned()).or_default() += 1;
            Ok(end.is_none_or(|end| r.store_timestamp() <= end))
        })?;
        s.out.table(&[("tag", "#Tag"), ("count", ">#Count")])?;
        Ok(counts
            .into_iter()
            .try_for_each(|(t, n)| s.out.item([Cell::Text(t), Cell::Number(n)]))?)
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
pub struct Consume {
    #[command(flatten)]
    of: OneTopic,
    #[arg(short, long = "brokerName", value_name = "NAME")]
    broker: Option<String>,
    #[arg(short = 'i', long = "queueId", value_name = "ID", requires = "broker")]
    queue: Option<i32>,
    /// From this offset of the queue on.
    #[arg(short, long, value_name = "N", requires = "queue")]
    offset: Option<i64>,
    /// So many messages at most of each queue.
    #[arg(short = 'c', long = "MessageNumber", default_value_t = 128, value_name = "N")]
    count: i64,
    /// Taken for RocketMQ's sake; no offsets are committed.
    #[arg(short = 'g', long = "consumerGroup", value_name = "GROUP")]
    group: Option<String>,
    #[arg(short = 's', long = "beginTimestamp", value_name = "TIME", value_parser = time::parse)]
    begin: Option<i64>,
    #[arg(short = 'e', long = "endTimestamp", value_name = "TIME", value_parser = time::parse)]
    end: Option<i64>,
}

impl Consume {
    pub fn run(self, s: &mut Session) -> Result {
        let _ = self.group;
        let mut all = queues(s, &self.of.topic, 4)?;
        all.retain(|(q, _)| {
            self.broker.as_ref().is_none_or(|b| *b == q.broker_name)
                && self.queue.is_none_or(|id| id == q.queue_id)
        });
        for queue in all {
            let from = match self.offset {
                Some(offset) => offset,
                None => offset_at(s, &queue, self.begin)?,
            };
            let mut left = self.count;
            walk(s, &queue, from, "*", |s, r| {
                left -= 1;
                if left < 0 || self.end.is_some_and(|end| r.store_timestamp() > end) {
                    return Ok(false);
                }
                in_short(s, r, true)?;
                Ok(true)
            })?;
        }
        Ok(())
    }
}

// ---- finding ----

#[derive(Args)]
pub struct ById {
    /// The id that the broker gave.
    #[arg(short = 'i', long = "msgId", value_name = "ID")]
    id: String,
    #[command(flatten)]
    direct: Direct,
    /// Taken for RocketMQ's sake; the id tells where the message is.
    #[arg(short, long, value_name = "TOPIC")]
    topic: Option<String>,
}

/// A consumer that shall consume the message now.
#[derive(Args)]
pub struct Direct {
    /// Have a consumer of this group consume it now.
    #[arg(short = 'g', long = "consumerGroup", value_name = "GROUP", requires = "client")]
    group: Option<String>,
    /// The consumer.
    #[arg(short = 'd', long = "clientId", value_name = "ID", requires = "group")]
    client: Option<String>,
}

impl Direct {
    fn run(&self, s: &mut Session, addr: &str, r: &Record<'_>) -> Result {
        let (Some(group), Some(client)) = (&self.group, &self.client) else { return Ok(()) };
        let command = Command::new(request::CONSUME_MESSAGE_DIRECTLY)
            .field("consumerGroup", group.clone())
            .field("clientId", client.clone())
            .field("msgId", r.offset_msg_id());
        let result: Value = s.ask_for(addr, &command)?;
        if s.out.json {
            return Ok(s.out.object(&result)?);
        }
        s.say(&result.to_string())
    }
}

impl ById {
    pub fn run(self, s: &mut Session) -> Result {
        let bad = || {
            Error::Usage(format!(
                "{} is no id of a message's place; a unique key takes queryMsgByUniqueKey",
                self.id
            ))
        };
        let (addr, offset) = parse_offset_msg_id(&self.id).ok_or_else(bad)?;
        let addr = addr.to_string();
        let command = Command::new(request::VIEW_MESSAGE_BY_ID).field("offset", offset);
        let answer = s.ask(&addr, &command)?;
        for record in records(&answer.body) {
            in_full(s, &record)?;
            self.direct.run(s, &addr, &record)?;
        }
        Ok(())
    }
}

/// Messages of a topic by key, of all brokers, with their addresses.
fn find(
    s: &mut Session,
    topic: &str,
    (key, unique): (&str, bool),
    max: i32,
    span: (Option<i64>, Option<i64>),
) -> Result<Vec<(String, bytes::Bytes)>> {
    let mut found = Vec::new();
    for master in s.route(topic)?.masters() {
        let mut command = Command::new(request::QUERY_MESSAGE)
            .field("topic", topic.to_owned())
            .field("key", key.to_owned())
            .field("maxNum", max)
            .field("beginTimestamp", span.0.unwrap_or(0))
            .field("endTimestamp", span.1.unwrap_or(i64::MAX));
        if unique {
            command = command.field("_UNIQUE_KEY_QUERY", "true");
        }
        let answer = s.call(&master.addr, &command)?;
        match answer.code {
            response::SUCCESS => found.push((master.addr, answer.body)),
            response::QUERY_NOT_FOUND => {}
            _ => return Err(refused(&command, answer).into()),
        }
    }
    match found.is_empty() {
        true => Err(Error::Failed(format!("no message of {topic} has the key {key}"))),
        false => Ok(found),
    }
}

#[derive(Args)]
pub struct ByKey {
    #[command(flatten)]
    of: OneTopic,
    #[arg(short, long = "msgKey", value_name = "KEY")]
    key: String,
    #[arg(short = 'm', long = "maxNum", default_value_t = 64, value_name = "N")]
    max: i32,
    #[command(flatten)]
    span: Span,
}

impl ByKey {
    pub fn run(self, s: &mut Session) -> Result {
        let span = (self.span.begin, self.span.end);
        let found = find(s, &self.of.topic, (&self.key, false), self.max, span)?;
        s.out.table(&[
            ("msgId", "#Message ID"),
            ("queueId", ">#QID"),
            ("queueOffset", ">#Offset"),
        ])?;
        for (_, body) in &found {
            for r in records(body) {
                let id =
                    r.property(name::UNIQ_KEY).map_or_else(|| r.offset_msg_id(), str::to_owned);
                let cells = [
                    Cell::Text(id),
                    Cell::Number(r.queue_id().into()),
                    Cell::Number(r.queue_offset()),
                ];
                s.out.item(cells)?;
            }
        }
        Ok(())
    }
}

#[derive(Args)]
pub struct ByUniqueKey {
    #[command(flatten)]
    of: OneTopic,
    /// The id that the producer gave.
    #[arg(short = 'i', long = "msgId", value_name = "ID")]
    id: String,
    #[command(flatten)]
    direct: Direct,
    /// All with the id, the newest first.
    #[arg(short = 'a', long = "showAll")]
    all: bool,
}

impl ByUniqueKey {
    pub fn run(self, s: &mut Session) -> Result {
        let found = find(s, &self.of.topic, (&self.id, true), PULL, (None, None))?;
        for (addr, body) in &found {
            let mut messages = records(body);
            messages.sort_by_key(|r| std::cmp::Reverse(r.store_timestamp()));
            messages.truncate(if self.all { usize::MAX } else { 1 });
            for record in messages {
                in_full(s, &record)?;
                self.direct.run(s, addr, &record)?;
            }
        }
        Ok(())
    }
}

#[derive(Args)]
pub struct ByOffset {
    #[command(flatten)]
    of: OneTopic,
    #[arg(short, long = "brokerName", value_name = "NAME")]
    broker: String,
    #[arg(short = 'i', long = "queueId", value_name = "ID")]
    queue: i32,
    #[arg(short, long, value_name = "N")]
    offset: i64,
}

impl ByOffset {
    pub fn run(self, s: &mut Session) -> Result {
        let (queue, addr) = one_queue(s, &self.of.topic, &self.broker, self.queue)?;
        let pulled = pull(s, &addr, &queue, self.offset, "*")?;
        let there = records(&pulled.body).into_iter().find(|r| r.queue_offset() == self.offset);
        let none = || {
            Error::Failed(format!("nothing at {}; the queue ends at {}", self.offset, pulled.max))
        };
        in_full(s, &there.ok_or_else(none)?)
    }
}

#[derive(Args)]
pub struct Trace {
    /// The id that the producer gave.
    #[arg(short = 'i', long = "msgId", value_name = "ID")]
    id: String,
    #[arg(short, long = "traceTopic", default_value = "RMQ_SYS_TRACE_TOPIC", value_name = "TOPIC")]
    topic: String,
    #[arg(short = 'c', long = "maxNum", default_value_t = 64, value_name = "N")]
    max: i32,
    #[command(flatten)]
    span: Span,
}

impl Trace {
    /// What producers and consumers that trace told of a message.
    pub fn run(self, s: &mut Session) -> Result {
        let span = (self.span.begin, self.span.end);
        let found = find(s, &self.topic, (&self.id, false), self.max, span)?;
        s.out.table(&[
            ("type", "#Type"),
            ("group", "#Group"),
            ("clientHost", "#ClientHost"),
            ("time", "#Time"),
            ("costTime", "#CostTimes"),
            ("status", "#Status"),
        ])?;
        for (_, body) in &found {
            for r in records(body) {
                let Ok(plain) = body::plain(&r) else { continue };
                let text = String::from_utf8_lossy(&plain).into_owned();
                let host = r.born_host().ip().to_string();
                for event in events(&text).into_iter().filter(|e| e.msg_id == self.id) {
                    s.out.item([
                        Cell::Text(event.kind.into()),
                        Cell::Text(event.group.to_owned()),
                        Cell::Text(host.clone()),
                        Cell::Time(event.time),
                        Cell::Text(format!("{}ms", event.cost)),
                        Cell::Text(if event.good { "success" } else { "failed" }.into()),
                    ])?;
                }
            }
        }
        Ok(())
    }
}

struct Event<'a> {
    kind: &'static str,
    msg_id: &'a str,
    group: &'a str,
    time: Option<i64>,
    cost: &'a str,
    good: bool,
}

/// The events of a trace message: parted by 0x02, their fields by 0x01. When a consumer began
/// stands in an event of its own.
fn events(text: &str) -> Vec<Event<'_>> {
    let all: Vec<Vec<&str>> = text.split('\x02').map(|e| e.split('\x01').collect()).collect();
    let event = |f: &Vec<&'_ str>| -> Option<(usize, usize)> {
        match f.first().copied() {
            Some("Pub") if f.len() >= 13 => Some((5, 10)),
            Some("SubAfter") if f.len() >= 6 => Some((2, 3)),
            _ => None,
        }
    };
    let mut events = Vec::new();
    for f in &all {
        let Some((id, cost)) = event(f) else { continue };
        let is_pub = f[0] == "Pub";
        let began = all
            .iter()
            .find(|b| !is_pub && b.first() == Some(&"SubBefore") && b.len() >= 6 && b[4] == f[1]);
        let good = match is_pub {
            true => f.get(13).or(f.get(12)),
            false => f.get(4),
        };
        events.push(Event {
            kind: if is_pub { "Pub" } else { "Sub" },
            msg_id: f[id],
            group: if is_pub { f[3] } else { began.map_or("", |b| b[3]) },
            time: if is_pub { f[1].parse().ok() } else { began.and_then(|b| b[1].parse().ok()) },
            cost: f[cost],
            good: good.is_some_and(|g| *g == "true"),
        });
    }
    events
}

// ---- queues ----

#[derive(Args)]
pub struct QueryQueue {
    #[command(flatten)]
    of: OneTopic,
    #[arg(short, long, value_name = "ID")]
    queue: i32,
    /// From this offset on.
    #[arg(short, long, value_name = "N")]
    index: i64,
    #[arg(short = 'c', long, default_value_t = 10, value_name = "N")]
    count: i32,
    #[arg(short, long = "broker", value_name = "HOST:PORT")]
    broker: Option<String>,
    /// With what this group wants of it.
    #[arg(short = 'g', long = "consumer", value_name = "GROUP")]
    group: Option<String>,
}

impl QueryQueue {
    /// Units of a consume queue.
    pub fn run(self, s: &mut Session) -> Result {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        #[derive(Default)]
        struct Units {
            max_queue_index: i64,
            min_queue_index: i64,
            queue_data: Vec<Unit>,
            subscription_data: Option<Value>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Unit {
            physic_offset: i64,
            physic_size: i64,
            tags_code: i64,
            eval: bool,
        }
        let addr = match self.broker {
            Some(addr) => addr,
            None => {
                let masters = s.route(&self.of.topic)?.masters();
                let none = || Error::Failed(format!("no broker has {}", self.of.topic));
                masters.into_iter().next().ok_or_else(none)?.addr
            }
        };
        let mut ask = Command::new(request::QUERY_CONSUME_QUEUE)
            .field("topic", self.of.topic)
            .field("queueId", self.queue)
            .field("index", self.index)
            .field("count", self.count);
        if let Some(group) = self.group {
            ask = ask.field("consumerGroup", group);
        }
        let answer = s.ask(&addr, &ask)?;
        if answer.body.is_empty() {
            return Err(Error::Failed(answer.remark.unwrap_or_else(|| "nothing there".into())));
        }
        let units: Units = super::cluster::read(&ask, &answer.body)?;
        if !s.out.json {
            s.say(&format!("Queue data: {} to {}", units.min_queue_index, units.max_queue_index))?;
            if let Some(subscription) = units.subscription_data {
                s.say(&format!("Subscription data: {subscription}"))?;
            }
        }
        s.out.table(&[
            ("index", ">#Index"),
            ("physicOffset", ">#PhysicOffset"),
            ("physicSize", ">#PhysicSize"),
            ("tagsCode", ">#TagsCode"),
            ("eval", "#Eval"),
        ])?;
        for (n, unit) in units.queue_data.into_iter().enumerate() {
            s.out.item([
                Cell::Number(self.index + n as i64),
                Cell::Number(unit.physic_offset),
                Cell::Number(unit.physic_size),
                Cell::Number(unit.tags_code),
                Cell::Text(unit.eval.to_string()),
            ])?;
        }
        Ok(())
    }
}

#[derive(Args)]
pub struct Decode {
    #[arg(short = 'i', long = "messageId", required = true, num_args = 1.., value_name = "ID")]
    ids: Vec<String>,
}

impl Decode {
    /// Where the ids say that the messages are.
    pub fn run(self, s: &mut Session) -> Result {
        for id in self.ids {
            let (ip, offset) = parse_offset_msg_id(&id)
                .ok_or_else(|| Error::Usage(format!("{id} is no id of a message's place")))?;
            match s.out.json {
                true => s.out.object(
                    &json!({ "msgId": id, "storeHost": ip.to_string(), "offset": offset }),
                )?,
                false => s.out.line(&format!("ip={ip}\toffset={offset}"))?,
            }
        }
        Ok(())
    }
}
