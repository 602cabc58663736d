//! Setting up topics and groups, and looking at how they do.

use std::collections::{BTreeMap, BTreeSet};

use super::groups::GroupConfig;
use super::modes::RequestMode;
use super::names::{self, RETRY_PREFIX};
use super::offsets::QueueOffsets;
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

/// Times of a queue's messages, ms; -1 where there is no message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeSpan {
    pub queue_id: i32,
    pub first: i64,
    pub last: i64,
    /// The last that the group consumed; the first one, if it consumed none.
    pub consumed: i64,
    /// How long the next one has been waiting, ms; 0 if there is none.
    pub delay: i64,
}

/// Where a group shall go on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reset {
    /// At messages stored then or later, ms; below 0: behind all.
    pub timestamp: i64,
    /// Also where the group has not come so far yet.
    pub force: bool,
    /// In this queue; in all of them if none is given.
    pub queue_id: Option<i32>,
    /// At this offset, whatever the time says.
    pub offset: Option<i64>,
}

impl Broker {
    /// Makes a topic, or gives it other settings; saved when this returns. Its attributes are
    /// changes: `+name` sets one, `-name` removes one.
    pub fn update_topic(&self, mut topic: TopicConfig) -> Result<(), Refusal> {
        names::check_topic(&topic.topic_name).map_err(Refusal::Invalid)?;
        self.refuse_system_topic(&topic.topic_name)?;
        for queues in [topic.read_queue_nums, topic.write_queue_nums] {
            if !(0..=names::MAX_QUEUES).contains(&queues) {
                let max = names::MAX_QUEUES;
                let text = format!("{queues} queues, where 0 to {max} are allowed");
                return Err(Refusal::Invalid(text));
            }
        }
        let before = self.topics.get(&topic.topic_name);
        let before = before.map(|t| t.attributes.clone()).unwrap_or_default();
        topic.attributes = change_attributes(before, topic.attributes);
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
        self.stats.forget_topic(topic);
        self.topics.save()?;
        self.store.delete_topic(topic)?;
        Ok(self.offsets.save()?)
    }

    fn refuse_system_topic(&self, topic: &str) -> Result<(), Refusal> {
        if names::is_system_topic(topic, &self.config()) {
            let text = format!("The topic[{topic}] is conflict with system topic.");
            return Err(Refusal::Invalid(text));
        }
        Ok(())
    }

    /// Makes a group, or gives it other settings; saved when this returns. Attributes as with
    /// topics.
    pub fn update_group(&self, mut group: GroupConfig) -> Result<(), Refusal> {
        names::check_group(&group.group_name).map_err(Refusal::Invalid)?;
        let before = self.groups.get(&group.group_name);
        let before = before.map(|g| g.attributes.clone()).unwrap_or_default();
        group.attributes = change_attributes(before, group.attributes);
        self.groups.put(group, self.now_ms());
        Ok(self.groups.save()?)
    }

    /// Deletes a group, and its offsets if so wished.
    pub fn delete_group(&self, group: &str, with_offsets: bool) -> Result<(), Refusal> {
        self.groups.remove(group, self.now_ms());
        self.stats.forget_group(group);
        self.groups.save()?;
        if with_offsets {
            self.offsets.remove_group(group);
            self.offsets.save()?;
        }
        Ok(())
    }

    /// Allows or forbids a group to pull from a topic; saved when this returns.
    pub fn set_may_read(&self, group: &str, topic: &str, may: bool) -> Result<()> {
        self.groups.set_may_read(group, topic, may, self.now_ms());
        self.groups.save()
    }

