//! The units of consume queues.

use clap::Args;
use mq_broker::wire::codes::request;
use mq_broker::wire::command::Command;
use serde::Deserialize;
use serde_json::Value;

use crate::admin::cluster::{Error, Result, Session};
use crate::admin::topic::OneTopic;
use crate::inspect::output::Cell;

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
        let units: Units = crate::admin::cluster::read(&ask, &answer.body)?;
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
