//! Where groups go on.

use clap::Args;
use mq_broker::wire::codes::{request, response};
use mq_broker::wire::command::Command;
use serde_json::Value;

use super::cluster::{Queue, Result, Session, by_queue};
use super::group::{OneGroup, progress};
use super::topic::OneTopic;
use crate::inspect::output::Cell;
use crate::inspect::time;

/// A time as RocketMQ's tools take it, or as ours do; -1 is behind everything.
fn point(text: &str) -> std::result::Result<i64, String> {
    if text == "now" || text == "currentTimeMillis" {
        return time::parse("now");
    }
    // 2026-11-23#21:03:45:586
    match text.split_once('#') {
        Some((day, clock)) => {
            let mut parts: Vec<&str> = clock.split(':').collect();
            let ms = if parts.len() == 4 { parts.pop() } else { None };
            let seconds = parts.join(":");
            time::parse(&format!(
                "{day}T{seconds}{}",
                ms.map(|ms| format!(".{ms}")).unwrap_or_default()
            ))
        }
        None => time::parse(text),
    }
}

#[derive(Args)]
pub struct Reset {
    #[command(flatten)]
    of: OneGroup,
    #[command(flatten)]
    topic: OneTopic,
    /// now, milliseconds since 1970, 2026-11-23#21:03:45:586, "10m ago", or an ISO time.
    #[arg(short = 's', long, value_name = "TIME", value_parser = point, allow_hyphen_values = true)]
    timestamp: i64,
    /// Forward too: skip what was not consumed yet.
    #[arg(short = 'f', long, default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    force: bool,
}

impl Reset {
    pub fn run(self, s: &mut Session) -> Result {
        reset(s, &self.of.group, &self.topic.topic, self.timestamp, self.force)
    }
}

#[derive(Args)]
pub struct Skip {
    #[command(flatten)]
    of: OneGroup,
    #[command(flatten)]
    topic: OneTopic,
    #[arg(short = 'f', long, default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    force: bool,
}

impl Skip {
    /// Goes on behind all there is.
    pub fn run(self, s: &mut Session) -> Result {
        reset(s, &self.of.group, &self.topic.topic, -1, self.force)
    }
}

/// Has the group's consumers go on at a time; where none is, changes the offsets themselves.
fn reset(s: &mut Session, group: &str, topic: &str, timestamp: i64, force: bool) -> Result {
    let mut rows: Vec<(Queue, i64)> = Vec::new();
    for master in s.route(topic)?.masters() {
        let command = Command::new(request::INVOKE_BROKER_TO_RESET_OFFSET)
            .field("topic", topic.to_owned())
            .field("group", group.to_owned())
            .field("timestamp", timestamp)
            .field("isForce", force);
        match s.ask_for::<Value>(&master.addr, &command) {
            Ok(answer) => rows.extend(by_queue(&answer["offsetTable"])),
            Err(e) if e.code() == Some(response::CONSUMER_NOT_ONLINE) => {
                rows.extend(reset_offline(s, &master.addr, group, topic, timestamp, force)?);
            }
            Err(e) => return Err(e),
        }
    }
    s.out.table(&[
        ("brokerName", "#brokerName"),
        ("queueId", ">#queueId"),
        ("offset", ">#offset"),
    ])?;
    for (queue, offset) in rows {
        s.out.item([
            Cell::Text(queue.broker_name),
            Cell::Number(queue.queue_id.into()),
            Cell::Number(offset),
        ])?;
    }
    Ok(())
}

fn reset_offline(
    s: &mut Session,
    addr: &str,
    group: &str,
    topic: &str,
    timestamp: i64,
    force: bool,
) -> Result<Vec<(Queue, i64)>> {
    let mut rows = Vec::new();
    for (queue, now_at) in progress(s, addr, group, Some(topic))?.queues {
        let target = match timestamp {
            ..0 => now_at.broker_offset,
            time => {
                let ask = Command::new(request::SEARCH_OFFSET_BY_TIMESTAMP)
                    .field("topic", topic.to_owned())
                    .field("queueId", queue.queue_id)
                    .field("timestamp", time);
                let answer = s.ask(addr, &ask)?;
                answer.fields.get("offset").and_then(|o| o.parse().ok()).unwrap_or(0)
            }
        };
        if !force && target > now_at.consumer_offset {
            rows.push((queue, now_at.consumer_offset));
            continue;
        }
        let commit = Command::new(request::UPDATE_CONSUMER_OFFSET)
            .field("consumerGroup", group.to_owned())
            .field("topic", topic.to_owned())
            .field("queueId", queue.queue_id)
            .field("commitOffset", target);
        s.ask(addr, &commit)?;
        rows.push((queue, target));
    }
    Ok(rows)
}

#[derive(Args)]
pub struct Clone {
    #[arg(short = 's', long = "srcGroup", value_name = "GROUP")]
    from: String,
    #[arg(short = 'd', long = "destGroup", value_name = "GROUP")]
    to: String,
    #[command(flatten)]
    topic: OneTopic,
    /// Taken for RocketMQ's sake: it is always done on the broker.
    #[arg(short = 'o', long, value_name = "BOOL")]
    offline: Option<bool>,
}

impl Clone {
    pub fn run(self, s: &mut Session) -> Result {
        for master in s.route(&self.topic.topic)?.masters() {
            let command = Command::new(request::CLONE_GROUP_OFFSET)
                .field("srcGroup", self.from.clone())
                .field("destGroup", self.to.clone())
                .field("topic", self.topic.topic.clone())
                .field("offline", self.offline.unwrap_or(false));
            s.ask(&master.addr, &command)?;
        }
        s.say(&format!(
            "clone group offset success. srcGroup[{}], destGroup=[{}], topic[{}]",
            self.from, self.to, self.topic.topic
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_both_kinds() {
        assert_eq!(point("-1"), Ok(-1));
        assert_eq!(point("2026-11-23#21:03:45:586"), time::parse("2026-11-23T21:03:45.586"));
        assert_eq!(point("2026-11-23#21:03:45"), time::parse("2026-11-23T21:03:45"));
        assert!(point("now").is_ok() && point("yesterday").is_err());
    }
}
