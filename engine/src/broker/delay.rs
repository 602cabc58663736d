//! Delayed messages: they wait in the schedule topic, a queue for each level, and are written
//! anew to their own topic when they are due. As a level's delay is constant, a queue's
//! order is the order of delivery.
//!
//! `config/delayOffset.json` keeps the next offset of each level, and where the log ended when it
//! was saved: what a crash kept from being saved stands behind, and is found there at the start.

use std::collections::BTreeMap;
use std::ops::{ControlFlow, RangeInclusive};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Broker;
use super::persist::ConfigFile;
use super::stats::Kind;
use crate::codec::properties::{self, name};
use crate::codec::queue_unit::Unit;
use crate::codec::record::{Message, Record};
use crate::error::Result;
use crate::log::scan::{self, Checks, Step};
use crate::os::fs::Fs;
use crate::recover::SCHEDULE_TOPIC;
use crate::store::{MessageStore, as_record};

/// Messages of one level that are delivered before the next level gets its turn.
const A_TURN: usize = 1024;

/// A clock that was set back makes a message late by its delay at most, within these bounds, ms.
const CLOCK_SLACK_MS: RangeInclusive<i64> = 1000..=3_600_000;

/// At most so many messages in a row that could not be delivered are passed by when the one is
/// looked for that was.
const PASSED_BY: u64 = 1024;

/// The file's content.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Saved {
    /// Level to next queue offset.
    offset_table: BTreeMap<i32, i64>,
    /// No delivery that the table counts stands behind this position of the log, and every one
    /// that it does not. RocketMQ neither knows it nor minds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    log_end: Option<u64>,
}

/// How far each level is delivered.
pub struct Delay {
    /// Who delivers holds the lock, so that a copy of it and the log's end belong together.
    offsets: Mutex<BTreeMap<i32, i64>>,
    log_end: Option<u64>,
    pub(super) file: ConfigFile,
    pub(super) alarm: Arc<Alarm>,
}

/// Wakes the thread that delivers.
pub(super) struct Alarm {
    /// When it has to look, as far as is known since it last did, ms.
    next: Mutex<i64>,
    sooner: Condvar,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Delay {
    pub(super) fn open(fs: &Fs, root: &Path, notes: &mut Vec<String>) -> Delay {
        let file = ConfigFile::new(fs, root, "delayOffset.json");
        let loaded: Saved = file.load(notes);
        Delay {
            offsets: Mutex::new(loaded.offset_table),
            log_end: loaded.log_end,
            file,
            alarm: Arc::new(Alarm { next: Mutex::new(i64::MAX), sooner: Condvar::new() }),
        }
    }

    /// Saves the offsets. What they count as delivered is flushed first.
    pub(super) fn save(&self, store: &MessageStore) -> Result<()> {
        if !self.file.is_touched() {
            return Ok(());
        }
        let offsets = lock(&self.offsets);
        let (offset_table, log_end) = (offsets.clone(), Some(store.log().end()));
        drop(offsets);
        store.flush()?;
        self.file.save(|| Saved { offset_table, log_end })
    }
}

impl Alarm {
    /// A delayed message came that is due at `due` (ms).
    pub(super) fn came(&self, due: i64) {
        let mut next = lock(&self.next);
        if due < *next {
            *next = due;
            self.sooner.notify_all();
        }
    }

    /// Ends [`Alarm::wait`].
    pub(super) fn wake(&self) {
        self.came(i64::MIN);
    }

    /// Blocks till `until` (ms; none for ever), or till a message is due that came since the
    /// last call.
    pub(super) fn wait(&self, until: Option<i64>, now_ms: impl Fn() -> i64) {
        let mut next = lock(&self.next);
        *next = (*next).min(until.unwrap_or(i64::MAX));
        loop {
            let left = next.saturating_sub(now_ms());
            if left <= 0 {
                break;
            }
            // The clock may be set: look again soon. Nobody cares while nothing waits.
            let timeout = match *next {
                i64::MAX => Duration::MAX,
                _ => Duration::from_millis(left.unsigned_abs().min(1000)),
            };
            let waited = self.sooner.wait_timeout(next, timeout);
            let (guard, waited) = waited.unwrap_or_else(PoisonError::into_inner);
            next = guard;
            if waited.timed_out() {
                break;
            }
        }
        *next = i64::MAX;
    }
}

/// Whether a record is the delivery of a message that waited.
fn is_delivery(of: &Record<'_>, record: &Record<'_>) -> bool {
    let what = |r: &Record<'_>| {
        let born = (r.born_timestamp(), r.born_host(), r.reconsume_times(), r.flag());
        (born, r.body_crc(), r.body().len())
    };
    what(of) == what(record)
        && of.property(name::UNIQ_KEY) == record.property(name::UNIQ_KEY)
        && of.property(name::REAL_TOPIC) == Some(record.topic())
        && of.physical_offset() < record.physical_offset()
}

impl Broker {
    /// Level to next queue offset of the schedule topic.
    pub fn delay_offsets(&self) -> BTreeMap<i32, i64> {
        lock(&self.delay.offsets).clone()
    }

    /// Delivers what is due. Returns when the next message is, ms; `None` if none waits.
    pub fn deliver_step(&self) -> Result<Option<i64>> {
        let mut next_due: Option<i64> = None;
        for (n, delay_ms) in self.store.config().delay_levels_ms.iter().enumerate() {
            let queue_id = n as i32;
            if let Some(due) = self.deliver_level(queue_id, *delay_ms)? {
                next_due = Some(next_due.map_or(due, |n| n.min(due)));
            }
        }
        Ok(next_due)
    }

