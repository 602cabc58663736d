//! What is asked once: routes, topics, offsets.

use std::time::{Duration, Instant};

use mq_broker::wire::codes::{request, response};
use mq_broker::wire::command::Command;
use mq_broker::wire::frame::Encoding;
use serde_json::{Value, json};

use super::cli::Common;
use super::error::{Error, Result};
use super::request::{once, run_number};
use mq_tools::caller::{Caller, refused};

/// A broker or name server that is asked.
#[derive(Debug)]
pub struct Admin(Caller);

impl Admin {
    fn connect(common: &Common, addr: &str) -> Result<Admin> {
        Ok(Admin(Caller::connect(addr, common.timeout, &common.security()?)?))
    }

    /// "host:port"
    pub fn addr(&self) -> &str {
        &self.0.addr
    }

    /// How many queues a topic has here. One that is not here is created, if it `may_be_new`.
    pub fn queues(&mut self, common: &Common, topic: &str, may_be_new: bool) -> Result<u32> {
        let ask = Command::new(request::GET_TOPIC_CONFIG).field("topic", topic.to_owned());
        let answer = self.0.call(&ask)?;
        let config: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        match (answer.code, config["readQueueNums"].as_u64()) {
            (response::SUCCESS, Some(queues)) => Ok(queues as u32),
            _ if may_be_new => create(common, topic, self),
            _ => Err(refused(&ask, answer).into()),
        }
    }

    /// A queue's first offset ([`request::GET_MIN_OFFSET`]) or next one
    /// ([`request::GET_MAX_OFFSET`]).
    pub fn offset(&mut self, code: i32, topic: &str, queue: u32) -> Result<i64> {
        let command = Command::new(code).field("topic", topic.to_owned()).field("queueId", queue);
        let answer = self.0.ask(&command)?;
        let offset = answer.fields.get("offset").and_then(|v| v.parse().ok());
        offset.ok_or_else(|| Error::Unusable(format!("{} brought no offset", request::name(code))))
    }

    /// The next offset of every queue.
    pub fn ends(&mut self, topic: &str, queues: u32) -> Result<Vec<i64>> {
        (0..queues).map(|q| self.offset(request::GET_MAX_OFFSET, topic, q)).collect()
    }

    /// The next offsets once they have stopped moving.
    pub fn settled_ends(&mut self, topic: &str, queues: u32) -> Result<Vec<i64>> {
        let mut ends = self.ends(topic, queues)?;
        loop {
            std::thread::sleep(Duration::from_millis(500));
            let now = self.ends(topic, queues)?;
            if now == ends {
                return Ok(ends);
            }
            ends = now;
        }
    }
}

/// The broker to load, and how many queues the topic has there.
#[derive(Debug)]
pub struct Target {
    pub admin: Admin,
    pub queues: u32,
}

/// Finds the broker of the topic. A topic that nobody knows is created, if it `may_be_new`.
pub fn find(common: &Common, may_be_new: bool) -> Result<Target> {
    let until = Instant::now() + common.wait;
    loop {
        let found = match &common.broker {
            Some(addr) => at_broker(common, addr, may_be_new),
            None => by_route(common, may_be_new),
        };
        match found {
            Err(_) if Instant::now() < until => std::thread::sleep(Duration::from_millis(5)),
            found => return found,
        }
    }
}

fn at_broker(common: &Common, addr: &str, may_be_new: bool) -> Result<Target> {
    let mut admin = Admin::connect(common, addr)?;
    let queues = admin.queues(common, &common.topic, may_be_new)?;
    Ok(Target { admin, queues })
}

fn by_route(common: &Common, may_be_new: bool) -> Result<Target> {
    let mut namesrv = Admin::connect(common, &common.namesrv)?;
    let mut route = |topic: &str| -> Result<Value> {
        let ask = Command::new(request::GET_ROUTEINFO_BY_TOPIC)
            .field("topic", topic.to_owned())
            .field("acceptStandardJsonOnly", true);
        let answer = namesrv.0.call(&ask)?;
        match answer.code {
            response::SUCCESS => Ok(serde_json::from_slice(&answer.body).unwrap_or_default()),
            response::TOPIC_NOT_EXIST => Ok(Value::Null),
            _ => Err(refused(&ask, answer).into()),
        }
    };
    let unusable = |why: &str| Error::Unusable(format!("topic {}: {why}", common.topic));
    let master =
        |route: &Value| route["brokerDatas"][0]["brokerAddrs"]["0"].as_str().map(str::to_owned);
    let known: Value = route(&common.topic)?;
    if known.is_null() && may_be_new {
        // Any broker that creates topics is known by this one.
        let addr = master(&route("TBW102")?)
            .ok_or_else(|| unusable("nobody knows it; name a --broker to create it"))?;
        let mut admin = Admin::connect(common, &addr)?;
        let queues = create(common, &common.topic, &mut admin)?;
        return Ok(Target { admin, queues });
    }
    let addr = master(&known).ok_or_else(|| unusable("no broker has it"))?;
    let name = &known["brokerDatas"][0]["brokerName"];
    let of_broker = known["queueDatas"].as_array().into_iter().flatten();
    let queues = of_broker
        .filter(|q| q["brokerName"] == *name)
        .find_map(|q| {
            q["writeQueueNums"].as_u64()?.min(q["readQueueNums"].as_u64()?).try_into().ok()
        })
        .filter(|queues| *queues > 0)
        .ok_or_else(|| unusable("it has no queues"))?;
    Ok(Target { admin: Admin::connect(common, &addr)?, queues })
}

fn create(common: &Common, topic: &str, admin: &mut Admin) -> Result<u32> {
    let command = Command::new(request::UPDATE_AND_CREATE_TOPIC)
        .field("topic", topic.to_owned())
        .field("defaultTopic", "TBW102")
        .field("readQueueNums", common.queues)
        .field("writeQueueNums", common.queues)
        .field("perm", 6)
        .field("topicFilterType", "SINGLE_TAG")
        .field("topicSysFlag", 0)
        .field("order", false);
    admin.0.ask(&command)?;
    Ok(common.queues)
}

/// A heartbeat of a member of the consumer group, with an opaque of no account.
pub fn heartbeat(common: &Common) -> Vec<u8> {
    let subscription = json!({
        "classFilterMode": false, "codeSet": [], "expressionType": "TAG", "subString": "*",
        "subVersion": 0, "tagsSet": [], "topic": common.topic,
    });
    let group = json!({
        "consumeFromWhere": "CONSUME_FROM_FIRST_OFFSET", "consumeType": "CONSUME_ACTIVELY",
        "groupName": common.group, "messageModel": "CLUSTERING",
        "subscriptionDataSet": [subscription], "unitMode": false,
    });
    let body = json!({
        "clientID": format!("mq-bench@{:x}", run_number()), "consumerDataSet": [group], "producerDataSet": [],
    });
    once(common, Command::new(request::HEART_BEAT).json(&body), false, Encoding::Json)
}
