//! Reading queues from a place or a time on.

use clap::Args;
use mq_broker::wire::codes::request;
use mq_broker::wire::command::Command;
use mq_store::codec::properties::name;
use mq_store::codec::record::Record;

use super::{Span, in_short, one_queue, pull, queues, records};
use crate::admin::cluster::{Error, Queue, Result, Session};
use crate::admin::topic::OneTopic;
use crate::inspect::output::Cell;
use crate::inspect::time;

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
