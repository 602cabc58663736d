//! Sending, and how long it takes.

use std::fmt;
use std::time::{Duration, Instant};

use clap::Args;
use mq_broker::wire::codes::{request, response};
use mq_broker::wire::command::Command;
use mq_store::codec::properties::name;

use super::queues;
use crate::admin::cluster::{Error, Queue, Result, Session};
use crate::admin::topic::OneTopic;
use crate::caller::refused;
use crate::inspect::output::Cell;

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
