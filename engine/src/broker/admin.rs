//! Setting up topics and groups, and looking at how they do.

use super::groups::GroupConfig;
use super::names::{self, RETRY_PREFIX};
use super::topics::TopicConfig;
use super::{Broker, Refusal};
use crate::error::Result;

/// How a queue of a topic stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueStats {
    pub queue_id: i32,
    pub min_offset: u64,
    pub max_offset: u64,
    /// Store time of the last message, ms; 0 if there is none.
    pub last_time: i64,
}

/// How a group stands in a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumeStats {
    pub topic: String,
    pub queue_id: i32,
    pub broker_offset: u64,
    pub consumer_offset: i64,
    /// Store time of the last consumed message, ms; 0 if there is none.
    pub last_time: i64,
}

impl Broker {
    /// Makes a topic, or gives it other settings; saved when this returns.
    pub fn update_topic(&self, topic: TopicConfig) -> Result<(), Refusal> {
        names::check_topic(&topic.topic_name).map_err(Refusal::Invalid)?;
        self.refuse_system_topic(&topic.topic_name)?;
        for queues in [topic.read_queue_nums, topic.write_queue_nums] {
            if !(0..=names::MAX_QUEUES).contains(&queues) {
                let max = names::MAX_QUEUES;
                let text = format!("{queues} queues, where 0 to {max} are allowed");
                return Err(Refusal::Invalid(text));
            }
        }
        self.put_topic(topic);
        Ok(self.topics.save()?)
    }

    /// Deletes a topic with its queues and the offsets of all groups in it. Its records stay in
    /// the log until that is deleted.
    pub fn delete_topic(&self, topic: &str) -> Result<(), Refusal> {
        if topic.trim().is_empty() {
            return Err(Refusal::Invalid("The specified topic is blank.".into()));
        }
        self.refuse_system_topic(topic)?;
        let removed = self.topics.remove(topic, self.now_ms());
        if removed.is_some()
            && let Some(changed) = self.on_topics_changed.get()
        {
            changed();
        }
        self.offsets.remove_topic(topic);
        self.topics.save()?;
        self.store.delete_topic(topic)?;
        Ok(self.offsets.save()?)
    }

    fn refuse_system_topic(&self, topic: &str) -> Result<(), Refusal> {
        if names::is_system_topic(topic, &self.config) {
            let text = format!("The topic[{topic}] is conflict with system topic.");
            return Err(Refusal::Invalid(text));
        }
        Ok(())
    }

    /// Makes a group, or gives it other settings; saved when this returns.
    pub fn update_group(&self, group: GroupConfig) -> Result<(), Refusal> {
        names::check_group(&group.group_name).map_err(Refusal::Invalid)?;
        self.groups.put(group, self.now_ms());
        Ok(self.groups.save()?)
    }

    /// Deletes a group, and its offsets if so wished.
    pub fn delete_group(&self, group: &str, with_offsets: bool) -> Result<(), Refusal> {
        self.groups.remove(group, self.now_ms());
        self.groups.save()?;
        if with_offsets {
            self.offsets.remove_group(group);
            self.offsets.save()?;
        }
        Ok(())
    }

    /// Every queue of a topic.
    pub fn topic_stats(&self, topic: &str) -> Result<Vec<QueueStats>, Refusal> {
        let config = self.topics.get(topic).ok_or_else(|| Refusal::NoTopic(topic.into()))?;
        let stats = (0..config.queues()).map(|queue_id| {
            let max_offset = self.store.max_offset(topic, queue_id);
            let last = max_offset.checked_sub(1);
            QueueStats {
                queue_id,
                min_offset: self.store.min_offset(topic, queue_id),
                max_offset,
                last_time: last
                    .and_then(|at| self.store.store_time(topic, queue_id, at))
                    .unwrap_or(0),
            }
        });
        Ok(stats.collect())
    }

    /// Every queue of a topic as a group sees it; none if the topic is not there.
    pub fn consume_stats(&self, group: &str, topic: &str) -> Vec<ConsumeStats> {
        let Some(config) = self.topics.get(topic) else { return Vec::new() };
        (0..config.read_queue_nums)
            .map(|queue_id| {
                let consumer_offset = self.offsets.get(group, topic, queue_id).unwrap_or(0);
                let last = u64::try_from(consumer_offset).ok().and_then(|n| n.checked_sub(1));
                ConsumeStats {
                    topic: topic.to_owned(),
                    queue_id,
                    broker_offset: self.store.max_offset(topic, queue_id),
                    consumer_offset,
                    last_time: last
                        .and_then(|at| self.store.store_time(topic, queue_id, at))
                        .unwrap_or(0),
                }
            })
            .collect()
    }

    /// Topics that a group consumes from: those in which it has offsets.
    pub fn topics_of_group(&self, group: &str) -> Vec<String> {
        let mut topics = self.offsets.topics_of(group);
        let retry = format!("{RETRY_PREFIX}{group}");
        if self.topics.get(&retry).is_some() {
            topics.insert(retry);
        }
        topics.into_iter().collect()
    }

    /// Removes the queues of topics that have no settings. Returns their names.
    pub fn clean_unused_topics(&self) -> Result<Vec<String>> {
        let mut cleaned = Vec::new();
        for topic in self.store.queues().topics() {
            if self.topics.get(&topic).is_none() && !topic.starts_with(names::LIGHT_PREFIX) {
                self.store.delete_topic(&topic)?;
                cleaned.push(topic.to_string());
            }
        }
        Ok(cleaned)
    }
}