    /// Sets how a group asks for messages of a topic; saved when this returns.
    pub fn set_request_mode(&self, mode: RequestMode) -> Result<(), Refusal> {
        if mode.topic.starts_with(RETRY_PREFIX) {
            let text = "retry topic is not allowed to set mode".to_owned();
            return Err(Refusal::NoPermission(text));
        }
        if self.topics.get(&mode.topic).is_none() {
            return Err(Refusal::NoTopic(mode.topic));
        }
        self.group(&mode.consumer_group)?;
        Ok(self.modes.put(mode)?)
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

    /// The times of a topic's messages as a group sees them.
    pub fn time_spans(&self, group: &str, topic: &str) -> Result<Vec<TimeSpan>, Refusal> {
        let config = self.topics.get(topic).ok_or_else(|| Refusal::NoTopic(topic.into()))?;
        let now = self.now_ms();
        let spans = (0..config.write_queue_nums).map(|queue_id| {
            let time = |at: Option<u64>| self.store.store_time(topic, queue_id, at?);
            let max = self.store.max_offset(topic, queue_id);
            let first = time(Some(self.store.min_offset(topic, queue_id))).unwrap_or(-1);
            let next = self.offsets.get(group, topic, queue_id).unwrap_or(0).unsigned_abs();
            TimeSpan {
                queue_id,
                first,
                last: time(max.checked_sub(1)).unwrap_or(-1),
                consumed: time(next.checked_sub(1)).unwrap_or(first),
                delay: time((next < max).then_some(next)).map_or(0, |t| (now - t).max(0)),
            }
        });
        Ok(spans.collect())
    }

    /// For each queue the least offset of all groups in a topic but `left_out`. Where the group
    /// `compared` is behind even that, there is nothing to correct: the largest number.
    pub fn correction_offsets(
        &self,
        topic: &str,
        compared: &str,
        left_out: &[&str],
    ) -> QueueOffsets {
        let mut least = QueueOffsets::new();
        for group in self.offsets.groups_of(topic) {
            if left_out.contains(&group.as_str()) {
                continue;
            }
            for (queue_id, offset) in self.offsets.of(&group, topic).unwrap_or_default() {
                if offset >= self.store.min_offset(topic, queue_id) as i64 {
                    let known = least.entry(queue_id).or_insert(offset);
                    *known = offset.min(*known);
                }
            }
        }
        for (queue_id, offset) in self.offsets.of(compared, topic).unwrap_or_default() {
            let known = least.entry(queue_id).or_insert(i64::MAX);
            if *known > offset {
                *known = i64::MAX;
            }
        }
        least
    }

    /// Where each queue of a topic has to go on for a reset. Nothing is changed: consumers that
    /// run would commit their own offsets over ours, so they are told, and commit these.
    pub fn reset_targets(
        &self,
        group: &str,
        topic: &str,
        reset: &Reset,
    ) -> Result<QueueOffsets, Refusal> {
        let missing = || {
            let text = "[reset-offset] reset offset failed, no topic in this broker. topic=";
            Refusal::Failed(format!("{text}{topic}"))
        };
        let config = self.topics.get(topic).ok_or_else(missing)?;
        if self.offsets.of(group, topic).is_none_or(|offsets| offsets.is_empty()) {
            return Err(Refusal::Failed(format!("THe consumer group <{group}> not exist")));
        }
        let queues = 0..config.write_queue_nums;
        if let Some(id) = reset.queue_id.filter(|id| !queues.contains(id)) {
            return Err(Refusal::Invalid(format!("queueId[{id}] is illegal, topic:[{topic}]")));
        }
        let wanted = queues.filter(|id| reset.queue_id.is_none_or(|one| one == *id));
        let targets = wanted.map(|queue_id| {
            let min = self.store.min_offset(topic, queue_id) as i64;
            let max = self.store.max_offset(topic, queue_id) as i64;
            let target = match (reset.offset, reset.timestamp) {
                (Some(offset), _) if !(min..=max).contains(&offset) => {
                    let range = format!("[{min}-{max}]");
                    let text = format!("Target offset {offset} not in consume queue range {range}");
                    return Err(Refusal::Failed(text));
                }
                (Some(offset), _) => offset,
                (None, ..0) => max,
                (None, time) => self.store.offset_by_time(topic, queue_id, time) as i64,
            };
            let now_at = self.offsets.get(group, topic, queue_id);
            let kept = now_at.filter(|at| !reset.force && *at < target);
            Ok((queue_id, kept.unwrap_or(target)))
        });
        targets.collect()
    }

    /// Topics that are the broker's own.
    pub fn system_topics(&self) -> BTreeSet<String> {
        let there = names::system_topics(&self.config()).into_iter().map(|t| t.topic_name);
        there.chain(names::OWN.map(String::from)).collect()
    }
}

fn change_attributes(
    mut attributes: BTreeMap<String, String>,
    changes: BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    for (name, value) in changes {
        match name.strip_prefix('-') {
            Some(name) => drop(attributes.remove(name)),
            None => {
                let name = name.strip_prefix('+').unwrap_or(&name).to_owned();
                attributes.insert(name, value);
            }
        }
    }
    attributes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_changes() {
        let map = |list: &[(&str, &str)]| -> BTreeMap<String, String> {
            list.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
        };
        let changed =
            change_attributes(map(&[("a", "1"), ("b", "2")]), map(&[("-a", ""), ("+c", "3")]));
        assert_eq!(changed, map(&[("b", "2"), ("c", "3")]));
    }
}