    /// Counts what was delivered since the offsets were saved, when the broker starts after a
    /// crash.
    pub(super) fn find_delivered(&self) {
        if self.store.was_closed() {
            return;
        }
        let mut offsets = lock(&self.delay.offsets);
        let levels = 1..=self.store.config().delay_levels_ms.len() as i32;
        // A delivery stands behind what it delivers.
        let waits = levels.filter_map(|level| {
            let queue = self.store.queues().get(SCHEDULE_TOPIC, level - 1)?;
            let next = offsets.get(&level).copied().unwrap_or(0).unsigned_abs();
            Some(queue.next_unit(next.max(queue.min_offset()))?.1.offset)
        });
        let Some(first) = waits.min() else { return };
        let from = first.max(self.delay.log_end.unwrap_or(0)).max(self.store.log().min_offset());
        let checks = Checks { crc_from: u64::MAX, last_time: 0, zeros_end_from: 0 };
        scan::walk(&self.store.log().chain().all(), from, checks, |step| {
            if let Step::Record(record) = step
                && record.property(name::REAL_TOPIC) == Some(record.topic())
                && let Some(level) = record.property(name::DELAY).and_then(|l| l.parse().ok())
                && let Some(next) = self.after_delivered(&record, level, &offsets)
            {
                offsets.insert(level, next as i64);
                self.delay.file.touch();
            }
            ControlFlow::Continue(())
        });
    }

    /// The offset behind the message that waited at `level` and was delivered as `record`.
    fn after_delivered(
        &self,
        record: &Record<'_>,
        level: i32,
        offsets: &BTreeMap<i32, i64>,
    ) -> Option<u64> {
        let queue = self.store.queues().get(SCHEDULE_TOPIC, level.checked_sub(1)?)?;
        let next = offsets.get(&level).copied().unwrap_or(0).unsigned_abs();
        let next = next.max(queue.min_offset());
        let mut found = None;
        queue.for_each(next, |at, unit| {
            let slice = self.store.record_at(unit.offset);
            if slice.as_deref().and_then(as_record).is_some_and(|of| is_delivery(&of, record)) {
                found = Some(at + 1);
            }
            found.is_none() && at - next < PASSED_BY
        });
        found
    }

    fn deliver_level(&self, queue_id: i32, delay_ms: i64) -> Result<Option<i64>> {
        let Some(queue) = self.store.queues().get(SCHEDULE_TOPIC, queue_id) else {
            return Ok(None);
        };
        let level = queue_id + 1;
        let mut offsets = lock(&self.delay.offsets);
        let saved = offsets.get(&level).copied().unwrap_or(0);
        let from = u64::try_from(saved).unwrap_or(0).clamp(queue.min_offset(), queue.max_offset());
        let now = self.now_ms();
        let (mut turn, mut due, mut failed) = (0, None, Ok(()));
        let next = queue.for_each(from, |_, unit| {
            // Much further ahead than its delay: the clock was far ahead once, or the level is
            // shorter now. Better early than held up for as long as that.
            let slack = delay_ms.clamp(*CLOCK_SLACK_MS.start(), *CLOCK_SLACK_MS.end());
            let too_far = unit.tags_code > now.saturating_add(delay_ms + slack);
            let at = if too_far { now } else { unit.tags_code };
            if at > now || turn == A_TURN {
                due = Some(at);
                return false;
            }
            turn += 1;
            failed = self.deliver(&unit);
            failed.is_ok()
        });
        if next != from || saved != from as i64 {
            offsets.insert(level, next as i64);
            self.delay.file.touch();
        }
        failed.map(|()| due)
    }

    /// Writes a delayed message to the topic it was sent to.
    fn deliver(&self, unit: &Unit) -> Result<()> {
        let slice = self.store.record_at(unit.offset);
        let Some(record) = slice.as_deref().and_then(as_record) else {
            tracing::error!("a delayed message at {} is damaged or gone: passed by", unit.offset);
            return Ok(());
        };
        let topic = record.property(name::REAL_TOPIC).unwrap_or_default();
        let queue_id = record.property(name::REAL_QID).and_then(|id| id.parse().ok()).unwrap_or(0);
        if self.topics.get(topic).is_none() {
            tracing::warn!(
                "a delayed message at {} is for topic {topic:?}, which is gone",
                unit.offset
            );
            return Ok(());
        }
        self.append(
            Kind::Delay,
            &[Message {
                topic,
                queue_id,
                prepared_transaction_offset: record.prepared_transaction_offset(),
                ..record.message()
            }],
        )?;
        Ok(())
    }

    /// The property text of a message of `topic` and `queue_id` that waits at `level` (1 or
    /// above, cut to the highest), and the queue in which it does.
    pub(super) fn delayed(
        &self,
        text: &[u8],
        topic: &str,
        queue_id: i32,
        level: i32,
    ) -> (Vec<u8>, i32) {
        let highest = self.store.config().delay_levels_ms.len().max(1) as i32;
        let level = level.clamp(1, highest);
        let mut text = text.to_vec();
        properties::set(&mut text, name::DELAY, &level.to_string());
        properties::set(&mut text, name::REAL_TOPIC, topic);
        properties::set(&mut text, name::REAL_QID, &queue_id.to_string());
        (text, level - 1)
    }
}
