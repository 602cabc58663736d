//! Giving messages: pulls, and how far groups are.

use std::sync::Arc;
use std::time::Instant;

use super::filter::Filter;
use super::groups::GroupConfig;
use super::stats::GroupCounters;
use super::topics::perm;
use super::{Broker, Refusal, names};
use crate::codec::record::Record;
use crate::store::{Look, Read, ReadLimits};

impl Broker {
    /// A group's settings; it is made if it is not there and may be.
    pub fn group(&self, name: &str) -> Result<Arc<GroupConfig>, Refusal> {
        if let Some(group) = self.groups.get(name) {
            return Ok(group);
        }
        if !self.config().auto_create_group {
            return Err(Refusal::NoGroup(name.into()));
        }
        names::check_group(name).map_err(Refusal::Invalid)?;
        Ok(self.groups.put(GroupConfig::new(name), self.now_ms()))
    }

    /// Whether a group may pull from a queue: broker, group, topic and queue allow it.
    pub fn check_pull(&self, group: &str, topic: &str, queue_id: i32) -> Result<(), Refusal> {
        if self.config().permission & perm::READ == 0 {
            let text = "the broker gives no messages (brokerPermission)".into();
            return Err(Refusal::NoPermission(text));
        }
        if !self.group(group)?.consume_enable {
            let text = format!("subscription group no permission, {group} (consumeEnable)");
            return Err(Refusal::NoPermission(text));
        }
        if !self.groups.may_read(group, topic) {
            let text = format!("the consumer group[{group}] is forbidden for topic[{topic}]");
            return Err(Refusal::NoPermission(text));
        }
        let config = self.topics.get(topic).ok_or_else(|| Refusal::NoTopic(topic.into()))?;
        if !config.is_readable() {
            let text = format!("the topic[{topic}] pulling message is forbidden");
            return Err(Refusal::NoPermission(text));
        }
        if queue_id < 0 || queue_id >= config.read_queue_nums {
            return Err(Refusal::Invalid(format!(
                "queueId[{queue_id}] is illegal, topic:[{topic}] topicConfig.readQueueNums:[{}]",
                config.read_queue_nums
            )));
        }
        Ok(())
    }

    /// Messages of a queue from `offset` on, counted for a group. Records come as slices of the
    /// mapped log.
    pub fn pull(
        &self,
        topic: &str,
        queue_id: i32,
        offset: i64,
        limits: &ReadLimits,
        filter: &Filter,
        counters: &GroupCounters,
    ) -> Read {
        let start = Instant::now();
        let by_tag = |code| filter.wants(code);
        let by_properties = |record: &Record<'_>| filter.wants_properties(record.properties());
        let look = matches!(filter, Filter::Sql(_)).then_some(&by_properties as &Look);
        let read = self.store.read_filtered(topic, queue_id, offset, limits, by_tag, look);
        let (messages, bytes) = (read.records.len() as u64, read.bytes as u64);
        self.stats.get(counters, messages, bytes, start.elapsed());
        read
    }

    /// Where a group goes on in a queue. A group that never was here begins at 0 if the queue's
    /// first message is still near its end (or none is there yet), as with RocketMQ; else
    /// `None`, and the consumer decides.
    pub fn consumer_offset(&self, group: &str, topic: &str, queue_id: i32) -> Option<i64> {
        if let Some(offset) = self.offsets.get(group, topic, queue_id) {
            return Some(offset);
        }
        let Some(queue) = self.store.queues().get(topic, queue_id) else { return Some(0) };
        if queue.min_offset() > 0 {
            return None;
        }
        let first = queue.get(0).map_or(u64::MAX, |unit| unit.offset);
        let behind = self.store.log().end().saturating_sub(first);
        (behind <= self.config().in_memory).then_some(0)
    }
}
