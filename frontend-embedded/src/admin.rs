//! Topics and groups: making them, and how they do.

use std::ops::ControlFlow;

use mq_store::broker::names;
use mq_store::broker::topics::TopicConfig;
use mq_store::log::scan::{self, Checks, Step};

use crate::error::Result;
use crate::mq::Mq;

/// Damages that [`Mq::verify`] tells one by one; of more it tells the number.
const TOLD: usize = 100;

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Its queues have ids from 0 to below this.
    pub queues: i32,
}

/// How a queue stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueStats {
    /// The queue, counted from 0.
    pub queue_id: i32,
    /// Offset of the first message.
    pub min_offset: u64,
    /// Offset behind the last message.
    pub max_offset: u64,
    /// Store time of the last message, ms since 1970; 0 if there is none.
    pub last_time: i64,
}

/// How far a group is in a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lag {
    /// The topic; the group's retry topic among them.
    pub topic: String,
    /// The queue, counted from 0.
    pub queue_id: i32,
    /// Everything below is consumed.
    pub offset: u64,
    /// Messages that are not.
    pub behind: u64,
}

/// What passed since the store was opened, and what there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Statistics {
    /// Messages stored, retries and the like among them.
    pub messages_in: u64,
    /// Bytes of their records.
    pub bytes_in: u64,
    /// Messages given to consumer groups.
    pub messages_out: u64,
    /// Bytes of their records.
    pub bytes_out: u64,
    /// Position at which the log begins.
    pub log_begin: u64,
    /// Position behind the last message.
    pub log_end: u64,
    /// Position up to which the log is on the disk.
    pub log_flushed: u64,
    /// How often a read came by a damaged message and passed it by.
    pub damaged_reads: u64,
}

/// What [`Mq::verify`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verification {
    /// Intact records in the log.
    pub records: u64,
    /// Places in queues that are right.
    pub places: u64,
    /// How many damages there are.
    pub damages: u64,
    /// The first hundred of them, in words.
    pub told: Vec<String>,
}

impl Verification {
    fn damage(&mut self, text: impl FnOnce() -> String) {
        self.damages += 1;
        if self.told.len() < TOLD {
            self.told.push(text());
        }
    }
}

impl Mq {
    /// Makes a topic with so many queues, 1 to 100,000, or gives one other ones; saved when this
    /// returns.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) for a name that cannot be: 1 to 127 of letters,
    /// digits and `%|-_`, and none of RocketMQ's own.
    pub fn create_topic(&self, name: &str, queues: i32) -> Result<()> {
        self.0.check_open()?;
        Ok(self.0.broker.update_topic(TopicConfig::new(name, queues))?)
    }

    /// Deletes a topic, with its messages and the offsets of all groups in it.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) for one of RocketMQ's own,
    /// [`Error::Store`](crate::Error::Store) if that cannot be written down. One that is not there
    /// is no error.
    pub fn delete_topic(&self, name: &str) -> Result<()> {
        self.0.check_open()?;
        Ok(self.0.broker.delete_topic(name)?)
    }

    /// All topics but RocketMQ's own, by name; those of retries and dead letters are among them.
    pub fn topics(&self) -> Vec<Topic> {
        let config = self.0.broker.config();
        let all = self.0.broker.topics().all().topic_config_table.into_values();
        all.filter(|t| !names::is_system_topic(&t.topic_name, &config))
            .map(|t| Topic { queues: t.queues(), name: t.topic_name })
            .collect()
    }

    /// The queues of a topic.
    ///
    /// # Errors
    /// [`Error::NoTopic`](crate::Error::NoTopic).
    pub fn queue_stats(&self, topic: &str) -> Result<Vec<QueueStats>> {
        let stats = self.0.broker.topic_stats(topic)?;
        Ok(stats
            .into_iter()
            .map(|q| QueueStats {
                queue_id: q.queue_id,
                min_offset: q.min_offset,
                max_offset: q.max_offset,
                last_time: q.last_time,
            })
            .collect())
    }

