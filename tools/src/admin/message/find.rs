//! Finding messages by place, key and id.

use clap::Args;
use mq_broker::wire::codes::{request, response};
use mq_broker::wire::command::Command;
use mq_store::codec::ids::parse_offset_msg_id;
use mq_store::codec::properties::name;
use mq_store::codec::record::Record;
use serde_json::{Value, json};

use super::{PULL, Span, in_full, one_queue, pull, records};
use crate::admin::cluster::{Error, Result, Session};
use crate::admin::topic::OneTopic;
use crate::caller::refused;
use crate::inspect::output::Cell;

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
pub(super) fn find(
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
