//! Messages to a running broker, one at a time.

use std::collections::BTreeMap;
use std::time::Duration;

use mq_broker::conn::Response;
use mq_broker::wire::client::{Client, Security};
use mq_broker::wire::codes::{request, response};
use mq_broker::wire::command::Command;
use mq_store::codec::record::{Message, sys_flag};
use serde_json::Value;

use super::Failure;

const TIMEOUT: Duration = Duration::from_secs(10);
/// Tries with a broker that says it is busy, and the wait between two.
const TRIES: u32 = 50;
const WAIT: Duration = Duration::from_millis(200);

/// A connection to a broker.
pub struct Sender {
    runtime: tokio::runtime::Runtime,
    client: Client,
    address: String,
    /// Queues of the topics so far.
    topics: BTreeMap<String, i32>,
}

impl Sender {
    pub fn connect(address: &str, security: &Security) -> Result<Sender, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let client = runtime
            .block_on(Client::connect_with(address, TIMEOUT, security))
            .map_err(|e| Failure::Broker(address.to_owned(), e.to_string()))?;
        Ok(Sender { runtime, client, address: address.to_owned(), topics: BTreeMap::new() })
    }

    fn call(&mut self, command: &Command) -> Result<Response, Failure> {
        let answer = self.runtime.block_on(self.client.call(command, TIMEOUT));
        answer.map_err(|e| Failure::Broker(self.address.clone(), e.to_string()))
    }

    /// Sends a message into its queue, and waits until it is stored. Where it was born, and
    /// whether it was part of a transaction, cannot be said on the wire.
    pub fn send(&mut self, message: &Message<'_>) -> Result<(), Failure> {
        self.ready(message.topic, message.queue_id)?;
        let text = std::str::from_utf8(message.properties)
            .map_err(|e| Failure::Line(format!("properties: {e}")))?;
        let of_hosts = sys_flag::BORN_HOST_V6 | sys_flag::STORE_HOST_V6;
        let command = Command::new(request::SEND_MESSAGE)
            .field("producerGroup", "mq-store-inspect")
            .field("topic", message.topic.to_owned())
            .field("defaultTopic", "TBW102")
            .field("defaultTopicQueueNums", 4)
            .field("queueId", message.queue_id)
            .field("sysFlag", message.sys_flag & !(sys_flag::TRANSACTION | of_hosts))
            .field("bornTimestamp", message.born_timestamp)
            .field("flag", message.flag)
            .field("properties", text.to_owned())
            .field("reconsumeTimes", message.reconsume_times)
            .field("unitMode", false)
            .field("batch", false)
            .body(message.body.to_vec());
        for _ in 0..TRIES {
            let answer = self.call(&command)?;
            match answer.code {
                // The last three are stored too, and late elsewhere.
                response::SUCCESS | response::FLUSH_DISK_TIMEOUT | 11 | 12 => return Ok(()),
                response::SYSTEM_BUSY => std::thread::sleep(WAIT),
                _ => return Err(refused(&answer)),
            }
        }
        Err(Failure::Broker(self.address.clone(), "it stays busy".into()))
    }

    /// Makes the topic, or gives it more queues, if the broker has not so many.
    fn ready(&mut self, topic: &str, queue_id: i32) -> Result<(), Failure> {
        if self.topics.get(topic).is_some_and(|queues| queue_id < *queues) {
            return Ok(());
        }
        let ask = Command::new(request::GET_TOPIC_CONFIG).field("topic", topic.to_owned());
        let answer = self.call(&ask)?;
        let config: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let number = |name: &str| config[name].as_i64().and_then(|n| i32::try_from(n).ok());
        let (read, write) = match answer.code {
            response::SUCCESS => (number("readQueueNums"), number("writeQueueNums")),
            _ => (None, None),
        };
        let (read, write) = (read.unwrap_or(0), write.unwrap_or(0));
        let wanted = queue_id.saturating_add(1);
        if write < wanted {
            let make = Command::new(request::UPDATE_AND_CREATE_TOPIC)
                .field("topic", topic.to_owned())
                .field("defaultTopic", "TBW102")
                .field("readQueueNums", read.max(wanted))
                .field("writeQueueNums", wanted)
                .field("perm", number("perm").unwrap_or(6))
                .field("topicFilterType", "SINGLE_TAG")
                .field("topicSysFlag", number("topicSysFlag").unwrap_or(0))
                .field("order", config["order"].as_bool().unwrap_or(false));
            let answer = self.call(&make)?;
            if answer.code != response::SUCCESS {
                return Err(refused(&answer));
            }
        }
        self.topics.insert(topic.to_owned(), write.max(wanted));
        Ok(())
    }
}

fn refused(answer: &Response) -> Failure {
    let why = answer.remark.as_deref().unwrap_or_else(|| response::name(answer.code));
    Failure::Line(format!("refused with {}: {why}", answer.code))
}