    /// All groups but RocketMQ's own, by name.
    pub fn groups(&self) -> Vec<String> {
        let all = self.0.broker.groups().all().subscription_group_table.into_keys();
        all.filter(|group| !names::SYSTEM_GROUPS.contains(&group.as_str())).collect()
    }

    /// Deletes a group with its offsets.
    ///
    /// # Errors
    /// [`Error::Store`](crate::Error::Store) if that cannot be written down. One that is not there
    /// is no error.
    pub fn delete_group(&self, group: &str) -> Result<()> {
        self.0.check_open()?;
        Ok(self.0.broker.delete_group(group, true)?)
    }

    /// How far a group is, in every queue of the topics from which it has consumed.
    pub fn lag(&self, group: &str) -> Vec<Lag> {
        let broker = &self.0.broker;
        let topics = broker.topics_of_group(group);
        let stats = topics.iter().flat_map(|topic| broker.consume_stats(group, topic));
        stats
            .map(|s| {
                let offset = s.consumer_offset.unsigned_abs();
                let behind = s.broker_offset.saturating_sub(offset);
                Lag { topic: s.topic, queue_id: s.queue_id, offset, behind }
            })
            .collect()
    }

    /// What passed since the store was opened, and what there is.
    pub fn statistics(&self) -> Statistics {
        let (stats, store) = (self.0.broker.stats(), self.0.broker.store());
        let log = store.log();
        let (puts, gets) = (stats.puts().total(), stats.gets.total());
        Statistics {
            messages_in: puts.value,
            bytes_in: puts.bytes,
            messages_out: gets.value,
            bytes_out: gets.bytes,
            log_begin: log.min_offset(),
            log_end: log.end(),
            log_flushed: log.flushed(),
            damaged_reads: store.damaged_reads(),
        }
    }

    /// Reads everything and compares: every record of the log with its checksum, every place in
    /// a queue with its record. It reads the whole log, and may run while others write.
    ///
    /// # Errors
    /// [`Error::Closed`](crate::Error::Closed). Damage is no error: the result tells of it.
    pub fn verify(&self) -> Result<Verification> {
        self.0.check_open()?;
        let store = self.0.broker.store();
        let mut found = Verification::default();
        let end = store.log().end();
        let checks = Checks { crc_from: 0, zeros_end_from: 0, last_time: 0 };
        let walked =
            scan::walk(&store.log().chain().all(), store.log().min_offset(), checks, |step| {
                match step {
                    Step::Record(record) if record.physical_offset().unsigned_abs() >= end => {
                        return ControlFlow::Break(());
                    }
                    Step::Record(_) => found.records += 1,
                    Step::BadBody(r) => found.damage(|| {
                        format!(
                            "the body of the message at {} is not what was sent",
                            r.physical_offset()
                        )
                    }),
                    Step::Hole { from, to, why } => {
                        found.damage(|| format!("no messages from {from} to {to}: {why}"));
                    }
                }
                ControlFlow::Continue(())
            });
        if walked.at < end {
            found.damage(|| format!("the log breaks off at {}: {}", walked.at, walked.why));
        }
        for queue in store.queues().all() {
            let (topic, id, limit) = (queue.topic(), queue.id(), queue.max_offset());
            queue.for_each(queue.min_offset(), |offset, unit| {
                if offset >= limit {
                    return false;
                }
                let is_right = unit.is_filler()
                    || store.log().with_record(unit.offset, |r| {
                        r.topic() == &**topic
                            && r.queue_id() == id
                            && r.size() == unit.size as usize
                            && (r.queue_offset().unsigned_abs() == offset
                                || queue.is_stand_in(offset, &r))
                    }) == Some(true);
                match is_right || topic.starts_with(names::LIGHT_PREFIX) {
                    true => found.places += 1,
                    false => found.damage(|| {
                        format!("offset {offset} of queue {id} of {topic} points at {}, where another message is, or none", unit.offset)
                    }),
                }
                true
            });
        }
        Ok(found)
    }
}
